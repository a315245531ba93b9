//! A proactor over readiness: what epoll now, and other selectors later, share. Only the [`Selector`]
//! differs.
//!
//! * [`descriptors`]: what is known of each descriptor, and who waits for it.
//! * [`queue`]: the lists of waiting operations.
//! * [`attempt`]: one try at an operation; [`jobs`]: what no selector can wait for, on a thread pool.
//! * [`socket`], [`connect`], [`file`], [`poll`]: operations and their system calls, family by family.
//!
//! An operation is tried when it is submitted, and when it would block it waits, in order, in a queue of its
//! descriptor. A descriptor is registered once, for the edges of both directions, and stays so for its life;
//! it is never duplicated.
//!
//! **No edge is missed.** A queue that is not empty is in one of two states: either its descriptor is
//! registered and the last try found it not ready, so that whatever changes that makes an edge after the try;
//! or its first operation is on the list of those to go on with in the next poll. An edge, too, does no more
//! than say that trying is worth it, so one that comes late, twice, or for somebody else costs a call and
//! nothing else.

#![allow(unsafe_code)]

mod attempt;
mod connect;
mod descriptors;
mod file;
mod jobs;
mod poll;
mod queue;
mod socket;

use std::io;
#[cfg(shows_descriptor)]
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::list::Listed;
use super::positions::Positions;
use super::{Capabilities, Driver, Operations, Options, Wait};
use crate::descriptor::RawDescriptor;
use crate::in_flight::Next;
use crate::leak::Holder;
use crate::op::addresses::forget_addresses;
use crate::op::{Direction, OpKind, Outcome, RawOp};
use crate::sys::errno;
use crate::sys::wake_up::AsFd;
use crate::token::Token;
use crate::waker::Waker;
use attempt::{Attempt, attempt};
use descriptors::Descriptors;
#[cfg(backend_poll)]
pub(crate) use descriptors::numbers_max;
pub(crate) use descriptors::{Edge, Interest};
use jobs::{Jobs, Started};
use queue::{Nodes, Place};

/// What an operating system has for waiting on many descriptors: edge-triggered, or one-shot.
pub(crate) trait Selector: AsFd + Sized {
    /// Edges that one wait can report.
    const EVENTS_MAX: usize;

    /// An edge takes the registration of its descriptor with it, as `EPOLLONESHOT` does. What is still waited for
    /// is registered again, and what no operation waits for any more is deregistered: a registration lasts no
    /// longer than the operation that it is for, so that there are never more than operations. It is how a selector
    /// that reports levels does not report the same one again and again.
    const ONE_SHOT: bool = false;

    /// Makes one, for so many operations, whose waits the waker ends. `baseline`: as if the kernel were the oldest
    /// that is served.
    fn new(baseline: bool, capacity: usize, waker: &Waker) -> io::Result<Self>;

    /// Reports these edges of an open descriptor from now on, and at once what it is ready for now.
    /// `is_known`: it was registered for less, or before; if that is not so, it works all the same. The error
    /// is an errno; `EPERM` says that such a descriptor is always ready. A selector that is one-shot adds the
    /// interest to what the descriptor is registered for.
    fn register(
        &mut self,
        fd: RawDescriptor,
        generation: u32,
        interest: Interest,
        is_known: bool,
    ) -> Result<(), i32>;

    /// Nothing is waited for there any more: only asked of a selector that is one-shot.
    fn deregister(&mut self, _fd: RawDescriptor) {}

    /// Waits for edges, and says how many there are to be asked for.
    fn wait(&mut self, wait: Wait) -> io::Result<usize>;

    /// One of them; `None` is the waker's.
    fn event(&mut self, index: usize) -> Option<Event>;

    /// A program is about to wait for the descriptor: see [`Driver::show`]. A selector whose descriptor shows edges
    /// by itself has nothing to do.
    fn show(&self) -> bool {
        false
    }

    /// Whether a program polls the descriptor, and it does not show yet what was registered.
    fn is_behind(&self) -> bool {
        false
    }

    /// As [`Listed::leave_to_parent`].
    fn leave_to_parent(&mut self) {}
}

/// An edge, and whose it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) fd: RawDescriptor,
    pub(crate) generation: u32,
    pub(crate) edge: Edge,
}

/// The calls that one poll makes for one direction of one descriptor: then it is the others' turn.
const ATTEMPTS_MAX: usize = 16;

