//! What the handles and the workers of one pool share: its queues, its threads and its end.
#![allow(unsafe_code)]

use std::{
    io,
    ptr::NonNull,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::Ordering::{AcqRel, Relaxed, SeqCst},
    },
    thread,
    time::Duration,
};

use crate::fork::Home;

use super::{
    Shutdown,
    builder::Builder,
    error::ScheduleError,
    event::Event,
    injector::Injector,
    scope::Helpers,
    sync::{AtomicBool, AtomicUsize, CachePadded, read},
    sync_state::{SyncState, Wake},
    task::{RawBatch, RawTask},
    worker::{self, Worker},
};

/// See the module's text.
pub(super) struct Shared {
    sync: SyncState,
    event: CachePadded<Event>,
    injector: Injector,
    workers: Box<[Worker]>,
    settings: Builder,
    /// Workers from this one on have never run.
    workers_used: AtomicUsize,
    discard: AtomicBool,
    handles: CachePadded<AtomicUsize>,
    panics: AtomicUsize,
    helpers: Helpers,
    threads: Mutex<Threads>,
    joined: Condvar,
    /// A forked child has the pool without its threads. `None`: there was no page for it.
    home: Option<Home>,
}

/// The threads that were made and not joined yet.
struct Threads {
    handles: Vec<thread::JoinHandle<()>>,
    /// Calls of `join` that have taken handles and wait for them.
    joiners: usize,
    /// Threads whose loop has not ended.
    running: usize,
    #[cfg(test)]
    attempts: usize,
}

impl Shared {
    pub(super) fn new(settings: Builder) -> Shared {
        let max_threads = settings.max_threads;
        Shared {
            sync: SyncState::new(max_threads),
            event: CachePadded(Event::new()),
            injector: Injector::new(),
            workers: (0..max_threads).map(|_| Worker::new()).collect(),
            settings,
            workers_used: AtomicUsize::new(0),
            discard: AtomicBool::new(false),
            handles: CachePadded(AtomicUsize::new(1)),
            panics: AtomicUsize::new(0),
            helpers: Helpers::new(max_threads),
            threads: Mutex::new(Threads {
                handles: Vec::with_capacity(max_threads),
                joiners: 0,
                running: 0,
                #[cfg(test)]
                attempts: 0,
            }),
            joined: Condvar::new(),
            home: Home::new(1).ok(),
        }
    }

    /// This process is a forked child of the one that made the pool.
    pub(super) fn is_inherited(&self) -> bool {
        self.home.as_ref().is_some_and(Home::is_inherited)
    }

    pub(super) fn sync(&self) -> &SyncState {
        &self.sync
    }

    pub(super) fn event(&self) -> &Event {
        &self.event
    }

    pub(super) fn injector(&self) -> &Injector {
        &self.injector
    }

    pub(super) fn settings(&self) -> &Builder {
        &self.settings
    }

    pub(super) fn helpers(&self) -> &Helpers {
        &self.helpers
    }

    #[inline]
    pub(super) fn worker(&self, index: usize) -> &Worker {
        &self.workers[index]
    }

    /// Every worker that ever ran.
    #[inline]
    pub(super) fn workers(&self) -> &[Worker] {
        &self.workers[..read!(self.workers_used)]
    }

    #[inline]
    pub(super) fn is_discarding(&self) -> bool {
        self.discard.load(Relaxed)
    }

    pub(super) fn panics(&self) -> &AtomicUsize {
        &self.panics
    }

    /// How many handles there are.
    pub(super) fn handles(&self) -> &AtomicUsize {
        &self.handles
    }

    /// Takes one task.
    ///
    /// # Safety
    /// The caller holds the task (P1) and gives it up, unless an error is returned.
    #[inline]
    pub(super) unsafe fn schedule(self: &Arc<Shared>, task: NonNull<RawTask>) -> Result<(), ScheduleError> {
        if let Some(worker) = worker::current(self) {
            if self.sync.is_shut_down() {
                return Err(ScheduleError::ShutDown);
            }
            // SAFETY: P4: this thread runs the worker, so it owns its ring; P1 by this function's contract.
            if unsafe { worker.ring.push(task) } {
                self.wake(self.sync.notify());
                return Ok(());
            }
        }
        // SAFETY: P1 by this function's contract.
        unsafe { self.schedule_batch(&RawBatch::of(task)) }
    }

