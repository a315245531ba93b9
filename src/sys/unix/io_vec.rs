//! Gather lists: `struct iovec` and `struct msghdr`.

#![allow(unsafe_code)]

use std::ptr;

/// A run of bytes.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct IoVec(libc::iovec);

impl IoVec {
    pub(crate) const EMPTY: IoVec = IoVec(libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 });

    #[inline]
    pub(crate) fn new(base: *mut u8, len: usize) -> IoVec {
        IoVec(libc::iovec { iov_base: base.cast(), iov_len: len })
    }

    #[inline]
    pub(crate) fn base(&self) -> *mut u8 {
        self.0.iov_base.cast()
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.0.iov_len
    }
}

/// What moves by one call: a list of runs, and where they go to or come from.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Message(libc::msghdr);

impl Message {
    pub(crate) const fn new() -> Message {
        // SAFETY: S8: integers and pointers, for which zero is valid.
        Message(unsafe { std::mem::zeroed() })
    }

    /// # Safety
    /// `this` is valid for writes.
    pub(crate) unsafe fn set_vecs(this: *mut Message, vecs: *mut IoVec, count: usize) {
        // SAFETY: S3: the caller's promise.
        let header = unsafe { &raw mut (*this).0 };
        // SAFETY: S3: as above.
        unsafe { (*header).msg_iov = vecs.cast() };
        // Its type is not the same in all C libraries.
        // SAFETY: S3: as above.
        unsafe { (*header).msg_iovlen = count as _ };
    }

    /// # Safety
    /// `this` is valid for reads.
    pub(crate) unsafe fn vecs(this: *const Message) -> (*mut IoVec, usize) {
        // SAFETY: S3: the caller's promise.
        let header = unsafe { &raw const (*this).0 };
        // SAFETY: S3: as above.
        let vecs = unsafe { (*header).msg_iov };
        // SAFETY: S3: as above.
        let count = unsafe { (*header).msg_iovlen };
        #[allow(clippy::unnecessary_cast, reason = "its type is not the same in all C libraries")]
        (vecs.cast(), count as usize)
    }
}
