//! The inbox of a loop: what other threads reach it by, one intrusive lock-free queue.
//!
//! The queue is one atomic word. It is `AWAKE`, `SLEEPING`, `POLLED`, `NOTIFIED` or `CLOSED`, or the newest of
//! a list of headers (a Treiber stack; the loop takes all of it at once and turns it round):
//!
//! | who | from | to | and then |
//! |---|---|---|---|
//! | a thread that posts | anything but `CLOSED` | its header, before the list there was | wakes the loop if it was `SLEEPING`, signals its descriptor if it was `POLLED` |
//! | a thread that wakes | `AWAKE`, `SLEEPING`, `POLLED` | `NOTIFIED` | as above |
//! | | `NOTIFIED`, a list | the same | |
//! | the loop, about to block | `AWAKE` | `SLEEPING` | blocks; from anything else it does not block |
//! | the loop, about to leave it to a program that polls its descriptor | `AWAKE` | `POLLED` | from anything but those two it signals the descriptor itself |
//! | the loop, in each step | anything | `AWAKE` | runs what was in the list |
//! | the loop, dropped | anything | `CLOSED` | drops what was in the list |
//!
//! No wake-up is lost: every change is a read-modify-write of the same word, so a post comes either before
//! the loop went to sleep, and the loop sees it and does not block, or after, and the poster sees `SLEEPING`
//! or `POLLED` and wakes it. No wake-up is superfluous: while the loop is awake, or another thread has woken it already, a post
//! or a notification costs one atomic operation and no system call. The models in `src/model/loom_tests.rs`
//! try both claims in every order.

#![allow(unsafe_code)]

use std::ptr::{self, NonNull};

use crate::completion::Header;
use crate::fork::Home;
use crate::sync::{Arc, AtomicPtr, Ordering, fence};
use crate::waker::Waker;

const AWAKE: *mut Header = ptr::null_mut();
const SLEEPING: *mut Header = ptr::without_provenance_mut(1);
const POLLED: *mut Header = ptr::without_provenance_mut(2);
const NOTIFIED: *mut Header = ptr::without_provenance_mut(3);
const CLOSED: *mut Header = ptr::without_provenance_mut(4);

/// The list in the queue's word, if there is one.
fn list_of(word: *mut Header) -> *mut Header {
    if word.addr() <= CLOSED.addr() { ptr::null_mut() } else { word }
}

/// What a loop shares with its handles.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: AtomicPtr<Header>,
    waker: Waker,
    /// Among others, whether the loop is asked to stop.
    home: Home,
}

/// What the loop finds in the queue.
pub(crate) struct Posted {
    /// Headers linked by `next`, oldest first.
    pub(crate) list: *mut Header,
    /// A thread called [`LoopHandle::wake`].
    pub(crate) woken: bool,
}

impl Inbox {
    pub(crate) fn new(waker: Waker, home: Home) -> Inbox {
        Inbox { queue: AtomicPtr::new(AWAKE), waker, home }
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Makes the descriptor readable that a program polls.
    pub(crate) fn signal(&self) {
        self.waker.signal();
    }

    /// Adds a header. `Err` gives it back: the loop is gone.
    ///
    /// # Safety
    /// `header` is the caller's and becomes the loop's (S2).
    pub(crate) unsafe fn push(&self, header: NonNull<Header>) -> Result<(), NonNull<Header>> {
        let mut word = self.queue.load(Ordering::Relaxed);
        loop {
            // In a forked child there is no loop.
            if word == CLOSED || self.home.is_inherited() {
                return Err(header);
            }
            // SAFETY: S2: the header is ours until it is published by the exchange.
            unsafe { (*header.as_ptr()).next = list_of(word) };
            // Release: the loop sees the header's content. The stack's earlier headers are in the release
            // sequence.
            match self.queue.compare_exchange_weak(
                word,
                header.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        self.reach(word);
        Ok(())
    }

    /// Tells the loop that something has come into the queue, whose word was this before.
    #[inline]
    fn reach(&self, word: *mut Header) {
        if word == SLEEPING {
            self.waker.wake();
        } else if word == POLLED {
            self.waker.signal();
        }
    }

    pub(crate) fn wake(&self) {
        let mut word = self.queue.load(Ordering::Relaxed);
        while word != CLOSED && !self.home.is_inherited() {
            // If there is something in the queue already, it is written nevertheless: the loop, which has yet
            // to take it, then sees what this thread did before, a request to stop for instance.
            let next = if list_of(word).is_null() { NOTIFIED } else { word };
            match self.queue.compare_exchange_weak(word, next, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return self.reach(word),
                Err(now) => word = now,
            }
        }
    }

    /// The loop is about to block. `false`: it must not, there is something in the queue.
    pub(crate) fn prepare_sleep(this: &Arc<Inbox>) -> bool {
        if Arc::strong_count(this) == 1 {
            // No other thread can reach the loop. What the last one did before it let go of its handle is
            // seen: the count went down with Release.
            fence(Ordering::Acquire);
            return this.queue.load(Ordering::Relaxed) == AWAKE;
        }
        this.queue.compare_exchange(AWAKE, SLEEPING, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// A program is about to wait for the loop's descriptor: it must show what comes into the queue, or is
    /// there already.
    pub(crate) fn prepare_poll(&self) {
        let polled = self.queue.compare_exchange(AWAKE, POLLED, Ordering::Relaxed, Ordering::Relaxed);
        if polled.is_err_and(|word| word != POLLED) {
            self.waker.signal();
        }
    }

    /// Takes all that is in the queue, in the order in which it came. The loop is awake afterwards.
    pub(crate) fn take(&self) -> Posted {
        if self.queue.load(Ordering::Relaxed) == AWAKE {
            return Posted { list: ptr::null_mut(), woken: false };
        }
        let word = self.queue.swap(AWAKE, Ordering::Acquire);
        // SAFETY: S2: the exchange made the list ours.
        Posted { list: unsafe { reverse(list_of(word)) }, woken: word == NOTIFIED }
    }

    /// Takes all that is in the queue; nothing comes after this.
    pub(crate) fn close(&self) -> *mut Header {
        let word = self.queue.swap(CLOSED, Ordering::Acquire);
        // SAFETY: S2: the exchange made the list ours.
        unsafe { reverse(list_of(word)) }
    }

    pub(crate) fn request_stop(&self) {
        self.home.words().go.store(0, Ordering::Release);
    }

    pub(crate) fn stop_requested(&self) -> bool {
        self.home.words().is_to_stop()
    }

    pub(crate) fn take_stop_request(&self) {
        self.home.words().go.swap(1, Ordering::Acquire);
    }
}

/// # Safety
/// `list` is a list of headers that belongs to the caller.
unsafe fn reverse(mut list: *mut Header) -> *mut Header {
    let mut reversed = ptr::null_mut();
    while let Some(header) = NonNull::new(list) {
        // SAFETY: S2: a header of the caller's list.
        let next = unsafe { &raw mut (*header.as_ptr()).next };
        // SAFETY: S2: as above.
        list = unsafe { next.replace(reversed) };
        reversed = header.as_ptr();
    }
    reversed
}
