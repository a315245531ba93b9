//! Sleeping on a 32-bit word with futex(2).

#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::AtomicU32;

/// Sleeps and wakes on an [`AtomicU32`]; on Linux it has no state of its own.
pub(crate) struct Futex;

impl Futex {
    pub(crate) fn new() -> Futex {
        Futex
    }

    /// Sleeps while `word` holds `expected`. May also return for no reason.
    pub(crate) fn wait(&self, word: &AtomicU32, expected: u32) {
        // The result says nothing that the caller does not find out by reading the word again: EAGAIN (it had
        // changed) and EINTR (a signal) are both reasons to look, and a wake-up is one too.
        // SAFETY: P12: the word is borrowed for the whole call, and FUTEX_WAIT with a null timeout reads
        // nothing else.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                expected,
                ptr::null::<libc::timespec>(),
            )
        };
    }

    /// Wakes at most one thread that sleeps on `word`.
    pub(crate) fn wake_one(&self, word: &AtomicU32) {
        self.wake(word, 1);
    }

    /// Wakes every thread that sleeps on `word`.
    pub(crate) fn wake_all(&self, word: &AtomicU32) {
        self.wake(word, i32::MAX);
    }

    fn wake(&self, word: &AtomicU32, threads_max: i32) {
        // SAFETY: P12: FUTEX_WAKE uses the address as a key only.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                threads_max,
            )
        };
    }
}
