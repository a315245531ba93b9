//! Submissions: from `submit` to the drop of their owner.

use std::sync::Arc;

use oxev::OpId;

use super::super::program::{Series, Work};
use super::Model;
use super::byte_ledger::Moved;
use super::files::{ReadTicket, WriteTicket};
use super::jobs::Job;
use super::loops::LoopModel;
use super::request::Request;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// `prepare` has not returned.
    Preparing,
    InFlight,
    /// Its callback has the owner.
    CalledBack,
    /// Called back, and the owner dropped or used for another.
    Over,
    /// The loop is gone, and the owner with it.
    TornDown,
    /// The loop is gone, and a worker has the owner.
    Leaked,
    /// `prepare` panicked.
    NeverBegun,
}

/// What an operation has to do with the rest of the model.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    None,
    Send { side: usize, segment: usize, len: usize, all: bool },
    Receive { side: usize, chunk: usize, len: usize, exact: bool },
    Write { ticket: WriteTicket, len: usize, all: bool },
    Read { ticket: ReadTicket, there: usize, len: usize, exact: bool },
    Append { ticket: usize, len: usize, all: bool },
    ReadOn { position: Option<usize>, len: usize },
    Mixed { ticket: usize, len: usize, writes: bool },
    Fifo { ticket: usize, len: usize, writes: bool },
    Shutdown { side: usize },
    Close { side: usize },
    Offload { job: Arc<Job> },
}

/// When a repeating timer may fire next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ticks {
    pub(super) period_ns: u64,
    pub(super) next_ns: u64,
    /// It was reset when it had perhaps fired already.
    pub(super) fired_before_reset: bool,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) request: Request,
    pub(crate) on: usize,
    pub(crate) life: usize,
    pub(super) state: State,
    pub(super) id: Option<OpId>,
    /// The table was full.
    pub(super) refused: bool,
    /// It never reaches the table.
    pub(super) immediate: bool,
    pub(super) canceled: bool,
    /// A cancel of many may have meant it.
    pub(super) perhaps_canceled: bool,
    /// Not before this time, on the model's clock.
    pub(super) due_ns: u64,
    /// Its time was moved.
    pub(super) was_reset: bool,
    pub(super) limit_ns: Option<u64>,
    pub(super) background: bool,
    pub(super) submitted_in_run: u64,
    pub(crate) effect: Effect,
    pub(super) ticks: Ticks,
    pub(super) disarmed: bool,
    pub(super) items: u64,
    /// It was the only wait when its notifier was notified.
    pub(super) owed: bool,
    /// Another wait was in flight beside it.
    pub(super) contested: bool,
    pub(super) in_item: bool,
    /// Its memory is lost with its loop, which cannot drop it.
    pub(crate) is_static: bool,
    /// It was dropped with its loop before a worker had begun it.
    pub(super) torn_down_unbegun: bool,
}

impl Model {
    /// Whether what comes out of one entry is remembered as that of another.
    pub(super) fn describe(&self, number: usize) -> String {
        let entry = &self.entries[number];
        format!("#{number} {:?} on loop {}", entry.request, entry.on)
    }

    /// A submission is about to be made: its number.
    pub(crate) fn begin(
        &mut self,
        request: Request,
        on: usize,
        limit_us: Option<u16>,
        background: bool,
    ) -> usize {
        let now_ns = self.now_ns();
        let limit_ns = limit_us.map(|us| now_ns + u64::from(us) * 1000);
        let (life, run) = (self.loops[on].life, self.loops[on].run);
        let (due_ns, ticks) = match request {
            Request::Single(Work::After(us) | Work::Nested(us)) => {
                (now_ns + u64::from(us) * 1000, Ticks::default())
            }
            Request::Single(Work::Hour) => (now_ns + 3_600_000_000_000, Ticks::default()),
            Request::Series(Series::Every(us) | Series::EveryAfter(us)) => {
                let period_ns = u64::from(us) * 1000;
                (0, Ticks { period_ns, next_ns: now_ns + period_ns, fired_before_reset: false })
            }
            _ => (0, Ticks::default()),
        };
        self.entries.push(Entry {
            request,
            on,
            life,
            state: State::Preparing,
            id: None,
            refused: false,
            immediate: request.is_immediate(),
            canceled: false,
            perhaps_canceled: false,
            due_ns,
            was_reset: false,
            limit_ns,
            background,
            submitted_in_run: run,
            effect: Effect::None,
            ticks,
            disarmed: false,
            items: 0,
            owed: false,
            contested: false,
            in_item: false,
            is_static: false,
            torn_down_unbegun: false,
        });
        let number = self.entries.len() - 1;
        if let Some(notifier) = request.notifier() {
            self.contest(notifier);
        }
        self.stats.count("submitted", request.name());
        number
    }

    /// The time of a timer at a moment.
    pub(crate) fn set_due(&mut self, number: usize, due_ns: u64) {
        self.entries[number].due_ns = due_ns;
    }

    /// All waits on a notifier know of each other.
    pub(super) fn contest(&mut self, notifier: usize) {
        let waits = |e: &Entry| {
            matches!(e.state, State::Preparing | State::InFlight) && e.request.notifier() == Some(notifier)
        };
        if self.entries.iter().filter(|e| waits(e)).count() > 1 {
            self.entries.iter_mut().filter(|e| waits(e)).for_each(|e| {
                e.contested = true;
                e.owed = false;
            });
        }
    }

