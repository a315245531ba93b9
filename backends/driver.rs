//! The contract between the loop and a backend: [`Driver`], and [`Operations`], which is all that a backend sees of
//! the loop.

#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;

use super::Capabilities;
use crate::buf_pool::Buffers;
use crate::completion::Header;
use crate::in_flight::{InFlight, Next};
use crate::inbox::Inbox;
use crate::op::{OpKind, Outcome, RawOp};
use crate::sync::Arc;
use crate::sys::wake_up::AsFd;
use crate::token::Token;

/// How long [`Driver::poll`] may wait for the first outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: the loop has something to do, and the kernel need not be asked if nothing is to be begun.
    Skip,
    /// Not at all, but the kernel is asked.
    Peek,
    /// No longer than this, in nanoseconds; more than none.
    For {
        /// The limit in nanoseconds.
        timeout_ns: u64,
    },
    /// Until something happens.
    Forever,
}

/// A backend: it moves operations between the loop and a kernel interface, and decides nothing else. States,
/// deadlines, callbacks and errors are the loop's.
///
/// # The contract
/// * From [`submit`](Driver::submit) to the operation's last outcome the operation is the driver's, with the memory
///   that it points to. The driver writes to the operation's own words only, and to no other part of the header.
/// * Every operation gets outcomes by [`Operations::complete`]: any number that say
///   [`and_more`](Outcome::and_more), if it is [`RawOp::MULTI`], and then one that does not. After that one the driver has
///   forgotten the operation and does not touch its memory.
/// * An outcome is io_uring's: not negative on success, otherwise the negative of an errno. No errno is
///   unreachable, and flags of a kernel are translated to those that [`Outcome`] has.
/// * [`Next::Continue`] gives the operation back, advanced behind what was moved: a part of an
///   [exact](RawOp::EXACT) one, or one that was interrupted.
/// * Reads and writes at the position of a file ([`RawOp::CURSOR`]) are done one after another, in order, and move
///   it behind what they have moved. Those on what has no position keep their order, too, reads and writes each for
///   themselves.
/// * Outcomes of [`RawOp::MULTI`] operations are reported only while [`Operations::items_room`] allows; more of them
///   wait in the kernel.
/// * The descriptor ([`AsFd`]) is readable when [`poll`](Driver::poll) would report something; a wait ends when the
///   [`Waker`](crate::backend::Waker) is woken.
/// * The driver never runs user code, and reports from no other thread.
///
/// # Safety
/// The loop frees the memory of an operation after its last outcome: an implementation must keep the first two
/// points whatever else goes wrong, and must not unwind.
pub unsafe trait Driver: AsFd {
    /// What it can do here.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// The most outcomes of [`RawOp::MULTI`] operations that one [`poll`](Driver::poll) reports.
    fn completions_max(&self) -> usize;

    /// Takes an operation. It may complete it at once. It must not fail: what is wrong with the operation is its
    /// outcome, and what finds no room now is kept, in order.
    ///
    /// # Safety
    /// `op` is valid, and what it points to is, until the operation's last outcome (S3, S6).
    unsafe fn submit(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations);

    /// The operation shall end: it completes soon, with `-ECANCELED` or with its result. The request is never
    /// lost. It may come at any time between `submit` and the last outcome.
    ///
    /// `false` if that changes nothing: the operation is sure to end with a result of its own.
    fn cancel(&mut self, token: Token, ops: &mut Operations) -> bool;

    /// Begins what was submitted, waits as told if nothing is to report, and reports all that there is.
    ///
    /// # Errors
    /// What the kernel says if waiting fails altogether; no operation is lost by it.
    fn poll(&mut self, wait: Wait, ops: &mut Operations) -> io::Result<()>;

    /// Begins what was submitted.
    ///
    /// # Errors
    /// What the kernel says; nothing is lost, and the next call tries again.
    fn flush(&mut self, ops: &mut Operations) -> io::Result<()>;

    /// Whether something was submitted that only [`flush`](Driver::flush) or [`poll`](Driver::poll) begins.
    fn has_unsubmitted(&mut self) -> bool {
        true
    }

    /// A program is about to wait for the descriptor in place of the loop, level-triggered or for an edge. From now
    /// on, whatever there is for [`poll`](Driver::poll) to report makes it readable by an edge of its own. `true`:
    /// there is something already, or the loop has something to do (`busy`), and the loop makes the edge.
    /// [`Wait::Peek`] takes it back.
    fn show(&self, busy: bool, _ops: &Operations) -> bool {
        busy
    }

