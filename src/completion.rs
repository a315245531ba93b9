//! Caller-owned memory: [`Completion`], the [`Owner`]s that can lend it to a loop, and the header that the
//! loop keeps in it.

#![allow(unsafe_code)]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use crate::event_loop::Loop;
use crate::op::{Outcome, RawOp};

/// The function of a header, which alone knows the types of its operation. What it has to do is a [`Dispatch`],
/// in the two arguments that cost the fewest moves on the way to a callback.
pub(crate) type Complete =
    unsafe fn(lp: Option<&mut Loop>, header: NonNull<Header>, callback: CallbackKind) -> Action;

/// Which callback an outcome is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallbackKind {
    /// That of one of several results: the operation goes on.
    Item,
    /// That which gets the owner back.
    End,
}

/// What is to be done with the outcome in a header.
#[derive(Debug)]
pub(crate) enum Dispatch<'l> {
    /// Run the item callback: it is one of several results.
    Item(&'l mut Loop),
    /// Drop what one of several results stands for: no callback gets it.
    DiscardItem,
    /// Give the owner back to its callback.
    End(&'l mut Loop),
    /// Drop the owner, and what the outcome stands for: there is no loop any more.
    DropOwner,
}

impl<'l> Dispatch<'l> {
    #[inline(always)]
    pub(crate) const fn of(lp: Option<&'l mut Loop>, callback: CallbackKind) -> Dispatch<'l> {
        match (lp, callback) {
            (Some(lp), CallbackKind::Item) => Dispatch::Item(lp),
            (None, CallbackKind::Item) => Dispatch::DiscardItem,
            (Some(lp), CallbackKind::End) => Dispatch::End(lp),
            (None, CallbackKind::End) => Dispatch::DropOwner,
        }
    }

    #[inline(always)]
    const fn into_arguments(self) -> (Option<&'l mut Loop>, CallbackKind) {
        match self {
            Dispatch::Item(lp) => (Some(lp), CallbackKind::Item),
            Dispatch::DiscardItem => (None, CallbackKind::Item),
            Dispatch::End(lp) => (Some(lp), CallbackKind::End),
            Dispatch::DropOwner => (None, CallbackKind::End),
        }
    }
}

/// What a multi-result operation does after a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Go on: more results are wanted.
    Rearm,
    /// Stop: nothing more is asked for, what has arrived by then is still delivered, and the end callback
    /// runs. [`Loop::submit_multi`] says how much that may be; the actions of these items are ignored.
    Disarm,
}

/// What the loop keeps in the caller's memory: one cache line.
///
/// While an operation is in flight it belongs to the loop, which only touches it through raw pointers (S3).
#[repr(C)]
pub struct Header {
    /// The one monomorphised callback.
    pub(crate) complete: Complete,
    /// The next header of the list that this one is on.
    pub(crate) next: *mut Header,
    pub(crate) op: RawOp,
    pub(crate) outcome: Outcome,
}

const _: () = assert!(if cfg!(target_pointer_width = "64") {
    size_of::<Header>() == 64
} else {
    size_of::<Header>() <= 64
});

impl Header {
    pub(crate) const fn new() -> Header {
        unsafe fn never(_: Option<&mut Loop>, _: NonNull<Header>, _: CallbackKind) -> Action {
            unreachable!("a header that was never submitted is on no list")
        }
        let outcome = Outcome::new(0);
        Header { complete: never, next: ptr::null_mut(), op: RawOp::immediate(0), outcome }
    }
}

impl Header {
    /// Gives the outcome to where it belongs; a callback says by its action whether it wants more.
    ///
    /// # Safety
    /// The header is the loop's to complete (S2), and its outcome is for this call.
    #[inline(always)]
    pub(crate) unsafe fn complete(this: NonNull<Header>, dispatch: Dispatch<'_>) -> Action {
        let (lp, callback) = dispatch.into_arguments();
        // SAFETY: S2: the caller's promise.
        let complete = unsafe { (*this.as_ptr()).complete };
        // SAFETY: S2: the caller's promise; `submit` put the function beside an operation of its types.
        unsafe { complete(lp, this, callback) }
    }
}

impl fmt::Debug for Header {
    /// A reference to a header gives access to nothing, so this has nothing to tell.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header").finish_non_exhaustive()
    }
}

// SAFETY: S5: a header that can be reached in safe code is not in flight, and then none of its pointers is
// used.
unsafe impl Send for Header {}
// SAFETY: S5: nothing of a header can be reached through a shared reference.
unsafe impl Sync for Header {}

