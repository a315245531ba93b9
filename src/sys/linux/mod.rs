//! Linux, Android's too.

pub(crate) use super::unix::errno;
