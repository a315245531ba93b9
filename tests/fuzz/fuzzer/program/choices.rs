//! How programs are made of random numbers.

use super::super::random::Random;
use super::{
    Aside, Backend, Caller, ENDS, Embedding, Half, Memory, Mode, NOTIFIERS, OpenWhat, Receive, Series,
    Setting, Step, Then, Transmit, Work,
};

impl Setting {
    pub(super) fn new(random: &mut Random, backend: Backend) -> Setting {
        let sizes = [(256, 64), (256, 64), (256, 4), (64, 1), (12, 2), (4, 4), (1, 1)];
        let (capacity, entries) = random.pick(&sizes);
        Setting {
            loops: random.weighted(&[(4, 1), (3, 2), (if backend == Backend::Sim { 2 } else { 0 }, 3)]),
            capacity,
            entries,
            baseline: random.one_in(3),
            buffers: (random.pick(&[1, 1, 2, 4]), random.pick(&[1, 16, 64])),
            room: random.pick(&[None, None, Some(0), Some(50), Some(300)]),
            kept: random.pick(&[0, 1, 1, 2, 2, 3]),
            slots: random.pick(&[0, 2, 16]),
            socket_bytes: random.pick(&[8, 64, 300, 65_536]),
            pooled_sockets: random.one_in(3),
            exclusive: random.one_in(2),
            calm: random.one_in(6),
            blocking: backend != Backend::Sim && random.one_in(8),
            embedding: random.weighted(&[(6, Embedding::No), (1, Embedding::Poll), (1, Embedding::Edge)]),
            ipv6: random.one_in(3),
        }
    }
}

/// How often something is chosen, beside others.
type Choice<T> = (u64, T);
type MakeStep = fn(&mut Random, &Profile) -> Step;
type MakeWork = fn(&mut Random, &Profile) -> Work;
type MakeSeries = fn(&mut Random, &Profile) -> Series;
type MakeThen = fn(&mut Random, &Profile) -> Then;

