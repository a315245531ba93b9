//! Timers: never early, in order, repeating, moved.

use std::io;
use std::time::{Duration, Instant};

use oxev::{Action, Completion, Loop, Multi, OpId, RunMode, Timer, nop};

use crate::support::{
    Counter, HOUR, Log, MS, complete, errno, is_canceled, now, run_until, since, spin, start, start_multi,
};
use crate::variants::Variant;

conformance! {
    now_outside_of_run_is_now,
    a_timer_at_a_time_from_now_is_not_early_outside_of_run,
    a_timer_is_never_early,
    a_timer_armed_in_a_callback_is_never_early,
    a_timer_armed_late_in_a_long_callback_is_not_early,
    a_timer_armed_after_a_long_pause_is_not_early,
    many_timers_armed_outside_a_step_are_not_early,
    timers_fire_in_the_order_of_their_deadlines,
    equal_deadlines_fire_in_the_order_of_submission,
    a_zero_delay_fires_in_the_next_step,
    a_deadline_in_the_past_fires_at_once,
    a_deadline_before_the_first_loop_fires_at_once,
    an_instant_far_ahead_is_held,
    huge_delays_are_held_and_can_be_cancelled,
    a_timer_armed_outside_run_counts_from_the_submission,
    every_ticks_at_a_fixed_rate,
    every_counts_the_periods_that_were_missed,
    every_after_leaves_the_delay_between_callbacks,
    every_and_every_after_end_when_disarmed,
    a_repeating_timer_is_cancelled,
    a_repeating_timer_of_period_zero_is_refused,
    a_huge_period_does_not_overflow,
    a_tiny_period_does_not_starve_others,
    reset_earlier_fires_earlier,
    reset_later_fires_later,
    reset_before_the_first_step,
    reset_again_and_again_fires_once,
    reset_in_another_callback,
    reset_after_it_fired_is_refused,
    reset_after_cancel_is_refused,
    reset_moves_the_next_tick_of_a_repeating_timer,
    reset_in_its_own_item_callback_moves_the_next_tick,
    reset_of_a_tick_that_waits_for_its_callback_keeps_the_timer_repeating,
    reset_of_a_timer_with_a_deadline_leaves_its_new_time_alone,
    reset_of_a_repeating_timer_does_not_outlive_its_deadline,
    a_thousand_timers_fire_once_each,
    deadlines_on_every_level_of_the_wheel_are_in_order,
}

struct Fire {
    log: Log<(u32, Duration)>,
    name: u32,
    begin: Instant,
}

/// Starts a timer that logs its name and how long it took.
fn timer(lp: &mut Loop, log: &Log<(u32, Duration)>, name: u32, delay: Duration) -> OpId {
    let fire = Fire { log: log.clone(), name, begin: now() };
    lp.submit(Box::new(Completion::new(fire)), |_| Timer::after(delay), fired)
}

/// A timer, and the two moments between which it falls due.
struct Armed {
    name: u32,
    earliest: Instant,
    latest: Instant,
}

fn armed(lp: &mut Loop, log: &Log<(u32, Duration)>, name: u32, delay: Duration) -> Armed {
    let earliest = now() + delay;
    timer(lp, log, name, delay);
    Armed { name, earliest, latest: now() + delay }
}

/// No timer fired before one that was due earlier: on a slow machine, that is not always the shorter one.
fn assert_in_order(fired: &[u32], armed: &[Armed]) {
    let in_order: Vec<_> =
        fired.iter().map(|name| armed.iter().find(|armed| armed.name == *name).unwrap()).collect();
    for (index, first) in in_order.iter().enumerate() {
        for second in &in_order[index + 1..] {
            assert!(first.earliest <= second.latest, "{} before {}: {fired:?}", first.name, second.name);
        }
    }
}

fn fired(_: &mut Loop, fire: Box<Completion<Fire>>, result: io::Result<()>) {
    result.unwrap();
    fire.log.push((fire.name, since(fire.begin)));
}

