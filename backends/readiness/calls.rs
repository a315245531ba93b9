//! The system calls: each is done once, never blocks unless it says so, and gives a count or a negative
//! errno.

#![allow(unsafe_code)]

use crate::descriptor::RawDescriptor;
use crate::io_vecs::{self, Part};
use crate::net::socket;
use crate::op::words::OpenWords;
use crate::op::{Direction, OpKind, PART_BYTES_MAX, RawOp, TRANSFER_BYTES_MAX};
use crate::sys::descriptor::{is_blocking, is_terminal};
use crate::sys::file::FileType;
use crate::sys::io_vec::IoVec;
use crate::sys::metadata::Record;
use crate::sys::poll::{POLLIN, POLLOUT, poll};
use crate::sys::{self, errno};

use super::descriptors::FileKind;

/// What a descriptor is. The error is an errno.
pub(super) fn file_kind(fd: RawDescriptor) -> Result<FileKind, i32> {
    Ok(match sys::file::file_type(fd)? {
        FileType::OnDisk { is_cached: true } => FileKind::Regular,
        FileType::OnDisk { is_cached: false } => FileKind::Direct,
        FileType::CharacterDevice if is_blocking(fd) && is_terminal(fd) => FileKind::Terminal,
        FileType::CharacterDevice | FileType::Other if is_blocking(fd) => FileKind::BlockingStream,
        FileType::CharacterDevice | FileType::Other => FileKind::Stream,
    })
}

// ---- sockets

pub(super) fn recv(op: &RawOp) -> i32 {
    // SAFETY: S6: the buffer is the operation's.
    unsafe { sys::socket::recv(op.fd, op.as_transfer().buf, op.transfer_len() as usize) }
}

pub(super) fn send(op: &RawOp) -> i32 {
    // SAFETY: S6: the buffer is the operation's.
    unsafe { sys::socket::send(op.fd, op.as_transfer().buf, op.transfer_len() as usize) }
}

pub(super) fn recv_vectored(op: &RawOp) -> i32 {
    // SAFETY: S6: the message and its buffers are the operation's.
    unsafe { sys::socket::recv_message(op.fd, op.as_vectored().message.cast()) }
}

pub(super) fn send_vectored(op: &RawOp) -> i32 {
    // SAFETY: S6: the message and its buffers are the operation's.
    unsafe { sys::socket::send_message(op.fd, op.as_vectored().message.cast()) }
}

pub(super) fn accept(op: &mut RawOp) -> i32 {
    if op.flags & RawOp::UNTRACKED != 0 && is_blocking(op.fd) {
        // Our own listeners do not block; of a foreign one we have to know that there is somebody.
        match poll(op.fd, POLLIN) {
            0 => return -errno::EAGAIN,
            ..0 => return -errno::EBADF,
            _ => {}
        }
    }
    socket::accept_now(op)
}

/// Begins to connect: `EINPROGRESS` if that takes its time.
pub(super) fn connect(op: &mut RawOp) -> i32 {
    let (address, len) = socket::address_place(op);
    // SAFETY: S3: the address is the operation's own.
    unsafe { sys::socket::connect(op.fd, address, len) }
}

pub(super) fn shutdown(op: &RawOp) -> i32 {
    sys::socket::shutdown(op.fd, op.as_shutdown().how)
}

// ---- files

/// The buffers of the next part of a read or write: those of its list, or the one in `single`, which is set to it. Only
/// what is appended is done whole: in parts it would mix with what others append.
fn vecs(op: &RawOp, single: &mut IoVec) -> (*const IoVec, i32) {
    let whole = op.as_progress().len > PART_BYTES_MAX && !is_read(op) && sys::file::appends(op.fd);
    let bytes_max = if whole { TRANSFER_BYTES_MAX } else { PART_BYTES_MAX };
    // SAFETY: S3: a transfer of ours.
    match unsafe { io_vecs::part(op, bytes_max) } {
        (Part::Runs(runs, count), _) => (runs.cast_const(), count as i32),
        (Part::Run(run), _) => {
            *single = run;
            (single, 1)
        }
    }
}

fn is_read(op: &RawOp) -> bool {
    op.kind.facts().direction == Direction::In
}

/// The offset of a file operation; -1 is the file's own position.
fn offset(op: &RawOp) -> i64 {
    if op.flags & RawOp::CURSOR != 0 { -1 } else { op.as_progress().offset as i64 }
}

/// Reads what is in the page cache; `EAGAIN` or `EOPNOTSUPP` if that is nothing.
pub(super) fn read_cached(op: &RawOp) -> i32 {
    let mut single = IoVec::EMPTY;
    let (vecs, count) = vecs(op, &mut single);
    // SAFETY: S6: the buffers are the operation's.
    unsafe { sys::file::read_nowait(op.fd, vecs, count, offset(op)) }
}

