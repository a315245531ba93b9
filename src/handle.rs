//! Reaching a loop from other threads: [`LoopHandle`] and [`Notifier`], over one intrusive lock-free queue.
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
//! or `POLLED` and wakes it. No wake-up is superfluous: while the loop is awake, or somebody has woken it already, a post
//! or a notification costs one atomic operation and no system call. The models in `src/model/loom_tests.rs`
//! try both claims in every order.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

use crate::backends::Waker;
use crate::completion::{Action, Header, Owner};
use crate::event_loop::Loop;
use crate::fork::Home;
use crate::in_flight::Token;
use crate::op::{MultiOp, Op, OpKind, RawOp};
use crate::stateless::{Stateless, assert_captures_nothing, zst_copy};
use crate::sync::{Arc, AtomicPtr, AtomicU8, Ordering, fence};

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
pub(crate) struct Remote {
    queue: AtomicPtr<Header>,
    waker: Waker,
    /// Among others, whether the loop is asked to stop.
    home: Home,
}

/// What the loop finds in the queue.
pub(crate) struct Posted {
    /// Headers linked by `next`, oldest first.
    pub(crate) list: *mut Header,
    /// Somebody called [`LoopHandle::wake`].
    pub(crate) woken: bool,
}

impl Remote {
    pub(crate) fn new(waker: Waker, home: Home) -> Remote {
        Remote { queue: AtomicPtr::new(AWAKE), waker, home }
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

    fn wake(&self) {
        let mut word = self.queue.load(Ordering::Relaxed);
        while word != CLOSED && !self.home.is_inherited() {
            // If there is something in the queue already, it is written all the same: the loop, which has yet
            // to take it, then sees what this thread did before, a request to stop for instance.
            let next = if list_of(word).is_null() { NOTIFIED } else { word };
            match self.queue.compare_exchange_weak(word, next, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return self.reach(word),
                Err(now) => word = now,
            }
        }
    }

    /// The loop is about to block. `false`: it must not, there is something in the queue.
    pub(crate) fn prepare_sleep(this: &Arc<Remote>) -> bool {
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

/// Reaches a loop from any thread: it can be cloned and sent, and outlives the loop harmlessly.
///
/// ```
/// use oxev::{Completion, Loop, Notifier, RunMode};
///
/// let mut lp = Loop::new()?;
/// // `UntilDone` returns when nothing is in flight, and no loop knows who is about to post.
/// lp.submit(Box::new(Completion::new(Notifier::new())), |n| n.wait(), |_, _, _| ());
/// let handle = lp.handle();
/// let worker = std::thread::spawn(move || {
///     let message = Box::new(Completion::new(String::from("hello")));
///     handle.post(message, |lp, message| {
///         assert_eq!(**message, "hello");
///         lp.stop();
///     })
/// });
/// lp.run(RunMode::UntilDone)?;
/// assert!(worker.join().unwrap().is_ok());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct LoopHandle {
    remote: Arc<Remote>,
}

impl LoopHandle {
    pub(crate) fn new(remote: &Arc<Remote>) -> LoopHandle {
        LoopHandle { remote: Arc::clone(remote) }
    }

    /// Makes the loop return from its wait, or not block the next time. `run(Once)` returns; in the other
    /// modes the loop takes a step and goes on. Wake-ups that the loop has not noticed yet count as one.
    pub fn wake(&self) {
        self.remote.wake();
    }

    /// Makes `run` return as soon as the callback that is running, if any, has returned; if the loop is not
    /// running, the next `run` returns at once. See [`Loop::stop`].
    ///
    /// What is in flight stays in flight, and is dropped with the loop. To end a server without cutting its
    /// connections off, call [`Loop::finish`] when `run` has returned:
    ///
    /// ```
    /// use std::time::Duration;
    /// use oxev::{Action, Loop, Multi, RunMode, TcpListener, own};
    ///
    /// let mut lp = Loop::new()?;
    /// lp.submit_multi(
    ///     own(Multi::new(TcpListener::bind("127.0.0.1:0")?, ())),
    ///     |listener| listener.accept_multi(),
    ///     |_lp, (), stream| {
    ///         drop(stream); // a server submits a receive on it
    ///         Action::Rearm
    ///     },
    ///     // A server accepts again after other errors.
    ///     |_lp, _server, end| assert!(oxev::is_canceled(&end.unwrap_err())),
    /// );
    /// let handle = lp.handle();
    /// let other = std::thread::spawn(move || handle.stop()); // as a handler of Ctrl-C does
    /// lp.run(RunMode::UntilStop)?;
    /// let cut_off = lp.finish(Duration::from_secs(5))?;
    /// assert_eq!(cut_off, 0);
    /// other.join().unwrap();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stop(&self) {
        self.remote.request_stop();
        self.remote.wake();
    }

    /// Moves a completion to the loop's thread and runs `callback` there with it. Posts of one thread arrive
    /// in their order. Nothing is allocated, and a loop that is awake costs no system call.
    ///
    /// A post is not an operation in flight until the loop has seen it: it does not keep
    /// [`RunMode::UntilDone`](crate::RunMode::UntilDone) running.
    ///
    /// # Errors
    /// The owner comes back if the loop is gone. A loop that is dropped later drops the owner with what else
    /// it holds.
    pub fn post<P, C>(&self, owner: P, callback: C) -> Result<(), P>
    where
        P: Owner + Send,
        C: FnOnce(&mut Loop, P) + Stateless + Send,
    {
        const { assert_captures_nothing::<C>() };
        let _ = callback;
        let header: NonNull<Header> = owner.into_raw().cast();
        // SAFETY: S4: the owner gave the completion to us.
        unsafe { (*header.as_ptr()).complete = complete_post::<P, C> };
        // SAFETY: S4: as above.
        unsafe { (*header.as_ptr()).op = RawOp::immediate(0) };
        // SAFETY: S2: as above; from here on it is the loop's.
        unsafe { self.remote.push(header) }.map_err(|header| {
            // SAFETY: S4: it came from `into_raw` and was not pushed.
            unsafe { P::from_raw(header.cast()) }
        })
    }
}

impl fmt::Debug for LoopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopHandle").finish_non_exhaustive()
    }
}

