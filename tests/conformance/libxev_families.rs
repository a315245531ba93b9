//! The families of tests that libxev has for each of its backends, as far as they concern what is here, under
//! its names.

use std::io::Read;
use std::net::Shutdown;

use oxev::{Completion, Notifier, OpKind, RunMode, TcpStream, Timer, nop};

use crate::support::sockets::{listener, small_sender};
use crate::support::surroundings::{Named, background};
use crate::support::{HOUR, Log, MS, complete, is_canceled, now, pattern, since, start, start_multi};
use crate::variants::Variant;

conformance! {
    default_completion,
    loop_time,
    stop,
    timer,
    timer_reset,
    timer_reset_before_tick,
    timer_reset_after_trigger,
    timer_cancellation,
    canceling_a_completed_operation,
    timer_armed_from_a_delayed_callback_must_not_fire_early,
    noop,
    socket_accept_connect_send_recv_close,
    socket_read_cancellation,
    accept_cancellation_decreases_the_active_count,
    queued_writes,
    async_one_notify_one_wake,
    async_notify_first,
    async_batches_multiple_notifications,
    file_read_write,
    file_pread_pwrite,
    file_queued_writes,
}

/// A completion in static memory, submitted as it is.
fn default_completion(v: Variant) {
    let mut lp = v.new_loop();
    let completion: &'static mut Completion<()> = Box::leak(Box::default());
    lp.submit(completion, |()| nop(), |_, _: &'static mut Completion<()>, done| done.unwrap());
    lp.run(RunMode::UntilDone).unwrap();
    assert!(lp.is_empty());
}

fn loop_time(v: Variant) {
    let mut lp = v.new_loop();
    let mut now = lp.now();
    for _ in 0..10 {
        complete(&mut lp, (), |()| Timer::after(MS)).1.unwrap();
        assert!(lp.now() >= now + MS);
        now = lp.now();
    }
}

/// A stopped loop does not fire a pending timer.
fn stop(v: Variant) {
    let mut lp = v.new_loop();
    let timer = start(&mut lp, (), |()| Timer::after(MS));
    lp.stop();
    crate::support::spin(2 * MS);
    lp.run(RunMode::UntilDone).unwrap();
    assert!(!timer.is_done());
}

/// One of 1 ms fires, one of 100 s stays active.
fn timer(v: Variant) {
    let mut lp = v.new_loop();
    let short = start(&mut lp, (), |()| Timer::after(MS));
    let long = start(&mut lp, (), |()| Timer::after(100_000 * MS));
    lp.run(RunMode::Once).unwrap();
    short.result().unwrap();
    assert_eq!(lp.in_flight().next().map(|op| op.id), Some(long.id));
}

fn timer_reset(v: Variant) {
    let mut lp = v.new_loop();
    let timer = start(&mut lp, (), |()| Timer::after(100_000 * MS));
    lp.run(RunMode::NoWait).unwrap();
    assert!(lp.reset(timer.id, MS));
    lp.run(RunMode::UntilDone).unwrap();
    timer.result().unwrap();
}

fn timer_reset_before_tick(v: Variant) {
    let mut lp = v.new_loop();
    let timer = start(&mut lp, (), |()| Timer::after(100_000 * MS));
    assert!(lp.reset(timer.id, MS));
    lp.run(RunMode::UntilDone).unwrap();
    timer.result().unwrap();
}

/// Where libxev restarts the timer, the owner has come back and is submitted again.
fn timer_reset_after_trigger(v: Variant) {
    let mut lp = v.new_loop();
    let timer = start(&mut lp, 0, |_| Timer::after(MS));
    let id = timer.id;
    let (state, fired) = timer.wait(&mut lp);
    fired.unwrap();
    assert!(!lp.reset(id, MS));
    complete(&mut lp, state, |_| Timer::after(MS)).1.unwrap();
}

fn timer_cancellation(v: Variant) {
    let mut lp = v.new_loop();
    let timer = start(&mut lp, (), |()| Timer::after(100_000 * MS));
    lp.run(RunMode::NoWait).unwrap();
    assert!(lp.cancel(timer.id));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(is_canceled(&timer.result()));
}

fn canceling_a_completed_operation(v: Variant) {
    let mut lp = v.new_loop();
    let timer = start(&mut lp, (), |()| Timer::after(MS));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(!lp.cancel(timer.id));
    lp.run(RunMode::UntilDone).unwrap();
    timer.result().unwrap();
}

fn timer_armed_from_a_delayed_callback_must_not_fire_early(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    lp.submit(
        Box::new(Completion::new((log.clone(), now()))),
        |_| Timer::after(MS),
        |lp, mut owner, _| {
            crate::support::spin(20 * MS);
            owner.1 = now();
            lp.submit(owner, |_| Timer::after(10 * MS), |_, owner, _| owner.0.push(since(owner.1)));
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert!(log.take()[0] >= 10 * MS);
}

fn noop(v: Variant) {
    let mut lp = v.new_loop();
    let done = start(&mut lp, (), |()| nop());
    lp.run(RunMode::Once).unwrap();
    done.result().unwrap();
}

fn socket_accept_connect_send_recv_close(v: Variant) {
    let mut lp = v.new_loop();
    let (listener, address) = listener();
    let accept = start(&mut lp, listener, |l| l.accept());
    let connect = start(&mut lp, (), |()| TcpStream::connect(address));
    lp.run(RunMode::UntilDone).unwrap();
    let (server, client) = (accept.take(), connect.result().unwrap());
    let send = start(&mut lp, (client, [1, 1, 2, 3, 5, 8, 13]), |(s, b)| s.send(b));
    let recv = start(&mut lp, (server.1.unwrap(), [0; 128]), |(s, b)| s.recv(b));
    lp.run(RunMode::UntilDone).unwrap();
    let ((client, _), sent) = send.take();
    let ((server_stream, buffer), received) = recv.take();
    assert_eq!((sent.unwrap(), &buffer[..received.unwrap()]), (7, &[1, 1, 2, 3, 5, 8, 13][..]));
    let shut = start(&mut lp, client, |s| s.shutdown(Shutdown::Both));
    let end = start(&mut lp, (server_stream, [0; 128]), |(s, b)| s.recv(b));
    lp.run(RunMode::UntilDone).unwrap();
    let (client, shut) = shut.take();
    shut.unwrap();
    let ((server_stream, _), end) = end.take();
    assert_eq!(end.unwrap(), 0);
    for stream in [client, server_stream] {
        complete(&mut lp, stream, |s| s.close()).1.unwrap();
    }
    complete(&mut lp, server.0, |l| l.close()).1.unwrap();
}

fn socket_read_cancellation(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, _peer) = crate::support::sockets::pair();
    let recv = start(&mut lp, (ours, [0; 128]), |(s, b)| s.recv(b));
    lp.run(RunMode::NoWait).unwrap();
    assert!(lp.cancel(recv.id));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(is_canceled(&recv.result()));
}

fn accept_cancellation_decreases_the_active_count(v: Variant) {
    let mut lp = v.new_loop();
    let accept = start(&mut lp, listener().0, |l| l.accept());
    lp.run(RunMode::NoWait).unwrap();
    assert_eq!((lp.len(), lp.in_flight().next().unwrap().kind), (1, OpKind::Accept));
    assert!(lp.cancel(accept.id));
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(lp.len(), 0);
    assert!(is_canceled(&accept.result()));
}

/// A megabyte through a send buffer of 8 KiB, in many writes at once whose order is kept by their
/// completions.
fn queued_writes(v: Variant) {
    const LEN: usize = 1 << 20;
    let mut lp = v.new_loop();
    let (ours, mut peer) = small_sender();
    let reader = background(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).unwrap();
        all
    });
    let mut state = (ours, pattern(LEN));
    for part in 0..16 {
        let (back, sent) = complete(&mut lp, state, |(s, b)| s.send_all(&b[part * LEN / 16..][..LEN / 16]));
        assert_eq!(sent.unwrap(), LEN / 16);
        state = back;
    }
    drop(state);
    assert!(reader.join() == pattern(LEN));
}

