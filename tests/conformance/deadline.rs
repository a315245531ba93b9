//! Deadlines: `.timeout` on any operation, one or several results.

use std::io::{self, ErrorKind, Write};
use std::time::{Duration, Instant};

use oxev::{Action, Cause, Completion, Multi, Notifier, RunMode, TcpStream, Timer, nop};

use crate::support::hanging::{lease_of, start_every_kind};
use crate::support::sockets::{connect, listener, pair};
use crate::support::{
    Counter, HOUR, Log, MS, complete, is_canceled, now, run_until, since, start, start_multi,
};
use crate::variants::Variant;

conformance! {
    every_kind_ends_when_its_deadline_passes,
    every_kind_with_a_deadline_can_be_cancelled,
    a_passed_deadline_is_told_from_a_connection_that_timed_out,
    a_deadline_is_never_early,
    an_operation_that_completes_in_time_has_its_result,
    a_deadline_that_was_not_needed_does_nothing_later,
    a_zero_deadline_ends_what_cannot_complete_at_once,
    a_zero_deadline_on_an_empty_buffer_is_no_error,
    the_longest_deadline_is_none,
    a_timer_has_the_earlier_of_its_two_times,
    a_notification_before_the_wait_beats_the_deadline,
    a_notifier_can_be_waited_on_again_after_a_deadline,
    the_deadline_of_a_multi_submission_is_for_the_whole,
    the_deadline_of_a_repeating_timer_is_for_the_whole,
    reset_at_each_item_is_an_idle_timeout,
    reset_moves_the_deadline_of_a_receive,
    reset_gives_a_deadline_to_an_operation_without_one,
    reset_after_the_deadline_is_too_late,
    many_deadlines_at_once_all_pass,
    a_partial_exact_receive_times_out,
    a_starving_receive_times_out_and_its_pool_stays_whole,
}

fn timed_out<R>(result: &io::Result<R>) -> bool {
    result.as_ref().is_err_and(|error| oxev::is_deadline(error) && error.kind() == ErrorKind::TimedOut)
}

fn every_kind_ends_when_its_deadline_passes(v: Variant) {
    let mut lp = v.new_loop();
    let begin = now();
    let (started, _keep) = start_every_kind(&mut lp, Some(3 * MS));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(since(begin) >= 3 * MS);
    for op in &started {
        let end = op.end().unwrap_or_else(|| panic!("{} has not ended", op.name));
        assert!(timed_out(&end), "{}: {end:?}", op.name);
        assert_eq!(op.drops(), 1, "{}", op.name);
    }
}

fn every_kind_with_a_deadline_can_be_cancelled(v: Variant) {
    let mut lp = v.new_loop();
    let (started, _keep) = start_every_kind(&mut lp, Some(HOUR));
    lp.run(RunMode::NoWait).unwrap();
    assert!(started.iter().all(|op| lp.cancel(op.id)));
    lp.run(RunMode::UntilDone).unwrap();
    for op in &started {
        assert!(is_canceled(&op.end().unwrap()), "{}", op.name);
    }
    // A world of its own may have something to come.
    assert!(lp.next_timeout().is_none_or(|timeout| timeout < HOUR / 2), "no deadline is left in the wheel");
}

/// The kernel's `ETIMEDOUT` is a connection's.
fn a_passed_deadline_is_told_from_a_connection_that_timed_out(v: Variant) {
    let mut lp = v.new_loop();
    let (stream, _peer) = pair();
    let error = complete(&mut lp, (stream, [0u8; 8]), |(s, buf)| s.recv(buf).timeout(MS))
        .1
        .expect_err("no byte came");
    assert!(oxev::is_deadline(&error) && !oxev::is_canceled(&error) && !oxev::is_table_full(&error));
    assert_eq!((error.raw_os_error(), Cause::of(&error)), (None, Some(Cause::Deadline)));
    let kernel = io::Error::from_raw_os_error(libc::ETIMEDOUT);
    assert_ne!(error.to_string(), kernel.to_string());
    assert!(!oxev::is_deadline(&kernel));
}

