//! Tasks that their users own: the raw header, the typed task on top of it, and lists of both.
#![allow(unsafe_code)]

use std::{
    fmt,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr::{self, NonNull},
};

use crate::stateless::{Stateless, assert_captures_nothing, zst_copy};

/// What the pool asks of a task when its turn has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Do the work.
    Run,
    /// Give up: the pool is being shut down with [`Shutdown::Discard`](super::Shutdown::Discard), or an
    /// unsent [`Batch`] was dropped. Release what the task owns and do nothing else.
    Discard,
}

/// The function of a [`RawTask`]. It gets the pointer that was scheduled, and with it the task's memory.
pub type RunFn = unsafe fn(NonNull<RawTask>, Disposition);

/// The header by which the pool holds a task: two words, to be embedded in memory that the user owns.
///
/// This is the layer without types, for an event loop or a C interface; [`Task`] is the safe one. A scheduled
/// `RawTask` belongs to the pool until its function is called, exactly once and on any thread; **from that
/// call on the pool does not touch it again**, so the function may free it, reuse it, or schedule it anew.
/// There is no way to take a task out of the pool's queues: a user that wants to cancel keeps an atomic state
/// beside the header, and the function asks it whether the work is still wanted.
#[repr(C)]
pub struct RawTask {
    pub(super) next: *mut RawTask,
    run: RunFn,
}

// SAFETY: P1: a reference to a header gives access to nothing; the link is used by the owner of the whole
// task.
unsafe impl Send for RawTask {}
// SAFETY: as for `Send`.
unsafe impl Sync for RawTask {}

impl fmt::Debug for RawTask {
    /// Nothing of the header: a worker may be writing to its link.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawTask").finish_non_exhaustive()
    }
}

impl RawTask {
    /// A header that will call `run`.
    pub const fn new(run: RunFn) -> RawTask {
        RawTask { next: ptr::null_mut(), run }
    }

    /// Changes the function that will be called. Only for a header that is not scheduled, which the exclusive
    /// borrow shows.
    pub const fn set_run(&mut self, run: RunFn) {
        self.run = run;
    }

    /// Calls the task's function.
    ///
    /// # Safety
    /// The caller holds the task (P1) and gives it up with this call (P5).
    #[inline]
    pub(super) unsafe fn run(task: NonNull<RawTask>, disposition: Disposition) {
        // SAFETY: P1: the header is valid and nothing writes it.
        let run = unsafe { (*task.as_ptr()).run };
        // SAFETY: P1, P5: the function gets the task that it was stored in, once.
        unsafe { run(task, disposition) };
    }
}

/// A list of raw tasks that is put together without atomics and scheduled by one operation.
///
/// Dropping it forgets the tasks: their owners are told nothing. [`Batch`] is the safe form, which does tell
/// them.
pub struct RawBatch {
    /// Newest first: the links run from what was pushed last to what was pushed first, as in the injector, so
    /// that scheduling a batch writes one link.
    newest: *mut RawTask,
    oldest: *mut RawTask,
    len: usize,
}

// SAFETY: P1: the contract of `push` says that the tasks may be run on any thread.
unsafe impl Send for RawBatch {}

impl RawBatch {
    /// An empty list.
    pub const fn new() -> RawBatch {
        RawBatch { newest: ptr::null_mut(), oldest: ptr::null_mut(), len: 0 }
    }

    pub(super) const fn of(task: NonNull<RawTask>) -> RawBatch {
        RawBatch { newest: task.as_ptr(), oldest: task.as_ptr(), len: 1 }
    }

    /// Adds a task at the end, in constant time.
    ///
    /// # Safety
    /// `task` points to a [`RawTask`] that is valid for reads and writes and that nothing else uses, and
    /// that is not scheduled already, until it is popped or its function is called. Its function may be called
    /// on any thread.
    #[inline]
    pub unsafe fn push(&mut self, task: NonNull<RawTask>) {
        // SAFETY: P1: by this function's contract the list alone uses the header.
        unsafe { (*task.as_ptr()).next = self.newest };
        if self.oldest.is_null() {
            self.oldest = task.as_ptr();
        }
        self.newest = task.as_ptr();
        self.len += 1;
    }

