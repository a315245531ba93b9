//! Callbacks without a size: [`Stateless`], and how a copy is made from the type alone.

#![allow(unsafe_code)]

use std::ptr::NonNull;

/// A function, or a closure that captures nothing: what a callback has to be. The loop makes it again from its
/// type alone, so it takes no memory; what a callback works with lies in the state of its completion or task.
///
/// It is implemented for everything that is `Copy` and `'static`. A closure that captures something else is
/// refused with that explanation. A capture that is both, a number for instance, has a size, which the compiler
/// only looks at when it builds the program: `cargo check` lets it pass, `cargo build` does not.
///
/// ```compile_fail,E0080
/// # use oxev::{Completion, Loop};
/// # let mut lp = Loop::new().unwrap();
/// let number = 7;
/// lp.submit(Box::new(Completion::new(())), |_| oxev::nop(), move |_, _, _| println!("{number}"));
/// ```
#[diagnostic::on_unimplemented(
    message = "a callback must capture nothing, and this one does",
    label = "captures what it uses",
    note = "a callback is made again from its type alone, and gets its owner back: put what it works with into the \
            state, as in `Box::new(Completion::new((socket, shared)))`, and reach it through the owner"
)]
pub trait Stateless: Copy + 'static {}

// Without it the message would be that of `Copy`, for the type that was captured.
#[diagnostic::do_not_recommend]
impl<C: Copy + 'static> Stateless for C {}

/// Refuses, when the program is built, a callback that captures something that is `Copy`.
#[track_caller]
pub(crate) const fn assert_captures_nothing<C: Stateless>() {
    assert!(
        size_of::<C>() == 0,
        "a callback must capture nothing: put what it works with into the state of its completion"
    );
}

/// A value of a type of size zero, of which there has been one.
///
/// # Safety
/// `C` is of size zero ([`assert_captures_nothing`]), and a value of it was in our hands.
pub(crate) unsafe fn zst_copy<C: Stateless>() -> C {
    debug_assert_eq!(size_of::<C>(), 0);
    // SAFETY: S9: a copy of the value that there was; it has no bytes to read.
    unsafe { NonNull::<C>::dangling().read() }
}
