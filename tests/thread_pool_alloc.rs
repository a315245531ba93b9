//! Nothing is allocated for a task. In a program of its own, because the count is for the whole process.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use oxev::thread_pool::{Batch, Task, ThreadPool};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

type Place = &'static mut Task<u64>;

/// Where tasks come back to when they were run. Made with room for all of them.
static BACK: Mutex<Vec<Place>> = Mutex::new(Vec::new());
static TOGETHER: Barrier = Barrier::new(2);
const PLACES: usize = 1000;

fn run(task: Place) {
    **task += 1;
    BACK.lock().unwrap().push(task);
}

fn take_back(places: &mut Vec<Place>) {
    while places.len() < PLACES {
        let mut back = BACK.lock().unwrap();
        let came = back.len();
        places.append(&mut back);
        drop(back);
        if came == 0 {
            thread::yield_now();
        }
    }
}

fn round(pool: &ThreadPool, places: &mut Vec<Place>, numbers: &mut [u64]) {
    for place in places.drain(..PLACES / 2) {
        pool.spawn(place, run).unwrap();
    }
    let mut batch = Batch::new();
    for place in places.drain(..) {
        batch.push(place, run);
    }
    pool.spawn_batch(batch).unwrap();
    take_back(places);
    pool.each(numbers, |number| *number += 1);
}

#[test]
fn a_hundred_thousand_tasks_allocate_nothing() {
    let pool = ThreadPool::builder().max_threads(2).build().unwrap();
    let mut places: Vec<Place> = (0..PLACES as u64).map(|i| Box::leak(Box::new(Task::new(i)))).collect();
    let mut numbers = vec![0; PLACES];
    BACK.lock().unwrap().reserve(PLACES);
    // Warm-up: both threads exist when the two have met.
    for _ in 0..2 {
        pool.spawn(Box::new(Task::new(())), |_| {
            TOGETHER.wait();
        })
        .unwrap();
    }
    round(&pool, &mut places, &mut numbers);

    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..100 {
        round(&pool, &mut places, &mut numbers);
    }
    let during = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(during, 0);
    assert_eq!(places.iter().map(|place| ***place).sum::<u64>(), (0..1000).sum::<u64>() + 101 * 1000);
    assert!(numbers.iter().all(|number| *number == 101));
    // A static place for them, so that a leak checker finds them.
    BACK.lock().unwrap().append(&mut places);
}
