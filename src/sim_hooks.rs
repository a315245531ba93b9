//! What descriptors, sockets and clocks ask of simulated worlds: the bottom half of [`sim`](crate::sim).
//! Without the feature `sim`, `sim_hooks_none.rs` stands in its stead and nothing is asked.
//!
//! A virtual object is represented by a real descriptor, so that its number is unique and all descriptor types
//! stay what they are. The thread on which a world lives remembers which number belongs to which world.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};

use crate::sys::RawDescriptor;

/// A simulated world, as the descriptors of its objects see it.
pub(crate) trait SimHooks {
    /// The descriptor is about to be closed.
    fn close(&self, fd: RawDescriptor);
    fn local_addr(&self, fd: RawDescriptor) -> io::Result<SocketAddr>;
    fn peer_addr(&self, fd: RawDescriptor) -> io::Result<SocketAddr>;
    /// Makes a listener on a host, and gives its descriptor.
    fn listen(&self, host: IpAddr, address: SocketAddr, options: Listen) -> io::Result<RawDescriptor>;
    /// Opens a file with the flags of `open(2)`, and gives its descriptor.
    fn open(&self, path: &CStr, flags: i32, mode: u32) -> io::Result<RawDescriptor>;
    /// For a caller that knows the type of the world.
    fn as_any(&self) -> &dyn Any;
}

/// How to listen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listen {
    pub(crate) backlog: i32,
    pub(crate) reuse_port: bool,
    pub(crate) only_v6: bool,
}

/// A world, and the host in it on which things are done.
#[derive(Clone)]
pub(crate) struct SimContext {
    pub(crate) world: Rc<dyn SimHooks>,
    pub(crate) host: IpAddr,
}

/// Reports to the world of another thread that a descriptor is about to be closed.
type CloseReport = Rc<dyn Fn(RawDescriptor)>;

/// The worlds of descriptors.
type Worlds = BTreeMap<RawDescriptor, Weak<dyn SimHooks>>;

thread_local! {
    static DESCRIPTORS: RefCell<Worlds> = const { RefCell::new(BTreeMap::new()) };
    /// What a thread without a world does when it closes a descriptor.
    static CLOSE_REPORT: RefCell<Option<CloseReport>> = const { RefCell::new(None) };
    static CURRENT: RefCell<Option<SimContext>> = const { RefCell::new(None) };
}

/// The descriptor belongs to this world from now on.
pub(crate) fn adopt(fd: RawDescriptor, world: Weak<dyn SimHooks>) {
    DESCRIPTORS.with_borrow_mut(|descriptors| descriptors.insert(fd, world));
}

/// The world itself has closed the descriptor.
pub(crate) fn forget(fd: RawDescriptor) {
    let _ = DESCRIPTORS.try_with(|descriptors| descriptors.borrow_mut().remove(&fd));
}

pub(crate) fn world_of(fd: RawDescriptor) -> Option<Rc<dyn SimHooks>> {
    DESCRIPTORS.with_borrow(|descriptors| descriptors.get(&fd)?.upgrade())
}

/// A descriptor of this crate is about to be closed: its world, if it has one, closes the object.
pub(crate) fn closing(fd: RawDescriptor) {
    // At the end of a thread its variables may be gone already.
    let world = DESCRIPTORS.try_with(|descriptors| descriptors.borrow_mut().remove(&fd));
    match world.ok().flatten() {
        Some(world) => _ = world.upgrade().map(|world| world.close(fd)),
        None => report_close(fd),
    }
}

fn report_close(fd: RawDescriptor) {
    let report = CLOSE_REPORT.try_with(|report| report.borrow().clone());
    if let Some(report) = report.ok().flatten() {
        report(fd);
    }
}

/// This thread has no world, but works with one of another thread: closes are reported to that.
pub(crate) fn report_closes_by(report: CloseReport) {
    CLOSE_REPORT.set(Some(report));
}

pub(crate) fn local_addr(fd: RawDescriptor) -> Option<io::Result<SocketAddr>> {
    world_of(fd).map(|world| world.local_addr(fd))
}

pub(crate) fn peer_addr(fd: RawDescriptor) -> Option<io::Result<SocketAddr>> {
    world_of(fd).map(|world| world.peer_addr(fd))
}

fn current() -> Option<SimContext> {
    CURRENT.with_borrow(Clone::clone)
}

/// A listener in the current world, if there is one.
pub(crate) fn listen(address: SocketAddr, options: Listen) -> Option<io::Result<RawDescriptor>> {
    current().map(|SimContext { world, host }| world.listen(host, address, options))
}

/// A file in the current world, if there is one.
pub(crate) fn open(path: &CStr, flags: i32, mode: u32) -> Option<io::Result<RawDescriptor>> {
    current().map(|context| context.world.open(path, flags, mode))
}

/// As long as it lives, what this thread makes is made in a world.
#[must_use]
pub(crate) struct Entered(Option<SimContext>);

/// Makes a context the current one; `None` leaves the current one in force.
pub(crate) fn enter(context: Option<SimContext>) -> Entered {
    let context = context.or_else(current);
    Entered(CURRENT.replace(context))
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// The time of a loop's world, if it has one.
#[derive(Clone, Debug, Default)]
pub(crate) struct VirtualTime(Option<Rc<Cell<u64>>>);

impl VirtualTime {
    pub(crate) fn new(now_ns: Rc<Cell<u64>>) -> VirtualTime {
        VirtualTime(Some(now_ns))
    }

    /// Nanoseconds since the world began; `None`: time is real.
    #[inline(always)]
    pub(crate) fn now_ns(&self) -> Option<u64> {
        self.0.as_ref().map(|now_ns| now_ns.get())
    }
}
