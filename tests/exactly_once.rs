//! Whatever a program does, every submission has exactly one end: its callback, or, if the loop is dropped
//! first, the drop of its owner. Random programs of submits, cancels, resets, deadlines, posts, stops,
//! panics, hang-ups and steps are run on every backend, with large and with tiny tables and rings, and a
//! ledger is kept of each submission.
//!
//! A failing program is shrunk and printed.

mod common;

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::ops::DerefMut;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oxev::{
    Action, BufPool, Completion, File, Kind, Lease, Loop, LoopHandle, Multi, Notifier, OpId, Output, Owner,
    Pool, RunMode, TcpListener, TcpStream, Timer,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

// ---- the ledger

/// What has become of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    InFlight,
    CalledBack,
    /// The loop was dropped, and its owner with it.
    TornDown,
}

#[derive(Default)]
struct Ledger {
    fates: RefCell<Vec<Fate>>,
    ids: RefCell<Vec<OpId>>,
    /// The loop may drop owners now: it is being dropped.
    tearing_down: Cell<bool>,
    complaints: RefCell<Vec<String>>,
}

impl Ledger {
    fn begin(&self) -> usize {
        self.fates.borrow_mut().push(Fate::InFlight);
        self.fates.borrow().len() - 1
    }

    fn complain(&self, complaint: String) {
        self.complaints.borrow_mut().push(complaint);
    }

    fn call_back(&self, entry: usize) {
        let before = std::mem::replace(&mut self.fates.borrow_mut()[entry], Fate::CalledBack);
        if before != Fate::InFlight || self.tearing_down.get() {
            self.complain(format!("submission {entry}: called back, and was {before:?}"));
        }
    }

    /// An item must come before the end, and a tick before `Disarm`.
    fn item(&self, entry: usize, too_late: bool) {
        let fate = self.fates.borrow()[entry];
        if fate != Fate::InFlight || too_late || self.tearing_down.get() {
            self.complain(format!("submission {entry}: an item, and was {fate:?}, too late: {too_late}"));
        }
    }

    fn drop_owner(&self, entry: usize) {
        let mut fates = self.fates.borrow_mut();
        match fates[entry] {
            Fate::InFlight if self.tearing_down.get() => fates[entry] = Fate::TornDown,
            Fate::CalledBack => {}
            fate => self.complain(format!("submission {entry}: its owner was dropped, and was {fate:?}")),
        }
    }

    fn in_flight(&self) -> usize {
        self.fates.borrow().iter().filter(|&&fate| fate == Fate::InFlight).count()
    }

    fn pick(&self, number: usize) -> Option<OpId> {
        let ids = self.ids.borrow();
        (!ids.is_empty()).then(|| ids[number % ids.len()])
    }
}

/// What a callback does with its owner, or else.
#[derive(Clone, Copy, Debug)]
enum Then {
    Drop,
    /// Submits it again, as another kind of operation.
    Again(u8),
    Cancel(usize),
    Reset(usize),
    Stop,
    Panic,
    /// Tries to run the loop in itself.
    Run,
}

/// The state of every owner: its place in the ledger, and what operations borrow.
struct Guest {
    entry: usize,
    ledger: Rc<Ledger>,
    then: Then,
    stream: Rc<TcpStream>,
    roomy_stream: Rc<TcpStream>,
    file: Rc<File>,
    bufs: BufPool,
    address: SocketAddr,
    listener: Rc<TcpListener>,
    notifier: Notifier,
    doomed: Option<File>,
    buf: [u8; 32],
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.ledger.drop_owner(self.entry);
    }
}

trait Guesthouse: Owner<State = Guest> + DerefMut<Target = Completion<Guest>> {}
impl<P: Owner<State = Guest> + DerefMut<Target = Completion<Guest>>> Guesthouse for P {}

/// The callback of every single operation.
fn finished<P: Guesthouse, R: Output>(lp: &mut Loop, mut owner: P, result: io::Result<R>) {
    drop(result);
    let ledger = Rc::clone(&owner.ledger);
    ledger.call_back(owner.entry);
    let again = matches!(owner.then, Then::Again(_));
    then(lp, owner.then, &ledger);
    if let (Then::Again(kind), true) = (owner.then, again) {
        owner.entry = ledger.begin();
        owner.then = Then::Drop;
        let id = submit(lp, owner, kind, None);
        ledger.ids.borrow_mut().push(id);
    }
}

