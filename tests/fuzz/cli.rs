//! Runs random programs over the whole public interface, on every backend, and compares what happens with what the documentation
//! promises. A program that breaks a promise is shrunk and printed, with the command that runs it again.
//!
//! ```text
//! cargo run --release --features sim --example fuzz -- --minutes 10
//! ```

mod fuzzer;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use fuzzer::{Backend, Driver, Plan, Stats};

/// Random programs against an executable model of the contract.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long to go on, in minutes.
    #[arg(long)]
    minutes: Option<f64>,
    /// How many programs to run on each backend.
    #[arg(long)]
    programs: Option<u64>,
    /// sim, io_uring, epoll, poll, or all that work here.
    #[arg(long, default_value = "all")]
    backend: String,
    /// Runs the program of this seed alone; with --programs, the first of that many.
    #[arg(long)]
    seed: Option<u64>,
    /// How many steps a program has at most.
    #[arg(long, default_value_t = 50)]
    steps: usize,
    /// How many smaller programs to try when one fails.
    #[arg(long, default_value_t = 4000)]
    shrink: usize,
    /// Says in the end how often everything happened.
    #[arg(long)]
    stats: bool,
}

impl Arguments {
    fn backends(&self) -> Result<Vec<Backend>, String> {
        let available = Backend::available();
        let chosen: Vec<Backend> = available
            .iter()
            .copied()
            .filter(|backend| self.backend == "all" || self.backend == backend.to_string())
            .collect();
        if chosen.is_empty() {
            let names: Vec<String> = available.iter().map(ToString::to_string).collect();
            return Err(format!("no backend {}; there are: {}", self.backend, names.join(", ")));
        }
        Ok(chosen)
    }

    /// How many programs there are for each backend, and until when.
    fn limits(&self) -> (u64, Option<Instant>) {
        let end = self.minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(minutes * 60.0));
        let programs = match (self.programs, self.seed, end) {
            (Some(programs), ..) => programs,
            (None, Some(_), _) => 1,
            (None, None, Some(_)) => u64::MAX,
            (None, None, None) => 10_000,
        };
        (programs, end)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let backends = match arguments.backends() {
        Ok(backends) => backends,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let mut failed = false;
    let (programs, end) = arguments.limits();
    // Each gets its part of the time that is left.
    for (index, &backend) in backends.iter().enumerate() {
        let rest = (backends.len() - index) as u32;
        let end = end.map(|end| Instant::now() + end.saturating_duration_since(Instant::now()) / rest);
        failed |= !fuzz_on(backend, &arguments, programs, end);
    }
    ExitCode::from(u8::from(failed))
}

/// Fuzzes one backend. `false`: something is wrong.
fn fuzz_on(backend: Backend, arguments: &Arguments, programs: u64, end: Option<Instant>) -> bool {
    let driver = Driver::new().expect("a directory and a socket can be made");
    let first = arguments.seed.unwrap_or_else(first_seed);
    let (start, mut told, mut stats, mut count) = (Instant::now(), Instant::now(), Stats::default(), 0);
    let (steps_max, candidates) = (arguments.steps, arguments.shrink);
    let plan = Plan { backend, steps_max, candidates };
    println!("{backend}: seeds from {first}");
    while count < programs && end.is_none_or(|end| Instant::now() < end) {
        let seed = first.wrapping_add(count);
        if let Err(failure) = fuzzer::check(&driver, plan, seed, &mut stats) {
            println!("{failure}");
            return false;
        }
        count += 1;
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            println!(
                "{backend}: {count} programs, {:.0} a second",
                count as f64 / start.elapsed().as_secs_f64()
            );
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{backend}: {count} programs in {seconds:.1} s, {:.0} a second: no violation",
        count as f64 / seconds
    );
    if arguments.stats {
        println!("{stats}");
    }
    true
}

/// Another one each time.
fn first_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64 / 1000 * 1000)
}
