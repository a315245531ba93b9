//! Who is at the position of a file: one operation at a time for each open file description, so that each begins
//! where the one before it ended, as one `write(2)` or `read(2)` after another does. The others wait in order.
//!
//! Neither a ring nor a thread pool keeps that order: of two writes at the position that the kernel has at once,
//! both may begin at the same byte. The order is that of one loop; an operation of another loop, thread or process
//! that moves the same position at the same time is not waited for.
//!
//! Where there are no positions (pipes, sockets, terminals) reads and writes wait in order all the same, each for
//! themselves: an exact write is not cut in two by the next one.

#![allow(unsafe_code)]

use std::io;

use crate::memory::{self, Zeroed};
use crate::op::{Direction, RawOp};
use crate::sys::{RawDescriptor, file};
use crate::token::Token;

/// Whether an operation may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    /// It waits, and is named by [`Positions::leave`] when its turn comes.
    Later,
}

/// What is read and written at one position. Files with the same name are not always the same: two descriptors of
/// one file share their position only if one is a copy of the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Name {
    /// The number of the device, or the direction on what has no positions.
    place: u64,
    /// The number of the inode, or of the descriptor.
    number: u64,
}

/// Where an operation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
enum State {
    #[default]
    Nowhere,
    /// It is at the position.
    Holder,
    Waiting,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    name: Name,
    /// The position before the part that is in flight, or what stands for none: [`NO_POSITION`].
    before: u64,
    sequence: u32,
    fd: RawDescriptor,
    reads: bool,
    /// The neighbours in the ring of the holder and those that wait behind it: indices.
    next: u32,
    prev: u32,
    /// The next holder in the bucket: an index plus one.
    chain: u32,
    state: State,
}

// SAFETY: integers, truth values, and a state whose zero is `Nowhere`.
unsafe impl Zeroed for Node {}

/// No position is beyond what `off_t` holds.
const NO_POSITION: u64 = u64::MAX;

const BUCKETS: usize = 256;

/// The operations at the positions of files, and those that wait for them.
pub(super) struct Positions {
    nodes: Box<[Node]>,
    /// The first holder of each bucket: an index plus one.
    buckets: Box<[u32; BUCKETS]>,
    /// Holders that are in a bucket.
    named: usize,
    /// The one that came when there was no other, as most do: an index plus one. It is named, which takes a system
    /// call, when another comes.
    unnamed: u32,
}

impl Positions {
    /// Room for every operation of the loop.
    pub(super) fn new(capacity: usize) -> io::Result<Positions> {
        let (nodes, buckets) = (memory::table(capacity)?, Box::new([0; BUCKETS]));
        Ok(Positions { nodes, buckets, named: 0, unnamed: 0 })
    }

    fn node(&self, token: Token) -> Option<&Node> {
        let node = &self.nodes[token.index()];
        (node.sequence == token.sequence() && node.state != State::Nowhere).then_some(node)
    }

    fn is(&self, token: Token, state: State) -> bool {
        self.node(token).is_some_and(|node| node.state == state)
    }

    fn token(&self, index: u32) -> Token {
        Token::new(index, self.nodes[index as usize].sequence)
    }

    /// An operation at the position ([`RawOp::CURSOR`]) comes, for the first time or with another part.
    pub(super) fn enter(&mut self, token: Token, op: &RawOp) -> Turn {
        if self.is(token, State::Holder) {
            return Turn::Now;
        }
        let index = token.index() as u32;
        let reads = op.kind.facts().direction == Direction::In;
        let alone = Node {
            sequence: token.sequence(),
            fd: op.fd,
            reads,
            next: index,
            prev: index,
            ..Node::default()
        };
        self.nodes[index as usize] = alone;
        if self.named == 0 && self.unnamed == 0 {
            self.nodes[index as usize].state = State::Holder;
            self.unnamed = index + 1;
            return Turn::Now;
        }
        if let Some(unnamed) = std::mem::take(&mut self.unnamed).checked_sub(1) {
            self.nodes[unnamed as usize].name = name_of(&self.nodes[unnamed as usize]);
            self.enter_bucket(unnamed);
        }
        let name = name_of(&alone);
        self.nodes[index as usize].name = name;
        let Some(holder) = self.holder(name, op.fd) else {
            self.nodes[index as usize].state = State::Holder;
            self.enter_bucket(index);
            return Turn::Now;
        };
        let last = std::mem::replace(&mut self.nodes[holder as usize].prev, index);
        self.nodes[last as usize].next = index;
        let node = &mut self.nodes[index as usize];
        (node.next, node.prev, node.state) = (holder, last, State::Waiting);
        Turn::Later
    }

