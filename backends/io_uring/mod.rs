//! `io_uring(7)`: submissions go into a ring that is shared with the kernel, completions come out of another,
//! and one system call a step does all the rest.
//!
//! * [`features`]: what this kernel can do.
//! * [`ring`]: the rings and the system call.
//! * [`entry`]: an operation as a submission queue entry.
//! * [`sends`]: sends, and the room that they wait for.
//! * [`buf_ring`]: the buffers that the kernel hands out.
//! * [`substitute`]: calls for what the kernel does not do through the ring.
//! * [`files`]: transfers at the position of a file, which the kernel does not order.
//! * [`shown`]: what a program polls that has the loop inside another one.
//!
//! What does not fit into the submission queue even after it was flushed waits in a backlog, in order, with
//! room for three of every operation of the loop: itself, a cancel of it, and a cancel of its poll. Nothing is
//! ever lost for want of room.

#![allow(unsafe_code)]

mod buf_ring;
mod entry;
mod features;
mod fifo;
mod files;
mod ring;
mod sends;
mod shown;
mod substitute;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use ::io_uring::{opcode, squeue, types};

use super::list::Listed;
use super::positions::Positions;
use super::{Capabilities, Driver, ENTRIES_MAX, IoWorkers, Operations, Options, Wait, Waker};
use crate::buf_pool::{self, Buffers};
use crate::in_flight::{Next, Token};
use crate::memory;
use crate::net::socket;
use crate::op::{OpKind, Outcome, RawOp};
use crate::sys::{self, RawDescriptor, errno};
use buf_ring::{BufRing, group};
use features::Features;
use ring::Ring;
use sends::Progress;
use shown::Shown;

/// User data that names no operation; a token's index is smaller.
const WAKE_UP: u64 = 0x7fff_ffff;
/// Marks the user data of a request to cancel the operation that the rest names.
const CANCEL_BIT: u64 = 1 << 31;
/// Marks the user data of a request that is a part of the operation that the rest names: what it tells is not
/// the operation's outcome as it stands.
const PART_BIT: u64 = 1 << 30;

/// In the flags of a completion queue entry: the upper half is the index of the buffer that was used
/// (`IORING_CQE_F_BUFFER`).
const CQE_BUFFER: u32 = 1 << 0;

/// In the flags of a completion queue entry: more of the same submission come (`IORING_CQE_F_MORE`).
const CQE_MORE: u32 = 1 << 1;

/// In the flags of a completion queue entry: the kernel has let go of a zero-copy buffer
/// (`IORING_CQE_F_NOTIF`).
const CQE_NOTIFICATION: u32 = 1 << 3;

/// [`RawOp::backend_state`] of a long write that is appended: in parts it would mix with what others append. It is
/// for a thread of the kernel's.
const WHOLE: u16 = 4;

pub(crate) struct IoUring {
    ring: Ring,
    features: Features,
    waker: Waker,
    /// User data of operations to submit, of cancels, and of the waker's poll, that found no room.
    backlog: VecDeque<u64>,
    positions: Positions,
    /// Outcomes that are looked at before they count: [`Next::Look`].
    to_look_at: VecDeque<(Token, i32)>,
    shown: Shown,
}

impl IoUring {
    /// Puts the entry of an operation into the submission queue, or into the backlog.
    ///
    /// # Safety
    /// As [`IoUring::submit`].
    #[inline(always)]
    unsafe fn push(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations) {
        // SAFETY: S3: nobody else has it now.
        match unsafe { entry::of_common(op) } {
            // SAFETY: S1: what the entry points to lives until the operation is completed.
            Some(entry) => unsafe { self.push_entry(token, token.bits(), entry) },
            // SAFETY: S3: as above.
            None => unsafe { self.push_uncommon(token, op, ops) },
        }
    }

