//! Sockets, which macOS makes and accepts without flags, and whose signal for a peer that is gone it turns off for each.

#![allow(unsafe_code)]

use super::errno;
#[cfg(feature = "sim")]
pub(crate) use crate::sys::unix::socket::shutdown_of;
pub(crate) use crate::sys::unix::socket::{
    connect, connected, direction, is_socket, linger_in_background, option, recv, recv_message, send,
    send_message, shutdown, take_urgent_data_in_line,
};
use crate::sys::{RawDescriptor, unix::result_of};

/// The peer's reset is an error, never a signal.
#[cfg(not(target_vendor = "apple"))]
pub(crate) const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL;

/// Each socket has the option `SO_NOSIGPIPE` for it.
#[cfg(target_vendor = "apple")]
pub(crate) const SEND_FLAGS: i32 = 0;

#[cfg(not(target_vendor = "apple"))]
const FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

pub(crate) fn open_stream(family: i32) -> Result<RawDescriptor, i32> {
    #[cfg(not(target_vendor = "apple"))]
    let kind = libc::SOCK_STREAM | FLAGS;
    #[cfg(target_vendor = "apple")]
    let kind = libc::SOCK_STREAM;
    // SAFETY: S8: no memory is passed.
    match made(result_of(unsafe { libc::socket(family, kind, 0) } as isize)) {
        fd @ 0.. => Ok(fd),
        code => Err(-code),
    }
}

/// # Safety
/// `address` is valid for writes of `len` bytes, and `len` is, too; or both are null.
pub(crate) unsafe fn accept(fd: RawDescriptor, address: *mut u8, len: *mut u32) -> i32 {
    #[cfg(not(target_vendor = "apple"))]
    // SAFETY: S8: the caller's promise.
    let accepted = unsafe { libc::accept4(fd, address.cast(), len, FLAGS) };
    #[cfg(target_vendor = "apple")]
    // SAFETY: S8: the caller's promise.
    let accepted = unsafe { libc::accept(fd, address.cast(), len) };
    made(result_of(accepted as isize))
}

/// Other systems take the flags.
#[cfg(not(target_vendor = "apple"))]
fn made(fd: i32) -> i32 {
    fd
}

/// Sets what a new socket could not be made with. A thread that forks in between hands the socket on.
#[cfg(target_vendor = "apple")]
fn made(fd: i32) -> i32 {
    if fd < 0 {
        return fd;
    }
    // SAFETY: S8: no memory is passed.
    let closed = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: S8: no memory is passed.
    let status = unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
    let (yes, len) = (1i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: S8: the value is valid for the length of the call. It fails if the peer is gone, and then nothing is sent.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_NOSIGPIPE, (&raw const yes).cast(), len) };
    if closed == 0 && status == 0 {
        return fd;
    }
    let code = errno::last();
    super::file::close(fd);
    -code
}

/// A stream of an IP family.
pub(crate) fn is_tcp(fd: RawDescriptor) -> bool {
    // SAFETY: S8: integers only, for which zero is valid.
    let mut address: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: S8: place and length are valid for the length of the call.
    let status = unsafe { libc::getsockname(fd, (&raw mut address).cast(), &raw mut len) };
    let is_of_ip = matches!(i32::from(address.ss_family), libc::AF_INET | libc::AF_INET6);
    status == 0 && is_of_ip && option(fd, libc::SOL_SOCKET, libc::SO_TYPE) == Ok(libc::SOCK_STREAM)
}

/// The system does not tell.
#[cold]
pub(crate) fn connections_waiting(_fd: RawDescriptor) -> Option<u32> {
    None
}
