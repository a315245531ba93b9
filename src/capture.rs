//! Callbacks that capture: the same operations, for a program that does not mind one allocation for each.

#![allow(unsafe_code)]

use std::io;

use crate::completion::{Action, Completion, Multi};
use crate::event_loop::Loop;
use crate::handle::LoopHandle;
use crate::op::{MultiOp, Op, Output};
use crate::thread_pool::ThreadPool;
use crate::token::OpId;

/// What a completion with a capturing callback holds.
struct Capturing<S, C> {
    state: S,
    callback: C,
}

/// Work for a thread pool, what came of it, and the callback that gets that.
struct Work<W, T, C> {
    work: Option<W>,
    value: Option<T>,
    callback: OfLoop<C>,
}

/// What only the thread of the loop touches and drops, though it lies in something that a worker works on.
struct OfLoop<C>(C);

// SAFETY: S14: the worker gets the state by reference and touches the work and its value alone. The owner is taken
// apart, or dropped, by the loop, on its thread.
unsafe impl<C> Send for OfLoop<C> {}

/// # Callbacks that capture
///
/// These take any closure, where [`Loop::submit`] and its siblings take only those that capture nothing. **Each call
/// allocates once**, for a completion with the state and the callback in it, and frees that when the callback has run.
impl Loop {
    /// As [`Loop::submit`], with a callback that may capture. `state` is what the operation borrows from; the callback
    /// gets it back.
    ///
    /// ```
    /// use std::{cell::Cell, rc::Rc, time::Duration};
    /// use oxev::{Loop, RunMode, Timer};
    ///
    /// let mut lp = Loop::new()?;
    /// let fired = Rc::new(Cell::new(false));
    /// let seen = Rc::clone(&fired);
    /// lp.submit_with((), |_| Timer::after(Duration::from_millis(1)), move |_lp, (), result| {
    ///     result.unwrap();
    ///     seen.set(true);
    /// });
    /// lp.run(RunMode::UntilDone)?;
    /// assert!(fired.get());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn submit_with<S, R, F, C>(&mut self, state: S, prepare: F, callback: C) -> OpId
    where
        S: 'static,
        R: Output,
        F: for<'a> FnOnce(&'a mut S) -> Op<'a, R>,
        C: FnOnce(&mut Loop, S, io::Result<R>) + 'static,
    {
        let owner = Box::new(Completion::new(Capturing { state, callback }));
        self.submit(
            owner,
            |capturing| prepare(&mut capturing.state),
            |lp, owner: Box<Completion<Capturing<S, C>>>, result| {
                let Capturing { state, callback } = owner.into_inner();
                callback(lp, state, result);
            },
        )
    }

    /// As [`Loop::submit_multi`], with callbacks that may capture. `source` is what the operation borrows from;
    /// `on_end` gets it back.
    ///
    /// ```
    /// use std::time::Duration;
    /// use oxev::{Action, Loop, RunMode, Timer};
    ///
    /// let mut lp = Loop::new()?;
    /// let mut left = 3;
    /// lp.submit_multi_with(
    ///     (),
    ///     |_| Timer::every(Duration::from_millis(1)),
    ///     move |_lp, _periods| {
    ///         left -= 1;
    ///         if left > 0 { Action::Rearm } else { Action::Disarm }
    ///     },
    ///     |_lp, (), end| end.unwrap(),
    /// );
    /// lp.run(RunMode::UntilDone)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn submit_multi_with<S, R, F, I, E>(&mut self, source: S, prepare: F, on_item: I, on_end: E) -> OpId
    where
        S: 'static,
        R: Output,
        F: for<'a> FnOnce(&'a mut S) -> MultiOp<'a, R>,
        I: FnMut(&mut Loop, R) -> Action + 'static,
        E: FnOnce(&mut Loop, S, io::Result<()>) + 'static,
    {
        self.submit_multi(
            Box::new(Completion::new(Multi::new(source, (on_item, on_end)))),
            prepare,
            |lp, (on_item, _): &mut (I, E), item| on_item(lp, item),
            |lp, owner: Box<Completion<Multi<S, (I, E)>>>, result| {
                let Multi { source, state: (_, on_end) } = owner.into_inner();
                on_end(lp, source, result);
            },
        )
    }

    /// As [`Loop::offload`], with work that may capture and give a value, and a callback that may capture. The
    /// callback need not be `Send`: it stays on the loop's thread.
    ///
    /// ```
    /// use oxev::{Loop, RunMode, ThreadPool};
    ///
    /// let (mut lp, pool) = (Loop::new()?, ThreadPool::new());
    /// let numbers = vec![1, 2, 3];
    /// lp.offload_with(&pool, move || numbers.iter().sum::<u64>(), |_lp, sum| assert_eq!(sum.unwrap(), 6));
    /// lp.run(RunMode::UntilDone)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn offload_with<T, W, C>(&mut self, pool: &ThreadPool, work: W, callback: C) -> OpId
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
        C: FnOnce(&mut Loop, io::Result<T>) + 'static,
    {
        let owner = Work { work: Some(work), value: None, callback: OfLoop(callback) };
        self.offload(
            pool,
            Box::new(Completion::new(owner)),
            |task| task.value = task.work.take().map(|work| work()),
            |lp, owner: Box<Completion<Work<W, T, C>>>, done| {
                let Work { value, callback: OfLoop(callback), .. } = owner.into_inner();
                callback(lp, done.map(|()| value.expect("work that is done has left its value")));
            },
        )
    }
}

