//! The one place where an errno becomes an [`io::Error`], and where errors are told apart. No error of this
//! crate allocates.

use std::io;

/// Turns a negative result (`-errno`) into an error.
pub(crate) fn from_result(result: i32) -> io::Error {
    debug_assert!(result < 0);
    match -result {
        UNEXPECTED_EOF => io::Error::from(io::ErrorKind::UnexpectedEof),
        WRITE_ZERO => io::Error::from(io::ErrorKind::WriteZero),
        PANICKED => io::Error::from(io::ErrorKind::Other),
        errno => io::Error::from_raw_os_error(errno),
    }
}

/// The crate's own code for "the stream ended before the buffer was full"; beyond every errno of every
/// system.
pub(crate) const UNEXPECTED_EOF: i32 = 0x4000;

/// The crate's own code for "the file takes no more bytes".
pub(crate) const WRITE_ZERO: i32 = 0x4001;

/// The crate's own code for "the work panicked".
pub(crate) const PANICKED: i32 = 0x4002;

/// Whether `error` says that the operation was cancelled (`ECANCELED`): by
/// [`Loop::cancel`](crate::Loop::cancel) or with its loop.
///
/// ```
/// assert!(!oxev::is_canceled(&std::io::Error::other("something else")));
/// ```
#[must_use]
pub fn is_canceled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECANCELED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_errno_and_kind() {
        assert!(is_canceled(&from_result(-libc::ECANCELED)));
        assert_eq!(from_result(-libc::ETIMEDOUT).kind(), io::ErrorKind::TimedOut);
        assert_eq!(from_result(-UNEXPECTED_EOF).kind(), io::ErrorKind::UnexpectedEof);
    }
}
