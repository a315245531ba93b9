//! What an operation is: [`Op`], which user code makes, [`RawOp`], which a backend reads, and [`Output`],
//! which turns the kernel's answer into a Rust value.

#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::time::Duration;

use crate::descriptor::RawDescriptor;
use crate::error;

/// The most bytes that one kernel read or write moves (`MAX_RW_COUNT` on Linux); longer buffers are moved in
/// parts.
pub const TRANSFER_BYTES_MAX: usize = 0x7fff_f000;

/// What an operation does; each backend maps it to its own kernel interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum OpKind {
    /// Settled before it reached a backend: `offset` is its result, a count or a negative errno.
    Settled,
    /// Completes at once, through the kernel where there is one to ask.
    Nop,
    /// Completes when `offset` nanoseconds have passed; `done` is the period of a repeating timer.
    Timer,
    /// Completes when the notifier at `buf` is notified.
    Notify,
    /// Waits for the poll events in `len` on `fd`.
    Poll,
    /// Takes a connection from the listening socket `fd`; may fill the address overlay.
    Accept,
    /// Makes a socket and connects it to the address overlay. `fd` is the new socket once the backend has
    /// made it.
    Connect,
    /// Receives into `buf`, `len`.
    Recv,
    /// Receives into a buffer of the pool at `buf`.
    RecvPooled,
    /// Sends from `buf`, `len`.
    Send,
    /// Sends from `buf`, `len`, without copying where the backend can.
    SendZeroCopy,
    /// Receives into the scatter list at `buf`.
    RecvVectored,
    /// Sends the gather list at `buf`.
    SendVectored,
    /// Shuts `fd` down; `len` is the direction.
    Shutdown,
    /// Reads from a file into `buf`, `len`, at `offset` ([`RawOp::CURSOR`]: at the file's own position).
    Read,
    /// Writes to a file from `buf`, `len`, at `offset` ([`RawOp::CURSOR`]: at the file's own position).
    Write,
    /// Reads from a file into the scatter list at `buf`, at `offset`.
    ReadVectored,
    /// Writes the gather list at `buf` to a file, at `offset`.
    WriteVectored,
    /// Opens the file at the C string `buf` with the flags `len` and the mode `offset`.
    Open,
    /// Closes `fd`, which the operation owns.
    Close,
    /// Makes data and metadata of the file durable (`fsync`).
    SyncAll,
    /// Makes the data of the file durable (`fdatasync`).
    SyncData,
    /// Fills the `statx` record at `buf`.
    Metadata,
    /// Work on a thread pool: [`Loop::offload`](crate::Loop::offload). The words are the loop's own.
    Offload,
    /// Never submitted: a backend's own header, back from a thread pool.
    Job,
}

/// A plain-data description of one operation, as a backend sees it: 40 bytes that live in the caller's
/// [`Completion`](crate::Completion) while the operation is in flight.
///
/// The four words `buf`, `len`, `offset` and `done` mean what [`OpKind`] says. For [`OpKind::Accept`] and
/// [`OpKind::Connect`] they are the *address overlay*: 28 bytes of `sockaddr` (`sockaddr_in6` is the largest)
/// and four of its length, which the kernel reads or writes in place.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RawOp {
    /// What to do.
    pub kind: OpKind,
    /// A set of the flags defined here.
    pub flags: u8,
    /// Reserved for the backend while it has the operation.
    pub backend_state: u16,
    /// The descriptor it is done on, or -1.
    pub fd: RawDescriptor,
    /// First word: mostly the buffer.
    pub buf: *mut u8,
    /// Second word: mostly the buffer's length in bytes.
    pub len: usize,
    /// Third word: mostly the file offset in bytes.
    pub offset: u64,
    /// Fourth word: bytes already moved by earlier parts of the same operation.
    pub done: u64,
}

const _: () = assert!(size_of::<RawOp>() == 40);

