//! `poll(2)`: the selector under the shared readiness backend where the system has nothing better.
//!
//! * [`entries`]: the descriptors that are waited for, in one array.
//! * [`shown`]: what a program polls that has the loop inside another one.
//!
//! The kernel looks at every descriptor that is waited for, in every wait: what a wait costs grows with their
//! number, which is no larger than that of the operations that wait. It tells levels, so a descriptor is in the array
//! only while an operation waits for it, and for just that.
//!
//! A process that lowers its limit of descriptors (`RLIMIT_NOFILE`) below the number of those that are waited for
//! cannot wait any more: `run` fails with `EINVAL`.

mod entries;
mod shown;

use std::cell::{Cell, OnceCell};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::readiness::{Edge, Event, Interest, Selector};
use super::{Wait, Waker};
use crate::descriptor::RawDescriptor;
use crate::sys::errno;
use crate::sys::file::{FileType, file_type};
use crate::sys::poll::{
    POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLWRBAND, POLLWRNORM, wait_ms, wait_ns,
};
use entries::{Entries, Report};
use shown::Shown;

/// How often descriptors are looked at that a wait has to pass over: see [`entries`].
const LOOK_BESIDE_MS: i32 = 10;
const LOOK_BESIDE_NS: u64 = LOOK_BESIDE_MS as u64 * 1_000_000;

pub(crate) struct Poll {
    entries: Entries,
    waker: Waker,
    /// Waits for the program that polls the loop. It is made when there is one.
    shown: OnceCell<Shown>,
    /// What it waits for is not what is in the array.
    is_behind: Cell<bool>,
    /// The system takes timeouts in nanoseconds.
    nanoseconds: bool,
}

impl Poll {
    fn wait_for(&mut self, timeout_ns: u64) -> i32 {
        if self.nanoseconds {
            let count = wait_ns(self.entries.all(), timeout_ns);
            // A system without such a call, or a filter that forbids it.
            if !matches!(-count, errno::ENOSYS | errno::EPERM) {
                return count;
            }
            self.nanoseconds = false;
        }
        // Rounded up: a timer is never early.
        let timeout_ms = i32::try_from(timeout_ns.div_ceil(1_000_000)).unwrap_or(i32::MAX);
        wait_ms(self.entries.all(), timeout_ms)
    }

    fn make_shown(&self) -> io::Result<&Shown> {
        if let Some(shown) = self.shown.get() {
            return Ok(shown);
        }
        let shown = Shown::new(self.entries.capacity(), self.waker.clone())?;
        Ok(self.shown.get_or_init(|| shown))
    }
}

impl Selector for Poll {
    /// All that there are.
    const EVENTS_MAX: usize = usize::MAX;

    const ONE_SHOT: bool = true;

    /// `baseline`: without nanoseconds.
    fn new(baseline: bool, capacity: usize, waker: &Waker) -> io::Result<Poll> {
        Ok(Poll {
            entries: Entries::new(capacity, waker.as_fd().as_raw_fd())?,
            waker: waker.clone(),
            shown: OnceCell::new(),
            is_behind: Cell::new(true),
            nanoseconds: !baseline,
        })
    }

    fn register(
        &mut self,
        fd: RawDescriptor,
        generation: u32,
        interest: Interest,
        _is_known: bool,
    ) -> Result<(), i32> {
        // It would not say that a file has no events, and never report those for which a poll waits.
        if interest.events != 0 && matches!(file_type(fd), Ok(FileType::OnDisk { .. })) {
            return Err(errno::EPERM);
        }
        let read = if interest.read { POLLIN } else { 0 };
        let write = if interest.write { POLLOUT } else { 0 };
        self.is_behind.set(true);
        self.entries.add(fd, generation, read | write | interest.events).map_err(|_| errno::ENOMEM)
    }

    fn deregister(&mut self, fd: RawDescriptor) {
        self.is_behind.set(true);
        self.entries.remove(fd);
    }

    fn wait(&mut self, wait: Wait) -> io::Result<usize> {
        if let Some(shown) = self.shown.get()
            && !self.is_behind.replace(true)
        {
            shown.rest();
        }
        let count = match wait {
            Wait::Skip | Wait::Peek => wait_ms(self.entries.all(), 0),
            Wait::For { timeout_ns } if self.entries.are_passed_over() => {
                self.wait_for(timeout_ns.min(LOOK_BESIDE_NS))
            }
            Wait::Forever if self.entries.are_passed_over() => self.wait_for(LOOK_BESIDE_NS),
            Wait::For { timeout_ns } => self.wait_for(timeout_ns),
            Wait::Forever => wait_ms(self.entries.all(), -1),
        };
        let beside = if self.entries.are_passed_over() { self.entries.look_beside() } else { 0 };
        match -count {
            // A signal came: the loop looks round.
            errno::EINTR | 0 if beside == 0 => Ok(0),
            code @ 1.. if code != errno::EINTR => Err(errno::error(code)),
            _ => Ok(self.entries.len()),
        }
    }

    /// From the end of the array, so that what leaves it moves none that has yet to be examined.
    fn event(&mut self, index: usize) -> Option<Event> {
        match self.entries.take_report(index)? {
            Report::Waker => {
                self.waker.clear();
                None
            }
            Report::Events { fd, generation, events } => {
                // What is closed fails all that wait for it.
                let broken = POLLERR | POLLHUP | POLLNVAL;
                let writable = POLLOUT | POLLWRNORM | POLLWRBAND;
                let edge = Edge {
                    readable: events & !writable != 0,
                    writable: events & (writable | broken) != 0,
                    // What is left after a short transfer is reported by itself.
                    special: false,
                };
                Some(Event { fd, generation, edge })
            }
        }
    }

    /// If there can be no thread that waits, the descriptor is readable all the time: the program looks for itself.
    fn show(&self) -> bool {
        match self.make_shown() {
            Ok(shown) => {
                if self.is_behind.replace(false) {
                    shown.watch(self.entries.descriptors());
                }
                false
            }
            Err(_) => true,
        }
    }

    fn is_behind(&self) -> bool {
        self.shown.get().is_some() && self.is_behind.get()
    }

    fn leave_to_parent(&mut self) {
        if let Some(shown) = self.shown.take() {
            shown.leave_to_parent();
        }
    }
}

impl AsFd for Poll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}
