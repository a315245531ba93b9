//! Cancelling: any operation, at any time, as often as you like; the callback still runs exactly once.

use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use oxev::{Action, Completion, Lease, Multi, Op, OpId, OpKind, RawOp, RunMode, TcpStream, Timer, nop};

use crate::support::hanging::{Hanging, start_every_kind};
use crate::support::sockets::{accept_now, assert_closed, connect, listener, pair, small_pair};
use crate::support::{Counter, HOUR, Log, MS, complete, is_canceled, now, run_until, start, start_multi};
use crate::variants::Variant;

conformance! {
    every_kind_is_cancelled_before_the_first_step,
    every_kind_is_cancelled_in_flight,
    every_kind_is_cancelled_in_a_callback,
    a_cancelled_operation_leaves_nothing_behind,
    cancel_is_idempotent,
    a_late_id_names_nothing,
    an_id_of_another_loop_names_nothing,
    an_id_outlives_its_loop_harmlessly,
    an_id_does_not_name_the_next_user_of_its_place,
    an_operation_that_is_ready_keeps_its_result,
    an_operation_that_has_succeeded_keeps_its_result,
    cancel_of_one_leaves_the_other_on_the_same_descriptor,
    cancel_in_the_middle_of_three_reads_leaves_two_in_order,
    cancel_all_is_of_one_descriptor,
    cancel_all_leaves_a_shared_socket_usable,
    a_shared_socket_is_closed_once_what_is_pending_on_it_is_cancelled,
    a_receive_whose_descriptor_is_closed_under_it_ends_and_leaves_the_next_one_alone,
    cancel_all_of_an_idle_descriptor_does_nothing,
    an_operation_cancels_itself_too_late,
    two_operations_cancel_each_other,
    a_timer_cancelled_by_a_timer_of_the_same_deadline_does_not_fire,
    an_item_callback_cancels_its_own_submission,
    an_item_callback_cancels_a_starving_submission,
    results_before_the_cancel_are_delivered,
    a_connection_accepted_at_the_last_moment_is_not_leaked,
    a_cancelled_connect_leaves_no_connection,
    a_partial_send_that_is_cancelled_ends_as_cancelled,
    thousands_of_cancelled_timers_leave_nothing,
    cancel_from_the_loop_of_submissions_is_never_lost,
}

fn assert_all_cancelled(started: &[Hanging]) {
    for op in started {
        let end = op.end().unwrap_or_else(|| panic!("{} has not ended", op.name));
        assert!(is_canceled(&end), "{}: {end:?}", op.name);
        assert_eq!(op.drops(), 1, "{}", op.name);
    }
}

