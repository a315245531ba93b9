//! What most programs name: `use oxev::prelude::*;`.
//!
//! ```
//! use oxev::prelude::*;
//! use std::time::Duration;
//!
//! let mut lp = Loop::new()?;
//! lp.submit(own(()), |_| Timer::after(Duration::from_millis(1)), |_lp, _, fired| fired.unwrap());
//! lp.run(RunMode::UntilDone)?;
//! # Ok::<(), std::io::Error>(())
//! ```

pub use crate::{
    Action, BufPool, Completion, File, Lease, ListenOptions, Loop, LoopHandle, Multi, MultiOp, Notifier, Op,
    OpId, OpenOptions, Owner, Pool, Pooled, RunMode, Shared, TcpListener, TcpStream, ThreadPool, Timer, own,
};
