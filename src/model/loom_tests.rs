//! Models of how other threads reach a loop: the real loop, its queue, notifiers and jobs, over a backend
//! without a kernel. Every order in which the threads of these small programs can run is tried, within a
//! bound on preemptions, and every value that a load may return. A wake-up that is lost leaves the loop
//! asleep, which loom reports as a deadlock; the backend checks that no system call is superfluous;
//! [`Shared`] checks that what one thread wrote is there for the other.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicBool;
use loom::thread::{self, JoinHandle};

use super::driver::{Model, poll_descriptor};
use crate::{
    Action, Builder, Cause, Completion, Loop, LoopHandle, Multi, Notifier, OpId, RunMode, ThreadPool,
    is_canceled, nop,
};

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    let executions = Tally::default();
    let counted = executions.clone();
    builder.check(move || {
        counted.fetch_add(1, Relaxed);
        model();
    });
    println!("{} executions", executions.load(Relaxed));
}

fn builder() -> Builder {
    Loop::builder().driver(Model::make).capacity(4)
}

fn new_loop() -> Box<Loop> {
    builder().build().unwrap()
}

/// A loop with an operation that does not end by itself.
fn busy_loop() -> Box<Loop> {
    let mut lp = new_loop();
    lp.submit(Box::new(Completion::new(())), |_| nop(), |_, _, _| ());
    lp
}

fn join<const N: usize>(threads: [JoinHandle<()>; N]) {
    for thread in threads {
        thread.join().unwrap();
    }
}

/// What one thread writes and another one reads: loom says so unless the one comes before the other.
#[derive(Clone)]
struct Shared(Arc<Watched>);

struct Watched(UnsafeCell<usize>);

// SAFETY: to be found out.
unsafe impl Sync for Watched {}

impl Shared {
    fn new(value: usize) -> Shared {
        Shared(Arc::new(Watched(UnsafeCell::new(value))))
    }

    fn write(&self, value: usize) {
        // SAFETY: loom looks.
        self.0.0.with_mut(|place| unsafe { *place = value });
    }

    fn read(&self) -> usize {
        // SAFETY: loom looks.
        self.0.0.with(|place| unsafe { *place })
    }
}

/// Counts, one decimal digit for each number. Loom does not see it.
type Tally = Arc<AtomicUsize>;

fn count(tally: &Tally, number: usize) {
    tally.fetch_add(10_usize.pow(number as u32), Relaxed);
}

