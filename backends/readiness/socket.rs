//! Sockets: each call is made once, never blocks, and gives a count, a descriptor or a negative errno.

#![allow(unsafe_code)]

use super::attempt::{Attempt, over_unless_not_ready};
use super::descriptors::Record;
use super::{Readiness, Selector, report};
use crate::backends::Operations;
use crate::buf_pool;
use crate::net::socket;
use crate::op::{Direction, Outcome, RawOp};
use crate::sys::descriptor::is_blocking;
use crate::sys::poll::{POLLIN, poll};
use crate::sys::{self, errno};
use crate::token::Token;

pub(super) fn recv(op: &RawOp) -> i32 {
    // SAFETY: S6: the buffer is the operation's.
    unsafe { sys::socket::recv(op.fd, op.as_transfer().buf, op.transfer_len() as usize) }
}

pub(super) fn send(op: &RawOp) -> i32 {
    // SAFETY: S6: the buffer is the operation's.
    unsafe { sys::socket::send(op.fd, op.as_transfer().buf, op.transfer_len() as usize) }
}

pub(super) fn recv_vectored(op: &RawOp) -> i32 {
    // SAFETY: S6: the message and its buffers are the operation's.
    unsafe { sys::socket::recv_message(op.fd, op.as_vectored().message.cast()) }
}

pub(super) fn send_vectored(op: &RawOp) -> i32 {
    // SAFETY: S6: the message and its buffers are the operation's.
    unsafe { sys::socket::send_message(op.fd, op.as_vectored().message.cast()) }
}

pub(super) fn accept(op: &mut RawOp) -> i32 {
    if op.flags & RawOp::UNTRACKED != 0 && is_blocking(op.fd) {
        // Our own listeners do not block; of a foreign one we have to know that there is somebody.
        match poll(op.fd, POLLIN) {
            0 => return -errno::EAGAIN,
            ..0 => return -errno::EBADF,
            _ => {}
        }
    }
    socket::accept_now(op)
}

/// Receives into a buffer of the pool, which is taken only for as long as there is something to receive.
pub(super) fn recv_pooled<S: Selector>(op: &mut RawOp, record: &mut Record, selector: &mut S) -> Attempt {
    let buffers = buf_pool::buffers_of(op);
    let Some(index) = buffers.take() else {
        return Attempt::Over(Outcome::new(-errno::ENOBUFS));
    };
    let (place, size) = (buffers.place(index), buffers.size() as usize);
    // SAFETY: S13: the buffer is free and ours until it is given back or reported.
    let result = unsafe { sys::socket::recv(op.fd, place, size) };
    if result <= 0 {
        buffers.give_back(index);
        return over_unless_not_ready(result);
    }
    if (result as usize) < size {
        record.note_short_transfer(Direction::In, op, selector);
    }
    Attempt::Over(Outcome::new(result).in_buffer(index))
}

impl<S: Selector> Readiness<S> {
    /// # Safety
    /// As [`Readiness::submit`].
    #[inline(never)]
    pub(super) unsafe fn start_shutdown(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations) {
        // SAFETY: S3: nobody else has it now.
        let raw = unsafe { &*op };
        report(token, sys::socket::shutdown(raw.fd, raw.as_shutdown().how), ops);
    }
}