impl RawOp {
    /// The operation is only done when all of `len` has been moved; the loop continues it.
    pub const EXACT: u8 = 1 << 0;
    /// The operation does not keep [`RunMode::UntilDone`](crate::RunMode::UntilDone) running.
    pub const BACKGROUND: u8 = 1 << 1;
    /// The operation gives several results.
    pub const MULTI: u8 = 1 << 2;
    /// A file operation at the file's own position rather than at `offset`.
    pub const CURSOR: u8 = 1 << 3;
    /// [`OpKind::Accept`]: the peer's address is asked for.
    pub const ADDRESS: u8 = 1 << 4;
    /// [`OpKind::Timer`]: `offset` is a time on the loop's clock, not a delay.
    pub const ABSOLUTE: u8 = 1 << 5;
    /// [`OpKind::Timer`]: the period counts from the end of the callback (fixed delay), not from the last deadline.
    pub const FIXED_DELAY: u8 = 1 << 6;
    /// `fd` is not a descriptor of this crate, so nobody says when its number comes to name another file:
    /// backends remember nothing of it beyond the operation.
    pub const UNTRACKED: u8 = 1 << 7;

    /// An operation of this kind on this descriptor, with every word zero.
    #[must_use]
    pub const fn new(kind: OpKind, fd: RawDescriptor) -> RawOp {
        let buf = std::ptr::null_mut();
        RawOp { kind, flags: 0, backend_state: 0, fd, buf, len: 0, offset: 0, done: 0 }
    }

    /// An operation of this kind over a buffer.
    #[must_use]
    pub const fn with_buffer(kind: OpKind, fd: RawDescriptor, buf: *mut u8, len: usize) -> RawOp {
        let mut op = RawOp::new(kind, fd);
        op.buf = buf;
        op.len = len;
        op
    }

    /// An operation that is over before it begins: a count, or a negative errno.
    #[must_use]
    pub const fn settled(result: i32) -> RawOp {
        let mut op = RawOp::new(OpKind::Settled, -1);
        op.offset = result as i64 as u64;
        op
    }

    /// The bytes to move next: the rest of the buffer, but no more than the kernel takes at once.
    #[must_use]
    pub fn transfer_len(&self) -> u32 {
        self.len.min(TRANSFER_BYTES_MAX) as u32
    }

    /// Whether the operation moves bytes, which [`RawOp::done`] counts.
    pub(crate) const fn moves_bytes(&self) -> bool {
        matches!(
            self.kind,
            OpKind::Recv
                | OpKind::RecvPooled
                | OpKind::RecvVectored
                | OpKind::Send
                | OpKind::SendZeroCopy
                | OpKind::SendVectored
                | OpKind::Read
                | OpKind::ReadVectored
                | OpKind::Write
                | OpKind::WriteVectored
        )
    }

    /// Records that `n` bytes have been moved: the rest begins behind them.
    pub fn advance(&mut self, n: usize) {
        debug_assert!(n <= self.len);
        self.buf = self.buf.wrapping_add(n);
        self.len -= n;
        self.offset = self.offset.wrapping_add(n as u64);
        self.done += n as u64;
    }

    /// The place of the `sockaddr` in the address overlay of the operation at `op`.
    pub fn address_place(op: *mut RawOp) -> *mut u8 {
        op.wrapping_byte_add(std::mem::offset_of!(RawOp, buf)).cast()
    }

    /// The place of the address length (`socklen_t`) in the address overlay of the operation at `op`.
    pub fn address_len_place(op: *mut RawOp) -> *mut u32 {
        RawOp::address_place(op).wrapping_add(RawOp::ADDRESS_BYTES).cast()
    }

    /// The bytes of the address overlay: `sockaddr_in6`.
    pub const ADDRESS_BYTES: usize = 28;
}

