//! The loop: submit, cancel, and the step that everything happens in.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::backends::{Backend, Capabilities, Kind, Wait};
use crate::buf_pool::{self, BUFFERS_MAX, BufPool, Buffers, POOLS_MAX};
use crate::builder::Builder;
use crate::callback::{Lent, complete_multi, complete_one};
use crate::completion::{Action, Complete, Completion, Header, Multi, Owner};
use crate::data::DataByType;
use crate::descriptor::RawDescriptor;
use crate::error::code;
use crate::fork::Home;
use crate::handle::{LoopHandle, Remote};
use crate::in_flight::{
    AfterItem, Cancel, Delivery, EntryFlags, InFlight, InFlightOp, Item, OpId, State, Token,
};
use crate::jobs::OwnerFn;
use crate::leak;
use crate::op::{MultiOp, NO_DEADLINE, Op, OpKind, Outcome, Output, RawOp, Server, Target, duration_to_ns};
use crate::sim_hooks::{self, Entered};
use crate::stateless::{Stateless, assert_captures_nothing};
use crate::sync::Arc;
use crate::sys::errno;
use crate::thread_pool::ThreadPool;
use crate::timer::clock::Clock;

/// How long [`Loop::run`] runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunMode {
    /// Until nothing is in flight, background operations aside.
    UntilDone,
    /// Until [`Loop::stop`] or [`LoopHandle::stop`], whether anything is in flight or not: for a server. If
    /// nothing is in flight and no [`LoopHandle`] or [`Notifier`](crate::Notifier) is left, so that nothing could
    /// end the wait, `run` fails with `EDEADLK`.
    UntilStop,
    /// Until at least one callback has run, or another thread has called [`LoopHandle::wake`]; waits for that.
    Once,
    /// One step, without waiting: what is ready now.
    NoWait,
}

/// A proactor event loop: you submit operations, it runs your callbacks when they are done.
///
/// The loop allocates nothing after it was built: operations live in memory that you own ([`Completion`]).
/// It stays on the thread that made it; other threads reach it through a [`LoopHandle`].
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
/// loop beside what it has: it waits for the loop's descriptor ([`AsFd`], [`AsRawFd`]) to become readable, and
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
/// What comes from other threads ([`LoopHandle`], [`Notifier`](crate::Notifier), a thread pool) shows by
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

/// How a loop's turn among others went.
#[cfg(feature = "sim")]
pub(crate) struct Turn {
    /// It has done something, or has something to do at once.
    pub(crate) busy: bool,
    /// Somebody asked it to stop.
    pub(crate) stopped: bool,
}

/// How a step ended.
struct Stepped {
    callbacks: usize,
    woken: bool,
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