fn every_kind_is_cancelled_before_the_first_step(v: Variant) {
    let mut lp = v.new_loop();
    let (started, _keep) = start_every_kind(&mut lp, None);
    for op in &started {
        assert!(lp.cancel(op.id), "{}", op.name);
        assert!(!op.has_ended(), "{}: the callback ran inside cancel", op.name);
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert_all_cancelled(&started);
}

fn every_kind_is_cancelled_in_flight(v: Variant) {
    let mut lp = v.new_loop();
    let (started, _keep) = start_every_kind(&mut lp, None);
    for _ in 0..3 {
        lp.run(RunMode::NoWait).unwrap();
    }
    for op in &started {
        assert!(!op.has_ended(), "{} ended by itself: {:?}", op.name, op.end());
        assert!(lp.cancel(op.id), "{}", op.name);
        assert!(!lp.cancel(op.id), "{} a second time", op.name);
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert_all_cancelled(&started);
}

fn every_kind_is_cancelled_in_a_callback(v: Variant) {
    let mut lp = v.new_loop();
    let (started, _keep) = start_every_kind(&mut lp, None);
    let ids: Vec<OpId> = started.iter().map(|op| op.id).collect();
    lp.submit(
        Box::new(Completion::new(ids)),
        |_| Timer::after(MS),
        |lp, ids, _| assert!(ids.iter().all(|&id| lp.cancel(id))),
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert_all_cancelled(&started);
}

fn a_cancelled_operation_leaves_nothing_behind(v: Variant) {
    let mut lp = v.new_loop();
    for _ in 0..20 {
        let (started, _keep) = start_every_kind(&mut lp, None);
        started.iter().for_each(|op| assert!(lp.cancel(op.id), "{}", op.name));
        lp.run(RunMode::UntilDone).unwrap();
        assert_all_cancelled(&started);
        assert_eq!((lp.len(), lp.in_flight().count()), (0, 0));
    }
}

fn cancel_is_idempotent(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, _peer) = pair();
    let recv = start(&mut lp, (ours, [0; 8]), |(s, b)| s.recv(b));
    lp.run(RunMode::NoWait).unwrap();
    assert!(lp.cancel(recv.id));
    for _ in 0..10 {
        assert!(!lp.cancel(recv.id));
        lp.run(RunMode::NoWait).unwrap();
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert!(is_canceled(&recv.result()));
}

fn a_late_id_names_nothing(v: Variant) {
    let mut lp = v.new_loop();
    let (nop, timer) = (start(&mut lp, (), |()| nop()), start(&mut lp, (), |()| Timer::after(MS)));
    lp.run(RunMode::UntilDone).unwrap();
    for id in [nop.id, timer.id] {
        assert!(!lp.cancel(id) && !lp.reset(id, MS));
    }
    lp.run(RunMode::UntilDone).unwrap();
    nop.result().unwrap();
    timer.result().unwrap();
}

fn an_id_of_another_loop_names_nothing(v: Variant) {
    let (mut one, mut two) = (v.new_loop(), v.new_loop());
    let of_one = start(&mut one, (), |()| Timer::after(MS));
    let of_two = start(&mut two, (), |()| Timer::after(MS));
    assert!(!one.cancel(of_two.id) && !two.cancel(of_one.id));
    assert!(!one.reset(of_two.id, HOUR) && !two.reset(of_one.id, HOUR));
    of_one.wait(&mut one).1.unwrap();
    of_two.wait(&mut two).1.unwrap();
}

fn an_id_outlives_its_loop_harmlessly(v: Variant) {
    let mut lp = v.new_loop();
    let old = start(&mut lp, (), |()| Timer::after(HOUR));
    lp = v.new_loop();
    let new = start(&mut lp, (), |()| Timer::after(MS));
    assert!(!lp.cancel(old.id) && !lp.reset(old.id, MS));
    new.wait(&mut lp).1.unwrap();
}

fn an_id_does_not_name_the_next_user_of_its_place(v: Variant) {
    let mut lp = v.builder().capacity(1).build().unwrap();
    let mut old = Vec::new();
    for _ in 0..100 {
        let timer = start(&mut lp, (), |()| Timer::after(Duration::ZERO));
        assert!(old.iter().all(|&id| !lp.cancel(id) && !lp.reset(id, HOUR)));
        old.push(timer.id);
        timer.wait(&mut lp).1.unwrap();
    }
}

fn an_operation_that_is_ready_keeps_its_result(v: Variant) {
    let mut lp = v.new_loop();
    let log = Log::new();
    // Both are ready in one step, or nearly; the first callback cancels the second.
    let (ours, mut peer) = pair();
    peer.write_all(b"there").unwrap();
    let second = Rc::new(Cell::new(None));
    lp.submit(
        Box::new(Completion::new((log.clone(), Rc::clone(&second)))),
        |_| nop(),
        |lp, owner, _| owner.0.push(owner.1.get().map(|id| lp.cancel(id))),
    );
    let recv = start(&mut lp, (ours, [0; 8]), |(s, b)| s.recv(b));
    second.set(Some(recv.id));
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.len(), 1);
    match (log.take()[0], recv.result()) {
        (Some(false), Ok(5)) => {}
        (Some(true), result) => assert!(is_canceled(&result) || matches!(result, Ok(5))),
        other => panic!("{other:?}"),
    }
}

fn an_operation_that_has_succeeded_keeps_its_result(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    peer.write_all(b"there").unwrap();
    let recv = start(&mut lp, (ours, [0; 8]), |(s, b)| s.recv(b));
    lp.flush().unwrap();
    lp.cancel(recv.id);
    lp.run(RunMode::UntilDone).unwrap();
    let ((ours, buffer), result) = recv.take();
    match result {
        Ok(n) => assert_eq!(&buffer[..n], b"there"),
        Err(error) => {
            assert!(oxev::is_canceled(&error));
            let ((_, buffer), again) = complete(&mut lp, (ours, [0; 8]), |(s, b)| s.recv(b));
            assert_eq!(&buffer[..again.unwrap()], b"there", "what was not received is still there");
        }
    }
}

fn cancel_of_one_leaves_the_other_on_the_same_descriptor(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let ours = Rc::new(ours);
    let one = start(&mut lp, (Rc::clone(&ours), [0; 8]), |(s, b)| s.recv(b));
    let two = start(&mut lp, (Rc::clone(&ours), [0; 8]), |(s, b)| s.recv(b));
    lp.run(RunMode::NoWait).unwrap();
    assert!(lp.cancel(one.id));
    assert!(is_canceled(&one.wait(&mut lp).1));
    assert!(!two.is_done());
    peer.write_all(b"two").unwrap();
    let ((_, buffer), result) = two.wait(&mut lp);
    assert_eq!(&buffer[..result.unwrap()], b"two");
}

fn cancel_in_the_middle_of_three_reads_leaves_two_in_order(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let ours = Rc::new(ours);
    let [one, two, three] = [(); 3].map(|()| start(&mut lp, (Rc::clone(&ours), [0; 1]), |(s, b)| s.recv(b)));
    lp.run(RunMode::NoWait).unwrap();
    lp.cancel(two.id);
    assert!(is_canceled(&two.wait(&mut lp).1));
    peer.write_all(b"ab").unwrap();
    lp.run(RunMode::UntilDone).unwrap();
    let mut got = [one.take().0.1[0], three.take().0.1[0]];
    got.sort_unstable();
    assert_eq!(&got, b"ab");
}

fn cancel_all_is_of_one_descriptor(v: Variant) {
    let mut lp = v.new_loop();
    let ((ours, _peer), (other, _other_peer)) = (pair(), pair());
    let (ours, pool) = (Rc::new(ours), lp.buf_pool(2, 64).unwrap());
    let recv = start(&mut lp, (Rc::clone(&ours), [0; 8]), |(s, b)| s.recv(b));
    let pooled = start(&mut lp, (Rc::clone(&ours), pool.clone()), |(s, p)| s.recv_pooled(p));
    let multi = start_multi(&mut lp, (Rc::clone(&ours), pool), 9, |(s, p)| s.recv_multi(p));
    let elsewhere = start(&mut lp, (other, [0; 8]), |(s, b)| s.recv(b));
    lp.run(RunMode::NoWait).unwrap();
    assert_eq!(lp.cancel_all(&*ours), 3);
    assert_eq!(lp.cancel_all(&*ours), 0, "a second time");
    run_until(&mut lp, || recv.is_done() && pooled.is_done() && multi.has_ended());
    assert!(is_canceled(&recv.result()) && is_canceled(&pooled.result()) && is_canceled(&multi.end()));
    assert!(!elsewhere.is_done());
}

fn cancel_all_leaves_a_shared_socket_usable(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let ours = Rc::new(ours);
    let recv = start(&mut lp, (Rc::clone(&ours), [0; 8]), |(s, b)| s.recv(b));
    assert_eq!(lp.cancel_all(&*ours), 1);
    assert!(is_canceled(&recv.wait(&mut lp).1));
    peer.write_all(b"still here").unwrap();
    assert_eq!(complete(&mut lp, (ours, [0; 16]), |(s, b)| s.recv(b)).1.unwrap(), 10);
}

/// Close while pending, as safe code does it: operations borrow the socket, so it cannot be closed under
/// them.
fn a_shared_socket_is_closed_once_what_is_pending_on_it_is_cancelled(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = small_pair();
    let (ours, pool) = (Rc::new(ours), lp.buf_pool(2, 64).unwrap());
    let recv = start(&mut lp, (Rc::clone(&ours), [0; 8]), |(s, b)| s.recv(b));
    let exact = start(&mut lp, (Rc::clone(&ours), [0; 8]), |(s, b)| s.recv_exact(b));
    let multi = start_multi(&mut lp, (Rc::clone(&ours), pool), 9, |(s, p)| s.recv_multi(p));
    let send = start(&mut lp, (Rc::clone(&ours), vec![0; 4 << 20]), |(s, b)| s.send_all(b));
    lp.run(RunMode::NoWait).unwrap();
    assert_eq!(Rc::strong_count(&ours), 5, "each operation keeps it open");
    assert_eq!(lp.cancel_all(&*ours), 4);
    lp.run(RunMode::UntilDone).unwrap();
    assert!(is_canceled(&recv.result()) && is_canceled(&exact.result()));
    assert!(is_canceled(&multi.end()) && is_canceled(&send.result()));
    let ours = Rc::into_inner(ours).expect("nothing else has it any more");
    complete(&mut lp, ours, |s| s.close()).1.unwrap();
    // What was sent is still there, and then comes the end.
    std::io::copy(&mut peer, &mut std::io::sink()).unwrap();
}

/// Close while pending, as only unsafe code can do it.
fn a_receive_whose_descriptor_is_closed_under_it_ends_and_leaves_the_next_one_alone(v: Variant) {
    let mut lp = v.new_loop();
    for round in 0..6 {
        let (ours, _peer) = pair();
        let fd = ours.as_raw_fd();
        let old = start(&mut lp, [0; 8], |buffer| {
            let raw = RawOp::with_buffer(OpKind::Recv, fd, buffer.as_mut_ptr(), buffer.len());
            #[expect(unsafe_code, reason = "an operation that does not borrow its socket")]
            // SAFETY: the buffer is the owner's own.
            let op: Op<'_, usize> = unsafe { Op::from_raw(raw) };
            op
        });
        if round % 2 == 0 {
            lp.run(RunMode::NoWait).unwrap();
        }
        complete(&mut lp, ours, |s| s.close()).1.unwrap();
        // Most likely the same number.
        let (ours, mut peer) = pair();
        let new = start(&mut lp, (ours, [0; 8]), |(s, b)| s.recv(b));
        lp.run(RunMode::NoWait).unwrap();
        lp.cancel(old.id);
        let (_, result) = old.wait(&mut lp);
        // Another test may have the number by now: then the error is what its file says to a receive.
        assert!(result.is_err());
        assert!(!new.is_done());
        peer.write_all(b"new").unwrap();
        let ((_, buffer), received) = new.wait(&mut lp);
        assert_eq!(&buffer[..received.unwrap()], b"new");
    }
}

fn cancel_all_of_an_idle_descriptor_does_nothing(v: Variant) {
    let mut lp = v.new_loop();
    let _timer = start(&mut lp, (), |()| Timer::after(HOUR));
    assert_eq!(lp.cancel_all(&pair().0), 0);
    assert_eq!(lp.len(), 1);
}

fn an_operation_cancels_itself_too_late(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    let id = Rc::new(Cell::new(None));
    id.set(Some(lp.submit(
        Box::new(Completion::new((log.clone(), Rc::clone(&id)))),
        |_| nop(),
        |lp, owner, result| {
            result.unwrap();
            let id = owner.1.get().unwrap();
            owner.0.push(lp.cancel(id) || lp.reset(id, MS));
        },
    )));
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), [false]);
}