fn names(log: &Log<(u32, Duration)>) -> Vec<u32> {
    log.take().into_iter().map(|(name, _)| name).collect()
}

fn a_timer_is_never_early(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    for microseconds in (0..40).map(|i| i * 257) {
        timer(&mut lp, &log, microseconds, Duration::from_micros(microseconds.into()));
    }
    lp.run(RunMode::UntilDone).unwrap();
    for (microseconds, took) in log.take() {
        assert!(took >= Duration::from_micros(microseconds.into()), "{microseconds} µs took {took:?}");
    }
}

fn a_timer_armed_in_a_callback_is_never_early(v: Variant) {
    fn again(lp: &mut Loop, mut fire: Box<Completion<Fire>>, result: io::Result<()>) {
        result.unwrap();
        assert!(since(fire.begin) >= Duration::from_micros(500), "{:?}", since(fire.begin));
        fire.name -= 1;
        if fire.name > 0 {
            fire.begin = now();
            lp.submit(fire, |_| Timer::after(Duration::from_micros(500)), again);
        }
    }
    let mut lp = v.new_loop();
    let fire = Fire { log: Log::new(), name: 20, begin: now() };
    lp.submit(Box::new(Completion::new(fire)), |_| Timer::after(Duration::from_micros(500)), again);
    lp.run(RunMode::UntilDone).unwrap();
}

