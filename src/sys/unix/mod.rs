//! What all Unix systems have.

pub(crate) mod address;
pub(crate) mod descriptor;
pub(crate) mod errno;
pub(crate) mod file;
pub(crate) mod io_vec;
pub(crate) mod pages;
pub(crate) mod poll;
pub(crate) mod socket;
pub(crate) mod socket_options;

/// What a call returned, as a count or a negative errno. No call here moves more than an `i32` counts.
#[inline(always)]
pub(in crate::sys) fn result_of(returned: isize) -> i32 {
    match i32::try_from(returned) {
        Ok(count @ 0..) => count,
        _ => -errno::last(),
    }
}
