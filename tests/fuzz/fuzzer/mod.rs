//! A fuzzer over the public interface, against an executable model of what it promises.
//!
//! `program` (what a seed expands to) · `driver` (runs it, step by step) · `submissions` (the owners of operations and their callbacks) ·
//! `world`, `environment` (what they work with) · `poster` (another thread) · `model` (what may happen) · `shrink` (makes a failing program
//! small) · `stats` (what has happened).

mod descriptors;
mod driver;
mod environment;
mod model;
mod poster;
mod program;
mod random;
mod shrink;
mod stats;
mod submissions;
mod watchdog;
mod world;

use std::fmt;

pub(crate) use driver::Driver;
pub(crate) use model::Violation;
pub(crate) use program::{Backend, Program};
pub(crate) use stats::Stats;

impl Backend {
    /// Those that are compiled in and work here.
    pub(crate) fn available() -> Vec<Backend> {
        let mut all = Vec::new();
        if cfg!(feature = "sim") {
            all.push(Backend::Sim);
        }
        let real = [
            Backend::IoUring,
            Backend::Epoll,
            Backend::Poll,
            #[cfg(kqueue_emulation)]
            Backend::Kqueue,
        ];
        for backend in real {
            if backend.kind().is_some_and(|kind| oxev::Loop::builder().backend(kind).build().is_ok()) {
                all.push(backend);
            }
        }
        all
    }
}

/// A program that breaks the contract.
pub(crate) struct Failure {
    pub(crate) violation: Violation,
    pub(crate) seed: u64,
    pub(crate) plan: Plan,
    pub(crate) program: Program,
    pub(crate) steps_before: usize,
}

/// How programs are made, and what is done with one that fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) backend: Backend,
    /// A program has this many steps at most.
    pub(crate) steps_max: usize,
    /// This many candidates are tried when it is shrunk.
    pub(crate) candidates: usize,
}

/// Runs the program of a seed. A simulated one is run twice now and then, and must go the same way.
pub(crate) fn check(driver: &Driver, plan: Plan, seed: u64, stats: &mut Stats) -> Result<(), Box<Failure>> {
    let Plan { backend, steps_max, candidates } = plan;
    let program = Program::new(seed, backend, steps_max);
    watchdog::watch(seed, backend);
    let report = driver.run(&program);
    stats.merge(&report.stats);
    let mut violation = report.violation;
    if violation.is_none() && backend == Backend::Sim && seed.is_multiple_of(8) {
        violation = differs(&program, report.digest, driver.run(&program).digest);
    }
    let Some(violation) = violation else {
        watchdog::unwatch();
        return Ok(());
    };
    let small = shrink::shrink(driver, &program, violation.rule, candidates);
    let again = run_once(driver, &small).filter(|again| again.rule == violation.rule);
    watchdog::unwatch();
    let steps_before = program.steps.len();
    Err(Box::new(Failure { violation: again.unwrap_or(violation), seed, plan, program: small, steps_before }))
}

fn differs(program: &Program, one: (u64, u64), other: (u64, u64)) -> Option<Violation> {
    let detail = format!("seed {}: {one:x?} and {other:x?}", program.seed);
    (one != other).then_some(Violation { rule: "the same seed gives the same run", detail })
}

/// Runs a program, twice if that may show something.
fn run_once(driver: &Driver, program: &Program) -> Option<Violation> {
    watchdog::watch(program.seed, program.backend);
    let report = driver.run(program);
    report.violation.or_else(|| {
        if program.backend != Backend::Sim {
            return None;
        }
        differs(program, report.digest, driver.run(program).digest)
    })
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { violation, seed, plan, program, steps_before } = self;
        let steps_max = plan.steps_max;
        writeln!(f, "violation: {}: {}", violation.rule, violation.detail)?;
        writeln!(
            f,
            "seed {seed} on {}, {steps_before} steps, shrunk to {}:",
            program.backend,
            program.steps.len()
        )?;
        writeln!(f, "{program}")?;
        write!(
            f,
            "replay: cargo run --release --features sim --example fuzz -- --backend {} --seed {seed} --steps {steps_max}",
            program.backend
        )
    }
}
