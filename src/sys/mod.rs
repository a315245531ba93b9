//! The floor: what a platform must provide. It is listed here, module by module, and given by the siblings
//! below; a platform that leaves something out does not compile. What is above this folder is the same on all
//! platforms and names none, but for the backends that are made for one.
//!
//! * `unix/`: what all Unix systems have (POSIX).
//! * `linux/`: what Linux adds to that, or does in another way.

#![allow(unused_imports, reason = "every backend uses a part of the floor")]

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
#[cfg(unix)]
mod unix;

#[cfg(any(target_os = "linux", target_os = "android"))]
use linux as platform;

/// The system's error codes, under the names that POSIX has for them.
pub(crate) mod errno {
    pub(crate) use super::platform::errno::{
        EACCES, EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN, EBADF, ECANCELED, ECONNABORTED, EDEADLK, EINPROGRESS,
        EINTR, EINVAL, EIO, EMFILE, EMSGSIZE, ENOBUFS, ENOMEM, ENOSYS, ENOTCONN, EOPNOTSUPP, EPERM,
        ESHUTDOWN, ESPIPE, ETIMEDOUT,
    };

    /// What the last call of this thread failed with.
    pub(crate) use super::platform::errno::last;

    /// The error that a code stands for, of the kind that the standard library gives it.
    pub(crate) fn error(code: i32) -> std::io::Error {
        std::io::Error::from_raw_os_error(code)
    }
}
