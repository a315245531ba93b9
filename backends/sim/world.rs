//! The world: its clock, its events, its objects and the operations that wait for them. It is the kernel of
//! all its loops.
//!
//! Everything that happens is an event at a time of the virtual clock, in the order of time and, at one time,
//! of making. An operation on a socket waits in a queue of its object, one for each direction, and is tried
//! when it is first and whenever that may have become of use. Its outcome goes into the completion queue of
//! its loop, from where the loop's next poll takes it.

#![allow(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::CStr;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::IntoRawFd;
use std::rc::{Rc, Weak};

use super::super::{Operations, Waker};
use super::faults::Faults;
use super::files::{FileSystem, OpenFile, Stat};
use super::network::{Connect, Listener, Network, Packet, Stream, mapped};
use super::peers::Scripts;
use super::random::Random;
use super::trace::Trace;
use super::transfer;
use crate::buf_pool;
use crate::descriptor::{RawDescriptor, close_number};
use crate::in_flight::{Next, Token};
use crate::net::socket;
use crate::op::{OpKind, Outcome, RawOp};
use crate::sim_hooks::{self, Listen, SimHooks};

/// What a world is like.
#[derive(Clone, Debug, PartialEq)]
pub struct SimOptions {
    /// Decides everything that is left to chance. The same seed and the same program give the same run.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// How many bytes a connection holds in each direction before a send waits: 64 KiB by default.
    pub socket_buffer_bytes: usize,
    /// Keeps the text of [`Simulation::trace_text`](crate::sim::Simulation::trace_text). The hash is always
    /// kept.
    pub trace_text: bool,
    /// A loop that has nothing to wait for in the world waits for other threads of the real one (posts,
    /// notifications). Off by default: it fails with `EDEADLK`. What real threads do is no part of what the
    /// seed decides.
    pub wait_for_threads: bool,
}

impl Default for SimOptions {
    /// Seed 0, the default faults.
    fn default() -> SimOptions {
        SimOptions {
            seed: 0,
            faults: Faults::default(),
            socket_buffer_bytes: 64 << 10,
            trace_text: false,
            wait_for_threads: false,
        }
    }
}

impl SimOptions {
    /// This seed, and the faults that it chooses ([`Faults::swarm`]).
    #[must_use]
    pub fn swarm(seed: u64) -> SimOptions {
        SimOptions { seed, faults: Faults::swarm(seed), ..SimOptions::default() }
    }

    /// Nothing goes wrong, and nothing takes its time.
    #[must_use]
    pub fn calm() -> SimOptions {
        SimOptions { faults: Faults::none(), ..SimOptions::default() }
    }
}

/// Names an operation in its world, and is never used again.
pub(super) type OpSeq = u64;
/// Names an object in its world, and is never used again.
pub(super) type ObjectId = u64;

/// A directional queue of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    Read,
    Write,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum SimEvent {
    /// An operation that waits for nothing else is done.
    Perform(OpSeq),
    /// A queue is tried again.
    Retry(ObjectId, Interest),
    /// Packets arrive.
    Arrive(ObjectId),
    /// The connection request of a stream arrives.
    Request(ObjectId),
    /// The answer to it arrives.
    Answer(ObjectId),
    /// There will be no connection, with this errno.
    Refusal(ObjectId, i32),
    /// A cancel that was late comes into effect.
    Cancel(OpSeq),
    /// A script has slept enough.
    Wake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The submission queue was full.
    Backlog,
    /// Its event is to come.
    Begun,
    /// It is in a queue of its object.
    Waiting,
    /// Its outcome is in the completion queue.
    Reported,
}

#[derive(Debug)]
struct Operation {
    port: usize,
    token: Token,
    /// Valid until the outcome without `MORE` is delivered (S1, S3).
    op: *mut RawOp,
    phase: Phase,
    object: Option<ObjectId>,
    /// The host of its loop.
    host: IpAddr,
    /// Repeated by us, not by the loop.
    native: bool,
    /// It keeps its place in its queue until its outcome has been delivered, for it may go on.
    held: bool,
    /// When its last outcome comes: they come in order.
    reported_ns: u64,
    /// How often it was held up by a fault: that must end.
    faults_met: u8,
}

#[derive(Debug, Default)]
struct Queue {
    operations: VecDeque<OpSeq>,
    /// Nothing is tried before.
    retry_ns: u64,
}

#[derive(Debug)]
pub(super) enum ObjectKind {
    Listener(Listener),
    Stream(Stream),
    File(OpenFile),
}

impl ObjectKind {
    /// As stat(2) has it.
    fn mode(&self) -> u32 {
        match self {
            ObjectKind::File(_) => libc::S_IFREG,
            ObjectKind::Stream(stream) if stream.is_pipe => libc::S_IFIFO | 0o600,
            ObjectKind::Stream(_) | ObjectKind::Listener(_) => libc::S_IFSOCK | 0o777,
        }
    }
}

#[derive(Debug)]
pub(super) struct Object {
    pub(super) kind: ObjectKind,
    reads: Queue,
    writes: Queue,
    polls: Vec<OpSeq>,
}

impl Object {
    fn new(kind: ObjectKind) -> Object {
        Object { kind, reads: Queue::default(), writes: Queue::default(), polls: Vec::new() }
    }

    fn queue(&mut self, direction: Interest) -> &mut Queue {
        match direction {
            Interest::Read => &mut self.reads,
            Interest::Write => &mut self.writes,
        }
    }
}

#[derive(Debug)]
struct Completion {
    seq: OpSeq,
    token: Token,
    outcome: Outcome,
}

/// One loop, as its world sees it.
#[derive(Debug)]
pub(super) struct LoopPort {
    /// `None` when the loop is gone.
    waker: Option<Waker>,
    /// Somebody polls its descriptor.
    is_embedded: bool,
    ops: BTreeMap<u64, OpSeq>,
    backlog: VecDeque<OpSeq>,
    completions: BTreeMap<(u64, u64), Completion>,
    /// To be reported once more although their operations are over.
    late: Vec<(Token, Outcome)>,
}

impl LoopPort {
    pub(super) fn signal_outcomes(&self, now_ns: u64) {
        let is_due = self.completions.first_key_value().is_some_and(|(key, _)| key.0 <= now_ns);
        if self.is_embedded && is_due {
            self.waker.iter().for_each(Waker::signal);
        }
    }
}

/// How many times faults hold one operation up.
const FAULT_BUDGET: u8 = 8;
/// How far a completion is overtaken, and an operation that is not ready after all delayed.
const DELAY_NS_MAX: u64 = 100_000;
/// When a connection request that found the backlog full is sent again first: `TCP_TIMEOUT_INIT` of Linux.
const REQUEST_AGAIN_NS: u64 = 1_000_000_000;
/// How often it is sent again: tcp(7), `tcp_syn_retries`.
const REQUESTS_MAX: u8 = 6;
/// What one poll takes, so that a loop that never waits grows old, too.
const POLL_NS: u64 = 1_000;

/// A simulated world. All of it is on one thread.
pub(crate) struct World {
    now_ns: Rc<Cell<u64>>,
    pub(super) state: RefCell<State>,
    pub(super) scripts: RefCell<Scripts>,
    this: Weak<World>,
}

pub(super) struct State {
    now_ns: Rc<Cell<u64>>,
    pub(super) options: SimOptions,
    random: Random,
    trace: Trace,
    events: BTreeMap<(u64, u64), SimEvent>,
    /// Of events, completions, operations and objects.
    count: u64,
    operations: BTreeMap<OpSeq, Operation>,
    pub(super) objects: BTreeMap<ObjectId, Object>,
    pub(super) descriptors: BTreeMap<RawDescriptor, ObjectId>,
    /// Queues that may have become of use.
    awake: VecDeque<(ObjectId, Interest)>,
    pub(super) ports: Vec<LoopPort>,
    network: Network,
    files: FileSystem,
    world: Weak<World>,
}

