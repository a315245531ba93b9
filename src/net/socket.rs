//! What sockets of every kind share: the few system calls that backends make themselves.

#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use crate::descriptor::close_raw;
use crate::generations;
use crate::op::addresses::{address_place, next_address, take_failed};
use crate::op::{Op, OpKind, Output, RawOp};
use crate::sim_hooks;
use crate::sys::socket_options::{SockAddr, SockRef};
use crate::sys::{self, RawDescriptor, address, errno};

/// An address of the family that TCP sockets have.
fn socket_addr(address: SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| errno::error(errno::EAFNOSUPPORT))
}

/// `getsockname(2)`.
pub(crate) fn local_addr(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let simulated = sim_hooks::local_addr(socket.as_fd().as_raw_fd());
    simulated.unwrap_or_else(|| socket_addr(SockRef::from(socket).local_addr()?))
}

/// `getpeername(2)`.
pub(crate) fn peer_addr(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let simulated = sim_hooks::peer_addr(socket.as_fd().as_raw_fd());
    simulated.unwrap_or_else(|| socket_addr(SockRef::from(socket).peer_addr()?))
}

/// Makes the socket of a connect operation, unless it has one; of several addresses, for the first of a family of
/// which there can be one. The error is an errno, and the operation is over with it.
pub(crate) fn open_for_connect(op: &mut RawOp) -> Result<(), i32> {
    debug_assert_eq!(op.kind, OpKind::Connect);
    if take_failed(op) {
        close_raw(std::mem::replace(&mut op.fd, -1));
    }
    while op.fd < 0 {
        // SAFETY: S3: an address is there.
        let family = unsafe { address::family(address_place(op).0) };
        match sys::socket::open_stream(family) {
            Ok(fd) => {
                op.fd = fd;
                sys::socket::take_urgent_data_in_line(fd);
                generations::begin(fd);
            }
            // There is no socket of an attempt that failed.
            Err(_) if next_address(op) => _ = take_failed(op),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Takes a connection that is there, from a listener that does not block: a descriptor or a negative errno.
pub(crate) fn accept_now(op: &mut RawOp) -> i32 {
    let (mut address, mut len) = (std::ptr::null_mut(), std::ptr::null_mut());
    if op.flags & RawOp::ADDRESS != 0 {
        (address, len) = (RawOp::address_place(op), RawOp::address_len_place(op));
        // SAFETY: S3: the overlay's place for the length.
        unsafe { len.write(RawOp::ADDRESS_BYTES as u32) };
    }
    // SAFETY: S3: the overlay is the operation's own; null asks for no address.
    unsafe { sys::socket::accept(op.fd, address, len) }
}

/// An operation over a buffer. An empty buffer is done at once, with 0.
///
/// # Safety
/// As [`Op::from_raw`].
pub(crate) unsafe fn transfer<'a, R: Output>(
    kind: OpKind,
    fd: RawDescriptor,
    buf: *mut u8,
    len: usize,
    flags: u8,
) -> Op<'a, R> {
    let mut raw = RawOp::with_buffer(kind, fd, buf, len);
    raw.flags = flags;
    if len == 0 {
        raw = RawOp::immediate(0);
    }
    // SAFETY: S6: the caller's promise.
    unsafe { Op::from_raw(raw) }
}
