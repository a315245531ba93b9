//! The backends: the list of them, and the one that a loop runs on.
//!
//! * [`list`]: what a line of the list brings, and what a backend brings to be in it.
//! * [`driver`]: the contract that a backend keeps.
//! * [`capabilities`]: what a loop is told of its backend.
//!
//! A backend imports no other one, `readiness` and `positions` aside. The loop's calls go to it through [`Backend`].

#![allow(unsafe_code)]

use std::fmt;
use std::io;
#[cfg(shows_descriptor)]
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::buf_pool::Buffers;
use crate::in_flight::InFlight;
use crate::leak::Holder;
use crate::op::RawOp;
use crate::sim_hooks::{SimContext, VirtualTime};
use crate::sys::errno;
use crate::thread_pool::ThreadPool;
use crate::token::Token;
use crate::waker::Waker;
pub use capabilities::{Capabilities, IoWorkers, Refusals};
pub use driver::{Driver, Operations, Wait};
use list::{Listed, backends};

mod capabilities;
mod driver;
#[cfg(backend_epoll)]
mod epoll;
#[cfg(backend_io_uring)]
mod io_uring;
#[cfg(backend_kqueue)]
mod kqueue;
mod list;
#[cfg(backend_poll)]
mod poll;
#[cfg(backend_any)]
mod positions;
#[cfg(backend_readiness)]
mod readiness;
#[cfg(feature = "sim")]
pub(crate) mod sim;
#[cfg(backend_wasi)]
mod wasi;

backends! { ($)
    // Those among which a loop chooses by itself, best first.
    chosen:
        /// `io_uring(7)`: Linux 5.15 and later.
        #[cfg(backend_io_uring)]
        IoUring = "io_uring", io_uring::IoUring;

        /// `epoll(7)`: every Linux.
        #[cfg(backend_epoll)]
        Epoll = "epoll", readiness::Readiness<epoll::Epoll>;

        /// `kqueue(2)`: macOS and the BSDs.
        #[cfg(backend_kqueue)]
        Kqueue = "kqueue", readiness::Readiness<kqueue::Kqueue>;

        /// `poll(2)`: what has none of the others, as a sandbox that forbids them. A wait costs the more, the more
        /// descriptors are waited for.
        #[cfg(backend_poll)]
        Poll = "poll", readiness::Readiness<poll::Poll>;

        /// `poll_oneoff` of WASI, preview 1 (`wasm32-wasip1`): timers, files below the directories that the host has opened,
        /// and sockets that it has opened. There is one thread: what a thread pool would do of a file holds the loop,
        /// [offloaded](crate::Loop::offload) work is refused ([`Unsupported`](std::io::ErrorKind::Unsupported)), as is what
        /// would make a socket or set an option of one, and a `run` that nothing can end is `EDEADLK`. A loop has no
        /// descriptor that a program could poll.
        #[cfg(backend_wasi)]
        Wasi = "wasi", readiness::Readiness<wasi::PollOneoff>;

    // Those that a program asks for.
    asked_for:
        /// A simulated world (the feature `sim`): only for loops that are made for one, by `Builder::simulation`.
        #[cfg(feature = "sim")]
        Sim = "sim", sim::Sim;

        /// A driver of the program's own (the feature `backend-api`).
        #[cfg(backend_custom)]
        Custom = "custom", Box<dyn Driver>;
}

impl std::str::FromStr for Kind {
    type Err = UnknownKind;

    /// The backend of this name, if it is compiled in: the name of its cargo feature. Hyphens, underscores
    /// and case do not matter.
    ///
    /// ```
    /// # #[cfg(backend_io_uring)]
    /// assert_eq!("io-uring".parse(), Ok(oxev::Kind::IoUring));
    /// assert!("select".parse::<oxev::Kind>().is_err());
    /// ```
    fn from_str(name: &str) -> Result<Kind, UnknownKind> {
        let plain = |name: &str| name.replace(['-', '_'], "").to_ascii_lowercase();
        let is_it = |kind: &Kind| plain(&kind.to_string()) == plain(name);
        Kind::COMPILED.iter().copied().find(is_it).ok_or(UnknownKind(()))
    }
}

