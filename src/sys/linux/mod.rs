//! Linux, Android's too.

pub(crate) mod socket;

pub(crate) use super::unix::{address, errno};
