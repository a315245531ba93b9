//! An operation as a submission queue entry: the one table from [`OpKind`] to `IORING_OP_*`.

#![allow(unsafe_code)]

use ::io_uring::squeue::{Entry, Flags};
use ::io_uring::{opcode, types};

use super::buf_ring::group;
use super::features::Features;
use super::{WHOLE, fifo, sends};
use crate::buf_pool;
use crate::io_vecs::{self, Part};
use crate::net::socket::address_place;
use crate::op::words::OpenWords;
use crate::op::{Direction, OpKind, PART_BYTES_MAX, RawOp, TRANSFER_BYTES_MAX};
use crate::sys::linux::{metadata, socket};

/// Sends never wait, and the peer's reset is an error, not a signal.
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// Makes the entry of an operation that programs do often; `None` for the others. These differ in a few
/// fields, which stay in registers; with all operations in one match every field goes through memory twice.
///
/// Exact transfers do not ask the kernel to go on by itself (`MSG_WAITALL`): a reset in the middle of a receive
/// would be swallowed with the count that there was, and look like the end of the stream; [`sends`] tells of
/// sends.
///
/// # Safety
/// `op` is an operation of the backend.
#[inline(always)]
pub(super) unsafe fn of_common(op: *const RawOp) -> Option<Entry> {
    // SAFETY: S3: nobody writes to it now.
    let raw = unsafe { &*op };
    let fd = types::Fd(raw.fd);
    Some(match raw.kind {
        OpKind::Recv => opcode::Recv::new(fd, raw.as_transfer().buf, raw.transfer_len()).build(),
        OpKind::Send => {
            opcode::Send::new(fd, raw.as_transfer().buf, raw.transfer_len()).flags(SEND_FLAGS).build()
        }
        // At the position of a file there is one at a time: `IoUring::begin_at_position`.
        OpKind::Read | OpKind::Write
            if raw.flags & RawOp::CURSOR != 0 || raw.as_transfer().len > PART_BYTES_MAX =>
        {
            return None;
        }
        OpKind::Read => {
            let words = raw.as_transfer();
            opcode::Read::new(fd, words.buf, raw.transfer_len()).offset(words.offset).build()
        }
        OpKind::Write => {
            let words = raw.as_transfer();
            opcode::Write::new(fd, words.buf, raw.transfer_len()).offset(words.offset).build()
        }
        OpKind::Nop => opcode::Nop::new().build(),
        _ => return None,
    })
}