impl LoopHandle {
    /// Runs `function` on the loop's thread, as [`LoopHandle::post`] does, but `function` may capture. **Each
    /// call allocates once.**
    ///
    /// ```
    /// use oxev::{Loop, Notifier, RunMode, own};
    ///
    /// let mut lp = Loop::new()?;
    /// // `UntilDone` returns when nothing is in flight, and no loop knows who is about to call.
    /// lp.submit(own(Notifier::new()), |n| n.wait(), |_, _, _| ());
    /// let handle = lp.handle();
    /// let worker = std::thread::spawn(move || {
    ///     let message = String::from("hello");
    ///     handle.call(move |lp| {
    ///         assert_eq!(message, "hello");
    ///         lp.stop();
    ///     })
    /// });
    /// lp.run(RunMode::UntilDone)?;
    /// assert!(worker.join().unwrap().is_ok());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// The function comes back if the loop is gone. A loop that is dropped later drops the function without calling it.
    pub fn call<F>(&self, function: F) -> Result<(), F>
    where
        F: FnOnce(&mut Loop) + Send + 'static,
    {
        let posted = self.post(Box::new(Completion::new(function)), |lp, function: Box<Completion<F>>| {
            (function.into_inner())(lp)
        });
        posted.map_err(|function| function.into_inner())
    }

    /// Cancels an operation from another thread: [`Loop::cancel`] on the loop's thread, when the loop comes to it.
    /// The operation may have ended by then; its callback tells how. **Each call allocates once**; to cancel
    /// without, [`post`](LoopHandle::post) an owner with the id in its state.
    ///
    /// ```
    /// use std::time::Duration;
    /// use oxev::{Loop, RunMode, Timer, own};
    ///
    /// let mut lp = Loop::new()?;
    /// let id = lp.submit(
    ///     own(()),
    ///     |_| Timer::after(Duration::from_secs(3600)),
    ///     |_lp, _, fired| assert!(oxev::is_canceled(&fired.unwrap_err())),
    /// );
    /// let handle = lp.handle();
    /// let other = std::thread::spawn(move || handle.cancel(id));
    /// lp.run(RunMode::UntilDone)?;
    /// assert!(other.join().unwrap());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// `false` if the loop is gone.
    #[allow(clippy::must_use_candidate, reason = "as with `Loop::cancel`, the callback tells, too")]
    pub fn cancel(&self, id: OpId) -> bool {
        self.call(move |lp| _ = lp.cancel(id)).is_ok()
    }
}
