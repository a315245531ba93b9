//! The addresses of an operation, as the kernel sees them: one in its words, or a list to connect to in order.

#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;

use super::{OpKind, RawOp};
use crate::sys::address;

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
