//! The times of timers and deadlines: arming, moving and expiring them.

#![allow(unsafe_code)]

use super::entry::{State, flag};
use super::{InFlight, Item};
use crate::buf_pool;
use crate::error::code;
use crate::notifier;
use crate::op::words::TimerWords;
use crate::op::{NO_DEADLINE, OpKind, Outcome, RawOp};
use crate::timer::wheel::{Expiry, Place};
use crate::token::Token;

/// A timer that is submitted outside a step is resolved against the clock at once, so that its delay counts
/// from there and not from the next `run`; but after this many in a row the rest is resolved in batches,
/// because a clock reading (30 ns) costs more than everything else about a timer.
const EXACT_ARMS_MAX: u32 = 64;

/// Timers and deadlines that one step expires. So few that what expiring brings into the cache is still there
/// for the callback, and that the kernel is asked in between.
const EXPIRIES_MAX: u32 = 1024;

impl InFlight {
    /// Sets the time of an entry of the table to a delay from now.
    #[inline(always)]
    pub(crate) fn arm(&mut self, token: Token, delay_ns: u64) {
        if !self.in_step && self.exact_arms < EXACT_ARMS_MAX {
            return self.arm_exactly(token, delay_ns);
        }
        self.table[token.index()].deadline_ns = delay_ns;
        if self.wheel.insert_delay(&mut self.table, token.index() as u32) {
            self.resolve_batch();
        }
    }

    #[inline(never)]
    fn arm_exactly(&mut self, token: Token, delay_ns: u64) {
        self.exact_arms += 1;
        let now_ns = self.clock.refresh();
        self.arm_at(token, now_ns.saturating_add(delay_ns));
    }

    #[inline(never)]
    fn resolve_batch(&mut self) {
        self.wheel.resolve(&mut self.table, self.clock.read());
    }

    /// Sets the time of an entry of the table to a moment on the loop's clock.
    pub(crate) fn arm_at(&mut self, token: Token, deadline_ns: u64) {
        self.table[token.index()].deadline_ns = deadline_ns;
        self.wheel.insert(&mut self.table, token.index() as u32);
    }

    /// Marks an armed timer as one that ends in `TimedOut`: its deadline is before its time.
    pub(crate) fn set_timed_out(&mut self, token: Token) {
        self.table[token.index()].flags |= flag::TIMED_OUT;
    }

    /// Moves the time of a timer or a deadline, or sets a deadline where there was none.
    pub(crate) fn reset(&mut self, token: Token, delay_ns: u64) -> bool {
        let Some(entry) = self.get(token) else { return false };
        if entry.flags & (flag::CANCEL | flag::DISARMED) != 0 {
            return false;
        }
        if entry.flags & flag::TIMED_OUT != 0 && entry.state != State::Armed {
            return false;
        }
        // A timer that was to end at its deadline: that goes with its old time.
        entry.flags &= !flag::TIMED_OUT;
        let life_end_ns = entry.life_end_ns();
        if entry.place != Place::NONE {
            self.wheel.remove(&mut self.table, token.index() as u32);
        }
        let life_left_ns = self.life_left_ns(life_end_ns);
        self.arm(token, delay_ns.min(life_left_ns));
        true
    }

    /// What is left of the life of a repeating timer.
    pub(super) fn life_left_ns(&mut self, end_ns: u64) -> u64 {
        if end_ns == NO_DEADLINE { NO_DEADLINE } else { end_ns.saturating_sub(self.clock.refresh()) }
    }

    /// Makes the delays that were armed since the last step count from now.
    pub(crate) fn resolve_delays(&mut self) {
        self.exact_arms = 0;
        if self.wheel.has_unresolved() {
            let now_ns = self.clock.refresh();
            self.wheel.resolve(&mut self.table, now_ns);
        }
    }

    /// When the clock has to be looked at next.
    pub(crate) fn next_event_ns(&self) -> Option<u64> {
        if self.wheel.is_empty() { None } else { self.wheel.next_event_ns() }
    }

    /// Expires what is due. Operations that the backend has to cancel for it are put into `cancel`, as far as
    /// there is room: then `true` says that there may be more.
    pub(crate) fn expire(&mut self, cancel: &mut Vec<Token>) -> bool {
        if self.wheel.is_empty() {
            return false;
        }
        let now_ns = self.clock.refresh();
        let InFlight { wheel, ready, items, items_max, buffer_waiters, .. } = self;
        let (mut more, mut room) = (false, EXPIRIES_MAX);
        wheel.advance(&mut self.table, now_ns, |table, index| {
            if room == 0 {
                return Expiry::Full;
            }
            room -= 1;
            let entry = &mut table[index as usize];
            let token = Token::new(index, entry.sequence);
            let result = match entry.state {
                State::Armed if entry.flags & flag::TIMED_OUT != 0 => -code::DEADLINE,
                State::Armed if entry.is_one_shot_timer() => 0,
                State::Armed => match entry.op_copy() {
                    op if op.kind == OpKind::Notify => {
                        if !notifier::withdraw(&op) {
                            // A notification is on its way: it ends one wait, and several end after it.
                            if op.flags & RawOp::MULTI != 0 {
                                entry.flags |= flag::TIMED_OUT;
                            }
                            return Expiry::Taken;
                        }
                        -code::DEADLINE
                    }
                    op => {
                        if items.len() >= *items_max {
                            return Expiry::Full;
                        }
                        let TimerWords { period_ns: period, end_ns: lifetime, .. } = *op.as_timer();
                        if now_ns >= lifetime {
                            -code::DEADLINE
                        } else {
                            let fixed_delay = op.flags & RawOp::FIXED_DELAY != 0;
                            let missed = if fixed_delay { 0 } else { (now_ns - entry.deadline_ns) / period };
                            let periods = missed.saturating_add(1).min(i32::MAX as u64);
                            entry.deadline_ns =
                                entry.deadline_ns.saturating_add(period.saturating_mul(missed + 1));
                            entry.state = State::Pending;
                            let outcome = Outcome::new(periods as i32);
                            items.push_back(Item { token, outcome, last: true });
                            return Expiry::Taken;
                        }
                    }
                },
                State::AwaitingBuffer => {
                    buffer_waiters.remove(index as usize, buf_pool::buffers_of(&entry.op_copy()).waiters());
                    -code::DEADLINE
                }
                State::Backend => {
                    if entry.flags & flag::ENDING != 0 {
                        return Expiry::Taken;
                    }
                    if cancel.len() == cancel.capacity() {
                        more = true;
                        return Expiry::Full;
                    }
                    entry.flags |= flag::TIMED_OUT;
                    cancel.push(token);
                    return Expiry::Taken;
                }
                State::Pending => {
                    // The time of a repeating timer that was reset meanwhile is no deadline: it fires again
                    // at once.
                    if entry.flags & flag::ENDING == 0 && entry.op_kind() != OpKind::Timer {
                        entry.flags |= flag::TIMED_OUT;
                    }
                    return Expiry::Taken;
                }
            };
            let header = table.remove(index as usize).header;
            // SAFETY: S2: it left the table, so it is on no list.
            unsafe { (*header.as_ptr()).outcome = Outcome::new(result) };
            // SAFETY: S2: as above.
            unsafe { ready.push(header) };
            Expiry::Taken
        });
        more
    }
}