    /// # Safety
    /// As [`IoUring::submit`].
    #[inline(never)]
    unsafe fn push_uncommon(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations) {
        // SAFETY: S3: nobody else has it now.
        let raw = unsafe { &mut *op };
        match raw.kind {
            OpKind::Poll => self.shown.watch(raw),
            OpKind::Connect => {
                if let Err(errno) = socket::open_for_connect(raw) {
                    let _ = ops.complete(token, Outcome::new(-errno));
                    return;
                }
            }
            OpKind::Close => sys::socket::linger_in_background(raw.fd),
            OpKind::Open if fifo::may_wait(raw) => ops.look_first(token),
            // The kernel would take a thread for it, though it never blocks. What was submitted before comes first.
            OpKind::Shutdown if self.ring.submit().is_ok() && self.ring.unsubmitted() == 0 => {
                let _ =
                    ops.complete(token, Outcome::new(sys::socket::shutdown(raw.fd, raw.as_shutdown().how)));
                return;
            }
            _ => {}
        }
        if raw.kind.is_file_transfer() && raw.done() == 0 {
            files::choose_parts(token, raw, ops);
        }
        let at_position = raw.kind.is_file_transfer() && raw.flags & RawOp::CURSOR != 0;
        if at_position && !self.begin_at_position(token, raw, ops) {
            return;
        }
        let user_data = user_data_of(token, raw);
        // SAFETY: S3: as above.
        let entry = unsafe { entry::of(op, &self.features) };
        // SAFETY: S1: what the entry points to lives until the operation is completed.
        unsafe { self.push_entry(token, user_data, entry) };
    }

    /// # Safety
    /// What the entry points to is valid until its completion (S1).
    #[inline(always)]
    unsafe fn push_entry(&mut self, token: Token, user_data: u64, entry: squeue::Entry) {
        // SAFETY: S1: the caller's promise.
        if !unsafe { self.ring.push(&entry.user_data(user_data)) } {
            self.backlog.push_back(token.bits());
        }
    }

    /// `false`: there is no room.
    fn push_cancel(&mut self, token: Token, ops: &mut Operations) -> bool {
        let Some(op) = ops.op(token) else { return true };
        // SAFETY: S3: nobody writes to these fields now.
        let target = user_data_of(token, unsafe { &*op });
        let entry = opcode::AsyncCancel::new(target).build().user_data(token.bits() | CANCEL_BIT);
        // SAFETY: S1: a cancel points to nothing.
        unsafe { self.ring.push(&entry.flags(self.features.skip_success)) }
    }

    /// Moves what waits for room into the submission queue.
    fn submit_backlog(&mut self, ops: &mut Operations) {
        // As many as there are now: what finds no room is put back.
        for _ in 0..self.backlog.len() {
            // What is being cancelled ends here, as an item if it is a multi-result operation.
            if (ops.items_room() == 0) || !self.ring.make_room() {
                return;
            }
            let Some(user_data) = self.backlog.pop_front() else { return };
            let token = Token::from_bits(user_data & !CANCEL_BIT);
            if user_data == WAKE_UP {
                self.arm_waker();
            } else if user_data & CANCEL_BIT != 0 {
                if !self.push_cancel(token, ops) {
                    return self.backlog.push_front(user_data);
                }
            } else if ops.is_ending(token) {
                self.end_in_backlog(token, ops);
            } else if let Some(op) = ops.op(token) {
                // SAFETY: S3: the table says that the operation is ours.
                unsafe { self.push_again(token, op, ops) };
            }
        }
    }

    /// Puts what has waited for it into the submission queue: the poll of a send that waits for room, or the
    /// entry of the operation itself.
    ///
    /// # Safety
    /// As [`IoUring::submit`].
    unsafe fn push_again(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations) {
        // SAFETY: S3: nobody else has it now.
        let raw = unsafe { &*op };
        if !sends::is_waiting(raw) {
            // SAFETY: S3: as above.
            return unsafe { self.push(token, op, ops) };
        }
        let (user_data, entry) = (user_data_of(token, raw), sends::poll_entry(raw));
        // SAFETY: S1: a poll points to nothing.
        unsafe { self.push_entry(token, user_data, entry) };
    }

    /// Ends an operation that is to be ended and has waited for its next try.
    #[cold]
    fn end_in_backlog(&mut self, token: Token, ops: &mut Operations) {
        let Some(op) = ops.op(token) else { return };
        // SAFETY: S3: the operation is ours, and the kernel is done with its description.
        let op = unsafe { &mut *op };
        let canceled = Outcome::untried(-libc::ECANCELED);
        let outcome = match op.kind {
            // It takes connection after connection.
            OpKind::Accept if op.backend_state != 0 => {
                accept_at_last(token, canceled, &mut self.backlog, ops)
            }
            kind if sends::is_send(kind) => {
                return go_on(token, sends::canceled(op), &mut self.backlog, ops);
            }
            _ => Some(canceled),
        };
        if let Some(outcome) = outcome {
            let _ = ops.complete_seen(token, outcome);
            self.leave_position(token);
        }
    }

