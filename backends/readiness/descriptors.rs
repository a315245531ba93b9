//! What the backend knows of each descriptor: whether the selector watches it, in which directions it is
//! worth trying, what it is, and who waits for it.
//!
//! A record is found by the descriptor's number, and numbers are recycled. So a record is only believed while
//! its generation is that of the number ([`Generations`]); otherwise the number names a new file, of which
//! nothing is known. Descriptors that are not ours, and those with huge numbers, have no generation: their
//! records are believed while an operation is in flight, because then they are open.

#![allow(unsafe_code)]

use std::io;

use super::queue::Queue;
use super::{Selector, file};
use crate::descriptor::RawDescriptor;
use crate::generations::{DESCRIPTORS_MAX, Generations};
use crate::memory::{self, Zeroed};
use crate::op::{Direction, RawOp};
use crate::sys::poll::{POLLOUT, POLLRDHUP, POLLWRBAND, POLLWRNORM};
use crate::sys::{self, errno};

/// The flag that says that trying in this direction is of no use before the next edge.
const fn not_ready(direction: Direction) -> u8 {
    match direction {
        Direction::In => flag::NOT_READABLE,
        Direction::Out => flag::NOT_WRITABLE,
        Direction::Neither => 0,
    }
}

/// The edges that the selector is asked for. An edge-triggered one is never asked for less again: a registration
/// is changed at most once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// Events of `poll(2)`, and no others: only asked of a selector that is one-shot.
    pub(crate) events: i16,
}

impl Interest {
    /// What has to be watched for an operation: often a connection is never watched for writing, and so is
    /// not reported just because it could be written to.
    #[inline(always)]
    pub(super) fn of(op: &RawOp, is_one_shot: bool) -> Interest {
        let (read, write, events) = match op.kind.facts().direction {
            Direction::In => (true, false, 0),
            Direction::Out => (false, true, 0),
            Direction::Neither if is_one_shot => (false, false, op.as_poll().events as i16 | POLLRDHUP),
            Direction::Neither => {
                const WRITABLE: i16 = POLLOUT | POLLWRNORM | POLLWRBAND;
                (true, op.as_poll().events & WRITABLE as u32 != 0, 0)
            }
        };
        Interest { read, write, events }
    }

    /// Either.
    pub(super) fn and(self, other: Interest) -> Interest {
        let (read, write) = (self.read || other.read, self.write || other.write);
        Interest { read, write, events: self.events | other.events }
    }

    const fn flags(self) -> u8 {
        let read = if self.read || self.events != 0 { flag::WATCHED_READ } else { 0 };
        read | if self.write { flag::WATCHED_WRITE } else { 0 }
    }
}

/// What an edge says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// Something that makes a short transfer prove nothing: the end of the stream, an error, urgent data.
    pub(crate) special: bool,
}

/// What a descriptor is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum FileKind {
    #[default]
    Unknown,
    /// TCP: a transfer that is shorter than asked for has left nothing to read, or no room to write.
    Tcp,
    /// Other sockets, and pipes, terminals, … that do not block.
    Stream,
    /// The same, but the descriptor blocks.
    BlockingStream,
    /// A terminal that blocks.
    Terminal,
    /// It is always ready, and may take its time all the same: a file on a disk.
    Regular,
    /// A regular file behind no cache (`O_DIRECT`).
    Direct,
}

mod flag {
    /// The selector watches it for reading.
    pub(super) const WATCHED_READ: u8 = 1 << 0;
    pub(super) const WATCHED_WRITE: u8 = 1 << 1;
    /// Reading is of no use before the next edge. Only set while it is watched for it.
    pub(super) const NOT_READABLE: u8 = 1 << 2;
    pub(super) const NOT_WRITABLE: u8 = 1 << 3;
    /// An edge was special: see [`Edge`](super::Edge).
    pub(super) const SPECIAL: u8 = 1 << 4;
    /// The selector watched what the number named when it was last used, and it may name it still.
    pub(super) const KNOWN: u8 = 1 << 5;