thread_local! {
    /// What has come to the loop, in order. All threads of a model are one to the system.
    static CAME: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

fn came(number: usize) -> usize {
    CAME.with_borrow_mut(|came| {
        came.push(number);
        came.len()
    })
}

// ---- posts, wake-ups, stops

struct Message {
    number: usize,
    content: Shared,
    /// After this many the loop is to stop.
    expected: usize,
    /// Of those that were dropped.
    dropped: Tally,
}

impl Drop for Message {
    fn drop(&mut self) {
        assert_eq!(self.content.read(), self.number);
        count(&self.dropped, self.number);
    }
}

fn message(number: usize, expected: usize, dropped: &Tally) -> Box<Completion<Message>> {
    let content = Shared::new(usize::MAX);
    content.write(number);
    Box::new(Completion::new(Message { number, content, expected, dropped: dropped.clone() }))
}

fn post(handle: &LoopHandle, number: usize, expected: usize, dropped: &Tally) {
    let posted = handle.post(message(number, expected, dropped), |lp, message| {
        assert_eq!(message.content.read(), message.number);
        if came(message.number) == message.expected {
            lp.stop();
        }
    });
    // The owner that comes back is whole.
    drop(posted);
}

/// Posts these on a thread of its own, which then lets go of the loop.
fn posting(lp: &Loop, numbers: Range<usize>, expected: usize, dropped: &Tally) -> JoinHandle<()> {
    let (handle, dropped) = (lp.handle(), dropped.clone());
    thread::spawn(move || numbers.for_each(|number| post(&handle, number, expected, &dropped)))
}

#[test]
fn every_post_arrives_and_those_of_one_thread_in_their_order() {
    check(2, || {
        let (mut lp, dropped) = (busy_loop(), Tally::default());
        let threads = [posting(&lp, 0..2, 3, &dropped), posting(&lp, 2..3, 3, &dropped)];
        lp.run(RunMode::UntilDone).unwrap();
        let came = CAME.take();
        assert!(came.iter().position(|&n| n == 0) < came.iter().position(|&n| n == 1), "{came:?}");
        assert_eq!(dropped.load(Relaxed), 111);
        join(threads);
    });
}

/// The loop that finds itself alone sleeps without a word; what other threads did before must have been seen.
#[test]
fn the_last_post_is_not_lost_when_its_handle_is_dropped_or_cloned() {
    check(3, || {
        let (mut lp, dropped) = (busy_loop(), Tally::default());
        let (handle, of_thread) = (lp.handle(), dropped.clone());
        let posting = thread::spawn(move || {
            let clone = handle.clone();
            drop(handle);
            post(&clone, 0, 2, &of_thread);
            let of_other = of_thread.clone();
            let other = thread::spawn(move || post(&clone, 1, 2, &of_other));
            other.join().unwrap();
        });
        lp.run(RunMode::UntilDone).unwrap();
        assert_eq!(CAME.take(), [0, 1]);
        posting.join().unwrap();
        assert_eq!(dropped.load(Relaxed), 11);
    });
}

#[test]
fn a_post_to_a_loop_that_is_dropped_comes_back_or_is_dropped_with_it() {
    check(3, || {
        let (lp, dropped) = (busy_loop(), Tally::default());
        let threads = [posting(&lp, 0..2, 9, &dropped), posting(&lp, 2..3, 9, &dropped)];
        drop(lp);
        join(threads);
        assert_eq!(dropped.load(Relaxed), 111);
        assert_eq!(CAME.take(), []);
    });
}

#[test]
fn a_wake_up_ends_a_wait_however_many_there_are() {
    check(3, || {
        let mut lp = busy_loop();
        let threads = [lp.handle(), lp.handle()].map(|handle| thread::spawn(move || handle.wake()));
        lp.run(RunMode::Once).unwrap();
        join(threads);
    });
}

#[test]
fn a_stop_is_not_lost_among_wake_ups_and_posts() {
    check(2, || {
        let (mut lp, dropped) = (busy_loop(), Tally::default());
        let (other, stopping, of_other) = (lp.handle(), lp.handle(), dropped.clone());
        let threads = [
            thread::spawn(move || {
                other.wake();
                post(&other, 0, 9, &of_other);
                other.wake();
            }),
            thread::spawn(move || stopping.stop()),
        ];
        lp.run(RunMode::UntilDone).unwrap();
        drop(lp);
        join(threads);
        assert_eq!(dropped.load(Relaxed), 1);
        CAME.take();
    });
}

#[test]
fn a_stop_ends_run_for_and_what_came_before_it_is_seen() {
    check(3, || {
        let mut lp = busy_loop();
        let (waking, stopping) = (lp.handle(), lp.handle());
        let content = Shared::new(0);
        let threads = [thread::spawn(move || waking.wake()), {
            let content = content.clone();
            thread::spawn(move || {
                content.write(1);
                stopping.stop();
            })
        }];
        lp.run_for(Duration::MAX).unwrap();
        assert_eq!(content.read(), 1);
        join(threads);
    });
}

#[test]
fn the_descriptor_of_a_loop_shows_posts_that_came_before_it_was_polled_and_after() {
    check(3, || {
        let (mut lp, dropped) = (busy_loop(), Tally::default());
        let threads = [posting(&lp, 0..1, 9, &dropped), posting(&lp, 1..2, 9, &dropped)];
        while dropped.load(Relaxed) < 11 {
            let _ = lp.as_fd();
            poll_descriptor();
            lp.run(RunMode::NoWait).unwrap();
        }
        join(threads);
        CAME.take();
    });
}

// ---- notifiers

struct Waiting {
    notifier: Notifier,
    content: Shared,
}

/// Waits, and says in `CAME` how that ended: with 1 if it was notified, 0 if it was cancelled.
fn wait(lp: &mut Loop, notifier: &Notifier, content: &Shared) -> OpId {
    let waiting = Waiting { notifier: notifier.clone(), content: content.clone() };
    lp.submit(
        Box::new(Completion::new(waiting)),
        |w| w.notifier.wait(),
        |_, waiting, end| {
            match end {
                Ok(()) => assert_eq!(waiting.content.read(), 1),
                Err(ref error) => {
                    assert!(matches!(Cause::of(error), Some(Cause::Canceled | Cause::AlreadyWaiting)))
                }
            }
            came(usize::from(end.is_ok()));
        },
    )
}

fn notifying(notifier: &Notifier, content: &Shared) -> JoinHandle<()> {
    let (notifier, content) = (notifier.clone(), content.clone());
    thread::spawn(move || {
        content.write(1);
        notifier.notify();
    })
}

/// Whether a wait that begins now would end at once.
fn is_pending(lp: &mut Loop, notifier: &Notifier, content: &Shared) -> bool {
    CAME.take();
    let id = wait(lp, notifier, content);
    lp.cancel(id);
    lp.run(RunMode::UntilDone).unwrap();
    CAME.take() == [1]
}

#[test]
fn a_notification_is_had_by_a_wait_that_comes_before_it_or_after() {
    check(6, || {
        let (mut lp, notifier, content) = (new_loop(), Notifier::new(), Shared::new(0));
        let notifying = notifying(&notifier, &content);
        wait(&mut lp, &notifier, &content);
        lp.run(RunMode::UntilDone).unwrap();
        assert_eq!(CAME.take(), [1]);
        notifying.join().unwrap();
        assert!(!is_pending(&mut lp, &notifier, &content), "once is enough");
    });
}

/// Two notifications may be one, but what was written before either of them is seen.
#[test]
fn two_clones_that_notify_at_once_are_both_heard() {
    check(3, || {
        let (mut lp, notifier) = (new_loop(), Notifier::new());
        let written: Arc<[AtomicBool; 2]> = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let threads = [0, 1].map(|n| {
            let (notifier, written) = (notifier.clone(), written.clone());
            thread::spawn(move || {
                written[n].store(true, Relaxed);
                notifier.notify();
            })
        });
        lp.submit_multi(
            Box::new(Completion::new(Multi::new(notifier, written))),
            |notifier| notifier.wait_multi(),
            |_, written, ()| match written.iter().all(|written| written.load(Relaxed)) {
                true => Action::Disarm,
                false => Action::Rearm,
            },
            |_, _, end| end.unwrap(),
        );
        lp.run(RunMode::UntilDone).unwrap();
        join(threads);
    });
}

#[test]
fn a_notification_is_had_by_a_wait_that_is_cancelled_or_by_the_next_and_by_one_of_them_only() {
    check(6, || {
        let (mut lp, notifier, content) = (new_loop(), Notifier::new(), Shared::new(0));
        let notifying = notifying(&notifier, &content);
        let id = wait(&mut lp, &notifier, &content);
        let canceled = lp.cancel(id);
        lp.run(RunMode::UntilDone).unwrap();
        notifying.join().unwrap();
        assert_eq!(CAME.take(), [usize::from(!canceled)]);
        assert_eq!(is_pending(&mut lp, &notifier, &content), canceled);
    });
}

#[test]
fn a_notification_to_a_loop_that_is_dropped_is_kept_for_the_next_wait() {
    check(6, || {
        let (mut lp, notifier, content) = (new_loop(), Notifier::new(), Shared::new(0));
        let notifying = notifying(&notifier, &content);
        wait(&mut lp, &notifier, &content);
        drop(lp);
        notifying.join().unwrap();
        assert!(is_pending(&mut new_loop(), &notifier, &content));
    });
}

#[test]
fn a_notification_is_had_by_one_of_two_loops() {
    fn wait_a_moment(notifier: &Notifier, content: &Shared) {
        let mut lp = new_loop();
        let id = wait(&mut lp, notifier, content);
        lp.run(RunMode::NoWait).unwrap();
        lp.cancel(id);
        lp.run(RunMode::UntilDone).unwrap();
    }
    check(3, || {
        let (notifier, content) = (Notifier::new(), Shared::new(0));
        let notifying = notifying(&notifier, &content);
        let waiting = {
            let (notifier, content) = (notifier.clone(), content.clone());
            thread::spawn(move || wait_a_moment(&notifier, &content))
        };
        wait_a_moment(&notifier, &content);
        join([notifying, waiting]);
        let had: usize = CAME.take().into_iter().sum();
        assert_eq!(had + usize::from(is_pending(&mut new_loop(), &notifier, &content)), 1);
    });
}

// ---- jobs

struct Work {
    content: Shared,
    runs: Tally,
}

/// `CAME` gets a 1 for work that was done, a 0 for work that was cancelled.
fn offload(lp: &mut Loop, pool: &ThreadPool, runs: &Tally) -> OpId {
    let work = Work { content: Shared::new(0), runs: runs.clone() };
    offload_in(lp, pool, Box::new(Completion::new(work)))
}

fn offload_in(lp: &mut Loop, pool: &ThreadPool, place: Box<Completion<Work>>) -> OpId {
    lp.offload(
        pool,
        place,
        |work| {
            work.content.write(1);
            count(&work.runs, 0);
        },
        |_, work, end| {
            assert!(end.is_ok() || is_canceled(end.as_ref().unwrap_err()));
            assert_eq!(work.content.read(), usize::from(end.is_ok()));
            came(usize::from(end.is_ok()));
        },
    )
}

/// A pool with one worker, which ends after this many tasks.
fn pool(tasks: usize) -> (ThreadPool, JoinHandle<()>) {
    let pool = ThreadPool::for_models();
    let of_worker = pool.clone();
    (pool, thread::spawn(move || of_worker.work(tasks)))
}

#[test]
fn work_that_is_offloaded_is_done_and_comes_back() {
    check(4, || {
        let (mut lp, (pool, worker), runs) = (new_loop(), pool(2), Tally::default());
        offload(&mut lp, &pool, &runs);
        offload(&mut lp, &pool, &runs);
        lp.run(RunMode::UntilDone).unwrap();
        assert_eq!(CAME.take(), [1, 1]);
        assert_eq!(runs.load(Relaxed), 2);
        worker.join().unwrap();
    });
}

#[test]
fn work_that_is_cancelled_is_done_or_not_as_the_cancel_says() {
    check(4, || {
        let (mut lp, (pool, worker), runs) = (new_loop(), pool(1), Tally::default());
        let id = offload(&mut lp, &pool, &runs);
        let cancelled = lp.cancel(id);
        lp.run(RunMode::UntilDone).unwrap();
        assert_eq!(CAME.take(), [usize::from(!cancelled)]);
        assert_eq!(runs.load(Relaxed), usize::from(!cancelled));
        worker.join().unwrap();
    });
}

/// The worker comes to the first job when the second has taken the operation's place in the table.
#[test]
fn work_that_was_cancelled_is_not_taken_for_what_comes_after_it() {
    check(3, || {
        let (mut lp, (pool, worker), runs) = (new_loop(), pool(2), Tally::default());
        let id = offload(&mut lp, &pool, &runs);
        let cancelled = lp.cancel(id);
        offload(&mut lp, &pool, &runs);
        lp.run(RunMode::UntilDone).unwrap();
        let mut came = CAME.take();
        came.sort_unstable();
        assert_eq!(came, [usize::from(!cancelled), 1]);
        assert_eq!(runs.load(Relaxed), 2 - usize::from(cancelled));
        worker.join().unwrap();
    });
}

/// Its owner is dropped at once; the worker finds the job, and neither the owner nor the loop.
#[test]
fn work_that_no_worker_has_begun_is_withdrawn_from_a_busy_pool_when_its_loop_is_dropped() {
    check(4, || {
        let mut lp = builder().drain_timeout(Duration::ZERO).build().unwrap();
        let pool = ThreadPool::for_models();
        let runs = Tally::default();
        offload(&mut lp, &pool, &runs);
        let of_worker = pool.clone();
        drop(lp);
        assert_eq!(std::sync::Arc::strong_count(&runs), 1, "the owner was dropped");
        thread::spawn(move || of_worker.work(1)).join().unwrap();
        assert_eq!(runs.load(Relaxed), 0);
    });
}

#[test]
fn a_loop_that_is_dropped_waits_for_its_work() {
    check(4, || {
        let (mut lp, (pool, worker), runs) = (new_loop(), pool(1), Tally::default());
        let content = Shared::new(0);
        let work = Work { content: content.clone(), runs };
        lp.offload(&pool, Box::new(Completion::new(work)), |work| work.content.write(1), |_, _, _| ());
        drop(lp);
        // Not at the same time as the worker.
        content.write(2);
        worker.join().unwrap();
    });
}

/// The worker finds the loop gone, and its queue still there.
#[test]
fn work_that_outlives_its_loop_keeps_the_queue() {
    check(4, || {
        let mut lp = builder().drain_timeout(Duration::ZERO).build().unwrap();
        let ((pool, worker), runs) = (pool(1), Tally::default());
        offload(&mut lp, &pool, &runs);
        drop(lp);
        worker.join().unwrap();
        assert_eq!(CAME.take(), []);
        assert!(runs.load(Relaxed) <= 1);
    });
}
