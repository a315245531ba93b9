//! What has happened in a world, as a hash and, on demand, as a text.

use std::fmt::Write;

#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    text: Option<String>,
}

impl Trace {
    pub(super) fn new(with_text: bool) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, text: with_text.then(String::new) }
    }

    /// FNV-1a (Fowler, Noll, Vo), by words.
    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        self.hash ^= self.hash >> 29;
    }

    /// Something happened: what, to which object or operation, and a figure. No descriptor number and no
    /// address may come in here: they differ from run to run.
    pub(super) fn note(&mut self, now_ns: u64, what: &'static str, which: u64, figure: i64) {
        self.mix(now_ns);
        what.bytes().for_each(|byte| self.mix(u64::from(byte)));
        self.mix(which);
        self.mix(figure as u64);
        if let Some(text) = &mut self.text {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{now_ns:>16} {what} {which} {figure}");
        }
    }

    /// These bytes went over the network or to a file.
    pub(super) fn note_bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.mix(u64::from_le_bytes(*word)));
        rest.iter().for_each(|byte| self.mix(u64::from(*byte)));
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn text(&self) -> &str {
        self.text.as_deref().unwrap_or_default()
    }
}
