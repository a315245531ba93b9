//! Panics of user code: the loop stays usable, and every owner is dropped exactly once.

use std::panic::{AssertUnwindSafe, catch_unwind};

use oxev::{Action, Completion, Loop, Multi, Notifier, Op, Pool, Pooled, RunMode, TcpStream, Timer, nop};

use crate::support::sockets::{assert_closed, connect, listener, pair};
use crate::support::{CountedDrop, Counter, HOUR, MS, complete, run_until, start, start_multi};
use crate::variants::Variant;

conformance! {
    a_panic_in_prepare_drops_the_owner_and_submits_nothing,
    a_panic_in_prepare_after_a_close_was_made_closes,
    a_panic_in_prepare_of_a_multi_submission_drops_the_owner,
    a_panic_in_prepare_frees_the_slot,
    a_panic_in_a_callback_comes_through_and_the_loop_goes_on,
    a_panic_in_a_callback_keeps_the_callbacks_that_were_ready,
    a_panic_in_a_callback_leaves_what_is_in_flight,
    a_panic_in_an_item_callback_ends_the_submission,
    a_panic_in_an_item_callback_of_a_stream_of_connections,
    a_panic_in_an_end_callback_drops_the_owner,
    a_panic_in_a_posted_callback_comes_through,
    a_panic_in_the_drop_of_a_state_in_a_callback,
    a_panic_in_the_drop_of_a_state_with_the_loop_drops_the_others,
    a_panic_while_a_loop_is_on_the_stack_drops_it,
    a_hundred_panics_leak_nothing,
}

/// Panics when it is dropped, once it is armed.
struct Bomb(bool, #[expect(dead_code, reason = "it is there to be dropped")] CountedDrop);

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!self.0, "a bomb in a drop");
    }
}

/// Runs the loop into a panic.
fn run_panics(lp: &mut Loop) {
    let run = catch_unwind(AssertUnwindSafe(|| lp.run(RunMode::UntilDone)));
    assert!(run.is_err(), "the panic comes through");
}

fn assert_usable(lp: &mut Loop) {
    complete(lp, (), |()| nop()).1.unwrap();
    complete(lp, (), |()| Timer::after(MS)).1.unwrap();
}

fn panicking(_: &mut Loop, owner: Box<Completion<CountedDrop>>, _: std::io::Result<()>) {
    let _owner = owner;
    panic!("a callback panics");
}

