//! What no selector can wait for is done by a thread pool. A job is a place for one operation on its way
//! there and back; operations that find none free wait in order.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use super::super::Operations;
use super::calls;
use super::queue::{Nodes, Place, Queue};
use crate::completion::Header;
use crate::errand;
use crate::in_flight::Token;
use crate::op::RawOp;
use crate::thread_pool::{Disposition, RawTask, ThreadPool};

/// Operations of one loop that are with the pool at once. More would only wait there.
const JOBS_MAX: usize = 256;

#[repr(C)]
struct Job {
    /// First, for it is by the header that a job comes back.
    header: Header,
    /// A copy, so that an operation that is withdrawn is done with at once, wherever its job is.
    work: RawOp,
    /// The memory that the job is in, of which it has a count while it is away.
    memory: *const Memory,
}

/// The memory of all jobs. It lives until the last job is back, or has found its loop gone.
struct Memory(UnsafeCell<[Job; JOBS_MAX]>);

// SAFETY: S14: a job is the loop's or the pool's, never both's.
unsafe impl Send for Memory {}
// SAFETY: S14: as above.
unsafe impl Sync for Memory {}

pub(super) struct Jobs {
    memory: Arc<Memory>,
    free: Vec<u16>,
    waiting: Queue,
    pool: Option<ThreadPool>,
}

/// How a job was started.
pub(super) enum Started {
    /// It comes back.
    Later,
    /// No pool takes it: it was done in place.
    Done(i32),
}

/// A job that has come back.
pub(super) struct Returned {
    pub(super) token: Token,
    pub(super) result: i32,
}

impl Jobs {
    pub(super) fn new(pool: Option<ThreadPool>) -> Jobs {
        let job = || {
            let mut header = Header::new();
            header.op = RawOp::job();
            Job { header, work: RawOp::immediate(0), memory: std::ptr::null() }
        };
        let memory = Arc::new(Memory(UnsafeCell::new(std::array::from_fn(|_| job()))));
        Jobs { memory, free: (0..JOBS_MAX as u16).rev().collect(), waiting: Queue::default(), pool }
    }

    fn job(&self, index: usize) -> NonNull<Job> {
        debug_assert!(index < JOBS_MAX);
        // SAFETY: S14: a pointer to the array is not null.
        let first = unsafe { NonNull::new_unchecked(self.memory.0.get().cast::<Job>()) };
        // SAFETY: S14: within the array.
        unsafe { first.add(index) }
    }

    /// Has an operation done, now or when its turn comes.
    ///
    /// # Safety
    /// As [`calls::blocking`], until it is reported or withdrawn.
    pub(super) unsafe fn start(
        &mut self,
        token: Token,
        op: &RawOp,
        nodes: &mut Nodes,
        ops: &Operations,
    ) -> Started {
        let Some(index) = self.free.pop() else {
            nodes.push(&mut self.waiting, token, Place::WaitingForJob);
            return Started::Later;
        };
        let job = self.job(usize::from(index));
        // SAFETY: S14: a free job is ours.
        unsafe { (*job.as_ptr()).work = *op };
        // SAFETY: S14: as above.
        unsafe { (*job.as_ptr()).memory = Arc::into_raw(Arc::clone(&self.memory)) };
        let pool = self.pool.as_ref().unwrap_or_else(|| default_pool());
        // SAFETY: S14: as above; what the work points to is the operation's until it is reported.
        if unsafe { errand::send(job.cast(), token, run, ops.inbox(), Some(pool)) }.is_ok() {
            nodes.enter_job(token, usize::from(index));
            return Started::Later;
        }
        // SAFETY: S14: the pool did not take it.
        unsafe { self.release(job, index) };
        // SAFETY: S6: the caller's promise.
        Started::Done(unsafe { calls::blocking(op) })
    }

    /// Takes a job back.
    ///
    /// # Safety
    /// `header` is that of a job of ours that has come back.
    pub(super) unsafe fn take(&mut self, header: NonNull<Header>, nodes: &mut Nodes) -> Option<Returned> {
        let job: NonNull<Job> = header.cast();
        // SAFETY: S14: both are places in the array.
        let index = unsafe { job.offset_from_unsigned(self.job(0)) };
        // SAFETY: S14: it has come back.
        let token = unsafe { errand::token_of(header) };
        // SAFETY: S14: as above.
        let result = unsafe { (*header.as_ptr()).outcome }.result;
        // SAFETY: S14: as above.
        unsafe { self.release(job, index as u16) };
        if nodes.place(token) != Place::InJob || nodes.job(token) != index {
            // It was withdrawn.
            return None;
        }
        nodes.leave_job(token);
        Some(Returned { token, result })
    }

    /// # Safety
    /// `job` is the loop's again.
    unsafe fn release(&mut self, job: NonNull<Job>, index: u16) {
        // SAFETY: S14: the caller's promise.
        let memory = unsafe { (*job.as_ptr()).memory };
        // SAFETY: S14: the count that was made when it was started.
        unsafe { Arc::decrement_strong_count(memory) };
        self.free.push(index);
    }

    /// The operation that has waited longest for a job, if one is free.
    pub(super) fn next_waiting(&mut self, nodes: &mut Nodes) -> Option<Token> {
        let token = nodes.head(&self.waiting).filter(|_| !self.free.is_empty())?;
        nodes.remove(&mut self.waiting, token);
        Some(token)
    }

    /// An operation shall not be done. `false`: it is being done.
    pub(super) fn withdraw(&mut self, token: Token, nodes: &mut Nodes) -> bool {
        if nodes.place(token) == Place::WaitingForJob {
            nodes.remove(&mut self.waiting, token);
            return true;
        }
        let header: *mut Header = self.job(nodes.job(token)).as_ptr().cast();
        // SAFETY: S14: a raw place in a job.
        let op = unsafe { &raw mut (*header).op };
        // SAFETY: S14: the job was sent, and is not back.
        let withdrawn = unsafe { errand::withdraw(op) };
        if withdrawn {
            nodes.leave_job(token);
        }
        withdrawn
    }
}

/// On a worker.
unsafe fn run(task: NonNull<RawTask>, disposition: Disposition) {
    let work = |header: NonNull<Header>| {
        // SAFETY: S14: the header is a job's first field, and the job is the worker's.
        let op = unsafe { &(*header.cast::<Job>().as_ptr()).work };
        // SAFETY: S6: the operation is in flight, for it was not withdrawn.
        unsafe { calls::blocking(op) }
    };
    // SAFETY: S14: `start` sent it.
    if let Err(header) = unsafe { errand::run(task, disposition, work) } {
        // SAFETY: S14: the loop is gone, so the job is ours.
        let memory = unsafe { (*header.cast::<Job>().as_ptr()).memory };
        // SAFETY: S14: and so is its count.
        unsafe { Arc::decrement_strong_count(memory) };
    }
}

/// The pool of all loops that were not given one.
fn default_pool() -> &'static ThreadPool {
    /// Threads that wait for disks wait more than they compute.
    const THREADS_MIN: usize = 4;
    static POOL: OnceLock<ThreadPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).max(THREADS_MIN);
        let builder = ThreadPool::builder().thread_name("oxev-blocking");
        builder.max_threads(threads).build().unwrap_or_else(|_| ThreadPool::new())
    })
}
