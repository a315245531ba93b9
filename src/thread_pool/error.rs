//! Why the pool did not take a task.

use std::{error::Error, fmt, io};

/// Why a task was not taken.
#[derive(Debug)]
#[non_exhaustive]
pub enum ScheduleError {
    /// [`ThreadPool::shutdown`](super::ThreadPool::shutdown) was called, or the last handle is gone.
    ShutDown,
    /// The pool has no thread yet, and the operating system refused to make one. A later attempt may succeed.
    ThreadCreation(io::Error),
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScheduleError::ShutDown => f.write_str("the thread pool has been shut down"),
            ScheduleError::ThreadCreation(_) => {
                f.write_str("the thread pool could not create its first thread")
            }
        }
    }
}

impl Error for ScheduleError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ScheduleError::ShutDown => None,
            ScheduleError::ThreadCreation(error) => Some(error),
        }
    }
}

/// What was to be scheduled and was not, with the reason.
pub struct Rejected<P> {
    owner: P,
    error: ScheduleError,
}

impl<P> Rejected<P> {
    pub(super) fn new(owner: P, error: ScheduleError) -> Rejected<P> {
        Rejected { owner, error }
    }

    /// Why.
    pub fn error(&self) -> &ScheduleError {
        &self.error
    }

    /// What was to be scheduled, untouched.
    pub fn into_owner(self) -> P {
        self.owner
    }

    /// Both.
    pub fn into_parts(self) -> (P, ScheduleError) {
        (self.owner, self.error)
    }
}

impl<P> fmt::Debug for Rejected<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<P> fmt::Display for Rejected<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<P> Error for Rejected<P> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}
