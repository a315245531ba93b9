//! What the pool promises. Nothing here sleeps or measures time: every order of events is made by channels
//! and gates.
#![allow(
    clippy::boxed_local,
    clippy::type_complexity,
    reason = "owners are boxes by design, and the states of these tasks are tuples of what a test needs"
)]

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, ThreadId},
};

use oxev::thread_pool::{Batch, ScheduleError, Shutdown, Task, ThreadPool};

fn pool(threads: usize) -> ThreadPool {
    ThreadPool::builder().max_threads(threads).build().unwrap()
}

fn boxed<T>(state: T) -> Box<Task<T>> {
    Box::new(Task::new(state))
}

/// Keeps one worker busy until `open` is dropped. Returns when the worker is in it.
fn occupy(pool: &ThreadPool) -> Sender<()> {
    let (open, gate) = mpsc::channel::<()>();
    let (begun, has_begun) = mpsc::channel::<()>();
    let blocker = boxed((begun, gate));
    pool.spawn(blocker, |task: Box<Task<(Sender<()>, Receiver<()>)>>| {
        task.0.send(()).unwrap();
        let _ = task.1.recv();
    })
    .unwrap();
    has_begun.recv().unwrap();
    open
}

/// Tells that it was dropped, and whether its task was run before that.
struct Fate {
    was_run: bool,
    told: Sender<bool>,
}

impl Drop for Fate {
    fn drop(&mut self) {
        let _ = self.told.send(self.was_run);
    }
}

fn fate(told: &Sender<bool>) -> Box<Task<Fate>> {
    boxed(Fate { was_run: false, told: told.clone() })
}

fn fulfil(mut task: Box<Task<Fate>>) {
    task.was_run = true;
}

#[test]
fn a_task_gets_its_owner_back_on_a_worker() {
    let pool = pool(1);
    let (answer, answers) = mpsc::channel();
    let task = boxed((String::from("state"), answer));
    let address = &raw const *task as usize;
    pool.spawn(task, |mut task: Box<Task<(String, Sender<_>)>>| {
        task.0.push_str(" changed");
        let answer = task.1.clone();
        let address = &raw const *task as usize;
        let name = thread::current().name().map(String::from);
        answer.send((task.into_inner().0, address, name)).unwrap();
    })
    .unwrap();
    let (state, seen, name) = answers.recv().unwrap();
    assert_eq!(state, "state changed");
    assert_eq!(seen, address, "the memory is the caller's own");
    assert_eq!(name.as_deref(), Some("oxev-pool-0"));
}

#[test]
fn a_static_task_can_be_spawned_again_from_its_own_callback() {
    type State = (u32, Option<ThreadPool>, Sender<u32>);
    // A static place for it in the end, so that a leak checker finds it.
    static OVER: Mutex<Option<&'static mut Task<State>>> = Mutex::new(None);
    fn count(task: &'static mut Task<State>) {
        task.0 += 1;
        if task.0 < 1000 {
            let pool = task.1.clone().unwrap();
            pool.spawn(task, count).unwrap();
            return;
        }
        task.1 = None;
        task.2.send(task.0).unwrap();
        *OVER.lock().unwrap() = Some(task);
    }
    let (done, is_done) = mpsc::channel();
    let pool = pool(2);
    let task = Box::leak(boxed((0, Some(pool.clone()), done)));
    pool.spawn(task, count).unwrap();
    assert_eq!(is_done.recv(), Ok(1000));
    pool.join().unwrap();
}

#[test]
fn a_pool_without_work_has_no_threads() {
    let pool = pool(4);
    assert_eq!(pool.threads(), 0);
    pool.join().unwrap();
    assert_eq!(pool.threads(), 0);
}

#[test]
fn threads_are_made_for_work_up_to_the_maximum_and_not_beyond() {
    let pool = pool(3);
    let gates: Vec<_> = (0..3).map(|_| occupy(&pool)).collect();
    assert_eq!(pool.threads(), 3);
    let (told, fates) = mpsc::channel();
    for _ in 0..100 {
        pool.spawn(fate(&told), fulfil).unwrap();
    }
    assert_eq!(pool.threads(), 3);
    drop(gates);
    assert!((0..100).all(|_| fates.recv().unwrap()));
    assert_eq!(pool.threads(), 3);
}

