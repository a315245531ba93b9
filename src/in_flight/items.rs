//! Operations that give several results: the way of each result to its callback, and what follows it.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::InFlight;
use super::entry::{State, flag};
use crate::completion::Header;
use crate::error::code;
use crate::op::words::TimerWords;
use crate::op::{OpKind, Outcome, RawOp, Server};
use crate::sys::errno;
use crate::timer::wheel::Place;
use crate::token::Token;

/// A result of a multi-result operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) token: Token,
    pub(super) outcome: Outcome,
    /// The backend has no more of this operation: it must be given to it again, or ended.
    pub(super) last: bool,
}

/// What the loop has to do with an item.
pub(crate) enum Delivery {
    /// Run the item callback with the outcome that is in the header.
    Item(NonNull<Header>),
    /// The owner must let go of what the outcome in the header stands for.
    Discard(NonNull<Header>),
    /// Nothing.
    Nothing,
}

/// What the loop has to do after an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterItem {
    Nothing,
    AskBackendToCancel,
    GiveToBackend,
}

impl InFlight {
    /// The next result of a multi-result operation, prepared for its callback.
    pub(crate) fn pop_item(&mut self) -> Option<(Item, Delivery)> {
        let item = self.items.pop_front()?;
        if self.items.is_empty() {
            // It begins at its beginning again: few items stay in few cache lines.
            self.items.clear();
        }
        let Some(entry) = self.get(item.token) else { return Some((item, Delivery::Nothing)) };
        let header = entry.header;
        // SAFETY: S3: no backend writes to the outcome in a header.
        unsafe { (*header.as_ptr()).outcome = item.outcome };
        let is_value = item.outcome.result >= 0 && !entry.is_end_of_stream(item.outcome);
        let delivery = match is_value {
            false if item.outcome.used_buffer().is_some() => Delivery::Discard(header),
            false => Delivery::Nothing,
            // Also after `Disarm`: what has arrived is the program's, which alone may throw it away.
            true => Delivery::Item(header),
        };
        Some((item, delivery))
    }

    /// What follows an item; `rearm` is the wish of its callback.
    pub(crate) fn after_item(&mut self, item: Item, rearm: bool) -> AfterItem {
        let Some(entry) = self.get(item.token) else { return AfterItem::Nothing };
        let was_ending = entry.flags & flag::ENDING != 0;
        if !rearm {
            entry.flags |= flag::DISARMED;
        }
        let ending = entry.flags & flag::ENDING;
        if !item.last {
            let ask = ending != 0 && !was_ending && entry.state == State::Backend;
            return if ask { AfterItem::AskBackendToCancel } else { AfterItem::Nothing };
        }
        debug_assert_eq!(entry.state, State::Pending);
        let wants_buffer = entry.wants_buffer(item.outcome);
        if wants_buffer && ending == 0 {
            self.await_buffer(item.token);
            return AfterItem::Nothing;
        }
        let end = match item.outcome.result {
            _ if ending & flag::DISARMED != 0 && !entry.is_told_once(item.outcome) => Some(0),
            result if result < 0 && !wants_buffer => Some(result),
            _ if entry.is_end_of_stream(item.outcome) => Some(0),
            _ if ending & flag::TIMED_OUT != 0 => Some(-code::DEADLINE),
            _ if ending & flag::CANCEL != 0 => Some(-errno::ECANCELED),
            _ => None,
        };
        if let Some(result) = end {
            self.end_with(item.token, result);
            return AfterItem::Nothing;
        }
        self.rearm(item.token)
    }

    /// Starts a multi-result operation again, after its last result.
    fn rearm(&mut self, token: Token) -> AfterItem {
        let entry = &mut self.table[token.index()];
        match entry.op_kind().facts().server {
            Server::EventLoop => {
                entry.state = State::Armed;
                self.rearm_armed(token);
                AfterItem::Nothing
            }
            Server::Backend | Server::Workers => {
                entry.state = State::Backend;
                self.in_backend += 1;
                AfterItem::GiveToBackend
            }
        }
    }

    /// Arms a timer or a wait for notifications for its next result.
    fn rearm_armed(&mut self, token: Token) {
        let entry = &self.table[token.index()];
        let op = entry.op_copy();
        if op.kind == OpKind::Notify {
            return self.start_wait(token, &op);
        }
        if entry.place != Place::NONE {
            return; // The callback has reset it.
        }
        let TimerWords { period_ns, end_ns, .. } = *op.as_timer();
        if op.flags & RawOp::FIXED_DELAY != 0 {
            let life_left_ns = self.life_left_ns(end_ns);
            self.arm(token, period_ns.min(life_left_ns));
        } else {
            let deadline_ns = entry.deadline_ns.min(end_ns);
            self.arm_at(token, deadline_ns);
        }
    }
}
