//! Running, stopping, asking: what the loop does whatever the operations are.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oxev::{Action, Completion, Kind, Loop, Notifier, OpKind, RunMode, TcpStream, Timer, nop};

use crate::support::crowds::crowd;
use crate::support::sockets::{assert_closed, connect, listener, pair};
use crate::support::surroundings::current;
use crate::support::{Counter, HOUR, Log, MS, complete, errno, now, since, spin, start, start_multi};
use crate::variants::Variant;

conformance! {
    run_for_looks_round_if_only_background_operations_are_in_flight,
    run_for_goes_on_with_what_the_callback_of_a_background_operation_submits,
    until_done_returns_at_once_when_nothing_is_in_flight,
    until_done_returns_when_the_last_callback_has_run,
    once_runs_what_is_ready_first_and_leaves_the_rest,
    once_returns_at_once_when_nothing_is_in_flight,
    no_wait_does_not_wait,
    what_a_callback_submits_is_not_run_in_the_same_step,
    an_operation_that_resubmits_itself_starves_no_other,
    callbacks_never_run_inside_submit,
    run_for_ends_when_the_time_is_over_and_not_before,
    run_for_ends_when_nothing_is_in_flight,
    run_for_the_longest_duration_does_not_overflow,
    stop_ends_the_run_and_the_next_run_goes_on,
    stop_keeps_the_callbacks_that_were_ready,
    stop_before_run_is_not_lost,
    stop_is_used_up_by_the_run_that_it_ended,
    stop_in_the_last_callback_of_run_for_is_used_up,
    run_inside_a_callback_is_refused,
    now_moves_with_the_steps,
    now_stands_still_in_a_callback_until_it_is_updated,
    in_flight_lists_kind_descriptor_and_age,
    len_counts_from_submit_to_callback,
    a_full_table_refuses_with_the_owner,
    a_full_table_refuses_a_multi_submission_with_the_owner,
    a_close_that_a_full_table_refuses_closes_all_the_same,
    room_in_the_table_can_be_used_again,
    background_operations_do_not_keep_until_done_running,
    background_operations_run_as_long_as_something_else_does,
    background_multi_operations_do_not_keep_until_done_running,
    a_refused_background_operation_is_not_counted_twice,
    a_loop_embeds_in_poll,
    timers_embed_in_poll_by_next_timeout,
    an_embedded_loop_wakes_for_other_threads,
    #[needs_kernel = "a peer acts while this thread sleeps in a real poll"]
    an_embedded_loop_wakes_a_poll_that_waits,
    an_embedded_loop_that_never_ran_wakes_for_other_threads,
    an_embedded_loop_shows_every_step_of_its_work,
    the_descriptor_is_quiet_when_there_is_nothing_to_do,
    senseless_sizes_are_refused,
    a_capacity_that_the_machine_has_no_memory_for_is_an_error,
    the_loop_tells_its_backend_and_what_it_can_do,
    a_nop_completes_through_every_mode,
    an_item_callback_knows_the_id_of_its_operation,
}

fn timer_in(lp: &mut Loop, log: &Log<u32>, name: u32, delay: Duration) -> oxev::OpId {
    lp.submit(
        Box::new(Completion::new((log.clone(), name))),
        |_| Timer::after(delay),
        |_, owner, fired| {
            fired.unwrap();
            owner.0.push(owner.1);
        },
    )
}

fn until_done_returns_at_once_when_nothing_is_in_flight(v: Variant) {
    v.new_loop().run(RunMode::UntilDone).unwrap();
}

fn until_done_returns_when_the_last_callback_has_run(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    timer_in(&mut lp, &log, 1, MS);
    timer_in(&mut lp, &log, 2, 3 * MS);
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), [1, 2]);
    assert!(lp.is_empty());
}

fn once_runs_what_is_ready_first_and_leaves_the_rest(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    timer_in(&mut lp, &log, 1, MS);
    timer_in(&mut lp, &log, 2, HOUR);
    lp.run(RunMode::Once).unwrap();
    assert_eq!(log.take(), [1]);
    assert_eq!(lp.len(), 1);
}

fn once_returns_at_once_when_nothing_is_in_flight(v: Variant) {
    v.new_loop().run(RunMode::Once).unwrap();
}

fn no_wait_does_not_wait(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    timer_in(&mut lp, &log, 1, HOUR);
    lp.run(RunMode::NoWait).unwrap();
    assert!(log.is_empty());
}

