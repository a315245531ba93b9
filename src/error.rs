//! The one place where a result becomes an [`io::Error`], and where errors are told apart. No error of this
//! crate allocates.

use std::fmt;
use std::io;

use crate::sys::errno;

/// Turns a negative result (an errno, or a code of the crate's own) into an error.
#[cold]
#[inline(never)]
pub(crate) fn from_result(result: i32) -> io::Error {
    debug_assert!(result < 0);
    match Cause::of_code(-result) {
        // A kind alone, which no error of a kernel is: those have an errno.
        Some(cause) => io::Error::from(cause.kind()),
        None => errno::error(-result),
    }
}

/// The crate's own codes. The kernel's words stay the kernel's: an `ETIMEDOUT` is always a connection's, never a
/// deadline's.
///
/// Bit 29 is what Windows leaves to applications (`SetLastError`), and is beyond every errno of a Unix system.
pub(crate) mod code {
    const FIRST: i32 = 1 << 29;
    /// The stream ended before the buffer was full.
    pub(crate) const UNEXPECTED_EOF: i32 = FIRST;
    /// The file takes no more bytes.
    pub(crate) const WRITE_ZERO: i32 = FIRST + 1;
    /// The work panicked.
    pub(crate) const PANICKED: i32 = FIRST + 2;
    /// The operation's deadline passed.
    pub(crate) const DEADLINE: i32 = FIRST + 3;
    /// The loop's table of operations is full.
    pub(crate) const TABLE_FULL: i32 = FIRST + 4;
    /// Another operation waits for the same notifier.
    pub(crate) const ALREADY_WAITING: i32 = FIRST + 5;
}

/// What the crate itself says with an error; everything else is the operating system's word.
///
/// An [`io::Error`] with a text of its own would have to be allocated, so the errors of this crate carry a
/// kind and no errno, and this type has the text:
///
/// ```
/// use oxev::{Cause, Completion, Loop, RunMode, Timer};
/// use std::time::Duration;
///
/// let mut lp = Loop::new()?;
/// lp.submit(
///     Box::new(Completion::new(())),
///     |_| Timer::after(Duration::from_secs(3600)).timeout(Duration::from_millis(1)),
///     |_, _, fired| {
///         let error = fired.unwrap_err();
///         assert_eq!(Cause::of(&error), Some(Cause::Deadline));
///         assert_eq!(Cause::Deadline.to_string(), "the deadline of the operation passed");
///     },
/// );
/// lp.run(RunMode::UntilDone)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The program cancelled the operation, or dropped its loop: `ECANCELED`.
    Canceled,
    /// The deadline of the operation passed ([`Op::timeout`](crate::Op::timeout)):
    /// [`TimedOut`](io::ErrorKind::TimedOut) without an errno. A connection that timed out in the kernel has
    /// the errno `ETIMEDOUT`.
    Deadline,
    /// As many operations are in flight as the loop has room for
    /// ([`Builder::capacity`](crate::Builder::capacity)): [`QuotaExceeded`](io::ErrorKind::QuotaExceeded).
    TableFull,
    /// Another operation waits for the same [`Notifier`](crate::Notifier):
    /// [`ResourceBusy`](io::ErrorKind::ResourceBusy).
    AlreadyWaiting,
    /// The stream or file ended before an exact operation had all its bytes:
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof).
    UnexpectedEof,
    /// The file took no more bytes before an exact operation had written all:
    /// [`WriteZero`](io::ErrorKind::WriteZero).
    WriteZero,
    /// The work that was [offloaded](crate::Loop::offload) panicked: [`Other`](io::ErrorKind::Other).
    Panicked,
}