    pub(super) const WATCHED: u8 = WATCHED_READ | WATCHED_WRITE;
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Record {
    generation: u32,
    flags: u8,
    kind: FileKind,
    /// One for each direction. Operations that move bytes wait in order; those of [`Direction::Neither`] wait for
    /// poll events, each for itself.
    queues: [Queue; Direction::ALL.len()],
}

const _: () = assert!(size_of::<Record>() == 32);

// SAFETY: integers, and a file kind whose zero is `Unknown`.
unsafe impl Zeroed for Record {}

impl Record {
    pub(super) fn queue(&mut self, direction: Direction) -> &mut Queue {
        &mut self.queues[direction as usize]
    }

    fn is_idle(&self) -> bool {
        self.queues.iter().all(Queue::is_empty)
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether the selector watches it.
    pub(super) fn is_registered(&self) -> bool {
        self.flags & flag::WATCHED != 0
    }

    /// Whether the selector probably knows it.
    pub(super) fn is_known(&self) -> bool {
        self.flags & (flag::WATCHED | flag::KNOWN) != 0
    }

    fn is_watched(&self, direction: Direction) -> bool {
        let watched = match direction {
            Direction::In => flag::WATCHED_READ,
            Direction::Out => flag::WATCHED_WRITE,
            Direction::Neither => flag::WATCHED,
        };
        self.flags & watched != 0
    }

    /// What the selector has to be asked for so that this, too, is watched; `None` if it is.
    pub(super) fn missing(&self, interest: Interest) -> Option<Interest> {
        let all = self.flags & flag::WATCHED | interest.flags();
        let (read, write) = (all & flag::WATCHED_READ != 0, all & flag::WATCHED_WRITE != 0);
        let wanted = Interest { read, write, events: 0 };
        (all != self.flags & flag::WATCHED).then_some(wanted)
    }

    pub(super) fn set_watched(&mut self, interest: Interest) {
        self.flags |= interest.flags();
    }

    /// Whether it is worth trying.
    pub(super) fn may_be_ready(&self, direction: Direction) -> bool {
        self.flags & not_ready(direction) == 0
    }

    /// The queue of a direction, if what is in it waits for an edge.
    pub(super) fn waiting(&self, direction: Direction) -> Option<&Queue> {
        let waits = direction == Direction::Neither || !self.may_be_ready(direction);
        Some(&self.queues[direction as usize]).filter(|queue| waits && !queue.is_empty())
    }

    /// Nothing more to be had before the next edge.
    pub(super) fn set_not_ready(&mut self, direction: Direction) {
        debug_assert!(self.is_watched(direction), "otherwise there is no next edge");
        self.flags |= not_ready(direction);
    }

    pub(super) fn note_edge(&mut self, edge: Edge) {
        if edge.readable {
            self.flags &= !flag::NOT_READABLE;
        }
        if edge.writable {
            self.flags &= !flag::NOT_WRITABLE;
        }
        if edge.special {
            self.flags |= flag::SPECIAL;
        }
    }

    /// A transfer moved less than it was asked to: on a TCP connection there is no more to be had
    /// (`epoll(7)`, questions and answers), so the call that would say so is spared. Not if the end of the
    /// stream may be behind what was read: it makes no edge of its own.
    #[inline]
    pub(super) fn note_short_transfer<S: Selector>(
        &mut self,
        direction: Direction,
        op: &RawOp,
        selector: &mut S,
    ) {
        if !self.is_watched(direction) && !self.watch_early(op, selector) || self.flags & flag::SPECIAL != 0 {
            return;
        }
        if self.kind == FileKind::Unknown {
            self.look_what_it_is(op.fd);
        }
        if self.kind == FileKind::Tcp {
            self.set_not_ready(direction);
        }
    }

    /// Has a connection watched that has received all that had come, before an operation waits on it: its next receive
    /// waits for an edge like all others. If that were tried at once, a connection whose data always comes in time would
    /// never be watched, and would have its turn before those that are. `false`: it is not watched.
    #[cold]
    #[inline(never)]
    fn watch_early<S: Selector>(&mut self, op: &RawOp, selector: &mut S) -> bool {
        let is_foreign = op.flags & RawOp::UNTRACKED != 0 || op.fd as usize >= DESCRIPTORS_MAX;
        if S::ONE_SHOT || is_foreign || op.kind.facts().direction != Direction::In {
            return false;
        }
        if self.kind == FileKind::Unknown {
            self.look_what_it_is(op.fd);
        }
        let Some(wanted) = self.missing(Interest::of(op, false)).filter(|_| self.kind == FileKind::Tcp)
        else {
            return false;
        };
        // If it is refused, the next receive will hear of it.
        let is_registered = selector.register(op.fd, self.generation, wanted, self.is_known()).is_ok();
        if is_registered {
            self.set_watched(wanted);
        }
        is_registered
    }

    #[cold]
    fn look_what_it_is(&mut self, fd: RawDescriptor) {
        self.kind = if sys::socket::is_tcp(fd) { FileKind::Tcp } else { FileKind::Stream };
    }

    /// What the descriptor is, for operations on files.
    pub(super) fn file_kind(&mut self, fd: RawDescriptor) -> Result<FileKind, i32> {
        if matches!(self.kind, FileKind::Unknown | FileKind::Tcp) {
            self.kind = file::file_kind(fd)?;
        }
        Ok(self.kind)
    }

    /// Whether it is a file on a disk. What the selector watches is none.
    pub(super) fn is_regular(&mut self, fd: RawDescriptor) -> bool {
        if self.is_registered() || self.kind == FileKind::Tcp {
            return false;
        }
        matches!(self.file_kind(fd), Ok(FileKind::Regular | FileKind::Direct))
    }

    /// The selector does not take it, so it never waits.
    pub(super) fn set_regular(&mut self) {
        self.kind = FileKind::Regular;
    }
}

/// Below which number all descriptors are that this process can have, as far as is known now.
pub(crate) fn numbers_max() -> usize {
    const DESCRIPTORS_MIN: usize = 1024;
    sys::descriptor::count_max().clamp(DESCRIPTORS_MIN, DESCRIPTORS_MAX)
}

/// The records of all descriptors that this process can have, as far as is known when the loop is made.
#[derive(Debug)]
pub(super) struct Descriptors {
    records: Box<[Record]>,
    generations: Generations,
}

impl Descriptors {
    pub(super) fn new() -> io::Result<Descriptors> {
        Ok(Descriptors { records: memory::table(numbers_max())?, generations: Generations::new()? })
    }

