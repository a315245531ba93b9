//! The handle.
#![allow(unsafe_code)]

use std::{
    fmt, io,
    mem::ManuallyDrop,
    ptr::{self, NonNull},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{
    builder::Builder,
    error::{Rejected, ScheduleError},
    scope,
    shared::Shared,
    task::{self, Batch, RawBatch, RawTask, TaskOwner},
    worker,
};
use crate::stateless::Stateless;

/// What happens at the shutdown to tasks that were scheduled and have not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// They are run. What they try to schedule themselves is refused.
    Drain,
    /// Their owners are dropped, on the pool's threads. [`RawTask`]s are called with
    /// [`Disposition::Discard`].
    ///
    /// [`Disposition::Discard`]: super::Disposition::Discard
    Discard,
}

/// A handle to a pool of threads. Clones are handles to the same pool, so any number of event loops can share
/// it.
///
/// When the last handle is dropped, the pool is shut down with [`Shutdown::Drain`] and its threads are
/// joined; if that happens on one of those threads, they end by themselves.
///
/// A forked child has none of the threads: there the pool is one that was shut down.
///
/// # Panics in tasks
/// A panic in a task is caught, and [counted](ThreadPool::panic_count); the worker goes on. The owner is
/// dropped by the unwinding, like everything that the callback owns.
pub struct ThreadPool {
    shared: Arc<Shared>,
}

