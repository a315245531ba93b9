//! Runs a program, and asks the model after every step.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use oxev::{Completion, InFlightOp, Loop, OpKind, RunMode, ThreadPool};

use super::courier::Courier;
use super::descriptors::{Descriptors, is_readable};
use super::guests::{self, AsTold, Ask, AskSeries, Guest, address_of, arrived, parcel};
use super::model::{Clock, Model, Violation, complain, model};
use super::program::{Backend, Ending, Mode, Program, Step, Then, Work};
use super::stage::{self, Loops, Stage};
use super::stats::Stats;
use super::world::{leave_world, world};

/// What came of a program.
pub(crate) struct Report {
    pub(crate) violation: Option<Violation>,
    /// Over all that callbacks have seen, and what happened in the simulated world.
    pub(crate) digest: (u64, u64),
    pub(crate) stats: Stats,
}

/// What programs need that run one after the other on a thread.
pub(crate) struct Driver {
    pub(crate) stage: Stage,
    pub(crate) courier: Courier,
    pub(crate) thread_pool: ThreadPool,
}

impl Driver {
    pub(crate) fn new() -> io::Result<Driver> {
        let driver = Driver { stage: Stage::new()?, courier: Courier::new(), thread_pool: ThreadPool::new() };
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
                complain("a program can be set up", error.to_string());
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
        // If it went wrong halfway.
        drop(leave_world());
        if let Some(detail) = descriptors.leaked() {
            complain("descriptors do not leak", detail);
        }
        RUNNING.set(false);
        // Nothing is left that could tell the model anything.
        let m = model(|m| std::mem::replace(m, Model::new(program.backend, Clock::real())));
        Report { violation: m.violations.into_iter().next(), digest: (m.digest, trace), stats: m.stats }
    }

    fn run_whole(&self, program: &Program) -> io::Result<u64> {
        let mut loops = stage::set_up(&self.stage, program, &self.thread_pool)?;
        let mut run =
            Run { loops: &mut loops, courier: &self.courier, backend: program.backend, waited: false };
        for step in &program.steps {
            run.take(*step);
            run.audit();
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
        if program.backend != Backend::Sim {
            self.courier.settle();
        }
        Ok(tear_down(loops, program))
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
fn tear_down(loops: Loops, program: &Program) -> u64 {
    let leases_first = program.seed.is_multiple_of(2);
    if leases_first {
        drop(world(|w| std::mem::take(&mut w.leases)));
    }
    for (on, lp) in loops.into_iter().enumerate() {
        drop_loop(on, lp);
    }
    let world = leave_world().expect("a program runs");
    let posted = model(|m| m.posts());
    let gone = world.parcels_gone.load(Ordering::Acquire);
    if posted != gone {
        complain("each post arrives or is dropped", format!("{posted} posted, {gone} gone"));
    }
    let trace = stage::strike(world);
    model(Model::finish);
    trace
}

fn drop_loop(on: usize, lp: Box<Loop>) {
    model(|m| m.tear_down(on, true));
    drop(lp);
    model(|m| m.tear_down(on, false));
}

struct Run<'a> {
    loops: &'a mut Loops,
    courier: &'a Courier,
    backend: Backend,
    /// A wait for a notifier was submitted: there are more callbacks than the program sees.
    waited: bool,
}

impl Run<'_> {
    fn on(&self, number: u8) -> usize {
        usize::from(number) % self.loops.len()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Submit { on, work, limit_us, background, pooled, then } => {
                self.submit(self.on(on), Ask { work, limit_us, background, then }, pooled);
            }
            Step::SubmitSeries { on, series, items, limit_us, background, item, then } => {
                let on = self.on(on);
                self.waited = true;
                let ask = AskSeries { series, items, limit_us, background, item, then };
                guests::submit_series(&mut self.loops[on], on, ask);
            }
            Step::PanicInPrepare { on, pooled } => {
                let on = self.on(on);
                match world(|w| w.pool.clone()).insert(Guest::new()) {
                    Ok(slot) if pooled => guests::panic_in_prepare(&mut self.loops[on], on, slot),
                    _ => {
                        let owner = Box::new(Completion::new(Guest::new()));
                        guests::panic_in_prepare(&mut self.loops[on], on, owner);
                    }
                }
            }
            Step::Cancel { which, twice } => {
                if let Some(on) = self.loop_of(which) {
                    guests::cancel(&mut self.loops[on], which);
                    if twice {
                        guests::cancel(&mut self.loops[on], which);
                    }
                }
            }
            Step::CancelForeign { which } => {
                if let Some(on) = self.loop_of(which) {
                    let foreign = (on + 1) % self.loops.len();
                    guests::cancel(&mut self.loops[foreign], which);
                }
            }
            Step::CancelAll { end } => self.cancel_all(end),
            Step::Reset { which, us } => {
                if let Some(on) = self.loop_of(which) {
                    guests::reset(&mut self.loops[on], which, us);
                }
            }
            Step::Run { on, mode } => self.run(self.on(on), mode),
            Step::RunAll { us } => self.run_all(us),
            Step::Stop { on, by_handle } => {
                let on = self.on(on);
                match by_handle {
                    true => {
                        world(|w| w.handles[on].clone()).stop();
                        // It wakes the loop, too.
                        model(|m| m.loops[on].woken = true);
                    }
                    false => self.loops[on].stop(),
                }
                model(|m| m.stopped(on));
            }
            Step::Wake { on } => {
                let on = self.on(on);
                world(|w| w.handles[on].clone()).wake();
                model(|m| m.loops[on].woken = true);
            }
            Step::Post { on, elsewhere, then } => self.post(self.on(on), elsewhere, then),
            Step::Notify { notifier, elsewhere } if elsewhere && self.backend != Backend::Sim => {
                model(|m| m.notified(usize::from(notifier)));
                let notifier = world(|w| w.notifiers[usize::from(notifier)].clone());
                self.courier.send(move || notifier.notify());
            }
            Step::Notify { notifier, .. } => guests::notify(notifier),
            Step::DropLease { which } => {
                let lease = world(|w| {
                    let count = w.leases.len();
                    (count > 0).then(|| w.leases.swap_remove(usize::from(which) % count))
                });
                drop(lease);
            }
            Step::DropEnd { end } => drop(world(|w| w.ends[usize::from(end)].take())),
            Step::DropLoop { on } => self.renew(self.on(on)),
            Step::Flush { on } => {
                let on = self.on(on);
                if let Err(error) = self.loops[on].flush() {
                    complain("a loop can be flushed", error.to_string());
                }
            }
            Step::NextTimeout { on } => {
                let on = self.on(on);
                let _ = self.loops[on].next_timeout();
            }
            Step::Partition { cut } => stage::partition(cut),
            Step::ResetConnections => stage::reset_connections(),
        }
    }

