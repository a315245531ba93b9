//! The contract, executable: what of each submission, loop, socket, file and notifier is known, and what may happen next. Whatever else
//! happens is a violation.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use oxev::{Cause, OpId, OpKind};

use super::files::{FileModel, ReadTicket, WriteTicket};
use super::program::{Backend, Half, OpenWhat, Receive, Series, Transmit, Work};
use super::random::mix;
use super::stats::Stats;
use super::wires::{Moved, Wire};

thread_local! {
    static MODEL: RefCell<Model> = RefCell::new(Model::new(Backend::Epoll, Clock::real()));
}

/// Asks or tells the model of this thread. Nothing may be dropped in here that tells it something in its turn.
pub(crate) fn model<R>(ask: impl FnOnce(&mut Model) -> R) -> R {
    MODEL.with_borrow_mut(ask)
}

/// Notes a violation.
pub(crate) fn complain(rule: &'static str, detail: impl Into<String>) {
    model(|m| m.complain(rule, detail.into()));
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

/// What an entry of the ledger is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    Single(Work),
    Many(Series),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// `prepare` has not returned.
    Preparing,
    InFlight,
    /// Its callback has the owner.
    CalledBack,
    /// Called back, and the owner dropped or used for another.
    Over,
    /// The loop is gone, and the owner with it.
    TornDown,
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
    ReadOn { position: Option<usize>, len: usize },
    Shutdown { side: usize },
    Close { side: usize },
}

/// When a repeating timer may fire next.
#[derive(Clone, Copy, Debug, Default)]
struct Ticks {
    period_ns: u64,
    next_ns: u64,
    /// It was reset when it had perhaps fired already.
    fired_before_reset: bool,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) job: Job,
    pub(crate) on: usize,
    pub(crate) life: usize,
    state: State,
    id: Option<OpId>,
    /// The table was full.
    refused: bool,
    /// It never reaches the table.
    settled: bool,
    canceled: bool,
    /// A cancel of many may have meant it.
    perhaps_canceled: bool,
    /// Not before this time, on the model's clock.
    due_ns: u64,
    /// Its time was moved.
    was_reset: bool,
    limit_ns: Option<u64>,
    background: bool,
    submitted_in_run: u64,
    pub(crate) effect: Effect,
    ticks: Ticks,
    disarmed: bool,
    items: u64,
    /// It was the only wait when its notifier was notified.
    owed: bool,
    /// Another wait was in flight beside it.
    contested: bool,
    in_item: bool,
}

/// One loop's place; loops come and go there.
#[derive(Debug, Default)]
pub(crate) struct LoopModel {
    pub(crate) life: usize,
    pub(crate) alive: bool,
    pub(crate) address: usize,
    pub(crate) capacity: usize,
    running: bool,
    /// In this run every callback is of an operation from before it.
    single_step: bool,
    run: u64,
    callbacks: u64,
    stopped: bool,
    /// The next run returns at once.
    pub(crate) stop_pending: bool,
    /// It may be that the next run returns at once.
    pub(crate) perhaps_stop_pending: bool,
    pub(crate) woken: bool,
    inside_submit: bool,
    tearing_down: bool,
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) peer: Option<usize>,
    wire_in: usize,
    wire_out: usize,
    /// Closed, or about to be.
    gone: bool,
    surely_gone: bool,
    shut_read: bool,
    shut_write: bool,
    /// For sure.
    write_ended: bool,
    read_ended: bool,
    /// An operation failed here.
    error_seen: bool,
    /// An operation was lost with its loop.
    unsure: bool,
}

#[derive(Debug, Default)]
struct NotifierModel {
    notified: u64,
    completed: u64,
}

/// Which faults there are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FaultModel {
    pub(crate) resets: bool,
    pub(crate) refuses: bool,
    pub(crate) io_errors: bool,
    pub(crate) no_space: bool,
    pub(crate) short_reads: bool,
    pub(crate) short_writes: bool,
}

pub(crate) struct Model {
    pub(crate) backend: Backend,
    pub(crate) clock: Clock,
    pub(crate) faults: FaultModel,
    pub(crate) partitioned: bool,
    pub(crate) entries: Vec<Entry>,
    pub(crate) loops: Vec<LoopModel>,
    pub(crate) sides: Vec<Side>,
    wires: Vec<Wire>,
    notifiers: Vec<NotifierModel>,
    pub(crate) file: FileModel,
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

#[derive(Debug)]
struct PostModel {
    on: usize,
    life: usize,
    elsewhere: bool,
    arrived: bool,
}

/// How an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Canceled,
    /// Its deadline passed.
    TimedOut,
    EndOfStream,
    TableFull,
    AlreadyWaiting,
    /// The kind `Other`: work panicked.
    Other,
    Errno(i32),
    Unknown,
}

impl Failure {
    fn code(self) -> u64 {
        match self {
            Failure::Canceled => 1,
            Failure::TimedOut => 2,
            Failure::EndOfStream => 3,
            Failure::Other => 4,
            Failure::Unknown => 5,
            Failure::TableFull => 6,
            Failure::AlreadyWaiting => 7,
            Failure::Errno(errno) => 8 + errno as u64,
        }
    }
}

pub(crate) fn classify(error: &io::Error) -> Failure {
    match (Cause::of(error), error.raw_os_error()) {
        (Some(Cause::Canceled), _) => Failure::Canceled,
        (Some(Cause::Deadline), _) => Failure::TimedOut,
        (Some(Cause::TableFull), _) => Failure::TableFull,
        (Some(Cause::AlreadyWaiting), _) => Failure::AlreadyWaiting,
        (Some(Cause::UnexpectedEof), _) => Failure::EndOfStream,
        (Some(Cause::Panicked), _) => Failure::Other,
        (_, Some(errno)) => Failure::Errno(errno),
        _ => Failure::Unknown,
    }
}

