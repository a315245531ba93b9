//! Ends a process that hangs, and says in which program.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::program::Backend;

struct Watched {
    since: Instant,
    seed: u64,
    backend: Backend,
}

static WATCHED: Mutex<Vec<(std::thread::ThreadId, Watched)>> = Mutex::new(Vec::new());

/// How long a program may take. A dropped loop waits some seconds for the kernel.
const PATIENCE: Duration = Duration::from_secs(40);

/// A program begins on this thread.
pub(crate) fn watch(seed: u64, backend: Backend) {
    static START: std::sync::Once = std::sync::Once::new();
    START.call_once(|| {
        std::thread::spawn(look);
    });
    let mut watched = WATCHED.lock().unwrap_or_else(|poison| poison.into_inner());
    let this = std::thread::current().id();
    watched.retain(|(thread, _)| *thread != this);
    watched.push((this, Watched { since: Instant::now(), seed, backend }));
}

/// It is over.
pub(crate) fn unwatch() {
    let this = std::thread::current().id();
    let mut watched = WATCHED.lock().unwrap_or_else(|poison| poison.into_inner());
    watched.retain(|(thread, _)| *thread != this);
}

fn look() {
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let watched = WATCHED.lock().unwrap_or_else(|poison| poison.into_inner());
        if let Some((_, hung)) = watched.iter().find(|(_, watched)| watched.since.elapsed() > PATIENCE) {
            eprintln!("\nviolation: a program hangs\nseed {} on {}", hung.seed, hung.backend);
            std::process::exit(1);
        }
    }
}