    /// As the builder says. This is where everything is allocated.
    pub(crate) fn with(builder: &Builder) -> io::Result<Box<Loop>> {
        static LOOPS: AtomicU32 = AtomicU32::new(1);
        /// Operations that one round of expiries can cancel.
        const EXPIRED_MAX: usize = 256;
        let capacity = builder.capacity;
        let (backend, waker) = Backend::new(&builder.backend, capacity)?;
        let remote = Arc::new(Remote::new(waker, Home::new(capacity)?));
        let loop_id = LOOPS.fetch_add(1, Ordering::Relaxed);
        let clock = Clock::new(backend.time());
        let core: Box<Core<[()]>> = Box::new(Core {
            ops: InFlight::new(capacity, backend.completions_max(), loop_id, remote, clock)?,
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

    // ---- submitting

    /// Submits one operation: moves `owner` into the loop, lets `prepare` make the operation out of the
    /// owner's state, and hands the owner back to `callback` with the result.
    ///
    /// `callback` runs exactly once, never inside `submit`. Whatever goes wrong comes to it as an error, also
    /// if the table is full ([`is_table_full`](crate::is_table_full)); only dropping the loop drops the owner instead. The callback must
    /// capture nothing (it is a function, or a closure of size zero): state lives in the owner.
    ///
    /// ```
    /// use oxev::{Completion, Loop, RunMode, TcpListener};
    /// # fn main() -> std::io::Result<()> {
    /// let mut lp = Loop::new()?;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let _client = std::net::TcpStream::connect(listener.local_addr()?)?;
    /// lp.submit(Box::new(Completion::new(listener)), |l| l.accept(), |_lp, _listener, accepted| {
    ///     println!("connection from {}", accepted.unwrap().peer_addr().unwrap());
    /// });
    /// lp.run(RunMode::UntilDone)
    /// # }
    /// ```
    #[inline]
    pub fn submit<P, R, F, C>(&mut self, owner: P, prepare: F, callback: C) -> OpId
    where
        P: Owner,
        R: Output,
        F: for<'a> FnOnce(&'a mut P::State) -> Op<'a, R>,
        C: FnOnce(&mut Loop, P, io::Result<R>) + Stateless,
    {
        const { assert_captures_nothing::<C>() };
        let _ = callback;
        let lent = Lent::<P>::new(owner);
        // SAFETY: S4: the completion is ours until the owner is given back.
        let place = unsafe { Completion::state_place(lent.0) };
        // SAFETY: S6: nothing else reaches the state until the callback, so it is borrowed for as long as the
        // operation is in flight.
        let (op, timeout_ns) = prepare(unsafe { &mut *place }).into_parts();
        // SAFETY: S4: as above; the completion was made for `P`, and the callback for both.
        unsafe { self.launch(lent.into_header(), op, timeout_ns, complete_one::<P, R, C>) }
    }

    /// Submits one operation that gives several results: accepted connections, received buffers, ticks of a
    /// timer.
    ///
    /// `prepare` borrows from the `source` of a [`Multi`]; the `state` beside it stays reachable: `on_item`
    /// gets it with each result and says whether it wants more. `on_end` runs once, afterwards, with the
    /// owner: `Ok` after [`Action::Disarm`] or at the end of a stream, the error otherwise.
    ///
    /// **Nothing that has arrived is thrown away**, however the operation ends: by [`Action::Disarm`], by
    /// [`Loop::cancel`], by its deadline, or by a panic of `on_item`, which disarms. A connection that was
    /// accepted by then, or a buffer that was filled, comes to `on_item` before the end, and the action of
    /// that item is not looked at; a program that has no use for it drops it. How much may still come after
    /// the first [`Action::Disarm`]: on io_uring what the kernel had done before it heard of it, no more than
    /// the completion queue holds; on readiness backends up to 256 connections, and no buffers. Of a timer
    /// nothing comes any more, and a notification waits for the notifier's next wait. A receive whose
    /// connection is reset meanwhile ends with that error, as the kernel tells it only once. Only dropping
    /// the loop drops what it has not delivered.
    ///
    /// Native on io_uring where the kernel can; elsewhere the backend or the loop repeats the operation.
    ///
    /// ```
    /// use oxev::{Action, Completion, Loop, Multi, RunMode, TcpListener, TcpStream};
    /// # fn main() -> std::io::Result<()> {
    /// let mut lp = Loop::new()?;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let _clients = [std::net::TcpStream::connect(listener.local_addr()?)?, std::net::TcpStream::connect(listener.local_addr()?)?];
    /// lp.submit_multi(
    ///     Box::new(Completion::new(Multi::new(listener, Vec::new()))),
    ///     |listener| listener.accept_multi(),
    ///     |_lp, accepted: &mut Vec<TcpStream>, stream| {
    ///         accepted.push(stream);
    ///         if accepted.len() < 2 { Action::Rearm } else { Action::Disarm }
    ///     },
    ///     |_lp, server, end| {
    ///         end.unwrap();
    ///         assert_eq!(server.state.len(), 2);
    ///     },
    /// );
    /// lp.run(RunMode::UntilDone)
    /// # }
    /// ```
    pub fn submit_multi<P, S, U, R, F, I, E>(&mut self, owner: P, prepare: F, on_item: I, on_end: E) -> OpId
    where
        P: Owner<State = Multi<S, U>>,
        S: 'static,
        U: 'static,
        R: Output,
        F: for<'a> FnOnce(&'a mut S) -> MultiOp<'a, R>,
        I: Fn(&mut Loop, &mut U, R) -> Action + Stateless,
        E: FnOnce(&mut Loop, P, io::Result<()>) + Stateless,
    {
        const { assert_captures_nothing::<I>() };
        const { assert_captures_nothing::<E>() };
        let _ = (on_item, on_end);
        let lent = Lent::<P>::new(owner);
        // SAFETY: S4: the completion is ours until the owner is given back.
        let place = unsafe { Completion::state_place(lent.0) };
        // SAFETY: S6: only the source is borrowed for as long as the operation is in flight; nothing else
        // reaches it.
        let (op, timeout_ns) = prepare(unsafe { &mut (*place).source }).0.into_parts();
        // SAFETY: S4: as above; the completion was made for `P`, and the callbacks for both.
        unsafe { self.launch(lent.into_header(), op, timeout_ns, complete_multi::<P, S, U, R, I, E>) }
    }

    /// Starts the operation `op` in `header`.
    ///
    /// # Safety
    /// `header` is valid and the loop's from here on (S2); `op` is valid for it until `complete` has run
    /// (S6).
    #[inline(always)]
    pub(crate) unsafe fn launch(
        &mut self,
        header: NonNull<Header>,
        op: RawOp,
        timeout_ns: u64,
        complete: Complete,
    ) -> OpId {
        let (kind, flags) = (op.kind, op.flags);
        // SAFETY: S2: the header is ours.
        unsafe { (*header.as_ptr()).complete = complete };
        // SAFETY: S2: as above.
        unsafe { (*header.as_ptr()).op = op };
        // Where it is submitted the kind is mostly a constant, and only one of the four is left.
        let token = if kind == OpKind::Timer {
            // SAFETY: S2: as above.
            unsafe { self.launch_timer(header, op.as_timer().first_ns, flags, timeout_ns) }
        } else if kind == OpKind::Notify {
            // SAFETY: S2: as above.
            unsafe { self.launch_wait(header, op, timeout_ns) }
        } else if let Some(result) = op.immediate_result().or_else(|| self.refusal(&op)) {
            // SAFETY: S2: as above.
            unsafe { self.refuse(header, result) }
        } else {
            debug_assert_eq!(kind.facts().server, Server::Backend);
            // SAFETY: S2: as above.
            unsafe { self.launch_in_backend(header, EntryFlags::of(kind, flags), timeout_ns) }
        };
        self.core.ops.op_id(token)
    }

    /// # Safety
    /// As [`Loop::launch`].
    unsafe fn launch_in_backend(
        &mut self,
        header: NonNull<Header>,
        flags: EntryFlags,
        timeout_ns: u64,
    ) -> Token {
        // SAFETY: S2: the header is ours.
        let Some(token) = (unsafe { self.core.ops.insert(header, flags, State::Backend) }) else {
            // SAFETY: S2: as above.
            return unsafe { self.refuse(header, -code::TABLE_FULL) };
        };
        if timeout_ns != NO_DEADLINE {
            self.core.ops.arm(token, timeout_ns);
        }
        // SAFETY: S3: the operation is in the table, so its description is valid until it is completed.
        let op = unsafe { &raw mut (*header.as_ptr()).op };
        // SAFETY: S3: as above.
        unsafe { self.core.backend.submit(token, op, &mut self.core.ops) };
        token
    }

    /// The result of an operation that no backend gets.
    #[inline(always)]
    fn refusal(&self, op: &RawOp) -> Option<i32> {
        let is_foreign = op.kind.takes_pooled_buffer() && !buf_pool::belongs_to(op, self.core.ops.loop_id());
        is_foreign.then_some(-errno::EINVAL)
    }

    /// Starts a wait for a notification.
    ///
    /// # Safety
    /// As [`Loop::launch`].
    unsafe fn launch_wait(&mut self, header: NonNull<Header>, op: RawOp, timeout_ns: u64) -> Token {
        // SAFETY: S2: the caller's promise.
        let Some(token) =
            (unsafe { self.core.ops.insert(header, EntryFlags::of(op.kind, op.flags), State::Armed) })
        else {
            // SAFETY: S2: as above.
            return unsafe { self.refuse(header, -code::TABLE_FULL) };
        };
        self.core.ops.start_wait(token, &op);
        if timeout_ns != NO_DEADLINE && self.core.ops.is_armed(token) {
            self.core.ops.arm(token, timeout_ns);
        }
        token
    }

    /// Arms a timer: `time_ns` is its delay, or with [`RawOp::ABSOLUTE`] its time.
    ///
    /// # Safety
    /// As [`Loop::launch`].
    unsafe fn launch_timer(
        &mut self,
        header: NonNull<Header>,
        time_ns: u64,
        flags: u8,
        timeout_ns: u64,
    ) -> Token {
        // SAFETY: S2: the caller's promise.
        let Some(token) =
            (unsafe { self.core.ops.insert(header, EntryFlags::of(OpKind::Timer, flags), State::Armed) })
        else {
            // SAFETY: S2: as above.
            return unsafe { self.refuse(header, -code::TABLE_FULL) };
        };
        if flags & (RawOp::MULTI | RawOp::ABSOLUTE) == 0 {
            if timeout_ns < time_ns {
                self.core.ops.set_timed_out(token);
            }
            self.core.ops.arm(token, time_ns.min(timeout_ns));
            return token;
        }
        let limit_ns = match timeout_ns {
            NO_DEADLINE => NO_DEADLINE,
            timeout_ns => self.core.ops.clock.refresh().saturating_add(timeout_ns),
        };
        if flags & RawOp::MULTI != 0 {
            // SAFETY: S2: the caller's promise. A repeating timer keeps the end of its life there.
            let op = unsafe { &mut (*header.as_ptr()).op };
            op.as_timer_mut().end_ns = limit_ns;
            self.core.ops.arm(token, time_ns.min(timeout_ns));
        } else {
            if limit_ns < time_ns {
                self.core.ops.set_timed_out(token);
            }
            self.core.ops.arm_at(token, time_ns.min(limit_ns));
        }
        token
    }

    /// Sends a completion to a thread pool.
    ///
    /// # Safety
    /// As [`Loop::launch`], for an owner `P`; `function` may work on its state on any thread (S14).
    pub(crate) unsafe fn launch_offload<P, C>(
        &mut self,
        header: NonNull<Header>,
        function: OwnerFn,
        pool: &ThreadPool,
    ) -> OpId
    where
        P: Owner,
        C: FnOnce(&mut Loop, P, io::Result<()>) + Stateless,
    {
        // SAFETY: S2: the header is ours.
        unsafe { (*header.as_ptr()).complete = complete_one::<P, (), C> };
        // SAFETY: S2: as above.
        unsafe { (*header.as_ptr()).op = RawOp::new(OpKind::Offload, -1) };
        // SAFETY: S2: as above.
        let entered =
            unsafe { self.core.ops.insert(header, EntryFlags::of(OpKind::Offload, 0), State::Backend) };
        let token = entered.unwrap_or_else(|| {
            // SAFETY: S2: as above.
            unsafe { self.refuse(header, -code::TABLE_FULL) }
        });
        // In a simulated world all threads are this one.
        let pool = Some(pool).filter(|_| self.core.backend.kind() != Kind::Sim);
        if entered.is_some() {
            // SAFETY: S14: the caller's promise; the header is in the table.
            unsafe { self.core.ops.offload(token, header, function, pool) };
        }
        self.core.ops.op_id(token)
    }

    /// Completes an operation without having tried it.
    ///
    /// # Safety
    /// As [`Loop::launch`].
    unsafe fn refuse(&mut self, header: NonNull<Header>, result: i32) -> Token {
        // SAFETY: S2: the caller's promise.
        unsafe { self.core.ops.push_refused(header, Outcome::untried(result)) };
        Token::NONE
    }

    // ---- steering

    /// Cancels an operation: its callback runs, once, with `ECANCELED` ([`is_canceled`](crate::is_canceled)),
    /// or with its own result if it is done before it can be stopped.
    ///
    /// `true` if this call asks for the end of the operation: it ends as cancelled unless it is done before.
    /// `false` if this call changes nothing: the operation is over or is being ended already, or it is sure to
    /// end with a result of its own, because a thread pool has begun its work ([offloaded](Loop::offload), or
    /// on a file on epoll), the kernel is closing its descriptor, or has sent its bytes and is only yet to let
    /// go of the buffer. Ids of other loops name nothing.
    ///
    /// ```
    /// use oxev::{Completion, Loop, RunMode, Timer};
    /// # fn main() -> std::io::Result<()> {
    /// let mut lp = Loop::new()?;
    /// let id = lp.submit(
    ///     Box::new(Completion::new(())),
    ///     |_| Timer::after(std::time::Duration::from_secs(3600)),
    ///     |_, _, fired| assert!(oxev::is_canceled(&fired.unwrap_err())),
    /// );
    /// assert!(lp.cancel(id));
    /// assert!(!lp.cancel(id));
    /// lp.run(RunMode::UntilDone)
    /// # }
    /// ```
    pub fn cancel(&mut self, id: OpId) -> bool {
        self.core.ops.token(id).is_some_and(|token| self.cancel_token(token))
    }

    fn cancel_token(&mut self, token: Token) -> bool {
        match self.core.ops.cancel(token) {
            Cancel::Late => false,
            Cancel::Noted => true,
            Cancel::AskBackend => {
                let changed = self.cancel_in_backend(token);
                if !changed {
                    self.core.ops.forget_cancel(token);
                }
                changed
            }
        }
    }

    /// Asks the backend, or a thread pool, to end an operation that it has. `false`: that changes nothing.
    fn cancel_in_backend(&mut self, token: Token) -> bool {
        match self.core.ops.op_kind(token).map(|kind| kind.facts().server) {
            Some(Server::Workers) => self.core.ops.withdraw(token),
            Some(Server::Backend | Server::EventLoop) if !self.is_inherited() => {
                self.core.backend.cancel(token, &mut self.core.ops)
            }
            Some(Server::Backend | Server::EventLoop) | None => false,
        }
    }

    /// Cancels every operation in flight on a descriptor, as [`Loop::cancel`] does one, and says for how many
    /// that is `true`.
    /// Looks through the whole table.
    pub fn cancel_all(&mut self, descriptor: impl AsFd) -> usize {
        let fd = descriptor.as_fd().as_raw_fd();
        self.cancel_wanted(|_, on_fd| on_fd == fd)
    }

    /// Cancels every operation of a kind and on a descriptor that is wanted, and says how many.
    pub(crate) fn cancel_wanted(&mut self, wanted: impl Fn(OpKind, RawDescriptor) -> bool) -> usize {
        let (mut cursor, mut count) = (0, 0);
        while let Some(token) = self.core.ops.next_wanted(&wanted, &mut cursor) {
            count += usize::from(self.cancel_token(token));
        }
        count
    }

    /// Moves the time of a timer or the deadline of an operation to `delay` from now, in place; an operation
    /// without a deadline gets one. `false` if the operation is over, or is being cancelled.
    ///
    /// A timer with a deadline has its new time alone afterwards. Of a repeating timer the next tick moves;
    /// its deadline stays.
    pub fn reset(&mut self, id: OpId, delay: Duration) -> bool {
        let Some(token) = self.core.ops.token(id) else { return false };
        self.core.ops.reset(token, duration_to_ns(delay))
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
    /// how far the operation came: so many bytes from the first one on are sent, written, or in the
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

    /// The callback that runs next is of an operation that has moved so many bytes.
    #[inline(always)]
    pub(crate) fn note_moved(&mut self, bytes: u64) {
        self.core.moved = bytes;
    }

    pub(crate) fn data_by_type(&self) -> &DataByType {
        &self.core.data
    }

    pub(crate) fn data_by_type_mut(&mut self) -> &mut DataByType {
        &mut self.core.data
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

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> LoopHandle {
        LoopHandle::new(&self.core.ops.remote)
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

    /// Makes `run` return as soon as the callback that is running, if any, has returned; if the loop is not
    /// running, the next `run` returns at once. Callbacks that were ready and
    /// have not run yet are left to the `run` after that.
    pub fn stop(&mut self) {
        self.core.ops.remote.request_stop();
        if self.core.embedded.get() && !self.core.ops.in_step && !self.is_inherited() {
            self.show(true);
        }
    }

    // ---- running

    /// Runs the loop.
    ///
    /// # Errors
    /// `EDEADLK` inside a callback: a loop cannot run in itself. What the kernel says if waiting fails
    /// altogether.
    ///
    /// # Panics
    /// A panic of a callback comes through. The loop can be run again afterwards; the owner that the callback
    /// had is dropped by unwinding.
    pub fn run(&mut self, mode: RunMode) -> io::Result<()> {
        let mut lp = Running::enter(self)?;
        loop {
            if lp.take_stop() {
                return lp.check_is_at_home();
            }
            let done = match mode {
                RunMode::NoWait => lp.step(Limit::Now).map(|_| true)?,
                RunMode::Once => {
                    let idle = lp.core.ops.len() == 0;
                    let stepped = lp.step(if idle { Limit::Now } else { Limit::Never })?;
                    idle || stepped.callbacks > 0 || stepped.woken
                }
                RunMode::UntilDone if lp.core.ops.active() == 0 => true,
                RunMode::UntilStop if lp.is_out_of_reach() => return Err(errno::error(errno::EDEADLK)),
                RunMode::UntilDone | RunMode::UntilStop => {
                    lp.step(Limit::Never)?;
                    false
                }
            };
            if done {
                lp.take_stop();
                return lp.check_is_at_home();
            }
        }
    }

    /// Runs the loop for `duration`, or until nothing is in flight, background operations aside. It looks
    /// round once in any case: if only background operations are in flight, for what is ready now.
    ///
    /// # Errors
    /// As [`Loop::run`].
    ///
    /// # Panics
    /// As [`Loop::run`].
    pub fn run_for(&mut self, duration: Duration) -> io::Result<()> {
        let mut lp = Running::enter(self)?;
        lp.steps_for(duration)?;
        lp.take_stop();
        lp.check_is_at_home()
    }

    /// Steps until the time has passed, nothing is in flight, background operations aside, or a stop.
    fn steps_for(&mut self, duration: Duration) -> io::Result<()> {
        let end_ns = self.core.ops.clock.refresh().saturating_add(duration_to_ns(duration));
        while !self.take_stop() {
            let is_active = self.core.ops.active() > 0;
            self.step(if is_active { Limit::At(end_ns) } else { Limit::Now })?;
            // A callback may have submitted something.
            if self.core.ops.active() == 0 || self.core.ops.clock.refresh() >= end_ns {
                break;
            }
        }
        Ok(())
    }

    /// Ends what the program serves, in order: cancels every accept, lets what else is in flight go on for as long as
    /// `grace`, then cancels what is left and runs its callbacks. Returns the number of operations that it had to cancel
    /// after the grace period: 0 if all came to their own end.
    ///
    /// Callbacks run as always, and submit what they need to end well; [`Loop::is_finishing`] tells them to begin
    /// nothing new (an HTTP server answers with `Connection: close`). A [`stop`](LoopHandle::stop) meanwhile, a second Ctrl-C
    /// for instance, ends the grace period at once. What is submitted after the grace period is cancelled, too; what
    /// has not ended by [`Builder::drain_timeout`] after it, or by another stop, is left in flight.
    ///
    /// ```
    /// use std::time::Duration;
    /// use oxev::{Action, Completion, Loop, Multi, RunMode, TcpListener, Timer, own};
    ///
    /// let mut lp = Loop::new()?;
    /// lp.submit_multi(
    ///     own(Multi::new(TcpListener::bind("127.0.0.1:0")?, ())),
    ///     |listener| listener.accept_multi(),
    ///     |_lp, (), _stream| Action::Rearm,
    ///     |_lp, _server, end| assert!(oxev::is_canceled(&end.unwrap_err())),
    /// );
    /// // A real server hands `lp.handle()` to its signal handler.
    /// lp.submit(own(()), |_| Timer::after(Duration::from_millis(1)).background(), |lp, _, _| lp.stop());
    /// lp.run(RunMode::UntilStop)?;
    /// assert_eq!(lp.finish(Duration::from_secs(5))?, 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Loop::run`].
    ///
    /// # Panics
    /// As [`Loop::run`].
    pub fn finish(&mut self, grace: Duration) -> io::Result<usize> {
        let mut lp = Running::enter(self)?;
        lp.core.finishing = true;
        lp.cancel_wanted(|kind, _| kind.facts().target == Target::ListeningSocket);
        lp.steps_for(grace)?;
        let end_ns = lp.core.ops.clock.refresh().saturating_add(duration_to_ns(lp.core.drain_timeout));
        let mut cut = 0;
        while !lp.is_empty() {
            cut += lp.cancel_wanted(|_, _| true);
            if lp.core.ops.clock.refresh() >= end_ns || lp.take_stop() {
                break;
            }
            lp.step(Limit::At(end_ns))?;
        }
        lp.take_stop();
        lp.check_is_at_home().map(|()| cut)
    }

    /// In a callback: whether [`Loop::finish`] runs it, so that the program ends and begins nothing new.
    #[must_use]
    pub fn is_finishing(&self) -> bool {
        self.core.finishing
    }

    /// Nothing is in flight, and no other thread can bring anything.
    fn is_out_of_reach(&self) -> bool {
        self.is_empty() && Arc::strong_count(&self.core.ops.remote) == 1 && !self.has_work()
    }

    /// Operations that keep it running.
    #[cfg(feature = "sim")]
    pub(crate) fn active(&self) -> usize {
        self.core.ops.active()
    }

    /// When its next timer or deadline is due.
    #[cfg(feature = "sim")]
    pub(crate) fn next_timer_ns(&mut self) -> Option<u64> {
        self.core.ops.resolve_delays();
        self.core.ops.next_event_ns()
    }

    /// One step without waiting.
    #[cfg(feature = "sim")]
    pub(crate) fn turn(&mut self) -> io::Result<Turn> {
        let mut lp = Running::enter(self)?;
        let stepped = if lp.take_stop() { None } else { Some(lp.step(Limit::Now)?) };
        let stopped = lp.take_stop() || stepped.is_none();
        let busy = lp.core.ops.has_ready() || stepped.is_some_and(|s| s.callbacks > 0 || s.woken);
        Ok(Turn { busy, stopped })
    }

    /// Gives new submissions to the kernel without waiting and without running callbacks. `run` does that by
    /// itself; a program that [polls the loop's descriptor](Loop#in-another-loop) does it after it has
    /// submitted, cancelled or reset something outside a callback, if it does not call
    /// [`Loop::next_timeout`] before it waits.
    ///
    /// # Errors
    /// What the kernel says; nothing is lost, the next step tries again.
    pub fn flush(&mut self) -> io::Result<()> {
        self.check_is_at_home()?;
        self.core.ops.resolve_delays();
        self.retry_buffer_waiters();
        let flushed = self.core.backend.flush(&mut self.core.ops);
        if self.core.embedded.get() && !self.core.ops.in_step {
            // Whoever waits until the time that it was told has to ask again.
            let sooner = self.core.ops.next_event_ns().is_some_and(|at_ns| at_ns < self.core.told_ns);
            self.show(sooner || flushed.is_err());
        }
        flushed
    }

    /// How long a program that [polls the loop's descriptor](Loop#in-another-loop) may wait before it runs
    /// the loop, if the descriptor does not become readable: until the next timer or deadline, not at all if
    /// there is something to do, `None` without limit. Ask each time before waiting, and round up.
    ///
    /// It gives new submissions to the kernel, as [`Loop::flush`] does. Here the program waits with the crate
    /// `nix` (its feature `poll`):
    ///
    /// ```
    /// use std::os::fd::AsFd;
    /// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    /// use oxev::{Completion, Loop, RunMode, Timer};
    /// use std::time::Duration;
    ///
    /// let mut lp = Loop::new()?;
    /// let timer = Box::new(Completion::new(()));
    /// lp.submit(timer, |_| Timer::after(Duration::from_millis(1)), |_lp, _, fired| fired.unwrap());
    /// while !lp.is_empty() {
    ///     let timeout = lp.next_timeout().map_or(PollTimeout::NONE, |timeout| {
    ///         PollTimeout::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(PollTimeout::MAX)
    ///     });
    ///     poll(&mut [PollFd::new(lp.as_fd(), PollFlags::POLLIN)], timeout)?;
    ///     lp.run(RunMode::NoWait)?;
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn next_timeout(&mut self) -> Option<Duration> {
        if self.is_inherited() {
            // At once: `run` says what is wrong.
            return Some(Duration::ZERO);
        }
        self.core.ops.resolve_delays();
        let unsubmitted = self.core.ops.may_retry_buffer_waiters() || self.core.backend.has_unsubmitted();
        // What `run` will report, too.
        let is_late = unsubmitted && self.flush().is_err();
        if is_late || self.has_work() {
            return Some(Duration::ZERO);
        }
        let of_world_ns = self.core.backend.next_event_ns();
        let next_ns = self.core.ops.next_event_ns().into_iter().chain(of_world_ns).min();
        self.core.told_ns = next_ns.unwrap_or(u64::MAX);
        let now_ns = self.core.ops.clock.refresh();
        next_ns.map(|at_ns| Duration::from_nanos(at_ns.saturating_sub(now_ns)))
    }

    /// Whether there is something to do that the backend does not know of.
    fn has_work(&self) -> bool {
        self.has_work_at_hand() || self.core.ops.remote.stop_requested()
    }

    /// Whether there is something to do for the next step.
    fn has_work_at_hand(&self) -> bool {
        self.core.ops.has_ready() || self.core.ops.may_retry_buffer_waiters()
    }

    /// Whatever there is to do from now on makes the descriptor readable, or [`Loop::next_timeout`] says when.
    #[cold]
    #[inline(never)]
    fn show(&self, busy: bool) {
        let busy = busy || self.has_work();
        if self.core.backend.show(busy, &self.core.ops) {
            self.core.ops.remote.signal();
        }
        if !busy {
            self.core.ops.watch_returns();
            self.core.ops.remote.prepare_poll();
        }
    }

    /// As [`Loop::show`], when `run` is over, however it ended.
    #[cold]
    #[inline(never)]
    fn show_the_rest(&mut self) {
        if self.is_inherited() {
            return;
        }
        // What made the descriptor readable may still be there, though it will not do so again.
        let busy = !self.core.stepped;
        self.core.ops.resolve_delays();
        self.retry_buffer_waiters();
        let flushed = self.core.backend.flush(&mut self.core.ops);
        self.show(busy || flushed.is_err());
    }

    /// One turn: the doc of [`Loop`] tells it.
    fn step(&mut self, limit: Limit) -> io::Result<Stepped> {
        self.check_is_at_home()?;
        self.core.stepped = true;
        let mut woken = self.take_posted();
        self.core.ops.resolve_delays();
        self.retry_buffer_waiters();
        let wait = self.wait_for(if woken { Limit::Now } else { limit });
        let polled = self.core.backend.poll(wait, &mut self.core.ops);
        self.core.ops.clock.invalidate();
        woken |= self.take_posted();
        polled?;
        while self.core.ops.expire(&mut self.core.expired) {
            self.cancel_expired();
        }
        self.cancel_expired();
        let callbacks = self.run_ready();
        Ok(Stepped { callbacks, woken })
    }

    fn take_posted(&mut self) -> bool {
        let posted = self.core.ops.remote.take();
        // SAFETY: S2: the queue gave the list to us.
        unsafe { self.accept_posted(posted.list) };
        posted.woken
    }

    /// # Safety
    /// As [`InFlight::push_posted`].
    unsafe fn accept_posted(&mut self, posted: *mut Header) {
        if !posted.is_null() {
            // SAFETY: S2: the caller's promise.
            unsafe { self.core.ops.push_posted(posted) };
            self.core.backend.take_jobs(&mut self.core.ops);
        }
    }

    /// How long this step may wait.
    fn wait_for(&mut self, limit: Limit) -> Wait {
        if limit == Limit::Now && self.core.embedded.get() {
            return Wait::Peek;
        }
        if limit == Limit::Now || self.has_work_at_hand() || !Remote::prepare_sleep(&self.core.ops.remote) {
            return Wait::Skip;
        }
        let limit_ns = if let Limit::At(limit_ns) = limit { Some(limit_ns) } else { None };
        let until_ns = match (self.core.ops.next_event_ns(), limit_ns) {
            (Some(event_ns), Some(limit_ns)) => event_ns.min(limit_ns),
            (Some(until_ns), None) | (None, Some(until_ns)) => until_ns,
            (None, None) => return Wait::Forever,
        };
        match until_ns.saturating_sub(self.core.ops.clock.refresh()) {
            0 => Wait::Skip,
            timeout_ns => Wait::For { timeout_ns },
        }
    }

    fn cancel_expired(&mut self) {
        while let Some(token) = self.core.expired.pop() {
            self.cancel_in_backend(token);
        }
    }

    /// Gives receives that waited for a buffer back to the backend, as many as there are buffers.
    #[inline]
    fn retry_buffer_waiters(&mut self) {
        if self.core.ops.may_retry_buffer_waiters() {
            self.retry_waiters_of_pools();
        }
    }

    #[cold]
    fn retry_waiters_of_pools(&mut self) {
        self.core.ops.returns.take();
        for index in 0..self.core.buf_pools.len() {
            let buffers = Rc::clone(&self.core.buf_pools[index]);
            if buffers.waiters().is_empty() {
                continue;
            }
            for _ in 0..buffers.next_tries() {
                let Some(token) = self.core.ops.next_buffer_waiter(&buffers) else { break };
                self.give_to_backend(token);
            }
            if buffers.has_free() && !buffers.waiters().is_empty() {
                // The next step goes on, unless those that were tried have taken what is free.
                self.core.ops.returns.note();
            }
        }
    }

    fn give_to_backend(&mut self, token: Token) {
        if let Some(op) = self.core.ops.op(token).filter(|_| !self.is_inherited()) {
            // SAFETY: S3: the operation is in the table, as the backend's.
            unsafe { self.core.backend.submit(token, op, &mut self.core.ops) };
        }
    }

    /// Runs the callbacks of what is ready now, and says how many. A callback may submit, cancel and stop, so
    /// nothing is remembered across one but counts.
    fn run_ready(&mut self) -> usize {
        let (items, ready) = (self.core.ops.items_len(), self.core.ops.ready_len());
        let mut callbacks = 0;
        for _ in 0..items {
            if self.core.ops.remote.stop_requested() {
                return callbacks;
            }
            callbacks += usize::from(self.run_item());
        }
        let words = self.core.ops.words();
        for _ in 0..ready {
            // SAFETY: S16: the words live as long as the loop, which runs.
            if unsafe { words.as_ref() }.is_to_stop() {
                return callbacks;
            }
            let Some(header) = self.core.ops.pop_ready() else { return callbacks };
            // SAFETY: S2: it was on the ready list, so it is ours to complete.
            unsafe { Header::complete(header, Some(self), false) };
            callbacks += 1;
        }
        callbacks
    }

    /// Runs the item callback of the next item, if it needs one.
    fn run_item(&mut self) -> bool {
        let Some((item, delivery)) = self.core.ops.pop_item() else { return false };
        match delivery {
            Delivery::Nothing => {}
            Delivery::Discard(header) => {
                // SAFETY: S2: the operation is in the table; the outcome in its header is for its type.
                unsafe { Header::complete(header, None, true) };
            }
            Delivery::Item(header) => {
                self.core.of_item = Some(item.token);
                let mut guard = ItemGuard { lp: self, item, rearm: false };
                // SAFETY: S2: as above.
                let action = unsafe { Header::complete(header, Some(guard.lp), true) };
                guard.rearm = action == Action::Rearm;
                return true;
            }
        }
        self.after_item(item, true);
        false
    }

    fn after_item(&mut self, item: Item, rearm: bool) {
        match self.core.ops.after_item(item, rearm) {
            AfterItem::Nothing => {}
            AfterItem::AskBackendToCancel => _ = self.cancel_in_backend(item.token),
            AfterItem::GiveToBackend => self.give_to_backend(item.token),
        }
    }

    /// A notifier's header has come off the ready list.
    ///
    /// # Safety
    /// It is on no list (S2), and came from the queue.
    pub(crate) unsafe fn accept_notifier(&mut self, header: NonNull<Header>) {
        // SAFETY: S2: the caller's promise.
        unsafe { self.core.ops.accept_notifier(header) };
    }

    fn take_stop(&mut self) -> bool {
        let stop = self.core.ops.remote.stop_requested();
        if stop && !self.is_inherited() {
            self.core.ops.remote.take_stop_request();
            // The wake-up that may have come with it is not for the next `run`.
            self.take_posted();
        }
        stop
    }

    /// This process is a forked child of the one that made the loop.
    fn is_inherited(&self) -> bool {
        self.core.ops.remote.home().is_inherited()
    }

    /// `EINVAL` in a forked child.
    fn check_is_at_home(&self) -> io::Result<()> {
        if self.is_inherited() { Err(errno::error(errno::EINVAL)) } else { Ok(()) }
    }

    /// In a forked child: ends everything in flight without a word to the kernel, which works in the memory of
    /// the parent. What a worker had begun is left as it is, for the worker is not there.
    fn drain_inherited(&mut self) {
        let works_in_process = self.core.backend.works_in_process();
        let mut cursor = 0;
        while let Some(token) = self.core.ops.abandon_next(&mut cursor) {
            if self.core.ops.op_kind(token).is_some_and(|kind| kind.facts().server == Server::Workers) {
                self.core.ops.withdraw(token);
            } else if !works_in_process {
                let _ = self.core.ops.complete(token, Outcome::new(-errno::ECANCELED));
            }
        }
        self.core.backend.leave_to_parent();
        let posted = self.core.ops.remote.close();
        // SAFETY: S2: the queue gave the list to us.
        unsafe { self.core.ops.push_posted(posted) };
        while self.core.ops.items_len() > 0 {
            self.discard_item();
        }
    }

    /// Ends everything in flight, and says how many operations did not end in time.
    fn drain(&mut self) -> usize {
        let mut cursor = 0;
        while let Some(token) = self.core.ops.abandon_next(&mut cursor) {
            self.cancel_in_backend(token);
        }
        self.drain_backend();
        // Only now: work comes back from thread pools through the queue, too.
        let posted = self.core.ops.remote.close();
        // SAFETY: S2: the queue gave the list to us.
        unsafe { self.accept_posted(posted) };
        while self.core.ops.items_len() > 0 {
            self.discard_item();
        }
        self.core.ops.in_backend()
    }

    /// Waits until nobody has an operation any more, or for as long as that may take.
    fn drain_backend(&mut self) {
        let end_ns = self.core.ops.clock.refresh().saturating_add(duration_to_ns(self.core.drain_timeout));
        loop {
            while self.core.ops.items_len() > 0 {
                self.discard_item();
            }
            let now_ns = self.core.ops.clock.refresh();
            if self.core.ops.in_backend() == 0 || now_ns >= end_ns {
                return;
            }
            let wait = match Remote::prepare_sleep(&self.core.ops.remote) {
                true => Wait::For { timeout_ns: (end_ns - now_ns).min(100_000_000) },
                false => Wait::Skip,
            };
            let polled = self.core.backend.poll(wait, &mut self.core.ops);
            self.take_posted();
            if polled.is_err() {
                return;
            }
        }
    }

    fn discard_item(&mut self) {
        let Some((item, delivery)) = self.core.ops.pop_item() else { return };
        if let Delivery::Item(header) | Delivery::Discard(header) = delivery {
            // SAFETY: S2: the operation is in the table; the outcome in its header is for its type.
            unsafe { Header::complete(header, None, true) };
        }
        self.core.ops.after_item(item, true);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        /// Drops owners, the rest also if one of them panics; and parts with the thread pool of the backend.
        struct DropOwners<'a> {
            core: &'a mut Core<[()]>,
            begin: Instant,
        }
        impl DropOwners<'_> {
            fn drop_all(&mut self) {
                while let Some(header) = self.core.ops.pop_ready() {
                    // SAFETY: S2: it was on the ready list, so it is ours to complete.
                    unsafe { Header::complete(header, None, false) };
                }
            }
        }
        impl Drop for DropOwners<'_> {
            fn drop(&mut self) {
                self.drop_all();
                let left = self.core.drain_timeout.saturating_sub(self.begin.elapsed());
                self.core.backend.release_pool(left);
            }
        }

        let begin = Instant::now();
        self.core.ops.returns.detach();
        if self.is_inherited() {
            self.drain_inherited();
        } else if self.drain() > 0 {
            // S1: the kernel, or a worker, may still write to their memory.
            leak::tell(self.core.ops.iter(), self.core.backend.holder(), self.core.drain_timeout);
            self.core.buf_pools.drain(..).for_each(std::mem::forget);
        }
        DropOwners { core: &mut self.core, begin }.drop_all();
    }
}

/// A descriptor that is readable when there is something to do for [`RunMode::NoWait`], timers aside: see
/// [in another loop](Loop#in-another-loop). It is the same one each time.
impl AsFd for Loop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        if self.is_inherited() {
            return self.core.ops.remote.waker().as_fd();
        }
        // If it runs, it shows what there is when `run` returns.
        if !self.core.embedded.replace(true) && !self.core.ops.in_step {
            self.show(false);
        }
        self.core.backend.as_fd()
    }
}