fn what_a_callback_submits_is_not_run_in_the_same_step(v: Variant) {
    fn again(lp: &mut Loop, owner: Box<Completion<Counter>>, done: io::Result<()>) {
        done.unwrap();
        owner.add();
        lp.submit(owner, |_| nop(), again);
    }
    let (mut lp, count) = (v.new_loop(), Counter::new());
    lp.submit(Box::new(Completion::new(count.clone())), |_| nop(), again);
    for round in 1..=5 {
        lp.run(RunMode::Once).unwrap();
        assert_eq!(count.get(), round);
    }
}

fn an_operation_that_resubmits_itself_starves_no_other(v: Variant) {
    fn for_ever(lp: &mut Loop, owner: Box<Completion<()>>, done: io::Result<()>) {
        done.unwrap();
        lp.submit(owner, |()| nop(), for_ever);
    }
    let (mut lp, log) = (v.new_loop(), Log::new());
    lp.submit(Box::new(Completion::new(())), |()| nop(), for_ever);
    timer_in(&mut lp, &log, 1, 2 * MS);
    crate::support::run_until(&mut lp, || !log.is_empty());
}

fn callbacks_never_run_inside_submit(v: Variant) {
    let mut lp = v.builder().capacity(1).build().unwrap();
    let waiting = start(&mut lp, (), |()| Timer::after(HOUR));
    let refused = start(&mut lp, (), |()| nop());
    let empty = start(&mut lp, (pair().0, []), |(s, b)| s.recv(b));
    assert!(!refused.is_done() && !empty.is_done());
    lp.cancel(waiting.id);
    assert!(!waiting.is_done(), "nor inside cancel");
    lp.run(RunMode::UntilDone).unwrap();
    assert!(waiting.is_done() && refused.is_done() && empty.is_done());
}

fn run_for_ends_when_the_time_is_over_and_not_before(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    timer_in(&mut lp, &log, 1, MS);
    timer_in(&mut lp, &log, 2, HOUR);
    let start = now();
    lp.run_for(10 * MS).unwrap();
    assert!(since(start) >= 10 * MS);
    assert_eq!(log.take(), [1]);
    lp.run_for(Duration::ZERO).unwrap();
    assert_eq!(lp.len(), 1);
}

fn run_for_ends_when_nothing_is_in_flight(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    timer_in(&mut lp, &log, 1, MS);
    lp.run_for(HOUR).unwrap();
    assert_eq!(log.take(), [1]);
}

fn run_for_the_longest_duration_does_not_overflow(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    timer_in(&mut lp, &log, 1, MS);
    lp.run_for(Duration::MAX).unwrap();
    assert_eq!(log.take(), [1]);
}

fn stop_ends_the_run_and_the_next_run_goes_on(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    lp.submit(Box::new(Completion::new(())), |()| nop(), |lp, _, _| lp.stop());
    timer_in(&mut lp, &log, 1, MS);
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(lp.len(), 1, "the stopped loop has not waited for the timer");
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), [1]);
}

fn stop_keeps_the_callbacks_that_were_ready(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    for name in 0..3 {
        lp.submit(
            Box::new(Completion::new((log.clone(), name))),
            |_| Timer::after(Duration::ZERO),
            |lp, owner, _| {
                owner.0.push(owner.1);
                lp.stop();
            },
        );
    }
    for round in 0..3 {
        lp.run(RunMode::UntilDone).unwrap();
        assert_eq!(log.take(), [round]);
    }
    assert!(lp.is_empty());
}

fn stop_before_run_is_not_lost(v: Variant) {
    for stop in [|lp: &mut Loop| lp.stop(), |lp: &mut Loop| lp.handle().stop()] {
        let (mut lp, log) = (v.new_loop(), Log::new());
        timer_in(&mut lp, &log, 1, HOUR);
        stop(&mut lp);
        lp.run(RunMode::UntilDone).unwrap();
        stop(&mut lp);
        lp.run_for(HOUR).unwrap();
        assert_eq!(lp.len(), 1);
    }
}

fn stop_is_used_up_by_the_run_that_it_ended(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    lp.stop();
    lp.stop();
    lp.run(RunMode::UntilDone).unwrap();
    timer_in(&mut lp, &log, 1, MS);
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), [1]);
}

fn stop_in_the_last_callback_of_run_for_is_used_up(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    lp.submit(Box::new(Completion::new(())), |()| nop(), |lp, _, _| lp.stop());
    lp.run_for(HOUR).unwrap();
    timer_in(&mut lp, &log, 1, MS);
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), [1]);
}