fn a_deadline_is_never_early(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, _peer) = pair();
    let mut state = (ours, [0; 8]);
    for microseconds in [1, 10, 100, 999, 1000, 1024, 2500] {
        let limit = Duration::from_micros(microseconds);
        let begin = now();
        let (back, result) = complete(&mut lp, state, |(s, b)| s.recv(b).timeout(limit));
        assert!(timed_out(&result) && since(begin) >= limit);
        state = back;
    }
}

fn an_operation_that_completes_in_time_has_its_result(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    peer.write_all(b"in time").unwrap();
    assert_eq!(complete(&mut lp, (ours, [0; 8]), |(s, b)| s.recv(b).timeout(HOUR)).1.unwrap(), 7);
    complete(&mut lp, (), |()| nop().timeout(HOUR)).1.unwrap();
    complete(&mut lp, (), |()| Timer::after(MS).timeout(HOUR)).1.unwrap();
    let (listener, address) = listener();
    let connect = start(&mut lp, (), |()| TcpStream::connect(address).timeout(HOUR));
    let (_, accepted) = complete(&mut lp, listener, |l| l.accept().timeout(HOUR));
    accepted.unwrap();
    connect.wait(&mut lp).1.unwrap();
    assert!(lp.next_timeout().is_none_or(|timeout| timeout < HOUR / 2), "their deadlines are gone");
}

fn a_deadline_that_was_not_needed_does_nothing_later(v: Variant) {
    let mut lp = v.builder().capacity(2).build().unwrap();
    let mut state = ();
    for _ in 0..20 {
        // The next operation takes the same place in the table; the old deadline must not end it.
        state = complete(&mut lp, state, |()| nop().timeout(MS)).0;
        complete(&mut lp, (), |()| Timer::after(2 * MS)).1.unwrap();
    }
}

fn a_zero_deadline_ends_what_cannot_complete_at_once(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let (state, result) = complete(&mut lp, (ours, [0; 8]), |(s, b)| s.recv(b).timeout(Duration::ZERO));
    assert!(timed_out(&result), "{result:?}");
    assert!(timed_out(&complete(&mut lp, Notifier::new(), |n| n.wait().timeout(Duration::ZERO)).1));
    assert!(timed_out(&complete(&mut lp, (), |()| Timer::after(HOUR).timeout(Duration::ZERO)).1));
    assert!(timed_out(&complete(&mut lp, listener().0, |l| l.accept().timeout(Duration::ZERO)).1));
    let multi = start_multi(&mut lp, listener().0, 9, |l| l.accept_multi().timeout(Duration::ZERO));
    assert!(timed_out(&multi.wait(&mut lp)));
    peer.write_all(b"now").unwrap();
    match complete(&mut lp, state, |(s, b)| s.recv(b).timeout(Duration::ZERO)).1 {
        Ok(n) => assert_eq!(n, 3),
        result => assert!(timed_out(&result)),
    }
}

fn a_zero_deadline_on_an_empty_buffer_is_no_error(v: Variant) {
    let (mut lp, (ours, _peer)) = (v.new_loop(), pair());
    let (_, result) = complete(&mut lp, (ours, []), |(s, b)| s.recv(b).timeout(Duration::ZERO));
    assert_eq!(result.unwrap(), 0);
}

fn the_longest_deadline_is_none(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let recv = start(&mut lp, (ours, [0; 8]), |(s, b)| s.recv(b).timeout(Duration::MAX));
    lp.run_for(2 * MS).unwrap();
    peer.write_all(b"late").unwrap();
    assert_eq!(recv.wait(&mut lp).1.unwrap(), 4);
}

