//! The way of an operation to a thread pool and back: what [`Loop::offload`](crate::Loop::offload) and the
//! files of readiness backends share.
//!
//! A *job* is a place for one operation on its way. It is not in the operation's own memory, for a pool has no
//! way to take a task out of its queues: so an operation that is cancelled before a worker has begun it ends
//! at once, whenever the worker comes to its job. All jobs are made with the loop; their memory lives until
//! the last of them is back, or has found its loop gone.
//!
//! The header of a job has the pool's task, the operation's name, and the queue that brings the job back. Its
//! `backend_state` says who may have the work:
//!
//! | who | from | to | and then |
//! |---|---|---|---|
//! | a worker | `QUEUED` | `RUNNING` | does the work |
//! | the loop, that cancels | `QUEUED` | `WITHDRAWN` | the worker that comes to it does nothing |
//! | the loop, that cancels what touches its job alone | `RUNNING` | `ABANDONED` | |
//! | the worker | `RUNNING` | `DONE` | has a result |
//! | the worker | `ABANDONED` | `DONE` | lets go of what the result stands for |
//!
//! In every case the worker puts the result into the header's outcome and the header into the queue of its loop,
//! which has the job from there.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::fmt;
use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::ptr::NonNull;

use crate::completion::Header;
use crate::inbox::Inbox;
use crate::memory;
use crate::op::words::WORDS_BYTES;
use crate::op::{OpKind, Outcome, RawOp};
use crate::sync::{Arc, AtomicU16, Ordering};
use crate::sys::errno;
use crate::thread_pool::{Disposition, RawTask, ScheduleError, ThreadPool};
use crate::token::Token;

const QUEUED: u16 = 0;
const RUNNING: u16 = 1;
const WITHDRAWN: u16 = 2;
const ABANDONED: u16 = 3;
const DONE: u16 = 4;

/// What the jobs of a table do.
///
/// # Safety
/// It may be done on any thread.
pub(crate) unsafe trait Work: Sized {
    /// In a header of such a job: whose it is.
    const DESCRIPTION: RawOp;

    /// Does the work, on a worker.
    ///
    /// # Safety
    /// `this` is the worker's until the job is back (S14). Called once.
    unsafe fn run(this: *mut Self) -> i32;

    /// Lets go of what a result stands for that came too late: the operation has ended, or the loop is gone.
    ///
    /// # Safety
    /// As [`Work::run`], after it, with its result or an error.
    unsafe fn discard(this: *mut Self, result: i32);
}

#[repr(C)]
struct Job<W> {
    /// First, for it is by the header that a job comes back.
    header: Header,
    /// The memory that the job is in, of which it has a count while it is away.
    memory: *const Memory<W>,
    work: W,
}

/// The memory of all jobs of a table.
struct Memory<W>(Box<[UnsafeCell<MaybeUninit<Job<W>>>]>);

// SAFETY: S14: a job is the loop's or the pool's, never both's; its work may be done on any thread.
unsafe impl<W: Work> Send for Memory<W> {}
// SAFETY: S14: a shared memory gives places alone; the state of a job says which party may touch one.
unsafe impl<W: Work> Sync for Memory<W> {}

/// The four words of a job's header.
#[repr(C)]
struct Words {
    task: RawTask,
    token: Token,
    /// A count of the queue.
    inbox: *const Inbox,
}

const TASK: usize = offset_of!(Header, op) + RawOp::WORDS + offset_of!(Words, task);
const _: () = assert!(size_of::<Words>() <= WORDS_BYTES && RawOp::WORDS.is_multiple_of(align_of::<Words>()));

fn words_of(header: NonNull<Header>) -> *mut Words {
    header.as_ptr().wrapping_byte_add(offset_of!(Header, op) + RawOp::WORDS).cast()
}

/// # Safety
/// `header` is that of a job that was sent.
unsafe fn state_of<'a>(header: NonNull<Header>) -> &'a AtomicU16 {
    // SAFETY: S14: a raw place in a job.
    let state = unsafe { &raw mut (*header.as_ptr()).op.backend_state };
    // SAFETY: S14: while a job is away the word is only used as an atomic.
    unsafe { AtomicU16::from_ptr(state) }
}

/// The jobs of one loop for one kind of work.
pub(crate) struct Jobs<W: Work> {
    memory: Arc<Memory<W>>,
    /// Jobs that were used and are free; there is room for all.
    free: Vec<u32>,
    /// Jobs from this one on were never used.
    untouched: u32,
}

impl<W: Work> fmt::Debug for Jobs<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").finish_non_exhaustive()
    }
}

/// A job that has come back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Returned {
    /// The operation that it was for.
    pub(crate) token: Token,
    /// Which job it is.
    pub(crate) job: u32,
    pub(crate) outcome: Outcome,
}

/// Why a job was not sent.
#[derive(Debug)]
pub(crate) enum NotSent {
    /// All are away.
    NoneFree,
    /// The pool does not take it.
    Refused(ScheduleError),
}