#[test]
fn a_free_worker_takes_what_a_blocked_one_has_spawned() {
    let pool = pool(2);
    let (sent, received) = mpsc::channel();
    let task = boxed((pool.clone(), sent));
    pool.spawn(task, |task: Box<Task<(ThreadPool, Sender<u32>)>>| {
        let (pool, sent) = task.into_inner();
        let (go, gate) = mpsc::channel::<()>();
        // It goes to this worker's own queue, and this worker waits for it.
        pool.spawn(boxed(go), |task| task.send(()).unwrap()).unwrap();
        gate.recv().unwrap();
        sent.send(1).unwrap();
    })
    .unwrap();
    assert_eq!(received.recv(), Ok(1));
}

#[test]
fn a_batch_runs_all_its_tasks_in_order_on_a_single_worker() {
    let pool = pool(1);
    let log = Arc::new(Mutex::new(Vec::new()));
    let mut batch = Batch::new();
    for number in 0..2000_u32 {
        batch.push(boxed((number, Arc::clone(&log))), |task: Box<Task<(u32, Arc<Mutex<Vec<_>>>)>>| {
            task.1.lock().unwrap().push(task.0);
        });
    }
    assert_eq!(batch.len(), 2000);
    pool.spawn_batch(batch).unwrap();
    pool.spawn_batch(Batch::new()).unwrap();
    pool.join().unwrap();
    assert!(log.lock().unwrap().iter().copied().eq(0..2000));
}

#[test]
fn every_task_of_many_threads_and_of_tasks_is_run_once() {
    const SPAWNERS: usize = 4;
    const TASKS: usize = 5_000;
    let pool = pool(3);
    let runs: Arc<Vec<AtomicUsize>> =
        Arc::new((0..SPAWNERS * TASKS * 2).map(|_| AtomicUsize::new(0)).collect());
    type State = (usize, ThreadPool, Arc<Vec<AtomicUsize>>);
    fn first(task: Box<Task<State>>) {
        let (number, pool, runs) = task.into_inner();
        runs[number].fetch_add(1, Ordering::Relaxed);
        let second = boxed((number + 1, runs));
        pool.spawn(second, |task: Box<Task<(usize, Arc<Vec<AtomicUsize>>)>>| {
            task.1[task.0].fetch_add(1, Ordering::Release);
        })
        .unwrap();
    }
    thread::scope(|scope| {
        for spawner in 0..SPAWNERS {
            let (pool, runs) = (&pool, &runs);
            scope.spawn(move || {
                let mut batch = Batch::new();
                for task in 0..TASKS {
                    let number = (spawner * TASKS + task) * 2;
                    let task = boxed((number, pool.clone(), Arc::clone(runs)));
                    if spawner % 2 == 0 {
                        pool.spawn(task, first).unwrap();
                    } else {
                        batch.push(task, first);
                        if batch.len() == 300 {
                            pool.spawn_batch(std::mem::take(&mut batch)).unwrap();
                        }
                    }
                }
                pool.spawn_batch(batch).unwrap();
            });
        }
    });
    // Not `join`, which would refuse what the tasks spawn.
    for run in runs.iter() {
        while run.load(Ordering::Acquire) == 0 {
            thread::yield_now();
        }
    }
    pool.join().unwrap();
    assert!(runs.iter().all(|run| run.load(Ordering::Relaxed) == 1));
}

#[test]
fn a_task_can_spawn_more_than_its_worker_can_hold() {
    let pool = pool(2);
    let (told, fates) = mpsc::channel();
    pool.spawn(boxed((pool.clone(), told)), |task: Box<Task<(ThreadPool, Sender<bool>)>>| {
        for _ in 0..1000 {
            task.0.spawn(fate(&task.1), fulfil).unwrap();
        }
    })
    .unwrap();
    assert_eq!(fates.iter().filter(|was_run| *was_run).count(), 1000);
}

