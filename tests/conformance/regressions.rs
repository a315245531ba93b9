//! What other event loops got wrong, and one day's finds in this one: one test for each defect, named by the
//! right behaviour.
//!
//! Defects of datagrams (a zero-length one taken for the end of the file) wait for datagrams.

use std::cell::Cell;
use std::io::{Read, Write};
use std::rc::Rc;

use oxev::{Action, Completion, Loop, Multi, RunMode, TcpListener, TcpStream, Timer, nop};

use crate::support::crowds::crowd;
use crate::support::hanging::pipe;
use crate::support::sockets::{assert_closed, connect, listener, pair};
use crate::support::{
    Counter, HOUR, Log, MS, complete, is_canceled, now, run_until, since, spin, start, start_multi,
};
use crate::variants::Variant;

conformance! {
    cancel_after_the_number_of_a_descriptor_was_reused_leaves_its_new_user_alone,
    cancelled_operation_does_not_keep_the_peers_connection_open,
    readiness_of_a_closed_descriptor_is_not_delivered_to_a_new_operation_on_its_number,
    second_operation_on_a_descriptor_and_direction_does_not_drop_the_first,
    no_wait_step_forgets_no_cancel,
    more_than_256_ready_completions_are_all_run,
    a_full_completion_queue_does_not_end_run,
    a_nop_between_other_operations_completes,
    a_timer_armed_late_in_a_long_callback_does_not_fire_early,
    an_ipv6_peer_address_is_not_cut,
    submitting_a_finished_completion_again_corrupts_nothing,
    a_timeout_storm_with_a_full_submission_queue_loses_no_cancel,
    a_connection_accepted_before_its_accept_was_cancelled_is_not_leaked,
    a_multi_operation_that_the_kernel_ended_is_armed_again,
    teardown_waits_for_the_kernel_before_it_frees_buffers,
    an_empty_message_in_the_stream_is_not_the_end,
}

/// Cancel deregisters a recycled descriptor.
fn cancel_after_the_number_of_a_descriptor_was_reused_leaves_its_new_user_alone(v: Variant) {
    let mut lp = v.new_loop();
    for _ in 0..20 {
        let (ours, _peer) = pair();
        let old = start(&mut lp, (ours, [0; 4]), |(s, b)| s.recv(b));
        let id = old.id;
        assert!(lp.cancel(id));
        drop(old.wait(&mut lp));
        // Most likely the same number, and the same place in the table.
        let (ours, mut peer) = pair();
        let new = start(&mut lp, (ours, [0; 4]), |(s, b)| s.recv(b));
        lp.run(RunMode::NoWait).unwrap();
        assert!(!lp.cancel(id));
        lp.run(RunMode::NoWait).unwrap();
        peer.write_all(b"new").unwrap();
        assert_eq!(new.wait(&mut lp).1.unwrap(), 3);
    }
}

/// A cancelled operation leaks its duplicate of the descriptor.
fn cancelled_operation_does_not_keep_the_peers_connection_open(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let recv = start(&mut lp, (ours, [0; 4]), |(s, b)| s.recv(b));
    lp.run(RunMode::NoWait).unwrap();
    assert!(lp.cancel(recv.id));
    let ((ours, _), result) = recv.wait(&mut lp);
    assert!(is_canceled(&result));
    drop(ours);
    assert_closed(&mut peer);
}

/// Stale readiness is delivered to a new operation.
fn readiness_of_a_closed_descriptor_is_not_delivered_to_a_new_operation_on_its_number(v: Variant) {
    let mut lp = v.new_loop();
    for _ in 0..20 {
        let (ours, mut peer) = pair();
        let old = start(&mut lp, (ours, [0; 4]), |(s, b)| s.recv(b));
        lp.run(RunMode::NoWait).unwrap();
        peer.write_all(b"old").unwrap();
        drop(old.wait(&mut lp));
        drop(peer);
        let (ours, _peer) = pair();
        let new = start(&mut lp, (ours, [0; 4]), |(s, b)| s.recv(b));
        lp.run_for(MS / 4).unwrap();
        assert!(!new.is_done());
        lp.cancel(new.id);
        assert!(is_canceled(&new.wait(&mut lp).1));
    }
}