impl World {
    pub(crate) fn new(options: SimOptions) -> Rc<World> {
        let now_ns = Rc::new(Cell::new(0));
        Rc::new_cyclic(|this| World {
            now_ns: Rc::clone(&now_ns),
            state: RefCell::new(State {
                now_ns,
                random: Random::new(options.seed),
                trace: Trace::new(options.trace_text),
                options,
                events: BTreeMap::new(),
                count: 0,
                operations: BTreeMap::new(),
                objects: BTreeMap::new(),
                descriptors: BTreeMap::new(),
                awake: VecDeque::new(),
                ports: Vec::new(),
                network: Network::default(),
                files: FileSystem::default(),
                world: Weak::clone(this),
            }),
            scripts: RefCell::default(),
            this: Weak::clone(this),
        })
    }

    // ---- time

    pub(crate) fn clock(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.now_ns)
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    pub(crate) fn advance_to(&self, at_ns: u64) {
        self.now_ns.set(self.now_ns.get().max(at_ns));
    }

    /// When something happens next, to any loop.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        let state = self.state.borrow();
        let completions = state.ports.iter().filter_map(|port| port.completions.first_key_value());
        let times = completions.map(|(key, _)| key.0);
        times.chain(state.next_event_ns()).min()
    }

    // ---- what the user does to it

    pub(crate) fn with_faults<R>(&self, change: impl FnOnce(&mut Faults) -> R) -> R {
        change(&mut self.state.borrow_mut().options.faults)
    }

    /// A number up to and with `last` that the seed decides.
    pub(crate) fn random_up_to(&self, last: u64) -> u64 {
        self.state.borrow_mut().random.up_to(last)
    }

    pub(crate) fn trace_hash(&self) -> u64 {
        self.state.borrow().trace.hash()
    }

    pub(crate) fn trace_text(&self) -> String {
        self.state.borrow().trace.text().to_owned()
    }

    pub(crate) fn partition(&self, a: IpAddr, b: IpAddr) {
        let mut state = self.state.borrow_mut();
        state.note("partition", 0, 0);
        state.network.cut(a, b);
    }

    pub(crate) fn heal(&self, a: IpAddr, b: IpAddr) {
        let mut state = self.state.borrow_mut();
        state.note("heal", 0, 0);
        state.network.mend(a, b);
        state.resume_held();
    }

    pub(crate) fn reset_connections(&self, a: IpAddr, b: IpAddr) -> usize {
        self.state.borrow_mut().reset_connections(a, b)
    }

    pub(crate) fn power_cut(&self) {
        let mut state = self.state.borrow_mut();
        state.note("power cut", 0, 0);
        let torn_write = state.options.faults.torn_write;
        let State { files, random, .. } = &mut *state;
        files.power_cut(random, torn_write);
    }

    pub(crate) fn write_file(&self, path: &[u8], content: &[u8]) {
        self.state.borrow_mut().files.put(path, content, self.now_ns());
    }

    pub(crate) fn read_file(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.state.borrow().files.content(path)
    }

    // ---- what loops do in it

    /// A new loop: the index by which it is known.
    pub(super) fn attach(&self, waker: Waker) -> usize {
        let mut state = self.state.borrow_mut();
        state.ports.push(LoopPort {
            waker: Some(waker),
            is_embedded: false,
            ops: BTreeMap::new(),
            backlog: VecDeque::new(),
            completions: BTreeMap::new(),
            late: Vec::new(),
        });
        state.ports.len() - 1
    }

    /// The descriptor of a loop is asked for.
    pub(super) fn embed(&self, port: usize) {
        self.state.borrow_mut().ports[port].is_embedded = true;
    }

    /// A loop is gone. What it has in flight was leaked, and is not touched any more.
    pub(super) fn detach(&self, port: usize) {
        self.state.borrow_mut().detach(port);
    }

    /// # Safety
    /// `op` is valid until it is completed (S3, S6), on this thread.
    pub(super) unsafe fn submit(&self, port: usize, host: IpAddr, token: Token, op: *mut RawOp) {
        // SAFETY: S3: the caller's promise.
        unsafe { self.state.borrow_mut().submit(port, host, token, op) };
    }

    pub(super) fn cancel(&self, port: usize, token: Token) {
        self.state.borrow_mut().cancel(port, token);
    }

    /// Begins what found the submission queue full.
    pub(super) fn begin_backlog(&self, port: usize) {
        self.state.borrow_mut().begin_backlog(port);
    }

    pub(super) fn take_time(&self) {
        self.now_ns.set(self.now_ns.get() + POLL_NS);
    }

    /// Lets everything happen whose time has come, and reports what there is for one loop. Says how many
    /// outcomes that were, and whether a script went on.
    pub(super) fn report(&self, port: usize, ops: &mut Operations) -> (usize, bool) {
        let moved = self.run_due();
        let mut state = self.state.borrow_mut();
        let count = state.deliver(port, ops);
        // What has been continued is tried at once.
        state.run_awake();
        (count, moved)
    }

    /// When something happens next that may be of use to a loop.
    pub(super) fn next_ns_for(&self, port: usize) -> Option<u64> {
        let state = self.state.borrow();
        let completion = state.ports[port].completions.first_key_value().map(|(key, _)| key.0);
        completion.into_iter().chain(state.next_event_ns()).min()
    }

    pub(super) fn waits_for_threads(&self) -> bool {
        self.state.borrow().options.wait_for_threads
    }
}

impl State {
    pub(super) fn now(&self) -> u64 {
        self.now_ns.get()
    }

    fn note(&mut self, what: &'static str, which: u64, figure: i64) {
        self.trace.note(self.now_ns.get(), what, which, figure);
    }

    fn next_count(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    pub(super) fn schedule(&mut self, at_ns: u64, event: SimEvent) {
        let count = self.next_count();
        self.events.insert((at_ns, count), event);
    }

    fn latency_ns(&mut self) -> u64 {
        let Faults { latency_min, latency_max, .. } = self.options.faults;
        self.random.between(latency_min, latency_max)
    }

    // ---- events

    pub(super) fn next_event_ns(&self) -> Option<u64> {
        self.events.first_key_value().map(|(key, _)| key.0)
    }

    pub(super) fn run_events(&mut self) {
        self.run_awake();
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= self.now_ns.get()) {
            match entry.remove() {
                SimEvent::Perform(seq) => self.perform(seq),
                SimEvent::Retry(object, direction) => self.awake.push_back((object, direction)),
                SimEvent::Arrive(object) => self.arrive(object),
                SimEvent::Request(object) => self.request(object),
                SimEvent::Answer(object) => self.answer(object),
                SimEvent::Refusal(object, errno) => self.conclude_connect(object, -errno),
                SimEvent::Cancel(seq) => self.end_waiting(seq, libc::ECANCELED),
                SimEvent::Wake => {}
            }
            self.run_awake();
        }
    }

    fn wake(&mut self, object: ObjectId) {
        self.awake.push_back((object, Interest::Read));
        self.awake.push_back((object, Interest::Write));
    }

    pub(super) fn run_awake(&mut self) {
        while let Some((object, direction)) = self.awake.pop_front() {
            self.run_queue(object, direction);
            self.run_polls(object);
        }
    }

    // ---- submitting

