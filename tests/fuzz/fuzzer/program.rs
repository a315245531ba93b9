//! What a program is: a setting, a list of steps, and an end. A seed expands to one.

use std::fmt;

use super::random::Random;

/// What a program runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Sim,
    IoUring,
    Epoll,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Backend::Sim => "sim",
            Backend::IoUring => "io_uring",
            Backend::Epoll => "epoll",
        })
    }
}

/// How much of everything there is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting {
    pub(crate) loops: usize,
    /// Of each loop's table.
    pub(crate) capacity: usize,
    /// Of its submission queue.
    pub(crate) entries: u32,
    pub(crate) baseline: bool,
    /// Of each loop's buffer pool: how many, and how large.
    pub(crate) buffers: (usize, usize),
    /// Slots of the pool of owners.
    pub(crate) slots: usize,
    /// What a connection holds in each direction.
    pub(crate) socket_bytes: usize,
    /// Sockets are shared by slots of a pool instead of by reference counts.
    pub(crate) pooled_sockets: bool,
    /// No second operation on one direction of one socket while there is one.
    pub(crate) polite: bool,
    /// No faults.
    pub(crate) calm: bool,
    /// The program polls the loops' descriptors.
    pub(crate) embedded: bool,
}

/// What a receive is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receive {
    Some,
    Exact,
    Vectored,
    ExactVectored,
    Pooled,
}

/// What a send is called; a write, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transmit {
    Some,
    All,
    Vectored,
    AllVectored,
    ZeroCopy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Read,
    Write,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenWhat {
    Existing,
    Missing,
    CreateNew,
    Contradiction,
}

/// A single operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Nop,
    /// A timer, in microseconds.
    After(u16),
    /// A timer at a tick of a coarse clock, so that deadlines coincide.
    At(u8),
    /// A timer that nobody waits for.
    Hour,
    Recv {
        end: u8,
        how: Receive,
        len: u8,
    },
    Send {
        end: u8,
        how: Transmit,
        len: u16,
    },
    Accept {
        address: bool,
    },
    Connect {
        nowhere: bool,
    },
    Shutdown {
        end: u8,
        half: Half,
    },
    /// Closes an end as an operation, or lets go of it if it is in use.
    Close {
        end: u8,
    },
    Read {
        at: u16,
        len: u8,
        how: Receive,
    },
    Write {
        region: u8,
        len: u8,
        how: Transmit,
    },
    /// A read at the file's own position.
    ReadOn {
        len: u8,
    },
    Sync {
        data: bool,
    },
    Metadata,
    Open(OpenWhat),
    CloseFile,
    Wait {
        notifier: u8,
    },
    Offload {
        panics: bool,
    },
    /// On a socket that is no connection.
    Stray {
        sends: bool,
    },
    /// On a stream that was closed in place.
    OnClosed {
        sends: bool,
    },
    /// A receive into the buffers of another loop.
    ForeignPool {
        end: u8,
    },
}

/// Several results from one submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Series {
    /// Microseconds.
    Every(u16),
    EveryAfter(u16),
    Accept,
    Recv {
        end: u8,
    },
    Wait {
        notifier: u8,
    },
}

/// What a callback does beside looking at its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Nothing,
    /// Submits the owner again.
    Again(Work),
    Cancel(u16),
    Reset(u16, u16),
    Stop,
    Panic,
    /// Tries to run the loop in itself.
    Run,
    Post,
    Notify(u8),
    DropLease,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    NoWait,
    Once,
    UntilDone,
    /// Microseconds.
    For(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Submit {
        on: u8,
        work: Work,
        limit_us: Option<u16>,
        background: bool,
        pooled: bool,
        then: Then,
    },
    SubmitSeries {
        on: u8,
        series: Series,
        items: u8,
        limit_us: Option<u16>,
        background: bool,
        item: Then,
        then: Then,
    },
    PanicInPrepare {
        on: u8,
        pooled: bool,
    },
    /// Cancels an operation, finished or not, twice if so said.
    Cancel {
        which: u16,
        twice: bool,
    },
    /// With the id of another loop's operation.
    CancelForeign {
        which: u16,
    },
    CancelAll {
        end: u8,
    },
    Reset {
        which: u16,
        us: u16,
    },
    Run {
        on: u8,
        mode: Mode,
    },
    /// All loops together (sim), or one after the other. Microseconds.
    RunAll {
        us: u16,
    },
    Stop {
        on: u8,
        by_handle: bool,
    },
    Wake {
        on: u8,
    },
    Post {
        on: u8,
        elsewhere: bool,
        then: Then,
    },
    Notify {
        notifier: u8,
        elsewhere: bool,
    },
    DropLease {
        which: u8,
    },
    DropEnd {
        end: u8,
    },
    DropLoop {
        on: u8,
    },
    Flush {
        on: u8,
    },
    NextTimeout {
        on: u8,
    },
    /// Sim: cuts two hosts off from each other, or mends that.
    Partition {
        cut: bool,
    },
    /// Sim: resets all connections between two hosts.
    ResetConnections,
}

