//! poll(2).

#![allow(unsafe_code)]

use super::errno;
use crate::sys::RawDescriptor;
use crate::sys::unix::result_of;

pub(crate) use libc::pollfd as PollFd;
pub(crate) use libc::{POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLRDNORM, POLLWRBAND, POLLWRNORM};

pub(crate) fn poll(fd: RawDescriptor, events: i16) -> i32 {
    let mut poll = PollFd { fd, events, revents: 0 };
    // SAFETY: S8: the one record is valid for the length of the call.
    match unsafe { libc::poll(&raw mut poll, 1, 0) } {
        ..0 => -errno::last(),
        _ if poll.revents & libc::POLLNVAL != 0 => -errno::EBADF,
        _ => i32::from(poll.revents),
    }
}

pub(crate) fn wait_ms(entries: &mut [PollFd], timeout_ms: i32) -> i32 {
    // SAFETY: S8: the entries are valid for the length of the call.
    result_of(unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, timeout_ms) } as isize)
}
