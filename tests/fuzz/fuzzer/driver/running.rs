//! How loops are run, and how that ends.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use oxev::RunMode;

use super::super::environment;
use super::super::model::{model, report};
use super::super::program::{Backend, Caller, Memory, Mode, Then, Work};
use super::super::submissions::{PlannedPanic, SingleSpec};
use super::{Run, message};

impl Run<'_> {
    pub(super) fn run(&mut self, on: usize, mode: Mode) {
        let waits = matches!(mode, Mode::Once | Mode::UntilDone);
        if waits && self.backend != Backend::Sim {
            // So that it comes back.
            let then = Then::Stop(Caller::Program);
            let guard = SingleSpec { background: true, then, ..SingleSpec::plain(Work::After(300)) };
            self.submit(on, guard, Memory::Box);
        }
        let was_empty = self.loops[on].is_empty();
        let start_ns = model(|m| m.now_ns());
        let woken = model(|m| {
            m.enter_run(on, mode == Mode::NoWait);
            m.loops[on].woken
        });
        let lp = &mut self.loops[on];
        let ran = catch_unwind(AssertUnwindSafe(|| match mode {
            Mode::NoWait => lp.run(RunMode::NoWait),
            Mode::Once => lp.run(RunMode::Once),
            Mode::UntilDone => lp.run(RunMode::UntilDone),
            Mode::For(us) => lp.run_for(Duration::from_micros(u64::from(us))),
        }));
        let (stopped, active, now_ns) = model(|m| (m.may_be_stopped(on), m.in_flight(on).1, m.now_ns()));
        let callbacks = model(|m| m.leave_run(on, matches!(ran, Ok(Ok(())))));
        let outcome = ran_how(ran);
        model(|m| m.stats.count("run", outcome.name(mode)));
        match outcome {
            Ran::Returned if stopped => {}
            Ran::Returned => {
                let too_soon = match mode {
                    Mode::NoWait => false,
                    Mode::Once => callbacks == 0 && !woken && !was_empty && !self.waited,
                    Mode::UntilDone => active > 0,
                    Mode::For(us) => active > 0 && now_ns < start_ns + u64::from(us) * 1000,
                };
                if too_soon {
                    report(
                        "run runs as long as it says",
                        format!("{mode:?}: {active} active, {callbacks} callbacks"),
                    );
                }
            }
            Ran::Panicked => {}
            Ran::Deadlocked if self.backend == Backend::Sim && waits => {
                if let Some(what) = self.why_stuck(on) {
                    report("nothing hangs", what);
                }
            }
            Ran::Deadlocked => report("a loop can run", "EDEADLK"),
            Ran::Failed(detail) => report("a loop can run", detail),
            Ran::Broke(detail) => report("nothing panics that was not told to", detail),
        }
    }

    pub(super) fn run_all(&mut self, us: u16) {
        if self.backend != Backend::Sim {
            for on in 0..self.loops.len() {
                self.run(on, Mode::NoWait);
                self.run(on, Mode::For(us.min(300)));
            }
            return;
        }
        let pending: Vec<(bool, bool)> = (0..self.loops.len())
            .map(|on| {
                model(|m| {
                    let lp = &m.loops[on];
                    (lp.stop_pending || lp.perhaps_stop_pending, lp.woken)
                })
            })
            .collect();
        (0..self.loops.len()).for_each(|on| model(|m| m.enter_run(on, false)));
        let loops = &mut self.loops;
        let ran = catch_unwind(AssertUnwindSafe(|| environment::run_together(loops, us)));
        let returned = matches!(ran, Ok(Ok(())));
        for (on, (was_pending, was_woken)) in pending.into_iter().enumerate() {
            model(|m| {
                m.leave_run(on, returned);
                // It may be that it had no turn.
                m.loops[on].perhaps_stop_pending = was_pending;
                m.loops[on].woken |= was_woken;
            });
        }
        let outcome = ran_how(ran);
        model(|m| m.stats.count("run", outcome.name_together()));
        match outcome {
            Ran::Returned | Ran::Panicked => {}
            Ran::Deadlocked => report("loops can run together", "EDEADLK"),
            Ran::Failed(detail) => report("loops can run together", detail),
            Ran::Broke(detail) => report("nothing panics that was not told to", detail),
        }
    }
}

/// How a run went.
enum Ran {
    Returned,
    /// A callback panicked, as told.
    Panicked,
    Deadlocked,
    Failed(String),
    Broke(String),
}

fn ran_how(ran: std::thread::Result<io::Result<()>>) -> Ran {
    match ran {
        Ok(Ok(())) => Ran::Returned,
        Ok(Err(error)) if error.raw_os_error() == Some(libc::EDEADLK) => Ran::Deadlocked,
        Ok(Err(error)) => Ran::Failed(error.to_string()),
        Err(panic) if panic.is::<PlannedPanic>() => Ran::Panicked,
        Err(panic) => Ran::Broke(message(&*panic)),
    }
}

impl Ran {
    pub(super) fn name(&self, mode: Mode) -> &'static str {
        match (self, mode) {
            (Ran::Returned, Mode::NoWait) => "no wait",
            (Ran::Returned, Mode::Once) => "once",
            (Ran::Returned, Mode::UntilDone) => "until done",
            (Ran::Returned, Mode::For(_)) => "for a time",
            (Ran::Panicked, _) => "panicked",
            (Ran::Deadlocked, _) => "nothing to wait for",
            _ => "failed",
        }
    }

    pub(super) fn name_together(&self) -> &'static str {
        match self {
            Ran::Returned => "together",
            _ => self.name(Mode::NoWait),
        }
    }
}
