//! Opening a FIFO. `open(2)` waits until the other end is opened, too; but io_uring first opens without
//! waiting, as if `O_NONBLOCK` were set, whenever it finds the path in its cache. What that brings for a FIFO
//! depends on the cache, so such an open is done again, by a worker of the kernel, which waits.

#![allow(unsafe_code)]

use crate::op::RawOp;

/// [`RawOp::backend_state`] of an open that a worker does.
pub(super) const IN_WORKER: u16 = 1;

/// Whether an open waits for another end if the path is a FIFO.
pub(super) fn may_wait(op: &RawOp) -> bool {
    let flags = op.as_open().flags;
    flags & libc::O_NONBLOCK == 0 && flags & libc::O_ACCMODE != libc::O_RDWR
}

/// Whether an open that did not wait should have waited: for a reader that is not there, or for a writer.
#[cold]
pub(super) fn should_have_waited(op: &RawOp, result: i32) -> bool {
    let writes = op.as_open().flags & libc::O_ACCMODE == libc::O_WRONLY;
    match result {
        // fifo(7). A device that is not there says the same, and says it again.
        errno if errno == -libc::ENXIO => writes,
        fd @ 0.. => !writes && is_fifo(fd) && !had_writer(fd),
        _ => false,
    }
}

fn is_fifo(fd: i32) -> bool {
    // SAFETY: S8: no memory is passed. Half the price of asking what it is, and it sorts out nearly all.
    if unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) } >= 0 {
        return false;
    }
    // SAFETY: S8: integers only, for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: S8: the record is valid for the length of the call.
    let status = unsafe { libc::fstat(fd, &raw mut stat) };
    status == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFIFO
}

/// Whether a FIFO has a writer, or had one since it was opened.
fn had_writer(fd: i32) -> bool {
    // Data, or a writer that came and went (a hang-up is only told then).
    if crate::sys::poll::poll(fd, libc::POLLIN) != 0 {
        return true;
    }
    let mut scratch = [-1; 2];
    // SAFETY: S8: there is room for both descriptors.
    if unsafe { libc::pipe2(scratch.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return true;
    }
    // What tee(2) copies is not taken. Zero: there is nothing, and no writer; EAGAIN: there is one.
    // SAFETY: S8: no memory is passed.
    let copied = unsafe { libc::tee(fd, scratch[1], 1, libc::SPLICE_F_NONBLOCK) };
    scratch.into_iter().for_each(crate::descriptor::close_number);
    copied != 0 || crate::sys::poll::poll(fd, libc::POLLIN) != 0
}
