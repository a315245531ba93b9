//! What should be in a file. It is written by regions; what a region holds is known when the last write there was alone and told how
//! far it got.

pub(crate) const REGION_BYTES: usize = 64;
pub(crate) const REGIONS: usize = 8;
pub(crate) const FILE_BYTES: usize = REGION_BYTES * REGIONS;

#[derive(Debug)]
struct Region {
    content: Option<[u8; REGION_BYTES]>,
    /// Counts the beginnings and ends of writes.
    changes: u64,
    writers: usize,
}

#[derive(Debug)]
pub(crate) struct FileModel {
    regions: Vec<Region>,
    /// Where the next read at the file's own position begins, if known.
    pub(crate) position: Option<usize>,
    pub(crate) readers_on: usize,
}

/// A write that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteTicket {
    region: usize,
    changes: u64,
    alone: bool,
}

/// A read that has begun: what the regions were like.
#[derive(Clone, Debug)]
pub(crate) struct ReadTicket {
    at: usize,
    changes: Vec<Option<u64>>,
}

/// The content that a file begins with.
pub(crate) fn initial_content() -> Vec<u8> {
    (0..FILE_BYTES).map(initial_byte).collect()
}

fn initial_byte(at: usize) -> u8 {
    super::super::random::mix(at as u64 + 1) as u8
}

impl FileModel {
    pub(crate) fn new() -> FileModel {
        let region = |index: usize| {
            let content = std::array::from_fn(|offset| initial_byte(index * REGION_BYTES + offset));
            Region { content: Some(content), changes: 0, writers: 0 }
        };
        FileModel { regions: (0..REGIONS).map(region).collect(), position: Some(0), readers_on: 0 }
    }

    pub(crate) fn begin_write(&mut self, region: usize) -> WriteTicket {
        let r = &mut self.regions[region];
        r.changes += 1;
        r.writers += 1;
        WriteTicket { region, changes: r.changes, alone: r.writers == 1 }
    }

    /// `written`: how many of these bytes were written for sure, and no others; `None`: not known.
    pub(crate) fn end_write(&mut self, ticket: WriteTicket, bytes: &[u8], written: Option<usize>) {
        let region = &mut self.regions[ticket.region];
        let alone = ticket.alone && region.changes == ticket.changes;
        region.changes += 1;
        region.writers -= 1;
        match (written, &mut region.content) {
            (Some(0), _) if alone => {}
            (Some(n), Some(content)) if alone => content[..n].copy_from_slice(&bytes[..n]),
            (Some(REGION_BYTES), content) if alone => *content = bytes.try_into().ok(),
            (_, content) => *content = None,
        }
    }

    pub(crate) fn begin_read(&self, at: usize, len: usize) -> ReadTicket {
        let regions = at / REGION_BYTES..(at + len).div_ceil(REGION_BYTES).min(REGIONS);
        let known = |r: &Region| (r.writers == 0 && r.content.is_some()).then_some(r.changes);
        let changes = regions.map(|index| self.regions.get(index).and_then(known)).collect();
        ReadTicket { at, changes }
    }

    /// Compares what was read with what should have been there, where that is known. Says how many bytes that were.
    pub(crate) fn check_read(&self, ticket: &ReadTicket, bytes: &[u8]) -> Result<usize, String> {
        let mut checked = 0;
        for (offset, &byte) in bytes.iter().enumerate() {
            let at = ticket.at + offset;
            let index = at / REGION_BYTES;
            let Some(region) = self.regions.get(index) else {
                return Err(format!("a byte at {at}, behind the end"));
            };
            let then = ticket.changes.get(index - ticket.at / REGION_BYTES).copied().flatten();
            let Some(content) = region.content.filter(|_| then == Some(region.changes)) else { continue };
            checked += 1;
            if content[at % REGION_BYTES] != byte {
                return Err(format!("the byte at {at} is {byte}, not {}", content[at % REGION_BYTES]));
            }
        }
        Ok(checked)
    }

    /// What a read at the file's own position, of the file that is never written, gives from there.
    pub(crate) fn check_read_on(position: usize, bytes: &[u8]) -> Result<(), String> {
        let wrong = bytes.iter().enumerate().find(|(offset, byte)| initial_byte(position + offset) != **byte);
        wrong.map_or(Ok(()), |(offset, _)| Err(format!("the byte at {} is wrong", position + offset)))
    }

    /// Regions whose content is known, to be compared in the end.
    pub(crate) fn check_content(&self, bytes: &[u8]) -> Result<(), String> {
        if bytes.len() != FILE_BYTES {
            return Err(format!("the file has {} bytes", bytes.len()));
        }
        for (index, region) in self.regions.iter().enumerate() {
            let there = &bytes[index * REGION_BYTES..][..REGION_BYTES];
            if let Some(content) = region.content.filter(|_| region.writers == 0)
                && content != *there
            {
                return Err(format!("region {index} is not as it was written"));
            }
        }
        Ok(())
    }
}
