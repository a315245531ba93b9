//! What sockets of every kind share: addresses as the kernel sees them, and the few system calls that
//! backends make themselves.

#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use socket2::SockRef;

use crate::descriptor::close_raw;
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

/// Addresses to connect to, in order: what an operation with [`RawOp::LIST`] owns.
struct ConnectList {
    /// The address that is being tried, as the kernel sees it.
    current: [u8; address::IP_BYTES_MAX],
    current_len: u32,
    /// The socket is of an attempt that failed.
    failed: bool,
    rest: std::vec::IntoIter<SocketAddr>,
}

impl ConnectList {
    /// Makes the next address the current one.
    fn advance(&mut self) -> bool {
        let Some(next) = self.rest.next() else { return false };
        // SAFETY: S3: there is room.
        self.current_len = unsafe { address::put(self.current.as_mut_ptr(), next) };
        true
    }
}

/// An operation that connects to an address.
pub(crate) fn connect_to(address: SocketAddr) -> RawOp {
    let mut op = RawOp::new(OpKind::Connect, -1);
    put_address(&mut op, address);
    op
}

/// An operation that connects to the first of these addresses that answers.
pub(crate) fn connect_to_any(addresses: Vec<SocketAddr>) -> RawOp {
    let mut op = RawOp::new(OpKind::Connect, -1);
    let rest = addresses.into_iter();
    let mut list = ConnectList { current: [0; address::IP_BYTES_MAX], current_len: 0, failed: false, rest };
    list.advance();
    op.flags |= RawOp::LIST;
    op.as_address_list_mut().list = Box::into_raw(Box::new(list)).cast();
    op
}

fn list_of(op: &RawOp) -> Option<*mut ConnectList> {
    (op.kind == OpKind::Connect && op.flags & RawOp::LIST != 0).then(|| op.as_address_list().list.cast())
}

/// An attempt has failed: sets the operation to the next address, if there is one.
#[cold]
pub(crate) fn next_address(op: &mut RawOp) -> bool {
    let Some(list) = list_of(op) else { return false };
    // SAFETY: S3: the list is the operation's, which is off the kernel.
    let list = unsafe { &mut *list };
    list.failed = list.advance();
    list.failed
}

/// No other address is tried.
#[cold]
pub(crate) fn forget_addresses(op: &mut RawOp) {
    if let Some(list) = list_of(op) {
        // SAFETY: S3: the list is the operation's, which is off the kernel.
        unsafe { (*list).rest = Vec::new().into_iter() };
    }
}

/// Whether the socket is of an attempt that failed; it is asked once.
pub(crate) fn take_failed(op: &RawOp) -> bool {
    // SAFETY: S3: the list is the operation's, which is off the kernel.
    list_of(op).is_some_and(|list| std::mem::take(unsafe { &mut (*list).failed }))
}

/// The operation is over, or was never submitted: frees its list.
pub(crate) fn drop_list(op: &RawOp) {
    if let Some(list) = list_of(op) {
        // SAFETY: S7: it came from a box, and this is the one time that it is freed.
        drop(unsafe { Box::from_raw(list) });
    }
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
    if let Some(list) = list_of(op) {
        // SAFETY: S3: the list is the operation's.
        let place = unsafe { &raw const (*list).current };
        // SAFETY: S3: as above.
        return (place.cast(), unsafe { (*list).current_len });
    }
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