impl ThreadPool {
    /// A pool with the default settings: as many threads as can run at once, made when there is work for
    /// them.
    #[expect(
        clippy::new_without_default,
        reason = "a pool of threads is not to come out of a derive by accident"
    )]
    pub fn new() -> ThreadPool {
        ThreadPool::with(Builder::new())
    }

    /// Begins to make a pool with other settings.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(super) fn with(settings: Builder) -> ThreadPool {
        ThreadPool { shared: Arc::new(Shared::new(settings)) }
    }

    /// Has `callback` called on a worker with `owner`, once.
    ///
    /// The callback is a function, or a closure that captures nothing (checked when it is compiled): what it
    /// needs stands in the task. From a worker of this pool, the task goes to that worker's own queue, and
    /// others steal it if they have nothing to do.
    ///
    /// ```
    /// use oxev::thread_pool::{Task, ThreadPool};
    /// fn step(mut task: Box<Task<u32>>) {
    ///     **task += 1;
    ///     println!("step {}", **task);
    /// }
    /// let pool = ThreadPool::new();
    /// pool.spawn(Box::new(Task::new(0)), step)?;
    /// # Ok::<(), oxev::thread_pool::Rejected<Box<Task<u32>>>>(())
    /// ```
    ///
    /// A closure that captures something is refused:
    /// ```compile_fail,E0080
    /// # use oxev::thread_pool::{Task, ThreadPool};
    /// let pool = ThreadPool::new();
    /// let number = 1;
    /// let _ = pool.spawn(Box::new(Task::new(())), move |_| println!("{number}"));
    /// ```
    ///
    /// # Errors
    /// The owner comes back if the pool has been shut down, or has no thread and cannot make one. A task that
    /// was taken is never lost: it is run, or dropped by [`Shutdown::Discard`].
    #[inline]
    pub fn spawn<P, C>(&self, owner: P, callback: C) -> Result<(), Rejected<P>>
    where
        P: TaskOwner,
        C: FnOnce(P) + Stateless + Send,
    {
        let task = task::erase(owner, callback);
        // SAFETY: P7: `erase` gave a task that nothing else uses; owner and callback are `Send`.
        match unsafe { self.shared.schedule(task) } {
            Ok(()) => Ok(()),
            // SAFETY: P7: it is the task of `erase::<P>`, and it was not taken.
            Err(error) => Err(Rejected::new(unsafe { task::restore(task) }, error)),
        }
    }

    /// Has all tasks of a batch run, as by [`spawn`](ThreadPool::spawn), by one atomic operation and at most
    /// one wake-up here; the workers wake each other.
    ///
    /// # Errors
    /// As for `spawn`; the whole batch comes back.
    pub fn spawn_batch(&self, batch: Batch) -> Result<(), Rejected<Batch>> {
        let tasks = batch.into_raw();
        // SAFETY: P1: the batch held these tasks, and gave them up; owners and callbacks are `Send`.
        match unsafe { self.shared.schedule_batch(&tasks) } {
            Ok(()) => Ok(()),
            // SAFETY: P1: none of them was taken.
            Err(error) => Err(Rejected::new(unsafe { Batch::from_raw(tasks) }, error)),
        }
    }

    /// Has a raw task's function called on a worker, once. See [`RawTask`].
    ///
    /// # Errors
    /// As for [`spawn`](ThreadPool::spawn); the task is the caller's again, and its function is not called.
    ///
    /// # Safety
    /// `task` points to a [`RawTask`] that is valid for reads and writes and that nothing else uses, and
    /// that is not scheduled already, until its function is called. Its function may be called on any thread,
    /// with either [`Disposition`](super::Disposition), and is sound to be called so once.
    #[inline]
    pub unsafe fn schedule_raw(&self, task: NonNull<RawTask>) -> Result<(), ScheduleError> {
        // SAFETY: P1 by this function's contract.
        unsafe { self.shared.schedule(task) }
    }

    /// Has the functions of all tasks of a raw batch called, as by
    /// [`schedule_raw`](ThreadPool::schedule_raw).
    ///
    /// # Errors
    /// As for `schedule_raw`; the whole batch comes back.
    ///
    /// # Safety
    /// What `schedule_raw` asks of a task holds for every task of the batch.
    pub unsafe fn schedule_raw_batch(&self, batch: RawBatch) -> Result<(), Rejected<RawBatch>> {
        // SAFETY: P1 by this function's contract.
        match unsafe { self.shared.schedule_batch(&batch) } {
            Ok(()) => Ok(()),
            Err(error) => Err(Rejected::new(batch, error)),
        }
    }

    /// Calls `f` for each item, in parallel on this thread and on workers, and returns when all calls have
    /// returned.
    ///
    /// It may be called from tasks and from `f` itself. It does not run other tasks while it waits, and it
    /// waits only for calls of `f` that have begun; so it comes to its end even if every worker is busy or
    /// blocked, or if the pool has been shut down: then this thread does all the work.
    ///
    /// ```
    /// use oxev::thread_pool::ThreadPool;
    /// let pool = ThreadPool::new();
    /// let mut numbers: Vec<u64> = (0..1000).collect();
    /// let factor = 3; // borrowed
    /// pool.each(&mut numbers, |number| *number *= factor);
    /// assert_eq!(numbers[999], 2997);
    /// ```
    ///
    /// # Panics
    /// If `f` panics, items that no thread has begun are left out, and when all calls that have begun are over,
    /// the panic goes on here. Of several panics, it is the first; the others are dropped.
    pub fn each<T, F>(&self, items: &mut [T], f: F)
    where
        T: Send,
        F: Fn(&mut T) + Sync,
    {
        scope::each(&self.shared, items, f);
    }

    /// Writes `f` of each input to the output at the same index, in the way of [`each`](ThreadPool::each).
    ///
    /// ```
    /// use oxev::thread_pool::ThreadPool;
    /// let pool = ThreadPool::new();
    /// let words = ["proactor", "ring", "futex"];
    /// let mut lengths = [0; 3];
    /// pool.map(&words, &mut lengths, |word| word.len());
    /// assert_eq!(lengths, [8, 4, 5]);
    /// ```
    ///
    /// # Panics
    /// If the slices are of different lengths, and as for `each`.
    pub fn map<T, U, F>(&self, inputs: &[T], outputs: &mut [U], f: F)
    where
        T: Sync,
        U: Send,
        F: Fn(&T) -> U + Sync,
    {
        scope::map(&self.shared, inputs, outputs, f);
    }

    /// Takes no more tasks; those that were taken are dealt with as `how` says, on the pool's threads, which
    /// then end. Does not wait for that: see [`join`](ThreadPool::join). Tasks that have begun are not
    /// interrupted.
    ///
    /// A second call can turn [`Drain`](Shutdown::Drain) into [`Discard`](Shutdown::Discard), not the other
    /// way.
    pub fn shutdown(&self, how: Shutdown) {
        self.shared.shut_down(how);
    }

    /// Shuts the pool down with [`Shutdown::Drain`] unless that was done, and waits until all its threads
    /// have ended.
    ///
    /// # Errors
    /// [`Deadlock`](io::ErrorKind::Deadlock), on a thread of this pool: it cannot wait for itself. The pool
    /// is shut down nevertheless.
    pub fn join(&self) -> io::Result<()> {
        if self.shared.is_inherited() {
            // It has no threads here.
            return Ok(());
        }
        self.shared.shut_down(Shutdown::Drain);
        if worker::is_of(&self.shared) {
            return Err(io::Error::from(io::ErrorKind::Deadlock));
        }
        self.shared.join();
        Ok(())
    }

    /// Whether the pool takes no more tasks.
    pub fn is_shut_down(&self) -> bool {
        self.shared.sync().is_shut_down() || self.is_inherited()
    }

    /// Whether this process is a forked child of the one that made the pool, and so has none of its threads.
    pub(crate) fn is_inherited(&self) -> bool {
        self.shared.is_inherited()
    }

    /// Whether the calling thread is one of this pool's.
    pub fn is_worker(&self) -> bool {
        worker::is_of(&self.shared)
    }

    /// The most threads that the pool makes.
    pub fn max_threads(&self) -> usize {
        self.shared.settings().max_threads
    }

    /// How many threads were made, or are being made.
    pub fn threads(&self) -> usize {
        self.shared.sync().spawned()
    }

    /// How many tasks have panicked, and owners that panicked when they were discarded. Panics in
    /// [`each`](ThreadPool::each) and [`map`](ThreadPool::map) are not counted: their caller sees them.
    pub fn panic_count(&self) -> usize {
        self.shared.panics().load(Relaxed)
    }
}

