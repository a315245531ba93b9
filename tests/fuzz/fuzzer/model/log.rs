//! What should be in a file that is only written at its own position: what was asked for, from the first byte on, in the order of the
//! submissions, as far as each came.

/// A write that has begun.
#[derive(Debug)]
struct Append {
    bytes: Vec<u8>,
    /// `None`: not known, yet or any more.
    moved: Option<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct LogModel {
    appends: Vec<Append>,
    in_flight: usize,
    /// The loop of those in flight.
    on: Option<(usize, usize)>,
    /// Two loops wrote at once, whose order is not promised.
    is_tangled: bool,
}

impl LogModel {
    pub(crate) fn begin(&mut self, bytes: &[u8], on: (usize, usize)) -> usize {
        self.is_tangled |= self.in_flight > 0 && self.on != Some(on);
        self.in_flight += 1;
        self.on = Some(on);
        self.appends.push(Append { bytes: bytes.to_vec(), moved: None });
        self.appends.len() - 1
    }

    pub(crate) fn end(&mut self, ticket: usize, moved: Option<usize>) {
        self.in_flight -= 1;
        self.appends[ticket].moved = moved;
    }

    /// Compares the file's content, and its position if that is known. Says how many bytes were compared.
    pub(crate) fn check(
        &self,
        content: &[u8],
        position: Option<usize>,
        room: Option<usize>,
    ) -> Result<usize, String> {
        // A write whose loop was dropped may have written and not moved the position; and two loops take no turns.
        let is_known = !self.is_tangled && self.appends.iter().all(|append| append.moved.is_some());
        if is_known && position.is_some_and(|position| position != content.len()) {
            return Err(format!("the position is {position:?}, of {} bytes", content.len()));
        }
        if room.is_some_and(|room| content.len() > room) {
            return Err(format!("{} bytes in room for {room:?}", content.len()));
        }
        let mut expected = Vec::new();
        for append in &self.appends {
            // What follows is not known.
            let Some(moved) = append.moved else { return self.compare(&expected, content, false) };
            expected.extend_from_slice(&append.bytes[..moved.min(append.bytes.len())]);
        }
        self.compare(&expected, content, true)
    }

    fn compare(&self, expected: &[u8], content: &[u8], is_whole: bool) -> Result<usize, String> {
        let fits = if is_whole { content.len() == expected.len() } else { content.len() >= expected.len() };
        // Two loops take no turns: they may write to one place.
        if self.is_tangled {
            return Ok(0);
        }
        if !fits {
            return Err(format!("{} bytes, not {}", content.len(), expected.len()));
        }
        match content.iter().zip(expected).position(|(is, should)| is != should) {
            Some(at) => Err(format!("the byte at {at} of {} is wrong", content.len())),
            None => Ok(expected.len()),
        }
    }
}
