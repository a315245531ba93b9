//! The descriptor of the loop for a program that polls it.
//!
//! There is none that shows what `poll(2)` would report. So a thread waits for the loop's descriptors while the
//! program waits for the loop's own, which is the waker's: the thread wakes it when one of them is ready, and then
//! rests until the program is about to wait again. Only a program that asks for the descriptor has such a thread.
//!
//! While the thread waits for a file the kernel keeps that open, so it rests while the loop runs.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::{LOOK_BESIDE_MS, Waker};
use crate::memory;
use crate::sys::errno;
use crate::sys::poll::{POLLIN, PollFd, wait_ms};
use crate::sys::wake_up::WakeUp;

pub(super) struct Shown {
    shared: Arc<Shared>,
    /// `None`: it is the parent's.
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    watched: Mutex<Watched>,
    /// Set at each change of that.
    changed: WakeUp,
}

/// What the thread is to wait for.
struct Watched {
    entries: Vec<PollFd>,
    /// How often that has changed: what the thread found before is of no interest.
    version: u64,
    is_over: bool,
}

impl Shown {
    /// Makes the thread, with room for this many descriptors. It rests.
    pub(super) fn new(capacity: usize, waker: Waker) -> io::Result<Shown> {
        let watched = Watched { entries: memory::list(capacity)?, version: 0, is_over: false };
        let shared = Arc::new(Shared { watched: Mutex::new(watched), changed: WakeUp::new()? });
        let entries = memory::list(capacity + 1)?;
        let of_thread = Arc::clone(&shared);
        let work = move || of_thread.work(entries, &waker);
        let thread = thread::Builder::new().name("oxev-poll".into()).spawn(work)?;
        Ok(Shown { shared, thread: Some(thread) })
    }

    /// The thread waits for these now.
    pub(super) fn watch(&self, entries: &[PollFd]) {
        self.shared.change(|watched| {
            watched.entries.clear();
            watched.entries.extend_from_slice(entries);
        });
    }

    /// The thread waits for none.
    pub(super) fn rest(&self) {
        self.shared.change(|watched| watched.entries.clear());
    }

    /// This process is a forked child, which has no such thread, but the parent's event.
    pub(super) fn leave_to_parent(mut self) {
        std::mem::forget(self.thread.take());
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.shared.change(|watched| watched.is_over = true);
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Watched)) {
        let mut watched = self.lock();
        change(&mut watched);
        watched.version += 1;
        self.changed.set();
    }

    /// The thread. The first of its entries is that of the event.
    fn work(&self, mut entries: Vec<PollFd>, waker: &Waker) {
        entries.push(PollFd { fd: self.changed.as_fd().as_raw_fd(), events: POLLIN, revents: 0 });
        let mut version = 0;
        loop {
            // What is passed over is looked at by the loop.
            let are_passed_over = entries.iter().any(|entry| entry.fd < 0);
            let count = wait_ms(&mut entries, if are_passed_over { LOOK_BESIDE_MS } else { -1 });
            let mut watched = self.lock();
            if watched.is_over {
                return;
            }
            if watched.version != version {
                version = watched.version;
                self.changed.clear();
                entries.truncate(1);
                entries.extend_from_slice(&watched.entries);
            } else if count != -errno::EINTR {
                // Something is ready, or may be; or it cannot be waited for, and the loop's own wait says why.
                waker.signal();
                watched.entries.clear();
                entries.truncate(1);
            }
        }
    }
}
