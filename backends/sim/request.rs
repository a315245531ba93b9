//! What an operation asks of the simulator: the one place where it looks at [`OpKind`].

use crate::op::{OpKind, RawOp};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Nop,
    Close,
    Shutdown,
    Connect,
    Poll,
    Open,
    Sync,
    Metadata,
    Transfer(Transfer),
    /// The loop serves it, and gives it to no backend.
    LoopsOwn,
}

/// What is done at an object in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    Accept,
    /// `recv(2)` and its like.
    Receive,
    /// `send(2)` and its like.
    Send,
    /// `read(2)` and its like.
    Read(Position),
    /// `write(2)` and its like.
    Write(Position),
}

/// Where in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// Where the last transfer ended.
    Cursor,
    At(u64),
}

impl Position {
    fn of(raw: &RawOp) -> Position {
        if raw.flags & RawOp::CURSOR != 0 { Position::Cursor } else { Position::At(raw.as_progress().offset) }
    }
}

impl Request {
    pub(super) fn of(raw: &RawOp) -> Request {
        match raw.kind {
            OpKind::Nop => Request::Nop,
            OpKind::Close => Request::Close,
            OpKind::Shutdown => Request::Shutdown,
            OpKind::Connect => Request::Connect,
            OpKind::Poll => Request::Poll,
            OpKind::Open => Request::Open,
            OpKind::SyncAll | OpKind::SyncData => Request::Sync,
            OpKind::Metadata => Request::Metadata,
            OpKind::Accept => Request::Transfer(Transfer::Accept),
            OpKind::Recv | OpKind::RecvPooled | OpKind::RecvVectored => Request::Transfer(Transfer::Receive),
            OpKind::Send | OpKind::SendZeroCopy | OpKind::SendVectored => Request::Transfer(Transfer::Send),
            OpKind::Read | OpKind::ReadVectored => Request::Transfer(Transfer::Read(Position::of(raw))),
            OpKind::Write | OpKind::WriteVectored => Request::Transfer(Transfer::Write(Position::of(raw))),
            OpKind::Timer | OpKind::Notify | OpKind::Offload => Request::LoopsOwn,
        }
    }

    /// Whether a signal may interrupt it when it is performed. A close that was interrupted has closed: close(2).
    pub(super) fn is_interruptible(self) -> bool {
        match self {
            Request::Nop | Request::Close | Request::Shutdown => false,
            Request::Connect
            | Request::Poll
            | Request::Open
            | Request::Sync
            | Request::Metadata
            | Request::Transfer(_)
            | Request::LoopsOwn => true,
        }
    }
}
