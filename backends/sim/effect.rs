//! What state machines ask of the kernel: [`Effects`], and the names of what they are about.

use crate::op::Outcome;

/// An error code of the system, as `errno` has it.
pub(super) type Errno = i32;

/// Names an operation in its world. No other one gets the name later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OpSeq(pub(super) u64);

/// Names an object in its world. No other one gets the name later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectId(pub(super) u64);

/// What an operation waits for at an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    Read,
    Write,
}

/// What happens at a time of the virtual clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimEvent {
    /// An operation that waits for nothing else is done.
    Perform(OpSeq),
    /// A queue is tried again.
    Retry(ObjectId, Interest),
    /// Segments arrive.
    Arrive(ObjectId),
    /// A connection comes a step further, seen from the end that asked for it.
    Handshake(ObjectId, Handshake),
    /// A cancel that was late comes into effect.
    Cancel(OpSeq),
    /// A script has slept enough.
    ScriptTimer,
}

/// The steps of making a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handshake {
    /// The request arrives at the other host.
    Request,
    /// The answer arrives.
    Answer,
    /// There will be no connection.
    Refusal(Errno),
}

/// What goes from one object to another.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Data(Vec<u8>),
    /// No more data comes.
    End,
    Reset,
}

/// How a segment gets to the other object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// By the network, which takes its time.
    Network,
    /// Inside one host, at once.
    Local,
}

/// How an object is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// What was sent arrives, and the end after it.
    Orderly,
    /// The other end is told that there is no connection.
    Reset,
}

/// How an operation went, and the figure that stands for it in the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) outcome: Outcome,
    pub(super) figure: i64,
}

impl Ending {
    /// A count, a set of events, or nothing.
    pub(super) fn done(result: i32) -> Ending {
        Ending { outcome: Outcome::new(result), figure: i64::from(result) }
    }

    pub(super) fn failed(errno: Errno) -> Ending {
        Ending::done(-errno)
    }

    /// The operation was not begun.
    pub(super) fn untried(errno: Errno) -> Ending {
        Ending { outcome: Outcome::untried(-errno), figure: i64::from(-errno) }
    }

    /// A descriptor. Its number differs from run to run, so the object stands for it in the trace.
    pub(super) fn descriptor(fd: i32, object: ObjectId) -> Ending {
        Ending { outcome: Outcome::new(fd), figure: object.0 as i64 }
    }

    pub(super) fn of(result: Result<i32, Errno>) -> Ending {
        result.map_or_else(Ending::failed, Ending::done)
    }
}

/// One thing that the kernel does for a state machine.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// An operation is done.
    Complete(OpSeq, Ending),
    /// Something happens later.
    Schedule { at_ns: u64, event: SimEvent },
    /// Operations that wait at an object may be able to go on.
    Wake(ObjectId),
    /// As `Wake`, for those that wait to write.
    WakeWriters(ObjectId),
    /// A segment is on its way.
    Send { to: ObjectId, segment: Segment, path: Path },
    /// The other end of an object is closed, with this many bytes that it had not read.
    PeerClosed { object: ObjectId, unread: usize },
    /// An object is closed, since what it belongs to is.
    Close(ObjectId, Closing),
    /// An address is free again.
    Unlisten { listener: ObjectId, port: u16 },
    /// A line of the trace.
    Note { what: &'static str, which: ObjectId, figure: i64 },
    /// Bytes went to a file.
    NoteBytes(Vec<u8>),
}

/// What a state machine has decided: what the kernel does, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "a decision that the kernel does not hear of has no effect"]
pub(super) struct Effects(Vec<Effect>);

impl Effects {
    pub(super) const NONE: Effects = Effects(Vec::new());

    pub(super) fn one(effect: Effect) -> Effects {
        Effects(vec![effect])
    }
}

impl From<Vec<Effect>> for Effects {
    fn from(effects: Vec<Effect>) -> Effects {
        Effects(effects)
    }
}

impl IntoIterator for Effects {
    type Item = Effect;
    type IntoIter = std::vec::IntoIter<Effect>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
