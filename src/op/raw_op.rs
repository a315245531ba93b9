//! What a backend reads: [`RawOp`].

#![allow(unsafe_code)]

use super::OpKind;
use crate::descriptor::RawDescriptor;

/// The most bytes that one kernel read or write moves (`MAX_RW_COUNT` on Linux); longer buffers are moved in
/// parts.
pub const TRANSFER_BYTES_MAX: usize = 0x7fff_f000;

/// The most bytes that a backend moves at once between a file and memory, so that a transfer of a gigabyte does not
/// hold the loop: longer ones are moved in parts.
pub(crate) const PART_BYTES_MAX: usize = 1 << 20;

/// What a pointer leaves of a word of 64 bits.
type Rest = [u32; size_of::<u64>() / size_of::<usize>() - 1];
const NO_REST: Rest = [0; size_of::<Rest>() / size_of::<u32>()];

/// A plain-data description of one operation, as a backend sees it: 40 bytes that live in the caller's
/// [`Completion`](crate::Completion) while the operation is in flight.
///
/// The four words `buf`, `len`, `offset` and `done` mean what [`OpKind`] says. For [`OpKind::Accept`] and
/// [`OpKind::Connect`] they are the *address overlay*: 28 bytes of `sockaddr` (`sockaddr_in6` is the largest)
/// and four of its length, which the kernel reads or writes in place.
#[derive(Clone, Copy, Debug)]
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
    /// First word: mostly the buffer.
    pub buf: *mut u8,
    #[doc(hidden)]
    pub buf_rest: Rest,
    /// Second word: mostly the buffer's length in bytes.
    pub len: usize,
    #[doc(hidden)]
    pub len_rest: Rest,
    /// Third word: mostly the file offset in bytes.
    pub offset: u64,
    /// Fourth word: bytes already moved by earlier parts of the same operation.
    pub done: u64,
}

const _: () = assert!(size_of::<RawOp>() == 40);

impl RawOp {
    // ---- flags that every kind may have

    /// The operation is only done when all of `len` has been moved; the loop continues it.
    pub const EXACT: u8 = 1 << 0;
    /// The operation does not keep [`RunMode::UntilDone`](crate::RunMode::UntilDone) running.
    pub const BACKGROUND: u8 = 1 << 1;
    /// The operation gives several results.
    pub const MULTI: u8 = 1 << 2;
    /// `fd` is not a descriptor of this crate, so nothing tells when its number comes to name another file:
    /// backends remember nothing of it beyond the operation.
    pub const UNTRACKED: u8 = 1 << 3;

    // ---- flags of one kind, which share their bits

    /// Reads and writes: at the file's own position rather than at `offset`.
    pub const CURSOR: u8 = 1 << 4;
    /// [`OpKind::Accept`]: the peer's address is asked for.
    pub const ADDRESS: u8 = 1 << 4;
    /// [`OpKind::Connect`]: `buf` is a list of addresses that the operation owns, to be tried in order.
    pub(crate) const LIST: u8 = 1 << 4;
    /// [`OpKind::Timer`]: `offset` is a time on the loop's clock, not a delay.
    pub const ABSOLUTE: u8 = 1 << 4;
    /// [`OpKind::Timer`]: the period counts from the end of the callback (fixed delay), not from the last deadline.
    pub const FIXED_DELAY: u8 = 1 << 5;
    /// [`OpKind::Nop`]: its result, a count or a negative error code, is known before it begins, and lies in
    /// `offset`.
    const IMMEDIATE: u8 = 1 << 4;
    /// [`OpKind::Offload`]: the header is a backend's own, on its way to a thread pool and back.
    const JOB: u8 = 1 << 4;

    /// An operation of this kind on this descriptor, with every word zero.
    #[must_use]
    pub const fn new(kind: OpKind, fd: RawDescriptor) -> RawOp {
        let buf = std::ptr::null_mut();
        RawOp {
            kind,
            flags: 0,
            backend_state: 0,
            fd,
            buf,
            buf_rest: NO_REST,
            len: 0,
            len_rest: NO_REST,
            offset: 0,
            done: 0,
        }
    }

