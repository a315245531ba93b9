//! What the kernel does not do through the ring is done by a call.
//!
//! An operation that blocks is for a thread of the kernel's. If it cannot make one (`RLIMIT_NPROC`, a limit of the
//! cgroup, before Linux 6.14 also a signal at the wrong moment) it ends the operation with `ECANCELED`, though
//! nothing was cancelled. And an operator may keep a program from some of the ring's operations
//! (`IORING_REGISTER_RESTRICTIONS`, filters of a sandbox): they end in `EACCES` or `EPERM`. A thread of our own could not be made either, so the call is made in place: it holds the
//! loop for as long as the disk takes. What might wait without end ends in `EAGAIN` instead.

#![allow(unsafe_code)]

use crate::io_vecs::{self, Part};
use crate::op::words::OpenWords;
use crate::op::{Direction, OpKind, PART_BYTES_MAX, RawOp, Target};
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

/// Makes the call of an operation on a file that the ring answered with `refusal`, which a filter of operations may
/// mean; if it was the file's answer the call gives it again. What might wait stays refused, and so does what may
/// have happened (a close).
#[cold]
pub(super) fn call_refused(op: &RawOp, refusal: i32) -> i32 {
    let is_for_calls = match op.kind.facts().target {
        Target::OpenFile | Target::Name => true,
        Target::Nothing | Target::Socket | Target::ListeningSocket | Target::Descriptor => false,
    };
    let result = if is_for_calls { call(op) } else { refusal };
    if result == -errno::EAGAIN { refusal } else { result }
}

/// Opens a file, but nothing whose opening waits for a peer (a FIFO, a terminal).
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
    // SAFETY: S3: a transfer of ours.
    let (part, _) = unsafe { io_vecs::part(op, PART_BYTES_MAX) };
    let (vecs, count): (*const IoVec, usize) = match &part {
        Part::Run(run) => (&raw const *run, 1),
        Part::Runs(runs, count) => (*runs, *count),
    };
    let offset = if op.flags & RawOp::CURSOR != 0 { -1 } else { op.as_progress().offset as i64 };
    if op.kind.facts().direction == Direction::In {
        // SAFETY: S6: the buffers are the operation's.
        unsafe { sys::file::read(op.fd, vecs, count as i32, offset) }
    } else {
        // SAFETY: S6: as above.
        unsafe { sys::file::write(op.fd, vecs, count as i32, offset) }
    }
}
