//! Timers: the operations that users submit. The [`wheel`] that serves them, and every deadline, is the
//! loop's own.

#![allow(unsafe_code)]

pub(crate) mod clock;
pub(crate) mod wheel;

use std::time::{Duration, Instant};

use crate::op::{MultiOp, Op, OpKind, RawOp, duration_to_ns};
use crate::sys::errno;

/// Makes timer operations. A timer is never early; it is late by no more than the step that it waits for, and
/// the wheel's resolution of 1.024 µs. Timers with equal deadlines fire in the order in which they were
/// submitted.
///
/// A delay counts from the moment of the submission or, for a timer that a callback submits, from a moment
/// between that and the end of the step in which the callback ran. The loop's clock ends 584 years after the
/// process made its first loop, that of a simulated world 584 years after the world began: a delay that would
/// end then or later never ends.
///
/// ```
/// use oxev::{Completion, Loop, RunMode, Timer};
/// use std::time::{Duration, Instant};
///
/// let mut lp = Loop::new()?;
/// let start = Instant::now();
/// lp.submit(Box::new(Completion::new(start)), |_| Timer::after(Duration::from_millis(5)), |_, start, fired| {
///     fired.unwrap();
///     assert!(start.elapsed() >= Duration::from_millis(5));
/// });
/// lp.run(RunMode::UntilDone)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Timer(());

impl Timer {
    /// Completes when `delay` has passed.
    pub fn after(delay: Duration) -> Op<'static, ()> {
        Timer::op(duration_to_ns(delay), 0)
    }

    /// Completes at `deadline`, at once if that has passed.
    pub fn at(deadline: Instant) -> Op<'static, ()> {
        Timer::op(clock::instant_to_ns(deadline), RawOp::ABSOLUTE)
    }

    /// Fires every `period` at a **fixed rate**: deadlines are whole periods after the first, however long
    /// the callbacks take. Periods that were missed altogether are not made up for: the item is the number of
    /// periods since the last one, 1 unless some were missed (as with Linux's timerfd).
    ///
    /// A zero period ends the submission with `EINVAL`.
    ///
    /// ```
    /// use oxev::{Action, Completion, Loop, Multi, RunMode, Timer};
    /// use std::time::Duration;
    ///
    /// let mut lp = Loop::new()?;
    /// lp.submit_multi(
    ///     Box::new(Completion::new(Multi::new((), 0))),
    ///     |_| Timer::every(Duration::from_millis(1)),
    ///     |_, ticks: &mut u64, periods| {
    ///         *ticks += periods;
    ///         if *ticks < 3 { Action::Rearm } else { Action::Disarm }
    ///     },
    ///     |_, owner, end| {
    ///         end.unwrap();
    ///         assert!(owner.state >= 3);
    ///     },
    /// );
    /// lp.run(RunMode::UntilDone)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn every(period: Duration) -> MultiOp<'static, u64> {
        Timer::repeating(period, 0)
    }

    /// Fires with a **fixed delay** of `delay` between the end of the step in which one callback ran and the
    /// next firing. The item is always 1.
    ///
    /// A zero delay ends the submission with `EINVAL`.
    pub fn every_after(delay: Duration) -> MultiOp<'static, u64> {
        Timer::repeating(delay, RawOp::FIXED_DELAY)
    }

    fn op(first_ns: u64, flags: u8) -> Op<'static, ()> {
        let mut raw = RawOp::new(OpKind::Timer, -1);
        raw.as_timer_mut().first_ns = first_ns;
        raw.flags = flags;
        // SAFETY: S6: a timer points to nothing and gives `()`.
        unsafe { Op::from_raw(raw) }
    }

    fn repeating(period: Duration, flags: u8) -> MultiOp<'static, u64> {
        if period.is_zero() {
            return MultiOp::repeat(Op::failed(errno::EINVAL));
        }
        let mut raw = RawOp::new(OpKind::Timer, -1);
        let period_ns = duration_to_ns(period);
        (raw.as_timer_mut().first_ns, raw.as_timer_mut().period_ns) = (period_ns, period_ns);
        raw.flags = flags;
        // SAFETY: S6: a timer points to nothing and gives a count of periods.
        MultiOp::repeat(unsafe { Op::from_raw(raw) })
    }
}

// SAFETY: S7: a number of periods is no resource. Only repeating timers give a `u64`.
unsafe impl crate::op::Output for u64 {
    unsafe fn decode(_: &RawOp, outcome: crate::op::Outcome) -> std::io::Result<u64> {
        outcome.count().map(|n| n as u64)
    }
}
