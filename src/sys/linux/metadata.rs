//! What the file system knows of a file: `struct statx` (Linux 4.11).

#![allow(unsafe_code)]

use std::ffi::c_int;

use crate::sys::RawDescriptor;
#[cfg(feature = "sim")]
use crate::sys::metadata::{FileKind, Stat};
use crate::sys::unix::result_of;

/// The system's own record of what it knows of a file: on Linux `struct statx`.
pub type RawMetadata = libc::statx;

/// What a record is filled with.
pub(crate) const MASK: u32 = libc::STATX_BASIC_STATS | libc::STATX_BTIME;

/// The path is empty: the file is the descriptor's.
pub(crate) const FLAGS: c_int = libc::AT_EMPTY_PATH;

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Record(libc::statx);

impl Record {
    pub(crate) const fn new() -> Record {
        // SAFETY: S8: integers only, for which zero is valid.
        Record(unsafe { std::mem::zeroed() })
    }

    /// # Safety
    /// `record` is valid for writes.
    pub(crate) unsafe fn fill(record: *mut Record, fd: RawDescriptor) -> i32 {
        // SAFETY: S8: the caller's promise.
        result_of(unsafe { libc::statx(fd, c"".as_ptr(), FLAGS, MASK, record.cast()) } as isize)
    }

    #[cfg(feature = "sim")]
    pub(crate) fn of(stat: &Stat) -> Record {
        let file_type = match stat.kind {
            FileKind::Regular => libc::S_IFREG,
            FileKind::Directory => libc::S_IFDIR,
            FileKind::Pipe => libc::S_IFIFO,
            FileKind::Socket => libc::S_IFSOCK,
        };
        let mut record = Record::new();
        record.0.stx_mask = libc::STATX_BASIC_STATS;
        record.0.stx_blksize = 4096;
        record.0.stx_nlink = 1;
        record.0.stx_ino = stat.inode;
        record.0.stx_mode = (file_type | stat.permissions) as u16;
        record.0.stx_size = stat.size;
        record.0.stx_blocks = stat.size.div_ceil(512);
        record.0.stx_mtime.tv_sec = (stat.modified_ns / 1_000_000_000) as i64;
        record.0.stx_mtime.tv_nsec = (stat.modified_ns % 1_000_000_000) as u32;
        record
    }

    pub(crate) const fn raw(&self) -> &RawMetadata {
        &self.0
    }

    pub(crate) const fn size(&self) -> u64 {
        self.0.stx_size
    }

    pub(crate) fn is_file(&self) -> bool {
        self.type_is(libc::S_IFREG)
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.type_is(libc::S_IFDIR)
    }

    fn type_is(&self, file_type: u32) -> bool {
        u32::from(self.0.stx_mode) & libc::S_IFMT == file_type
    }

    pub(crate) fn permissions(&self) -> u32 {
        u32::from(self.0.stx_mode) & 0o7777
    }

    /// Seconds since 1970, and nanoseconds.
    pub(crate) fn modified(&self) -> (i64, u32) {
        (self.0.stx_mtime.tv_sec, self.0.stx_mtime.tv_nsec)
    }
}
