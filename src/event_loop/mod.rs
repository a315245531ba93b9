//! The loop: what it is made of, and what can be asked of it. [`submit`]: operations go in; [`cancel`]: they are ended, or their
//! time is moved; [`run`] and [`step`]: everything happens; [`finish`]: a server ends; [`embedding`]: the loop in
//! another one; [`teardown`]: the loop is dropped.

#![allow(unsafe_code)]

mod callback;
mod cancel;
mod data;
mod embedding;
mod finish;
mod run;
mod step;
mod submit;
mod teardown;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::backends::{Backend, Capabilities, ENTRIES_MAX, Kind};
use crate::buf_pool::{BUFFERS_MAX, BufPool, Buffers, POOLS_MAX};
use crate::builder::Builder;
use crate::fork::Home;
use crate::in_flight::{InFlight, InFlightOp};
use crate::inbox::Inbox;
use crate::sync::Arc;
use crate::sys::errno;
use crate::timer::clock::Clock;
use crate::token::{OpId, Token};
use data::DataByType;
pub use run::RunMode;

/// A proactor event loop: you submit operations, it runs your callbacks when they are done.
///
/// The loop allocates nothing after it was built: operations live in memory that you own ([`Completion`](crate::Completion)).
/// It stays on the thread that made it; other threads reach it through a [`LoopHandle`](crate::LoopHandle).
///
/// **Dropping** a loop cancels everything in flight, waits until the kernel has let go of all memory and work
/// that has begun on a thread pool is done, and drops the owners without running their callbacks. It waits no
/// longer than [`Builder::drain_timeout`]: the owners of what is left then are leaked, for the memory is never
/// freed under the kernel or a worker. A message on standard error names those operations, and who has them.
///
/// **A forked child** (`fork(2)`) has no loop: its copy of one belongs to the parent. There `run`,
/// [`flush`](Loop::flush) and [`buf_pool`](Loop::buf_pool) fail with `EINVAL`, `cancel` does not reach the
/// kernel, posts come back, and nothing that is submitted is begun. A `run` in whose callback the process
/// forked ends in the child after that callback. Dropping the copy drops the owners, and so closes the child's
/// copies of their descriptors; state that a worker was working on is leaked. The parent notices nothing. A
/// child makes loops and thread pools of its own. (Linux 4.14: `MADV_WIPEONFORK`.)
///
/// # A step
/// 1. Take what other threads posted.
/// 2. Give new submissions and cancels to the kernel and wait, in one system call.
/// 3. Collect completions into the ready list.
/// 4. Expire timers and deadlines.
/// 5. Run the callbacks that were ready when this part of the step began. What they submit waits for the next
///    step, so nothing starves.
///
/// # In another loop
/// A program that waits elsewhere, in `poll(2)`, epoll, mio, tokio or another loop of this crate, can have a
/// loop beside what it has: it waits for the loop's descriptor ([`AsFd`](std::os::fd::AsFd), [`AsRawFd`](std::os::fd::AsRawFd)) to become readable, and
/// then calls [`run(RunMode::NoWait)`](Loop::run). Whatever has happened, if there is something to do then the
/// descriptor is readable, or [`Loop::next_timeout`] says when; [there](Loop::next_timeout) is an example.
///
/// | when | call |
/// |---|---|
/// | before each wait | [`Loop::next_timeout`]: timers and deadlines do not show in the descriptor |
/// | after it, whatever ended it | [`Loop::run`], once; also if nothing was to be done |
/// | after `submit`, `cancel`, `reset` or `buf_pool` outside a callback, if the wait has begun already (a task of the same thread waits) | [`Loop::flush`]: it makes the descriptor readable if the wait has become too long, too |
/// | to be told of edges (`EPOLLET`, mio, tokio's `AsyncFd`) | nothing else. What one `run` leaves makes a new edge. With an `AsyncFd`, `clear_ready` comes before `run` |
/// | before the loop is dropped | deregister the descriptor |
///
/// What comes from other threads ([`LoopHandle`](crate::LoopHandle), [`Notifier`](crate::Notifier), a thread pool) shows by
/// itself, and so does a [`Lease`](crate::Lease) that is dropped where an operation waits for its buffer. The
/// descriptor is the same each time. It is only for waiting: reading from it takes away what it shows. It may be
/// readable for nothing. Other ways to run the loop ([`RunMode::Once`], [`Loop::run_for`]) leave it as it
/// should be.
///
/// **Late descriptors.** Some kernels (seen on Linux 6.12.117) make the descriptor of a loop on io_uring readable up to
/// 16 ms after the event, if the ring defers its work. [`Builder::baseline`] avoids that, and so does epoll.
///
/// **`EINTR` without a signal.** On io_uring the kernel may have to do something in the name of the loop's
/// thread and interrupts a system call in which the thread waits. Most calls go on by themselves afterwards;
/// `epoll_wait(2)`, and calls on a socket with `SO_RCVTIMEO` or `SO_SNDTIMEO`, end with `EINTR`, as if there
/// had been a signal (signal(7), "Interruption of system calls"). Before Linux 6.1, and with
/// [`Builder::baseline`], that may be for everything that completes; later it is rare (a kernel thread that
/// has to be made for a file, the first look at the descriptor).
///
/// # A loop does not move
/// `Loop` is a type without a size: a program has it in a `Box`, and its callbacks get `&mut Loop`. So no
/// callback can put another loop in the place of the one that runs it:
///
/// ```compile_fail,E0277
/// fn swap(lp: &mut oxev::Loop, other: &mut oxev::Loop) {
///     std::mem::swap(lp, other); // needs a size
/// }
/// ```
#[repr(transparent)]
pub struct Loop {
    core: Core<[()]>,
}