/// What becomes of what is in flight at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Drop,
    /// Everything is cancelled: then all must end.
    Cancel,
    /// It is given time: then what should end must have ended.
    Settle,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Program {
    pub(crate) seed: u64,
    pub(crate) backend: Backend,
    pub(crate) setting: Setting,
    pub(crate) steps: Vec<Step>,
    pub(crate) ending: Ending,
}

/// How many there are to choose from.
pub(crate) const ENDS: u8 = 6;
pub(crate) const NOTIFIERS: u8 = 2;

impl Program {
    /// The program of a seed, of no more than `steps_max` steps.
    pub(crate) fn new(seed: u64, backend: Backend, steps_max: usize) -> Program {
        let mut random = Random::new(seed);
        let setting = Setting::new(&mut random, backend);
        let count = 1 + random.below(steps_max.max(1) as u64) as usize;
        let taste = Taste::new(&mut random, backend);
        let steps: Vec<Step> = (0..count).map(|_| taste.step(&mut random)).collect();
        let ending = random.pick(&[Ending::Drop, Ending::Cancel, Ending::Settle]);
        Program { seed, backend, setting, steps, ending }
    }
}

impl Setting {
    fn new(random: &mut Random, backend: Backend) -> Setting {
        let sizes = [(256, 64), (256, 64), (256, 4), (64, 1), (12, 2), (4, 4), (1, 1)];
        let (capacity, entries) = random.pick(&sizes);
        Setting {
            loops: random.weighted(&[(4, 1), (3, 2), (if backend == Backend::Sim { 2 } else { 0 }, 3)]),
            capacity,
            entries,
            baseline: random.one_in(3),
            buffers: (random.pick(&[1, 2, 4]), random.pick(&[1, 16, 64])),
            slots: random.pick(&[0, 2, 16]),
            socket_bytes: random.pick(&[8, 64, 300, 65_536]),
            pooled_sockets: random.one_in(3),
            polite: random.one_in(2),
            calm: random.one_in(6),
            embedded: random.one_in(4),
        }
    }
}

/// How often something is chosen, beside others.
type Choice<T> = (u64, T);
type MakeStep = fn(&mut Random, &Taste) -> Step;
type MakeWork = fn(&mut Random, &Taste) -> Work;
type MakeSeries = fn(&mut Random, &Taste) -> Series;
type MakeThen = fn(&mut Random, &Taste) -> Then;

/// What a program likes to do: swarm testing (Groce et al., ISSTA 2012). What all programs do evenly, none does thoroughly.
struct Taste {
    steps: Vec<Choice<MakeStep>>,
    works: Vec<Choice<MakeWork>>,
    series: Vec<Choice<MakeSeries>>,
    thens: Vec<Choice<MakeThen>>,
    /// Ends that it uses: from the first to this one.
    ends: u8,
    /// How many in a hundred submissions have a deadline, and are background operations.
    limits: u64,
    backgrounds: u64,
}

/// Leaves about a quarter of the choices out.
fn some_of<T: Copy>(random: &mut Random, all: &[Choice<T>]) -> Vec<Choice<T>> {
    let mut some: Vec<Choice<T>> = all.iter().copied().filter(|_| !random.one_in(4)).collect();
    if some.is_empty() {
        some.push(all[random.below(all.len() as u64) as usize]);
    }
    some
}

fn micros(random: &mut Random) -> u16 {
    random.pick(&[0, 1, 5, 30, 100, 300, 1000, 5000])
}

fn notifier(random: &mut Random) -> u8 {
    random.below(u64::from(NOTIFIERS)) as u8
}

fn on(random: &mut Random) -> u8 {
    random.below(3) as u8
}

/// Numbers of operations: mostly one of the latest.
fn which(random: &mut Random) -> u16 {
    if random.one_in(5) { random.below(60) as u16 } else { random.below(6) as u16 }
}

