//! What programs work with: loops, connections, files, notifiers, pools; and where callbacks find it.

use std::cell::RefCell;
use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use oxev::{
    BufPool, File, Lease, Loop, LoopHandle, Notifier, OpenOptions, Pool, Shared, TcpListener, TcpStream,
    ThreadPool,
};

use super::driver::Watch;
use super::model::{Gate, model, report};
use super::poster::PosterThread;
use super::program::{Backend, ENDS, Setting};
use super::submissions::SingleState;

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Asks or changes the world of the program that runs on this thread.
pub(crate) fn world<R>(ask: impl FnOnce(&mut World) -> R) -> R {
    WORLD.with_borrow_mut(|world| ask(world.as_mut().expect("a program runs")))
}

pub(crate) fn enter_world(new: World) {
    WORLD.set(Some(new));
}

/// Whether the program of this thread has been taken apart, or is not of this thread.
pub(crate) fn is_over() -> bool {
    WORLD.with_borrow(Option::is_none)
}

pub(crate) fn leave_world() -> Option<World> {
    WORLD.take()
}

/// A connection's end, as the model knows it.
pub(crate) struct Socket {
    pub(crate) stream: Option<TcpStream>,
    pub(crate) side: usize,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // If the stream was taken out, an operation closes it.
        model(|m| m.side_gone(self.side, self.stream.is_some()));
    }
}

/// A share of it.
#[derive(Clone)]
pub(crate) enum Link {
    Counted(Rc<Socket>),
    Pooled(Shared<Socket>),
}

impl Deref for Link {
    type Target = Socket;
    fn deref(&self) -> &Socket {
        match self {
            Link::Counted(socket) => socket,
            Link::Pooled(socket) => socket,
        }
    }
}

impl Link {
    pub(crate) fn stream(&self) -> &TcpStream {
        self.stream.as_ref().expect("only the last share is closed")
    }

    /// The stream, if this is the only share.
    pub(crate) fn into_stream(self) -> Option<TcpStream> {
        match self {
            Link::Counted(socket) => Rc::try_unwrap(socket).ok().and_then(|mut socket| socket.stream.take()),
            Link::Pooled(_) => None,
        }
    }
}

/// A lease that a program holds, and what was in it.
pub(crate) struct HeldLease {
    lease: Lease,
    copy: Vec<u8>,
    pub(crate) on: usize,
    pub(crate) life: usize,
}

impl HeldLease {
    pub(crate) fn is_empty(&self) -> bool {
        self.lease.is_empty()
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        if self.lease[..] != self.copy[..] {
            report(
                "the bytes of a lease do not change",
                format!("{:?} was {:?}", &self.lease[..], self.copy),
            );
        }
    }
}

/// An end that waits for its peer to be known: the address of the one that connected.
struct Unpaired {
    key: SocketAddr,
    connected: bool,
    link: Link,
}

pub(crate) struct World {
    pub(crate) backend: Backend,
    pub(crate) setting: Setting,
    /// `None` at the end: then the loops have the last handles.
    pub(crate) thread_pool: Option<ThreadPool>,
    /// What work waits for that blocks.
    pub(crate) gate: Arc<Gate>,
    pub(crate) poster: PosterThread,
    pub(crate) ends: [Option<Link>; ENDS as usize],
    unpaired: Vec<Unpaired>,
    pub(crate) listener: Rc<TcpListener>,
    pub(crate) address: SocketAddr,
    pub(crate) nowhere: SocketAddr,
    /// Whose content is modelled; and one that is only read.
    pub(crate) file: Rc<File>,
    pub(crate) constant: Rc<File>,
    /// Which is written at its own position.
    pub(crate) log: Rc<File>,
    /// Which is read and written at its own position.
    pub(crate) mixed: Rc<File>,
    /// Open for both, so that it never ends (real backends).
    pub(crate) fifo: Option<Rc<File>>,
    /// Where files are.
    pub(crate) directory: String,
    pub(crate) notifiers: [Notifier; 2],
    /// Of each loop.
    pub(crate) handles: Vec<LoopHandle>,
    pub(crate) bufs: Vec<BufPool>,
    pub(crate) watches: Vec<Option<Watch>>,
    pub(crate) leases: Vec<HeldLease>,
    pub(crate) pool: Pool<SingleState>,
    pub(crate) sockets: Pool<Socket>,
    pub(crate) platform: Platform,
    /// The loop clock's time of the model's zero.
    pub(crate) base: Instant,
    /// Posts that have been run or dropped.
    pub(crate) posts_gone: Arc<AtomicUsize>,
}

/// Where loops are made, and files opened.
pub(crate) enum Platform {
    Real,
    #[cfg(feature = "sim")]
    Simulated(Vec<oxev::sim::Simulation>),
}

impl Platform {
    /// Does something where files and listeners are the world's.
    pub(crate) fn enter<R>(&self, what: impl FnOnce() -> R) -> R {
        match self {
            Platform::Real => what(),
            #[cfg(feature = "sim")]
            Platform::Simulated(hosts) => hosts[0].enter(what),
        }
    }

    fn new_loop(
        &self,
        backend: Backend,
        setting: &Setting,
        pool: Option<&ThreadPool>,
        on: usize,
    ) -> io::Result<Box<Loop>> {
        let mut builder = Loop::builder()
            .capacity(setting.capacity)
            .entries(setting.entries)
            .baseline(setting.baseline)
            .drain_timeout(drain_timeout(setting));
        if let Some(pool) = pool.filter(|_| setting.blocking) {
            builder = builder.thread_pool(pool);
        }
        match (self, backend) {
            #[cfg(feature = "sim")]
            (Platform::Simulated(hosts), _) => builder.simulation(&hosts[on]).build(),
            _ => {
                let _ = on;
                builder.backend(backend.kind().expect("a world has its backend")).build()
            }
        }
    }
}

