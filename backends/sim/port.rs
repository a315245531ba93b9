//! One loop, as its world sees it: the queues between them.

use std::collections::{BTreeMap, VecDeque};

use super::super::Operations;
use super::effect::OpSeq;
use super::kernel::Kernel;
use super::open_file::OpenFile;
use crate::in_flight::Next;
use crate::op::{OpKind, Outcome};
use crate::token::Token;
use crate::waker::Waker;

#[derive(Debug)]
pub(super) struct Completion {
    pub(super) seq: OpSeq,
    pub(super) token: Token,
    pub(super) outcome: Outcome,
}

/// One loop, as its world sees it.
#[derive(Debug, Default)]
pub(super) struct LoopPort {
    /// Of a loop whose descriptor a program polls.
    pub(super) polled: Option<Waker>,
    pub(super) ops: BTreeMap<u64, OpSeq>,
    /// The submission queue was full.
    pub(super) backlog: VecDeque<OpSeq>,
    pub(super) completions: BTreeMap<(u64, u64), Completion>,
    /// To be reported once more although their operations are over.
    late: Vec<(Token, Outcome)>,
}

impl LoopPort {
    /// When the first of its completions is to be delivered.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.completions.first_key_value().map(|(key, _)| key.0)
    }

    /// Makes the loop's descriptor readable if there is something to report.
    pub(super) fn signal_outcomes(&self, now_ns: u64) {
        if self.next_ns().is_some_and(|at_ns| at_ns <= now_ns) {
            self.polled.iter().for_each(Waker::signal);
        }
    }
}

impl Kernel {
    /// Reports to a loop what is in its completion queue, and says how much that was.
    pub(super) fn deliver(&mut self, port: usize, ops: &mut Operations) -> usize {
        for (token, outcome) in std::mem::take(&mut self.ports[port].late) {
            let next = ops.complete(token, outcome);
            debug_assert_eq!(next, Next::Done, "late news is about no operation in flight");
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
            self.note("deliver", seq.0, 0);
            if self.is_on_file(seq) && ops.op_kind(token).is_some_and(OpKind::is_file_transfer) {
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

    /// Whether an operation is done on a file.
    fn is_on_file(&self, seq: OpSeq) -> bool {
        let object = self.operations.get(&seq).and_then(|operation| operation.object);
        object.is_some_and(|id| self.objects.get_as::<OpenFile>(id).is_some())
    }

    /// A loop is gone. What it has in flight was leaked, and is not touched any more.
    pub(super) fn detach(&mut self, port: usize) {
        let LoopPort { ops, .. } = std::mem::take(&mut self.ports[port]);
        for seq in ops.into_values() {
            let Some(operation) = self.operations.remove(&seq) else { continue };
            if let Some(id) = operation.object {
                self.leave_queues(seq, id);
            }
        }
        self.run_awake();
    }
}
