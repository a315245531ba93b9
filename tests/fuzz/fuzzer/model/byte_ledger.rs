//! What went into a connection's direction, and what came out. Every byte that is sent says by which send, so that what came out can be
//! compared with what went in even where some of it is not known: a send that was cancelled may have sent any part of its bytes.

use super::super::random::mix;

/// The bytes of one send.
#[derive(Clone, Debug)]
struct Segment {
    key: u64,
    sent: Moved,
}

/// The bytes of one receive.
#[derive(Clone, Debug)]
struct Chunk {
    bytes: Vec<u8>,
    /// This many more may have been received and not shown.
    hidden_max: usize,
}

/// Of a ledger with more bytes than these the trace is lost when some of them are not shown.
const FOLLOWED_MAX: usize = 3000;

/// How much a transfer has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    Exactly(usize),
    AtMost(usize),
}

impl Moved {
    fn may_be(self, count: usize) -> bool {
        match self {
            Moved::Exactly(n) => n == count,
            Moved::AtMost(n) => count <= n,
        }
    }

    fn most(self) -> usize {
        let (Moved::Exactly(n) | Moved::AtMost(n)) = self;
        n
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct ByteLedger {
    segments: Vec<Segment>,
    chunks: Vec<Chunk>,
    /// Of sends and receives in flight: on which loop they are, as far as their order is known.
    pub(crate) sends: Transfers,
    pub(crate) receives: Transfers,
    /// The receiver was told of the end, in order.
    pub(crate) end_seen: bool,
}

/// Operations of one direction.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    pub(crate) in_flight: usize,
    on: Option<(usize, usize)>,
    /// Operations were in flight together whose order is not promised.
    pub(crate) is_tangled: bool,
}

impl Transfers {
    /// `in_order`: operations of this kind, one after the other on one loop, are done in that order.
    fn enter(&mut self, on: (usize, usize), in_order: bool) {
        if self.in_flight > 0 && (!in_order || self.on != Some(on)) {
            self.is_tangled = true;
        }
        self.in_flight += 1;
        // One that nothing may overtake must not be followed by one that does.
        self.on = in_order.then_some(on);
    }

    fn leave(&mut self) {
        self.in_flight -= 1;
    }
}

/// The byte of a segment at an offset.
pub(crate) fn byte_of(key: u64, offset: usize) -> u8 {
    mix(key.wrapping_add(offset as u64 / 8)).to_le_bytes()[offset % 8]
}

/// The first bytes of a segment.
pub(crate) fn bytes_of(key: u64, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..len.div_ceil(8)).flat_map(|word| mix(key.wrapping_add(word as u64)).to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

impl ByteLedger {
    /// A send begins: its number.
    pub(crate) fn begin_send(&mut self, key: u64, len: usize, on: (usize, usize), in_order: bool) -> usize {
        self.sends.enter(on, in_order);
        self.segments.push(Segment { key, sent: Moved::AtMost(len) });
        self.segments.len() - 1
    }

    pub(crate) fn end_send(&mut self, number: usize, sent: Moved) {
        self.sends.leave();
        self.segments[number].sent = sent;
    }

    /// A receive begins: its number.
    pub(crate) fn begin_receive(&mut self, hidden_max: usize, on: (usize, usize), in_order: bool) -> usize {
        self.receives.enter(on, in_order);
        self.chunks.push(Chunk { bytes: Vec::new(), hidden_max });
        self.chunks.len() - 1
    }

    /// Bytes come out, in one of perhaps several parts.
    pub(crate) fn receive(&mut self, number: usize, bytes: &[u8]) {
        self.chunks[number].bytes.extend_from_slice(bytes);
    }

    pub(crate) fn end_receive(&mut self, number: usize, hidden_max: usize) {
        self.receives.leave();
        self.chunks[number].hidden_max = hidden_max;
    }

    fn sent_most(&self) -> usize {
        self.segments.iter().map(|segment| segment.sent.most()).sum()
    }

    fn received(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes.len()).sum()
    }

    /// Whether something was sent that cannot have been received yet. Only asked while no receive is in flight beside one.
    pub(crate) fn surely_holds_bytes(&self) -> bool {
        let least = |segment: &Segment| if let Moved::Exactly(n) = segment.sent { n } else { 0 };
        let sent: usize = self.segments.iter().map(least).sum();
        let hidden: usize = self.chunks.iter().map(|chunk| chunk.hidden_max).sum();
        sent > self.received() + hidden
    }

    /// Whether the order of what came out can be looked at.
    pub(crate) fn is_ordered(&self) -> bool {
        !self.sends.is_tangled && !self.receives.is_tangled
    }

    /// Bytes whose way was followed to the end.
    pub(crate) fn followed(&self) -> usize {
        if self.is_ordered() { self.received() } else { 0 }
    }

    /// Compares what came out with what went in: in order, nothing lost in the middle, nothing twice. `to_the_end`: nothing lost at all.
    pub(crate) fn verify(&self, to_the_end: bool) -> Result<(), String> {
        if self.received() > self.sent_most() {
            return Err(format!("{} bytes received, {} sent", self.received(), self.sent_most()));
        }
        if !self.is_ordered() {
            return Ok(());
        }
        let places = Positions::new(&self.segments);
        let mut here = vec![0];
        places.close_over(&mut here);
        for (number, chunk) in self.chunks.iter().enumerate() {
            for (index, &byte) in chunk.bytes.iter().enumerate() {
                here.retain_mut(|place| {
                    let comes = places.byte_at(*place) == Some(byte);
                    *place += 1;
                    comes
                });
                places.close_over(&mut here);
                if here.is_empty() {
                    let of = chunk.bytes.len();
                    return Err(format!(
                        "byte {index} of {of} of receive {number} is none that could come here, of {:?}",
                        self.segments
                    ));
                }
            }
            if chunk.hidden_max > 0 && places.end() > FOLLOWED_MAX {
                // There are too many places where it could go on.
                return Ok(());
            }
            if chunk.hidden_max > 0 {
                here = places.within(&here, chunk.hidden_max);
            }
        }
        if to_the_end && !here.contains(&places.end()) {
            return Err(format!("the end came before the last byte, of {:?}", self.segments));
        }
        Ok(())
    }
}

/// Where the next byte is: between any two of all segments, numbered from the first to the end.
struct Positions<'a> {
    segments: &'a [Segment],
    starts: Vec<usize>,
}