impl Work {
    /// Under which name the loop lists it.
    fn op_kind(self) -> Option<OpKind> {
        Some(match self {
            Work::Nop => OpKind::Nop,
            Work::After(_) | Work::At(_) | Work::Hour => OpKind::Timer,
            Work::Recv { how: Receive::Pooled, .. } => OpKind::RecvPooled,
            Work::Recv { how: Receive::Vectored | Receive::ExactVectored, .. } => OpKind::RecvVectored,
            Work::Recv { .. } => OpKind::Recv,
            Work::Send { how: Transmit::Some | Transmit::All, .. } => OpKind::Send,
            Work::Send { how: Transmit::ZeroCopy, .. } => OpKind::SendZeroCopy,
            Work::Send { .. } => OpKind::SendVectored,
            Work::Accept { .. } => OpKind::Accept,
            Work::Connect { .. } => OpKind::Connect,
            Work::Shutdown { .. } => OpKind::Shutdown,
            Work::Close { .. } | Work::CloseFile => OpKind::Close,
            Work::Read { how: Receive::Vectored | Receive::ExactVectored, .. } => OpKind::ReadVectored,
            Work::Read { .. } | Work::ReadOn { .. } => OpKind::Read,
            Work::Write { how: Transmit::Vectored | Transmit::AllVectored, .. } => OpKind::WriteVectored,
            Work::Write { .. } => OpKind::Write,
            Work::Sync { data: false } => OpKind::SyncAll,
            Work::Sync { data: true } => OpKind::SyncData,
            Work::Metadata => OpKind::Metadata,
            Work::Open(_) => OpKind::Open,
            Work::Wait { .. } => OpKind::Notify,
            Work::Offload { .. } => OpKind::Offload,
            Work::Stray { sends } | Work::OnClosed { sends } => {
                if sends {
                    OpKind::Send
                } else {
                    OpKind::Recv
                }
            }
            Work::ForeignPool { .. } => return None,
        })
    }

    /// It is over before it reaches the table: an empty buffer, an argument that makes no sense.
    fn is_settled(self) -> bool {
        match self {
            Work::Recv { how: Receive::Pooled, .. } => false,
            Work::Recv { len, .. }
            | Work::Read { len, .. }
            | Work::Write { len, .. }
            | Work::ReadOn { len } => len == 0,
            Work::Send { len, .. } => len == 0,
            Work::Open(OpenWhat::Contradiction) | Work::ForeignPool { .. } => true,
            _ => false,
        }
    }

    fn is_timer(self) -> bool {
        matches!(self, Work::After(_) | Work::At(_) | Work::Hour)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Work::Nop => "nop",
            Work::After(_) | Work::Hour => "after",
            Work::At(_) => "at",
            Work::Recv { how: Receive::Some, .. } => "recv",
            Work::Recv { how: Receive::Exact, .. } => "recv_exact",
            Work::Recv { how: Receive::Vectored, .. } => "recv_vectored",
            Work::Recv { how: Receive::ExactVectored, .. } => "recv_exact_vectored",
            Work::Recv { how: Receive::Pooled, .. } => "recv_pooled",
            Work::Send { how: Transmit::Some, .. } => "send",
            Work::Send { how: Transmit::All, .. } => "send_all",
            Work::Send { how: Transmit::ZeroCopy, .. } => "send_all_zero_copy",
            Work::Send { how: Transmit::Vectored, .. } => "send_vectored",
            Work::Send { how: Transmit::AllVectored, .. } => "send_all_vectored",
            Work::Accept { address: false } => "accept",
            Work::Accept { address: true } => "accept_with_addr",
            Work::Connect { .. } => "connect",
            Work::Shutdown { .. } => "shutdown",
            Work::Close { .. } => "close (socket)",
            Work::CloseFile => "close (file)",
            Work::Read { .. } => "read_at",
            Work::ReadOn { .. } => "read",
            Work::Write { .. } => "write_at",
            Work::Sync { .. } => "sync",
            Work::Metadata => "metadata",
            Work::Open(_) => "open",
            Work::Wait { .. } => "notifier.wait",
            Work::Offload { .. } => "offload",
            Work::Stray { .. } => "on a stray socket",
            Work::OnClosed { .. } => "on a closed stream",
            Work::ForeignPool { .. } => "foreign pool",
        }
    }
}

impl Series {
    fn op_kind(self) -> OpKind {
        match self {
            Series::Every(_) | Series::EveryAfter(_) => OpKind::Timer,
            Series::Accept => OpKind::Accept,
            Series::Recv { .. } => OpKind::RecvPooled,
            Series::Wait { .. } => OpKind::Notify,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Series::Every(_) => "every",
            Series::EveryAfter(_) => "every_after",
            Series::Accept => "accept_multi",
            Series::Recv { .. } => "recv_multi",
            Series::Wait { .. } => "wait_multi",
        }
    }
}

impl Job {
    fn op_kind(self) -> Option<OpKind> {
        match self {
            Job::Single(work) => work.op_kind(),
            Job::Many(series) => Some(series.op_kind()),
        }
    }

    fn is_settled(self) -> bool {
        match self {
            Job::Single(work) => work.is_settled(),
            Job::Many(series) => matches!(series, Series::Every(0) | Series::EveryAfter(0)),
        }
    }

    fn is_timer(self) -> bool {
        match self {
            Job::Single(work) => work.is_timer(),
            Job::Many(series) => matches!(series, Series::Every(_) | Series::EveryAfter(_)),
        }
    }

    fn notifier(self) -> Option<usize> {
        match self {
            Job::Single(Work::Wait { notifier }) | Job::Many(Series::Wait { notifier }) => {
                Some(usize::from(notifier))
            }
            _ => None,
        }
    }

    fn accepts(self) -> bool {
        matches!(self, Job::Single(Work::Accept { .. }) | Job::Many(Series::Accept))
    }

    /// What has arrived for it comes to the program in any case.
    fn brings_resources(self) -> bool {
        matches!(self, Job::Many(Series::Accept | Series::Recv { .. }))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Job::Single(work) => work.name(),
            Job::Many(series) => series.name(),
        }
    }
}