#[test]
fn tasks_that_always_spawn_again_do_not_starve_the_others() {
    type State = (ThreadPool, Arc<AtomicBool>);
    fn again(task: Box<Task<State>>) {
        let (pool, stop) = (task.0.clone(), Arc::clone(&task.1));
        if !stop.load(Ordering::Acquire) {
            pool.spawn(task, again).unwrap();
        }
    }
    let pool = pool(1);
    let stop = Arc::new(AtomicBool::new(false));
    pool.spawn(boxed((pool.clone(), Arc::clone(&stop))), again).unwrap();
    let (told, fates) = mpsc::channel();
    pool.spawn(fate(&told), fulfil).unwrap();
    assert_eq!(fates.recv(), Ok(true));
    stop.store(true, Ordering::Release);
}

#[test]
fn a_panicking_task_does_not_kill_its_worker() {
    let pool = pool(1);
    let (told, fates) = mpsc::channel();
    let thread_of = |pool: &ThreadPool| {
        let (answer, answers) = mpsc::channel();
        pool.spawn(boxed(answer), |task: Box<Task<Sender<ThreadId>>>| {
            task.send(thread::current().id()).unwrap()
        })
        .unwrap();
        answers.recv().unwrap()
    };
    let before = thread_of(&pool);
    for _ in 0..3 {
        pool.spawn(fate(&told), |_| panic!("on purpose")).unwrap();
        assert_eq!(fates.recv(), Ok(false), "the owner is dropped by the unwinding");
    }
    assert_eq!(thread_of(&pool), before);
    assert_eq!(pool.panic_count(), 3);
    assert_eq!(pool.threads(), 1);
}

#[test]
fn a_panic_whose_payload_panics_when_dropped_does_not_kill_the_worker() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::panic_any(Bomb);
        }
    }
    let pool = pool(1);
    pool.spawn(boxed(()), |_| std::panic::panic_any(Bomb)).unwrap();
    let (told, fates) = mpsc::channel();
    pool.spawn(fate(&told), fulfil).unwrap();
    assert_eq!(fates.recv(), Ok(true));
    assert_eq!(pool.panic_count(), 1);
}

#[test]
fn draining_runs_everything_that_was_taken() {
    let pool = pool(2);
    let gates = [occupy(&pool), occupy(&pool)];
    let (told, fates) = mpsc::channel();
    for _ in 0..1000 {
        pool.spawn(fate(&told), fulfil).unwrap();
    }
    pool.shutdown(Shutdown::Drain);
    drop(gates);
    pool.join().unwrap();
    drop(told);
    assert_eq!(fates.iter().filter(|was_run| *was_run).count(), 1000);
}

#[test]
fn discarding_drops_every_owner_and_runs_none() {
    let pool = pool(2);
    let gates = [occupy(&pool), occupy(&pool)];
    let (told, fates) = mpsc::channel();
    let mut batch = Batch::new();
    for i in 0..1000 {
        if i % 2 == 0 {
            pool.spawn(fate(&told), fulfil).unwrap();
        } else {
            batch.push(fate(&told), fulfil);
        }
    }
    pool.spawn_batch(batch).unwrap();
    pool.shutdown(Shutdown::Discard);
    drop(gates);
    pool.join().unwrap();
    drop(told);
    let fates: Vec<bool> = fates.iter().collect();
    assert_eq!(fates.len(), 1000);
    assert!(fates.iter().all(|was_run| !was_run));
}

#[test]
fn draining_can_be_cut_short_by_discarding() {
    let pool = pool(1);
    let gate = occupy(&pool);
    let (told, fates) = mpsc::channel();
    pool.spawn(fate(&told), fulfil).unwrap();
    pool.shutdown(Shutdown::Drain);
    pool.shutdown(Shutdown::Discard);
    pool.shutdown(Shutdown::Drain);
    drop(gate);
    pool.join().unwrap();
    assert_eq!(fates.recv(), Ok(false));
}

#[test]
fn a_shut_down_pool_hands_owners_back() {
    let pool = pool(2);
    drop(occupy(&pool));
    pool.shutdown(Shutdown::Drain);
    assert!(pool.is_shut_down());
    let rejected = pool.spawn(boxed(7), |_| unreachable!()).unwrap_err();
    assert!(matches!(rejected.error(), ScheduleError::ShutDown));
    assert_eq!(**rejected.into_owner(), 7);
    let mut batch = Batch::new();
    batch.push(boxed(1), |_| unreachable!());
    batch.push(boxed(2), |_| unreachable!());
    let (batch, error) = pool.spawn_batch(batch).unwrap_err().into_parts();
    assert_eq!(batch.len(), 2);
    assert_eq!(error.to_string(), "the thread pool has been shut down");
    pool.join().unwrap();
}

