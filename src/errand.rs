//! The way of a header to a thread pool and back: what [`Loop::offload`](crate::Loop::offload) and the jobs
//! of readiness backends share.
//!
//! While an operation is with a pool its four words hold the pool's task, its name, and the queue that brings
//! it back; so nothing is allocated. `backend_state` says who may have it:
//!
//! | who | from | to | and then |
//! |---|---|---|---|
//! | a worker | `QUEUED` | `RUNNING` | does the work |
//! | the loop, that cancels | `QUEUED` | `WITHDRAWN` | the worker that comes to it does nothing |
//!
//! Either way the worker puts the result into the header's outcome and the header into the queue of its loop,
//! which has it from there.

#![allow(unsafe_code)]

use std::mem::offset_of;
use std::ptr::NonNull;

use crate::completion::Header;
use crate::handle::Remote;
use crate::in_flight::Token;
use crate::op::{Outcome, RawOp};
use crate::sync::{Arc, AtomicU16, Ordering};
use crate::sys::errno;
use crate::thread_pool::{Disposition, RawTask, RunFn, ScheduleError, ThreadPool};

const QUEUED: u16 = 0;
const RUNNING: u16 = 1;
const WITHDRAWN: u16 = 2;

/// The four words of the operation.
#[repr(C)]
struct Errand {
    task: RawTask,
    token: Token,
    /// A count of the queue.
    remote: *const Remote,
}

const WORDS: usize = offset_of!(RawOp, buf);
const TASK: usize = offset_of!(Header, op) + WORDS + offset_of!(Errand, task);
const _: () =
    assert!(size_of::<Errand>() <= size_of::<RawOp>() - WORDS && WORDS.is_multiple_of(align_of::<Errand>()));

fn errand_of(header: NonNull<Header>) -> *mut Errand {
    header.as_ptr().wrapping_byte_add(offset_of!(Header, op) + WORDS).cast()
}

/// # Safety
/// `op` is an operation that is with a pool, or on its way there or back.
unsafe fn state_of<'a>(op: *mut RawOp) -> &'a AtomicU16 {
    // SAFETY: S14: a raw place in the operation.
    let state = unsafe { &raw mut (*op).backend_state };
    // SAFETY: S14: the word is only used as an atomic, by whoever.
    unsafe { AtomicU16::from_ptr(state) }
}

/// Sends a header to a pool, where `run` is called with its task; it comes back through the queue of
/// `remote`, unless there is an error. Without a pool the work is done here and now, and comes back all the
/// same.
///
/// # Safety
/// `header` is on no list, and it and what `run` works on are the pool's until it comes back (S14). `run`
/// calls [`run`], once.
pub(crate) unsafe fn send(
    header: NonNull<Header>,
    token: Token,
    function: RunFn,
    remote: &Arc<Remote>,
    pool: Option<&ThreadPool>,
) -> Result<(), ScheduleError> {
    let remote = Arc::into_raw(Arc::clone(remote));
    let errand = errand_of(header);
    // SAFETY: S14: the words are ours until the task is scheduled.
    unsafe { errand.write(Errand { task: RawTask::new(function), token, remote }) };
    // SAFETY: S14: as above.
    let op = unsafe { &raw mut (*header.as_ptr()).op };
    // SAFETY: S14: as above.
    unsafe { state_of(op) }.store(QUEUED, Ordering::Relaxed);
    // SAFETY: S14: the first field of the errand; not null, as the header is not.
    let task = unsafe { NonNull::new_unchecked(errand.cast::<RawTask>()) };
    let Some(pool) = pool else {
        // SAFETY: S14: as a worker does it.
        unsafe { function(task, Disposition::Run) };
        return Ok(());
    };
    // SAFETY: S14: the caller's promise.
    let scheduled = unsafe { pool.schedule_raw(task) };
    if scheduled.is_err() {
        // SAFETY: S14: the pool did not take it, so the count is ours to give back.
        drop(unsafe { Arc::from_raw(remote) });
    }
    scheduled
}

/// Keeps a pool from beginning the work. `false`: it has begun, or is done. The header comes back in either
/// case.
///
/// # Safety
/// `op` is an operation that was sent.
pub(crate) unsafe fn withdraw(op: *mut RawOp) -> bool {
    // SAFETY: S14: the caller's promise.
    let state = unsafe { state_of(op) };
    // Relaxed: the state alone is agreed on; everything else goes with the queues.
    state.compare_exchange(QUEUED, WITHDRAWN, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// On a worker: does the work, unless it is not wanted any more, and sends the header back with the result.
/// `Err` gives the header to the caller, for its loop is gone.
///
/// # Safety
/// `task` was sent by [`send`], and `work` is sound to be called on this thread.
pub(crate) unsafe fn run(
    task: NonNull<RawTask>,
    disposition: Disposition,
    work: impl FnOnce(NonNull<Header>) -> i32,
) -> Result<(), NonNull<Header>> {
    // SAFETY: S14: the task lies there in its header.
    let header: NonNull<Header> = unsafe { task.byte_sub(TASK) }.cast();
    // SAFETY: S14: the header is this worker's, the state aside.
    let op = unsafe { &raw mut (*header.as_ptr()).op };
    // SAFETY: S14: as above.
    let claim =
        unsafe { state_of(op) }.compare_exchange(QUEUED, RUNNING, Ordering::Relaxed, Ordering::Relaxed);
    let result = match (claim, disposition) {
        (Ok(_), Disposition::Run) => work(header),
        _ => -errno::ECANCELED,
    };
    // SAFETY: S14: as above.
    unsafe { (*header.as_ptr()).outcome = Outcome::new(result) };
    // SAFETY: S14: as above.
    let remote = unsafe { (*errand_of(header)).remote };
    // SAFETY: S14: the count that `send` put there; it is taken once. It outlives the push, which may end in
    // waking the loop.
    let remote = unsafe { Arc::from_raw(remote) };
    // SAFETY: S14: the header is on no list, and from here on the loop's.
    unsafe { remote.push(header) }
}

/// The name under which a header was sent.
///
/// # Safety
/// The header has come back, and its operation has not been written to since.
pub(crate) unsafe fn token_of(header: NonNull<Header>) -> Token {
    // SAFETY: S14: the caller's promise.
    unsafe { (*errand_of(header)).token }
}

/// The errno of a pool that does not take a task.
pub(crate) fn refusal(error: &ScheduleError) -> i32 {
    match error {
        ScheduleError::ThreadCreation(error) => error.raw_os_error().unwrap_or(errno::EAGAIN),
        _ => errno::ESHUTDOWN,
    }
}
