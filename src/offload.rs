//! [`Loop::offload`]: work on a thread pool, as an operation of the loop.

#![allow(unsafe_code)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use crate::completion::{Completion, Header, Owner};
use crate::error::code;
use crate::event_loop::Loop;
use crate::stateless::{Stateless, assert_captures_nothing, zst_copy};
use crate::thread_pool::ThreadPool;
use crate::token::OpId;

impl Loop {
    /// Has `work` done on a thread pool with the owner's state, and hands the owner back to `callback` on
    /// this loop.
    ///
    /// Results are left in the state. Nothing is allocated: the pool's task was made with the loop. As with
    /// [`Loop::submit`], `callback` runs exactly once, never inside `offload`, and both functions must
    /// capture nothing.
    ///
    /// While the work is queued, [`Loop::cancel`] ends the operation at once, with `ECANCELED`, however busy
    /// the pool is; [`Loop::reset`] sets a deadline to the same effect. Work that has begun is not
    /// interrupted: a cancel changes nothing then, and says so. Dropping the loop drops the owners of queued
    /// work, and waits for work that has begun, as it does for the kernel.
    ///
    /// # Errors
    /// They come to the callback: `ECANCELED`; [`is_table_full`](crate::is_table_full) if the table is full,
    /// where work that was cancelled counts until a worker has come to it; `ESHUTDOWN` if the pool takes no
    /// more tasks, or what the system said when its first thread was made. If the work panics, the error is
    /// of the kind [`Other`](io::ErrorKind::Other), the state is as the panic left it, and pool and loop go
    /// on.
    ///
    /// ```
    /// use oxev::{Completion, Loop, RunMode, ThreadPool};
    ///
    /// struct Request { numbers: Vec<u64>, sum: u64 }
    ///
    /// let (mut lp, pool) = (Loop::new()?, ThreadPool::new());
    /// lp.offload(
    ///     &pool,
    ///     Box::new(Completion::new(Request { numbers: vec![1, 2, 3], sum: 0 })),
    ///     |request| request.sum = request.numbers.iter().sum(), // on a worker
    ///     |_lp, request, done| {
    ///         done.unwrap();
    ///         assert_eq!(request.sum, 6);
    ///     },
    /// );
    /// lp.run(RunMode::UntilDone)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// In a callback the pool comes from the owner, which moves into the call; so clone the handle first (clones
    /// are handles to the same pool):
    ///
    /// ```
    /// use oxev::{Completion, Loop, RunMode, ThreadPool, Timer};
    /// use std::{io, time::Duration};
    ///
    /// struct Job { pool: ThreadPool, answer: u32 }
    ///
    /// fn on_time(lp: &mut Loop, job: Box<Completion<Job>>, _: io::Result<()>) {
    ///     let pool = job.pool.clone();
    ///     lp.offload(&pool, job, |job| job.answer = 42, |_lp, job, done| {
    ///         done.unwrap();
    ///         assert_eq!(job.answer, 42);
    ///     });
    /// }
    ///
    /// let mut lp = Loop::new()?;
    /// let job = Box::new(Completion::new(Job { pool: ThreadPool::new(), answer: 0 }));
    /// lp.submit(job, |_| Timer::after(Duration::from_millis(1)), on_time);
    /// lp.run(RunMode::UntilDone)?;
    /// # Ok::<(), io::Error>(())
    /// ```
    ///
    /// The state crosses to another thread, so it has to be `Send`; what is bound to this thread, an `Rc` for
    /// instance, is refused:
    /// ```compile_fail,E0277
    /// # use oxev::{Completion, Loop, ThreadPool};
    /// # let (mut lp, pool) = (Loop::new().unwrap(), ThreadPool::new());
    /// let bound = std::rc::Rc::new(());
    /// lp.offload(&pool, Box::new(Completion::new(bound)), |_| (), |_, _, _| ());
    /// ```
    pub fn offload<P, W, C>(&mut self, pool: &ThreadPool, owner: P, work: W, callback: C) -> OpId
    where
        P: Owner,
        P::State: Send,
        W: FnOnce(&mut P::State) + Stateless + Send,
        C: FnOnce(&mut Loop, P, io::Result<()>) + Stateless,
    {
        const { assert_captures_nothing::<W>() };
        const { assert_captures_nothing::<C>() };
        let _ = (work, callback);
        let header: NonNull<Header> = owner.into_raw().cast();
        // SAFETY: S4: the owner gave the completion to us. S14: its state is `Send`, and unreachable until
        // the callback.
        unsafe { self.launch_offload::<P, C>(header, do_work::<P::State, W>, pool) }
    }
}

/// On a worker.
///
/// # Safety
/// `header` is that of an owner with this state, which is the worker's (S14), and `offload` had a `W`.
unsafe fn do_work<T, W>(header: NonNull<Header>) -> i32
where
    T: Send + 'static,
    W: FnOnce(&mut T) + Stateless + Send,
{
    // SAFETY: S4: `offload` took the header from an owner of this state.
    let place = unsafe { Completion::<T>::state_place(header.cast()) };
    // SAFETY: S14: the state is the worker's until the job is back.
    let state = unsafe { &mut *place };
    // SAFETY: S9: `offload` had a `W`.
    let work = unsafe { zst_copy::<W>() };
    match catch_unwind(AssertUnwindSafe(|| work(state))) {
        Ok(()) => 0,
        Err(payload) => {
            // The hook has told what it was. A payload that panics in its turn is not dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(payload))).map_err(std::mem::forget);
            -code::PANICKED
        }
    }
}