/// What a [`Loop`] is made of. The last field takes the size from the type.
struct Core<NoSize: ?Sized> {
    ops: InFlight,
    backend: Backend,
    /// The pools whose memory the kernel knows. Dropped after the backend.
    buf_pools: Vec<Rc<Buffers>>,
    /// Room for the operations that one round of expiries has to cancel.
    expired: Vec<Token>,
    /// A program polls the loop's descriptor: when `run` returns, it has to show all that there is to do.
    embedded: Cell<bool>,
    /// The step has looked for what is new since `run` began.
    stepped: bool,
    /// When the program that polls the descriptor will run the loop, as [`Loop::next_timeout`] has told it.
    told_ns: u64,
    drain_timeout: Duration,
    /// What the operation moved whose callback runs.
    moved: u64,
    /// The operation whose item callback runs.
    of_item: Option<Token>,
    /// [`Loop::finish`] runs.
    finishing: bool,
    /// What the program keeps here for its callbacks.
    data: DataByType,
    /// Not `Send`: operations may hold state of this thread.
    thread_bound: PhantomData<*const ()>,
    _no_size: NoSize,
}

impl Core<[()]> {
    /// Makes a loop of its parts, which are in their place for good (S10).
    fn into_loop(self: Box<Self>) -> Box<Loop> {
        let core = Box::into_raw(self);
        // SAFETY: S10: a loop is its core and nothing else (`repr(transparent)`).
        unsafe { Box::from_raw(core as *mut Loop) }
    }
}

impl Loop {
    /// A loop with the default capacity on the best backend that this kernel allows.
    ///
    /// # Errors
    /// What the operating system says: for instance no more descriptors, or no backend that works here.
    pub fn new() -> io::Result<Box<Loop>> {
        Loop::builder().build()
    }

