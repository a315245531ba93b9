//! What the test crates have in common: the machine that they run on.

#![allow(dead_code, reason = "no crate needs all of it")]

use std::sync::{OnceLock, mpsc};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use oxev::thread_pool::Task;
use oxev::{Kind, Loop, ThreadPool};

/// The backends that work here, best first. One that the kernel, a sandbox or the administrator refuses is
/// left out, with a message; whatever else is wrong with one is a failure.
///
/// # Panics
/// If none works, or one fails that was not refused.
pub(crate) fn backends() -> Vec<Kind> {
    let mut works = Vec::new();
    for &kind in Kind::COMPILED {
        match Loop::builder().backend(kind).capacity(1).entries(1).build() {
            Ok(_) => works.push(kind),
            Err(error) if is_refusal(&error) => eprintln!("not run on {kind}: it is refused here: {error}"),
            Err(error) => panic!("{kind} is not refused, and fails: {error}"),
        }
    }
    assert!(!works.is_empty(), "no backend works here");
    works
}

/// Whether a backend is not to be had here at all, as opposed to not now.
pub(crate) fn is_refusal(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EACCES))
}

/// Lets this process have as many descriptors as it may, and says how many those are: the tests of one crate
/// run at the same time, and many shells allow a process 1024, or 256.
pub(crate) fn raise_descriptor_limit() -> usize {
    static LIMIT: OnceLock<usize> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of descriptors");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a process may raise it as far as that");
        usize::try_from(hard).unwrap_or(usize::MAX)
    })
}

/// A pool of one thread that is busy until the sender is dropped.
pub(crate) fn busy_pool() -> (ThreadPool, mpsc::Sender<()>) {
    let pool = ThreadPool::builder().max_threads(1).build().unwrap();
    let (release, released) = mpsc::channel::<()>();
    let (begun, is_begun) = mpsc::channel::<()>();
    let task = Box::new(Task::new((released, begun)));
    pool.spawn(task, |task| {
        task.1.send(()).unwrap();
        let _ = task.0.recv();
    })
    .map_err(|_| "the pool is new")
    .unwrap();
    is_begun.recv().unwrap();
    (pool, release)
}
