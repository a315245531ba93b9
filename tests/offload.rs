//! `Loop::offload`, on every backend that this machine has: the way to the pool and back, and its early ends.

mod common;

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use oxev::thread_pool::Shutdown;
use oxev::{Completion, Loop, OpId, RunMode, ThreadPool};

/// Runs one body on each backend.
fn on_each(body: fn(Box<Loop>)) {
    for kind in common::backends() {
        body(Loop::builder().backend(kind).capacity(64).build().unwrap());
    }
}

thread_local! {
    /// The ends of this test's operations: their names, and what the errors were.
    static ENDS: RefCell<Vec<(&'static str, io::Result<()>)>> = const { RefCell::new(Vec::new()) };
}

fn ends() -> Vec<(&'static str, io::Result<()>)> {
    ENDS.take()
}

struct Job {
    name: &'static str,
    worker: Option<ThreadId>,
    runs: Arc<AtomicUsize>,
}

fn job(name: &'static str) -> Box<Completion<Job>> {
    Box::new(Completion::new(Job { name, worker: None, runs: Arc::default() }))
}

fn work(job: &mut Job) {
    job.worker = Some(std::thread::current().id());
    job.runs.fetch_add(1, Ordering::Relaxed);
}

#[expect(clippy::boxed_local, reason = "the owner comes back as it was")]
fn note(_: &mut Loop, job: Box<Completion<Job>>, end: io::Result<()>) {
    assert_eq!(job.worker.is_some(), end.is_ok());
    ENDS.with_borrow_mut(|ends| ends.push((job.name, end)));
}

fn offload(lp: &mut Loop, pool: &ThreadPool, name: &'static str) -> OpId {
    lp.offload(pool, job(name), work, note)
}

#[test]
fn the_work_is_done_on_a_worker_and_the_owner_comes_back() {
    on_each(|mut lp| {
        let pool = ThreadPool::new();
        let here = std::thread::current().id();
        offload(&mut lp, &pool, "one");
        assert_eq!(lp.len(), 1);
        lp.run(RunMode::UntilDone).unwrap();
        assert!(matches!(ends()[..], [("one", Ok(()))]));
        let state = Box::new(Completion::new((here, None::<ThreadId>)));
        lp.offload(
            &pool,
            state,
            |s| s.1 = Some(std::thread::current().id()),
            |_, s, end| {
                end.unwrap();
                assert_ne!(s.1, Some(s.0));
            },
        );
        lp.run(RunMode::UntilDone).unwrap();
    });
}

#[test]
fn a_callback_can_offload_again() {
    fn again(lp: &mut Loop, mut owner: Box<Completion<(ThreadPool, u32)>>, end: io::Result<()>) {
        end.unwrap();
        owner.1 += 1;
        if owner.1 < 100 {
            let pool = owner.0.clone();
            lp.offload(&pool, owner, |_| (), again);
        }
    }
    on_each(|mut lp| {
        let pool = ThreadPool::new();
        lp.offload(&pool, Box::new(Completion::new((pool.clone(), 0))), |_| (), again);
        lp.run(RunMode::UntilDone).unwrap();
    });
}

#[test]
fn queued_work_is_cancelled_and_never_done() {
    on_each(|mut lp| {
        let (pool, release) = common::busy_pool();
        let owner = job("queued");
        let runs = Arc::clone(&owner.runs);
        let id = lp.offload(&pool, owner, work, note);
        lp.run(RunMode::NoWait).unwrap();
        assert!(lp.cancel(id));
        assert!(!lp.cancel(id));
        drop(release);
        lp.run(RunMode::UntilDone).unwrap();
        let [("queued", Err(error))] = &ends()[..] else { panic!("not cancelled") };
        assert!(oxev::is_canceled(error));
        assert_eq!(runs.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn queued_work_has_deadlines() {
    on_each(|mut lp| {
        let (pool, release) = common::busy_pool();
        let id = offload(&mut lp, &pool, "late");
        assert!(lp.reset(id, Duration::from_millis(1)));
        lp.run_for(Duration::from_millis(20)).unwrap();
        drop(release);
        lp.run(RunMode::UntilDone).unwrap();
        let [("late", Err(error))] = &ends()[..] else { panic!("not timed out") };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    });
}

#[test]
fn queued_work_that_is_cancelled_or_late_ends_at_once_however_long_the_pool_is_busy() {
    on_each(|mut lp| {
        let (pool, _busy) = common::busy_pool();
        let [cancelled, late] = ["cancelled", "late"].map(|name| offload(&mut lp, &pool, name));
        assert!(lp.reset(late, Duration::from_millis(1)));
        assert!(lp.cancel(cancelled));
        lp.run(RunMode::UntilDone).unwrap();
        let [("cancelled", Err(cancelled)), ("late", Err(late))] = &ends()[..] else { panic!("not ended") };
        assert!(oxev::is_canceled(cancelled) && oxev::is_deadline(late));
    });
}

/// A pool has no way to give a task back, so it has the job until a worker comes to it.
#[test]
fn work_that_was_withdrawn_takes_room_until_a_worker_has_come_to_it() {
    on_each(|mut lp| {
        let (pool, busy) = common::busy_pool();
        for _ in 0..64 {
            let id = offload(&mut lp, &pool, "withdrawn");
            assert!(lp.cancel(id));
        }
        offload(&mut lp, &pool, "refused");
        lp.run(RunMode::UntilDone).unwrap();
        let refused = ends().into_iter().find(|(name, _)| *name == "refused");
        assert!(matches!(refused, Some((_, Err(e))) if oxev::is_table_full(&e)));
        drop(busy);
        // In a moment the worker has come to the first of them.
        loop {
            offload(&mut lp, &pool, "later");
            lp.run(RunMode::UntilDone).unwrap();
            match ends().pop() {
                Some((_, Ok(()))) => break,
                Some((_, Err(error))) => assert!(oxev::is_table_full(&error)),
                None => panic!("not ended"),
            }
        }
    });
}

#[test]
fn a_cancel_of_work_that_has_begun_changes_nothing_and_says_so() {
    on_each(|mut lp| {
        let pool = ThreadPool::new();
        let (begun, is_begun) = mpsc::channel::<()>();
        let (go, may_go) = mpsc::channel::<()>();
        let work = |(begun, may_go): &mut (mpsc::Sender<()>, mpsc::Receiver<()>)| {
            begun.send(()).unwrap();
            may_go.recv().unwrap();
        };
        let owner = Box::new(Completion::new((begun, may_go)));
        let id = lp.offload(&pool, owner, work, |_, _, end| end.unwrap());
        is_begun.recv().unwrap();
        assert!(!lp.cancel(id));
        assert!(
            lp.reset(id, Duration::from_secs(3600)),
            "a cancel that changed nothing is in no way of a deadline"
        );
        go.send(()).unwrap();
        lp.run(RunMode::UntilDone).unwrap();
        assert!(!lp.cancel(id));
    });
}

#[test]
fn work_that_has_begun_is_not_interrupted() {
    on_each(|mut lp| {
        let pool = ThreadPool::new();
        let (begun, is_begun) = mpsc::channel::<()>();
        let (go, may_go) = mpsc::channel::<()>();
        let id = lp.offload(
            &pool,
            Box::new(Completion::new((begun, may_go))),
            |(begun, may_go)| {
                begun.send(()).unwrap();
                may_go.recv().unwrap();
            },
            |_, _, end| end.unwrap(),
        );
        is_begun.recv().unwrap();
        lp.cancel(id);
        go.send(()).unwrap();
        lp.run(RunMode::UntilDone).unwrap();
    });
}

#[test]
fn a_panic_of_the_work_is_an_error_of_its_callback() {
    on_each(|mut lp| {
        let pool = ThreadPool::new();
        lp.offload(&pool, job("bomb"), |_| panic!("bomb, on purpose"), note);
        offload(&mut lp, &pool, "after");
        lp.run(RunMode::UntilDone).unwrap();
        let mut ends = ends();
        ends.sort_by_key(|(name, _)| *name);
        assert!(
            matches!(&ends[..], [("after", Ok(())), ("bomb", Err(e))] if e.kind() == io::ErrorKind::Other)
        );
    });
}

#[test]
fn a_pool_that_was_shut_down_is_an_error_of_the_callback() {
    on_each(|mut lp| {
        let pool = ThreadPool::new();
        pool.shutdown(Shutdown::Drain);
        offload(&mut lp, &pool, "refused");
        assert!(ends().is_empty(), "never inside `offload`");
        lp.run(RunMode::UntilDone).unwrap();
        assert!(matches!(&ends()[..], [("refused", Err(e))] if e.raw_os_error() == Some(libc::ESHUTDOWN)));
    });
}

#[test]
fn a_pool_that_discards_its_tasks_cancels_them() {
    on_each(|mut lp| {
        let (pool, release) = common::busy_pool();
        offload(&mut lp, &pool, "discarded");
        pool.shutdown(Shutdown::Discard);
        drop(release);
        lp.run(RunMode::UntilDone).unwrap();
        assert!(matches!(&ends()[..], [("discarded", Err(e))] if oxev::is_canceled(e)));
    });
}

#[test]
fn a_full_table_refuses_work() {
    on_each(|mut lp| {
        let (pool, release) = common::busy_pool();
        (0..65).for_each(|_| _ = offload(&mut lp, &pool, "many"));
        drop(release);
        lp.run(RunMode::UntilDone).unwrap();
        let refused = ends().into_iter().filter(|(_, end)| end.is_err()).collect::<Vec<_>>();
        assert!(matches!(&refused[..], [(_, Err(e))] if oxev::is_table_full(e)));
    });
}

#[test]
fn a_loop_that_is_dropped_waits_for_its_work() {
    on_each(|mut lp| {
        let pool = ThreadPool::new();
        let owner = job("dropped");
        let runs = Arc::clone(&owner.runs);
        let (begun, is_begun) = mpsc::channel::<()>();
        lp.offload(
            &pool,
            Box::new(Completion::new((begun, Arc::clone(&runs)))),
            |(begun, runs)| {
                begun.send(()).unwrap();
                let end = Instant::now() + Duration::from_millis(20);
                while Instant::now() < end {
                    std::hint::spin_loop();
                }
                runs.fetch_add(1, Ordering::Relaxed);
            },
            |_, _, _| unreachable!("no callback runs without a loop"),
        );
        is_begun.recv().unwrap();
        drop(lp);
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        assert_eq!(Arc::strong_count(&runs), 2, "the owner was dropped");
    });
}

#[test]
fn work_that_waits_is_withdrawn_when_the_loop_is_dropped() {
    on_each(|mut lp| {
        let (pool, release) = common::busy_pool();
        let owner = job("never");
        let runs = Arc::clone(&owner.runs);
        lp.offload(&pool, owner, work, note);
        // The pool is busy until the loop is gone.
        drop(lp);
        assert_eq!(Arc::strong_count(&runs), 1, "the owner was dropped");
        drop(release);
        pool.join().unwrap();
        assert!(ends().is_empty());
        assert_eq!(runs.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn work_keeps_until_done_running_and_wakes_the_loop() {
    on_each(|mut lp| {
        let pool = ThreadPool::new();
        for _ in 0..200 {
            offload(&mut lp, &pool, "one of many");
            lp.run(RunMode::Once).unwrap();
            lp.run(RunMode::UntilDone).unwrap();
            assert_eq!(ends().len(), 1);
        }
    });
}