/// How long the end of a loop may take. Work that blocks takes all of it.
pub(crate) fn drain_timeout(setting: &Setting) -> Duration {
    if setting.blocking { Duration::from_millis(200) } else { Duration::from_secs(3) }
}

/// What a world is made of.
pub(crate) struct Parts {
    pub(crate) backend: Backend,
    pub(crate) setting: Setting,
    pub(crate) thread_pool: ThreadPool,
    pub(crate) poster: PosterThread,
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
    pub(crate) nowhere: SocketAddr,
    pub(crate) directory: String,
    pub(crate) platform: Platform,
    pub(crate) base: Instant,
}

impl World {
    pub(crate) fn new(parts: Parts) -> io::Result<World> {
        let open = |name: &str| {
            let path = format!("{}/{name}", parts.directory);
            parts.platform.enter(|| OpenOptions::new().read(true).write(true).open_blocking(path))
        };
        let (file, constant, log) =
            (Rc::new(open("data")?), Rc::new(open("constant")?), Rc::new(open("log")?));
        let mixed = Rc::new(open("mixed")?);
        let fifo = match parts.backend {
            Backend::Sim => None,
            _ => Some(Rc::new(open("fifo")?)),
        };
        Ok(World {
            pool: Pool::new(parts.setting.slots),
            sockets: Pool::new(64),
            backend: parts.backend,
            setting: parts.setting,
            thread_pool: Some(parts.thread_pool),
            gate: Arc::default(),
            poster: parts.poster,
            ends: [const { None }; ENDS as usize],
            unpaired: Vec::new(),
            listener: Rc::new(parts.listener),
            address: parts.address,
            nowhere: parts.nowhere,
            file,
            constant,
            log,
            mixed,
            fifo,
            directory: parts.directory,
            notifiers: [Notifier::new(), Notifier::new()],
            handles: Vec::new(),
            bufs: Vec::new(),
            watches: Vec::new(),
            leases: Vec::new(),
            platform: parts.platform,
            base: parts.base,
            posts_gone: Arc::default(),
        })
    }

    /// Makes a loop for a place, with a pool of buffers.
    pub(crate) fn new_loop(&self, on: usize) -> io::Result<(Box<Loop>, BufPool)> {
        let mut lp = self.platform.new_loop(self.backend, &self.setting, self.thread_pool.as_ref(), on)?;
        let (count, size) = self.setting.buffers;
        let bufs = lp.buf_pool(count, size)?;
        Ok((lp, bufs))
    }

    /// A small loop, of an owner's own.
    pub(crate) fn new_nested_loop(&self, on: usize) -> io::Result<Box<Loop>> {
        let setting = Setting { capacity: 8, entries: 4, ..self.setting.clone() };
        self.platform.new_loop(self.backend, &setting, self.thread_pool.as_ref(), on)
    }

    /// A new loop is in a place: the world's parts that belong to it.
    pub(crate) fn install(&mut self, on: usize, lp: &Loop, bufs: BufPool) {
        let (handle, watch) = (lp.handle(), Watch::new(lp, self.setting.embedding));
        match on < self.handles.len() {
            true => (self.handles[on], self.bufs[on], self.watches[on]) = (handle, bufs, watch),
            false => {
                self.handles.push(handle);
                self.bufs.push(bufs);
                self.watches.push(watch);
            }
        }
    }

    /// Lets work go on that blocks.
    pub(crate) fn release(&mut self) {
        std::mem::take(&mut self.gate).open();
    }

    pub(crate) fn path(&self, name: &str) -> CString {
        CString::new(format!("{}/{name}", self.directory)).expect("no zero in a path")
    }

    /// A stream becomes an end that the model knows.
    pub(crate) fn link(&self, stream: TcpStream) -> Link {
        let socket = Socket { stream: Some(stream), side: model(|m| m.add_side()) };
        if !self.setting.pooled_sockets {
            return Link::Counted(Rc::new(socket));
        }
        match self.sockets.share(socket) {
            Ok(shared) => Link::Pooled(shared),
            Err(socket) => Link::Counted(Rc::new(socket)),
        }
    }

    /// A connection has come by an accept or a connect. Gives back what is in its way.
    pub(crate) fn adopt(
        &mut self,
        stream: TcpStream,
        key: Option<SocketAddr>,
        connected: bool,
    ) -> [Option<Link>; 2] {
        let key = key.or_else(|| if connected { stream.local_addr().ok() } else { stream.peer_addr().ok() });
        let link = self.link(stream);
        let Some(key) = key else { return [Some(link), None] };
        let other = self.unpaired.iter().position(|b| b.key == key && b.connected != connected);
        let Some(other) = other.map(|index| self.unpaired.swap_remove(index).link) else {
            self.unpaired.push(Unpaired { key, connected, link });
            return [None, None];
        };
        model(|m| m.pair(link.side, other.side));
        let free =
            (0..self.ends.len()).step_by(2).find(|&i| self.ends[i].is_none() && self.ends[i + 1].is_none());
        let slot = free.unwrap_or(link.side / 2 * 2 % self.ends.len());
        [self.ends[slot].replace(link), self.ends[slot + 1].replace(other)]
    }

    /// Keeps a lease, or gives it back if there are enough.
    pub(crate) fn hold(&mut self, lease: Lease, on: usize, life: usize) {
        let copy = lease.to_vec();
        self.leases.push(HeldLease { lease, copy, on, life });
    }
}
