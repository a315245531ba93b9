//! Calls on sockets. None of them blocks.

#![allow(unsafe_code)]

use std::net::Shutdown;

use super::io_vec::Message;
use super::{errno, result_of};
use crate::sys::RawDescriptor;
use crate::sys::platform::socket::SEND_FLAGS;

pub(crate) fn option(fd: RawDescriptor, level: i32, name: i32) -> Result<i32, i32> {
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: S8: value and length are valid for the length of the call.
    let status = unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) };
    if status == 0 { Ok(value) } else { Err(errno::last()) }
}

pub(crate) fn is_socket(fd: RawDescriptor) -> bool {
    option(fd, libc::SOL_SOCKET, libc::SO_TYPE).is_ok()
}

/// # Safety
/// `place` is valid for writes of `len` bytes.
#[inline]
#[allow(dead_code)] // 64-bit Linux has its own.
pub(crate) unsafe fn recv(fd: RawDescriptor, place: *mut u8, len: usize) -> i32 {
    // SAFETY: S8: the caller's promise.
    result_of(unsafe { libc::recv(fd, place.cast(), len, libc::MSG_DONTWAIT) })
}

/// # Safety
/// `place` is valid for reads of `len` bytes.
#[inline]
#[allow(dead_code)] // 64-bit Linux has its own.
pub(crate) unsafe fn send(fd: RawDescriptor, place: *const u8, len: usize) -> i32 {
    // SAFETY: S8: the caller's promise.
    result_of(unsafe { libc::send(fd, place.cast(), len, libc::MSG_DONTWAIT | SEND_FLAGS) })
}

/// # Safety
/// `message` and its buffers are valid, the buffers for writes.
pub(crate) unsafe fn recv_message(fd: RawDescriptor, message: *mut Message) -> i32 {
    // SAFETY: S8: the caller's promise.
    result_of(unsafe { libc::recvmsg(fd, message.cast(), libc::MSG_DONTWAIT) })
}

/// # Safety
/// `message` and its buffers are valid.
pub(crate) unsafe fn send_message(fd: RawDescriptor, message: *const Message) -> i32 {
    // SAFETY: S8: the caller's promise.
    result_of(unsafe { libc::sendmsg(fd, message.cast(), libc::MSG_DONTWAIT | SEND_FLAGS) })
}

/// Begins to connect: `EINPROGRESS` if that takes its time.
///
/// # Safety
/// An address of `len` bytes is at `address`.
pub(crate) unsafe fn connect(fd: RawDescriptor, address: *const u8, len: u32) -> i32 {
    // SAFETY: S8: the caller's promise.
    match result_of(unsafe { libc::connect(fd, address.cast(), len) } as isize) {
        // connect(2): the connection is made in the background all the same.
        errno if errno == -errno::EINTR => -errno::EINPROGRESS,
        result => result,
    }
}

/// How a connect that was begun went: `EINPROGRESS` if it goes on.
pub(crate) fn connected(fd: RawDescriptor) -> i32 {
    match option(fd, libc::SOL_SOCKET, libc::SO_ERROR) {
        Err(errno) => return -errno,
        Ok(0) => {}
        Ok(errno) => return -errno,
    }
    // No error and no peer: it was an edge of something else.
    let mut len: libc::socklen_t = 0;
    let mut no_room = 0u8;
    // SAFETY: S8: place and length are valid for the length of the call, and none of the address is wanted.
    let status = unsafe { libc::getpeername(fd, (&raw mut no_room).cast(), &raw mut len) };
    match status {
        0 => 0,
        _ if errno::last() == errno::ENOTCONN => -errno::EINPROGRESS,
        _ => -errno::last(),
    }
}

/// The system's number for a direction.
pub(crate) fn direction(how: Shutdown) -> i32 {
    match how {
        Shutdown::Read => libc::SHUT_RD,
        Shutdown::Write => libc::SHUT_WR,
        Shutdown::Both => libc::SHUT_RDWR,
    }
}

#[cfg(feature = "sim")]
pub(crate) fn shutdown_of(direction: i32) -> Option<Shutdown> {
    match direction {
        libc::SHUT_RD => Some(Shutdown::Read),
        libc::SHUT_WR => Some(Shutdown::Write),
        libc::SHUT_RDWR => Some(Shutdown::Both),
        _ => None,
    }
}

/// Shuts a [direction] down.
pub(crate) fn shutdown(fd: RawDescriptor, direction: i32) -> i32 {
    // SAFETY: S8: no memory is passed.
    result_of(unsafe { libc::shutdown(fd, direction) } as isize)
}

/// `close(2)` of a socket that lingers (`SO_LINGER`) waits until the peer has taken everything, or for the time
/// that was set, whether the descriptor blocks or not. In io_uring it does so in the thread that submits.
pub(crate) fn linger_in_background(fd: RawDescriptor) {
    let mut linger = libc::linger { l_onoff: 0, l_linger: 0 };
    let mut len = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: S8: record and length are valid for the length of the call.
    let status = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw mut linger).cast(), &raw mut len)
    };
    if status != 0 || linger.l_onoff == 0 || linger.l_linger == 0 {
        return;
    }
    linger.l_onoff = 0;
    // SAFETY: S8: the record is valid for the length of the call. It cannot fail: it is a socket.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), len) };
}

/// `SO_OOBINLINE`, which accepted sockets inherit. It cannot fail: it is a socket.
pub(crate) fn take_urgent_data_in_line(fd: RawDescriptor) {
    let yes: i32 = 1;
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: S8: the value is valid for the length of the call.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_OOBINLINE, (&raw const yes).cast(), len) };
}
