//! Waits for poll events.

use ::io_uring::squeue::Entry;
use ::io_uring::{opcode, types};

use crate::op::RawOp;

pub(super) fn poll(op: &RawOp) -> Entry {
    opcode::PollAdd::new(types::Fd(op.fd), op.as_poll().events).build()
}