    /// Headers of its own that it sent to a thread pool have come back.
    #[doc(hidden)]
    fn take_jobs(&mut self, _ops: &mut Operations) {}

    /// A pool's memory is for receives where the kernel hands buffers out by itself.
    #[doc(hidden)]
    #[allow(private_interfaces, reason = "pools are the crate's own")]
    fn register_buffers(&mut self, _buffers: &mut Buffers) -> io::Result<()> {
        Ok(())
    }

    /// The pool's memory goes.
    #[doc(hidden)]
    #[allow(private_interfaces, reason = "pools are the crate's own")]
    fn unregister_buffers(&mut self, _buffers: &Buffers) {}
}

/// The operations in flight, as a driver sees them.
#[repr(transparent)]
#[derive(Debug)]
pub struct Operations(InFlight);

impl Operations {
    /// The driver's view of the table.
    #[inline(always)]
    pub(crate) fn of(ops: &mut InFlight) -> &mut Operations {
        let view = std::ptr::from_mut(ops) as *mut Operations;
        // SAFETY: S3: the view is the table and nothing else (`repr(transparent)`), and borrows it.
        unsafe { &mut *view }
    }

    /// As [`Operations::of`], to look at.
    pub(crate) fn of_shared(ops: &InFlight) -> &Operations {
        let view = std::ptr::from_ref(ops) as *const Operations;
        // SAFETY: S3: as above.
        unsafe { &*view }
    }

    /// Looks at the polls that the driver has.
    #[cfg(backend_io_uring)]
    pub(crate) fn each_poll(&self, look: impl Fn(&RawOp)) {
        self.0.each_poll(look);
    }

    /// Says how an operation went. Outcomes that come late or twice, under a token that names nothing any more, have
    /// no effect.
    #[inline(always)]
    pub fn complete(&mut self, token: Token, outcome: Outcome) -> Next {
        self.0.complete(token, outcome)
    }

    /// From now on [`complete`](Operations::complete) does nothing with the outcomes of this operation and says
    /// [`Next::Look`], for a driver that has to see to something before they count.
    #[inline]
    pub fn look_first(&mut self, token: Token) {
        self.0.look_first(token);
    }

    /// The transfer is of a file on a disk and goes in parts: one that is full is not its end.
    pub(crate) fn go_by_parts(&mut self, token: Token) {
        self.0.go_by_parts(token);
    }

    /// As [`complete`](Operations::complete), of an outcome that the driver has seen.
    #[inline]
    pub fn complete_seen(&mut self, token: Token, outcome: Outcome) -> Next {
        self.0.complete_seen(token, outcome)
    }

    /// The description of an operation that the driver has.
    #[inline]
    pub fn op(&mut self, token: Token) -> Option<*mut RawOp> {
        self.0.op(token)
    }

    /// What an operation does that the driver has.
    #[inline]
    pub fn op_kind(&mut self, token: Token) -> Option<OpKind> {
        self.0.op_kind(token)
    }

    /// Whether the driver has this operation and the loop wants it ended.
    #[inline]
    pub fn is_ending(&mut self, token: Token) -> bool {
        self.0.is_ending(token)
    }

    /// How many more outcomes of [`RawOp::MULTI`] operations can be taken in this step.
    #[inline]
    pub fn items_room(&self) -> usize {
        self.0.items_room()
    }

    /// How many outcomes of [`RawOp::MULTI`] operations wait for their callbacks.
    #[inline]
    pub fn items_len(&self) -> usize {
        self.0.items_len()
    }

    /// Whether the loop has callbacks to run, so that waiting would hold them.
    #[inline]
    pub fn has_ready(&self) -> bool {
        self.0.has_ready()
    }

    /// How many callbacks the loop has to run.
    #[inline]
    pub(crate) fn callbacks_len(&self) -> usize {
        self.0.ready_len() + self.0.items_len()
    }

    /// How many operations the driver has.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.in_backend()
    }

    /// Whether the driver has no operation.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the loop is being dropped.
    #[inline]
    pub fn is_abandoned(&self) -> bool {
        self.0.is_abandoned()
    }

    /// Whether the operation is in flight, whoever has it.
    #[cfg(feature = "sim")]
    pub(crate) fn is_known(&mut self, token: Token) -> bool {
        self.0.is_known(token)
    }

    /// The queue by which headers come back from a thread pool.
    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.0.inbox
    }

    /// The next header of the driver's own that has come back from a thread pool.
    pub(crate) fn pop_job(&mut self) -> Option<NonNull<Header>> {
        self.0.pop_job()
    }
}