fn receive(random: &mut Random) -> Receive {
    use Receive::{Exact, ExactVectored, Pooled, Some, Vectored};
    random.weighted(&[(4, Some), (3, Exact), (1, Vectored), (1, ExactVectored), (3, Pooled)])
}

fn transmit(random: &mut Random) -> Transmit {
    use Transmit::{All, AllVectored, Some, Vectored, ZeroCopy};
    random.weighted(&[(4, Some), (4, All), (1, Vectored), (2, AllVectored), (1, ZeroCopy)])
}

const WORKS: &[Choice<MakeWork>] = &[
    (4, |_, _| Work::Nop),
    (4, |r, _| Work::After(micros(r))),
    (3, |r, _| Work::At(r.below(12) as u8)),
    (1, |_, _| Work::Hour),
    (14, |r, t| Work::Recv { end: t.end(r), how: receive(r), len: r.pick(&[0, 1, 7, 40, 200]) }),
    (14, |r, t| Work::Send {
        end: t.end(r),
        how: transmit(r),
        len: r.pick(&[0, 1, 7, 7, 40, 40, 200, 1000, 60_000]),
    }),
    (3, |r, _| Work::Accept { address: r.one_in(2) }),
    (3, |r, _| Work::Connect { nowhere: r.one_in(6) }),
    (1, |r, t| Work::Shutdown {
        end: t.end(r),
        half: r.pick(&[Half::Read, Half::Write, Half::Write, Half::Both]),
    }),
    (1, |r, t| Work::Close { end: t.end(r) }),
    (4, |r, _| Work::Read { at: r.below(560) as u16, len: r.pick(&[0, 1, 64, 100]), how: receive(r) }),
    (4, |r, _| Work::Write { region: r.below(8) as u8, len: r.pick(&[0, 1, 40, 64, 64]), how: transmit(r) }),
    (2, |r, _| Work::ReadOn { len: r.pick(&[1, 30, 90]) }),
    (2, |r, _| Work::Sync { data: r.one_in(2) }),
    (1, |_, _| Work::Metadata),
    (2, |r, _| {
        Work::Open(r.pick(&[
            OpenWhat::Existing,
            OpenWhat::Missing,
            OpenWhat::CreateNew,
            OpenWhat::Contradiction,
        ]))
    }),
    (1, |_, _| Work::CloseFile),
    (4, |r, _| Work::Wait { notifier: notifier(r) }),
    (3, |r, _| Work::Offload { panics: r.one_in(5) }),
    (1, |r, _| Work::Stray { sends: r.one_in(2) }),
    (1, |r, _| Work::OnClosed { sends: r.one_in(2) }),
    (1, |r, t| Work::ForeignPool { end: t.end(r) }),
];

const SERIES: &[Choice<MakeSeries>] = &[
    (2, |r, _| Series::Every(r.pick(&[0, 1, 30, 200, 1000]))),
    (2, |r, _| Series::EveryAfter(r.pick(&[0, 1, 30, 200, 1000]))),
    (2, |_, _| Series::Accept),
    (4, |r, t| Series::Recv { end: t.end(r) }),
    (2, |r, _| Series::Wait { notifier: notifier(r) }),
];

const THENS: &[Choice<MakeThen>] = &[
    (24, |_, _| Then::Nothing),
    (10, |r, t| Then::Again(t.work(r))),
    (4, |r, _| Then::Cancel(which(r))),
    (2, |r, _| Then::Reset(which(r), micros(r))),
    (1, |_, _| Then::Stop),
    (2, |_, _| Then::Panic),
    (1, |_, _| Then::Run),
    (2, |_, _| Then::Post),
    (2, |r, _| Then::Notify(notifier(r))),
    (2, |_, _| Then::DropLease),
];