/// How an operation went: a count or descriptor, or a negative error code, and what a backend says beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Not negative on success; otherwise the negative of an errno, or of a code of the crate's own.
    pub result: i32,
    /// A set of the flags defined here. They are the crate's own: a backend translates what its kernel says.
    pub flags: u16,
    /// With [`Outcome::BUFFER`]: the index of the buffer in its pool.
    pub buffer: u16,
}

impl Outcome {
    /// A pooled receive used a buffer of its pool.
    pub const BUFFER: u16 = 1 << 0;
    /// More outcomes of the same submission come.
    pub const MORE: u16 = 1 << 1;
    /// The operation was not begun: a close has not closed its descriptor.
    pub const UNTRIED: u16 = 1 << 2;

    /// An outcome without flags.
    #[must_use]
    pub const fn new(result: i32) -> Outcome {
        Outcome { result, flags: 0, buffer: 0 }
    }

    /// The outcome of an operation that was not begun.
    #[must_use]
    pub const fn untried(result: i32) -> Outcome {
        Outcome { result, flags: Outcome::UNTRIED, buffer: 0 }
    }

    /// `result` bytes, more than none, are in a buffer of the operation's pool.
    #[must_use]
    pub const fn in_buffer(result: i32, buffer: u16) -> Outcome {
        Outcome { result, flags: Outcome::BUFFER, buffer }
    }

    /// Whether more outcomes of the same submission come.
    #[must_use]
    pub const fn has_more(self) -> bool {
        self.flags & Outcome::MORE != 0
    }

    /// The buffer of its pool that the operation used, if it used one.
    #[must_use]
    pub fn used_buffer(self) -> Option<u16> {
        (self.flags & Outcome::BUFFER != 0).then_some(self.buffer)
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
        outcome.count().map(|n| n + op.done as usize)
    }

    #[inline(always)]
    fn moved(op: &RawOp, outcome: Outcome) -> u64 {
        op.done + outcome.result.max(0) as u64
    }
}

// SAFETY: S7: these operations give no resource; `Close` gives its descriptor up in every case.
unsafe impl Output for () {
    unsafe fn decode(op: &RawOp, outcome: Outcome) -> io::Result<()> {
        if op.kind == OpKind::Close && outcome.flags & Outcome::UNTRIED != 0 {
            crate::descriptor::close_raw(op.fd);
        }
        outcome.count().map(drop)
    }
}

/// One operation, ready to be submitted: what `prepare` returns to [`Loop::submit`](crate::Loop::submit).
///
/// It borrows sockets and buffers from the owner's state for `'a` and ends in an `R`. It is plain data;
/// nothing happens until it is submitted.
#[must_use = "an operation does nothing until it is returned to `Loop::submit`"]
#[derive(Debug)]
pub struct Op<'a, R> {
    pub(crate) raw: RawOp,
    pub(crate) timeout_ns: u64,
    borrows: PhantomData<&'a mut ()>,
    ends_in: PhantomData<fn() -> R>,
}

/// Stands for "no deadline" where nanoseconds are kept.
pub(crate) const NO_DEADLINE: u64 = u64::MAX;

impl<'a, R: Output> Op<'a, R> {
    /// Wraps a raw operation.
    ///
    /// # Safety
    /// For all of `'a` the memory that `raw` points to must be valid and not otherwise used (shared use is
    /// fine if the operation only reads), `raw.fd` must stay open, and `R` must be made for `raw.kind`.
    pub unsafe fn from_raw(raw: RawOp) -> Op<'a, R> {
        Op { raw, timeout_ns: NO_DEADLINE, borrows: PhantomData, ends_in: PhantomData }
    }

    /// An operation that only brings the error `errno` to its callback.
    pub(crate) fn failed(errno: i32) -> Op<'a, R> {
        Op {
            raw: RawOp::settled(-errno),
            timeout_ns: NO_DEADLINE,
            borrows: PhantomData,
            ends_in: PhantomData,
        }
    }

    /// Sets a deadline: if the operation has not completed when `limit` has passed, it is cancelled and ends
    /// with [`is_deadline`](crate::is_deadline) (of the kind [`TimedOut`](io::ErrorKind::TimedOut)). If it completes
    /// while it is being cancelled, its result stands.
    ///
    /// The deadline is served by the loop's own timers, on every backend. It is never early.
    pub fn timeout(mut self, limit: Duration) -> Op<'a, R> {
        self.timeout_ns = duration_to_ns(limit);
        self
    }

    /// Marks the operation as one that does not keep [`RunMode::UntilDone`](crate::RunMode::UntilDone)
    /// running (libuv's `unref`).
    pub fn background(mut self) -> Op<'a, R> {
        self.raw.flags |= RawOp::BACKGROUND;
        self
    }

    pub(crate) fn into_parts(self) -> (RawOp, u64) {
        let op = ManuallyDrop::new(self);
        (op.raw, op.timeout_ns)
    }
}

