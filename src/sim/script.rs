//! [`Script`]: a peer's part in a run, written as a program that blocks.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Simulation;
use super::peer::Peer;
use crate::backends::sim::{Question, World};
use crate::descriptor::Descriptor;
use crate::op::duration_to_ns;
use crate::sim_hooks;
use crate::sys::errno;

/// From a script to its world: questions, and at last the end.
pub(super) type Line = Sender<Option<Question>>;

thread_local! {
    /// From the script of this thread to its world.
    static LINE: RefCell<Option<Line>> = const { RefCell::new(None) };
}

/// The line of this thread's script, if it runs one.
pub(super) fn line() -> Option<Line> {
    LINE.try_with(|line| line.borrow().clone()).ok().flatten()
}

/// Asks the world until it answers. If it is gone: `ECONNABORTED`.
pub(super) fn ask<R: Send + 'static>(
    line: &Line,
    attempt: impl Fn(&World) -> Option<io::Result<R>> + Send + 'static,
) -> io::Result<R> {
    let (reply, replied) = mpsc::channel();
    let question: Question = Box::new(move |world| {
        let answer = attempt(world);
        let is_answered = answer.is_some();
        // If the receiver is gone, the result is dropped.
        answer.map(|answer| reply.send(answer));
        is_answered
    });
    let is_gone = || errno::error(errno::ECONNABORTED);
    line.send(Some(question)).map_err(|_| is_gone())?;
    replied.recv().map_err(|_| is_gone())?
}

/// The world as a [script](Simulation::script) sees it, from its host.
#[derive(Debug)]
pub struct Script {
    host: IpAddr,
    line: Line,
    /// It is on its own thread, and stays there.
    _bound: PhantomData<*const ()>,
}

impl Script {
    /// Connects, and waits until it is done.
    ///
    /// # Errors
    /// `ECONNREFUSED`, `ETIMEDOUT`, … : those of `connect(2)`; and those of the name's look-up.
    pub fn connect(&self, address: impl ToSocketAddrs) -> io::Result<Peer> {
        let (host, target) = (self.host, first(address)?);
        let fd = ask(&self.line, move |world| Some(world.connect(host, target)))?;
        // SAFETY: S7: the world made the descriptor for us.
        let peer = Peer::new(unsafe { Descriptor::from_raw(fd) });
        ask(&self.line, move |world| world.is_connected(fd))?;
        Ok(peer)
    }

    /// Sleeps for a virtual time, while everything else goes on.
    ///
    /// # Errors
    /// `ECONNABORTED` if the world comes to its end before.
    pub fn sleep(&self, duration: Duration) -> io::Result<()> {
        let end_ns = ask(&self.line, move |world| {
            let end_ns = world.now_ns().saturating_add(duration_to_ns(duration));
            world.wake_at(end_ns);
            Some(Ok(end_ns))
        })?;
        ask(&self.line, move |world| (world.now_ns() >= end_ns).then_some(Ok(())))
    }

    /// The virtual time that has passed since the world began.
    ///
    /// # Errors
    /// `ECONNABORTED` if the world has come to its end.
    pub fn elapsed(&self) -> io::Result<Duration> {
        ask(&self.line, |world| Some(Ok(Duration::from_nanos(world.now_ns()))))
    }
}

pub(super) fn first(address: impl ToSocketAddrs) -> io::Result<SocketAddr> {
    let nothing = || errno::error(errno::EADDRNOTAVAIL);
    address.to_socket_addrs()?.next().ok_or_else(nothing)
}

/// A script that was [started](Simulation::script).
pub struct ScriptHandle<R> {
    world: Rc<World>,
    is_over: Rc<Cell<bool>>,
    thread: JoinHandle<thread::Result<R>>,
}

/// The thread of a script.
fn run<R>(host: IpAddr, line: Line, script: impl FnOnce(Script) -> R) -> thread::Result<R> {
    LINE.set(Some(line.clone()));
    let to_world = line.clone();
    sim_hooks::report_closes_by(Rc::new(move |fd| {
        let closing = move |_: &World| {
            sim_hooks::closing(fd);
            Some(Ok(()))
        };
        // If the world is gone, so is the object.
        let _ = ask(&to_world, closing);
    }));
    let handle = Script { host, line: line.clone(), _bound: PhantomData };
    let result = catch_unwind(AssertUnwindSafe(|| script(handle)));
    let _ = line.send(None);
    result
}

impl<R: Send + 'static> ScriptHandle<R> {
    pub(super) fn start(
        simulation: &Simulation,
        script: impl FnOnce(Script) -> R + Send + 'static,
    ) -> io::Result<ScriptHandle<R>> {
        let (line, questions) = mpsc::channel();
        let host = simulation.host;
        let thread = thread::Builder::new().name("oxev-script".into());
        let thread = thread.spawn(move || run(host, line, script))?;
        let world = Rc::clone(&simulation.world);
        let is_over = world.add_script(questions);
        world.run_due();
        Ok(ScriptHandle { world, is_over, thread })
    }

    /// Whether it has come to its end.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.is_over.get()
    }

    /// Lets pass what is on its way in the world until the script is at its end, and gives its result. The
    /// loops are not run: that comes before.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if it waits for something that only a loop could do.
    ///
    /// # Panics
    /// If the script has panicked.
    pub fn join(self) -> io::Result<R> {
        self.world.run_due();
        while !self.is_over.get() {
            if !self.world.run_next_event() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        let result = self.thread.join().and_then(|result| result);
        Ok(result.unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

impl<R> fmt::Debug for ScriptHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptHandle").field("thread", &self.thread).finish_non_exhaustive()
    }
}
