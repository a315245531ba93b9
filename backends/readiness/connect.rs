//! Connecting: begun by one try, ended by another when the socket can be written to, and begun again with the next address
//! of a list.

#![allow(unsafe_code)]

use super::attempt::Attempt;
use super::{Readiness, Selector, report};
use crate::backends::Operations;
use crate::in_flight::Next;
use crate::net::socket;
use crate::op::addresses;
use crate::op::{OpKind, Outcome, RawOp};
use crate::sys::{self, errno};
use crate::token::Token;

/// In [`RawOp::backend_state`] of a connect: it was begun.
const CONNECTING: u16 = 1;

/// Begins to connect, or looks how it went.
pub(super) fn attempt(op: &mut RawOp) -> Attempt {
    let result = if op.backend_state == CONNECTING {
        sys::socket::connected(op.fd)
    } else {
        op.backend_state = CONNECTING;
        connect(op)
    };
    if result == -errno::EINPROGRESS {
        return Attempt::NotReady;
    }
    // EAGAIN is no promise here: there is no free port.
    Attempt::Over(Outcome::new(result))
}

/// Begins to connect: `EINPROGRESS` if that takes its time.
fn connect(op: &mut RawOp) -> i32 {
    let (address, len) = addresses::address_place(op);
    // SAFETY: S3: the address is the operation's own.
    unsafe { sys::socket::connect(op.fd, address, len) }
}

impl<S: Selector> Readiness<S> {
    /// # Safety
    /// As [`Readiness::submit`].
    #[inline(never)]
    pub(super) unsafe fn start_connect(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations) {
        loop {
            // SAFETY: S3: nobody else has it now.
            let raw = unsafe { &mut *op };
            raw.backend_state = 0;
            if let Err(errno) = socket::open_for_connect(raw) {
                return report(token, -errno, ops);
            }
            // SAFETY: S3: the caller's promise.
            if unsafe { self.try_or_queue(token, op, OpKind::Connect, ops) } == Next::Done {
                return;
            }
        }
    }
}
