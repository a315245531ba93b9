//! Which descriptors are open: none may be left.

#![allow(unsafe_code)]

use std::time::{Duration, Instant};

/// A file that is too large is an error, and no signal.
pub(crate) fn ignore_file_size_signal() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: no handler is installed.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// Does something that says a word too many.
pub(crate) fn without_stderr<R>(what: impl FnOnce() -> R) -> R {
    struct Restore(Option<std::os::fd::OwnedFd>);
    impl Drop for Restore {
        fn drop(&mut self) {
            self.0.iter().for_each(|saved| _ = nix::unistd::dup2_stderr(saved));
        }
    }
    let silent = std::fs::OpenOptions::new().write(true).open("/dev/null");
    let _restore = Restore(nix::unistd::dup(std::io::stderr()).ok());
    silent.iter().for_each(|silent| _ = nix::unistd::dup2_stderr(silent));
    what()
}

/// Numbers that are looked at. Programs use few, and numbers are given from below.
const LOOKED_AT: usize = 192;

pub(crate) struct Descriptors([bool; LOOKED_AT]);

impl Descriptors {
    /// Those that are open now: one system call.
    pub(crate) fn open() -> Descriptors {
        let mut polls = [libc::pollfd { fd: 0, events: 0, revents: 0 }; LOOKED_AT];
        polls.iter_mut().enumerate().for_each(|(fd, poll)| poll.fd = fd as i32);
        // SAFETY: the records are valid for the length of the call.
        unsafe { libc::poll(polls.as_mut_ptr(), LOOKED_AT as libc::nfds_t, 0) };
        Descriptors(polls.map(|poll| poll.revents & libc::POLLNVAL == 0))
    }

    /// What has been opened since and not closed. Threads that worked for a loop may need a moment to let go of what it woke them by.
    pub(crate) fn leaked(&self) -> Option<String> {
        let patience = Instant::now() + Duration::from_secs(3);
        loop {
            let now = Descriptors::open();
            let new: Vec<usize> = (0..LOOKED_AT).filter(|&fd| now.0[fd] && !self.0[fd]).collect();
            if new.is_empty() {
                return None;
            }
            if Instant::now() > patience {
                let what = |fd| std::fs::read_link(format!("/proc/self/fd/{fd}"));
                let all: Vec<_> = new.into_iter().map(|fd| (fd, what(fd).ok())).collect();
                return Some(format!("{all:?}"));
            }
            std::thread::yield_now();
        }
    }
}
