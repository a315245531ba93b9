//! What is done in a world without an operation: by peers, for which a test speaks, and by scripts, which
//! speak for themselves.
//!
//! A script has a thread of its own, but never runs at the same time as its world: it asks, and waits for the
//! answer, while the world answers, and waits for the next question. So what it does is as much a part of the
//! run as everything else.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::mpsc::Receiver;

use super::network::Connect;
use super::world::{ObjectId, ObjectKind, SimEvent, State, World};
use crate::descriptor::RawDescriptor;
use crate::op::OpKind;

/// A question to a world, asked until there is an answer: then it is true.
pub(crate) type Question = Box<dyn FnMut(&World) -> bool + Send>;

/// A script that goes on.
#[derive(Default)]
pub(super) struct Scripts(Vec<ScriptRun>);

struct ScriptRun {
    /// `None` is its end.
    questions: Receiver<Option<Question>>,
    is_over: Rc<Cell<bool>>,
    /// What it waits for.
    pending: Option<Question>,
}

impl ScriptRun {
    /// Lets it go on as far as it can, and says whether that was at all, and whether it is over.
    fn advance(&mut self, world: &World) -> (bool, bool) {
        let mut moved = false;
        loop {
            let next = self.pending.take().map_or_else(|| self.questions.recv(), |pending| Ok(Some(pending)));
            let Ok(Some(mut attempt)) = next else {
                self.is_over.set(true);
                return (true, true);
            };
            if !attempt(world) {
                self.pending = Some(attempt);
                return (moved, false);
            }
            moved = true;
        }
    }
}

fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl World {
    // ---- scripts

    /// What is given is true when the script is at its end.
    pub(crate) fn add_script(&self, questions: Receiver<Option<Question>>) -> Rc<Cell<bool>> {
        let is_over = Rc::new(Cell::new(false));
        let script = ScriptRun { questions, is_over: Rc::clone(&is_over), pending: None };
        self.scripts.borrow_mut().0.push(script);
        is_over
    }

    /// Lets every script go on as far as it can, and says whether one could.
    fn run_scripts(&self) -> bool {
        let mut running = self.scripts.take();
        let mut any_moved = false;
        running.0.retain_mut(|script| {
            let (moved, is_over) = script.advance(self);
            any_moved |= moved;
            !is_over
        });
        let mut scripts = self.scripts.borrow_mut();
        running.0.append(&mut scripts.0);
        *scripts = running;
        any_moved
    }

    /// Lets everything happen whose time has come, and says whether a script went on.
    pub(crate) fn run_due(&self) -> bool {
        let mut any_moved = false;
        loop {
            self.state.borrow_mut().run_events();
            if !self.run_scripts() {
                return any_moved;
            }
            any_moved = true;
        }
    }

    /// Goes on to the next event, and says whether there was one: otherwise nothing happens unless a loop
    /// does it.
    pub(crate) fn run_next_event(&self) -> bool {
        let next_ns = self.state.borrow().next_event_ns();
        let Some(next_ns) = next_ns else { return false };
        self.advance_to(next_ns);
        self.run_due();
        true
    }

    /// Loops whose descriptors are polled show that there is something for them.
    pub(crate) fn signal_outcomes(&self) {
        let now_ns = self.now_ns();
        self.state.borrow().ports.iter().for_each(|port| port.signal_outcomes(now_ns));
    }

    /// Makes something happen at a time: a script looks whether it is its own.
    pub(crate) fn wake_at(&self, at_ns: u64) {
        self.state.borrow_mut().schedule(at_ns, SimEvent::Wake);
    }

    // ---- peers

    /// Changes an object, and lets everything happen that follows from it.
    fn on_object<R>(
        &self,
        fd: RawDescriptor,
        change: impl FnOnce(&mut State, ObjectId) -> Option<io::Result<R>>,
    ) -> Option<io::Result<R>> {
        let mut state = self.state.borrow_mut();
        let Some(id) = state.descriptors.get(&fd).copied() else { return Some(Err(error(libc::EBADF))) };
        let result = change(&mut state, id);
        state.run_awake();
        result
    }

    /// As recv(2); `None` if it would wait.
    pub(crate) fn receive_now(&self, fd: RawDescriptor, len: usize) -> Option<io::Result<Vec<u8>>> {
        self.on_object(fd, |state, id| {
            let Some(stream) = state.stream(id) else { return Some(Err(error(libc::ENOTSOCK))) };
            if stream.is_pipe && stream.shut_read {
                return Some(Err(error(libc::EBADF)));
            }
            if len > 0 && !stream.is_readable() {
                return None;
            }
            let count = len.min(stream.received.len());
            match stream.error.filter(|_| count == 0) {
                Some(errno) => {
                    stream.error = None;
                    Some(Err(error(errno)))
                }
                None => Some(Ok(state.take_received(id, count))),
            }
        })
    }

    /// As send(2), but for the signal; `None` if it would wait.
    pub(crate) fn send_now(&self, fd: RawDescriptor, bytes: &[u8]) -> Option<io::Result<usize>> {
        self.on_object(fd, |state, id| {
            let Some(stream) = state.stream(id) else { return Some(Err(error(libc::ENOTSOCK))) };
            if stream.is_pipe && stream.shut_write {
                return Some(Err(error(libc::EBADF)));
            }
            if bytes.is_empty() {
                return Some(Ok(0));
            }
            if !state.is_ready(id, OpKind::Send) {
                return None;
            }
            let sent = state.transmit(id, bytes.len(), 1.0, |count| bytes[..count].to_vec());
            Some(sent.map_err(error))
        })
    }

    /// As accept(2); `None` if it would wait.
    pub(crate) fn accept_now(&self, fd: RawDescriptor) -> Option<io::Result<RawDescriptor>> {
        self.on_object(fd, |state, id| match state.objects.get(&id).map(|object| &object.kind) {
            Some(ObjectKind::Listener(listener)) if listener.pending.is_empty() => None,
            Some(ObjectKind::Listener(_)) => Some(state.accept_pending(id).map(|(fd, _, _)| fd)),
            _ => Some(Err(error(libc::EINVAL))),
        })
    }

    /// Begins to connect; [`World::is_connected`] tells the end.
    pub(crate) fn connect(&self, host: IpAddr, target: SocketAddr) -> io::Result<RawDescriptor> {
        let mut state = self.state.borrow_mut();
        let id = state.add_connecting(host, target, None);
        state.add_descriptor(id, Some(target)).inspect_err(|_| _ = state.objects.remove(&id))
    }

    /// `None` as long as nobody knows.
    pub(crate) fn is_connected(&self, fd: RawDescriptor) -> Option<io::Result<()>> {
        self.on_object(fd, |state, id| match state.stream(id).map(|stream| &stream.connect) {
            Some(Connect::Requested { .. }) => None,
            Some(Connect::Done(0)) => Some(Ok(())),
            Some(Connect::Done(errno)) => Some(Err(error(-errno))),
            None => Some(Err(error(libc::ENOTSOCK))),
        })
    }

    pub(crate) fn shutdown(&self, fd: RawDescriptor, how: i32) -> io::Result<()> {
        let shut = self.on_object(fd, |state, id| match state.shutdown(id, how) {
            0 => Some(Ok(())),
            errno => Some(Err(error(-errno))),
        });
        shut.unwrap_or(Ok(()))
    }

    /// The reading and the writing end of a pipe.
    pub(crate) fn pipe(&self) -> io::Result<(RawDescriptor, RawDescriptor)> {
        self.state.borrow_mut().add_pipe()
    }
}