fn async_one_notify_one_wake(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    let wait = start(&mut lp, notifier.clone(), |n| n.wait());
    lp.run(RunMode::NoWait).unwrap();
    assert!(!wait.is_done());
    notifier.notify();
    lp.run(RunMode::UntilDone).unwrap();
    wait.result().unwrap();
}

fn async_notify_first(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    notifier.notify();
    complete(&mut lp, notifier, |n| n.wait()).1.unwrap();
}

fn async_batches_multiple_notifications(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    (0..6).for_each(|_| notifier.notify());
    let waits = start_multi(&mut lp, notifier, usize::MAX, |n| n.wait_multi());
    let _timer = start(&mut lp, (), |()| Timer::after(HOUR));
    lp.run(RunMode::Once).unwrap();
    lp.run(RunMode::NoWait).unwrap();
    assert_eq!(waits.items.len(), 1);
}

fn file_read_write(v: Variant) {
    let mut lp = v.new_loop();
    let named = Named::new(b"");
    let (state, written) = complete(&mut lp, (named.open(), *b"hello"), |(f, b)| f.write_all(b));
    written.unwrap();
    let (state, synced) = complete(&mut lp, state, |(f, _)| f.sync_all());
    synced.unwrap();
    drop(state);
    let (state, read) = complete(&mut lp, (named.open(), [0; 128]), |(f, b)| f.read(b));
    assert_eq!(&state.1[..read.unwrap()], b"hello");
}

fn file_pread_pwrite(v: Variant) {
    let mut lp = v.new_loop();
    let named = Named::new(b"");
    let state = (named.open(), *b"hello", [0; 5]);
    let (state, written) = complete(&mut lp, state, |(f, b, _)| f.write_at(b, 10));
    assert_eq!(written.unwrap(), 5);
    let (state, read) = complete(&mut lp, state, |(f, _, b)| f.read_at(b, 10));
    assert_eq!((read.unwrap(), &state.2), (5, b"hello"));
}

fn file_queued_writes(v: Variant) {
    let mut lp = v.new_loop();
    let named = Named::new(b"");
    let file = std::rc::Rc::new(named.open());
    let one = start(&mut lp, (file.clone(), *b"1234"), |(f, b)| f.write_all_at(b, 0));
    let two = start(&mut lp, (file, *b"5678"), |(f, b)| f.write_all_at(b, 4));
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!((one.result().unwrap(), two.result().unwrap()), (4, 4));
    assert_eq!(named.content(), b"12345678");
}
