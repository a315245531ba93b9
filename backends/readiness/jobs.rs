//! What no selector can wait for is done by a thread pool, in [jobs](crate::jobs). Operations that find no
//! job free wait in order.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use super::super::Operations;
use super::file;
use super::queue::{Nodes, Place, Queue};
use crate::completion::Header;
use crate::descriptor;
use crate::jobs::{self, NotSent, Work};
use crate::op::{OpKind, Outcome, RawOp};
use crate::sys::file::PATH_BYTES_MAX;
use crate::sys::metadata::Record;
use crate::sys::{self, errno};
use crate::thread_pool::ThreadPool;
use crate::token::Token;

/// Operations of one loop that are with the pool at once. More would only wait there.
const JOBS_MAX: u32 = 256;

/// A system call that may take its time.
struct Call {
    op: RawOp,
    /// The path of an open. It is copied, so that an open that hangs touches nothing of its operation, which
    /// may end before it.
    path: [MaybeUninit<u8>; PATH_BYTES_MAX],
}

// SAFETY: system calls, on descriptors and memory that are the operation's: they may be done on any thread.
unsafe impl Work for Call {
    const DESCRIPTION: RawOp = RawOp::job();

    unsafe fn run(this: *mut Call) -> i32 {
        // SAFETY: S14: the caller's promise.
        let op = unsafe { &(*this).op };
        // SAFETY: S6: the operation is in flight, for it was not withdrawn; an open has its own path.
        unsafe { blocking(op) }
    }

    unsafe fn discard(this: *mut Call, result: i32) {
        // SAFETY: S14: the caller's promise.
        if unsafe { (*this).op.kind } == OpKind::Open {
            descriptor::close_number(result);
        }
    }
}

