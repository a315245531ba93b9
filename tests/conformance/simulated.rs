//! The variant `sim`: every body runs inside a world of its own, without faults, except those that are about the real one.

use oxev::sim::{SimOptions, Simulation};
use oxev::{Builder, Loop};

thread_local! {
    /// The world of this test.
    static WORLD: Simulation =
        Simulation::new(SimOptions { wait_for_threads: true, ..SimOptions::calm() });
}

pub(crate) fn builder() -> Builder {
    WORLD.with(|world| Loop::builder().simulation(world))
}

/// Runs a body inside the world.
pub(crate) fn run(body: impl FnOnce()) {
    let world = WORLD.with(Clone::clone);
    world.enter(body);
}

/// Whether a test is about the real world: its peers are sockets, files or pipes of the standard library, or it compares virtual
/// time with real time.
pub(crate) fn needs_kernel(test: &str) -> bool {
    let names = test.split_once("::").map(|(_, names)| names.replace("sim::", ""));
    names.is_some_and(|name| NEEDS_KERNEL.contains(&name.as_str()))
}

const NEEDS_KERNEL: &[&str] = &[];
