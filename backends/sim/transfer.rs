//! Moving bytes between a world and the memory of operations: raw places only.

#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

use super::effect::Closing;
use crate::descriptor::RawDescriptor;
use crate::io_vecs;
use crate::op::{RawOp, TRANSFER_BYTES_MAX};
use crate::sys::metadata::{Record, Stat};

/// # Safety
/// `place` is valid for writes of as many bytes, and nothing else uses it now.
pub(super) unsafe fn copy_to(place: *mut u8, bytes: &[u8]) {
    // SAFETY: S3: the caller's promise.
    unsafe { place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
}

/// The buffers of an operation, in order.
///
/// # Safety
/// `op` is an operation in flight, over a buffer or a list of them.
unsafe fn buffers(op: &RawOp) -> Vec<(*mut u8, usize)> {
    if !op.kind.is_vectored() {
        return vec![(op.as_transfer().buf, op.as_transfer().len)];
    }
    // SAFETY: S3: the caller's promise.
    let (first, count) = unsafe { io_vecs::vecs(op) };
    let buffer = |index| {
        // SAFETY: S3: one of the `count` vectors.
        let vec = unsafe { first.wrapping_add(index).read() };
        (vec.base(), vec.len())
    };
    (0..count).map(buffer).collect()
}

/// The bytes that there is room for: a list may be longer than a kernel takes.
///
/// # Safety
/// As [`buffers`].
pub(super) unsafe fn room(op: &RawOp) -> usize {
    // SAFETY: S3: the caller's promise.
    let buffers = unsafe { buffers(op) };
    buffers.iter().map(|(_, len)| len).sum::<usize>().min(TRANSFER_BYTES_MAX)
}

/// Writes bytes to the buffers of an operation.
///
/// # Safety
/// As [`buffers`], and they have room for all of the bytes.
pub(super) unsafe fn scatter(op: &RawOp, mut bytes: &[u8]) {
    // SAFETY: S3: the caller's promise.
    for (place, len) in unsafe { buffers(op) } {
        let (head, rest) = bytes.split_at(len.min(bytes.len()));
        // SAFETY: S3: the caller's promise.
        unsafe { copy_to(place, head) };
        bytes = rest;
    }
    debug_assert!(bytes.is_empty());
}

/// Reads the first `count` bytes of the buffers of an operation.
///
/// # Safety
/// As [`buffers`], and they hold at least that many bytes.
pub(super) unsafe fn gather(op: &RawOp, count: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::with_capacity(count);
    // SAFETY: S3: the caller's promise.
    for (place, len) in unsafe { buffers(op) } {
        let len = len.min(count - bytes.len());
        let end = bytes.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: S3: the buffer is valid for reads, and there is room for `count` bytes in all.
        unsafe { end.copy_from_nonoverlapping(place, len) };
        // SAFETY: S8: they have just been written.
        unsafe { bytes.set_len(bytes.len() + len) };
    }
    bytes
}

/// Fills the record of an operation.
///
/// # Safety
/// `op` is a metadata operation in flight.
pub(super) unsafe fn put_metadata(op: &RawOp, stat: Stat) {
    // SAFETY: S6: the caller's promise.
    unsafe { op.as_metadata().record.cast::<Record>().write(Record::of(&stat)) };
}

/// How a virtual socket is closed when the descriptor that stands for it is: with a reset if it has `SO_LINGER`
/// with a time of zero, as socket(7) says.
pub(super) fn closing_of(fd: RawDescriptor) -> Closing {
    // SAFETY: S7: its owner is about to close it, so it is open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(fd) };
    let linger = socket2::SockRef::from(&descriptor).linger().ok().flatten();
    if linger.is_some_and(|limit| limit.is_zero()) { Closing::Reset } else { Closing::Orderly }
}

/// Gives an accepted socket what it has from its listener on Linux. Best effort: but for `SO_LINGER` nothing
/// comes of it.
pub(super) fn inherit_options(from: RawDescriptor, to: RawDescriptor) {
    // SAFETY: S7: the world has it as the descriptor of a listener that is open.
    let from = unsafe { BorrowedFd::borrow_raw(from) };
    // SAFETY: S7: it has just been made.
    let to = unsafe { BorrowedFd::borrow_raw(to) };
    let (from, to) = (socket2::SockRef::from(&from), socket2::SockRef::from(&to));
    if from.tcp_nodelay().unwrap_or(false) {
        let _ = to.set_tcp_nodelay(true);
    }
    if from.keepalive().unwrap_or(false) {
        let _ = to.set_keepalive(true);
    }
    if let Ok(Some(limit)) = from.linger() {
        let _ = to.set_linger(Some(limit));
    }
}