fn then(lp: &mut Loop, then: Then, ledger: &Ledger) {
    match then {
        Then::Drop | Then::Again(_) => {}
        Then::Cancel(number) => ledger.pick(number).into_iter().for_each(|id| _ = lp.cancel(id)),
        Then::Reset(number) => {
            ledger.pick(number).into_iter().for_each(|id| _ = lp.reset(id, Duration::from_micros(50)));
        }
        Then::Stop => lp.stop(),
        Then::Panic => resume_unwind(Box::new("as told")),
        Then::Run => assert!(lp.run(RunMode::NoWait).is_err()),
    }
}

/// Larger than what a socket takes at once.
static LARGE: [u8; 8 << 20] = [7; 8 << 20];

/// How many kinds of single operations there are.
const KINDS: u8 = 18;

/// Submits the owner as an operation of any kind.
fn submit<P: Guesthouse>(lp: &mut Loop, mut owner: P, kind: u8, timeout: Option<Duration>) -> OpId {
    /// With the deadline, if there is one.
    macro_rules! go {
        (|$guest:ident| $op:expr) => {
            match timeout {
                None => lp.submit(owner, |$guest: &mut Guest| $op, finished),
                Some(limit) => lp.submit(owner, |$guest: &mut Guest| $op.timeout(limit), finished),
            }
        };
    }
    match kind {
        0 => go!(|_g| oxev::nop()),
        1 => go!(|_g| Timer::after(Duration::ZERO)),
        2 => go!(|_g| Timer::after(Duration::from_micros(150))),
        3 => go!(|_g| Timer::after(Duration::from_secs(3600)).background()),
        4 => go!(|g| g.stream.recv(&mut g.buf)),
        5 => go!(|g| g.stream.recv_exact(&mut g.buf)),
        6 => go!(|g| g.stream.recv_pooled(&g.bufs)),
        7 => go!(|g| g.stream.send_all(&g.buf)),
        8 => go!(|g| g.roomy_stream.send_all_zero_copy(&g.buf)),
        9 => go!(|g| g.stream.send_all(&LARGE)),
        10 => go!(|g| g.listener.accept()),
        11 => go!(|g| g.listener.accept_with_addr()),
        12 => go!(|g| TcpStream::connect(g.address)),
        13 => go!(|g| g.notifier.wait()),
        14 => go!(|g| g.file.read_at(&mut g.buf, 0)),
        15 => go!(|g| g.file.write_all_at(&g.buf, 0)),
        16 => go!(|_g| File::open(c"/dev/null", &oxev::OpenOptions::new().read(true))),
        _ => {
            owner.doomed = std::fs::File::open("/dev/null").ok().map(File::from_std);
            go!(|g| g.doomed.as_mut().unwrap().close())
        }
    }
}

// ---- several results

/// The state of a multi-result operation.
struct Regular {
    guest: Guest,
    items_left: u8,
    disarmed: bool,
}

fn item<R>(lp: &mut Loop, regular: &mut Regular, result: R) -> Action {
    // A connection or a buffer has arrived, and so it comes; a tick need not.
    let is_resource = std::mem::needs_drop::<R>();
    drop(result);
    regular.guest.ledger.item(regular.guest.entry, regular.disarmed && !is_resource);
    let ledger = Rc::clone(&regular.guest.ledger);
    regular.items_left = regular.items_left.saturating_sub(1);
    if regular.items_left == 0 && !std::mem::replace(&mut regular.disarmed, true) {
        then(lp, regular.guest.then, &ledger);
        return Action::Disarm;
    }
    Action::Rearm
}

fn ended<S: 'static>(_: &mut Loop, owner: Box<Completion<Multi<S, Regular>>>, _: io::Result<()>) {
    owner.state.guest.ledger.call_back(owner.state.guest.entry);
}

/// How many kinds of multi-result operations there are.
const MULTI_KINDS: u8 = 5;

