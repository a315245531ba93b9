//! poll(2), which also tells of a peer that has shut its end down (Linux 2.6.17).

pub(crate) use crate::sys::unix::poll::{
    POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRBAND, POLLWRNORM, poll,
};
pub(crate) use libc::POLLRDHUP;
