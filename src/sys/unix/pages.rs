//! Anonymous memory: mmap(2).

#![allow(unsafe_code)]

use std::io;
use std::ptr::{self, NonNull};

use super::errno;

#[derive(Debug)]
pub(crate) struct Pages {
    base: NonNull<u8>,
    len: usize,
}

impl Pages {
    pub(crate) fn new(len: usize) -> io::Result<Pages> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
        // SAFETY: S8: a new private mapping touches no memory of ours.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| errno::error(errno::ENOMEM))?;
        Ok(Pages { base, len })
    }

    /// Pages that a child of this process finds zero (madvise(2): Linux 4.14), or, where that cannot be had,
    /// as they were.
    pub(crate) fn of_this_process(len: usize) -> io::Result<Pages> {
        let pages = Pages::new(len)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        // SAFETY: S8: the mapping is ours, and this changes nothing of it for us.
        unsafe {
            libc::madvise(pages.base.as_ptr().cast(), pages.len, libc::MADV_WIPEONFORK)
        };
        Ok(pages)
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: S13: the mapping is ours, and nothing points into it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
