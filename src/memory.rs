//! Memory that is asked for when a loop is built: a size that the machine does not have is an error
//! ([`OutOfMemory`](io::ErrorKind::OutOfMemory)), and a page that is never needed is never touched.

#![allow(unsafe_code)]

use std::alloc::{self, Layout};
use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use slab::Slab;

/// A queue with room for `len` entries.
pub(crate) fn queue<T>(len: usize) -> io::Result<VecDeque<T>> {
    let mut queue = VecDeque::new();
    queue.try_reserve_exact(len)?;
    Ok(queue)
}

/// A list with room for `len` entries.
pub(crate) fn list<T>(len: usize) -> io::Result<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(len)?;
    Ok(list)
}

/// A table of `len` places that are written before they are read.
pub(crate) fn uninit<T>(len: usize) -> io::Result<Box<[UnsafeCell<MaybeUninit<T>>]>> {
    let mut table: Vec<UnsafeCell<MaybeUninit<T>>> = list(len)?;
    // SAFETY: S8: there is room for them, and such a place need not be written.
    unsafe { table.set_len(len) };
    Ok(table.into_boxed_slice())
}

/// A slab with room for `len` entries.
pub(crate) fn slab<T>(len: usize) -> io::Result<Slab<T>> {
    // A slab can only be made with room or not at all, so the same memory is asked for before. An entry of a
    // slab is no larger than that.
    drop(queue::<Option<(usize, T)>>(len)?);
    Ok(Slab::with_capacity(len))
}

/// A type for which all bytes zero is a value: the empty one.
///
/// # Safety
/// That it is.
pub(crate) unsafe trait Zeroed {}

/// A table of `len` empty entries.
pub(crate) fn table<T: Zeroed>(len: usize) -> io::Result<Box<[T]>> {
    let layout = Layout::array::<T>(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    if layout.size() == 0 {
        let nothing = ptr::NonNull::<T>::dangling().as_ptr();
        // SAFETY: S8: there are no bytes, and zero is a value of `T`.
        return Ok(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(nothing, len)) });
    }
    // SAFETY: S8: the size is not zero.
    let memory = unsafe { alloc::alloc_zeroed(layout) };
    if memory.is_null() {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    // SAFETY: S8: fresh memory of this layout, and zero is a value of `T`.
    Ok(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(memory.cast(), len)) })
}

/// Makes a table so long that it has an entry of this index.
#[cold]
pub(crate) fn grow<T: Zeroed + Copy>(entries: &mut Box<[T]>, index: usize) -> io::Result<()> {
    let mut longer = table(index.saturating_add(1).next_power_of_two())?;
    longer[..entries.len()].copy_from_slice(entries);
    *entries = longer;
    Ok(())
}

// SAFETY: an integer.
unsafe impl Zeroed for u32 {}

#[cfg(test)]
mod tests {
    use super::*;

    // SAFETY: an integer.
    unsafe impl Zeroed for u64 {}

    #[test]
    fn what_no_machine_has_is_an_error() {
        /// More than any address space has.
        const HUGE: usize = if cfg!(target_pointer_width = "64") { usize::MAX >> 8 } else { usize::MAX };
        let is_refused = |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        for len in [HUGE, usize::MAX] {
            is_refused(queue::<u64>(len).unwrap_err());
            is_refused(uninit::<u64>(len).unwrap_err());
            is_refused(slab::<u64>(len).unwrap_err());
            is_refused(table::<u64>(len).unwrap_err());
        }
    }

    #[test]
    fn a_table_is_empty() {
        assert!(table::<u64>(1000).unwrap().iter().all(|entry| *entry == 0));
        assert_eq!(table::<u64>(0).unwrap().len(), 0);
    }
}