    /// The loop of the operation that a number means.
    fn loop_of(&self, which: u16) -> Option<usize> {
        model(|m| {
            let number = m.entries.len().checked_sub(1 + usize::from(which))?;
            Some(m.entries[number].on)
        })
    }

    fn submit(&mut self, on: usize, ask: Ask, pooled: bool) {
        self.waited |= matches!(ask.work, Work::Wait { .. });
        match world(|w| w.pool.clone()).insert(Guest::new()) {
            Ok(slot) if pooled => guests::submit(&mut self.loops[on], on, slot, ask),
            _ => guests::submit(&mut self.loops[on], on, Box::new(Completion::new(Guest::new())), ask),
        }
    }

    fn cancel_all(&mut self, end: u8) {
        let Some(link) = world(|w| w.ends[usize::from(end)].clone()) else { return };
        let fd = std::os::fd::AsRawFd::as_raw_fd(link.stream());
        for (on, lp) in self.loops.iter_mut().enumerate() {
            // A close owns its descriptor, whose number may be another's by now.
            let theirs = |op: &InFlightOp| op.fd == Some(fd) && op.kind != OpKind::Close;
            let listed: Vec<_> = lp.in_flight().filter(theirs).collect();
            let listed: Vec<usize> =
                listed.iter().filter_map(|op| model(|m| m.listed(on, op.id, op.kind)).ok()).collect();
            let count = lp.cancel_all(link.stream());
            model(|m| m.canceled_all(&listed, count));
        }
    }

    fn post(&mut self, on: usize, elsewhere: bool, then: Then) {
        if !elsewhere || self.backend == Backend::Sim {
            return guests::post(on, false, then);
        }
        let parcel = parcel(on, true, then);
        let handle = world(|w| w.handles[on].clone());
        // If the loop is gone by then, the parcel comes back and is dropped there.
        self.courier.send(move || drop(handle.post(parcel, arrived)));
    }

    fn renew(&mut self, on: usize) {
        let Ok((lp, bufs)) = world(|w| w.new_loop(on)) else { return };
        let address = address_of(&lp);
        world(|w| w.install(on, &lp, bufs));
        drop_loop(on, std::mem::replace(&mut self.loops[on], lp));
        let capacity = world(|w| w.setting.capacity);
        model(|m| {
            m.born(on, address, capacity);
            m.stats.count("loop", "dropped in the middle");
        });
    }

