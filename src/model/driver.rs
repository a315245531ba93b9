//! The driver that a loop has in models: the contract, kept without a kernel. Its operations end when they are cancelled,
//! its waits when the loop is woken.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::panicking;

use crate::backends::{Driver, Operations, Wait};
use crate::op::{Outcome, RawOp};
use crate::sys::errno;
use crate::token::Token;
use crate::waker::Waker;

pub(super) struct Model {
    waker: Waker,
    /// How often the loop has waited.
    waits: usize,
    polled: Cell<bool>,
}

thread_local! {
    /// The event of the loop that was made last. All threads of a model are one.
    static DESCRIPTOR: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

/// As `poll(2)` on the descriptor of the loop that was made last.
pub(super) fn poll_descriptor() {
    let waker = DESCRIPTOR.with_borrow(Option::clone).expect("there is a loop");
    waker.wait();
}

impl Model {
    pub(super) fn make(_capacity: usize, waker: Waker) -> io::Result<Box<dyn Driver>> {
        DESCRIPTOR.set(Some(waker.clone()));
        Ok(Box::new(Model { waker, waits: 0, polled: Cell::new(false) }))
    }
}

// SAFETY: S3: nothing of an operation is kept.
unsafe impl Driver for Model {
    fn completions_max(&self) -> usize {
        4
    }

    unsafe fn submit(&mut self, _: Token, _: *mut RawOp, _: &mut Operations) {}

    fn cancel(&mut self, token: Token, ops: &mut Operations) -> bool {
        let _ = ops.complete(token, Outcome::new(-errno::ECANCELED));
        true
    }

    /// Time does not pass: a wait that has a limit ends by a wake-up, too.
    fn poll(&mut self, wait: Wait, _: &mut Operations) -> io::Result<()> {
        if !matches!(wait, Wait::Skip | Wait::Peek) {
            self.waits += 1;
            self.waker.wait();
        }
        self.waker.clear();
        Ok(())
    }

    fn flush(&mut self, _: &mut Operations) -> io::Result<()> {
        Ok(())
    }

    fn has_unsubmitted(&mut self) -> bool {
        false
    }
}

impl AsFd for Model {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.polled.set(true);
        // SAFETY: S7: nothing uses it; standard input is as good as any.
        unsafe { BorrowedFd::borrow_raw(0) }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        if !self.polled.get() && !panicking() {
            assert!(self.waker.count() <= self.waits, "a superfluous system call");
        }
    }
}
