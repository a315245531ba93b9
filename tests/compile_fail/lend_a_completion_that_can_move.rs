//! The message says what to do: a completion goes where it stays.

use oxev::thread_pool::{Task, ThreadPool};
use oxev::{Completion, Loop, Timer};
use std::time::Duration;

fn wait(lp: &mut Loop) {
    lp.submit(Completion::new(()), |_| Timer::after(Duration::ZERO), |_, _, _| ());
}

fn post(lp: &Loop) {
    let _ = lp.handle().post(Completion::new(()), |_, _| ());
}

fn spawn(pool: &ThreadPool) {
    let _ = pool.spawn(Task::new(()), |_| ());
}

fn main() {}