/// As [`AsFd`] has it.
impl AsRawFd for Loop {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl fmt::Debug for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loop").field("backend", &self.backend()).field("in_flight", &self.len()).finish()
    }
}

/// Until when a step may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Now,
    At(u64),
    Never,
}

/// A loop while it runs; however `run` ends, it can be run again afterwards.
struct Running<'a> {
    lp: &'a mut Loop,
    /// The loop's world, if it has one.
    _entered: Entered,
}

impl<'a> Running<'a> {
    fn enter(lp: &'a mut Loop) -> io::Result<Running<'a>> {
        lp.check_is_at_home()?;
        if std::mem::replace(&mut lp.core.ops.in_step, true) {
            return Err(errno::error(errno::EDEADLK));
        }
        lp.core.stepped = false;
        lp.core.ops.returns.watch(false);
        let entered = sim_hooks::enter(lp.core.backend.sim_context());
        Ok(Running { lp, _entered: entered })
    }
}

impl Deref for Running<'_> {
    type Target = Loop;
    fn deref(&self) -> &Loop {
        self.lp
    }
}

impl DerefMut for Running<'_> {
    fn deref_mut(&mut self) -> &mut Loop {
        self.lp
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.lp.core.ops.in_step = false;
        self.lp.core.finishing = false;
        if self.lp.core.embedded.get() {
            self.lp.show_the_rest();
        }
    }
}

/// Does what follows an item also if its callback panics: then the operation ends.
struct ItemGuard<'a> {
    lp: &'a mut Loop,
    item: Item,
    rearm: bool,
}

impl Drop for ItemGuard<'_> {
    fn drop(&mut self) {
        self.lp.core.of_item = None;
        self.lp.after_item(self.item, self.rearm);
    }
}