    /// Adds all tasks of another list at the end, in constant time.
    pub fn append(&mut self, mut later: RawBatch) {
        let later = std::mem::take(&mut later);
        if later.is_empty() {
            return;
        }
        if self.is_empty() {
            *self = later;
            return;
        }
        // SAFETY: P2: the oldest task of a list that is not empty is one of its own.
        unsafe { (*later.oldest).next = self.newest };
        self.newest = later.newest;
        self.len += later.len;
    }

    /// Takes out the task that was pushed last.
    pub fn pop(&mut self) -> Option<NonNull<RawTask>> {
        let task = NonNull::new(self.newest)?;
        if self.newest == self.oldest {
            // The oldest task's link is not ours to read: nothing says that it is null.
            *self = RawBatch::new();
        } else {
            // SAFETY: P2: a task of this list, and not its last.
            self.newest = unsafe { (*task.as_ptr()).next };
            self.len -= 1;
        }
        Some(task)
    }

    /// How many tasks are in the list.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no task in the list.
    pub const fn is_empty(&self) -> bool {
        self.newest.is_null()
    }

    pub(super) fn newest(&self) -> *mut RawTask {
        self.newest
    }

    pub(super) fn oldest(&self) -> *mut RawTask {
        self.oldest
    }
}

impl Default for RawBatch {
    fn default() -> RawBatch {
        RawBatch::new()
    }
}

impl fmt::Debug for RawBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawBatch").field("len", &self.len).finish()
    }
}

/// A unit of work: the pool's header (two words) and your state `T`, in memory that you own.
///
/// It derefs to `T`. Give its owner to [`ThreadPool::spawn`](super::ThreadPool::spawn), which hands it to the
/// callback on a worker; nothing is allocated on the way.
///
/// ```
/// use oxev::thread_pool::Task;
/// let mut task = Task::new(vec![1, 2, 3]);
/// task.push(4);
/// assert_eq!(task.into_inner(), [1, 2, 3, 4]);
/// ```
#[repr(C)]
pub struct Task<T> {
    /// First, so that a pointer to the header is a pointer to the task.
    header: RawTask,
    state: T,
}

impl<T> Task<T> {
    /// A task with the given state.
    pub const fn new(state: T) -> Task<T> {
        Task { header: RawTask::new(unset), state }
    }

    /// Takes the state out.
    pub fn into_inner(self) -> T {
        self.state
    }
}

/// The function of a task that was never scheduled.
fn unset(_: NonNull<RawTask>, _: Disposition) {
    unreachable!("a task's function is set before it is scheduled");
}

impl<T> Deref for Task<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.state
    }
}

impl<T> DerefMut for Task<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.state
    }
}

impl<T: Default> Default for Task<T> {
    fn default() -> Task<T> {
        Task::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Task").field(&self.state).finish()
    }
}

/// Something that owns a [`Task`] at an address that does not change, and can be turned into that address and
/// back.
///
/// # Safety
/// * `into_raw` returns a pointer to a valid task that it may write through, and that nothing else reads,
///   writes, moves or frees until `from_raw`.
/// * `from_raw` is sound for every pointer that `into_raw` gave, called once, on any thread.
#[diagnostic::on_unimplemented(
    message = "a pool takes a `Box<Task<_>>` with state that is `Send`, and not `{Self}`",
    label = "is no owner of a task that can be sent",
    note = "other threads work in the memory of a task, so it does not move: `Box::new(Task::new(state))`, or \
            a `&'static mut Task`"
)]
pub unsafe trait TaskOwner: Send + Sized + 'static {
    /// The state of the task.
    type State: Send + 'static;

    /// Gives up the owner for the task's address.
    fn into_raw(self) -> NonNull<Task<Self::State>>;

    /// Gets the owner back.
    ///
    /// # Safety
    /// `raw` came from `into_raw` of the same type, and this is the only `from_raw` for it.
    unsafe fn from_raw(raw: NonNull<Task<Self::State>>) -> Self;
}

