//! Owners: a box, a slot of a pool, a static.

use oxev::{Action, Completion, Loop, Multi, Pool, Pooled, RunMode, Shared, Timer, nop};

use crate::support::sockets::pair;
use crate::support::{Counter, HOUR, Log, MS};
use crate::variants::Variant;

conformance! {
    a_box_comes_back,
    a_slot_of_a_pool_comes_back_and_is_free_when_dropped,
    a_static_comes_back,
    a_static_can_be_used_again_and_again,
    every_owner_works_with_several_results,
    a_pool_that_is_exhausted_gives_the_state_back,
    a_pool_serves_far_more_operations_than_it_has_slots,
    a_slot_in_flight_outlives_its_pool_and_its_loop,
    a_dropped_loop_frees_its_slots_and_keeps_statics,
    a_shared_slot_is_freed_with_its_last_share,
    an_owner_moves_from_operation_to_operation,
    an_owner_moves_from_loop_to_loop,
    a_refused_owner_comes_back,
    an_owner_of_another_type_may_be_dropped_inside_the_callback,
    large_and_empty_states_work,
}

fn a_box_comes_back(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    let owner = Box::new(Completion::new((log.clone(), 7)));
    let address = (&raw const *owner).addr();
    lp.submit(owner, |_| nop(), |_, owner, _| owner.0.push((owner.1, (&raw const *owner).addr())));
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), [(7, address)]);
}

fn a_slot_of_a_pool_comes_back_and_is_free_when_dropped(v: Variant) {
    let (mut lp, log, pool) = (v.new_loop(), Log::new(), Pool::new(2));
    let slot = pool.insert((log.clone(), 7)).ok().unwrap();
    lp.submit(slot, |_| nop(), |_, slot: Pooled<(Log<i32>, i32)>, _| slot.0.push(slot.1));
    assert_eq!((pool.available(), pool.capacity()), (1, 2));
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), [7]);
    assert_eq!(pool.available(), 2);
}

fn a_static_comes_back(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    let owner: &'static mut Completion<_> = Box::leak(Box::new(Completion::new((log.clone(), 7))));
    lp.submit(
        owner,
        |_| Timer::after(MS),
        |_, owner: &'static mut Completion<(Log<i32>, i32)>, _| {
            owner.0.push(owner.1);
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), [7]);
}

fn a_static_can_be_used_again_and_again(v: Variant) {
    fn again(lp: &mut Loop, owner: &'static mut Completion<usize>, result: std::io::Result<()>) {
        result.unwrap();
        **owner += 1;
        if **owner < 100 {
            lp.submit(owner, |_| nop(), again);
        } else {
            lp.stop();
        }
    }
    let mut lp = v.new_loop();
    let owner: &'static mut Completion<usize> = Box::leak(Box::new(Completion::new(0)));
    lp.submit(owner, |_| nop(), again);
    lp.run(RunMode::UntilDone).unwrap();
    assert!(lp.is_empty());
}

fn every_owner_works_with_several_results(v: Variant) {
    type State = Multi<(), (Log<u64>, usize)>;
    fn on_item(_: &mut Loop, (log, left): &mut (Log<u64>, usize), periods: u64) -> Action {
        log.push(periods);
        *left -= 1;
        if *left > 0 { Action::Rearm } else { Action::Disarm }
    }
    let (mut lp, log, pool) = (v.new_loop(), Log::new(), Pool::<State>::new(1));
    let state = || Multi::new((), (log.clone(), 2));
    lp.submit_multi(
        Box::new(Completion::new(state())),
        |()| Timer::every(MS),
        on_item,
        |_, _, end| end.unwrap(),
    );
    let slot = pool.insert(state()).ok().unwrap();
    lp.submit_multi(slot, |()| Timer::every(MS), on_item, |_, _: Pooled<State>, end| end.unwrap());
    let leaked: &'static mut Completion<State> = Box::leak(Box::new(Completion::new(state())));
    lp.submit_multi(
        leaked,
        |()| Timer::every(MS),
        on_item,
        |_, _: &'static mut Completion<State>, end| end.unwrap(),
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.len(), 6);
    assert_eq!(pool.available(), 1);
}

fn a_pool_that_is_exhausted_gives_the_state_back(v: Variant) {
    let (mut lp, pool) = (v.new_loop(), Pool::new(1));
    lp.submit(pool.insert(String::from("first")).unwrap(), |_| nop(), |_, _: Pooled<String>, _| ());
    assert_eq!(pool.insert(String::from("second")).unwrap_err(), "second");
    lp.run(RunMode::UntilDone).unwrap();
    assert!(pool.insert(String::from("third")).is_ok());
}

fn a_pool_serves_far_more_operations_than_it_has_slots(v: Variant) {
    let (mut lp, pool, count) = (v.new_loop(), Pool::new(3), Counter::new());
    for _ in 0..1000 {
        while let Ok(slot) = pool.insert(count.clone()) {
            lp.submit(slot, |_| nop(), |_, slot: Pooled<Counter>, _| slot.add());
        }
        lp.run(RunMode::UntilDone).unwrap();
    }
    assert_eq!(count.get(), 3000);
    assert_eq!(pool.available(), 3);
}

