//! Lists of operations without memory of their own: every operation of the loop has one node, found by the
//! index of its token.

#![allow(unsafe_code)]

use std::io;

use crate::memory::{self, Zeroed};
use crate::token::Token;

/// Where the backend keeps an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Place {
    /// It does not have it, or is working on it right now.
    #[default]
    Nowhere,
    /// In the queue of a descriptor.
    Waiting,
    /// For its turn at the position of a file.
    WaitingForTurn,
    /// In the queue for a free job.
    WaitingForJob,
    /// In a job.
    InJob,
}

/// Both ends of a list. An index is stored plus one, so that zero is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue {
    head: u32,
    tail: u32,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.head == 0
    }
}

/// The neighbours of an operation in one list.
#[derive(Clone, Copy, Debug, Default)]
struct Links {
    next: u32,
    prev: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    sequence: u32,
    /// In the list that [`Place`] tells.
    queue: Links,
    /// In the list of operations to go on with, if `runnable`.
    run: Links,
    place: Place,
    runnable: bool,
    /// In a job: which.
    job: u32,
}

// SAFETY: integers, and a place whose zero is `Nowhere`.
unsafe impl Zeroed for Node {}

/// The nodes of all operations, and the list of those to go on with in the next poll.
#[derive(Debug)]
pub(super) struct Nodes {
    table: Box<[Node]>,
    runnable: Queue,
    runnable_len: usize,
}

impl Nodes {
    pub(super) fn new(capacity: usize) -> io::Result<Nodes> {
        Ok(Nodes { table: memory::table(capacity)?, runnable: Queue::default(), runnable_len: 0 })
    }

    /// Where the backend has this operation.
    pub(super) fn place(&self, token: Token) -> Place {
        let node = &self.table[token.index()];
        if node.sequence == token.sequence() { node.place } else { Place::Nowhere }
    }

    pub(super) fn wait_for_turn(&mut self, token: Token) {
        let (sequence, place) = (token.sequence(), Place::WaitingForTurn);
        self.table[token.index()] = Node { sequence, place, ..Node::default() };
    }

    pub(super) fn job(&self, token: Token) -> u32 {
        debug_assert_eq!(self.place(token), Place::InJob);
        self.table[token.index()].job
    }

    pub(super) fn enter_job(&mut self, token: Token, job: u32) {
        let sequence = token.sequence();
        self.table[token.index()] = Node { sequence, place: Place::InJob, job, ..Node::default() };
    }

    pub(super) fn leave_job(&mut self, token: Token) {
        debug_assert_eq!(self.place(token), Place::InJob);
        self.table[token.index()].place = Place::Nowhere;
    }

    pub(super) fn head(&self, queue: &Queue) -> Option<Token> {
        self.token(queue.head)
    }

    /// The operation behind this one.
    pub(super) fn next(&self, token: Token) -> Option<Token> {
        self.token(self.table[token.index()].queue.next)
    }

    fn token(&self, link: u32) -> Option<Token> {
        let index = link.checked_sub(1)?;
        Some(Token::new(index, self.table[index as usize].sequence))
    }

    /// Puts an operation at the end of a queue.
    pub(super) fn push(&mut self, queue: &mut Queue, token: Token, place: Place) {
        let link = token.index() as u32 + 1;
        let queue_links = Links { next: 0, prev: queue.tail };
        self.table[token.index()] =
            Node { sequence: token.sequence(), queue: queue_links, place, ..Node::default() };
        match queue.tail.checked_sub(1) {
            None => queue.head = link,
            Some(tail) => self.table[tail as usize].queue.next = link,
        }
        queue.tail = link;
    }

    /// Takes an operation out of its queue.
    #[inline]
    pub(super) fn remove(&mut self, queue: &mut Queue, token: Token) {
        self.stop_running(token);
        let node = &mut self.table[token.index()];
        debug_assert!(matches!(node.place, Place::Waiting | Place::WaitingForJob));
        node.place = Place::Nowhere;
        let Links { next, prev } = node.queue;
        match prev.checked_sub(1) {
            None => queue.head = next,
            Some(prev_index) => self.table[prev_index as usize].queue.next = next,
        }
        match next.checked_sub(1) {
            None => queue.tail = prev,
            Some(next_index) => self.table[next_index as usize].queue.prev = prev,
        }
    }

