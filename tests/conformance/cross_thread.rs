//! Other threads: posts, wake-ups, stops, notifiers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use oxev::{Action, Cause, Completion, Loop, LoopHandle, Multi, Notifier, RunMode, Timer};

use crate::support::{Counter, HOUR, Log, MS, complete, is_canceled, run_until, start, start_multi};
use crate::variants::Variant;

conformance! {
    a_post_runs_on_the_loops_thread,
    posts_of_one_thread_keep_their_order,
    posts_of_many_threads_all_arrive,
    a_post_wakes_a_loop_that_waits,
    a_post_from_a_callback_runs_in_a_later_step,
    a_post_to_a_dropped_loop_gives_the_owner_back,
    posts_that_are_pending_when_the_loop_is_dropped_are_dropped,
    posts_while_the_loop_is_dropped_are_dropped_or_given_back,
    wake_ends_once,
    wake_before_once_is_not_lost,
    wake_does_not_end_until_done,
    wake_of_a_dropped_loop_is_harmless,
    stop_from_another_thread_ends_the_run,
    handles_are_cloned_and_shared,
    one_notification_is_one_wake,
    a_notification_before_the_wait_is_kept,
    many_notifications_are_one,
    a_notification_during_the_callback_is_kept,
    wait_multi_wakes_each_time,
    wait_multi_is_disarmed_and_cancelled,
    a_cancelled_wait_leaves_the_notifier_usable,
    a_wait_that_is_cancelled_after_the_notification_is_too_late,
    dropping_the_notifier_in_the_callback,
    a_second_waiter_is_refused,
    a_second_waiter_on_another_loop_is_refused,
    a_notifier_moves_from_loop_to_loop,
    a_notifier_is_usable_after_its_loop_died_under_notifications,
    two_loops_play_ping_pong,
    many_threads_notify_until_enough_callbacks_have_run,
    notifiers_and_posts_and_stops_at_once,
}

type Message = Box<Completion<(Arc<AtomicUsize>, usize)>>;

fn message(count: &Arc<AtomicUsize>, number: usize) -> Message {
    Box::new(Completion::new((Arc::clone(count), number)))
}

fn count_it(_: &mut Loop, message: Message) {
    message.0.fetch_add(1, Ordering::Relaxed);
}

/// Keeps the loop running until it is stopped.
fn keep_running(lp: &mut Loop) {
    start(lp, Notifier::new(), |n| n.wait());
}

fn a_post_runs_on_the_loops_thread(v: Variant) {
    let mut lp = v.new_loop();
    keep_running(&mut lp);
    let (handle, here) = (lp.handle(), thread::current().id());
    let other = thread::spawn(move || {
        let message = Box::new(Completion::new(here));
        assert!(
            handle
                .post(message, |lp, here| {
                    assert_eq!(thread::current().id(), **here);
                    lp.stop();
                })
                .is_ok()
        );
    });
    lp.run(RunMode::UntilDone).unwrap();
    other.join().unwrap();
}

fn posts_of_one_thread_keep_their_order(v: Variant) {
    let mut lp = v.new_loop();
    keep_running(&mut lp);
    let (handle, next) = (lp.handle(), Arc::new(AtomicUsize::new(0)));
    let other = thread::spawn(move || {
        for number in 0..2000 {
            let posted = handle.post(message(&next, number), |lp, message| {
                assert_eq!(message.0.fetch_add(1, Ordering::Relaxed), message.1, "out of order");
                if message.1 == 1999 {
                    lp.stop();
                }
            });
            assert!(posted.is_ok());
        }
    });
    lp.run(RunMode::UntilDone).unwrap();
    other.join().unwrap();
}

