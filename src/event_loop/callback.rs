//! The way from an owner to the loop and back to its callback: the monomorphised functions that a header
//! carries, which alone know the types.

#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use super::Loop;
use crate::completion::{Action, CallbackKind, Completion, Dispatch, Header, Multi, Owner};
use crate::op::Output;
use crate::stateless::{Stateless, zst_copy};

/// An owner that was given to the loop; given back if `prepare` panics.
pub(super) struct LentOwner<P: Owner>(pub(super) NonNull<Completion<P::State>>);

impl<P: Owner> LentOwner<P> {
    pub(super) fn new(owner: P) -> LentOwner<P> {
        LentOwner(owner.into_raw())
    }

    pub(super) fn into_header(self) -> NonNull<Header> {
        ManuallyDrop::new(self).0.cast()
    }
}

impl<P: Owner> Drop for LentOwner<P> {
    fn drop(&mut self) {
        // SAFETY: S4: it came from `into_raw` and was not given to the loop.
        drop(unsafe { P::from_raw(self.0) });
    }
}

/// The result of the operation in `header`, as a value, and how many bytes it has moved.
///
/// # Safety
/// The outcome in the header is one of an operation made for `R`, and is decoded only once.
#[inline(always)]
unsafe fn decode<R: Output>(header: NonNull<Header>) -> (io::Result<R>, u64) {
    // SAFETY: S3: the backend is done with this outcome, so nothing writes to the description.
    let op = unsafe { &(*header.as_ptr()).op };
    // SAFETY: S2: the header is the loop's.
    let outcome = unsafe { (*header.as_ptr()).outcome };
    let moved = R::moved(op, outcome);
    // SAFETY: S7: the caller's promise.
    (unsafe { R::decode(op, outcome) }, moved)
}

pub(super) unsafe fn complete_one<P, R, C>(
    lp: Option<&mut Loop>,
    header: NonNull<Header>,
    _: CallbackKind,
) -> Action
where
    P: Owner,
    R: Output,
    C: FnOnce(&mut Loop, P, io::Result<R>) + Stateless,
{
    // SAFETY: S7: `submit` put this function beside an operation for `R`.
    let (result, moved) = unsafe { decode::<R>(header) };
    // SAFETY: S4: `submit` took the completion from a `P`; the operation is off every list.
    let owner = unsafe { P::from_raw(header.cast()) };
    if let Some(lp) = lp {
        lp.note_moved(moved);
        // SAFETY: S9: `submit` had a `C`.
        let callback = unsafe { zst_copy::<C>() };
        callback(lp, owner, result);
    }
    Action::Disarm
}

pub(super) unsafe fn complete_multi<P, S, U, R, I, E>(
    lp: Option<&mut Loop>,
    header: NonNull<Header>,
    callback: CallbackKind,
) -> Action
where
    P: Owner<State = Multi<S, U>>,
    S: 'static,
    U: 'static,
    R: Output,
    I: Fn(&mut Loop, &mut U, R) -> Action + Stateless,
    E: FnOnce(&mut Loop, P, io::Result<()>) + Stateless,
{
    match Dispatch::of(lp, callback) {
        // SAFETY: S2: the caller's promise: the header has a result, and the types are those of `submit_multi`.
        Dispatch::Item(lp) => unsafe { run_item::<S, U, R, I>(lp, header) },
        Dispatch::DiscardItem => {
            // SAFETY: S7: `submit_multi` put this function beside an operation for `R`.
            drop(unsafe { decode::<R>(header) });
            Action::Rearm
        }
        // SAFETY: S2: the caller's promise: the operation is off every list.
        Dispatch::End(lp) => unsafe { run_end::<P, E>(lp, header) },
        Dispatch::DropOwner => {
            // SAFETY: S4: `submit_multi` took the completion from a `P`; the operation is off every list.
            drop(unsafe { P::from_raw(header.cast()) });
            Action::Disarm
        }
    }
}

/// # Safety
/// The header is of an operation that `submit_multi` began with these types, and has a result of it.
#[inline]
unsafe fn run_item<S, U, R, I>(lp: &mut Loop, header: NonNull<Header>) -> Action
where
    S: 'static,
    U: 'static,
    R: Output,
    I: Fn(&mut Loop, &mut U, R) -> Action + Stateless,
{
    // SAFETY: S7: `submit_multi` put this function beside an operation for `R`.
    let (Ok(item), moved) = (unsafe { decode::<R>(header) }) else { return Action::Rearm };
    lp.note_moved(moved);
    // SAFETY: S4: the completion is the loop's, and lives until `on_end` has it.
    let place = unsafe { Completion::<Multi<S, U>>::state_place(header.cast()) };
    // SAFETY: S10: the operation borrows the source alone; the state is reached from here only, and while
    // this callback runs the completion is not given back.
    let state = unsafe { &mut (*place).state };
    // SAFETY: S9: `submit_multi` had an `I`.
    let on_item = unsafe { zst_copy::<I>() };
    on_item(lp, state, item)
}

/// # Safety
/// The header is of an operation that `submit_multi` began with these types, and is off every list.
#[inline]
unsafe fn run_end<P, E>(lp: &mut Loop, header: NonNull<Header>) -> Action
where
    P: Owner,
    E: FnOnce(&mut Loop, P, io::Result<()>) + Stateless,
{
    // SAFETY: S2: the header is the loop's.
    let outcome = unsafe { (*header.as_ptr()).outcome };
    // SAFETY: S4: `submit_multi` took the completion from a `P`; the operation is off every list.
    let owner = unsafe { P::from_raw(header.cast()) };
    // SAFETY: S9: `submit_multi` had an `E`.
    let on_end = unsafe { zst_copy::<E>() };
    lp.note_moved(0);
    on_end(lp, owner, outcome.count().map(drop));
    Action::Disarm
}
