//! The end of a loop: everything is cancelled, the kernel lets go, the owners are dropped. And its copy in a forked child.

#![allow(unsafe_code)]

use std::io;
use std::time::Instant;

use super::{Core, Loop};
use crate::backends::Wait;
use crate::completion::{Dispatch, Header};
use crate::in_flight::Delivery;
use crate::inbox::Inbox;
use crate::leak;
use crate::op::{Outcome, Server, duration_to_ns};
use crate::sys::errno;

impl Loop {
    /// This process is a forked child of the one that made the loop.
    pub(super) fn is_inherited(&self) -> bool {
        self.core.ops.inbox.home().is_inherited()
    }

    /// `EINVAL` in a forked child.
    pub(super) fn check_is_at_home(&self) -> io::Result<()> {
        if self.is_inherited() { Err(errno::error(errno::EINVAL)) } else { Ok(()) }
    }

    /// In a forked child: ends everything in flight without a word to the kernel, which works in the memory of
    /// the parent. What a worker had begun is left as it is, for the worker is not there.
    pub(super) fn drain_inherited(&mut self) {
        let works_in_process = self.core.backend.works_in_process();
        let mut cursor = 0;
        while let Some(token) = self.core.ops.next_to_drain(&mut cursor) {
            if self.core.ops.op_kind(token).is_some_and(|kind| kind.facts().server == Server::Workers) {
                self.core.ops.withdraw(token);
            } else if !works_in_process {
                let _ = self.core.ops.complete(token, Outcome::new(-errno::ECANCELED));
            }
        }
        self.core.backend.leave_to_parent();
        let posted = self.core.ops.inbox.close();
        // SAFETY: S2: the queue gave the list to us.
        unsafe { self.core.ops.push_posted(posted) };
        while self.core.ops.items_len() > 0 {
            self.discard_item();
        }
    }

    /// Ends everything in flight, and says how many operations did not end in time.
    pub(super) fn drain(&mut self) -> usize {
        let mut cursor = 0;
        while let Some(token) = self.core.ops.next_to_drain(&mut cursor) {
            self.cancel_in_backend(token);
        }
        self.drain_backend();
        // Only now: work comes back from thread pools through the queue, too.
        let posted = self.core.ops.inbox.close();
        // SAFETY: S2: the queue gave the list to us.
        unsafe { self.accept_posted(posted) };
        while self.core.ops.items_len() > 0 {
            self.discard_item();
        }
        self.core.ops.in_backend()
    }

    /// Waits until no operation is in flight any more, or for as long as that may take.
    pub(super) fn drain_backend(&mut self) {
        let end_ns = self.core.ops.clock.refresh().saturating_add(duration_to_ns(self.core.drain_timeout));
        loop {
            while self.core.ops.items_len() > 0 {
                self.discard_item();
            }
            let now_ns = self.core.ops.clock.refresh();
            if self.core.ops.in_backend() == 0 || now_ns >= end_ns {
                return;
            }
            let wait = match Inbox::prepare_sleep(&self.core.ops.inbox) {
                true => Wait::For { timeout_ns: (end_ns - now_ns).min(100_000_000) },
                false => Wait::Skip,
            };
            let polled = self.core.backend.poll(wait, &mut self.core.ops);
            self.take_posted();
            if polled.is_err() {
                return;
            }
        }
    }

    pub(super) fn discard_item(&mut self) {
        let Some((item, delivery)) = self.core.ops.pop_item() else { return };
        if let Delivery::Item(header) | Delivery::Discard(header) = delivery {
            // SAFETY: S2: the operation is in the table; the outcome in its header is for its type.
            unsafe { Header::complete(header, Dispatch::DiscardItem) };
        }
        self.core.ops.after_item(item, true);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        /// Drops owners, the rest also if one of them panics; and parts with the thread pool of the backend.
        struct DropOwners<'a> {
            core: &'a mut Core<[()]>,
            begin: Instant,
        }
        impl DropOwners<'_> {
            fn drop_all(&mut self) {
                while let Some(header) = self.core.ops.pop_ready() {
                    // SAFETY: S2: it was on the ready list, so it is ours to complete.
                    unsafe { Header::complete(header, Dispatch::DropOwner) };
                }
            }
        }
        impl Drop for DropOwners<'_> {
            fn drop(&mut self) {
                self.drop_all();
                let left = self.core.drain_timeout.saturating_sub(self.begin.elapsed());
                self.core.backend.release_pool(left);
            }
        }

        let begin = Instant::now();
        self.core.ops.returns.detach();
        if self.is_inherited() {
            self.drain_inherited();
        } else if self.drain() > 0 {
            // S1: the kernel, or a worker, may still write to their memory.
            leak::report(self.core.ops.iter(), self.core.backend.holder(), self.core.drain_timeout);
            self.core.buf_pools.drain(..).for_each(std::mem::forget);
        }
        DropOwners { core: &mut self.core, begin }.drop_all();
    }
}
