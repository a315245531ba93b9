//! The monotonic clock in nanoseconds, and its relation to [`Instant`].

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::op::duration_to_ns;
use crate::sim_hooks::VirtualTime;

/// When the process first made a loop. All times of loops are differences from it, taken by [`Instant`] alone:
/// two clocks that are read one after the other would never agree.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// The loop clock's time of an instant. Instants before the first loop are clamped to the epoch.
pub(crate) fn instant_to_ns(instant: Instant) -> u64 {
    duration_to_ns(instant.saturating_duration_since(epoch()))
}

/// A cached reading of the clock: read when someone asks for the time for the first time in a step.
#[derive(Debug)]
pub(crate) struct Clock {
    now_ns: Cell<u64>,
    stale: Cell<bool>,
    epoch: Instant,
    /// A simulated world's time, which begins at zero: at the epoch.
    time: VirtualTime,
}

impl Clock {
    pub(crate) fn new(time: VirtualTime) -> Clock {
        let clock = Clock { now_ns: Cell::new(0), stale: Cell::new(false), epoch: epoch(), time };
        clock.refresh();
        clock
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
        self.time.now_ns().unwrap_or_else(|| {
            let since = self.epoch.elapsed();
            since.as_secs() * 1_000_000_000 + u64::from(since.subsec_nanos())
        })
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

    /// The time in this step, as an instant. It may be one that no [`Instant`] can be, at the end of a world.
    pub(crate) fn now(&self) -> Instant {
        self.epoch.checked_add(Duration::from_nanos(self.now_ns())).unwrap_or(self.epoch)
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

    #[test]
    fn it_neither_lags_the_clock_of_the_process_nor_leads_it() {
        let clock = Clock::new(VirtualTime::default());
        for _ in 0..10_000 {
            let before = Instant::now();
            clock.refresh();
            assert!(before <= clock.now() && clock.now() <= Instant::now());
        }
    }
}
