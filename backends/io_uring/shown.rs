//! The descriptor of a ring for a program that polls it, in whatever way.
//!
//! It is an eventfd, to which the ring writes when something completes, and other threads when they reach the
//! loop. The ring's own descriptor will not do: with deferred task work it is readable to those who look, but
//! does not wake those who wait (seen on Linux 6.18); and who is told of edges would not be told of what one
//! step has left in it.
//!
//! **What is told late, and once.** The kernel does not signal an eventfd while the same thread signals another one,
//! and some kernels do not for any work that a deferring ring puts off (seen on Linux 6.12.117, and not on 6.1 and
//! 6.18). Then it signals after an RCU grace period (up to 16 ms), and once for each time that the eventfd
//! is registered (since Linux 6.11, `io_uring/eventfd.c`: `IO_EVENTFD_OP_SIGNAL_BIT` is set and never cleared). So
//!
//! * other threads do not write to an eventfd that the ring watches, while no thread waits in the ring;
//! * a poll of what may be an eventfd, or hide one, is also given to a selector, which is what the program
//!   polls in place of the eventfd: it is told at once. A read of an eventfd may be told late;
//! * the ring's eventfd is registered anew whenever it has been looked at (which costs 2 µs), so that nothing is
//!   told never.
//!
//! A ring that does not defer its work completes nothing inside of an event.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::stat::fstat;

use super::Operations;
use super::ring::Ring;
use crate::op::RawOp;
use crate::sys::poll::{POLLIN, poll};
use crate::waker::Waker;

pub(super) struct Shown {
    /// Holds the eventfd and the descriptors of polls, if the ring defers its work.
    selector: Option<Epoll>,
    /// A program polls the descriptor.
    is_polled: Cell<bool>,
    /// The selector may hold descriptors of polls.
    holds_polls: Cell<bool>,
    /// The ring knows the eventfd.
    is_registered: Cell<bool>,
}

impl Shown {
    pub(super) fn new(ring: &Ring, waker: &Waker) -> io::Result<Shown> {
        let selector = if ring.is_deferred() {
            let selector = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            selector.add(waker.shown(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
            Some(selector)
        } else {
            None
        };
        let [is_polled, holds_polls, is_registered] = [const { Cell::new(false) }; 3];
        Ok(Shown { selector, is_polled, holds_polls, is_registered })
    }

    pub(super) fn descriptor<'a>(&'a self, waker: &'a Waker) -> BorrowedFd<'a> {
        match &self.selector {
            Some(selector) => selector.0.as_fd(),
            None => waker.shown().as_fd(),
        }
    }

    /// A program polls the descriptor from now on.
    #[inline]
    pub(super) fn begin(&self, ops: &Operations) {
        if !self.is_polled.replace(true) {
            ops.each_poll(|op| self.watch(op));
        }
    }

    /// The ring is about to poll a descriptor.
    #[inline]
    pub(super) fn watch(&self, op: &RawOp) {
        if self.is_polled.get() {
            self.watch_polled(op);
        }
    }

    #[cold]
    fn watch_polled(&self, op: &RawOp) {
        let Some(selector) = &self.selector else { return };
        // SAFETY: S6: the operation borrows the descriptor, so it is open.
        let fd = unsafe { BorrowedFd::borrow_raw(op.fd) };
        // What is an eventfd, or a selector, is of no type that has a name.
        if !fstat(fd).is_ok_and(|facts| facts.st_mode & libc::S_IFMT == 0) {
            return;
        }
        // Once: then it is quiet until the next poll. Who polls the same twice at a time, for this and for
        // that, is told of the first late.
        let events = EpollFlags::from_bits_truncate(op.as_poll().events as i32) | EpollFlags::EPOLLONESHOT;
        let mut event = EpollEvent::new(events, 1);
        // It may be there from before. Where a selector cannot be in another one (`ELOOP`), it is told late.
        let _ = selector.modify(fd, &mut event).or_else(|_| selector.add(fd, event));
        self.holds_polls.set(true);
    }

    /// Makes the descriptor unreadable, and says whether there is something to collect. What comes later makes
    /// it readable by itself.
    pub(super) fn clear(&self, ring: &Ring, waker: &Waker) -> bool {
        if self.selector.is_some() && self.is_registered.replace(false) {
            let _ = ring.unregister_eventfd();
        }
        if !self.is_registered.get() {
            self.is_registered.set(ring.register_eventfd(waker.shown().as_fd().as_raw_fd()).is_ok());
        }
        waker.clear();
        if self.holds_polls.get() {
            self.take_polls();
        }
        // Only now, so that nothing falls in between.
        !self.is_registered.get() || poll(ring.as_fd().as_raw_fd(), POLLIN) != 0
    }

    /// Makes polls quiet that have been told. More than these are another step's.
    fn take_polls(&self) {
        let mut events = [EpollEvent::empty(); 16];
        let _ = self.selector.as_ref().map(|selector| selector.wait(&mut events, EpollTimeout::ZERO));
    }
}
