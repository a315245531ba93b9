//! Planted defects, to see whether the fuzzer finds them: a proof that cannot fail proves nothing. Only with
//! `--cfg oxev_canary`; the environment variable `OXEV_CANARY` says which. `.ci/canary.sh` runs them all.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::completion::Header;
use crate::op::{OpKind, RawOp};

fn is_planted(defect: &str) -> bool {
    static PLANTED: OnceLock<String> = OnceLock::new();
    PLANTED.get_or_init(|| std::env::var("OXEV_CANARY").unwrap_or_default()) == defect
}

/// Once in so many times.
fn now_and_then(often: u32) -> bool {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed) % often == often - 1
}

/// A completion that the backend reports never arrives.
pub(crate) fn loses_completion() -> bool {
    is_planted("lost_completion") && now_and_then(300)
}

/// A cancel does not reach the backend.
pub(crate) fn loses_cancel() -> bool {
    is_planted("lost_cancel") && now_and_then(5)
}

/// Timers and deadlines come a little early.
pub(crate) fn moves_deadline(deadline_ns: u64) -> u64 {
    if is_planted("early_timer") && now_and_then(10) {
        deadline_ns.saturating_sub(20_000)
    } else {
        deadline_ns
    }
}

/// A tick of a repeating timer is delivered twice.
pub(crate) fn repeats_item(header: NonNull<Header>) -> bool {
    // SAFETY: S2: the header is the loop's.
    let kind = unsafe { (*header.as_ptr()).op.kind };
    is_planted("repeated_item") && kind == OpKind::Timer && now_and_then(10)
}

/// What a result stands for is leaked if its loop is dropped first: an accepted descriptor, a buffer.
pub(crate) fn leaks_result() -> bool {
    is_planted("leaked_result")
}

/// `stop` has no effect before everything that is ready has run.
pub(crate) fn ignores_stop() -> bool {
    is_planted("ignored_stop")
}

/// The first two bytes of what was received change places.
pub(crate) fn swaps_bytes(header: NonNull<Header>) {
    // SAFETY: S2: the operation is over, and the header the loop's.
    let Header { op, outcome, .. } = unsafe { &*header.as_ptr() };
    let is_plain = op.kind == OpKind::Recv && op.flags & RawOp::EXACT == 0;
    if is_planted("swapped_bytes") && is_plain && outcome.result >= 2 && now_and_then(5) {
        // SAFETY: S6: the operation borrows a buffer of two bytes at least.
        unsafe { op.buf.swap(op.buf.wrapping_add(1)) };
    }
}