const STEPS: &[Choice<MakeStep>] = &[
    (70, |r, t| {
        let (limit_us, background) = (t.limit(r), t.background(r));
        Step::Submit {
            on: on(r),
            work: t.work(r),
            limit_us,
            background,
            pooled: r.one_in(3),
            then: t.then(r),
        }
    }),
    (16, |r, t| {
        let (series, items) = (t.series(r), 1 + r.below(5) as u8);
        let (limit_us, background) = (t.limit(r), t.background(r));
        Step::SubmitSeries {
            on: on(r),
            series,
            items,
            limit_us,
            background,
            item: t.then(r),
            then: t.then(r),
        }
    }),
    (2, |r, _| Step::PanicInPrepare { on: on(r), pooled: r.one_in(2) }),
    (16, |r, _| Step::Cancel { which: which(r), twice: r.one_in(3) }),
    (2, |r, _| Step::CancelForeign { which: which(r) }),
    (3, |r, t| Step::CancelAll { end: t.end(r) }),
    (8, |r, _| Step::Reset { which: which(r), us: micros(r) }),
    (16, |r, _| Step::Run { on: on(r), mode: Mode::NoWait }),
    (8, |r, _| Step::Run { on: on(r), mode: Mode::Once }),
    (3, |r, _| Step::Run { on: on(r), mode: Mode::UntilDone }),
    (8, |r, _| Step::Run { on: on(r), mode: Mode::For(micros(r).min(300)) }),
    (12, |r, _| Step::RunAll { us: r.pick(&[10, 100, 300, 3000]) }),
    (2, |r, _| Step::Stop { on: on(r), by_handle: r.one_in(2) }),
    (2, |r, _| Step::Wake { on: on(r) }),
    (6, |r, t| Step::Post { on: on(r), elsewhere: r.one_in(2), then: t.then(r) }),
    (8, |r, _| Step::Notify { notifier: notifier(r), elsewhere: r.one_in(2) }),
    (6, |r, _| Step::DropLease { which: r.below(8) as u8 }),
    (3, |r, t| Step::DropEnd { end: t.end(r) }),
    (1, |r, _| Step::DropLoop { on: on(r) }),
    (2, |r, _| Step::Flush { on: on(r) }),
    (1, |r, _| Step::NextTimeout { on: on(r) }),
];

const STEPS_OF_WORLDS: &[Choice<MakeStep>] =
    &[(4, |r, _| Step::Partition { cut: r.one_in(2) }), (1, |_, _| Step::ResetConnections)];

impl Taste {
    fn new(random: &mut Random, backend: Backend) -> Taste {
        let mut steps = some_of(random, STEPS);
        if backend == Backend::Sim && random.one_in(3) {
            steps.extend(STEPS_OF_WORLDS);
        }
        // A program that never submits or never runs says little.
        steps.extend(&STEPS[..1]);
        Taste {
            steps,
            works: some_of(random, WORKS),
            series: some_of(random, SERIES),
            thens: some_of(random, THENS),
            ends: random.pick(&[2, 2, 4, ENDS]),
            limits: random.pick(&[0, 20, 60]),
            backgrounds: random.pick(&[0, 10, 40]),
        }
    }

    fn step(&self, random: &mut Random) -> Step {
        random.weighted(&self.steps)(random, self)
    }

    fn work(&self, random: &mut Random) -> Work {
        random.weighted(&self.works)(random, self)
    }

    fn series(&self, random: &mut Random) -> Series {
        random.weighted(&self.series)(random, self)
    }

    fn end(&self, random: &mut Random) -> u8 {
        random.below(u64::from(self.ends)) as u8
    }

    fn then(&self, random: &mut Random) -> Then {
        random.weighted(&self.thens)(random, self)
    }

    fn limit(&self, random: &mut Random) -> Option<u16> {
        (random.below(100) < self.limits).then(|| micros(random))
    }

    fn background(&self, random: &mut Random) -> bool {
        random.below(100) < self.backgrounds
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:?}", self.setting)?;
        for (index, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {index:>3}  {step}")?;
        }
        write!(f, "  end  {:?}", self.ending)
    }
}

impl fmt::Display for Step {
    /// What is not said is not so.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, is_background) = match *self {
            Step::Submit { on, work, limit_us, background, pooled, then } => {
                write!(f, "Submit on {on}: {work:?}")?;
                if pooled {
                    write!(f, ", from the pool")?;
                }
                if then != Then::Nothing {
                    write!(f, ", then {then:?}")?;
                }
                (limit_us, background)
            }
            Step::SubmitSeries { on, series, items, limit_us, background, item, then } => {
                write!(f, "SubmitSeries on {on}: {series:?}, up to {items} items")?;
                if item != Then::Nothing {
                    write!(f, ", at the first {item:?}")?;
                }
                if then != Then::Nothing {
                    write!(f, ", then {then:?}")?;
                }
                (limit_us, background)
            }
            _ => return fmt::Debug::fmt(self, f),
        };
        if let Some(limit) = limit {
            write!(f, ", within {limit} µs")?;
        }
        if is_background {
            write!(f, ", in the background")?;
        }
        Ok(())
    }
}