unsafe fn complete_post<P, C>(lp: Option<&mut Loop>, header: NonNull<Header>, _: bool) -> Action
where
    P: Owner,
    C: FnOnce(&mut Loop, P) + Stateless,
{
    // SAFETY: S4: `post` took it from an owner of this type, and it is off every list.
    let owner = unsafe { P::from_raw(header.cast()) };
    if let Some(lp) = lp {
        // SAFETY: S9: `post` had a `C`.
        let callback = unsafe { zst_copy::<C>() };
        lp.note_moved(0);
        callback(lp, owner);
    }
    Action::Disarm
}

/// Wakes a wait on a loop from any thread: notifications that come before the wait are kept, and those that
/// come while one is pending are one (libxev's `Async`, libuv's `uv_async_t`).
///
/// Clones notify the same wait. One operation at a time can wait; a second one ends with
/// [`Cause::AlreadyWaiting`](crate::Cause::AlreadyWaiting).
///
/// ```
/// use oxev::{Completion, Loop, Notifier, RunMode};
///
/// let mut lp = Loop::new()?;
/// let notifier = Notifier::new();
/// let other = notifier.clone();
/// std::thread::spawn(move || other.notify());
/// lp.submit(Box::new(Completion::new(notifier)), |n| n.wait(), |_, _, notified| notified.unwrap());
/// lp.run(RunMode::UntilDone)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Notifier {
    shared: Arc<Shared>,
}

/// A notification has come and no wait has had it.
const PENDING: u8 = 1;
/// A wait is registered in `waiter`. With `PENDING`: the header is in the queue of the waiter's loop.
const WAITING: u8 = 2;
/// `waiter` is being written.
const LOCKED: u8 = 4;

#[repr(C)]
struct Shared {
    /// The place in the queue of the waiter's loop. It must be the first field.
    header: UnsafeCell<Header>,
    state: AtomicU8,
    waiter: UnsafeCell<Option<Waiter>>,
}

struct Waiter {
    /// Taken by the notification that pushes the header.
    remote: Option<Arc<Remote>>,
    token: Token,
}

// SAFETY: S11: `header` and `waiter` are only touched by who holds them by the protocol on `state`.
unsafe impl Send for Shared {}
// SAFETY: S11: as above.
unsafe impl Sync for Shared {}

impl Notifier {
    /// A notifier that has not been notified. This allocates, once.
    #[must_use]
    pub fn new() -> Notifier {
        let mut header = Header::new();
        header.op = RawOp::new(OpKind::Notify, -1);
        header.complete = complete_notifier;
        let header = UnsafeCell::new(header);
        let shared = Shared { header, state: AtomicU8::new(0), waiter: UnsafeCell::new(None) };
        Notifier { shared: Arc::new(shared) }
    }

    /// Completes the wait: the one that is pending, or the next, also if the loop of the one that is pending
    /// is dropped before it has seen the notification. What this thread wrote before is seen by the callback.
    /// One atomic operation if a notification is pending already.
    pub fn notify(&self) {
        // Acquire: if a wait is registered, its `waiter` is seen. Release: for the callback.
        if self.shared.state.fetch_or(PENDING, Ordering::AcqRel) == WAITING {
            // SAFETY: S11: this call has set PENDING beside WAITING.
            unsafe { send(&self.shared) };
        }
    }

    /// Completes when the notifier is notified, at once if it was before.
    pub fn wait(&self) -> Op<'_, ()> {
        let mut op = RawOp::new(OpKind::Notify, -1);
        op.as_notifier_mut().shared = Arc::as_ptr(&self.shared).cast();
        // SAFETY: S6: the shared part lives as long as `self` is borrowed.
        unsafe { Op::from_raw(op) }
    }

    /// Completes each time that the notifier is notified.
    pub fn wait_multi(&self) -> MultiOp<'_, ()> {
        MultiOp::repeat(self.wait())
    }
}

