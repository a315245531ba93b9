//! How other threads reach a loop that waits.

use std::io;
#[cfg(shows_descriptor)]
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::sys::wake_up::WakeUp;

/// Reaches a loop's thread from any other, at any time: where it waits in the backend, or where a program
/// polls its descriptor.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Events>);

#[derive(Debug)]
struct Events {
    /// Ends the backend's wait.
    wait: WakeUp,
    /// What a program polls, if that is not the selector that waits for the other one.
    shown: Option<WakeUp>,
}

impl Waker {
    /// `shown`: a program polls an event of its own.
    pub(crate) fn new(shown: bool) -> io::Result<Waker> {
        let shown = if shown { Some(WakeUp::new()?) } else { None };
        Ok(Waker(Arc::new(Events { wait: WakeUp::new()?, shown })))
    }

    /// Ends the wait that there is, or the next.
    pub fn wake(&self) {
        self.0.wait.set();
    }

    /// Makes the descriptor readable that a program polls.
    pub(crate) fn signal(&self) {
        self.shown().set();
    }

    pub(crate) fn shown(&self) -> &WakeUp {
        self.0.shown.as_ref().unwrap_or(&self.0.wait)
    }

    /// Blocks until it is called, or a signal comes.
    #[cfg(feature = "sim")]
    pub(crate) fn wait(&self) {
        self.0.wait.wait();
    }

    /// Whether it was woken since the last time that this was asked. Its descriptor is not readable afterwards.
    pub fn clear(&self) -> bool {
        self.shown().clear()
    }
}

#[cfg(shows_descriptor)]
impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.wait.as_fd()
    }
}