#[test]
fn a_shutdown_while_others_spawn_loses_no_owner() {
    for how in [Shutdown::Drain, Shutdown::Discard] {
        for _ in 0..50 {
            let pool = pool(2);
            let (told, fates) = mpsc::channel();
            let start = Arc::new(Barrier::new(3));
            let spawners: Vec<_> = (0..2)
                .map(|_| {
                    let (pool, told, start) = (pool.clone(), told.clone(), Arc::clone(&start));
                    thread::spawn(move || {
                        start.wait();
                        (0..200).filter(|_| pool.spawn(fate(&told), fulfil).is_ok()).count()
                    })
                })
                .collect();
            start.wait();
            pool.shutdown(how);
            pool.join().unwrap();
            let taken: usize = spawners.into_iter().map(|s| s.join().unwrap()).sum();
            drop(told);
            let fates: Vec<bool> = fates.iter().collect();
            assert_eq!(fates.len(), 400, "each was dropped once");
            let run = fates.iter().filter(|was_run| **was_run).count();
            if how == Shutdown::Drain {
                assert_eq!(run, taken);
            } else {
                assert!(run <= taken);
            }
        }
    }
}

#[test]
fn tasks_cannot_spawn_into_a_pool_that_is_drained() {
    let pool = pool(1);
    let gate = occupy(&pool);
    let (answer, answers) = mpsc::channel();
    pool.spawn(boxed((pool.clone(), answer)), |task: Box<Task<(ThreadPool, Sender<bool>)>>| {
        let refused = task.0.spawn(boxed(()), drop).is_err();
        task.1.send(refused).unwrap();
    })
    .unwrap();
    pool.shutdown(Shutdown::Drain);
    drop(gate);
    assert_eq!(answers.recv(), Ok(true));
}

#[test]
fn dropping_the_last_handle_runs_what_was_taken_and_joins() {
    let pool = pool(2);
    let other = pool.clone();
    let (told, fates) = mpsc::channel();
    for _ in 0..100 {
        pool.spawn(fate(&told), fulfil).unwrap();
    }
    drop(pool);
    assert!(!other.is_shut_down());
    drop(other);
    drop(told);
    // The threads have ended, so nothing is on its way any more.
    assert_eq!(fates.try_iter().filter(|was_run| *was_run).count(), 100);
}

#[test]
fn the_last_handle_can_be_dropped_by_a_task() {
    let pool = pool(2);
    let gate = occupy(&pool);
    let (told, fates) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let task = boxed((pool.clone(), gone, fate(&told)));
    pool.spawn(task, |task: Box<Task<(ThreadPool, Receiver<()>, Box<Task<Fate>>)>>| {
        let (pool, gone, fate) = Task::into_inner(*task);
        gone.recv().unwrap();
        drop(pool);
        fulfil(fate);
    })
    .unwrap();
    for _ in 0..10 {
        pool.spawn(fate(&told), fulfil).unwrap();
    }
    drop(pool);
    go.send(()).unwrap();
    drop((gate, told));
    assert_eq!(fates.iter().filter(|was_run| *was_run).count(), 11);
}

#[test]
fn the_last_handle_can_be_dropped_by_a_destructor_of_a_worker_thread() {
    thread_local! {
        static KEPT: Mutex<Option<(ThreadPool, Fate)>> = const { Mutex::new(None) };
    }
    let pool = pool(1);
    let (told, fates) = mpsc::channel();
    let kept = (pool.clone(), Fate { was_run: true, told });
    pool.spawn(boxed(kept), |task: Box<Task<(ThreadPool, Fate)>>| {
        KEPT.with(|place| *place.lock().unwrap() = Some(Task::into_inner(*task)));
    })
    .unwrap();
    pool.shutdown(Shutdown::Drain);
    drop(pool);
    assert_eq!(fates.recv(), Ok(true));
}

#[test]
fn a_worker_that_joins_its_own_pool_gets_an_error() {
    let pool = pool(1);
    let (answer, answers) = mpsc::channel();
    pool.spawn(boxed((pool.clone(), answer)), |task: Box<Task<(ThreadPool, Sender<_>)>>| {
        assert!(task.0.is_worker());
        let _ = task.1.send(task.0.join().unwrap_err().kind());
    })
    .unwrap();
    assert_eq!(answers.recv(), Ok(std::io::ErrorKind::Deadlock));
    assert!(!pool.is_worker());
    pool.join().unwrap();
}

