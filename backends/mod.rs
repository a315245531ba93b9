//! The backends: the list of those that are compiled in, and the one that a loop runs on.
//!
//! A backend keeps the contract that [`driver`] tells, and imports no other one, `readiness` aside. The loop's
//! calls go to it through [`Backend`].

#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::buf_pool::Buffers;
use crate::in_flight::{InFlight, Token};
use crate::leak::Holder;
use crate::op::RawOp;
use crate::sim_hooks::{SimContext, VirtualTime};
use crate::sys::errno;
use crate::sys::wake_up::WakeUp;
use crate::thread_pool::ThreadPool;
pub use driver::{Driver, Operations, Wait};

mod driver;
#[cfg(backend_epoll)]
mod epoll;
#[cfg(backend_io_uring)]
mod io_uring;
#[cfg(any(backend_io_uring, backend_epoll))]
mod positions;
#[cfg(backend_epoll)]
mod readiness;
#[cfg(feature = "sim")]
pub(crate) mod sim;

#[cfg(not(any(feature = "sim", feature = "backend-api", backend_io_uring, backend_epoll)))]
compile_error!("no backend: on Linux, at least one of the features `io_uring`, `epoll` and `sim` is needed");

/// The kinds of backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// `io_uring(7)`: Linux 5.15 and later.
    IoUring,
    /// `epoll(7)`: every Linux.
    Epoll,
    /// A simulated world (the feature `sim`): only for loops that are made for one, by `Builder::simulation`.
    Sim,
    /// A driver of the program's own (the feature `backend-api`).
    #[cfg(feature = "backend-api")]
    Custom,
}

impl Kind {
    /// The backends that are compiled in, best first.
    pub const COMPILED: &'static [Kind] = &[
        #[cfg(backend_io_uring)]
        Kind::IoUring,
        #[cfg(backend_epoll)]
        Kind::Epoll,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::IoUring => "io_uring",
            Kind::Epoll => "epoll",
            Kind::Sim => "sim",
            #[cfg(feature = "backend-api")]
            Kind::Custom => "custom",
        })
    }
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
    list: [Option<(Kind, i32)>; 1],
}

impl Refusals {
    /// There are never more than the backends that another one follows.
    fn push(&mut self, kind: Kind, errno: i32) {
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
    pub(crate) simulation: Option<crate::sim::SimHandle>,
    #[cfg(feature = "backend-api")]
    pub(crate) driver: Option<MakeDriver>,
}

/// Makes a driver of the program's own for a loop with room for `capacity` operations. The waker has to end the
/// driver's waits.
#[cfg(feature = "backend-api")]
pub type MakeDriver = fn(capacity: usize, waker: Waker) -> io::Result<Box<dyn Driver>>;

/// Reaches a loop's thread from any other, at any time: where it waits in the backend, or where a program
/// polls its descriptor.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Events>);

#[derive(Debug)]
struct Events {
    /// Ends the backend's wait.
    wait: WakeUp,
    /// What a program polls, if that is not the selector that waits for the other one.
    shown: Option<WakeUp>,
}

impl Waker {
    /// `shown`: a program polls an event of its own.
    fn new(shown: bool) -> io::Result<Waker> {
        let shown = if shown { Some(WakeUp::new()?) } else { None };
        Ok(Waker(Arc::new(Events { wait: WakeUp::new()?, shown })))
    }

    /// Ends the wait that there is, or the next.
    pub fn wake(&self) {
        self.0.wait.set();
    }

    /// Makes the descriptor readable that a program polls.
    pub(crate) fn signal(&self) {
        self.shown().set();
    }

    fn shown(&self) -> &WakeUp {
        self.0.shown.as_ref().unwrap_or(&self.0.wait)
    }

    /// Blocks until it is called, or a signal comes.
    #[cfg(feature = "sim")]
    fn wait(&self) {
        self.0.wait.wait();
    }