    fn enter_bucket(&mut self, holder: u32) {
        let bucket = bucket_of(self.nodes[holder as usize].name);
        self.nodes[holder as usize].chain = std::mem::replace(&mut self.buckets[bucket], holder + 1);
        self.named += 1;
    }

    /// Whether an operation waits for its turn.
    pub(super) fn is_waiting(&self, token: Token) -> bool {
        self.is(token, State::Waiting)
    }

    /// An operation that waits for its turn shall not come.
    pub(super) fn withdraw(&mut self, token: Token) {
        debug_assert!(self.is_waiting(token));
        self.unlink(token.index() as u32);
    }

    fn unlink(&mut self, index: u32) {
        let Node { next, prev, .. } = self.nodes[index as usize];
        self.nodes[prev as usize].next = next;
        self.nodes[next as usize].prev = prev;
        self.nodes[index as usize].state = State::Nowhere;
    }

    /// An operation is over. If it was at a position, the next one's turn has come.
    #[inline]
    pub(super) fn leave(&mut self, token: Token) -> Option<Token> {
        // Most operations name their offset, so that mostly there is none at a position.
        if self.named == 0 && self.unnamed == 0 { None } else { self.pass_on(token) }
    }

    #[inline(never)]
    fn pass_on(&mut self, token: Token) -> Option<Token> {
        let holder = *self.node(token)?;
        debug_assert_eq!(holder.state, State::Holder);
        let index = token.index() as u32;
        self.unlink(index);
        if self.unnamed == index + 1 {
            self.unnamed = 0;
            return None;
        }
        self.leave_bucket(index, holder.name);
        let next = Some(holder.next).filter(|&next| next != index)?;
        self.nodes[next as usize].state = State::Holder;
        self.enter_bucket(next);
        Some(self.token(next))
    }

    fn leave_bucket(&mut self, holder: u32, name: Name) {
        self.named -= 1;
        let (bucket, rest) = (bucket_of(name), self.nodes[holder as usize].chain);
        let mut link = self.buckets[bucket];
        if link == holder + 1 {
            self.buckets[bucket] = rest;
            return;
        }
        while self.nodes[link as usize - 1].chain != holder + 1 {
            link = self.nodes[link as usize - 1].chain;
        }
        self.nodes[link as usize - 1].chain = rest;
    }

    /// Remembers the position, for a backend whose kernel does not always move it: before a part begins.
    pub(super) fn note_position(&mut self, token: Token) {
        let node = &mut self.nodes[token.index()];
        if node.before != NO_POSITION {
            node.before = file::position(node.fd).unwrap_or(NO_POSITION);
        }
    }

    /// Sees to it that the position has moved past the part of `count` bytes that was begun after
    /// [`Positions::note_position`].
    pub(super) fn move_position(&self, token: Token, count: u64) {
        let Some(&Node { before, fd, reads, state: State::Holder, .. }) = self.node(token) else { return };
        if before != NO_POSITION && count > 0 && file::position(fd) == Some(before) {
            file::put_position(fd, before + count, !reads);
        }
    }

    /// Who is at the position that a descriptor of this name has.
    fn holder(&self, name: Name, fd: RawDescriptor) -> Option<u32> {
        let mut link = self.buckets[bucket_of(name)];
        loop {
            let index = link.checked_sub(1)?;
            let node = &self.nodes[index as usize];
            if node.name == name && (node.fd == fd || file::share_position(node.fd, fd)) {
                return Some(index);
            }
            link = node.chain;
        }
    }
}