    /// An operation of this kind over a buffer.
    #[must_use]
    pub const fn with_buffer(kind: OpKind, fd: RawDescriptor, buf: *mut u8, len: usize) -> RawOp {
        let mut op = RawOp::new(kind, fd);
        op.buf = buf;
        op.len = len;
        op
    }

    /// An operation that is over before it begins: a count, or a negative error code.
    #[must_use]
    pub const fn immediate(result: i32) -> RawOp {
        let mut op = RawOp::new(OpKind::Nop, -1);
        op.flags = RawOp::IMMEDIATE;
        op.offset = result as i64 as u64;
        op
    }

    /// The result that is known before the operation begins.
    #[must_use]
    pub const fn immediate_result(&self) -> Option<i32> {
        let is_immediate = matches!(self.kind, OpKind::Nop) && self.flags & RawOp::IMMEDIATE != 0;
        if is_immediate { Some(self.offset as i64 as i32) } else { None }
    }

    /// A header's content on a backend's own way to a thread pool and back.
    pub(crate) const fn job() -> RawOp {
        let mut op = RawOp::new(OpKind::Offload, -1);
        op.flags = RawOp::JOB;
        op
    }

    /// Whether the header is a backend's own.
    pub(crate) const fn is_job(&self) -> bool {
        matches!(self.kind, OpKind::Offload) && self.flags & RawOp::JOB != 0
    }

    /// The bytes to move next: the rest of the buffer, but no more than the kernel takes at once.
    #[must_use]
    pub fn transfer_len(&self) -> u32 {
        self.len.min(TRANSFER_BYTES_MAX) as u32
    }

    /// Records that `n` bytes have been moved: the rest begins behind them.
    pub fn advance(&mut self, n: usize) {
        debug_assert!(n <= self.len);
        self.buf = self.buf.wrapping_add(n);
        self.len -= n;
        self.offset = self.offset.wrapping_add(n as u64);
        self.done += n as u64;
    }

    /// When a repeating timer ends, whatever its next tick.
    pub(crate) fn life_end_ns(&self) -> u64 {
        let upper = self.len_rest.iter().fold(0, |_, &rest| u64::from(rest) << 32);
        upper | self.len as u64
    }

    pub(crate) fn set_life_end_ns(&mut self, life_end_ns: u64) {
        self.len = life_end_ns as usize;
        self.len_rest.fill((life_end_ns >> 32) as u32);
    }

    /// The place of the `sockaddr` in the address overlay of the operation at `op`.
    pub fn address_place(op: *mut RawOp) -> *mut u8 {
        op.wrapping_byte_add(std::mem::offset_of!(RawOp, buf)).cast()
    }

    /// The place of the address length (`socklen_t`) in the address overlay of the operation at `op`.
    pub fn address_len_place(op: *mut RawOp) -> *mut u32 {
        RawOp::address_place(op).wrapping_add(RawOp::ADDRESS_BYTES).cast()
    }

    /// The bytes of the address overlay: `sockaddr_in6`.
    pub const ADDRESS_BYTES: usize = 28;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_overlay_is_the_four_words() {
        let mut op = RawOp::new(OpKind::Connect, -1);
        let base = &raw mut op;
        assert_eq!(RawOp::address_place(base).addr(), (&raw const op.buf).addr());
        assert_eq!(RawOp::address_len_place(base).addr() + 4, base.addr() + size_of::<RawOp>());
    }

    #[test]
    fn a_transfer_is_cut_to_what_the_kernel_takes() {
        let op = RawOp::with_buffer(OpKind::Send, 0, std::ptr::null_mut(), usize::MAX);
        assert_eq!(op.transfer_len() as usize, TRANSFER_BYTES_MAX);
    }
}
