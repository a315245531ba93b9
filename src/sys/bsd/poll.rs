//! poll(2), which tells of a peer that has shut its end down by an end of file, and takes milliseconds.

use super::errno;
pub(crate) use crate::sys::unix::poll::{
    POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLRDNORM, POLLWRBAND, POLLWRNORM, PollFd, poll, wait_ms,
};

/// Not every one of these systems has it.
pub(crate) const POLLRDHUP: i16 = 0;

/// macOS has no such call.
pub(crate) fn wait_ns(_entries: &mut [PollFd], _timeout_ns: u64) -> i32 {
    -errno::ENOSYS
}
