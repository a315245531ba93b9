//! Sockets that the host has opened, and those that are accepted there. A program can make none, and the system knows
//! no addresses and no options. Whether a call blocks is the descriptor's affair: ours do not.

#![allow(unsafe_code)]

use std::net::Shutdown;

use wasip1::{
    Ciovec, FDFLAGS_NONBLOCK, FILETYPE_SOCKET_DGRAM, FILETYPE_SOCKET_STREAM, Iovec, SDFLAGS_RD, SDFLAGS_WR,
};

use super::descriptor::facts;
use super::io_vec::Message;
use super::{errno, outcome_of};
use crate::sys::RawDescriptor;

// What a list of runs is to the C library it is to the system.
const _: () = assert!(size_of::<libc::iovec>() == size_of::<Iovec>());
const _: () = assert!(size_of::<libc::iovec>() == size_of::<Ciovec>());

pub(crate) fn open_stream(_family: i32) -> Result<RawDescriptor, i32> {
    Err(errno::EOPNOTSUPP)
}

/// # Safety
/// `len` is null or valid for writes.
pub(crate) unsafe fn accept(fd: RawDescriptor, _address: *mut u8, len: *mut u32) -> i32 {
    if !len.is_null() {
        // SAFETY: S8: the caller's promise. No address is told.
        unsafe { len.write(0) };
    }
    // SAFETY: S8: no memory is passed.
    outcome_of(unsafe { wasip1::sock_accept(fd as u32, FDFLAGS_NONBLOCK) })
}

/// # Safety
/// None: it is never tried.
pub(crate) unsafe fn connect(_fd: RawDescriptor, _address: *const u8, _len: u32) -> i32 {
    -errno::EOPNOTSUPP
}

pub(crate) fn connected(_fd: RawDescriptor) -> i32 {
    -errno::EOPNOTSUPP
}

/// # Safety
/// `place` is valid for writes of `len` bytes.
pub(crate) unsafe fn recv(fd: RawDescriptor, place: *mut u8, len: usize) -> i32 {
    // SAFETY: S8: the caller's promise.
    unsafe { recv_into(fd, &[Iovec { buf: place, buf_len: len }]) }
}

/// # Safety
/// The runs are valid for writes.
unsafe fn recv_into(fd: RawDescriptor, runs: &[Iovec]) -> i32 {
    // SAFETY: S8: the caller's promise.
    outcome_of(unsafe { wasip1::sock_recv(fd as u32, runs, 0) }.map(|(count, _)| count as u32))
}

/// # Safety
/// `place` is valid for reads of `len` bytes.
pub(crate) unsafe fn send(fd: RawDescriptor, place: *const u8, len: usize) -> i32 {
    // SAFETY: S8: the caller's promise.
    unsafe { send_from(fd, &[Ciovec { buf: place, buf_len: len }]) }
}

/// # Safety
/// The runs are valid for reads.
unsafe fn send_from(fd: RawDescriptor, runs: &[Ciovec]) -> i32 {
    // SAFETY: S8: the caller's promise.
    outcome_of(unsafe { wasip1::sock_send(fd as u32, runs, 0) }.map(|count| count as u32))
}

/// # Safety
/// `message` and its buffers are valid, the buffers for writes.
pub(crate) unsafe fn recv_message(fd: RawDescriptor, message: *mut Message) -> i32 {
    // SAFETY: S8: the caller's promise.
    let (vecs, count) = unsafe { Message::vecs(message) };
    // SAFETY: S8: as above.
    let runs = unsafe { std::slice::from_raw_parts(vecs.cast_const().cast(), count) };
    // SAFETY: S8: as above.
    unsafe { recv_into(fd, runs) }
}

/// # Safety
/// `message` and its buffers are valid.
pub(crate) unsafe fn send_message(fd: RawDescriptor, message: *const Message) -> i32 {
    // SAFETY: S8: the caller's promise.
    let (vecs, count) = unsafe { Message::vecs(message) };
    // SAFETY: S8: as above.
    let runs = unsafe { std::slice::from_raw_parts(vecs.cast_const().cast(), count) };
    // SAFETY: S8: as above.
    unsafe { send_from(fd, runs) }
}

pub(crate) fn direction(how: Shutdown) -> i32 {
    i32::from(match how {
        Shutdown::Read => SDFLAGS_RD,
        Shutdown::Write => SDFLAGS_WR,
        Shutdown::Both => SDFLAGS_RD | SDFLAGS_WR,
    })
}

pub(crate) fn shutdown(fd: RawDescriptor, direction: i32) -> i32 {
    // SAFETY: S8: no memory is passed.
    outcome_of(unsafe { wasip1::sock_shutdown(fd as u32, direction as u8) }.map(|()| 0))
}

/// Sockets do not linger.
pub(crate) fn linger_in_background(_fd: RawDescriptor) {}

/// There is no urgent data.
pub(crate) fn take_urgent_data_in_line(_fd: RawDescriptor) {}

pub(crate) fn is_socket(fd: RawDescriptor) -> bool {
    let is_type =
        |facts: wasip1::Fdstat| matches!(facts.fs_filetype, FILETYPE_SOCKET_DGRAM | FILETYPE_SOCKET_STREAM);
    facts(fd).is_ok_and(is_type)
}

/// The system does not say.
pub(crate) fn is_tcp(_fd: RawDescriptor) -> bool {
    false
}

pub(crate) fn connections_waiting(_fd: RawDescriptor) -> Option<u32> {
    None
}
