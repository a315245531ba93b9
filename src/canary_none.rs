//! No defects: what every build has but the one with `--cfg oxev_canary` (`canary.rs`).

use std::ptr::NonNull;

use crate::completion::Header;

#[inline(always)]
pub(crate) const fn loses_completion() -> bool {
    false
}

#[inline(always)]
pub(crate) const fn loses_cancel() -> bool {
    false
}

#[inline(always)]
pub(crate) const fn moves_deadline(deadline_ns: u64) -> u64 {
    deadline_ns
}

#[inline(always)]
pub(crate) const fn repeats_item(_: NonNull<Header>) -> bool {
    false
}

#[inline(always)]
pub(crate) const fn leaks_result() -> bool {
    false
}

#[inline(always)]
pub(crate) const fn ignores_stop() -> bool {
    false
}

#[inline(always)]
pub(crate) const fn swaps_bytes(_: NonNull<Header>) {}