fn a_timer_has_the_earlier_of_its_two_times(v: Variant) {
    let mut lp = v.new_loop();
    complete(&mut lp, (), |()| Timer::after(MS).timeout(HOUR)).1.unwrap();
    assert!(timed_out(&complete(&mut lp, (), |()| Timer::after(HOUR).timeout(MS)).1));
    assert!(timed_out(&complete(&mut lp, (), |()| Timer::at(now() + HOUR).timeout(MS)).1));
    let soon = now() + MS;
    complete(&mut lp, (), |()| Timer::at(soon).timeout(HOUR)).1.unwrap();
    complete(&mut lp, (), |()| Timer::after(MS).timeout(MS)).1.unwrap();
}

fn a_notification_before_the_wait_beats_the_deadline(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    notifier.notify();
    complete(&mut lp, notifier, |n| n.wait().timeout(Duration::ZERO)).1.unwrap();
}

fn a_notifier_can_be_waited_on_again_after_a_deadline(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    for _ in 0..5 {
        assert!(timed_out(&complete(&mut lp, notifier.clone(), |n| n.wait().timeout(MS)).1));
    }
    notifier.notify();
    complete(&mut lp, notifier, |n| n.wait().timeout(HOUR)).1.unwrap();
}

fn the_deadline_of_a_multi_submission_is_for_the_whole(v: Variant) {
    let mut lp = v.new_loop();
    let (listener, address) = listener();
    let begin = now();
    let accepts = start_multi(&mut lp, listener, usize::MAX, |l| l.accept_multi().timeout(2 * MS));
    // If each connection gave it more time, there would be no end to it.
    while !accepts.has_ended() {
        let _client = connect(address);
        lp.run(RunMode::NoWait).unwrap();
        accepts.items.take();
    }
    let end = accepts.end();
    assert!(timed_out(&end), "{end:?}");
    assert!(since(begin) >= 2 * MS);
}

fn the_deadline_of_a_repeating_timer_is_for_the_whole(v: Variant) {
    let mut lp = v.new_loop();
    let begin = now();
    let ticks = start_multi(&mut lp, (), usize::MAX, |()| Timer::every(2 * MS).timeout(9 * MS));
    assert!(timed_out(&ticks.wait(&mut lp)));
    assert!(since(begin) >= 9 * MS);
    assert!(ticks.items.take().into_iter().sum::<u64>() <= 4);
    let never = start_multi(&mut lp, (), usize::MAX, |()| Timer::every(HOUR).timeout(MS));
    assert!(timed_out(&never.wait(&mut lp)));
    assert!(never.items.is_empty());
}

fn reset_at_each_item_is_an_idle_timeout(v: Variant) {
    struct Idle {
        id: std::rc::Rc<std::cell::Cell<Option<oxev::OpId>>>,
        last: Instant,
        items: Counter,
        end: Log<End>,
        /// A deadline passed before the item that would have moved it, as it may on a slow machine.
        late: bool,
    }
    /// How long it had been idle, whether the machine was slow, and the result.
    type End = (Duration, bool, io::Result<()>);
    const IDLE: Duration = Duration::from_millis(50);
    let mut lp = v.new_loop();
    let (listener, address) = listener();
    let (items, end) = (Counter::new(), Log::new());
    let idle =
        Idle { id: Default::default(), last: now(), items: items.clone(), end: end.clone(), late: false };
    let id = std::rc::Rc::clone(&idle.id);
    id.set(Some(lp.submit_multi(
        Box::new(Completion::new(Multi::new(listener, idle))),
        |l| l.accept_multi().timeout(IDLE),
        |lp, idle: &mut Idle, _| {
            idle.last = now();
            idle.items.add();
            idle.late |= !lp.reset(idle.id.get().unwrap(), IDLE);
            Action::Rearm
        },
        |_, owner, result| {
            let Idle { last, late, end, .. } = &owner.state;
            end.push((since(*last), *late, result));
        },
    )));
    let mut clients = Vec::new();
    while clients.len() < 5 && end.is_empty() {
        clients.push(connect(address));
        run_until(&mut lp, || items.get() == clients.len() || !end.is_empty());
    }
    lp.run(RunMode::UntilDone).unwrap();
    let (idle_for, late, result) = end.take().pop().unwrap();
    assert!(timed_out(&result) && (late || idle_for >= IDLE), "{idle_for:?}, {result:?}");
}