fn two_operations_cancel_each_other(v: Variant) {
    struct Side {
        other: Rc<Cell<Option<OpId>>>,
        stream: TcpStream,
        buffer: [u8; 8],
        log: Log<bool>,
    }
    let (mut lp, log) = (v.new_loop(), Log::new());
    let ids = [Rc::new(Cell::new(None)), Rc::new(Cell::new(None))];
    let mut peers = Vec::new();
    for side in 0..2 {
        let (stream, peer) = pair();
        peers.push(peer);
        let state = Side { other: Rc::clone(&ids[1 - side]), stream, buffer: [0; 8], log: log.clone() };
        ids[side].set(Some(lp.submit(
            Box::new(Completion::new(state)),
            |s| s.stream.recv(&mut s.buffer),
            |lp, s, result| {
                lp.cancel(s.other.get().unwrap());
                s.log.push(result.is_ok());
            },
        )));
    }
    lp.run(RunMode::NoWait).unwrap();
    peers[0].write_all(b"x").unwrap();
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), [true, false]);
}

fn a_timer_cancelled_by_a_timer_of_the_same_deadline_does_not_fire(v: Variant) {
    let mut lp = v.new_loop();
    let deadline = now() + 2 * MS;
    let id = Rc::new(Cell::new(None));
    let cancelled = Log::new();
    lp.submit(
        Box::new(Completion::new((Rc::clone(&id), cancelled.clone()))),
        |_| Timer::at(deadline),
        |lp, owner, _| owner.1.push(lp.cancel(owner.0.get().unwrap())),
    );
    let second = start(&mut lp, (), |()| Timer::at(deadline));
    id.set(Some(second.id));
    lp.run(RunMode::UntilDone).unwrap();
    // It may have been on the ready list; then it says so, and fires.
    assert_eq!(cancelled.take(), [is_canceled(&second.result())]);
}

