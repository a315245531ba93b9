//! Waking one wait of a loop from other threads: [`Notifier`], over the loop's [`inbox`](crate::inbox).

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use crate::completion::{Action, CallbackKind, Header};
use crate::event_loop::Loop;
use crate::inbox::Inbox;
use crate::op::{MultiOp, Op, OpKind, RawOp};
use crate::sync::{Arc, AtomicU8, Ordering};
use crate::token::Token;

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
    inbox: Option<Arc<Inbox>>,
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
    let Some(inbox) = waiter.as_mut().and_then(|waiter| waiter.inbox.take()) else {
        unreachable!("a registered wait has its loop")
    };
    let header = Arc::into_raw(Arc::clone(shared)).cast_mut().cast();
    // SAFETY: S8: a reference-counted pointer is not null.
    let header = unsafe { NonNull::new_unchecked(header) };
    // SAFETY: S11: PENDING beside WAITING: the header is on no list, and ours to push.
    if let Err(header) = unsafe { inbox.push(header) } {
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

/// Registers the wait `op`, which has the name `token` on the loop of `inbox`. `false`: another operation
/// waits on it.
pub(crate) fn wait(op: &RawOp, token: Token, inbox: &Arc<Inbox>) -> bool {
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
    unsafe { *shared.waiter.get() = Some(Waiter { inbox: Some(Arc::clone(inbox)), token }) };
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
unsafe fn complete_notifier(lp: Option<&mut Loop>, header: NonNull<Header>, _: CallbackKind) -> Action {
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
