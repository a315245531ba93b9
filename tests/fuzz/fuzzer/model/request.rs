//! What is asked of a loop: one operation, or several results from one submission.

use oxev::OpKind;

use super::super::program::{OpenWhat, Receive, Series, Transmit, Work};

/// What an entry of the ledger is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Single(Work),
    Series(Series),
}

impl Work {
    /// Whether it may be sure of a result of its own while it is still listed: a thread pool may have begun it,
    /// the kernel may be closing its descriptor, or have sent its bytes.
    fn may_be_beyond_cancel(self) -> bool {
        match self {
            Work::Offload { .. } | Work::Close { .. } | Work::CloseFile => true,
            Work::Read { .. } | Work::ReadOn { .. } | Work::Write { .. } | Work::Append { .. } => true,
            Work::Mixed { .. } | Work::Fifo { .. } => true,
            Work::Sync { .. } | Work::Metadata | Work::Open(_) => true,
            Work::Send { how, .. } => how == Transmit::ZeroCopy,
            _ => false,
        }
    }

    /// Under which name the loop lists it.
    pub(crate) fn op_kind(self) -> Option<OpKind> {
        Some(match self {
            Work::Nop => OpKind::Nop,
            Work::After(_) | Work::At(_) | Work::Hour | Work::Nested(_) => OpKind::Timer,
            Work::Recv { how: Receive::Pooled, .. } => OpKind::RecvPooled,
            Work::Recv { how: Receive::Vectored | Receive::ExactVectored, .. } => OpKind::RecvVectored,
            Work::Recv { .. } => OpKind::Recv,
            Work::Send { how: Transmit::Some | Transmit::All, .. } => OpKind::Send,
            Work::Send { how: Transmit::ZeroCopy, .. } => OpKind::SendZeroCopy,
            Work::Send { .. } => OpKind::SendVectored,
            Work::Accept { .. } => OpKind::Accept,
            Work::Connect { .. } => OpKind::Connect,
            Work::Shutdown { .. } => OpKind::Shutdown,
            Work::Close { .. } | Work::CloseFile => OpKind::Close,
            Work::Read { how: Receive::Vectored | Receive::ExactVectored, .. } => OpKind::ReadVectored,
            Work::Read { .. } | Work::ReadOn { .. } => OpKind::Read,
            Work::Append { .. } => OpKind::Write,
            Work::Mixed { writes, .. } | Work::Fifo { writes, .. } => match writes {
                true => OpKind::Write,
                false => OpKind::Read,
            },
            Work::Write { how: Transmit::Vectored | Transmit::AllVectored, .. } => OpKind::WriteVectored,
            Work::Write { .. } => OpKind::Write,
            Work::Sync { data: false } => OpKind::SyncAll,
            Work::Sync { data: true } => OpKind::SyncData,
            Work::Metadata => OpKind::Metadata,
            Work::Open(_) => OpKind::Open,
            Work::Wait { .. } => OpKind::Notify,
            Work::Offload { .. } => OpKind::Offload,
            Work::Stray { sends } | Work::OnClosed { sends } => {
                if sends {
                    OpKind::Send
                } else {
                    OpKind::Recv
                }
            }
            Work::ForeignPool { .. } => return None,
        })
    }

    /// It is over before it reaches the table: an empty buffer, an argument that makes no sense.
    pub(super) fn is_immediate(self) -> bool {
        match self {
            Work::Recv { how: Receive::Pooled, .. } => false,
            Work::Recv { len, .. }
            | Work::Read { len, .. }
            | Work::Write { len, .. }
            | Work::Append { len, .. }
            | Work::Mixed { len, .. }
            | Work::Fifo { len, .. }
            | Work::ReadOn { len } => len == 0,
            Work::Send { len, .. } => len == 0,
            Work::Open(OpenWhat::Contradiction) | Work::ForeignPool { .. } => true,
            _ => false,
        }
    }