/// The bytes that it moves there before it is the others' turn, if an operation goes on and on: a call alone
/// can move megabytes.
const ATTEMPT_BYTES_MAX: usize = 1 << 20;

/// Accepted connections that may wait for their callbacks. Multi-result accepts stay in their queue, and take
/// what there is: so many connections that come at once are not one for each step of the loop.
const ACCEPT_BURST_MAX: usize = 256;

/// How often in a row the selector may go unasked while the loop has something to do: it saves most of the
/// calls, and what is new on other descriptors still comes in.
const SKIPS_MAX: u32 = 4;

/// With more than this to do the selector is asked all the same. Its call costs next to nothing for each of so many, and
/// what is new on other descriptors would wait for all of them, five times over.
const AT_HAND_MAX: usize = 64;

pub(crate) struct Readiness<S> {
    selector: S,
    descriptors: Descriptors,
    nodes: Nodes,
    jobs: Jobs,
    positions: Positions,
    /// Operations that waited for a job are being started.
    starting_jobs: bool,
    capacity: usize,
    skips: u32,
    /// The selector may hold edges that were there before the last poll: nobody is told of those again.
    has_old_edges: bool,
}

impl<S: Selector> Readiness<S> {
    /// There is nothing to be done.
    ///
    /// # Safety
    /// As [`Readiness::submit`].
    #[inline(never)]
    unsafe fn start_nothing(&mut self, token: Token, _op: *mut RawOp, ops: &mut Operations) {
        report(token, 0, ops);
    }

    /// Makes sure that the record of the operation's descriptor is of the file that it names now. `false`:
    /// the operation is over.
    #[inline(always)]
    fn enter(&mut self, token: Token, op: &RawOp, ops: &mut Operations) -> bool {
        match self.descriptors.is_stale(op) {
            Ok(false) => true,
            stale => self.renew(token, op, stale, ops),
        }
    }

    #[cold]
    fn renew(&mut self, token: Token, op: &RawOp, stale: Result<bool, i32>, ops: &mut Operations) -> bool {
        match stale {
            Ok(_) => {
                // Nobody is left there unless a descriptor was closed under its operations.
                Direction::ALL
                    .into_iter()
                    .for_each(|direction| self.fail_queue(op.fd, direction, errno::EBADF, ops));
                if S::ONE_SHOT {
                    self.selector.deregister(op.fd);
                }
                self.descriptors.forget(op.fd);
                true
            }
            Err(errno) => {
                report(token, -errno, ops);
                false
            }
        }
    }

    /// Tries an operation if it is its turn, and queues it unless that was all.
    ///
    /// # Safety
    /// As [`Readiness::submit`].
    #[inline(never)]
    unsafe fn start(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations) {
        // SAFETY: S3: the caller's promise; here and below.
        let kind = unsafe { (*op).kind };
        // SAFETY: S3: as above.
        let _ = unsafe { self.try_or_queue(token, op, kind, ops) };
    }

    /// As [`Readiness::start`], of a receive.
    ///
    /// # Safety
    /// As [`Readiness::submit`].
    #[inline(never)]
    unsafe fn start_recv(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations) {
        // SAFETY: S3: the caller's promise.
        let _ = unsafe { self.try_or_queue(token, op, OpKind::Recv, ops) };
    }

    /// As [`Readiness::start`], of a send.
    ///
    /// # Safety
    /// As [`Readiness::submit`].
    #[inline(never)]
    unsafe fn start_send(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations) {
        // SAFETY: S3: the caller's promise.
        let _ = unsafe { self.try_or_queue(token, op, OpKind::Send, ops) };
    }

    /// [`Next::Continue`]: it is a connect, and goes on with another address, on another socket.
    ///
    /// # Safety
    /// As [`Readiness::submit`].
    #[inline(always)]
    unsafe fn try_or_queue(
        &mut self,
        token: Token,
        op: *mut RawOp,
        kind: OpKind,
        ops: &mut Operations,
    ) -> Next {
        // SAFETY: S3: nobody else has it now.
        let raw = unsafe { &mut *op };
        if !self.enter(token, raw, ops) {
            return Next::Done;
        }
        let (fd, direction) = (raw.fd, kind.facts().direction);
        let record = self.descriptors.record(fd);
        if !record.queue(direction).is_empty() || !record.may_be_ready(direction) {
            let is_first = record.queue(direction).is_empty();
            self.nodes.push(record.queue(direction), token, Place::Waiting);
            if S::ONE_SHOT && is_first {
                self.watch_again(fd, direction, ops);
            }
            return Next::Done;
        }
        if kind == OpKind::Accept && is_multi_accept(raw) {
            self.nodes.push(record.queue(direction), token, Place::Waiting);
            self.run_queue(fd, direction, ops);
            return Next::Done;
        }
        match attempt(raw, kind, record, &mut self.selector) {
            Attempt::Over(outcome) => {
                if ops.complete(token, outcome) == Next::Continue {
                    if kind == OpKind::Connect {
                        return Next::Continue;
                    }
                    self.nodes.push(record.queue(direction), token, Place::Waiting);
                    self.run_queue(fd, direction, ops);
                }
            }
            Attempt::NotReady => {
                let interest = Interest::of(raw, S::ONE_SHOT);
                self.nodes.push(record.queue(direction), token, Place::Waiting);
                self.block(fd, direction, interest, ops);
            }
        }
        Next::Done
    }

