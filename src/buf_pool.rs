//! Buffers that the kernel hands out at the moment of reception: [`BufPool`] and its [`Lease`]s, so that a
//! thousand idle connections hold no buffer at all.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use crate::op::{Outcome, Output, RawOp};
use crate::sys::errno;
use crate::sys::pages::Pages;
use crate::waker::Waker;

/// The most pools of one loop.
pub(crate) const POOLS_MAX: u16 = 1 << 15;

/// The largest number of buffers in a pool.
pub(crate) const BUFFERS_MAX: u16 = 1 << 15;

/// A pool of equal buffers that belongs to one loop, made by [`Loop::buf_pool`](crate::Loop::buf_pool).
///
/// A pooled receive ([`TcpStream::recv_pooled`](crate::TcpStream::recv_pooled),
/// [`recv_multi`](crate::TcpStream::recv_multi)) takes a buffer only when there is data, and hands it to the
/// callback as a [`Lease`]. When all buffers are on lease, receives wait until one comes back, first come first
/// served; a receive for which nothing has come keeps none from the others.
///
/// The handle is cheap to clone; keep one in the state that the operation borrows.
///
/// ```
/// use oxev::{BufPool, Completion, Loop, RunMode, TcpStream};
/// use std::io::Write;
///
/// struct Conn { stream: TcpStream, pool: BufPool }
///
/// # fn main() -> std::io::Result<()> {
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let stream = TcpStream::from_std(std::net::TcpStream::connect(listener.local_addr()?)?)?;
/// listener.accept()?.0.write_all(b"hello")?;
/// let mut lp = Loop::new()?;
/// let conn = Conn { stream, pool: lp.buf_pool(8, 4096)? };
/// lp.submit(Box::new(Completion::new(conn)), |c| c.stream.recv_pooled(&c.pool), |_, _, received| {
///     assert_eq!(received.unwrap()[..], b"hello"[..]);
/// }); // the lease is dropped: the buffer is free again
/// lp.run(RunMode::UntilDone)
/// # }
/// ```
#[derive(Clone)]
pub struct BufPool(pub(crate) Rc<Buffers>);

/// The memory of a pool and what is free of it.
pub(crate) struct Buffers {
    memory: Pages,
    size: u32,
    count: u16,
    leased: Cell<u16>,
    /// Receives that wait for a buffer, on the loop's side.
    waiters: WaiterQueue,
    /// How many of them were tried again since a buffer was last taken or came back.
    tried: Cell<usize>,
    returns: Rc<Returns>,
    loop_id: u32,
    /// The loop's number for the pool.
    id: u16,
    free: Free,
}

/// The queue of one pool: its ends, as indexes into the table of operations plus one; 0 is none.
#[derive(Debug, Default)]
pub(crate) struct WaiterQueue {
    pub(crate) first: Cell<u32>,
    pub(crate) last: Cell<u32>,
}

impl WaiterQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.first.get() == 0
    }
}

/// How the leases of a loop's pools tell it that they were dropped.
#[derive(Debug)]
pub(crate) struct Returns {
    any: Cell<bool>,
    /// A program polls the loop's descriptor, and an operation waits for a buffer.
    watched: Cell<bool>,
    /// `None` when the loop is gone: leases and leaked pools keep none of its descriptors open.
    waker: RefCell<Option<Waker>>,
}

impl Returns {
    pub(crate) fn new(waker: Waker) -> Returns {
        Returns { any: Cell::new(false), watched: Cell::new(false), waker: RefCell::new(Some(waker)) }
    }

    /// Whether an operation that waits for a buffer may find one: a lease has been dropped since they were
    /// looked at.
    pub(crate) fn any(&self) -> bool {
        self.any.get()
    }

    /// As [`Returns::any`], until the next time.
    pub(crate) fn take(&self) -> bool {
        self.any.replace(false)
    }

    /// There is a free buffer.
    #[inline]
    pub(crate) fn note(&self) {
        self.any.set(true);
        if self.watched.get() {
            self.signal();
        }
    }

    #[cold]
    fn signal(&self) {
        self.watched.set(false);
        self.waker.borrow().iter().for_each(Waker::signal);
    }

    /// The loop is gone.
    pub(crate) fn detach(&self) {
        self.waker.take();
    }

    /// Whether the loop's descriptor has to show the next return.
    pub(crate) fn watch(&self, watch: bool) {
        self.watched.set(watch);
    }
}

/// Who hands the buffers out.
enum Free {
    /// The kernel, by itself.
    Kernel(Box<dyn Supply>),
    /// The backend, from this list.
    List(RefCell<Vec<u16>>),
}

/// What a backend has for giving free buffers to its kernel, which hands them out by itself.
pub(crate) trait Supply {
    /// A buffer is free.
    fn give(&self, index: u16, place: *mut u8, len: u32);
}

impl BufPool {
    /// How many buffers there are.
    #[must_use]
    pub fn capacity(&self) -> usize {
        usize::from(self.0.count)
    }

    /// How many of them are not on lease.
    #[must_use]
    pub fn available(&self) -> usize {
        usize::from(self.0.count - self.0.leased.get())
    }

    /// The size of each in bytes.
    #[must_use]
    pub fn buffer_size(&self) -> usize {
        self.0.size as usize
    }
}

impl fmt::Debug for BufPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufPool")
            .field("capacity", &self.capacity())
            .field("available", &self.available())
            .field("buffer_size", &self.buffer_size())
            .finish()
    }
}

