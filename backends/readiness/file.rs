//! Files: what is in the cache is read at once, what is not is for the thread pool, and what is a stream waits until it is
//! ready. Each call is made once and gives a count, a descriptor or a negative errno.

#![allow(unsafe_code)]

use super::descriptors::FileKind;
use super::{ATTEMPT_BYTES_MAX, ATTEMPTS_MAX, Readiness, Selector, report};
use crate::backends::Operations;
use crate::backends::positions::Turn;
use crate::descriptor::RawDescriptor;
use crate::in_flight::Next;
use crate::io_vecs::{self, Part};
use crate::op::words::OpenWords;
use crate::op::{Direction, Outcome, PART_BYTES_MAX, RawOp, TRANSFER_BYTES_MAX};
use crate::sys::descriptor::{is_blocking, is_terminal};
use crate::sys::file::FileType;
use crate::sys::io_vec::IoVec;
use crate::sys::poll::{POLLIN, POLLOUT, poll};
use crate::sys::{self, errno};
use crate::token::Token;

/// Errors that say no more than that a read is for a thread: what there is has to be fetched, or cannot be
/// read so.
const NOT_FROM_CACHE: [i32; 3] = [errno::EAGAIN, errno::EOPNOTSUPP, errno::ESPIPE];

impl<S: Selector> Readiness<S> {
    /// # Safety
    /// As [`Readiness::submit`].
    #[inline(never)]
    pub(super) unsafe fn start_file(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations) {
        // SAFETY: S3: no other code has it now.
        let raw = unsafe { &*op };
        if !self.enter(token, raw, ops) {
            return;
        }
        let reads = raw.kind.facts().direction == Direction::In;
        let kind = self.descriptors.record(raw.fd).file_kind(raw.fd);
        if matches!(kind, Ok(FileKind::Regular | FileKind::Direct))
            && raw.flags & RawOp::CURSOR != 0
            && self.positions.enter(token, raw) == Turn::Later
        {
            return self.nodes.wait_for_turn(token);
        }
        if matches!(kind, Ok(FileKind::Regular | FileKind::Direct)) && may_be_long(raw) {
            ops.go_by_parts(token);
        }
        match kind {
            // SAFETY: S3: the caller's promise.
            Ok(FileKind::Regular) if reads => unsafe { self.start_cached_read(token, op, ops) },
            // SAFETY: S3: as above.
            Ok(FileKind::Regular | FileKind::Direct) => unsafe { self.start_job(token, op, ops) },
            // SAFETY: S3: as above.
            Ok(_) => unsafe { self.start(token, op, ops) },
            Err(errno) => report(token, -errno, ops),
        }
    }

    /// Reads what is in the page cache at once; a thread is only for what has to come from the disk. A read
    /// is short at the end of the file alone, as one that blocks is.
    ///
    /// # Safety
    /// As [`Readiness::submit`].
    unsafe fn start_cached_read(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations) {
        let mut moved = 0;
        for _ in 0..ATTEMPTS_MAX {
            // SAFETY: S3: no other code has it now.
            let raw = unsafe { &mut *op };
            if moved >= ATTEMPT_BYTES_MAX {
                break;
            }
            let result = read_cached(raw);
            moved += result.max(0) as usize;
            match result {
                _ if NOT_FROM_CACHE.contains(&-result) => break,
                1.. if (result as usize) < raw.as_progress().len && raw.flags & RawOp::EXACT == 0 => {
                    io_vecs::advance(raw, result as usize);
                }
                _ => {
                    let outcome = Outcome::new(after_part(raw, result));
                    if ops.complete(token, outcome) == Next::Done {
                        return self.leave_position(token, ops);
                    }
                }
            }
        }
        // SAFETY: S3: the caller's promise.
        unsafe { self.start_job(token, op, ops) };
    }

    /// Closing a file on a disk may write, which takes its time.
    ///
    /// # Safety
    /// As [`Readiness::submit`].
    #[inline(never)]
    pub(super) unsafe fn start_close(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations) {
        // SAFETY: S3: no other code has it now.
        let raw = unsafe { &*op };
        let is_regular = match self.descriptors.is_stale(raw) {
            Ok(true) => file_kind(raw.fd).is_ok_and(|kind| kind == FileKind::Regular),
            Ok(false) => self.descriptors.record(raw.fd).is_regular(raw.fd),
            Err(_) => false,
        };
        if is_regular {
            // SAFETY: S3: the caller's promise.
            return unsafe { self.start_job(token, op, ops) };
        }
        sys::socket::linger_in_background(raw.fd);
        let result = sys::file::close(raw.fd);
        report(token, result, ops);
    }
}

/// Whether a transfer may be more than one part.
fn may_be_long(op: &RawOp) -> bool {
    op.as_progress().len > PART_BYTES_MAX || op.kind.is_vectored()
}

/// The result of a file operation of which the backend has done a part already: that part stands, whatever
/// came after it.
pub(super) fn after_part(op: &RawOp, result: i32) -> i32 {
    if op.done() > 0 && op.flags & RawOp::EXACT == 0 { result.max(0) } else { result }
}

// ---- calls

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

/// # Safety
/// The path is the operation's.
pub(super) unsafe fn open(op: &RawOp) -> i32 {
    let OpenWords { path, flags, mode, .. } = *op.as_open();
    // SAFETY: S6: the caller's promise.
    unsafe { sys::file::open(path, flags, mode) }
}

/// Reads or writes, however long that takes.
pub(super) fn transfer(op: &RawOp) -> i32 {
    let mut single = IoVec::EMPTY;
    let (vecs, count) = vecs(op, &mut single);
    at_offset(op, |offset| call_at(op, vecs, count, offset))
}

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

/// Calls with the offset of an operation. Where there are no positions it is ignored, as on io_uring;
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
