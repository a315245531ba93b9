//! Linux, Android's too.

pub(crate) mod affinity;
pub(crate) mod file;
pub(crate) mod futex;
pub(crate) mod metadata;
pub(crate) mod poll;
pub(crate) mod socket;
pub(crate) mod wake_up;

pub(crate) use super::unix::{address, descriptor, errno, io_vec, pages, socket_options};
