//! One step: what was posted is taken, the backend waits, what is ready runs.

#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::rc::Rc;

use super::Loop;
use crate::backends::Wait;
use crate::completion::{Action, Dispatch, Header};
use crate::in_flight::{AfterItem, Delivery, Item};
use crate::inbox::Inbox;
use crate::token::Token;

/// How a step ended.
pub(super) struct Stepped {
    pub(super) callbacks: usize,
    pub(super) woken: bool,
}

/// Until when a step may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Now,
    At(u64),
    Never,
}

impl Loop {
    /// One turn: the doc of [`Loop`] tells it.
    pub(super) fn step(&mut self, limit: Limit) -> io::Result<Stepped> {
        self.check_is_at_home()?;
        self.core.stepped = true;
        let mut woken = self.take_posted();
        self.core.ops.resolve_delays();
        self.retry_buffer_waiters();
        let wait = self.wait_for(if woken { Limit::Now } else { limit });
        let polled = self.core.backend.poll(wait, &mut self.core.ops);
        self.core.ops.clock.invalidate();
        woken |= self.take_posted();
        polled?;
        while self.core.ops.expire(&mut self.core.expired) {
            self.cancel_expired();
        }
        self.cancel_expired();
        let callbacks = self.run_ready();
        Ok(Stepped { callbacks, woken })
    }

    pub(super) fn take_posted(&mut self) -> bool {
        let posted = self.core.ops.inbox.take();
        // SAFETY: S2: the queue gave the list to us.
        unsafe { self.accept_posted(posted.list) };
        posted.woken
    }

    /// # Safety
    /// As [`InFlight::push_posted`].
    pub(super) unsafe fn accept_posted(&mut self, posted: *mut Header) {
        if !posted.is_null() {
            // SAFETY: S2: the caller's promise.
            unsafe { self.core.ops.push_posted(posted) };
            self.core.backend.take_jobs(&mut self.core.ops);
        }
    }

    /// How long this step may wait.
    pub(super) fn wait_for(&mut self, limit: Limit) -> Wait {
        if limit == Limit::Now && self.core.embedded.get() {
            return Wait::Peek;
        }
        if limit == Limit::Now || self.has_work_at_hand() || !Inbox::prepare_sleep(&self.core.ops.inbox) {
            return Wait::Skip;
        }
        let limit_ns = if let Limit::At(limit_ns) = limit { Some(limit_ns) } else { None };
        let until_ns = match (self.core.ops.next_event_ns(), limit_ns) {
            (Some(event_ns), Some(limit_ns)) => event_ns.min(limit_ns),
            (Some(until_ns), None) | (None, Some(until_ns)) => until_ns,
            (None, None) => return Wait::Forever,
        };
        match until_ns.saturating_sub(self.core.ops.clock.refresh()) {
            0 => Wait::Skip,
            timeout_ns => Wait::For { timeout_ns },
        }
    }

    /// Gives receives that waited for a buffer back to the backend, as many as there are buffers.
    #[inline]
    pub(super) fn retry_buffer_waiters(&mut self) {
        if self.core.ops.may_retry_buffer_waiters() {
            self.retry_waiters_of_pools();
        }
    }

    #[cold]
    pub(super) fn retry_waiters_of_pools(&mut self) {
        self.core.ops.returns.take();
        for index in 0..self.core.buf_pools.len() {
            let buffers = Rc::clone(&self.core.buf_pools[index]);
            if buffers.waiters().is_empty() {
                continue;
            }
            for _ in 0..buffers.next_tries() {
                let Some(token) = self.core.ops.next_buffer_waiter(&buffers) else { break };
                self.give_to_backend(token);
            }
            if buffers.has_free() && !buffers.waiters().is_empty() {
                // The next step goes on, unless those that were tried have taken what is free.
                self.core.ops.returns.note();
            }
        }
    }

    pub(super) fn give_to_backend(&mut self, token: Token) {
        if let Some(op) = self.core.ops.op(token).filter(|_| !self.is_inherited()) {
            // SAFETY: S3: the operation is in the table, as the backend's.
            unsafe { self.core.backend.submit(token, op, &mut self.core.ops) };
        }
    }

    /// Runs the callbacks of what is ready now, and says how many. A callback may submit, cancel and stop, so
    /// nothing is remembered across one but counts.
    pub(super) fn run_ready(&mut self) -> usize {
        let (items, ready) = (self.core.ops.items_len(), self.core.ops.ready_len());
        let mut callbacks = 0;
        for _ in 0..items {
            if self.core.ops.inbox.stop_requested() {
                return callbacks;
            }
            callbacks += usize::from(self.run_item());
        }
        let words = self.core.ops.words();
        for _ in 0..ready {
            // SAFETY: S16: the words live as long as the loop, which runs.
            if unsafe { words.as_ref() }.is_to_stop() {
                return callbacks;
            }
            let Some(header) = self.core.ops.pop_ready() else { return callbacks };
            // SAFETY: S2: it was on the ready list, so it is ours to complete.
            unsafe { Header::complete(header, Dispatch::End(self)) };
            callbacks += 1;
        }
        callbacks
    }

    /// Runs the item callback of the next item, if it needs one.
    pub(super) fn run_item(&mut self) -> bool {
        let Some((item, delivery)) = self.core.ops.pop_item() else { return false };
        match delivery {
            Delivery::Nothing => {}
            Delivery::Discard(header) => {
                // SAFETY: S2: the operation is in the table; the outcome in its header is for its type.
                unsafe { Header::complete(header, Dispatch::DiscardItem) };
            }
            Delivery::Item(header) => {
                self.core.of_item = Some(item.token);
                let mut guard = ItemGuard { lp: self, item, rearm: false };
                // SAFETY: S2: the operation is in the table; the outcome in its header is for its type.
                let action = unsafe { Header::complete(header, Dispatch::Item(guard.lp)) };
                guard.rearm = action == Action::Rearm;
                return true;
            }
        }
        self.after_item(item, true);
        false
    }

    pub(super) fn after_item(&mut self, item: Item, rearm: bool) {
        match self.core.ops.after_item(item, rearm) {
            AfterItem::Nothing => {}
            AfterItem::AskBackendToCancel => _ = self.cancel_in_backend(item.token),
            AfterItem::GiveToBackend => self.give_to_backend(item.token),
        }
    }

    /// A notifier's header has come off the ready list.
    ///
    /// # Safety
    /// It is on no list (S2), and came from the queue.
    pub(crate) unsafe fn accept_notifier(&mut self, header: NonNull<Header>) {
        // SAFETY: S2: the caller's promise.
        unsafe { self.core.ops.accept_notifier(header) };
    }
}

/// Does what follows an item also if its callback panics: then the operation ends.
struct ItemGuard<'a> {
    lp: &'a mut Loop,
    item: Item,
    rearm: bool,
}

impl Drop for ItemGuard<'_> {
    fn drop(&mut self) {
        self.lp.core.of_item = None;
        self.lp.after_item(self.item, self.rearm);
    }
}
