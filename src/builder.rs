//! [`Builder`]: a loop set up by hand.

use std::time::Duration;

use crate::backends::{Kind, Options};
use crate::thread_pool::ThreadPool;

/// Sets up a [`Loop`](crate::Loop).
///
/// ```
/// let lp = oxev::Loop::builder().capacity(1024).entries(256).build()?;
/// assert!(lp.is_empty());
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Limits
/// What an operator has to allow a process:
///
/// * **Locked memory** (`RLIMIT_MEMLOCK`, `ulimit -l`, `LimitMEMLOCK=` of systemd; of the user, over all
///   processes). io_uring's queues count before Linux 5.12 and since 6.14, unless the process has
///   `CAP_IPC_LOCK`: 68 KiB for a loop by default, and 16 bytes for each buffer of a
///   [`BufPool`](crate::BufPool). With the usual 8 MiB that is 120 loops. When it runs out, a loop by default
///   waits up to 62 ms for what the kernel gives back late, then takes smaller queues, down to 64 entries (12
///   KiB), and then the next backend; a pool of buffers does without the kernel's ring.
///   [`Capabilities`](crate::Capabilities) tells `entries`, `buffer_rings` and `refusals`.
/// * **Descriptors** (`RLIMIT_NOFILE`): three for a loop on io_uring, two on epoll, one on poll (and one more
///   if a program polls its descriptor), one for each socket and file.
///   If there is none left, [`build`](Builder::build) says `EMFILE`, whatever backend it is.
/// * **Threads** (`RLIMIT_NPROC`, `TasksMax=`): none of the loop's own, but on poll one if a program polls its
///   descriptor; the [thread
///   pool](Builder::thread_pool)'s, and on io_uring the kernel's ([`io_workers`](Builder::io_workers)), four for
///   each core and 64, made when they are needed.
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
    /// How many operations can be in flight at once: 65,536 by default, of 40 bytes each, and of 16 more on
    /// io_uring; memory that is never needed is never touched. Further ones end with
    /// [`is_table_full`](crate::is_table_full).
    #[must_use]
    pub fn capacity(mut self, operations: usize) -> Builder {
        self.capacity = operations;
        self
    }

    /// How many submissions one system call can carry: the size of io_uring's submission queue, from 1 to 32,768,
    /// rounded up to a power of two. The completion queue is four times as large, and 65,536 at most. More
    /// submissions than that take more system calls; none is lost. Other backends have no such queue.
    ///
    /// By default it is 512, or less where there is no memory for that. The queues may count as
    /// [locked memory](Builder#limits), 128 bytes for each entry. A size that is named here is not changed: if
    /// there is no memory for it, [`Builder::build`] says `ENOMEM`.
    #[must_use]
    pub fn entries(mut self, entries: u32) -> Builder {
        self.backend.entries = Some(entries);
        self
    }

    /// Takes this backend and no other: if it does not work here, [`Builder::build`] fails.
    #[must_use]
    pub fn backend(mut self, kind: Kind) -> Builder {
        self.backend.kind = Some(kind);
        self
    }

    /// Makes a loop that runs on a driver of the program's own: see [`backend`](crate::backend).
    #[cfg(backend_custom)]
    #[must_use]
    pub fn driver(mut self, make: crate::backends::MakeDriver) -> Builder {
        self.backend.kind = Some(Kind::Custom);
        self.backend.driver = Some(make);
        self
    }

    /// Where a backend has done what would block and what the kernel cannot wait for: on epoll and poll, the
    /// work of files on disks. By default there is one pool for all loops of the process, made when it is needed
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
    /// epoll: 4.5; poll: any), as if the program ran there: to test for such kernels, or to steer clear of a kernel's
    /// bug.
    #[must_use]
    pub fn baseline(mut self, baseline: bool) -> Builder {
        self.backend.baseline = baseline;
        self
    }

    /// Whether the loop's sleep counts as waiting for a disk: `false` by default. On io_uring the kernel counts it
    /// so (`%iowait`, `procs_blocked` of `/proc/stat`, pressure of I/O) unless it is told not to, which it can be
    /// since Linux 6.15 (`IORING_ENTER_NO_IOWAIT`); [`Capabilities::no_iowait`](crate::Capabilities) says whether
    /// it was. A loop that does wait for disks may want the count, and the higher clock that the kernel gives a
    /// core for it. Elsewhere, and with [`Builder::baseline`], this has no effect.
    ///
    /// ```
    /// let storage = oxev::Loop::builder().iowait(true).build()?;
    /// assert!(!storage.capabilities().no_iowait);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn iowait(mut self, counts: bool) -> Builder {
        self.backend.iowait = counts;
        self
    }

    /// How many threads the kernel makes at most for what would block in it (io_uring, Linux 5.15,
    /// `io_uring_register_iowq_max_workers(3)`); other backends have no such threads.
    ///
    /// * `bounded`: for regular files, disks, and opening. Four for each core by default.
    /// * `unbounded`: for anything else that the kernel can neither do at once nor wait for, such as a device
    ///   without readiness. 64 by default.
    ///
    /// Zero leaves the kernel's own limit. Operations beyond the limit wait for a thread, and can be cancelled
    /// there; so opens of FIFOs that have no other end keep files waiting once they are as many as `bounded`. The
    /// kernel counts by thread and not by ring, and before Linux 6.4 for each NUMA node: of several loops of one
    /// thread the last that names limits decides, and those that name none leave them.
    ///
    /// [`Builder::build`] says `EINVAL` for numbers above `i32::MAX`, and where the kernel cannot be told.
    ///
    /// ```
    /// let lp = oxev::Loop::builder().io_workers(2, 8).build()?;
    /// if let Some(workers) = lp.capabilities().io_workers {
    ///     assert_eq!((workers.bounded, workers.unbounded), (2, 8));
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn io_workers(mut self, bounded: u32, unbounded: u32) -> Builder {
        self.backend.io_workers = Some([bounded, unbounded]);
        self
    }

    /// How long dropping the loop waits for the kernel, and for work on thread pools, to let go of memory
    /// before it leaks the owners: 5 s by default.
    #[must_use]
    pub fn drain_timeout(mut self, limit: Duration) -> Builder {
        self.drain_timeout = limit;
        self
    }
}