fn a_slot_in_flight_outlives_its_pool_and_its_loop(v: Variant) {
    let (mut lp, pool, drops) = (v.new_loop(), Pool::new(1), Counter::new());
    let slot = pool.insert(drops.on_drop()).ok().unwrap();
    lp.submit(slot, |_| Timer::after(HOUR), |_, _: Pooled<_>, _| ());
    drop(pool);
    assert_eq!(drops.get(), 0);
    drop(lp);
    assert_eq!(drops.get(), 1);
}

fn a_dropped_loop_frees_its_slots_and_keeps_statics(v: Variant) {
    let (mut lp, pool, drops) = (v.new_loop(), Pool::new(2), Counter::new());
    let slot = pool.insert(drops.on_drop()).ok().unwrap();
    lp.submit(slot, |_| Timer::after(HOUR), |_, _: Pooled<_>, _| ());
    let leaked: &'static mut Completion<_> = Box::leak(Box::new(Completion::new(drops.on_drop())));
    lp.submit(leaked, |_| Timer::after(HOUR), |_, _: &'static mut Completion<_>, _| ());
    drop(lp);
    assert_eq!(pool.available(), 2);
    assert_eq!(drops.get(), 1, "a static is never dropped");
}

fn a_shared_slot_is_freed_with_its_last_share(v: Variant) {
    let (mut lp, pool) = (v.new_loop(), Pool::new(1));
    let (ours, _peer) = pair();
    let stream: Shared<_> = pool.share(ours).unwrap();
    let receive = crate::support::start(&mut lp, (stream.clone(), [0; 8]), |(s, b)| s.recv(b));
    drop(stream);
    lp.run(RunMode::NoWait).unwrap();
    assert_eq!(pool.available(), 0);
    lp.cancel(receive.id);
    drop(receive.wait(&mut lp));
    assert_eq!(pool.available(), 1);
}

fn an_owner_moves_from_operation_to_operation(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    lp.submit(
        Box::new(Completion::new(log.clone())),
        |_| nop(),
        |lp, owner, _| {
            owner.push("nop");
            lp.submit(
                owner,
                |_| Timer::after(MS),
                |lp, owner, _| {
                    owner.push("timer");
                    lp.submit(
                        owner,
                        |_| Timer::after(HOUR).timeout(MS),
                        |_, owner, _| owner.push("deadline"),
                    );
                },
            );
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), ["nop", "timer", "deadline"]);
}

fn an_owner_moves_from_loop_to_loop(v: Variant) {
    let (mut one, mut two) = (v.new_loop(), v.new_loop());
    let mut state = 0;
    for lp in [&mut one, &mut two, &mut v.new_loop()] {
        let (back, result) = crate::support::complete(lp, state, |_| nop());
        result.unwrap();
        state = back + 1;
    }
    assert_eq!(state, 3);
}

fn a_refused_owner_comes_back(v: Variant) {
    let mut lp = v.builder().capacity(1).build().unwrap();
    let (pool, log) = (Pool::new(2), Log::new());
    lp.submit(
        pool.insert(log.clone()).ok().unwrap(),
        |_| Timer::after(MS),
        |_, log: Pooled<Log<_>>, result| {
            log.push(result.is_ok());
        },
    );
    lp.submit(
        pool.insert(log.clone()).ok().unwrap(),
        |_| nop(),
        |_, log: Pooled<Log<_>>, result| {
            log.push(result.is_ok());
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), [false, true]);
    assert_eq!(pool.available(), 2);
}

fn an_owner_of_another_type_may_be_dropped_inside_the_callback(v: Variant) {
    let (mut lp, drops) = (v.new_loop(), Counter::new());
    lp.submit(Box::new(Completion::new(drops.on_drop())), |_| nop(), |_, owner, _| drop(owner));
    lp.submit(Box::new(Completion::new(drops.on_drop())), |_| nop(), |_, owner, _| drop(owner.into_inner()));
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(drops.get(), 2);
}

fn large_and_empty_states_work(v: Variant) {
    #[repr(align(4096))]
    struct Page([u8; 8192]);
    let (mut lp, pool) = (v.new_loop(), Pool::new(2));
    let page = pool.insert(Page([7; 8192])).ok().unwrap();
    assert!((&raw const **page).addr().is_multiple_of(4096));
    lp.submit(page, |_| nop(), |_, page: Pooled<Page>, _| assert!(page.0.iter().all(|&byte| byte == 7)));
    lp.submit(Pool::new(1).insert(()).unwrap(), |()| nop(), |_, _: Pooled<()>, _| ());
    lp.submit(Box::new(Completion::<()>::default()), |()| nop(), |_, _, _| ());
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(pool.available(), 2);
}
