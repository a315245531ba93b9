//! The table of operations in flight, and the states that an operation goes through.
//!
//! An operation is in exactly one of these places, and only this module moves it:
//!
//! ```text
//!             ┌───────────► armed ────────────┐        timers, notifier waits
//! submit ─────┤                               ├──► ready list ──► its callback, gone
//!             ├──► backend ◄──► awaiting a ───┤        everything that the kernel does
//!             │       ▲ │       buffer        │
//!             │       │ └─ item ─► pending ───┘        results of multi-result operations
//!             │       └─ rearm ──────┘
//!             └── refused ──────────────────► ready list
//! ```
//!
//! The table is a slab that never grows after the loop was built. The kernel and the user know an operation
//! by its [`Token`] (index and sequence number), never by its address: a completion that comes late or twice
//! finds nothing.

#![allow(unsafe_code)]

mod buffer_waiters;
mod deadlines;
mod entry;
mod items;
mod ready_list;

use std::collections::VecDeque;
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;

use crate::buf_pool::Returns;
use crate::completion::Header;
use crate::descriptor::RawDescriptor;
use crate::error::code;
use crate::fork::Words;
use crate::inbox::Inbox;
use crate::io_vecs;
use crate::jobs::{self, Jobs, NotSent, OwnerFn, OwnerWork};
use crate::memory;
use crate::notifier;
use crate::op::addresses;
use crate::op::{Direction, NO_DEADLINE, OpKind, Outcome, PART_BYTES_MAX, RawOp};
use crate::sync::Arc;
use crate::sys::errno;
use crate::thread_pool::ThreadPool;
use crate::timer::clock::Clock;
use crate::timer::wheel::{NIL, Place, Wheel};
use crate::token::{OpId, Token};
use buffer_waiters::BufferWaiters;
use entry::flag;
pub(crate) use entry::{Entry, EntryFlags, State};
pub(crate) use items::{AfterItem, Delivery, Item};
use ready_list::ReadyList;

/// One operation in flight, as [`Loop::in_flight`](crate::Loop::in_flight) lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InFlightOp {
    /// Its name, to cancel it with.
    pub id: OpId,
    /// What it does.
    pub kind: OpKind,
    /// The descriptor that it is done on, if there is one.
    pub fd: Option<RawDescriptor>,
    /// How long it has been in flight, to the precision of one step of the loop.
    pub age: Duration,
}

/// What a backend has to do after it has reported an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Nothing: the outcome was taken.
    Done,
    /// The operation is not finished: take it again.
    Continue,
    /// Nothing has happened: the backend wanted to see the outcomes of this operation first (`look_first`), and
    /// reports this one by `complete_seen`.
    Look,
}

/// What the loop has to do to cancel an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancel {
    /// Nothing: it is over, or was cancelled before, or cannot be stopped any more.
    Late,
    /// Nothing: it will end as cancelled.
    Noted,
    /// Ask the backend.
    AskBackend,
}

/// Every operation that was submitted and whose callback has not run.
#[derive(Debug)]
pub(crate) struct InFlight {
    table: Slab<Entry>,
    sequence: u32,
    loop_id: u32,
    /// What other threads reach.
    pub(crate) inbox: Arc<Inbox>,
    /// Those of the loop's home, which is in there.
    words: NonNull<Words>,
    wheel: Wheel,
    pub(crate) clock: Clock,
    ready: ReadyList,
    items: VecDeque<Item>,
    items_max: usize,
    buffer_waiters: BufferWaiters,
    pub(crate) returns: Rc<Returns>,
    /// Headers of the backend that have come back from a thread pool.
    jobs: ReadyList,
    /// Offloaded work on its way.
    offloads: Jobs<OwnerWork>,
    in_backend: usize,
    background: usize,
    /// Above every index that the table has ever used.
    high_water: usize,
    /// The loop runs: it can not be run in itself.
    pub(crate) in_step: bool,
    exact_arms: u32,
    /// The loop is being dropped.
    abandoned: bool,
}

