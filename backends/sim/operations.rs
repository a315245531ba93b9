//! The way of an operation through its world: submitted, begun, waiting in a queue, performed, reported, over.

#![allow(unsafe_code)]

use std::net::IpAddr;

use super::effect::{Ending, Interest, ObjectId, OpSeq, SimEvent};
use super::kernel::Kernel;
use super::object::Admission;
use super::port::Completion;
use super::request::{Request, Transfer};
use crate::op::RawOp;
use crate::op::addresses;
use crate::sys::errno;
use crate::token::Token;

/// How many times faults hold one operation up.
const FAULT_BUDGET: u8 = 8;
/// How far a completion is overtaken, and an operation that is not ready after all delayed.
const DELAY_NS_MAX: u64 = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The submission queue was full.
    Backlog,
    /// Its event is to come.
    Begun,
    /// It is in a queue of its object.
    Waiting,
    /// Its last outcome is in the completion queue.
    Reported(Resumption),
}

/// Where an operation goes on if the loop says that it is not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resumption {
    /// It is performed again.
    Anew,
    /// It has kept its place in its queue.
    InItsQueue,
}

/// What repeats an operation that gives several results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeater {
    Loop,
    Kernel,
}

#[derive(Debug)]
pub(super) struct Operation {
    pub(super) port: usize,
    pub(super) token: Token,
    /// Valid until the outcome without `MORE` is delivered (S1, S3).
    op: *mut RawOp,
    pub(super) phase: Phase,
    pub(super) object: Option<ObjectId>,
    /// The host of its loop.
    pub(super) host: IpAddr,
    repeater: Repeater,
    /// When its last outcome comes: they come in order.
    reported_ns: u64,
    /// How often faults may still hold it up.
    fault_budget: u8,
}

impl Operation {
    fn is_reported(&self) -> bool {
        matches!(self.phase, Phase::Reported(_))
    }
}

impl Kernel {
    // ---- in

    /// # Safety
    /// `op` is valid until it is completed (S3, S6), on this thread.
    pub(super) unsafe fn submit(&mut self, port: usize, host: IpAddr, token: Token, op: *mut RawOp) {
        // SAFETY: S3: the caller's promise; the loop does not write to it now.
        let RawOp { kind, flags, .. } = unsafe { op.read() };
        let seq = OpSeq(self.next_count());
        let native = flags & RawOp::MULTI != 0 && self.random.chance(self.options.faults.native_multishot);
        let full = self.random.chance(self.options.faults.submission_queue_full);
        let waits = full || !self.ports[port].backlog.is_empty();
        let operation = Operation {
            port,
            token,
            op,
            phase: if waits { Phase::Backlog } else { Phase::Begun },
            object: None,
            host,
            repeater: if native { Repeater::Kernel } else { Repeater::Loop },
            reported_ns: 0,
            fault_budget: FAULT_BUDGET,
        };
        self.note("submit", seq.0, kind as i64);
        self.operations.insert(seq, operation);
        self.ports[port].ops.insert(token.bits(), seq);
        if waits {
            return self.ports[port].backlog.push_back(seq);
        }
        self.begin(seq);
    }

    /// Begins what found the submission queue full.
    pub(super) fn begin_backlog(&mut self, port: usize) {
        for _ in 0..self.ports[port].backlog.len() {
            let Some(seq) = self.ports[port].backlog.pop_front() else { return };
            if self.operations.get(&seq).is_some_and(|op| op.phase == Phase::Backlog) {
                self.begin(seq);
            }
        }
    }

    /// The place of an operation that is in flight here.
    pub(super) fn place(&self, seq: OpSeq) -> *mut RawOp {
        self.operations[&seq].op
    }

    /// A copy of its description.
    fn raw(&self, seq: OpSeq) -> RawOp {
        // SAFETY: S3: the operation is in flight, and only this world reads or writes it now.
        unsafe { self.place(seq).read() }
    }

