//! Models for loom: every order in which the threads of these small programs can run is tried (within a bound
//! on preemptions), and every value that a load may return. Run them with `.ci/loom.sh thread_pool`.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use loom::{cell::UnsafeCell, sync::Arc, sync::atomic::AtomicUsize, thread};

use super::{
    buffer::{CAPACITY, Ring},
    event::Event,
    injector::{Found, Injector},
    sync::Ordering::{Relaxed, SeqCst},
    sync_state::{SyncState, Wake},
    task::{Disposition, RawBatch, RawTask},
};

/// A task that finds out if it is taken twice, or without having been handed over properly: loom tracks the
/// cell.
#[repr(C)]
struct Probe {
    header: RawTask,
    number: UnsafeCell<usize>,
}

fn no_function(_: NonNull<RawTask>, _: Disposition) {}

fn probe(number: usize) -> NonNull<RawTask> {
    let probe = Box::new(Probe { header: RawTask::new(no_function), number: UnsafeCell::new(number) });
    NonNull::from(Box::leak(probe)).cast()
}

/// Does what running a task does to its memory: uses it and frees it. Returns its number.
fn consume(task: NonNull<RawTask>) -> usize {
    // SAFETY: made by `probe`; a second time is what the models look for, and loom reports the use of the
    // cell.
    let probe = unsafe { Box::from_raw(task.cast::<Probe>().as_ptr()) };
    // SAFETY: as above.
    probe.number.with_mut(|number| unsafe { *number })
}

fn batch(numbers: std::ops::Range<usize>) -> RawBatch {
    let mut batch = RawBatch::new();
    for number in numbers {
        // SAFETY: P1: just made.
        unsafe { batch.push(probe(number)) };
    }
    batch
}

fn push(injector: &Injector, numbers: std::ops::Range<usize>) -> bool {
    // SAFETY: P1: just made.
    unsafe { injector.push(&batch(numbers)) }
}

/// Takes everything that can be seen, through a ring. Returns the sum of 10^number, and how many had gone
/// through.
fn take_all(injector: &Injector, ring: &Ring) -> usize {
    let mut sum = 0;
    // SAFETY: P4: each thread of a model has a ring of its own.
    while let Some(found) = unsafe { injector.refill(ring, CAPACITY) } {
        sum += digit(consume(found.task)) + drain(ring);
    }
    sum
}

fn drain(ring: &Ring) -> usize {
    let mut sum = 0;
    // SAFETY: P4: as above.
    while let Some(task) = unsafe { ring.pop() } {
        sum += digit(consume(task));
    }
    sum
}

/// Counts how often each number was taken, one decimal digit for each.
fn digit(number: usize) -> usize {
    10_usize.pow(number as u32)
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

#[test]
fn injector_gives_each_task_to_one_of_two_consumers_while_two_push() {
    check(2, || {
        let injector = Arc::new(Injector::new());
        let pushers: Vec<_> = [0..2, 2..3]
            .into_iter()
            .map(|numbers| {
                let injector = Arc::clone(&injector);
                thread::spawn(move || {
                    assert!(push(&injector, numbers));
                    take_all(&injector, &Ring::new())
                })
            })
            .collect();
        let mut sum: usize = pushers.into_iter().map(|p| p.join().unwrap()).sum();
        sum += take_all(&injector, &Ring::new());
        assert_eq!(sum, 111);
    });
}

#[test]
fn injector_takes_a_push_or_refuses_it_when_it_is_closed_and_never_loses_it() {
    check(3, || {
        let injector = Arc::new(Injector::new());
        let pusher = {
            let injector = Arc::clone(&injector);
            thread::spawn(move || push_or_keep(&injector, 0) + push_or_keep(&injector, 1))
        };
        injector.close();
        let taken = take_all(&injector, &Ring::new());
        let kept = pusher.join().unwrap();
        assert_eq!(taken + kept, 11);
        assert!(!injector.has_tasks());
    });
}

fn push_or_keep(injector: &Injector, number: usize) -> usize {
    let task = probe(number);
    // SAFETY: P1: just made.
    if unsafe { injector.push(&RawBatch::of(task)) } { 0 } else { digit(consume(task)) }
}

/// The thread that fails to get the claim goes away; the one that has it must not overlook what came
/// meanwhile, also when it found nothing itself, because a third one was faster.
#[test]
fn injector_leaves_nothing_behind_when_consumers_give_way_to_each_other() {
    check(3, || {
        let injector = Arc::new(Injector::new());
        assert!(push(&injector, 0..1));
        let others: Vec<_> = (0..2)
            .map(|_| {
                let injector = Arc::clone(&injector);
                thread::spawn(move || take_all(&injector, &Ring::new()))
            })
            .collect();
        assert!(push(&injector, 1..2));
        let own = take_all(&injector, &Ring::new());
        let sum: usize = others.into_iter().map(|o| o.join().unwrap()).sum();
        assert_eq!(own + sum, 11);
        assert!(!injector.has_tasks());
    });
}

#[test]
fn ring_gives_each_task_to_its_owner_or_to_one_of_two_thieves() {
    check(2, || {
        let ring = Arc::new(Ring::new());
        let push = |number| {
            // SAFETY: P4: this thread owns the ring; P1: just made.
            assert!(unsafe { ring.push(probe(number)) });
        };
        push(0);
        push(1);
        let thieves: Vec<_> = (0..2)
            .map(|_| {
                let ring = Arc::clone(&ring);
                thread::spawn(move || steal(&ring))
            })
            .collect();
        push(2);
        let mut sum = drain(&ring);
        sum += thieves.into_iter().map(|t| t.join().unwrap()).sum::<usize>();
        assert_eq!(sum, 111);
    });
}

#[test]
fn ring_does_not_overwrite_a_slot_that_a_thief_still_reads() {
    check(3, || {
        let ring = Arc::new(Ring::new());
        let mut sum = 0;
        for number in 0..CAPACITY {
            // SAFETY: P4: this thread owns the ring; P1: just made.
            assert!(unsafe { ring.push(probe(number)) });
        }
        let thief = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || steal(&ring))
        };
        for number in CAPACITY..CAPACITY + 2 {
            let task = probe(number);
            // SAFETY: P4, P1: as above.
            if !unsafe { ring.push(task) } {
                sum += digit(consume(task));
            }
        }
        sum += drain(&ring) + thief.join().unwrap();
        assert_eq!(sum, 111_111);
    });
}

