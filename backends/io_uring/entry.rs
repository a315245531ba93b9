//! An operation as a submission queue entry: the one table from [`OpKind`] to the functions of its family.

#![allow(unsafe_code)]

use ::io_uring::opcode;
use ::io_uring::squeue::Entry;

use super::features::Features;
use super::{connect, file, poll, socket};
use crate::op::{OpKind, RawOp};

/// Makes the entry of an operation that programs do often; `None` for the others. These differ in a few
/// fields, which stay in registers; with all operations in one match every field goes through memory twice.
#[inline(always)]
pub(super) fn of_common(op: &RawOp) -> Option<Entry> {
    match op.kind {
        OpKind::Recv => Some(socket::recv(op)),
        OpKind::Send => Some(socket::send(op)),
        OpKind::Read if file::is_one_part(op) => Some(file::read(op)),
        OpKind::Write if file::is_one_part(op) => Some(file::write(op)),
        OpKind::Nop => Some(opcode::Nop::new().build()),
        OpKind::Timer
        | OpKind::Notify
        | OpKind::Offload
        | OpKind::Poll
        | OpKind::Accept
        | OpKind::Connect
        | OpKind::RecvPooled
        | OpKind::RecvVectored
        | OpKind::SendZeroCopy
        | OpKind::SendVectored
        | OpKind::Shutdown
        | OpKind::Read
        | OpKind::ReadVectored
        | OpKind::Write
        | OpKind::WriteVectored
        | OpKind::Open
        | OpKind::Close
        | OpKind::SyncAll
        | OpKind::SyncData
        | OpKind::Metadata => None,
    }
}

/// Makes the entry of any operation.
///
/// # Safety
/// `op` is an operation of the backend.
#[inline(never)]
pub(super) unsafe fn of(op: *mut RawOp, features: &Features) -> Entry {
    // SAFETY: S3: nothing writes to it now.
    let raw = unsafe { &*op };
    match raw.kind {
        OpKind::Recv => socket::recv(raw),
        OpKind::RecvPooled => socket::recv_pooled(raw, features),
        OpKind::RecvVectored => socket::recv_vectored(raw),
        OpKind::Send => socket::send(raw),
        OpKind::SendZeroCopy => socket::send_zero_copy(raw, features),
        OpKind::SendVectored => socket::send_vectored(raw),
        OpKind::Shutdown => socket::shutdown(raw),
        // SAFETY: S3: the caller's promise.
        OpKind::Accept => unsafe { socket::accept(op, features) },
        // SAFETY: S3: as above.
        OpKind::Connect => unsafe { connect::connect(op) },
        OpKind::Read | OpKind::ReadVectored | OpKind::Write | OpKind::WriteVectored => file::transfer(raw),
        OpKind::Open => file::open(raw),
        OpKind::Close => file::close(raw),
        OpKind::SyncAll => file::sync_all(raw),
        OpKind::SyncData => file::sync_data(raw),
        OpKind::Metadata => file::metadata(raw),
        OpKind::Poll => poll::poll(raw),
        // The loop's own never come here.
        OpKind::Nop | OpKind::Timer | OpKind::Notify | OpKind::Offload => opcode::Nop::new().build(),
    }
}
