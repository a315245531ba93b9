//! Parallel work on borrowed data: the caller works and waits, so what it lends may be on its stack.
//!
//! A caller never waits for something that has not begun, and never runs tasks of others while it waits.
//! Therefore it can be called from anywhere, from tasks and from itself as well, and the closure may hold
//! locks. What it sends to the queues are *helpers*: a fixed number of tasks that the pool owns, each with a
//! state of its own. A helper that is still queued when the work is done is abandoned there; one that runs is
//! waited for. If no helper is free, all workers have enough to do already, and the caller does the work
//! alone.
#![allow(unsafe_code)]

use std::{
    any::Any,
    cell::UnsafeCell,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr::{self, NonNull},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

use super::{
    event::Event,
    shared::Shared,
    sync::{AtomicPtr, AtomicU32, AtomicUsize},
    task::{Disposition, RawBatch, RawTask},
    worker,
};

/// How many helpers there are for each thread of the pool: enough for a few callers at once.
const HELPERS_PER_THREAD: usize = 4;
/// Into how many pieces the work is cut for each thread that takes part: the larger, the better they end
/// together.
const CHUNKS_PER_THREAD: usize = 8;

/// No thread uses the helper.
const FREE: u32 = 0;
/// A caller has it, and it waits in a queue (or is about to be put there).
const QUEUED: u32 = 1;
/// A worker runs it for its caller, or has notified `done`. Only the caller leaves this state.
const RUNNING: u32 = 2;
/// It waits in a queue, but its caller is gone. The worker that comes to it frees it.
const ABANDONED: u32 = 3;

/// No helper, in a list of them.
const NONE: usize = usize::MAX;

/// A task of the pool's own that can be lent to a caller.
#[repr(C)]
struct Helper {
    /// First, so that a pointer to the header is a pointer to the helper.
    header: UnsafeCell<RawTask>,
    state: AtomicU32,
    /// What to work on; valid in the state RUNNING until `done` is notified.
    job: AtomicPtr<Job<'static>>,
    /// The next helper of the same caller.
    next: AtomicUsize,
    /// In here, not in the job: the job is gone as soon as the caller has seen it.
    done: Event,
}

// SAFETY: P9: the header is used by the pool's queues only, under P1; everything else is atomic.
unsafe impl Sync for Helper {}
// SAFETY: as for `Sync`.
unsafe impl Send for Helper {}

/// The helpers of a pool.
pub(super) struct Helpers {
    helpers: Box<[Helper]>,
    /// Where to begin to look for a free one.
    hint: AtomicUsize,
}

impl Helpers {
    pub(super) fn new(max_threads: usize) -> Helpers {
        let helper = |_| Helper {
            header: UnsafeCell::new(RawTask::new(run_helper)),
            state: AtomicU32::new(FREE),
            job: AtomicPtr::new(ptr::null_mut()),
            next: AtomicUsize::new(NONE),
            done: Event::new(),
        };
        Helpers {
            helpers: (0..max_threads * HELPERS_PER_THREAD).map(helper).collect(),
            hint: AtomicUsize::new(0),
        }
    }

    /// Lends up to `count_max` helpers to a job. Returns them as a list and as a batch to be scheduled.
    fn lend(&self, job: *const Job<'_>, count_max: usize) -> (usize, RawBatch) {
        let (mut first, mut batch) = (NONE, RawBatch::new());
        let hint = self.hint.fetch_add(1, Relaxed);
        for offset in 0..self.helpers.len() {
            if batch.len() == count_max {
                break;
            }
            let index = hint.wrapping_add(offset) % self.helpers.len();
            let helper = &self.helpers[index];
            if helper.state.compare_exchange(FREE, QUEUED, Acquire, Relaxed).is_err() {
                continue;
            }
            helper.job.store(job.cast_mut().cast(), Relaxed);
            helper.next.store(first, Relaxed);
            first = index;
            // SAFETY: in bounds of the slice.
            let helper = unsafe { self.helpers.as_ptr().add(index) };
            if let Some(task) = NonNull::new(helper.cast_mut().cast::<RawTask>()) {
                // SAFETY: P9: the state was FREE, so no queue holds the header, and it is ours until the
                // helper runs.
                unsafe { batch.push(task) };
            }
        }
        (first, batch)
    }

    /// Calls `f` for each helper of a list.
    fn for_each_of(&self, mut index: usize, mut f: impl FnMut(&Helper)) {
        while index != NONE {
            let helper = &self.helpers[index];
            // Before `f`, which may free it for the next caller.
            index = helper.next.load(Relaxed);
            f(helper);
        }
    }
}

/// The function of every helper.
unsafe fn run_helper(task: NonNull<RawTask>, disposition: Disposition) {
    // SAFETY: P9: `lend` made the pointer from one to a helper, which lives as long as the pool's threads.
    let helper = unsafe { task.cast::<Helper>().as_ref() };
    if helper.state.compare_exchange(QUEUED, RUNNING, Acquire, Relaxed).is_err() {
        // The task has left the queue, so the next caller may schedule it.
        helper.state.store(FREE, Release);
        return;
    }
    if disposition == Disposition::Run {
        // SAFETY: P10: its caller does not return before it has seen `done`.
        let job = unsafe { &*helper.job.load(Relaxed) };
        job.work();
    }
    helper.done.notify();
}

/// Work on the indices of a slice, cut into chunks.
struct Job<'a> {
    /// The first index that no thread has claimed.
    cursor: AtomicUsize,
    len: usize,
    chunk_len: usize,
    work: &'a (dyn Fn(Range<usize>) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Job<'_> {
    fn claim(&self) -> Option<Range<usize>> {
        let end = |start| start + self.chunk_len.min(self.len - start);
        let next = |start| (start < self.len).then(|| end(start));
        self.cursor.fetch_update(Relaxed, Relaxed, next).ok().map(|start| start..end(start))
    }

    /// Works until everything is claimed. Does not panic.
    fn work(&self) {
        while let Some(range) = self.claim() {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.work)(range))) {
                // No thread begins another chunk.
                self.cursor.store(self.len, Relaxed);
                let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                if first.is_none() {
                    *first = Some(panic);
                } else {
                    drop(first);
                    worker::drop_payload(panic);
                }
            }
        }
    }
}

