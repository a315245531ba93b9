//! The events of `poll(2)`, which the C library makes of the system's own.

#![allow(unsafe_code)]

use super::errno;
use crate::sys::RawDescriptor;

pub(crate) use libc::pollfd as PollFd;
pub(crate) use libc::{POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLRDNORM, POLLWRNORM};

/// The system does not tell of these.
pub(crate) const POLLRDHUP: i16 = 0;
pub(crate) const POLLWRBAND: i16 = 0;

pub(crate) fn poll(fd: RawDescriptor, events: i16) -> i32 {
    let mut poll = PollFd { fd, events, revents: 0 };
    // SAFETY: S8: the one record is valid for the length of the call.
    match unsafe { libc::poll(&raw mut poll, 1, 0) } {
        ..0 => -errno::last(),
        _ if poll.revents & POLLNVAL != 0 => -errno::EBADF,
        _ => i32::from(poll.revents),
    }
}

/// The backend waits by `poll_oneoff`.
pub(crate) fn wait_ms(_entries: &mut [PollFd], _timeout_ms: i32) -> i32 {
    -errno::ENOSYS
}

/// As [`wait_ms`].
pub(crate) fn wait_ns(_entries: &mut [PollFd], _timeout_ns: u64) -> i32 {
    -errno::ENOSYS
}
