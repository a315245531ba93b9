//! `kqueue(2)`, edge-triggered (`EV_CLEAR`): the selector under the shared readiness backend, on macOS and the BSDs.
//!
//! A kernel event is one filter of one descriptor, so a descriptor has two: for reading and for writing. The changes
//! of one registration go to the kernel in one call, which answers each by itself ([`EV_RECEIPT`]); events come as many
//! at a time as there is room for, and the rest with the next wait. Closing a descriptor takes its events with it.
//!
//! A forked child has no kqueue: its number may be another file's there.
//!
//! Filters for processes, signals and files (`EVFILT_PROC`, `EVFILT_SIGNAL`, `EVFILT_VNODE`) come with their operations;
//! [`Kqueue::event`] is where theirs would be told apart.

#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

#[cfg(kqueue_emulation)]
#[path = "../../tests/kqueue_emulation/mod.rs"]
mod emulation;

#[cfg(kqueue_emulation)]
use emulation as system;
#[cfg(not(kqueue_emulation))]
use kqueue_sys as system;

use super::Wait;
use super::readiness::{Edge, Event, Interest, Selector};
use crate::descriptor::RawDescriptor;
use crate::sys::errno;
use crate::sys::file::{FileType, file_type};
use crate::waker::Waker;
use system::{EventFilter, EventFlag, FilterFlag, kevent};

/// Each change is answered by itself, with an error or zero. All of these systems have it under this number.
const EV_RECEIPT: EventFlag = EventFlag::from_bits_retain(0x0040);

/// Answers are there at once; a call without a time would wait for events, if there were none.
static NO_TIME: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 0 };

/// Events that one wait takes; the rest is for the next.
const EVENTS_MAX: usize = 64;

pub(crate) struct Kqueue {
    /// Not dropped in a forked child.
    descriptor: ManuallyDrop<OwnedFd>,
    events: Box<[kevent]>,
    waker: Waker,
    is_parents: bool,
}

/// An event that stands for nothing yet.
fn blank() -> kevent {
    change(0, EventFilter::EVFILT_READ, EventFlag::empty(), 0)
}

/// A change of one filter of a descriptor. The data of an event are the generation of its file.
fn change(fd: RawDescriptor, filter: EventFilter, flags: EventFlag, generation: u32) -> kevent {
    let mut change = kevent::new(fd as usize, filter, flags, FilterFlag::empty());
    // A pointer to some systems, and an integer to others.
    change.udata = generation as usize as _;
    change
}

/// Whether a device has no events: macOS says the first of these (of `/dev/null` and `/dev/tty`), FreeBSD the second.
fn is_refusal(code: i32) -> bool {
    matches!(code, errno::EINVAL | libc::ENODEV | errno::EOPNOTSUPP | errno::EPERM)
}

impl Kqueue {
    fn fd(&self) -> RawDescriptor {
        self.descriptor.as_raw_fd()
    }

    /// Gives changes to the kernel, and takes its answer to each. The error is an errno.
    fn apply(&self, changes: &mut [kevent]) -> Result<(), i32> {
        let (list, count) = (changes.as_mut_ptr(), changes.len() as _);
        // SAFETY: S8: changes and answers, in the same place, are valid for the length of the call, which reads a
        // change before it writes its answer.
        let answers = unsafe { system::kevent(self.fd(), list, count, list, count, &raw const NO_TIME) };
        if answers < 0 {
            return match errno::last() {
                // kevent(2) of FreeBSD: by then all changes are applied.
                errno::EINTR => Ok(()),
                code => Err(code),
            };
        }
        let refused = changes[..answers as usize].iter().find(|answer| answer.data != 0);
        refused.map_or(Ok(()), |answer| Err(answer.data as i32))
    }

    fn wait_until(&mut self, timeout: *const libc::timespec) -> io::Result<usize> {
        let (events, room) = (self.events.as_mut_ptr(), self.events.len() as _);
        // SAFETY: S8: events and timeout are valid for the length of the call, and there are no changes.
        let count = unsafe { system::kevent(self.fd(), ptr::null(), 0, events, room, timeout) };
        match usize::try_from(count) {
            Ok(count) => Ok(count),
            // A signal came: the loop looks round.
            Err(_) if errno::last() == errno::EINTR => Ok(0),
            Err(_) => Err(errno::error(errno::last())),
        }
    }
}

impl Selector for Kqueue {
    const EVENTS_MAX: usize = EVENTS_MAX;