    fn begin(&mut self, seq: OpSeq) {
        let raw = self.raw(seq);
        let request = Request::of(&raw);
        if request == Request::Connect {
            return self.begin_connect(seq);
        }
        let object = self.objects.id_of(raw.fd);
        if let Some(operation) = self.operations.get_mut(&seq) {
            operation.object = object;
            operation.phase = Phase::Begun;
        }
        match request {
            Request::Poll => self.begin_poll(seq, object, raw.as_poll().events as i32),
            Request::Nop | Request::Close | Request::Shutdown => {
                self.schedule(self.now(), SimEvent::Perform(seq));
            }
            Request::Transfer(transfer) => self.begin_transfer(seq, object, transfer),
            Request::Connect | Request::Open | Request::Sync | Request::Metadata | Request::LoopsOwn => {
                self.schedule_after_latency(SimEvent::Perform(seq));
            }
        }
    }

    fn begin_transfer(&mut self, seq: OpSeq, object: Option<ObjectId>, transfer: Transfer) {
        let kind = object.and_then(|id| Some((id, &self.objects.get(id)?.kind)));
        let (id, admission) = match (kind, transfer) {
            (Some((id, kind)), _) => (id, kind.admit(transfer)),
            (None, Transfer::Accept | Transfer::Receive | Transfer::Send) => {
                return self.finish(seq, Ending::failed(errno::EBADF));
            }
            // It ends with EBADF when it is performed.
            (None, Transfer::Read(_) | Transfer::Write(_)) => {
                return self.schedule_after_latency(SimEvent::Perform(seq));
            }
        };
        match admission {
            Admission::Refused(errno) => self.finish(seq, Ending::failed(errno)),
            Admission::AfterLatency => self.schedule_after_latency(SimEvent::Perform(seq)),
            Admission::WhenReady(interest) => {
                self.wait_at(seq, id, interest);
                self.wake_queue(id, interest);
            }
            Admission::InTurn => {
                self.wait_at(seq, id, Interest::Read);
                self.run_turns(id);
            }
        }
    }

    fn wait_at(&mut self, seq: OpSeq, id: ObjectId, interest: Interest) {
        self.set_phase(seq, Phase::Waiting);
        if let Some(object) = self.objects.get_mut(id) {
            object.queue(interest).ops.push_back(seq);
        }
    }

    fn begin_poll(&mut self, seq: OpSeq, object: Option<ObjectId>, wanted: i32) {
        let Some((id, object)) = object.and_then(|id| Some((id, self.objects.get_mut(id)?))) else {
            return self.finish(seq, Ending::failed(errno::EBADF));
        };
        object.polls.add(seq, wanted);
        self.set_phase(seq, Phase::Waiting);
        self.wake_queue(id, Interest::Read);
    }

    pub(super) fn set_phase(&mut self, seq: OpSeq, phase: Phase) {
        if let Some(operation) = self.operations.get_mut(&seq) {
            operation.phase = phase;
        }
    }

    // ---- queues

    /// Begins what is done one at a time: the first operation of each loop, unless it has begun. What other
    /// loops do is not waited for.
    fn run_turns(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get_mut(id) else { return };
        let mut ports = Vec::new();
        for seq in object.queue(Interest::Read).ops.clone() {
            let Some(operation) = self.operations.get(&seq).filter(|first| !ports.contains(&first.port))
            else {
                continue;
            };
            ports.push(operation.port);
            if operation.phase == Phase::Waiting {
                self.set_phase(seq, Phase::Begun);
                self.schedule_after_latency(SimEvent::Perform(seq));
            }
        }
    }

