//! Files, below the directories that the host has opened for the program: a path is looked up there by the C library.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char};
use std::io;
use std::path::Path;

use wasip1::{
    FDFLAGS_APPEND, FILETYPE_BLOCK_DEVICE, FILETYPE_CHARACTER_DEVICE, FILETYPE_DIRECTORY,
    FILETYPE_REGULAR_FILE,
};

use super::descriptor::facts;
use super::io_vec::IoVec;
use super::{errno, result_of};
use crate::sys::RawDescriptor;
use crate::sys::file::{FileType, Identity, Opening};

/// The system names no limit; the hosts have that of theirs, which is as large.
pub(crate) const PATH_BYTES_MAX: usize = 4096;

/// POSIX's lower limit.
pub(crate) const PIPE_BUF: usize = 512;

pub(crate) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| errno::error(errno::EINVAL))
}

pub(crate) fn open_flags(how: &Opening) -> i32 {
    let access = match (how.read, how.write || how.append) {
        (true, true) => libc::O_RDWR,
        (false, true) => libc::O_WRONLY,
        (_, false) => libc::O_RDONLY,
    };
    let creation = if how.create_new {
        libc::O_CREAT | libc::O_EXCL
    } else {
        (if how.create { libc::O_CREAT } else { 0 }) | (if how.truncate { libc::O_TRUNC } else { 0 })
    };
    let append = if how.append { libc::O_APPEND } else { 0 };
    access | creation | append | (how.custom & !libc::O_ACCMODE)
}

/// # Safety
/// A path is at `path`, and ends with a zero byte.
pub(crate) unsafe fn open(path: *const c_char, flags: i32, _mode: u32) -> i32 {
    // SAFETY: S8: the caller's promise. There are no permissions.
    result_of(unsafe { libc::open(path, flags) } as isize)
}

pub(crate) fn close(fd: RawDescriptor) -> i32 {
    // SAFETY: S7: the caller owns the descriptor.
    result_of(unsafe { libc::close(fd) } as isize)
}

pub(crate) fn sync_all(fd: RawDescriptor) -> i32 {
    // SAFETY: S8: no memory is passed.
    result_of(unsafe { libc::fsync(fd) } as isize)
}

pub(crate) fn sync_data(fd: RawDescriptor) -> i32 {
    // SAFETY: S8: no memory is passed.
    result_of(unsafe { libc::fdatasync(fd) } as isize)
}

/// # Safety
/// The `count` runs at `vecs` are valid for writes.
pub(crate) unsafe fn read(fd: RawDescriptor, vecs: *const IoVec, count: i32, offset: i64) -> i32 {
    result_of(match offset {
        // SAFETY: S8: the caller's promise.
        -1 => unsafe { libc::readv(fd, vecs.cast(), count) },
        // SAFETY: S8: as above.
        _ => unsafe { libc::preadv(fd, vecs.cast(), count, offset) },
    })
}

/// # Safety
/// The `count` runs at `vecs` are valid.
pub(crate) unsafe fn write(fd: RawDescriptor, vecs: *const IoVec, count: i32, offset: i64) -> i32 {
    result_of(match offset {
        // SAFETY: S8: the caller's promise.
        -1 => unsafe { libc::writev(fd, vecs.cast(), count) },
        // SAFETY: S8: as above.
        _ => unsafe { libc::pwritev(fd, vecs.cast(), count, offset) },
    })
}

/// It cannot be asked for.
///
/// # Safety
/// None.
pub(crate) unsafe fn read_nowait(_fd: RawDescriptor, _vecs: *const IoVec, _count: i32, _offset: i64) -> i32 {
    -errno::EOPNOTSUPP
}

/// It cannot be asked for.
///
/// # Safety
/// None.
pub(crate) unsafe fn write_nowait(_fd: RawDescriptor, _vecs: *const IoVec, _count: i32, _offset: i64) -> i32 {
    -errno::EOPNOTSUPP
}

pub(crate) fn file_type(fd: RawDescriptor) -> Result<FileType, i32> {
    Ok(match facts(fd)?.fs_filetype {
        FILETYPE_REGULAR_FILE | FILETYPE_DIRECTORY | FILETYPE_BLOCK_DEVICE => {
            FileType::OnDisk { is_cached: true }
        }
        FILETYPE_CHARACTER_DEVICE => FileType::CharacterDevice,
        _ => FileType::Other,
    })
}

pub(crate) fn identity(fd: RawDescriptor) -> Result<Identity, i32> {
    // SAFETY: S8: integers only, for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: S8: the record is valid for the length of the call.
    if unsafe { libc::fstat(fd, &raw mut stat) } != 0 {
        return Err(errno::last());
    }
    let has_position = matches!(stat.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFBLK);
    Ok(Identity { device: stat.st_dev, inode: stat.st_ino, has_position })
}

/// The system does not say; descriptors cannot be duplicated, so two have two positions.
pub(crate) fn share_position(one: RawDescriptor, other: RawDescriptor) -> bool {
    one == other
}

pub(crate) fn appends(fd: RawDescriptor) -> bool {
    facts(fd).is_ok_and(|facts| facts.fs_flags & FDFLAGS_APPEND != 0)
}

pub(crate) fn position(fd: RawDescriptor) -> Option<u64> {
    // SAFETY: S8: no memory is passed.
    u64::try_from(unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) }).ok()
}

pub(crate) fn put_position(fd: RawDescriptor, end: u64, was_written: bool) {
    let appended = was_written && appends(fd);
    let (offset, whence) = if appended { (0, libc::SEEK_END) } else { (end as i64, libc::SEEK_SET) };
    // SAFETY: S8: no memory is passed. A file that cannot be positioned has no position to move.
    unsafe { libc::lseek(fd, offset, whence) };
}