impl<W: Work> Jobs<W> {
    /// Makes `count` jobs.
    pub(crate) fn new(count: u32) -> io::Result<Jobs<W>> {
        let memory = Arc::new(Memory(memory::uninit(count as usize)?));
        Ok(Jobs { memory, free: memory::list(count as usize)?, untouched: 0 })
    }

    fn job(&self, index: u32) -> NonNull<Job<W>> {
        let job: *mut MaybeUninit<Job<W>> = self.memory.0[index as usize].get();
        // SAFETY: S14: a place in the table is not null.
        unsafe { NonNull::new_unchecked(job.cast()) }
    }

    /// Whether a job is free.
    pub(crate) fn has_free(&self) -> bool {
        !self.free.is_empty() || (self.untouched as usize) < self.memory.0.len()
    }

    fn take_free(&mut self) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        let index = self.untouched;
        self.memory.0.get(index as usize)?;
        self.untouched += 1;
        Some(index)
    }

    /// Sends work to a pool, and says by which job; it comes back through the queue of `inbox`. Without a
    /// pool the work is done here and now, and comes back as well.
    ///
    /// # Safety
    /// `write` writes the whole work to the place that it gets. What the work touches is the pool's until the
    /// job comes back or is withdrawn (S14).
    pub(crate) unsafe fn send(
        &mut self,
        token: Token,
        write: impl FnOnce(*mut W),
        inbox: &Arc<Inbox>,
        pool: Option<&ThreadPool>,
    ) -> Result<u32, NotSent> {
        let index = self.take_free().ok_or(NotSent::NoneFree)?;
        let job = self.job(index);
        let header: NonNull<Header> = job.cast();
        // SAFETY: S14: a free job is ours.
        let header_place = unsafe { &raw mut (*job.as_ptr()).header };
        // SAFETY: S14: a free job is ours, its header, too.
        unsafe { header_place.write(Header::new()) };
        // SAFETY: S14: the header was written above.
        unsafe { (*header_place).op = W::DESCRIPTION };
        // SAFETY: S14: the place is in a free job.
        write(unsafe { &raw mut (*job.as_ptr()).work });
        // SAFETY: S14: a free job is ours.
        unsafe { (*job.as_ptr()).memory = Arc::into_raw(Arc::clone(&self.memory)) };
        let inbox = Arc::into_raw(Arc::clone(inbox));
        let words = words_of(header);
        // SAFETY: S14: the words lie in the header of a free job.
        unsafe { words.write(Words { task: RawTask::new(run::<W>), token, inbox }) };
        // SAFETY: S14: the header of a free job has a state.
        unsafe { state_of(header) }.store(QUEUED, Ordering::Relaxed);
        // SAFETY: S14: the first of the words; not null, as the header is not.
        let task = unsafe { NonNull::new_unchecked(words.cast::<RawTask>()) };
        let Some(pool) = pool else {
            // SAFETY: S14: as a worker does it.
            unsafe { run::<W>(task, Disposition::Run) };
            return Ok(index);
        };
        // SAFETY: S14: the job is the pool's from here on.
        match unsafe { pool.schedule_raw(task) } {
            Ok(()) => Ok(index),
            Err(error) => {
                // SAFETY: S14: the pool did not take it, so the count is ours to give back.
                drop(unsafe { Arc::from_raw(inbox) });
                // SAFETY: S14: and so is the job.
                unsafe { self.release(index) };
                Err(NotSent::Refused(error))
            }
        }
    }

    /// # Safety
    /// The job was sent, and is ours again.
    unsafe fn release(&mut self, index: u32) {
        let job = self.job(index).as_ptr();
        // SAFETY: S14: the caller's promise.
        let memory = unsafe { (*job).memory };
        // SAFETY: S14: the count that was made when it was sent.
        drop(unsafe { Arc::from_raw(memory) });
        self.free.push(index);
    }

    /// Keeps a pool from beginning a job. `false`: it has begun, or is done. The job comes back in either
    /// case; if it was withdrawn, what the work would have touched is the loop's again.
    ///
    /// # Safety
    /// The job was sent, and is not back.
    pub(crate) unsafe fn withdraw(&self, index: u32) -> bool {
        // SAFETY: S14: the caller's promise.
        let state = unsafe { state_of(self.job(index).cast()) };
        // Relaxed: the state alone is agreed on; everything else goes with the queues.
        state.compare_exchange(QUEUED, WITHDRAWN, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Ends an operation whose work has begun and touches nothing but its job: a late result is let go of.
    /// `false`: it has not begun, or is done.
    ///
    /// # Safety
    /// As [`Jobs::withdraw`].
    pub(crate) unsafe fn abandon(&self, index: u32) -> bool {
        // SAFETY: S14: the caller's promise.
        let state = unsafe { state_of(self.job(index).cast()) };
        // Relaxed: as above.
        state.compare_exchange(RUNNING, ABANDONED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Takes a job back. It is free, and its work lies there until the next one is sent.
    ///
    /// # Safety
    /// `header` is that of a job of this table that has come back.
    pub(crate) unsafe fn take(&mut self, header: NonNull<Header>) -> Returned {
        let job: NonNull<Job<W>> = header.cast();
        // SAFETY: S14: both are places in the table.
        let index = unsafe { job.offset_from_unsigned(self.job(0)) } as u32;
        // SAFETY: S14: it has come back.
        let token = unsafe { (*words_of(header)).token };
        // SAFETY: S14: it has come back, and the worker wrote its outcome before.
        let outcome = unsafe { (*header.as_ptr()).outcome };
        // SAFETY: S14: it was sent, and is ours again.
        unsafe { self.release(index) };
        Returned { token, job: index, outcome }
    }

    /// The operation of a job that has just come back has ended before: lets go of what the result stands for.
    pub(crate) fn discard(&mut self, returned: Returned) {
        let job = self.job(returned.job).as_ptr();
        // SAFETY: S14: the job is back, and no other was sent in its place.
        let work = unsafe { &raw mut (*job).work };
        // SAFETY: S14: nothing else touches the work of a job that is back.
        unsafe { W::discard(work, returned.outcome.result) };
    }
}

/// On a worker: does the work, unless it is not wanted any more, and sends the job back with the result.
unsafe fn run<W: Work>(task: NonNull<RawTask>, disposition: Disposition) {
    // SAFETY: S14: the task lies there in its header.
    let header: NonNull<Header> = unsafe { task.byte_sub(TASK) }.cast();
    let job: *mut Job<W> = header.cast().as_ptr();
    // SAFETY: S14: the header is this worker's, the state aside.
    let state = unsafe { state_of(header) };
    let claim = state.compare_exchange(QUEUED, RUNNING, Ordering::Relaxed, Ordering::Relaxed);
    // SAFETY: S14: a raw place in the job.
    let work = unsafe { &raw mut (*job).work };
    let mut outcome = Outcome::untried(-errno::ECANCELED);
    if claim.is_ok() && disposition == Disposition::Run {
        // SAFETY: S14: the work is this worker's.
        let result = unsafe { W::run(work) };
        if state.swap(DONE, Ordering::Relaxed) == ABANDONED {
            // SAFETY: S14: an abandoned job is still this worker's, and nothing else has its result.
            unsafe { W::discard(work, result) };
        } else {
            outcome = Outcome::new(result);
        }
    }
    // SAFETY: S14: the header is this worker's until it is pushed.
    unsafe { (*header.as_ptr()).outcome = outcome };
    // SAFETY: S14: the words are in that header.
    let inbox = unsafe { (*words_of(header)).inbox };
    // SAFETY: S14: the count that `send` put there; it is taken once. It outlives the push, which may end in
    // waking the loop.
    let inbox = unsafe { Arc::from_raw(inbox) };
    // SAFETY: S14: the header is on no list, and from here on the loop's.
    if unsafe { inbox.push(header) }.is_ok() {
        return;
    }
    // SAFETY: S14: the loop is gone, so the job stays this worker's.
    unsafe { W::discard(work, outcome.result) };
    // SAFETY: S14: nothing else has a job whose loop is gone.
    let memory = unsafe { (*job).memory };
    // SAFETY: S14: the job's count.
    drop(unsafe { Arc::from_raw(memory) });
}

/// Work on the state of an owner: [`Loop::offload`](crate::Loop::offload).
pub(crate) struct OwnerWork {
    /// The completion; it is leaked if its loop does not wait for the work.
    pub(crate) owner: NonNull<Header>,
    pub(crate) function: OwnerFn,
}

/// Works on the state behind a header.
///
/// # Safety
/// The header is that of an owner for which the function was made; it may be called on any thread.
pub(crate) type OwnerFn = unsafe fn(owner: NonNull<Header>) -> i32;

// SAFETY: `Loop::offload` takes state that is `Send` and a function that may be called anywhere.
unsafe impl Work for OwnerWork {
    const DESCRIPTION: RawOp = RawOp::new(OpKind::Offload, -1);

    unsafe fn run(this: *mut OwnerWork) -> i32 {
        // SAFETY: S14: the caller's promise.
        let OwnerWork { owner, function } = unsafe { this.read() };
        // SAFETY: S14: the state is the worker's until the job is back.
        unsafe { function(owner) }
    }

    unsafe fn discard(_: *mut OwnerWork, _: i32) {}
}

/// The errno of a pool that does not take a task.
pub(crate) fn refusal(error: &ScheduleError) -> i32 {
    match error {
        ScheduleError::ThreadCreation(error) => error.raw_os_error().unwrap_or(errno::EAGAIN),
        ScheduleError::ShutDown => errno::ESHUTDOWN,
    }
}
