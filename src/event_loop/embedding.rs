//! A loop in another one: what its descriptor shows, and when it has to be run.

use std::io;
#[cfg(shows_descriptor)]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use super::Loop;

impl Loop {
    /// Gives new submissions to the kernel without waiting and without running callbacks. `run` does that by
    /// itself; a program that [polls the loop's descriptor](Loop#in-another-loop) does it after it has
    /// submitted, cancelled or reset something outside a callback, if it does not call
    /// [`Loop::next_timeout`] before it waits.
    ///
    /// # Errors
    /// What the kernel says; nothing is lost, the next step tries again.
    pub fn flush(&mut self) -> io::Result<()> {
        self.check_is_at_home()?;
        self.core.ops.resolve_delays();
        self.retry_buffer_waiters();
        let flushed = self.core.backend.flush(&mut self.core.ops);
        if self.core.embedded.get() && !self.core.ops.in_step {
            // A program that waits until the time that it was told has to ask again.
            let sooner = self.core.ops.next_event_ns().is_some_and(|at_ns| at_ns < self.core.told_ns);
            self.show(sooner || flushed.is_err());
        }
        flushed
    }

    /// How long a program that [polls the loop's descriptor](Loop#in-another-loop) may wait before it runs
    /// the loop, if the descriptor does not become readable: until the next timer or deadline, not at all if
    /// there is something to do, `None` without limit. Ask each time before waiting, and round up.
    ///
    /// It gives new submissions to the kernel, as [`Loop::flush`] does. Here the program waits with the crate
    /// `nix` (its feature `poll`):
    ///
    /// ```
    /// use std::os::fd::AsFd;
    /// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    /// use oxev::{Completion, Loop, RunMode, Timer};
    /// use std::time::Duration;
    ///
    /// let mut lp = Loop::new()?;
    /// let timer = Box::new(Completion::new(()));
    /// lp.submit(timer, |_| Timer::after(Duration::from_millis(1)), |_lp, _, fired| fired.unwrap());
    /// while !lp.is_empty() {
    ///     let timeout = lp.next_timeout().map_or(PollTimeout::NONE, |timeout| {
    ///         PollTimeout::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(PollTimeout::MAX)
    ///     });
    ///     poll(&mut [PollFd::new(lp.as_fd(), PollFlags::POLLIN)], timeout)?;
    ///     lp.run(RunMode::NoWait)?;
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn next_timeout(&mut self) -> Option<Duration> {
        if self.is_inherited() {
            // At once: `run` says what is wrong.
            return Some(Duration::ZERO);
        }
        self.core.ops.resolve_delays();
        let unsubmitted = self.core.ops.may_retry_buffer_waiters() || self.core.backend.has_unsubmitted();
        // What `run` will report, too.
        let is_late = unsubmitted && self.flush().is_err();
        if self.core.embedded.get() && !self.core.ops.in_step {
            // What was submitted since the last run may wait for a buffer.
            self.core.ops.watch_returns();
        }
        if is_late || self.has_work() {
            return Some(Duration::ZERO);
        }
        let of_world_ns = self.core.backend.next_event_ns();
        let next_ns = self.core.ops.next_event_ns().into_iter().chain(of_world_ns).min();
        self.core.told_ns = next_ns.unwrap_or(u64::MAX);
        let now_ns = self.core.ops.clock.refresh();
        next_ns.map(|at_ns| Duration::from_nanos(at_ns.saturating_sub(now_ns)))
    }

    /// Whether there is something to do that the backend does not know of.
    pub(super) fn has_work(&self) -> bool {
        self.has_work_at_hand() || self.core.ops.inbox.stop_requested()
    }

    /// Whether there is something to do for the next step.
    pub(super) fn has_work_at_hand(&self) -> bool {
        self.core.ops.has_ready() || self.core.ops.may_retry_buffer_waiters()
    }

    /// Whatever there is to do from now on makes the descriptor readable, or [`Loop::next_timeout`] says when.
    #[cold]
    #[inline(never)]
    pub(super) fn show(&self, busy: bool) {
        let busy = busy || self.has_work();
        if self.core.backend.show(busy, &self.core.ops) {
            self.core.ops.inbox.signal();
        }
        if !busy {
            self.core.ops.watch_returns();
            self.core.ops.inbox.prepare_poll();
        }
    }

    /// As [`Loop::show`], when `run` is over, however it ended.
    #[cold]
    #[inline(never)]
    pub(super) fn show_the_rest(&mut self) {
        if self.is_inherited() {
            return;
        }
        // What made the descriptor readable may still be there, though it will not do so again.
        let busy = !self.core.stepped;
        self.core.ops.resolve_delays();
        self.retry_buffer_waiters();
        let flushed = self.core.backend.flush(&mut self.core.ops);
        self.show(busy || flushed.is_err());
    }
}

/// A descriptor that is readable when there is something to do for [`RunMode::NoWait`](crate::RunMode::NoWait), timers aside: see
/// [in another loop](Loop#in-another-loop). It is the same one each time.
#[cfg(shows_descriptor)]
impl AsFd for Loop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        if self.is_inherited() {
            return self.core.ops.inbox.waker().as_fd();
        }
        // If it runs, it shows what there is when `run` returns.
        if !self.core.embedded.replace(true) && !self.core.ops.in_step {
            self.show(false);
        }
        self.core.backend.as_fd()
    }
}

/// As [`AsFd`] has it.
#[cfg(shows_descriptor)]
impl AsRawFd for Loop {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
