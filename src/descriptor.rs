//! The owned descriptor under every socket and file.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use crate::generations;
use crate::sim_hooks;
use crate::sys;

pub use crate::sys::RawDescriptor;

/// An owned descriptor that can be closed in place: afterwards its number is -1, which every operation
/// answers with `EBADF`.
#[derive(Debug)]
pub(crate) struct Descriptor(RawDescriptor);

impl Descriptor {
    const CLOSED: RawDescriptor = -1;

    pub(crate) fn number(&self) -> RawDescriptor {
        self.0
    }

    /// Takes the descriptor out, to be closed by an operation.
    pub(crate) fn take(&mut self) -> RawDescriptor {
        std::mem::replace(&mut self.0, Descriptor::CLOSED)
    }

    /// # Safety
    /// `fd` must be open and owned by nothing else (S7).
    pub(crate) unsafe fn from_raw(fd: RawDescriptor) -> Descriptor {
        generations::begin(fd);
        // SAFETY: S7: the caller's promise.
        unsafe { Descriptor::from_known(fd) }
    }

    /// Wraps a descriptor whose generation has begun: operations were done on it.
    ///
    /// # Safety
    /// As [`Descriptor::from_raw`].
    pub(crate) unsafe fn from_known(fd: RawDescriptor) -> Descriptor {
        debug_assert!(fd >= 0);
        Descriptor(fd)
    }

    /// Borrows it.
    ///
    /// # Panics
    /// If it has been closed in place.
    pub(crate) fn borrow(&self) -> BorrowedFd<'_> {
        assert!(self.0 != Descriptor::CLOSED, "the descriptor has been closed");
        // SAFETY: S7: it is open as long as `self` is borrowed: closing takes `&mut self`.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }

    /// Gives it up.
    ///
    /// # Panics
    /// If it has been closed in place.
    pub(crate) fn into_owned(mut self) -> OwnedFd {
        let fd = self.take();
        assert!(fd != Descriptor::CLOSED, "the descriptor has been closed");
        // SAFETY: S7: it was ours alone and is forgotten here.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }
}

impl From<OwnedFd> for Descriptor {
    fn from(fd: OwnedFd) -> Descriptor {
        let fd = fd.into_raw_fd();
        generations::begin(fd);
        Descriptor(fd)
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        close_raw(self.take());
    }
}

/// Closes a descriptor that the caller owns; -1 is already closed.
pub(crate) fn close_raw(fd: RawDescriptor) {
    if fd >= 0 {
        sim_hooks::closing(fd);
        close_number(fd);
    }
}

/// Closes what a close operation owned that was not begun. As the operation, it does not wait for a peer.
#[cold]
pub(crate) fn close_unbegun(fd: RawDescriptor) {
    sys::socket::linger_in_background(fd);
    close_raw(fd);
}

/// Closes a descriptor that the caller owns and that stands for nothing else; -1 is already closed.
pub(crate) fn close_number(fd: RawDescriptor) {
    if fd >= 0 {
        // SAFETY: S7: the caller owns it and gives it up.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

/// The conversions that every type around a [`Descriptor`] has.
macro_rules! descriptor_conversions {
    ($type:ident) => {
        impl std::os::fd::AsFd for $type {
            /// # Panics
            /// If it was closed by its `close` operation.
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                self.descriptor.borrow()
            }
        }

        impl std::os::fd::AsRawFd for $type {
            /// The number, or -1 if it was closed by its `close` operation.
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                self.descriptor.number()
            }
        }

        impl From<$type> for std::os::fd::OwnedFd {
            /// # Panics
            /// If it was closed by its `close` operation.
            fn from(this: $type) -> std::os::fd::OwnedFd {
                this.descriptor.into_owned()
            }
        }
    };
}
pub(crate) use descriptor_conversions;
