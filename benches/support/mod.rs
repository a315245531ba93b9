//! What the benches share: pinning, clocks, and rounds that alternate between contenders.
//!
//! A machine is never quiet, so contenders take turns in short rounds and what counts is the median of the
//! rounds, and the median of the differences (or ratios) of contenders that ran side by side.

#![allow(dead_code)]

use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Whether only to see that everything runs: without the `--bench` that `cargo bench` passes, as under
/// `cargo test --benches`.
pub(crate) fn is_smoke_test() -> bool {
    !std::env::args().any(|argument| argument == "--bench")
}

/// `full`, or `smoke` in a smoke test.
pub(crate) fn scaled<T>(full: T, smoke: T) -> T {
    if is_smoke_test() { smoke } else { full }
}

/// Keeps the calling thread on one core. On a machine that does not have the core, it stays where it is.
pub(crate) fn pin_to(core: usize) {
    let mut cores = CpuSet::new();
    if cores.set(core).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &cores);
    }
}

/// The CPU time of the calling thread: other programs on the same core do not count.
pub(crate) fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has the clock").into()
}

/// The CPU time of the calling thread that `work` takes, in nanoseconds for each of `count` operations.
pub(crate) fn thread_ns_per(count: usize, work: impl FnOnce()) -> f64 {
    let start = thread_time();
    work();
    (thread_time() - start).as_nanos() as f64 / count as f64
}

/// What one contender measured, a figure a round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(pub Vec<f64>);

impl Samples {
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    /// The median of what `compare` makes of the figures of the same rounds.
    pub(crate) fn paired(&self, other: &Samples, compare: impl Fn(f64, f64) -> f64) -> f64 {
        Samples(self.0.iter().zip(&other.0).map(|(a, b)| compare(*a, *b)).collect()).median()
    }
}

/// Lets each contender measure one figure a round, in turns; the order changes from round to round.
pub(crate) fn alternate<const N: usize>(
    rounds: usize,
    contenders: [&mut dyn FnMut() -> f64; N],
) -> [Samples; N] {
    let mut samples = [const { Samples(Vec::new()) }; N];
    for round in 0..rounds {
        for turn in 0..N {
            let index = (round + turn) % N;
            samples[index].0.push(contenders[index]());
        }
    }
    samples
}

/// How a figure stands to its goal.
pub(crate) fn verdict(figure: f64, limit: f64) -> &'static str {
    if figure <= limit { "reached" } else { "missed" }
}

/// A small, fast generator of numbers that only have to look random (Marsaglia's xorshift64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub u64);

impl Default for Random {
    fn default() -> Random {
        Random(88_172_645_463_325_252)
    }
}

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
