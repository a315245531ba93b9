//! The names of operations: [`Token`], which the kernel carries, and [`OpId`], which users keep.

/// Names one operation: an index into the table and the sequence number that the entry had. The kernel
/// carries it as user data. The top two bits of the index are the backend's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(u64);

impl Token {
    /// The largest number of entries in a table.
    pub(crate) const ENTRIES_MAX: usize = (1 << 30) - 16;
    /// Names nothing: what a refused operation gets.
    pub(crate) const NONE: Token = Token(Token::ENTRIES_MAX as u64);

    pub(crate) fn new(index: u32, sequence: u32) -> Token {
        Token(u64::from(sequence) << 32 | u64::from(index))
    }

    /// The token that was made into these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Token {
        Token(bits)
    }

    /// The token as user data for a kernel. Bit 31 is never set.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The operation's place in the table: less than the loop's capacity, and no other operation's as long as this
    /// one is in flight.
    #[must_use]
    pub const fn index(self) -> usize {
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