fn a_panic_in_prepare_drops_the_owner_and_submits_nothing(v: Variant) {
    let (mut lp, drops) = (v.new_loop(), Counter::new());
    let owner = Box::new(Completion::new(drops.on_drop()));
    let submit = catch_unwind(AssertUnwindSafe(|| {
        lp.submit(owner, |_| -> Op<'_, ()> { panic!("prepare panics") }, |_, _, _| ());
    }));
    assert!(submit.is_err());
    assert_eq!((drops.get(), lp.len()), (1, 0));
    assert_usable(&mut lp);
}

fn a_panic_in_prepare_after_a_close_was_made_closes(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let owner = Box::new(Completion::new(ours));
    let submit = catch_unwind(AssertUnwindSafe(|| {
        lp.submit(
            owner,
            |s: &mut TcpStream| {
                let _close = s.close();
                panic!("prepare panics");
                #[expect(unreachable_code, reason = "names the type")]
                nop()
            },
            |_, _, _| (),
        );
    }));
    assert!(submit.is_err());
    assert_closed(&mut peer);
}

fn a_panic_in_prepare_of_a_multi_submission_drops_the_owner(v: Variant) {
    let (mut lp, drops) = (v.new_loop(), Counter::new());
    let owner = Box::new(Completion::new(Multi::new((), drops.on_drop())));
    let submit = catch_unwind(AssertUnwindSafe(|| {
        lp.submit_multi(
            owner,
            |()| {
                assert!(std::hint::black_box(false), "prepare panics");
                Timer::every(MS)
            },
            |_, _, _| Action::Rearm,
            |_, _, _| (),
        );
    }));
    assert!(submit.is_err());
    assert_eq!((drops.get(), lp.len()), (1, 0));
}

fn a_panic_in_prepare_frees_the_slot(v: Variant) {
    let (mut lp, pool) = (v.new_loop(), Pool::new(1));
    let slot = pool.insert(()).unwrap();
    let submit = catch_unwind(AssertUnwindSafe(|| {
        lp.submit(slot, |_| -> Op<'_, ()> { panic!("prepare panics") }, |_, _: Pooled<()>, _| ());
    }));
    assert!(submit.is_err());
    assert_eq!(pool.available(), 1);
}

fn a_panic_in_a_callback_comes_through_and_the_loop_goes_on(v: Variant) {
    let (mut lp, drops) = (v.new_loop(), Counter::new());
    lp.submit(Box::new(Completion::new(drops.on_drop())), |_| nop(), panicking);
    run_panics(&mut lp);
    assert_eq!((drops.get(), lp.len()), (1, 0));
    assert_usable(&mut lp);
}

fn a_panic_in_a_callback_keeps_the_callbacks_that_were_ready(v: Variant) {
    let (mut lp, drops) = (v.new_loop(), Counter::new());
    for _ in 0..3 {
        lp.submit(
            Box::new(Completion::new(drops.on_drop())),
            |_| Timer::after(std::time::Duration::ZERO),
            panicking,
        );
    }
    for round in 1..=3 {
        run_panics(&mut lp);
        assert_eq!(drops.get(), round);
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert!(lp.is_empty());
}

fn a_panic_in_a_callback_leaves_what_is_in_flight(v: Variant) {
    let (mut lp, drops) = (v.new_loop(), Counter::new());
    let (ours, mut peer) = pair();
    let recv = start(&mut lp, (ours, [0; 4]), |(s, b)| s.recv(b));
    let timer = start(&mut lp, (), |()| Timer::after(HOUR));
    lp.submit(Box::new(Completion::new(drops.on_drop())), |_| nop(), panicking);
    run_panics(&mut lp);
    std::io::Write::write_all(&mut peer, b"x").unwrap();
    assert_eq!(recv.wait(&mut lp).1.unwrap(), 1);
    assert!(lp.cancel(timer.id));
    lp.run(RunMode::UntilDone).unwrap();
}

struct Fragile {
    ended: Counter,
    _drop: CountedDrop,
}

fn a_panic_in_an_item_callback_ends_the_submission(v: Variant) {
    let (mut lp, ended, drops) = (v.new_loop(), Counter::new(), Counter::new());
    let notifier = Notifier::new();
    notifier.notify();
    let state = || Fragile { ended: ended.clone(), _drop: drops.on_drop() };
    lp.submit_multi(
        Box::new(Completion::new(Multi::new((), state()))),
        |()| Timer::every(MS),
        |_, _: &mut Fragile, _| panic!("an item callback panics"),
        |_, owner, _| owner.state.ended.add(),
    );
    lp.submit_multi(
        Box::new(Completion::new(Multi::new(notifier, state()))),
        |n| n.wait_multi(),
        |_, _: &mut Fragile, ()| panic!("an item callback panics"),
        |_, owner, _| owner.state.ended.add(),
    );
    run_panics(&mut lp);
    run_panics(&mut lp);
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!((ended.get(), drops.get()), (2, 2), "the end callback runs, and the owner is dropped there");
    assert_usable(&mut lp);
}

fn a_panic_in_an_item_callback_of_a_stream_of_connections(v: Variant) {
    let (mut lp, ended, drops) = (v.new_loop(), Counter::new(), Counter::new());
    let (listener, address) = listener();
    let mut clients = [(); 3].map(|()| connect(address));
    lp.submit_multi(
        Box::new(Completion::new(Multi::new(
            listener,
            Fragile { ended: ended.clone(), _drop: drops.on_drop() },
        ))),
        |l| l.accept_multi(),
        |_, _: &mut Fragile, _| panic!("an item callback panics"),
        |_, owner, _| owner.state.ended.add(),
    );
    run_panics(&mut lp);
    // Those who were accepted by then are delivered nevertheless, and each delivery panics.
    while !lp.is_empty() {
        let _ = catch_unwind(AssertUnwindSafe(|| lp.run(RunMode::UntilDone)));
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!((ended.get(), drops.get()), (1, 1));
    clients.iter_mut().for_each(assert_closed);
}

fn a_panic_in_an_end_callback_drops_the_owner(v: Variant) {
    let (mut lp, drops) = (v.new_loop(), Counter::new());
    lp.submit_multi(
        Box::new(Completion::new(Multi::new((), drops.on_drop()))),
        |()| Timer::every(MS),
        |_, _: &mut CountedDrop, _| Action::Disarm,
        |_, _owner, _| panic!("an end callback panics"),
    );
    run_panics(&mut lp);
    assert_eq!((drops.get(), lp.len()), (1, 0));
    assert_usable(&mut lp);
}

fn a_panic_in_a_posted_callback_comes_through(v: Variant) {
    let mut lp = v.new_loop();
    let pending = start(&mut lp, (), |()| Timer::after(MS));
    let posted = lp.handle().post(Box::new(Completion::new(())), |_, _| panic!("a posted callback panics"));
    assert!(posted.is_ok());
    run_panics(&mut lp);
    pending.wait(&mut lp).1.unwrap();
}

fn a_panic_in_the_drop_of_a_state_in_a_callback(v: Variant) {
    let (mut lp, drops) = (v.new_loop(), Counter::new());
    lp.submit(Box::new(Completion::new(Bomb(true, drops.on_drop()))), |_| nop(), |_, owner, _| drop(owner));
    run_panics(&mut lp);
    assert_eq!(drops.get(), 1);
    assert_usable(&mut lp);
}

fn a_panic_in_the_drop_of_a_state_with_the_loop_drops_the_others(v: Variant) {
    let (mut lp, drops) = (v.new_loop(), Counter::new());
    for armed in [false, true, false] {
        lp.submit(
            Box::new(Completion::new(Bomb(armed, drops.on_drop()))),
            |_| Timer::after(HOUR),
            |_, _, _| (),
        );
    }
    assert!(catch_unwind(AssertUnwindSafe(|| drop(lp))).is_err());
    assert_eq!(drops.get(), 3);
}

fn a_panic_while_a_loop_is_on_the_stack_drops_it(v: Variant) {
    let drops = Counter::new();
    let (ours, mut peer) = pair();
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let mut lp = v.new_loop();
        start(&mut lp, (ours, [0; 4], drops.on_drop()), |(s, b, _)| s.recv(b));
        lp.submit(Box::new(Completion::new(drops.on_drop())), |_| nop(), panicking);
        lp.run(RunMode::UntilDone).unwrap();
    }));
    assert!(unwound.is_err());
    assert_eq!(drops.get(), 2);
    assert_closed(&mut peer);
}

fn a_hundred_panics_leak_nothing(v: Variant) {
    let (mut lp, drops) = (v.builder().capacity(4).build().unwrap(), Counter::new());
    for _ in 0..100 {
        lp.submit(Box::new(Completion::new(drops.on_drop())), |_| nop(), panicking);
        run_panics(&mut lp);
    }
    assert_eq!(drops.get(), 100);
    let ticks = start_multi(&mut lp, (), 2, |()| Timer::every(MS));
    run_until(&mut lp, || ticks.has_ended());
}
