//! What a backend can do on the machine that it runs on, and which others the machine refused.

use std::fmt;

use super::Kind;

/// What the backend can do on this kernel. Whatever it cannot do natively, the loop does for it: the API is
/// the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// One submission accepts connection after connection (Linux 5.19).
    pub multishot_accept: bool,
    /// One submission receives buffer after buffer (Linux 6.0).
    pub multishot_recv: bool,
    /// The kernel takes receive buffers from a ring (Linux 5.19).
    pub buffer_rings: bool,
    /// Data is sent from where it is (Linux 6.0).
    pub zero_copy_send: bool,
    /// Completions are only worked on when the loop asks for them: `IORING_SETUP_DEFER_TASKRUN` (Linux 6.1).
    pub deferred_task_run: bool,
    /// The loop's system call finds its ring without a descriptor look-up (Linux 5.18).
    pub registered_ring: bool,
    /// The loop's waits do not count as waits for a disk (Linux 6.15; see
    /// [`Builder::iowait`](crate::Builder::iowait)).
    pub no_iowait: bool,
    /// How many threads the kernel makes at most for operations of this thread that would block (Linux 5.15; see
    /// [`Builder::io_workers`](crate::Builder::io_workers)). `None` if the kernel makes none.
    pub io_workers: Option<IoWorkers>,
    /// The size of the submission queue: how many submissions one system call carries. Less than the default of
    /// [`Builder::entries`](crate::Builder::entries) if there was no memory for more. 0 if there is none.
    pub entries: u32,
    /// The backends that the loop, left to choose, did not get, and why.
    pub refusals: Refusals,
}

/// How many threads the kernel makes at most to do what would block; see
/// [`Builder::io_workers`](crate::Builder::io_workers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoWorkers {
    /// For operations on regular files and disks, and for opening.
    pub bounded: u32,
    /// For operations on anything else.
    pub unbounded: u32,
}

/// The backends that would have been better and that the machine refused, best first, each with its errno:
/// `ENOMEM` if the user may not lock as much memory as the smallest ring takes (`RLIMIT_MEMLOCK`), `EPERM` or
/// `EACCES` if a sandbox or the administrator forbids it, `ENOSYS` if the kernel has none, or none that can do
/// what is needed. Empty if the best was taken, or one was [asked for](crate::Builder::backend).
///
/// ```
/// let lp = oxev::Loop::new()?;
/// for (kind, errno) in lp.capabilities().refusals.iter() {
///     eprintln!("no {kind}: {}", std::io::Error::from_raw_os_error(*errno));
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Refusals {
    list: [Option<(Kind, i32)>; Kind::COMPILED.len()],
}

impl Refusals {
    pub(super) fn push(&mut self, kind: Kind, errno: i32) {
        if let Some(free) = self.list.iter_mut().find(|place| place.is_none()) {
            *free = Some((kind, errno));
        }
    }

    /// Each backend with the errno of its refusal.
    pub fn iter(&self) -> impl Iterator<Item = &(Kind, i32)> {
        self.list.iter().flatten()
    }

    /// The errno with which this backend was refused.
    #[must_use]
    pub fn errno(&self, kind: Kind) -> Option<i32> {
        self.iter().find(|refusal| refusal.0 == kind).map(|refusal| refusal.1)
    }

    /// Whether nothing was refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