impl Buffers {
    /// Allocates `count` buffers of `size` bytes. The pages are not touched before they are used.
    pub(crate) fn new(
        count: u16,
        size: u32,
        loop_id: u32,
        id: u16,
        returns: Rc<Returns>,
    ) -> io::Result<Buffers> {
        if count == 0 || count > BUFFERS_MAX || size == 0 {
            return Err(errno::error(errno::EINVAL));
        }
        let memory = Pages::new(usize::from(count) * size as usize)?;
        let free = Free::List(RefCell::new((0..count).rev().collect()));
        let (waiters, leased, tried) = (WaiterQueue::default(), Cell::new(0), Cell::new(0));
        Ok(Buffers { memory, size, count, leased, waiters, tried, returns, loop_id, id, free })
    }

    /// From now on the kernel hands the buffers out. None has been taken yet.
    pub(crate) fn supply(&mut self, kernel: Box<dyn Supply>) {
        debug_assert_eq!(self.leased.get(), 0);
        self.free = Free::Kernel(kernel);
        for index in 0..self.count {
            self.give_back(index);
        }
    }

    /// Whether the kernel hands the buffers out.
    pub(crate) fn is_supplied(&self) -> bool {
        matches!(self.free, Free::Kernel(_))
    }

    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    /// Takes a free buffer, where the backend hands them out.
    pub(crate) fn take(&self) -> Option<u16> {
        match &self.free {
            Free::Kernel(_) => None,
            Free::List(free) => free.borrow_mut().pop(),
        }
    }

    pub(crate) fn place(&self, index: u16) -> *mut u8 {
        debug_assert!(index < self.count);
        self.memory.base().wrapping_add(usize::from(index) * self.size as usize)
    }

    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    pub(crate) fn waiters(&self) -> &WaiterQueue {
        &self.waiters
    }

    /// Whether a buffer is not on lease.
    pub(crate) fn has_free(&self) -> bool {
        self.leased.get() < self.count
    }

    /// How many receives that wait for a buffer are tried next: one for each that is free. If those that were tried
    /// have taken none, for nothing has come for them, their turn passes on to twice as many.
    pub(crate) fn next_tries(&self) -> usize {
        let free = usize::from(self.count - self.leased.get());
        let tries = if free == 0 { 0 } else { free.max(self.tried.get()) };
        self.tried.set(self.tried.get() + tries);
        tries
    }

    fn set_leased(&self, leased: u16) {
        self.leased.set(leased);
        self.tried.set(0);
    }

    /// Takes a buffer back that is not in use.
    pub(crate) fn give_back(&self, index: u16) {
        match &self.free {
            Free::Kernel(supply) => supply.give(index, self.place(index), self.size),
            // Room for all of them was made at the start.
            Free::List(free) => free.borrow_mut().push(index),
        }
    }
}

/// The pool of a pooled receive in flight.
pub(crate) fn buffers_of(op: &RawOp) -> &Buffers {
    debug_assert!(op.kind.takes_pooled_buffer());
    // SAFETY: S6: the operation borrows the pool.
    unsafe { &*op.as_pooled().buffers.cast::<Buffers>() }
}

/// Whether the pool of a pooled receive is of this loop.
pub(crate) fn belongs_to(op: &RawOp, loop_id: u32) -> bool {
    buffers_of(op).loop_id == loop_id
}

/// Received bytes in a buffer of a [`BufPool`], which gets the buffer back when the lease is dropped. An
/// empty lease is the end of the stream.
pub struct Lease {
    buffers: Rc<Buffers>,
    /// `None` if no buffer was needed.
    index: Option<u16>,
    len: u32,
}

impl Deref for Lease {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let Some(index) = self.index else { return &[] };
        // SAFETY: S13: the buffer is on lease to us, and its first `len` bytes were received.
        unsafe { std::slice::from_raw_parts(self.buffers.place(index), self.len as usize) }
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut [u8] {
        let Some(index) = self.index else { return &mut [] };
        // SAFETY: S13: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.buffers.place(index), self.len as usize) }
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(index) = self.index {
            self.buffers.set_leased(self.buffers.leased.get() - 1);
            self.buffers.returns.note();
            self.buffers.give_back(index);
        }
    }
}

// SAFETY: S7: a buffer that was used is wrapped in a lease before anything else, also if the result is an
// error.
unsafe impl Output for Lease {
    unsafe fn decode(op: &RawOp, outcome: Outcome) -> io::Result<Lease> {
        if !op.kind.takes_pooled_buffer() {
            // Refused before it had a pool.
            return Err(crate::error::from_result(outcome.result.min(-1)));
        }
        let buffers = op.as_pooled().buffers.cast::<Buffers>();
        // SAFETY: S6: the operation borrows the pool, which is in an `Rc`.
        unsafe { Rc::increment_strong_count(buffers) };
        // SAFETY: S6: the count was made above.
        let buffers = unsafe { Rc::from_raw(buffers) };
        let index = outcome.used_buffer();
        if index.is_some() {
            buffers.set_leased(buffers.leased.get() + 1);
        }
        let lease = Lease { buffers, index, len: outcome.result.max(0) as u32 };
        outcome.count().map(|_| lease)
    }

    fn moved(_: &RawOp, outcome: Outcome) -> u64 {
        outcome.result.max(0) as u64
    }
}