fn steal(victim: &Ring) -> usize {
    let own = Ring::new();
    // SAFETY: P4: this thread owns the ring that it steals into.
    unsafe { victim.steal_into(&own) }.map_or(0, |found| digit(consume(found.task)) + drain(&own))
}

/// The pool without its threads' creation: two workers with a ring each, a common queue, the state word, the
/// event.
struct MiniPool {
    sync: SyncState,
    event: Event,
    injector: Injector,
    rings: Vec<Ring>,
    /// Sum of the digits of the tasks that were run.
    run: AtomicUsize,
    /// Tasks that still have to be run before the pool is shut down.
    left: AtomicUsize,
    /// Where a task of the model waits for another one.
    gate: Event,
}

/// Pushes task 1 into its worker's ring, and keeps that worker until it was run.
const SPAWNS_AND_WAITS: usize = 0;
/// Opens the gate.
const OPENS: usize = 1;
/// Keeps its worker until the gate is open.
const WAITS: usize = 2;
/// Pushes the task that waits into the common queue.
const SPAWNS: usize = 3;

impl MiniPool {
    fn new(workers: u32, tasks: usize) -> Arc<MiniPool> {
        let pool = MiniPool {
            sync: SyncState::new(workers as usize),
            event: Event::new(),
            injector: Injector::new(),
            rings: (0..workers).map(|_| Ring::new()).collect(),
            run: AtomicUsize::new(0),
            left: AtomicUsize::new(tasks),
            gate: Event::new(),
        };
        // All threads exist from the beginning.
        pool.sync.start_with(workers);
        Arc::new(pool)
    }

    fn wake(&self, wake: Wake) {
        match wake {
            Wake::None => {}
            Wake::Sleeper => self.event.notify(),
            Wake::NewThread => unreachable!("all are there"),
        }
    }

    fn spawn(&self, numbers: std::ops::Range<usize>) {
        assert!(push(&self.injector, numbers));
        self.wake(self.sync.notify());
    }

    /// As in `worker.rs`.
    fn work(&self, own: usize) {
        let mut waking = false;
        while let Some(is_waking) = self.sync.wait(&self.event, waking) {
            let (mut look, mut hand_over) = (true, is_waking);
            while let Some(found) = self.find(own) {
                let wake = match (hand_over, found.more) {
                    (true, more) => self.sync.hand_over(more),
                    (false, true) => Some(self.sync.notify_more()),
                    (false, false) => None,
                };
                if let Some(wake) = wake {
                    self.wake(wake);
                } else if look && self.sees_tasks() {
                    self.wake(self.sync.notify_more());
                }
                (look, hand_over) = (false, false);
                self.run(own, consume(found.task));
            }
            waking = hand_over;
        }
    }

