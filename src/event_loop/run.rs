//! Running: for how long, and what ends it.

use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::Loop;
use super::step::Limit;
use crate::op::duration_to_ns;
use crate::sim_hooks::{self, Entered};
use crate::sync::Arc;
use crate::sys::errno;

/// How long [`Loop::run`] runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunMode {
    /// Until nothing is in flight, background operations aside.
    UntilDone,
    /// Until [`Loop::stop`] or [`LoopHandle::stop`](crate::LoopHandle::stop), whether anything is in flight or not: for a server. If
    /// nothing is in flight and no [`LoopHandle`](crate::LoopHandle) or [`Notifier`](crate::Notifier) is left, so that nothing could
    /// end the wait, `run` fails with `EDEADLK`.
    UntilStop,
    /// Until at least one callback has run, or another thread has called [`LoopHandle::wake`](crate::LoopHandle::wake); waits for that.
    Once,
    /// One step, without waiting: what is ready now.
    NoWait,
}

/// How a loop's turn among others went.
#[cfg(feature = "sim")]
pub(crate) struct Turn {
    /// It has done something, or has something to do at once.
    pub(crate) busy: bool,
    /// A caller asked it to stop.
    pub(crate) stopped: bool,
}

impl Loop {
    /// Makes `run` return as soon as the callback that is running, if any, has returned; if the loop is not
    /// running, the next `run` returns at once. Callbacks that were ready and
    /// have not run yet are left to the `run` after that.
    pub fn stop(&mut self) {
        self.core.ops.inbox.request_stop();
        if self.core.embedded.get() && !self.core.ops.in_step && !self.is_inherited() {
            self.show(true);
        }
    }

    /// Runs the loop.
    ///
    /// # Errors
    /// `EDEADLK` inside a callback: a loop cannot run in itself. What the kernel says if waiting fails
    /// altogether.
    ///
    /// # Panics
    /// A panic of a callback comes through. The loop can be run again afterwards; the owner that the callback
    /// had is dropped by unwinding.
    pub fn run(&mut self, mode: RunMode) -> io::Result<()> {
        let mut lp = Running::enter(self)?;
        loop {
            if lp.take_stop() {
                return lp.check_is_at_home();
            }
            let done = match mode {
                RunMode::NoWait => lp.step(Limit::Now).map(|_| true)?,
                RunMode::Once => {
                    let idle = lp.core.ops.len() == 0;
                    let stepped = lp.step(if idle { Limit::Now } else { Limit::Never })?;
                    idle || stepped.callbacks > 0 || stepped.woken
                }
                RunMode::UntilDone if lp.core.ops.active() == 0 => true,
                RunMode::UntilStop if lp.is_out_of_reach() => return Err(errno::error(errno::EDEADLK)),
                RunMode::UntilDone | RunMode::UntilStop => {
                    lp.step(Limit::Never)?;
                    false
                }
            };
            if done {
                lp.take_stop();
                return lp.check_is_at_home();
            }
        }
    }

    /// Runs the loop for `duration`, or until nothing is in flight, background operations aside. It looks
    /// round once in any case: if only background operations are in flight, for what is ready now.
    ///
    /// # Errors
    /// As [`Loop::run`].
    ///
    /// # Panics
    /// As [`Loop::run`].
    pub fn run_for(&mut self, duration: Duration) -> io::Result<()> {
        let mut lp = Running::enter(self)?;
        lp.steps_for(duration)?;
        lp.take_stop();
        lp.check_is_at_home()
    }

    /// Steps until the time has passed, nothing is in flight, background operations aside, or a stop.
    pub(super) fn steps_for(&mut self, duration: Duration) -> io::Result<()> {
        let end_ns = self.core.ops.clock.refresh().saturating_add(duration_to_ns(duration));
        while !self.take_stop() {
            let is_active = self.core.ops.active() > 0;
            self.step(if is_active { Limit::At(end_ns) } else { Limit::Now })?;
            // A callback may have submitted something.
            if self.core.ops.active() == 0 || self.core.ops.clock.refresh() >= end_ns {
                break;
            }
        }
        Ok(())
    }

    /// Nothing is in flight, and no other thread can bring anything.
    pub(super) fn is_out_of_reach(&self) -> bool {
        self.is_empty() && Arc::strong_count(&self.core.ops.inbox) == 1 && !self.has_work()
    }

    /// Operations that keep it running.
    #[cfg(feature = "sim")]
    pub(crate) fn active(&self) -> usize {
        self.core.ops.active()
    }

    /// When its next timer or deadline is due.
    #[cfg(feature = "sim")]
    pub(crate) fn next_timer_ns(&mut self) -> Option<u64> {
        self.core.ops.resolve_delays();
        self.core.ops.next_event_ns()
    }

    /// One step without waiting.
    #[cfg(feature = "sim")]
    pub(crate) fn turn(&mut self) -> io::Result<Turn> {
        let mut lp = Running::enter(self)?;
        let stepped = if lp.take_stop() { None } else { Some(lp.step(Limit::Now)?) };
        let stopped = lp.take_stop() || stepped.is_none();
        let busy = lp.core.ops.has_ready() || stepped.is_some_and(|s| s.callbacks > 0 || s.woken);
        Ok(Turn { busy, stopped })
    }

    pub(super) fn take_stop(&mut self) -> bool {
        let stop = self.core.ops.inbox.stop_requested();
        if stop && !self.is_inherited() {
            self.core.ops.inbox.take_stop_request();
            // The wake-up that may have come with it is not for the next `run`.
            self.take_posted();
        }
        stop
    }
}

/// A loop while it runs; however `run` ends, it can be run again afterwards.
pub(super) struct Running<'a> {
    lp: &'a mut Loop,
    /// The loop's world, if it has one.
    _entered: Entered,
}

impl<'a> Running<'a> {
    pub(super) fn enter(lp: &'a mut Loop) -> io::Result<Running<'a>> {
        lp.check_is_at_home()?;
        if std::mem::replace(&mut lp.core.ops.in_step, true) {
            return Err(errno::error(errno::EDEADLK));
        }
        lp.core.stepped = false;
        lp.core.ops.returns.watch(false);
        let entered = sim_hooks::enter(lp.core.backend.sim_context());
        Ok(Running { lp, _entered: entered })
    }
}

impl Deref for Running<'_> {
    type Target = Loop;
    fn deref(&self) -> &Loop {
        self.lp
    }
}

impl DerefMut for Running<'_> {
    fn deref_mut(&mut self) -> &mut Loop {
        self.lp
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.lp.core.ops.in_step = false;
        self.lp.core.finishing = false;
        if self.lp.core.embedded.get() {
            self.lp.show_the_rest();
        }
    }
}
