//! Tables that are large and mostly unused: zeroed by the allocator, so that a page that is never needed is
//! never touched.

#![allow(unsafe_code)]

use std::alloc::{self, Layout};
use std::ptr;

/// A type for which all bytes zero is a value: the empty one.
///
/// # Safety
/// That it is.
pub(super) unsafe trait Zeroed {}

/// A table of `len` empty entries.
///
/// # Panics
/// If the size in bytes exceeds `isize::MAX`.
pub(super) fn table<T: Zeroed>(len: usize) -> Box<[T]> {
    assert!(len > 0 && size_of::<T>() > 0);
    let layout = Layout::array::<T>(len).expect("the table's size exceeds the address space");
    // SAFETY: S8: neither the length nor the entry's size is zero.
    let memory = unsafe { alloc::alloc_zeroed(layout) };
    if memory.is_null() {
        alloc::handle_alloc_error(layout);
    }
    // SAFETY: S8: fresh memory of this layout, and zero is a value of `T`.
    unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(memory.cast(), len)) }
}
