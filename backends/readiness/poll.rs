//! Waits for poll events.

#![allow(unsafe_code)]

use super::attempt::Attempt;
use super::descriptors::Interest;
use super::queue::Place;
use super::{Readiness, Selector};
use crate::backends::Operations;
use crate::descriptor::RawDescriptor;
use crate::op::{Direction, Outcome, RawOp};
use crate::sys::poll::{POLLRDHUP, poll};
use crate::token::Token;

/// Looks whether there is what is waited for. That the peer has shut its end down is told in any case, as io_uring tells
/// it.
pub(super) fn attempt(op: &RawOp) -> Attempt {
    match poll(op.fd, op.as_poll().events as i16 | POLLRDHUP) {
        0 => Attempt::NotReady,
        events => Attempt::Over(Outcome::new(events)),
    }
}

impl<S: Selector> Readiness<S> {
    /// Waits for events, beside the other operations that do.
    ///
    /// # Safety
    /// As [`Readiness::submit`].
    #[inline(never)]
    pub(super) unsafe fn start_poll(&mut self, token: Token, op: *mut RawOp, ops: &mut Operations) {
        // SAFETY: S3: no other code has it now.
        let raw = unsafe { &*op };
        if !self.enter(token, raw, ops) {
            return;
        }
        let fd = raw.fd;
        if let Attempt::Over(outcome) = attempt(raw) {
            return self.conclude(token, outcome, ops);
        }
        let record = self.descriptors.record(fd);
        self.nodes.push(record.queue(Direction::Neither), token, Place::Waiting);
        let interest = Interest::of(raw, S::ONE_SHOT);
        self.block(fd, Direction::Neither, interest, ops);
    }

    /// Looks whether there is what each operation of the queue waits for.
    pub(super) fn run_polls(&mut self, fd: RawDescriptor, ops: &mut Operations) {
        let mut next = self.nodes.head(self.descriptors.record(fd).queue(Direction::Neither));
        while let Some(token) = next {
            next = self.nodes.next(token);
            let Some(op) = ops.op(token) else { continue };
            // SAFETY: S3: the operation is ours, and nothing else reads it now.
            if let Attempt::Over(outcome) = attempt(unsafe { &*op }) {
                let record = self.descriptors.record(fd);
                self.nodes.remove(record.queue(Direction::Neither), token);
                self.conclude(token, outcome, ops);
            }
        }
    }
}
