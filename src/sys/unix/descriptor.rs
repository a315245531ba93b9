//! Descriptors of every kind.

#![allow(unsafe_code)]

use crate::sys::RawDescriptor;

/// `RLIMIT_NOFILE`, as far as it can be raised.
pub(crate) fn count_max() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: S8: the record is valid for the length of the call.
    let status = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if status == 0 { usize::try_from(limit.rlim_max).unwrap_or(usize::MAX) } else { usize::MAX }
}

/// The flags of the open file: zero if it has none to tell.
pub(in crate::sys) fn status_flags(fd: RawDescriptor) -> i32 {
    // SAFETY: S8: no memory is passed.
    unsafe { libc::fcntl(fd, libc::F_GETFL) }.max(0)
}

pub(crate) fn is_blocking(fd: RawDescriptor) -> bool {
    status_flags(fd) & libc::O_NONBLOCK == 0
}

pub(crate) fn is_terminal(fd: RawDescriptor) -> bool {
    // SAFETY: S8: no memory is passed.
    unsafe { libc::isatty(fd) == 1 }
}
