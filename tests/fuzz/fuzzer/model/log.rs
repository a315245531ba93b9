//! What should be in a file that is only used at its own position: what was asked for, one operation after another in the order of the
//! submissions, as far as each came.

/// An operation that has begun.
#[derive(Debug)]
struct Transfer {
    reads: bool,
    bytes: Vec<u8>,
    /// How many of these were moved. `None`: not known, yet or any more.
    moved: Option<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct LogModel {
    /// What the file begins with, and where its position is.
    initial: Vec<u8>,
    transfers: Vec<Transfer>,
    in_flight: usize,
    /// The loop of those in flight.
    on: Option<(usize, usize)>,
    /// Two loops were at the position at once, whose order is not promised.
    is_tangled: bool,
}

impl LogModel {
    /// Of a file with this content, whose position is its beginning.
    pub(crate) fn of(initial: Vec<u8>) -> LogModel {
        LogModel { initial, ..LogModel::default() }
    }

    pub(crate) fn begin_write(&mut self, bytes: &[u8], on: (usize, usize)) -> usize {
        self.begin(Transfer { reads: false, bytes: bytes.to_vec(), moved: None }, on)
    }

    pub(crate) fn begin_read(&mut self, on: (usize, usize)) -> usize {
        self.begin(Transfer { reads: true, bytes: Vec::new(), moved: None }, on)
    }

    fn begin(&mut self, transfer: Transfer, on: (usize, usize)) -> usize {
        self.is_tangled |= self.in_flight > 0 && self.on != Some(on);
        self.in_flight += 1;
        self.on = Some(on);
        self.transfers.push(transfer);
        self.transfers.len() - 1
    }

    pub(crate) fn end_write(&mut self, ticket: usize, moved: Option<usize>) {
        self.in_flight -= 1;
        self.transfers[ticket].moved = moved;
    }

    pub(crate) fn end_read(&mut self, ticket: usize, bytes: Option<&[u8]>) {
        self.in_flight -= 1;
        let transfer = &mut self.transfers[ticket];
        transfer.moved = bytes.map(<[u8]>::len);
        transfer.bytes = bytes.unwrap_or_default().to_vec();
    }

    /// Compares the file's content, and its position if that is known. Says how many bytes were compared.
    pub(crate) fn check(
        &self,
        content: &[u8],
        position: Option<usize>,
        room: Option<usize>,
    ) -> Result<usize, String> {
        if room.is_some_and(|room| content.len() > self.initial.len() + room) {
            return Err(format!("{} bytes in room for {room:?}", content.len()));
        }
        // Two loops take no turns: they may write to one place.
        if self.is_tangled {
            return Ok(0);
        }
        let (mut expected, mut at) = (self.initial.clone(), 0);
        for (number, transfer) in self.transfers.iter().enumerate() {
            // An operation whose loop was dropped may have moved bytes and not the position: what follows is not known.
            let Some(moved) = transfer.moved else { return compare(&expected[..at], content) };
            let bytes = &transfer.bytes[..moved.min(transfer.bytes.len())];
            let end = at + bytes.len();
            if !transfer.reads {
                expected.resize(expected.len().max(end), 0);
                expected[at..end].copy_from_slice(bytes);
            } else if expected.get(at..end) != Some(bytes) {
                return Err(format!("transfer {number} did not read what is at {at}"));
            }
            at = end;
        }
        if position.is_some_and(|position| position != at) {
            return Err(format!("the position is {position:?}, not {at}, of {} bytes", content.len()));
        }
        if content.len() != expected.len() {
            return Err(format!("{} bytes, not {}", content.len(), expected.len()));
        }
        compare(&expected, content)
    }
}

/// Compares the beginning of a file. Says how many bytes were compared.
fn compare(expected: &[u8], content: &[u8]) -> Result<usize, String> {
    if content.len() < expected.len() {
        return Err(format!("{} bytes, not {} at least", content.len(), expected.len()));
    }
    match content.iter().zip(expected).position(|(is, should)| is != should) {
        Some(at) => Err(format!("the byte at {at} of {} is wrong", content.len())),
        None => Ok(expected.len()),
    }
}
