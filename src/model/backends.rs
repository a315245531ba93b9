//! In place of `backends/mod.rs` in models: the contract, kept by a backend without a kernel. Its operations end
//! when they are cancelled, its waits when the loop is woken.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::panicking;
use std::time::Duration;

use crate::buf_pool::Buffers;
use crate::in_flight::InFlight;
use crate::leak::Holder;
use crate::op::{Outcome, RawOp};
use crate::sim_hooks::{SimContext, VirtualTime};
use crate::sys::errno;
use crate::thread_pool::ThreadPool;
use crate::token::Token;

use crate::waker::Waker;
pub(crate) use driver::Wait;

#[path = "../../backends/driver.rs"]
mod driver;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    Sim,
    Model,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownKind(());

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoWorkers {}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {}

pub(crate) const ENTRIES_MAX: u32 = 1 << 15;

#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) kind: Option<Kind>,
    pub(crate) entries: Option<u32>,
    pub(crate) baseline: bool,
    pub(crate) iowait: bool,
    pub(crate) io_workers: Option<[u32; 2]>,
    pub(crate) pool: Option<ThreadPool>,
}

pub(crate) struct Backend {
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
pub(crate) fn poll_descriptor() {
    let waker = DESCRIPTOR.with_borrow(Option::clone).expect("there is a loop");
    waker.wait();
}

impl Backend {
    pub(crate) fn new(_: &Options, _: usize) -> io::Result<(Backend, Waker)> {
        let waker = Waker::new();
        DESCRIPTOR.set(Some(waker.clone()));
        Ok((Backend { waker: waker.clone(), waits: 0, polled: Cell::new(false) }, waker))
    }

    pub(crate) fn kind(&self) -> Kind {
        Kind::Model
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    pub(crate) fn time(&self) -> VirtualTime {
        VirtualTime::default()
    }

    pub(crate) fn sim_context(&self) -> Option<SimContext> {
        None
    }

    pub(crate) fn next_event_ns(&self) -> Option<u64> {
        None
    }

    pub(crate) fn completions_max(&self) -> usize {
        4
    }

    /// # Safety
    /// As the contract has it.
    pub(crate) unsafe fn submit(&mut self, _: Token, _: *mut RawOp, _: &mut InFlight) {}

    pub(crate) fn cancel(&mut self, token: Token, ops: &mut InFlight) -> bool {
        let _ = ops.complete(token, Outcome::new(-errno::ECANCELED));
        true
    }

    /// Time does not pass: a wait that has a limit ends by a wake-up, too.
    pub(crate) fn poll(&mut self, wait: Wait, _: &mut InFlight) -> io::Result<()> {
        if !matches!(wait, Wait::Skip | Wait::Peek) {
            self.waits += 1;
            self.waker.wait();
        }
        self.waker.clear();
        Ok(())
    }

    pub(crate) fn has_unsubmitted(&mut self) -> bool {
        false
    }

    pub(crate) fn show(&self, busy: bool, _: &InFlight) -> bool {
        busy
    }

    pub(crate) fn flush(&mut self, _: &mut InFlight) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn take_jobs(&mut self, _: &mut InFlight) {}

    pub(crate) fn holder(&self) -> Holder {
        Holder::Kernel
    }

    pub(crate) fn works_in_process(&self) -> bool {
        true
    }

    pub(crate) fn leave_to_parent(&mut self) {}

    pub(crate) fn release_pool(&mut self, _: Duration) {}

    pub(crate) fn register_buffers(&mut self, _: &mut Buffers) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn unregister_buffers(&mut self, _: &Buffers) {}
}

impl AsFd for Backend {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.polled.set(true);
        // SAFETY: S7: nobody uses it; standard input is as good as any.
        unsafe { BorrowedFd::borrow_raw(0) }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if !self.polled.get() && !panicking() {
            assert!(self.waker.count() <= self.waits, "a superfluous system call");
        }
    }
}