    /// Goes through a queue, from its first operation, as far as it is ready.
    pub(super) fn run_queue(&mut self, id: ObjectId, interest: Interest) {
        loop {
            let now_ns = self.now();
            let Some(object) = self.objects.get_mut(id) else { return };
            let queue = object.queue(interest);
            let Some(&seq) = queue.ops.front() else { return };
            let retry_ns = queue.retry_ns;
            let raw = self.raw(seq);
            let Request::Transfer(transfer) = Request::of(&raw) else { return };
            let Some(object) = self.objects.get(id) else { return };
            if object.kind.admit(transfer) == Admission::InTurn {
                return self.run_turns(id);
            }
            if retry_ns > now_ns || self.operations[&seq].phase != Phase::Waiting {
                return;
            }
            if !object.kind.is_ready(interest, &self.view(id)) {
                return;
            }
            if let Some(delay_ns) = self.not_ready_after_all(seq) {
                if let Some(object) = self.objects.get_mut(id) {
                    object.queue(interest).retry_ns = now_ns.saturating_add(delay_ns);
                }
                return self.schedule(now_ns.saturating_add(delay_ns), SimEvent::Retry(id, interest));
            }
            let ending = self.attempt(seq, id, transfer, &raw);
            let result = ending.outcome.result;
            let more = result > 0 || transfer == Transfer::Accept && result >= 0;
            let Some(operation) = self.operations.get(&seq) else { return };
            if operation.repeater == Repeater::Kernel
                && more
                && !self.random.chance(self.options.faults.lost_continuation)
            {
                self.finish(seq, Ending { outcome: ending.outcome.and_more(), ..ending });
                continue;
            }
            // The loop may say that it is not finished: until then it is the first of its queue.
            let stays = raw.flags & RawOp::EXACT != 0 || result == -errno::EINTR;
            let resumption = if stays { Resumption::InItsQueue } else { Resumption::Anew };
            if !stays && let Some(object) = self.objects.get_mut(id) {
                object.queue(interest).ops.pop_front();
            }
            self.finish_with(seq, ending, resumption);
        }
    }

    pub(super) fn run_polls(&mut self, id: ObjectId) {
        if self.objects.get(id).is_none_or(|object| object.polls.is_empty()) {
            return;
        }
        let view = self.view(id);
        let Some(object) = self.objects.get_mut(id) else { return };
        let effects = object.polls.report(object.kind.poll_events(&view));
        self.apply(effects);
    }

    /// A fault: how long the operation waits although it could be done.
    fn not_ready_after_all(&mut self, seq: OpSeq) -> Option<u64> {
        self.is_held_up(seq, self.options.faults.again).then(|| 1 + self.random.up_to(DELAY_NS_MAX))
    }

    /// A fault: a signal interrupts the operation.
    fn is_interrupted(&mut self, seq: OpSeq) -> bool {
        self.is_held_up(seq, self.options.faults.interrupt)
    }

    /// A fault of this probability, which must not go on for good.
    fn is_held_up(&mut self, seq: OpSeq, probability: f64) -> bool {
        let Some(operation) = self.operations.get_mut(&seq) else { return false };
        if operation.fault_budget == 0 || !self.random.chance(probability) {
            return false;
        }
        operation.fault_budget -= 1;
        true
    }

    /// Does what an operation asks for at an object that is ready for it.
    fn attempt(&mut self, seq: OpSeq, id: ObjectId, transfer: Transfer, raw: &RawOp) -> Ending {
        if self.is_interrupted(seq) {
            return Ending::failed(errno::EINTR);
        }
        match transfer {
            Transfer::Accept => self.accept(seq, id, raw),
            Transfer::Receive | Transfer::Read(_) => self.receive(id, raw),
            Transfer::Send | Transfer::Write(_) => self.send(id, raw),
        }
    }

    /// Does what waits for no object.
    pub(super) fn perform(&mut self, seq: OpSeq) {
        let Some(operation) = self.operations.get(&seq).filter(|op| op.phase == Phase::Begun) else {
            return;
        };
        let object = operation.object.ok_or(errno::EBADF);
        let raw = self.raw(seq);
        let request = Request::of(&raw);
        if request.is_interruptible() && self.is_interrupted(seq) {
            return self.finish(seq, Ending::failed(errno::EINTR));
        }
        let ending = match request {
            Request::Nop => Ending::done(0),
            Request::Open => self.perform_open(&raw),
            Request::Close => Ending::of(object.map(|id| {
                self.close_descriptor(raw.fd, id);
                0
            })),
            Request::Shutdown => {
                Ending::of(object.and_then(|id| self.shutdown(id, raw.as_shutdown().how)).map(|()| 0))
            }
            Request::Sync => Ending::of(object.and_then(|id| self.perform_sync(id))),
            Request::Metadata => Ending::of(object.and_then(|id| self.perform_metadata(id, &raw))),
            Request::Transfer(Transfer::Read(position)) => {
                Ending::of(object.and_then(|id| self.perform_read(id, position, &raw)))
            }
            Request::Transfer(Transfer::Write(position)) => {
                Ending::of(object.and_then(|id| self.perform_write(id, position, &raw)))
            }
            Request::Transfer(Transfer::Accept | Transfer::Receive | Transfer::Send)
            | Request::Connect
            | Request::Poll
            | Request::LoopsOwn => Ending::failed(errno::EOPNOTSUPP),
        };
        self.finish(seq, ending);
    }

