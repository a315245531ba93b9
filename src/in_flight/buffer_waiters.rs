//! Receives that wait for a buffer of their pool: a queue for each pool, first come first served. As many of them
//! are tried again as there are buffers, so a buffer that comes back costs the same however many wait.

#![allow(unsafe_code)]

use std::io;

use super::InFlight;
use super::entry::State;
use crate::buf_pool::{self, Buffers, WaiterQueue};
use crate::memory::{self, Zeroed};
use crate::token::Token;

/// The neighbours in the queue, as indexes into the table plus one; 0 is none.
#[derive(Clone, Copy, Debug)]
struct Links {
    prev: u32,
    next: u32,
}

// SAFETY: S8: integers.
unsafe impl Zeroed for Links {}

/// The places that the entries of the table have in the queues of all pools.
#[derive(Debug)]
pub(super) struct BufferWaiters {
    links: Box<[Links]>,
    len: usize,
}

impl BufferWaiters {
    pub(super) fn new(capacity: usize) -> io::Result<BufferWaiters> {
        Ok(BufferWaiters { links: memory::table(capacity)?, len: 0 })
    }

    fn push(&mut self, index: usize, queue: &WaiterQueue) {
        let (name, last) = (index as u32 + 1, queue.last.get());
        self.links[index] = Links { prev: last, next: 0 };
        self.set_next(last, name, queue);
        queue.last.set(name);
        self.len += 1;
    }

    fn pop(&mut self, queue: &WaiterQueue) -> Option<usize> {
        let index = (queue.first.get() as usize).checked_sub(1)?;
        self.remove(index, queue);
        Some(index)
    }

    pub(super) fn remove(&mut self, index: usize, queue: &WaiterQueue) {
        let Links { prev, next } = self.links[index];
        self.set_next(prev, next, queue);
        match next {
            0 => queue.last.set(prev),
            next => self.links[next as usize - 1].prev = prev,
        }
        self.len -= 1;
    }

    /// What follows `name`, or is first if that is none.
    fn set_next(&mut self, name: u32, next: u32, queue: &WaiterQueue) {
        match name {
            0 => queue.first.set(next),
            name => self.links[name as usize - 1].next = next,
        }
    }
}

impl InFlight {
    /// Whether an operation that waits for a buffer may find one.
    pub(crate) fn may_retry_buffer_waiters(&self) -> bool {
        self.returns.any() && self.buffer_waiters.len > 0
    }

    /// A program waits for the loop's descriptor: it shows, too, that a buffer comes back for which an
    /// operation waits.
    pub(crate) fn watch_returns(&self) {
        self.returns.watch(self.buffer_waiters.len > 0);
    }

    /// The first of those that wait for a buffer of this pool: it is for the backend again.
    pub(crate) fn next_buffer_waiter(&mut self, buffers: &Buffers) -> Option<Token> {
        let index = self.buffer_waiters.pop(buffers.waiters())?;
        let entry = &mut self.table[index];
        debug_assert_eq!(entry.state, State::AwaitingBuffer);
        entry.state = State::Backend;
        self.in_backend += 1;
        Some(Token::new(index as u32, entry.sequence))
    }

    /// Puts an operation into the queue of those that wait for a buffer. Its results have all been delivered.
    pub(super) fn await_buffer(&mut self, token: Token) {
        let entry = &mut self.table[token.index()];
        entry.state = State::AwaitingBuffer;
        let op = entry.op_copy();
        let buffers = buf_pool::buffers_of(&op);
        if buffers.has_free() {
            // It came back meanwhile.
            self.returns.note();
        }
        self.buffer_waiters.push(token.index(), buffers.waiters());
    }

    /// Ends an operation that waits for a buffer.
    pub(super) fn end_buffer_wait(&mut self, token: Token, result: i32) {
        let op = self.table[token.index()].op_copy();
        self.buffer_waiters.remove(token.index(), buf_pool::buffers_of(&op).waiters());
        self.end_with(token, result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(waiters: &mut BufferWaiters, queue: &WaiterQueue) -> Vec<usize> {
        std::iter::from_fn(|| waiters.pop(queue)).collect()
    }

    #[test]
    fn queues_are_first_in_first_out_and_apart() {
        let mut waiters = BufferWaiters::new(8).unwrap();
        let (one, two) = (WaiterQueue::default(), WaiterQueue::default());
        for index in [5, 0, 7] {
            waiters.push(index, &one);
        }
        for index in [3, 1] {
            waiters.push(index, &two);
        }
        assert_eq!((waiters.len, drain(&mut waiters, &one)), (5, vec![5, 0, 7]));
        assert_eq!((waiters.len, drain(&mut waiters, &two)), (2, vec![3, 1]));
        assert!(waiters.len == 0 && one.is_empty() && two.is_empty());
    }

    #[test]
    fn those_who_leave_from_anywhere_leave_the_others_in_order() {
        for leaves in 0..4 {
            let (mut waiters, queue) = (BufferWaiters::new(4).unwrap(), WaiterQueue::default());
            (0..4).for_each(|index| waiters.push(index, &queue));
            waiters.remove(leaves, &queue);
            waiters.push(leaves, &queue);
            let others = (0..4).filter(|&index| index != leaves);
            assert_eq!(drain(&mut waiters, &queue), others.chain([leaves]).collect::<Vec<_>>());
        }
    }
}
