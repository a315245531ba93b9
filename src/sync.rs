//! What threads share: from `std`, or, when the model checker builds the crate (`--cfg loom`), from `loom`,
//! which tries every order in which threads can run and every value that a load may return.

#[cfg(loom)]
pub(crate) use crate::model::{Arc, AtomicU16};
#[cfg(loom)]
pub(crate) use loom::sync::{
    Condvar, Mutex,
    atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering, fence},
};
#[cfg(not(loom))]
#[allow(unused_imports, reason = "only the portable futex needs the locks")]
pub(crate) use std::sync::{
    Arc, Condvar, Mutex,
    atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize, Ordering, fence},
};
