//! One try at an operation.

#![allow(unsafe_code)]

use super::descriptors::{FileKind, Record};
use super::{Selector, connect, file, poll, socket};
use crate::io_vecs;
use crate::op::{OpKind, Outcome, RawOp};
use crate::sys::errno;

/// How a try went.
#[derive(Debug)]
pub(super) enum Attempt {
    /// This is the outcome.
    Over(Outcome),
    /// It is for the next edge.
    NotReady,
}

/// Tries an operation on a descriptor, without blocking. Its kind is passed beside it: where that is a constant, one arm
/// is left.
#[inline(always)]
pub(super) fn attempt<S: Selector>(
    op: &mut RawOp,
    kind: OpKind,
    record: &mut Record,
    selector: &mut S,
) -> Attempt {
    debug_assert_eq!(op.kind, kind);
    let (result, asked) = match kind {
        OpKind::Recv => (socket::recv(op), op.transfer_len() as usize),
        OpKind::Send | OpKind::SendZeroCopy => (socket::send(op), op.transfer_len() as usize),
        OpKind::RecvVectored => (socket::recv_vectored(op), op.as_vectored().len),
        OpKind::SendVectored => (socket::send_vectored(op), op.as_vectored().len),
        OpKind::RecvPooled => return socket::recv_pooled(op, record, selector),
        OpKind::Accept => (socket::accept(op), 0),
        OpKind::Connect => return connect::attempt(op),
        OpKind::Poll => return poll::attempt(op),
        OpKind::Read | OpKind::ReadVectored | OpKind::Write | OpKind::WriteVectored => {
            (file::stream(op, record.file_kind(op.fd).unwrap_or(FileKind::BlockingStream)), 0)
        }
        // These wait for no descriptor to be ready.
        OpKind::Nop
        | OpKind::Timer
        | OpKind::Notify
        | OpKind::Offload
        | OpKind::Shutdown
        | OpKind::Open
        | OpKind::Close
        | OpKind::SyncAll
        | OpKind::SyncData
        | OpKind::Metadata => (-errno::EOPNOTSUPP, 0),
    };
    if result > 0 && (result as usize) < asked && is_short(op, kind, result as usize) {
        record.note_short_transfer(kind.facts().direction, op, selector);
    }
    over_unless_not_ready(result)
}

/// Whether a transfer that did not move all moved less than its call was for: a long list goes in parts.
#[inline(always)]
fn is_short(op: &RawOp, kind: OpKind, moved: usize) -> bool {
    // SAFETY: S3: the operation is the backend's.
    !kind.is_vectored() || moved < unsafe { io_vecs::part(op, usize::MAX) }.1
}

pub(super) fn over_unless_not_ready(result: i32) -> Attempt {
    if result == -errno::EAGAIN {
        return Attempt::NotReady;
    }
    Attempt::Over(Outcome::new(result))
}
