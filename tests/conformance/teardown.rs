//! The end of a loop: every owner is dropped exactly once, no callback runs, and the kernel has let go of all
//! memory.

use std::io::Write;
use std::net::Shutdown;

use oxev::{Action, Completion, Lease, Multi, Notifier, RunMode, TcpStream, Timer, nop};

use crate::support::hanging::{pipe, start_every_kind};
use crate::support::sockets::{assert_closed, connect, listener, pair};
use crate::support::{Counter, HOUR, Log, complete, start};
use crate::variants::Variant;

conformance! {
    dropping_a_loop_drops_every_owner_once_and_runs_no_callback,
    dropping_a_loop_that_never_ran_drops_every_owner_once,
    dropping_a_loop_drops_what_is_ready,
    dropping_a_loop_with_cancelled_operations_drops_every_owner_once,
    dropping_a_loop_closes_its_sockets,
    dropping_a_loop_closes_a_connection_that_was_accepted_but_not_delivered,
    dropping_a_loop_closes_connections_whose_items_were_not_delivered,
    dropping_a_loop_gives_the_leases_of_undelivered_items_back,
    dropping_a_loop_leaves_a_notifier_usable,
    the_kernel_writes_nothing_after_the_drop,
    a_loop_dropped_in_the_callback_of_another,
    forgetting_a_loop_never_frees_what_it_holds,
    forgetting_an_owner_is_harmless,
    a_loop_can_own_its_own_handle,
    owners_that_submit_to_nothing_when_dropped_at_teardown,
}

fn dropping_a_loop_drops_every_owner_once_and_runs_no_callback(v: Variant) {
    let mut lp = v.new_loop();
    let (started, _keep) = start_every_kind(&mut lp, None);
    let (limited, _keep_too) = start_every_kind(&mut lp, Some(HOUR));
    for _ in 0..3 {
        lp.run(RunMode::NoWait).unwrap();
    }
    drop(lp);
    for op in started.iter().chain(&limited) {
        assert!(!op.has_ended(), "{}: a callback ran", op.name);
        assert_eq!(op.drops(), 1, "{}", op.name);
    }
}

fn dropping_a_loop_that_never_ran_drops_every_owner_once(v: Variant) {
    let mut lp = v.new_loop();
    let (started, _keep) = start_every_kind(&mut lp, None);
    drop(lp);
    assert!(started.iter().all(|op| !op.has_ended() && op.drops() == 1));
}

