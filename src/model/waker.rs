//! The event that ends a loop's wait.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use std::sync::atomic::Ordering::Relaxed;

use loom::sync::{Condvar, Mutex};

/// As an eventfd: a wake-up that comes before the wait is kept, and several are one. Unlike one it puts what
/// the thread that wakes did before in order with the loop, because loom only sleeps on locks; where that
/// would hide a fault, the same fault shows in the executions in which the loop does not sleep.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Event>);

#[derive(Debug)]
struct Event {
    raised: Mutex<bool>,
    changed: Condvar,
    /// How often it was raised. Loom does not see this.
    count: std::sync::atomic::AtomicUsize,
}

impl Waker {
    pub(crate) fn new(_shown: bool) -> io::Result<Waker> {
        let (raised, changed) = (Mutex::new(false), Condvar::new());
        Ok(Waker(Arc::new(Event { raised, changed, count: Default::default() })))
    }

    pub(crate) fn wake(&self) {
        self.0.count.fetch_add(1, Relaxed);
        *self.0.raised.lock().unwrap() = true;
        self.0.changed.notify_all();
    }

    /// The same event.
    pub(crate) fn signal(&self) {
        self.wake();
    }

    pub(crate) fn count(&self) -> usize {
        self.0.count.load(Relaxed)
    }

    pub(crate) fn clear(&self) {
        *self.0.raised.lock().unwrap() = false;
    }

    /// If no thread ever wakes it, loom finds that no thread can run.
    pub(crate) fn wait(&self) {
        let mut raised = self.0.raised.lock().unwrap();
        while !*raised {
            raised = self.0.changed.wait(raised).unwrap();
        }
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        unreachable!("there is no kernel in a model")
    }
}
