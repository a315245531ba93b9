//! What it costs to have work done on a thread pool and to hear of it: [`Loop::offload`] there and back,
//! against a bare task of the same pool that writes an eventfd on which the other thread blocks. Goal: within
//! 10 %.
//!
//! The loop's thread and the pool's are on **one** core, so that no idle wake-up of the machine is measured.
//! Figures are nanoseconds of the whole program's CPU time for each round trip, medians of rounds in turns.

mod support;

use std::io;
use std::sync::{Arc, mpsc};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::time::{ClockId, clock_gettime};
use oxev::thread_pool::Task;
use oxev::{Completion, Loop, RunMode, ThreadPool};
use support::{alternate, pin_to, scaled, verdict};

fn process_ns_per(count: usize, work: impl FnOnce()) -> f64 {
    let now = || clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("Linux has the clock");
    let start = now();
    work();
    let end = now();
    let seconds = (end.tv_sec() - start.tv_sec()) as f64;
    (seconds * 1e9 + (end.tv_nsec() - start.tv_nsec()) as f64) / count as f64
}

/// A pool of one thread, which is there already.
fn started_pool() -> ThreadPool {
    let pool = ThreadPool::builder().max_threads(1).build().expect("a pool");
    let (started, starts) = mpsc::channel();
    pool.spawn(Box::new(Task::new(started)), |task| task.send(()).expect("it is waited for"))
        .expect("a task");
    starts.recv().expect("the thread starts");
    pool
}

/// The round trips that are left, and the pool for the next one.
struct Trips {
    pool: ThreadPool,
    left: usize,
    worked: usize,
}

fn offload(lp: &mut Loop, trips: Box<Completion<Trips>>) {
    let pool = trips.pool.clone();
    lp.offload(&pool, trips, |trips| trips.worked += 1, on_back);
}

fn on_back(lp: &mut Loop, mut trips: Box<Completion<Trips>>, done: io::Result<()>) {
    done.expect("the work is done");
    trips.left -= 1;
    if trips.left > 0 {
        offload(lp, trips);
    } else {
        assert!(trips.worked > 0);
    }
}

fn round_trip_oxev(lp: &mut Loop, pool: &ThreadPool, count: usize) -> f64 {
    let trips = Box::new(Completion::new(Trips { pool: pool.clone(), left: count, worked: 0 }));
    process_ns_per(count, || {
        offload(lp, trips);
        lp.run(RunMode::UntilDone).expect("the loop runs");
    })
}

fn round_trip_bare(pool: &ThreadPool, count: usize) -> f64 {
    let eventfd = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::empty()).expect("an eventfd"));
    let tasks: Vec<_> = (0..count).map(|_| Box::new(Task::new(Arc::clone(&eventfd)))).collect();
    process_ns_per(count, || {
        for task in tasks {
            pool.spawn(task, |task| _ = task.write(1).expect("an eventfd is written")).expect("a task");
            eventfd.read().expect("an eventfd is read");
        }
    })
}

fn main() {
    let (rounds, count) = (scaled(15, 1), scaled(20_000, 100));
    println!("Work on a thread pool, there and back: ns, {rounds} rounds");
    pin_to(0);
    let (mut lp, pool) = (Loop::new().expect("a loop"), started_pool());
    let [bare, oxev] = alternate(
        rounds,
        [&mut || round_trip_bare(&pool, count), &mut || round_trip_oxev(&mut lp, &pool, count)],
    );
    let ratio = oxev.paired(&bare, |oxev, bare| oxev / bare);
    println!(
        "bare {:>7.0}   oxev {:>7.0}   goal <= x1.10 {} (x{ratio:.2})",
        bare.median(),
        oxev.median(),
        verdict(ratio, 1.1)
    );
}
