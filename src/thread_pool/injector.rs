//! A queue that any thread may push to, in batches, and from which one thread at a time refills its ring.
//!
//! Two parts. The *inbox* is a lock-free stack of links (Treiber, 1986): pushing a batch of any length is one
//! successful compare-and-swap, and taking everything is another, so the usual trouble of popping single
//! nodes (ABA, reading a link that was freed) does not arise. The *backlog* is what was taken from the inbox,
//! turned round so that it is first in, first out; it belongs to the thread that holds the claim flag. The flag is
//! tried and never waited for.
//!
//! The pool has one for submissions from outside, which can be closed, and one for each worker that takes
//! what does not fit into its ring.
#![allow(unsafe_code)]

use std::{
    ptr::{self, NonNull},
    sync::atomic::Ordering::{Acquire, Relaxed, SeqCst},
};

use super::{
    buffer::Ring,
    sync::{AtomicBool, AtomicPtr, CachePadded, read},
    task::{RawBatch, RawTask},
};

/// Set in the inbox's word once it is closed. Headers are aligned to a word, so their lowest bit is free.
const CLOSED: usize = 1;
const _: () = assert!(align_of::<RawTask>() > CLOSED);

fn is_closed(word: *mut RawTask) -> bool {
    word.addr() & CLOSED != 0
}

fn without_flag(word: *mut RawTask) -> *mut RawTask {
    word.map_addr(|addr| addr & !CLOSED)
}

/// A task to run now, and whether there is more work that another worker should come for.
pub(super) struct Found {
    pub(super) task: NonNull<RawTask>,
    pub(super) more: bool,
}

/// See the module's text.
pub(super) struct Injector {
    inbox: CachePadded<AtomicPtr<RawTask>>,
    consumer: CachePadded<Consumer>,
}

struct Consumer {
    claimed: AtomicBool,
    /// Oldest first. Atomic only so that it can be looked at without the claim.
    backlog: AtomicPtr<RawTask>,
}

impl Injector {
    pub(super) fn new() -> Injector {
        Injector {
            inbox: CachePadded(AtomicPtr::new(ptr::null_mut())),
            consumer: CachePadded(Consumer {
                claimed: AtomicBool::new(false),
                backlog: AtomicPtr::new(ptr::null_mut()),
            }),
        }
    }

    /// Adds a batch that is not empty. False: the queue is closed, and the tasks are still the caller's.
    ///
    /// # Safety
    /// The caller holds the batch's tasks (P1), and gives them up if this returns true.
    #[inline]
    pub(super) unsafe fn push(&self, batch: &RawBatch) -> bool {
        let mut top = self.inbox.load(Relaxed);
        loop {
            if is_closed(top) {
                return false;
            }
            // SAFETY: P2: the batch is the caller's until the exchange below succeeds.
            unsafe { (*batch.oldest()).next = top };
            // SeqCst: the pusher reads the pool's state word next, and one of the two sides has to see the
            // other.
            match self.inbox.compare_exchange_weak(top, batch.newest(), SeqCst, Relaxed) {
                Ok(_) => return true,
                Err(seen) => top = seen,
            }
        }
    }

    /// Refuses every push from now on. What is inside can still be taken.
    pub(super) fn close(&self) {
        let mut top = self.inbox.load(Relaxed);
        while !is_closed(top) {
            let closed = top.map_addr(|addr| addr | CLOSED);
            match self.inbox.compare_exchange_weak(top, closed, SeqCst, Relaxed) {
                Ok(_) => return,
                Err(seen) => top = seen,
            }
        }
    }

    /// Whether anything can be seen in it. Sees every push that came earlier in the order of SeqCst
    /// operations, unless another thread has taken it.
    #[inline]
    pub(super) fn has_tasks(&self) -> bool {
        !without_flag(read!(self.inbox)).is_null() || !read!(self.consumer.backlog).is_null()
    }

    /// Takes the oldest task, and moves up to `extra_max` more into `ring`.
    ///
    /// Returns nothing if the queue is empty, or if another thread holds the claim: that thread looks again
    /// after it has let go, and calls for help if something is left.
    ///
    /// # Safety
    /// The caller is the owner of `ring` (P4).
    pub(super) unsafe fn refill(&self, ring: &Ring, extra_max: usize) -> Option<Found> {
        while self.has_tasks() {
            if self.consumer.claimed.compare_exchange(false, true, SeqCst, SeqCst).is_err() {
                return None;
            }
            let mut oldest = self.consumer.backlog.load(Relaxed);
            if oldest.is_null() {
                oldest = self.take_inbox();
            }
            let mut pushed = 0;
            if let Some(task) = NonNull::new(oldest) {
                // SAFETY: P2: the backlog is ours while we hold the claim.
                let rest = unsafe { (*task.as_ptr()).next };
                // SAFETY: P2 for the chain, and P4 by this function's contract.
                let (rest, count) = unsafe { ring.push_chain(rest, extra_max) };
                pushed = count;
                self.consumer.backlog.store(rest, Relaxed);
            }
            // Letting go comes before looking again, both SeqCst: a thread that failed to get the claim before that
            // relies on the look after it.
            self.consumer.claimed.swap(false, SeqCst);
            if let Some(task) = NonNull::new(oldest) {
                let more = pushed > 0 || self.has_tasks();
                return Some(Found { task, more });
            }
        }
        None
    }

