//! The world, as loops, peers and tests reach it: one [`Kernel`], on one thread, and its scripts.

#![allow(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};

use super::super::Operations;
use super::faults::Faults;
use super::kernel::Kernel;
use super::port::LoopPort;
use super::scripts::Scripts;
use super::transfer;
use crate::op::RawOp;
use crate::sim_hooks::{Listen, SimContext, SimHooks};
use crate::sys::RawDescriptor;
use crate::sys::errno;
use crate::token::Token;
use crate::waker::Waker;

/// What a world is like.
#[derive(Clone, Debug, PartialEq)]
pub struct SimOptions {
    /// Decides everything that is left to chance. The same seed and the same program give the same run.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// How many bytes a connection holds in each direction before a send waits: 64 KiB by default.
    pub socket_buffer_bytes: usize,
    /// Keeps the text of [`Simulation::trace_text`](crate::sim::Simulation::trace_text). The hash is always
    /// kept.
    pub trace_text: bool,
    /// A loop that has nothing to wait for in the world waits for other threads of the real one (posts,
    /// notifications). Off by default: it fails with `EDEADLK`. What real threads do is no part of what the
    /// seed decides.
    pub wait_for_threads: bool,
}

impl Default for SimOptions {
    /// Seed 0, the default faults.
    fn default() -> SimOptions {
        SimOptions {
            seed: 0,
            faults: Faults::default(),
            socket_buffer_bytes: 64 << 10,
            trace_text: false,
            wait_for_threads: false,
        }
    }
}

impl SimOptions {
    /// This seed, and the faults that it chooses ([`Faults::swarm`]).
    #[must_use]
    pub fn swarm(seed: u64) -> SimOptions {
        SimOptions { seed, faults: Faults::swarm(seed), ..SimOptions::default() }
    }

    /// Nothing goes wrong, and nothing takes its time.
    #[must_use]
    pub fn calm() -> SimOptions {
        SimOptions { faults: Faults::none(), ..SimOptions::default() }
    }
}

/// What one poll takes, so that a loop that never waits grows old, too.
const POLL_NS: u64 = 1_000;

/// A simulated world. All of it is on one thread.
pub(crate) struct World {
    now_ns: Rc<Cell<u64>>,
    pub(super) kernel: RefCell<Kernel>,
    pub(super) scripts: RefCell<Scripts>,
    this: Weak<World>,
}

/// What a loop has been given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    /// How many outcomes.
    pub(super) outcomes: usize,
    /// A script has gone on, and may have posted, notified or stopped.
    pub(super) scripts_moved: bool,
}

impl World {
    pub(crate) fn new(options: SimOptions) -> Rc<World> {
        let now_ns = Rc::new(Cell::new(0));
        Rc::new_cyclic(|this| World {
            now_ns: Rc::clone(&now_ns),
            kernel: RefCell::new(Kernel::new(options, now_ns, Weak::clone(this))),
            scripts: RefCell::default(),
            this: Weak::clone(this),
        })
    }

    /// This world, to be entered.
    pub(crate) fn context(&self, host: IpAddr) -> Option<SimContext> {
        self.this.upgrade().map(|world| SimContext { world, host })
    }

    // ---- time

    pub(crate) fn clock(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.now_ns)
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    pub(crate) fn advance_to(&self, at_ns: u64) {
        self.now_ns.set(self.now_ns.get().max(at_ns));
    }