fn reset_moves_the_deadline_of_a_receive(v: Variant) {
    let mut lp = v.new_loop();
    let ((one, _peer_one), (two, mut peer_two)) = (pair(), pair());
    let begin = now();
    let earlier = start(&mut lp, (one, [0; 8]), |(s, b)| s.recv(b).timeout(HOUR));
    assert!(lp.reset(earlier.id, 3 * MS));
    assert!(timed_out(&earlier.wait(&mut lp).1));
    assert!(since(begin) >= 3 * MS);
    let later = start(&mut lp, (two, [0; 8]), |(s, b)| s.recv(b).timeout(5 * MS));
    lp.run(RunMode::NoWait).unwrap();
    if lp.reset(later.id, HOUR) {
        lp.run_for(10 * MS).unwrap();
        assert!(!later.is_done());
        peer_two.write_all(b"after all").unwrap();
        assert_eq!(later.wait(&mut lp).1.unwrap(), 8);
    }
}

fn reset_gives_a_deadline_to_an_operation_without_one(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, _peer) = pair();
    let recv = start(&mut lp, (ours, [0; 8]), |(s, b)| s.recv(b));
    let wait = start(&mut lp, Notifier::new(), |n| n.wait());
    let accept = start_multi(&mut lp, listener().0, 9, |l| l.accept_multi());
    for id in [recv.id, wait.id, accept.id] {
        assert!(lp.reset(id, MS));
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert!(timed_out(&recv.result()) && timed_out(&wait.result()) && timed_out(&accept.end()));
}

fn reset_after_the_deadline_is_too_late(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, _peer) = pair();
    let recv = start(&mut lp, (ours, [0; 8]), |(s, b)| s.recv(b).timeout(MS));
    let id = recv.id;
    assert!(timed_out(&recv.wait(&mut lp).1));
    assert!(!lp.reset(id, HOUR));
    assert!(lp.is_empty());
}

fn many_deadlines_at_once_all_pass(v: Variant) {
    // More than one round of expiries cancels.
    let mut lp = v.builder().capacity(2000).entries(16).build().unwrap();
    let (ours, _peer) = pair();
    let ours = std::rc::Rc::new(ours);
    let started: Vec<_> =
        (0..1000).map(|_| start(&mut lp, (ours.clone(), [0; 1]), |(s, b)| s.recv(b).timeout(MS))).collect();
    lp.run(RunMode::UntilDone).unwrap();
    assert!(started.into_iter().all(|op| timed_out(&op.result())));
}

fn a_partial_exact_receive_times_out(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    peer.write_all(b"half").unwrap();
    let (_, result) = complete(&mut lp, (ours, [0; 8]), |(s, b)| s.recv_exact(b).timeout(5 * MS));
    assert!(timed_out(&result), "{result:?}");
}

fn a_starving_receive_times_out_and_its_pool_stays_whole(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(1, 16).unwrap();
    let lease = lease_of(&mut lp, &pool);
    let (ours, mut peer) = pair();
    peer.write_all(b"no room").unwrap();
    let (state, result) = complete(&mut lp, (ours, pool.clone()), |(s, p)| s.recv_pooled(p).timeout(3 * MS));
    assert!(timed_out(&result), "{result:?}");
    drop(lease);
    assert_eq!(&complete(&mut lp, state, |(s, p)| s.recv_pooled(p).timeout(HOUR)).1.unwrap()[..], b"no room");
    assert_eq!(pool.available(), 1);
}