/// What an operation is at: reads and writes of a file move one position; where there is none they have nothing in
/// common.
fn name_of(node: &Node) -> Name {
    match file::identity(node.fd) {
        Ok(file) if file.has_position => Name { place: file.device, number: file.inode },
        _ => Name { place: u64::MAX - u64::from(node.reads), number: node.fd as u64 },
    }
}

fn bucket_of(name: Name) -> usize {
    let mixed = (name.number ^ name.place.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as usize
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::op::OpKind;

    fn tokens<const N: usize>() -> [Token; N] {
        std::array::from_fn(|index| Token::new(index as u32, 7))
    }

    fn write(fd: &impl AsRawFd) -> RawOp {
        let mut op = RawOp::new(OpKind::Write, fd.as_raw_fd());
        op.flags = RawOp::CURSOR | RawOp::UNTRACKED;
        op
    }

    fn file() -> std::fs::File {
        tempfile::tempfile().unwrap()
    }

    #[test]
    fn one_at_a_time_and_the_others_in_order() {
        let [a, b, c] = tokens();
        let (mut positions, file) = (Positions::new(3).unwrap(), file());
        assert_eq!(positions.enter(a, &write(&file)), Turn::Now);
        assert_eq!(positions.enter(a, &write(&file)), Turn::Now, "it goes on");
        assert_eq!(positions.enter(b, &write(&file)), Turn::Later);
        assert_eq!(positions.enter(c, &write(&file)), Turn::Later);
        assert_eq!(positions.leave(a), Some(b));
        assert_eq!(positions.enter(b, &write(&file)), Turn::Now);
        assert_eq!(positions.leave(b), Some(c));
        assert_eq!((positions.leave(c), positions.leave(c)), (None, None));
        assert_eq!(positions.enter(a, &write(&file)), Turn::Now);
    }

    #[test]
    fn any_of_those_that_wait_may_go() {
        for leaver in 1..4 {
            let all = tokens::<4>();
            let (mut positions, file) = (Positions::new(4).unwrap(), file());
            let _ = all.map(|token| positions.enter(token, &write(&file)));
            positions.withdraw(all[leaver]);
            assert!(!positions.is_waiting(all[leaver]));
            let mut order = Vec::new();
            let mut next = Some(all[0]);
            while let Some(token) = next {
                order.push(token.index());
                next = positions.leave(token);
            }
            let expected: Vec<usize> = (0..4).filter(|&index| index != leaver).collect();
            assert_eq!(order, expected);
        }
    }

    #[test]
    fn copies_of_a_descriptor_share_a_position_and_others_do_not() {
        let [a, b, c, d] = tokens();
        let named = tempfile::NamedTempFile::new().unwrap();
        let (copy, other) = (named.as_file().try_clone().unwrap(), named.reopen().unwrap());
        let mut positions = Positions::new(4).unwrap();
        assert_eq!(positions.enter(a, &write(named.as_file())), Turn::Now);
        assert_eq!(positions.enter(b, &write(&copy)), Turn::Later);
        assert_eq!(positions.enter(c, &write(&other)), Turn::Now);
        assert_eq!(positions.enter(d, &write(&file())), Turn::Now);
        assert_eq!(positions.leave(c), None);
        assert_eq!(positions.leave(a), Some(b));
    }

    #[test]
    fn where_there_are_no_positions_reads_and_writes_are_apart() {
        let [a, b, c] = tokens();
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut positions = Positions::new(3).unwrap();
        let mut read = write(&one);
        read.kind = OpKind::Read;
        assert_eq!(positions.enter(a, &read), Turn::Now);
        assert_eq!(positions.enter(b, &write(&one)), Turn::Now);
        assert_eq!(positions.enter(c, &read), Turn::Later);
        assert_eq!(positions.leave(a), Some(c));
    }
}