impl Default for Notifier {
    fn default() -> Notifier {
        Notifier::new()
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier").field("state", &self.shared.state).finish()
    }
}

/// Puts the header into the queue of the waiter's loop.
///
/// # Safety
/// The caller is the one who set PENDING beside WAITING (S11).
unsafe fn send(shared: &Arc<Shared>) {
    // SAFETY: S11: who sets PENDING beside WAITING has the waiter until the header is pushed.
    let waiter = unsafe { &mut *shared.waiter.get() };
    let Some(remote) = waiter.as_mut().and_then(|waiter| waiter.remote.take()) else {
        unreachable!("a registered wait has its loop")
    };
    let header = Arc::into_raw(Arc::clone(shared)).cast_mut().cast();
    // SAFETY: S8: a reference-counted pointer is not null.
    let header = unsafe { NonNull::new_unchecked(header) };
    // SAFETY: S11: PENDING beside WAITING: the header is on no list, and ours to push.
    if let Err(header) = unsafe { remote.push(header) } {
        // The loop is gone, and the wait with it: the notification is kept for the next one.
        // SAFETY: S11: the header was not pushed, so the waiter is still ours.
        unsafe { *shared.waiter.get() = None };
        shared.state.swap(PENDING, Ordering::Release);
        // SAFETY: S11: it was not pushed, so the count is ours to give back.
        drop(unsafe { Arc::from_raw(header.as_ptr().cast_const().cast::<Shared>()) });
    }
}

fn shared_of(op: &RawOp) -> ManuallyDrop<Arc<Shared>> {
    debug_assert_eq!(op.kind, OpKind::Notify);
    // SAFETY: S6: the wait borrows the notifier, whose count this stands for without giving it back.
    ManuallyDrop::new(unsafe { Arc::from_raw(op.as_notifier().shared.cast::<Shared>()) })
}

/// Registers the wait `op`, which has the name `token` on the loop of `remote`. `false`: another operation
/// waits on it.
pub(crate) fn wait(op: &RawOp, token: Token, remote: &Arc<Remote>) -> bool {
    let shared = shared_of(op);
    let mut state = shared.state.load(Ordering::Relaxed);
    loop {
        if state & !PENDING != 0 {
            return false;
        }
        let locked =
            shared.state.compare_exchange_weak(state, state | LOCKED, Ordering::Acquire, Ordering::Relaxed);
        match locked {
            Ok(_) => break,
            Err(now) => state = now,
        }
    }
    // SAFETY: S11: LOCKED: the waiter is ours.
    unsafe { *shared.waiter.get() = Some(Waiter { remote: Some(Arc::clone(remote)), token }) };
    // Release: for the notification that takes the waiter.
    let waiting = shared.state.compare_exchange(LOCKED, WAITING, Ordering::Release, Ordering::Relaxed);
    if waiting.is_err() {
        // A notification came before the wait: it takes the same way as one that comes later.
        shared.state.swap(WAITING | PENDING, Ordering::AcqRel);
        // SAFETY: S11: this call has set PENDING beside WAITING.
        unsafe { send(&shared) };
    }
    true
}

/// Takes the registered wait `op` back. `false`: it is too late, a notification is on its way to the loop.
pub(crate) fn withdraw(op: &RawOp) -> bool {
    let shared = shared_of(op);
    if shared.state.compare_exchange(WAITING, LOCKED, Ordering::Acquire, Ordering::Relaxed).is_err() {
        return false;
    }
    // SAFETY: S11: LOCKED: the waiter is ours.
    unsafe { *shared.waiter.get() = None };
    // A notification that came meanwhile stays pending for the next wait.
    shared.state.fetch_and(!LOCKED, Ordering::Release);
    true
}

/// The header of a notifier has come out of the queue: which wait is over? A wait that is not in flight any
/// more went with its loop, and the notification is kept for the next one.
///
/// # Safety
/// `header` was pushed by [`Notifier::notify`] and is off every list.
pub(crate) unsafe fn deliver(header: NonNull<Header>, is_in_flight: impl FnOnce(Token) -> bool) -> Token {
    // SAFETY: S11: `notify` put a count of the shared part into the queue; the header is its first field.
    let shared = unsafe { Arc::from_raw(header.as_ptr().cast_const().cast::<Shared>()) };
    // SAFETY: S11: the header came through the queue, so the waiter is the loop's.
    let waiter = unsafe { (*shared.waiter.get()).take() };
    let token = waiter.map_or(Token::NONE, |waiter| waiter.token);
    let left = if is_in_flight(token) { 0 } else { PENDING };
    shared.state.swap(left, Ordering::AcqRel);
    token
}

/// Runs when the header had to wait on the ready list: for room, or because the loop is dropped.
unsafe fn complete_notifier(lp: Option<&mut Loop>, header: NonNull<Header>, _: bool) -> Action {
    match lp {
        // SAFETY: S2: the header came off the ready list.
        Some(lp) => unsafe { lp.accept_notifier(header) },
        None => {
            // SAFETY: S11: it came through the queue.
            unsafe { deliver(header, |_| false) };
        }
    }
    Action::Disarm
}
