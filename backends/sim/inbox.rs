//! What streams of bytes have in common: segments on their way, and bytes that have arrived.

use std::collections::VecDeque;

use super::effect::Segment;

/// Whether the peer sends more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tail {
    #[default]
    Open,
    /// What has arrived is all.
    Ended,
}

/// What the segments that have arrived do beside bringing bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Arrival {
    Ordinary,
    /// There is no connection any more.
    Reset,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Segments that have not arrived, with the time at which they do.
    coming: VecDeque<(u64, Segment)>,
    coming_bytes: usize,
    /// When the last of them arrives: none overtakes another.
    last_ns: u64,
    received: VecDeque<u8>,
    tail: Tail,
}

impl Inbox {
    /// Bytes that have arrived.
    pub(super) fn len(&self) -> usize {
        self.received.len()
    }

    pub(super) fn tail(&self) -> Tail {
        self.tail
    }

    /// A receive would not wait.
    pub(super) fn is_readable(&self) -> bool {
        !self.received.is_empty() || self.tail == Tail::Ended
    }

    /// Bytes that were sent and not read.
    pub(super) fn unread(&self) -> usize {
        self.received.len() + self.coming_bytes
    }

    /// Bytes that the peer may still send.
    pub(super) fn room(&self, buffer_bytes: usize) -> usize {
        buffer_bytes.saturating_sub(self.unread())
    }

    pub(super) fn has_coming(&self) -> bool {
        !self.coming.is_empty()
    }

    /// A segment is on its way: says when it arrives.
    pub(super) fn expect(&mut self, at_ns: u64, segment: Segment) -> u64 {
        let at_ns = at_ns.max(self.last_ns);
        self.last_ns = at_ns;
        if let Segment::Data(bytes) = &segment {
            self.coming_bytes += bytes.len();
        }
        self.coming.push_back((at_ns, segment));
        at_ns
    }

    /// Takes the segments that have arrived.
    pub(super) fn take_arrived(&mut self, now_ns: u64) -> Arrival {
        while self.coming.front().is_some_and(|(at_ns, _)| *at_ns <= now_ns) {
            let Some((_, segment)) = self.coming.pop_front() else { break };
            match segment {
                Segment::Data(bytes) => {
                    self.coming_bytes -= bytes.len();
                    self.received.extend(bytes);
                }
                Segment::End => self.tail = Tail::Ended,
                Segment::Reset => return Arrival::Reset,
            }
        }
        Arrival::Ordinary
    }

    /// Nothing comes any more. What has arrived can still be read.
    pub(super) fn cut_off(&mut self) {
        self.coming.clear();
        self.coming_bytes = 0;
    }

    /// Takes the first `count` bytes that have arrived.
    pub(super) fn take(&mut self, count: usize) -> Vec<u8> {
        self.received.drain(..count).collect()
    }
}
