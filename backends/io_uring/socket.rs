//! Sockets: their entries, and what becomes of accepts and pooled receives, whose completions are not always their outcomes.
//! [`sends`] tells of sends.
//!
//! Exact transfers do not ask the kernel to go on by itself (`MSG_WAITALL`): a reset in the middle of a receive would be
//! swallowed with the count that there was, and look like the end of the stream.

#![allow(unsafe_code)]

use std::collections::VecDeque;

use ::io_uring::squeue::{Entry, Flags};
use ::io_uring::{opcode, types};

use super::buf_ring::group;
use super::features::Features;
use super::sends::{self, Progress};
use super::{CQE_MORE, classify_outcome, continue_later, outcome_of};
use crate::backends::Operations;
use crate::buf_pool;
use crate::in_flight::Next;
use crate::net::socket::accept_now;
use crate::op::{Outcome, RawOp};
use crate::sys::linux::socket::{FLAGS, wake_accepts};
use crate::sys::{self, RawDescriptor};
use crate::token::Token;

/// Sends never wait, and the peer's reset is an error, not a signal.
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

// ---- transfers

#[inline(always)]
pub(super) fn recv(op: &RawOp) -> Entry {
    opcode::Recv::new(types::Fd(op.fd), op.as_transfer().buf, op.transfer_len()).build()
}

#[inline(always)]
pub(super) fn send(op: &RawOp) -> Entry {
    let send = opcode::Send::new(types::Fd(op.fd), op.as_transfer().buf, op.transfer_len());
    send.flags(SEND_FLAGS).build()
}

pub(super) fn send_zero_copy(op: &RawOp, features: &Features) -> Entry {
    if !features.zero_copy_send || op.backend_state & sends::COPIES != 0 {
        return send(op);
    }
    let send = opcode::SendZc::new(types::Fd(op.fd), op.as_transfer().buf, op.transfer_len());
    send.flags(SEND_FLAGS).build()
}

pub(super) fn recv_vectored(op: &RawOp) -> Entry {
    opcode::RecvMsg::new(types::Fd(op.fd), op.as_vectored().message.cast()).build()
}

pub(super) fn send_vectored(op: &RawOp) -> Entry {
    let message = op.as_vectored().message.cast_const().cast();
    opcode::SendMsg::new(types::Fd(op.fd), message).flags(SEND_FLAGS as u32).build()
}

pub(super) fn recv_pooled(op: &RawOp, features: &Features) -> Entry {
    let (fd, buffers) = (types::Fd(op.fd), buf_pool::buffers_of(op));
    let group = group(buffers.id());
    if !buffers.is_supplied() {
        return opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
    }
    if op.flags & RawOp::MULTI != 0 && features.multishot_recv {
        return opcode::RecvMulti::new(fd, group).build();
    }
    let recv = opcode::Recv::new(fd, std::ptr::null_mut(), 0).buf_group(group).build();
    recv.flags(Flags::BUFFER_SELECT)
}

/// A pooled receive without buffer rings is a poll, and then a receive that does not block.
pub(super) fn receive_after_poll(op: &RawOp, polled: i32) -> Progress {
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

pub(super) fn shutdown(op: &RawOp) -> Entry {
    opcode::Shutdown::new(types::Fd(op.fd), op.as_shutdown().how).build()
}

// ---- accepts

/// # Safety
/// `op` is an accept of the backend.
pub(super) unsafe fn accept(op: *mut RawOp, features: &Features) -> Entry {
    // SAFETY: S3: nobody writes to it now.
    let raw = unsafe { &*op };
    let fd = types::Fd(raw.fd);
    if raw.flags & RawOp::MULTI != 0 && features.multishot_accept {
        return opcode::AcceptMulti::new(fd).flags(FLAGS).build();
    }
    let (mut address, mut len) = (std::ptr::null_mut(), std::ptr::null_mut());
    if raw.flags & RawOp::ADDRESS != 0 {
        (address, len) = (RawOp::address_place(op), RawOp::address_len_place(op));
        // SAFETY: S3: the place for the length; the kernel does not have it yet.
        unsafe { len.write(RawOp::ADDRESS_BYTES as u32) };
    }
    opcode::Accept::new(fd, address.cast(), len).flags(FLAGS).build()
}

/// An accept that goes on and on has a connection, or an error. When the kernel has stopped repeating it, for the
/// completion queue was full, it may have been woken for more connections, and its callback may not want them.
#[cold]
pub(super) fn report_accept(
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
        wake_other_accepts(listener);
    }
    if ops.complete(token, outcome) == Next::Continue {
        continue_later(token, backlog, ops);
    }
}

/// An accept is cancelled, and connections came at that moment: of all who accept on the listener the kernel
/// has woken this one alone, so it takes one of them, and the others are told of those that it leaves. A loop that is
/// being dropped would close what it took, so it takes nothing; and a foreign listener may block.
///
/// An accept that goes on and on may have been woken for each of those that are there; it takes no more than
/// these, one a step, however fast others come.
pub(super) fn accept_at_last(
    token: Token,
    outcome: Outcome,
    backlog: &mut VecDeque<u64>,
    ops: &mut Operations,
) -> Option<Outcome> {
    let takes_nothing = ops.is_abandoned();
    let op = ops.op(token)?;
    // SAFETY: S3: the kernel is done with it, so the description is ours.
    let op = unsafe { &mut *op };
    let is_multi = op.flags & RawOp::MULTI != 0;
    if is_multi && op.backend_state == 0 {
        // One more, which says that they have been counted.
        op.backend_state = connections_waiting(op.fd).saturating_add(1);
    }
    let takes_nothing = takes_nothing || op.flags & RawOp::UNTRACKED != 0 || op.backend_state == 1;
    let accepted = if takes_nothing { -libc::EAGAIN } else { accept_now(op) };
    if accepted >= 0 && is_multi {
        op.backend_state -= 1;
        // It is looked at again when it comes out of the backlog.
        backlog.push_back(token.bits());
        return Some(Outcome::new(accepted).and_more());
    }
    op.backend_state = 0;
    wake_other_accepts(op.fd);
    Some(if accepted >= 0 { Outcome::new(accepted) } else { outcome })
}

/// An accept has ended that may have been woken for connections that it did not take: so all other accepts on the
/// listener look, of this loop, of others, and of other processes.
fn wake_other_accepts(listener: RawDescriptor) {
    if sys::socket::connections_waiting(listener).is_some_and(|waiting| waiting > 0) {
        wake_accepts(listener);
    }
}

/// One if it cannot be asked.
#[cold]
fn connections_waiting(listener: RawDescriptor) -> u16 {
    sys::socket::connections_waiting(listener).unwrap_or(1).try_into().unwrap_or(u16::MAX)
}