fn submit_multi(lp: &mut Loop, guest: Guest, kind: u8, items: u8, timeout: Option<Duration>) -> OpId {
    let timeout = timeout.unwrap_or(Duration::MAX);
    let (listener, stream) = (Rc::clone(&guest.listener), Rc::clone(&guest.stream));
    let (notifier, bufs) = (guest.notifier.clone(), guest.bufs.clone());
    let state = Regular { guest, items_left: items, disarmed: false };
    macro_rules! go {
        ($source:expr, $result:ty, |$borrowed:pat_param| $op:expr) => {{
            let owner = Box::new(Completion::new(Multi::new($source, state)));
            lp.submit_multi(owner, |$borrowed| $op, item::<$result>, ended)
        }};
    }
    match kind {
        0 => go!(timeout, u64, |limit| Timer::every(Duration::from_micros(30)).timeout(*limit)),
        1 => go!(timeout, u64, |limit| Timer::every_after(Duration::from_micros(30)).timeout(*limit)),
        2 => go!((listener, timeout), TcpStream, |(l, limit)| l.accept_multi().timeout(*limit)),
        3 => go!((stream, bufs, timeout), Lease, |(s, bufs, limit)| s.recv_multi(bufs).timeout(*limit)),
        _ => go!((notifier, timeout), (), |(n, limit)| n.wait_multi().timeout(*limit)),
    }
}

// ---- programs

#[derive(Clone, Copy, Debug)]
enum Step {
    Submit { kind: u8, pair: usize, timeout: Option<u16>, then: Then, pooled: bool },
    SubmitMulti { kind: u8, pair: usize, items: u8, timeout: Option<u16>, then: Then },
    Cancel(usize),
    CancelAll(usize),
    Reset(usize, u16),
    Post,
    Notify(usize),
    Wake,
    Stop,
    PeerWrites(usize, u8),
    PeerHangsUp(usize),
    PeerConnects,
    Run,
    RunFor(u16),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let then = prop_oneof![
        8 => Just(Then::Drop),
        4 => (0..KINDS).prop_map(Then::Again),
        2 => any::<usize>().prop_map(Then::Cancel),
        1 => any::<usize>().prop_map(Then::Reset),
        1 => Just(Then::Stop),
        1 => Just(Then::Panic),
        1 => Just(Then::Run),
    ];
    let timeout = || proptest::option::weighted(0.3, 0u16..300);
    let (pair, kind, kind_multi) = (0..PAIRS, 0..KINDS, 0..MULTI_KINDS);
    prop_oneof![
        16 => (kind, pair.clone(), timeout(), then.clone(), any::<bool>())
            .prop_map(|(kind, pair, timeout, then, pooled)| Step::Submit { kind, pair, timeout, then, pooled }),
        6 => (kind_multi, pair.clone(), 1u8..6, timeout(), then)
            .prop_map(|(kind, pair, items, timeout, then)| Step::SubmitMulti { kind, pair, items, timeout, then }),
        6 => any::<usize>().prop_map(Step::Cancel),
        1 => pair.clone().prop_map(Step::CancelAll),
        3 => (any::<usize>(), 0u16..300).prop_map(|(number, delay_us)| Step::Reset(number, delay_us)),
        2 => Just(Step::Post),
        3 => pair.clone().prop_map(Step::Notify),
        1 => Just(Step::Wake),
        1 => Just(Step::Stop),
        4 => (pair.clone(), 1u8..200).prop_map(|(pair, bytes)| Step::PeerWrites(pair, bytes)),
        1 => pair.prop_map(Step::PeerHangsUp),
        2 => Just(Step::PeerConnects),
        10 => Just(Step::Run),
        2 => (0u16..300).prop_map(Step::RunFor),
        1 => Just(Step::Flush),
    ]
}

#[derive(Clone, Debug)]
struct Program {
    kind: Kind,
    baseline: bool,
    capacity: usize,
    entries: u32,
    steps: Vec<Step>,
    /// Cancel everything and run, rather than drop the loop as it is.
    end_by_cancel: bool,
}

fn program() -> impl Strategy<Value = Program> {
    let steps = proptest::collection::vec(step(), 1..60);
    let sizes = prop_oneof![Just((256, 64)), Just((256, 4)), Just((4, 4)), Just((1, 1)), Just((12, 2))];
    (proptest::sample::select(common::backends()), any::<bool>(), sizes, steps, any::<bool>()).prop_map(
        |(kind, baseline, (capacity, entries), steps, end_by_cancel)| Program {
            kind,
            baseline,
            capacity,
            entries,
            steps,
            end_by_cancel,
        },
    )
}

// ---- the world that a program runs in

const PAIRS: usize = 2;

/// What all programs share.
struct Stage {
    file: std::fs::File,
    /// Makes pairs.
    listener: StdListener,
}

