//! One try at an operation.

#![allow(unsafe_code)]

use super::calls;
use super::descriptors::{FileKind, Record};
use crate::buf_pool;
use crate::op::{Direction, OpKind, Outcome, RawOp};
use crate::sys::poll::{POLLRDHUP, poll};
use crate::sys::{self, errno};

/// How a try went.
#[derive(Debug)]
pub(super) enum Attempt {
    /// This is the outcome.
    Over(Outcome),
    /// It is for the next edge.
    NotReady,
}

/// In [`RawOp::backend_state`] of a connect: it was begun.
const CONNECTING: u16 = 1;

/// Tries an operation on a descriptor, without blocking.
#[inline(always)]
pub(super) fn attempt(op: &mut RawOp, record: &mut Record) -> Attempt {
    let (result, asked) = match op.kind {
        OpKind::Recv => (calls::recv(op), op.transfer_len() as usize),
        OpKind::Send | OpKind::SendZeroCopy => (calls::send(op), op.transfer_len() as usize),
        OpKind::RecvVectored => (calls::recv_vectored(op), op.as_vectored().len),
        OpKind::SendVectored => (calls::send_vectored(op), op.as_vectored().len),
        OpKind::RecvPooled => return receive_pooled(op, record),
        OpKind::Accept => (calls::accept(op), 0),
        OpKind::Connect => return connect(op),
        // That the peer has shut its end down is told in any case, as io_uring tells it.
        OpKind::Poll => match poll(op.fd, op.as_poll().events as i16 | POLLRDHUP) {
            0 => return Attempt::NotReady,
            events => (events, 0),
        },
        OpKind::Read | OpKind::ReadVectored | OpKind::Write | OpKind::WriteVectored => {
            (calls::stream(op, record.file_kind(op.fd).unwrap_or(FileKind::BlockingStream)), 0)
        }
        _ => (-errno::EOPNOTSUPP, 0),
    };
    if result > 0 && (result as usize) < asked {
        record.note_short_transfer(op.kind.facts().direction, op.fd);
    }
    over_unless_not_ready(result)
}

fn over_unless_not_ready(result: i32) -> Attempt {
    if result == -errno::EAGAIN {
        return Attempt::NotReady;
    }
    Attempt::Over(Outcome::new(result))
}

/// Begins to connect, or looks how it went.
fn connect(op: &mut RawOp) -> Attempt {
    let result = if op.backend_state == CONNECTING {
        sys::socket::connected(op.fd)
    } else {
        op.backend_state = CONNECTING;
        calls::connect(op)
    };
    if result == -errno::EINPROGRESS {
        return Attempt::NotReady;
    }
    // EAGAIN is no promise here: there is no free port.
    Attempt::Over(Outcome::new(result))
}

/// Receives into a buffer of the pool, which is taken only for as long as there is something to receive.
fn receive_pooled(op: &mut RawOp, record: &mut Record) -> Attempt {
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
        record.note_short_transfer(Direction::In, op.fd);
    }
    Attempt::Over(Outcome::new(result).in_buffer(index))
}
