//! Files, with offsets of 64 bits also where the C library's have 32.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_long};

use super::errno;
use crate::sys::RawDescriptor;
use crate::sys::file::{FileType, Identity, Opening};
use crate::sys::unix::descriptor::status_flags;
use crate::sys::unix::file::{self, readv, writev};
use crate::sys::unix::io_vec::IoVec;
use crate::sys::unix::result_of;

#[cfg(feature = "sim")]
pub(crate) use crate::sys::unix::file::opening;
pub(crate) use crate::sys::unix::file::{PATH_BYTES_MAX, PIPE_BUF, c_path, close};

pub(crate) fn open_flags(how: &Opening) -> i32 {
    file::open_flags(how) | libc::O_LARGEFILE
}

/// # Safety
/// A path is at `path`, and ends with a zero byte.
pub(crate) unsafe fn open(path: *const c_char, flags: i32, mode: u32) -> i32 {
    // SAFETY: S8: the caller's promise.
    result_of(unsafe { libc::open64(path, flags, mode) } as isize)
}

/// fsync(2).
pub(crate) fn sync_all(fd: RawDescriptor) -> i32 {
    // SAFETY: S8: no memory is passed.
    result_of(unsafe { libc::fsync(fd) } as isize)
}

/// fdatasync(2).
pub(crate) fn sync_data(fd: RawDescriptor) -> i32 {
    // SAFETY: S8: no memory is passed.
    result_of(unsafe { libc::fdatasync(fd) } as isize)
}

/// # Safety
/// The `count` runs at `vecs` are valid for writes.
pub(crate) unsafe fn read(fd: RawDescriptor, vecs: *const IoVec, count: i32, offset: i64) -> i32 {
    if offset == -1 {
        // SAFETY: S8: the caller's promise.
        return unsafe { readv(fd, vecs, count) };
    }
    // SAFETY: S8: as above.
    result_of(unsafe { libc::preadv64(fd, vecs.cast(), count, offset) })
}

/// # Safety
/// The `count` runs at `vecs` are valid.
pub(crate) unsafe fn write(fd: RawDescriptor, vecs: *const IoVec, count: i32, offset: i64) -> i32 {
    if offset == -1 {
        // SAFETY: S8: the caller's promise.
        return unsafe { writev(fd, vecs, count) };
    }
    // SAFETY: S8: as above.
    result_of(unsafe { libc::pwritev64(fd, vecs.cast(), count, offset) })
}

/// `RWF_NOWAIT`: files since Linux 4.14, pipes and sockets since 5.10 or so.
///
/// # Safety
/// As [`read`].
pub(crate) unsafe fn read_nowait(fd: RawDescriptor, vecs: *const IoVec, count: i32, offset: i64) -> i32 {
    // SAFETY: S8: the caller's promise.
    unsafe { nowait(libc::SYS_preadv2, fd, vecs, count, offset) }
}

/// # Safety
/// As [`write`].
pub(crate) unsafe fn write_nowait(fd: RawDescriptor, vecs: *const IoVec, count: i32, offset: i64) -> i32 {
    // SAFETY: S8: the caller's promise.
    unsafe { nowait(libc::SYS_pwritev2, fd, vecs, count, offset) }
}

/// preadv2(2) or pwritev2(2), which not every C library has with an offset of 64 bits.
///
/// # Safety
/// As [`read`] or [`write`].
unsafe fn nowait(number: c_long, fd: RawDescriptor, vecs: *const IoVec, count: i32, offset: i64) -> i32 {
    // Where registers have 64 bits the kernel takes the lower half to be the whole.
    let (low, high) = (offset as c_long, (offset >> 32) as c_long);
    // SAFETY: S8: the caller's promise.
    let moved = unsafe {
        libc::syscall(number, c_long::from(fd), vecs, c_long::from(count), low, high, libc::RWF_NOWAIT)
    };
    match result_of(moved as isize) {
        errno if errno == -errno::ENOSYS => -errno::EOPNOTSUPP,
        result => result,
    }
}

pub(crate) fn file_type(fd: RawDescriptor) -> Result<FileType, i32> {
    // SAFETY: S8: integers only, for which zero is valid.
    let mut stat: libc::stat64 = unsafe { std::mem::zeroed() };
    // SAFETY: S8: the record is valid for the length of the call.
    if unsafe { libc::fstat64(fd, &raw mut stat) } != 0 {
        return Err(errno::last());
    }
    Ok(match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK => {
            FileType::OnDisk { is_cached: status_flags(fd) & libc::O_DIRECT == 0 }
        }
        libc::S_IFCHR => FileType::CharacterDevice,
        _ => FileType::Other,
    })
}

/// statx(2), without asking a server: neither type nor number ever changes.
#[cold]
pub(crate) fn identity(fd: RawDescriptor) -> Result<Identity, i32> {
    // SAFETY: S8: integers only, for which zero is valid.
    let mut record: libc::statx = unsafe { std::mem::zeroed() };
    let (flags, mask) = (libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC, libc::STATX_TYPE | libc::STATX_INO);
    // SAFETY: S8: path and record are valid for the length of the call.
    if unsafe { libc::statx(fd, c"".as_ptr(), flags, mask, &raw mut record) } != 0 {
        return Err(errno::last());
    }
    Ok(Identity {
        device: u64::from(record.stx_dev_major) << 32 | u64::from(record.stx_dev_minor),
        inode: record.stx_ino,
        has_position: matches!(u32::from(record.stx_mode) & libc::S_IFMT, libc::S_IFREG | libc::S_IFBLK),
    })
}

#[cold]
pub(crate) fn share_position(one: RawDescriptor, other: RawDescriptor) -> bool {
    /// `F_DUPFD_QUERY` (6.10).
    const DUPFD_QUERY: i32 = 1024 + 3;
    /// `KCMP_FILE` of kcmp(2), which is often filtered, and not in every kernel.
    const KCMP_FILE: i32 = 0;
    // SAFETY: S8: no memory is passed.
    match unsafe { libc::fcntl(one, DUPFD_QUERY, other) } {
        0 => return false,
        1 => return true,
        _ => {}
    }
    let process = std::process::id();
    // SAFETY: S8: no memory is passed.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, process, process, KCMP_FILE, one, other) };
    order <= 0
}

pub(crate) fn appends(fd: RawDescriptor) -> bool {
    status_flags(fd) & libc::O_APPEND != 0
}

pub(crate) fn position(fd: RawDescriptor) -> Option<u64> {
    // SAFETY: S8: no memory is passed.
    u64::try_from(unsafe { libc::lseek64(fd, 0, libc::SEEK_CUR) }).ok()
}

#[cold]
pub(crate) fn put_position(fd: RawDescriptor, end: u64, was_written: bool) {
    let appended = was_written && appends(fd);
    let (offset, whence) = if appended { (0, libc::SEEK_END) } else { (end as i64, libc::SEEK_SET) };
    // SAFETY: S8: no memory is passed. A file that cannot be positioned has no position to move.
    unsafe { libc::lseek64(fd, offset, whence) };
}
