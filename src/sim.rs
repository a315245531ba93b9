//! Test your server in the simulator: the same program, on a simulated kernel.
//!
//! A [`Simulation`] is a world with a virtual clock, a network and a file system in memory, and [`Faults`]
//! that a seed decides. Loops that are built [for it](crate::Builder::simulation) run your callbacks as on
//! any other backend, and nothing in them knows the difference:
//!
//! * **Time is virtual.** It moves when there is nothing else to do, straight to the next event: an hour of
//!   timeouts takes milliseconds.
//! * **Everything goes wrong**, as often as you say: short reads and writes, interrupted calls, resets,
//!   refusals, latency, reordered completions, cancels that come too late, full disks, partitions, power
//!   cuts.
//! * **The same seed gives the same run.** A failure that a seed has found is debugged by running that seed
//!   again; [`Simulation::trace`] shows that it is the same run.
//!
//! # The echo server, cut off and reset
//!
//! The server below is an ordinary one. The client belongs to the test, and has a handle on the world in its
//! state.
//!
//! ```
//! use oxev::sim::{Faults, SimOptions, Simulation};
//! use oxev::{Completion, Loop, TcpListener, TcpStream, Timer};
//! use std::io::{self, ErrorKind};
//! use std::time::Duration;
//!
//! // ---- the server
//!
//! struct Conn { stream: TcpStream, buf: [u8; 64] }
//!
//! fn serve(lp: &mut Loop, listener: Box<Completion<TcpListener>>) {
//!     lp.submit(listener, |l| l.accept(), |lp, listener, accepted| match accepted {
//!         Ok(stream) => {
//!             let conn = Box::new(Completion::new(Conn { stream, buf: [0; 64] }));
//!             lp.submit(conn, |c| c.stream.recv(&mut c.buf), on_recv);
//!             serve(lp, listener);
//!         }
//!         Err(_) => {
//!             // No descriptors left, perhaps: trying again at once would spin.
//!             let pause = Duration::from_millis(100);
//!             lp.submit(listener, |_| Timer::after(pause), |lp, listener, _| serve(lp, listener));
//!         }
//!     });
//! }
//!
//! fn on_recv(lp: &mut Loop, conn: Box<Completion<Conn>>, received: io::Result<usize>) {
//!     if let Ok(n @ 1..) = received {
//!         lp.submit(conn, |c| c.stream.send_all(&c.buf[..n]), |lp, conn, sent| {
//!             if sent.is_ok() {
//!                 lp.submit(conn, |c| c.stream.recv(&mut c.buf), on_recv);
//!             }
//!         });
//!     }
//! }
//!
//! // ---- the test: the server is on one host, the client on another
//!
//! const SERVER: [u8; 4] = [10, 0, 0, 1];
//! const CLIENT: [u8; 4] = [10, 0, 0, 2];
//! const MINUTE: Duration = Duration::from_secs(60);
//!
//! struct Client { world: Simulation, stream: TcpStream, buf: [u8; 4] }
//! type Owner = Box<Completion<Client>>;
//!
//! fn on_connect(lp: &mut Loop, world: Box<Completion<Simulation>>, connected: io::Result<TcpStream>) {
//!     let client = Client { world: world.into_inner(), stream: connected.unwrap(), buf: *b"ping" };
//!     client.world.partition(SERVER, CLIENT);
//!     lp.submit(Box::new(Completion::new(client)), |c| c.stream.send_all(&c.buf), on_sent);
//! }
//!
//! // The send is on its way, but does not arrive, so no answer comes.
//! fn on_sent(lp: &mut Loop, client: Owner, sent: io::Result<usize>) {
//!     sent.unwrap();
//!     lp.submit(client, |c| c.stream.recv_exact(&mut c.buf).timeout(MINUTE), |lp, client, received| {
//!         assert_eq!(received.unwrap_err().kind(), ErrorKind::TimedOut);
//!         assert!(client.world.elapsed() >= MINUTE);
//!         client.world.heal(SERVER, CLIENT);
//!         lp.submit(client, |c| c.stream.recv_exact(&mut c.buf), on_healed);
//!     });
//! }
//!
//! // Everything arrives after all. Then the connection is reset.
//! fn on_healed(lp: &mut Loop, client: Owner, received: io::Result<usize>) {
//!     received.unwrap();
//!     assert_eq!(&client.buf, b"ping");
//!     assert_eq!(client.world.reset_connections(SERVER, CLIENT), 2); // both of its ends
//!     lp.submit(client, |c| c.stream.recv(&mut c.buf), |lp, _client, received| {
//!         assert_eq!(received.unwrap_err().kind(), ErrorKind::ConnectionReset);
//!         lp.stop();
//!     });
//! }
//!
//! fn run(seed: u64) -> io::Result<u64> {
//!     let faults = Faults { connection_refused: 0.0, connection_reset: 0.0, ..Faults::default() };
//!     let world = Simulation::new(SimOptions { seed, faults, ..SimOptions::default() });
//!     let (server, client) = (world.host(SERVER), world.host(CLIENT));
//!     let (mut server_loop, mut client_loop) = (server.new_loop()?, client.new_loop()?);
//!     let listener = server.enter(|| TcpListener::bind("0.0.0.0:7000"))?;
//!     serve(&mut server_loop, Box::new(Completion::new(listener)));
//!     client_loop.submit(
//!         Box::new(Completion::new(world.clone())),
//!         |_| TcpStream::connect((std::net::Ipv4Addr::from(SERVER), 7000)),
//!         on_connect,
//!     );
//!     world.run(&mut [&mut server_loop, &mut client_loop])?;
//!     Ok(world.trace())
//! }
//!
//! # fn main() -> io::Result<()> {
//! for seed in 0..100 {
//!     assert_eq!(run(seed)?, run(seed)?, "seed {seed}"); // an hour and forty minutes, twice
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Scripted peers
//!
//! The client above runs on a loop, too. Shorter are peers that look as if they blocked:
//! [`Simulation::connect`] for a test that runs the loops in between by itself, and [`Simulation::script`]
//! for one that runs beside them. Here a server greets one client:
//!
//! ```
//! use oxev::sim::{SimOptions, Simulation};
//! use oxev::{Completion, RunMode, TcpListener};
//! use std::io::Read;
//!
//! # fn main() -> std::io::Result<()> {
//! let world = Simulation::new(SimOptions::calm());
//! let mut lp = world.new_loop()?;
//! let listener = world.enter(|| TcpListener::bind("10.0.0.1:7000"))?;
//! lp.submit(Box::new(Completion::new(listener)), |l| l.accept(), |lp, _, accepted| {
//!     let conn = Box::new(Completion::new((accepted.unwrap(), *b"hello")));
//!     lp.submit(conn, |(stream, greeting)| stream.send_all(greeting), |_, _, sent| _ = sent.unwrap());
//! });
//!
//! let client = world.host([10, 0, 0, 2]).script(|script| {
//!     let mut peer = script.connect("10.0.0.1:7000")?;
//!     let mut greeting = String::new();
//!     peer.read_to_string(&mut greeting)?;
//!     Ok::<_, std::io::Error>(greeting)
//! })?;
//! lp.run(RunMode::UntilDone)?;
//! assert_eq!(client.join()??, "hello");
//! # Ok(())
//! # }
//! ```
//!
//! # What the world is
//!
//! * What is made **in** it is virtual: [`TcpListener::bind`](crate::TcpListener::bind) and
//!   [`OpenOptions::open_blocking`](crate::OpenOptions::open_blocking) inside [`Simulation::enter`] or in a
//!   callback of one of its loops, and everything that operations on its loops make (connect, accept, open).
//!   Descriptors of the real world have no place there (`EBADF`).
//! * Connections keep the order of bytes, hold [`SimOptions::socket_buffer_bytes`] in each direction, and end
//!   as Linux lets them end. Files are whole paths, and their directories need not be made; what is
//!   [synced](crate::File::sync_all) survives a [power cut](Simulation::power_cut).
//! * Timers, deadlines, notifiers and posts are the loop's own, as everywhere. Work for a [thread
//!   pool](crate::Loop::offload) is done at once, on this thread. A step takes a microsecond.
//! * [`Loop::now`] is virtual. [`Instant::now`](std::time::Instant::now) is not, nor are hash maps with
//!   random keys, addresses in memory, or other threads: what depends on them is no part of what a seed
//!   decides.
//! * A loop that waits for what can never happen fails with `EDEADLK`.
//! * A virtual socket is represented by a real, unconnected one: its options can be set and asked for, though
//!   only `SO_LINGER` has an effect. It stays on its thread: the world does not hear of one that is closed on
//!   another thread or after it was turned into an `OwnedFd`.
//!
//! Several loops share a world by [`Simulation::run`]; a single one may simply [run](crate::Loop::run), and
//! moves the clock itself when it waits.
//!
//! # Many seeds
//!
//! A test that runs some hundred seeds takes no time, and one that runs all night finds faults that
//! no one has written a test for: [`SimOptions::swarm`] lets the seed choose the faults, too. Print the seed
//! with every assertion.