/// The name is not that of a backend that is compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownKind(());

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the name of a backend that is compiled in; they are:")?;
        Kind::COMPILED.iter().try_for_each(|kind| write!(f, " {kind}"))
    }
}

impl std::error::Error for UnknownKind {}

/// The largest submission queue (`IORING_MAX_ENTRIES`).
pub(crate) const ENTRIES_MAX: u32 = 1 << 15;

/// What a loop's builder says about its backend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) kind: Option<Kind>,
    /// `None`: what suits the machine.
    pub(crate) entries: Option<u32>,
    pub(crate) baseline: bool,
    pub(crate) iowait: bool,
    /// The bounded and the unbounded ones; zero is the kernel's own limit, and `None` the crate's.
    pub(crate) io_workers: Option<[u32; 2]>,
    pub(crate) pool: Option<ThreadPool>,
    #[cfg(feature = "sim")]
    pub(crate) simulation: Option<sim::SimHandle>,
    #[cfg(backend_custom)]
    pub(crate) driver: Option<MakeDriver>,
}

/// Makes a driver of the program's own for a loop with room for `capacity` operations. The waker has to end the
/// driver's waits.
#[cfg(backend_custom)]
pub type MakeDriver = fn(capacity: usize, waker: Waker) -> io::Result<Box<dyn Driver>>;

pub(crate) struct Backend {
    compiled: Compiled,
    refusals: Refusals,
}

impl Backend {
    /// Makes the chosen backend, or the best that works here, with room for `capacity` operations.
    pub(crate) fn new(options: &Options, capacity: usize) -> io::Result<(Backend, Waker)> {
        let (choices, forced) = match &options.kind {
            Some(kind) => (std::slice::from_ref(kind), true),
            None => (Kind::COMPILED, false),
        };
        let mut refusals = Refusals::default();
        for (rest, kind) in (0..choices.len()).rev().zip(choices) {
            match Compiled::new(*kind, options, capacity) {
                Ok((compiled, waker)) => return Ok((Backend { compiled, refusals }, waker)),
                Err(error) => match refusal(&error, options) {
                    Some(errno) if !forced && rest > 0 => refusals.push(*kind, errno),
                    _ => return Err(error),
                },
            }
        }
        Err(errno::error(errno::ENOSYS))
    }

    pub(crate) fn kind(&self) -> Kind {
        self.compiled.kind()
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        let native = forward!(&self.compiled, backend => backend.capabilities());
        Capabilities { refusals: self.refusals, ..native }
    }

    /// The time that its loop lives in.
    pub(crate) fn time(&self) -> VirtualTime {
        forward!(&self.compiled, backend => backend.time())
    }

    /// The world that its loop's callbacks run in.
    pub(crate) fn sim_context(&self) -> Option<SimContext> {
        forward!(&self.compiled, backend => backend.sim_context())
    }

    /// When something happens next that does not show in the descriptor.
    pub(crate) fn next_event_ns(&self) -> Option<u64> {
        forward!(&self.compiled, backend => backend.next_event_ns())
    }

    /// The most completions that one `poll` collects.
    pub(crate) fn completions_max(&self) -> usize {
        forward!(&self.compiled, backend => backend.completions_max())
    }

    /// Takes an operation. It may complete it at once.
    ///
    /// # Safety
    /// `op` is valid, and what it points to is, until the operation is completed (S3, S6).
    #[inline]
    pub(crate) unsafe fn submit(&mut self, token: Token, op: *mut RawOp, ops: &mut InFlight) {
        // SAFETY: S3: the caller's promise.
        forward!(&mut self.compiled, backend => unsafe { backend.submit(token, op, Operations::of(ops)) });
    }

