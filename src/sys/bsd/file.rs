//! Files. Offsets have 64 bits, and no call can be told not to block.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_uint};

use super::errno;
use crate::sys::RawDescriptor;
use crate::sys::file::{FileType, Identity};
use crate::sys::unix::descriptor::status_flags;
use crate::sys::unix::file::{readv, writev};
use crate::sys::unix::io_vec::IoVec;
use crate::sys::unix::result_of;

#[cfg(feature = "sim")]
pub(crate) use crate::sys::unix::file::opening;
pub(crate) use crate::sys::unix::file::{PATH_BYTES_MAX, PIPE_BUF, c_path, close, open_flags};

/// # Safety
/// A path is at `path`, and ends with a zero byte.
pub(crate) unsafe fn open(path: *const c_char, flags: i32, mode: u32) -> i32 {
    // SAFETY: S8: the caller's promise.
    result_of(unsafe { libc::open(path, flags, c_uint::from(mode)) } as isize)
}

/// fsync(2) of macOS gives the data to the disk, which may keep it in memory of its own: `F_FULLFSYNC` has the disk
/// write it. Not every file system knows that.
#[cfg(target_vendor = "apple")]
pub(crate) fn sync_all(fd: RawDescriptor) -> i32 {
    // SAFETY: S8: no memory is passed.
    if unsafe { libc::fcntl(fd, libc::F_FULLFSYNC) } == 0 {
        return 0;
    }
    match errno::last() {
        // SAFETY: S8: no memory is passed.
        errno::EINVAL | errno::EOPNOTSUPP | libc::ENOTSUP | libc::ENOTTY => {
            result_of(unsafe { libc::fsync(fd) } as isize)
        }
        code => -code,
    }
}

/// fsync(2).
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn sync_all(fd: RawDescriptor) -> i32 {
    // SAFETY: S8: no memory is passed.
    result_of(unsafe { libc::fsync(fd) } as isize)
}

/// There is nothing less than [`sync_all`].
#[cfg(target_vendor = "apple")]
pub(crate) fn sync_data(fd: RawDescriptor) -> i32 {
    sync_all(fd)
}

/// fdatasync(2).
#[cfg(not(target_vendor = "apple"))]
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
    result_of(unsafe { libc::preadv(fd, vecs.cast(), count, offset) } as isize)
}

/// # Safety
/// The `count` runs at `vecs` are valid.
pub(crate) unsafe fn write(fd: RawDescriptor, vecs: *const IoVec, count: i32, offset: i64) -> i32 {
    if offset == -1 {
        // SAFETY: S8: the caller's promise.
        return unsafe { writev(fd, vecs, count) };
    }
    // SAFETY: S8: as above.
    result_of(unsafe { libc::pwritev(fd, vecs.cast(), count, offset) } as isize)
}

/// # Safety
/// As [`read`].
pub(crate) unsafe fn read_nowait(_fd: RawDescriptor, _vecs: *const IoVec, _count: i32, _offset: i64) -> i32 {
    -errno::EOPNOTSUPP
}

/// # Safety
/// As [`write`].
pub(crate) unsafe fn write_nowait(_fd: RawDescriptor, _vecs: *const IoVec, _count: i32, _offset: i64) -> i32 {
    -errno::EOPNOTSUPP
}

/// fstat(2).
fn stat(fd: RawDescriptor) -> Result<libc::stat, i32> {
    // SAFETY: S8: integers only, for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: S8: the record is valid for the length of the call.
    if unsafe { libc::fstat(fd, &raw mut stat) } == 0 { Ok(stat) } else { Err(errno::last()) }
}

pub(crate) fn file_type(fd: RawDescriptor) -> Result<FileType, i32> {
    Ok(match stat(fd)?.st_mode & libc::S_IFMT {
        // Whether it is kept in memory (`F_NOCACHE` of macOS, `O_DIRECT`) decides only what is tried without blocking.
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK => FileType::OnDisk { is_cached: true },
        libc::S_IFCHR => FileType::CharacterDevice,
        _ => FileType::Other,
    })
}

#[cold]
pub(crate) fn identity(fd: RawDescriptor) -> Result<Identity, i32> {
    let stat = stat(fd)?;
    Ok(Identity {
        device: stat.st_dev as u64,
        inode: stat.st_ino,
        has_position: matches!(stat.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFBLK),
    })
}

/// The system does not say.
#[cold]
pub(crate) fn share_position(_one: RawDescriptor, _other: RawDescriptor) -> bool {
    true
}

pub(crate) fn appends(fd: RawDescriptor) -> bool {
    status_flags(fd) & libc::O_APPEND != 0
}

pub(crate) fn position(fd: RawDescriptor) -> Option<u64> {
    // SAFETY: S8: no memory is passed.
    u64::try_from(unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) }).ok()
}

#[cold]
pub(crate) fn put_position(fd: RawDescriptor, end: u64, was_written: bool) {
    let appended = was_written && appends(fd);
    let (offset, whence) = if appended { (0, libc::SEEK_END) } else { (end as i64, libc::SEEK_SET) };
    // SAFETY: S8: no memory is passed. A file that cannot be positioned has no position to move.
    unsafe { libc::lseek(fd, offset, whence) };
}