fn second_operation_on_a_descriptor_and_direction_does_not_drop_the_first(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let ours = Rc::new(ours);
    let first = start(&mut lp, (Rc::clone(&ours), [0; 1]), |(s, b)| s.recv(b));
    lp.run(RunMode::NoWait).unwrap();
    let second = start(&mut lp, (Rc::clone(&ours), [0; 1]), |(s, b)| s.recv(b));
    let write = start(&mut lp, (ours, *b"z"), |(s, b)| s.send(b));
    lp.run(RunMode::NoWait).unwrap();
    peer.write_all(b"xy").unwrap();
    lp.run(RunMode::UntilDone).unwrap();
    let mut got = [first.take().0.1[0], second.take().0.1[0]];
    got.sort_unstable();
    assert_eq!(&got, b"xy");
    write.result().unwrap();
}

/// A no-wait tick forgets to flush deletes.
fn no_wait_step_forgets_no_cancel(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, _peer) = pair();
    let recv = start(&mut lp, (ours, [0; 4]), |(s, b)| s.recv(b));
    lp.run(RunMode::NoWait).unwrap();
    lp.cancel(recv.id);
    while !recv.is_done() {
        lp.run(RunMode::NoWait).unwrap();
    }
    assert!(is_canceled(&recv.result()));
}

