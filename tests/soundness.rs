//! Safe programs that try to break the loop from inside its callbacks: loops that are dropped, replaced or
//! swapped there, cancels and resets at moments when an operation is between two states, notifications that
//! race with the end of their loop. Each test is named by what must hold.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::net::{TcpListener as StdListener, TcpStream as StdStream};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use oxev::{
    Action, BufPool, Completion, Kind, Lease, Loop, LoopHandle, Multi, Notifier, OpId, RunMode, TcpStream,
    Timer,
};

/// A connection over loopback: the loop's end and the peer's.
fn connection() -> (TcpStream, StdStream) {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let peer = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    (TcpStream::from_std(stream).unwrap(), peer)
}

/// Runs until `done`, in steps, and fails rather than hang.
fn run_until(lp: &mut Loop, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "still in flight: {:?}", lp.in_flight().collect::<Vec<_>>());
        lp.run_for(Duration::from_millis(20)).unwrap();
    }
}

/// An owner that will be leaked: the leak checker shall find it.
fn leaked_in_the_end<T: 'static>(state: T) -> &'static mut Completion<T> {
    static ADDRESSES: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    let owner = Box::leak(Box::new(Completion::new(state)));
    ADDRESSES.lock().unwrap().push(std::ptr::from_mut(owner).addr());
    owner
}

// ---- multi-result receives whose pool is empty

/// How a submission ended.
type End = Rc<RefCell<Option<io::Result<()>>>>;

/// What a multi-result receive did.
#[derive(Default)]
struct Received {
    items: usize,
    id: Option<OpId>,
    ends: Rc<Cell<usize>>,
    result: End,
}

/// Submits a receive into one small buffer, of more than the buffer holds: the first result and the want of a
/// second buffer come together. The state knows the operation's id.
fn receive_more_than_the_pool_holds(
    lp: &mut Loop,
    on_item: impl Fn(&mut Loop, &mut Received, Lease) -> Action + Copy + 'static,
) -> (OpId, StdStream, BufPool, Rc<Cell<usize>>, End) {
    let (stream, mut peer) = connection();
    peer.write_all(b"12345678").unwrap();
    let pool = lp.buf_pool(1, 4).unwrap();
    let state = Received::default();
    let (ends, result) = (Rc::clone(&state.ends), Rc::clone(&state.result));
    let source = (stream, pool.clone());
    let id = lp.submit_multi(
        Box::new(Completion::new(Multi::new(source, state))),
        |(stream, pool)| stream.recv_multi(pool),
        on_item,
        |_, owner, end| {
            owner.state.ends.set(owner.state.ends.get() + 1);
            *owner.state.result.borrow_mut() = Some(end);
        },
    );
    (id, peer, pool, ends, result)
}

#[test]
fn a_receive_that_waits_for_a_buffer_ends_when_its_item_callback_disarms_it() {
    for baseline in [false, true] {
        let mut lp = Loop::builder().baseline(baseline).build().unwrap();
        let (_, _peer, pool, ends, result) =
            receive_more_than_the_pool_holds(&mut lp, |_, _, _lease| Action::Disarm);
        run_until(&mut lp, || ends.get() > 0);
        assert!(result.take().unwrap().is_ok());
        assert_eq!((ends.get(), pool.available()), (1, 1));
    }
}

#[test]
fn a_receive_that_waits_for_a_buffer_can_be_cancelled_in_its_item_callback() {
    for baseline in [false, true] {
        let mut lp = Loop::builder().baseline(baseline).build().unwrap();
        let (_, _peer, pool, ends, result) =
            receive_more_than_the_pool_holds(&mut lp, |lp, state, _lease| {
                state.id = lp.in_flight().map(|op| op.id).next();
                state.items += 1;
                lp.cancel(state.id.unwrap());
                Action::Rearm
            });
        run_until(&mut lp, || ends.get() > 0);
        assert!(oxev::is_canceled(&result.take().unwrap().unwrap_err()));
        assert_eq!((ends.get(), pool.available(), lp.len()), (1, 1, 0));
    }
}