    // ---- running

    fn run(&mut self, on: usize, mode: Mode) {
        let waits = matches!(mode, Mode::Once | Mode::UntilDone);
        if waits && self.backend != Backend::Sim {
            // So that it comes back.
            let then = Then::Stop;
            let guard = Ask { work: Work::After(300), limit_us: None, background: true, then };
            self.submit(on, guard, false);
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
        let (stopped, active, now_ns) = model(|m| {
            let stopped = m.is_stopped(on) || m.loops[on].perhaps_stop_pending;
            (stopped, m.in_flight(on).1, m.now_ns())
        });
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
                    complain(
                        "run runs as long as it says",
                        format!("{mode:?}: {active} active, {callbacks} callbacks"),
                    );
                }
            }
            Ran::Panicked => {}
            Ran::Deadlocked if self.backend == Backend::Sim && waits => {
                if let Some(what) = model(|m| m.why_stuck(on)) {
                    complain("nothing hangs", what);
                }
            }
            Ran::Deadlocked => complain("a loop can run", "EDEADLK"),
            Ran::Failed(detail) => complain("a loop can run", detail),
            Ran::Broke(detail) => complain("nothing panics that was not told to", detail),
        }
    }

    fn run_all(&mut self, us: u16) {
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
        let ran = catch_unwind(AssertUnwindSafe(|| stage::run_together(loops, us)));
        let returned = matches!(ran, Ok(Ok(())));
        for (on, (was_pending, was_woken)) in pending.into_iter().enumerate() {
            model(|m| {
                m.leave_run(on, returned);
                // It may be that it had no turn.
                m.loops[on].perhaps_stop_pending = was_pending;
                m.loops[on].woken = was_woken;
            });
        }
        let outcome = ran_how(ran);
        model(|m| m.stats.count("run", outcome.name_together()));
        match outcome {
            Ran::Returned | Ran::Panicked => {}
            Ran::Deadlocked => complain("loops can run together", "EDEADLK"),
            Ran::Failed(detail) => complain("loops can run together", detail),
            Ran::Broke(detail) => complain("nothing panics that was not told to", detail),
        }
    }

    // ---- looking

    /// The loops and the model agree.
    fn audit(&self) {
        for (on, lp) in self.loops.iter().enumerate() {
            let ((operations, _), posts) = model(|m| (m.in_flight(on), m.posts_under_way(on)));
            let len = lp.len();
            // A loop counts a post when it has seen it, and a notification for which there is no room yet.
            let most = operations + posts + if self.waited { 2 } else { 0 };
            if !(operations..=most).contains(&len) {
                complain(
                    "len counts what is in flight",
                    format!("loop {on}: {len}, not {operations} to {most}"),
                );
            }
            if lp.is_empty() != (len == 0) {
                complain("len counts what is in flight", format!("loop {on}: is_empty and {len}"));
            }
            self.audit_listed(on, lp, len);
            self.audit_buffers(on);
        }
    }

    fn audit_listed(&self, on: usize, lp: &Loop, len: usize) {
        let mut seen = Vec::new();
        for op in lp.in_flight() {
            match model(|m| m.listed(on, op.id, op.kind)) {
                Ok(number) => seen.push(number),
                Err(detail) => complain("in_flight lists what is in flight", detail),
            }
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() != count || count > len || count > world(|w| w.setting.capacity) {
            complain(
                "in_flight lists what is in flight",
                format!("{count} listed, {} of them different", seen.len()),
            );
        }
    }

    fn audit_buffers(&self, on: usize) {
        let life = model(|m| m.loops[on].life);
        let (available, capacity, held, empty) = world(|w| {
            let held = w.leases.iter().filter(|lease| lease.on == on && lease.life == life);
            let (held, empty) =
                held.fold((0, 0), |(all, empty), lease| (all + 1, empty + usize::from(lease.is_empty())));
            (w.bufs[on].available(), w.bufs[on].capacity(), held, empty)
        });
        // The end of a stream may need no buffer.
        if !(capacity..=capacity + empty).contains(&(available + held)) {
            let detail = format!("loop {on}: {available} available, {held} held, of {capacity}");
            complain("what is not on lease is available", detail);
        }
    }

    // ---- the end

    /// Cancels everything: then everything ends, in a bounded number of rounds.
    fn end_by_cancel(&mut self) {
        const ROUNDS_MAX: usize = 300;
        let patience = Instant::now() + Duration::from_secs(10);
        self.quiet();
        for round in 0.. {
            for (on, lp) in self.loops.iter_mut().enumerate() {
                let ids: Vec<_> = lp.in_flight().map(|op| (op.id, op.kind)).collect();
                for (id, kind) in ids {
                    let Ok(number) = model(|m| m.listed(on, id, kind)) else { continue };
                    let said = lp.cancel(id);
                    model(|m| m.canceled(number, true, said));
                }
            }
            let posts = (0..self.loops.len()).any(|on| model(|m| m.posts_under_way(on)) > 0);
            if !posts && self.loops.iter().all(|lp| lp.is_empty()) {
                break;
            }
            // A thread pool takes the time that it takes.
            if round > ROUNDS_MAX && (self.backend == Backend::Sim || Instant::now() > patience) {
                let left: Vec<_> = self.loops.iter().flat_map(|lp| lp.in_flight()).collect();
                return complain("what is cancelled ends", format!("after {round} rounds: {left:?}"));
            }
            for on in 0..self.loops.len() {
                self.run(on, Mode::NoWait);
            }
            self.run_all(300);
            if model(|m| !m.violations.is_empty()) {
                return;
            }
        }
        self.audit();
        self.audit_settled();
    }

    /// Goes on until nothing is in flight but what waits for something that has not happened.
    fn settle(&mut self) {
        const ROUNDS_MAX: usize = 100;
        let patience = Instant::now() + Duration::from_secs(10);
        self.quiet();
        let polls = self.backend != Backend::Sim && world(|w| w.setting.embedded);
        for round in 0.. {
            if polls {
                (0..self.loops.len()).for_each(|on| self.run_if_readable(on));
            }
            for on in (0..self.loops.len()).filter(|_| !polls) {
                // Virtual time does not pass for background operations alone, but if one waits for them.
                self.run(on, if self.backend == Backend::Sim { Mode::Once } else { Mode::NoWait });
            }
            if !polls {
                self.run_all(if round < 10 { 300 } else { 3000 });
            }
            if model(|m| !m.violations.is_empty()) {
                return;
            }
            let stuck = (0..self.loops.len()).find_map(|on| {
                let posts = model(|m| m.posts_under_way(on));
                if posts > 0 { Some(format!("{posts} posts")) } else { model(|m| m.why_stuck(on)) }
            });
            let Some(what) = stuck else { break };
            if round > ROUNDS_MAX && (self.backend == Backend::Sim || Instant::now() > patience) {
                return complain("nothing hangs", what);
            }
        }
        model(|m| m.stats.count("programs that", "settled"));
        self.audit();
    }

    /// As a program that has the loop in another one: nothing is run but what the descriptor or the clock tells of.
    fn run_if_readable(&mut self, on: usize) {
        let lp = &mut self.loops[on];
        if let Err(error) = lp.flush() {
            return complain("a loop can be flushed", error.to_string());
        }
        let timeout = lp.next_timeout();
        let timeout_ms = timeout.map_or(1, |timeout| i32::from(!timeout.is_zero()));
        let is_due = is_readable(lp.as_fd(), timeout_ms) || lp.next_timeout().is_some_and(|t| t.is_zero());
        if is_due {
            model(|m| m.stats.count("run", "when polled"));
            self.run(on, Mode::NoWait);
        }
    }

    /// Nothing more comes from elsewhere, nothing is cut off, and all buffers are there.
    fn quiet(&self) {
        if self.backend != Backend::Sim {
            self.courier.settle();
        }
        stage::partition(false);
        drop(world(|w| std::mem::take(&mut w.leases)));
    }

    fn audit_settled(&self) {
        for on in 0..self.loops.len() {
            let (operations, _) = model(|m| m.in_flight(on));
            if operations > 0 {
                complain("what is cancelled ends", format!("loop {on}: {operations} have not"));
            }
        }
        let (available, capacity) = world(|w| (w.pool.available(), w.pool.capacity()));
        if available != capacity {
            complain("slots are given back", format!("{available} of {capacity}"));
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
        Err(panic) if panic.is::<AsTold>() => Ran::Panicked,
        Err(panic) => Ran::Broke(message(&*panic)),
    }
}

impl Ran {
    fn name(&self, mode: Mode) -> &'static str {
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

    fn name_together(&self) -> &'static str {
        match self {
            Ran::Returned => "together",
            _ => self.name(Mode::NoWait),
        }
    }
}