/// What a multi-result callback needs to cancel its own submission.
struct Suicide {
    id: Rc<Cell<Option<OpId>>>,
    items: Counter,
    end: Log<io::Result<()>>,
}

fn an_item_callback_cancels_its_own_submission(v: Variant) {
    let mut lp = v.new_loop();
    let (listener, address) = listener();
    let _clients = [(); 2].map(|()| connect(address));
    let state = Suicide { id: Rc::default(), items: Counter::new(), end: Log::new() };
    let (id, items, end) = (Rc::clone(&state.id), state.items.clone(), state.end.clone());
    id.set(Some(lp.submit_multi(
        Box::new(Completion::new(Multi::new(listener, state))),
        |l| l.accept_multi(),
        |lp, s: &mut Suicide, _| {
            lp.cancel(s.id.get().unwrap());
            s.items.add();
            Action::Rearm
        },
        |_, owner, result| owner.state.end.push(result),
    )));
    lp.run(RunMode::UntilDone).unwrap();
    let ends = end.take();
    assert!(ends.len() == 1 && is_canceled(&ends[0]), "{ends:?}");
    assert!((1..=2).contains(&items.get()));
}

fn an_item_callback_cancels_a_starving_submission(v: Variant) {
    struct Held {
        suicide: Suicide,
        leases: Vec<Lease>,
    }
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(1, 4).unwrap();
    let (ours, mut peer) = pair();
    peer.write_all(b"more than one buffer takes").unwrap();
    let state = Suicide { id: Rc::default(), items: Counter::new(), end: Log::new() };
    let (id, end) = (Rc::clone(&state.id), state.end.clone());
    let drops = Counter::new();
    id.set(Some(lp.submit_multi(
        Box::new(Completion::new(Multi::new(
            (ours, pool.clone(), drops.on_drop()),
            Held { suicide: state, leases: Vec::new() },
        ))),
        |(s, p, _)| s.recv_multi(p),
        |lp, s: &mut Held, lease| {
            // The only buffer is on lease here, so the submission waits for one.
            lp.cancel(s.suicide.id.get().unwrap());
            s.leases.push(lease);
            Action::Rearm
        },
        |_, owner, result| owner.state.suicide.end.push(result),
    )));
    lp.run_for(Duration::from_secs(20)).unwrap();
    let ends = end.take();
    assert!(ends.len() == 1 && is_canceled(&ends[0]), "{ends:?}");
    assert_eq!(drops.get(), 1);
    assert_eq!(pool.available(), 1);
}