    /// Whether it was woken since the last time that this was asked. Its descriptor is not readable afterwards.
    #[cfg(any(feature = "sim", feature = "backend-api", backend_io_uring))]
    pub fn clear(&self) -> bool {
        self.shown().clear()
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.wait.as_fd()
    }
}

/// The compiled-in backends behind one type, so that [`Loop`](crate::Loop) is not generic.
#[allow(clippy::large_enum_variant, reason = "a loop has one, in its own allocation")]
enum Compiled {
    #[cfg(backend_io_uring)]
    IoUring(io_uring::IoUring),
    #[cfg(backend_epoll)]
    Epoll(readiness::Readiness<epoll::Epoll>),
    #[cfg(feature = "sim")]
    Sim(sim::Sim),
    #[cfg(feature = "backend-api")]
    Custom(Box<dyn Driver>),
}

/// Passes a call on to whichever backend there is.
macro_rules! forward {
    ($self:expr, $backend:ident => $call:expr) => {
        match $self {
            #[cfg(backend_io_uring)]
            Compiled::IoUring($backend) => $call,
            #[cfg(backend_epoll)]
            Compiled::Epoll($backend) => $call,
            #[cfg(feature = "sim")]
            Compiled::Sim($backend) => $call,
            #[cfg(feature = "backend-api")]
            Compiled::Custom($backend) => $call,
            // Nothing is built then, and the one error is that there is no backend.
            #[cfg(not(any(feature = "sim", feature = "backend-api", backend_io_uring, backend_epoll)))]
            _ => unreachable!(),
        }
    };
}

impl Compiled {
    /// Makes this backend, if it is compiled in and works here.
    fn new(
        kind: Kind,
        options: &Options,
        #[allow(unused_variables, reason = "the simulator does not ask")] capacity: usize,
        waker: &Waker,
    ) -> io::Result<Compiled> {
        match kind {
            #[cfg(backend_io_uring)]
            Kind::IoUring => io_uring::IoUring::new(options, capacity, waker.clone()).map(Compiled::IoUring),
            #[cfg(backend_epoll)]
            Kind::Epoll => {
                let selector = epoll::Epoll::new(options.baseline, waker)?;
                readiness::Readiness::new(selector, options, capacity).map(Compiled::Epoll)
            }
            #[cfg(feature = "sim")]
            Kind::Sim => {
                let handle = options.simulation.as_ref().and_then(|handle| handle.get());
                let (world, host) = handle.ok_or_else(|| errno::error(errno::EINVAL))?;
                Ok(Compiled::Sim(sim::Sim::new(world, host, waker.clone())))
            }
            #[cfg(feature = "backend-api")]
            Kind::Custom => {
                let make = options.driver.ok_or_else(|| errno::error(errno::EINVAL))?;
                make(capacity, waker.clone()).map(Compiled::Custom)
            }
            #[allow(unreachable_patterns, reason = "if all are compiled in")]
            _ => Err(errno::error(errno::ENOSYS)),
        }
    }
}

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
            let waker = Waker::new(*kind == Kind::IoUring)?;
            match Compiled::new(*kind, options, capacity, &waker) {
                Ok(compiled) => return Ok((Backend { compiled, refusals }, waker)),
                Err(error) => match refusal(&error, options) {
                    Some(errno) if !forced && rest > 0 => refusals.push(*kind, errno),
                    _ => return Err(error),
                },
            }
        }
        Err(errno::error(errno::ENOSYS))
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.compiled {
            #[cfg(backend_io_uring)]
            Compiled::IoUring(_) => Kind::IoUring,
            #[cfg(backend_epoll)]
            Compiled::Epoll(_) => Kind::Epoll,
            #[cfg(feature = "sim")]
            Compiled::Sim(_) => Kind::Sim,
            #[cfg(feature = "backend-api")]
            Compiled::Custom(_) => Kind::Custom,
        }
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        let native = forward!(&self.compiled, backend => backend.capabilities());
        Capabilities { refusals: self.refusals, ..native }
    }

    /// The time that its loop lives in.
    pub(crate) fn time(&self) -> VirtualTime {
        match &self.compiled {
            #[cfg(feature = "sim")]
            Compiled::Sim(sim) => sim.time(),
            #[allow(unreachable_patterns, reason = "if only the simulator is compiled in")]
            _ => VirtualTime::default(),
        }
    }

    /// The world that its loop's callbacks run in.
    pub(crate) fn sim_context(&self) -> Option<SimContext> {
        match &self.compiled {
            #[cfg(feature = "sim")]
            Compiled::Sim(sim) => sim.sim_context(),
            #[allow(unreachable_patterns, reason = "if only the simulator is compiled in")]
            _ => None,
        }
    }

    /// When something happens next that does not show in the descriptor: only a simulated world knows.
    pub(crate) fn next_event_ns(&self) -> Option<u64> {
        match &self.compiled {
            #[cfg(feature = "sim")]
            Compiled::Sim(sim) => sim.next_event_ns(),
            #[allow(unreachable_patterns, reason = "if only the simulator is compiled in")]
            _ => None,
        }
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
        match self.compiled {
            // What waits for readiness ends at once.
            #[cfg(backend_epoll)]
            Compiled::Epoll(_) => Holder::ThreadPool,
            #[allow(unreachable_patterns, reason = "if only that is compiled in")]
            _ => Holder::Kernel,
        }
    }

    /// Whether its operations are worked on by this process, so that a forked child has them half done.
    pub(crate) fn works_in_process(&self) -> bool {
        match self.compiled {
            #[cfg(feature = "sim")]
            Compiled::Sim(_) => true,
            #[cfg(feature = "backend-api")]
            Compiled::Custom(_) => true,
            #[allow(unreachable_patterns, reason = "if only those are compiled in")]
            _ => false,
        }
    }

    /// This process is a forked child: what the parent shares with its kernel is not touched, from here on and in
    /// the drop.
    pub(crate) fn leave_to_parent(&mut self) {
        match &mut self.compiled {
            #[cfg(backend_io_uring)]
            Compiled::IoUring(backend) => backend.leave_to_parent(),
            #[allow(unreachable_patterns, reason = "if only that is compiled in")]
            _ => {}
        }
    }

    /// Parts with the thread pool, if it has one of its own, and waits no longer than this for its threads if
    /// this was the last handle.
    pub(crate) fn release_pool(
        &mut self,
        #[allow(unused_variables, reason = "few have one")] limit: Duration,
    ) {
        match &mut self.compiled {
            #[cfg(backend_epoll)]
            Compiled::Epoll(backend) => backend.release_pool(limit),
            #[allow(unreachable_patterns, reason = "if only that is compiled in")]
            _ => {}
        }
    }

    pub(crate) fn register_buffers(&mut self, buffers: &mut Buffers) -> io::Result<()> {
        forward!(&mut self.compiled, backend => backend.register_buffers(buffers))
    }

    pub(crate) fn unregister_buffers(&mut self, buffers: &Buffers) {
        forward!(&mut self.compiled, backend => backend.unregister_buffers(buffers));
    }
}

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
