//! What can be had everywhere, by the standard library.

pub(crate) mod affinity;
pub(crate) mod futex;