#![allow(unsafe_code)]

mod peer;
mod script;

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use crate::backends::Kind;
pub use crate::backends::sim::{Faults, SimOptions};
use crate::backends::sim::{SimHandle, World};
use crate::builder::Builder;
use crate::descriptor::Descriptor;
use crate::event_loop::Loop;
use crate::fs::File;
use crate::net::TcpListener;
use crate::op::duration_to_ns;
use crate::sim_hooks;
use crate::sys::errno;
pub use peer::Peer;
pub use script::{Script, ScriptHandle};

/// A handle on a simulated world, as a host in it: cheap to clone, and bound to its thread.
#[derive(Clone)]
pub struct Simulation {
    world: Rc<World>,
    host: IpAddr,
}

impl Simulation {
    /// A new world. The handle is for a host that has no address but loopback.
    #[must_use]
    pub fn new(options: SimOptions) -> Simulation {
        Simulation { world: World::new(options), host: Ipv4Addr::LOCALHOST.into() }
    }

    /// The same world as another host: what is bound to an unspecified address listens on this one, and
    /// connections come from it. All hosts share the loopback addresses.
    #[must_use]
    pub fn host(&self, address: impl Into<IpAddr>) -> Simulation {
        Simulation { world: Rc::clone(&self.world), host: address.into() }
    }