    pub(super) fn is_timer(self) -> bool {
        matches!(self, Work::After(_) | Work::At(_) | Work::Hour | Work::Nested(_))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Work::Nop => "nop",
            Work::After(_) | Work::Hour => "after",
            Work::At(_) => "at",
            Work::Recv { how: Receive::Some, .. } => "recv",
            Work::Recv { how: Receive::Exact, .. } => "recv_exact",
            Work::Recv { how: Receive::Vectored, .. } => "recv_vectored",
            Work::Recv { how: Receive::ExactVectored, .. } => "recv_exact_vectored",
            Work::Recv { how: Receive::Pooled, .. } => "recv_pooled",
            Work::Send { how: Transmit::Some, .. } => "send",
            Work::Send { how: Transmit::All, .. } => "send_all",
            Work::Send { how: Transmit::ZeroCopy, .. } => "send_all_zero_copy",
            Work::Send { how: Transmit::Vectored, .. } => "send_vectored",
            Work::Send { how: Transmit::AllVectored, .. } => "send_all_vectored",
            Work::Accept { address: false } => "accept",
            Work::Accept { address: true } => "accept_with_addr",
            Work::Connect { .. } => "connect",
            Work::Shutdown { .. } => "shutdown",
            Work::Close { .. } => "close (socket)",
            Work::CloseFile => "close (file)",
            Work::Read { .. } => "read_at",
            Work::ReadOn { .. } => "read",
            Work::Mixed { writes: false, .. } => "read (mixed)",
            Work::Mixed { writes: true, .. } => "write (mixed)",
            Work::Fifo { writes: false, .. } => "read (FIFO)",
            Work::Fifo { writes: true, .. } => "write (FIFO)",
            Work::Nested(_) => "after, with a loop in its owner",
            Work::Append { all: true, .. } => "write_all",
            Work::Append { all: false, .. } => "write",
            Work::Write { .. } => "write_at",
            Work::Sync { .. } => "sync",
            Work::Metadata => "metadata",
            Work::Open(_) => "open",
            Work::Wait { .. } => "notifier.wait",
            Work::Offload { .. } => "offload",
            Work::Stray { .. } => "on a stray socket",
            Work::OnClosed { .. } => "on a closed stream",
            Work::ForeignPool { .. } => "foreign pool",
        }
    }
}

impl Series {
    pub(crate) fn op_kind(self) -> OpKind {
        match self {
            Series::Every(_) | Series::EveryAfter(_) => OpKind::Timer,
            Series::Accept => OpKind::Accept,
            Series::Recv { .. } => OpKind::RecvPooled,
            Series::Wait { .. } => OpKind::Notify,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Series::Every(_) => "every",
            Series::EveryAfter(_) => "every_after",
            Series::Accept => "accept_multi",
            Series::Recv { .. } => "recv_multi",
            Series::Wait { .. } => "wait_multi",
        }
    }
}

impl Request {
    pub(crate) fn op_kind(self) -> Option<OpKind> {
        match self {
            Request::Single(work) => work.op_kind(),
            Request::Series(series) => Some(series.op_kind()),
        }
    }

    pub(super) fn is_immediate(self) -> bool {
        match self {
            Request::Single(work) => work.is_immediate(),
            Request::Series(series) => matches!(series, Series::Every(0) | Series::EveryAfter(0)),
        }
    }

    pub(super) fn is_timer(self) -> bool {
        match self {
            Request::Single(work) => work.is_timer(),
            Request::Series(series) => matches!(series, Series::Every(_) | Series::EveryAfter(_)),
        }
    }

    pub(super) fn may_be_beyond_cancel(self) -> bool {
        match self {
            Request::Single(work) => work.may_be_beyond_cancel(),
            Request::Series(_) => false,
        }
    }

    pub(super) fn notifier(self) -> Option<usize> {
        match self {
            Request::Single(Work::Wait { notifier }) | Request::Series(Series::Wait { notifier }) => {
                Some(usize::from(notifier))
            }
            _ => None,
        }
    }

    pub(super) fn accepts(self) -> bool {
        matches!(self, Request::Single(Work::Accept { .. }) | Request::Series(Series::Accept))
    }

    /// What has arrived for it comes to the program in any case.
    pub(super) fn brings_resources(self) -> bool {
        matches!(self, Request::Series(Series::Accept | Series::Recv { .. }))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Request::Single(work) => work.name(),
            Request::Series(series) => series.name(),
        }
    }
}
