//! Atomics and locks, as the crate's `sync.rs` has them, and one operation more.
//!
//! [`read`] differs between the program and its models. The protocol rests on pairs "write A, then read B"
//! against "write B, then read A" (see README.md, "No wake-up is lost"). With sequentially consistent
//! accesses those are sound on hardware and in the language, and the read costs a plain load on x86. Loom
//! treats such accesses as acquire/release only, but models fences exactly; under loom the read therefore
//! carries a fence.

pub(super) use crate::sync::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

#[cfg(not(loom))]
mod reads {
    /// A load in the single total order of sequentially consistent operations.
    macro_rules! read {
        ($atomic:expr) => {
            $atomic.load($crate::thread_pool::sync::Ordering::SeqCst)
        };
    }
    pub(in super::super) use read;
}

#[cfg(loom)]
mod reads {
    /// A load in the single total order of sequentially consistent operations.
    macro_rules! read {
        ($atomic:expr) => {{
            loom::sync::atomic::fence($crate::thread_pool::sync::Ordering::SeqCst);
            $atomic.load($crate::thread_pool::sync::Ordering::SeqCst)
        }};
    }
    pub(in super::super) use read;
}

pub(super) use reads::read;

/// Keeps a value on cache lines of its own. 128 bytes, because x86 prefetches lines in pairs and some Arm
/// cores have lines that long.
#[repr(align(128))]
pub(super) struct CachePadded<T>(pub(super) T);

impl<T> std::ops::Deref for CachePadded<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}