    /// A loop on this host: `Loop::builder().simulation(self).build()`.
    ///
    /// # Errors
    /// As [`Builder::build`](crate::Builder::build).
    pub fn new_loop(&self) -> io::Result<Box<Loop>> {
        Loop::builder().simulation(self).build()
    }

    /// Runs `setup` on this host: listeners that it [binds](crate::TcpListener::bind) and files that it
    /// [opens](crate::OpenOptions::open_blocking) are the world's. Callbacks of the world's loops run there
    /// anyway.
    pub fn enter<R>(&self, setup: impl FnOnce() -> R) -> R {
        let _entered = sim_hooks::enter(self.world.context(self.host));
        setup()
    }

    // ---- running

    /// Runs several loops until nothing is in flight in any of them, background operations aside, or one is
    /// stopped. In each round every loop takes a step without waiting, in an order that the seed chooses;
    /// when none has anything to do, the clock goes to the next event.
    ///
    /// # Errors
    /// `EDEADLK` if operations are in flight and nothing that could end them will ever happen; otherwise as
    /// [`Loop::run`].
    ///
    /// # Panics
    /// A panic of a callback comes through. The loops can be run again.
    pub fn run(&self, loops: &mut [&mut Loop]) -> io::Result<()> {
        self.run_until(loops, u64::MAX)
    }

    /// As [`Simulation::run`], for no longer than `duration` of virtual time.
    ///
    /// # Errors
    /// As [`Simulation::run`], but if nothing ever happens the time passes.
    ///
    /// # Panics
    /// As [`Simulation::run`].
    pub fn run_for(&self, loops: &mut [&mut Loop], duration: Duration) -> io::Result<()> {
        self.run_until(loops, self.world.now_ns().saturating_add(duration_to_ns(duration)))
    }