impl Positions<'_> {
    fn new(segments: &[Segment]) -> Positions<'_> {
        let mut starts = vec![0];
        for segment in segments {
            starts.push(starts.last().unwrap_or(&0) + segment.sent.most() + 1);
        }
        Positions { segments, starts }
    }

    /// Behind the last segment.
    fn end(&self) -> usize {
        self.starts[self.segments.len()]
    }

    fn segment_of(&self, place: usize) -> usize {
        self.starts.partition_point(|start| *start <= place) - 1
    }

    fn byte_at(&self, place: usize) -> Option<u8> {
        let index = self.segment_of(place);
        let (segment, offset) = (self.segments.get(index)?, place - self.starts[index]);
        (offset < segment.sent.most()).then(|| byte_of(segment.key, offset))
    }

    /// The segment that may begin at a place, because the one before it may end there.
    fn may_begin(&self, place: usize) -> Option<usize> {
        let index = self.segment_of(place);
        let segment = self.segments.get(index)?;
        segment.sent.may_be(place - self.starts[index]).then_some(index + 1)
    }

    /// Adds the places that are reached without a byte.
    fn close_over(&self, here: &mut Vec<usize>) {
        let mut beginning: Vec<usize> = here.iter().filter_map(|place| self.may_begin(*place)).collect();
        beginning.dedup();
        for mut segment in beginning {
            loop {
                let start = self.starts[segment];
                if !here.contains(&start) {
                    here.push(start);
                }
                match self.may_begin(start) {
                    Some(next) => segment = next,
                    None => break,
                }
            }
        }
        here.sort_unstable();
        here.dedup();
    }

    /// The places that are reached by this many bytes or fewer.
    fn within(&self, here: &[usize], bytes_max: usize) -> Vec<usize> {
        let mut needed = vec![usize::MAX; self.end() + 1];
        here.iter().for_each(|place| needed[*place] = 0);
        for place in 0..self.end() {
            let bytes = needed[place];
            if bytes == usize::MAX {
                continue;
            }
            if self.byte_at(place).is_some() {
                needed[place + 1] = needed[place + 1].min(bytes + 1);
            }
            if let Some(segment) = self.may_begin(place) {
                let start = self.starts[segment];
                needed[start] = needed[start].min(bytes);
            }
        }
        (0..needed.len()).filter(|place| needed[*place] <= bytes_max).collect()
    }
}
