//! What an empty task costs: a million of them on two workers, in nanoseconds a task, medians of several
//! rounds.
//!
//! `cargo bench --bench thread_pool -- [rounds] [workers]`

#![allow(unsafe_code)]

use std::{
    env,
    hint::spin_loop,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
    vec::Drain,
};

use oxev::thread_pool::{Batch, Task, ThreadPool};

const TASKS: usize = 1_000_000;

type Slot = &'static mut Task<usize>;

/// How many tasks are done; on cache lines of its own.
#[repr(align(128))]
struct Done(AtomicUsize);

static DONE: Done = Done(AtomicUsize::new(0));

/// Where the tasks that are done come back to, for the next round.
static SPAWNER: Mutex<Option<(ThreadPool, Vec<Slot>)>> = Mutex::new(None);

fn empty(_task: Slot) {
    DONE.0.fetch_add(1, Ordering::AcqRel);
}

fn wait_for(count: usize) {
    while DONE.0.load(Ordering::Acquire) < count {
        thread::yield_now();
    }
}

/// The places of all tasks, for one round after another.
struct Places {
    first: *mut Task<usize>,
    slots: Vec<Slot>,
}

impl Places {
    fn new() -> Places {
        let tasks: Vec<Task<usize>> = (0..TASKS).map(Task::new).collect();
        Places { first: tasks.leak().as_mut_ptr(), slots: Vec::with_capacity(TASKS) }
    }

    /// All places again, after a round in which all tasks were run.
    fn slots(&mut self) -> Drain<'_, Slot> {
        assert!(self.slots.is_empty());
        for index in 0..TASKS {
            // SAFETY: in bounds of what was leaked.
            let place = unsafe { self.first.add(index) };
            // SAFETY: the reference of the last round was given to `empty`, which has dropped it.
            self.slots.push(unsafe { &mut *place });
        }
        self.slots.drain(..)
    }
}

fn cpu_ns() -> u64 {
    let mut time = nix::libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a place for the answer.
    let result = unsafe { nix::libc::clock_gettime(nix::libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn measure(name: &str, places: &mut Places, rounds: usize, mut body: impl FnMut(Drain<'_, Slot>)) {
    let mut wall = Vec::new();
    let mut cpu = Vec::new();
    for _ in 0..rounds {
        let slots = places.slots();
        DONE.0.store(0, Ordering::SeqCst);
        let (start, cpu_start) = (Instant::now(), cpu_ns());
        body(slots);
        wait_for(TASKS);
        wall.push(start.elapsed().as_nanos() as f64 / TASKS as f64);
        cpu.push((cpu_ns() - cpu_start) as f64 / TASKS as f64);
    }
    wall.sort_by(f64::total_cmp);
    cpu.sort_by(f64::total_cmp);
    println!(
        "{name:<34} {:>7.1} ns/task  cpu {:>7.1}  (min {:.1}, max {:.1})",
        wall[rounds / 2],
        cpu[rounds / 2],
        wall[0],
        wall[rounds - 1]
    );
}

fn main() {
    let mut args = env::args().skip(1).filter(|arg| arg != "--bench");
    let rounds = args.next().map_or(11, |text| text.parse().expect("rounds"));
    let workers = args.next().map_or(2, |text| text.parse().expect("workers"));
    let pool = ThreadPool::builder().max_threads(workers).build().expect("settings");

    let mut places = Places::new();
    measure("single, from outside", &mut places, rounds, |slots| {
        for slot in slots {
            pool.spawn(slot, empty).expect("running");
        }
    });
    for batch_len in [16, 256, 4096, TASKS] {
        measure(&format!("batches of {batch_len}, from outside"), &mut places, rounds, |slots| {
            let mut batch = Batch::new();
            for slot in slots {
                batch.push(slot, empty);
                if batch.len() == batch_len {
                    pool.spawn_batch(std::mem::take(&mut batch)).expect("running");
                }
            }
            pool.spawn_batch(batch).expect("running");
        });
    }
    measure("single, from a worker", &mut places, rounds, |slots| {
        *SPAWNER.lock().unwrap() = Some((pool.clone(), slots.collect()));
        pool.spawn(Box::new(Task::new(())), |_| {
            let (pool, slots) = SPAWNER.lock().unwrap().take().expect("set above");
            for slot in slots {
                pool.spawn(slot, empty).expect("running");
            }
        })
        .expect("running");
    });
    let mut numbers = vec![1_u64; TASKS];
    measure("each, items of one slice", &mut places, rounds, |_| {
        pool.each(&mut numbers, |number| *number = number.wrapping_mul(3));
        DONE.0.store(TASKS, Ordering::Release);
    });
    // One task at a time: there and back, the wake-up included.
    let mut back = Vec::new();
    for round in 1..=20_000 {
        DONE.0.store(0, Ordering::SeqCst);
        let slot: Slot = Box::leak(Box::new(Task::new(round)));
        let start = Instant::now();
        pool.spawn(slot, empty).expect("running");
        while DONE.0.load(Ordering::Acquire) == 0 {
            spin_loop();
        }
        back.push(start.elapsed().as_nanos());
    }
    back.sort_unstable();
    println!("one task, there and back            {:>7} ns (median)", back[back.len() / 2]);
}
