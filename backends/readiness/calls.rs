//! The system calls: each is done once, never blocks unless it says so, and gives a count or a negative
//! errno.

#![allow(unsafe_code)]

use crate::descriptor::RawDescriptor;
use crate::io_vecs;
use crate::net::socket;
use crate::op::{Direction, OpKind, RawOp};
use crate::sys::{self, errno};

use super::descriptors::FileKind;

/// What a call returned, as a count or a negative errno. No call here moves more than an `i32` counts.
fn result_of(returned: libc::ssize_t) -> i32 {
    match i32::try_from(returned) {
        Ok(count @ 0..) => count,
        _ => -errno::last(),
    }
}

/// How many descriptors this process can ever have.
pub(super) fn descriptors_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: S8: the record is valid for the length of the call.
    let status = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if status == 0 { usize::try_from(limit.rlim_max).unwrap_or(usize::MAX) } else { usize::MAX }
}

fn status_flags(fd: RawDescriptor) -> i32 {
    // SAFETY: S8: no memory is passed.
    unsafe { libc::fcntl(fd, libc::F_GETFL) }.max(0)
}

fn is_blocking(fd: RawDescriptor) -> bool {
    status_flags(fd) & libc::O_NONBLOCK == 0
}

fn is_terminal(fd: RawDescriptor) -> bool {
    // SAFETY: S8: no memory is passed.
    unsafe { libc::isatty(fd) == 1 }
}

/// What a descriptor is. The error is an errno.
pub(super) fn file_kind(fd: RawDescriptor) -> Result<FileKind, i32> {
    // SAFETY: S8: integers only, for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: S8: the record is valid for the length of the call.
    if unsafe { libc::fstat(fd, &raw mut stat) } != 0 {
        return Err(errno::last());
    }
    Ok(match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK if status_flags(fd) & libc::O_DIRECT != 0 => {
            FileKind::Direct
        }
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK => FileKind::Regular,
        libc::S_IFCHR if is_blocking(fd) && is_terminal(fd) => FileKind::Terminal,
        _ if is_blocking(fd) => FileKind::BlockingStream,
        _ => FileKind::Stream,
    })
}

/// The poll events of `events` that a descriptor has now: a set or a negative errno.
pub(super) fn poll(fd: RawDescriptor, events: libc::c_short) -> i32 {
    let mut poll = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: S8: the one record is valid for the length of the call.
    match unsafe { libc::poll(&raw mut poll, 1, 0) } {
        ..0 => -errno::last(),
        _ if poll.revents & libc::POLLNVAL != 0 => -errno::EBADF,
        _ => i32::from(poll.revents),
    }
}

// ---- sockets

pub(super) fn recv(op: &RawOp) -> i32 {
    // SAFETY: S6: the buffer is the operation's.
    unsafe { sys::socket::recv(op.fd, op.buf, op.transfer_len() as usize) }
}

pub(super) fn send(op: &RawOp) -> i32 {
    // SAFETY: S6: the buffer is the operation's.
    unsafe { sys::socket::send(op.fd, op.buf, op.transfer_len() as usize) }
}

pub(super) fn recv_vectored(op: &RawOp) -> i32 {
    // SAFETY: S6: the message and its buffers are the operation's.
    unsafe { sys::socket::recv_message(op.fd, op.buf.cast()) }
}

pub(super) fn send_vectored(op: &RawOp) -> i32 {
    // SAFETY: S6: the message and its buffers are the operation's.
    unsafe { sys::socket::send_message(op.fd, op.buf.cast()) }
}