/// Memory for one operation at a time: a small header for the loop, and your state `T`.
///
/// You own it: in a `Box`, in a slot of a [`Pool`](crate::Pool), or in a static. [`Loop::submit`] moves the
/// owner into the loop for as long as an operation is in flight and gives it back to the callback. It derefs
/// to `T`.
///
/// ```
/// use oxev::Completion;
/// let mut counter = Completion::new(41);
/// *counter += 1;
/// assert_eq!(counter.into_inner(), 42);
/// ```
#[repr(C)]
pub struct Completion<T> {
    pub(crate) header: Header,
    pub(crate) state: T,
}

impl<T> Completion<T> {
    /// A completion that is not in flight.
    pub const fn new(state: T) -> Completion<T> {
        Completion { header: Header::new(), state }
    }

    /// The state, without the header.
    pub fn into_inner(self) -> T {
        self.state
    }

    /// The place of the state of the completion at `this`, without a reference to the rest.
    ///
    /// # Safety
    /// `this` must point to a completion.
    pub(crate) unsafe fn state_place(this: NonNull<Completion<T>>) -> *mut T {
        // SAFETY: S3: a raw place inside a completion that the caller vouches for.
        unsafe { &raw mut (*this.as_ptr()).state }
    }
}

/// A completion on the heap with `state` in it, for [`Loop::submit`]: short for `Box::new(Completion::new(state))`.
///
/// ```
/// use oxev::{Loop, RunMode, nop, own};
///
/// let mut lp = Loop::new()?;
/// lp.submit(own(41), |_| nop(), |_lp, number, done| {
///     done.unwrap();
///     assert_eq!(number.into_inner(), 41);
/// });
/// lp.run(RunMode::UntilDone)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub fn own<T>(state: T) -> Box<Completion<T>> {
    Box::new(Completion::new(state))
}

impl<T> Deref for Completion<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.state
    }
}

impl<T> DerefMut for Completion<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.state
    }
}

impl<T: Default> Default for Completion<T> {
    fn default() -> Completion<T> {
        Completion::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Completion<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Completion").field(&self.state).finish()
    }
}

/// The state of a completion for [`Loop::submit_multi`]: `source` is lent to the kernel for the whole
/// submission, `state` stays reachable: the item callback gets it by `&mut`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Multi<S, U> {
    /// What the operation borrows: the socket, the buffer pool.
    pub source: S,
    /// What the item callback works on.
    pub state: U,
}

impl<S, U> Multi<S, U> {
    /// Puts the two together.
    pub const fn new(source: S, state: U) -> Multi<S, U> {
        Multi { source, state }
    }
}

/// A handle that owns a [`Completion`] at an address that does not change when the handle moves.
///
/// It is implemented for `Box<Completion<T>>`, [`Pooled<T>`](crate::Pooled) and `&'static mut Completion<T>`.
///
/// # Safety
/// `into_raw` must give a pointer, valid for reads and writes of the whole completion, that nothing else uses
/// until `from_raw` takes it back; and it must stay valid forever if that never happens.
#[diagnostic::on_unimplemented(
    message = "a loop takes a `Box<Completion<_>>` or a `Pooled<_>`, and not `{Self}`",
    label = "is no owner of a completion",
    note = "the kernel works in the memory of an operation, so it lies in a completion that does not move: \
            `Box::new(Completion::new(state))`, a slot of a `Pool`, or a `&'static mut Completion`"
)]
pub unsafe trait Owner: Sized + 'static {
    /// The state in the completion.
    type State: 'static;

    /// Gives the ownership up.
    fn into_raw(self) -> NonNull<Completion<Self::State>>;

    /// Takes the ownership back.
    ///
    /// # Safety
    /// `raw` came from `into_raw` of the same type and is taken back only once.
    unsafe fn from_raw(raw: NonNull<Completion<Self::State>>) -> Self;
}

// SAFETY: S4: the heap address is stable and ours alone until `Box::from_raw`.
unsafe impl<T: 'static> Owner for Box<Completion<T>> {
    type State = T;

    fn into_raw(self) -> NonNull<Completion<T>> {
        NonNull::from(Box::leak(self))
    }

    unsafe fn from_raw(raw: NonNull<Completion<T>>) -> Box<Completion<T>> {
        // SAFETY: S4: it came from `Box::leak` above.
        unsafe { Box::from_raw(raw.as_ptr()) }
    }
}

// SAFETY: S4: a `&'static mut` is unique, stable and valid forever.
unsafe impl<T: 'static> Owner for &'static mut Completion<T> {
    type State = T;

    fn into_raw(self) -> NonNull<Completion<T>> {
        NonNull::from(self)
    }

    unsafe fn from_raw(mut raw: NonNull<Completion<T>>) -> &'static mut Completion<T> {
        // SAFETY: S4: it came from a `&'static mut` that was given up above.
        unsafe { raw.as_mut() }
    }
}