    /// Reports every completion that is in the queue, or as many as the loop has room for.
    fn collect(&mut self, ops: &mut Operations) {
        let room = ops.items_room();
        let mut rearm_waker = false;
        for completion in self.ring.completions().take(room) {
            let user_data = completion.user_data();
            let (result, cqe_flags) = (completion.result(), completion.flags());
            if user_data & (CANCEL_BIT | PART_BIT) == 0 {
                let token = Token::from_bits(user_data);
                let (backlog, to_look_at) = (&mut self.backlog, &mut self.to_look_at);
                report(token, result, cqe_flags, backlog, to_look_at, ops);
            } else if user_data == WAKE_UP {
                rearm_waker |= cqe_flags & CQE_MORE == 0;
            } else if user_data & CANCEL_BIT != 0 {
                again_if_not_found(Token::from_bits(user_data & !CANCEL_BIT), result, &mut self.backlog, ops);
            } else {
                let token = Token::from_bits(user_data & !PART_BIT);
                match ops.op_kind(token) {
                    Some(OpKind::Accept) => {
                        let multishot = self.features.multishot_accept;
                        report_accept(token, result, cqe_flags, multishot, &mut self.backlog, ops);
                    }
                    _ => report_part(token, result, cqe_flags, &mut self.backlog, ops),
                }
            }
        }
        if !self.to_look_at.is_empty() {
            self.look_at_outcomes(ops);
        }
        if rearm_waker {
            self.arm_waker();
        }
    }

    /// Lets the eventfd of the waker end waits: one multishot poll (Linux 5.13). It is never read: every
    /// write is an event.
    fn arm_waker(&mut self) {
        let fd = types::Fd(self.waker.as_fd().as_raw_fd());
        let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build().user_data(WAKE_UP);
        // SAFETY: S1: a poll points to nothing; the waker outlives the ring.
        if !unsafe { self.ring.push(&entry) } {
            self.backlog.push_back(WAKE_UP);
        }
    }
}

impl Listed for IoUring {
    const SHOWS_EVENT: bool = true;

    fn new(options: &Options, capacity: usize, waker: &Waker) -> io::Result<IoUring> {
        let (ring, features) = Ring::new(options)?;
        let shown = Shown::new(&ring, waker)?;
        let backlog = memory::queue(capacity.saturating_mul(3).saturating_add(1))?;
        let positions = Positions::new(capacity)?;
        // An operation in flight has one outcome.
        let to_look_at = memory::queue(capacity)?;
        let waker = waker.clone();
        let mut this = IoUring { ring, features, waker, backlog, positions, to_look_at, shown };
        this.arm_waker();
        // Now, not with the first step: other threads may wake a loop that is polled before it ever ran.
        this.ring.submit()?;
        Ok(this)
    }

    /// See [`Ring::leave_to_parent`].
    fn leave_to_parent(&mut self) {
        self.ring.leave_to_parent();
    }
}

// SAFETY: S1: an operation is reported when its completion has come, or before its entry was published.
unsafe impl Driver for IoUring {
    fn capabilities(&self) -> Capabilities {
        let Features { multishot_accept, multishot_recv, buffer_rings, zero_copy_send, .. } = self.features;
        Capabilities {
            multishot_accept,
            multishot_recv,
            buffer_rings,
            zero_copy_send,
            deferred_task_run: self.ring.is_deferred(),
            registered_ring: self.ring.is_registered(),
            no_iowait: self.ring.has_no_iowait(),
            io_workers: self.ring.io_workers(),
            entries: self.ring.entries(),
            ..Capabilities::default()
        }
    }

    fn completions_max(&self) -> usize {
        self.ring.completions_max()
    }

    /// # Safety
    /// As the contract has it.
    #[inline]
    unsafe fn submit(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations) {
        if !self.backlog.is_empty() {
            return self.backlog.push_back(token.bits());
        }
        // SAFETY: S3: the contract.
        unsafe { self.push(token, op, ops) };
    }