pub(super) fn accept(op: &mut RawOp) -> i32 {
    if op.flags & RawOp::UNTRACKED != 0 && is_blocking(op.fd) {
        // Our own listeners do not block; of a foreign one we have to know that there is somebody.
        match poll(op.fd, libc::POLLIN) {
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
    sys::socket::shutdown(op.fd, op.len as i32)
}

// ---- files

/// The buffers of a read or write: those of its list, or the one in `single`, which is set to it.
fn vecs(op: &RawOp, single: &mut libc::iovec) -> (*const libc::iovec, i32) {
    if op.kind.is_vectored() {
        // SAFETY: S3: a vectored operation of ours.
        let (vecs, count) = unsafe { io_vecs::vecs(op) };
        return (vecs, i32::try_from(count).unwrap_or(i32::MAX));
    }
    *single = libc::iovec { iov_base: op.buf.cast(), iov_len: op.transfer_len() as usize };
    (single, 1)
}

const NO_VEC: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

fn is_read(op: &RawOp) -> bool {
    op.kind.facts().direction == Direction::In
}

/// The offset of a file operation; -1 is the file's own position.
fn offset(op: &RawOp) -> i64 {
    if op.flags & RawOp::CURSOR != 0 { -1 } else { op.offset as i64 }
}

/// Reads what is in the page cache; `EAGAIN` or `EOPNOTSUPP` if that is nothing.
pub(super) fn read_cached(op: &RawOp) -> i32 {
    let mut single = NO_VEC;
    let (vecs, count) = vecs(op, &mut single);
    // SAFETY: S6: the buffers are the operation's.
    result_of(unsafe { libc::preadv2(op.fd, vecs, count, offset(op), libc::RWF_NOWAIT) })
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
    let mut single = NO_VEC;
    let (vecs, count) = vecs(op, &mut single);
    let moved = if is_read(op) {
        // SAFETY: S6: the buffers are the operation's.
        unsafe { libc::preadv2(op.fd, vecs, count, offset, libc::RWF_NOWAIT) }
    } else {
        // SAFETY: S6: as above.
        unsafe { libc::pwritev2(op.fd, vecs, count, offset, libc::RWF_NOWAIT) }
    };
    match result_of(moved) {
        errno if errno != -errno::EOPNOTSUPP && errno != -errno::ENOSYS => errno,
        _ if kind == FileKind::Stream => call_at(op, vecs, count, offset),
        _ => ready_stream(op, kind, vecs, count, offset),
    }
}

/// A transfer on a descriptor that blocks, where the kernel cannot be asked not to: done only when it is
/// ready, and writes only as much as a descriptor that is ready is sure to take.
fn ready_stream(op: &RawOp, kind: FileKind, vecs: *const libc::iovec, count: i32, offset: i64) -> i32 {
    /// What a terminal has room for that says that it has some, with every character replaced by eight: a tab
    /// may be.
    const TERMINAL_BYTES: usize = 32;
    let events = if is_read(op) { libc::POLLIN } else { libc::POLLOUT };
    match poll(op.fd, events) {
        0 => return -errno::EAGAIN,
        errno @ ..0 => return errno,
        _ => {}
    }
    if is_read(op) || count == 0 {
        return call_at(op, vecs, count, offset);
    }
    let room = if kind == FileKind::Terminal { TERMINAL_BYTES } else { libc::PIPE_BUF };
    // SAFETY: S3: there is at least one vector.
    let mut first = unsafe { vecs.read() };
    if first.iov_len > room {
        first.iov_len = room;
        return call_at(op, &raw const first, 1, offset);
    }
    // SAFETY: S3: these are the operation's vectors.
    let lens = unsafe { std::slice::from_raw_parts(vecs, count as usize) }.iter().map(|vec| vec.iov_len);
    let ends = lens.scan(0usize, |end, len| {
        *end = end.saturating_add(len);
        Some(*end)
    });
    call_at(op, vecs, ends.take_while(|end| *end <= room).count() as i32, offset)
}

/// Reads or writes once, at an offset, or if that is -1 at the file's own position.
fn call_at(op: &RawOp, vecs: *const libc::iovec, count: i32, offset: i64) -> i32 {
    result_of(match (is_read(op), offset) {
        // SAFETY: S6: the buffers are the operation's.
        (true, -1) => unsafe { libc::readv(op.fd, vecs, count) },
        // SAFETY: S6: as above.
        (false, -1) => unsafe { libc::writev(op.fd, vecs, count) },
        // SAFETY: S6: as above.
        (true, offset) => unsafe { libc::preadv(op.fd, vecs, count, offset) },
        // SAFETY: S6: as above.
        (false, offset) => unsafe { libc::pwritev(op.fd, vecs, count, offset) },
    })
}

/// Does a file operation, however long that takes: for the thread pool.
///
/// # Safety
/// What `op` points to is valid and the operation's, and its descriptor is open.
pub(super) unsafe fn blocking(op: &RawOp) -> i32 {
    loop {
        // SAFETY: S6: the caller's promise.
        let result = unsafe { blocking_once(op) };
        // close(2): the descriptor is gone all the same, and may be another's by now.
        match (result == -errno::EINTR, op.kind) {
            (true, OpKind::Close) => return 0,
            (true, _) => {}
            (false, _) => return result,
        }
    }
}

/// # Safety
/// As [`blocking`].
unsafe fn blocking_once(op: &RawOp) -> i32 {
    result_of(match op.kind {
        OpKind::Open => {
            let (path, flags, mode) = (op.buf.cast_const().cast(), op.len as i32, op.offset as libc::mode_t);
            // SAFETY: S6: the path is the operation's.
            (unsafe { libc::open(path, flags, mode) }) as libc::ssize_t
        }
        // SAFETY: S7: the operation owns the descriptor.
        OpKind::Close => (unsafe { libc::close(op.fd) }) as libc::ssize_t,
        // SAFETY: S8: no memory is passed.
        OpKind::SyncAll => (unsafe { libc::fsync(op.fd) }) as libc::ssize_t,
        // SAFETY: S8: no memory is passed.
        OpKind::SyncData => (unsafe { libc::fdatasync(op.fd) }) as libc::ssize_t,
        OpKind::Metadata => {
            let (flags, mask) = (libc::AT_EMPTY_PATH, libc::STATX_BASIC_STATS | libc::STATX_BTIME);
            // SAFETY: S6: the record is the operation's.
            (unsafe { libc::statx(op.fd, c"".as_ptr(), flags, mask, op.buf.cast()) }) as libc::ssize_t
        }
        OpKind::Read | OpKind::ReadVectored | OpKind::Write | OpKind::WriteVectored => return transfer(op),
        _ => return -errno::EOPNOTSUPP,
    })
}

fn transfer(op: &RawOp) -> i32 {
    let mut single = NO_VEC;
    let (vecs, count) = vecs(op, &mut single);
    at_offset(op, |offset| call_at(op, vecs, count, offset))
}
