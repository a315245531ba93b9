//! The monotonic clock, which is also that of [`Instant`](std::time::Instant).

#![allow(unsafe_code)]

/// `clock_gettime(2)`, about 30 ns.
pub(crate) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: S8: `now` is a valid timespec for the length of the call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    debug_assert_eq!(status, 0);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
