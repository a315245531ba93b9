//! Files, as far as they are the same on all Unix systems.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::io_vec::IoVec;
use super::{errno, result_of};
use crate::sys::RawDescriptor;
use crate::sys::file::Opening;

pub(crate) use libc::PIPE_BUF;

/// The longest path that a call takes, with the zero byte at its end.
pub(crate) const PATH_BYTES_MAX: usize = libc::PATH_MAX as usize;

pub(crate) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| errno::error(errno::EINVAL))
}

/// The flags of open(2) that all systems have.
pub(crate) fn open_flags(how: &Opening) -> i32 {
    let access = match (how.read, how.write || how.append) {
        (true, true) => libc::O_RDWR,
        (false, true) => libc::O_WRONLY,
        (_, false) => libc::O_RDONLY,
    };
    let creation = if how.create_new {
        libc::O_CREAT | libc::O_EXCL
    } else {
        (if how.create { libc::O_CREAT } else { 0 }) | (if how.truncate { libc::O_TRUNC } else { 0 })
    };
    let append = if how.append { libc::O_APPEND } else { 0 };
    access | creation | append | libc::O_CLOEXEC | (how.custom & !libc::O_ACCMODE)
}

#[cfg(feature = "sim")]
pub(crate) fn opening(flags: i32) -> Opening {
    let (access, create) = (flags & libc::O_ACCMODE, flags & libc::O_CREAT != 0);
    Opening {
        read: access != libc::O_WRONLY,
        write: access != libc::O_RDONLY,
        append: flags & libc::O_APPEND != 0,
        truncate: flags & libc::O_TRUNC != 0,
        create,
        create_new: create && flags & libc::O_EXCL != 0,
        custom: 0,
    }
}

/// Close, whatever that says.
pub(crate) fn close(fd: RawDescriptor) -> i32 {
    // SAFETY: S7: the caller owns the descriptor.
    match result_of(unsafe { libc::close(fd) } as isize) {
        // close(2): the descriptor is closed nevertheless, and may be another's by now.
        errno if errno == -errno::EINTR => 0,
        result => result,
    }
}

/// # Safety
/// The `count` runs at `vecs` are valid for writes.
pub(in crate::sys) unsafe fn readv(fd: RawDescriptor, vecs: *const IoVec, count: i32) -> i32 {
    // SAFETY: S8: the caller's promise.
    result_of(unsafe { libc::readv(fd, vecs.cast(), count) })
}

/// # Safety
/// The `count` runs at `vecs` are valid.
pub(in crate::sys) unsafe fn writev(fd: RawDescriptor, vecs: *const IoVec, count: i32) -> i32 {
    // SAFETY: S8: the caller's promise.
    result_of(unsafe { libc::writev(fd, vecs.cast(), count) })
}