/// What a program likes to do: swarm testing (Groce et al., ISSTA 2012). What all programs do evenly, none does thoroughly.
pub(super) struct Profile {
    steps: Vec<Choice<MakeStep>>,
    works: Vec<Choice<MakeWork>>,
    series: Vec<Choice<MakeSeries>>,
    thens: Vec<Choice<MakeThen>>,
    /// Ends that it uses: from the first to this one.
    ends: u8,
    /// How many in a hundred submissions have a deadline, and are background operations.
    limits: u64,
    backgrounds: u64,
    /// And do something in `prepare` or when their owner is dropped.
    asides: u64,
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

fn caller(random: &mut Random) -> Caller {
    random.pick(&[Caller::Program, Caller::Handle, Caller::OtherThread])
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
    (3, |r, _| Work::Append { len: r.pick(&[0, 1, 30, 90, 200]), all: !r.one_in(3) }),
    (2, |r, _| Work::ReadOn { len: r.pick(&[1, 30, 90]) }),
    (4, |r, _| Work::Mixed { len: r.pick(&[0, 1, 30, 90, 200]), writes: r.one_in(2) }),
    (3, |r, _| Work::Fifo { len: r.pick(&[0, 1, 30, 200]), writes: r.one_in(2) }),
    (1, |r, _| if r.one_in(4) { Work::Nested(micros(r)) } else { Work::Nop }),
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
    (3, |r, _| Work::Offload { panics: r.one_in(5), blocks: false }),
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
    (2, |_, _| Then::CancelThis),
    (2, |r, _| Then::ResetThis(micros(r))),
    (1, |r, _| Then::Stop(caller(r))),
    (1, |_, _| Then::Wake),
    (2, |_, _| Then::Panic),
    (1, |_, _| Then::PanicInPrepare),
    (1, |_, _| Then::Run),
    (2, |_, _| Then::Post),
    (2, |r, _| Then::Notify(notifier(r))),
    (2, |_, _| Then::DropLease),
    (1, |_, _| Then::Release),
];

const STEPS: &[Choice<MakeStep>] = &[
    (70, |r, t| {
        let (limit_us, background) = (t.limit(r), t.background(r));
        Step::Submit {
            on: on(r),
            work: t.work(r),
            limit_us,
            background,
            memory: r.weighted(&[(4, Memory::Box), (3, Memory::Pool), (2, Memory::Static)]),
            prepare: t.aside(r),
            drop: t.aside(r),
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
            drop: t.aside(r),
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
    (2, |r, _| Step::Stop { on: on(r), who: caller(r) }),
    (2, |r, _| Step::Wake { on: on(r), elsewhere: r.one_in(2) }),
    (1, |r, _| Step::Burst { on: on(r), count: r.pick(&[2, 10, 100]) }),
    (6, |r, t| Step::Post { on: on(r), elsewhere: r.one_in(2), then: t.then(r) }),
    (8, |r, _| Step::Notify { notifier: notifier(r), elsewhere: r.one_in(2) }),
    (6, |r, _| Step::DropLease { which: r.below(8) as u8 }),
    (3, |r, t| Step::DropEnd { end: t.end(r) }),
    (1, |r, _| Step::DropLoop { on: on(r) }),
    (2, |r, _| Step::Flush { on: on(r) }),
    (1, |r, _| Step::NextTimeout { on: on(r) }),
];

/// What starves pooled receives, and feeds them.
const STEPS_OF_STARVATION: &[Choice<MakeStep>] =
    &[(30, |r, _| Step::DropLease { which: r.below(8) as u8 }), (20, STEPS[0].1), (10, STEPS[1].1)];
const WORKS_OF_STARVATION: &[Choice<MakeWork>] = &[
    (8, |r, t| Work::Recv { end: t.end(r), how: Receive::Pooled, len: 0 }),
    (8, |r, t| Work::Send { end: t.end(r), how: transmit(r), len: r.pick(&[1, 7, 40, 200]) }),
    (1, |r, _| Work::After(micros(r))),
    (1, |_, _| Work::Nop),
    (1, |r, t| Work::Shutdown { end: t.end(r), half: Half::Write }),
];
const SERIES_OF_STARVATION: &[Choice<MakeSeries>] = &[(1, |r, t| Series::Recv { end: t.end(r) })];

impl Step {
    /// Most waits of an embedded program are not the loop's.
    pub(super) fn embed(&mut self, random: &mut Random) {
        if let Step::Run { on, mode: Mode::Once | Mode::UntilDone | Mode::For(_) } = *self
            && !random.one_in(3)
        {
            *self = Step::Drive { on, us: micros(random).min(1000) };
        }
    }
}

const STEPS_OF_WORLDS: &[Choice<MakeStep>] =
    &[(4, |r, _| Step::Partition { cut: r.one_in(2) }), (1, |_, _| Step::ResetConnections)];

impl Profile {
    pub(super) fn new(random: &mut Random, backend: Backend, setting: &Setting) -> Profile {
        let mut steps = some_of(random, STEPS);
        if backend == Backend::Sim && random.one_in(3) {
            steps.extend(STEPS_OF_WORLDS);
        }
        // A program that never submits or never runs says little.
        steps.extend(&STEPS[..1]);
        let starves = random.one_in(10);
        if starves {
            steps.extend(STEPS_OF_STARVATION);
        }
        let mut works = some_of(random, if starves { WORKS_OF_STARVATION } else { WORKS });
        if setting.blocking {
            works.push((10, |r, _| Work::Offload { panics: r.one_in(5), blocks: r.one_in(2) }));
            steps.push((6, |_, _| Step::Release));
        }
        Profile {
            steps,
            works,
            series: some_of(random, if starves { SERIES_OF_STARVATION } else { SERIES }),
            thens: some_of(random, THENS),
            ends: random.pick(&[2, 2, 4, ENDS]),
            limits: random.pick(&[0, 20, 60]),
            backgrounds: random.pick(&[0, 10, 40]),
            asides: random.pick(&[0, 0, 5, 20]),
        }
    }

    pub(super) fn step(&self, random: &mut Random) -> Step {
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

    fn aside(&self, random: &mut Random) -> Aside {
        if random.below(100) >= self.asides {
            return Aside::Nothing;
        }
        let notifier = notifier(random);
        random.pick(&[Aside::Stop, Aside::Post, Aside::Notify(notifier), Aside::Panic, Aside::Panic])
    }

    fn limit(&self, random: &mut Random) -> Option<u16> {
        (random.below(100) < self.limits).then(|| micros(random))
    }

    fn background(&self, random: &mut Random) -> bool {
        random.below(100) < self.backgrounds
    }
}