    #[inline]
    fn cancel(&mut self, token: Token, ops: &mut Operations) -> bool {
        // A close that the kernel has begun cannot be stopped, and ECANCELED is an answer that a file system
        // may give to it (close(2)): without a cancel it is never in doubt whether the descriptor is gone.
        match ops.op_kind(token) {
            // One that waits for room has not begun.
            Some(OpKind::Close) => return !self.backlog.is_empty(),
            Some(OpKind::SendZeroCopy) if ops.op(token).is_some_and(is_sent) => return false,
            Some(kind) if kind.is_file_transfer() && self.withdraw_from_position(token, ops) => return true,
            _ => {}
        }
        if !self.backlog.is_empty() || !self.push_cancel(token, ops) {
            self.backlog.push_back(token.bits() | CANCEL_BIT);
        }
        true
    }

    #[inline]
    fn poll(&mut self, mut wait: Wait, ops: &mut Operations) -> io::Result<()> {
        if !self.backlog.is_empty() {
            self.submit_backlog(ops);
            if wait != Wait::Peek && (!self.backlog.is_empty() || ops.has_ready()) {
                wait = Wait::Skip;
            }
        }
        if wait != Wait::Skip || !ops.is_empty() || self.ring.unsubmitted() > 0 {
            self.ring.enter(wait)?;
        }
        self.collect(ops);
        Ok(())
    }

    fn flush(&mut self, ops: &mut Operations) -> io::Result<()> {
        self.submit_backlog(ops);
        self.ring.submit()
    }

    fn has_unsubmitted(&mut self) -> bool {
        !self.backlog.is_empty() || self.ring.unsubmitted() > 0
    }

    /// See [`shown`].
    fn show(&self, busy: bool, ops: &Operations) -> bool {
        self.shown.begin(ops);
        busy || !self.backlog.is_empty() || self.shown.clear(&self.ring, &self.waker)
    }

    /// It sends nothing to thread pools.
    fn take_jobs(&mut self, _: &mut Operations) {}

