//! Gather lists: `struct iovec`, which is the system's own, too.

#![allow(unsafe_code)]

use std::ptr;

/// A run of bytes.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct IoVec(libc::iovec);

impl IoVec {
    pub(crate) const EMPTY: IoVec = IoVec(libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 });

    pub(crate) fn new(base: *mut u8, len: usize) -> IoVec {
        IoVec(libc::iovec { iov_base: base.cast(), iov_len: len })
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.0.iov_base.cast()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iov_len
    }
}

/// What moves by one call: a list of runs.
#[derive(Debug)]
pub(crate) struct Message {
    vecs: *mut IoVec,
    count: usize,
}

impl Message {
    pub(crate) const fn new() -> Message {
        Message { vecs: ptr::null_mut(), count: 0 }
    }

    /// # Safety
    /// `this` is valid for writes.
    pub(crate) unsafe fn set_vecs(this: *mut Message, vecs: *mut IoVec, count: usize) {
        // SAFETY: S3: the caller's promise.
        unsafe { this.write(Message { vecs, count }) };
    }

    /// # Safety
    /// `this` is valid for reads.
    pub(crate) unsafe fn vecs(this: *const Message) -> (*mut IoVec, usize) {
        // SAFETY: S3: the caller's promise.
        let Message { vecs, count } = unsafe { &*this };
        (*vecs, *count)
    }
}