    /// Empties the inbox and returns what was in it, oldest first. Only for the holder of the claim.
    fn take_inbox(&self) -> *mut RawTask {
        let mut top = self.inbox.load(Relaxed);
        loop {
            if without_flag(top).is_null() {
                return ptr::null_mut();
            }
            let emptied = ptr::null_mut::<RawTask>().map_addr(|_| top.addr() & CLOSED);
            match self.inbox.compare_exchange_weak(top, emptied, Acquire, Relaxed) {
                Ok(_) => break,
                Err(seen) => top = seen,
            }
        }
        let mut newest = without_flag(top);
        let mut turned = ptr::null_mut();
        while !newest.is_null() {
            // SAFETY: P2: the exchange made the whole chain ours.
            let next = unsafe { (*newest).next };
            // SAFETY: P2.
            unsafe { (*newest).next = turned };
            turned = newest;
            newest = next;
        }
        turned
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::thread_pool::task::Disposition;

    fn no_function(_: NonNull<RawTask>, _: Disposition) {}

    /// Tasks in one block of memory; the tests know them by their index.
    struct Tasks {
        base: *mut RawTask,
        _memory: Vec<RawTask>,
    }

    impl Tasks {
        fn new(count: usize) -> Tasks {
            let mut memory: Vec<RawTask> = (0..count).map(|_| RawTask::new(no_function)).collect();
            Tasks { base: memory.as_mut_ptr(), _memory: memory }
        }

        fn batch(&self, indices: std::ops::Range<usize>) -> RawBatch {
            let mut batch = RawBatch::new();
            for index in indices {
                // SAFETY: in bounds.
                let task = NonNull::new(unsafe { self.base.add(index) }).unwrap();
                // SAFETY: P1: the tests push each task once.
                unsafe { batch.push(task) };
            }
            batch
        }

        fn index(&self, task: NonNull<RawTask>) -> usize {
            (task.addr().get() - self.base.addr()) / size_of::<RawTask>()
        }
    }

    fn push(injector: &Injector, batch: RawBatch) -> bool {
        // SAFETY: P1: the tests push each task once.
        unsafe { injector.push(&batch) }
    }

    fn refill(injector: &Injector, ring: &Ring, extra_max: usize) -> Option<Found> {
        // SAFETY: P4: the tests have one thread.
        unsafe { injector.refill(ring, extra_max) }
    }

    fn pop(ring: &Ring) -> Option<NonNull<RawTask>> {
        // SAFETY: P4: as above.
        unsafe { ring.pop() }
    }

    #[test]
    fn batches_come_out_first_in_first_out_through_rings_of_any_room() {
        for extra_max in [0, 1, 10, usize::MAX] {
            let tasks = Tasks::new(1000);
            let (injector, ring) = (Injector::new(), Ring::new());
            assert!(push(&injector, tasks.batch(0..1)));
            assert!(push(&injector, tasks.batch(1..400)));
            let mut taken = Vec::new();
            while let Some(found) = refill(&injector, &ring, extra_max) {
                if taken.is_empty() {
                    // Behind what is in the backlog by now.
                    assert!(push(&injector, tasks.batch(400..1000)));
                }
                taken.push(tasks.index(found.task));
                taken.extend(std::iter::from_fn(|| pop(&ring)).map(|task| tasks.index(task)));
            }
            assert!(taken.into_iter().eq(0..1000));
            assert!(!injector.has_tasks());
        }
    }

    #[test]
    fn a_closed_injector_refuses_pushes_and_still_gives_what_it_has() {
        let tasks = Tasks::new(3);
        let (injector, ring) = (Injector::new(), Ring::new());
        assert!(push(&injector, tasks.batch(0..2)));
        injector.close();
        injector.close();
        assert!(!push(&injector, tasks.batch(2..3)));
        assert!(injector.has_tasks());
        assert_eq!(tasks.index(refill(&injector, &ring, 0).unwrap().task), 0);
        assert!(!push(&injector, tasks.batch(2..3)));
        assert_eq!(tasks.index(refill(&injector, &ring, 0).unwrap().task), 1);
        assert!(refill(&injector, &ring, 0).is_none());
        assert!(!push(&injector, tasks.batch(2..3)));
    }

    #[test]
    fn more_is_said_exactly_when_something_is_left() {
        let tasks = Tasks::new(3);
        let (injector, ring) = (Injector::new(), Ring::new());
        assert!(push(&injector, tasks.batch(0..3)));
        let more: Vec<bool> = (0..3).map(|_| refill(&injector, &ring, 0).unwrap().more).collect();
        assert_eq!(more, [true, true, false]);
    }
}
