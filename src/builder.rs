//! [`Builder`]: a loop set up by hand.

use std::io;
use std::time::Duration;

use crate::backends::{Kind, Options};
use crate::event_loop::Loop;
use crate::in_flight::Token;
use crate::sys::errno;
use crate::thread_pool::ThreadPool;

/// Sets up a [`Loop`].
///
/// ```
/// let lp = oxev::Loop::builder().capacity(1024).entries(256).build()?;
/// assert!(lp.is_empty());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    pub(crate) capacity: usize,
    pub(crate) drain_timeout: Duration,
    pub(crate) backend: Options,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder { capacity: 1 << 16, drain_timeout: Duration::from_secs(5), backend: Default::default() }
    }
}

impl Builder {
    /// How many operations can be in flight at once: 65,536 by default, of 40 bytes each; memory that is
    /// never needed is never touched. Further ones end with [`is_table_full`](crate::is_table_full).
    #[must_use]
    pub fn capacity(mut self, operations: usize) -> Builder {
        self.capacity = operations;
        self
    }

    /// How many submissions one system call can carry: the size of the submission queue, 4096 by default,
    /// rounded up to a power of two. The completion queue is four times as large. More submissions than that
    /// take more system calls; none is lost.
    #[must_use]
    pub fn entries(mut self, entries: u32) -> Builder {
        self.backend.entries = entries;
        self
    }

    /// Takes this backend and no other: if it does not work here, [`Builder::build`] fails.
    #[must_use]
    pub fn backend(mut self, kind: Kind) -> Builder {
        self.backend.kind = Some(kind);
        self
    }

    /// Makes a loop that lives in a simulated world, on the host of this handle, and on its thread: elsewhere
    /// [`Builder::build`] says `EINVAL`. See [`sim`](crate::sim).
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn simulation(mut self, simulation: &crate::sim::Simulation) -> Builder {
        self.backend.kind = Some(Kind::Sim);
        self.backend.simulation = Some(crate::sim::SimHandle::new(simulation));
        self
    }

    /// Makes a loop that runs on a driver of the program's own: see [`backend`](crate::backend).
    #[cfg(feature = "backend-api")]
    #[must_use]
    pub fn driver(mut self, make: crate::backend::MakeDriver) -> Builder {
        self.backend.kind = Some(Kind::Custom);
        self.backend.driver = Some(make);
        self
    }

    /// Where a backend has done what would block and what the kernel cannot wait for: on epoll, the work of
    /// files on disks. By default there is one pool for all loops of the process, made when it is needed
    /// first. A pool that was shut down takes no work, and the loop does it itself. A loop that runs inside a
    /// task of its own pool may never get a thread of it.
    ///
    /// The loop keeps a handle to the pool. If that is the last one when the loop is dropped, the pool is shut
    /// down, and its threads are waited for within the [`drain_timeout`](Builder::drain_timeout); those that
    /// are still busy then end by themselves.
    #[must_use]
    pub fn thread_pool(mut self, pool: &ThreadPool) -> Builder {
        self.backend.pool = Some(pool.clone());
        self
    }

    /// Uses nothing of a backend that is newer than the oldest kernel it supports (io_uring: Linux 5.15;
    /// epoll: 4.5), as if the program ran there: to test for such kernels, or to steer clear of a kernel's
    /// bug.
    #[must_use]
    pub fn baseline(mut self, baseline: bool) -> Builder {
        self.backend.baseline = baseline;
        self
    }

    /// How long dropping the loop waits for the kernel, and for work on thread pools, to let go of memory
    /// before it leaks the owners: 5 s by default.
    #[must_use]
    pub fn drain_timeout(mut self, limit: Duration) -> Builder {
        self.drain_timeout = limit;
        self
    }

    /// Builds the loop. This is where everything is allocated.
    ///
    /// # Errors
    /// `EINVAL` for sizes of zero or out of range; `ENOSYS` or `EPERM` if no backend, or not the chosen one,
    /// works here; [`OutOfMemory`](io::ErrorKind::OutOfMemory) if the machine has no memory for the
    /// [capacity](Builder::capacity); what the operating system says otherwise.
    pub fn build(self) -> io::Result<Box<Loop>> {
        if self.capacity == 0 || self.capacity > Token::ENTRIES_MAX || self.backend.entries == 0 {
            return Err(errno::error(errno::EINVAL));
        }
        Loop::with(&self)
    }
}
