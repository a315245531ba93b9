//! A backend outside the crate: a few dozen lines over the public contract, and the loop on it does what it does on any
//! other.

#![cfg(feature = "backend-api")]
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oxev::backend::{Driver, Next, Operations, Token, Wait, Waker};
use oxev::{
    Action, Completion, Kind, Loop, Multi, Notifier, OpKind, Outcome, RawOp, RunMode, TcpStream, Timer,
    is_canceled, is_deadline, nop,
};

/// Serves NOPs, receives and sends, by trying all that it has whenever something may have changed.
struct TryAll {
    operations: VecDeque<Token>,
    waker: Waker,
}

impl TryAll {
    fn make(capacity: usize, waker: Waker) -> io::Result<Box<dyn Driver>> {
        Ok(Box::new(TryAll { operations: VecDeque::with_capacity(capacity), waker }))
    }

    /// Tries each operation once, and says whether one is over or goes on.
    fn try_all(&mut self, ops: &mut Operations) -> bool {
        let mut progress = false;
        for _ in 0..self.operations.len() {
            let Some(token) = self.operations.pop_front() else { break };
            let Some(op) = ops.op(token) else { continue };
            // SAFETY: the operation is the driver's, and nothing else looks at it now.
            let result = attempt(unsafe { &*op });
            if result == -libc::EAGAIN {
                self.operations.push_back(token);
                continue;
            }
            progress = true;
            if ops.complete(token, Outcome::new(result)) == Next::Continue {
                self.operations.push_back(token);
            }
        }
        progress
    }