    /// # Safety
    /// As [`World::submit`].
    unsafe fn submit(&mut self, port: usize, host: IpAddr, token: Token, op: *mut RawOp) {
        // SAFETY: S3: the caller's promise; nobody writes to it now.
        let RawOp { kind, flags, .. } = unsafe { op.read() };
        let seq = self.next_count();
        let multi = flags & RawOp::MULTI != 0;
        let native = multi && self.random.chance(self.options.faults.native_multishot);
        let full = self.random.chance(self.options.faults.submission_queue_full);
        let backlog = full || !self.ports[port].backlog.is_empty();
        let phase = if backlog { Phase::Backlog } else { Phase::Begun };
        let operation = Operation {
            port,
            token,
            op,
            phase,
            object: None,
            host,
            native,
            held: false,
            reported_ns: 0,
            faults_met: 0,
        };
        self.note("submit", seq, kind as i64);
        self.operations.insert(seq, operation);
        self.ports[port].ops.insert(token.bits(), seq);
        if backlog {
            return self.ports[port].backlog.push_back(seq);
        }
        self.begin(seq);
    }

    fn begin_backlog(&mut self, port: usize) {
        for _ in 0..self.ports[port].backlog.len() {
            let Some(seq) = self.ports[port].backlog.pop_front() else { return };
            if self.operations.get(&seq).is_some_and(|op| op.phase == Phase::Backlog) {
                self.begin(seq);
            }
        }
    }

    /// The description of an operation that is in flight here.
    fn raw(&self, seq: OpSeq) -> *mut RawOp {
        self.operations[&seq].op
    }

    fn begin(&mut self, seq: OpSeq) {
        let op = self.raw(seq);
        // SAFETY: S3: the operation is in flight, and only we look at it now.
        let raw = unsafe { op.read() };
        if raw.kind == OpKind::Connect {
            return self.begin_connect(seq);
        }
        let object = self.descriptors.get(&raw.fd).copied();
        if let Some(operation) = self.operations.get_mut(&seq) {
            operation.object = object;
            operation.phase = Phase::Begun;
        }
        let kind = object.and_then(|id| self.objects.get(&id)).map(|object| &object.kind);
        let direction = match (raw.kind, kind) {
            (OpKind::Poll, _) => return self.begin_poll(seq, object),
            (OpKind::Nop | OpKind::Close | OpKind::Shutdown, _) => {
                return self.schedule(self.now(), SimEvent::Perform(seq));
            }
            (OpKind::Accept | OpKind::Recv | OpKind::RecvVectored | OpKind::RecvPooled, _) => Interest::Read,
            (OpKind::Send | OpKind::SendZeroCopy | OpKind::SendVectored, _) => Interest::Write,
            // read(2) and write(2) are for files of every kind.
            (OpKind::Read | OpKind::ReadVectored, Some(ObjectKind::Stream(_))) => Interest::Read,
            (OpKind::Write | OpKind::WriteVectored, Some(ObjectKind::Stream(_))) => Interest::Write,
            (kind, Some(ObjectKind::File(_)))
                if kind.is_file_transfer() && raw.flags & RawOp::CURSOR != 0 =>
            {
                return self.wait_for_position(seq, object);
            }
            _ => {
                let at_ns = self.now() + self.latency_ns();
                return self.schedule(at_ns, SimEvent::Perform(seq));
            }
        };
        let refusal = refusal(kind, &raw);
        if refusal < 0 {
            return self.finish(seq, Outcome::new(refusal), 0);
        }
        let Some(id) = object else { return };
        self.set_phase(seq, Phase::Waiting);
        if let Some(object) = self.objects.get_mut(&id) {
            object.queue(direction).operations.push_back(seq);
        }
        self.awake.push_back((id, direction));
    }

    /// At the position of a file there is one at a time: it begins where the one before it ended.
    fn wait_for_position(&mut self, seq: OpSeq, object: Option<ObjectId>) {
        self.set_phase(seq, Phase::Waiting);
        if let Some(object) = object.and_then(|id| self.objects.get_mut(&id)) {
            object.reads.operations.push_back(seq);
        }
        if let Some(id) = object {
            self.begin_at_position(id);
        }
    }

    /// Begins what waits for the position of a file: the first operation of each loop, unless it has begun. What
    /// other loops do at the position is not waited for.
    fn begin_at_position(&mut self, id: ObjectId) {
        let Some(file) = self.objects.get(&id) else { return };
        let mut ports = Vec::new();
        for seq in file.reads.operations.clone() {
            let Some(operation) = self.operations.get(&seq).filter(|first| !ports.contains(&first.port))
            else {
                continue;
            };
            ports.push(operation.port);
            if operation.phase == Phase::Waiting {
                self.set_phase(seq, Phase::Begun);
                let at_ns = self.now() + self.latency_ns();
                self.schedule(at_ns, SimEvent::Perform(seq));
            }
        }
    }

    fn begin_poll(&mut self, seq: OpSeq, object: Option<ObjectId>) {
        let Some((id, object)) = object.and_then(|id| Some((id, self.objects.get_mut(&id)?))) else {
            return self.finish(seq, Outcome::new(-libc::EBADF), 0);
        };
        object.polls.push(seq);
        self.set_phase(seq, Phase::Waiting);
        self.awake.push_back((id, Interest::Read));
    }

    fn set_phase(&mut self, seq: OpSeq, phase: Phase) {
        if let Some(operation) = self.operations.get_mut(&seq) {
            operation.phase = phase;
        }
    }

    // ---- queues

    /// Goes through a queue, from its first operation, as far as it is ready.
    fn run_queue(&mut self, id: ObjectId, direction: Interest) {
        loop {
            let now_ns = self.now();
            let Some(object) = self.objects.get_mut(&id) else { return };
            if matches!(object.kind, ObjectKind::File(_)) {
                return self.begin_at_position(id);
            }
            let queue = object.queue(direction);
            let Some(&seq) = queue.operations.front() else { return };
            if queue.retry_ns > now_ns || self.operations[&seq].phase != Phase::Waiting {
                return;
            }
            let op = self.raw(seq);
            // SAFETY: S3: the operation is in flight, and only we look at it now.
            let raw = unsafe { op.read() };
            if !self.is_ready(id, raw.kind) {
                return;
            }
            if let Some(delay_ns) = self.not_ready_after_all(seq) {
                if let Some(object) = self.objects.get_mut(&id) {
                    object.queue(direction).retry_ns = now_ns + delay_ns;
                }
                return self.schedule(now_ns + delay_ns, SimEvent::Retry(id, direction));
            }
            let (outcome, figure) = self.attempt(seq, id, op, &raw);
            let more = outcome.result > 0 || raw.kind == OpKind::Accept && outcome.result >= 0;
            let held = raw.flags & RawOp::EXACT != 0 || outcome.result == -libc::EINTR;
            let Some(operation) = self.operations.get_mut(&seq) else { return };
            if operation.native && more && !self.random.chance(self.options.faults.lost_continuation) {
                self.finish(seq, outcome.and_more(), figure);
                continue;
            }
            operation.held = held;
            if !held && let Some(object) = self.objects.get_mut(&id) {
                object.queue(direction).operations.pop_front();
            }
            self.finish(seq, outcome, figure);
        }
    }

    /// A fault: how long the operation waits although it could be done.
    fn not_ready_after_all(&mut self, seq: OpSeq) -> Option<u64> {
        let operation = self.operations.get_mut(&seq)?;
        if operation.faults_met >= FAULT_BUDGET || !self.random.chance(self.options.faults.again) {
            return None;
        }
        operation.faults_met += 1;
        Some(1 + self.random.up_to(DELAY_NS_MAX))
    }

    /// A fault: a signal interrupts the operation.
    fn is_interrupted(&mut self, seq: OpSeq) -> bool {
        let Some(operation) = self.operations.get_mut(&seq) else { return false };
        if operation.faults_met >= FAULT_BUDGET || !self.random.chance(self.options.faults.interrupt) {
            return false;
        }
        operation.faults_met += 1;
        true
    }