    fn run_until(&self, loops: &mut [&mut Loop], end_ns: u64) -> io::Result<()> {
        let mut order: Vec<usize> = (0..loops.len()).collect();
        while self.world.now_ns() < end_ns && loops.iter().any(|lp| lp.active() > 0) {
            for last in (1..order.len()).rev() {
                order.swap(last, self.world.random_up_to(last as u64) as usize);
            }
            let mut busy = false;
            for &index in &order {
                let turn = loops[index].turn()?;
                if turn.stopped {
                    return Ok(());
                }
                busy |= turn.busy;
            }
            if busy {
                continue;
            }
            let timers = loops.iter_mut().filter_map(|lp| lp.next_timer_ns());
            match timers.chain(self.world.next_ns()).min() {
                Some(at_ns) => self.world.advance_to(at_ns.min(end_ns)),
                None if end_ns == u64::MAX => return Err(errno::error(errno::EDEADLK)),
                None => self.world.advance_to(end_ns),
            }
        }
        Ok(())
    }

    /// The virtual time that has passed since the world began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.world.now_ns())
    }

    /// Lets time pass as a callback does that computes for so long: nothing happens meanwhile.
    pub fn advance(&self, duration: Duration) {
        self.world.advance_to(self.world.now_ns().saturating_add(duration_to_ns(duration)));
    }

    // ---- peers

    /// Connects from this host, and lets the virtual time pass that it takes. The listener need not have
    /// accepted it yet.
    ///
    /// # Errors
    /// `ECONNREFUSED`, `ETIMEDOUT`, … : those of `connect(2)`; those of the name's look-up; and
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if a partition holds it up.
    pub fn connect(&self, address: impl ToSocketAddrs) -> io::Result<Peer> {
        let fd = self.world.connect(self.host, script::first(address)?)?;
        // SAFETY: S7: the world made the descriptor for us.
        let peer = Peer::new(unsafe { Descriptor::from_raw(fd) });
        peer::ask_here(&self.world, |world| world.is_connected(fd))?;
        Ok(peer)
    }

    /// Accepts a connection from a listener of this world, which need not be with a loop.
    ///
    /// # Errors
    /// Those of `accept(2)`; [`WouldBlock`](io::ErrorKind::WouldBlock) if none is on its way.
    pub fn accept(&self, listener: &TcpListener) -> io::Result<Peer> {
        let fd = peer::ask_about(listener.as_raw_fd(), |world, fd| world.accept_now(fd))?;
        // SAFETY: S7: as above.
        Ok(Peer::new(unsafe { Descriptor::from_raw(fd) }))
    }

    /// A pipe: the end to read from, and the end to write to. Either may become a [`Peer`].
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn pipe(&self) -> io::Result<(File, File)> {
        let (reader, writer) = self.world.pipe()?;
        // SAFETY: S7: as above.
        let [reader, writer] = [reader, writer].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        Ok((File::from_std(reader.into()), File::from_std(writer.into())))
    }

    /// Starts a script on this host: a client or server that belongs to the test, and is written as a program
    /// that blocks.
    ///
    /// It runs on a thread of its own, but only ever while its world stands still and waits for what it does
    /// next: so it is as much a part of what the seed decides as everything else. It goes on whenever the
    /// world does: while loops [run](crate::Loop::run), or in [`ScriptHandle::join`]. It may post to loops,
    /// notify and [stop](crate::LoopHandle::stop) them, but must not wait for anything outside of the world.
    ///
    /// ```
    /// use oxev::sim::{SimOptions, Simulation};
    /// use oxev::{Completion, RunMode, TcpListener};
    /// use std::io::{Read, Write};
    /// use std::time::Duration;
    ///
    /// let world = Simulation::new(SimOptions::default());
    /// let mut lp = world.new_loop()?;
    /// let listener = world.enter(|| TcpListener::bind("10.0.0.1:80"))?;
    /// let client = world.host([10, 0, 0, 2]).script(|script| {
    ///     script.sleep(Duration::from_secs(3600))?;
    ///     let mut peer = script.connect("10.0.0.1:80")?;
    ///     peer.write_all(b"at last")?;
    ///     peer.read(&mut [0; 16])
    /// })?;
    /// lp.submit(Box::new(Completion::new(listener)), |l| l.accept(), |lp, _, accepted| {
    ///     let conn = Box::new(Completion::new((accepted.unwrap(), [0; 7])));
    ///     lp.submit(conn, |(stream, buffer)| stream.recv_exact(buffer), |_, conn, received| {
    ///         assert_eq!((received.unwrap(), &conn.1), (7, b"at last"));
    ///     });
    /// });
    /// lp.run(RunMode::UntilDone)?;
    /// assert_eq!(client.join()??, 0); // the end of the stream
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// That no thread can be had.
    pub fn script<R: Send + 'static>(
        &self,
        script: impl FnOnce(Script) -> R + Send + 'static,
    ) -> io::Result<ScriptHandle<R>> {
        ScriptHandle::start(self, script)
    }

    // ---- what goes wrong

    /// Changes the faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.world.with_faults(|now| *now = faults);
    }

    /// The faults as they are now.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.world.with_faults(|now| now.clone())
    }

    /// Cuts two hosts off from each other: what they send waits on its way, in both directions, until they
    /// are [healed](Simulation::heal). Neither host is told of it.
    pub fn partition(&self, a: impl Into<IpAddr>, b: impl Into<IpAddr>) {
        self.world.partition(a.into(), b.into());
    }

    /// Ends a partition. What was on its way arrives.
    pub fn heal(&self, a: impl Into<IpAddr>, b: impl Into<IpAddr>) {
        self.world.heal(a.into(), b.into());
    }

    /// Resets every connection between two hosts, at both ends, and says how many ends that were.
    pub fn reset_connections(&self, a: impl Into<IpAddr>, b: impl Into<IpAddr>) -> usize {
        self.world.reset_connections(a.into(), b.into())
    }

    /// The disks lose power: every file is as it was [synced](crate::File::sync_all) last, and files that
    /// never were are gone. With [`Faults::torn_write`], changes that were not synced may have reached the
    /// disk nevertheless, in part. To be called between two lives of a program, when the loops of the first
    /// are dropped.
    pub fn power_cut(&self) {
        self.world.power_cut();
    }

    // ---- files

    /// Puts a durable file into the file system, which begins empty. Names are whole paths: directories need
    /// not be made.
    pub fn write_file(&self, path: &CStr, content: impl AsRef<[u8]>) {
        self.world.write_file(path.to_bytes(), content.as_ref());
    }

    /// Limits the lengths of all files together, in bytes; `None`: they are not limited. A write that would make a
    /// file longer than there is room for is cut short, and `ENOSPC` if there is no room at all; a write within a
    /// file always has room. [`Simulation::write_file`] is not limited.
    pub fn limit_disk(&self, bytes_max: impl Into<Option<u64>>) {
        self.world.limit_disk(bytes_max.into());
    }

    /// The content of a file, synced or not.
    #[must_use]
    pub fn read_file(&self, path: &CStr) -> Option<Vec<u8>> {
        self.world.read_file(path.to_bytes())
    }

    // ---- what happened

    /// A hash over everything that has happened in the world so far. The same program with the same options
    /// gives the same.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.world.trace_hash()
    }

    /// Everything that has happened, a line for each event: its time in nanoseconds, what it was, the number
    /// of the operation or object, and a figure (a count of bytes, an errno). Empty without
    /// [`SimOptions::trace_text`].
    #[must_use]
    pub fn trace_text(&self) -> String {
        self.world.trace_text()
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").field("host", &self.host).field("world", &self.world).finish()
    }
}

impl Builder {
    /// Makes a loop that lives in a simulated world, on the host of this handle, and on its thread: elsewhere
    /// [`Builder::build`] says `EINVAL`. See [`sim`](crate::sim).
    #[must_use]
    pub fn simulation(mut self, simulation: &Simulation) -> Builder {
        self.backend.kind = Some(Kind::Sim);
        self.backend.simulation = Some(SimHandle::new(Rc::clone(&simulation.world), simulation.host));
        self
    }
}