fn a_timer_armed_late_in_a_long_callback_is_not_early(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    lp.submit(
        Box::new(Completion::new(log.clone())),
        |_| Timer::after(MS),
        |lp, log, _| {
            spin(5 * MS);
            timer(lp, &log, 1, 4 * MS);
            spin(2 * MS);
            timer(lp, &log, 2, 3 * MS);
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
    let fired = log.take();
    assert_eq!(fired.len(), 2);
    for (name, took) in fired {
        assert!(took >= if name == 1 { 4 * MS } else { 3 * MS }, "{name} took {took:?}");
    }
}

fn a_timer_armed_after_a_long_pause_is_not_early(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    timer(&mut lp, &log, 0, HOUR);
    lp.run(RunMode::NoWait).unwrap();
    spin(5 * MS);
    timer(&mut lp, &log, 1, 4 * MS);
    run_until(&mut lp, || !log.is_empty());
    assert!(log.take()[0].1 >= 4 * MS);
}

fn many_timers_armed_outside_a_step_are_not_early(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    for name in 0..300 {
        timer(&mut lp, &log, name, 2 * MS);
        spin(Duration::from_micros(5));
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.len(), 300);
    assert!(log.take().iter().all(|(_, took)| *took >= 2 * MS));
}

fn timers_fire_in_the_order_of_their_deadlines(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    let timers = [5, 1, 4, 2, 3].map(|name| armed(&mut lp, &log, name, name * 2 * MS));
    lp.run(RunMode::UntilDone).unwrap();
    let fired = names(&log);
    assert_eq!(fired.len(), timers.len());
    assert_in_order(&fired, &timers);
}

fn equal_deadlines_fire_in_the_order_of_submission(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    let deadline = now() + 3 * MS;
    for name in 0..100 {
        let fire = Fire { log: log.clone(), name, begin: now() };
        lp.submit(Box::new(Completion::new(fire)), |_| Timer::at(deadline), fired);
        if name == 50 {
            lp.run(RunMode::NoWait).unwrap();
        }
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert!(now() >= deadline);
    assert_eq!(names(&log), (0..100).collect::<Vec<_>>());
}

fn a_zero_delay_fires_in_the_next_step(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    timer(&mut lp, &log, 1, Duration::ZERO);
    timer(&mut lp, &log, 2, Duration::from_nanos(1));
    assert!(log.is_empty());
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(names(&log), [1, 2]);
}

fn a_deadline_in_the_past_fires_at_once(v: Variant) {
    let mut lp = v.new_loop();
    let past = now();
    spin(MS);
    let timer = start(&mut lp, (), |()| Timer::at(past));
    lp.run(RunMode::Once).unwrap();
    timer.result().unwrap();
}

fn a_deadline_before_the_first_loop_fires_at_once(v: Variant) {
    let Some(past) = now().checked_sub(Duration::from_secs(60)) else { return };
    complete(&mut v.new_loop(), (), |()| Timer::at(past)).1.unwrap();
}

fn an_instant_far_ahead_is_held(v: Variant) {
    let mut lp = v.new_loop();
    let far = now() + Duration::from_secs(200 * 365 * 24 * 3600);
    let held = start(&mut lp, (), |()| Timer::at(far));
    lp.run_for(MS).unwrap();
    assert!(lp.cancel(held.id));
    assert!(is_canceled(&held.wait(&mut lp).1));
}

fn huge_delays_are_held_and_can_be_cancelled(v: Variant) {
    let mut lp = v.new_loop();
    let delays = [
        Duration::MAX,
        Duration::from_nanos(u64::MAX),
        Duration::from_nanos(u64::MAX - 1),
        Duration::from_secs(1 << 40),
    ];
    let held = delays.map(|delay| start(&mut lp, (), |()| Timer::after(delay)));
    let sentinel = start(&mut lp, (), |()| Timer::after(MS));
    sentinel.wait(&mut lp).1.unwrap();
    assert!(lp.next_timeout().is_none_or(|timeout| timeout > HOUR), "they end later, or never");
    for op in held {
        assert!(!op.is_done());
        assert!(lp.reset(op.id, Duration::MAX));
        assert!(lp.cancel(op.id));
        assert!(is_canceled(&op.wait(&mut lp).1));
    }
}

fn a_timer_armed_outside_run_counts_from_the_submission(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    timer(&mut lp, &log, 1, 5 * MS);
    spin(6 * MS);
    // Its time is over: a step that does not wait runs it.
    lp.run(RunMode::NoWait).unwrap();
    assert_eq!(names(&log), [1]);
}

fn every_ticks_at_a_fixed_rate(v: Variant) {
    let mut lp = v.new_loop();
    let begin = now();
    let ticks = start_multi(&mut lp, (), 5, |()| Timer::every(2 * MS));
    ticks.wait(&mut lp).unwrap();
    let periods: u64 = ticks.items.take().into_iter().sum();
    assert!(periods >= 5);
    assert!(since(begin) >= 2 * MS * periods as u32, "no tick is early");
}

fn every_counts_the_periods_that_were_missed(v: Variant) {
    let mut lp = v.new_loop();
    let begin = now();
    let ticks = start_multi(&mut lp, (), 2, |()| Timer::every(2 * MS));
    run_until(&mut lp, || ticks.items.len() == 1);
    spin(9 * MS);
    ticks.wait(&mut lp).unwrap();
    let periods = ticks.items.take();
    assert!(periods[1] >= 4, "{periods:?}");
    let elapsed = since(begin);
    assert!(2 * MS * periods.iter().sum::<u64>() as u32 <= elapsed, "{periods:?} in {elapsed:?}");
}

fn every_after_leaves_the_delay_between_callbacks(v: Variant) {
    struct Gaps {
        last: Instant,
        ticks: Counter,
    }
    let (mut lp, ticks) = (v.new_loop(), Counter::new());
    let state = Gaps { last: now(), ticks: ticks.clone() };
    lp.submit_multi(
        Box::new(Completion::new(Multi::new((), state))),
        |()| Timer::every_after(2 * MS),
        |_, gaps: &mut Gaps, periods| {
            assert_eq!(periods, 1);
            assert!(since(gaps.last) >= 2 * MS, "{:?}", since(gaps.last));
            spin(3 * MS);
            gaps.last = now();
            gaps.ticks.add();
            if gaps.ticks.get() < 4 { Action::Rearm } else { Action::Disarm }
        },
        |_, _, end| end.unwrap(),
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(ticks.get(), 4);
}

fn every_and_every_after_end_when_disarmed(v: Variant) {
    let mut lp = v.new_loop();
    let rate = start_multi(&mut lp, (), 1, |()| Timer::every(MS));
    let delay = start_multi(&mut lp, (), 1, |()| Timer::every_after(MS));
    lp.run(RunMode::UntilDone).unwrap();
    rate.end().unwrap();
    delay.end().unwrap();
    assert_eq!((rate.items.len(), delay.items.len()), (1, 1));
}

fn a_repeating_timer_is_cancelled(v: Variant) {
    let mut lp = v.new_loop();
    let ticks = start_multi(&mut lp, (), usize::MAX, |()| Timer::every(MS));
    run_until(&mut lp, || ticks.items.len() >= 3);
    assert!(lp.cancel(ticks.id));
    assert!(is_canceled(&ticks.wait(&mut lp)));
    assert!(lp.is_empty());
}

fn a_repeating_timer_of_period_zero_is_refused(v: Variant) {
    let mut lp = v.new_loop();
    let rate = start_multi(&mut lp, (), 1, |()| Timer::every(Duration::ZERO));
    let delay = start_multi(&mut lp, (), 1, |()| Timer::every_after(Duration::ZERO));
    lp.run(RunMode::UntilDone).unwrap();
    for ticks in [rate, delay] {
        assert_eq!(errno(ticks.end()), Some(libc::EINVAL));
        assert!(ticks.items.is_empty());
    }
}

fn a_huge_period_does_not_overflow(v: Variant) {
    let mut lp = v.new_loop();
    let rate = start_multi(&mut lp, (), usize::MAX, |()| Timer::every(Duration::MAX));
    let delay = start_multi(&mut lp, (), usize::MAX, |()| Timer::every_after(Duration::MAX));
    // Brought forward, each fires once, and the period that follows is huge again.
    assert!(lp.reset(rate.id, MS) && lp.reset(delay.id, MS));
    lp.run_for(5 * MS).unwrap();
    assert_eq!((rate.items.take(), delay.items.take()), (vec![1], vec![1]));
    assert!(lp.cancel(rate.id) && lp.cancel(delay.id));
    lp.run(RunMode::UntilDone).unwrap();
}

fn a_tiny_period_does_not_starve_others(v: Variant) {
    let mut lp = v.new_loop();
    let ticks = start_multi(&mut lp, (), usize::MAX, |()| Timer::every(Duration::from_nanos(1)));
    complete(&mut lp, (), |()| Timer::after(3 * MS)).1.unwrap();
    assert!(!ticks.items.is_empty());
    lp.cancel(ticks.id);
    assert!(is_canceled(&ticks.wait(&mut lp)));
}

fn reset_earlier_fires_earlier(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    let moved = timer(&mut lp, &log, 1, HOUR);
    timer(&mut lp, &log, 2, 2 * HOUR);
    lp.run(RunMode::NoWait).unwrap();
    let begin = now();
    assert!(lp.reset(moved, 3 * MS));
    lp.run(RunMode::Once).unwrap();
    assert!(since(begin) >= 3 * MS);
    assert_eq!(names(&log), [1]);
    assert_eq!(lp.len(), 1);
}

fn reset_later_fires_later(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    let moved = timer(&mut lp, &log, 1, HOUR);
    lp.run(RunMode::NoWait).unwrap();
    assert!(lp.reset(moved, MS));
    assert!(lp.reset(moved, 10 * MS));
    timer(&mut lp, &log, 2, 4 * MS);
    lp.run(RunMode::UntilDone).unwrap();
    let fired = log.take();
    assert_eq!((fired[0].0, fired[1].0), (2, 1));
    assert!(fired[1].1 >= 10 * MS);
}

fn reset_before_the_first_step(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    let moved = timer(&mut lp, &log, 1, HOUR);
    assert!(lp.reset(moved, MS));
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(names(&log), [1]);
}

fn reset_again_and_again_fires_once(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    let moved = timer(&mut lp, &log, 1, MS);
    for round in 0..200 {
        assert!(lp.reset(moved, (round % 7 + 20) * MS));
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(names(&log), [1]);
}

fn reset_in_another_callback(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    let moved = timer(&mut lp, &log, 1, HOUR);
    lp.submit(
        Box::new(Completion::new((moved, log.clone()))),
        |_| Timer::after(MS),
        |lp, owner, _| {
            spin(3 * MS);
            assert!(lp.reset(owner.0, 2 * MS));
            owner.1.push((0, Duration::ZERO));
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
    let fired = log.take();
    assert_eq!((fired[0].0, fired[1].0), (0, 1));
    assert!(fired[1].1 >= 6 * MS, "{:?}", fired[1].1);
}

fn reset_after_it_fired_is_refused(v: Variant) {
    let mut lp = v.new_loop();
    let timer = start(&mut lp, (), |()| Timer::after(Duration::ZERO));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(!lp.reset(timer.id, MS));
    lp.run(RunMode::UntilDone).unwrap();
    timer.result().unwrap();
}

fn reset_after_cancel_is_refused(v: Variant) {
    let mut lp = v.new_loop();
    let timer = start(&mut lp, (), |()| Timer::after(HOUR));
    assert!(lp.cancel(timer.id));
    assert!(!lp.reset(timer.id, MS));
    assert!(is_canceled(&timer.wait(&mut lp).1));
}

fn reset_moves_the_next_tick_of_a_repeating_timer(v: Variant) {
    let mut lp = v.new_loop();
    let begin = now();
    let ticks = start_multi(&mut lp, (), 3, |()| Timer::every(4 * MS));
    assert!(lp.reset(ticks.id, MS));
    run_until(&mut lp, || ticks.items.len() == 1);
    assert!(since(begin) >= MS);
    assert!(lp.reset(ticks.id, 6 * MS));
    ticks.wait(&mut lp).unwrap();
    // The rate counts from the tick that was moved.
    assert!(since(begin) >= 11 * MS);
}

fn reset_in_its_own_item_callback_moves_the_next_tick(v: Variant) {
    struct State {
        id: std::rc::Rc<std::cell::Cell<Option<OpId>>>,
        last: Instant,
        ticks: Counter,
    }
    for make in [|| Timer::every(MS), || Timer::every_after(MS)] {
        let (mut lp, ticks) = (v.new_loop(), Counter::new());
        let state = State { id: Default::default(), last: now(), ticks: ticks.clone() };
        let id = std::rc::Rc::clone(&state.id);
        id.set(Some(lp.submit_multi(
            Box::new(Completion::new(Multi::new((), state))),
            |()| make(),
            |lp, s: &mut State, _| {
                let limit = if s.ticks.get() == 0 { MS } else { 5 * MS };
                assert!(since(s.last) >= limit, "{:?} of {limit:?}", since(s.last));
                s.last = now();
                s.ticks.add();
                assert!(lp.reset(s.id.get().unwrap(), 5 * MS));
                if s.ticks.get() < 3 { Action::Rearm } else { Action::Disarm }
            },
            |_, _, end| end.unwrap(),
        )));
        lp.run(RunMode::UntilDone).unwrap();
        assert_eq!(ticks.get(), 3);
    }
}

fn reset_of_a_tick_that_waits_for_its_callback_keeps_the_timer_repeating(v: Variant) {
    let mut lp = v.new_loop();
    let other = std::rc::Rc::new(std::cell::Cell::new(None::<OpId>));
    let both = now() + 2 * MS;
    lp.submit_multi(
        Box::new(Completion::new(Multi::new((), std::rc::Rc::clone(&other)))),
        |()| Timer::every(2 * MS),
        |lp, other: &mut std::rc::Rc<std::cell::Cell<Option<OpId>>>, _| {
            // The other's tick is waiting for its callback.
            assert!(lp.reset(other.get().unwrap(), MS));
            lp.stop();
            Action::Disarm
        },
        |_, _, end| end.unwrap(),
    );
    let ticks = start_multi(&mut lp, (), 3, |()| Timer::every(2 * MS));
    other.set(Some(ticks.id));
    spin((both + MS).saturating_duration_since(now()));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(ticks.items.is_empty());
    spin(2 * MS);
    ticks.wait(&mut lp).unwrap();
    assert_eq!(ticks.items.len(), 3);
}

fn a_thousand_timers_fire_once_each(v: Variant) {
    let mut lp = v.builder().capacity(1000).build().unwrap();
    let log = Log::new();
    for name in 0..1000 {
        timer(&mut lp, &log, name, Duration::from_micros(u64::from(name) * 7919 % 5000));
    }
    lp.run(RunMode::UntilDone).unwrap();
    let mut names = names(&log);
    names.sort_unstable();
    assert_eq!(names, (0..1000).collect::<Vec<_>>());
}

fn deadlines_on_every_level_of_the_wheel_are_in_order(v: Variant) {
    let mut lp = v.new_loop();
    // A slot of the levels is 1 µs, 1 ms, 1 s, 18 min and 12 days wide.
    let seconds = [100_000_000, 2_000_000, 2000, 2];
    let held = seconds.map(|s| start(&mut lp, (), |()| Timer::after(Duration::from_secs(s))));
    let log = Log::new();
    let timers =
        [(2, 3 * MS), (1, Duration::from_micros(300))].map(|(name, delay)| armed(&mut lp, &log, name, delay));
    run_until(&mut lp, || log.len() == 2);
    assert_in_order(&names(&log), &timers);
    for (index, op) in held.iter().enumerate().rev() {
        let next = lp.next_timeout().unwrap();
        assert!(next <= Duration::from_secs(seconds[index]));
        assert!(!op.is_done() && lp.cancel(op.id));
    }
    lp.run(RunMode::UntilDone).unwrap();
}

fn reset_of_a_timer_with_a_deadline_leaves_its_new_time_alone(v: Variant) {
    let mut lp = v.new_loop();
    for (time, deadline) in [(HOUR, MS), (MS, HOUR)] {
        let timer = start(&mut lp, (), move |()| Timer::after(time).timeout(deadline));
        assert!(lp.reset(timer.id, 2 * MS));
        timer.wait(&mut lp).1.unwrap();
    }
}

fn reset_of_a_repeating_timer_does_not_outlive_its_deadline(v: Variant) {
    let mut lp = v.new_loop();
    let ticks = start_multi(&mut lp, (), usize::MAX, |()| Timer::every(HOUR).timeout(3 * MS));
    assert!(lp.reset(ticks.id, 2 * HOUR));
    assert_eq!(ticks.wait(&mut lp).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

fn now_outside_of_run_is_now(v: Variant) {
    let mut lp = v.new_loop();
    let first = lp.now();
    spin(5 * MS);
    assert!(lp.now() >= first + 5 * MS, "before the first run");
    complete(&mut lp, (), |()| nop()).1.unwrap();
    let between = lp.now();
    spin(5 * MS);
    assert!(lp.now() >= between + 5 * MS, "between runs");
}

fn a_timer_at_a_time_from_now_is_not_early_outside_of_run(v: Variant) {
    let mut lp = v.new_loop();
    complete(&mut lp, (), |()| nop()).1.unwrap();
    spin(10 * MS);
    let begin = now();
    let due = lp.now() + 5 * MS;
    complete(&mut lp, (), move |()| Timer::at(due)).1.unwrap();
    assert!(since(begin) >= 5 * MS);
}
