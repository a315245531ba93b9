//! How an operation went: [`Outcome`], which a backend reports, and [`Output`], which makes a Rust value of it.

#![allow(unsafe_code)]

use std::io;

use super::{OpKind, RawOp};
use crate::error;

/// How an operation went: a count or descriptor, or a negative error code, and what a backend says beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Not negative on success; otherwise the negative of an errno, or of a code of the crate's own.
    pub result: i32,
    /// A set of the crate's own flags, to which a backend translates what its kernel says, and in the upper half
    /// the index of the buffer that was used. One word, for it is copied with every operation.
    pub(crate) bits: u32,
}

impl Outcome {
    /// A pooled receive used a buffer of its pool.
    pub(crate) const BUFFER: u32 = 1 << 0;
    /// More outcomes of the same submission come.
    pub(crate) const MORE: u32 = 1 << 1;
    /// The operation was not begun.
    const UNTRIED: u32 = 1 << 2;

    /// The last outcome of an operation.
    #[must_use]
    #[inline(always)]
    pub const fn new(result: i32) -> Outcome {
        Outcome { result, bits: 0 }
    }

    /// The outcome of an operation that was not begun: a close has not closed its descriptor.
    #[must_use]
    pub const fn untried(result: i32) -> Outcome {
        Outcome { result, bits: Outcome::UNTRIED }
    }

    /// The same, and `result` bytes, more than none, are in a buffer of the operation's pool.
    #[must_use]
    #[inline(always)]
    pub const fn in_buffer(self, buffer: u16) -> Outcome {
        Outcome { bits: self.bits | Outcome::BUFFER | (buffer as u32) << 16, ..self }
    }

    /// The same, and more outcomes of the same submission come.
    #[must_use]
    #[inline(always)]
    pub const fn and_more(self) -> Outcome {
        Outcome { bits: self.bits | Outcome::MORE, ..self }
    }

    /// The same with another result.
    #[must_use]
    pub const fn with_result(self, result: i32) -> Outcome {
        Outcome { result, ..self }
    }

    /// Whether more outcomes of the same submission come.
    #[must_use]
    #[inline(always)]
    pub const fn has_more(self) -> bool {
        self.bits & Outcome::MORE != 0
    }

    /// Whether the operation was not begun.
    #[must_use]
    #[inline(always)]
    pub const fn is_untried(self) -> bool {
        self.bits & Outcome::UNTRIED != 0
    }

    /// The buffer of its pool that the operation used, if it used one.
    #[must_use]
    #[inline(always)]
    pub fn used_buffer(self) -> Option<u16> {
        (self.bits & Outcome::BUFFER != 0).then_some((self.bits >> 16) as u16)
    }

    /// The result as a count, or the error.
    ///
    /// # Errors
    /// The errno that the result holds.
    pub fn count(self) -> io::Result<usize> {
        if self.result >= 0 { Ok(self.result as usize) } else { Err(error::from_result(self.result)) }
    }
}

/// A value that an operation can end in.
///
/// # Safety
/// An implementation must own in `Self` whatever resource a successful outcome of its operations stands for
/// (invariant S7), must not unwind, and must look at memory only through `op`'s own words.
#[diagnostic::on_unimplemented(
    message = "no operation of this crate ends in `{Self}`",
    label = "is not the result of an operation",
    note = "the first closure returns one operation, as in `|state| state.socket.recv(&mut state.buffer)`, and \
            the callback gets its result as an `io::Result`: of a count, of nothing, of a socket, a file, a lease"
)]
pub unsafe trait Output: Sized + 'static {
    /// Turns the outcome of `op` into the value.
    ///
    /// # Errors
    /// The operation's error.
    ///
    /// # Safety
    /// Called once for each outcome of an operation that was made for this output type, after the backend is
    /// done with that outcome.
    unsafe fn decode(op: &RawOp, outcome: Outcome) -> io::Result<Self>;

    /// The bytes that the operation has moved, this outcome's included:
    /// [`Loop::moved`](crate::Loop::moved). By default none, as of operations that move no bytes.
    #[must_use]
    fn moved(op: &RawOp, outcome: Outcome) -> u64 {
        let _ = (op, outcome);
        0
    }
}

// SAFETY: S7: a count is no resource.
unsafe impl Output for usize {
    unsafe fn decode(op: &RawOp, outcome: Outcome) -> io::Result<usize> {
        outcome.count().map(|n| n + op.done() as usize)
    }

    #[inline(always)]
    fn moved(op: &RawOp, outcome: Outcome) -> u64 {
        op.done() + outcome.result.max(0) as u64
    }
}

// SAFETY: S7: these operations give no resource; `Close` gives its descriptor up in every case.
unsafe impl Output for () {
    unsafe fn decode(op: &RawOp, outcome: Outcome) -> io::Result<()> {
        if op.kind == OpKind::Close && outcome.is_untried() {
            crate::descriptor::close_unbegun(op.fd);
        }
        outcome.count().map(drop)
    }
}