#[test]
fn no_buffer_is_lost_when_a_receive_is_cancelled_between_its_result_and_the_callback() {
    for baseline in [false, true] {
        let mut lp = Loop::builder().baseline(baseline).build().unwrap();
        let victim = Rc::new(Cell::new(None));
        // A notification's item comes before the receive's in the same step, and cancels the receive, or only
        // stops the loop.
        for stop in [false, true] {
            let (first, canceler) = (Notifier::new(), Rc::clone(&victim));
            first.notify();
            lp.submit_multi(
                Box::new(Completion::new(Multi::new(first, (stop, canceler)))),
                |notifier| notifier.wait_multi(),
                |lp, (stop, victim): &mut (bool, Rc<Cell<Option<OpId>>>), ()| {
                    if *stop {
                        lp.stop()
                    } else {
                        assert!(lp.cancel(victim.get().unwrap()))
                    }
                    Action::Disarm
                },
                |_, _, end| end.unwrap(),
            );
        }
        let (id, _peer, pool, ends, result) =
            receive_more_than_the_pool_holds(&mut lp, |_, _, _lease| Action::Rearm);
        victim.set(Some(id));
        lp.run(RunMode::NoWait).unwrap();
        run_until(&mut lp, || ends.get() > 0);
        assert!(oxev::is_canceled(&result.take().unwrap().unwrap_err()));
        assert_eq!((ends.get(), pool.available()), (1, 1));
        // The kernel, too, has it back.
        let (stream, mut peer) = connection();
        peer.write_all(b"more").unwrap();
        let received = Rc::new(Cell::new(false));
        lp.submit(
            Box::new(Completion::new((stream, pool, Rc::clone(&received)))),
            |(stream, pool, _)| stream.recv_pooled(pool),
            |_, owner, lease| {
                assert_eq!(lease.unwrap()[..], b"more"[..]);
                owner.2.set(true);
            },
        );
        run_until(&mut lp, || received.get());
    }
}

// ---- repeating timers

#[derive(Default)]
struct Ticks {
    periods: Vec<u64>,
    ended: Rc<Cell<Option<bool>>>,
}

#[test]
fn resetting_a_repeating_timer_whose_tick_waits_for_its_callback_does_not_end_it() {
    struct Other {
        id: Rc<Cell<Option<OpId>>>,
    }
    let mut lp = Loop::new().unwrap();
    let id = Rc::new(Cell::new(None));
    // A notification's item comes first: it moves the timer, whose item waits, and stops the loop.
    let first = Notifier::new();
    first.notify();
    lp.submit_multi(
        Box::new(Completion::new(Multi::new(first, Other { id: Rc::clone(&id) }))),
        |notifier| notifier.wait_multi(),
        |lp, other: &mut Other, ()| {
            assert!(lp.reset(other.id.get().unwrap(), Duration::ZERO));
            lp.stop();
            Action::Disarm
        },
        |_, _, end| end.unwrap(),
    );
    let state = Ticks::default();
    let ended = Rc::clone(&state.ended);
    id.set(Some(lp.submit_multi(
        Box::new(Completion::new(Multi::new((), state))),
        |()| Timer::every(Duration::from_nanos(1)),
        |_, ticks: &mut Ticks, periods| {
            ticks.periods.push(periods);
            if ticks.periods.len() < 5 { Action::Rearm } else { Action::Disarm }
        },
        |_, owner, end| owner.state.ended.set(Some(end.is_ok() && owner.state.periods.len() == 5)),
    )));
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(100) {}
    lp.run(RunMode::UntilDone).unwrap();
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(ended.get(), Some(true), "it ended early, or with an error");
}

#[test]
fn the_item_of_a_fixed_delay_is_one_however_late_it_is() {
    let mut lp = Loop::new().unwrap();
    lp.submit_multi(
        Box::new(Completion::new(Multi::new((), Ticks::default()))),
        |()| Timer::every_after(Duration::from_micros(10)),
        |_, ticks: &mut Ticks, periods| {
            ticks.periods.push(periods);
            if ticks.periods.len() < 3 { Action::Rearm } else { Action::Disarm }
        },
        |_, owner, end| {
            end.unwrap();
            assert_eq!(owner.state.periods, [1, 1, 1]);
        },
    );
    // Time passes between two steps.
    while !lp.is_empty() {
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(200) {}
        lp.run(RunMode::NoWait).unwrap();
    }
}

