//! `io_uring(7)`: submissions go into a ring that is shared with the kernel, completions come out of another,
//! and one system call a step does all the rest.
//!
//! * [`features`]: what this kernel can do.
//! * [`ring`]: the rings and the system call.
//! * [`entry`]: an operation as a submission queue entry. [`socket`], [`connect`], [`file`], [`poll`]: the entries, and
//!   what else there is to operations, family by family.
//! * [`sends`]: sends, and the room that they wait for.
//! * [`buf_ring`]: the buffers that the kernel hands out.
//! * [`substitute`]: calls for what the kernel does not do through the ring.
//! * [`file_position`]: transfers at the position of a file, which the kernel does not order.
//! * [`fifo`]: opens that wait for another end.
//! * [`shown`]: what a program polls that has the loop inside another one.
//!
//! What does not fit into the submission queue even after it was flushed waits in a backlog, in order, with
//! room for three of every operation of the loop: itself, a cancel of it, and a cancel of its poll. Nothing is
//! ever lost for want of room.

#![allow(unsafe_code)]

mod buf_ring;
mod connect;
mod entry;
mod features;
mod fifo;
mod file;
mod file_position;
#[cfg(test)]
mod filter_tests;
mod poll;
mod ring;
mod sends;
mod shown;
mod socket;
mod substitute;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use ::io_uring::{opcode, squeue, types};