    /// Takes all tasks of a batch.
    ///
    /// # Safety
    /// The caller holds the tasks (P1) and gives them up, unless an error is returned.
    #[inline]
    pub(super) unsafe fn schedule_batch(self: &Arc<Shared>, batch: &RawBatch) -> Result<(), ScheduleError> {
        if batch.is_empty() {
            return Ok(());
        }
        let queue = match worker::current(self) {
            // A worker's own queue is never closed: what it pushes there, it empties itself before it ends.
            Some(_) if self.sync.is_shut_down() => return Err(ScheduleError::ShutDown),
            Some(worker) => &worker.overflow,
            None if self.is_inherited() => return Err(ScheduleError::ShutDown),
            None => {
                if !self.sync.is_started() {
                    self.spawn_first()?;
                }
                &self.injector
            }
        };
        // SAFETY: P1 by this function's contract.
        if !unsafe { queue.push(batch) } {
            return Err(ScheduleError::ShutDown);
        }
        self.wake(self.sync.notify());
        Ok(())
    }

    /// Does what a change of the state asked for.
    #[inline]
    pub(super) fn wake(self: &Arc<Shared>, wake: Wake) {
        match wake {
            Wake::None => {}
            Wake::Sleeper => self.event.notify(),
            Wake::NewThread => self.spawn_another(),
        }
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the first thread, before any task is taken: so a refusal can still be told to the caller.
    #[cold]
    fn spawn_first(self: &Arc<Shared>) -> Result<(), ScheduleError> {
        let mut threads = self.threads();
        if self.sync.is_started() {
            return Ok(());
        }
        if !self.sync.first_spawn_begins() {
            return Err(ScheduleError::ShutDown);
        }
        let made = self.spawn(&mut threads);
        self.sync.first_spawn_ends(made.is_ok());
        made.map_err(ScheduleError::ThreadCreation)
    }

    /// Makes a thread that `sync` has counted. If that fails, those that exist have to do.
    #[cold]
    fn spawn_another(self: &Arc<Shared>) {
        let mut threads = self.threads();
        // `join` takes the handles under this lock after the shutdown, so no thread may be added behind it.
        if self.sync.is_shut_down() || self.spawn(&mut threads).is_err() {
            self.sync.spawn_failed();
        }
    }

    fn spawn(self: &Arc<Shared>, threads: &mut Threads) -> io::Result<()> {
        #[cfg(test)]
        if let Some(refuse) = self.settings.refuse_spawn {
            threads.attempts += 1;
            if refuse(threads.attempts) {
                return Err(io::Error::from(io::ErrorKind::OutOfMemory));
            }
        }
        let index = threads.handles.len();
        let mut builder = thread::Builder::new().name(format!("{}-{index}", self.settings.thread_name));
        if let Some(bytes) = self.settings.stack_size {
            builder = builder.stack_size(bytes);
        }
        let shared = Arc::clone(self);
        // Before the thread can push to its ring, so that no worker searches without it.
        self.workers_used.store(index + 1, SeqCst);
        let handle = builder.spawn(move || worker::run(&shared, index))?;
        threads.handles.push(handle);
        threads.running += 1;
        Ok(())
    }

    /// Takes no more tasks, and lets the workers end when they have dealt with those that were taken.
    pub(super) fn shut_down(&self, how: Shutdown) {
        if how == Shutdown::Discard {
            self.discard.store(true, Relaxed);
        }
        self.injector.close();
        self.sync.shut_down();
        self.event.close();
    }

    /// Waits until every thread has ended. The caller is no worker of this pool, and the pool is shut down.
    pub(super) fn join(&self) {
        debug_assert!(self.sync.is_shut_down());
        let mut threads = self.threads();
        if !threads.handles.is_empty() {
            threads.joiners += 1;
            let handles = std::mem::take(&mut threads.handles);
            drop(threads);
            for handle in handles {
                // A worker does not panic; if it did, there is nothing left to do about it.
                let _ = handle.join();
            }
            threads = self.threads();
            threads.joiners -= 1;
            self.joined.notify_all();
        }
        while threads.joiners > 0 {
            threads = self.joined.wait(threads).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The loop of a worker has ended.
    pub(super) fn worker_ended(&self) {
        let mut threads = self.threads();
        threads.running -= 1;
        if threads.running == 0 {
            self.joined.notify_all();
        }
    }

    /// As [`Shared::join`], but not for longer than this: threads that have not ended then end by themselves.
    fn join_within(&self, limit: Duration) {
        let is_running = |threads: &mut Threads| threads.running > 0;
        let waited = self.joined.wait_timeout_while(self.threads(), limit, is_running);
        let (mut threads, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            threads.handles.clear();
        } else {
            drop(threads);
            self.join();
        }
    }

    /// Called when a handle is dropped.
    pub(super) fn release(&self) {
        if let Some(this) = self.shut_down_by_last() {
            this.join();
        }
    }

    /// Called when a handle is dropped by one who waits no longer than this.
    pub(super) fn release_within(&self, limit: Duration) {
        if let Some(this) = self.shut_down_by_last() {
            this.join_within(limit);
        }
    }

    /// Gives a handle up, and shuts the pool down with the last one. Then it is given to be joined, except on a
    /// worker, which cannot wait for itself; the last thread that ends frees what is shared.
    fn shut_down_by_last(&self) -> Option<&Shared> {
        if self.handles.fetch_sub(1, AcqRel) > 1 || self.is_inherited() {
            return None;
        }
        self.shut_down(Shutdown::Drain);
        Some(self).filter(|_| !worker::is_of(self))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::mpsc;

    use crate::thread_pool::{Batch, ScheduleError, Task, ThreadPool};

    fn pool(max_threads: usize, refuse_spawn: fn(usize) -> bool) -> ThreadPool {
        let mut builder = ThreadPool::builder().max_threads(max_threads);
        builder.refuse_spawn = Some(refuse_spawn);
        builder.build().unwrap()
    }

    fn answer(pool: &ThreadPool, number: u32) -> mpsc::Receiver<u32> {
        let (answer, answers) = mpsc::channel();
        pool.spawn(Box::new(Task::new((number, answer))), |task: Box<Task<(u32, mpsc::Sender<u32>)>>| {
            task.1.send(task.0).unwrap()
        })
        .unwrap();
        answers
    }

    #[test]
    fn a_pool_recovers_when_its_first_thread_can_be_made_after_all() {
        let pool = pool(2, |attempt| attempt <= 2);
        let rejected = pool.spawn(Box::new(Task::new(3)), |_| unreachable!()).unwrap_err();
        assert!(matches!(rejected.error(), ScheduleError::ThreadCreation(_)));
        assert_eq!(**rejected.into_owner(), 3);
        let mut batch = Batch::new();
        batch.push(Box::new(Task::new(())), |_| unreachable!());
        assert_eq!(pool.spawn_batch(batch).unwrap_err().into_owner().len(), 1);
        assert_eq!(pool.threads(), 0);
        assert_eq!(answer(&pool, 7).recv(), Ok(7));
    }

    #[test]
    fn a_live_worker_does_all_the_work_when_no_other_can_be_made() {
        let pool = pool(3, |attempt| attempt > 1);
        let answers: Vec<_> = (0..1000).map(|number| answer(&pool, number)).collect();
        for (number, answer) in answers.iter().enumerate() {
            assert_eq!(answer.recv(), Ok(number as u32));
        }
        assert_eq!(pool.threads(), 1);
        pool.join().unwrap();
    }

    /// The refused thread would have been needed: the only worker is blocked until another one comes.
    #[test]
    fn a_worker_calls_for_help_again_after_a_thread_was_refused() {
        let pool = pool(2, |attempt| attempt == 2);
        let (first_open, first_gate) = mpsc::channel::<()>();
        let (begun, has_begun) = mpsc::channel();
        type Blocker = Task<(mpsc::Sender<()>, mpsc::Receiver<()>)>;
        #[expect(clippy::boxed_local, reason = "it is the owner")]
        fn block(task: Box<Blocker>) {
            task.0.send(()).unwrap();
            task.1.recv().unwrap();
        }
        pool.spawn(Box::new(Task::new((begun.clone(), first_gate))), block).unwrap();
        has_begun.recv().unwrap();
        // Needs a second thread, which is refused now.
        let (second_open, second_gate) = mpsc::channel::<()>();
        pool.spawn(Box::new(Task::new((begun, second_gate))), block).unwrap();
        let last = answer(&pool, 9);
        assert_eq!(pool.threads(), 1);
        first_open.send(()).unwrap();
        // The worker goes into the second blocker, and calls another one for what it left behind.
        has_begun.recv().unwrap();
        assert_eq!(last.recv(), Ok(9));
        assert_eq!(pool.threads(), 2);
        second_open.send(()).unwrap();
    }
}
