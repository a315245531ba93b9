//! Linux, Android's too.

pub(crate) mod file;
pub(crate) mod metadata;
pub(crate) mod poll;
pub(crate) mod socket;

pub(crate) use super::unix::{address, descriptor, errno, io_vec};