    fn find(&self, own: usize) -> Option<Found> {
        // SAFETY: P4: worker `own` is one thread.
        if let Some(task) = unsafe { self.rings[own].pop() } {
            return Some(Found { task, more: false });
        }
        // SAFETY: P4: as above.
        if let Some(found) = unsafe { self.injector.refill(&self.rings[own], CAPACITY) } {
            return Some(found);
        }
        let others = (0..self.rings.len()).filter(|&other| other != own);
        others
            .map(|other| &self.rings[other])
            // SAFETY: P4: as above.
            .find_map(|victim| unsafe { victim.steal_into(&self.rings[own]) })
    }

    fn sees_tasks(&self) -> bool {
        self.injector.has_tasks() || self.rings.iter().any(Ring::has_tasks)
    }

    fn run(&self, own: usize, number: usize) {
        if number == SPAWNS_AND_WAITS {
            // SAFETY: P4: worker `own` is this thread; P1: just made.
            assert!(unsafe { self.rings[own].push(probe(OPENS)) });
            self.wake(self.sync.notify());
        }
        match number {
            SPAWNS => self.spawn(WAITS..WAITS + 1),
            OPENS => self.gate.close(),
            _ => self.gate.wait(),
        }
        self.run.fetch_add(digit(number), Relaxed);
        if self.left.fetch_sub(1, SeqCst) == 1 {
            self.sync.shut_down();
            self.event.close();
        }
    }
}

/// Runs the workers and, beside them, `submit`, which then is the last worker.
fn run_pool(workers: u32, tasks: usize, submit: impl Fn(&MiniPool)) -> usize {
    let pool = MiniPool::new(workers, tasks);
    let last = workers as usize - 1;
    let others: Vec<_> = (0..last)
        .map(|own| {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.work(own))
        })
        .collect();
    submit(&pool);
    pool.work(last);
    for other in others {
        other.join().unwrap();
    }
    pool.run.load(Relaxed)
}

/// Runs one worker, and `submit` on a thread of its own.
fn run_worker(tasks: usize, submit: impl Fn(&MiniPool)) -> usize {
    let pool = MiniPool::new(1, tasks);
    let worker = {
        let pool = Arc::clone(&pool);
        thread::spawn(move || pool.work(0))
    };
    submit(&pool);
    worker.join().unwrap();
    pool.run.load(Relaxed)
}

// A lost wake-up leaves a worker asleep without end in these, which loom reports as a deadlock. Tasks that wait
// for others are bad manners, but the pool keeps its workers busy nevertheless: so they show whether a task
// lies anywhere while a worker sleeps.

#[test]
fn pool_of_one_worker_runs_everything_that_is_pushed_at_any_time() {
    check(3, || {
        let run = run_worker(2, |pool| {
            pool.spawn(OPENS..OPENS + 1);
            pool.spawn(WAITS..WAITS + 1);
        });
        assert_eq!(run, 110);
    });
}

#[test]
fn pool_of_two_workers_runs_what_is_pushed_from_outside_beside_a_task_that_waits() {
    check(3, || {
        let run = run_pool(2, 2, |pool| {
            pool.spawn(WAITS..WAITS + 1);
            pool.spawn(OPENS..OPENS + 1);
        });
        assert_eq!(run, 110);
    });
}

#[test]
fn pool_wakes_another_worker_for_what_one_leaves_in_its_ring() {
    check(3, || {
        let run = run_pool(2, 2, |pool| {
            pool.spawn(SPAWNS_AND_WAITS..SPAWNS_AND_WAITS + 1);
        });
        assert_eq!(run, 11);
    });
}

/// A worker takes a task while another one is refused the claim and goes to sleep, though more has come
/// meanwhile.
#[test]
fn pool_wakes_another_worker_for_what_came_while_it_was_refused() {
    check(3, || {
        let run = run_pool(2, 3, |pool| {
            pool.spawn(SPAWNS..SPAWNS + 1);
            pool.spawn(OPENS..OPENS + 1);
        });
        assert_eq!(run, 1110);
    });
}

#[test]
fn pool_wakes_another_worker_for_the_rest_of_a_batch() {
    check(3, || {
        let run = run_pool(2, 2, |pool| pool.spawn(OPENS..WAITS + 1));
        assert_eq!(run, 110);
    });
}

/// Two marks that merge: one is for the injector, the other for a ring, and who takes them finds one of the
/// two tasks.
#[test]
fn pool_wakes_a_third_worker_when_two_marks_were_one() {
    check(2, || {
        let run = run_pool(3, 3, |pool| {
            pool.spawn(SPAWNS_AND_WAITS..SPAWNS_AND_WAITS + 1);
            pool.spawn(WAITS..WAITS + 1);
        });
        assert_eq!(run, 111);
    });
}