fn results_before_the_cancel_are_delivered(v: Variant) {
    let mut lp = v.new_loop();
    let (listener, address) = listener();
    let accepts = start_multi(&mut lp, listener, usize::MAX, |l| l.accept_multi());
    let clients = [(); 3].map(|()| connect(address));
    run_until(&mut lp, || accepts.items.len() == clients.len());
    assert!(lp.cancel(accepts.id));
    assert!(is_canceled(&accepts.wait(&mut lp)));
    assert_eq!(accepts.items.len(), 3);
}

fn a_connection_accepted_at_the_last_moment_is_not_leaked(v: Variant) {
    for _ in 0..50 {
        let mut lp = v.new_loop();
        let (listener, address) = listener();
        let accept = start(&mut lp, listener, |l| l.accept());
        lp.flush().unwrap();
        let mut client = connect(address);
        lp.cancel(accept.id);
        let (listener, result) = accept.wait(&mut lp);
        assert!(result.is_ok() || is_canceled(&result));
        drop((listener, result));
        // Had the loop kept the descriptor, the connection would still be open.
        assert_closed(&mut client);
    }
}

fn a_cancelled_connect_leaves_no_connection(v: Variant) {
    let mut lp = v.new_loop();
    let (listener, address) = listener();
    for _ in 0..50 {
        let connect = start(&mut lp, (), |()| TcpStream::connect(address));
        lp.cancel(connect.id);
        let (_, result) = connect.wait(&mut lp);
        assert!(result.is_ok() || is_canceled(&result), "{result:?}");
    }
    while let Ok(mut accepted) = accept_now(&listener) {
        assert_closed(&mut accepted);
    }
}