    pub(super) fn stream(&mut self, id: ObjectId) -> Option<&mut Stream> {
        match self.objects.get_mut(&id).map(|object| &mut object.kind) {
            Some(ObjectKind::Stream(stream)) => Some(stream),
            _ => None,
        }
    }

    /// Whether an operation on an object would not wait.
    pub(super) fn is_ready(&mut self, id: ObjectId, kind: OpKind) -> bool {
        let buffer_bytes = self.options.socket_buffer_bytes.max(1);
        match self.objects.get(&id).map(|object| &object.kind) {
            Some(ObjectKind::Listener(listener)) => !listener.pending.is_empty(),
            Some(ObjectKind::Stream(stream)) => match kind {
                kind if receives(kind) => stream.is_readable(),
                _ if stream.error.is_some() || stream.broken || stream.shut_write => true,
                _ => match stream.peer.and_then(|peer| self.objects.get(&peer)).map(|peer| &peer.kind) {
                    Some(ObjectKind::Stream(peer)) => peer.room(buffer_bytes) > 0,
                    _ => stream.is_pipe || stream.lost_bytes < buffer_bytes,
                },
            },
            Some(ObjectKind::File(_)) | None => true,
        }
    }

    fn run_polls(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get(&id) else { return };
        for seq in object.polls.clone() {
            let op = self.raw(seq);
            // SAFETY: S3: the operation is in flight, and nobody writes to it.
            let wanted = unsafe { (*op).len } as i32;
            let events = self.poll_events(id, wanted);
            if events == 0 {
                continue;
            }
            if let Some(object) = self.objects.get_mut(&id) {
                object.polls.retain(|other| *other != seq);
            }
            self.finish(seq, Outcome::new(events), i64::from(events));
        }
    }

    /// As poll(2).
    fn poll_events(&mut self, id: ObjectId, wanted: i32) -> i32 {
        let reads = self.is_ready(id, OpKind::Recv);
        let writes = !matches!(self.objects.get(&id).map(|o| &o.kind), Some(ObjectKind::Listener(_)))
            && self.is_ready(id, OpKind::Send);
        let mut events = 0;
        if reads {
            events |= i32::from(libc::POLLIN | libc::POLLRDNORM) & wanted;
        }
        if writes {
            events |= i32::from(libc::POLLOUT | libc::POLLWRNORM) & wanted;
        }
        if let Some(stream) = self.stream(id) {
            if stream.ended || stream.broken {
                events |= i32::from(libc::POLLRDHUP) & wanted;
            }
            if stream.error.is_some() {
                events |= i32::from(libc::POLLERR);
            }
            if stream.broken || stream.ended && stream.shut_write {
                events |= i32::from(libc::POLLHUP);
            }
        }
        events
    }

    /// Does what an operation asks for; it is ready. The outcome, and the figure that stands for it in the
    /// trace.
    fn attempt(&mut self, seq: OpSeq, id: ObjectId, op: *mut RawOp, raw: &RawOp) -> (Outcome, i64) {
        if self.is_interrupted(seq) {
            return failed(-libc::EINTR);
        }
        match raw.kind {
            OpKind::Accept => self.accept(id, op, raw),
            kind if receives(kind) => self.receive(id, raw),
            _ => self.send(id, raw),
        }
    }

    // ---- out

    /// Puts an outcome into the completion queue of its loop. `figure` stands for it in the trace.
    fn finish(&mut self, seq: OpSeq, outcome: Outcome, figure: i64) {
        let delay_ns =
            if self.random.chance(self.options.faults.reorder) { self.random.up_to(DELAY_NS_MAX) } else { 0 };
        let (now_ns, count) = (self.now(), self.next_count());
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        debug_assert!(operation.phase != Phase::Reported, "an operation has one last outcome");
        let at_ns = (now_ns + delay_ns).max(operation.reported_ns);
        operation.reported_ns = at_ns;
        if !outcome.has_more() {
            operation.phase = Phase::Reported;
        }
        let (port, token) = (operation.port, operation.token);
        self.ports[port].completions.insert((at_ns, count), Completion { seq, token, outcome });
        self.note("finish", seq, if outcome.result < 0 { i64::from(outcome.result) } else { figure });
    }

    /// Reports to a loop what is in its completion queue, and says how much that was.
    fn deliver(&mut self, port: usize, ops: &mut Operations) -> usize {
        for (token, outcome) in std::mem::take(&mut self.ports[port].late) {
            let verdict = ops.complete(token, outcome);
            debug_assert_eq!(verdict, Next::Done, "nobody takes late news for his own");
        }
        let mut room = ops.items_room();
        if self.random.chance(self.options.faults.completion_queue_overflow) {
            room = room.min(1 + self.random.up_to(3) as usize);
        }
        let mut count = 0;
        while count < room {
            let now_ns = self.now();
            let completions = &mut self.ports[port].completions;
            let Some(entry) = completions.first_entry().filter(|entry| entry.key().0 <= now_ns) else {
                break;
            };
            let Completion { seq, token, outcome } = entry.remove();
            count += 1;
            self.note("deliver", seq, 0);
            let object = self.operations.get(&seq).and_then(|operation| operation.object);
            let kind = object.and_then(|id| self.objects.get(&id)).map(|object| &object.kind);
            if matches!(kind, Some(ObjectKind::File(_)))
                && ops.op_kind(token).is_some_and(OpKind::is_file_transfer)
            {
                ops.go_by_parts(token);
            }
            match ops.complete(token, outcome) {
                Next::Continue => self.resume(seq),
                Next::Done if !outcome.has_more() => {
                    self.retire(seq);
                    // The loop may submit it again under the same name: then the name is not retired.
                    let over = !ops.is_known(token);
                    if over && self.random.chance(self.options.faults.late_completion) {
                        self.ports[port].late.push((token, outcome));
                    }
                }
                Next::Done | Next::Look => {}
            }
        }
        count
    }

    /// The loop says that an operation is not finished.
    fn resume(&mut self, seq: OpSeq) {
        let op = self.raw(seq);
        // SAFETY: S3: the operation is in flight, and only we look at it now.
        if socket::take_failed(unsafe { &*op }) {
            // Another address; here a socket serves for more than one attempt.
            return self.begin_connect(seq);
        }
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        match (operation.held, operation.object) {
            (true, Some(object)) => {
                operation.phase = Phase::Waiting;
                operation.held = false;
                self.wake(object);
            }
            _ => {
                operation.phase = Phase::Begun;
                let at_ns = self.now() + self.latency_ns();
                self.schedule(at_ns, SimEvent::Perform(seq));
            }
        }
    }

    /// An operation is over, and its memory not ours any more.
    fn retire(&mut self, seq: OpSeq) {
        let Some(operation) = self.operations.remove(&seq) else { return };
        self.ports[operation.port].ops.remove(&operation.token.bits());
        if let Some(id) = operation.object {
            self.leave_queues(seq, id);
        }
    }