#[test]
fn the_deadline_of_a_repeating_timer_comes_before_its_next_tick() {
    type Repeat = fn(Duration) -> oxev::MultiOp<'static, u64>;
    for repeat in [Timer::every as Repeat, Timer::every_after as Repeat] {
        let mut lp = Loop::new().unwrap();
        let state = Ticks::default();
        let ended = Rc::clone(&state.ended);
        let id = lp.submit_multi(
            Box::new(Completion::new(Multi::new(repeat, state))),
            |repeat| repeat(Duration::from_secs(3600)).timeout(Duration::from_millis(5)),
            |_, ticks: &mut Ticks, periods| {
                ticks.periods.push(periods);
                Action::Rearm
            },
            |_, owner, end| {
                let timed_out = end.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
                owner.state.ended.set(Some(timed_out));
            },
        );
        assert!(lp.reset(id, Duration::ZERO));
        run_until(&mut lp, || ended.get().is_some());
        assert_eq!(ended.get(), Some(true));
    }
}

// ---- bad sizes

#[test]
fn sizes_out_of_range_are_refused_and_do_not_panic() {
    for entries in [u32::MAX, 1 << 31, 1 << 30] {
        // The kernel may clamp it; it may not bring the program down.
        _ = Loop::builder().entries(entries).capacity(8).build();
    }
    assert!(Loop::builder().entries(0).build().is_err());
    assert!(Loop::builder().capacity(0).build().is_err());
}

// ---- zero-copy sends

/// Processor time of this thread.
fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| Duration::from_secs(time.tv_sec() as u64) + Duration::from_micros(time.tv_usec() as u64))
        .sum()
}