    pub(super) fn record(&mut self, fd: RawDescriptor) -> &mut Record {
        &mut self.records[fd as usize]
    }

    /// Whether the record of a descriptor that an operation names has to be forgotten, for the number names
    /// another file now. The error is an errno.
    #[inline(always)]
    pub(super) fn is_stale(&mut self, op: &RawOp) -> Result<bool, i32> {
        let index = usize::try_from(op.fd).map_err(|_| errno::EBADF)?;
        let Some(record) = self.records.get(index) else { return self.grow(index) };
        if op.flags & RawOp::UNTRACKED != 0 || index >= DESCRIPTORS_MAX {
            return Ok(record.is_idle());
        }
        Ok(record.generation != self.generations.of(op.fd))
    }

    /// Makes room for a number that the limit did not allow when the loop was made.
    #[cold]
    fn grow(&mut self, index: usize) -> Result<bool, i32> {
        /// Half a gigabyte of records. Nobody gets there but by asking for such a number.
        const RECORDS_MAX: usize = 1 << 24;
        if index >= RECORDS_MAX {
            return Err(errno::EMFILE);
        }
        memory::grow(&mut self.records, index).map_err(|_| errno::ENOMEM)?;
        Ok(true)
    }

    /// Begins a new record, with nobody waiting.
    pub(super) fn forget(&mut self, fd: RawDescriptor) {
        let (generation, record) = (self.generations.of(fd), self.record(fd));
        debug_assert!(record.is_idle());
        let is_known = record.generation == generation && record.is_known();
        let flags = if is_known { flag::KNOWN } else { 0 };
        *record = Record { generation, flags, ..Record::default() };
    }

    /// The record that an edge is for, unless the edge is of an earlier file with the same number.
    #[inline]
    pub(super) fn at_edge(&mut self, fd: RawDescriptor, generation: u32) -> Option<&mut Record> {
        let record = self.records.get_mut(usize::try_from(fd).ok()?)?;
        (record.generation == generation && record.is_registered()).then_some(record)
    }
}