    /// Sets up a loop by hand.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// As the builder says.
    fn with(builder: &Builder) -> io::Result<Box<Loop>> {
        static LOOPS: AtomicU32 = AtomicU32::new(1);
        /// Operations that one round of expiries can cancel.
        const EXPIRED_MAX: usize = 256;
        let capacity = builder.capacity;
        let (backend, waker) = Backend::new(&builder.backend, capacity)?;
        let inbox = Arc::new(Inbox::new(waker, Home::new(capacity)?));
        let loop_id = LOOPS.fetch_add(1, Ordering::Relaxed);
        let clock = Clock::new(backend.time());
        let core: Box<Core<[()]>> = Box::new(Core {
            ops: InFlight::new(capacity, backend.completions_max(), loop_id, inbox, clock)?,
            backend,
            buf_pools: Vec::new(),
            expired: Vec::with_capacity(EXPIRED_MAX),
            embedded: Cell::new(false),
            stepped: false,
            told_ns: u64::MAX,
            drain_timeout: builder.drain_timeout,
            moved: 0,
            of_item: None,
            finishing: false,
            data: DataByType::default(),
            thread_bound: PhantomData,
            _no_size: [],
        });
        Ok(core.into_loop())
    }

    /// In an item callback ([`Loop::submit_multi`]): the id of its operation, to [reset](Loop::reset) its deadline or to
    /// [cancel](Loop::cancel) it from elsewhere. `None` in other callbacks, whose operation is over, and outside of them.
    ///
    /// Here a connection ends when nothing has come for a second, whatever came before:
    ///
    /// ```
    /// use std::time::Duration;
    /// use oxev::{Action, BufPool, Loop, Multi, RunMode, TcpStream, own};
    ///
    /// const IDLE: Duration = Duration::from_secs(1);
    ///
    /// struct Source { stream: TcpStream, pool: BufPool }
    ///
    /// fn serve(lp: &mut Loop, source: Source) {
    ///     lp.submit_multi(
    ///         own(Multi::new(source, ())),
    ///         |s| s.stream.recv_multi(&s.pool).timeout(IDLE),
    ///         |lp, (), _received| {
    ///             let id = lp.item_id().unwrap();
    ///             lp.reset(id, IDLE);
    ///             Action::Rearm
    ///         },
    ///         |_lp, _source, _end| (),
    ///     );
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn item_id(&self) -> Option<OpId> {
        self.core.of_item.map(|token| self.core.ops.op_id(token))
    }

