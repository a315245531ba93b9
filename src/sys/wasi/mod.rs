//! WASI, preview 1: one thread, files below directories that the host has opened, and sockets that it has opened.

pub(crate) mod address;
pub(crate) mod descriptor;
pub(crate) mod errno;
pub(crate) mod file;
pub(crate) mod io_vec;
pub(crate) mod metadata;
pub(crate) mod pages;
pub(crate) mod poll;
pub(crate) mod socket;
pub(crate) mod socket_options;
pub(crate) mod wake_up;

pub(crate) use super::portable::{affinity, futex};

/// What a call of the C library returned, as a count or a negative errno.
pub(in crate::sys) fn result_of(returned: isize) -> i32 {
    match i32::try_from(returned) {
        Ok(count @ 0..) => count,
        _ => -errno::last(),
    }
}

/// What a call of the system returned, in the same form: its codes are those of the C library.
pub(in crate::sys) fn outcome_of(returned: Result<u32, wasip1::Errno>) -> i32 {
    match returned {
        Ok(count) => i32::try_from(count).unwrap_or(i32::MAX),
        Err(code) => -i32::from(code.raw()),
    }
}