fn a_partial_send_that_is_cancelled_ends_as_cancelled(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, _peer) = pair();
    let send = start(&mut lp, (ours, vec![0; 32 << 20]), |(s, b)| s.send_all(b));
    for _ in 0..3 {
        lp.run(RunMode::NoWait).unwrap();
    }
    assert!(!send.is_done());
    lp.cancel(send.id);
    let (_, result) = send.wait(&mut lp);
    assert!(is_canceled(&result), "{result:?}");
}

fn thousands_of_cancelled_timers_leave_nothing(v: Variant) {
    let mut lp = v.new_loop();
    let count = Counter::new();
    for round in 0..50 {
        let ids = [(); 100].map(|()| {
            lp.submit(
                Box::new(Completion::new(count.clone())),
                |_| Timer::after(HOUR),
                |_, count, result| {
                    assert!(is_canceled(&result));
                    count.add();
                },
            )
        });
        assert!(ids.into_iter().rev().all(|id| lp.cancel(id)));
        lp.run(RunMode::UntilDone).unwrap();
        assert_eq!(count.get(), (round + 1) * 100);
    }
}

fn cancel_from_the_loop_of_submissions_is_never_lost(v: Variant) {
    // Each receive is cancelled while its submission may be queued, in the kernel, or between the two.
    let mut lp = v.builder().entries(4).build().unwrap();
    let (ours, _peer) = pair();
    let ours = Rc::new(ours);
    let mut started = Vec::new();
    for round in 0..100 {
        started.push(start(&mut lp, (Rc::clone(&ours), [0; 8]), |(s, b)| s.recv(b)));
        if round % 3 == 0 {
            lp.run(RunMode::NoWait).unwrap();
        }
        assert!(lp.cancel(started[round / 2].id) || round % 2 == 1);
    }
    for op in &started {
        lp.cancel(op.id);
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert!(started.into_iter().all(|op| is_canceled(&op.result())));
}