    /// When something happens next, to any loop.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        let kernel = self.kernel.borrow();
        let times = kernel.ports.iter().filter_map(LoopPort::next_ns);
        times.chain(kernel.next_event_ns()).min()
    }

    // ---- what the user does to it

    pub(crate) fn with_faults<R>(&self, change: impl FnOnce(&mut Faults) -> R) -> R {
        change(&mut self.kernel.borrow_mut().options.faults)
    }

    /// A number up to and with `last` that the seed decides.
    pub(crate) fn random_up_to(&self, last: u64) -> u64 {
        self.kernel.borrow_mut().random.up_to(last)
    }

    pub(crate) fn trace_hash(&self) -> u64 {
        self.kernel.borrow().trace.hash()
    }

    pub(crate) fn trace_text(&self) -> String {
        self.kernel.borrow().trace.text().to_owned()
    }

    pub(crate) fn partition(&self, a: IpAddr, b: IpAddr) {
        let mut kernel = self.kernel.borrow_mut();
        kernel.note("partition", 0, 0);
        kernel.network.cut(a, b);
    }

    pub(crate) fn heal(&self, a: IpAddr, b: IpAddr) {
        let mut kernel = self.kernel.borrow_mut();
        kernel.note("heal", 0, 0);
        kernel.network.mend(a, b);
        kernel.resume_held();
    }

    pub(crate) fn reset_connections(&self, a: IpAddr, b: IpAddr) -> usize {
        self.kernel.borrow_mut().reset_connections([a, b])
    }

    pub(crate) fn power_cut(&self) {
        let mut kernel = self.kernel.borrow_mut();
        kernel.note("power cut", 0, 0);
        let torn_write = kernel.options.faults.torn_write;
        let Kernel { files, random, .. } = &mut *kernel;
        files.power_cut(random, torn_write);
    }

    pub(crate) fn write_file(&self, path: &[u8], content: &[u8]) {
        self.kernel.borrow_mut().files.put(path, content, self.now_ns());
    }

    pub(crate) fn limit_disk(&self, bytes_max: Option<u64>) {
        self.kernel.borrow_mut().files.limit(bytes_max);
    }

    pub(crate) fn read_file(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.kernel.borrow().files.content(path)
    }

    // ---- what loops do in it

    /// A new loop: the index by which it is known.
    pub(super) fn attach(&self) -> usize {
        let mut kernel = self.kernel.borrow_mut();
        kernel.ports.push(LoopPort::default());
        kernel.ports.len() - 1
    }

    /// The descriptor of a loop is asked for.
    pub(super) fn embed(&self, port: usize, waker: &Waker) {
        self.kernel.borrow_mut().ports[port].polled.get_or_insert_with(|| waker.clone());
    }

    /// A loop is gone. What it has in flight was leaked, and is not touched any more.
    pub(super) fn detach(&self, port: usize) {
        self.kernel.borrow_mut().detach(port);
    }

    /// # Safety
    /// `op` is valid until it is completed (S3, S6), on this thread.
    pub(super) unsafe fn submit(&self, port: usize, host: IpAddr, token: Token, op: *mut RawOp) {
        // SAFETY: S3: the caller's promise.
        unsafe { self.kernel.borrow_mut().submit(port, host, token, op) };
    }

    pub(super) fn cancel(&self, port: usize, token: Token) {
        self.kernel.borrow_mut().cancel(port, token);
    }

    /// Begins what found the submission queue full.
    pub(super) fn begin_backlog(&self, port: usize) {
        self.kernel.borrow_mut().begin_backlog(port);
    }

    pub(super) fn take_time(&self) {
        self.now_ns.set(self.now_ns.get().saturating_add(POLL_NS));
    }

    /// Lets everything happen whose time has come, and reports what there is for one loop.
    pub(super) fn report(&self, port: usize, ops: &mut Operations) -> Report {
        let scripts_moved = self.run_due();
        let mut kernel = self.kernel.borrow_mut();
        let outcomes = kernel.deliver(port, ops);
        // What has been continued is tried at once.
        kernel.run_awake();
        Report { outcomes, scripts_moved }
    }

    /// When something happens next that may be of use to a loop.
    pub(super) fn next_ns_for(&self, port: usize) -> Option<u64> {
        let kernel = self.kernel.borrow();
        kernel.ports[port].next_ns().into_iter().chain(kernel.next_event_ns()).min()
    }

    pub(super) fn waits_for_threads(&self) -> bool {
        self.kernel.borrow().options.wait_for_threads
    }
}

impl SimHooks for World {
    fn close(&self, fd: RawDescriptor) {
        let closing = transfer::closing_of(fd);
        let mut kernel = self.kernel.borrow_mut();
        if let Some(id) = kernel.objects.unbind(fd) {
            kernel.close_object(id, closing);
            // What the peer is told without delay it knows when this is done.
            kernel.run_events();
        }
    }

    fn local_addr(&self, fd: RawDescriptor) -> io::Result<SocketAddr> {
        let kernel = self.kernel.borrow();
        let object = kernel.objects.of_descriptor(fd).ok_or(errno::ENOTSOCK);
        object.and_then(|object| object.local_addr()).map_err(errno::error)
    }

    fn peer_addr(&self, fd: RawDescriptor) -> io::Result<SocketAddr> {
        let kernel = self.kernel.borrow();
        let object = kernel.objects.of_descriptor(fd).ok_or(errno::ENOTCONN);
        object.and_then(|object| object.peer_addr()).map_err(errno::error)
    }

    fn listen(&self, host: IpAddr, address: SocketAddr, options: Listen) -> io::Result<RawDescriptor> {
        self.kernel.borrow_mut().listen(host, address, options)
    }

    fn open(&self, path: &CStr, flags: i32, mode: u32) -> io::Result<RawDescriptor> {
        let opened = self.kernel.borrow_mut().open(path, flags, mode);
        opened.map(|(fd, _)| fd).map_err(errno::error)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = self.kernel.borrow();
        f.debug_struct("World")
            .field("now_ns", &self.now_ns())
            .field("options", &kernel.options)
            .field("operations", &kernel.operations.len())
            .finish_non_exhaustive()
    }
}