/// Takes helpers back when it is dropped: after that no thread uses the job.
struct Lent<'a> {
    helpers: &'a Helpers,
    first: usize,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.helpers.for_each_of(self.first, |helper| {
            let left = helper.state.compare_exchange(QUEUED, ABANDONED, AcqRel, Relaxed);
            if left.is_err() {
                helper.done.wait();
                helper.state.store(FREE, Release);
            }
        });
    }
}

/// Calls `work` with ranges that together are `0..len`, on this thread and on workers, and returns when all
/// calls have returned. A panic in one of them is resumed here; then some ranges may be missing.
fn run(shared: &Arc<Shared>, len: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
    let is_worker = worker::current(shared).is_some();
    let others = shared.settings().max_threads - usize::from(is_worker);
    let chunk_len = (len / (others + 1).saturating_mul(CHUNKS_PER_THREAD)).max(1);
    let job = Job { cursor: AtomicUsize::new(0), len, chunk_len, work, panic: Mutex::new(None) };
    let helpers = shared.helpers();
    let count_max = others.min(len.saturating_sub(1));
    let (first, batch) = helpers.lend(&raw const job, count_max);
    let lent = Lent { helpers, first };
    // SAFETY: P9: `lend` gave us these tasks.
    if unsafe { shared.schedule_batch(&batch) }.is_err() {
        // Shut down, or no thread to be had: the caller does it alone, and the helpers never left.
        helpers.for_each_of(first, |helper| helper.state.store(FREE, Release));
        std::mem::forget(lent);
        job.work();
    } else {
        job.work();
        drop(lent);
    }
    let panic = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
}

/// The beginning of a slice that several threads work on, each at other indices.
struct Items<T>(*mut T);

// SAFETY: P11: each index is used by one thread, which gets the item as if it had been sent there.
unsafe impl<T: Send> Sync for Items<T> {}

impl<T> Items<T> {
    /// # Safety
    /// `index` is in bounds, and no other thread uses this item while the reference lives (P11).
    #[expect(clippy::mut_from_ref, reason = "a different item for each index")]
    unsafe fn item(&self, index: usize) -> &mut T {
        // SAFETY: in bounds by this function's contract.
        let item = unsafe { self.0.add(index) };
        // SAFETY: P11 by this function's contract.
        unsafe { &mut *item }
    }
}

/// See `ThreadPool::each`.
pub(super) fn each<T: Send>(shared: &Arc<Shared>, items: &mut [T], f: impl Fn(&mut T) + Sync) {
    let len = items.len();
    let items = Items(items.as_mut_ptr());
    run(shared, len, &|range| {
        for index in range {
            // SAFETY: P11: `run` gives each index once, and the slice is borrowed until it returns.
            f(unsafe { items.item(index) });
        }
    });
}

/// See `ThreadPool::map`.
pub(super) fn map<T: Sync, U: Send>(
    shared: &Arc<Shared>,
    inputs: &[T],
    outputs: &mut [U],
    f: impl Fn(&T) -> U + Sync,
) {
    assert_eq!(inputs.len(), outputs.len(), "there is one output for each input");
    let outputs = Items(outputs.as_mut_ptr());
    run(shared, inputs.len(), &|range| {
        for index in range {
            let output = f(&inputs[index]);
            // SAFETY: P11: as in `each`.
            *unsafe { outputs.item(index) } = output;
        }
    });
}