fn run_inside_a_callback_is_refused(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    lp.submit(
        Box::new(Completion::new(log.clone())),
        |_| nop(),
        |lp, log, _| {
            for mode in [RunMode::UntilDone, RunMode::Once, RunMode::NoWait] {
                log.push(errno(lp.run(mode)));
            }
            log.push(errno(lp.run_for(HOUR)));
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), [Some(libc::EDEADLK); 4]);
    timer_in(&mut lp, &Log::new(), 1, MS);
    lp.run(RunMode::UntilDone).unwrap();
}

fn now_moves_with_the_steps(v: Variant) {
    let mut lp = v.new_loop();
    let (before, real) = (lp.now(), now());
    complete(&mut lp, (), |()| Timer::after(2 * MS)).1.unwrap();
    assert!(lp.now() >= before + 2 * MS);
    assert!(lp.now() >= real && lp.now() <= now());
}

fn now_stands_still_in_a_callback_until_it_is_updated(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    lp.submit(
        Box::new(Completion::new(log.clone())),
        |_| nop(),
        |lp, log, _| {
            let before = lp.now();
            spin(MS);
            let same = lp.now();
            lp.update_now();
            log.push((same == before, lp.now() >= before + MS));
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), [(true, true)]);
}

fn in_flight_lists_kind_descriptor_and_age(v: Variant) {
    let mut lp = v.new_loop();
    let (listener, _) = listener();
    let fd = listener.as_raw_fd();
    let accept = start(&mut lp, listener, |l| l.accept());
    let timer = start(&mut lp, (), |()| Timer::after(HOUR));
    complete(&mut lp, (), |()| Timer::after(2 * MS)).1.unwrap();
    let mut list: Vec<_> = lp.in_flight().collect();
    list.sort_by_key(|op| op.kind != OpKind::Accept);
    assert_eq!(list.len(), 2);
    assert_eq!((list[0].id, list[0].kind, list[0].fd), (accept.id, OpKind::Accept, Some(fd)));
    assert_eq!((list[1].id, list[1].kind, list[1].fd), (timer.id, OpKind::Timer, None));
    assert!(list.iter().all(|op| op.age >= 2 * MS && op.age < HOUR));
    let ids: Vec<_> = lp.in_flight().map(|op| op.id).collect();
    assert!(ids.into_iter().all(|id| lp.cancel(id)), "what it lists can be cancelled");
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(lp.in_flight().count(), 0);
}

fn len_counts_from_submit_to_callback(v: Variant) {
    let mut lp = v.new_loop();
    assert_eq!((lp.len(), lp.is_empty()), (0, true));
    let one = start(&mut lp, (), |()| nop());
    let two = start(&mut lp, (), |()| Timer::after(HOUR));
    assert_eq!((lp.len(), lp.is_empty()), (2, false));
    one.wait(&mut lp).1.unwrap();
    assert_eq!(lp.len(), 1);
    lp.cancel(two.id);
    assert_eq!(lp.len(), 1, "its callback has not run");
    two.wait(&mut lp).1.unwrap_err();
    assert!(lp.is_empty());
}

fn a_full_table_refuses_with_the_owner(v: Variant) {
    let mut lp = v.builder().capacity(2).build().unwrap();
    let held = [(); 2].map(|()| start(&mut lp, (), |()| Timer::after(HOUR)));
    let refused = [
        start(&mut lp, "a timer", |_| Timer::after(MS)),
        start(&mut lp, "a nop", |_| nop()),
        start(&mut lp, "a wait", |_| Timer::after(MS).timeout(MS)),
    ];
    assert!(refused.iter().all(|op| !lp.cancel(op.id) && !lp.reset(op.id, MS)));
    lp.run(RunMode::Once).unwrap();
    let names = refused.map(|op| {
        let (name, result) = op.take();
        assert!(oxev::is_table_full(&result.unwrap_err()));
        name
    });
    assert_eq!(names, ["a timer", "a nop", "a wait"]);
    assert!(held.iter().all(|op| !op.is_done()));
}

fn a_full_table_refuses_a_multi_submission_with_the_owner(v: Variant) {
    let mut lp = v.builder().capacity(1).build().unwrap();
    let _held = start(&mut lp, (), |()| Timer::after(HOUR));
    let timer = start_multi(&mut lp, (), 1, |()| Timer::every(MS));
    let wait = start_multi(&mut lp, Notifier::new(), 1, |n| n.wait_multi());
    let accept = start_multi(&mut lp, listener().0, 1, |l| l.accept_multi());
    lp.run(RunMode::Once).unwrap();
    for end in [timer.end(), wait.end(), accept.end()] {
        assert!(oxev::is_table_full(&end.unwrap_err()));
    }
}

