//! The contract, executable: what of each submission, loop, socket, file and notifier is known, and what may happen next. Whatever else
//! happens is a violation.
//!
//! `request` (what is asked) · `entry` (submissions and their owners) · `outcome` (how they may end) · `series` (several results) ·
//! `steering` (cancel, reset) · `wakeups` (posts, notifications) · `connections`, with `byte_ledger` · `files`, `log` · `jobs` (thread pools) ·
//! `loops` (run and stop) ·
//! `liveness` (what should have ended).

mod byte_ledger;
mod connections;
mod entry;
mod files;
mod jobs;
mod liveness;
mod log;
mod loops;
mod outcome;
mod request;
mod series;
mod steering;
mod wakeups;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Instant;

use byte_ledger::ByteLedger;
pub(crate) use byte_ledger::{Moved, bytes_of};
use connections::Side;
pub(crate) use entry::Effect;
use entry::{Entry, State};
pub(crate) use files::{FILE_BYTES, FileModel, REGION_BYTES, initial_content};
pub(crate) use jobs::{Gate, Job};
use log::LogModel;
pub(crate) use loops::LoopModel;
pub(crate) use outcome::{Failure, classify};
pub(crate) use request::Request;
use wakeups::{NotifierModel, PostModel};

use super::program::Backend;
use super::random::mix;
use super::stats::Stats;

thread_local! {
    static MODEL: RefCell<Model> = RefCell::new(Model::new(Backend::Epoll, Clock::real()));
}

/// Asks or tells the model of this thread. Nothing may be dropped in here that tells it something in its turn.
pub(crate) fn model<R>(ask: impl FnOnce(&mut Model) -> R) -> R {
    MODEL.with_borrow_mut(ask)
}

/// Notes a violation.
pub(crate) fn report(rule: &'static str, detail: impl Into<String>) {
    model(|m| m.report(rule, detail.into()));
}

/// What was violated, and how.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// The same for all violations of one kind.
    pub(crate) rule: &'static str,
    pub(crate) detail: String,
}

pub(crate) enum Clock {
    Real(Instant),
    #[cfg(feature = "sim")]
    Sim(oxev::sim::Simulation),
}

impl Clock {
    pub(crate) fn real() -> Clock {
        Clock::Real(Instant::now())
    }

    /// Nanoseconds since the program began.
    fn now_ns(&self) -> u64 {
        match self {
            Clock::Real(start) => start.elapsed().as_nanos() as u64,
            #[cfg(feature = "sim")]
            Clock::Sim(world) => world.elapsed().as_nanos() as u64,
        }
    }
}

/// Which faults there are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FaultModel {
    pub(crate) resets: bool,
    pub(crate) refuses: bool,
    pub(crate) io_errors: bool,
    pub(crate) no_space: bool,
    /// The file that is appended to has room for this many bytes.
    pub(crate) room: Option<usize>,
    pub(crate) short_reads: bool,
    pub(crate) short_writes: bool,
}

pub(crate) struct Model {
    pub(crate) backend: Backend,
    pub(crate) clock: Clock,
    pub(crate) faults: FaultModel,
    pub(crate) partitioned: bool,
    /// Of the pool whose work may block.
    pub(crate) workers: Option<usize>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) loops: Vec<LoopModel>,
    pub(crate) sides: Vec<Side>,
    ledgers: Vec<ByteLedger>,
    notifiers: Vec<NotifierModel>,
    pub(crate) file: FileModel,
    pub(crate) log: LogModel,
    /// Which is read and written at its own position.
    pub(crate) mixed: LogModel,
    pub(crate) fifo: ByteLedger,
    pub(crate) created: Vec<bool>,
    connects: u64,
    accepts: u64,
    /// How many accepts were lost with their loop.
    accepts_lost: bool,
    connected: u64,
    /// The last timer of each (loop, life, time) that has fired.
    fired: BTreeMap<(usize, usize, u64), usize>,
    posts: Vec<PostModel>,
    last_posts: BTreeMap<(usize, usize, bool), usize>,
    pub(crate) violations: Vec<Violation>,
    /// Over all that callbacks have seen.
    pub(crate) digest: u64,
    pub(crate) stats: Stats,
    runs: u64,
}

impl Model {
    pub(crate) fn new(backend: Backend, clock: Clock) -> Model {
        Model {
            backend,
            clock,
            faults: FaultModel::default(),
            partitioned: false,
            workers: None,
            entries: Vec::new(),
            loops: Vec::new(),
            sides: Vec::new(),
            ledgers: Vec::new(),
            notifiers: vec![NotifierModel::default(), NotifierModel::default()],
            file: FileModel::new(),
            log: LogModel::default(),
            mixed: LogModel::of(initial_content()),
            fifo: ByteLedger::default(),
            created: Vec::new(),
            connects: 0,
            accepts: 0,
            accepts_lost: false,
            connected: 0,
            fired: BTreeMap::new(),
            posts: Vec::new(),
            last_posts: BTreeMap::new(),
            violations: Vec::new(),
            digest: 0,
            stats: Stats::default(),
            runs: 0,
        }
    }

    pub(crate) fn report(&mut self, rule: &'static str, detail: String) {
        if self.violations.len() < 8 {
            self.violations.push(Violation { rule, detail });
        }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn digest(&mut self, what: u64) {
        self.digest = mix(self.digest ^ what);
    }

    /// Everything is over.
    pub(crate) fn finish(&mut self) {
        for number in 0..self.entries.len() {
            let state = self.entries[number].state;
            if !matches!(state, State::Over | State::TornDown | State::Leaked) {
                let detail = format!("{}: {state:?}", self.describe(number));
                self.report("each owner is dropped exactly once", detail);
            }
        }
        for side in 0..self.sides.len() {
            self.verify_side(side);
        }
        if let Err(detail) = self.fifo.verify(false) {
            self.report("bytes come out as they went in", format!("of the FIFO: {detail}"));
        }
    }
}
