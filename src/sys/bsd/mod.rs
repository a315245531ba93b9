//! macOS and the BSDs, which come from one system and have kqueue(2).

pub(crate) mod file;
pub(crate) mod metadata;
pub(crate) mod poll;
pub(crate) mod socket;
pub(crate) mod wake_up;

pub(crate) use super::portable::{affinity, futex};
pub(crate) use super::unix::{address, descriptor, errno, io_vec, pages, socket_options};