impl InFlight {
    pub(crate) fn new(
        capacity: usize,
        items_max: usize,
        loop_id: u32,
        inbox: Arc<Inbox>,
        clock: Clock,
    ) -> io::Result<InFlight> {
        let words = NonNull::from(inbox.home().words());
        let returns = Returns::new(inbox.waker().clone());
        Ok(InFlight {
            inbox,
            words,
            table: memory::slab(capacity)?,
            sequence: 0,
            loop_id,
            wheel: Wheel::new(clock.last_ns()),
            clock,
            ready: ReadyList::EMPTY,
            items: memory::queue(items_max)?,
            items_max,
            buffer_waiters: BufferWaiters::new(capacity)?,
            returns: Rc::new(returns),
            jobs: ReadyList::EMPTY,
            offloads: Jobs::new(capacity as u32)?,
            in_backend: 0,
            background: 0,
            high_water: 0,
            in_step: false,
            exact_arms: 0,
            abandoned: false,
        })
    }

    // ---- asking

    /// Operations whose callback has not run.
    pub(crate) fn len(&self) -> usize {
        self.table.len() + self.ready.len
    }

    /// Operations that keep the loop running.
    pub(crate) fn active(&self) -> usize {
        self.len().saturating_sub(self.background)
    }

    pub(crate) fn in_backend(&self) -> usize {
        self.in_backend
    }

    pub(crate) fn has_ready(&self) -> bool {
        self.ready.len > 0 || !self.items.is_empty()
    }

    pub(crate) fn ready_len(&self) -> usize {
        self.ready.len
    }

    pub(crate) fn items_len(&self) -> usize {
        self.items.len()
    }

    /// No more results of multi-result operations can be taken in this step: leave them in the kernel.
    pub(crate) fn items_full(&self) -> bool {
        self.items_room() == 0
    }

    /// How many more results of multi-result operations can be taken in this step.
    pub(crate) fn items_room(&self) -> usize {
        self.items_max.saturating_sub(self.items.len())
    }

    pub(crate) fn loop_id(&self) -> u32 {
        self.loop_id
    }

    pub(crate) fn op_id(&self, token: Token) -> OpId {
        OpId { token, loop_id: self.loop_id }
    }

    /// The token, if the id is of this loop.
    pub(crate) fn token(&self, id: OpId) -> Option<Token> {
        (id.loop_id == self.loop_id).then_some(id.token)
    }

    #[inline]
    fn get(&mut self, token: Token) -> Option<&mut Entry> {
        self.table.get_mut(token.index()).filter(|entry| entry.sequence == token.sequence())
    }

    /// The words of the loop's home.
    pub(crate) fn words(&self) -> NonNull<Words> {
        self.words
    }

    /// The description of an operation that the backend has.
    pub(crate) fn op(&mut self, token: Token) -> Option<*mut RawOp> {
        self.get(token).filter(|entry| entry.state == State::Backend).map(|entry| entry.op())
    }

    /// What an operation does that the backend has.
    pub(crate) fn op_kind(&mut self, token: Token) -> Option<OpKind> {
        self.get(token).filter(|entry| entry.state == State::Backend).map(|entry| entry.op_kind())
    }

    /// Whether the operation is in flight, in whichever state.
    #[cfg(feature = "sim")]
    pub(crate) fn is_known(&mut self, token: Token) -> bool {
        self.get(token).is_some()
    }

    /// Whether the backend has this operation and the loop wants it ended.
    pub(crate) fn is_ending(&mut self, token: Token) -> bool {
        self.get(token).is_some_and(|entry| entry.flags & flag::ENDING != 0)
    }