// SAFETY: P7: a box is the only way to its contents, and can be leaked and reclaimed.
unsafe impl<T: Send + 'static> TaskOwner for Box<Task<T>> {
    type State = T;

    #[inline]
    fn into_raw(self) -> NonNull<Task<T>> {
        NonNull::from(Box::leak(self))
    }

    #[inline]
    unsafe fn from_raw(raw: NonNull<Task<T>>) -> Box<Task<T>> {
        // SAFETY: P7: by this function's contract it was leaked by `into_raw`, and is reclaimed once.
        unsafe { Box::from_raw(raw.as_ptr()) }
    }
}

// SAFETY: P7: an exclusive reference for good is the only way to what it refers to.
unsafe impl<T: Send + 'static> TaskOwner for &'static mut Task<T> {
    type State = T;

    #[inline]
    fn into_raw(self) -> NonNull<Task<T>> {
        NonNull::from(self)
    }

    #[inline]
    unsafe fn from_raw(mut raw: NonNull<Task<T>>) -> &'static mut Task<T> {
        // SAFETY: P7: by this function's contract it is the reference that `into_raw` gave up.
        unsafe { raw.as_mut() }
    }
}

/// Turns an owner and its callback into the header that the pool moves.
#[inline]
pub(super) fn erase<P, C>(owner: P, _callback: C) -> NonNull<RawTask>
where
    P: TaskOwner,
    C: FnOnce(P) + Stateless + Send,
{
    const { assert_captures_nothing::<C>() };
    let task = owner.into_raw();
    // SAFETY: P7: `into_raw` gave a valid task that nothing else uses.
    unsafe { (*task.as_ptr()).header.run = run_erased::<P, C> };
    task.cast()
}

/// The owner of a header that [`erase`] returned and that was not run.
///
/// # Safety
/// `task` came from `erase` with the same `P`; this or its function is called once.
#[inline]
pub(super) unsafe fn restore<P: TaskOwner>(task: NonNull<RawTask>) -> P {
    // SAFETY: P7: `Task` is `repr(C)` with the header first, and the pointer is the one that `into_raw` gave.
    unsafe { P::from_raw(task.cast()) }
}

/// The function behind every typed task.
unsafe fn run_erased<P, C>(task: NonNull<RawTask>, disposition: Disposition)
where
    P: TaskOwner,
    C: FnOnce(P) + Stateless + Send,
{
    // SAFETY: P7: `erase::<P, C>` stored this function in this task, and the pool calls it once (P5).
    let owner: P = unsafe { restore(task) };
    match disposition {
        Disposition::Run => {
            // SAFETY: P6: `erase` was given a value of this type, and checked that it has no size.
            let callback = unsafe { zst_copy::<C>() };
            callback(owner);
        }
        Disposition::Discard => drop(owner),
    }
}

/// A list of tasks with their callbacks, to be scheduled at once: one atomic operation and at most one
/// wake-up, however long it is.
///
/// The tasks may be of different types. Dropping a batch drops their owners.
///
/// ```
/// use oxev::thread_pool::{Batch, Shutdown, Task, ThreadPool};
/// let pool = ThreadPool::new();
/// let mut batch = Batch::new();
/// for number in 0..10 {
///     batch.push(Box::new(Task::new(number)), |task| println!("{}", **task * 2));
/// }
/// batch.push(Box::new(Task::new("another type")), |task| println!("{}", **task));
/// assert_eq!(batch.len(), 11);
/// pool.spawn_batch(batch).expect("the pool is running");
/// pool.shutdown(Shutdown::Drain);
/// ```
#[derive(Default)]
pub struct Batch {
    tasks: RawBatch,
    /// The owners in the list are released on drop.
    owners: PhantomData<Box<dyn Send>>,
}

impl Batch {
    /// An empty batch.
    pub const fn new() -> Batch {
        Batch { tasks: RawBatch::new(), owners: PhantomData }
    }