impl Model {
    pub(crate) fn new(backend: Backend, clock: Clock) -> Model {
        Model {
            backend,
            clock,
            faults: FaultModel::default(),
            partitioned: false,
            entries: Vec::new(),
            loops: Vec::new(),
            sides: Vec::new(),
            wires: Vec::new(),
            notifiers: vec![NotifierModel::default(), NotifierModel::default()],
            file: FileModel::new(),
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

    pub(crate) fn complain(&mut self, rule: &'static str, detail: String) {
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

    /// Whether what comes out of one entry is remembered as that of another.
    fn describe(&self, number: usize) -> String {
        let entry = &self.entries[number];
        format!("#{number} {:?} on loop {}", entry.job, entry.on)
    }

    // ---- submissions

    /// A submission is about to be made: its number.
    pub(crate) fn begin(&mut self, job: Job, on: usize, limit_us: Option<u16>, background: bool) -> usize {
        let now_ns = self.now_ns();
        let limit_ns = limit_us.map(|us| now_ns + u64::from(us) * 1000);
        let (life, run) = (self.loops[on].life, self.loops[on].run);
        let (due_ns, ticks) = match job {
            Job::Single(Work::After(us)) => (now_ns + u64::from(us) * 1000, Ticks::default()),
            Job::Single(Work::Hour) => (now_ns + 3_600_000_000_000, Ticks::default()),
            Job::Many(Series::Every(us) | Series::EveryAfter(us)) => {
                let period_ns = u64::from(us) * 1000;
                (0, Ticks { period_ns, next_ns: now_ns + period_ns, fired_before_reset: false })
            }
            _ => (0, Ticks::default()),
        };
        self.entries.push(Entry {
            job,
            on,
            life,
            state: State::Preparing,
            id: None,
            refused: false,
            settled: job.is_settled(),
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
        });
        let number = self.entries.len() - 1;
        if let Some(notifier) = job.notifier() {
            self.contest(notifier);
        }
        self.stats.count("submitted", job.name());
        number
    }

    /// The time of a timer at a moment.
    pub(crate) fn set_due(&mut self, number: usize, due_ns: u64) {
        self.entries[number].due_ns = due_ns;
    }

    /// All waits on a notifier know of each other.
    fn contest(&mut self, notifier: usize) {
        let waits = |e: &Entry| {
            matches!(e.state, State::Preparing | State::InFlight) && e.job.notifier() == Some(notifier)
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
        self.entries[number].refused = full && !self.entries[number].settled;
        self.loops[on].inside_submit = true;
        // The loop may say what it is from here on.
        self.entries[number].state = State::InFlight;
        match self.entries[number].job {
            Job::Single(Work::Connect { nowhere: false }) => self.connects += 1,
            Job::Single(Work::Wait { .. }) | Job::Many(Series::Wait { .. }) if full => {
                self.entries[number].contested = true;
            }
            _ => {}
        }
    }

    pub(crate) fn leave_submit(&mut self, number: usize, id: Option<OpId>) {
        let on = self.entries[number].on;
        self.loops[on].inside_submit = false;
        if id.is_none() && self.entries[number].state == State::InFlight {
            self.complain("a panic in prepare drops the owner", self.describe(number));
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

    // ---- callbacks

    /// A callback runs. Checks that it may.
    fn enter_callback(&mut self, on: usize, life: usize, address: usize, submitted_in_run: u64) {
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
        self.complain(rule, detail);
    }

    /// The callback of a submission has its owner back.
    pub(crate) fn called_back(&mut self, number: usize, address: usize) {
        let Entry { on, life, submitted_in_run, state, .. } = self.entries[number];
        if state != State::InFlight {
            let detail = format!("{}, which was {state:?}", self.describe(number));
            self.complain("each callback runs exactly once", detail);
        }
        if self.entries[number].in_item {
            let detail = self.describe(number);
            self.complain("an owner is not given back inside its item callback", detail);
        }
        self.enter_callback(on, life, address, submitted_in_run);
        self.entries[number].state = State::CalledBack;
    }

    /// The owner of a submission is dropped.
    pub(crate) fn owner_dropped(&mut self, number: usize) {
        let Some(entry) = self.entries.get(number) else {
            return self.complain("owners are dropped in their own program", format!("#{number}"));
        };
        let lp = &self.loops[entry.on];
        let torn_down = lp.tearing_down && lp.life == entry.life;
        let next = match entry.state {
            State::CalledBack => State::Over,
            State::Preparing | State::NeverBegun => State::Over,
            State::InFlight if torn_down => State::TornDown,
            state => {
                let detail = format!("{}, which was {state:?}", self.describe(number));
                return self.complain("each owner is dropped exactly once", detail);
            }
        };
        self.entries[number].state = next;
        if next == State::TornDown {
            self.stats.count("torn down", self.entries[number].job.name());
            self.settle_unknown(number);
        }
    }

    /// The owner goes on with another submission.
    pub(crate) fn owner_reused(&mut self, number: usize) {
        self.entries[number].state = State::Over;
    }

    /// An operation is gone, and nobody knows how it went.
    fn settle_unknown(&mut self, number: usize) {
        if self.entries[number].job.accepts() {
            self.accepts_lost = true;
        }
        match self.entries[number].effect.clone() {
            Effect::None => {}
            Effect::Close { side } => self.side_gone(side, true),
            Effect::Shutdown { side } => self.sides[side].unsure = true,
            Effect::Send { side, segment, len, .. } => {
                self.sides[side].unsure = true;
                self.wire_out(side).end_send(segment, Moved::AtMost(len));
            }
            Effect::Receive { side, chunk, len, .. } => {
                self.sides[side].unsure = true;
                self.wire_in(side).end_receive(chunk, len);
            }
            Effect::Write { ticket, .. } => self.file.end_write(ticket, &[], None),
            Effect::Read { .. } => {}
            Effect::ReadOn { .. } => {
                self.file.position = None;
                self.file.readers_on -= 1;
            }
        }
        self.entries[number].effect = Effect::None;
    }

    /// Judges how an operation ended.
    pub(crate) fn judge(&mut self, number: usize, result: Result<usize, Failure>) {
        let now_ns = self.now_ns();
        let job = self.entries[number].job;
        self.stats.count(job.name(), outcome_name(result));
        let code = match result {
            Ok(n) => n as u64,
            Err(failure) => 2 << 40 | failure.code(),
        };
        self.digest(code ^ mix(number as u64));
        #[cfg(feature = "sim")]
        if matches!(self.clock, Clock::Sim(_)) {
            self.digest(now_ns);
        }
        if let Err(rule) = self.may_end(number, result, now_ns) {
            let e = &self.entries[number];
            let detail = format!(
                "{} ended with {result:?} at {now_ns} ns (canceled: {}, due: {}, limit: {:?}, refused: {})",
                self.describe(number),
                e.canceled,
                e.due_ns,
                e.limit_ns,
                e.refused
            );
            self.complain(rule, detail);
        }
        if result.is_ok() {
            self.check_timer_order(number);
        }
        if self.loops[self.entries[number].on].life == self.entries[number].life {
            self.note_progress(number, result);
        }
    }

    fn note_progress(&mut self, number: usize, result: Result<usize, Failure>) {
        match (self.entries[number].job, result) {
            (Job::Single(Work::Connect { nowhere: false }), Ok(_)) => self.connected += 1,
            (Job::Single(Work::Wait { notifier }), Ok(_)) => self.notified_wait(usize::from(notifier)),
            (Job::Single(Work::Accept { .. }), Ok(_)) => self.accepted(),
            _ => {}
        }
    }

    fn accepted(&mut self) {
        self.accepts += 1;
        if self.accepts > self.connects {
            let detail = format!("{} accepts, {} connects", self.accepts, self.connects);
            self.complain("no more connections are accepted than made", detail);
        }
    }

    fn notified_wait(&mut self, notifier: usize) {
        let n = &mut self.notifiers[notifier];
        n.completed += 1;
        if n.completed > n.notified {
            let detail = format!("{n:?}");
            self.complain("a wait ends when its notifier is notified", detail);
        }
    }

    /// The rule that forbids this end.
    fn may_end(
        &self,
        number: usize,
        result: Result<usize, Failure>,
        now_ns: u64,
    ) -> Result<(), &'static str> {
        let entry = &self.entries[number];
        let allowed = |allowed: bool, rule: &'static str| if allowed { Ok(()) } else { Err(rule) };
        match result {
            Err(Failure::Canceled) => {
                let canceled = entry.canceled || entry.perhaps_canceled;
                allowed(canceled && !entry.disarmed, "only what was cancelled ends as cancelled")
            }
            Err(Failure::TimedOut) => {
                let passed = entry.limit_ns.is_some_and(|limit_ns| now_ns >= limit_ns);
                allowed(passed && !entry.canceled && !entry.disarmed, "a deadline is never early")
            }
            Err(Failure::TableFull) => allowed(entry.refused, "only a full table refuses an operation"),
            _ if entry.refused => Err("a full table refuses an operation"),
            Err(Failure::AlreadyWaiting) => {
                let waits =
                    matches!(entry.job, Job::Single(Work::Wait { .. }) | Job::Many(Series::Wait { .. }));
                allowed(waits && entry.contested, "only a second wait for a notifier is refused")
            }
            Err(Failure::Errno(errno)) => {
                allowed(self.may_fail(entry, errno), "an operation fails for a reason")
            }
            Err(Failure::EndOfStream) => self.may_reach_the_end(entry),
            Err(Failure::Other) => {
                let panics = matches!(entry.job, Job::Single(Work::Offload { panics: true }));
                allowed(panics, "an operation fails for a reason")
            }
            Err(Failure::Unknown) => Err("an operation fails for a reason"),
            Ok(count) => self.may_succeed(entry, count, now_ns),
        }
    }

    fn may_succeed(&self, entry: &Entry, count: usize, now_ns: u64) -> Result<(), &'static str> {
        const COUNT: &str = "a count is that of the bytes";
        let allowed = |allowed: bool, rule: &'static str| if allowed { Ok(()) } else { Err(rule) };
        match (&entry.effect, entry.job) {
            (_, Job::Many(_)) if entry.disarmed => Ok(()),
            (_, Job::Many(Series::Recv { .. })) => self.may_reach_the_end(entry),
            (_, Job::Many(_)) => Err("a series ends for a reason"),
            (Effect::Send { len, all, .. }, _) if *all => allowed(count == *len, COUNT),
            (Effect::Send { len, .. }, _) => allowed((usize::from(*len > 0)..=*len).contains(&count), COUNT),
            (Effect::Receive { len, exact, .. }, _) => match count {
                _ if *exact => allowed(count == *len, COUNT),
                0 if *len > 0 => self.may_reach_the_end(entry),
                _ => allowed(count <= *len, COUNT),
            },
            (Effect::Write { len, all, .. }, _) => {
                let least = if *all || !self.faults.short_writes { *len } else { usize::from(*len > 0) };
                allowed((least..=*len).contains(&count), COUNT)
            }
            (Effect::Read { there, len, exact, .. }, _) => {
                let most = *there.min(len);
                let least = match () {
                    () if *exact => *len,
                    () if self.faults.short_reads => usize::from(most > 0),
                    () => most,
                };
                allowed((least..=most).contains(&count), COUNT)
            }
            (Effect::ReadOn { len, .. }, _) => allowed(count <= *len, COUNT),
            (_, Job::Single(work)) if work.is_timer() => {
                allowed(now_ns >= entry.due_ns, "a timer is never early")
            }
            (_, Job::Single(Work::Open(what))) => allowed(
                matches!(what, OpenWhat::Existing | OpenWhat::CreateNew),
                "an operation fails when it must",
            ),
            (_, Job::Single(Work::Connect { nowhere: true })) => Err("an operation fails when it must"),
            (_, Job::Single(Work::Stray { .. } | Work::OnClosed { .. } | Work::ForeignPool { .. })) => {
                Err("an operation fails when it must")
            }
            (_, Job::Single(Work::Offload { panics: true })) => Err("an operation fails when it must"),
            _ => Ok(()),
        }
    }

    fn may_fail(&self, entry: &Entry, errno: i32) -> bool {
        let world = self.backend == Backend::Sim;
        match (&entry.effect, entry.job) {
            // A receive that was disarmed tells what the kernel tells once.
            (_, Job::Many(_)) if entry.disarmed && !matches!(entry.effect, Effect::Receive { .. }) => false,
            (Effect::Send { side, .. }, _) => match errno {
                libc::EPIPE => self.may_be_reset(*side) || self.sides[*side].shut_write,
                libc::ECONNRESET => self.may_be_reset(*side),
                _ => false,
            },
            (Effect::Receive { side, .. }, _) => errno == libc::ECONNRESET && self.may_be_reset(*side),
            (Effect::Shutdown { side }, _) => {
                let side_is = &self.sides[*side];
                errno == libc::ENOTCONN
                    && (self.may_be_reset(*side) || side_is.shut_read || side_is.shut_write)
            }
            (Effect::Write { .. }, _) => match errno {
                libc::EIO => self.faults.io_errors,
                libc::ENOSPC => self.faults.no_space,
                _ => false,
            },
            (Effect::Read { .. } | Effect::ReadOn { .. }, _) | (_, Job::Single(Work::Sync { .. })) => {
                errno == libc::EIO && self.faults.io_errors
            }
            (_, Job::Single(work)) => match work {
                Work::Connect { nowhere } => errno == libc::ECONNREFUSED && (nowhere || self.faults.refuses),
                Work::Open(OpenWhat::Missing) => errno == libc::ENOENT,
                Work::Open(OpenWhat::CreateNew) => errno == libc::EEXIST,
                Work::Open(OpenWhat::Contradiction) | Work::ForeignPool { .. } => errno == libc::EINVAL,
                Work::OnClosed { .. } => errno == libc::EBADF,
                Work::Stray { .. } if world => errno == libc::EBADF,
                Work::Stray { sends: true } => errno == libc::EPIPE || errno == libc::ENOTCONN,
                Work::Stray { sends: false } => errno == libc::ENOTCONN,
                _ => false,
            },
            (_, Job::Many(Series::Every(0) | Series::EveryAfter(0))) => errno == libc::EINVAL,
            (_, Job::Many(_)) => false,
        }
    }

    /// Timers with equal deadlines fire in the order of their submission.
    fn check_timer_order(&mut self, number: usize) {
        let Entry { job, on, life, due_ns, was_reset, .. } = self.entries[number];
        if !matches!(job, Job::Single(Work::At(_))) || was_reset {
            return;
        }
        let last = self.fired.insert((on, life, due_ns), number);
        if last.is_some() {
            self.stats.count("at", "the same time as another");
        }
        if last.is_some_and(|last| last > number) {
            let detail = format!("#{number} after #{}", last.unwrap_or_default());
            self.complain("timers with equal deadlines fire in order", detail);
        }
    }

    // ---- several results

    /// An item of a series comes; `value` is its number of periods.
    pub(crate) fn item(&mut self, number: usize, address: usize, value: u64) {
        let now_ns = self.now_ns();
        let Entry { on, life, submitted_in_run, state, disarmed, job, in_item, .. } = self.entries[number];
        self.stats.count(job.name(), "item");
        self.digest(mix(number as u64) ^ (3 << 40) ^ value);
        self.enter_callback(on, life, address, submitted_in_run);
        let rule = match () {
            () if state != State::InFlight => Some("items come between submit and the end"),
            () if disarmed && !job.brings_resources() => Some("no tick comes after Disarm"),
            () if in_item => Some("one item callback at a time"),
            () if self.entries[number].refused => Some("a full table refuses an operation"),
            () => None,
        };
        if let Some(rule) = rule {
            self.complain(rule, self.describe(number));
        }
        let entry = &mut self.entries[number];
        entry.items += 1;
        entry.owed = false;
        entry.in_item = true;
        match job {
            Job::Many(Series::Every(_) | Series::EveryAfter(_)) => self.tick(number, now_ns, value),
            Job::Many(Series::Accept) => self.accepted(),
            Job::Many(Series::Wait { notifier }) => self.notified_wait(usize::from(notifier)),
            _ => {}
        }
    }

    fn tick(&mut self, number: usize, now_ns: u64, periods: u64) {
        let entry = &mut self.entries[number];
        let Ticks { period_ns, next_ns, .. } = entry.ticks;
        let fixed_delay = matches!(entry.job, Job::Many(Series::EveryAfter(_)));
        if std::mem::take(&mut entry.ticks.fired_before_reset) {
            // It may be from before, and then says nothing of what comes.
            return;
        }
        let wrong = periods == 0
            || fixed_delay && periods != 1
            || now_ns < next_ns.saturating_add((periods - 1).saturating_mul(period_ns));
        entry.ticks.next_ns = match fixed_delay {
            true => now_ns + period_ns,
            false => next_ns + periods * period_ns,
        };
        if wrong {
            let detail =
                format!("{}: {periods} periods at {now_ns}, not before {next_ns}", self.describe(number));
            self.complain("a repeating timer is never early", detail);
        }
    }

    /// An item callback is over, or will be by a panic.
    pub(crate) fn item_over(&mut self, number: usize, disarms: bool) {
        let now_ns = self.now_ns();
        let entry = &mut self.entries[number];
        entry.in_item = false;
        entry.disarmed |= disarms;
        if matches!(entry.job, Job::Many(Series::EveryAfter(_))) && !entry.was_reset {
            // The delay counts from the end of the callback.
            entry.ticks.next_ns = now_ns + entry.ticks.period_ns;
        }
        entry.was_reset = false;
    }

    // ---- steering

    /// What a cancel must say: `None` if it may say either.
    fn cancel_must(&self, number: usize, listed: bool) -> Option<bool> {
        let entry = &self.entries[number];
        if !listed || entry.canceled {
            return Some(false);
        }
        let now_ns = self.now_ns();
        let unsure = entry.disarmed
            || entry.perhaps_canceled
            || entry.job.notifier().is_some()
            || entry.limit_ns.is_some_and(|limit_ns| now_ns >= limit_ns);
        if unsure { None } else { Some(true) }
    }

    /// `cancel` of an entry said this; `listed`: it was among those in flight before.
    pub(crate) fn canceled(&mut self, number: usize, listed: bool, said: bool) {
        if self.cancel_must(number, listed).is_some_and(|must| must != said) {
            let detail =
                format!("{}: {said}, listed: {listed}, {:?}", self.describe(number), self.entries[number]);
            self.complain("cancel says whether it cancels", detail);
        }
        self.entries[number].canceled |= said;
        self.stats.count("cancel", if said { "true" } else { "false" });
    }

    /// `cancel_all` said that it cancelled so many of these, which were in flight on the descriptor.
    pub(crate) fn canceled_all(&mut self, listed: &[usize], count: usize) {
        let must = |what| listed.iter().filter(|n| self.cancel_must(**n, true) == what).count();
        let (sure, perhaps) = (must(Some(true)), must(None));
        if !(sure..=sure + perhaps).contains(&count) {
            let detail = format!("{count} of {listed:?}, {sure} at least");
            self.complain("cancel_all says how many it cancels", detail);
        }
        for &number in listed {
            match self.cancel_must(number, true) {
                Some(true) => self.entries[number].canceled = true,
                None => self.entries[number].perhaps_canceled = true,
                Some(false) => {}
            }
        }
        self.stats.count("cancel_all", if count > 0 { "some" } else { "none" });
    }

    /// `reset` said this; `before_ns` is the time before the call.
    pub(crate) fn reset(&mut self, number: usize, listed: bool, said: bool, before_ns: u64, us: u16) {
        let now_ns = self.now_ns();
        let entry = &self.entries[number];
        let late = entry.limit_ns.is_some_and(|limit_ns| now_ns >= limit_ns) && !entry.job.is_timer();
        let must = match () {
            () if !listed || entry.canceled => Some(false),
            () if entry.disarmed || entry.perhaps_canceled || late => None,
            () => Some(true),
        };
        if must.is_some_and(|must| must != said) {
            let detail = format!("{}: {said}, listed: {listed}, {entry:?}", self.describe(number));
            self.complain("reset says whether it resets", detail);
        }
        self.stats.count("reset", if said { "true" } else { "false" });
        if !said {
            return;
        }
        let at_ns = before_ns + u64::from(us) * 1000;
        let entry = &mut self.entries[number];
        entry.was_reset = true;
        match entry.job {
            Job::Single(work) if work.is_timer() => {
                entry.due_ns = at_ns;
                entry.limit_ns = entry.limit_ns.map(|_| at_ns);
            }
            Job::Many(Series::Every(_) | Series::EveryAfter(_)) => {
                entry.ticks.fired_before_reset |= now_ns >= entry.ticks.next_ns && !entry.in_item;
                entry.ticks.next_ns = at_ns;
            }
            _ => entry.limit_ns = Some(at_ns),
        }
    }

    pub(crate) fn notified(&mut self, notifier: usize) {
        self.notifiers[notifier].notified += 1;
        let mut waits = self
            .entries
            .iter_mut()
            .filter(|e| e.state == State::InFlight && e.job.notifier() == Some(notifier) && !e.contested);
        if let (Some(one), None) = (waits.next(), waits.next()) {
            one.owed = true;
        }
    }

    // ---- posts

    pub(crate) fn begin_post(&mut self, on: usize, elsewhere: bool) -> usize {
        let life = self.loops[on].life;
        self.posts.push(PostModel { on, life, elsewhere, arrived: false });
        self.posts.len() - 1
    }

    /// A post arrives: those of one thread in their order.
    pub(crate) fn post_arrived(&mut self, number: usize, address: usize) -> usize {
        let PostModel { on, life, elsewhere, arrived } = self.posts[number];
        self.digest(mix(number as u64) ^ (4 << 40));
        self.enter_callback(on, life, address, u64::MAX);
        if arrived {
            self.complain("each callback runs exactly once", format!("post {number}"));
        }
        self.posts[number].arrived = true;
        let last = self.last_posts.insert((on, life, elsewhere), number);
        if last.is_some_and(|last| last > number) {
            self.complain(
                "posts of one thread arrive in their order",
                format!("post {number} after {last:?}"),
            );
        }
        self.stats.count("post", "arrived");
        on
    }

    // ---- connections

    fn wire_in(&mut self, side: usize) -> &mut Wire {
        let wire = self.sides[side].wire_in;
        &mut self.wires[wire]
    }

    fn wire_out(&mut self, side: usize) -> &mut Wire {
        let wire = self.sides[side].wire_out;
        &mut self.wires[wire]
    }

    /// A new end, whose other end is not known.
    pub(crate) fn add_side(&mut self) -> usize {
        let wire = self.wires.len();
        self.wires.extend([Wire::default(), Wire::default()]);
        self.sides.push(Side {
            peer: None,
            wire_in: wire,
            wire_out: wire + 1,
            gone: false,
            surely_gone: false,
            shut_read: false,
            shut_write: false,
            write_ended: false,
            read_ended: false,
            error_seen: false,
            unsure: false,
        });
        self.sides.len() - 1
    }

    /// These two are ends of one connection. Nothing has been done on either yet.
    pub(crate) fn pair(&mut self, one: usize, other: usize) {
        if self.sides[one].peer.is_some() || self.sides[other].peer.is_some() {
            return self.complain("a connection is accepted once", format!("sides {one} and {other}"));
        }
        self.sides[one].peer = Some(other);
        self.sides[other].peer = Some(one);
        self.sides[other].wire_in = self.sides[one].wire_out;
        self.sides[other].wire_out = self.sides[one].wire_in;
    }

    /// An end is closed, or about to be.
    pub(crate) fn side_gone(&mut self, side: usize, for_sure: bool) {
        let side = &mut self.sides[side];
        side.gone = true;
        side.surely_gone |= for_sure;
        side.write_ended |= for_sure;
    }

    pub(crate) fn begin_shutdown(&mut self, side: usize, half: Half) {
        let side = &mut self.sides[side];
        side.shut_read |= half != Half::Write;
        side.shut_write |= half != Half::Read;
    }

    pub(crate) fn shut_down(&mut self, side: usize, half: Half, result: Result<usize, Failure>) {
        match result {
            Ok(_) => {
                self.sides[side].write_ended |= half != Half::Read;
                self.sides[side].read_ended |= half != Half::Write;
            }
            Err(Failure::Errno(_)) => self.sides[side].error_seen = true,
            Err(_) => {}
        }
    }

    fn may_be_reset(&self, side: usize) -> bool {
        let side = &self.sides[side];
        // Linux resets a connection when there comes data that nobody will read: tcp_rcv_state_process().
        let unread = |peer: usize| self.sides[peer].shut_read || side.shut_read;
        let real = self.backend != Backend::Sim;
        self.faults.resets || side.peer.is_none_or(|peer| self.sides[peer].gone || real && unread(peer))
    }

    fn may_reach_the_end(&self, entry: &Entry) -> Result<(), &'static str> {
        let may = match &entry.effect {
            Effect::Read { there, len, exact: true, .. } => there < len,
            Effect::Receive { side, .. } => {
                let this = &self.sides[*side];
                let peer_ends = |peer: usize| self.sides[peer].shut_write;
                self.may_be_reset(*side)
                    || this.shut_read
                    || this.error_seen
                    || this.peer.is_some_and(peer_ends)
            }
            _ => false,
        };
        if may { Ok(()) } else { Err("the end of the stream is not made up") }
    }

    /// Whether an operation is in flight in a direction of an end.
    pub(crate) fn is_sending(&mut self, side: usize) -> bool {
        self.wire_out(side).sends.in_flight > 0
    }

    pub(crate) fn is_receiving(&mut self, side: usize) -> bool {
        self.wire_in(side).receives.in_flight > 0
    }

    /// Operations of one kind on one loop are done in the order of their submission: the backends that queue them promise that.
    fn keeps_order(&self) -> bool {
        self.backend != Backend::IoUring
    }

    pub(crate) fn begin_send(&mut self, number: usize, side: usize, key: u64, len: usize, all: bool) {
        let (on, in_order) = ((self.entries[number].on, self.entries[number].life), self.keeps_order());
        let segment = self.wire_out(side).begin_send(key, len, on, in_order);
        self.entries[number].effect = Effect::Send { side, segment, len, all };
    }

    pub(crate) fn end_send(&mut self, number: usize, result: Result<usize, Failure>) {
        let Effect::Send { side, segment, len, all } = self.entries[number].effect else { return };
        let sent = match result {
            Ok(n) => Moved::Exactly(n.min(len)),
            // What is refused was never tried; what is not to be sent whole is sent once or not at all.
            Err(_) if self.entries[number].refused || !all => Moved::Exactly(0),
            Err(_) => Moved::AtMost(len),
        };
        self.wire_out(side).end_send(segment, sent);
        self.note_error(side, result);
    }

    pub(crate) fn begin_receive(
        &mut self,
        number: usize,
        side: usize,
        len: usize,
        exact: bool,
        pooled: bool,
    ) {
        let (on, in_order) =
            ((self.entries[number].on, self.entries[number].life), self.keeps_order() && !pooled);
        let chunk = self.wire_in(side).begin_receive(len, on, in_order);
        self.entries[number].effect = Effect::Receive { side, chunk, len, exact };
    }

    /// Received bytes; the receive may go on.
    pub(crate) fn receive(&mut self, number: usize, bytes: &[u8]) {
        let Effect::Receive { side, chunk, .. } = self.entries[number].effect else { return };
        self.digest(bytes.iter().fold(5, |digest, byte| mix(digest ^ u64::from(*byte))));
        self.wire_in(side).receive(chunk, bytes);
    }

    pub(crate) fn end_receive(&mut self, number: usize, result: Result<usize, Failure>) {
        let Effect::Receive { side, chunk, len, exact } = self.entries[number].effect else { return };
        let entry = &self.entries[number];
        // Only a receive of exactly so many may have had some of them.
        let hidden_max = match result {
            _ if matches!(entry.job, Job::Many(_)) => 0,
            Err(_) if exact && !entry.refused => len,
            _ => 0,
        };
        let is_end = match result {
            Ok(0) if matches!(entry.job, Job::Many(_)) => !entry.disarmed,
            Ok(0) => len > 0,
            Err(Failure::EndOfStream) => true,
            _ => false,
        };
        let wire = self.wire_in(side);
        wire.end_receive(chunk, hidden_max);
        wire.end_seen |= is_end;
        self.note_error(side, result);
    }

    fn note_error(&mut self, side: usize, result: Result<usize, Failure>) {
        if matches!(result, Err(Failure::Errno(_))) {
            self.sides[side].error_seen = true;
        }
    }

    // ---- running

    /// `run` begins.
    pub(crate) fn enter_run(&mut self, on: usize, single_step: bool) {
        self.runs += 1;
        let lp = &mut self.loops[on];
        lp.running = true;
        lp.run = self.runs;
        lp.single_step = single_step;
        lp.callbacks = 0;
        lp.stopped = lp.stop_pending;
    }

    /// `run` is over; says how many callbacks there were.
    pub(crate) fn leave_run(&mut self, on: usize, returned: bool) -> u64 {
        let lp = &mut self.loops[on];
        lp.running = false;
        // Who is stopped has looked at what came with it. Other runs than a single step may end before they look.
        let has_stopped = returned && (lp.stopped || lp.stop_pending);
        lp.woken &= !has_stopped && (!lp.single_step || lp.stop_pending || lp.perhaps_stop_pending);
        // Who leaves by an error or a panic has not looked.
        lp.stop_pending = !returned && lp.stopped;
        lp.stopped = false;
        lp.perhaps_stop_pending = false;
        lp.callbacks
    }

    /// A step without its being known in which run.
    pub(crate) fn stopped(&mut self, on: usize) {
        let lp = &mut self.loops[on];
        match lp.running {
            true => lp.stopped = true,
            false => lp.stop_pending = true,
        }
    }

    pub(crate) fn is_stopped(&self, on: usize) -> bool {
        self.loops[on].stopped
    }

    /// Operations in flight on a loop, and those of them that keep it running.
    pub(crate) fn in_flight(&self, on: usize) -> (usize, usize) {
        let life = self.loops[on].life;
        let here = |e: &&Entry| e.on == on && e.life == life && e.state == State::InFlight;
        let all = self.entries.iter().filter(here);
        all.fold((0, 0), |(all, active), e| (all + 1, active + usize::from(!e.background)))
    }

    /// How many posts there have been.
    pub(crate) fn posts(&self) -> usize {
        self.posts.len()
    }

    pub(crate) fn posts_under_way(&self, on: usize) -> usize {
        let life = self.loops[on].life;
        self.posts.iter().filter(|p| p.on == on && p.life == life && !p.arrived).count()
    }

    /// The entry with this id, if it may be listed as in flight, with its kind.
    pub(crate) fn listed(&self, on: usize, id: OpId, kind: OpKind) -> Result<usize, String> {
        let found = self.entries.iter().enumerate().rev().find(|(_, e)| e.id == Some(id) && e.on == on);
        let Some((number, entry)) = found else { return Err(format!("{id:?} is nobody's")) };
        let may = entry.state == State::InFlight && !entry.refused && !entry.settled;
        if !may || entry.job.op_kind() != Some(kind) {
            return Err(format!("{id:?} as {kind:?}: {}, {:?}", self.describe(number), entry.state));
        }
        Ok(number)
    }

    /// Whether the loop waits in vain: something that is in flight on it should have come.
    pub(crate) fn why_stuck(&mut self, on: usize) -> Option<String> {
        let life = self.loops[on].life;
        let candidates: Vec<usize> = (0..self.entries.len())
            .filter(|&n| {
                let e = &self.entries[n];
                e.on == on && e.life == life && e.state == State::InFlight
            })
            .collect();
        candidates
            .into_iter()
            .find(|&number| self.should_have_ended(number))
            .map(|number| self.describe(number))
    }

    fn should_have_ended(&mut self, number: usize) -> bool {
        let Entry { canceled, limit_ns, refused, settled, job, owed, .. } = self.entries[number];
        if canceled || refused || settled || limit_ns.is_some() || owed {
            return true;
        }
        let others = |m: &Model, same: &dyn Fn(&Effect) -> bool| {
            let in_flight = |e: &Entry| e.state == State::InFlight && same(&e.effect);
            m.entries.iter().enumerate().any(|(other, e)| other != number && in_flight(e))
        };
        match (self.entries[number].effect.clone(), job) {
            (Effect::Receive { side, .. }, _) => {
                let pooled =
                    matches!(job, Job::Many(_) | Job::Single(Work::Recv { how: Receive::Pooled, .. }));
                let same = |e: &Effect| matches!(e, Effect::Receive { side: s, .. } if *s == side);
                if self.partitioned || others(self, &same) {
                    return false;
                }
                let Some(peer) = self.sides[side].peer else { return false };
                let ends = self.sides[peer].write_ended || self.sides[side].read_ended;
                ends && !pooled || !pooled && !self.exact(number) && self.wire_in(side).surely_holds_bytes()
            }
            (Effect::Send { side, .. }, _) => {
                let Some(peer) = self.sides[side].peer else { return false };
                let same = |e: &Effect| matches!(e, Effect::Send { side: s, .. } if *s == side);
                !self.partitioned && self.sides[peer].surely_gone && !others(self, &same)
            }
            (_, Job::Single(Work::Accept { .. }) | Job::Many(Series::Accept)) => {
                let accepting = |e: &&Entry| e.state == State::InFlight && e.job.accepts();
                let alone = self.entries.iter().filter(accepting).count() == 1;
                alone && !self.accepts_lost && self.connected > self.accepts
            }
            (_, Job::Single(Work::Connect { .. })) => !self.partitioned,
            (_, Job::Single(Work::Wait { .. }) | Job::Many(Series::Wait { .. })) => false,
            // Nobody waits for it.
            (_, Job::Single(Work::Hour)) => self.entries[number].was_reset,
            _ => true,
        }
    }

    fn exact(&self, number: usize) -> bool {
        matches!(self.entries[number].effect, Effect::Receive { exact: true, .. })
    }

    // ---- the end

    pub(crate) fn tear_down(&mut self, on: usize, begins: bool) {
        self.loops[on].tearing_down = begins;
        if begins {
            return;
        }
        let life = self.loops[on].life;
        for number in 0..self.entries.len() {
            let e = &self.entries[number];
            if e.on != on || e.life != life || e.state != State::InFlight {
                continue;
            }
            let detail = self.describe(number);
            self.complain("a loop that is dropped drops every owner", detail);
        }
    }

    /// A new loop is in a place.
    pub(crate) fn born(&mut self, on: usize, address: usize, capacity: usize) {
        let lp = &mut self.loops[on];
        lp.life += 1;
        (lp.alive, lp.address, lp.capacity) = (true, address, capacity);
        // It may be put there in the middle of a run of its predecessor.
        (lp.stop_pending, lp.stopped, lp.woken, lp.single_step) = (false, false, false, false);
    }

    /// Everything is over.
    pub(crate) fn finish(&mut self) {
        for number in 0..self.entries.len() {
            let state = self.entries[number].state;
            if !matches!(state, State::Over | State::TornDown) {
                let detail = format!("{}: {state:?}", self.describe(number));
                self.complain("each owner is dropped exactly once", detail);
            }
        }
        for side in 0..self.sides.len() {
            self.verify_side(side);
        }
    }

    fn verify_side(&mut self, side: usize) {
        let this = &self.sides[side];
        if this.peer.is_none() {
            return;
        }
        let sure = !self.faults.resets && !this.shut_read && !this.error_seen && !this.unsure;
        let wire = &self.wires[this.wire_in];
        self.stats.add("bytes", "followed", wire.followed() as u64);
        self.stats.add("connections", if wire.is_ordered() { "in order" } else { "out of order" }, 1);
        if let Err(detail) = wire.verify(wire.end_seen && sure) {
            self.complain("bytes come out as they went in", format!("to side {side}: {detail}"));
        }
    }
}

fn outcome_name(result: Result<usize, Failure>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(Failure::Canceled) => "canceled",
        Err(Failure::TimedOut) => "timed out",
        Err(Failure::EndOfStream) => "end of stream",
        Err(Failure::Other) => "panicked",
        Err(Failure::Unknown) => "unknown",
        Err(Failure::TableFull) => "table full",
        Err(Failure::AlreadyWaiting) => "already waiting",
        Err(Failure::Errno(errno)) => match errno {
            libc::ECONNRESET => "ECONNRESET",
            libc::ECONNREFUSED => "ECONNREFUSED",
            libc::EPIPE => "EPIPE",
            libc::ENOTCONN => "ENOTCONN",
            libc::EBADF => "EBADF",
            libc::EINVAL => "EINVAL",
            libc::EIO => "EIO",
            libc::ENOSPC => "ENOSPC",
            libc::ENOENT => "ENOENT",
            libc::EEXIST => "EEXIST",
            _ => "another errno",
        },
    }
}
