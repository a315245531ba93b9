//! What takes the place of the standard library and of the kernel in models: the crate as the model checker
//! loom builds it (`--cfg loom`). `.ci/loom.sh` runs them.

mod arc;
mod atomic_u16;
#[cfg(test)]
mod driver;
#[cfg(test)]
mod loom_tests;

pub(crate) use arc::Arc;
pub(crate) use atomic_u16::AtomicU16;
