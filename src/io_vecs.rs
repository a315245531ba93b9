//! Scatter/gather lists in the caller's memory: [`IoVecs`].

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr;

use crate::op::{OpKind, RawOp};
use crate::sys::errno;
use crate::sys::io_vec::{IoVec, Message};

/// Room for a scatter/gather list of up to `N` buffers (`readv(2)`, `sendmsg(2)`), for the vectored
/// operations.
///
/// It lives in your state beside the buffers, so the list is where the kernel looks for it for as long as the
/// operation is in flight, and nothing is allocated. A kernel takes 1024 buffers in one call; longer lists are
/// moved in parts.
///
/// ```
/// use oxev::{Completion, IoVecs, Loop, RunMode, TcpStream};
///
/// struct Message { stream: TcpStream, head: [u8; 4], body: Vec<u8>, vecs: IoVecs<2> }
///
/// # fn main() -> std::io::Result<()> {
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let stream = TcpStream::from_std(std::net::TcpStream::connect(listener.local_addr()?)?)?;
/// let mut lp = Loop::new()?;
/// let message = Message { stream, head: *b"head", body: b"and body".to_vec(), vecs: IoVecs::new() };
/// lp.submit(
///     Box::new(Completion::new(message)),
///     |m| m.stream.send_all_vectored(m.vecs.gather([&m.head[..], &m.body])),
///     |_, _, sent| assert_eq!(sent.unwrap(), 12),
/// );
/// lp.run(RunMode::UntilDone)
/// # }
/// ```
#[derive(Debug)]
#[repr(C)]
pub struct IoVecs<const N: usize> {
    /// What `sendmsg` and `recvmsg` want; the other calls use its list alone. It must be the first field.
    message: Message,
    vecs: [IoVec; N],
}

/// A list of buffers to send or write, made by [`IoVecs::gather`].
#[derive(Debug)]
pub struct Gather<'a> {
    pub(crate) list: List<'a>,
}

/// A list of buffers to receive or read into, made by [`IoVecs::scatter`].
#[derive(Debug)]
pub struct Scatter<'a> {
    pub(crate) list: List<'a>,
}

#[derive(Debug)]
pub(crate) struct List<'a> {
    message: *mut Message,
    bytes: usize,
    fits: bool,
    borrows: PhantomData<&'a mut [u8]>,
}

// SAFETY: S5: the pointers in it are only used while an operation has them, and refilled before each.
unsafe impl<const N: usize> Send for IoVecs<N> {}
// SAFETY: S5: nothing can be reached through a shared reference.
unsafe impl<const N: usize> Sync for IoVecs<N> {}

impl<const N: usize> IoVecs<N> {
    /// An empty list.
    #[must_use]
    pub const fn new() -> IoVecs<N> {
        IoVecs { message: Message::new(), vecs: [IoVec::EMPTY; N] }
    }

    /// Lists buffers to be sent or written, in order. With more than `N` of them the operation fails with
    /// `EMSGSIZE`.
    pub fn gather<'a>(&'a mut self, buffers: impl IntoIterator<Item = &'a [u8]>) -> Gather<'a> {
        Gather { list: self.fill(buffers.into_iter().map(|b| (b.as_ptr().cast_mut(), b.len()))) }
    }

    /// Lists buffers to be received or read into, in order. With more than `N` of them the operation fails
    /// with `EMSGSIZE`.
    pub fn scatter<'a>(&'a mut self, buffers: impl IntoIterator<Item = &'a mut [u8]>) -> Scatter<'a> {
        Scatter { list: self.fill(buffers.into_iter().map(|b| (b.as_mut_ptr(), b.len()))) }
    }

    fn fill<'a>(&'a mut self, buffers: impl Iterator<Item = (*mut u8, usize)>) -> List<'a> {
        let this = ptr::from_mut(self);
        let (mut count, mut bytes, mut fits) = (0, 0usize, true);
        for (base, len) in buffers {
            if count == N {
                fits = false;
                break;
            }
            bytes = bytes.saturating_add(len);
            let vec = IoVec::new(base, len);
            // SAFETY: S3: a place in `self`, which is borrowed; the list's pointers all come from `this`.
            unsafe { (*this).vecs[count] = vec };
            count += 1;
        }
        // SAFETY: S3: as above.
        let vecs = unsafe { &raw mut (*this).vecs };
        // SAFETY: S3: as above.
        let message = unsafe { &raw mut (*this).message };
        // What is behind comes in later parts: `advance`.
        // SAFETY: S3: as above.
        unsafe { Message::set_vecs(message, vecs.cast(), count.min(VECS_MAX)) };
        List { message, bytes, fits, borrows: PhantomData }
    }
}

impl<const N: usize> Default for IoVecs<N> {
    fn default() -> IoVecs<N> {
        IoVecs::new()
    }
}

impl List<'_> {
    /// The operation over this list.
    pub(crate) fn into_op(self, kind: OpKind, fd: crate::descriptor::RawDescriptor) -> RawOp {
        if !self.fits {
            return RawOp::immediate(-errno::EMSGSIZE);
        }
        let mut op = RawOp::new(kind, fd);
        let words = op.as_vectored_mut();
        (words.message, words.len) = (self.message.cast(), self.bytes);
        op
    }
}

/// The list of a vectored operation: its first vector and their number.
///
/// # Safety
/// `op` is a vectored operation in flight.
pub(crate) unsafe fn vecs(op: &RawOp) -> (*mut IoVec, usize) {
    // SAFETY: S3: the caller's promise.
    unsafe { Message::vecs(op.as_vectored().message.cast()) }
}