impl ThreadPool {
    /// Drops this handle. If it is the last one, the pool's threads are waited for no longer than this; those
    /// that have not ended then end by themselves.
    pub(crate) fn release_within(self, limit: Duration) {
        let this = ManuallyDrop::new(self);
        this.shared.release_within(limit);
        // SAFETY: P8: the handle's own reference, which is not dropped otherwise.
        drop(unsafe { ptr::read(&this.shared) });
    }
}

/// For models, which have threads of their own.
#[cfg(all(test, loom))]
impl ThreadPool {
    /// A pool with one worker, which is the thread that calls [`ThreadPool::work`].
    pub(crate) fn for_models() -> ThreadPool {
        let pool = ThreadPool::with(Builder::new().max_threads(1));
        pool.shared.sync().start_with(1);
        pool
    }

    /// Runs this many tasks.
    pub(crate) fn work(&self, mut tasks: usize) {
        let ring = super::buffer::Ring::new();
        let mut waking = false;
        while tasks > 0 {
            waking = self.shared.sync().wait(self.shared.event(), waking).expect("it is not shut down");
            // SAFETY: P4: the ring is this thread's.
            while let Some(found) = unsafe { self.shared.injector().refill(&ring, 0) } {
                // SAFETY: P3: the task was given to this thread only.
                unsafe { RawTask::run(found.task, task::Disposition::Run) };
                tasks -= 1;
            }
        }
    }
}

impl Clone for ThreadPool {
    fn clone(&self) -> ThreadPool {
        // Cannot overflow: every handle also counts in the `Arc`, which aborts first.
        let shared = Arc::clone(&self.shared);
        shared.handles().fetch_add(1, Relaxed);
        ThreadPool { shared }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.release();
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool")
            .field("max_threads", &self.max_threads())
            .field("threads", &self.threads())
            .field("is_shut_down", &self.is_shut_down())
            .finish_non_exhaustive()
    }
}
