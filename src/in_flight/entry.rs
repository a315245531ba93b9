//! An entry of the table: what the loop knows of one operation beside the header.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use crate::completion::Header;
use crate::descriptor::RawDescriptor;
use crate::error::code;
use crate::op::{NO_DEADLINE, OpKind, Outcome, RawOp};
use crate::sys::errno;
use crate::timer::wheel::{Place, Timed};

/// Where an operation of the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// The loop itself will complete it: a timer or a notifier wait.
    Armed,
    /// The backend has it: its memory is the kernel's.
    Backend,
    /// It waits for a buffer of its pool.
    AwaitingBuffer,
    /// A multi-result operation whose last result waits for its callback, or is in it.
    Pending,
}

/// Facts about an operation in flight; none of them is the common case.
pub(super) mod flag {
    /// Cancelled by the user.
    pub(in crate::in_flight) const CANCEL: u8 = 1 << 0;
    /// Its deadline has passed.
    pub(in crate::in_flight) const TIMED_OUT: u8 = 1 << 1;
    /// Its item callback wants no more.
    pub(in crate::in_flight) const DISARMED: u8 = 1 << 2;
    /// The backend wants to see its outcomes before they count.
    pub(in crate::in_flight) const LOOK: u8 = 1 << 3;
    /// Results need a second look: multi-result, pooled.
    pub(in crate::in_flight) const COMPOUND: u8 = 1 << 4;
    pub(in crate::in_flight) const BACKGROUND: u8 = 1 << 5;
    /// A full part is not the end: the next one follows.
    pub(in crate::in_flight) const PARTS: u8 = 1 << 6;
    /// Only done when all has been moved.
    pub(in crate::in_flight) const EXACT: u8 = 1 << 7;

    pub(in crate::in_flight) const ENDING: u8 = CANCEL | TIMED_OUT | DISARMED;
    pub(in crate::in_flight) const ANY_RESULT: u8 = ENDING | LOOK | COMPOUND | PARTS | EXACT;
}

/// The flags that an entry begins with. They follow from the operation; worked out where it is submitted they
/// mostly cost nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryFlags(pub(super) u8);

impl EntryFlags {
    #[inline(always)]
    pub(crate) const fn of(kind: OpKind, op_flags: u8) -> EntryFlags {
        let compound = op_flags & RawOp::MULTI != 0
            || kind.takes_pooled_buffer()
            || kind.is(OpKind::Connect) && op_flags & RawOp::LIST != 0;
        let exact = op_flags & RawOp::EXACT != 0;
        let background = op_flags & RawOp::BACKGROUND != 0;
        EntryFlags(
            if compound { flag::COMPOUND } else { 0 }
                | if exact { flag::EXACT } else { 0 }
                | if background { flag::BACKGROUND } else { 0 },
        )
    }
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(super) header: NonNull<Header>,
    /// The deadline on the loop's clock, or the delay while it is unresolved.
    pub(super) deadline_ns: u64,
    pub(super) submitted_ns: u64,
    pub(super) sequence: u32,
    pub(super) next: u32,
    pub(super) prev: u32,
    pub(super) place: Place,
    pub(super) state: State,
    pub(super) flags: u8,
}

const _: () = assert!(if cfg!(target_pointer_width = "64") {
    size_of::<Entry>() == 40
} else {
    size_of::<Entry>() <= 40
});
/// The slab's own entry is an enum around this one; the pointer's niche makes that free.
const _: () = assert!(size_of::<Option<Entry>>() == size_of::<Entry>());

impl Entry {
    pub(super) fn op(&self) -> *mut RawOp {
        // SAFETY: S3: a raw place in the header of an operation in flight.
        unsafe { &raw mut (*self.header.as_ptr()).op }
    }

    /// A copy of the description of an operation that no backend has.
    pub(super) fn op_copy(&self) -> RawOp {
        debug_assert_ne!(self.state, State::Backend);
        // SAFETY: S3: the operation is in flight, so its header is valid, and only the loop has it.
        unsafe { self.op().read() }
    }

    /// Whether this outcome of a multi-result operation says that the peer sends no more.
    pub(super) fn is_end_of_stream(&self, outcome: Outcome) -> bool {
        outcome.result == 0 && self.op_kind().takes_pooled_buffer()
    }

    /// Whether this outcome of a multi-result operation is an error that the kernel tells only once: the next
    /// receive would not hear of a reset, and take it for the end of the stream.
    pub(super) fn is_told_once(&self, outcome: Outcome) -> bool {
        let is_end_of_ours = matches!(-outcome.result, errno::ENOBUFS | errno::ECANCELED | code::DEADLINE);
        outcome.result < 0 && !is_end_of_ours && self.op_kind().takes_pooled_buffer()
    }

    /// Whether an exact operation, which is not to end, has moved all that was left.
    #[inline(always)]
    pub(super) fn is_whole(&self, outcome: Outcome) -> bool {
        // SAFETY: S3: a field that the backend, which gave this outcome, does not write to.
        let len = || unsafe { RawOp::len_left(self.op()) };
        self.flags & flag::ANY_RESULT == flag::EXACT && outcome.result > 0 && len() == outcome.result as usize
    }

    /// Whether this outcome says that the pool of a receive is empty.
    pub(super) fn wants_buffer(&self, outcome: Outcome) -> bool {
        outcome.result == -errno::ENOBUFS && self.op_kind().takes_pooled_buffer()
    }

    pub(super) fn is_one_shot_timer(&self) -> bool {
        // SAFETY: S3: a field that nothing writes while the operation is in flight.
        self.op_kind() == OpKind::Timer && unsafe { (*self.op()).flags } & RawOp::MULTI == 0
    }

    /// When a repeating timer ends, whatever its next tick.
    pub(super) fn life_end_ns(&self) -> u64 {
        // The flag is in the table; the rest may not be in the cache.
        let repeating = self.flags & flag::COMPOUND != 0 && self.op_kind() == OpKind::Timer;
        if repeating { self.op_copy().as_timer().end_ns } else { NO_DEADLINE }
    }

    pub(super) fn op_kind(&self) -> OpKind {
        // SAFETY: S3: a field that nothing writes while the operation is in flight.
        unsafe { (*self.op()).kind }
    }

    pub(super) fn op_fd(&self) -> RawDescriptor {
        // SAFETY: S3: a field that only the backend's `submit` writes.
        unsafe { (*self.op()).fd }
    }
}

impl Timed for Entry {
    #[inline(always)]
    fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    #[inline(always)]
    fn set_deadline_ns(&mut self, deadline_ns: u64) {
        self.deadline_ns = deadline_ns;
    }

    #[inline(always)]
    fn neighbours(&self) -> (u32, u32) {
        (self.next, self.prev)
    }

    #[inline(always)]
    fn set_next(&mut self, next: u32) {
        self.next = next;
    }

    #[inline(always)]
    fn set_prev(&mut self, prev: u32) {
        self.prev = prev;
    }

    #[inline(always)]
    fn place(&self) -> Place {
        self.place
    }

    #[inline(always)]
    fn set_place(&mut self, place: Place) {
        self.place = place;
    }
}
