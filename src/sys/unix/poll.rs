//! poll(2) without a wait.

#![allow(unsafe_code)]

use super::errno;
use crate::sys::RawDescriptor;

pub(crate) use libc::{POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRBAND, POLLWRNORM};

pub(crate) fn poll(fd: RawDescriptor, events: i16) -> i32 {
    let mut poll = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: S8: the one record is valid for the length of the call.
    match unsafe { libc::poll(&raw mut poll, 1, 0) } {
        ..0 => -errno::last(),
        _ if poll.revents & libc::POLLNVAL != 0 => -errno::EBADF,
        _ => i32::from(poll.revents),
    }
}
