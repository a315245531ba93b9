//! Transfers at the position of a file.
//!
//! The kernel reads the position when it begins a transfer and sets it when that is done, without a lock: two that it
//! has at once may begin at the same byte. And it does not set it at all if the transfer goes on in the background
//! (`O_DIRECT`), or ends short with an error behind the part that was moved (a full disk, a file size limit): seen on
//! Linux 6.18. So it is given one at a time, and the position is looked at before and after.

#![allow(unsafe_code)]

use super::super::Operations;
use super::super::positions::Turn;
use super::{IoUring, fifo};
use crate::descriptor;
use crate::in_flight::Next;
use crate::op::{OpKind, Outcome, RawOp};
use crate::sys::errno;
use crate::token::Token;

impl IoUring {
    /// Whether a transfer at the position of a file is to be given to the kernel now; otherwise its turn comes.
    pub(super) fn begin_at_position(&mut self, token: Token, op: &RawOp, ops: &mut Operations) -> bool {
        if self.positions.enter(token, op) == Turn::Later {
            return false;
        }
        self.positions.note_position(token);
        ops.look_first(token);
        true
    }

    /// Ends a transfer that is to be ended and waits for its turn. `false`: it does not wait.
    pub(super) fn withdraw_from_position(&mut self, token: Token, ops: &mut Operations) -> bool {
        if !self.positions.is_waiting(token) {
            return false;
        }
        self.positions.withdraw(token);
        let _ = ops.complete(token, Outcome::untried(-errno::ECANCELED));
        true
    }

    /// Looks at the outcomes of transfers at positions, and passes them on.
    #[cold]
    pub(super) fn look_at_outcomes(&mut self, ops: &mut Operations) {
        while let Some((token, result)) = self.to_look_at.pop_front() {
            self.look_at(token, Outcome::new(result), ops);
        }
    }

    fn look_at(&mut self, token: Token, outcome: Outcome, ops: &mut Operations) {
        if ops.op_kind(token) == Some(OpKind::Open) {
            return self.look_at_open(token, outcome, ops);
        }
        self.positions.move_position(token, outcome.result.max(0) as u64);
        match ops.complete_seen(token, outcome) {
            Next::Continue => self.backlog.push_back(token.bits()),
            Next::Done | Next::Look => self.leave_position(token),
        }
    }

    /// An open that did not wait is done again if it should have.
    fn look_at_open(&mut self, token: Token, outcome: Outcome, ops: &mut Operations) {
        let is_ending = ops.is_ending(token);
        let Some(op) = ops.op(token) else { return };
        // SAFETY: S3: the kernel is done with this try, so the description is ours.
        let op = unsafe { &mut *op };
        let is_over = is_ending || op.backend_state == fifo::IN_WORKER;
        if !is_over && fifo::should_have_waited(op, outcome.result) {
            descriptor::close_number(outcome.result);
            op.backend_state = fifo::IN_WORKER;
            self.backlog.push_back(token.bits());
        } else if ops.complete_seen(token, outcome) == Next::Continue {
            self.backlog.push_back(token.bits());
        }
    }

    /// An operation is over: if it was at a position, the next one's turn has come.
    pub(super) fn leave_position(&mut self, token: Token) {
        if let Some(next) = self.positions.leave(token) {
            self.backlog.push_back(next.bits());
        }
    }
}
