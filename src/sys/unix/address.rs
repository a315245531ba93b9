//! Addresses: `struct sockaddr`, which begins with the family on some systems and with its length on others.

#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::ptr;

use socket2::{SockAddr, SockAddrStorage};

use super::errno::{self, error};

/// Of the two IP addresses that of version 6 is the larger.
pub(crate) const IP_BYTES_MAX: usize = size_of::<libc::sockaddr_in6>();

/// Puts an address into a place, and gives its length.
///
/// # Safety
/// `place` is valid for writes of [`IP_BYTES_MAX`] bytes.
pub(crate) unsafe fn put(place: *mut u8, address: SocketAddr) -> u32 {
    let address = SockAddr::from(address);
    let len = address.len() as usize;
    debug_assert!(len <= IP_BYTES_MAX);
    // SAFETY: S8: the caller's promise.
    unsafe { ptr::copy_nonoverlapping(address.as_ptr().cast(), place, len) };
    len as u32
}

/// The IP address in a place. `EAFNOSUPPORT`: it is of another family.
///
/// # Safety
/// `place` is valid for reads of `len` bytes.
pub(crate) unsafe fn get(place: *const u8, len: usize) -> io::Result<SocketAddr> {
    let mut storage = SockAddrStorage::zeroed();
    let len = len.min(size_of::<SockAddrStorage>());
    // SAFETY: S8: the caller's promise, and `len` is not more than there is room for.
    unsafe { ptr::copy_nonoverlapping(place, (&raw mut storage).cast(), len) };
    // SAFETY: S8: any bytes are a valid address.
    let address = unsafe { SockAddr::new(storage, len as libc::socklen_t) };
    address.as_socket().ok_or_else(|| error(errno::EAFNOSUPPORT))
}

/// The family of the address in a place.
///
/// # Safety
/// An address begins there.
pub(crate) unsafe fn family(place: *const u8) -> i32 {
    let family = place.wrapping_add(std::mem::offset_of!(libc::sockaddr, sa_family));
    // SAFETY: S8: the caller's promise.
    i32::from(unsafe { family.cast::<libc::sa_family_t>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_whole() {
        for address in ["127.0.0.1:80", "[fe80::1:2:3:4%7]:65535", "[2001:db8::1]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            let mut place = [0u8; IP_BYTES_MAX];
            // SAFETY: there is room.
            let len = unsafe { put(place.as_mut_ptr(), address) };
            // SAFETY: it was put there.
            let got = unsafe { get(place.as_ptr(), len as usize) };
            assert_eq!(got.unwrap(), address);
            // SAFETY: as above.
            let family = unsafe { family(place.as_ptr()) };
            assert_eq!(family, if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 });
        }
    }

    #[test]
    fn no_address_is_of_no_family_that_is_known() {
        // SAFETY: no bytes are read.
        let got = unsafe { get(ptr::dangling(), 0) };
        assert_eq!(got.unwrap_err().raw_os_error(), Some(errno::EAFNOSUPPORT));
    }
}
