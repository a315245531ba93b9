//! A worker's ring of tasks: one owner pushes at the tail and pops at the head, thieves take from the head.
//!
//! The scheme is that of the run queues of Go and tokio, without their slot for the newest task: the head is
//! moved by compare-and-swap, by the owner as well, and a slot's value counts only if that succeeds.
#![allow(unsafe_code)]

use std::{
    array,
    ptr::{self, NonNull},
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
};

use super::{
    injector::Found,
    sync::{AtomicPtr, AtomicUsize, read},
    task::RawTask,
};

/// How many tasks fit. A power of two, so that positions may wrap round.
pub(super) const CAPACITY: usize = if cfg!(loom) { 4 } else { 256 };
const _: () = assert!(CAPACITY.is_power_of_two());

/// See the module's text.
pub(super) struct Ring {
    /// Position of the oldest task. Positions count up and wrap; only their distances mean
    /// something. They are a whole word so that a thief cannot sleep through one full turn of the counter and
    /// take it for no change.
    head: AtomicUsize,
    /// Position behind the newest task. Written by the owner only.
    tail: AtomicUsize,
    /// Atomic because a thief may read a slot while the owner writes it; the thief then fails to move the
    /// head.
    slots: [AtomicPtr<RawTask>; CAPACITY],
}

impl Ring {
    pub(super) fn new() -> Ring {
        Ring::starting_at(0)
    }

    fn starting_at(position: usize) -> Ring {
        Ring {
            head: AtomicUsize::new(position),
            tail: AtomicUsize::new(position),
            slots: array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
        }
    }

    #[inline]
    fn slot(&self, position: usize) -> &AtomicPtr<RawTask> {
        &self.slots[position % CAPACITY]
    }

    /// Whether anything can be seen in it, on any thread.
    #[inline]
    pub(super) fn has_tasks(&self) -> bool {
        let head = self.head.load(Acquire);
        read!(self.tail) != head
    }

    /// How many tasks are in it, for its owner: thieves may make it fewer at any time.
    pub(super) fn len(&self) -> usize {
        self.tail.load(Relaxed).wrapping_sub(self.head.load(Relaxed))
    }

    /// Adds a task. False: the ring is full and the task is still the caller's.
    ///
    /// # Safety
    /// The caller is the ring's owner (P4) and holds the task (P1); it gives it up if this returns true.
    #[inline]
    pub(super) unsafe fn push(&self, task: NonNull<RawTask>) -> bool {
        let tail = self.tail.load(Relaxed);
        // Acquire: a thief that moved the head has read the slots that are about to be written.
        let len = tail.wrapping_sub(self.head.load(Acquire));
        debug_assert!(len <= CAPACITY);
        if len == CAPACITY {
            return false;
        }
        self.slot(tail).store(task.as_ptr(), Relaxed);
        self.publish(tail.wrapping_add(1));
        true
    }

    /// Adds tasks of a chain, oldest first, while there is room and at most `count_max`. Returns the rest of
    /// the chain and how many were added.
    ///
    /// # Safety
    /// The caller is the ring's owner (P4) and holds the chain (P2), which ends in a null link.
    pub(super) unsafe fn push_chain(
        &self,
        mut chain: *mut RawTask,
        count_max: usize,
    ) -> (*mut RawTask, usize) {
        let tail = self.tail.load(Relaxed);
        let len = tail.wrapping_sub(self.head.load(Acquire));
        debug_assert!(len <= CAPACITY);
        let count_max = count_max.min(CAPACITY - len);
        let mut count = 0;
        while count < count_max && !chain.is_null() {
            self.slot(tail.wrapping_add(count)).store(chain, Relaxed);
            // SAFETY: P2: by this function's contract; the task is published only below.
            chain = unsafe { (*chain).next };
            count += 1;
        }
        if count > 0 {
            self.publish(tail.wrapping_add(count));
        }
        (chain, count)
    }

    /// SeqCst, and a read-modify-write where a store would do: the pusher reads the pool's state word next,
    /// and either it sees there that a worker has begun to search, or the searcher sees this.
    #[inline]
    fn publish(&self, tail: usize) {
        self.tail.swap(tail, SeqCst);
    }

    /// Takes the oldest task.
    ///
    /// # Safety
    /// The caller is the ring's owner (P4).
    #[inline]
    pub(super) unsafe fn pop(&self) -> Option<NonNull<RawTask>> {
        let tail = self.tail.load(Relaxed);
        let mut head = self.head.load(Relaxed);
        loop {
            if head == tail {
                return None;
            }
            let task = self.slot(head).load(Relaxed);
            // Release: a thief that sees this head also sees a tail that is not behind it.
            match self.head.compare_exchange_weak(head, head.wrapping_add(1), Release, Relaxed) {
                Ok(_) => return NonNull::new(task),
                Err(seen) => head = seen,
            }
        }
    }

