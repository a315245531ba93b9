//! What an operation is: [`Op`], which user code makes.
//!
//! * [`table`]: what there is to be done; each operation is described there, once.
//! * [`raw_op`]: what a backend reads, and [`words`], the part of it that differs by kind.
//! * [`outcome`]: how it went, and how that becomes a Rust value.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::time::Duration;

pub(crate) mod addresses;
mod outcome;
mod raw_op;
mod table;
pub mod words;

pub use outcome::{Outcome, Output};
pub(crate) use raw_op::PART_BYTES_MAX;
pub use raw_op::{RawOp, TRANSFER_BYTES_MAX};
pub use table::{Direction, Facts, Memory, OpKind, Server, Target};

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
            raw: RawOp::immediate(-errno),
            timeout_ns: NO_DEADLINE,
            borrows: PhantomData,
            ends_in: PhantomData,
        }
    }

    /// Sets a deadline: if the operation has not completed when `limit` has passed, it is cancelled and ends
    /// with [`is_deadline`](crate::is_deadline) (of the kind [`TimedOut`](std::io::ErrorKind::TimedOut)). If it completes
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
    /// Only a `Close` and a `Connect` that were never submitted own anything.
    fn drop(&mut self) {
        addresses::drop_list(&self.raw);
        if self.raw.kind == OpKind::Close {
            crate::descriptor::close_unbegun(self.raw.fd);
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
    /// at each result it becomes an idle timeout. The id that `reset` asks for is known only after the
    /// submission, so the state has a cell for it:
    ///
    /// ```
    /// use std::{cell::Cell, io::Write, rc::Rc, time::Duration};
    /// use oxev::{Action, Completion, Loop, Multi, RunMode, TcpStream};
    ///
    /// const IDLE: Duration = Duration::from_millis(20);
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let mut peer = std::net::TcpStream::connect(listener.local_addr()?)?;
    /// let stream = TcpStream::from_std(listener.accept()?.0)?;
    /// let mut lp = Loop::new()?;
    /// let pool = lp.buf_pool(8, 4096)?;
    /// peer.write_all(b"hello")?; // and no more
    ///
    /// let id = Rc::new(Cell::new(None));
    /// let receiver = Box::new(Completion::new(Multi::new((stream, pool), Rc::clone(&id))));
    /// id.set(Some(lp.submit_multi(
    ///     receiver,
    ///     |(stream, pool)| stream.recv_multi(pool).timeout(IDLE),
    ///     |lp, id, received| {
    ///         println!("{} bytes", received.len());
    ///         lp.reset(id.get().unwrap(), IDLE);
    ///         Action::Rearm
    ///     },
    ///     |_lp, _receiver, end| assert!(oxev::is_deadline(&end.unwrap_err())),
    /// )));
    /// lp.run(RunMode::UntilDone)
    /// # }
    /// ```
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
    fn a_huge_duration_is_the_longest_and_not_no_deadline() {
        assert_eq!(duration_to_ns(Duration::MAX), NO_DEADLINE - 1);
    }
}
