//! Submitting: an owner moves in, and its operation to whatever serves it.

#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;

use super::Loop;
use super::callback::{LentOwner, complete_multi, complete_one};
use crate::backends::Kind;
use crate::buf_pool;
use crate::completion::{Action, Complete, Completion, Header, Multi, Owner};
use crate::error::code;
use crate::in_flight::{EntryFlags, State};
use crate::jobs::OwnerFn;
use crate::op::{MultiOp, NO_DEADLINE, Op, OpKind, Outcome, Output, RawOp, Server};
use crate::stateless::{Stateless, assert_captures_nothing};
use crate::sys::errno;
use crate::thread_pool::ThreadPool;
use crate::token::{OpId, Token};

impl Loop {
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
        let lent = LentOwner::<P>::new(owner);
        // SAFETY: S4: the completion is ours until the owner is given back.
        let place = unsafe { Completion::state_place(lent.0) };
        // SAFETY: S6: nothing else reaches the state until the callback, so it is borrowed for as long as the
        // operation is in flight.
        let (op, timeout_ns) = prepare(unsafe { &mut *place }).into_parts();
        // SAFETY: S4: the owner is given up. The completion was made for `P`, and the callback for both.
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
    /// that item is ignored; a program that has no use for it drops it. How much may still come after
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
        let lent = LentOwner::<P>::new(owner);
        // SAFETY: S4: the completion is ours until the owner is given back.
        let place = unsafe { Completion::state_place(lent.0) };
        // SAFETY: S6: only the source is borrowed for as long as the operation is in flight; nothing else
        // reaches it.
        let (op, timeout_ns) = prepare(unsafe { &mut (*place).source }).0.into_parts();
        // SAFETY: S4: the owner is given up. The completion was made for `P`, and the callbacks for both.
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
        // SAFETY: S2: the header is ours, and the operation is not begun.
        unsafe { (*header.as_ptr()).op = op };
        // Where it is submitted the kind is mostly a constant, and only one of the four is left.
        let token = if kind == OpKind::Timer {
            // SAFETY: S2: the header is ours, and is on no list.
            unsafe { self.launch_timer(header, op.as_timer().first_ns, flags, timeout_ns) }
        } else if kind == OpKind::Notify {
            // SAFETY: S2: the header is ours, and is on no list.
            unsafe { self.launch_wait(header, op, timeout_ns) }
        } else if let Some(result) = op.immediate_result().or_else(|| self.refusal(&op)) {
            // SAFETY: S2: the header is ours, and is on no list.
            unsafe { self.refuse(header, result) }
        } else {
            debug_assert_eq!(kind.facts().server, Server::Backend);
            // SAFETY: S2: the header is ours, and is on no list.
            unsafe { self.launch_in_backend(header, EntryFlags::of(kind, flags), timeout_ns) }
        };
        self.core.ops.op_id(token)
    }

    /// # Safety
    /// As [`Loop::launch`].
    pub(super) unsafe fn launch_in_backend(
        &mut self,
        header: NonNull<Header>,
        flags: EntryFlags,
        timeout_ns: u64,
    ) -> Token {
        // SAFETY: S2: the header is ours.
        let Some(token) = (unsafe { self.core.ops.insert(header, flags, State::Backend) }) else {
            // SAFETY: S2: it entered no table, so the header is still ours.
            return unsafe { self.refuse(header, -code::TABLE_FULL) };
        };
        if timeout_ns != NO_DEADLINE {
            self.core.ops.arm(token, timeout_ns);
        }
        // SAFETY: S3: the operation is in the table, so its description is valid until it is completed.
        let op = unsafe { &raw mut (*header.as_ptr()).op };
        // SAFETY: S3: until the operation is completed, the backend alone writes to its description.
        unsafe { self.core.backend.submit(token, op, &mut self.core.ops) };
        token
    }

    /// The result of an operation that no backend gets.
    #[inline(always)]
    pub(super) fn refusal(&self, op: &RawOp) -> Option<i32> {
        let is_foreign = op.kind.takes_pooled_buffer() && !buf_pool::belongs_to(op, self.core.ops.loop_id());
        is_foreign.then_some(-errno::EINVAL)
    }

    /// Starts a wait for a notification.
    ///
    /// # Safety
    /// As [`Loop::launch`].
    pub(super) unsafe fn launch_wait(
        &mut self,
        header: NonNull<Header>,
        op: RawOp,
        timeout_ns: u64,
    ) -> Token {
        // SAFETY: S2: the caller's promise.
        let Some(token) =
            (unsafe { self.core.ops.insert(header, EntryFlags::of(op.kind, op.flags), State::Armed) })
        else {
            // SAFETY: S2: it entered no table, so the header is still ours.
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
    pub(super) unsafe fn launch_timer(
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
            // SAFETY: S2: it entered no table, so the header is still ours.
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
        // SAFETY: S2: the header is ours, and the operation is not begun.
        unsafe { (*header.as_ptr()).op = RawOp::new(OpKind::Offload, -1) };
        // SAFETY: S2: the header is ours, and is on no list.
        let entered =
            unsafe { self.core.ops.insert(header, EntryFlags::of(OpKind::Offload, 0), State::Backend) };
        let token = entered.unwrap_or_else(|| {
            // SAFETY: S2: it entered no table, so the header is still ours.
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
    pub(super) unsafe fn refuse(&mut self, header: NonNull<Header>, result: i32) -> Token {
        // SAFETY: S2: the caller's promise.
        unsafe { self.core.ops.push_refused(header, Outcome::untried(result)) };
        Token::NONE
    }
}