    /// Moves the older half of this ring into `ring`, which is empty, except one task that is returned.
    ///
    /// # Safety
    /// The caller is the owner of `ring` (P4).
    pub(super) unsafe fn steal_into(&self, ring: &Ring) -> Option<Found> {
        let own_tail = ring.tail.load(Relaxed);
        debug_assert_eq!(ring.head.load(Relaxed), own_tail, "only who has nothing steals");
        loop {
            // The head first: a tail that is read later cannot be behind it.
            let head = self.head.load(Acquire);
            let len = read!(self.tail).wrapping_sub(head);
            if len == 0 {
                return None;
            }
            if len > CAPACITY {
                // The head moved on before the tail was read.
                continue;
            }
            let count = len - len / 2;
            let oldest = self.slot(head).load(Relaxed);
            for i in 1..count {
                let task = self.slot(head.wrapping_add(i)).load(Relaxed);
                // Behind our tail, so no thief takes it for a task before `publish`.
                ring.slot(own_tail.wrapping_add(i - 1)).store(task, Relaxed);
            }
            // Release: the owner overwrites these slots only when it sees that they have been read. Success
            // means that no slot was overwritten meanwhile, because for that the head has to move first.
            let next = head.wrapping_add(count);
            if self.head.compare_exchange_weak(head, next, AcqRel, Relaxed).is_ok() {
                if count > 1 {
                    ring.publish(own_tail.wrapping_add(count - 1));
                }
                let more = count > 1 || len > count;
                return NonNull::new(oldest).map(|task| Found { task, more });
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::thread_pool::task::Disposition;

    fn no_function(_: NonNull<RawTask>, _: Disposition) {}

    fn headers(count: usize) -> Vec<RawTask> {
        (0..count).map(|_| RawTask::new(no_function)).collect()
    }

    /// The ring never looks behind the pointers here, except where chains are pushed.
    fn at(headers: &[RawTask], index: usize) -> NonNull<RawTask> {
        NonNull::from(&headers[index])
    }

    fn push(ring: &Ring, task: NonNull<RawTask>) -> bool {
        // SAFETY: P4: the tests that use this have one thread; the task is only a pointer here.
        unsafe { ring.push(task) }
    }

    fn pop(ring: &Ring) -> Option<NonNull<RawTask>> {
        // SAFETY: P4: as above.
        unsafe { ring.pop() }
    }

    /// At the ends of the counter's range as well.
    const STARTS: [usize; 3] = [0, usize::MAX - 100, u32::MAX as usize - 100];

    #[test]
    fn a_ring_holds_its_capacity_and_is_first_in_first_out() {
        let headers = headers(CAPACITY + 1);
        for start in STARTS {
            let ring = Ring::starting_at(start);
            for _ in 0..3 {
                assert!((0..CAPACITY).all(|i| push(&ring, at(&headers, i))));
                assert!(!push(&ring, at(&headers, CAPACITY)));
                assert_eq!(ring.len(), CAPACITY);
                assert!((0..CAPACITY).all(|i| pop(&ring) == Some(at(&headers, i))));
                assert_eq!(pop(&ring), None);
                assert!(!ring.has_tasks());
            }
        }
    }

    #[test]
    fn a_thief_gets_the_older_half_rounded_up_and_says_whether_there_is_more() {
        let headers = headers(CAPACITY);
        for start in STARTS {
            for len in [0, 1, 2, 3, 7, CAPACITY] {
                let (victim, own) = (Ring::starting_at(start), Ring::starting_at(start ^ 5));
                assert!((0..len).all(|i| push(&victim, at(&headers, i))));
                // SAFETY: P4: one thread.
                let Some(found) = (unsafe { victim.steal_into(&own) }) else {
                    assert_eq!(len, 0);
                    continue;
                };
                assert_eq!(found.task, at(&headers, 0));
                assert_eq!(found.more, len > 1);
                let stolen = len.div_ceil(2);
                assert_eq!((own.len(), victim.len()), (stolen - 1, len - stolen));
                assert!((1..stolen).all(|i| pop(&own) == Some(at(&headers, i))));
                assert!((stolen..len).all(|i| pop(&victim) == Some(at(&headers, i))));
            }
        }
    }

    #[test]
    fn a_chain_is_cut_where_the_ring_is_full_or_at_the_limit() {
        let mut headers = headers(CAPACITY + 10);
        let base = headers.as_mut_ptr();
        // SAFETY: in bounds.
        let task = |index| unsafe { base.add(index) };
        for index in 0..CAPACITY + 9 {
            // SAFETY: P2: the tasks are this test's.
            unsafe { (*task(index)).next = task(index + 1) };
        }
        for start in STARTS {
            let ring = Ring::starting_at(start);
            // SAFETY: P4: one thread; P2: the chain ends in the null link of the last header.
            assert_eq!(unsafe { ring.push_chain(task(0), 3) }, (task(3), 3));
            // SAFETY: as above.
            let rest = unsafe { ring.push_chain(task(3), usize::MAX) };
            assert_eq!(rest, (task(CAPACITY), CAPACITY - 3));
            // SAFETY: as above.
            let rest = unsafe { ring.push_chain(task(CAPACITY), 1) };
            assert_eq!(rest, (task(CAPACITY), 0));
            assert!((0..CAPACITY).all(|i| pop(&ring) == NonNull::new(task(i))));
            // SAFETY: as above.
            let rest = unsafe { ring.push_chain(task(CAPACITY), usize::MAX) };
            assert_eq!(rest, (ptr::null_mut(), 10));
        }
    }
}
