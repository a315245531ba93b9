//! What a loop does where the system grants it little: locked memory, descriptors. Each body runs in a process of
//! its own, and those about a user's limits as a user of its own, too.

#![cfg(all(target_os = "linux", feature = "io_uring", feature = "epoll"))]
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io::{self, Write};
use std::net::{TcpListener as StdListener, TcpStream as StdStream};
use std::process::Command;

use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};
use oxev::{Action, Completion, Kind, Loop, Multi, RunMode, TcpStream, Timer};

/// Which test a child process shall run.
const CHILD: &str = "OXEV_RESOURCES_CHILD";
/// Its user, if it can have one of its own.
const USER: &str = "OXEV_RESOURCES_USER";

/// Runs `body` in a process of its own.
fn in_a_process(test: &str, body: fn()) {
    if std::env::var(CHILD).as_deref() == Ok(test) {
        return body();
    }
    // The kernel counts locked memory by user, and some of a process that is over comes back late.
    let user = 100_000 + std::process::id() % 10_000 * 16 + test.bytes().map(u32::from).sum::<u32>() % 16;
    let child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, test)
        .env(USER, user.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
    if let Some(reason) = said.lines().find(|line| line.starts_with("not run")) {
        eprintln!("{reason}");
    }
}

/// Runs `body` in a process of its own, as a user of its own who may lock so many bytes. Not where there is no
/// io_uring, or a ring counts as no locked memory: on Linux 5.12 to 6.13, and for who has `CAP_IPC_LOCK`.
fn with_locked_memory(test: &str, body: fn()) {
    if std::env::var(CHILD).as_deref() != Ok(test) {
        return in_a_process(test, || unreachable!("the child goes the other way"));
    }
    if let Err(error) = Loop::builder().backend(Kind::IoUring).build() {
        return eprintln!("not run: there is no io_uring here: {error}");
    }
    if geteuid().is_root() {
        let user: u32 = std::env::var(USER).unwrap().parse().unwrap();
        let become_user = || -> nix::Result<()> {
            setgroups(&[])?;
            setgid(Gid::from_raw(user))?;
            setuid(Uid::from_raw(user))
        };
        if let Err(error) = become_user() {
            return eprintln!("not run: this process cannot become an ordinary user: {error}");
        }
        // Leak checkers look into the process.
        // SAFETY: no memory is passed.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
    }
    lock_no_more_than(0);
    if Loop::builder().backend(Kind::IoUring).entries(1).build().is_ok() {
        return eprintln!("not run: a ring does not count as locked memory here");
    }
    body();
}