impl<R> Drop for Op<'_, R> {
    /// Only a `Close` that was never submitted owns anything.
    fn drop(&mut self) {
        if self.raw.kind == OpKind::Close {
            crate::descriptor::close_raw(self.raw.fd);
        }
    }
}

/// One submission that gives several results, for [`Loop::submit_multi`](crate::Loop::submit_multi).
#[must_use = "an operation does nothing until it is returned to `Loop::submit_multi`"]
#[derive(Debug)]
pub struct MultiOp<'a, R>(pub(crate) Op<'a, R>);

impl<'a, R: Output> MultiOp<'a, R> {
    /// Makes a multi-result operation of a single one: on a backend that cannot repeat it, the loop re-arms
    /// it.
    pub(crate) fn repeat(mut op: Op<'a, R>) -> MultiOp<'a, R> {
        op.raw.flags |= RawOp::MULTI;
        MultiOp(op)
    }

    /// Sets a deadline for the whole submission, as [`Op::timeout`]. With [`Loop::reset`](crate::Loop::reset)
    /// at each result it becomes an idle timeout.
    pub fn timeout(self, limit: Duration) -> MultiOp<'a, R> {
        MultiOp(self.0.timeout(limit))
    }

    /// As [`Op::background`].
    pub fn background(self) -> MultiOp<'a, R> {
        MultiOp(self.0.background())
    }
}

/// An operation that completes at once. On io_uring it goes through the kernel (`IORING_OP_NOP`), so it
/// measures what one operation costs.
///
/// ```
/// use oxev::{Completion, Loop, RunMode};
/// let mut lp = Loop::new()?;
/// lp.submit(Box::new(Completion::new(())), |_| oxev::nop(), |_, _, done| done.unwrap());
/// lp.run(RunMode::UntilDone)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn nop() -> Op<'static, ()> {
    Op {
        raw: RawOp::new(OpKind::Nop, -1),
        timeout_ns: NO_DEADLINE,
        borrows: PhantomData,
        ends_in: PhantomData,
    }
}

/// Nanoseconds of a duration; what does not fit (584 years) becomes the longest.
pub(crate) fn duration_to_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NO_DEADLINE - 1).min(NO_DEADLINE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_overlay_is_the_four_words() {
        let mut op = RawOp::new(OpKind::Connect, -1);
        let base = &raw mut op;
        assert_eq!(RawOp::address_place(base).addr(), (&raw const op.buf).addr());
        assert_eq!(RawOp::address_len_place(base).addr() + 4, base.addr() + size_of::<RawOp>());
    }

    #[test]
    fn a_huge_duration_is_the_longest_and_not_no_deadline() {
        assert_eq!(duration_to_ns(Duration::MAX), NO_DEADLINE - 1);
    }

    #[test]
    fn a_transfer_is_cut_to_what_the_kernel_takes() {
        let op = RawOp::with_buffer(OpKind::Send, 0, std::ptr::null_mut(), usize::MAX);
        assert_eq!(op.transfer_len() as usize, TRANSFER_BYTES_MAX);
    }
}
