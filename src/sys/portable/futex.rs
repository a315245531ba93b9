//! Sleeping on a 32-bit word where there is no futex(2): a lock and a condition variable beside the word. The
//! model checker uses this one as well, so what it checks of those that sleep is the code that runs on Linux.

use std::sync::PoisonError;

use crate::sync::{AtomicU32, Condvar, Mutex, Ordering};

/// Sleeps and wakes on an [`AtomicU32`].
pub(crate) struct Futex {
    lock: Mutex<()>,
    changed: Condvar,
}

impl Futex {
    pub(crate) fn new() -> Futex {
        Futex { lock: Mutex::new(()), changed: Condvar::new() }
    }

    /// Sleeps while `word` holds `expected`. May also return for no reason.
    pub(crate) fn wait(&self, word: &AtomicU32, expected: u32) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // A waker changes the word first and takes the lock after that: either this read sees the change, or
        // the waker finds this thread in the condition variable.
        if word.load(Ordering::SeqCst) == expected {
            drop(self.changed.wait(guard));
        }
    }

    /// Wakes at most one thread that sleeps on `word`.
    pub(crate) fn wake_one(&self, _word: &AtomicU32) {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.notify_one();
    }

    /// Wakes every thread that sleeps on `word`.
    pub(crate) fn wake_all(&self, _word: &AtomicU32) {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.notify_all();
    }
}
