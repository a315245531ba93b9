//! Work on a thread pool, and what it waits for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::super::program::{Backend, Work};
use super::Model;
use super::entry::{Effect, Entry, State};
use super::request::Request;

/// What work waits for until the program opens it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn open(&self) {
        *self.is_open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_all();
    }

    fn is_open(&self) -> bool {
        *self.is_open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        /// A program that goes wrong does not keep the thread.
        const PATIENCE: Duration = Duration::from_secs(60);
        let guard = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.opened.wait_timeout_while(guard, PATIENCE, |is_open| !*is_open);
    }
}

/// How far some work is. The worker tells it.
#[derive(Debug)]
pub(crate) struct Job {
    has_begun: AtomicBool,
    is_done: AtomicBool,
    gate: Option<Arc<Gate>>,
}

impl Job {
    pub(crate) fn new(gate: Option<Arc<Gate>>) -> Arc<Job> {
        Arc::new(Job { has_begun: AtomicBool::new(false), is_done: AtomicBool::new(false), gate })
    }

    pub(crate) fn begin(&self) {
        self.has_begun.store(true, Ordering::SeqCst);
        self.gate.iter().for_each(|gate| gate.wait());
    }

    pub(crate) fn end(&self) {
        self.is_done.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::SeqCst)
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.has_begun() && !self.is_done.load(Ordering::SeqCst)
    }

    /// It will not end before the program opens its gate.
    fn is_shut(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| !gate.is_open())
    }

    /// A worker has it, and is not to be had before the program opens the gate.
    fn blocks(&self) -> bool {
        self.has_begun() && self.is_shut()
    }
}

impl Entry {
    pub(super) fn job(&self) -> Option<&Arc<Job>> {
        if let Effect::Offload { job } = &self.effect { Some(job) } else { None }
    }

    /// A worker has it, and keeps it.
    pub(super) fn blocks(&self) -> bool {
        self.job().is_some_and(|job| job.blocks())
    }

    /// It waits for a worker.
    pub(super) fn needs_worker(&self, backend: Backend) -> bool {
        let Request::Single(work) = self.request else { return false };
        let is_file = matches!(
            work,
            Work::Read { .. }
                | Work::Write { .. }
                | Work::ReadOn { .. }
                | Work::Append { .. }
                | Work::Mixed { .. }
                | Work::Sync { .. }
                | Work::Metadata
                | Work::Open(_)
                | Work::CloseFile
                | Work::Close { .. }
        );
        matches!(work, Work::Offload { .. }) || is_file && backend.uses_thread_pool()
    }
}

impl Model {
    /// Some work keeps a worker, or will keep the next one.
    pub(super) fn pool_is_blocked(&self) -> bool {
        self.entries.iter().any(|e| {
            matches!(e.state, State::InFlight | State::Leaked) && e.job().is_some_and(|job| job.is_shut())
        })
    }

    /// All workers are kept.
    pub(super) fn no_worker_is_free(&self) -> bool {
        let kept =
            self.entries.iter().filter(|e| matches!(e.state, State::InFlight | State::Leaked) && e.blocks());
        self.workers.is_some_and(|workers| kept.count() >= workers)
    }

    /// Whether a worker has begun the work of a submission.
    pub(crate) fn has_begun(&self, number: usize) -> bool {
        self.entries[number].job().is_some_and(|job| job.has_begun())
    }

    /// Operations on a loop that wait for the program to open a gate.
    pub(crate) fn blocked(&self, on: usize) -> usize {
        let life = self.loops[on].life;
        let blocked = |e: &&Entry| {
            e.on == on
                && e.life == life
                && e.state == State::InFlight
                && e.job().is_some_and(|job| job.is_shut())
        };
        self.entries.iter().filter(blocked).count()
    }

    /// Those of them that have begun.
    pub(crate) fn blocking(&self, on: usize) -> usize {
        let life = self.loops[on].life;
        let blocking = |e: &&Entry| e.on == on && e.life == life && e.state == State::InFlight && e.blocks();
        self.entries.iter().filter(blocking).count()
    }

    /// Work goes on whose loop is gone.
    pub(crate) fn leaked_under_way(&self) -> bool {
        self.entries.iter().any(|e| e.state == State::Leaked && e.job().is_some_and(|job| job.is_under_way()))
    }

    /// Work that was to be withdrawn with its loop has been begun since.
    pub(crate) fn check_torn_down_jobs(&mut self) {
        for number in 0..self.entries.len() {
            let e = &self.entries[number];
            if e.state == State::TornDown && e.torn_down_unbegun && e.job().is_some_and(|job| job.has_begun())
            {
                let detail = self.describe(number);
                self.report("work is not begun when its owner is gone", detail);
            }
        }
    }
}