/// A connection whose peer has a small window and does not read: what is sent stays in the sender's queue, so
/// of a zero-copy send the kernel keeps the buffer.
fn slow_connection() -> (TcpStream, socket2::Socket) {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.set_recv_buffer_size(4096).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(1).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let stream = TcpStream::from_std(StdStream::connect(address).unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    stream.set_send_buffer_size(1 << 20).unwrap();
    (stream, peer)
}

#[test]
fn a_zero_copy_send_that_is_cancelled_while_the_kernel_has_the_buffer_waits_without_spinning() {
    const BYTES: usize = 64 << 10;
    let mut lp = Loop::new().unwrap();
    if !lp.capabilities().zero_copy_send {
        return eprintln!("skipped: no zero-copy send here");
    }
    let (stream, peer) = slow_connection();
    let done = Rc::new(Cell::new(None));
    let id = lp.submit(
        Box::new(Completion::new((stream, vec![7u8; BYTES], Rc::clone(&done)))),
        |(stream, data, _)| stream.send_all_zero_copy(data),
        |_, owner, sent| owner.2.set(Some(sent.map_err(|error| error.raw_os_error()))),
    );
    for _ in 0..8 {
        lp.run(RunMode::NoWait).unwrap();
    }
    lp.cancel(id);
    let (before, start) = (cpu_time(), Instant::now());
    lp.run_for(Duration::from_millis(200)).unwrap();
    let (busy, waited) = (cpu_time() - before, start.elapsed());
    assert!(busy < waited / 2, "{busy:?} of processor time in {waited:?} of waiting for the peer");
    // A reset empties the queue.
    drop(peer);
    run_until(&mut lp, || done.get().is_some());
}

#[test]
fn dropping_a_loop_waits_for_the_kernel_without_spinning() {
    let mut lp = Loop::builder().drain_timeout(Duration::from_millis(200)).build().unwrap();
    if !lp.capabilities().zero_copy_send {
        return eprintln!("skipped: no operation here that cannot be cancelled");
    }
    let (stream, peer) = slow_connection();
    lp.submit(
        leaked_in_the_end((stream, vec![7u8; 64 << 10])),
        |(stream, data)| stream.send_all_zero_copy(data),
        |_, _, _| (),
    );
    // An owner that the loop can drop at once.
    lp.submit(Box::new(Completion::new(())), |()| Timer::after(Duration::from_secs(3600)), |_, _, _| ());
    for _ in 0..8 {
        lp.run(RunMode::NoWait).unwrap();
    }
    let (before, start) = (cpu_time(), Instant::now());
    drop(lp);
    let (busy, waited) = (cpu_time() - before, start.elapsed());
    assert!(waited >= Duration::from_millis(200), "the kernel has let go, so this shows nothing");
    assert!(busy < waited / 2, "{busy:?} of processor time in {waited:?} of waiting for the kernel");
    drop(peer);
}

// ---- notifiers

#[test]
fn a_notifier_serves_another_loop_after_its_loop_was_dropped_in_the_middle_of_a_notification() {
    for _ in 0..300 {
        let notifier = Notifier::new();
        let barrier = std::sync::Arc::new(std::sync::Barrier::new(2));
        let other = std::thread::spawn({
            let (notifier, barrier) = (notifier.clone(), std::sync::Arc::clone(&barrier));
            move || {
                barrier.wait();
                for _ in 0..64 {
                    notifier.notify();
                }
            }
        });
        let mut lp = Loop::builder().capacity(4).entries(4).build().unwrap();
        lp.submit(Box::new(Completion::new(notifier.clone())), |n| n.wait(), |_, _, _| ());
        barrier.wait();
        drop(lp);
        other.join().unwrap();
        let mut lp = Loop::builder().capacity(4).entries(4).build().unwrap();
        let result = Rc::new(Cell::new(None));
        notifier.notify();
        lp.submit(
            Box::new(Completion::new((notifier, Rc::clone(&result)))),
            |(notifier, _)| notifier.wait(),
            |_, owner, notified| owner.1.set(Some(notified.map_err(|error| error.raw_os_error()))),
        );
        lp.run_for(Duration::from_secs(5)).unwrap();
        assert_eq!(result.get(), Some(Ok(())));
    }
}

#[test]
fn a_wake_up_that_comes_before_the_wait_ends_it() {
    let mut lp = Loop::new().unwrap();
    let handle = lp.handle();
    lp.submit(
        Box::new(Completion::new(())),
        |()| Timer::after(Duration::from_secs(20)),
        |_, _, _| unreachable!("the loop waited although it had been woken"),
    );
    handle.wake();
    lp.run(RunMode::Once).unwrap();
}

/// A thread may be late, or the whole machine may stand still, so the limit is one that a thread only reaches by
/// sleeping without end.
#[test]
fn a_stop_is_not_lost_among_wake_ups_and_posts_of_other_threads() {
    const LIMIT: Duration = Duration::from_secs(300);
    let works = |kind| Loop::builder().backend(kind).build().is_ok();
    for kind in Kind::COMPILED.iter().copied().filter(|&kind| works(kind)) {
        for _ in 0..300 {
            let mut lp = Loop::builder().backend(kind).capacity(64).entries(4).build().unwrap();
            lp.submit(
                Box::new(Completion::new(Notifier::new())),
                |n| n.wait().timeout(LIMIT),
                |lp, _, _| panic!("{} has slept over the stop", lp.backend()),
            );
            let (waking, posting, stopping) = (lp.handle(), lp.handle(), lp.handle());
            let threads = [
                std::thread::spawn(move || (0..50).for_each(|_| waking.wake())),
                std::thread::spawn(move || (0..20).for_each(|_| post(&posting))),
                std::thread::spawn(move || stopping.stop()),
            ];
            lp.run(RunMode::UntilDone).unwrap();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
    }
}

fn post(handle: &LoopHandle) {
    assert!(handle.post(Box::new(Completion::new(())), |_, _| ()).is_ok());
}

#[test]
fn a_notification_to_a_loop_that_is_dropped_is_kept_for_the_next_wait() {
    let notifier = Notifier::new();
    let wait = |lp: &mut Loop| {
        lp.submit(
            Box::new(Completion::new(notifier.clone())),
            |n| n.wait().timeout(Duration::from_secs(1)),
            |_, _, notified| notified.unwrap(),
        );
    };
    let mut lp = Loop::new().unwrap();
    wait(&mut lp);
    notifier.notify();
    drop(lp);
    let mut lp = Loop::new().unwrap();
    wait(&mut lp);
    lp.run(RunMode::UntilDone).unwrap();
}
