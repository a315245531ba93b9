//! `epoll(7)`, edge-triggered: the selector under the shared readiness backend.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll as EpollDescriptor, EpollCreateFlags, EpollEvent, EpollFlags};

use super::Wait;
use super::readiness::{Edge, Event, Interest, Selector};
use crate::descriptor::RawDescriptor;
use crate::waker::Waker;

/// Events that one wait takes; the rest is for the next. So few that what the kernel and the loop touch for
/// their receives is still in the cache for the callbacks, and for the sends that those submit; and enough to
/// make the wait cost next to nothing for each.
const EVENTS_MAX: usize = 64;

/// The data of the waker's events. No descriptor has the number -1.
const WAKER: u64 = u64::MAX;

/// `struct __kernel_timespec`: 64 bits also where the C library's has 32.
#[repr(C)]
struct KernelTimespec {
    tv_sec: i64,
    tv_nsec: i64,
}

pub(crate) struct Epoll {
    descriptor: EpollDescriptor,
    events: Box<[EpollEvent]>,
    /// The kernel takes timeouts in nanoseconds: `epoll_pwait2` (Linux 5.11).
    nanoseconds: bool,
}

impl Epoll {
    fn fd(&self) -> RawFd {
        self.descriptor.0.as_raw_fd()
    }

    fn wait_ms(&mut self, timeout_ms: i32) -> i32 {
        let (events, len) = (self.events.as_mut_ptr().cast(), self.events.len() as i32);
        // SAFETY: S8: the events are valid for the length of the call.
        unsafe { libc::epoll_wait(self.fd(), events, len, timeout_ms) }
    }

    fn wait_ns(&mut self, timeout_ns: u64) -> i32 {
        let timeout = KernelTimespec {
            tv_sec: (timeout_ns / 1_000_000_000) as i64,
            tv_nsec: (timeout_ns % 1_000_000_000) as i64,
        };
        let (events, len) = (self.events.as_mut_ptr(), self.events.len());
        let no_mask = std::ptr::null::<libc::sigset_t>();
        // SAFETY: S8: events and timeout are valid for the length of the call, and there is no signal mask.
        let count = unsafe {
            libc::syscall(libc::SYS_epoll_pwait2, self.fd(), events, len, &raw const timeout, no_mask, 0usize)
        };
        count as i32
    }

    fn wait_for(&mut self, timeout_ns: u64) -> i32 {
        if self.nanoseconds {
            let count = self.wait_ns(timeout_ns);
            // An older kernel, or a filter that is older than the call.
            if count >= 0 || !matches!(Errno::last(), Errno::ENOSYS | Errno::EPERM) {
                return count;
            }
            self.nanoseconds = false;
        }
        // Rounded up: a timer is never early.
        let timeout_ms = i32::try_from(timeout_ns.div_ceil(1_000_000)).unwrap_or(i32::MAX);
        self.wait_ms(timeout_ms)
    }
}

impl Selector for Epoll {
    const EVENTS_MAX: usize = EVENTS_MAX;

    /// `baseline`: without `epoll_pwait2`.
    fn new(baseline: bool, _capacity: usize, waker: &Waker) -> io::Result<Epoll> {
        let descriptor = EpollDescriptor::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // It is never read: every write is an edge.
        descriptor.add(waker, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, WAKER))?;
        Ok(Epoll {
            descriptor,
            events: vec![EpollEvent::empty(); EVENTS_MAX].into_boxed_slice(),
            nanoseconds: !baseline,
        })
    }

    fn register(
        &mut self,
        fd: RawDescriptor,
        generation: u32,
        interest: Interest,
        is_known: bool,
    ) -> Result<(), i32> {
        let mut events = EpollFlags::EPOLLET;
        if interest.read {
            events |= EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLPRI;
        }
        if interest.write {
            events |= EpollFlags::EPOLLOUT;
        }
        let mut event = EpollEvent::new(events, u64::from(generation) << 32 | u64::from(fd as u32));
        // SAFETY: S6: an operation borrows the descriptor, so it is open.
        let descriptor = unsafe { BorrowedFd::borrow_raw(fd) };
        // Either may be wrong: the file may have been registered when the number was another file's, or the
        // number may have been made to name another file (dup2). A change, too, reports what it is ready for
        // now.
        let registered = match is_known {
            false => self.descriptor.add(descriptor, event),
            true => self.descriptor.modify(descriptor, &mut event),
        };
        match registered {
            Err(Errno::EEXIST) => self.descriptor.modify(descriptor, &mut event),
            Err(Errno::ENOENT) => self.descriptor.add(descriptor, event),
            registered => registered,
        }
        .map_err(|errno| errno as i32)
    }

    fn wait(&mut self, wait: Wait) -> io::Result<usize> {
        let count = match wait {
            Wait::Skip | Wait::Peek => self.wait_ms(0),
            Wait::For { timeout_ns } => self.wait_for(timeout_ns),
            Wait::Forever => self.wait_ms(-1),
        };
        match usize::try_from(count) {
            Ok(count) => Ok(count),
            // A signal came: the loop looks round.
            Err(_) if Errno::last() == Errno::EINTR => Ok(0),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    fn event(&mut self, index: usize) -> Option<Event> {
        let event = &self.events[index];
        if event.data() == WAKER {
            return None;
        }
        let flags = event.events();
        let broken = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        let special = broken | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLPRI;
        let edge = Edge {
            readable: flags.intersects(EpollFlags::EPOLLIN | special),
            writable: flags.intersects(EpollFlags::EPOLLOUT | broken),
            special: flags.intersects(special),
        };
        Some(Event {
            fd: event.data() as u32 as RawDescriptor,
            generation: (event.data() >> 32) as u32,
            edge,
        })
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.0.as_fd()
    }
}
