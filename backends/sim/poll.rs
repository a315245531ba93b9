//! Operations that wait for events, as `poll(2)` does.

use super::effect::{Effect, Effects, Ending, OpSeq};
use crate::sys::poll::{POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};

/// The events of an object that can be read from or written to without waiting.
pub(super) fn ready_events(reads: bool, writes: bool) -> i32 {
    let read = i32::from(POLLIN | POLLRDNORM);
    let write = i32::from(POLLOUT | POLLWRNORM);
    (if reads { read } else { 0 }) | (if writes { write } else { 0 })
}

/// These are reported whether they are waited for or not.
const UNASKED: i32 = (POLLERR | POLLHUP) as i32;

#[derive(Debug)]
struct Waiter {
    op: OpSeq,
    wanted: i32,
}

/// The operations that wait at one object, in order.
#[derive(Debug, Default)]
pub(super) struct Polls(Vec<Waiter>);

impl Polls {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, op: OpSeq, wanted: i32) {
        self.0.push(Waiter { op, wanted });
    }

    pub(super) fn forget(&mut self, op: OpSeq) {
        self.0.retain(|waiter| waiter.op != op);
    }

    /// The object has these events: the operations that wait for one of them are done.
    pub(super) fn report(&mut self, events: i32) -> Effects {
        let mut done = Vec::new();
        self.0.retain(|waiter| {
            let events = events & (waiter.wanted | UNASKED);
            if events != 0 {
                done.push(Effect::Complete(waiter.op, Ending::done(events)));
            }
            events == 0
        });
        done.into()
    }

    pub(super) fn into_ops(self) -> impl Iterator<Item = OpSeq> {
        self.0.into_iter().map(|waiter| waiter.op)
    }
}
