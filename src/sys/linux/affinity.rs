//! Binding threads to cores.

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// Whether `core` can be named to the kernel at all.
pub(crate) fn is_valid(core: usize) -> bool {
    core < CpuSet::count()
}

/// Binds the calling thread to one core, if the kernel allows it.
pub(crate) fn bind_to(core: usize) {
    let mut set = CpuSet::new();
    // A refusal (the core is offline, or outside of the container) is no reason to do without the thread.
    let _ = set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
}
