//! io_uring without a loop around it: the limit for everything that goes through the kernel.

#![allow(unsafe_code)]

use io_uring::{IoUring, cqueue, squeue};

/// A ring with the flags that are best for one thread, and the completions of the last wait.
pub(crate) struct RawRing {
    pub(crate) ring: IoUring,
    completions: Vec<cqueue::Entry>,
}

impl RawRing {
    /// # Panics
    /// On a kernel before 6.1.
    pub(crate) fn new(entries: u32) -> RawRing {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(4 * entries)
            .build(entries)
            .expect("io_uring of Linux 6.1 or later");
        RawRing { ring, completions: Vec::with_capacity(4 * entries as usize) }
    }

    /// Puts an entry into the submission queue.
    ///
    /// # Safety
    /// What the entry points to is valid until its completion.
    #[inline]
    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the caller's promise.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit().expect("io_uring_enter");
        }
    }

    /// Submits what was pushed, waits for a completion, and passes all that there are to `each`, which may
    /// push.
    #[inline]
    pub(crate) fn wait(&mut self, mut each: impl FnMut(&mut RawRing, &cqueue::Entry)) -> usize {
        self.ring.submit_and_wait(1).expect("io_uring_enter");
        let mut completions = std::mem::take(&mut self.completions);
        completions.extend(self.ring.completion());
        completions.iter().for_each(|completion| each(self, completion));
        let count = completions.len();
        completions.clear();
        self.completions = completions;
        count
    }
}
