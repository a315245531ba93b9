//! What all Unix systems have.

pub(crate) mod errno;
