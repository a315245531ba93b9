//! What the file system knows of a file: `struct stat`.

#![allow(unsafe_code)]

use crate::sys::RawDescriptor;
#[cfg(feature = "sim")]
use crate::sys::metadata::{FileKind, Stat};
use crate::sys::unix::result_of;

/// The system's own record of what it knows of a file: on macOS and the BSDs `struct stat`.
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

    #[cfg(feature = "sim")]
    pub(crate) fn of(stat: &Stat) -> Record {
        let file_type = match stat.kind {
            FileKind::Regular => libc::S_IFREG,
            FileKind::Directory => libc::S_IFDIR,
            FileKind::Pipe => libc::S_IFIFO,
            FileKind::Socket => libc::S_IFSOCK,
        };
        let mut record = Record::new();
        record.0.st_blksize = 4096;
        record.0.st_nlink = 1;
        record.0.st_ino = stat.inode;
        record.0.st_mode = file_type | stat.permissions as libc::mode_t;
        record.0.st_size = stat.size as libc::off_t;
        record.0.st_blocks = stat.size.div_ceil(512) as i64;
        record.0.st_mtime = (stat.modified_ns / 1_000_000_000) as libc::time_t;
        set_nanoseconds(&mut record.0, stat.modified_ns % 1_000_000_000);
        record
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

    pub(crate) fn permissions(&self) -> u32 {
        u32::from(self.0.st_mode) & 0o7777
    }

    /// Seconds since 1970, and nanoseconds.
    pub(crate) fn modified(&self) -> (i64, u32) {
        (self.0.st_mtime, nanoseconds(&self.0))
    }
}

// NetBSD has the field under a name of its own.

#[cfg(not(target_os = "netbsd"))]
fn nanoseconds(stat: &libc::stat) -> u32 {
    stat.st_mtime_nsec as u32
}

#[cfg(target_os = "netbsd")]
fn nanoseconds(stat: &libc::stat) -> u32 {
    stat.st_mtimensec as u32
}

#[cfg(all(feature = "sim", not(target_os = "netbsd")))]
fn set_nanoseconds(stat: &mut libc::stat, nanoseconds: u64) {
    stat.st_mtime_nsec = nanoseconds as _;
}

#[cfg(all(feature = "sim", target_os = "netbsd"))]
fn set_nanoseconds(stat: &mut libc::stat, nanoseconds: u64) {
    stat.st_mtimensec = nanoseconds as _;
}
