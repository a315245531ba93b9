//! What oxev is measured against, each as small and as fast as it can be made by hand.

#![allow(dead_code)]

pub(crate) mod heap;
pub(crate) mod uring;
