//! poll(2), which also tells of a peer that has shut its end down (Linux 2.6.17), and takes nanoseconds (2.6.16).

#![allow(unsafe_code)]

pub(crate) use crate::sys::unix::poll::{
    POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLRDNORM, POLLWRBAND, POLLWRNORM, PollFd, poll, wait_ms,
};
use crate::sys::unix::result_of;
pub(crate) use libc::POLLRDHUP;

/// ppoll(2), with the signal mask as it is.
pub(crate) fn wait_ns(entries: &mut [PollFd], timeout_ns: u64) -> i32 {
    // Seconds may have 32 bits.
    let seconds = (timeout_ns / 1_000_000_000).min(i32::MAX as u64);
    let timeout =
        libc::timespec { tv_sec: seconds as libc::time_t, tv_nsec: (timeout_ns % 1_000_000_000) as _ };
    let count = entries.len() as libc::nfds_t;
    // SAFETY: S8: entries and timeout are valid for the length of the call, and there is no mask.
    result_of(
        unsafe { libc::ppoll(entries.as_mut_ptr(), count, &raw const timeout, std::ptr::null()) } as isize
    )
}
