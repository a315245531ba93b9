//! What no selector can wait for.

#![allow(unsafe_code)]

use super::calls;
use crate::op::RawOp;

#[derive(Debug)]
pub(super) struct Jobs(());

impl Jobs {
    pub(super) fn new() -> Jobs {
        Jobs(())
    }

    /// # Safety
    /// As [`calls::blocking`].
    pub(super) unsafe fn perform(&mut self, op: &RawOp) -> i32 {
        // SAFETY: S6: the caller's promise.
        unsafe { calls::blocking(op) }
    }
}