    // ---- out

    /// Puts an outcome into the completion queue of its loop.
    pub(super) fn finish(&mut self, seq: OpSeq, ending: Ending) {
        self.finish_with(seq, ending, Resumption::Anew);
    }

    fn finish_with(&mut self, seq: OpSeq, Ending { outcome, figure }: Ending, resumption: Resumption) {
        let delay_ns =
            if self.random.chance(self.options.faults.reorder) { self.random.up_to(DELAY_NS_MAX) } else { 0 };
        let (now_ns, count) = (self.now(), self.next_count());
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        debug_assert!(!operation.is_reported(), "an operation has one last outcome");
        let at_ns = now_ns.saturating_add(delay_ns).max(operation.reported_ns);
        operation.reported_ns = at_ns;
        if !outcome.has_more() {
            operation.phase = Phase::Reported(resumption);
        }
        let completion = Completion { seq, token: operation.token, outcome };
        self.ports[operation.port].completions.insert((at_ns, count), completion);
        self.note("finish", seq.0, if outcome.result < 0 { i64::from(outcome.result) } else { figure });
    }

    /// The loop says that an operation is not finished.
    pub(super) fn resume(&mut self, seq: OpSeq) {
        let op = self.place(seq);
        // SAFETY: S3: the operation is in flight, and only this world looks at it now.
        if addresses::take_failed(unsafe { &*op }) {
            // Another address; here a socket serves for more than one attempt.
            return self.begin_connect(seq);
        }
        let Some(operation) = self.operations.get_mut(&seq) else { return };
        match (operation.phase, operation.object) {
            (Phase::Reported(Resumption::InItsQueue), Some(object)) => {
                operation.phase = Phase::Waiting;
                self.wake(object);
            }
            (Phase::Reported(_) | Phase::Backlog | Phase::Begun | Phase::Waiting, _) => {
                operation.phase = Phase::Begun;
                self.schedule_after_latency(SimEvent::Perform(seq));
            }
        }
    }

    /// An operation is over, and its memory is the loop's again.
    pub(super) fn retire(&mut self, seq: OpSeq) {
        let Some(operation) = self.operations.remove(&seq) else { return };
        self.ports[operation.port].ops.remove(&operation.token.bits());
        if let Some(id) = operation.object {
            self.leave_queues(seq, id);
        }
    }

    pub(super) fn leave_queues(&mut self, seq: OpSeq, id: ObjectId) {
        if let Some(object) = self.objects.get_mut(id) {
            object.forget(seq);
            self.wake(id);
        }
    }

    // ---- cancelling

    pub(super) fn cancel(&mut self, port: usize, token: Token) {
        let Some(&seq) = self.ports[port].ops.get(&token.bits()) else { return };
        self.note("cancel", seq.0, 0);
        let operation = &self.operations[&seq];
        if operation.is_reported() {
            return;
        }
        if operation.phase != Phase::Backlog && self.random.chance(self.options.faults.cancel_loses) {
            let at_ns = self.now().saturating_add(self.random.up_to(DELAY_NS_MAX));
            return self.schedule(at_ns, SimEvent::Cancel(seq));
        }
        self.end_waiting(seq, errno::ECANCELED);
    }

    /// Ends an operation that has no last outcome yet with an errno.
    pub(super) fn end_waiting(&mut self, seq: OpSeq, errno: i32) {
        let Some(operation) = self.operations.get(&seq).filter(|operation| !operation.is_reported()) else {
            return;
        };
        let object = operation.object;
        self.finish(seq, Ending::untried(errno));
        if let Some(id) = object {
            self.leave_queues(seq, id);
        }
    }
}