    /// Adds a task at the end, in constant time. The rules for `callback` are those of
    /// [`ThreadPool::spawn`](super::ThreadPool::spawn).
    #[inline]
    pub fn push<P, C>(&mut self, owner: P, callback: C)
    where
        P: TaskOwner,
        C: FnOnce(P) + Stateless + Send,
    {
        let task = erase(owner, callback);
        // SAFETY: P7: `erase` gave a task that nothing else uses; owner and callback are `Send`.
        unsafe { self.tasks.push(task) };
    }

    /// Adds all tasks of another batch at the end, in constant time.
    pub fn append(&mut self, later: Batch) {
        self.tasks.append(later.into_raw());
    }

    /// How many tasks are in the batch.
    pub const fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there is no task in the batch.
    pub const fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(super) fn into_raw(self) -> RawBatch {
        std::mem::take(&mut ManuallyDrop::new(self).tasks)
    }

    /// # Safety
    /// `tasks` came from `into_raw`.
    pub(super) unsafe fn from_raw(tasks: RawBatch) -> Batch {
        Batch { tasks, owners: PhantomData }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let mut first_panic = None;
        while let Some(task) = self.tasks.pop() {
            // SAFETY: P1: the batch holds its tasks, and `pop` gives each of them once.
            let discard = || unsafe { RawTask::run(task, Disposition::Discard) };
            // One owner whose destructor panics must not cost the others theirs.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(discard)) {
                first_panic.get_or_insert(panic);
            }
        }
        if let Some(panic) = first_panic {
            resume_unwind(panic);
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("len", &self.len()).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Noted(&'static std::sync::Mutex<Vec<u32>>, u32);

    impl Drop for Noted {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(self.1);
        }
    }

    fn batch(log: &'static std::sync::Mutex<Vec<u32>>, numbers: &[u32]) -> Batch {
        let mut batch = Batch::new();
        for &number in numbers {
            batch.push(Box::new(Task::new(Noted(log, number))), drop);
        }
        batch
    }

    #[test]
    fn a_header_is_two_words() {
        assert_eq!(size_of::<RawTask>(), 2 * size_of::<usize>());
        assert_eq!(size_of::<Task<u64>>(), size_of::<RawTask>() + 8);
    }

    #[test]
    fn a_dropped_batch_drops_every_owner_once() {
        static LOG: std::sync::Mutex<Vec<u32>> = std::sync::Mutex::new(Vec::new());
        let mut first = batch(&LOG, &[1, 2]);
        first.append(batch(&LOG, &[]));
        first.append(batch(&LOG, &[3]));
        let mut empty = Batch::new();
        empty.append(first);
        assert_eq!(empty.len(), 3);
        drop(empty);
        let mut log = LOG.lock().unwrap();
        log.sort_unstable();
        assert_eq!(*log, [1, 2, 3]);
    }

    #[test]
    fn an_owner_that_panics_when_dropped_does_not_cost_the_others_theirs() {
        static LOG: std::sync::Mutex<Vec<u32>> = std::sync::Mutex::new(Vec::new());
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("on purpose");
            }
        }
        let mut tasks = batch(&LOG, &[1]);
        tasks.push(Box::new(Task::new(Bomb)), drop);
        tasks.append(batch(&LOG, &[2]));
        assert!(catch_unwind(AssertUnwindSafe(|| drop(tasks))).is_err());
        assert_eq!(LOG.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_raw_batch_gives_back_what_was_pushed_newest_first() {
        let mut tasks: Vec<RawTask> = (0..3).map(|_| RawTask::new(unset)).collect();
        let base = NonNull::new(tasks.as_mut_ptr()).unwrap();
        let mut batch = RawBatch::new();
        for i in 0..3 {
            // SAFETY: in bounds of the vector.
            let task = unsafe { base.add(i) };
            // SAFETY: P1: the vector outlives the list and is not used meanwhile.
            unsafe { batch.push(task) };
        }
        for i in (0..3).rev() {
            // SAFETY: in bounds of the vector.
            assert_eq!(batch.pop(), Some(unsafe { base.add(i) }));
        }
        assert_eq!((batch.pop(), batch.len()), (None, 0));
    }
}
