//! What a timer costs through the public API, against a 4-ary heap with an index, which is what most loops
//! have (and which here has no loop, no callbacks and no clock around it: the bare data structure).
//!
//! Two patterns of deadlines: `even`, a thousand each millisecond for a second, as connections bring them;
//! and `random`, anywhere in the next hour (to fire: in the next second, so that it can be waited for). A
//! pass is measured after a first one has brought the memory in, and with the owners at hand: nothing is
//! allocated. Figures are nanoseconds of CPU time for each timer, medians of rounds in turns.
//!
//! * `insert`: [`Loop::submit`] and the resolution of the delay against the clock, which the next step does
//!   ([`Loop::flush`]).
//! * `fire`: all are due: [`Loop::run`] until every callback has run and its owner is back in the pool.
//! * `reset`: [`Loop::reset`] of timers in random order to times in the next hour, with the resolution.
//! * `cancel`: [`Loop::cancel`], in the order of submission. `deliver` is what comes after it: the callbacks
//!   with `ECANCELED`.
//!
//! One million timers; set `OXEV_BENCH_TIMERS` to another number, say 10000000 (which takes 2 GiB).

mod peers;
mod support;

use std::io;
use std::time::Duration;

use oxev::{Completion, Loop, OpId, Pool, Pooled, RunMode, Timer};
use peers::heap::TimerHeap;
use support::{Random, Samples, pin_to, scaled, thread_ns_per, verdict};

const HOUR: Duration = Duration::from_secs(3600);
/// What timers that are to fire are spread over: it has to be waited for.
const FIRING_SPAN: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pattern {
    Even,
    Random,
}

impl Pattern {
    fn span(self) -> Duration {
        match self {
            Pattern::Even => Duration::from_secs(1),
            Pattern::Random => HOUR,
        }
    }

    /// The delays of `count` timers, spread over `span`.
    fn delays(self, count: usize, span: Duration) -> Vec<Duration> {
        let mut random = Random::default();
        let span_ms = span.as_millis() as u64;
        let delay = |index: usize| match self {
            Pattern::Even => Duration::from_millis(1 + index as u64 * span_ms / count as u64),
            Pattern::Random => Duration::from_nanos(random.below(span.as_nanos() as u64)),
        };
        (0..count).map(delay).collect()
    }
}

/// The columns of the table.
const OPERATIONS: [&str; 5] = ["insert", "fire", "reset", "cancel", "deliver"];
const GOALS_NS: [Option<f64>; 5] = [Some(20.0), Some(20.0), Some(40.0), Some(20.0), None];

struct OxevTimers {
    lp: Box<Loop>,
    pool: Pool<()>,
    count: usize,
}

/// The owner goes back to its pool.
fn on_timer(_: &mut Loop, _owner: Pooled<()>, _fired_or_canceled: io::Result<()>) {}

impl OxevTimers {
    fn new(count: usize) -> OxevTimers {
        let lp = Loop::builder().capacity(count).build().expect("a loop");
        let mut this = OxevTimers { lp, pool: Pool::new(count), count };
        this.refresh();
        this
    }

    /// Brings the memory in, and leaves the table's free entries in order (the last to be freed is the first
    /// to be used), so that every pass begins alike.
    fn refresh(&mut self) {
        for owner in self.owners() {
            self.lp.submit(owner, |_| Timer::after(HOUR), on_timer);
        }
        let ids: Vec<OpId> = self.lp.in_flight().map(|operation| operation.id).collect();
        ids.iter().rev().for_each(|&id| assert!(self.lp.cancel(id)));
        self.run();
    }

    /// All owners, in the order of their addresses.
    fn owners(&self) -> Vec<Pooled<()>> {
        let mut owners: Vec<_> = std::iter::from_fn(|| self.pool.insert(()).ok()).collect();
        owners.sort_by_key(|owner| std::ptr::from_ref::<Completion<()>>(owner).addr());
        owners
    }

    fn run(&mut self) {
        self.lp.run(RunMode::UntilDone).expect("the loop runs");
    }

    /// Submits a timer for each delay: the cost, and the ids.
    fn insert(&mut self, delays: &[Duration]) -> (f64, Vec<OpId>) {
        let (owners, mut ids) = (self.owners(), Vec::with_capacity(self.count));
        let ns = thread_ns_per(self.count, || {
            for (owner, &delay) in owners.into_iter().zip(delays) {
                ids.push(self.lp.submit(owner, |_| Timer::after(delay), on_timer));
            }
            self.lp.flush().expect("nothing to flush but delays");
        });
        (ns, ids)
    }

    fn fire(&mut self, pattern: Pattern) -> f64 {
        self.refresh();
        let delays = pattern.delays(self.count, FIRING_SPAN);
        self.insert(&delays);
        std::thread::sleep(FIRING_SPAN + Duration::from_millis(10));
        thread_ns_per(self.count, || self.run())
    }

