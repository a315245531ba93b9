//! In the stead of `sim_hooks.rs` without the feature `sim`: nothing is simulated, and asking costs nothing.

use std::ffi::CStr;
use std::io;
use std::net::SocketAddr;

use crate::sys::RawDescriptor;

/// How to listen.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "only a simulated world reads it")]
pub(crate) struct Listen {
    pub(crate) backlog: i32,
    pub(crate) reuse_port: bool,
    pub(crate) only_v6: bool,
}

#[inline(always)]
pub(crate) fn closing(_: RawDescriptor) {}

#[inline(always)]
pub(crate) fn local_addr(_: RawDescriptor) -> Option<io::Result<SocketAddr>> {
    None
}

#[inline(always)]
pub(crate) fn peer_addr(_: RawDescriptor) -> Option<io::Result<SocketAddr>> {
    None
}

#[inline(always)]
pub(crate) fn listen(_: SocketAddr, _: Listen) -> Option<io::Result<RawDescriptor>> {
    None
}

#[inline(always)]
pub(crate) fn open(_: &CStr, _: i32, _: u32) -> Option<io::Result<RawDescriptor>> {
    None
}

/// A world, and the host in it on which things are done.
pub(crate) enum SimContext {}

#[must_use]
pub(crate) struct Entered(());

#[inline(always)]
pub(crate) fn enter(_: Option<SimContext>) -> Entered {
    Entered(())
}

/// Time is real.
#[derive(Clone, Debug, Default)]
pub(crate) struct VirtualTime(());

impl VirtualTime {
    #[inline(always)]
    pub(crate) fn now_ns(&self) -> Option<u64> {
        None
    }
}
