//! The names of operations: [`Token`], which the kernel carries, and [`OpId`], which users keep.

/// Names one operation: an index into the table and the sequence number that the entry had. The kernel
/// carries it as user data. The top bit of the index is the backend's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token(u64);

impl Token {
    /// The largest number of entries in a table.
    pub(crate) const ENTRIES_MAX: usize = (1 << 31) - 16;
    /// Names nothing: what a refused operation gets.
    pub(crate) const NONE: Token = Token(Token::ENTRIES_MAX as u64);

    pub(crate) fn new(index: u32, sequence: u32) -> Token {
        Token(u64::from(sequence) << 32 | u64::from(index))
    }

    pub(crate) const fn from_bits(bits: u64) -> Token {
        Token(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as u32 as usize
    }

    pub(crate) const fn sequence(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Names an operation that was submitted, for [`Loop::cancel`](crate::Loop::cancel) and
/// [`Loop::reset`](crate::Loop::reset).
///
/// It may be kept for as long as you like: once the operation is over, or on another loop, it names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpId {
    pub(crate) token: Token,
    pub(crate) loop_id: u32,
}