    // ---- trying

    /// Goes through the queue of one direction, from its first operation, as far as it is ready.
    fn run_queue(&mut self, fd: RawDescriptor, direction: Direction, ops: &mut Operations) {
        let mut moved = 0;
        for _ in 0..ATTEMPTS_MAX {
            let record = self.descriptors.record(fd);
            if !record.may_be_ready(direction) {
                return self.watch_again(fd, direction, ops);
            }
            let Some(token) = self.nodes.head(record.queue(direction)) else { return };
            let Some(op) = ops.op(token) else {
                debug_assert!(false, "an operation is only taken back by us");
                self.nodes.remove(record.queue(direction), token);
                continue;
            };
            // SAFETY: S3: the operation is ours, and nobody else looks at it now.
            let raw = unsafe { &mut *op };
            let is_multi_accept = is_multi_accept(raw);
            if is_multi_accept && ops.items_len() >= ACCEPT_BURST_MAX {
                break;
            }
            match attempt(raw, raw.kind, record, &mut self.selector) {
                Attempt::NotReady => {
                    let interest = Interest::of(raw, S::ONE_SHOT);
                    return self.block(fd, direction, interest, ops);
                }
                Attempt::Over(outcome) if is_multi_accept && outcome.result >= 0 => {
                    let _ = ops.complete(token, outcome.and_more());
                    if self.nodes.next(token).is_some() {
                        // Whoever waits behind it has a turn, too.
                        self.nodes.remove(record.queue(direction), token);
                        self.nodes.push(record.queue(direction), token, Place::Waiting);
                    }
                }
                Attempt::Over(outcome) => {
                    let is_connect = raw.kind == OpKind::Connect;
                    let next = ops.complete(token, outcome);
                    if is_connect && next == Next::Continue {
                        // It goes on with another address, on another socket.
                        self.nodes.remove(record.queue(direction), token);
                        // SAFETY: S3: the table says that the operation is ours.
                        return unsafe { self.start_connect(token, op, ops) };
                    }
                    if next == Next::Done {
                        self.nodes.remove(record.queue(direction), token);
                        if record.queue(direction).is_empty() {
                            return;
                        }
                        continue;
                    }
                    moved += usize::try_from(outcome.result).unwrap_or(0);
                    if moved >= ATTEMPT_BYTES_MAX {
                        break;
                    }
                }
            }
        }
        self.run_later(fd, direction, ops);
    }

    /// Has a queue gone through in the next poll, if it may be ready.
    fn run_later(&mut self, fd: RawDescriptor, direction: Direction, ops: &mut Operations) {
        let record = self.descriptors.record(fd);
        if !record.may_be_ready(direction) {
            return self.watch_again(fd, direction, ops);
        }
        if let Some(token) = self.nodes.head(record.queue(direction)) {
            self.nodes.run_later(token);
        }
    }

    /// A try found that the descriptor is not ready: the next edge brings its operations on.
    #[inline]
    fn block(&mut self, fd: RawDescriptor, direction: Direction, interest: Interest, ops: &mut Operations) {
        let record = self.descriptors.record(fd);
        let wanted = if S::ONE_SHOT { Some(interest) } else { record.missing(interest) };
        if let Some(wanted) = wanted {
            let (generation, is_known) = (record.generation(), record.is_known());
            if let Err(errno) = self.selector.register(fd, generation, wanted, is_known) {
                return self.fail_queue(fd, direction, errno, ops);
            }
            record.set_watched(wanted);
        }
        record.set_not_ready(direction);
    }