/// Writes the call of an operation.
///
/// # Safety
/// `call` is a place for one, and the path of an open is not longer than there is room for.
unsafe fn write_call(call: *mut Call, op: &RawOp) {
    // SAFETY: S14: the caller's promise.
    let op_place = unsafe { &raw mut (*call).op };
    // SAFETY: S14: as above.
    unsafe { op_place.write(*op) };
    if op.kind == OpKind::Open {
        let bytes = path_of(op);
        // SAFETY: S14: as above.
        let path = unsafe { &raw mut (*call).path };
        // SAFETY: S14: as above.
        unsafe { path.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        // SAFETY: S14: as above.
        let op = unsafe { &mut *op_place };
        op.as_open_mut().path = path.cast();
    }
}

/// The path of an open, with the zero byte at its end.
fn path_of(op: &RawOp) -> &[u8] {
    debug_assert_eq!(op.kind, OpKind::Open);
    // SAFETY: S6: the path is the operation's.
    unsafe { CStr::from_ptr(op.as_open().path) }.to_bytes_with_nul()
}

pub(super) struct Jobs {
    jobs: jobs::Jobs<Call>,
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

impl Jobs {
    pub(super) fn new(pool: Option<ThreadPool>) -> io::Result<Jobs> {
        Ok(Jobs { jobs: jobs::Jobs::new(JOBS_MAX)?, waiting: Queue::default(), pool })
    }

    /// Has an operation done, now or when its turn comes.
    ///
    /// # Safety
    /// As [`blocking`], until it is reported or withdrawn.
    pub(super) unsafe fn start(
        &mut self,
        token: Token,
        op: &RawOp,
        nodes: &mut Nodes,
        ops: &Operations,
    ) -> Started {
        if op.kind == OpKind::Open && path_of(op).len() > PATH_BYTES_MAX {
            return Started::Done(-errno::ENAMETOOLONG);
        }
        // SAFETY: S14: `send` gives a place for a call.
        let write = |call| unsafe { write_call(call, op) };
        let pool = self.pool.as_ref().unwrap_or_else(|| default_pool());
        // SAFETY: S14: what the call touches is the operation's until it is reported.
        match unsafe { self.jobs.send(token, write, ops.inbox(), Some(pool)) } {
            Ok(job) => {
                nodes.enter_job(token, job);
                Started::Later
            }
            Err(NotSent::NoneFree) => {
                self.wait(token, nodes);
                Started::Later
            }
            // SAFETY: S6: the caller's promise.
            Err(NotSent::Refused(_)) => Started::Done(unsafe { blocking(op) }),
        }
    }

    /// Takes a job back. The operation and its outcome; `None` if it has ended before.
    ///
    /// # Safety
    /// `header` is that of a job of ours that has come back.
    pub(super) unsafe fn take(
        &mut self,
        header: NonNull<Header>,
        nodes: &mut Nodes,
    ) -> Option<(Token, Outcome)> {
        // SAFETY: S14: the caller's promise.
        let returned = unsafe { self.jobs.take(header) };
        let token = returned.token;
        if nodes.place(token) != Place::InJob || nodes.job(token) != returned.job {
            self.jobs.discard(returned);
            return None;
        }
        nodes.leave_job(token);
        Some((token, returned.outcome))
    }

    /// Parts with its pool. Nothing is sent any more.
    pub(super) fn release_pool(&mut self, limit: Duration) {
        if let Some(pool) = self.pool.take() {
            pool.release_within(limit);
        }
    }

    /// Has an operation wait for a job behind those that do.
    pub(super) fn wait(&mut self, token: Token, nodes: &mut Nodes) {
        nodes.push(&mut self.waiting, token, Place::WaitingForJob);
    }

    /// The operation that has waited longest for a job, if one is free.
    pub(super) fn next_waiting(&mut self, nodes: &mut Nodes) -> Option<Token> {
        let token = nodes.head(&self.waiting).filter(|_| self.jobs.has_free())?;
        nodes.remove(&mut self.waiting, token);
        Some(token)
    }

    /// An operation shall not be done. `None`: it is being done, and keeps its memory until then. Otherwise the
    /// outcome to end it with.
    pub(super) fn withdraw(&mut self, token: Token, kind: OpKind, nodes: &mut Nodes) -> Option<Outcome> {
        if nodes.place(token) == Place::WaitingForJob {
            nodes.remove(&mut self.waiting, token);
            return Some(Outcome::untried(-errno::ECANCELED));
        }
        let job = nodes.job(token);
        // SAFETY: S14: the job was sent, and is not back.
        let outcome = if unsafe { self.jobs.withdraw(job) } {
            Outcome::untried(-errno::ECANCELED)
        // An open that has begun may hang, and touches nothing of its operation.
        // SAFETY: S14: as above.
        } else if kind == OpKind::Open && unsafe { self.jobs.abandon(job) } {
            Outcome::new(-errno::ECANCELED)
        } else {
            return None;
        };
        nodes.leave_job(token);
        Some(outcome)
    }
}

/// Makes the call of an operation, however long that takes.
///
/// # Safety
/// What `op` points to is valid and the operation's, and its descriptor is open.
unsafe fn blocking(op: &RawOp) -> i32 {
    loop {
        // SAFETY: S6: the caller's promise.
        let result = unsafe { blocking_once(op) };
        if result != -errno::EINTR {
            return result;
        }
    }
}

/// # Safety
/// As [`blocking`].
unsafe fn blocking_once(op: &RawOp) -> i32 {
    match op.kind {
        // SAFETY: S6: the path is the operation's.
        OpKind::Open => unsafe { file::open(op) },
        OpKind::Close => sys::file::close(op.fd),
        OpKind::SyncAll => sys::file::sync_all(op.fd),
        OpKind::SyncData => sys::file::sync_data(op.fd),
        // SAFETY: S6: the record is the operation's.
        OpKind::Metadata => unsafe { Record::fill(op.as_metadata().record.cast(), op.fd) },
        OpKind::Read | OpKind::ReadVectored | OpKind::Write | OpKind::WriteVectored => file::transfer(op),
        // These are never sent to a pool.
        OpKind::Nop
        | OpKind::Timer
        | OpKind::Notify
        | OpKind::Offload
        | OpKind::Poll
        | OpKind::Accept
        | OpKind::Connect
        | OpKind::Recv
        | OpKind::RecvPooled
        | OpKind::RecvVectored
        | OpKind::Send
        | OpKind::SendZeroCopy
        | OpKind::SendVectored
        | OpKind::Shutdown => -errno::EOPNOTSUPP,
    }
}

/// The pool of all loops that were not given one. A forked child makes one of its own.
fn default_pool() -> &'static ThreadPool {
    /// Threads that wait for disks wait more than they compute.
    const THREADS_MIN: usize = 4;
    static POOL: AtomicPtr<ThreadPool> = AtomicPtr::new(ptr::null_mut());
    let old = POOL.load(Ordering::Acquire);
    // SAFETY: S14: a pool that was put there stays for good.
    if let Some(pool) = unsafe { old.as_ref() }.filter(|pool| !pool.is_inherited()) {
        return pool;
    }
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).max(THREADS_MIN);
    let builder = ThreadPool::builder().thread_name("oxev-blocking");
    let new = builder.max_threads(threads).build().unwrap_or_else(|_| ThreadPool::new());
    let new = Box::into_raw(Box::new(new));
    let pool = match POOL.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => new,
        Err(first) => {
            // SAFETY: S14: another thread was faster, and nothing else has this one.
            drop(unsafe { Box::from_raw(new) });
            first
        }
    };
    // SAFETY: S14: as above.
    unsafe { &*pool }
}
