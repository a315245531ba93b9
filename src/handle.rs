//! Reaching a loop from other threads: [`LoopHandle`], over the loop's [`inbox`](crate::inbox).

#![allow(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;

use crate::completion::{Action, CallbackKind, Header, Owner};
use crate::event_loop::Loop;
use crate::inbox::Inbox;
use crate::op::RawOp;
use crate::stateless::{Stateless, assert_captures_nothing, zst_copy};
use crate::sync::Arc;

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
    inbox: Arc<Inbox>,
}

impl Loop {
    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> LoopHandle {
        LoopHandle { inbox: Arc::clone(self.inbox()) }
    }
}

impl LoopHandle {
    /// Makes the loop return from its wait, or not block the next time. `run(Once)` returns; in the other
    /// modes the loop takes a step and goes on. Wake-ups that the loop has not noticed yet count as one.
    pub fn wake(&self) {
        self.inbox.wake();
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
        self.inbox.request_stop();
        self.inbox.wake();
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
        unsafe { self.inbox.push(header) }.map_err(|header| {
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

unsafe fn complete_post<P, C>(lp: Option<&mut Loop>, header: NonNull<Header>, _: CallbackKind) -> Action
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
