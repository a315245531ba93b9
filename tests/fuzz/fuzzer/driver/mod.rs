//! Runs a program, and asks the model after every step: `steps` (what a program does) · `running` (how `run` ends) · `embedding` (loops in another one) ·
//! `audit` (what a loop
//! says of itself) · `ending` (what must have happened in the end).

mod audit;
mod embedding;
mod ending;
mod running;
mod steps;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use oxev::{Loop, Pool, ThreadPool};

use super::descriptors::{Descriptors, without_stderr};
use super::environment::{self, Environment, Loops};
use super::model::{Clock, Model, Violation, model, report};
use super::poster::PosterThread;
use super::program::{Backend, Ending, Program};
use super::random::Random;
use super::stats::Stats;
use super::submissions::PlannedPanic;
use super::world::{drain_timeout, leave_world, world};

pub(crate) use embedding::Watch;

/// What came of a program.
pub(crate) struct Report {
    pub(crate) violation: Option<Violation>,
    /// Over all that callbacks have seen, and what happened in the simulated world.
    pub(crate) digest: (u64, u64),
    pub(crate) stats: Stats,
}

/// What programs need that run one after the other on a thread.
pub(crate) struct Driver {
    pub(crate) environment: Environment,
    pub(crate) poster: PosterThread,
    pub(crate) thread_pool: ThreadPool,
    /// Loops may be dropped while a worker has an owner of theirs, which is leaked.
    pub(crate) leaks: bool,
}

impl Driver {
    pub(crate) fn new() -> io::Result<Driver> {
        let driver = Driver {
            environment: Environment::new()?,
            poster: PosterThread::new(),
            thread_pool: ThreadPool::new(),
            leaks: true,
        };
        Ok(driver)
    }

    /// Runs a program from beginning to end.
    pub(crate) fn run(&self, program: &Program) -> Report {
        quiet_panics();
        let descriptors = Descriptors::open();
        RUNNING.set(true);
        model(|m| *m = Model::new(program.backend, Clock::real()));
        let trace = match catch_unwind(AssertUnwindSafe(|| self.run_whole(program))) {
            Ok(Ok(trace)) => trace,
            Ok(Err(error)) => {
                report("a program can be set up", error.to_string());
                0
            }
            Err(panic) => {
                // What comes of it is not as interesting.
                let violation =
                    Violation { rule: "nothing panics that was not told to", detail: message(&*panic) };
                model(|m| m.violations.insert(0, violation));
                0
            }
        };
        environment::lift_limits();
        // If it went wrong halfway.
        drop(leave_world());
        if let Some(detail) = descriptors.leaked() {
            report("descriptors do not leak", detail);
        }
        RUNNING.set(false);
        // Nothing is left that could tell the model anything.
        let m = model(|m| std::mem::replace(m, Model::new(program.backend, Clock::real())));
        Report { violation: m.violations.into_iter().next(), digest: (m.digest, trace), stats: m.stats }
    }

    fn run_whole(&self, program: &Program) -> io::Result<u64> {
        let pool = match program.setting.blocking {
            false => self.thread_pool.clone(),
            true => {
                let workers = 1 + program.seed as usize % 2;
                model(|m| m.workers = Some(workers));
                ThreadPool::builder().max_threads(workers).build()?
            }
        };
        let mut loops = environment::set_up(&self.environment, program, &pool, &self.poster)?;
        drop(pool);
        let mut run = Run {
            loops: &mut loops,
            backend: program.backend,
            waited: false,
            leaks: self.leaks,
            random: Random::new(program.seed),
        };
        for step in &program.steps {
            run.execute(*step);
            run.audit();
            run.audit_embedded();
            if model(|m| !m.violations.is_empty()) {
                break;
            }
        }
        match program.ending {
            _ if model(|m| !m.violations.is_empty()) => {}
            Ending::Drop => {}
            Ending::Cancel => run.end_by_cancel(),
            Ending::Settle => run.settle(),
        }
        world(|w| w.poster.settle());
        Ok(tear_down(loops, program, self.leaks))
    }
}

thread_local! {
    /// Where the last panic of this thread was.
    static PANICKED_AT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics are looked at where they are caught, and are not printed.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !RUNNING.get() {
                return previous(panic);
            }
            PANICKED_AT.set(panic.location().map(ToString::to_string).unwrap_or_default());
        }));
    });
}

thread_local! {
    /// A program runs on this thread.
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// What a panic says, and where it was.
fn message(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("{} at {}", said.as_deref().unwrap_or("something"), PANICKED_AT.with_borrow(Clone::clone))
}

/// Drops everything, and looks whether everything is over.
fn tear_down(loops: Loops, program: &Program, leaks: bool) -> u64 {
    let leases_first = program.seed.is_multiple_of(2);
    if leases_first {
        drop(world(|w| std::mem::take(&mut w.leases)));
    }
    // Pools may be gone before the loops that have what came from them.
    if program.seed.is_multiple_of(5) {
        drop(world(|w| std::mem::take(&mut w.bufs)));
    }
    if program.seed.is_multiple_of(7) {
        drop(world(|w| std::mem::replace(&mut w.pool, Pool::new(0))));
        drop(world(|w| std::mem::replace(&mut w.sockets, Pool::new(0))));
    }
    // Who drops the last handle of a pool waits for its threads: here it is a loop.
    if program.backend.uses_thread_pool() && program.seed.is_multiple_of(3) {
        drop(world(|w| w.thread_pool.take()));
    }
    for (on, lp) in loops.into_iter().enumerate() {
        drop_loop(on, lp, leaks);
    }
    world(|w| w.release());
    await_workers();
    let world = leave_world().expect("a program runs");
    let posted = model(|m| m.posts());
    let gone = world.posts_gone.load(Ordering::Acquire);
    if posted != gone {
        report("each post arrives or is dropped", format!("{posted} posted, {gone} gone"));
    }
    let trace = environment::tear_down(world);
    model(Model::finish);
    trace
}

/// Work that was leaked with its loop comes to its end.
fn await_workers() {
    let patience = Instant::now() + Duration::from_secs(10);
    while model(|m| m.leaked_under_way()) {
        if Instant::now() > patience {
            return report("work ends when it may", "it does not");
        }
        std::thread::yield_now();
    }
    model(|m| m.check_torn_down_jobs());
}

fn drop_loop(on: usize, lp: Box<Loop>, leaks: bool) {
    if !leaks {
        world(|w| w.release());
    }
    model(|m| m.tear_down(on, true));
    let blocked = model(|m| m.blocked(on)) > 0;
    let begin = Instant::now();
    let dropped = catch_unwind(AssertUnwindSafe(|| match blocked {
        // It says so on standard error.
        true => without_stderr(|| drop(lp)),
        false => drop(lp),
    }));
    let limit = world(|w| drain_timeout(&w.setting));
    let slack = Duration::from_secs(8);
    if begin.elapsed() > limit + slack {
        report("a loop is dropped within its drain timeout", format!("{:?}", begin.elapsed()));
    }
    if let Err(panic) = dropped
        && !panic.is::<PlannedPanic>()
    {
        report("nothing panics that was not told to", message(&*panic));
    }
    model(|m| m.tear_down(on, false));
}

struct Run<'a> {
    loops: &'a mut Loops,
    backend: Backend,
    /// A wait for a notifier was submitted: there are more callbacks than the program sees.
    waited: bool,
    leaks: bool,
    random: Random,
}