    fn leave_queues(&mut self, seq: OpSeq, id: ObjectId) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.reads.operations.retain(|other| *other != seq);
            object.writes.operations.retain(|other| *other != seq);
            object.polls.retain(|other| *other != seq);
            self.wake(id);
        }
    }

    // ---- cancelling

    fn cancel(&mut self, port: usize, token: Token) {
        let Some(&seq) = self.ports[port].ops.get(&token.bits()) else { return };
        self.note("cancel", seq, 0);
        let phase = self.operations[&seq].phase;
        if phase == Phase::Reported {
            return;
        }
        if phase != Phase::Backlog && self.random.chance(self.options.faults.cancel_loses) {
            let at_ns = self.now() + self.random.up_to(DELAY_NS_MAX);
            return self.schedule(at_ns, SimEvent::Cancel(seq));
        }
        self.end_waiting(seq, libc::ECANCELED);
    }

    /// Ends an operation that has no outcome yet with an errno.
    fn end_waiting(&mut self, seq: OpSeq, errno: i32) {
        let Some(operation) = self.operations.get(&seq) else { return };
        if operation.phase == Phase::Reported {
            return;
        }
        let object = operation.object;
        self.finish(seq, Outcome::untried(-errno), 0);
        if let Some(id) = object {
            self.leave_queues(seq, id);
        }
    }

    fn detach(&mut self, port: usize) {
        let ops = std::mem::take(&mut self.ports[port].ops);
        ops.into_values().for_each(|seq| {
            let Some(operation) = self.operations.remove(&seq) else { return };
            if let Some(id) = operation.object {
                self.leave_queues(seq, id);
            }
        });
        self.ports[port].waker = None;
        self.ports[port].completions.clear();
        self.ports[port].backlog.clear();
        self.ports[port].late.clear();
        self.run_awake();
    }

    // ---- objects

    fn add_object(&mut self, kind: ObjectKind) -> ObjectId {
        let id = self.next_count();
        self.objects.insert(id, Object::new(kind));
        id
    }

    /// Makes a descriptor that stands for an object.
    pub(super) fn add_descriptor(
        &mut self,
        id: ObjectId,
        address: Option<SocketAddr>,
    ) -> io::Result<RawDescriptor> {
        let fd = match address {
            // A real socket, so that its options are there.
            Some(address) => {
                let kind = socket2::Type::STREAM.nonblocking();
                socket2::Socket::new(socket2::Domain::for_address(address), kind, None)?.into_raw_fd()
            }
            None => std::fs::File::open("/dev/null")?.into_raw_fd(),
        };
        self.adopt(fd, id);
        Ok(fd)
    }

    /// Two ends of a pipe: the one to read from, and the one to write to.
    pub(super) fn add_pipe(&mut self) -> io::Result<(RawDescriptor, RawDescriptor)> {
        let nowhere = SocketAddr::from(([0; 4], 0));
        let mut ends = [(); 2].map(|()| {
            let mut stream = Stream::new(nowhere, nowhere, None);
            stream.is_pipe = true;
            self.add_object(ObjectKind::Stream(stream))
        });
        for _ in 0..2 {
            let [id, other] = ends;
            if let Some(stream) = self.stream(id) {
                stream.peer = Some(other);
            }
            ends.reverse();
        }
        if let Some(reader) = self.stream(ends[0]) {
            reader.shut_write = true;
        }
        if let Some(writer) = self.stream(ends[1]) {
            writer.shut_read = true;
        }
        let reader = self.add_descriptor(ends[0], None)?;
        match self.add_descriptor(ends[1], None) {
            Ok(writer) => Ok((reader, writer)),
            Err(error) => {
                self.close_descriptor(reader, ends[0]);
                Err(error)
            }
        }
    }

    pub(super) fn adopt(&mut self, fd: RawDescriptor, id: ObjectId) {
        if let Some(stale) = self.descriptors.insert(fd, id) {
            // Its descriptor was closed where nobody could see it.
            self.close_object(stale, false);
        }
        sim_hooks::adopt(fd, self.world.clone() as Weak<dyn SimHooks>);
    }

    /// `reset`: the peer is not told the end of the stream, but that there is no connection.
    fn close_object(&mut self, id: ObjectId, reset: bool) {
        let Some(object) = self.objects.remove(&id) else { return };
        self.note("close", id, 0);
        let Object { kind, reads, writes, polls } = object;
        for seq in reads.operations.into_iter().chain(writes.operations).chain(polls) {
            self.end_waiting(seq, libc::EBADF);
        }
        match kind {
            ObjectKind::File(_) => {}
            ObjectKind::Listener(listener) => {
                if let Some(listeners) = self.network.listeners.get_mut(&listener.address.port()) {
                    listeners.retain(|other| *other != id);
                    if listeners.is_empty() {
                        self.network.listeners.remove(&listener.address.port());
                    }
                }
                for pending in listener.pending {
                    self.close_object(pending, true);
                }
            }
            ObjectKind::Stream(stream) => {
                let Some(peer) = stream.peer else { return };
                if stream.broken {
                    return;
                }
                if stream.is_pipe && stream.shut_write {
                    // Nobody reads any more, and no message need tell.
                    if let Some(writer) = self.stream(peer) {
                        writer.broken = true;
                    }
                    return self.wake(peer);
                }
                if let Some(other) = self.stream(peer) {
                    other.lost_bytes = stream.received.len() + stream.coming_bytes;
                }
                if reset || stream.has_unread() {
                    self.send_packet(peer, Packet::Reset);
                } else if !stream.shut_write {
                    self.send_packet(peer, Packet::End);
                }
                // Whoever waits for room waits no more.
                self.wake(peer);
            }
        }
    }

    // ---- the network

    fn send_packet(&mut self, to: ObjectId, packet: Packet) {
        let is_pipe = self.stream(to).is_some_and(|stream| stream.is_pipe);
        let at_ns = self.now() + if is_pipe { 0 } else { self.latency_ns() };
        let Some(stream) = self.stream(to).filter(|stream| !stream.broken) else { return };
        let at_ns = at_ns.max(stream.last_ns);
        stream.last_ns = at_ns;
        if let Packet::Data(bytes) = &packet {
            stream.coming_bytes += bytes.len();
        }
        stream.coming.push_back((at_ns, packet));
        self.schedule(at_ns, SimEvent::Arrive(to));
    }

    fn arrive(&mut self, id: ObjectId) {
        let now_ns = self.now();
        let Some(object) = self.objects.get_mut(&id) else { return };
        let ObjectKind::Stream(stream) = &mut object.kind else { return };
        if self.network.is_cut(stream.local, stream.remote) {
            return;
        }
        stream.take_arrived(now_ns);
        let figure = stream.received.len() as i64;
        self.note("arrive", id, figure);
        self.wake(id);
    }

    /// What a partition held up goes on, as far as it can.
    fn resume_held(&mut self) {
        let now_ns = self.now();
        for (object, is_answer) in std::mem::take(&mut self.network.held) {
            self.schedule(
                now_ns,
                if is_answer { SimEvent::Answer(object) } else { SimEvent::Request(object) },
            );
        }
        let streams: Vec<ObjectId> = self.objects.keys().copied().collect();
        for id in streams {
            if self.stream(id).is_some_and(|stream| !stream.coming.is_empty()) {
                self.schedule(now_ns, SimEvent::Arrive(id));
            }
        }
    }

    fn reset_connections(&mut self, a: IpAddr, b: IpAddr) -> usize {
        let all: Vec<ObjectId> = self.objects.keys().copied().collect();
        let mut count = 0;
        for id in all {
            let Some(stream) = self.stream(id) else { continue };
            let (local, remote) = (stream.local.ip().to_canonical(), stream.remote.ip().to_canonical());
            if stream.peer.is_some()
                && !stream.is_pipe
                && !stream.broken
                && ((local, remote) == (a, b) || (local, remote) == (b, a))
            {
                stream.reset();
                self.note("reset", id, 0);
                self.wake(id);
                count += 1;
            }
        }
        self.run_awake();
        count
    }

    fn begin_connect(&mut self, seq: OpSeq) {
        let op = self.raw(seq);
        // SAFETY: S3: the operation is in flight, and only we look at it now.
        let raw = unsafe { &mut *op };
        let target = socket::address_of(raw).map_err(|_| libc::EAFNOSUPPORT);
        let opened = target.and_then(|target| socket::open_for_connect(raw).map(|()| target));
        let fd = raw.fd;
        let target = match opened {
            Ok(target) => target,
            Err(errno) => return self.finish(seq, Outcome::new(-errno), 0),
        };
        let host = self.operations[&seq].host;
        let id = self.add_connecting(host, target, Some(seq));
        self.adopt(fd, id);
        if let Some(operation) = self.operations.get_mut(&seq) {
            operation.object = Some(id);
            operation.phase = Phase::Begun;
        }
    }

    /// A stream whose connection request is on its way.
    pub(super) fn add_connecting(
        &mut self,
        host: IpAddr,
        target: SocketAddr,
        seq: Option<OpSeq>,
    ) -> ObjectId {
        let local = self.network.local_for(host, target);
        let mut stream = Stream::new(local, target, None);
        stream.connect = Connect::Requested { seq, tries: 0 };
        let id = self.add_object(ObjectKind::Stream(stream));
        let at_ns = self.now() + self.latency_ns();
        self.schedule(at_ns, SimEvent::Request(id));
        id
    }

    /// The addresses of a stream that is connecting, if it goes on with that.
    fn connecting(&mut self, id: ObjectId) -> Option<(SocketAddr, SocketAddr)> {
        let stream = self.stream(id)?;
        let Connect::Requested { seq, .. } = stream.connect else { return None };
        let addresses = (stream.local, stream.remote);
        let goes_on = |seq| self.operations.get(&seq).is_some_and(|op| op.phase == Phase::Begun);
        seq.is_none_or(goes_on).then_some(addresses)
    }

    fn request(&mut self, id: ObjectId) {
        let Some((local, target)) = self.connecting(id) else { return };
        if self.network.is_cut(local, target) {
            return self.network.held.push((id, false));
        }
        let refused = self.random.chance(self.options.faults.connection_refused);
        let listener = if refused { None } else { self.listener_at(target) };
        let back_ns = self.now() + self.latency_ns();
        let Some(listener) = listener else {
            return self.schedule(back_ns, SimEvent::Refusal(id, libc::ECONNREFUSED));
        };
        let Some(ObjectKind::Listener(Listener { pending, backlog, address, .. })) =
            self.objects.get(&listener).map(|object| &object.kind)
        else {
            return;
        };
        if pending.len() > *backlog {
            return self.request_again(id);
        }
        // An IPv6 socket knows IPv4 addresses as mapped ones: ipv6(7).
        let maps = address.is_ipv6();
        let (ours, theirs) = (mapped(target, maps), mapped(local, maps));
        let server = self.add_object(ObjectKind::Stream(Stream::new(ours, theirs, Some(id))));
        if let Some(stream) = self.stream(id) {
            stream.peer = Some(server);
        }
        if let Some(ObjectKind::Listener(listener)) = self.objects.get_mut(&listener).map(|o| &mut o.kind) {
            listener.pending.push_back(server);
        }
        self.note("connection", id, server as i64);
        self.awake.push_back((listener, Interest::Read));
        self.schedule(back_ns, SimEvent::Answer(id));
    }

    /// The request found no room, and is sent again: after one second, two, four, ... as tcp(7) has it.
    fn request_again(&mut self, id: ObjectId) {
        let Some(stream) = self.stream(id) else { return };
        let Connect::Requested { tries, .. } = &mut stream.connect else { return };
        let at_ns = REQUEST_AGAIN_NS << *tries;
        *tries += 1;
        let is_last = *tries > REQUESTS_MAX;
        let event = if is_last { SimEvent::Refusal(id, libc::ETIMEDOUT) } else { SimEvent::Request(id) };
        self.schedule(self.now() + at_ns, event);
    }

    fn answer(&mut self, id: ObjectId) {
        let Some((local, target)) = self.connecting(id) else { return };
        if self.network.is_cut(local, target) {
            return self.network.held.push((id, true));
        }
        self.conclude_connect(id, 0);
    }

    fn conclude_connect(&mut self, id: ObjectId, result: i32) {
        if self.connecting(id).is_none() {
            return;
        }
        let Some(stream) = self.stream(id) else { return };
        let before = std::mem::replace(&mut stream.connect, Connect::Done(result));
        if let Connect::Requested { seq: Some(seq), .. } = before {
            self.finish(seq, Outcome::new(result), 0);
        }
    }

    /// Who takes connections to an address; of several that share it, the seed chooses.
    fn listener_at(&mut self, target: SocketAddr) -> Option<ObjectId> {
        let all = self.network.listeners.get(&target.port())?;
        let accepts = |id: &&ObjectId| match self.objects.get(id).map(|object| &object.kind) {
            Some(ObjectKind::Listener(listener)) => listener.accepts(target),
            _ => false,
        };
        let found: Vec<ObjectId> = all.iter().filter(accepts).copied().collect();
        let last = found.len().checked_sub(1)?;
        let index = if last == 0 { 0 } else { self.random.up_to(last as u64) as usize };
        Some(found[index])
    }

    fn listen(
        &mut self,
        host: IpAddr,
        mut address: SocketAddr,
        options: Listen,
    ) -> Result<RawDescriptor, io::Error> {
        if address.port() == 0 {
            address.set_port(self.network.next_port());
        }
        for id in self.network.listeners.get(&address.port()).into_iter().flatten() {
            if let Some(ObjectKind::Listener(other)) = self.objects.get(id).map(|object| &object.kind)
                && other.conflicts(host, address)
                && !(other.reuse_port && options.reuse_port)
            {
                return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
            }
        }
        let listener = Listener {
            host,
            address,
            backlog: usize::try_from(options.backlog).unwrap_or(0),
            reuse_port: options.reuse_port,
            only_v6: options.only_v6,
            fd: None,
            pending: VecDeque::new(),
        };
        let id = self.add_object(ObjectKind::Listener(listener));
        let fd = self.add_descriptor(id, Some(address)).inspect_err(|_| _ = self.objects.remove(&id))?;
        if let Some(ObjectKind::Listener(listener)) = self.objects.get_mut(&id).map(|o| &mut o.kind) {
            listener.fd = Some(fd);
        }
        self.note("listen", id, i64::from(address.port()));
        self.network.listeners.entry(address.port()).or_default().push(id);
        Ok(fd)
    }

    fn accept(&mut self, id: ObjectId, op: *mut RawOp, raw: &RawOp) -> (Outcome, i64) {
        match self.accept_pending(id) {
            Ok((fd, connection, remote)) => {
                if raw.flags & RawOp::ADDRESS != 0 {
                    // SAFETY: S3: the operation is in flight, and only we look at it now.
                    socket::put_address(unsafe { &mut *op }, remote);
                }
                (Outcome::new(fd), connection as i64)
            }
            Err(error) => failed(-error.raw_os_error().unwrap_or(libc::EMFILE)),
        }
    }

    /// The next connection of a listener: its descriptor, its object, and the address of its other end.
    pub(super) fn accept_pending(
        &mut self,
        id: ObjectId,
    ) -> io::Result<(RawDescriptor, ObjectId, SocketAddr)> {
        let errno = io::Error::from_raw_os_error;
        let Some(ObjectKind::Listener(listener)) = self.objects.get_mut(&id).map(|o| &mut o.kind) else {
            return Err(errno(libc::EINVAL));
        };
        let listener_fd = listener.fd;
        let connection = listener.pending.pop_front().ok_or_else(|| errno(libc::EAGAIN))?;
        let remote = self.stream(connection).ok_or_else(|| errno(libc::ECONNABORTED))?.remote;
        let fd = self.add_descriptor(connection, Some(remote)).inspect_err(|_| {
            // As the kernel does it: the connection stays for the next accept.
            if let Some(ObjectKind::Listener(listener)) = self.objects.get_mut(&id).map(|o| &mut o.kind) {
                listener.pending.push_front(connection);
            }
        })?;
        if let Some(from) = listener_fd {
            transfer::inherit_options(from, fd);
        }
        Ok((fd, connection, remote))
    }

    /// A fault: the connection is reset while it is used.
    fn is_reset(&mut self, id: ObjectId) -> bool {
        if !self.random.chance(self.options.faults.connection_reset) {
            return false;
        }
        let Some(stream) = self.stream(id).filter(|stream| !stream.broken) else { return false };
        stream.reset();
        stream.error = None;
        if let Some(peer) = stream.peer {
            self.send_packet(peer, Packet::Reset);
        }
        self.wake(id);
        true
    }

    fn receive(&mut self, id: ObjectId, raw: &RawOp) -> (Outcome, i64) {
        if self.is_reset(id) {
            return failed(-libc::ECONNRESET);
        }
        let short = self.random.chance(self.options.faults.short_read);
        let fraction = if short { self.random.fraction() } else { 1.0 };
        let Some(stream) = self.stream(id) else { return failed(-libc::EBADF) };
        let there = stream.received.len();
        if there == 0 {
            return failed(stream.error.take().map_or(0, |errno| -errno));
        }
        let buffer = match raw.kind {
            OpKind::RecvPooled => match buf_pool::buffers_of(raw).take() {
                Some(index) => Some(index),
                None => return failed(-libc::ENOBUFS),
            },
            _ => None,
        };
        // SAFETY: S3: the operation is in flight.
        let asked = buffer
            .map_or_else(|| unsafe { transfer::room(raw) }, |_| buf_pool::buffers_of(raw).size() as usize);
        let count = part(asked.min(there), fraction);
        let bytes = self.take_received(id, count);
        match buffer {
            // SAFETY: S13: the buffer is free and ours until it is reported, and large enough.
            Some(index) => unsafe { transfer::copy_to(buf_pool::buffers_of(raw).place(index), &bytes) },
            // SAFETY: S3: the operation is in flight, and its buffers are at least `raw.len` bytes.
            None => unsafe { transfer::scatter(raw, &bytes) },
        }
        let outcome =
            buffer.map_or(Outcome::new(count as i32), |index| Outcome::new(count as i32).in_buffer(index));
        (outcome, count as i64)
    }

    /// Takes bytes that a stream has received; its peer may send as many more.
    pub(super) fn take_received(&mut self, id: ObjectId, count: usize) -> Vec<u8> {
        let Some(stream) = self.stream(id) else { return Vec::new() };
        let bytes = stream.received.make_contiguous()[..count].to_vec();
        drop(stream.received.drain(..count));
        if let Some(peer) = stream.peer {
            self.awake.push_back((peer, Interest::Write));
        }
        bytes
    }

    fn send(&mut self, id: ObjectId, raw: &RawOp) -> (Outcome, i64) {
        if self.is_reset(id) {
            return failed(-libc::ECONNRESET);
        }
        let short = self.random.chance(self.options.faults.short_write);
        let fraction = if short { self.random.fraction() } else { 1.0 };
        // SAFETY: S3: the operation is in flight.
        let len = unsafe { transfer::room(raw) };
        // SAFETY: S3: the operation is in flight, and its buffers are at least `raw.len` bytes.
        let sent = self.transmit(id, len, fraction, |count| unsafe { transfer::gather(raw, count) });
        match sent {
            Ok(count) => (Outcome::new(count as i32), count as i64),
            Err(errno) => failed(-errno),
        }
    }

    /// Sends a part of `len` bytes, for which the peer has room: how many that were, or an errno.
    pub(super) fn transmit(
        &mut self,
        id: ObjectId,
        len: usize,
        fraction: f64,
        gather: impl FnOnce(usize) -> Vec<u8>,
    ) -> Result<usize, i32> {
        let buffer_bytes = self.options.socket_buffer_bytes.max(1);
        let stream = self.stream(id).ok_or(libc::EBADF)?;
        if let Some(errno) = stream.error.take() {
            return Err(errno);
        }
        if stream.broken || stream.shut_write {
            return Err(libc::EPIPE);
        }
        let (is_pipe, lost_bytes) = (stream.is_pipe, stream.lost_bytes);
        let peer = stream.peer.ok_or(libc::EPIPE)?;
        let Some(room) = self.stream(peer).map(|stream| stream.room(buffer_bytes)) else {
            if is_pipe {
                return Err(libc::EPIPE);
            }
            // The kernel takes what it has room for, and the other side answers that there is no such
            // connection.
            let count = part(len.min(buffer_bytes.saturating_sub(lost_bytes)), fraction);
            if let Some(stream) = self.stream(id) {
                stream.lost_bytes += count;
            }
            self.send_packet(id, Packet::Reset);
            return Ok(count);
        };
        let count = part(len.min(room), fraction);
        let bytes = gather(count);
        self.trace.note_bytes(&bytes);
        self.send_packet(peer, Packet::Data(bytes));
        Ok(count)
    }

    pub(super) fn shutdown(&mut self, id: ObjectId, how: i32) -> i32 {
        let Some(stream) = self.stream(id).filter(|stream| !stream.is_pipe) else { return -libc::ENOTSOCK };
        let Some(peer) = stream.peer.filter(|_| !stream.broken) else { return -libc::ENOTCONN };
        if how == libc::SHUT_RD || how == libc::SHUT_RDWR {
            stream.shut_read = true;
        }
        let ends = (how == libc::SHUT_WR || how == libc::SHUT_RDWR) && !stream.shut_write;
        stream.shut_write |= ends;
        if ends {
            self.send_packet(peer, Packet::End);
        }
        self.wake(id);
        0
    }

    // ---- everything else

    /// Does what waits for nothing.
    fn perform(&mut self, seq: OpSeq) {
        let Some(operation) = self.operations.get(&seq).filter(|op| op.phase == Phase::Begun) else {
            return;
        };
        let object = operation.object;
        let op = self.raw(seq);
        // SAFETY: S3: the operation is in flight, and only we look at it now.
        let raw = unsafe { op.read() };
        let uninterruptible = matches!(raw.kind, OpKind::Nop | OpKind::Close | OpKind::Shutdown);
        if !uninterruptible && self.is_interrupted(seq) {
            return self.finish(seq, Outcome::new(-libc::EINTR), 0);
        }
        let (outcome, figure) = match (raw.kind, object) {
            (OpKind::Nop, _) => (Outcome::new(0), 0),
            (OpKind::Open, _) => self.perform_open(&raw),
            (_, None) => failed(-libc::EBADF),
            (OpKind::Close, Some(id)) => {
                self.close_descriptor(raw.fd, id);
                failed(0)
            }
            (OpKind::Shutdown, Some(id)) => failed(self.shutdown(id, raw.len as i32)),
            (_, Some(id)) => {
                let result = self.perform_on_file(id, &raw);
                (Outcome::new(result), i64::from(result))
            }
        };
        self.finish(seq, outcome, figure);
    }

    /// Closes a descriptor that an operation owns.
    fn close_descriptor(&mut self, fd: RawDescriptor, id: ObjectId) {
        self.descriptors.remove(&fd);
        sim_hooks::forget(fd);
        let reset = is_reset_by_linger(fd);
        close_number(fd);
        self.close_object(id, reset);
    }

    fn perform_open(&mut self, raw: &RawOp) -> (Outcome, i64) {
        // SAFETY: S6: the operation borrows the path, a C string.
        let path = unsafe { CStr::from_ptr(raw.buf.cast_const().cast()) };
        match self.open(path, raw.len as i32, raw.offset as u32) {
            Ok((fd, id)) => (Outcome::new(fd), id as i64),
            Err(errno) => failed(-errno),
        }
    }

    fn open(&mut self, path: &CStr, flags: i32, mode: u32) -> Result<(RawDescriptor, ObjectId), i32> {
        let now_ns = self.now();
        let file = self.files.open(path.to_bytes(), flags, mode, now_ns)?;
        let id = self.add_object(ObjectKind::File(file));
        match self.add_descriptor(id, None) {
            Ok(fd) => Ok((fd, id)),
            Err(error) => {
                self.objects.remove(&id);
                Err(error.raw_os_error().unwrap_or(libc::EMFILE))
            }
        }
    }

    fn perform_on_file(&mut self, id: ObjectId, raw: &RawOp) -> i32 {
        let (short_read, short_write) = (self.options.faults.short_read, self.options.faults.short_write);
        let fails = self.random.chance(self.options.faults.io_error);
        let writes = matches!(raw.kind, OpKind::Write | OpKind::WriteVectored);
        let full = writes && self.random.chance(self.options.faults.no_space);
        let short = self.random.chance(if writes { short_write } else { short_read });
        let fraction = if short { self.random.fraction() } else { 1.0 };
        let now_ns = self.now();
        let State { objects, files, trace, .. } = self;
        let file = match objects.get_mut(&id).map(|object| &mut object.kind) {
            Some(ObjectKind::File(file)) => file,
            Some(other) if raw.kind == OpKind::Metadata => {
                // SAFETY: S6: the operation borrows the record.
                unsafe { transfer::put_metadata(raw, Stat { mode: other.mode(), ..Stat::default() }) };
                return 0;
            }
            _ => return -libc::EINVAL,
        };
        match raw.kind {
            OpKind::Metadata => {
                // SAFETY: S6: the operation borrows the record.
                unsafe { transfer::put_metadata(raw, files.stat(file.inode)) };
                0
            }
            _ if fails => -libc::EIO,
            OpKind::SyncAll | OpKind::SyncData => {
                files.sync(file.inode);
                0
            }
            OpKind::Read | OpKind::ReadVectored if !file.reads() => -libc::EBADF,
            OpKind::Read | OpKind::ReadVectored if file.is_directory() => -libc::EISDIR,
            OpKind::Write | OpKind::WriteVectored if !file.writes() => -libc::EBADF,
            OpKind::Read | OpKind::ReadVectored => {
                let offset = if raw.flags & RawOp::CURSOR != 0 { file.position } else { raw.offset };
                // SAFETY: S3: the operation is in flight.
                let there = files.read(file.inode, offset, unsafe { transfer::room(raw) });
                let count = part(there.len(), fraction);
                // SAFETY: S3: the operation is in flight, and its buffers are at least `raw.len` bytes.
                unsafe { transfer::scatter(raw, &there[..count]) };
                if raw.flags & RawOp::CURSOR != 0 {
                    file.position += count as u64;
                }
                count as i32
            }
            OpKind::Write | OpKind::WriteVectored if full => -libc::ENOSPC,
            OpKind::Write | OpKind::WriteVectored => {
                // SAFETY: S3: the operation is in flight.
                let count = part(unsafe { transfer::room(raw) }, fraction);
                // SAFETY: S3: as above.
                let bytes = unsafe { transfer::gather(raw, count) };
                let offset = match raw.flags & RawOp::CURSOR != 0 {
                    _ if file.flags & libc::O_APPEND != 0 => files.stat(file.inode).size,
                    true => file.position,
                    false => raw.offset,
                };
                trace.note_bytes(&bytes);
                if let Err(errno) = files.write(file.inode, offset, &bytes, now_ns) {
                    return -errno;
                }
                if raw.flags & RawOp::CURSOR != 0 {
                    file.position = offset + count as u64;
                }
                count as i32
            }
            _ => -libc::EOPNOTSUPP,
        }
    }
}

