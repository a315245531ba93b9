//! `poll_oneoff` of WASI, preview 1: the selector under the shared readiness backend.
//!
//! A call takes the whole list of what is waited for, as `poll(2)` does, and tells levels: a descriptor is in the list
//! only while an operation waits for it. An empty list is an error (`EINVAL`), so it is never passed; a descriptor
//! that is bad is one of the whole call (`EBADF`), so that one is looked for, and reported.
//!
//! There is one thread: nothing but a descriptor or the time ends a wait, and one that nothing can end is an error
//! (`EDEADLK`).

#![allow(unsafe_code)]

use std::io;

use wasip1::{
    CLOCKID_MONOTONIC, ERRNO_BADF, ERRNO_SUCCESS, EVENTTYPE_CLOCK, EVENTTYPE_FD_READ, EVENTTYPE_FD_WRITE,
    Event as RawEvent, EventFdReadwrite, Eventtype, Subscription, SubscriptionClock, SubscriptionFdReadwrite,
    SubscriptionU, SubscriptionUU,
};

use super::readiness::{Edge, Event, Interest, Selector};
use super::{Wait, Waker};
use crate::descriptor::RawDescriptor;
use crate::memory;
use crate::sys::errno;
use crate::sys::poll::{POLLIN, POLLOUT};

/// The user data of the timeout. No descriptor has the number -1.
const TIMEOUT: u64 = u64::MAX;

/// A descriptor that operations wait for.
struct Entry {
    fd: RawDescriptor,
    generation: u32,
    read: bool,
    write: bool,
}

pub(crate) struct PollOneoff {
    entries: Vec<Entry>,
    /// The list for a call, which is written anew for each: two for each entry, and the timeout.
    subscriptions: Vec<Subscription>,
    events: Vec<RawEvent>,
    waker: Waker,
}

impl PollOneoff {
    fn list(&mut self, timeout_ns: Option<u64>) {
        self.subscriptions.clear();
        for entry in &self.entries {
            if entry.read {
                self.subscriptions.push(readiness(entry, EVENTTYPE_FD_READ));
            }
            if entry.write {
                self.subscriptions.push(readiness(entry, EVENTTYPE_FD_WRITE));
            }
        }
        self.subscriptions.extend(timeout_ns.map(timeout));
    }

    fn call(&mut self) -> io::Result<usize> {
        self.events.clear();
        let (list, count) = (self.subscriptions.as_ptr(), self.subscriptions.len());
        let events = self.events.as_mut_ptr();
        // SAFETY: S8: the list is valid for the length of the call, and there is room for as many events.
        match unsafe { wasip1::poll_oneoff(list, events, count) } {
            Ok(count) => {
                // SAFETY: S8: this many were written.
                unsafe { self.events.set_len(count) };
                Ok(count)
            }
            Err(ERRNO_BADF) => self.report_bad(),
            Err(code) => Err(errno::error(i32::from(code.raw()))),
        }
    }

    /// Reports the descriptors for which the call failed: the operations that wait there find out.
    #[cold]
    fn report_bad(&mut self) -> io::Result<usize> {
        for entry in &self.entries {
            // SAFETY: S8: no memory is passed.
            if unsafe { wasip1::fd_fdstat_get(entry.fd as u32) }.is_err() {
                self.events.push(RawEvent {
                    userdata: name(entry),
                    error: ERRNO_BADF,
                    type_: EVENTTYPE_FD_READ,
                    fd_readwrite: EventFdReadwrite { nbytes: 0, flags: 0 },
                });
            }
        }
        match self.events.len() {
            0 => Err(errno::error(errno::EBADF)),
            count => Ok(count),
        }
    }
}

fn name(entry: &Entry) -> u64 {
    u64::from(entry.generation) << 32 | u64::from(entry.fd as u32)
}

fn readiness(entry: &Entry, event: Eventtype) -> Subscription {
    let fd_read = SubscriptionFdReadwrite { file_descriptor: entry.fd as u32 };
    // Those for reading and for writing are the same.
    let u = SubscriptionU { tag: event.raw(), u: SubscriptionUU { fd_read } };
    Subscription { userdata: name(entry), u }
}

fn timeout(timeout_ns: u64) -> Subscription {
    let clock = SubscriptionClock { id: CLOCKID_MONOTONIC, timeout: timeout_ns, precision: 0, flags: 0 };
    Subscription {
        userdata: TIMEOUT,
        u: SubscriptionU { tag: EVENTTYPE_CLOCK.raw(), u: SubscriptionUU { clock } },
    }
}

impl Selector for PollOneoff {
    /// All that there are.
    const EVENTS_MAX: usize = usize::MAX;

    const ONE_SHOT: bool = true;

    fn new(_baseline: bool, capacity: usize, waker: &Waker) -> io::Result<PollOneoff> {
        let list_max = 2 * capacity + 1;
        Ok(PollOneoff {
            entries: memory::list(capacity)?,
            subscriptions: memory::list(list_max)?,
            events: memory::list(list_max)?,
            waker: waker.clone(),
        })
    }

    fn register(
        &mut self,
        fd: RawDescriptor,
        generation: u32,
        interest: Interest,
        _is_known: bool,
    ) -> Result<(), i32> {
        let read = interest.read || interest.events & POLLIN != 0;
        let write = interest.write || interest.events & POLLOUT != 0;
        if !read && !write {
            // The system tells of nothing else.
            return Err(errno::EPERM);
        }
        match self.entries.iter_mut().find(|entry| entry.fd == fd) {
            Some(entry) if entry.generation == generation => {
                entry.read |= read;
                entry.write |= write;
            }
            Some(entry) => *entry = Entry { fd, generation, read, write },
            None => self.entries.push(Entry { fd, generation, read, write }),
        }
        Ok(())
    }

    fn deregister(&mut self, fd: RawDescriptor) {
        if let Some(place) = self.entries.iter().position(|entry| entry.fd == fd) {
            self.entries.swap_remove(place);
        }
    }

    fn wait(&mut self, wait: Wait) -> io::Result<usize> {
        let timeout_ns = match wait {
            _ if self.waker.clear() => Some(0),
            Wait::Skip | Wait::Peek => Some(0),
            Wait::For { timeout_ns } => Some(timeout_ns),
            Wait::Forever => None,
        };
        if self.entries.is_empty() && timeout_ns.is_none() {
            return Err(errno::error(errno::EDEADLK));
        }
        if self.entries.is_empty() && timeout_ns == Some(0) {
            return Ok(0);
        }
        self.list(timeout_ns);
        self.call()
    }

    fn event(&mut self, index: usize) -> Option<Event> {
        let RawEvent { userdata, error, type_, .. } = *self.events.get(index)?;
        if userdata == TIMEOUT {
            return None;
        }
        let (fd, generation) = (userdata as u32 as RawDescriptor, (userdata >> 32) as u32);
        self.deregister(fd);
        let is_broken = error != ERRNO_SUCCESS;
        let edge = Edge {
            readable: is_broken || type_ == EVENTTYPE_FD_READ,
            writable: is_broken || type_ == EVENTTYPE_FD_WRITE,
            // What is left after a short transfer is reported by itself.
            special: false,
        };
        Some(Event { fd, generation, edge })
    }
}
