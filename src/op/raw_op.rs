//! What a backend reads: [`RawOp`].

#![allow(unsafe_code)]

use std::mem::offset_of;

use super::OpKind;
use super::words::{AddressWords, ProgressWords, View, Words};
use crate::descriptor::RawDescriptor;

/// The most bytes that one kernel read or write moves (`MAX_RW_COUNT` on Linux); longer buffers are moved in
/// parts.
pub const TRANSFER_BYTES_MAX: usize = 0x7fff_f000;

/// The most bytes that a backend moves at once between a file and memory, so that a transfer of a gigabyte does not
/// hold the loop: longer ones are moved in parts.
pub(crate) const PART_BYTES_MAX: usize = 1 << 20;

/// A plain-data description of one operation, as a backend sees it: 40 bytes that live in the caller's
/// [`Completion`](crate::Completion) while the operation is in flight.
///
/// What is told beside the kind and the descriptor is in its [words](crate::words), of which each kind has a view of its
/// own: [`as_transfer`](RawOp::as_transfer) and its like.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct RawOp {
    /// What to do.
    pub kind: OpKind,
    /// A set of the flags defined here.
    pub flags: u8,
    /// Reserved for the backend while it has the operation.
    pub backend_state: u16,
    /// The descriptor it is done on, or -1.
    pub fd: RawDescriptor,
    pub(super) words: Words,
}

const _: () = assert!(size_of::<RawOp>() == 40);

impl RawOp {
    // ---- flags that every kind may have

    /// The transfer is only done when all has been moved; the loop continues it.
    pub const EXACT: u8 = 1 << 0;
    /// The operation does not keep [`RunMode::UntilDone`](crate::RunMode::UntilDone) running.
    pub const BACKGROUND: u8 = 1 << 1;
    /// The operation gives several results.
    pub const MULTI: u8 = 1 << 2;
    /// `fd` is not a descriptor of this crate, so nothing tells when its number comes to name another file:
    /// backends remember nothing of it beyond the operation.
    pub const UNTRACKED: u8 = 1 << 3;

    // ---- flags of one kind, which share their bits

    /// Reads and writes: at the file's own position rather than at [`offset`](super::words::TransferWords::offset).
    pub const CURSOR: u8 = 1 << 4;
    /// [`OpKind::Accept`]: the peer's address is asked for.
    pub const ADDRESS: u8 = 1 << 4;
    /// [`OpKind::Connect`]: to [addresses](super::words::AddressListWords) that the operation owns, in order.
    pub(crate) const LIST: u8 = 1 << 4;
    /// [`OpKind::Timer`]: it is set to a time on the loop's clock, not by a delay.
    pub const ABSOLUTE: u8 = 1 << 4;
    /// [`OpKind::Timer`]: the period counts from the end of the callback (fixed delay), not from the last deadline.
    pub const FIXED_DELAY: u8 = 1 << 5;
    /// [`OpKind::Nop`]: its result is known before it begins.
    const IMMEDIATE: u8 = 1 << 4;
    /// [`OpKind::Offload`]: the header is a backend's own, on its way to a thread pool and back.
    const JOB: u8 = 1 << 4;

    /// An operation of this kind on this descriptor, with every word zero.
    #[must_use]
    #[inline(always)]
    pub const fn new(kind: OpKind, fd: RawDescriptor) -> RawOp {
        RawOp { kind, flags: 0, backend_state: 0, fd, words: Words { zero: [0; 4] } }
    }

    /// A transfer of this kind over a buffer.
    #[must_use]
    pub const fn with_buffer(kind: OpKind, fd: RawDescriptor, buf: *mut u8, len: usize) -> RawOp {
        let mut op = RawOp::new(kind, fd);
        op.as_transfer_mut().buf = buf;
        op.as_transfer_mut().len = len;
        op
    }

    /// An operation that is over before it begins: a count, or a negative error code.
    #[must_use]
    pub const fn immediate(result: i32) -> RawOp {
        let mut op = RawOp::new(OpKind::Nop, -1);
        op.flags = RawOp::IMMEDIATE;
        op.as_immediate_mut().result = result;
        op
    }