impl SimHooks for World {
    fn close(&self, fd: RawDescriptor) {
        let reset = is_reset_by_linger(fd);
        let mut state = self.state.borrow_mut();
        if let Some(id) = state.descriptors.remove(&fd) {
            state.close_object(id, reset);
            // What the peer is told without delay it knows when this is done.
            state.run_events();
        }
    }

    fn local_addr(&self, fd: RawDescriptor) -> io::Result<SocketAddr> {
        let state = self.state.borrow();
        let id = state.descriptors.get(&fd);
        match id.and_then(|id| state.objects.get(id)).map(|object| &object.kind) {
            Some(ObjectKind::Listener(listener)) => Ok(listener.address),
            Some(ObjectKind::Stream(stream)) => Ok(stream.local),
            _ => Err(io::Error::from_raw_os_error(libc::ENOTSOCK)),
        }
    }

    fn peer_addr(&self, fd: RawDescriptor) -> io::Result<SocketAddr> {
        let state = self.state.borrow();
        let id = state.descriptors.get(&fd);
        match id.and_then(|id| state.objects.get(id)).map(|object| &object.kind) {
            Some(ObjectKind::Stream(stream)) if stream.peer.is_some() && !stream.broken => Ok(stream.remote),
            Some(ObjectKind::File(_)) => Err(io::Error::from_raw_os_error(libc::ENOTSOCK)),
            _ => Err(io::Error::from_raw_os_error(libc::ENOTCONN)),
        }
    }

