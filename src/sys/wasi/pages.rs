//! Memory of the allocator: there is no other, and no process has children.

#![allow(unsafe_code)]

use std::alloc::{self, Layout};
use std::io;
use std::ptr::NonNull;

#[derive(Debug)]
pub(crate) struct Pages {
    base: NonNull<u8>,
    layout: Layout,
}

impl Pages {
    pub(crate) fn new(len: usize) -> io::Result<Pages> {
        const ALIGNMENT: usize = 4096;
        let layout =
            Layout::from_size_align(len.max(1), ALIGNMENT).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // SAFETY: S8: the size is not zero.
        let base = unsafe { alloc::alloc_zeroed(layout) };
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Pages { base, layout })
    }

    pub(crate) fn of_this_process(len: usize) -> io::Result<Pages> {
        Pages::new(len)
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: S13: the memory is ours, and nothing points into it any more.
        unsafe { alloc::dealloc(self.base.as_ptr(), self.layout) };
    }
}
