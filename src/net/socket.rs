//! What sockets of every kind share: addresses as the kernel sees them, and the few system calls that
//! backends make themselves.

#![allow(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

use socket2::SockRef;

use crate::descriptor::{RawDescriptor, begin_generation};
use crate::op::{Op, OpKind, Output, RawOp};
use crate::sys::errno;
use crate::virtual_world;

/// Accepted sockets are like those that this crate makes: not inherited, and not blocking, so that every
/// backend can use them.
pub(crate) const ACCEPT_FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

const V4_BYTES: usize = size_of::<libc::sockaddr_in>();
const V6_BYTES: usize = size_of::<libc::sockaddr_in6>();
const _: () = assert!(V4_BYTES <= RawOp::ADDRESS_BYTES && V6_BYTES <= RawOp::ADDRESS_BYTES);

/// Writes an address into the address overlay of an operation.
pub(crate) fn put_address(op: &mut RawOp, address: SocketAddr) {
    let (place, len_place) = (RawOp::address_place(op), RawOp::address_len_place(op));
    let len = match address {
        SocketAddr::V4(v4) => {
            // SAFETY: S8: integers only, for which zero is valid.
            let mut raw: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            raw.sin_family = libc::AF_INET as libc::sa_family_t;
            raw.sin_port = v4.port().to_be();
            raw.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
            // SAFETY: S3: the overlay is the operation's own, and large enough.
            unsafe { place.cast::<libc::sockaddr_in>().write_unaligned(raw) };
            V4_BYTES
        }
        SocketAddr::V6(v6) => {
            // SAFETY: S8: integers only, for which zero is valid.
            let mut raw: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = v6.port().to_be();
            raw.sin6_flowinfo = v6.flowinfo();
            raw.sin6_addr.s6_addr = v6.ip().octets();
            raw.sin6_scope_id = v6.scope_id();
            // SAFETY: S3: the overlay is the operation's own, and large enough.
            unsafe { place.cast::<libc::sockaddr_in6>().write_unaligned(raw) };
            V6_BYTES
        }
    };
    // SAFETY: S3: the overlay's place for the length.
    unsafe { len_place.write(len as u32) };
}

/// Reads the address that the kernel wrote into the address overlay of an operation.
pub(crate) fn address_of(op: &RawOp) -> io::Result<SocketAddr> {
    let mut op = *op;
    let (place, len_place) = (RawOp::address_place(&raw mut op), RawOp::address_len_place(&raw mut op));
    // SAFETY: S3: the overlay's place for the length, in a copy.
    let len = unsafe { len_place.read() } as usize;
    // SAFETY: S3: the overlay begins with the family.
    let family = i32::from(unsafe { place.cast::<libc::sa_family_t>().read_unaligned() });
    match family {
        libc::AF_INET if len >= V4_BYTES => {
            // SAFETY: S3: the overlay is large enough, and any bytes are a valid address.
            let raw = unsafe { place.cast::<libc::sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
            Ok(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
        }
        libc::AF_INET6 if len >= V6_BYTES => {
            // SAFETY: S3: as above.
            let raw = unsafe { place.cast::<libc::sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            let port = u16::from_be(raw.sin6_port);
            Ok(SocketAddrV6::new(ip, port, raw.sin6_flowinfo, raw.sin6_scope_id).into())
        }
        _ => Err(errno::error(errno::EAFNOSUPPORT)),
    }
}

/// An address of the family that TCP sockets have.
fn socket_addr(address: socket2::SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| errno::error(errno::EAFNOSUPPORT))
}

/// `getsockname(2)`.
pub(crate) fn local_addr(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let simulated = virtual_world::local_addr(socket.as_fd().as_raw_fd());
    simulated.unwrap_or_else(|| socket_addr(SockRef::from(socket).local_addr()?))
}

/// `getpeername(2)`.
pub(crate) fn peer_addr(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let simulated = virtual_world::peer_addr(socket.as_fd().as_raw_fd());
    simulated.unwrap_or_else(|| socket_addr(SockRef::from(socket).peer_addr()?))
}

/// Makes the socket of a connect operation, unless it has one. The error is an errno.
pub(crate) fn open_for_connect(op: &mut RawOp) -> Result<(), i32> {
    debug_assert_eq!(op.kind, OpKind::Connect);
    if op.fd >= 0 {
        return Ok(());
    }
    // SAFETY: S3: the overlay begins with the family.
    let family = unsafe { RawOp::address_place(op).cast::<libc::sa_family_t>().read_unaligned() };
    // SAFETY: S8: no memory is passed.
    op.fd = unsafe { libc::socket(i32::from(family), libc::SOCK_STREAM | ACCEPT_FLAGS, 0) };
    if op.fd < 0 {
        return Err(errno::last());
    }
    begin_generation(op.fd);
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
    match unsafe { libc::accept4(op.fd, address.cast(), len, ACCEPT_FLAGS) } {
        fd @ 0.. => fd,
        _ => -errno::last(),
    }
}

/// How many connections wait to be accepted on a TCP listener (`tcpi_unacked` of `tcp(7)`: of a listener it
/// is the length of its queue); one if it cannot be asked.
#[cold]
pub(crate) fn waiting_connections(fd: RawDescriptor) -> u16 {
    // SAFETY: S8: integers only, for which zero is valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: S8: record and length are valid for the length of the call.
    let status = unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len)
    };
    if status == 0 { info.tcpi_unacked.try_into().unwrap_or(u16::MAX) } else { 1 }
}

/// Receives what there is, without blocking: a count or a negative errno.
///
/// # Safety
/// `place` is valid for writes of `len` bytes.
pub(crate) unsafe fn recv_now(fd: i32, place: *mut u8, len: usize) -> i32 {
    // SAFETY: S8: the caller's promise.
    let received = unsafe { libc::recv(fd, place.cast(), len, libc::MSG_DONTWAIT) };
    match i32::try_from(received) {
        Ok(count @ 0..) => count,
        _ => -errno::last(),
    }
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
        for address in ["127.0.0.1:80", "[fe80::1:2:3:4%7]:65535", "[2001:db8::1]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            let mut op = RawOp::new(OpKind::Connect, -1);
            put_address(&mut op, address);
            assert_eq!(address_of(&op).unwrap(), address);
        }
    }
}