use super::list::Listed;
use super::positions::Positions;
use super::{Capabilities, Driver, ENTRIES_MAX, IoWorkers, Operations, Options, Wait};
use crate::buf_pool::{self, Buffers};
use crate::in_flight::Next;
use crate::memory;
use crate::net::socket::open_for_connect;
use crate::op::{OpKind, Outcome, RawOp};
use crate::sys::{self, errno};
use crate::token::Token;
use crate::waker::Waker;
use buf_ring::{BufRing, group};
use features::Features;
use ring::Ring;
use sends::Progress;
use shown::Shown;
use socket::{accept_at_last, receive_after_poll, report_accept};

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
        // SAFETY: S3: no other code has it now.
        match entry::of_common(unsafe { &*op }) {
            // SAFETY: S1: what the entry points to lives until the operation is completed.
            Some(entry) => unsafe { self.push_entry(token, token.bits(), entry) },
            // SAFETY: S3: as above.
            None => unsafe { self.push_prepared(token, op, ops) },
        }
    }

    /// # Safety
    /// As [`IoUring::submit`].
    #[inline(never)]
    unsafe fn push_prepared(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations) {
        // SAFETY: S3: no other code has it now.
        let raw = unsafe { &mut *op };
        if !self.prepare(token, raw, ops) {
            return;
        }
        let user_data = user_data_of(token, raw);
        // SAFETY: S3: as above.
        let entry = unsafe { entry::of(op, &self.features) };
        // SAFETY: S1: what the entry points to lives until the operation is completed.
        unsafe { self.push_entry(token, user_data, entry) };
    }

    /// Does what has to be done before the kernel gets an operation. `false`: it does not get it now.
    fn prepare(&mut self, token: Token, op: &mut RawOp, ops: &mut Operations) -> bool {
        match op.kind {
            OpKind::Poll => self.shown.watch(op),
            OpKind::Connect => {
                if let Err(errno) = open_for_connect(op) {
                    let _ = ops.complete(token, Outcome::new(-errno));
                    return false;
                }
            }
            OpKind::Close => sys::socket::linger_in_background(op.fd),
            OpKind::Open => {
                if fifo::may_wait(op) {
                    ops.look_first(token);
                }
            }
            // The kernel would take a thread for it, though it never blocks. What was submitted before comes first.
            OpKind::Shutdown => {
                if self.ring.submit().is_ok() && self.ring.unsubmitted() == 0 {
                    let result = sys::socket::shutdown(op.fd, op.as_shutdown().how);
                    let _ = ops.complete(token, Outcome::new(result));
                    return false;
                }
            }
            OpKind::Read | OpKind::ReadVectored | OpKind::Write | OpKind::WriteVectored => {
                if op.done() == 0 {
                    file::choose_parts(token, op, ops);
                }
                return op.flags & RawOp::CURSOR == 0 || self.begin_at_position(token, op, ops);
            }
            OpKind::Nop
            | OpKind::Timer
            | OpKind::Notify
            | OpKind::Offload
            | OpKind::Accept
            | OpKind::Recv
            | OpKind::RecvPooled
            | OpKind::RecvVectored
            | OpKind::Send
            | OpKind::SendZeroCopy
            | OpKind::SendVectored
            | OpKind::SyncAll
            | OpKind::SyncData
            | OpKind::Metadata => {}
        }
        true
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
        // SAFETY: S3: nothing writes to these fields now.
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
        // SAFETY: S3: no other code has it now.
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
        if op.kind.is_send() {
            return go_on(token, sends::canceled(op), &mut self.backlog, ops);
        }
        // It takes connection after connection.
        let takes_more = op.kind == OpKind::Accept && op.backend_state != 0;
        let outcome =
            if takes_more { accept_at_last(token, canceled, &mut self.backlog, ops) } else { Some(canceled) };
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
                if ops.op_kind(token) == Some(OpKind::Accept) {
                    let multishot = self.features.multishot_accept;
                    report_accept(token, result, cqe_flags, multishot, &mut self.backlog, ops);
                } else {
                    report_part(token, result, cqe_flags, &mut self.backlog, ops);
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
    // Inlined, it would have the way to the other backends set up its frame, too (60 instructions for a send and a
    // receive on epoll); as it is, the loop's call ends in a jump to it.
    #[inline(never)]
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
        let kind = ops.op_kind(token);
        if kind == Some(OpKind::Close) {
            // One that waits for room has not begun.
            return !self.backlog.is_empty();
        }
        if ops.op(token).is_some_and(is_sent) {
            return false;
        }
        if kind.is_some_and(OpKind::is_file_transfer) && self.withdraw_from_position(token, ops) {
            return true;
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
    let is_in_parts = if op.kind.takes_pooled_buffer() {
        !buf_pool::buffers_of(op).is_supplied()
    } else if op.kind == OpKind::Accept {
        op.flags & RawOp::MULTI != 0
    } else {
        op.kind == OpKind::SendZeroCopy || sends::is_waiting(op)
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
    if op.kind.is_send() {
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
    if kind == OpKind::Accept && was_canceled && is_ending {
        return accept_at_last(token, outcome, backlog, ops);
    }
    let not_ready = outcome.result == -errno::EAGAIN;
    let not_done = was_canceled && !is_ending;
    if not_ready && kind.is_send() {
        continue_later(token, backlog, ops);
        return None;
    }
    // The kernel gave up waiting for readiness, since it was woken for nothing too often, 128 times (`APOLL_MAX_RETRY`),
    // and had a thread wait in the call, where these heed `O_NONBLOCK` or a time limit of the socket's; or it could not
    // make a thread.
    if (not_ready || not_done) && kind.takes_from_socket() {
        backlog.push_back(token.bits());
        return None;
    }
    if not_done {
        // SAFETY: S3: as above.
        return Some(Outcome::new(substitute::call(unsafe { &*op })));
    }
    if matches!(-outcome.result, errno::EACCES | errno::EPERM) {
        // SAFETY: S3: as above.
        outcome.result = substitute::call_refused(unsafe { &*op }, outcome.result);
    }
    Some(outcome)
}

/// A request has completed that is a part of its operation.
#[cold]
fn report_part(token: Token, result: i32, cqe_flags: u32, backlog: &mut VecDeque<u64>, ops: &mut Operations) {
    let is_ending = ops.is_ending(token);
    let Some(op) = ops.op(token) else { return };
    // SAFETY: S3: the kernel reads at most the buffer, not the description.
    let op = unsafe { &mut *op };
    let progress = if op.kind.takes_pooled_buffer() {
        receive_after_poll(op, result)
    } else {
        sends::completed(op, result, cqe_flags, is_ending)
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
