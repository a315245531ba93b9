//! The conformance suite: what a loop does, one body per behaviour, run on every variant of the loop that
//! this machine has.
//!
//! A file is a concept and reads like a specification; `variants.rs` has the list of variants, to which
//! another backend is one more line; `support/` has the few helpers. A test is named
//! `concept::variant::claim`.

#[path = "../common/mod.rs"]
mod common;
#[macro_use]
mod variants;
#[cfg(feature = "sim")]
mod simulated;
mod support;

mod buffers;
mod cancel;
mod captures;
mod cross_thread;
mod data;
mod deadline;
mod disarm;
mod embedding;
mod file;
mod finish;
mod libxev_families;
mod loop_control;
mod owners;
mod panics;
mod progress;
mod regressions;
mod ring;
mod slow_peers;
mod tcp;
mod teardown;
mod timer;
