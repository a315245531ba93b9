//! What the kernel does not do through the ring is done by a call.
//!
//! An operation that blocks is for a thread of the kernel's. If it cannot make one (`RLIMIT_NPROC`, a limit of the
//! cgroup, before Linux 6.14 also a signal at the wrong moment) it ends the operation with `ECANCELED`, though
//! nothing was cancelled. A thread of our own could not be made either, so the call is made in place: it holds the
//! loop for as long as the disk takes. What might wait for ever ends in `EAGAIN` instead.

#![allow(unsafe_code)]

use crate::io_vecs;
use crate::op::words::OpenWords;
use crate::op::{Direction, OpKind, PART_BYTES_MAX, RawOp};
use crate::sys::file::FileType;
use crate::sys::io_vec::IoVec;
use crate::sys::metadata::Record;
use crate::sys::{self, RawDescriptor, errno};

/// Makes the call of an operation that the kernel has let go of without doing it.
pub(super) fn call(op: &RawOp) -> i32 {
    loop {
        let result = match op.kind {
            OpKind::SyncAll => sys::file::sync_all(op.fd),
            OpKind::SyncData => sys::file::sync_data(op.fd),
            // SAFETY: S6: the record is the operation's.
            OpKind::Metadata => unsafe { Record::fill(op.as_metadata().record.cast(), op.fd) },
            // Not again: a file system may have answered so, and then the descriptor is gone, and its number perhaps
            // another's. If there was no thread for it, it is leaked.
            OpKind::Close => -errno::EIO,
            OpKind::Shutdown => sys::socket::shutdown(op.fd, op.as_shutdown().how),
            OpKind::Open => open(op),
            OpKind::Read | OpKind::ReadVectored | OpKind::Write | OpKind::WriteVectored => transfer(op),
            OpKind::Nop
            | OpKind::Timer
            | OpKind::Notify
            | OpKind::Offload
            | OpKind::Poll
            | OpKind::Accept
            | OpKind::Connect
            | OpKind::Recv
            | OpKind::RecvPooled
            | OpKind::RecvVectored
            | OpKind::Send
            | OpKind::SendZeroCopy
            | OpKind::SendVectored => -errno::EAGAIN,
        };
        if result != -errno::EINTR {
            return result;
        }
    }
}

/// Opens a file, but nothing whose opening waits for somebody (a FIFO, a terminal).
fn open(op: &RawOp) -> i32 {
    let OpenWords { path, flags, mode, .. } = *op.as_open();
    // SAFETY: S6: the path is the operation's.
    let fd = unsafe { sys::file::open(path, flags | libc::O_NONBLOCK, mode) };
    if fd < 0 || flags & libc::O_NONBLOCK != 0 {
        return fd;
    }
    let is_on_disk = matches!(sys::file::file_type(fd), Ok(FileType::OnDisk { .. }));
    if !is_on_disk || !make_blocking(fd) {
        sys::file::close(fd);
        return -errno::EAGAIN;
    }
    fd
}

fn make_blocking(fd: RawDescriptor) -> bool {
    // SAFETY: S8: no memory is passed.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: S8: no memory is passed.
    flags >= 0 && unsafe { libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK) } == 0
}

/// Moves bytes to or from a file on a disk, no more than does not hold the loop for long.
fn transfer(op: &RawOp) -> i32 {
    if !matches!(sys::file::file_type(op.fd), Ok(FileType::OnDisk { .. })) {
        return -errno::EAGAIN;
    }
    let first = if op.kind.is_vectored() {
        // SAFETY: S3: a vectored operation of ours.
        let (vecs, count) = unsafe { io_vecs::vecs(op) };
        // SAFETY: S3: each is one of the `count` vectors.
        let mut vecs = (0..count).map(|index| unsafe { vecs.wrapping_add(index).read() });
        vecs.find(|vec| vec.len() > 0).unwrap_or(IoVec::EMPTY)
    } else {
        IoVec::new(op.as_transfer().buf, op.as_transfer().len)
    };
    let part = IoVec::new(first.base(), first.len().min(PART_BYTES_MAX));
    let offset = if op.flags & RawOp::CURSOR != 0 { -1 } else { op.as_progress().offset as i64 };
    if op.kind.facts().direction == Direction::In {
        // SAFETY: S6: the buffer is the operation's.
        unsafe { sys::file::read(op.fd, &raw const part, 1, offset) }
    } else {
        // SAFETY: S6: as above.
        unsafe { sys::file::write(op.fd, &raw const part, 1, offset) }
    }
}