    /// The kernel takes the buffers from a ring, if it can.
    fn register_buffers(&mut self, buffers: &mut Buffers) -> io::Result<()> {
        if !self.features.buffer_rings {
            return Ok(());
        }
        let free = BufRing::new(buffers.count())?;
        let registered = ring::with_patience(|| {
            // SAFETY: S13: the loop keeps the buffers until the kernel's ring is gone or they are unregistered.
            unsafe { self.ring.register_buf_ring(free.address(), free.slots(), group(buffers.id())) }
        });
        match registered {
            Ok(()) => buffers.supply(Box::new(free)),
            // It counts as locked memory, too. Without it the backend hands the buffers out.
            Err(error) if ring::is_out_of_memory(&error) => self.features.buffer_rings = false,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn unregister_buffers(&mut self, buffers: &Buffers) {
        if buffers.is_supplied() {
            self.ring.unregister_buf_ring(group(buffers.id()));
        }
    }
}

/// What a completion queue entry says, in the crate's own terms.
#[inline(always)]
fn outcome_of(result: i32, cqe_flags: u32) -> Outcome {
    // The crate's flags that the kernel has, too, stand where the kernel has them: this is a mask.
    const { assert!(Outcome::BUFFER == CQE_BUFFER && Outcome::MORE == CQE_MORE) };
    Outcome { result, bits: cqe_flags & (CQE_BUFFER | CQE_MORE | 0xffff_0000) }
}

/// What the requests of an operation have as their user data.
fn user_data_of(token: Token, op: &RawOp) -> u64 {
    let is_in_parts = match op.kind {
        OpKind::SendZeroCopy => true,
        OpKind::RecvPooled => !buf_pool::buffers_of(op).is_supplied(),
        OpKind::Accept => op.flags & RawOp::MULTI != 0,
        _ => sends::is_waiting(op),
    };
    token.bits() | if is_in_parts { PART_BIT } else { 0 }
}

/// Passes an outcome on to the loop, or goes on with the operation.
#[inline(always)]
fn report(
    token: Token,
    result: i32,
    cqe_flags: u32,
    backlog: &mut VecDeque<u64>,
    to_look_at: &mut VecDeque<(Token, i32)>,
    ops: &mut Operations,
) {
    let mut outcome = outcome_of(result, cqe_flags);
    if result < 0 {
        match classify_outcome(token, outcome, backlog, ops) {
            Some(whole) => outcome = whole,
            None => return,
        }
    }
    match ops.complete(token, outcome) {
        Next::Done => {}
        Next::Continue => continue_later(token, backlog, ops),
        Next::Look => to_look_at.push_back((token, outcome.result)),
    }
}

/// The loop has taken a part of an operation, and wants the rest.
#[inline(never)]
fn continue_later(token: Token, backlog: &mut VecDeque<u64>, ops: &mut Operations) {
    let Some(op) = ops.op(token) else { return };
    // SAFETY: S3: the kernel is done with this part, so the description is ours.
    let op = unsafe { &mut *op };
    if sends::is_send(op.kind) {
        sends::wait_for_room(op);
    }
    backlog.push_back(token.bits());
}

/// Errors, which may not be the operation's: the outcome that counts, if this is the end.
#[cold]
fn classify_outcome(
    token: Token,
    mut outcome: Outcome,
    backlog: &mut VecDeque<u64>,
    ops: &mut Operations,
) -> Option<Outcome> {
    outcome.result = errno::published(outcome.result);
    let is_ending = ops.is_ending(token);
    let was_canceled = outcome.result == -errno::ECANCELED;
    let op = ops.op(token)?;
    // SAFETY: S3: the kernel is done with this try, so the description is ours.
    let kind = unsafe { (*op).kind };
    match kind {
        OpKind::Accept if was_canceled && is_ending => accept_at_last(token, outcome, backlog, ops),
        OpKind::Send | OpKind::SendVectored if outcome.result == -errno::EAGAIN => {
            continue_later(token, backlog, ops);
            None
        }
        // The kernel gave up waiting for readiness, since it was woken for nothing too often, 128 times
        // (`APOLL_MAX_RETRY`), and had a thread wait in the call, where these heed `O_NONBLOCK` or a time
        // limit of the socket's; or it could not make a thread.
        OpKind::Accept | OpKind::Recv | OpKind::RecvVectored | OpKind::RecvPooled
            if outcome.result == -errno::EAGAIN || was_canceled && !is_ending =>
        {
            backlog.push_back(token.bits());
            None
        }
        // SAFETY: S3: as above.
        _ if was_canceled && !is_ending => Some(Outcome::new(substitute::call(unsafe { &*op }))),
        _ => Some(outcome),
    }
}

/// An accept that goes on and on has a connection, or an error. When the kernel has stopped repeating it, for the
/// completion queue was full, it may have been woken for more connections, and its callback may not want them.
#[cold]
fn report_accept(
    token: Token,
    result: i32,
    cqe_flags: u32,
    multishot: bool,
    backlog: &mut VecDeque<u64>,
    ops: &mut Operations,
) {
    let mut outcome = outcome_of(result, cqe_flags);
    if result < 0 {
        match classify_outcome(token, outcome, backlog, ops) {
            Some(whole) => outcome = whole,
            None => return,
        }
    } else if multishot && cqe_flags & CQE_MORE == 0 {
        let Some(op) = ops.op(token) else { return };
        // SAFETY: S3: the kernel is done with this try, so the description is ours.
        let listener = unsafe { (*op).fd };
        wake_other_accepts(token, listener, connections_waiting(listener), backlog, ops);
    }
    if ops.complete(token, outcome) == Next::Continue {
        continue_later(token, backlog, ops);
    }
}

/// A request has completed that is a part of its operation.
#[cold]
fn report_part(token: Token, result: i32, cqe_flags: u32, backlog: &mut VecDeque<u64>, ops: &mut Operations) {
    let is_ending = ops.is_ending(token);
    let Some(op) = ops.op(token) else { return };
    // SAFETY: S3: the kernel reads at most the buffer, not the description.
    let op = unsafe { &mut *op };
    let progress = match op.kind {
        OpKind::RecvPooled => receive_after_poll(op, result),
        _ => sends::completed(op, result, cqe_flags, is_ending),
    };
    go_on(token, progress, backlog, ops);
}

/// Goes on with an operation that is done in parts.
fn go_on(token: Token, progress: Progress, backlog: &mut VecDeque<u64>, ops: &mut Operations) {
    match progress {
        Progress::Wait => {}
        Progress::Again => backlog.push_back(token.bits()),
        Progress::StopPoll => backlog.push_back(token.bits() | CANCEL_BIT),
        Progress::Over(outcome) => {
            if ops.complete(token, outcome) == Next::Continue {
                continue_later(token, backlog, ops);
            }
        }
    }
}

/// An accept is cancelled, and connections came at that moment: of all who accept on the listener the kernel
/// has woken this one alone, so it has to take them, or they wait until another one comes. A loop that is
/// being dropped would close what it took, so it takes nothing.
///
/// An accept that goes on and on may have been woken for each of those that are there; it takes no more than
/// these, one a step, however fast others come.
fn accept_at_last(
    token: Token,
    outcome: Outcome,
    backlog: &mut VecDeque<u64>,
    ops: &mut Operations,
) -> Option<Outcome> {
    if ops.is_abandoned() {
        return Some(outcome);
    }
    let op = ops.op(token)?;
    // SAFETY: S3: the kernel is done with it, so the description is ours.
    let op = unsafe { &mut *op };
    // A foreign listener may block.
    if op.flags & RawOp::UNTRACKED != 0 {
        return Some(outcome);
    }
    if op.flags & RawOp::MULTI != 0 && op.backend_state == 0 {
        // One more, which says that they have been counted.
        op.backend_state = connections_waiting(op.fd).saturating_add(1);
    }
    let accepted = if op.backend_state == 1 { -libc::EAGAIN } else { socket::accept_now(op) };
    if accepted < 0 {
        op.backend_state = 0;
        return Some(outcome);
    }
    if op.flags & RawOp::MULTI == 0 {
        let (listener, waiting) = (op.fd, connections_waiting(op.fd));
        wake_other_accepts(token, listener, waiting, backlog, ops);
        return Some(Outcome::new(accepted));
    }
    op.backend_state -= 1;
    // It is looked at again when it comes out of the backlog.
    backlog.push_back(token.bits());
    Some(Outcome::new(accepted).and_more())
}

/// The accept of `token` has taken a connection, and may have been woken for others that wait: so the other
/// accepts on the listener begin anew, and look. The kernel ends their requests, not the operations.
fn wake_other_accepts(
    token: Token,
    listener: RawDescriptor,
    waiting: u16,
    backlog: &mut VecDeque<u64>,
    ops: &mut Operations,
) {
    let (mut cursor, mut left) = (0, waiting);
    while left > 0 && backlog.len() < backlog.capacity() {
        let Some(other) = ops.next_on_fd(listener, &mut cursor) else { return };
        let accepts = ops.op_kind(other) == Some(OpKind::Accept);
        if accepts && other != token && !ops.is_ending(other) {
            backlog.push_back(other.bits() | CANCEL_BIT);
            left -= 1;
        }
    }
}

/// One if it cannot be asked.
#[cold]
fn connections_waiting(listener: RawDescriptor) -> u16 {
    sys::socket::connections_waiting(listener).unwrap_or(1).try_into().unwrap_or(u16::MAX)
}

/// A pooled receive without buffer rings is a poll, and then a receive that does not block.
fn receive_after_poll(op: &RawOp, polled: i32) -> Progress {
    if polled < 0 {
        return Progress::Over(Outcome::new(polled));
    }
    let buffers = buf_pool::buffers_of(op);
    let Some(index) = buffers.take() else { return Progress::Over(Outcome::new(-libc::ENOBUFS)) };
    let (place, len) = (buffers.place(index), buffers.size() as usize);
    // SAFETY: S13: the buffer is free and ours until it is given back or reported.
    let result = unsafe { sys::socket::recv(op.fd, place, len) };
    if result > 0 {
        return Progress::Over(Outcome::new(result).in_buffer(index));
    }
    buffers.give_back(index);
    if result == -libc::EAGAIN { Progress::Again } else { Progress::Over(Outcome::new(result)) }
}

/// The kernel has answered a request to cancel. If it did not find an operation that is still in flight and
/// shall end, that was between two states: again. A zero-copy send that only waits for its buffer cannot be
/// found any more, nor stopped.
#[cold]
fn again_if_not_found(token: Token, result: i32, backlog: &mut VecDeque<u64>, ops: &mut Operations) {
    if result != -libc::ENOENT || !ops.is_ending(token) {
        return;
    }
    if ops.op(token).is_some_and(|op| !is_sent(op)) {
        backlog.push_back(token.bits() | CANCEL_BIT);
    }
}

fn is_sent(op: *mut RawOp) -> bool {
    // SAFETY: S3: the kernel reads the buffer of a zero-copy send, not the description.
    sends::is_sent(unsafe { &*op })
}

impl AsFd for IoUring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shown.descriptor(&self.waker)
    }
}

const _: () = assert!(PART_BIT as usize > Token::ENTRIES_MAX);
