//! Error codes: those of the system, which the C library takes over.

use std::io;

pub(crate) use crate::sys::errno::error;
pub(crate) use libc::{
    EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN, EBADF, ECANCELED, ECONNABORTED, ECONNREFUSED,
    ECONNRESET, EDEADLK, EEXIST, EFBIG, EINPROGRESS, EINTR, EINVAL, EIO, EISDIR, EMFILE, EMSGSIZE,
    ENAMETOOLONG, ENOBUFS, ENOENT, ENOMEM, ENOSPC, ENOSYS, ENOTCONN, ENOTDIR, ENOTSOCK, EOPNOTSUPP, EPERM,
    EPIPE, ESPIPE, ETIMEDOUT,
};

/// There is no such code. What it says is that a thread pool was shut down: that it cannot be had any more.
pub(crate) const ESHUTDOWN: i32 = libc::EPIPE;

/// What the last call failed with.
pub(crate) fn last() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(EIO)
}

/// The system has no codes for itself.
pub(crate) fn published(result: i32) -> i32 {
    result
}
