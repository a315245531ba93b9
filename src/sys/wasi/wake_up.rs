//! There are no other threads, and no descriptor can be made readable: what is woken finds out when it looks.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug)]
pub(crate) struct WakeUp(AtomicBool);

impl WakeUp {
    pub(crate) fn new() -> io::Result<WakeUp> {
        Ok(WakeUp(AtomicBool::new(false)))
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn clear(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    #[cfg(feature = "sim")]
    pub(crate) fn wait(&self) {}
}

/// Nothing has a descriptor that a program could wait for.
#[allow(unreachable_pub, reason = "a bound of a trait that may be public")]
pub trait AsFd {}

impl<T: ?Sized> AsFd for T {}