    /// Registers what the queue of one direction waits for, if an edge has taken the registration with it.
    #[inline]
    fn watch_again(&mut self, fd: RawDescriptor, direction: Direction, ops: &mut Operations) {
        if S::ONE_SHOT {
            self.register_again(fd, direction, ops);
        }
    }

    fn register_again(&mut self, fd: RawDescriptor, direction: Direction, ops: &mut Operations) {
        let record = self.descriptors.record(fd);
        let Some(first) = record.waiting(direction).and_then(|queue| self.nodes.head(queue)) else { return };
        // Those that move bytes wait for the same; poll events are each operation's own.
        let others =
            |token: &Token| if direction == Direction::Neither { self.nodes.next(*token) } else { None };
        let interest = std::iter::successors(Some(first), others)
            .filter_map(|token| ops.op(token))
            // SAFETY: S3: the operations are ours, and nobody writes to them now.
            .map(|op| Interest::of(unsafe { &*op }, S::ONE_SHOT))
            .fold(Interest::default(), Interest::and);
        if let Err(errno) = self.selector.register(fd, record.generation(), interest, true) {
            self.fail_queue(fd, direction, errno, ops);
        }
    }

    /// An operation has left its queue undone, so there may be a registration that is for none.
    fn unwatch(&mut self, fd: RawDescriptor, direction: Direction, ops: &mut Operations) {
        if S::ONE_SHOT && self.descriptors.record(fd).queue(direction).is_empty() {
            self.selector.deregister(fd);
            Direction::ALL.into_iter().for_each(|other| self.watch_again(fd, other, ops));
        }
    }

    /// Nobody can wait here.
    #[cold]
    fn fail_queue(&mut self, fd: RawDescriptor, direction: Direction, errno: i32, ops: &mut Operations) {
        while let Some(token) = self.nodes.head(self.descriptors.record(fd).queue(direction)) {
            self.nodes.remove(self.descriptors.record(fd).queue(direction), token);
            let Some(op) = ops.op(token) else { continue };
            // SAFETY: S3: nobody else looks at it now.
            let kind = unsafe { (*op).kind };
            if errno == errno::EPERM && kind.is_file_transfer() {
                self.descriptors.record(fd).set_regular();
                // SAFETY: S3: the operation is ours.
                unsafe { self.start_file(token, op, ops) };
            } else {
                // SAFETY: S3: as above. What no selector has room for, it has none for on another socket.
                forget_addresses(unsafe { &mut *op });
                // io_uring's word for a file that has no events.
                let refusal = if errno == errno::EPERM { errno::EINVAL } else { errno };
                report(token, -refusal, ops);
            }
        }
    }

    /// Reports an outcome; goes on with the operation if that was only a part.
    fn conclude(&mut self, token: Token, outcome: Outcome, ops: &mut Operations) {
        if ops.complete(token, outcome) == Next::Done {
            return;
        }
        if let Some(op) = ops.op(token) {
            // SAFETY: S3: the table says that the operation is ours.
            unsafe { self.submit(token, op, ops) };
        }
    }

    // ---- jobs

    /// # Safety
    /// As [`Readiness::submit`].
    #[inline(never)]
    unsafe fn start_job(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations) {
        loop {
            // SAFETY: S3: nobody else has it now.
            let raw = unsafe { &*op };
            // SAFETY: S6: the caller's promise.
            let Started::Done(result) = (unsafe { self.jobs.start(token, raw, &mut self.nodes, ops) }) else {
                return;
            };
            // Without a pool all its parts are done here.
            if ops.complete(token, Outcome::new(file::after_part(raw, result))) == Next::Done {
                return self.leave_position(token, ops);
            }
        }
    }

    fn start_waiting_jobs(&mut self, ops: &mut Operations) {
        if std::mem::replace(&mut self.starting_jobs, true) {
            // A job that was done in place has ended, and another one's turn has come: it is the next below.
            return;
        }
        while let Some(token) = self.jobs.next_waiting(&mut self.nodes) {
            if let Some(op) = ops.op(token) {
                // SAFETY: S3: the operation is ours.
                unsafe { self.start_job(token, op, ops) };
            }
        }
        self.starting_jobs = false;
    }

    /// An operation is over. If it was at the position of a file, the next one's turn has come: it is for a job, so
    /// that however many wait, the loop goes on.
    #[inline]
    fn leave_position(&mut self, token: Token, ops: &mut Operations) {
        if let Some(next) = self.positions.leave(token) {
            self.jobs.wait(next, &mut self.nodes);
            self.start_waiting_jobs(ops);
        }
    }

