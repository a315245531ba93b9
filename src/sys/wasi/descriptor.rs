//! Descriptors of every kind.

#![allow(unsafe_code)]

use wasip1::{FDFLAGS_NONBLOCK, FILETYPE_CHARACTER_DEVICE, Fdstat};

use crate::sys::RawDescriptor;

/// The system tells no limit.
pub(crate) fn count_max() -> usize {
    0
}

/// What the system knows of a descriptor. The error is a code.
pub(in crate::sys) fn facts(fd: RawDescriptor) -> Result<Fdstat, i32> {
    // SAFETY: S8: no memory is passed.
    unsafe { wasip1::fd_fdstat_get(fd as u32) }.map_err(|code| i32::from(code.raw()))
}

pub(crate) fn is_blocking(fd: RawDescriptor) -> bool {
    facts(fd).is_ok_and(|facts| facts.fs_flags & FDFLAGS_NONBLOCK == 0)
}

pub(crate) fn is_terminal(fd: RawDescriptor) -> bool {
    facts(fd).is_ok_and(|facts| facts.fs_filetype == FILETYPE_CHARACTER_DEVICE)
}

/// Has calls on it not block, from now on.
pub(in crate::sys) fn set_nonblocking(fd: RawDescriptor) -> Result<(), i32> {
    let flags = facts(fd)?.fs_flags | FDFLAGS_NONBLOCK;
    // SAFETY: S8: no memory is passed.
    unsafe { wasip1::fd_fdstat_set_flags(fd as u32, flags) }.map_err(|code| i32::from(code.raw()))
}
