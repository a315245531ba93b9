//! A simulated kernel: one world, in which several loops can live, with a virtual clock, a network and a file
//! system in memory, and faults that a seed decides. What it is for is told in [`sim`](crate::sim).
//!
//! * [`world`]: how loops, tests, [`peers`] and [`scripts`] reach it.
//! * [`kernel`]: the clock, the events, and the effects that state machines return. [`operations`] is the way of an
//!   operation through it, [`port`] what is between it and a loop, [`request`] what an operation asks for.
//! * [`object`]: what every kind of object answers, and how a kind is added. [`stream`], [`listener`], [`pipe`] and
//!   [`open_file`] are the kinds: state machines, which touch nothing but themselves and return [`effect`]s.
//! * [`socket`], [`connect`], [`file`], [`poll`]: operations, family by family. [`transfer`]: bytes to and from their
//!   memory.
//! * [`network`], [`file_system`]: what objects share. [`inbox`]: what streams of bytes have in common.
//! * [`faults`], [`random`], [`trace`]: what goes wrong, the seed that decides it, and the record of it.
//!
//! Unlike the other backends it allocates.

#![allow(unsafe_code)]

mod connect;
mod effect;
mod faults;
mod file;
mod file_system;
mod handle;
mod inbox;
mod kernel;
mod listener;
mod network;
mod object;
mod open_file;
mod operations;
mod peers;
mod pipe;
mod poll;
mod port;
mod random;
mod request;
mod scripts;
mod socket;
mod stream;
mod trace;
mod transfer;
mod world;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use super::list::Listed;
use super::{Capabilities, Driver, Operations, Options, Wait};
use crate::op::RawOp;
use crate::sim_hooks::{SimContext, VirtualTime};
use crate::sys::errno;
use crate::token::Token;
use crate::waker::Waker;
pub use faults::Faults;
pub(crate) use handle::SimHandle;
pub(crate) use scripts::Question;
use world::Report;
pub use world::SimOptions;
pub(crate) use world::World;

/// One loop's part of a world.
pub(crate) struct Sim {
    world: Rc<World>,
    host: IpAddr,
    /// By which the world knows the loop.
    port: usize,
    waker: Waker,
}

impl Sim {
    /// Nothing in the world will ever end this wait.
    #[cold]
    fn wait_for_threads(&self) -> io::Result<()> {
        if self.waker.clear() {
            return Ok(());
        }
        if !self.world.waits_for_threads() {
            return Err(errno::error(errno::EDEADLK));
        }
        self.waker.wait();
        self.waker.clear();
        Ok(())
    }

    /// There is something to report now.
    fn is_due(&self) -> bool {
        self.next_event_ns().is_some_and(|at_ns| at_ns <= self.world.now_ns())
    }
}

impl Listed for Sim {
    fn new(options: &Options, _capacity: usize, waker: &Waker) -> io::Result<Sim> {
        let handle = options.simulation.as_ref().and_then(|handle| handle.get());
        let (world, host) = handle.ok_or_else(|| errno::error(errno::EINVAL))?;
        let port = world.attach();
        Ok(Sim { world, host, port, waker: waker.clone() })
    }

    fn time(&self) -> VirtualTime {
        VirtualTime::new(self.world.clock())
    }

    fn sim_context(&self) -> Option<SimContext> {
        self.world.context(self.host)
    }

    /// What time brings does not show.
    fn next_event_ns(&self) -> Option<u64> {
        self.world.next_ns_for(self.port)
    }

    fn works_in_process(&self) -> bool {
        true
    }
}

// SAFETY: S3: a world forgets an operation before it delivers its last outcome.
unsafe impl Driver for Sim {
    fn capabilities(&self) -> Capabilities {
        Capabilities { multishot_accept: true, multishot_recv: true, ..Capabilities::default() }
    }

    fn completions_max(&self) -> usize {
        1024
    }

    /// # Safety
    /// As the contract has it.
    unsafe fn submit(&mut self, token: Token, op: *mut RawOp, _: &mut Operations) {
        // SAFETY: S3: the contract.
        unsafe { self.world.submit(self.port, self.host, token, op) };
    }

    fn cancel(&mut self, token: Token, _: &mut Operations) -> bool {
        self.world.cancel(self.port, token);
        true
    }

    fn poll(&mut self, wait: Wait, ops: &mut Operations) -> io::Result<()> {
        self.world.take_time();
        self.world.begin_backlog(self.port);
        let end_ns = match wait {
            Wait::Skip | Wait::Peek => self.world.now_ns(),
            Wait::For { timeout_ns } => self.world.now_ns().saturating_add(timeout_ns),
            Wait::Forever => u64::MAX,
        };
        if wait == (Wait::Peek) {
            // A program polls the descriptor: what made it readable has been seen.
            self.waker.clear();
        }
        let mut count = 0;
        loop {
            let Report { outcomes, scripts_moved } = self.world.report(self.port, ops);
            count += outcomes;
            if ops.has_ready() {
                return Ok(());
            }
            if outcomes > 0 && self.is_due() {
                // What was reported goes on, and has come to its end.
                continue;
            }
            // At the end of its clock a world may wait, but not for time to pass.
            if wait != Wait::Forever && self.world.now_ns() >= end_ns {
                return Ok(());
            }
            if scripts_moved && self.waker.clear() {
                // A script has posted, notified or stopped.
                return Ok(());
            }
            match self.world.next_ns_for(self.port) {
                Some(next_ns) if next_ns <= end_ns => self.world.advance_to(next_ns),
                _ if wait != Wait::Forever => self.world.advance_to(end_ns),
                // What has happened may make the loop do something.
                _ if count > 0 => return Ok(()),
                _ => return self.wait_for_threads(),
            }
        }
    }

    fn flush(&mut self, _: &mut Operations) -> io::Result<()> {
        self.world.begin_backlog(self.port);
        self.world.run_due();
        Ok(())
    }

    /// Other threads make the descriptor readable, and what a peer does. What only time brings does not show.
    fn show(&self, busy: bool, _ops: &Operations) -> bool {
        self.world.embed(self.port, &self.waker);
        busy || self.is_due()
    }

    /// It sends nothing to thread pools.
    fn take_jobs(&mut self, _: &mut Operations) {}
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.world.detach(self.port);
    }
}

impl AsFd for Sim {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}