fn lock_no_more_than(bytes: u64) {
    // Only root may raise a hard limit again.
    setrlimit(Resource::RLIMIT_MEMLOCK, bytes, bytes.max(8 << 20)).unwrap();
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn assert_works(lp: &mut Loop) {
    thread_local! {
        static FIRED: Cell<bool> = const { Cell::new(false) };
    }
    let timer = Box::new(Completion::new(()));
    lp.submit(
        timer,
        |()| Timer::after(std::time::Duration::from_micros(1)),
        |_, _, fired| {
            fired.unwrap();
            FIRED.set(true);
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert!(FIRED.take());
}

/// The size that a loop has by default where there is memory.
const ENTRIES_DEFAULT: u32 = 512;

#[test]
fn an_ordinary_user_has_a_hundred_loops_of_full_size_within_the_usual_limit() {
    with_locked_memory("an_ordinary_user_has_a_hundred_loops_of_full_size_within_the_usual_limit", || {
        lock_no_more_than(8 << 20);
        let loops: Vec<_> = (0..100).map(|_| Loop::builder().capacity(16).build().unwrap()).collect();
        for mut lp in loops {
            assert_eq!((lp.backend(), lp.capabilities().entries), (Kind::IoUring, ENTRIES_DEFAULT));
            assert_works(&mut lp);
        }
    });
}

#[test]
fn loops_that_are_built_one_after_another_are_all_of_full_size_though_memory_comes_back_late() {
    with_locked_memory(
        "loops_that_are_built_one_after_another_are_all_of_full_size_though_memory_comes_back_late",
        || {
            lock_no_more_than(1 << 20);
            for _ in 0..60 {
                let lp = Loop::builder().capacity(16).build().unwrap();
                assert_eq!(lp.backend(), Kind::IoUring, "{:?}", lp.capabilities());
            }
            // An explicit size waits, too.
            for _ in 0..60 {
                Loop::builder().capacity(16).entries(512).build().unwrap();
            }
        },
    );
}

#[test]
fn where_memory_is_short_rings_are_smaller_and_then_it_is_epoll() {
    with_locked_memory("where_memory_is_short_rings_are_smaller_and_then_it_is_epoll", || {
        lock_no_more_than(64 << 10);
        let mut loops: Vec<Box<Loop>> = Vec::new();
        while loops.last().is_none_or(|lp| lp.backend() == Kind::IoUring) {
            loops.push(Loop::builder().capacity(16).build().unwrap());
            assert!(loops.len() < 20);
        }
        assert!(loops.len() > 1, "one ring at least fits into 64 KiB");
        for lp in &mut loops {
            let has = lp.capabilities();
            match lp.backend() {
                Kind::IoUring => assert!(has.entries < ENTRIES_DEFAULT && has.refusals.is_empty(), "{has:?}"),
                _ => assert_eq!(has.refusals.errno(Kind::IoUring), Some(libc::ENOMEM)),
            }
            assert_works(lp);
        }
    });
}

#[test]
fn a_size_that_was_named_is_never_changed_for_want_of_memory() {
    with_locked_memory("a_size_that_was_named_is_never_changed_for_want_of_memory", || {
        lock_no_more_than(64 << 10);
        assert_eq!(errno(Loop::builder().capacity(16).entries(4096).build()), Some(libc::ENOMEM));
        let lp = Loop::builder().capacity(16).entries(32).build().unwrap();
        assert_eq!((lp.backend(), lp.capabilities().entries), (Kind::IoUring, 32));
    });
}

#[test]
fn a_backend_that_was_asked_for_is_an_error_where_no_ring_fits() {
    with_locked_memory("a_backend_that_was_asked_for_is_an_error_where_no_ring_fits", || {
        lock_no_more_than(4 << 10);
        let forced = Loop::builder().capacity(16).backend(Kind::IoUring).build();
        assert_eq!(errno(forced), Some(libc::ENOMEM));
        let mut lp = Loop::builder().capacity(16).build().unwrap();
        assert_eq!(lp.backend(), Kind::Epoll);
        assert_eq!(lp.capabilities().refusals.errno(Kind::IoUring), Some(libc::ENOMEM));
        assert_works(&mut lp);
    });
}

/// A connection that has "hello" to receive, and its end.
fn greeted() -> TcpStream {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let mut peer = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.write_all(b"hello").unwrap();
    TcpStream::from_std(listener.accept().unwrap().0).unwrap()
}

#[test]
fn a_pool_whose_ring_may_not_be_locked_gives_out_its_buffers_all_the_same() {
    with_locked_memory("a_pool_whose_ring_may_not_be_locked_gives_out_its_buffers_all_the_same", || {
        thread_local! {
            static RECEIVED: Cell<usize> = const { Cell::new(0) };
        }
        lock_no_more_than(64 << 10);
        // 12 KiB, 4 KiB and 512 KiB.
        let mut lp = Loop::builder().capacity(16).entries(64).backend(Kind::IoUring).build().unwrap();
        let pools = [lp.buf_pool(16, 64).unwrap(), lp.buf_pool(1 << 15, 64).unwrap()];
        assert!(!lp.capabilities().buffer_rings);
        for pool in &pools {
            let state = (greeted(), pool.clone());
            lp.submit(
                Box::new(Completion::new(state)),
                |(s, pool)| s.recv_pooled(pool),
                |_, _, received| {
                    RECEIVED.set(RECEIVED.get() + received.unwrap().len());
                },
            );
            let state = Multi::new((greeted(), pool.clone()), ());
            lp.submit_multi(
                Box::new(Completion::new(state)),
                |(s, pool)| s.recv_multi(pool),
                |_, (), lease| {
                    RECEIVED.set(RECEIVED.get() + lease.len());
                    Action::Rearm
                },
                |_, _, end| end.unwrap(),
            );
        }
        lp.run(RunMode::UntilDone).unwrap();
        assert_eq!(RECEIVED.get(), 4 * 5);
        assert!(pools.iter().all(|pool| pool.available() == pool.capacity()));
    });
}

#[test]
fn a_build_without_descriptors_is_an_error_that_leaves_none_open() {
    in_a_process("a_build_without_descriptors_is_an_error_that_leaves_none_open", || {
        fn open() -> usize {
            // SAFETY: no memory is passed.
            (0..64).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0).count()
        }
        let before = open();
        let builders = [
            Loop::builder(),
            Loop::builder().baseline(true),
            Loop::builder().backend(Kind::Epoll),
            Loop::builder().backend(Kind::Epoll).baseline(true),
        ];
        let best = Loop::new().unwrap().backend();
        for (index, builder) in builders.into_iter().enumerate() {
            let built = (0..64).find_map(|limit| {
                setrlimit(Resource::RLIMIT_NOFILE, limit, 64).unwrap();
                match builder.clone().capacity(16).build() {
                    Ok(lp) => Some(lp),
                    Err(error) => {
                        assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
                        assert_eq!(open(), before, "{index}, {limit}");
                        None
                    }
                }
            });
            let mut lp = built.expect("with 64 descriptors a loop is built");
            // The first that there were enough for is no lesser one.
            assert_eq!(lp.backend(), if index < 2 { best } else { Kind::Epoll });
            assert_works(&mut lp);
            drop(lp);
            assert_eq!(open(), before);
        }
    });
}
