//! Connecting.

#![allow(unsafe_code)]

use ::io_uring::squeue::Entry;
use ::io_uring::{opcode, types};

use crate::op::RawOp;
use crate::op::addresses::address_place;

/// # Safety
/// `op` is a connect of the backend that has its socket.
pub(super) unsafe fn connect(op: *mut RawOp) -> Entry {
    // SAFETY: S3: no other code has it now.
    let raw = unsafe { &mut *op };
    let (address, len) = address_place(raw);
    opcode::Connect::new(types::Fd(raw.fd), address.cast(), len).build()
}
