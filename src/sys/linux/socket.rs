//! Sockets that are made with their flags, in one call (Linux 2.6.28).

#![allow(unsafe_code)]

use super::errno;
#[cfg(feature = "sim")]
pub(crate) use crate::sys::unix::socket::shutdown_of;
pub(crate) use crate::sys::unix::socket::{
    connect, connected, direction, is_socket, linger_in_background, option, recv_message, send_message,
    shutdown, take_urgent_data_in_line,
};
#[cfg(target_pointer_width = "32")]
pub(crate) use crate::sys::unix::socket::{recv, send};
use crate::sys::{RawDescriptor, unix::result_of};

/// How sockets are made, by us or by an accept: not inherited, and not blocking, so that every backend can use
/// them.
pub(crate) const FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// The peer's reset is an error, never a signal.
pub(crate) const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL;

pub(crate) fn open_stream(family: i32) -> Result<RawDescriptor, i32> {
    // SAFETY: S8: no memory is passed.
    match unsafe { libc::socket(family, libc::SOCK_STREAM | FLAGS, 0) } {
        fd @ 0.. => Ok(fd),
        _ => Err(errno::last()),
    }
}

/// The C library's `recv` is a cancellation point (pthreads(7)): where there are threads, it takes 50 instructions to be
/// one. Nothing here is cancelled, so the call is made without it.
///
/// # Safety
/// `place` is valid for writes of `len` bytes.
#[cfg(target_pointer_width = "64")]
#[inline]
pub(crate) unsafe fn recv(fd: RawDescriptor, place: *mut u8, len: usize) -> i32 {
    let (flags, no_address) = (libc::MSG_DONTWAIT, 0usize);
    // SAFETY: S8: the caller's promise.
    let count = unsafe { libc::syscall(libc::SYS_recvfrom, fd, place, len, flags, no_address, no_address) };
    result_of(count as isize)
}

/// As [`recv`].
///
/// # Safety
/// `place` is valid for reads of `len` bytes.
#[cfg(target_pointer_width = "64")]
#[inline]
pub(crate) unsafe fn send(fd: RawDescriptor, place: *const u8, len: usize) -> i32 {
    let (flags, no_address) = (libc::MSG_DONTWAIT | SEND_FLAGS, 0usize);
    // SAFETY: S8: the caller's promise.
    let count = unsafe { libc::syscall(libc::SYS_sendto, fd, place, len, flags, no_address, no_address) };
    result_of(count as isize)
}

/// # Safety
/// `address` is valid for writes of `len` bytes, and `len` is, too; or both are null.
pub(crate) unsafe fn accept(fd: RawDescriptor, address: *mut u8, len: *mut u32) -> i32 {
    // SAFETY: S8: the caller's promise.
    result_of(unsafe { libc::accept4(fd, address.cast(), len, FLAGS) } as isize)
}

/// `SO_PROTOCOL` (Linux 2.6.32).
pub(crate) fn is_tcp(fd: RawDescriptor) -> bool {
    option(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL) == Ok(libc::IPPROTO_TCP)
}

/// A state of `tcpi_state`, from net/tcp_states.h.
const TCP_LISTEN: u8 = 10;

/// How many connections a listening TCP socket has for accept(2): its `tcpi_unacked` (tcp(7)). `None`: it is no such
/// socket.
#[cold]
#[cfg(target_os = "linux")]
pub(crate) fn connections_waiting(fd: RawDescriptor) -> Option<u32> {
    // SAFETY: S8: integers only, for which zero is valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: S8: record and length are valid for the length of the call.
    let status = unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len)
    };
    (status == 0 && info.tcpi_state == TCP_LISTEN).then_some(info.tcpi_unacked)
}

/// Wakes every accept that waits on a listening TCP socket, in whichever ring, thread or process. `shutdown(2)` of the
/// writing direction changes nothing of such a socket, but the kernel wakes all its waiters (`inet_shutdown` in
/// net/ipv4/af_inet.c, at least from Linux 2.6 to 6.18).
#[cold]
pub(crate) fn wake_accepts(listener: RawDescriptor) {
    shutdown(listener, libc::SHUT_WR);
}

/// The C library of Android has no record for it.
#[cfg(target_os = "android")]
pub(crate) fn connections_waiting(_fd: RawDescriptor) -> Option<u32> {
    None
}