#[test]
fn several_threads_can_join_at_once() {
    let pool = pool(2);
    let gate = occupy(&pool);
    let (told, fates) = mpsc::channel();
    pool.spawn(fate(&told), fulfil).unwrap();
    drop(told);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| pool.join().unwrap());
        }
        drop(gate);
    });
    assert_eq!(fates.try_recv(), Ok(true));
}

#[test]
fn a_pool_that_cannot_make_a_thread_hands_the_owner_back_and_does_not_hang() {
    // More than the address space of any machine has for one mapping.
    let pool = ThreadPool::builder().stack_size(1 << (usize::BITS - 3)).build().unwrap();
    for _ in 0..2 {
        let (owner, error) = pool.spawn(boxed(5), |_| unreachable!()).unwrap_err().into_parts();
        assert!(matches!(error, ScheduleError::ThreadCreation(_)));
        assert_eq!(**owner, 5);
    }
    let mut numbers = [1, 2, 3];
    pool.each(&mut numbers, |number| *number *= 2);
    assert_eq!(numbers, [2, 4, 6]);
    assert_eq!(pool.threads(), 0);
    pool.join().unwrap();
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let refused = |builder: oxev::thread_pool::Builder| {
        builder.build().unwrap_err().kind() == std::io::ErrorKind::InvalidInput
    };
    assert!(refused(ThreadPool::builder().max_threads(0)));
    assert!(refused(ThreadPool::builder().max_threads(1 << 14)));
    assert!(refused(ThreadPool::builder().stack_size(usize::MAX)));
    assert!(refused(ThreadPool::builder().thread_name("a\0b")));
}

