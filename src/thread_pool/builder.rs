//! How a pool is to be.

use std::{io, num::NonZero, thread};

use super::{ThreadPool, sync_state};
use crate::sys::affinity;

/// Settings of a [`ThreadPool`]; made by [`ThreadPool::builder`].
///
/// ```
/// use oxev::thread_pool::ThreadPool;
/// let pool = ThreadPool::builder()
///     .max_threads(4)
///     .stack_size(256 * 1024)
///     .thread_name("hash")
///     .build()?;
/// assert_eq!(pool.max_threads(), 4);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    pub(super) max_threads: usize,
    pub(super) stack_size: Option<usize>,
    pub(super) thread_name: String,
    pub(super) cores: Vec<usize>,
    /// Tests make the creation of a thread fail with it; it is given the number of the attempt.
    #[cfg(test)]
    pub(super) refuse_spawn: Option<fn(usize) -> bool>,
}

impl Builder {
    pub(super) fn new() -> Builder {
        Builder {
            max_threads: thread::available_parallelism().map_or(1, NonZero::get).min(sync_state::THREADS_MAX),
            stack_size: None,
            thread_name: String::from("oxev-pool"),
            cores: Vec::new(),
            #[cfg(test)]
            refuse_spawn: None,
        }
    }

    /// The most threads that the pool makes, from 1 to 16,383. Default: as many as can run at once
    /// ([`available_parallelism`](thread::available_parallelism)). For calls that block rather than compute,
    /// use more.
    pub fn max_threads(mut self, threads: usize) -> Builder {
        self.max_threads = threads;
        self
    }

    /// The stack of each thread, in bytes. Default: that of [`std::thread`].
    pub fn stack_size(mut self, bytes: usize) -> Builder {
        self.stack_size = Some(bytes);
        self
    }

    /// The beginning of the threads' names, which end in `-0`, `-1` and so on. Linux shows the first 15
    /// bytes. Default: `oxev-pool`.
    pub fn thread_name(mut self, prefix: impl Into<String>) -> Builder {
        self.thread_name = prefix.into();
        self
    }

    /// Binds the first thread to the first of these cores, and so on, beginning again when the cores run out.
    /// A thread whose core the kernel refuses stays unbound. Default: all threads are unbound. Only Linux has
    /// cores that can be named; elsewhere [`Builder::build`] refuses them.
    pub fn core_affinity(mut self, cores: impl IntoIterator<Item = usize>) -> Builder {
        self.cores = cores.into_iter().collect();
        self
    }

    /// Makes the pool. It has no threads yet.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput): a number of threads, stack size or core out of range,
    /// or a name with a zero byte.
    pub fn build(self) -> io::Result<ThreadPool> {
        // The address space cannot hold a stack larger than that, and the arithmetic of `std` on it
        // overflows.
        let stack_size_max = isize::MAX as usize / 2;
        let problem = if !(1..=sync_state::THREADS_MAX).contains(&self.max_threads) {
            "max_threads is out of range"
        } else if self.stack_size.is_some_and(|bytes| bytes > stack_size_max) {
            "stack_size is out of range"
        } else if self.thread_name.contains('\0') {
            "thread_name contains a zero byte"
        } else if !self.cores.iter().all(|&core| affinity::is_valid(core)) {
            "core_affinity names a core that cannot exist"
        } else {
            return Ok(ThreadPool::with(self));
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
    }
}