fn posts_of_many_threads_all_arrive(v: Variant) {
    let mut lp = v.new_loop();
    keep_running(&mut lp);
    let count = Arc::new(AtomicUsize::new(0));
    let threads = [(); 4].map(|()| {
        let (handle, count) = (lp.handle(), Arc::clone(&count));
        thread::spawn(move || {
            (0..1000).for_each(|n| assert!(handle.post(message(&count, n), count_it).is_ok()))
        })
    });
    while count.load(Ordering::Relaxed) < 4000 {
        lp.run(RunMode::Once).unwrap();
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(lp.len(), 1);
}

fn a_post_wakes_a_loop_that_waits(v: Variant) {
    let mut lp = v.new_loop();
    keep_running(&mut lp);
    let count = Arc::new(AtomicUsize::new(0));
    for round in 1..=200 {
        let (handle, message) = (lp.handle(), message(&count, round));
        let other = thread::spawn(move || assert!(handle.post(message, count_it).is_ok()));
        lp.run(RunMode::Once).unwrap();
        assert_eq!(count.load(Ordering::Relaxed), round);
        other.join().unwrap();
    }
}

fn a_post_from_a_callback_runs_in_a_later_step(v: Variant) {
    let (mut lp, count) = (v.new_loop(), Arc::new(AtomicUsize::new(0)));
    keep_running(&mut lp);
    let handle = lp.handle();
    let posted = handle.post(message(&count, 0), |lp, message| {
        message.0.fetch_add(1, Ordering::Relaxed);
        assert!(lp.handle().post(message, count_it).is_ok());
    });
    assert!(posted.is_ok());
    lp.run(RunMode::Once).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 1);
    lp.run(RunMode::Once).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

fn a_post_to_a_dropped_loop_gives_the_owner_back(v: Variant) {
    let lp = v.new_loop();
    let handle = lp.handle();
    drop(lp);
    let count = Arc::new(AtomicUsize::new(0));
    let Err(message) = handle.post(message(&count, 7), count_it) else { panic!("the loop is gone") };
    assert_eq!(message.1, 7);
    drop(message);
    assert_eq!((Arc::strong_count(&count), count.load(Ordering::Relaxed)), (1, 0));
}

fn posts_that_are_pending_when_the_loop_is_dropped_are_dropped(v: Variant) {
    let lp = v.new_loop();
    let (handle, count) = (lp.handle(), Arc::new(AtomicUsize::new(0)));
    for number in 0..5 {
        assert!(handle.post(message(&count, number), count_it).is_ok());
    }
    assert_eq!(Arc::strong_count(&count), 6);
    drop(lp);
    assert_eq!((Arc::strong_count(&count), count.load(Ordering::Relaxed)), (1, 0));
}

fn posts_while_the_loop_is_dropped_are_dropped_or_given_back(v: Variant) {
    for _ in 0..50 {
        let mut lp = v.new_loop();
        let (handle, count) = (lp.handle(), Arc::new(AtomicUsize::new(0)));
        let other = {
            let count = Arc::clone(&count);
            thread::spawn(move || while handle.post(message(&count, 0), count_it).is_ok() {})
        };
        lp.run(RunMode::NoWait).unwrap();
        drop(lp);
        other.join().unwrap();
        assert_eq!(Arc::strong_count(&count), 1);
    }
}

fn wake_ends_once(v: Variant) {
    let mut lp = v.new_loop();
    keep_running(&mut lp);
    for _ in 0..100 {
        let handle = lp.handle();
        let other = thread::spawn(move || handle.wake());
        lp.run(RunMode::Once).unwrap();
        other.join().unwrap();
    }
    assert_eq!(lp.len(), 1);
}

fn wake_before_once_is_not_lost(v: Variant) {
    let mut lp = v.new_loop();
    keep_running(&mut lp);
    let handle = lp.handle();
    for _ in 0..10 {
        handle.wake();
        handle.wake();
        lp.run(RunMode::Once).unwrap();
    }
}

fn wake_does_not_end_until_done(v: Variant) {
    let mut lp = v.new_loop();
    let handle = lp.handle();
    let (done, is_done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let seen = Arc::clone(&done);
    let other = thread::spawn(move || {
        while !done.load(Ordering::Relaxed) {
            handle.wake();
            thread::yield_now();
        }
    });
    complete(&mut lp, is_done, |_| Timer::after(5 * MS)).1.unwrap();
    start(&mut lp, (), |()| Timer::after(5 * MS));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(lp.is_empty());
    seen.store(true, Ordering::Relaxed);
    other.join().unwrap();
}

fn wake_of_a_dropped_loop_is_harmless(v: Variant) {
    let handle = v.new_loop().handle();
    handle.wake();
    handle.stop();
    handle.clone().wake();
}

fn stop_from_another_thread_ends_the_run(v: Variant) {
    let mut lp = v.new_loop();
    keep_running(&mut lp);
    for run in [|lp: &mut Loop| lp.run(RunMode::UntilDone), |lp: &mut Loop| lp.run_for(HOUR)] {
        for _ in 0..50 {
            let handle = lp.handle();
            let other = thread::spawn(move || handle.stop());
            run(&mut lp).unwrap();
            other.join().unwrap();
            assert_eq!(lp.len(), 1);
        }
    }
}

fn handles_are_cloned_and_shared(v: Variant) {
    fn is_shared<T: Send + Sync + Clone + std::fmt::Debug + 'static>(_: &T) {}
    let lp = v.new_loop();
    is_shared(&lp.handle());
    is_shared(&Notifier::new());
    is_shared(&Notifier::default());
    assert!(!format!("{:?} {:?}", lp.handle(), Notifier::new()).is_empty());
}

fn one_notification_is_one_wake(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    for _ in 0..200 {
        let wait = start(&mut lp, notifier.clone(), |n| n.wait());
        let other = thread::spawn({
            let notifier = notifier.clone();
            move || notifier.notify()
        });
        lp.run(RunMode::UntilDone).unwrap();
        wait.result().unwrap();
        other.join().unwrap();
    }
    let unheard = start(&mut lp, notifier, |n| n.wait());
    lp.run_for(2 * MS).unwrap();
    assert!(!unheard.is_done());
}

fn a_notification_before_the_wait_is_kept(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    notifier.notify();
    complete(&mut lp, notifier, |n| n.wait()).1.unwrap();
}

fn many_notifications_are_one(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    (0..6).for_each(|_| notifier.notify());
    let waits = start_multi(&mut lp, notifier.clone(), usize::MAX, |n| n.wait_multi());
    (0..6).for_each(|_| notifier.notify());
    lp.run_for(2 * MS).unwrap();
    assert_eq!(waits.items.len(), 1);
}

fn a_notification_during_the_callback_is_kept(v: Variant) {
    let (mut lp, notifier, count) = (v.new_loop(), Notifier::new(), Counter::new());
    lp.submit_multi(
        Box::new(Completion::new(Multi::new(notifier.clone(), (notifier.clone(), count.clone())))),
        |n| n.wait_multi(),
        |_, (notifier, count): &mut (Notifier, Counter), ()| {
            count.add();
            if count.get() == 5 {
                return Action::Disarm;
            }
            notifier.notify();
            notifier.notify();
            Action::Rearm
        },
        |_, _, end| end.unwrap(),
    );
    notifier.notify();
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(count.get(), 5);
}

fn wait_multi_wakes_each_time(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    let waits = start_multi(&mut lp, notifier.clone(), usize::MAX, |n| n.wait_multi());
    for round in 1..=50 {
        notifier.notify();
        run_until(&mut lp, || waits.items.len() == round);
    }
    lp.run(RunMode::NoWait).unwrap();
    assert_eq!(waits.items.len(), 50);
}

fn wait_multi_is_disarmed_and_cancelled(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    let disarmed = start_multi(&mut lp, notifier.clone(), 1, |n| n.wait_multi());
    notifier.notify();
    disarmed.wait(&mut lp).unwrap();
    let cancelled = start_multi(&mut lp, notifier.clone(), usize::MAX, |n| n.wait_multi());
    lp.run(RunMode::NoWait).unwrap();
    assert!(lp.cancel(cancelled.id));
    assert!(is_canceled(&cancelled.wait(&mut lp)));
    notifier.notify();
    complete(&mut lp, notifier, |n| n.wait()).1.unwrap();
}

fn a_cancelled_wait_leaves_the_notifier_usable(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    for _ in 0..10 {
        let wait = start(&mut lp, notifier.clone(), |n| n.wait());
        assert!(lp.cancel(wait.id));
        assert!(is_canceled(&wait.wait(&mut lp).1));
    }
    notifier.notify();
    complete(&mut lp, notifier, |n| n.wait()).1.unwrap();
}

fn a_wait_that_is_cancelled_after_the_notification_is_too_late(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    let wait = start(&mut lp, notifier.clone(), |n| n.wait());
    notifier.notify();
    assert!(!lp.cancel(wait.id));
    wait.wait(&mut lp).1.unwrap();
}

fn dropping_the_notifier_in_the_callback(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    let other = notifier.clone();
    lp.submit(
        Box::new(Completion::new(notifier)),
        |n| n.wait(),
        |_, owner, result| {
            result.unwrap();
            drop(owner);
        },
    );
    let other = thread::spawn(move || other.notify());
    lp.run(RunMode::UntilDone).unwrap();
    other.join().unwrap();
}

fn a_second_waiter_is_refused(v: Variant) {
    let mut lp = v.new_loop();
    let notifier = Notifier::new();
    let first = start(&mut lp, notifier.clone(), |n| n.wait());
    let second = start(&mut lp, notifier.clone(), |n| n.wait().timeout(HOUR));
    let third = start_multi(&mut lp, notifier.clone(), 1, |n| n.wait_multi());
    run_until(&mut lp, || second.is_done() && third.has_ended());
    for refused in [second.result(), third.end()] {
        assert_eq!(refused.as_ref().err().and_then(Cause::of), Some(Cause::AlreadyWaiting));
    }
    notifier.notify();
    first.wait(&mut lp).1.unwrap();
}

fn a_second_waiter_on_another_loop_is_refused(v: Variant) {
    let (mut one, mut two) = (v.new_loop(), v.new_loop());
    let notifier = Notifier::new();
    let first = start(&mut one, notifier.clone(), |n| n.wait());
    let refused = complete(&mut two, notifier.clone(), |n| n.wait()).1;
    assert_eq!(refused.as_ref().err().and_then(Cause::of), Some(Cause::AlreadyWaiting));
    notifier.notify();
    first.wait(&mut one).1.unwrap();
}

fn a_notifier_moves_from_loop_to_loop(v: Variant) {
    let notifier = Notifier::new();
    let (mut one, mut two) = (v.new_loop(), v.new_loop());
    for _ in 0..10 {
        for lp in [&mut one, &mut two] {
            let wait = start(lp, notifier.clone(), |n| n.wait());
            notifier.notify();
            wait.wait(lp).1.unwrap();
        }
    }
    drop(one);
    notifier.notify();
    complete(&mut two, notifier, |n| n.wait()).1.unwrap();
}

fn a_notifier_is_usable_after_its_loop_died_under_notifications(v: Variant) {
    let (notifier, over) = (Notifier::new(), Arc::new(AtomicBool::new(false)));
    let other = thread::spawn({
        let (notifier, over) = (notifier.clone(), Arc::clone(&over));
        move || {
            while !over.load(Ordering::Relaxed) {
                notifier.notify();
            }
        }
    });
    for _ in 0..300 {
        let mut lp = v.builder().capacity(4).entries(1).build().unwrap();
        let wait = start(&mut lp, notifier.clone(), |n| n.wait());
        drop(lp);
        assert!(!wait.is_done());
    }
    over.store(true, Ordering::Relaxed);
    other.join().unwrap();
    notifier.notify();
    complete(&mut v.new_loop(), notifier, |n| n.wait()).1.unwrap();
}

struct Player {
    mine: Notifier,
    theirs: Notifier,
    left: usize,
}

fn play(lp: &mut Loop, mut player: Box<Completion<Player>>, result: io::Result<()>) {
    result.unwrap();
    player.theirs.notify();
    player.left -= 1;
    if player.left > 0 {
        lp.submit(player, |p| p.mine.wait(), play);
    }
}

fn two_loops_play_ping_pong(v: Variant) {
    const ROUNDS: usize = 10_000;
    let (ping, pong) = (Notifier::new(), Notifier::new());
    let players = [(ping.clone(), pong.clone()), (pong, ping.clone())].map(|(mine, theirs)| {
        thread::spawn(move || {
            let mut lp = v.new_loop();
            let player = Player { mine, theirs, left: ROUNDS };
            lp.submit(Box::new(Completion::new(player)), |p| p.mine.wait(), play);
            lp.run(RunMode::UntilDone).unwrap();
        })
    });
    ping.notify();
    players.into_iter().for_each(|player| player.join().unwrap());
}

fn many_threads_notify_until_enough_callbacks_have_run(v: Variant) {
    let mut lp = v.new_loop();
    let (notifier, over) = (Notifier::new(), Arc::new(AtomicBool::new(false)));
    let threads = [(); 4].map(|()| {
        let (notifier, over) = (notifier.clone(), Arc::clone(&over));
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                notifier.notify();
                thread::yield_now();
            }
        })
    });
    let waits = start_multi(&mut lp, notifier, 2000, |n| n.wait_multi());
    waits.wait(&mut lp).unwrap();
    over.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(waits.items.len(), 2000);
}

fn notifiers_and_posts_and_stops_at_once(v: Variant) {
    let mut lp = v.new_loop();
    let (notifier, count) = (Notifier::new(), Arc::new(AtomicUsize::new(0)));
    let waits = start_multi(&mut lp, notifier.clone(), usize::MAX, |n| n.wait_multi());
    let over = Arc::new(AtomicBool::new(false));
    let work: [fn(&LoopHandle, &Notifier, &Arc<AtomicUsize>); 3] = [
        |handle, _, count| assert!(handle.post(message(count, 0), count_it).is_ok()),
        |_, notifier, _| notifier.notify(),
        |handle, _, _| handle.stop(),
    ];
    let threads = work.map(|work| {
        let (handle, notifier, count) = (lp.handle(), notifier.clone(), Arc::clone(&count));
        let over = Arc::clone(&over);
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                work(&handle, &notifier, &count);
                thread::yield_now();
            }
        })
    });
    let log = Log::new();
    while count.load(Ordering::Relaxed) < 1000 || waits.items.len() < 1000 {
        lp.run(RunMode::UntilDone).unwrap();
        log.push(());
    }
    over.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(!log.is_empty());
}