#[cfg(target_os = "linux")]
#[test]
fn threads_are_named_and_bound_to_their_cores() {
    use nix::{
        sched::{CpuSet, sched_getaffinity},
        unistd::Pid,
    };
    fn allowed() -> Vec<usize> {
        let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
        (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap()).collect()
    }
    let core = *allowed().last().unwrap();
    let pool =
        ThreadPool::builder().max_threads(1).thread_name("bound").core_affinity([core]).build().unwrap();
    let (answer, answers) = mpsc::channel();
    pool.spawn(boxed(answer), |task: Box<Task<Sender<_>>>| {
        let name = thread::current().name().map(String::from);
        task.send((allowed(), name)).unwrap();
    })
    .unwrap();
    assert_eq!(answers.recv().unwrap(), (vec![core], Some(String::from("bound-0"))));
    let beyond = ThreadPool::builder().core_affinity([CpuSet::count()]).build();
    assert_eq!(beyond.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn each_visits_every_item_once_whatever_the_length() {
    let pool = pool(2);
    for len in [0, 1, 2, 3, 16, 17, 1000, 100_000] {
        let mut items = vec![0_u8; len];
        pool.each(&mut items, |item| *item += 1);
        assert!(items.iter().all(|item| *item == 1), "length {len}");
    }
    let visits = AtomicUsize::new(0);
    pool.each(&mut [(); 1000], |()| {
        visits.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(visits.into_inner(), 1000);
}

#[test]
fn each_uses_the_workers_and_the_caller() {
    let pool = pool(2);
    // Each of three calls waits for the other two, so three threads have to take part.
    let all = Barrier::new(3);
    let threads = Mutex::new(HashSet::new());
    pool.each(&mut [(), (), ()], |()| {
        all.wait();
        threads.lock().unwrap().insert(thread::current().id());
    });
    let threads = threads.into_inner().unwrap();
    assert_eq!(threads.len(), 3);
    assert!(threads.contains(&thread::current().id()));
}

#[test]
fn map_writes_each_output_at_the_index_of_its_input() {
    let pool = pool(2);
    let inputs: Vec<usize> = (0..10_000).collect();
    let mut outputs = vec![String::from("old"); inputs.len()];
    pool.map(&inputs, &mut outputs, usize::to_string);
    assert!(outputs.iter().enumerate().all(|(i, output)| *output == i.to_string()));
    let unequal = catch_unwind(AssertUnwindSafe(|| pool.map(&[1, 2], &mut [0], |n| *n)));
    assert!(unequal.is_err());
}

#[test]
fn each_resumes_a_panic_after_every_call_has_returned() {
    let pool = pool(2);
    for panics_on_caller in [false, true] {
        let caller = thread::current().id();
        let running = AtomicUsize::new(0);
        let both = Barrier::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.each(&mut [0, 1], |_| {
                running.fetch_add(1, Ordering::SeqCst);
                both.wait();
                let is_caller = thread::current().id() == caller;
                if is_caller == panics_on_caller {
                    running.fetch_sub(1, Ordering::SeqCst);
                    panic!("on purpose");
                }
                thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
            });
        }));
        assert_eq!(running.load(Ordering::SeqCst), 0);
        // Both calls may have been made by workers; then no task, or every task, panicked.
        if let Err(panic) = result {
            assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
        }
    }
    assert_eq!(pool.panic_count(), 0);
    let mut items = [1, 2, 3];
    pool.each(&mut items, |item| *item += 1);
    assert_eq!(items, [2, 3, 4]);
}

#[test]
fn each_stops_early_and_gives_the_first_panic() {
    let pool = pool(2);
    let visits = AtomicUsize::new(0);
    let panic = catch_unwind(AssertUnwindSafe(|| {
        pool.each(&mut [(); 100_000], |()| {
            visits.fetch_add(1, Ordering::Relaxed);
            panic!("on purpose");
        });
    }))
    .unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
    assert!(visits.into_inner() <= 3, "one for each thread at most");
}

#[test]
fn each_inside_of_tasks_and_of_itself_does_not_deadlock() {
    let pool = pool(2);
    let (answer, answers) = mpsc::channel();
    for _ in 0..50 {
        pool.spawn(boxed((pool.clone(), answer.clone())), |task: Box<Task<(ThreadPool, Sender<u64>)>>| {
            let mut rows = vec![vec![1_u64; 100]; 20];
            task.0.each(&mut rows, |row| {
                task.0.each(row, |number| *number += 1);
            });
            task.1.send(rows.iter().flatten().sum()).unwrap();
        })
        .unwrap();
    }
    assert!((0..50).all(|_| answers.recv().unwrap() == 20 * 100 * 2));
}

#[test]
fn each_ends_while_every_worker_is_blocked_and_after_the_shutdown() {
    let pool = pool(2);
    let gates = [occupy(&pool), occupy(&pool)];
    let mut items = vec![0; 1000];
    // Often enough to use up what the pool can lend.
    for _ in 0..20 {
        pool.each(&mut items, |item| *item += 1);
    }
    drop(gates);
    pool.join().unwrap();
    pool.each(&mut items, |item| *item += 1);
    assert!(items.iter().all(|item| *item == 21));
}

#[test]
fn each_may_hold_a_lock_while_it_waits() {
    let pool = pool(2);
    let lock = Arc::new(Mutex::new(0));
    let (told, fates) = mpsc::channel();
    for _ in 0..10 {
        // These would deadlock if they were run by the waiting caller.
        pool.spawn(boxed((Arc::clone(&lock), fate(&told))), |task: Box<Task<(Arc<Mutex<i32>>, _)>>| {
            let (lock, fate) = Task::into_inner(*task);
            *lock.lock().unwrap() += 1;
            fulfil(fate);
        })
        .unwrap();
        let guard = lock.lock().unwrap();
        pool.each(&mut [0; 100], |item| *item += 1);
        drop(guard);
    }
    drop(told);
    assert_eq!(fates.iter().count(), 10);
}

#[test]
fn two_pools_do_not_mix_up_their_workers() {
    let (first, second) = (pool(1), pool(1));
    let (answer, answers) = mpsc::channel();
    let task = boxed((second.clone(), answer));
    first
        .spawn(task, |task: Box<Task<(ThreadPool, Sender<bool>)>>| {
            let (second, answer) = Task::into_inner(*task);
            assert!(!second.is_worker());
            let pool = second.clone();
            second.spawn(boxed((pool, answer)), |task| task.1.send(task.0.is_worker()).unwrap()).unwrap();
        })
        .unwrap();
    assert_eq!(answers.recv(), Ok(true));
}
