//! The list of operations that wait for their callbacks.

#![allow(unsafe_code)]

use std::ptr::{self, NonNull};

use crate::completion::Header;

/// A list of headers: operations whose result is known and whose callback has not run.
#[derive(Debug)]
pub(super) struct ReadyList {
    head: *mut Header,
    tail: *mut Header,
    pub(super) len: usize,
}

impl ReadyList {
    pub(super) const EMPTY: ReadyList = ReadyList { head: ptr::null_mut(), tail: ptr::null_mut(), len: 0 };

    /// # Safety
    /// `header` is owned by the loop and on no list (S2).
    #[inline]
    pub(super) unsafe fn push(&mut self, header: NonNull<Header>) {
        // SAFETY: S2: the header is ours.
        unsafe { (*header.as_ptr()).next = ptr::null_mut() };
        if self.tail.is_null() {
            self.head = header.as_ptr();
        } else {
            // SAFETY: S2: the tail is on this list, so it is ours.
            unsafe { (*self.tail).next = header.as_ptr() };
        }
        self.tail = header.as_ptr();
        self.len += 1;
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<NonNull<Header>> {
        let header = NonNull::new(self.head)?;
        // SAFETY: S2: it is on this list, so it is ours.
        self.head = unsafe { (*header.as_ptr()).next };
        if self.head.is_null() {
            self.tail = ptr::null_mut();
        }
        self.len -= 1;
        Some(header)
    }
}
