#![doc = include_str!("../README.md")]
//!
//! # A tour of the source, in reading order
//!
//! `op` (what an operation is) and `completion` (the caller's memory) · `event_loop` (submit, cancel, the
//! step) and `callback` (back to the owner's types) · `in_flight` (the table and the states) · `timer` (the
//! wheel) · `handle` (other threads) · `backends` (the contract, and those who keep it) · `pool`, `buf_pool`,
//! `io_vecs` (memory) · `net`, `fs` (descriptors in, operations out) · `thread_pool` (work that blocks or
//! computes) · `raw` (the unsafe layer) · `sim` (the simulator).
#![doc = include_str!("safety.md")]
// An arm `_` hides what a new variant needs. `tests/contract.rs` sees to what the lint does not.
#![deny(clippy::wildcard_enum_match_arm)]
#![cfg_attr(
    not(any(feature = "sim", backend_any, backend_custom)),
    allow(warnings, reason = "the one error says it all: there is no backend")
)]
#![cfg_attr(
    not(all(backend_all, backend_io_uring)),
    allow(dead_code, reason = "every backend uses a part of the contract")
)]

#[cfg_attr(not(feature = "backend-api"), allow(unreachable_pub, reason = "the contract is public with it"))]
#[path = "../backends/mod.rs"]
mod backends;
mod buf_pool;
mod builder;
mod capture;
mod completion;
mod descriptor;
mod error;
mod event_loop;
mod fork;
mod fs;
mod generations;
mod handle;
#[cfg_attr(
    not(feature = "backend-api"),
    allow(unreachable_pub, reason = "what a driver does next is public with it")
)]
mod in_flight;
mod inbox;
mod io_vecs;
mod jobs;
mod leak;
mod memory;
#[cfg(loom)]
mod model;
pub mod net;
mod notifier;
mod offload;
mod op;
mod pool;
pub mod prelude;
pub mod raw;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "sim")]
mod sim_hooks;
#[cfg(not(feature = "sim"))]
#[path = "sim_hooks_none.rs"]
mod sim_hooks;
mod stateless;
mod sync;
mod sys;
pub mod thread_pool;
mod timer;
#[cfg_attr(not(feature = "backend-api"), allow(unreachable_pub, reason = "tokens are public with it"))]
mod token;
#[cfg(not(loom))]
#[cfg_attr(not(feature = "backend-api"), allow(unreachable_pub, reason = "wakers are public with it"))]
mod waker;
#[cfg(loom)]
#[path = "model/waker.rs"]
mod waker;

/// Backends of a program's own (the feature `backend-api`): a [`Driver`](backend::Driver) moves operations between a
/// loop and whatever serves them, and [`Builder::driver`] makes a loop that runs on it.
///
/// This interface follows the crate's own backends, and may change with a minor version.
#[cfg(feature = "backend-api")]
pub mod backend {
    pub use crate::backends::{Driver, MakeDriver, Operations, Wait};
    pub use crate::in_flight::Next;
    pub use crate::token::Token;
    pub use crate::waker::Waker;
}
pub use backends::{Capabilities, IoWorkers, Kind, Refusals, UnknownKind};
pub use buf_pool::{BufPool, Lease};
pub use builder::Builder;
pub use completion::{Action, Completion, Multi, Owner, own};
pub use descriptor::RawDescriptor;
pub use error::{Cause, is_canceled, is_deadline, is_table_full};
pub use event_loop::{Loop, RunMode};
pub use fs::{File, Metadata, OpenOptions};
pub use handle::LoopHandle;
pub use in_flight::InFlightOp;
pub use io_vecs::{Gather, IoVecs, Scatter};
#[doc(inline)]
pub use net::{ListenOptions, TcpListener, TcpStream};
pub use notifier::Notifier;
pub use op::{Direction, Facts, Memory, MultiOp, Op, OpKind, Outcome, Output, RawOp, Server, Target};
pub use op::{TRANSFER_BYTES_MAX, nop, words};
pub use pool::{Pool, Pooled, Shared};
pub use stateless::Stateless;
pub use sys::metadata::RawMetadata;
pub use thread_pool::ThreadPool;
pub use timer::Timer;
pub use token::OpId;