    fn conclude_job(&mut self, token: Token, mut outcome: Outcome, ops: &mut Operations) {
        let Some(op) = ops.op(token) else { return };
        // SAFETY: S3: nobody else looks at it now.
        outcome.result = file::after_part(unsafe { &*op }, outcome.result);
        if ops.complete(token, outcome) == Next::Done {
            return self.leave_position(token, ops);
        }
        // SAFETY: S3: the table says that the operation is ours.
        unsafe { self.submit(token, op, ops) };
    }

    #[inline]
    fn take_edge(&mut self, event: Event, ops: &mut Operations) {
        let Some(record) = self.descriptors.at_edge(event.fd, event.generation) else { return };
        record.note_edge(event.edge);
        let [reads, writes, polls] = Direction::ALL.map(|direction| !record.queue(direction).is_empty());
        if reads {
            self.run_queue(event.fd, Direction::In, ops);
        }
        if writes {
            self.run_queue(event.fd, Direction::Out, ops);
        }
        if polls {
            self.run_polls(event.fd, ops);
        }
        if S::ONE_SHOT {
            Direction::ALL.into_iter().for_each(|direction| self.watch_again(event.fd, direction, ops));
        }
    }

    /// Goes on with what is on the list now; what comes back to it is for the next poll.
    fn run_runnable(&mut self, ops: &mut Operations) {
        for _ in 0..self.nodes.runnable_len() {
            let Some(token) = self.nodes.pop_runnable() else { return };
            if let Some(op) = ops.op(token) {
                // SAFETY: S3: the operation is ours, and nobody writes to it now.
                let RawOp { fd, kind, .. } = *unsafe { &*op };
                self.run_queue(fd, kind.facts().direction, ops);
            }
        }
    }
}

impl<S: Selector> Listed for Readiness<S> {
    fn new(options: &Options, capacity: usize, waker: &Waker) -> io::Result<Readiness<S>> {
        Ok(Readiness {
            selector: S::new(options.baseline, capacity, waker)?,
            descriptors: Descriptors::new()?,
            nodes: Nodes::new(capacity)?,
            jobs: Jobs::new(options.pool.clone())?,
            positions: Positions::new(capacity)?,
            starting_jobs: false,
            capacity,
            skips: 0,
            has_old_edges: false,
        })
    }

    /// What waits for readiness ends at once.
    fn holder(&self) -> Holder {
        Holder::ThreadPool
    }

    fn leave_to_parent(&mut self) {
        self.selector.leave_to_parent();
    }

    fn release_pool(&mut self, limit: Duration) {
        self.jobs.release_pool(limit);
    }
}

// SAFETY: S3: an operation is reported when it has left its queue, or its job has come back or was withdrawn.
unsafe impl<S: Selector> Driver for Readiness<S> {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// Every multi-result operation gives one result, and goes on when the loop has delivered it; but a
    /// listener gives more.
    fn completions_max(&self) -> usize {
        self.capacity + ACCEPT_BURST_MAX
    }

    // ---- in

    /// # Safety
    /// As the contract has it.
    #[inline]
    unsafe fn submit(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations) {
        // SAFETY: S3: the contract; here and below.
        let kind = unsafe { (*op).kind };
        // Every way is a call with the same arguments, so this is a jump and nothing else.
        match kind {
            OpKind::Recv => {
                // SAFETY: S3: as above.
                unsafe { self.start_recv(token, op, ops) };
            }
            OpKind::Send => {
                // SAFETY: S3: as above.
                unsafe { self.start_send(token, op, ops) };
            }
            OpKind::RecvPooled
            | OpKind::RecvVectored
            | OpKind::SendZeroCopy
            | OpKind::SendVectored
            | OpKind::Accept => {
                // SAFETY: S3: as above.
                unsafe { self.start(token, op, ops) };
            }
            OpKind::Connect => {
                // SAFETY: S3: as above.
                unsafe { self.start_connect(token, op, ops) };
            }
            OpKind::Poll => {
                // SAFETY: S3: as above.
                unsafe { self.start_poll(token, op, ops) };
            }
            OpKind::Read | OpKind::ReadVectored | OpKind::Write | OpKind::WriteVectored => {
                // SAFETY: S3: as above.
                unsafe { self.start_file(token, op, ops) };
            }
            OpKind::Close => {
                // SAFETY: S3: as above.
                unsafe { self.start_close(token, op, ops) };
            }
            OpKind::Open | OpKind::SyncAll | OpKind::SyncData | OpKind::Metadata => {
                // SAFETY: S3: as above.
                unsafe { self.start_job(token, op, ops) };
            }
            OpKind::Shutdown => {
                // SAFETY: S3: as above.
                unsafe { self.start_shutdown(token, op, ops) };
            }
            OpKind::Nop | OpKind::Timer | OpKind::Notify | OpKind::Offload => {
                // SAFETY: S3: as above.
                unsafe { self.start_nothing(token, op, ops) };
            }
        }
    }