    /// The result that is known before the operation begins.
    #[must_use]
    pub const fn immediate_result(&self) -> Option<i32> {
        let is_immediate = self.kind.is(OpKind::Nop) && self.flags & RawOp::IMMEDIATE != 0;
        if is_immediate { Some(self.as_immediate().result) } else { None }
    }

    /// A header's content on a backend's own way to a thread pool and back.
    pub(crate) const fn job() -> RawOp {
        let mut op = RawOp::new(OpKind::Offload, -1);
        op.flags = RawOp::JOB;
        op
    }

    /// Whether the header is a backend's own.
    pub(crate) const fn is_job(&self) -> bool {
        self.kind.is(OpKind::Offload) && self.flags & RawOp::JOB != 0
    }

    /// The bytes to move next: the rest of the buffer, but no more than the kernel takes at once.
    #[must_use]
    pub fn transfer_len(&self) -> u32 {
        self.as_transfer().len.min(TRANSFER_BYTES_MAX) as u32
    }

    /// The bytes that earlier parts of the operation have moved: none if it is no transfer.
    #[must_use]
    #[inline(always)]
    pub const fn done(&self) -> u64 {
        // It is asked of every operation that ends in a count, so it costs no look at the kind: what is no transfer and
        // ends so has a zero there.
        debug_assert!(!matches!(self.kind.facts().words, View::Address | View::Timer), "it ends in no count");
        // SAFETY: S17: every view is plain data, and all of the words are initialised.
        unsafe { self.words.progress.done }
    }

    /// Records that `n` bytes of a transfer between a buffer and a descriptor have been moved: the rest begins behind
    /// them.
    pub fn advance(&mut self, n: usize) {
        let words = self.as_transfer_mut();
        debug_assert!(n <= words.len);
        words.buf = words.buf.wrapping_add(n);
        words.len -= n;
        words.offset = words.offset.wrapping_add(n as u64);
        words.done += n as u64;
    }

    /// The bytes that are left to move of the transfer at `op`.
    ///
    /// # Safety
    /// `op` is valid, and its words are not written to now.
    #[inline(always)]
    pub(crate) unsafe fn len_left(op: *const RawOp) -> usize {
        // SAFETY: S3: the caller's promise.
        let words: *const ProgressWords = unsafe { &raw const (*op).words }.cast();
        // SAFETY: S3: as above; S17.
        unsafe { (*words).len }
    }

    /// Where the words are in an operation.
    pub(crate) const WORDS: usize = offset_of!(RawOp, words);

    fn words_place(op: *mut RawOp) -> *mut u8 {
        op.wrapping_byte_add(RawOp::WORDS).cast()
    }

    /// The place of the `sockaddr` in the [words](AddressWords) of the operation at `op`.
    pub fn address_place(op: *mut RawOp) -> *mut u8 {
        RawOp::words_place(op).wrapping_add(offset_of!(AddressWords, sockaddr))
    }

    /// The place of the address length (`socklen_t`) in the [words](AddressWords) of the operation at `op`.
    pub fn address_len_place(op: *mut RawOp) -> *mut u32 {
        RawOp::words_place(op).wrapping_add(offset_of!(AddressWords, len)).cast()
    }

    /// The bytes of an address in the words: `sockaddr_in6`.
    pub const ADDRESS_BYTES: usize = 28;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_its_length_are_all_of_the_words() {
        let mut op = RawOp::new(OpKind::Connect, -1);
        let base = &raw mut op;
        assert_eq!(RawOp::address_place(base).addr(), RawOp::words_place(base).addr());
        assert_eq!(RawOp::address_len_place(base).addr() + 4, base.addr() + size_of::<RawOp>());
    }

    #[test]
    fn a_transfer_is_cut_to_what_the_kernel_takes() {
        let op = RawOp::with_buffer(OpKind::Send, 0, std::ptr::null_mut(), usize::MAX);
        assert_eq!(op.transfer_len() as usize, TRANSFER_BYTES_MAX);
    }
}