    // ---- operations to go on with

    pub(super) fn runnable_len(&self) -> usize {
        self.runnable_len
    }

    /// Has a waiting operation gone on with in the next poll.
    pub(super) fn run_later(&mut self, token: Token) {
        let tail = self.runnable.tail;
        let node = &mut self.table[token.index()];
        debug_assert_eq!(node.place, Place::Waiting);
        if std::mem::replace(&mut node.runnable, true) {
            return;
        }
        node.run = Links { next: 0, prev: tail };
        let link = token.index() as u32 + 1;
        match tail.checked_sub(1) {
            None => self.runnable.head = link,
            Some(tail_index) => self.table[tail_index as usize].run.next = link,
        }
        self.runnable.tail = link;
        self.runnable_len += 1;
    }

    pub(super) fn pop_runnable(&mut self) -> Option<Token> {
        let token = self.head(&self.runnable)?;
        self.stop_running(token);
        Some(token)
    }

    #[inline]
    fn stop_running(&mut self, token: Token) {
        if self.table[token.index()].runnable {
            self.unlink_running(token);
        }
    }

    #[cold]
    fn unlink_running(&mut self, token: Token) {
        let node = &mut self.table[token.index()];
        node.runnable = false;
        let Links { next, prev } = node.run;
        match prev.checked_sub(1) {
            None => self.runnable.head = next,
            Some(prev_index) => self.table[prev_index as usize].run.next = next,
        }
        match next.checked_sub(1) {
            None => self.runnable.tail = prev,
            Some(next_index) => self.table[next_index as usize].run.prev = prev,
        }
        self.runnable_len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens<const N: usize>() -> [Token; N] {
        std::array::from_fn(|index| Token::new(index as u32, 7))
    }

    fn listed(nodes: &Nodes, queue: &Queue) -> Vec<Token> {
        std::iter::successors(nodes.head(queue), |token| nodes.next(*token)).collect()
    }

    #[test]
    fn a_queue_keeps_its_order_when_any_operation_leaves_it() {
        let [a, b, c] = tokens();
        for (leaver, rest) in [(a, [b, c]), (b, [a, c]), (c, [a, b])] {
            let (mut nodes, mut queue) = (Nodes::new(3).unwrap(), Queue::default());
            for token in [a, b, c] {
                nodes.push(&mut queue, token, Place::Waiting);
            }
            nodes.remove(&mut queue, leaver);
            assert_eq!(listed(&nodes, &queue), rest);
            nodes.push(&mut queue, leaver, Place::Waiting);
            assert_eq!(listed(&nodes, &queue), [rest[0], rest[1], leaver]);
        }
    }

    #[test]
    fn an_operation_that_leaves_its_queue_is_not_run_later() {
        let [a, b, c] = tokens();
        let (mut nodes, mut queue) = (Nodes::new(3).unwrap(), Queue::default());
        for token in [a, b, c] {
            nodes.push(&mut queue, token, Place::Waiting);
            nodes.run_later(token);
            nodes.run_later(token);
        }
        nodes.remove(&mut queue, b);
        assert_eq!(nodes.runnable_len(), 2);
        assert_eq!(
            [nodes.pop_runnable(), nodes.pop_runnable(), nodes.pop_runnable()],
            [Some(a), Some(c), None]
        );
    }

    #[test]
    fn an_entry_of_an_earlier_operation_is_nowhere() {
        let [a] = tokens();
        let (mut nodes, mut queue) = (Nodes::new(1).unwrap(), Queue::default());
        nodes.push(&mut queue, a, Place::Waiting);
        assert_eq!(nodes.place(Token::new(0, 8)), Place::Nowhere);
    }
}