/// Calls with the offset of an operation. Where there are no positions it is not looked at, as on io_uring;
/// but sockets want none.
fn at_offset(op: &RawOp, call: impl Fn(i64) -> i32) -> i32 {
    let offset = offset(op);
    match call(offset) {
        errno if errno != -errno::ESPIPE || offset == -1 => errno,
        errno if offset != 0 && sys::socket::is_socket(op.fd) => errno,
        _ => call(-1),
    }
}

/// Reads from, or writes to, something that is not a file on a disk, and that is not waited for.
pub(super) fn stream(op: &RawOp, kind: FileKind) -> i32 {
    at_offset(op, |offset| stream_at(op, kind, offset))
}

/// The kernel is asked not to block even if the descriptor does not: others may have made it so since.
fn stream_at(op: &RawOp, kind: FileKind, offset: i64) -> i32 {
    let mut single = IoVec::EMPTY;
    let (vecs, count) = vecs(op, &mut single);
    let moved = if is_read(op) {
        // SAFETY: S6: the buffers are the operation's.
        unsafe { sys::file::read_nowait(op.fd, vecs, count, offset) }
    } else {
        // SAFETY: S6: as above.
        unsafe { sys::file::write_nowait(op.fd, vecs, count, offset) }
    };
    match moved {
        result if result != -errno::EOPNOTSUPP => result,
        _ if kind == FileKind::Stream => call_at(op, vecs, count, offset),
        _ => ready_stream(op, kind, vecs, count, offset),
    }
}

/// A transfer on a descriptor that blocks, where the kernel cannot be asked not to: done only when it is
/// ready, and writes only as much as a descriptor that is ready is sure to take.
fn ready_stream(op: &RawOp, kind: FileKind, vecs: *const IoVec, count: i32, offset: i64) -> i32 {
    /// What a terminal has room for that says that it has some, with every character replaced by eight: a tab
    /// may be.
    const TERMINAL_BYTES: usize = 32;
    let events = if is_read(op) { POLLIN } else { POLLOUT };
    match poll(op.fd, events) {
        0 => return -errno::EAGAIN,
        errno @ ..0 => return errno,
        _ => {}
    }
    if is_read(op) || count == 0 {
        return call_at(op, vecs, count, offset);
    }
    let room = if kind == FileKind::Terminal { TERMINAL_BYTES } else { sys::file::PIPE_BUF };
    // SAFETY: S3: there is at least one vector.
    let mut first = unsafe { vecs.read() };
    if first.len() > room {
        first = IoVec::new(first.base(), room);
        return call_at(op, &raw const first, 1, offset);
    }
    // SAFETY: S3: these are the operation's vectors.
    let lens = unsafe { std::slice::from_raw_parts(vecs, count as usize) }.iter().map(IoVec::len);
    let ends = lens.scan(0usize, |end, len| {
        *end = end.saturating_add(len);
        Some(*end)
    });
    call_at(op, vecs, ends.take_while(|end| *end <= room).count() as i32, offset)
}

/// Reads or writes once, at an offset, or if that is -1 at the file's own position.
fn call_at(op: &RawOp, vecs: *const IoVec, count: i32, offset: i64) -> i32 {
    if is_read(op) {
        // SAFETY: S6: the buffers are the operation's.
        unsafe { sys::file::read(op.fd, vecs, count, offset) }
    } else {
        // SAFETY: S6: as above.
        unsafe { sys::file::write(op.fd, vecs, count, offset) }
    }
}

/// Does a file operation, however long that takes: for the thread pool.
///
/// # Safety
/// What `op` points to is valid and the operation's, and its descriptor is open.
pub(super) unsafe fn blocking(op: &RawOp) -> i32 {
    loop {
        // SAFETY: S6: the caller's promise.
        let result = unsafe { blocking_once(op) };
        if result != -errno::EINTR {
            return result;
        }
    }
}

/// # Safety
/// As [`blocking`].
unsafe fn blocking_once(op: &RawOp) -> i32 {
    match op.kind {
        OpKind::Open => {
            let OpenWords { path, flags, mode, .. } = *op.as_open();
            // SAFETY: S6: the path is the operation's.
            unsafe { sys::file::open(path, flags, mode) }
        }
        OpKind::Close => sys::file::close(op.fd),
        OpKind::SyncAll => sys::file::sync_all(op.fd),
        OpKind::SyncData => sys::file::sync_data(op.fd),
        // SAFETY: S6: the record is the operation's.
        OpKind::Metadata => unsafe { Record::fill(op.as_metadata().record.cast(), op.fd) },
        OpKind::Read | OpKind::ReadVectored | OpKind::Write | OpKind::WriteVectored => transfer(op),
        _ => -errno::EOPNOTSUPP,
    }
}

fn transfer(op: &RawOp) -> i32 {
    let mut single = IoVec::EMPTY;
    let (vecs, count) = vecs(op, &mut single);
    at_offset(op, |offset| call_at(op, vecs, count, offset))
}