fn dropping_a_loop_drops_what_is_ready(v: Variant) {
    let (mut lp, drops) = (v.new_loop(), Counter::new());
    for _ in 0..5 {
        lp.submit(
            Box::new(Completion::new(drops.on_drop())),
            |_| Timer::after(std::time::Duration::ZERO),
            |lp, _, _| lp.stop(),
        );
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!((drops.get(), lp.len()), (1, 4));
    drop(lp);
    assert_eq!(drops.get(), 5);
}

fn dropping_a_loop_with_cancelled_operations_drops_every_owner_once(v: Variant) {
    let mut lp = v.new_loop();
    let (started, _keep) = start_every_kind(&mut lp, None);
    lp.run(RunMode::NoWait).unwrap();
    started.iter().for_each(|op| assert!(lp.cancel(op.id)));
    drop(lp);
    assert!(started.iter().all(|op| !op.has_ended() && op.drops() == 1));
}

fn dropping_a_loop_closes_its_sockets(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    start(&mut lp, (ours, [0; 8]), |(s, b)| s.recv(b));
    lp.run(RunMode::NoWait).unwrap();
    drop(lp);
    assert_closed(&mut peer);
}

fn dropping_a_loop_closes_a_connection_that_was_accepted_but_not_delivered(v: Variant) {
    let mut lp = v.new_loop();
    let (listener, address) = listener();
    let mut client = connect(address);
    start(&mut lp, listener, |l| l.accept());
    lp.flush().unwrap();
    drop(lp);
    assert_closed(&mut client);
}

fn dropping_a_loop_closes_connections_whose_items_were_not_delivered(v: Variant) {
    let mut lp = v.new_loop();
    let (listener, address) = listener();
    let mut clients = [(); 3].map(|()| connect(address));
    lp.submit_multi(
        Box::new(Completion::new(Multi::new(listener, Log::new()))),
        |l| l.accept_multi(),
        |lp, first: &mut Log<TcpStream>, stream| {
            first.push(stream);
            lp.stop();
            Action::Rearm
        },
        |_, _, _| panic!("an end callback ran"),
    );
    lp.run(RunMode::UntilDone).unwrap();
    drop(lp);
    clients.iter_mut().for_each(assert_closed);
}

fn dropping_a_loop_gives_the_leases_of_undelivered_items_back(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(4, 2).unwrap();
    let (ours, mut peer) = pair();
    peer.write_all(b"abcdefg").unwrap();
    let leases = Log::new();
    lp.submit_multi(
        Box::new(Completion::new(Multi::new((ours, pool.clone()), leases.clone()))),
        |(s, p)| s.recv_multi(p),
        |lp, leases: &mut Log<Lease>, lease| {
            leases.push(lease);
            lp.stop();
            Action::Rearm
        },
        |_, _, _| panic!("an end callback ran"),
    );
    lp.run(RunMode::UntilDone).unwrap();
    drop(lp);
    assert_eq!(leases.len(), 1);
    assert_eq!(pool.available(), 3, "the lease outlives its loop");
    assert_eq!(&leases.take()[0][..], b"ab");
    assert_eq!(pool.available(), 4);
}

fn dropping_a_loop_leaves_a_notifier_usable(v: Variant) {
    let notifier = Notifier::new();
    let mut lp = v.new_loop();
    start(&mut lp, notifier.clone(), |n| n.wait());
    lp.run(RunMode::NoWait).unwrap();
    drop(lp);
    notifier.notify();
    complete(&mut v.new_loop(), notifier, |n| n.wait()).1.unwrap();
}

fn the_kernel_writes_nothing_after_the_drop(v: Variant) {
    // The owner is a static that stays readable, so that a late write would show.
    struct Reader {
        file: oxev::File,
        buffer: [u8; 64],
    }
    for _ in 0..20 {
        let mut lp = v.new_loop();
        let (file, mut writer) = pipe();
        let owner: &'static mut Completion<Reader> =
            Box::leak(Box::new(Completion::new(Reader { file, buffer: [0; 64] })));
        let place = &raw const owner.buffer;
        lp.submit(owner, |r| r.file.read(&mut r.buffer), |_, _: &'static mut Completion<Reader>, _| ());
        lp.flush().unwrap();
        drop(lp);
        writer.write_all(&[0xff; 64]).unwrap();
        // The pipe still has all of it: no read took it.
        #[expect(unsafe_code, reason = "looks at memory that safe code gave away")]
        // SAFETY: the owner was leaked, and the loop that had it is gone.
        let buffer = unsafe { place.read() };
        assert_eq!(buffer, [0; 64]);
    }
}

fn a_loop_dropped_in_the_callback_of_another(v: Variant) {
    let (mut lp, mut inner) = (v.new_loop(), v.new_loop());
    let (started, _keep) = start_every_kind(&mut inner, None);
    inner.run(RunMode::NoWait).unwrap();
    lp.submit(Box::new(Completion::new(Some(inner))), |_| nop(), |_, mut owner, _| drop(owner.take()));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(started.iter().all(|op| !op.has_ended() && op.drops() == 1));
}

fn forgetting_a_loop_never_frees_what_it_holds(v: Variant) {
    let (mut lp, drops) = (v.new_loop(), Counter::new());
    let (ours, mut peer) = pair();
    let guard = drops.on_drop();
    start(&mut lp, (ours, [0; 8], guard), |(s, b, _)| s.recv(b));
    let handle = lp.handle();
    lp.flush().unwrap();
    std::mem::forget(lp);
    // The kernel writes to memory that is still there.
    peer.write_all(b"unread").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    handle.wake();
    assert!(handle.post(Box::new(Completion::new(())), |_, _| ()).is_ok());
    assert_eq!(drops.get(), 0);
}

fn forgetting_an_owner_is_harmless(v: Variant) {
    let mut lp = v.new_loop();
    lp.submit(Box::new(Completion::new(0)), |_| nop(), |_, owner, _| std::mem::forget(owner));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(lp.is_empty());
}

fn a_loop_can_own_its_own_handle(v: Variant) {
    let (mut lp, drops) = (v.new_loop(), Counter::new());
    let state = (lp.handle(), drops.on_drop(), Notifier::new());
    start(&mut lp, state, |(_, _, n)| n.wait());
    drop(lp);
    assert_eq!(drops.get(), 1);
}

fn owners_that_submit_to_nothing_when_dropped_at_teardown(v: Variant) {
    /// Uses the handle of the loop that is dropping it.
    struct Nosy(oxev::LoopHandle, Notifier, Counter);
    impl Drop for Nosy {
        fn drop(&mut self) {
            self.0.wake();
            self.0.stop();
            self.1.notify();
            assert!(self.0.post(Box::new(Completion::new(())), |_, _| ()).is_err());
            self.2.add();
        }
    }
    let (mut lp, drops) = (v.new_loop(), Counter::new());
    let handle = lp.handle();
    for _ in 0..3 {
        start(&mut lp, Nosy(handle.clone(), Notifier::new(), drops.clone()), |n| n.1.wait());
        start(&mut lp, Nosy(handle.clone(), Notifier::new(), drops.clone()), |_| Timer::after(HOUR));
    }
    lp.run(RunMode::NoWait).unwrap();
    drop(lp);
    assert_eq!(drops.get(), 6);
}
