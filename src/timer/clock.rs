//! The monotonic clock in nanoseconds, and its relation to [`Instant`].

#![allow(unsafe_code)]

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// One moment on both clocks, taken when the process first makes a loop.
fn epoch() -> (Instant, u64) {
    static EPOCH: OnceLock<(Instant, u64)> = OnceLock::new();
    *EPOCH.get_or_init(|| (Instant::now(), monotonic_ns()))
}

/// Nanoseconds of `CLOCK_MONOTONIC`: `clock_gettime(2)`, about 30 ns.
fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: S8: `now` is a valid timespec for the length of the call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    debug_assert_eq!(status, 0);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The loop clock's time of an instant. Instants before the first loop are clamped to the epoch.
pub(crate) fn instant_to_ns(instant: Instant) -> u64 {
    let (base, base_ns) = epoch();
    base_ns.saturating_add(crate::op::duration_to_ns(instant.saturating_duration_since(base)))
}

/// A cached reading of the clock: read when someone asks for the time for the first time in a step.
#[derive(Debug)]
pub(crate) struct Clock {
    now_ns: Cell<u64>,
    stale: Cell<bool>,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        epoch();
        Clock { now_ns: Cell::new(monotonic_ns()), stale: Cell::new(false) }
    }

    /// The time in this step.
    pub(crate) fn now_ns(&self) -> u64 {
        if self.stale.get() { self.refresh() } else { self.now_ns.get() }
    }

    /// The last reading, however old: for figures that may be off by a step.
    pub(crate) fn last_ns(&self) -> u64 {
        self.now_ns.get()
    }

    /// Reads the clock, without moving the time of the step.
    pub(crate) fn read(&self) -> u64 {
        monotonic_ns()
    }

    /// Reads the clock.
    pub(crate) fn refresh(&self) -> u64 {
        let now_ns = self.read();
        self.now_ns.set(now_ns);
        self.stale.set(false);
        now_ns
    }

    /// Time may have passed.
    pub(crate) fn invalidate(&self) {
        self.stale.set(true);
    }

    pub(crate) fn now(&self) -> Instant {
        let (base, base_ns) = epoch();
        base + Duration::from_nanos(self.now_ns().saturating_sub(base_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_and_nanoseconds_agree() {
        let clock = Clock::new();
        let early = clock.now();
        clock.invalidate();
        let ns = clock.now_ns();
        assert_eq!(instant_to_ns(clock.now()), ns);
        assert!(clock.now() >= early);
    }
}
