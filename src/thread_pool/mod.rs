//! A work-stealing pool of threads for work that blocks or computes.
//!
//! * A **[`Task`]** is memory that you own: a header of two words and your state. [`ThreadPool::spawn`] takes
//!   its owner and gives it to a callback on a worker. Nothing is allocated for it, neither by the pool nor
//!   on its way.
//! * A **[`Batch`]** sends any number of tasks by one atomic operation and at most one wake-up.
//! * **[`ThreadPool::each`]** and [`ThreadPool::map`] work on borrowed slices in parallel, on the caller's
//!   thread as well.
//! * **[`RawTask`]** is the layer below, for code that brings its own memory rules.
//!
//! ```
//! use oxev::thread_pool::{Task, ThreadPool};
//! use std::sync::mpsc;
//!
//! struct Sum {
//!     numbers: Vec<u64>,
//!     answer: mpsc::Sender<u64>,
//! }
//!
//! let pool = ThreadPool::new();
//! let (answer, answers) = mpsc::channel();
//! let task = Box::new(Task::new(Sum { numbers: vec![1, 2, 3], answer }));
//! pool.spawn(task, |task| {
//!     // The task is ours again: we could change it and spawn it anew. Here it is dropped.
//!     let _ = task.answer.send(task.numbers.iter().sum());
//! })
//! .expect("the pool is running");
//! assert_eq!(answers.recv(), Ok(6));
//! ```
//!
//! Threads are made when there is work for them, up to [`Builder::max_threads`], and stay until the shutdown.
//! Tasks are run in about the order in which they were scheduled, but no order is promised.
#![doc = include_str!("README.md")]
#![warn(missing_docs)]

mod buffer;
mod builder;
mod error;
mod event;
mod injector;
mod pool;
mod scope;
mod shared;
mod sync;
mod sync_state;
mod task;
mod worker;

#[cfg(all(test, loom))]
mod loom_tests;

pub use builder::Builder;
pub use error::{Rejected, ScheduleError};
pub use pool::{Shutdown, ThreadPool};
pub use task::{Batch, Disposition, RawBatch, RawTask, RunFn, Task, TaskOwner};