    fn wait(&self, wait: Wait, ops: &mut Operations) -> io::Result<()> {
        let end = match wait {
            Wait::Skip | Wait::Peek => return Ok(()),
            Wait::For { timeout_ns } => Some(Instant::now() + Duration::from_nanos(timeout_ns)),
            Wait::Forever => None,
        };
        // SAFETY: the descriptors of operations in flight are open.
        let borrow = |fd| unsafe { BorrowedFd::borrow_raw(fd) };
        let mut descriptors = vec![PollFd::new(self.waker.as_fd(), PollFlags::POLLIN)];
        for &token in &self.operations {
            let Some(op) = ops.op(token) else { continue };
            // SAFETY: as in `try_all`.
            let RawOp { kind, fd, .. } = unsafe { *op };
            let events = if kind == OpKind::Recv { PollFlags::POLLIN } else { PollFlags::POLLOUT };
            descriptors.push(PollFd::new(borrow(fd), events));
        }
        let left = end.map(|end| end.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let timeout =
            left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// One try: a count, or a negative errno.
fn attempt(op: &RawOp) -> i32 {
    let len = || op.transfer_len() as usize;
    let moved = match op.kind {
        OpKind::Nop => 0,
        // SAFETY: the buffer is the operation's.
        OpKind::Recv => unsafe { libc::recv(op.fd, op.as_transfer().buf.cast(), len(), libc::MSG_DONTWAIT) },
        OpKind::Send => {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: as above.
            unsafe { libc::send(op.fd, op.as_transfer().buf.cast(), len(), flags) }
        }
        // As a file system that was interrupted: the descriptor is closed, and its number names another file by
        // now.
        OpKind::Close => {
            // SAFETY: no memory is passed.
            let other = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
            // SAFETY: as above.
            assert_eq!(unsafe { libc::dup3(other, op.fd, libc::O_CLOEXEC) }, op.fd);
            // SAFETY: as above.
            unsafe { libc::close(other) };
            return -libc::ECANCELED;
        }
        _ => return -libc::EOPNOTSUPP,
    };
    if moved >= 0 { moved as i32 } else { -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) }
}

// SAFETY: an operation is reported once, when it has left the queue.
unsafe impl Driver for TryAll {
    fn completions_max(&self) -> usize {
        self.operations.capacity()
    }

    unsafe fn submit(&mut self, token: Token, _op: *mut RawOp, _ops: &mut Operations) {
        self.operations.push_back(token);
    }

    fn cancel(&mut self, token: Token, ops: &mut Operations) -> bool {
        let is_here = ops.op(token).is_some();
        if is_here {
            self.operations.retain(|other| *other != token);
            // What is in the queue was tried in vain at most.
            let _ = ops.complete(token, Outcome::untried(-libc::ECANCELED));
        }
        is_here
    }

    fn poll(&mut self, wait: Wait, ops: &mut Operations) -> io::Result<()> {
        if !self.try_all(ops) && !ops.has_ready() {
            self.wait(wait, ops)?;
            self.try_all(ops);
        }
        // What woke the driver has been seen.
        self.waker.clear();
        Ok(())
    }

    fn flush(&mut self, _ops: &mut Operations) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for TryAll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

fn new_loop() -> Box<Loop> {
    let lp = Loop::builder().capacity(16).driver(TryAll::make).build().unwrap();
    assert_eq!(lp.backend(), Kind::Custom);
    lp
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let one = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let two = listener.accept().unwrap().0;
    (TcpStream::from_std(one).unwrap(), TcpStream::from_std(two).unwrap())
}

struct Conn {
    stream: TcpStream,
    buf: Vec<u8>,
}

fn conn(stream: TcpStream, buf: Vec<u8>) -> Box<Completion<Conn>> {
    Box::new(Completion::new(Conn { stream, buf }))
}

#[test]
fn bytes_go_both_ways_on_a_backend_of_the_programs_own() {
    let (mut lp, (one, two)) = (new_loop(), pair());
    let sent: Vec<u8> = (0..1 << 20).map(|i: u32| (i * 7 / 3) as u8).collect();
    lp.submit(
        conn(one, sent),
        |c| c.stream.send_all(&c.buf),
        |_, _, sent| assert_eq!(sent.unwrap(), 1 << 20),
    );
    lp.submit(
        conn(two, vec![0; 1 << 20]),
        |c| c.stream.recv_exact(&mut c.buf),
        |_, c, received| {
            assert_eq!(received.unwrap(), 1 << 20);
            assert!(c.buf.iter().enumerate().all(|(i, byte)| *byte == (i as u32 * 7 / 3) as u8));
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert!(lp.is_empty());
}

#[test]
fn timers_deadlines_cancels_and_notifications_need_nothing_of_a_backend() {
    let (mut lp, (one, _peer), (two, _other_peer)) = (new_loop(), pair(), pair());
    let begin = Instant::now();
    lp.submit(
        conn(one, vec![0; 8]),
        |c| c.stream.recv(&mut c.buf).timeout(Duration::from_millis(5)),
        |_, _, received| assert!(is_deadline(&received.unwrap_err())),
    );
    let id = lp.submit(
        conn(two, vec![0; 8]),
        |c| c.stream.recv(&mut c.buf),
        |_, _, received| assert!(is_canceled(&received.unwrap_err())),
    );
    let notifier = Notifier::new();
    let other = notifier.clone();
    lp.submit(Box::new(Completion::new(notifier)), |n| n.wait(), |_, _, notified| notified.unwrap());
    let thread = std::thread::spawn(move || other.notify());
    lp.submit_multi(
        Box::new(Completion::new(Multi::new((), 0))),
        |()| Timer::every(Duration::from_millis(1)),
        |_, ticks: &mut u64, periods| {
            *ticks += periods;
            if *ticks < 3 { Action::Rearm } else { Action::Disarm }
        },
        |_, _, end| end.unwrap(),
    );
    lp.submit(Box::new(Completion::new(())), |()| nop(), |_, _, done| done.unwrap());
    assert!(lp.cancel(id));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(5));
    thread.join().unwrap();
}

#[test]
fn what_a_driver_cannot_do_comes_back_as_its_error() {
    let mut lp = new_loop();
    let file = oxev::File::from_std(std::fs::File::open("Cargo.toml").unwrap());
    lp.submit(
        Box::new(Completion::new(file)),
        |f| f.sync_all(),
        |_, _, synced| {
            assert_eq!(synced.unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
}

/// Whether a number names an open descriptor.
fn is_open(fd: i32) -> bool {
    // SAFETY: no memory is passed.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

#[test]
fn a_close_that_a_file_system_answers_with_ecanceled_does_not_close_again() {
    let (mut lp, (one, _two)) = (new_loop(), pair());
    let fd = one.as_raw_fd();
    lp.submit(
        conn(one, Vec::new()),
        |c| c.stream.close(),
        |_, _, closed| assert!(!is_canceled(&closed.unwrap_err()), "the program did not cancel it"),
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert!(is_open(fd), "the descriptor of another was closed");
    // SAFETY: it is the driver's eventfd, which nothing else owns.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

#[test]
fn a_close_that_is_cancelled_before_it_is_begun_closes_all_the_same() {
    let (mut lp, (one, two)) = (new_loop(), pair());
    let closing = lp.submit(
        conn(one, Vec::new()),
        |c| c.stream.close(),
        |_, _, closed| assert!(is_canceled(&closed.unwrap_err())),
    );
    assert!(lp.cancel(closing));
    lp.run(RunMode::UntilDone).unwrap();
    lp.submit(
        conn(two, vec![0; 1]),
        |c| c.stream.recv(&mut c.buf),
        |_, _, ended| assert_eq!(ended.unwrap(), 0),
    );
    lp.run(RunMode::UntilDone).unwrap();
}

#[test]
fn a_loop_that_is_dropped_takes_everything_back_from_its_driver() {
    let (mut lp, (one, two)) = (new_loop(), pair());
    let fd = one.as_raw_fd();
    lp.submit(
        conn(one, vec![0; 8]),
        |c| c.stream.recv(&mut c.buf),
        |_, _, _| unreachable!("the loop is gone"),
    );
    lp.run(RunMode::NoWait).unwrap();
    assert_eq!(lp.in_flight().next().and_then(|op| op.fd), Some(fd));
    drop(lp);
    let mut last = std::net::TcpStream::from(std::os::fd::OwnedFd::from(two));
    last.set_nonblocking(false).unwrap();
    assert_eq!(io::Read::read(&mut last, &mut [0; 1]).unwrap(), 0, "the owner and its socket are dropped");
}
