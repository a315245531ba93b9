//! What the file system knows of a file: `struct stat`.

#![allow(unsafe_code)]

use super::result_of;
use crate::sys::RawDescriptor;

/// The system's own record of what it knows of a file, as the C library has it.
pub type RawMetadata = libc::stat;

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Record(libc::stat);

impl Record {
    pub(crate) const fn new() -> Record {
        // SAFETY: S8: integers only, for which zero is valid.
        Record(unsafe { std::mem::zeroed() })
    }

    /// # Safety
    /// `record` is valid for writes.
    pub(crate) unsafe fn fill(record: *mut Record, fd: RawDescriptor) -> i32 {
        // SAFETY: S8: the caller's promise.
        result_of(unsafe { libc::fstat(fd, record.cast()) } as isize)
    }

    pub(crate) const fn raw(&self) -> &RawMetadata {
        &self.0
    }

    pub(crate) const fn size(&self) -> u64 {
        self.0.st_size as u64
    }

    pub(crate) fn is_file(&self) -> bool {
        self.0.st_mode & libc::S_IFMT == libc::S_IFREG
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.0.st_mode & libc::S_IFMT == libc::S_IFDIR
    }

    /// There are none.
    pub(crate) fn permissions(&self) -> u32 {
        0
    }

    /// Seconds since 1970, and nanoseconds.
    pub(crate) fn modified(&self) -> (i64, u32) {
        (self.0.st_mtim.tv_sec, self.0.st_mtim.tv_nsec as u32)
    }
}
