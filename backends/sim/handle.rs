//! A world in the hands of a builder, which may leave the world's thread.

#![allow(unsafe_code)]

use std::fmt;
use std::mem::ManuallyDrop;
use std::net::IpAddr;
use std::rc::Rc;
use std::thread::{self, ThreadId};

use super::World;

/// A world that a [`Builder`](crate::Builder) carries. The builder may be sent to another thread or shared
/// with one, where the world is out of reach.
pub(crate) struct SimHandle {
    /// Only touched on its thread; elsewhere it is leaked.
    inside: ManuallyDrop<Option<(Rc<World>, IpAddr)>>,
    thread: ThreadId,
}

// SAFETY: S15: what is inside is only reached on the thread that put it there.
unsafe impl Send for SimHandle {}
// SAFETY: S15: as above.
unsafe impl Sync for SimHandle {}

impl SimHandle {
    pub(crate) fn new(world: Rc<World>, host: IpAddr) -> SimHandle {
        SimHandle { inside: ManuallyDrop::new(Some((world, host))), thread: thread::current().id() }
    }

    /// The world and the host, on their own thread.
    pub(crate) fn get(&self) -> Option<(Rc<World>, IpAddr)> {
        let (world, host) = self.inside.as_ref().filter(|_| self.thread == thread::current().id())?;
        Some((Rc::clone(world), *host))
    }
}

impl fmt::Debug for SimHandle {
    /// A shared builder is printed on any thread, so there is nothing of the world in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").field("thread", &self.thread).finish_non_exhaustive()
    }
}

impl Clone for SimHandle {
    fn clone(&self) -> SimHandle {
        SimHandle { inside: ManuallyDrop::new(self.get()), thread: self.thread }
    }
}

impl Drop for SimHandle {
    fn drop(&mut self) {
        if self.thread == thread::current().id() {
            // SAFETY: S15: it is dropped once, here, on its own thread.
            unsafe { ManuallyDrop::drop(&mut self.inside) };
        }
    }
}