    /// In a callback: the bytes that its operation moved before it ended, however it ended. After a deadline,
    /// a cancel or an error in the middle of [`send_all`](crate::TcpStream::send_all),
    /// [`recv_exact`](crate::TcpStream::recv_exact), [`write_all`](crate::File::write_all) and the like it says
    /// how far the operation came: this many bytes from the first one on are sent, written, or in the
    /// buffer. After a success it is the count.
    ///
    /// What was sent is with the kernel, not necessarily with the peer. In the item callback of a
    /// [`recv_multi`](crate::TcpStream::recv_multi) it is the bytes of the item; in its end callback, and in
    /// callbacks of operations that move no bytes, it is 0. The same on every backend.
    ///
    /// ```
    /// use std::io::Write;
    /// use std::time::Duration;
    /// use oxev::{Completion, Loop, RunMode, TcpStream};
    ///
    /// struct Conn { stream: TcpStream, header: [u8; 8] }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let mut peer = std::net::TcpStream::connect(listener.local_addr()?)?;
    /// let stream = TcpStream::from_std(listener.accept()?.0)?;
    /// let mut lp = Loop::new()?;
    /// peer.write_all(b"abc")?; // and no more
    /// lp.submit(
    ///     Box::new(Completion::new(Conn { stream, header: [0; 8] })),
    ///     |c| c.stream.recv_exact(&mut c.header).timeout(Duration::from_millis(20)),
    ///     |lp, conn, received| {
    ///         assert!(oxev::is_deadline(&received.unwrap_err()));
    ///         assert_eq!(&conn.header[..lp.moved() as usize], b"abc");
    ///     },
    /// );
    /// lp.run(RunMode::UntilDone)
    /// # }
    /// ```
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.core.moved
    }

    /// The callback that runs next is of an operation that has moved this many bytes.
    #[inline(always)]
    pub(crate) fn note_moved(&mut self, bytes: u64) {
        self.core.moved = bytes;
    }

    /// In a callback, the time of this step: the clock is read when it is asked for the first time after the
    /// loop has waited. Outside of `run` it is read each time (30 ns), as [`Instant::now`] does.
    #[must_use]
    pub fn now(&self) -> Instant {
        if !self.core.ops.in_step {
            self.core.ops.clock.refresh();
        }
        self.core.ops.clock.now()
    }

    /// Reads the clock, so that [`Loop::now`] is exact again in a long callback.
    pub fn update_now(&mut self) {
        self.core.ops.clock.refresh();
    }

    /// Every operation whose result is not known yet.
    pub fn in_flight(&self) -> impl Iterator<Item = InFlightOp> + '_ {
        self.core.ops.iter()
    }

    /// How many operations have been submitted whose callback has not run.
    #[must_use]
    pub fn len(&self) -> usize {
        self.core.ops.len()
    }

    /// Whether no operation is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The backend that the loop runs on.
    #[must_use]
    pub fn backend(&self) -> Kind {
        self.core.backend.kind()
    }

    /// What the backend can do on this kernel.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.core.backend.capabilities()
    }

    /// What other threads reach this loop by.
    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.core.ops.inbox
    }

    /// Makes a pool of `count` buffers (1 to 32,768) of `size` bytes for pooled receives on this loop.
    ///
    /// This allocates. The kernel keeps the memory until the last handle and lease are gone and the next pool
    /// is made, or the loop is dropped.
    ///
    /// # Errors
    /// `EINVAL` for sizes out of range; what the kernel says otherwise.
    pub fn buf_pool(&mut self, count: usize, size: usize) -> io::Result<BufPool> {
        let einval = || errno::error(errno::EINVAL);
        let count = u16::try_from(count).ok().filter(|&n| n <= BUFFERS_MAX).ok_or_else(einval)?;
        let size = u32::try_from(size).ok().filter(|&n| i32::try_from(n).is_ok()).ok_or_else(einval)?;
        self.check_is_at_home()?;
        self.core.buf_pools.retain(|pool| {
            let used = Rc::strong_count(pool) > 1;
            if !used {
                self.core.backend.unregister_buffers(pool);
            }
            used
        });
        self.check_is_at_home()?;
        let id = (0..POOLS_MAX).find(|id| self.core.buf_pools.iter().all(|pool| pool.id() != *id));
        let id = id.ok_or_else(einval)?;
        let returns = Rc::clone(&self.core.ops.returns);
        let mut buffers = Buffers::new(count, size, self.core.ops.loop_id(), id, returns)?;
        self.core.backend.register_buffers(&mut buffers)?;
        let buffers = Rc::new(buffers);
        self.core.buf_pools.push(Rc::clone(&buffers));
        Ok(BufPool(buffers))
    }
}

impl Builder {
    /// Builds the loop. This is where everything is allocated.
    ///
    /// # Errors
    /// `EINVAL` for sizes of zero or out of range; `ENOMEM` if there is no memory for the
    /// [entries](Builder::entries) that were named, or for the backend; `EMFILE` if there are no descriptors;
    /// `ENOSYS` or `EPERM` if no backend, or not the chosen one,
    /// works here; [`OutOfMemory`](io::ErrorKind::OutOfMemory) if the machine has no memory for the
    /// [capacity](Builder::capacity); what the operating system says otherwise.
    pub fn build(self) -> io::Result<Box<Loop>> {
        let entries = self.backend.entries.unwrap_or(1);
        if self.capacity == 0 || self.capacity > Token::ENTRIES_MAX || entries == 0 || entries > ENTRIES_MAX {
            return Err(errno::error(errno::EINVAL));
        }
        if self.backend.io_workers.is_some_and(|limits| limits.iter().any(|&n| i32::try_from(n).is_err())) {
            return Err(errno::error(errno::EINVAL));
        }
        Loop::with(&self)
    }
}

impl fmt::Debug for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loop").field("backend", &self.backend()).field("in_flight", &self.len()).finish()
    }
}
