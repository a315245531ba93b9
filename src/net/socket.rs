//! What sockets of every kind share: addresses as the kernel sees them, and the few system calls that
//! backends make themselves.

#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use socket2::SockRef;

use crate::generations;
use crate::op::{Op, OpKind, Output, RawOp};
use crate::sim_hooks;
use crate::sys::{self, RawDescriptor, address, errno};

const _: () = assert!(address::IP_BYTES_MAX <= RawOp::ADDRESS_BYTES);

/// Writes an address into the address overlay of an operation.
pub(crate) fn put_address(op: &mut RawOp, address: SocketAddr) {
    let (place, len_place) = (RawOp::address_place(op), RawOp::address_len_place(op));
    // SAFETY: S3: the overlay is the operation's own, and large enough.
    let len = unsafe { address::put(place, address) };
    // SAFETY: S3: the overlay's place for the length.
    unsafe { len_place.write(len) };
}

/// Reads the address that the kernel wrote into the address overlay of an operation.
pub(crate) fn address_of(op: &RawOp) -> io::Result<SocketAddr> {
    let mut op = *op;
    let (place, len) = address_place(&mut op);
    // SAFETY: S3: what does not fit into the overlay is not there.
    unsafe { address::get(place, RawOp::ADDRESS_BYTES.min(len as usize)) }
}

/// Where the address is that an operation connects to, and its length.
pub(crate) fn address_place(op: &mut RawOp) -> (*const u8, u32) {
    let (place, len_place) = (RawOp::address_place(op), RawOp::address_len_place(op));
    // SAFETY: S3: the overlay's place for the length.
    (place, unsafe { len_place.read() })
}

/// An address of the family that TCP sockets have.
fn socket_addr(address: socket2::SockAddr) -> io::Result<SocketAddr> {
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

/// Makes the socket of a connect operation, unless it has one. The error is an errno.
pub(crate) fn open_for_connect(op: &mut RawOp) -> Result<(), i32> {
    debug_assert_eq!(op.kind, OpKind::Connect);
    if op.fd >= 0 {
        return Ok(());
    }
    // SAFETY: S3: an address is there.
    let family = unsafe { address::family(address_place(op).0) };
    op.fd = sys::socket::open_stream(family)?;
    sys::socket::take_urgent_data_in_line(op.fd);
    generations::begin(op.fd);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_overlay_whole() {
        let address = "[fe80::1:2:3:4%7]:65535".parse().unwrap();
        let mut op = RawOp::new(OpKind::Connect, -1);
        put_address(&mut op, address);
        assert_eq!(address_of(&op).unwrap(), address);
    }
}
