//! One worker: where its tasks are, and the loop that it runs.
#![allow(unsafe_code)]

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{
    buffer::{CAPACITY, Ring},
    injector::{Found, Injector},
    shared::Shared,
    sync::CachePadded,
    task::{Disposition, RawTask},
};
use crate::sys::affinity;

/// A worker looks at the common queue first after this many tasks, so that tasks which keep making tasks
/// cannot hold back the others without end. Prime, to keep out of step with patterns in the tasks (the number is
/// Go's).
const FAIRNESS_PERIOD: usize = 61;

/// The tasks that wait at one worker.
pub(super) struct Worker {
    pub(super) ring: CachePadded<Ring>,
    /// What the worker scheduled and did not fit into the ring.
    pub(super) overflow: Injector,
}

impl Worker {
    pub(super) fn new() -> Worker {
        Worker { ring: CachePadded(Ring::new()), overflow: Injector::new() }
    }

    fn has_tasks(&self) -> bool {
        self.ring.has_tasks() || self.overflow.has_tasks()
    }
}

thread_local! {
    /// The pool that this thread works for, while tasks may run on it, and the number of its worker.
    static CURRENT: Cell<(*const Shared, usize)> = const { Cell::new((ptr::null(), 0)) };
    /// The pool that this thread was made for. It stays when the loop has ended, for destructors of other
    /// thread-local values.
    static MADE_FOR: Cell<*const Shared> = const { Cell::new(ptr::null()) };
}

/// The worker of `shared` that the calling thread runs, if any.
#[inline]
pub(super) fn current(shared: &Shared) -> Option<&Worker> {
    let (pool, index) = CURRENT.get();
    if ptr::eq(pool, shared) { Some(shared.worker(index)) } else { None }
}

/// Whether the calling thread was made for this pool.
pub(super) fn is_of(shared: &Shared) -> bool {
    ptr::eq(MADE_FOR.get(), shared)
}

/// What a worker has to do when it finds its next task.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Duty {
    None,
    /// It took a mark: it has to look whether there is more than what it found.
    Look,
    /// It is the waking worker besides: it has to give up that part.
    HandOver,
}

/// The body of a pool thread.
pub(super) fn run(shared: &Arc<Shared>, index: usize) {
    let cores = &shared.settings().cores;
    if !cores.is_empty() {
        affinity::bind_to(cores[index % cores.len()]);
    }
    MADE_FOR.set(Arc::as_ptr(shared));
    CURRENT.set((Arc::as_ptr(shared), index));
    let running = Running {
        shared,
        own: shared.worker(index),
        duty: Cell::new(Duty::None),
        until_fair: Cell::new(FAIRNESS_PERIOD),
        random: Cell::new(index as u32 * 2 + 1),
    };
    let mut waking = false;
    while let Some(is_waking) = shared.sync().wait(shared.event(), waking) {
        running.duty.set(if is_waking { Duty::HandOver } else { Duty::Look });
        running.run_all();
        waking = running.duty.get() == Duty::HandOver;
    }
    // Shut down. What can be seen is dealt with here; what cannot is in the hands of another worker, which
    // comes to this point after it.
    running.duty.set(Duty::None);
    running.run_all();
    CURRENT.set((ptr::null(), 0));
    shared.worker_ended();
}

/// The state of a running loop; it is on the stack of the one thread that owns the ring of `own`.
struct Running<'a> {
    shared: &'a Arc<Shared>,
    own: &'a Worker,
    duty: Cell<Duty>,
    /// How many tasks to run before the next look at the common queue.
    until_fair: Cell<usize>,
    random: Cell<u32>,
}

impl Running<'_> {
    /// Runs tasks until none is found.
    fn run_all(&self) {
        // Around the loop rather than the task: entering costs something, and a panic is rare.
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.run_until_panic())) {
            self.shared.panics().fetch_add(1, Relaxed);
            drop_payload(panic);
        }
    }

    fn run_until_panic(&self) {
        while let Some(found) = self.find() {
            if self.duty.get() != Duty::None || found.more {
                self.pass_on(found.more);
            }
            let disposition =
                if self.shared.is_discarding() { Disposition::Discard } else { Disposition::Run };
            // SAFETY: P3: `find` gave this task to this thread only; P5: it is not used after this.
            unsafe { RawTask::run(found.task, disposition) };
        }
    }

    /// Sees to it that what this worker leaves behind does not lie there while others sleep.
    #[cold]
    fn pass_on(&self, more: bool) {
        let sync = self.shared.sync();
        let wake = match self.duty.replace(Duty::None) {
            Duty::HandOver => sync.hand_over(more),
            Duty::Look | Duty::None if more => Some(sync.notify_more()),
            Duty::Look | Duty::None => None,
        };
        match wake {
            Some(wake) => self.shared.wake(wake),
            None if self.sees_tasks() => self.shared.wake(sync.notify_more()),
            None => {}
        }
    }

    fn sees_tasks(&self) -> bool {
        self.shared.injector().has_tasks() || self.shared.workers().iter().any(Worker::has_tasks)
    }

    #[inline]
    fn find(&self) -> Option<Found> {
        if let Some(left) = self.until_fair.get().checked_sub(1) {
            self.until_fair.set(left);
        } else if let Some(found) = self.find_fairly() {
            return Some(found);
        }
        // SAFETY: P4: this thread runs the worker whose ring it is.
        if let Some(task) = unsafe { self.own.ring.pop() } {
            return Some(Found { task, more: false });
        }
        self.find_elsewhere()
    }

    #[cold]
    fn find_fairly(&self) -> Option<Found> {
        self.until_fair.set(FAIRNESS_PERIOD);
        // SAFETY: P4: this thread runs the worker whose ring it is.
        unsafe { self.shared.injector().refill(&self.own.ring, 0) }
    }

    #[cold]
    fn find_elsewhere(&self) -> Option<Found> {
        let ring: &Ring = &self.own.ring;
        // SAFETY: P4: this thread runs the worker whose ring it is.
        let refill = |queue: &Injector| unsafe { queue.refill(ring, CAPACITY) };
        if let Some(found) = refill(&self.own.overflow) {
            return Some(found);
        }
        if let Some(found) = refill(self.shared.injector()) {
            // What came from there is run first; else the newer ones would overtake it.
            self.until_fair.set(ring.len() + FAIRNESS_PERIOD);
            return Some(found);
        }
        let workers = self.shared.workers();
        let first = self.next_random() as usize % workers.len();
        let (before, from_first) = workers.split_at(first);
        for victim in from_first.iter().chain(before) {
            if ptr::eq(victim, self.own) {
                continue;
            }
            // SAFETY: P4: as above.
            if let Some(found) = unsafe { victim.ring.steal_into(ring) } {
                return Some(found);
            }
            if let Some(found) = refill(&victim.overflow) {
                return Some(found);
            }
        }
        None
    }

    /// Marsaglia's xorshift: enough to spread thieves over their victims.
    fn next_random(&self) -> u32 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.random.set(x);
        x
    }
}

/// Drops what a task panicked with, which may panic again.
pub(super) fn drop_payload(panic: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        // The program does it on purpose. A leak ends it.
        std::mem::forget(second);
    }
}