/// The most runs that a kernel takes in one call (`UIO_MAXIOV`): longer lists are moved in parts.
const VECS_MAX: usize = 1024;

/// What is moved of an operation at once.
pub(crate) enum Part {
    /// One run of bytes.
    Run(IoVec),
    /// This many runs of the operation's own list.
    Runs(*mut IoVec, usize),
}

/// The next part of an operation over a buffer or a list, of no more than `bytes_max` bytes, and how many those are.
///
/// # Safety
/// `op` is such an operation in flight.
pub(crate) unsafe fn part(op: &RawOp, bytes_max: usize) -> (Part, usize) {
    if !op.kind.is_vectored() {
        let words = op.as_transfer();
        let len = words.len.min(bytes_max);
        return (Part::Run(IoVec::new(words.buf, len)), len);
    }
    // SAFETY: S3: the caller's promise.
    let (list, count) = unsafe { vecs(op) };
    let (mut taken, mut bytes) = (0, 0usize);
    while taken < count.min(VECS_MAX) {
        // SAFETY: S3: one of the `count` vectors.
        let vec = unsafe { list.wrapping_add(taken).read() };
        if vec.len() > bytes_max - bytes {
            if bytes == 0 {
                return (Part::Run(IoVec::new(vec.base(), bytes_max)), bytes_max);
            }
            break;
        }
        bytes += vec.len();
        taken += 1;
    }
    (Part::Runs(list, taken), bytes)
}

/// The bytes of the runs from `vec` on that hold the first `len` bytes there, no more than a kernel takes: how many
/// runs those are.
fn runs_of(vec: *const IoVec, len: usize) -> usize {
    let (mut count, mut rest) = (0, len);
    while rest > 0 && count < VECS_MAX {
        // SAFETY: S3: the list holds the `len` bytes that are left.
        let run = unsafe { vec.wrapping_add(count).read() };
        rest = rest.saturating_sub(run.len());
        count += 1;
    }
    count
}

/// Records that `n` bytes of an operation have been moved.
pub(crate) fn advance(op: &mut RawOp, n: usize) {
    if !op.kind.is_vectored() {
        return op.advance(n);
    }
    // SAFETY: S3: the operation is the loop's, so its list is.
    let (mut vec, mut count) = unsafe { vecs(op) };
    let mut rest = n;
    while count > 0 {
        // SAFETY: S3: `vec` is one of the `count` vectors left.
        let place = unsafe { &mut *vec };
        if rest < place.len() {
            *place = IoVec::new(place.base().wrapping_add(rest), place.len() - rest);
            break;
        }
        rest -= place.len();
        vec = vec.wrapping_add(1);
        count -= 1;
    }
    let words = op.as_vectored_mut();
    words.len -= n;
    words.offset = words.offset.wrapping_add(n as u64);
    words.done += n as u64;
    if count == 0 {
        // The list was longer than a kernel takes.
        count = runs_of(vec, words.len);
    }
    // SAFETY: S3: as above.
    unsafe { Message::set_vecs(words.message.cast(), vec, count) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_transfer_leaves_the_rest_of_the_list() {
        let (mut vecs_of, a, b) = (IoVecs::<3>::new(), [1u8; 4], [2u8; 6]);
        let mut op = vecs_of.gather([&a[..], &[], &b]).list.into_op(OpKind::SendVectored, 3);
        advance(&mut op, 6);
        // SAFETY: the list is borrowed above.
        let (first, count) = unsafe { vecs(&op) };
        // SAFETY: there is one.
        let first = unsafe { *first };
        assert_eq!((count, first.len(), first.base().addr()), (1, 4, b.as_ptr().addr() + 2));
        assert_eq!((op.as_vectored().len, op.done()), (4, 6));
    }

    #[test]
    fn a_list_that_is_longer_than_a_kernel_takes_is_moved_in_parts() {
        let (mut vecs_of, bytes) = (IoVecs::<3000>::new(), [7u8; 3000]);
        let mut op = vecs_of.gather(bytes.chunks(1)).list.into_op(OpKind::WriteVectored, 3);
        for (moved, left) in [(1024, 1024), (1000, 24), (24, 952), (952, 0)] {
            advance(&mut op, moved);
            // SAFETY: the list is borrowed above.
            assert_eq!(unsafe { vecs(&op) }.1, left);
        }
        assert_eq!((op.as_vectored().len, op.done()), (0, 3000));
    }

    #[test]
    fn a_part_is_no_longer_than_it_may_be() {
        let (mut vecs_of, a, b) = (IoVecs::<3>::new(), [1u8; 40], [2u8; 6]);
        let op = vecs_of.gather([&b[..], &b, &a]).list.into_op(OpKind::WriteVectored, 3);
        // SAFETY: the list is borrowed above.
        assert!(matches!(unsafe { part(&op, 30) }, (Part::Runs(_, 2), 12)));
        // SAFETY: as above.
        assert!(matches!(unsafe { part(&op, 5) }, (Part::Run(run), 5) if run.len() == 5));
    }

    #[test]
    fn too_many_buffers_are_refused() {
        let mut vecs_of = IoVecs::<1>::new();
        let op = vecs_of.gather([&[1u8][..], &[2]]).list.into_op(OpKind::SendVectored, 3);
        assert_eq!(op.immediate_result(), Some(-errno::EMSGSIZE));
    }
}
