//! Wake-ups by eventfd(2) (Linux 2.6.27).

use std::io;
pub(crate) use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Every write is an edge, so an edge-triggered wait need not clear it.
#[derive(Debug)]
pub(crate) struct WakeUp(EventFd);

impl WakeUp {
    pub(crate) fn new() -> io::Result<WakeUp> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(WakeUp(EventFd::from_value_and_flags(0, flags)?))
    }

    pub(crate) fn set(&self) {
        // It only fails when the counter is full, and then it is readable.
        let _ = self.0.write(1);
    }

    pub(crate) fn clear(&self) -> bool {
        self.0.read().is_ok()
    }

    #[cfg_attr(not(feature = "sim"), allow(dead_code, reason = "only a simulated world waits for it alone"))]
    pub(crate) fn wait(&self) {
        let mut this = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        // A signal ends it, too.
        let _ = poll(&mut this, PollTimeout::NONE);
    }
}

impl AsFd for WakeUp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