fn a_close_that_a_full_table_refuses_closes_all_the_same(v: Variant) {
    let mut lp = v.builder().capacity(1).build().unwrap();
    let _held = start(&mut lp, (), |()| Timer::after(HOUR));
    let (stream, mut peer) = pair();
    let close = start(&mut lp, stream, |s| s.close());
    lp.run(RunMode::Once).unwrap();
    let (stream, result) = close.take();
    assert!(oxev::is_table_full(&result.unwrap_err()));
    assert_eq!(stream.as_raw_fd(), -1);
    assert_closed(&mut peer);
}

fn room_in_the_table_can_be_used_again(v: Variant) {
    let mut lp = v.builder().capacity(1).build().unwrap();
    for _ in 0..100 {
        complete(&mut lp, (), |()| nop()).1.unwrap();
        complete(&mut lp, (), |()| Timer::after(Duration::ZERO)).1.unwrap();
    }
}

fn background_operations_do_not_keep_until_done_running(v: Variant) {
    let mut lp = v.new_loop();
    let timer = start(&mut lp, (), |()| Timer::after(HOUR).background());
    let (ours, _peer) = pair();
    let recv = start(&mut lp, (ours, [0; 8]), |(s, b)| s.recv(b).background());
    lp.run(RunMode::UntilDone).unwrap();
    lp.run_for(HOUR).unwrap();
    assert_eq!(lp.len(), 2);
    lp.cancel(timer.id);
    lp.cancel(recv.id);
    while !lp.is_empty() {
        lp.run(RunMode::Once).unwrap();
    }
    assert!(timer.is_done() && recv.is_done());
}

fn background_operations_run_as_long_as_something_else_does(v: Variant) {
    let mut lp = v.new_loop();
    let background = start(&mut lp, (), |()| Timer::after(MS).background());
    let _foreground = start(&mut lp, (), |()| Timer::after(5 * MS));
    lp.run(RunMode::UntilDone).unwrap();
    background.result().unwrap();
}

fn background_multi_operations_do_not_keep_until_done_running(v: Variant) {
    let mut lp = v.new_loop();
    let ticks = start_multi(&mut lp, (), usize::MAX, |()| Timer::every(MS).background());
    let accepts = start_multi(&mut lp, listener().0, usize::MAX, |l| l.accept_multi().background());
    start(&mut lp, (), |()| Timer::after(5 * MS));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(!ticks.items.is_empty());
    assert!(!ticks.has_ended() && !accepts.has_ended());
}

fn a_refused_background_operation_is_not_counted_twice(v: Variant) {
    let mut lp = v.builder().capacity(1).build().unwrap();
    let held = start(&mut lp, (), |()| Timer::after(HOUR));
    let refused = start(&mut lp, (), |()| nop().background());
    lp.run(RunMode::Once).unwrap();
    assert!(oxev::is_table_full(&refused.result().unwrap_err()));
    lp.cancel(held.id);
    lp.run(RunMode::UntilDone).unwrap();
    assert!(held.is_done());
}