    fn insert_and_cancel(&mut self, pattern: Pattern) -> [f64; 3] {
        self.refresh();
        let (insert, ids) = self.insert(&pattern.delays(self.count, pattern.span()));
        let cancel = thread_ns_per(self.count, || {
            for &id in &ids {
                assert!(self.lp.cancel(id));
            }
        });
        let deliver = thread_ns_per(self.count, || self.run());
        [insert, cancel, deliver]
    }

    fn reset(&mut self, pattern: Pattern) -> f64 {
        self.refresh();
        let (_, ids) = self.insert(&pattern.delays(self.count, HOUR));
        let resets = random_resets(self.count).into_iter();
        let resets: Vec<_> = resets.map(|(index, delay)| (ids[index], delay)).collect();
        let reset = thread_ns_per(self.count, || {
            for &(id, delay) in &resets {
                assert!(self.lp.reset(id, delay));
            }
            self.lp.flush().expect("nothing to flush but delays");
        });
        ids.iter().for_each(|&id| assert!(self.lp.cancel(id)));
        self.run();
        reset
    }

    fn round(&mut self, pattern: Pattern) -> [f64; 5] {
        let fire = self.fire(pattern);
        let [insert, cancel, deliver] = self.insert_and_cancel(pattern);
        [insert, fire, self.reset(pattern), cancel, deliver]
    }
}

fn random_resets(count: usize) -> Vec<(usize, Duration)> {
    let mut random = Random::default();
    let hour_ns = HOUR.as_nanos() as u64;
    let reset = |_| (random.below(count as u64) as usize, Duration::from_nanos(random.below(hour_ns)));
    (0..count).map(reset).collect()
}

/// The same on the heap. Its deadlines come true when it is told.
fn heap_round(heap: &mut TimerHeap, count: usize, pattern: Pattern) -> [f64; 5] {
    let insert_all = |heap: &mut TimerHeap, delays: &[Duration]| {
        for (timer, delay) in delays.iter().enumerate() {
            heap.insert(timer as u32, delay.as_nanos() as u64);
        }
    };
    let delays = pattern.delays(count, pattern.span());
    let insert = thread_ns_per(count, || insert_all(heap, &delays));
    let cancel = thread_ns_per(count, || (0..count).for_each(|timer| heap.remove(timer as u32)));
    insert_all(heap, &delays);
    let resets = random_resets(count);
    let reset = thread_ns_per(count, || {
        for (timer, delay) in &resets {
            heap.reset(*timer as u32, delay.as_nanos() as u64);
        }
    });
    while heap.pop().is_some() {}
    insert_all(heap, &pattern.delays(count, FIRING_SPAN));
    let fire = thread_ns_per(count, || while heap.pop().is_some() {});
    [insert, fire, reset, cancel, 0.0]
}

fn print_row(name: &str, pattern: Pattern, samples: &[Samples; 5]) {
    print!("{name:<6} {:<8}", format!("{pattern:?}").to_lowercase());
    samples.iter().for_each(|figures| print!(" {:>9.1}", figures.median()));
    println!();
}

fn print_goals(samples: &[Samples; 5]) {
    print!("{:<15}", "  goal");
    for (figures, goal) in samples.iter().zip(GOALS_NS) {
        print!(" {:>9}", goal.map_or(String::new(), |limit| verdict(figures.median(), limit).into()));
    }
    println!();
}

fn main() {
    pin_to(0);
    let count = match std::env::var("OXEV_BENCH_TIMERS") {
        Ok(count) => count.parse().expect("OXEV_BENCH_TIMERS is a number"),
        Err(_) => scaled(1_000_000, 1000),
    };
    let rounds = scaled(if count > 1_000_000 { 2 } else { 5 }, 1);
    println!("Timers: ns for each, {rounds} rounds of {count}");
    print!("{:<15}", "");
    OPERATIONS.iter().for_each(|operation| print!(" {operation:>9}"));
    println!();
    let mut oxev = OxevTimers::new(count);
    let mut heap = TimerHeap::new(count);
    for pattern in [Pattern::Even, Pattern::Random] {
        let mut samples: [[Samples; 5]; 2] = Default::default();
        for _ in 0..rounds {
            for (contender, round) in
                [heap_round(&mut heap, count, pattern), oxev.round(pattern)].iter().enumerate()
            {
                round
                    .iter()
                    .zip(&mut samples[contender])
                    .for_each(|(figure, samples)| samples.0.push(*figure));
            }
        }
        print_row("heap", pattern, &samples[0]);
        print_row("oxev", pattern, &samples[1]);
        if pattern == Pattern::Even {
            print_goals(&samples[1]);
        }
    }
}