    /// Whether the loop is being dropped.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = InFlightOp> + Clone + '_ {
        let now_ns = self.clock.now_ns();
        self.table.iter().map(move |(index, entry)| InFlightOp {
            id: self.op_id(Token::new(index as u32, entry.sequence)),
            kind: entry.op_kind(),
            fd: Some(entry.op_fd()).filter(|&fd| fd >= 0),
            age: Duration::from_nanos(now_ns.saturating_sub(entry.submitted_ns)),
        })
    }

    /// Looks at the polls that the backend has.
    pub(crate) fn each_poll(&self, look: impl Fn(&RawOp)) {
        for (_, entry) in &self.table {
            if entry.state == State::Backend && entry.op_kind() == OpKind::Poll {
                // SAFETY: S3: the operation is in flight, and no kernel writes to the description of a poll.
                look(unsafe { &*entry.op() });
            }
        }
    }

    // ---- in

    /// Enters an operation, or says that the table is full.
    ///
    /// # Safety
    /// `header` belongs to the loop from here on (S2), and describes the operation.
    #[inline(always)]
    pub(crate) unsafe fn insert(
        &mut self,
        header: NonNull<Header>,
        flags: EntryFlags,
        state: State,
    ) -> Option<Token> {
        // SAFETY: S16: the home of the loop lives as long as the queue that it is in.
        if self.table.len() >= unsafe { self.words.as_ref() }.room() {
            return None;
        }
        if flags.0 & flag::BACKGROUND != 0 {
            self.background += 1;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let submitted_ns = self.clock.last_ns();
        let index = self.table.insert(Entry {
            header,
            deadline_ns: NO_DEADLINE,
            submitted_ns,
            sequence,
            next: NIL,
            prev: NIL,
            place: Place::NONE,
            state,
            flags: flags.0,
        });
        if index >= self.high_water {
            self.high_water = index + 1;
        }
        self.in_backend += usize::from(state == State::Backend);
        Some(Token::new(index as u32, sequence))
    }

    /// Puts an operation on the ready list that never entered the table.
    ///
    /// # Safety
    /// `header` belongs to the loop and is on no list (S2).
    pub(crate) unsafe fn push_refused(&mut self, header: NonNull<Header>, outcome: Outcome) {
        // SAFETY: S2: the header is ours.
        let op_flags = unsafe { (*header.as_ptr()).op.flags };
        self.background += usize::from(op_flags & RawOp::BACKGROUND != 0);
        // SAFETY: S2: the caller's promise.
        unsafe { self.push_ready(header, outcome) };
    }

    /// Puts an operation on the ready list that is not in the table.
    ///
    /// # Safety
    /// `header` belongs to the loop and is on no list (S2).
    #[inline]
    unsafe fn push_ready(&mut self, header: NonNull<Header>, outcome: Outcome) {
        // SAFETY: S2: the header is ours.
        unsafe { (*header.as_ptr()).outcome = outcome };
        // SAFETY: S2: and on no list.
        unsafe { self.ready.push(header) };
    }

    /// Takes what other threads posted.
    ///
    /// # Safety
    /// `posted` is a list of headers, linked by `next`, that belongs to the loop from here on (S2).
    pub(crate) unsafe fn push_posted(&mut self, mut posted: *mut Header) {
        while let Some(header) = NonNull::new(posted) {
            // SAFETY: S2: it is on the list that the caller gave us.
            posted = unsafe { (*header.as_ptr()).next };
            // SAFETY: S2: a header from the queue is the loop's.
            let op = unsafe { &(*header.as_ptr()).op };
            if op.kind == OpKind::Notify {
                // SAFETY: S2: it is off that list now.
                unsafe { self.accept_notifier(header) };
            } else if op.is_job() {
                // SAFETY: S2: as above.
                unsafe { self.jobs.push(header) };
            } else if op.kind == OpKind::Offload {
                // SAFETY: S2: as above.
                unsafe { self.accept_work(header) };
            } else {
                // SAFETY: S2: as above.
                unsafe { self.ready.push(header) };
            }
        }
    }

    /// The next header of the backend's own that has come back from a thread pool.
    pub(crate) fn pop_job(&mut self) -> Option<NonNull<Header>> {
        self.jobs.pop()
    }

    /// Sends an operation of the table to a thread pool; without one the work is done here.
    ///
    /// # Safety
    /// `header` is that of the operation, and `function` may work on its state on any thread (S14).
    pub(crate) unsafe fn offload(
        &mut self,
        token: Token,
        header: NonNull<Header>,
        function: OwnerFn,
        pool: Option<&ThreadPool>,
    ) {
        let write = |work: *mut OwnerWork| {
            // SAFETY: S14: the place is for the work.
            unsafe { work.write(OwnerWork { owner: header, function }) };
        };
        // SAFETY: S14: the caller's promise. The owner is given back when the job is back or withdrawn.
        let refusal = match unsafe { self.offloads.send(token, write, &self.inbox, pool) } {
            // SAFETY: S2: the header is the loop's; the worker has the state alone.
            Ok(job) => return unsafe { (*header.as_ptr()).op.as_work_mut().job = job },
            Err(NotSent::NoneFree) => code::TABLE_FULL,
            Err(NotSent::Refused(error)) => jobs::refusal(&error),
        };
        let _ = self.complete(token, Outcome::untried(-refusal));
    }

    /// Takes an operation back from its thread pool. `false`: the work has begun, or is done.
    pub(crate) fn withdraw(&mut self, token: Token) -> bool {
        let Some(op) = self.op(token) else { return false };
        // SAFETY: S3: the worker has the state alone.
        let op = unsafe { &*op };
        debug_assert_eq!(op.kind, OpKind::Offload);
        // SAFETY: S14: it was sent when the operation entered the table, and is not back.
        let withdrawn = unsafe { self.offloads.withdraw(op.as_work().job) };
        if withdrawn {
            let _ = self.complete(token, Outcome::untried(-errno::ECANCELED));
        }
        withdrawn
    }

    /// Work is back from a thread pool.
    ///
    /// # Safety
    /// `header` is that of a job that was sent by [`InFlight::offload`], and on no list (S2).
    unsafe fn accept_work(&mut self, header: NonNull<Header>) {
        // SAFETY: S14: it has come back.
        let returned = unsafe { self.offloads.take(header) };
        // If it was withdrawn, its name names nothing any more.
        let next = self.complete(returned.token, returned.outcome);
        debug_assert_eq!(next, Next::Done);
    }

    /// Whether the loop itself has this operation, and has not completed it.
    pub(crate) fn is_armed(&mut self, token: Token) -> bool {
        self.get(token).is_some_and(|entry| entry.state == State::Armed)
    }

    // ---- out

    /// Takes an operation out of the table.
    #[inline(always)]
    fn retire(&mut self, token: Token) -> NonNull<Header> {
        let index = token.index();
        if self.table[index].place != Place::NONE {
            self.wheel.remove(&mut self.table, index as u32);
        }
        let entry = self.table.remove(index);
        self.in_backend -= usize::from(entry.state == State::Backend);
        entry.header
    }

    /// Ends an operation with a result of the loop: out of the table, and on the ready list.
    fn end_with(&mut self, token: Token, result: i32) {
        let header = self.retire(token);
        // SAFETY: S2: it left the table, so it is on no list.
        unsafe { self.push_ready(header, Outcome::new(result)) };
    }

    /// A backend says how an operation went. Late and repeated news are ignored.
    #[inline(always)]
    pub(crate) fn complete(&mut self, token: Token, outcome: Outcome) -> Next {
        let Some(entry) = self.table.get(token.index()) else { return Next::Done };
        if entry.sequence != token.sequence() || entry.state != State::Backend {
            return Next::Done;
        }
        let has_deadline = entry.place != Place::NONE;
        let ends_it = entry.flags & flag::ANY_RESULT == 0 || entry.is_whole(outcome);
        if has_deadline || !ends_it || outcome.result < 0 {
            if entry.flags & flag::LOOK != 0 {
                return Next::Look;
            }
            return self.complete_special(token, outcome);
        }
        self.in_backend -= 1;
        let header = self.table.remove(token.index()).header;
        // SAFETY: S2: it left the table, so it is on no list.
        unsafe { self.push_ready(header, outcome) };
        Next::Done
    }

    /// The backend wants to see every outcome of an operation that it has before it counts.
    pub(crate) fn look_first(&mut self, token: Token) {
        if let Some(entry) = self.get(token) {
            debug_assert_eq!(entry.state, State::Backend);
            entry.flags |= flag::LOOK;
        }
    }

    /// The transfer is of a file on a disk and goes in parts: one that is full is not its end.
    pub(crate) fn go_by_parts(&mut self, token: Token) {
        if let Some(entry) = self.get(token) {
            debug_assert_eq!(entry.state, State::Backend);
            entry.flags |= flag::PARTS;
        }
    }

    /// As [`InFlight::complete`], of an outcome that the backend has seen.
    pub(crate) fn complete_seen(&mut self, token: Token, outcome: Outcome) -> Next {
        match self.get(token) {
            Some(entry) if entry.state == State::Backend => self.complete_special(token, outcome),
            _ => Next::Done,
        }
    }

    /// As [`InFlight::complete`], for all that is not so simple.
    #[inline(never)]
    fn complete_special(&mut self, token: Token, outcome: Outcome) -> Next {
        let outcome = match self.classify_outcome(token, outcome) {
            Ok(outcome) => outcome,
            Err(next) => return next,
        };
        let header = self.retire(token);
        // SAFETY: S2: it left the table, so it is on no list.
        unsafe { self.push_ready(header, outcome) };
        Next::Done
    }

    /// The outcome that ends the operation, or that the operation goes on.
    fn classify_outcome(&mut self, token: Token, mut outcome: Outcome) -> Result<Outcome, Next> {
        let entry = &mut self.table[token.index()];
        let ending = entry.flags & flag::ENDING;
        // A close that was interrupted has closed: close(2).
        if outcome.result == -errno::EINTR && entry.op_kind() != OpKind::Close {
            if ending == 0 {
                return Err(Next::Continue);
            }
            outcome.result = -errno::ECANCELED;
        }
        if outcome.result == -errno::ECANCELED {
            outcome.result = match ending {
                // The program has not cancelled it: whatever the kernel means, it must not look like that.
                // Work that a pool discards is different: the program has told the pool to do so.
                0 if entry.op_kind() != OpKind::Offload => -errno::EIO,
                _ if ending & flag::TIMED_OUT != 0 => -code::DEADLINE,
                _ => -errno::ECANCELED,
            };
        }
        if entry.flags & (flag::COMPOUND | flag::EXACT | flag::PARTS) == 0 {
            return Ok(outcome);
        }
        if entry.flags & (flag::EXACT | flag::PARTS) == flag::PARTS {
            // SAFETY: S3: the operation is off the kernel, so its description is ours alone.
            return classify_part(unsafe { &mut *entry.op() }, outcome, ending != 0);
        }
        let op = entry.op();
        // SAFETY: S3: the backend gave this outcome, so it is not writing to the description.
        let flags = unsafe { (*op).flags };
        if flags & RawOp::MULTI != 0 {
            let last = !outcome.has_more();
            if last {
                entry.state = State::Pending;
                self.in_backend -= 1;
            }
            self.items.push_back(Item { token, outcome, last });
            return Err(Next::Done);
        }
        if entry.wants_buffer(outcome) {
            if ending == 0 {
                self.in_backend -= 1;
                self.await_buffer(token);
                return Err(Next::Done);
            }
            outcome.result = if ending == flag::TIMED_OUT { -code::DEADLINE } else { -errno::ECANCELED };
            return Ok(outcome);
        }
        if outcome.result < 0 && ending == 0 && entry.op_kind() == OpKind::Connect {
            // SAFETY: S3: the operation is off the kernel, so its description is ours alone.
            let has_next = addresses::next_address(unsafe { &mut *op });
            return if has_next { Err(Next::Continue) } else { Ok(outcome) };
        }
        if flags & RawOp::EXACT == 0 || outcome.result < 0 {
            return Ok(outcome);
        }
        // SAFETY: S3: the operation is off the kernel, so its description is ours alone.
        let op = unsafe { &mut *op };
        if outcome.result == 0 && op.as_progress().len > 0 {
            let reads = op.kind.facts().direction == Direction::In;
            outcome.result = if reads { -code::UNEXPECTED_EOF } else { -code::WRITE_ZERO };
            return Ok(outcome);
        }
        io_vecs::advance(op, outcome.result as usize);
        outcome.result = 0;
        match ending {
            _ if op.as_progress().len == 0 => Ok(outcome),
            0 => Err(Next::Continue),
            flag::TIMED_OUT => Ok(outcome.with_result(-code::DEADLINE)),
            _ => Ok(outcome.with_result(-errno::ECANCELED)),
        }
    }

    /// The next operation whose callback is to run.
    pub(crate) fn pop_ready(&mut self) -> Option<NonNull<Header>> {
        let header = self.ready.pop()?;
        // SAFETY: S2: it was on the ready list, so it is ours.
        let flags = unsafe { (*header.as_ptr()).op.flags };
        self.background -= usize::from(flags & RawOp::BACKGROUND != 0);
        Some(header)
    }

    // ---- cancelling

    /// Notes that an operation shall end.
    pub(crate) fn cancel(&mut self, token: Token) -> Cancel {
        let Some(entry) = self.get(token) else { return Cancel::Late };
        if entry.flags & flag::ENDING != 0 && entry.state != State::Armed {
            return Cancel::Late;
        }
        match entry.state {
            State::Armed => {
                let op = entry.op_copy();
                if op.kind == OpKind::Notify && !notifier::withdraw(&op) {
                    return Cancel::Late;
                }
                self.end_with(token, -errno::ECANCELED);
                Cancel::Noted
            }
            State::AwaitingBuffer => {
                self.end_buffer_wait(token, -errno::ECANCELED);
                Cancel::Noted
            }
            State::Pending => {
                entry.flags |= flag::CANCEL;
                Cancel::Noted
            }
            State::Backend => {
                entry.flags |= flag::CANCEL;
                Cancel::AskBackend
            }
        }
    }

    /// A cancel has changed nothing: the operation can be reset, and ends as if there had been none.
    pub(crate) fn forget_cancel(&mut self, token: Token) {
        if let Some(entry) = self.get(token) {
            entry.flags &= !flag::CANCEL;
        }
    }

    /// The operations that can be cancelled and are wanted, one by one.
    pub(crate) fn next_wanted(
        &self,
        wanted: impl Fn(OpKind, RawDescriptor) -> bool,
        cursor: &mut usize,
    ) -> Option<Token> {
        while *cursor < self.high_water {
            let index = std::mem::replace(cursor, *cursor + 1);
            let Some(entry) = self.table.get(index) else { continue };
            let kind = entry.op_kind();
            if kind != OpKind::Close && wanted(kind, entry.op_fd()) {
                return Some(Token::new(index as u32, entry.sequence));
            }
        }
        None
    }

    // ---- notifiers and pools

    /// Registers the wait of an armed entry with its notifier.
    pub(crate) fn start_wait(&mut self, token: Token, op: &RawOp) {
        if !notifier::wait(op, token, &self.inbox) {
            self.end_with(token, -code::ALREADY_WAITING);
        }
    }

    /// The header of a notifier has come out of the queue.
    ///
    /// # Safety
    /// It is on no list (S2).
    pub(crate) unsafe fn accept_notifier(&mut self, header: NonNull<Header>) {
        if self.items_full() {
            // SAFETY: S2: the caller's promise. It comes back in the next step.
            return unsafe { self.ready.push(header) };
        }
        // SAFETY: S11: it came from the queue and is off every list.
        let token = unsafe { notifier::deliver(header, |token| self.get(token).is_some()) };
        self.notified(token);
    }

    /// A notifier's wait is over.
    pub(crate) fn notified(&mut self, token: Token) {
        let Some(entry) = self.get(token) else { return };
        debug_assert_eq!(entry.state, State::Armed);
        if entry.op_copy().flags & RawOp::MULTI == 0 {
            return self.end_with(token, 0);
        }
        entry.state = State::Pending;
        debug_assert!(!self.items_full(), "the caller has looked");
        self.items.push_back(Item { token, outcome: Outcome::new(0), last: true });
    }

    // ---- the end

    /// Ends what the loop itself can end, when the loop is dropped, and gives the tokens of what the backend
    /// has to cancel, one by one.
    pub(crate) fn next_to_drain(&mut self, cursor: &mut usize) -> Option<Token> {
        self.abandoned = true;
        while *cursor < self.high_water {
            let index = std::mem::replace(cursor, *cursor + 1);
            let Some(entry) = self.table.get_mut(index) else { continue };
            let token = Token::new(index as u32, entry.sequence);
            entry.flags |= flag::CANCEL;
            match entry.state {
                State::Backend => return Some(token),
                State::Armed => {
                    let op = entry.op_copy();
                    if op.kind == OpKind::Notify {
                        notifier::withdraw(&op);
                    }
                    self.end_with(token, -errno::ECANCELED);
                }
                State::AwaitingBuffer => self.end_buffer_wait(token, -errno::ECANCELED),
                // Its last item is in the queue.
                State::Pending => {}
            }
        }
        None
    }
}

/// The outcome of a part of a transfer that need not move all: it ends with a short part, or an error; but what was
/// moved before an error stands, as read(2) and write(2) have it.
fn classify_part(op: &mut RawOp, mut outcome: Outcome, is_ending: bool) -> Result<Outcome, Next> {
    if outcome.result <= 0 {
        outcome.result = if op.done() > 0 { 0 } else { outcome.result };
        return Ok(outcome);
    }
    let moved = outcome.result as usize;
    // SAFETY: S3: the operation is the loop's now.
    let (_, asked) = unsafe { io_vecs::part(op, PART_BYTES_MAX) };
    if is_ending || moved < asked || moved >= op.as_progress().len {
        return Ok(outcome);
    }
    io_vecs::advance(op, moved);
    Err(Next::Continue)
}
