//! What descriptors, sockets and clocks ask of simulated worlds: the bottom half of [`sim`](crate::sim).
//! Without the feature `sim`, `virtual_world_none.rs` takes its place and nothing is asked.
//!
//! A virtual object has a real descriptor that stands for it, so that its number is unique and all descriptor
//! types stay what they are. Which number belongs to which world is remembered by the thread on which the
//! world lives.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};

use crate::descriptor::RawDescriptor;

/// A simulated world, as the descriptors of its objects see it.
pub(crate) trait VirtualWorld {
    /// The descriptor is about to be closed.
    fn close(&self, fd: RawDescriptor);
    fn local_addr(&self, fd: RawDescriptor) -> io::Result<SocketAddr>;
    fn peer_addr(&self, fd: RawDescriptor) -> io::Result<SocketAddr>;
    /// Makes a listener on a host, and gives its descriptor.
    fn listen(&self, host: IpAddr, address: SocketAddr, options: Listen) -> io::Result<RawDescriptor>;
    /// Opens a file with the flags of `open(2)`, and gives its descriptor.
    fn open(&self, path: &CStr, flags: i32, mode: u32) -> io::Result<RawDescriptor>;
    /// For those who know what kind of world it is.
    fn as_any(&self) -> &dyn Any;
}

/// How to listen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listen {
    pub(crate) backlog: i32,
    pub(crate) reuse_port: bool,
    pub(crate) only_v6: bool,
}

/// A world, and the host in it that things are done on.
pub(crate) type Place = (Rc<dyn VirtualWorld>, IpAddr);

/// Tells that a descriptor is about to be closed.
type Tell = Rc<dyn Fn(RawDescriptor)>;

/// The worlds of descriptors.
type Worlds = BTreeMap<RawDescriptor, Weak<dyn VirtualWorld>>;

thread_local! {
    static DESCRIPTORS: RefCell<Worlds> = const { RefCell::new(BTreeMap::new()) };
    /// How this thread tells the world of another one that it closes a descriptor.
    static TELL: RefCell<Option<Tell>> = const { RefCell::new(None) };
    static CURRENT: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// The descriptor is one of this world's from now on.
pub(crate) fn adopt(fd: RawDescriptor, world: Weak<dyn VirtualWorld>) {
    DESCRIPTORS.with_borrow_mut(|descriptors| descriptors.insert(fd, world));
}

/// The world itself has closed the descriptor.
pub(crate) fn forget(fd: RawDescriptor) {
    let _ = DESCRIPTORS.try_with(|descriptors| descriptors.borrow_mut().remove(&fd));
}

pub(crate) fn world_of(fd: RawDescriptor) -> Option<Rc<dyn VirtualWorld>> {
    DESCRIPTORS.with_borrow(|descriptors| descriptors.get(&fd)?.upgrade())
}

/// A descriptor of this crate is about to be closed: its world, if it has one, closes the object.
pub(crate) fn closing(fd: RawDescriptor) {
    // At the end of a thread there may be nobody left to ask.
    let world = DESCRIPTORS.try_with(|descriptors| descriptors.borrow_mut().remove(&fd));
    match world.ok().flatten() {
        Some(world) => _ = world.upgrade().map(|world| world.close(fd)),
        None => tell_elsewhere(fd),
    }
}

fn tell_elsewhere(fd: RawDescriptor) {
    let tell = TELL.try_with(|tell| tell.borrow().clone());
    if let Some(tell) = tell.ok().flatten() {
        tell(fd);
    }
}

/// This thread has no world, but talks with one.
pub(crate) fn set_tell(tell: Tell) {
    TELL.set(Some(tell));
}

pub(crate) fn local_addr(fd: RawDescriptor) -> Option<io::Result<SocketAddr>> {
    world_of(fd).map(|world| world.local_addr(fd))
}

pub(crate) fn peer_addr(fd: RawDescriptor) -> Option<io::Result<SocketAddr>> {
    world_of(fd).map(|world| world.peer_addr(fd))
}

fn current() -> Option<Place> {
    CURRENT.with_borrow(Clone::clone)
}

/// A listener in the current world, if there is one.
pub(crate) fn listen(address: SocketAddr, options: Listen) -> Option<io::Result<RawDescriptor>> {
    current().map(|(world, host)| world.listen(host, address, options))
}

/// A file in the current world, if there is one.
pub(crate) fn open(path: &CStr, flags: i32, mode: u32) -> Option<io::Result<RawDescriptor>> {
    current().map(|(world, _)| world.open(path, flags, mode))
}

/// As long as it lives, what this thread makes is made in a world.
#[must_use]
pub(crate) struct Entered(Option<Place>);

/// Makes a place the current one; `None` leaves it as it is.
pub(crate) fn enter(place: Option<Place>) -> Entered {
    let place = place.or_else(current);
    Entered(CURRENT.replace(place))
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
