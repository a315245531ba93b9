//! The unsafe core, for C and for programs that want what libxev gives: a caller-owned header, a function
//! pointer, and user data. The safe API is built on exactly this.
//!
//! A [`RawCompletion`] goes through the same states as any operation, with the same guarantees (one callback
//! for each submission, cancel never lost, drained teardown); what the type system no longer does is yours,
//! and is the contract of [`submit`].
//!
//! ```
//! use oxev::raw::{self, RawCompletion};
//! use oxev::{Loop, OpKind, RawOp, RunMode};
//! use std::io::Write;
//! use std::os::fd::AsRawFd;
//!
//! unsafe fn on_read(lp: Option<&mut Loop>, completion: *mut RawCompletion) {
//!     // SAFETY: the completion has come back, and its user data is the buffer below.
//!     let (count, buffer) = unsafe { ((*completion).outcome().count(), (*completion).user_data.cast::<[u8; 16]>()) };
//!     if lp.is_some() {
//!         // SAFETY: as above.
//!         assert_eq!(unsafe { &(&(*buffer))[..count.unwrap()] }, b"ping");
//!     }
//! }
//!
//! let (reader, mut writer) = std::io::pipe()?;
//! let mut lp = Loop::new()?;
//! let mut buffer = [0u8; 16];
//! let mut completion = RawCompletion::new((&raw mut buffer).cast());
//! let mut op = RawOp::with_buffer(OpKind::Read, reader.as_raw_fd(), (&raw mut buffer).cast(), 16);
//! op.flags = RawOp::CURSOR;
//! // SAFETY: completion, buffer and pipe outlive the operation: `run` ends it.
//! unsafe { raw::submit(&mut lp, &raw mut completion, op, None, on_read) };
//! writer.write_all(b"ping")?;
//! lp.run(RunMode::UntilDone)?;
//! # Ok::<(), std::io::Error>(())
//! ```

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::time::Duration;

pub use crate::completion::Header;
use crate::completion::{Action, CallbackKind};
use crate::event_loop::Loop;
use crate::op::{NO_DEADLINE, OpKind, Outcome, RawOp, duration_to_ns};
use crate::token::OpId;

/// Called when an operation is done. Without a loop, the loop is being dropped: the memory is the caller's
/// again, and that is all.
///
/// An operation with [`RawOp::MULTI`] calls it once for each result; [`RawCompletion::has_more`] tells
/// whether it goes on.
///
/// # Safety
/// The pointer is the one that was submitted. It may be submitted again, or freed, unless more results come.
pub type Callback = unsafe fn(lp: Option<&mut Loop>, completion: *mut RawCompletion);

/// Caller-owned memory for one raw operation at a time. It must not move while the operation is in flight.
#[derive(Debug)]
#[repr(C)]
pub struct RawCompletion {
    /// First: the loop knows the completion by it.
    header: Header,
    callback: Option<Callback>,
    more: bool,
    /// Yours.
    pub user_data: *mut (),
}

impl RawCompletion {
    /// A completion that is not in flight.
    #[must_use]
    pub const fn new(user_data: *mut ()) -> RawCompletion {
        RawCompletion { header: Header::new(), callback: None, more: false, user_data }
    }

    /// How the operation went.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        self.header.outcome
    }

    /// The operation as the loop left it: for [`OpKind::Connect`] its `fd` is the socket, which is yours to
    /// close if the operation failed.
    #[must_use]
    pub const fn op(&self) -> &RawOp {
        &self.header.op
    }

    /// The bytes that the operation moved before it ended, however it ended, as
    /// [`Loop::moved`](crate::Loop::moved) tells it.
    #[must_use]
    pub const fn moved(&self) -> u64 {
        let result = self.header.outcome.result;
        if !self.header.op.kind.moves_bytes() {
            return 0;
        }
        self.header.op.done() + if result > 0 { result as u64 } else { 0 }
    }

    /// Whether the operation goes on and calls back again.
    #[must_use]
    pub const fn has_more(&self) -> bool {
        self.more
    }
}

/// Submits a raw operation. The id serves [`Loop::cancel`] and [`Loop::reset`].
///
/// Resources that an outcome stands for are the callback's: an accepted or opened descriptor, also when there
/// is no loop any more.
///
/// # Safety
/// `completion` must be valid and not in flight, and must stay valid, unmoved and untouched until its
/// callback; so must everything that `op` points to, and its descriptor must stay open. `op` must be a valid
/// description as [`OpKind`] tells it; the length of a vectored operation is that of its whole list. [`OpKind::Notify`] and [`OpKind::RecvPooled`] cannot be submitted raw,
/// nor can repeating timers with a zero period.
pub unsafe fn submit(
    lp: &mut Loop,
    completion: *mut RawCompletion,
    mut op: RawOp,
    timeout: Option<Duration>,
    callback: Callback,
) -> OpId {
    let needs_its_type = op.kind == OpKind::Notify || op.kind.takes_pooled_buffer();
    debug_assert!(!needs_its_type, "{} needs its safe type", op.kind);
    op.flags |= RawOp::UNTRACKED;
    // SAFETY: S4: the caller's promise, here and below.
    unsafe { (*completion).callback = Some(callback) };
    // SAFETY: S4: a valid completion is not at address zero.
    let header = unsafe { NonNull::new_unchecked(completion.cast::<Header>()) };
    // SAFETY: S4: the completion is the loop's from here on.
    unsafe { lp.launch(header, op, timeout.map_or(NO_DEADLINE, duration_to_ns), complete) }
}

unsafe fn complete(mut lp: Option<&mut Loop>, header: NonNull<Header>, kind: CallbackKind) -> Action {
    let completion: *mut RawCompletion = header.as_ptr().cast();
    // SAFETY: S4: it was submitted by `submit`, and its header is the first field.
    unsafe { (*completion).more = kind == CallbackKind::Item };
    // SAFETY: S4: a raw completion has one outcome at a time, and this is it.
    let moved = unsafe { (*completion).moved() };
    if let Some(lp) = &mut lp {
        lp.note_moved(moved);
    }
    // SAFETY: S4: `submit` wrote it, and nothing has since.
    if let Some(callback) = unsafe { (*completion).callback } {
        // SAFETY: S4: the operation is done, or gives a result; the memory is the callback's.
        unsafe { callback(lp, completion) };
    }
    Action::Rearm
}