fn is_readable(lp: &Loop, timeout: PollTimeout) -> bool {
    let mut fds = [PollFd::new(lp.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, timeout).unwrap() == 1
}

fn a_loop_embeds_in_poll(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let recv = start(&mut lp, (ours, [0; 8]), |(s, b)| s.recv(b));
    assert!(!is_readable(&lp, PollTimeout::ZERO));
    lp.flush().unwrap();
    assert!(!is_readable(&lp, PollTimeout::ZERO));
    io::Write::write_all(&mut peer, b"hello").unwrap();
    assert!(is_readable(&lp, PollTimeout::NONE));
    lp.run(RunMode::NoWait).unwrap();
    assert_eq!(recv.result().unwrap(), 5);
}

fn timers_embed_in_poll_by_next_timeout(v: Variant) {
    let mut lp = v.new_loop();
    assert_eq!(lp.next_timeout(), None);
    let begin = now();
    let timer = start(&mut lp, (), |()| Timer::after(5 * MS));
    while !timer.is_done() {
        let timeout = lp.next_timeout().expect("a timer is armed");
        assert!(timeout <= 5 * MS);
        current().poll(lp.as_fd(), timeout + MS);
        lp.run(RunMode::NoWait).unwrap();
    }
    assert!(since(begin) >= 5 * MS);
    assert_eq!(lp.next_timeout(), None);
    let refused = start(&mut lp, (pair().0, []), |(s, b)| s.recv(b));
    assert_eq!(lp.next_timeout(), Some(Duration::ZERO), "a callback is ready");
    lp.run(RunMode::NoWait).unwrap();
    assert_eq!(refused.result().unwrap(), 0);
}

fn an_embedded_loop_wakes_for_other_threads(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    let wait = start(&mut lp, notifier.clone(), |n| n.wait());
    assert!(!is_readable(&lp, PollTimeout::ZERO));
    lp.flush().unwrap();
    let thread = std::thread::spawn(move || notifier.notify());
    while !wait.is_done() {
        assert!(is_readable(&lp, PollTimeout::from(60_000_u16)), "the notification does not show");
        lp.run(RunMode::NoWait).unwrap();
    }
    thread.join().unwrap();
}

/// Waits until the thread sleeps in the kernel.
fn wait_until_asleep(thread: libc::pid_t) {
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.as_bytes()[0]
    };
    while state() != b'S' {
        std::thread::yield_now();
    }
}

fn an_embedded_loop_wakes_a_poll_that_waits(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    let (ours, mut peer) = pair();
    let wait = start(&mut lp, notifier.clone(), |n| n.wait());
    let recv = start(&mut lp, (ours, [0; 8]), |(s, b)| s.recv(b));
    assert!(!is_readable(&lp, PollTimeout::ZERO));
    lp.flush().unwrap();
    let thread = nix::unistd::gettid().as_raw();
    let other = std::thread::spawn(move || {
        wait_until_asleep(thread);
        notifier.notify();
        wait_until_asleep(thread);
        io::Write::write_all(&mut peer, b"hello").unwrap();
    });
    let mut turns = 0;
    while !(wait.is_done() && recv.is_done()) {
        assert!(is_readable(&lp, PollTimeout::NONE));
        lp.run(RunMode::NoWait).unwrap();
        turns += 1;
    }
    assert!(turns < 20, "it spins: {turns} turns");
    other.join().unwrap();
}