struct World {
    lp: Box<Loop>,
    handle: LoopHandle,
    ledger: Rc<Ledger>,
    pool: Pool<Guest>,
    bufs: BufPool,
    file: Rc<File>,
    listener: Rc<TcpListener>,
    address: SocketAddr,
    streams: [Rc<TcpStream>; PAIRS],
    peers: [Option<StdStream>; PAIRS],
    /// Never full: the kernel keeps the buffer of a zero-copy send until the peer takes it, and nothing can
    /// make it let go before.
    roomy_pair: (Rc<TcpStream>, StdStream),
    notifiers: [Notifier; PAIRS],
    visitors: Vec<StdStream>,
    posted: usize,
    /// Posts that have been run or dropped.
    arrived: Arc<AtomicUsize>,
}

/// What is posted.
struct Parcel(Arc<AtomicUsize>);

impl Drop for Parcel {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn pair(listener: &StdListener) -> (Rc<TcpStream>, StdStream) {
    let peer = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_nonblocking(true).unwrap();
    let stream = TcpStream::from_std(listener.accept().unwrap().0).unwrap();
    stream.set_send_buffer_size(16 << 10).unwrap();
    (Rc::new(stream), peer)
}

impl World {
    fn new(program: &Program, stage: &Stage) -> World {
        let mut lp = Loop::builder()
            .backend(program.kind)
            .baseline(program.baseline)
            .capacity(program.capacity)
            .entries(program.entries)
            .build()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let pair = || pair(&stage.listener);
        let [(s0, p0), (s1, p1)] = [pair(), pair()];
        World {
            handle: lp.handle(),
            ledger: Rc::default(),
            pool: Pool::new(256),
            bufs: lp.buf_pool(2, 16).unwrap(),
            lp,
            file: Rc::new(File::from_std(stage.file.try_clone().unwrap())),
            listener: Rc::new(listener),
            address,
            streams: [s0, s1],
            peers: [Some(p0), Some(p1)],
            roomy_pair: pair(),
            notifiers: [Notifier::new(), Notifier::new()],
            visitors: Vec::new(),
            posted: 0,
            arrived: Arc::default(),
        }
    }

    fn guest(&self, pair: usize, then: Then) -> Guest {
        Guest {
            entry: self.ledger.begin(),
            ledger: Rc::clone(&self.ledger),
            then,
            stream: Rc::clone(&self.streams[pair]),
            roomy_stream: Rc::clone(&self.roomy_pair.0),
            file: Rc::clone(&self.file),
            bufs: self.bufs.clone(),
            address: self.address,
            listener: Rc::clone(&self.listener),
            notifier: self.notifiers[pair].clone(),
            doomed: None,
            buf: [7; 32],
        }
    }

    /// Runs, through panics that were told to happen.
    fn run(&mut self, run: impl FnOnce(&mut Loop) -> io::Result<()>) -> Result<(), TestCaseError> {
        match catch_unwind(AssertUnwindSafe(|| run(&mut self.lp))) {
            Ok(result) => result.map_err(|error| TestCaseError::fail(format!("run: {error}"))),
            Err(panic) if panic.is::<&str>() && panic.downcast_ref() == Some(&"as told") => Ok(()),
            Err(panic) => resume_unwind(panic),
        }
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        let micros = |us: u16| Duration::from_micros(u64::from(us));
        match step {
            Step::Submit { kind, pair, timeout, then, pooled } => {
                let guest = self.guest(pair, then);
                let timeout = timeout.map(micros);
                let id = if pooled && self.pool.available() > 0 {
                    let slot = self.pool.insert(guest).unwrap_or_else(|_| unreachable!("there is room"));
                    submit(&mut self.lp, slot, kind, timeout)
                } else {
                    submit(&mut self.lp, Box::new(Completion::new(guest)), kind, timeout)
                };
                self.ledger.ids.borrow_mut().push(id);
            }
            Step::SubmitMulti { kind, pair, items, timeout, then } => {
                let guest = self.guest(pair, then);
                let id = submit_multi(&mut self.lp, guest, kind, items, timeout.map(micros));
                self.ledger.ids.borrow_mut().push(id);
            }
            Step::Cancel(number) => {
                if let Some(id) = self.ledger.pick(number) {
                    self.lp.cancel(id);
                    prop_assert!(!self.lp.cancel(id), "cancelled twice");
                }
            }
            Step::CancelAll(pair) => _ = self.lp.cancel_all(&*self.streams[pair]),
            Step::Reset(number, delay_us) => {
                if let Some(id) = self.ledger.pick(number) {
                    self.lp.reset(id, micros(delay_us));
                }
            }
            Step::Post => {
                self.posted += 1;
                let parcel = Box::new(Completion::new(Parcel(Arc::clone(&self.arrived))));
                prop_assert!(self.handle.post(parcel, |_, _| ()).is_ok());
            }
            Step::Notify(which) => self.notifiers[which].notify(),
            Step::Wake => self.handle.wake(),
            Step::Stop => self.lp.stop(),
            Step::PeerWrites(pair, bytes) => {
                if let Some(peer) = &mut self.peers[pair] {
                    // It may have no room.
                    _ = peer.write(&[7; 255][..usize::from(bytes)]);
                }
            }
            Step::PeerHangsUp(pair) => self.peers[pair] = None,
            Step::PeerConnects => self.visitors.extend(StdStream::connect(self.address)),
            Step::Run => self.run(|lp| lp.run(RunMode::NoWait))?,
            Step::RunFor(us) => self.run(|lp| lp.run_for(micros(us)))?,
            Step::Flush => {
                self.lp.flush().map_err(|error| TestCaseError::fail(format!("flush: {error}")))?;
            }
        }
        self.check()
    }

