//! Addresses. The system neither takes nor gives any, so their form is our own: the version of IP, the port, the
//! address, and what version 6 has beside that.

#![allow(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::errno::{self, error};

pub(crate) const IP_BYTES_MAX: usize = size_of::<Form>();

#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Form {
    version: u8,
    port: u16,
    address: [u8; 16],
    flow: u32,
    scope: u32,
}

/// # Safety
/// `place` is valid for writes of [`IP_BYTES_MAX`] bytes.
pub(crate) unsafe fn put(place: *mut u8, address: SocketAddr) -> u32 {
    let mut form = Form { version: 4, port: address.port(), address: [0; 16], flow: 0, scope: 0 };
    match address {
        SocketAddr::V4(v4) => form.address[..4].copy_from_slice(&v4.ip().octets()),
        SocketAddr::V6(v6) => {
            (form.version, form.address) = (6, v6.ip().octets());
            (form.flow, form.scope) = (v6.flowinfo(), v6.scope_id());
        }
    }
    // SAFETY: S8: the caller's promise.
    unsafe { place.cast::<Form>().write(form) };
    IP_BYTES_MAX as u32
}

/// # Safety
/// `place` is valid for reads of `len` bytes.
pub(crate) unsafe fn get(place: *const u8, len: usize) -> io::Result<SocketAddr> {
    if len != IP_BYTES_MAX {
        return Err(error(errno::EAFNOSUPPORT));
    }
    // SAFETY: S8: the caller's promise.
    let Form { version, port, address, flow, scope } = unsafe { place.cast::<Form>().read() };
    match (version, address) {
        (4, [a, b, c, d, ..]) => Ok(SocketAddr::from((Ipv4Addr::new(a, b, c, d), port))),
        (6, _) => Ok(SocketAddrV6::new(Ipv6Addr::from(address), port, flow, scope).into()),
        _ => Err(error(errno::EAFNOSUPPORT)),
    }
}

/// # Safety
/// An address begins there.
pub(crate) unsafe fn family(place: *const u8) -> i32 {
    // SAFETY: S8: the caller's promise.
    i32::from(unsafe { place.read() })
}