    fn listen(&self, host: IpAddr, address: SocketAddr, options: Listen) -> io::Result<RawDescriptor> {
        self.state.borrow_mut().listen(host, address, options)
    }

    fn open(&self, path: &CStr, flags: i32, mode: u32) -> io::Result<RawDescriptor> {
        let opened = self.state.borrow_mut().open(path, flags, mode);
        opened.map(|(fd, _)| fd).map_err(io::Error::from_raw_os_error)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl World {
    /// This world, to be entered.
    pub(crate) fn context(&self, host: IpAddr) -> Option<sim_hooks::SimContext> {
        self.this.upgrade().map(|world| sim_hooks::SimContext { world, host })
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.borrow();
        f.debug_struct("World")
            .field("now_ns", &self.now_ns())
            .field("options", &state.options)
            .field("operations", &state.operations.len())
            .finish_non_exhaustive()
    }
}

/// An outcome that is no resource.
fn failed(result: i32) -> (Outcome, i64) {
    (Outcome::new(result), i64::from(result))
}

/// A part of `len`, at least one if there is any.
fn part(len: usize, fraction: f64) -> usize {
    if fraction >= 1.0 { len } else { ((len as f64 * fraction) as usize).clamp(len.min(1), len) }
}

/// Whether closing resets the connection: socket(7), `SO_LINGER` with a time of zero.
fn is_reset_by_linger(fd: RawDescriptor) -> bool {
    transfer::linger(fd).is_some_and(|limit| limit.is_zero())
}

/// What is wrong with an operation that waits on an object: a negative errno, or 0.
fn refusal(kind: Option<&ObjectKind>, raw: &RawOp) -> i32 {
    let is_for_files =
        matches!(raw.kind, OpKind::Read | OpKind::ReadVectored | OpKind::Write | OpKind::WriteVectored);
    match (kind, raw.kind) {
        (None, _) => -libc::EBADF,
        (Some(ObjectKind::File(_)), _) => -libc::ENOTSOCK,
        (Some(ObjectKind::Stream(_)), _) if is_for_files && raw.flags & RawOp::CURSOR == 0 => -libc::ESPIPE,
        (Some(ObjectKind::Stream(stream)), kind) if is_for_files => stream.pipe_refusal(kind),
        (Some(ObjectKind::Stream(stream)), _) if stream.is_pipe => -libc::ENOTSOCK,
        (Some(ObjectKind::Stream(_)), OpKind::Accept) => -libc::EINVAL,
        (Some(ObjectKind::Listener(_)), OpKind::Accept) | (Some(ObjectKind::Stream(_)), _) => 0,
        (Some(ObjectKind::Listener(_)), _) => -libc::ENOTCONN,
    }
}

fn receives(kind: OpKind) -> bool {
    use OpKind::{Read, ReadVectored, Recv, RecvPooled, RecvVectored};
    matches!(kind, Recv | RecvVectored | RecvPooled | Read | ReadVectored)
}