fn more_than_256_ready_completions_are_all_run(v: Variant) {
    let (mut lp, count) = (v.builder().capacity(2000).build().unwrap(), Counter::new());
    for _ in 0..1000 {
        let owner = || Box::new(Completion::new(count.clone()));
        lp.submit(owner(), |_| Timer::after(std::time::Duration::ZERO), |_, count, _| count.add());
        lp.submit(owner(), |_| nop(), |_, count, _| count.add());
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(count.get(), 2000);
}

/// EBUSY of the kernel aborts `run`.
fn a_full_completion_queue_does_not_end_run(v: Variant) {
    let mut lp = v.builder().entries(1).capacity(1000).build().unwrap();
    let nops: Vec<_> = (0..500).map(|_| start(&mut lp, (), |()| nop())).collect();
    for _ in 0..10 {
        // Completions pile up where no step takes them, and submissions go on.
        lp.flush().unwrap();
        start(&mut lp, (), |()| nop());
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert!(nops.into_iter().all(|nop| nop.result().is_ok()));
}

/// A no-op leaves its submission entry unwritten.
fn a_nop_between_other_operations_completes(v: Variant) {
    let mut lp = v.builder().entries(2).build().unwrap();
    let (ours, mut peer) = pair();
    let ours = Rc::new(ours);
    for _ in 0..20 {
        let before = start(&mut lp, (Rc::clone(&ours), *b"a"), |(s, b)| s.send(b));
        let nops = [(); 3].map(|()| start(&mut lp, (), |()| nop()));
        let after = start(&mut lp, (Rc::clone(&ours), *b"b"), |(s, b)| s.send(b));
        lp.run(RunMode::UntilDone).unwrap();
        nops.into_iter().for_each(|nop| nop.result().unwrap());
        assert_eq!((before.result().unwrap(), after.result().unwrap()), (1, 1));
    }
    let mut got = [0; 40];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got[..], b"ab".repeat(20));
}

fn a_timer_armed_late_in_a_long_callback_does_not_fire_early(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    lp.submit(
        Box::new(Completion::new(log.clone())),
        |_| nop(),
        |lp, log, _| {
            spin(10 * MS);
            let state = (log.clone(), now());
            lp.submit(
                Box::new(Completion::new(state)),
                |_| Timer::after(5 * MS),
                |_, owner, _| {
                    owner.0.push(since(owner.1));
                },
            );
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert!(log.take()[0] >= 5 * MS);
}

/// An IPv6 source address is cut to 16 bytes.
fn an_ipv6_peer_address_is_not_cut(v: Variant) {
    let mut lp = v.new_loop();
    let Ok(listener) = TcpListener::bind("[::1]:0") else { return };
    let client = connect(listener.local_addr().unwrap());
    let (_, peer) = complete(&mut lp, listener, |l| l.accept_with_addr()).1.unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    assert_eq!(peer.ip(), std::net::Ipv6Addr::LOCALHOST);
}

/// Re-submitting a finished completion corrupts lists.
fn submitting_a_finished_completion_again_corrupts_nothing(v: Variant) {
    struct State {
        left: usize,
        done: Counter,
    }
    fn again(lp: &mut Loop, mut owner: Box<Completion<State>>, _: std::io::Result<()>) {
        owner.left -= 1;
        match owner.left {
            0 => owner.done.add(),
            left if left % 3 == 0 => _ = lp.submit(owner, |_| nop(), again),
            left if left % 3 == 1 => _ = lp.submit(owner, |_| Timer::after(std::time::Duration::ZERO), again),
            _ => {
                let id = lp.submit(owner, |_| Timer::after(HOUR), again);
                assert!(lp.cancel(id));
            }
        }
    }
    let (mut lp, done) = (v.new_loop(), Counter::new());
    for _ in 0..50 {
        let state = State { left: 100, done: done.clone() };
        lp.submit(Box::new(Completion::new(state)), |_| nop(), again);
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!((done.get(), lp.len()), (50, 0));
}

fn a_timeout_storm_with_a_full_submission_queue_loses_no_cancel(v: Variant) {
    let mut lp = v.builder().entries(1).capacity(2000).build().unwrap();
    let (ours, _peer) = pair();
    let ours = Rc::new(ours);
    let receives: Vec<_> = (0..600)
        .map(|_| start(&mut lp, (Rc::clone(&ours), [0; 1]), |(s, b)| s.recv(b).timeout(MS)))
        .collect();
    // The queue is full when the deadlines pass.
    let nops: Vec<_> = (0..600).map(|_| start(&mut lp, (), |()| nop())).collect();
    spin(2 * MS);
    lp.run(RunMode::UntilDone).unwrap();
    for receive in receives {
        assert_eq!(receive.result().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    }
    assert!(nops.into_iter().all(|nop| nop.result().is_ok()));
}

fn a_connection_accepted_before_its_accept_was_cancelled_is_not_leaked(v: Variant) {
    let mut lp = v.new_loop();
    let (listener, address) = listener();
    let mut client = connect(address);
    let accept = start(&mut lp, listener, |l| l.accept());
    lp.flush().unwrap();
    lp.cancel(accept.id);
    drop(accept.wait(&mut lp));
    assert_closed(&mut client);
}

/// A multishot operation loses its F_MORE and is never armed again.
fn a_multi_operation_that_the_kernel_ended_is_armed_again(v: Variant) {
    let Some(_crowd) = crowd() else { return };
    // A completion queue of four entries overflows, and then the kernel ends multishot operations.
    let mut lp = v.builder().entries(1).capacity(64).build().unwrap();
    let (listener, address) = listener();
    let accepts = start_multi(&mut lp, listener, 150, |l| l.accept_multi());
    for _ in 0..3 {
        lp.run(RunMode::NoWait).unwrap();
        let _clients: Vec<_> = (0..50).map(|_| connect(address)).collect();
        let wanted = accepts.items.len() + 50;
        run_until(&mut lp, || accepts.items.len() == wanted);
    }
    accepts.wait(&mut lp).unwrap();
}

/// Teardown frees buffers that the kernel still writes.
fn teardown_waits_for_the_kernel_before_it_frees_buffers(v: Variant) {
    struct Reader {
        file: oxev::File,
        buffer: Vec<u8>,
        freed: Rc<Cell<bool>>,
    }
    impl Drop for Reader {
        fn drop(&mut self) {
            // The kernel is done with it, so what it wrote is all that it ever writes.
            self.freed.set(self.buffer.iter().all(|&byte| byte == 0));
        }
    }
    for _ in 0..20 {
        let mut lp = v.new_loop();
        let (file, mut writer) = pipe();
        let freed = Rc::new(Cell::new(false));
        let reader = Reader { file, buffer: vec![0; 64 << 10], freed: Rc::clone(&freed) };
        lp.submit(Box::new(Completion::new(reader)), |r| r.file.read(&mut r.buffer), |_, _, _| ());
        lp.run(RunMode::NoWait).unwrap();
        drop(lp);
        assert!(freed.get());
        // No process reads any more: the pipe has no reader.
        assert_eq!(writer.write_all(&[0xff; 16]).unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    }
}

/// The nearest to a zero-length datagram that a stream has.
fn an_empty_message_in_the_stream_is_not_the_end(v: Variant) {
    let (mut lp, items) = (v.new_loop(), Counter::new());
    let pool = lp.buf_pool(2, 16).unwrap();
    let (ours, mut peer) = pair();
    lp.submit_multi(
        Box::new(Completion::new(Multi::new((ours, pool), items.clone()))),
        |(s, p): &mut (TcpStream, _)| s.recv_multi(p),
        |_, items: &mut Counter, _| {
            items.add();
            Action::Rearm
        },
        |_, _, end| end.unwrap(),
    );
    for round in 1..=3 {
        peer.write_all(b"").unwrap();
        peer.write_all(b"x").unwrap();
        peer.write_all(b"").unwrap();
        run_until(&mut lp, || items.get() == round);
        assert_eq!(lp.len(), 1);
    }
    drop(peer);
    lp.run(RunMode::UntilDone).unwrap();
}
