//! The objects of a world: what the kernel asks of every kind ([`SimObject`]), the list of the kinds, and the
//! table of those that there are, which is asked by kind.
//!
//! # How to add a kind of object
//!
//! 1. A file with its state machine: a struct that implements [`SimObject`]. It touches no other object, no
//!    memory of operations and no clock; what it decides it returns as [`Effects`](super::effect::Effects). The
//!    defaults of the trait are what a descriptor answers that has nothing to do with the question.
//! 2. A row in `object_kinds!` below. Look-ups by its type (`objects.get_as::<Datagram>(id)`) come from it.
//! 3. Whatever makes one: a function of the kernel that calls [`Objects::add`] and gives it a descriptor, beside
//!    `listen` in `socket.rs` or `pipe` in `pipe.rs`, and its way in from [`World`](super::World).
//! 4. If it needs what no effect says yet: a variant of [`Effect`](super::effect::Effect). The compiler shows the
//!    one place where the kernel applies it.
//! 5. If an operation is new: its arm in `request.rs`, to which the compiler leads, and where it is attempted.
//! 6. A test of the state machine beside it, and one in `tests/sim.rs` of what a program sees.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

use super::effect::{Closing, Effects, Errno, Interest, ObjectId, OpSeq, Segment};
use super::file_system::FileSystem;
use super::listener::Listener;
use super::open_file::OpenFile;
use super::pipe::{PipeReader, PipeWriter};
use super::poll::{self, Polls};
use super::request::Transfer;
use super::stream::Stream;
use crate::sys::RawDescriptor;
use crate::sys::errno;
use crate::sys::metadata::Stat;

/// What an object sees of the world around it.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// The object's own name.
    pub(super) id: ObjectId,
    pub(super) now_ns: u64,
    /// How many bytes an object holds that its peer has sent.
    pub(super) buffer_bytes: usize,
    /// How many bytes its peer has room for; `None` if there is no peer, or not any more.
    pub(super) peer_room: Option<usize>,
}

/// Where an operation waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// In this queue of the object, until the object is ready for it.
    WhenReady(Interest),
    /// For nothing: it takes as long as the world's latency.
    AfterLatency,
    /// As `AfterLatency`, one at a time: it begins when the one before it is over.
    InTurn,
    Refused(Errno),
}

/// The part of what is possible that a transfer moves: a fault makes it less than all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share(f64);

impl Share {
    pub(super) const ALL: Share = Share(1.0);

    pub(super) fn new(fraction: f64) -> Share {
        Share(fraction)
    }

    /// The part of `len` bytes, at least one if there is any.
    pub(super) fn of(self, len: usize) -> usize {
        if self.0 >= 1.0 { len } else { ((len as f64 * self.0) as usize).clamp(len.min(1), len) }
    }
}

/// Bytes that an object gave. None are the end of the stream.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
    pub(super) effects: Effects,
}

/// How many bytes an object took.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) count: usize,
    pub(super) effects: Effects,
}

/// Says how much room there is for what is received; it is asked only if there is something.
pub(super) type Room<'a> = &'a mut dyn FnMut() -> Result<usize, Errno>;

/// Gives that many of the first bytes of what is sent; it is asked once at most.
pub(super) type Gather<'a> = &'a mut dyn FnMut(usize) -> Vec<u8>;

/// What the kernel asks of an object, whatever its kind.
pub(super) trait SimObject {
    /// As `fstat(2)` has it.
    fn stat(&self, files: &FileSystem) -> Stat;

    /// Where an operation waits at it.
    fn admit(&self, transfer: Transfer) -> Admission;

    /// Whether an operation that waits for this would not wait any more.
    fn is_ready(&self, interest: Interest, view: &View) -> bool;

    /// All events that `poll(2)` could report now.
    fn poll_events(&self, view: &View) -> i32 {
        poll::ready_events(self.is_ready(Interest::Read, view), self.is_ready(Interest::Write, view))
    }

    /// The other end, which may be gone.
    fn peer(&self) -> Option<ObjectId> {
        None
    }

    /// How many bytes its peer may send now.
    fn room(&self, _buffer_bytes: usize) -> usize {
        0
    }

    /// As `getsockname(2)`.
    fn local_addr(&self) -> Result<SocketAddr, Errno> {
        Err(errno::ENOTSOCK)
    }

    /// As `getpeername(2)`.
    fn peer_addr(&self) -> Result<SocketAddr, Errno> {
        Err(errno::ENOTSOCK)
    }

    /// Gives what there is; it is ready for that.
    fn receive(&mut self, _view: &View, _share: Share, _room: Room<'_>) -> Result<Received, Errno> {
        Err(errno::EINVAL)
    }

    /// Takes a part of `len` bytes, for which there is room.
    fn send(&mut self, _view: &View, _len: usize, _share: Share, _gather: Gather<'_>) -> Result<Sent, Errno> {
        Err(errno::EINVAL)
    }

    /// As `shutdown(2)`.
    fn shutdown(&mut self, _view: &View, _how: i32) -> Result<Effects, Errno> {
        Err(errno::ENOTSOCK)
    }

    /// A fault: its connection is reset while it is used. `None` if there is none.
    fn fail_connection(&mut self, _view: &View) -> Option<Effects> {
        None
    }

    /// The addresses between which segments come to it, unless they come from inside of the host.
    fn route(&self) -> Option<(SocketAddr, SocketAddr)> {
        None
    }

    /// A segment is on its way, and arrives at that time or later. Says when; `None` if it is not taken.
    fn expect(&mut self, _at_ns: u64, _segment: Segment) -> Option<u64> {
        None
    }