    fn new(_baseline: bool, _capacity: usize, waker: &Waker) -> io::Result<Kqueue> {
        // SAFETY: S8: no memory is passed.
        let fd = unsafe { system::kqueue() };
        if fd < 0 {
            return Err(errno::error(errno::last()));
        }
        // SAFETY: S7: it was made above.
        let descriptor = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(fd) });
        let events = vec![blank(); EVENTS_MAX].into_boxed_slice();
        let this = Kqueue { descriptor, events, waker: waker.clone(), is_parents: false };
        // SAFETY: S8: no memory is passed. A program that this one becomes does not have it; where the system closes
        // it by itself this changes nothing.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        let flags = EventFlag::EV_ADD | EventFlag::EV_CLEAR | EV_RECEIPT;
        let waker_fd = waker.as_fd().as_raw_fd();
        this.apply(&mut [change(waker_fd, EventFilter::EVFILT_READ, flags, 0)]).map_err(errno::error)?;
        Ok(this)
    }

    fn register(
        &mut self,
        fd: RawDescriptor,
        generation: u32,
        interest: Interest,
        _is_known: bool,
    ) -> Result<(), i32> {
        // A file has an event only where there is something behind its position; it is always ready.
        let file_type = file_type(fd);
        if matches!(file_type, Ok(FileType::OnDisk { .. })) {
            return Err(errno::EPERM);
        }
        let flags = EventFlag::EV_ADD | EventFlag::EV_CLEAR | EV_RECEIPT;
        let mut changes = [blank(), blank()];
        let mut count = 0;
        for (wanted, filter) in
            [(interest.read, EventFilter::EVFILT_READ), (interest.write, EventFilter::EVFILT_WRITE)]
        {
            if wanted {
                // An event that is there already is looked at again, and so reports what it is ready for now.
                changes[count] = change(fd, filter, flags, generation);
                count += 1;
            }
        }
        match self.apply(&mut changes[..count]) {
            // The reader of a pipe is gone: a write says so.
            Err(errno::EPIPE) => Err(errno::EPERM),
            Err(code) if is_refusal(code) && matches!(file_type, Ok(FileType::CharacterDevice)) => {
                Err(errno::EPERM)
            }
            applied => applied,
        }
    }

    fn wait(&mut self, wait: Wait) -> io::Result<usize> {
        let timeout_ns = match wait {
            Wait::Forever => return self.wait_until(ptr::null()),
            Wait::Skip | Wait::Peek => 0,
            Wait::For { timeout_ns } => timeout_ns,
        };
        // Some systems refuse more than this: then the loop looks round once in three years.
        let seconds = (timeout_ns / 1_000_000_000).min(100_000_000);
        let timeout =
            libc::timespec { tv_sec: seconds as libc::time_t, tv_nsec: (timeout_ns % 1_000_000_000) as _ };
        self.wait_until(&raw const timeout)
    }

    fn event(&mut self, index: usize) -> Option<Event> {
        let event = &self.events[index];
        let fd = event.ident as RawDescriptor;
        if fd == self.waker.as_fd().as_raw_fd() {
            self.waker.clear();
            return None;
        }
        let is_over = event.flags.contains(EventFlag::EV_EOF);
        let is_broken = event.flags.contains(EventFlag::EV_ERROR);
        let reads = event.filter == EventFilter::EVFILT_READ;
        let edge = Edge {
            readable: reads || is_broken,
            // A peer that has shut its end down may still read.
            writable: !reads || is_broken,
            // A receive ends short at urgent data, too, and there may be more behind it: no event tells of that
            // on all of these systems.
            special: reads || is_over || is_broken,
        };
        Some(Event { fd, generation: event.udata as usize as u32, edge })
    }

    fn leave_to_parent(&mut self) {
        self.is_parents = !cfg!(kqueue_emulation);
    }
}

impl Drop for Kqueue {
    fn drop(&mut self) {
        if !self.is_parents {
            // SAFETY: S16: it is dropped once, here, in the process that made it.
            unsafe { ManuallyDrop::drop(&mut self.descriptor) };
        }
    }
}

impl AsFd for Kqueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(all(test, kqueue_emulation))]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_a_kqueue_refuses_is_always_ready() {
        let mut kqueue = Kqueue::new(false, 1, &Waker::new(false).unwrap()).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let interest = Interest { read: true, write: true, events: 0 };
        assert_eq!(kqueue.register(null.as_raw_fd(), 1, interest, false), Err(errno::EPERM));
    }

    #[test]
    fn a_descriptor_that_is_not_open_is_not_taken_for_a_device() {
        let mut kqueue = Kqueue::new(false, 1, &Waker::new(false).unwrap()).unwrap();
        let interest = Interest { read: true, write: false, events: 0 };
        assert_eq!(kqueue.register(i32::MAX, 1, interest, false), Err(errno::EBADF));
    }
}