    /// `submit` is entered; `listed` operations are in the table.
    pub(crate) fn enter_submit(&mut self, number: usize, listed: usize) {
        let on = self.entries[number].on;
        let full = listed >= self.loops[on].capacity;
        self.entries[number].refused = full && !self.entries[number].immediate;
        self.loops[on].inside_submit = true;
        // The loop may say what it is from here on.
        self.entries[number].state = State::InFlight;
        match self.entries[number].request {
            Request::Single(Work::Connect { nowhere: false }) => self.connects += 1,
            Request::Single(Work::Wait { .. }) | Request::Series(Series::Wait { .. }) if full => {
                self.entries[number].contested = true;
            }
            _ => {}
        }
    }

    pub(crate) fn leave_submit(&mut self, number: usize, id: Option<OpId>) {
        let on = self.entries[number].on;
        self.loops[on].inside_submit = false;
        if id.is_none() && self.entries[number].state == State::InFlight {
            self.report("a panic in prepare drops the owner", self.describe(number));
        }
        self.entries[number].id = id;
    }

    /// `prepare` of this entry panics.
    pub(crate) fn never_begun(&mut self, number: usize) {
        self.entries[number].state = State::NeverBegun;
    }

    pub(crate) fn id(&self, number: usize) -> Option<OpId> {
        self.entries[number].id
    }

    /// A callback runs. Checks that it may.
    pub(super) fn enter_callback(&mut self, on: usize, life: usize, address: usize, submitted_in_run: u64) {
        let lp = &mut self.loops[on];
        lp.callbacks += 1;
        let rule = match lp {
            _ if lp.address != address => "a callback runs on the loop of its submission",
            _ if lp.life != life => "a dropped loop runs no callbacks",
            LoopModel { tearing_down: true, .. } => "a dropped loop runs no callbacks",
            LoopModel { inside_submit: true, .. } => "no callback inside submit",
            LoopModel { running: false, .. } => "callbacks run inside run",
            LoopModel { stopped: true, .. } => "nothing runs after stop",
            LoopModel { single_step: true, run, .. } if submitted_in_run == *run => {
                "what a callback submits waits for the next step"
            }
            _ => return,
        };
        let detail = format!("loop {on}: {:?}", self.loops[on]);
        self.report(rule, detail);
    }

    /// The callback of a submission has its owner back.
    pub(crate) fn called_back(&mut self, number: usize, address: usize) {
        let Entry { on, life, submitted_in_run, state, .. } = self.entries[number];
        if state != State::InFlight {
            let detail = format!("{}, which was {state:?}", self.describe(number));
            self.report("each callback runs exactly once", detail);
        }
        if self.entries[number].in_item {
            let detail = self.describe(number);
            self.report("an owner is not given back inside its item callback", detail);
        }
        self.enter_callback(on, life, address, submitted_in_run);
        self.entries[number].state = State::CalledBack;
    }

    /// The owner of a submission is dropped.
    pub(crate) fn owner_dropped(&mut self, number: usize) {
        let Some(entry) = self.entries.get(number) else {
            return self.report("owners are dropped in their own program", format!("#{number}"));
        };
        let lp = &self.loops[entry.on];
        let torn_down = lp.tearing_down && lp.life == entry.life;
        let next = match entry.state {
            State::CalledBack => State::Over,
            State::Preparing | State::NeverBegun => State::Over,
            State::InFlight if torn_down => State::TornDown,
            state => {
                let detail = format!("{}, which was {state:?}", self.describe(number));
                return self.report("each owner is dropped exactly once", detail);
            }
        };
        self.entries[number].state = next;
        if next == State::TornDown {
            self.stats.count("torn down", self.entries[number].request.name());
            self.settle_unknown(number);
        }
    }

    /// The owner goes on with another submission.
    pub(crate) fn owner_reused(&mut self, number: usize) {
        self.entries[number].state = State::Over;
    }

    /// An operation is gone, and how it went is not known.
    pub(super) fn settle_unknown(&mut self, number: usize) {
        if self.entries[number].request.accepts() {
            self.accepts_lost = true;
        }
        match self.entries[number].effect.clone() {
            Effect::None | Effect::Offload { .. } => {}
            Effect::Close { side } => self.side_gone(side, true),
            Effect::Shutdown { side } => self.sides[side].unsure = true,
            Effect::Send { side, segment, len, .. } => {
                self.sides[side].unsure = true;
                self.ledger_out(side).end_send(segment, Moved::AtMost(len));
            }
            Effect::Receive { side, chunk, len, .. } => {
                self.sides[side].unsure = true;
                self.ledger_in(side).end_receive(chunk, len);
            }
            Effect::Write { ticket, .. } => self.file.end_write(ticket, &[], None),
            Effect::Read { .. } => {}
            Effect::Append { ticket, .. } => self.log.end_write(ticket, None),
            Effect::Mixed { ticket, writes: true, .. } => self.mixed.end_write(ticket, None),
            Effect::Mixed { ticket, writes: false, .. } => self.mixed.end_read(ticket, None),
            Effect::Fifo { ticket, len, writes: true } => self.fifo.end_send(ticket, Moved::AtMost(len)),
            Effect::Fifo { ticket, len, writes: false } => self.fifo.end_receive(ticket, len),
            Effect::ReadOn { .. } => {
                self.file.position = None;
                self.file.readers_on -= 1;
            }
        }
        let entry = &mut self.entries[number];
        entry.torn_down_unbegun = entry.job().is_some_and(|job| !job.has_begun());
        // It may yet be begun, though it must not.
        if !entry.torn_down_unbegun {
            entry.effect = Effect::None;
        }
    }
}
