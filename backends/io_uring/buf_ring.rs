//! The ring through which buffers of a pool are given to the kernel (Linux 5.19,
//! `io_uring_register_buf_ring(3)`).

#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::buf_pool::Supply;
use crate::sys::pages::Pages;

/// The kernel's name of a pool. It kept groups below 64 in an array (seen on 6.1) and did not reset what it had
/// counted there: a ring that took the number of an earlier one started in the middle, and had buffers handed
/// out that were on lease.
pub(super) const fn group(pool_id: u16) -> u16 {
    64 + pool_id
}

/// An array of entries, the tail in the first one's spare bits.
pub(super) struct BufRing {
    entries: Pages,
    mask: u16,
    tail: Cell<u16>,
}

impl BufRing {
    /// An empty ring with room for `count` buffers.
    pub(super) fn new(count: u16) -> io::Result<BufRing> {
        let slots = count.next_power_of_two();
        let entries = Pages::new(usize::from(slots) * ENTRY_BYTES)?;
        Ok(BufRing { entries, mask: slots - 1, tail: Cell::new(0) })
    }

    pub(super) fn address(&self) -> u64 {
        self.entries.base().addr() as u64
    }

    pub(super) fn slots(&self) -> u16 {
        self.mask + 1
    }
}

impl Supply for BufRing {
    /// Gives a buffer to the kernel.
    fn give(&self, index: u16, place: *mut u8, len: u32) {
        let base = self.entries.base();
        let offset = usize::from(self.tail.get() & self.mask) * ENTRY_BYTES;
        let entry: *mut Entry = base.wrapping_add(offset).cast();
        let address = place.expose_provenance() as u64;
        // SAFETY: S13: an entry behind the tail is ours; its last two bytes, which may be the ring's tail,
        // are left alone.
        unsafe { entry.write(Entry { address, len, index }) };
        self.tail.set(self.tail.get().wrapping_add(1));
        let tail: *mut u16 = base.wrapping_add(size_of::<Entry>()).cast();
        // SAFETY: S13: the ring's tail, which the kernel only reads.
        let tail = unsafe { AtomicU16::from_ptr(tail) };
        tail.store(self.tail.get(), Ordering::Release);
    }
}

/// `struct io_uring_buf` without its last two bytes: in the first entry of the array they are the ring's
/// tail.
#[repr(C, packed(2))]
struct Entry {
    address: u64,
    len: u32,
    index: u16,
}

const ENTRY_BYTES: usize = 16;
const _: () = assert!(size_of::<Entry>() + size_of::<u16>() == ENTRY_BYTES);
