//! Error codes: those of errno(3).

use std::io;

pub(crate) use crate::sys::errno::error;
pub(crate) use libc::{
    EACCES, EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN, EBADF, ECANCELED, ECONNABORTED, EDEADLK, EINPROGRESS, EINTR,
    EINVAL, EIO, EMFILE, EMSGSIZE, ENAMETOOLONG, ENOBUFS, ENOMEM, ENOSYS, ENOTCONN, EOPNOTSUPP, EPERM,
    ESHUTDOWN, ESPIPE, ETIMEDOUT,
};

/// What the last call of this thread failed with.
pub(crate) fn last() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(EIO)
}
