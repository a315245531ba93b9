//! The monotonic clock in nanoseconds, and its relation to [`Instant`].

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::sim_hooks::VirtualTime;
use crate::sys::clock::monotonic_ns;

/// One moment on both clocks, taken when the process first makes a loop.
fn epoch() -> (Instant, u64) {
    static EPOCH: OnceLock<(Instant, u64)> = OnceLock::new();
    *EPOCH.get_or_init(|| (Instant::now(), monotonic_ns()))
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
    /// A simulated world's time, which begins at zero.
    time: VirtualTime,
}

impl Clock {
    pub(crate) fn new(time: VirtualTime) -> Clock {
        epoch();
        let now_ns = time.now_ns().unwrap_or_else(monotonic_ns);
        Clock { now_ns: Cell::new(now_ns), stale: Cell::new(false), time }
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
        self.time.now_ns().unwrap_or_else(monotonic_ns)
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

    /// A world's time counts from the epoch, so that its instants are some time near now.
    pub(crate) fn now(&self) -> Instant {
        let (base, base_ns) = epoch();
        let begin_ns = if self.time.now_ns().is_some() { 0 } else { base_ns };
        base + Duration::from_nanos(self.now_ns().saturating_sub(begin_ns))
    }

    /// This clock's time of an instant of which [`instant_to_ns`] was made.
    pub(crate) fn at(&self, instant_ns: u64) -> u64 {
        if self.time.now_ns().is_some() { instant_ns.saturating_sub(epoch().1) } else { instant_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_and_nanoseconds_agree() {
        let clock = Clock::new(VirtualTime::default());
        let early = clock.now();
        clock.invalidate();
        let ns = clock.now_ns();
        assert_eq!(instant_to_ns(clock.now()), ns);
        assert!(clock.now() >= early);
    }
}
