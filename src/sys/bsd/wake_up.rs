//! Wake-ups by a pipe: every one of these systems has it, in every version, and a forked child has it, too.

#![allow(unsafe_code)]

use std::io::{self, Read, Write};
pub(crate) use std::os::fd::AsFd;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::sys::poll::{POLLIN, PollFd, wait_ms};

/// A byte in the pipe is a set bit. Who waits for edges clears it, so that there is room for the next byte.
#[derive(Debug)]
pub(crate) struct WakeUp {
    reader: io::PipeReader,
    writer: io::PipeWriter,
}

impl WakeUp {
    pub(crate) fn new() -> io::Result<WakeUp> {
        let (reader, writer) = io::pipe()?;
        for end in [reader.as_raw_fd(), writer.as_raw_fd()] {
            // SAFETY: S8: no memory is passed.
            if unsafe { libc::fcntl(end, libc::F_SETFL, libc::O_NONBLOCK) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(WakeUp { reader, writer })
    }

    pub(crate) fn set(&self) {
        // It only fails when the pipe is full, and then it is readable.
        let _ = (&self.writer).write(&[1]);
    }

    pub(crate) fn clear(&self) -> bool {
        let mut was_set = false;
        while (&self.reader).read(&mut [0; 64]).is_ok_and(|count| count > 0) {
            was_set = true;
        }
        was_set
    }

    #[cfg_attr(not(feature = "sim"), allow(dead_code, reason = "only a simulated world waits for it alone"))]
    pub(crate) fn wait(&self) {
        // A signal ends it, too.
        let _ = wait_ms(&mut [PollFd { fd: self.reader.as_raw_fd(), events: POLLIN, revents: 0 }], -1);
    }
}

impl AsFd for WakeUp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