    /// The loop and the ledger agree.
    fn check(&self) -> Result<(), TestCaseError> {
        prop_assert!(self.ledger.complaints.borrow().is_empty(), "{:?}", self.ledger.complaints.borrow());
        let (operations, posts) = (self.ledger.in_flight(), self.posts_under_way());
        let len = self.lp.len();
        // The loop counts a post once it has seen it, and a notification that has no room yet.
        let most = operations + posts + PAIRS;
        prop_assert!((operations..=most).contains(&len), "{len} in the loop, {operations} in the ledger");
        prop_assert!(self.lp.in_flight().count() <= len);
        Ok(())
    }

    fn posts_under_way(&self) -> usize {
        self.posted - self.arrived.load(Ordering::Relaxed)
    }

    /// Cancels everything: then it must end, in a bounded number of steps.
    fn end_by_cancel(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..400 {
            let ids: Vec<OpId> = self.lp.in_flight().map(|op| op.id).collect();
            ids.into_iter().for_each(|id| _ = self.lp.cancel(id));
            if self.lp.is_empty() && self.posts_under_way() == 0 {
                break;
            }
            self.run(|lp| lp.run(RunMode::NoWait))?;
            self.run(|lp| lp.run_for(Duration::from_millis(1)))?;
        }
        let left: Vec<_> = self.lp.in_flight().collect();
        prop_assert!(self.lp.is_empty(), "after a cancel of everything: {left:?}");
        prop_assert_eq!(self.ledger.in_flight(), 0);
        prop_assert_eq!(self.posts_under_way(), 0);
        prop_assert_eq!(self.bufs.available(), self.bufs.capacity());
        prop_assert_eq!(self.pool.available(), self.pool.capacity());
        self.check()
    }
}

fn run(program: &Program, stage: &Stage) -> Result<(), TestCaseError> {
    let mut world = World::new(program, stage);
    for &step in &program.steps {
        world.take(step)?;
    }
    if program.end_by_cancel {
        world.end_by_cancel()?;
    }
    let World { lp, ledger, posted, arrived, pool, peers, visitors, .. } = world;
    // What is left is reset, so that thousands of programs do not use up the ports.
    for stream in peers.iter().flatten().chain(&visitors) {
        socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    ledger.tearing_down.set(true);
    drop(lp);
    prop_assert!(ledger.complaints.borrow().is_empty(), "{:?}", ledger.complaints.borrow());
    prop_assert_eq!(ledger.in_flight(), 0, "the loop is gone: {:?}", ledger.fates.borrow());
    prop_assert_eq!(arrived.load(Ordering::Relaxed), posted);
    prop_assert_eq!(pool.available(), pool.capacity());
    Ok(())
}

/// Open descriptors of this process, which runs nothing but this test.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Whether no more descriptors than `count` are open, as soon as the threads that worked for a loop have let
/// go of it: the last of them closes the descriptor that it is woken by.
fn settles_at(count: usize) -> bool {
    let patience = Instant::now() + Duration::from_secs(5);
    while descriptors() > count {
        if Instant::now() > patience {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

#[test]
fn every_submission_ends_exactly_once() {
    let stage =
        Stage { file: tempfile::tempfile().unwrap(), listener: StdListener::bind("127.0.0.1:0").unwrap() };
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(2_000),
        max_shrink_iters: 3_000,
        max_shrink_time: 60_000,
        failure_persistence: None,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&program(), |program| {
        let before = descriptors();
        run(&program, &stage)?;
        prop_assert!(settles_at(before), "{} descriptors were open, and {} are now", before, descriptors());
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}
