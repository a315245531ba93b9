//! Error codes: those of errno(3).

use std::io;

pub(crate) use crate::sys::errno::error;
pub(crate) use libc::{
    EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN, EBADF, ECANCELED, ECONNABORTED, ECONNREFUSED,
    ECONNRESET, EDEADLK, EEXIST, EFBIG, EINPROGRESS, EINTR, EINVAL, EIO, EISDIR, EMFILE, EMSGSIZE,
    ENAMETOOLONG, ENOBUFS, ENOENT, ENOMEM, ENOSPC, ENOSYS, ENOTCONN, ENOTDIR, ENOTSOCK, EOPNOTSUPP, EPERM,
    EPIPE, ESHUTDOWN, ESPIPE, ETIMEDOUT,
};

/// What the last call of this thread failed with.
pub(crate) fn last() -> i32 {
    -published(-io::Error::last_os_error().raw_os_error().unwrap_or(EIO))
}

/// A result without the codes that a kernel has for itself: Linux's from 512 to 530, which it is meant to replace
/// before a program sees them, and which come through nevertheless (an open in a worker that is interrupted; drivers,
/// NFS).
pub(crate) fn published(result: i32) -> i32 {
    match -result {
        // ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK: interrupted.
        512 | 513 | 514 | 516 => -EINTR,
        // EPROBE_DEFER, EJUKEBOX: not yet.
        517 | 528 => -EAGAIN,
        // ENOTSUPP.
        524 => -EOPNOTSUPP,
        512..=530 => -EIO,
        _ => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_of_a_kernel_for_itself_is_published() {
        for code in 1..0x2000 {
            let published = -published(-code);
            assert!(!(512..=530).contains(&published));
            assert!((512..=530).contains(&code) || published == code);
        }
        assert_eq!(published(7), 7);
    }
}
