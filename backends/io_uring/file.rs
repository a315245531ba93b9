//! Files: their entries, and which transfers go in parts.

#![allow(unsafe_code)]

use ::io_uring::squeue::{Entry, Flags};
use ::io_uring::{opcode, types};

use super::fifo;
use crate::backends::Operations;
use crate::io_vecs::{self, Part};
use crate::op::words::OpenWords;
use crate::op::{Direction, PART_BYTES_MAX, RawOp, TRANSFER_BYTES_MAX};
use crate::sys::file::{self, FileType};
use crate::sys::linux::metadata;
use crate::token::Token;

/// [`RawOp::backend_state`] of a long write that is appended: in parts it would mix with what others append. It is
/// for a thread of the kernel's.
const WHOLE: u16 = 4;

/// Looks whether a transfer is done in parts, so that the kernel does not hold the loop with it. A pipe or terminal gives
/// and takes what there is in one part. Called before the first part.
#[cold]
pub(super) fn choose_parts(token: Token, op: &mut RawOp, ops: &mut Operations) {
    let len = op.as_progress().len;
    if len <= PART_BYTES_MAX && !op.kind.is_vectored() {
        return;
    }
    // SAFETY: S3: a transfer of ours.
    let (_, bytes) = unsafe { io_vecs::part(op, PART_BYTES_MAX) };
    if bytes >= len || !matches!(file::file_type(op.fd), Ok(FileType::OnDisk { .. })) {
        return;
    }
    if len > PART_BYTES_MAX && op.kind.facts().direction == Direction::Out && file::appends(op.fd) {
        op.backend_state = WHOLE;
    } else {
        ops.go_by_parts(token);
    }
}

/// Whether one entry does all of a transfer over a buffer, at an offset. At the position of a file there is one transfer
/// at a time: [`IoUring::begin_at_position`](super::IoUring::begin_at_position).
#[inline(always)]
pub(super) fn is_one_part(op: &RawOp) -> bool {
    op.flags & RawOp::CURSOR == 0 && op.as_transfer().len <= PART_BYTES_MAX
}

#[inline(always)]
pub(super) fn read(op: &RawOp) -> Entry {
    let words = op.as_transfer();
    opcode::Read::new(types::Fd(op.fd), words.buf, op.transfer_len()).offset(words.offset).build()
}

#[inline(always)]
pub(super) fn write(op: &RawOp) -> Entry {
    let words = op.as_transfer();
    opcode::Write::new(types::Fd(op.fd), words.buf, op.transfer_len()).offset(words.offset).build()
}

/// The next part of a transfer.
pub(super) fn transfer(op: &RawOp) -> Entry {
    let (fd, offset) = (types::Fd(op.fd), offset(op));
    let reads = op.kind.facts().direction == Direction::In;
    let whole = op.backend_state == WHOLE;
    let bytes_max = if whole { TRANSFER_BYTES_MAX } else { PART_BYTES_MAX };
    // SAFETY: S3: an operation over a buffer or a list.
    let (part, _) = unsafe { io_vecs::part(op, bytes_max) };
    let entry = match part {
        Part::Run(run) if reads => opcode::Read::new(fd, run.base(), run.len() as u32).offset(offset).build(),
        Part::Run(run) => opcode::Write::new(fd, run.base(), run.len() as u32).offset(offset).build(),
        Part::Runs(runs, count) if reads => {
            opcode::Readv::new(fd, runs.cast(), count as u32).offset(offset).build()
        }
        Part::Runs(runs, count) => opcode::Writev::new(fd, runs.cast(), count as u32).offset(offset).build(),
    };
    if whole { entry.flags(Flags::ASYNC) } else { entry }
}

/// The offset of a transfer; all ones is the file's own position.
fn offset(op: &RawOp) -> u64 {
    if op.flags & RawOp::CURSOR != 0 { u64::MAX } else { op.as_progress().offset }
}

pub(super) fn open(op: &RawOp) -> Entry {
    let OpenWords { path, flags, mode, .. } = *op.as_open();
    let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path).flags(flags).mode(mode).build();
    if op.backend_state == fifo::IN_WORKER { open.flags(Flags::ASYNC) } else { open }
}

pub(super) fn close(op: &RawOp) -> Entry {
    opcode::Close::new(types::Fd(op.fd)).build()
}

pub(super) fn sync_all(op: &RawOp) -> Entry {
    opcode::Fsync::new(types::Fd(op.fd)).build()
}

pub(super) fn sync_data(op: &RawOp) -> Entry {
    opcode::Fsync::new(types::Fd(op.fd)).flags(types::FsyncFlags::DATASYNC).build()
}

pub(super) fn metadata(op: &RawOp) -> Entry {
    opcode::Statx::new(types::Fd(op.fd), c"".as_ptr(), op.as_metadata().record.cast())
        .flags(metadata::FLAGS)
        .mask(metadata::MASK)
        .build()
}