    /// Whether a segment is on its way.
    fn has_coming(&self) -> bool {
        false
    }

    /// Segments have arrived.
    fn arrive(&mut self, _view: &View) -> Effects {
        Effects::NONE
    }

    /// Its peer was closed, with this many bytes that it had not read.
    fn peer_closed(&mut self, _unread: usize) {}

    /// It is closed, and in the table no more.
    fn close(&mut self, _id: ObjectId, _closing: Closing) -> Effects {
        Effects::NONE
    }
}

/// A kind of object, by its type.
pub(super) trait Typed: SimObject + Sized {
    fn of(kind: &ObjectKind) -> Option<&Self>;
    fn of_mut(kind: &mut ObjectKind) -> Option<&mut Self>;
}

/// The list of the kinds: a type each.
macro_rules! object_kinds {
    ($($kind:ident),+ $(,)?) => {
        /// An object of any kind. It is asked as a [`SimObject`], or looked up by its type.
        #[derive(Debug)]
        pub(super) enum ObjectKind {
            $($kind($kind),)+
        }

        impl Deref for ObjectKind {
            type Target = dyn SimObject;

            fn deref(&self) -> &(dyn SimObject + 'static) {
                match self {
                    $(ObjectKind::$kind(object) => object,)+
                }
            }
        }

        impl DerefMut for ObjectKind {
            fn deref_mut(&mut self) -> &mut (dyn SimObject + 'static) {
                match self {
                    $(ObjectKind::$kind(object) => object,)+
                }
            }
        }

        $(
            impl From<$kind> for ObjectKind {
                fn from(object: $kind) -> ObjectKind {
                    ObjectKind::$kind(object)
                }
            }

            impl Typed for $kind {
                fn of(kind: &ObjectKind) -> Option<&$kind> {
                    if let ObjectKind::$kind(object) = kind { Some(object) } else { None }
                }

                fn of_mut(kind: &mut ObjectKind) -> Option<&mut $kind> {
                    if let ObjectKind::$kind(object) = kind { Some(object) } else { None }
                }
            }
        )+
    };
}

object_kinds!(Listener, Stream, PipeReader, PipeWriter, OpenFile);

/// Operations that wait at an object for the same, in order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) ops: VecDeque<OpSeq>,
    /// Nothing is tried before.
    pub(super) retry_ns: u64,
}

/// An object, and the operations that wait at it.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) kind: ObjectKind,
    reads: Queue,
    writes: Queue,
    pub(super) polls: Polls,
}

impl Object {
    pub(super) fn queue(&mut self, interest: Interest) -> &mut Queue {
        match interest {
            Interest::Read => &mut self.reads,
            Interest::Write => &mut self.writes,
        }
    }

    /// An operation waits here no more.
    pub(super) fn forget(&mut self, seq: OpSeq) {
        self.reads.ops.retain(|other| *other != seq);
        self.writes.ops.retain(|other| *other != seq);
        self.polls.forget(seq);
    }

    /// The object alone, and the operations that waited at it.
    pub(super) fn into_parts(self) -> (ObjectKind, impl Iterator<Item = OpSeq>) {
        let Object { kind, reads, writes, polls } = self;
        (kind, reads.ops.into_iter().chain(writes.ops).chain(polls.into_ops()))
    }
}

/// All objects of a world, and the descriptors that stand for them.
#[derive(Debug, Default)]
pub(super) struct Objects {
    table: BTreeMap<ObjectId, Object>,
    by_descriptor: BTreeMap<RawDescriptor, ObjectId>,
}

impl Objects {
    pub(super) fn add(&mut self, id: ObjectId, kind: ObjectKind) {
        let object =
            Object { kind, reads: Queue::default(), writes: Queue::default(), polls: Polls::default() };
        self.table.insert(id, object);
    }

    pub(super) fn remove(&mut self, id: ObjectId) -> Option<Object> {
        self.table.remove(&id)
    }

    pub(super) fn get(&self, id: ObjectId) -> Option<&Object> {
        self.table.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ObjectId) -> Option<&mut Object> {
        self.table.get_mut(&id)
    }

    /// The object, if it is of this kind.
    pub(super) fn get_as<K: Typed>(&self, id: ObjectId) -> Option<&K> {
        self.get(id).and_then(|object| K::of(&object.kind))
    }

    /// The object, if it is of this kind.
    pub(super) fn get_mut_as<K: Typed>(&mut self, id: ObjectId) -> Option<&mut K> {
        self.get_mut(id).and_then(|object| K::of_mut(&mut object.kind))
    }

    /// All names, in order.
    pub(super) fn ids(&self) -> Vec<ObjectId> {
        self.table.keys().copied().collect()
    }

    /// What a descriptor stands for.
    pub(super) fn id_of(&self, fd: RawDescriptor) -> Option<ObjectId> {
        self.by_descriptor.get(&fd).copied()
    }

    pub(super) fn of_descriptor(&self, fd: RawDescriptor) -> Option<&ObjectKind> {
        self.id_of(fd).and_then(|id| self.get(id)).map(|object| &object.kind)
    }

    /// A descriptor stands for an object from now on. Gives what it stood for before.
    pub(super) fn bind(&mut self, fd: RawDescriptor, id: ObjectId) -> Option<ObjectId> {
        self.by_descriptor.insert(fd, id)
    }

    /// A descriptor stands for nothing any more.
    pub(super) fn unbind(&mut self, fd: RawDescriptor) -> Option<ObjectId> {
        self.by_descriptor.remove(&fd)
    }
}