impl Cause {
    /// What the crate said with an error of an operation; `None` if the error is the operating system's, or
    /// was made elsewhere.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Cause> {
        match error.raw_os_error() {
            Some(errno::ECANCELED) => return Some(Cause::Canceled),
            Some(_) => return None,
            None if error.get_ref().is_some() => return None,
            None => {}
        }
        Cause::CODED.into_iter().map(|(_, cause)| cause).find(|cause| cause.kind() == error.kind())
    }

    const CODED: [(i32, Cause); 6] = [
        (code::DEADLINE, Cause::Deadline),
        (code::TABLE_FULL, Cause::TableFull),
        (code::ALREADY_WAITING, Cause::AlreadyWaiting),
        (code::UNEXPECTED_EOF, Cause::UnexpectedEof),
        (code::WRITE_ZERO, Cause::WriteZero),
        (code::PANICKED, Cause::Panicked),
    ];

    fn of_code(code: i32) -> Option<Cause> {
        Cause::CODED.into_iter().find(|(own, _)| *own == code).map(|(_, cause)| cause)
    }

    fn kind(self) -> io::ErrorKind {
        match self {
            // As the standard library sorts ECANCELED, which has no kind of its own.
            Cause::Canceled | Cause::Panicked => io::ErrorKind::Other,
            Cause::Deadline => io::ErrorKind::TimedOut,
            Cause::TableFull => io::ErrorKind::QuotaExceeded,
            Cause::AlreadyWaiting => io::ErrorKind::ResourceBusy,
            Cause::UnexpectedEof => io::ErrorKind::UnexpectedEof,
            Cause::WriteZero => io::ErrorKind::WriteZero,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::Canceled => "the operation was cancelled",
            Cause::Deadline => "the deadline of the operation passed",
            Cause::TableFull => "the loop has no room for another operation: see Builder::capacity",
            Cause::AlreadyWaiting => "another operation waits for the same notifier",
            Cause::UnexpectedEof => "the stream ended before the buffer was full",
            Cause::WriteZero => "the file took no more bytes before all were written",
            Cause::Panicked => "the offloaded work panicked",
        })
    }
}

/// Whether `error` says that the program cancelled the operation, with [`Loop::cancel`](crate::Loop::cancel)
/// or by dropping its loop.
///
/// ```
/// assert!(!oxev::is_canceled(&std::io::Error::other("something else")));
/// ```
#[must_use]
pub fn is_canceled(error: &io::Error) -> bool {
    Cause::of(error) == Some(Cause::Canceled)
}

/// Whether `error` says that the deadline of the operation passed, and not that a connection timed out in the
/// kernel.
///
/// ```
/// let kernel = std::io::Error::from_raw_os_error(libc::ETIMEDOUT);
/// assert!(!oxev::is_deadline(&kernel));
/// ```
#[must_use]
pub fn is_deadline(error: &io::Error) -> bool {
    Cause::of(error) == Some(Cause::Deadline)
}

/// Whether `error` says that the loop had no room for the operation
/// ([`Builder::capacity`](crate::Builder::capacity)).
///
/// ```
/// use oxev::{Completion, Loop, Notifier, RunMode};
///
/// let mut lp = Loop::builder().capacity(1).build()?;
/// lp.submit(Box::new(Completion::new(Notifier::new())), |n| n.wait(), |_, _, _| ());
/// lp.submit(Box::new(Completion::new(())), |_| oxev::nop(), |_, _, refused| {
///     assert!(oxev::is_table_full(&refused.unwrap_err()));
/// });
/// lp.run(RunMode::NoWait)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub fn is_table_full(error: &io::Error) -> bool {
    Cause::of(error) == Some(Cause::TableFull)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_keep_their_errno_and_kind() {
        assert!(is_canceled(&from_result(-errno::ECANCELED)));
        let kernel = from_result(-errno::ETIMEDOUT);
        assert_eq!((kernel.kind(), Cause::of(&kernel)), (io::ErrorKind::TimedOut, None));
        assert_eq!(Cause::of(&from_result(-errno::ENOBUFS)), None);
    }

    #[test]
    fn every_code_of_the_crate_is_told_apart_without_an_errno() {
        for (code, cause) in Cause::CODED {
            let error = from_result(-code);
            assert_eq!((Cause::of(&error), error.raw_os_error()), (Some(cause), None));
        }
    }

    #[test]
    fn an_error_of_the_program_is_no_word_of_the_crate() {
        assert_eq!(Cause::of(&io::Error::new(io::ErrorKind::TimedOut, "mine")), None);
    }
}