    // ---- out

    fn cancel(&mut self, token: Token, ops: &mut Operations) -> bool {
        let Some(op) = ops.op(token) else { return false };
        // SAFETY: S3: the operation is ours, and nobody writes to it now.
        let RawOp { fd, kind, flags, .. } = *unsafe { &*op };
        let direction = kind.facts().direction;
        match self.nodes.place(token) {
            Place::Waiting => {
                self.nodes.remove(self.descriptors.record(fd).queue(direction), token);
                report(token, -errno::ECANCELED, ops);
                // Whoever is first now has not been tried.
                self.run_later(fd, direction, ops);
                self.unwatch(fd, direction, ops);
                true
            }
            Place::WaitingForTurn => {
                self.positions.withdraw(token);
                let _ = ops.complete(token, Outcome::untried(-errno::ECANCELED));
                true
            }
            Place::WaitingForJob | Place::InJob => match self.jobs.withdraw(token, kind, &mut self.nodes) {
                Some(outcome) => {
                    self.conclude_job(token, outcome, ops);
                    true
                }
                // A worker does one part of an exact one; there are no more parts.
                None => flags & RawOp::EXACT != 0,
            },
            Place::Nowhere => {
                debug_assert!(false, "what the backend has is somewhere");
                false
            }
        }
    }

    fn poll(&mut self, wait: Wait, ops: &mut Operations) -> io::Result<()> {
        let at_hand = ops.callbacks_len() + self.nodes.runnable_len();
        let busy = at_hand > 0;
        self.has_old_edges = true;
        if busy && at_hand <= AT_HAND_MAX && wait != Wait::Peek && self.skips < SKIPS_MAX {
            self.skips += 1;
        } else {
            self.skips = 0;
            let count = self.selector.wait(if busy { Wait::Skip } else { wait })?;
            self.has_old_edges = count == S::EVENTS_MAX;
            for index in 0..count {
                if let Some(event) = self.selector.event(index) {
                    self.take_edge(event, ops);
                }
            }
        }
        self.run_runnable(ops);
        Ok(())
    }

    /// Everything was begun when it was submitted.
    fn flush(&mut self, _ops: &mut Operations) -> io::Result<()> {
        Ok(())
    }

    /// What is to be gone on with does not show by itself.
    fn has_unsubmitted(&mut self) -> bool {
        self.nodes.runnable_len() > 0 || self.selector.is_behind()
    }

    /// A program polls the selector's descriptor, which new edges make readable by themselves.
    fn show(&self, busy: bool, _ops: &Operations) -> bool {
        busy || self.has_old_edges || self.nodes.runnable_len() > 0 || self.selector.show()
    }

    /// Reports the jobs that have come back, and starts those that waited for one.
    fn take_jobs(&mut self, ops: &mut Operations) {
        while let Some(header) = ops.pop_job() {
            // SAFETY: S14: only jobs of ours come back this way.
            let returned = unsafe { self.jobs.take(header, &mut self.nodes) };
            let Some((token, outcome)) = returned else { continue };
            if !outcome.is_untried() {
                self.conclude_job(token, outcome, ops);
            } else if let Some(op) = ops.op(token) {
                // The pool discards its tasks and takes no more, so the call is made here.
                // SAFETY: S3: the operation is ours.
                unsafe { self.start_job(token, op, ops) };
            }
        }
        self.start_waiting_jobs(ops);
    }
}

#[cfg(shows_descriptor)]
impl<S: Selector> AsFd for Readiness<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.selector.as_fd()
    }
}

/// Whether an operation stays in its queue when it has a result.
fn is_multi_accept(op: &RawOp) -> bool {
    op.flags & RawOp::MULTI != 0 && op.kind == OpKind::Accept
}

/// Reports a result that cannot be a part.
fn report(token: Token, result: i32, ops: &mut Operations) {
    let next = ops.complete(token, Outcome::new(result));
    debug_assert_eq!(next, Next::Done);
}