fn an_embedded_loop_that_never_ran_wakes_for_other_threads(v: Variant) {
    let mut lp = v.new_loop();
    let (handle, count) = (lp.handle(), std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let message = Box::new(Completion::new(std::sync::Arc::clone(&count)));
    let thread = nix::unistd::gettid().as_raw();
    let fd = lp.as_fd().as_raw_fd();
    assert_eq!(lp.as_fd().as_raw_fd(), fd, "the same each time");
    let other = std::thread::spawn(move || {
        wait_until_asleep(thread);
        let posted = handle.post(message, |_, count| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(posted.is_ok());
    });
    assert!(is_readable(&lp, PollTimeout::NONE));
    lp.run(RunMode::NoWait).unwrap();
    assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 1);
    other.join().unwrap();
}

fn an_embedded_loop_shows_every_step_of_its_work(v: Variant) {
    let Some(_crowd) = crowd() else { return };
    // More items than one step takes, and each followed by an operation of its own.
    let mut lp = v.builder().entries(2).build().unwrap();
    let (listener, address) = listener();
    let accepts = start_multi(&mut lp, listener, usize::MAX, |l| l.accept_multi());
    assert!(!is_readable(&lp, PollTimeout::ZERO));
    lp.flush().unwrap();
    let _clients: Vec<_> = (0..100).map(|_| connect(address)).collect();
    while accepts.items.len() < 100 {
        assert!(is_readable(&lp, PollTimeout::NONE));
        lp.run(RunMode::NoWait).unwrap();
    }
}

fn the_descriptor_is_quiet_when_there_is_nothing_to_do(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    let _pending = start(&mut lp, (), |()| Timer::after(HOUR));
    for _ in 0..3 {
        assert!(!is_readable(&lp, PollTimeout::ZERO));
        let wait = start(&mut lp, notifier.clone(), |n| n.wait());
        notifier.notify();
        lp.flush().unwrap();
        lp.handle().wake();
        while !wait.is_done() {
            lp.run(RunMode::NoWait).unwrap();
        }
        // One more step may have to take what is left of the wake-up.
        lp.run(RunMode::NoWait).unwrap();
        assert!(!is_readable(&lp, PollTimeout::ZERO), "it would spin");
    }
}

fn a_capacity_that_the_machine_has_no_memory_for_is_an_error(v: Variant) {
    // From what fits to the largest there is. Where an administrator lets every program have what it asks
    // for, all of them are built.
    for bits in 20..30 {
        if let Err(error) = v.builder().capacity((1 << bits) + (1 << (bits - 1))).build() {
            assert_eq!(error.kind(), io::ErrorKind::OutOfMemory, "{error}");
        }
    }
}

fn senseless_sizes_are_refused(v: Variant) {
    assert_eq!(errno(v.builder().capacity(0).build()), Some(libc::EINVAL));
    assert_eq!(errno(v.builder().capacity(usize::MAX).build()), Some(libc::EINVAL));
    for entries in [0, (1 << 15) + 1, u32::MAX] {
        assert_eq!(errno(v.builder().entries(entries).build()), Some(libc::EINVAL));
    }
}

fn the_loop_tells_its_backend_and_what_it_can_do(v: Variant) {
    let lp = v.new_loop();
    // A loop of a simulated world is chosen by the world, not by its name.
    assert!(Kind::COMPILED.contains(&lp.backend()) || lp.backend() == Kind::Sim);
    assert!(v.name().starts_with(&lp.backend().to_string()));
    assert!(Kind::COMPILED.iter().all(|kind| kind.to_string().parse() == Ok(*kind)));
    let can = lp.capabilities();
    assert_eq!(can, v.new_loop().capabilities(), "the same each time");
    assert!("no such backend".parse::<Kind>().is_err());
    assert!(!format!("{lp:?}").is_empty());
}

fn a_nop_completes_through_every_mode(v: Variant) {
    let mut lp = v.new_loop();
    for mode in [RunMode::UntilDone, RunMode::Once] {
        let done = start(&mut lp, (), |()| nop());
        lp.run(mode).unwrap();
        done.result().unwrap();
    }
    let done = start(&mut lp, (), |()| nop());
    lp.run_for(HOUR).unwrap();
    done.result().unwrap();
    let refused = complete(&mut lp, (), |()| TcpStream::connect("not an address")).1;
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

fn run_for_looks_round_if_only_background_operations_are_in_flight(v: Variant) {
    let mut lp = v.new_loop();
    let background = start(&mut lp, (), |()| nop().background());
    for _ in 0..100 {
        lp.run_for(MS).unwrap();
        if background.is_done() {
            return;
        }
    }
    panic!("it makes no step");
}

fn run_for_goes_on_with_what_the_callback_of_a_background_operation_submits(v: Variant) {
    let mut lp = v.new_loop();
    let fired = Counter::new();
    let owner = Box::new(Completion::new(fired.clone()));
    lp.submit(
        owner,
        |_| nop().background(),
        |lp, owner, _| {
            lp.submit(owner, |_| Timer::after(5 * MS), |_, fired, _| fired.add());
        },
    );
    // The callback may need more than the one step that is made in any case.
    while lp.in_flight().any(|op| op.kind == OpKind::Nop) || fired.get() == 0 {
        lp.run_for(HOUR).unwrap();
        let has_timer = lp.in_flight().any(|op| op.kind == OpKind::Timer);
        assert!(!has_timer, "it ends although a timer is in flight");
    }
}

fn an_item_callback_knows_the_id_of_its_operation(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (items, ends) = (log.clone(), log.clone());
        ids.push(lp.submit_multi_with(
            (),
            |()| Timer::every(MS),
            move |lp, _| {
                let id = lp.item_id().unwrap();
                assert!(lp.cancel(id));
                items.push(Some(id));
                Action::Rearm
            },
            move |lp, (), end| {
                assert!(oxev::is_canceled(&end.unwrap_err()));
                ends.push(lp.item_id());
            },
        ));
    }
    assert_eq!(lp.item_id(), None);
    lp.run(RunMode::UntilDone).unwrap();
    let seen = log.take();
    assert!(ids.iter().all(|id| seen.contains(&Some(*id))), "{seen:?}");
    assert_eq!((seen.len(), seen.iter().filter(|id| id.is_none()).count()), (6, 3));

    lp.submit_multi_with(
        (),
        |()| Timer::every(MS),
        |_, _| std::panic::resume_unwind(Box::new("in an item")),
        |lp, (), _| assert_eq!(lp.item_id(), None),
    );
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lp.run(RunMode::UntilDone)));
    assert!(ran.is_err() && lp.item_id().is_none());
    lp.run(RunMode::UntilDone).unwrap();
}