    /// Stops an operation that it has: soon, it completes with `ECANCELED`, unless it is done before. Never
    /// lost. `false`: it is sure to end with a result of its own.
    pub(crate) fn cancel(&mut self, token: Token, ops: &mut InFlight) -> bool {
        forward!(&mut self.compiled, backend => backend.cancel(token, Operations::of(ops)))
    }

    /// Begins what was submitted, waits for a completion, and reports all that there are.
    #[inline]
    pub(crate) fn poll(&mut self, wait: Wait, ops: &mut InFlight) -> io::Result<()> {
        forward!(&mut self.compiled, backend => backend.poll(wait, Operations::of(ops)))
    }

    /// Whether something was submitted that only [`Backend::flush`] or [`Backend::poll`] begins.
    pub(crate) fn has_unsubmitted(&mut self) -> bool {
        forward!(&mut self.compiled, backend => backend.has_unsubmitted())
    }

    /// Begins what was submitted.
    pub(crate) fn flush(&mut self, ops: &mut InFlight) -> io::Result<()> {
        forward!(&mut self.compiled, backend => backend.flush(Operations::of(ops)))
    }

    /// As [`Driver::show`] has it.
    pub(crate) fn show(&self, busy: bool, ops: &InFlight) -> bool {
        forward!(&self.compiled, backend => backend.show(busy, Operations::of_shared(ops)))
    }

    /// Takes its own headers that have come back from a thread pool.
    pub(crate) fn take_jobs(&mut self, ops: &mut InFlight) {
        forward!(&mut self.compiled, backend => backend.take_jobs(Operations::of(ops)));
    }

    /// Who has the operations that a backend has asked in vain to end.
    pub(crate) fn holder(&self) -> Holder {
        forward!(&self.compiled, backend => backend.holder())
    }

    /// Whether its operations are worked on by this process, so that a forked child has them half done.
    pub(crate) fn works_in_process(&self) -> bool {
        forward!(&self.compiled, backend => backend.works_in_process())
    }

    /// This process is a forked child: what the parent shares with its kernel is not touched, from here on and in
    /// the drop.
    pub(crate) fn leave_to_parent(&mut self) {
        forward!(&mut self.compiled, backend => backend.leave_to_parent());
    }

    /// Parts with the thread pool, if it has one of its own, and waits no longer than this for its threads if
    /// this was the last handle.
    pub(crate) fn release_pool(&mut self, limit: Duration) {
        forward!(&mut self.compiled, backend => backend.release_pool(limit));
    }

    pub(crate) fn register_buffers(&mut self, buffers: &mut Buffers) -> io::Result<()> {
        forward!(&mut self.compiled, backend => backend.register_buffers(buffers))
    }

    pub(crate) fn unregister_buffers(&mut self, buffers: &Buffers) {
        forward!(&mut self.compiled, backend => backend.unregister_buffers(buffers));
    }
}

#[cfg(shows_descriptor)]
impl AsFd for Backend {
    /// Readable when `poll` has something to report, from the first [`Backend::show`] on.
    fn as_fd(&self) -> BorrowedFd<'_> {
        forward!(&self.compiled, backend => backend.as_fd())
    }
}

/// The errno of an error that says that a backend is not to be had here, as a kernel that is too old, a sandbox or
/// the administrator says it; or a user's limit of locked memory, which even the smallest ring was too large for.
/// What is wrong for the moment, as no descriptors, is no reason to take another one. Nor is a size that the
/// program has named and that there is no memory for: it may name a smaller one.
fn refusal(error: &io::Error, options: &Options) -> Option<i32> {
    error.raw_os_error().filter(|errno| match *errno {
        errno::ENOSYS | errno::EPERM | errno::EACCES => true,
        errno::ENOMEM | errno::EAGAIN => options.entries.is_none(),
        _ => false,
    })
}
