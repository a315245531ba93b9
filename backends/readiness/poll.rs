//! Waits for poll events.

use super::attempt::Attempt;
use crate::op::{Outcome, RawOp};
use crate::sys::poll::{POLLRDHUP, poll};

/// Looks whether there is what is waited for. That the peer has shut its end down is told in any case, as io_uring tells
/// it.
pub(super) fn attempt(op: &RawOp) -> Attempt {
    match poll(op.fd, op.as_poll().events as i16 | POLLRDHUP) {
        0 => Attempt::NotReady,
        events => Attempt::Over(Outcome::new(events)),
    }
}