/// Makes the entry of any operation.
///
/// # Safety
/// As [`of_common`].
#[inline(never)]
pub(super) unsafe fn of(op: *mut RawOp, features: &Features) -> Entry {
    // SAFETY: S3: as the caller promises.
    if let Some(entry) = unsafe { of_common(op) } {
        return entry;
    }
    // SAFETY: S3: nobody writes to it now.
    let raw = unsafe { &*op };
    let fd = types::Fd(raw.fd);
    let multi = raw.flags & RawOp::MULTI != 0;
    match raw.kind {
        OpKind::SendZeroCopy if features.zero_copy_send && raw.backend_state & sends::COPIES == 0 => {
            opcode::SendZc::new(fd, raw.as_transfer().buf, raw.transfer_len()).flags(SEND_FLAGS).build()
        }
        OpKind::SendZeroCopy => {
            opcode::Send::new(fd, raw.as_transfer().buf, raw.transfer_len()).flags(SEND_FLAGS).build()
        }
        OpKind::RecvVectored => opcode::RecvMsg::new(fd, raw.as_vectored().message.cast()).build(),
        OpKind::SendVectored => {
            let message = raw.as_vectored().message.cast_const();
            opcode::SendMsg::new(fd, message.cast()).flags(SEND_FLAGS as u32).build()
        }
        OpKind::RecvPooled => {
            let buffers = buf_pool::buffers_of(raw);
            let group = group(buffers.id());
            match (buffers.is_supplied(), multi && features.multishot_recv) {
                (true, true) => opcode::RecvMulti::new(fd, group).build(),
                (true, false) => opcode::Recv::new(fd, std::ptr::null_mut(), 0)
                    .buf_group(group)
                    .build()
                    .flags(Flags::BUFFER_SELECT),
                (false, _) => opcode::PollAdd::new(fd, libc::POLLIN as u32).build(),
            }
        }
        OpKind::Accept if multi && features.multishot_accept => {
            opcode::AcceptMulti::new(fd).flags(socket::FLAGS).build()
        }
        OpKind::Accept if raw.flags & RawOp::ADDRESS != 0 => {
            let (address, len) = (RawOp::address_place(op), RawOp::address_len_place(op));
            // SAFETY: S3: the overlay's place for the length; the kernel does not have it yet.
            unsafe { len.write(RawOp::ADDRESS_BYTES as u32) };
            opcode::Accept::new(fd, address.cast(), len).flags(socket::FLAGS).build()
        }
        OpKind::Accept => {
            let null = std::ptr::null_mut();
            opcode::Accept::new(fd, null, null.cast()).flags(socket::FLAGS).build()
        }
        OpKind::Connect => {
            // SAFETY: S3: nobody else has it now.
            let (address, len) = address_place(unsafe { &mut *op });
            opcode::Connect::new(fd, address.cast(), len).build()
        }
        OpKind::Read | OpKind::ReadVectored | OpKind::Write | OpKind::WriteVectored => {
            let whole = raw.backend_state == WHOLE;
            let bytes_max = if whole { TRANSFER_BYTES_MAX } else { PART_BYTES_MAX };
            // SAFETY: S3: an operation over a buffer or a list.
            let (part, _) = unsafe { io_vecs::part(raw, bytes_max) };
            let (reads, offset) = (raw.kind.facts().direction == Direction::In, file_offset(raw));
            let entry = match part {
                Part::Run(run) if reads => {
                    opcode::Read::new(fd, run.base(), run.len() as u32).offset(offset).build()
                }
                Part::Run(run) => opcode::Write::new(fd, run.base(), run.len() as u32).offset(offset).build(),
                Part::Runs(runs, count) if reads => {
                    opcode::Readv::new(fd, runs.cast(), count as u32).offset(offset).build()
                }
                Part::Runs(runs, count) => {
                    opcode::Writev::new(fd, runs.cast(), count as u32).offset(offset).build()
                }
            };
            if whole { entry.flags(Flags::ASYNC) } else { entry }
        }
        OpKind::Shutdown => opcode::Shutdown::new(fd, raw.as_shutdown().how).build(),
        OpKind::Poll => opcode::PollAdd::new(fd, raw.as_poll().events).build(),
        OpKind::Open => {
            let OpenWords { path, flags, mode, .. } = *raw.as_open();
            let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path).flags(flags).mode(mode).build();
            if raw.backend_state == fifo::IN_WORKER { open.flags(Flags::ASYNC) } else { open }
        }
        OpKind::Close => opcode::Close::new(fd).build(),
        OpKind::SyncAll => opcode::Fsync::new(fd).build(),
        OpKind::SyncData => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        OpKind::Metadata => opcode::Statx::new(fd, c"".as_ptr(), raw.as_metadata().record.cast())
            .flags(metadata::FLAGS)
            .mask(metadata::MASK)
            .build(),
        // The common ones are made above, and the loop's own never come here.
        OpKind::Recv | OpKind::Send | OpKind::Nop | OpKind::Timer | OpKind::Notify | OpKind::Offload => {
            opcode::Nop::new().build()
        }
    }
}

/// The offset of a file operation; all ones is the file's own position.
fn file_offset(op: &RawOp) -> u64 {
    if op.flags & RawOp::CURSOR != 0 { u64::MAX } else { op.as_progress().offset }
}
