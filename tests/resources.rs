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

/// Runs `body` in a process of its own, as a user of its own who may lock this many bytes. Not where there is no
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

fn lock_no_more_than(bytes: libc::rlim_t) {
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
            Loop::builder().backend(Kind::Poll),
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
            assert_eq!(lp.backend(), [best, best, Kind::Epoll, Kind::Epoll, Kind::Poll][index]);
            assert_works(&mut lp);
            drop(lp);
            assert_eq!(open(), before);
        }
    });
}

/// Processes and threads that wait for a disk, of the whole machine.
fn blocked() -> usize {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let line = stat.lines().find_map(|line| line.strip_prefix("procs_blocked "));
    line.unwrap().trim().parse().unwrap()
}

/// Has many loops sleep, each on a thread, and calls `look` meanwhile.
fn while_loops_sleep(iowait: bool, look: impl FnOnce()) {
    let (said, heard) = std::sync::mpsc::channel();
    let threads: Vec<_> = (0..SLEEPERS)
        .map(|_| {
            let said = said.clone();
            std::thread::spawn(move || {
                let mut lp = Loop::builder().capacity(4).entries(2).iowait(iowait).build().unwrap();
                // SAFETY: no memory is passed.
                let thread = unsafe { libc::gettid() };
                said.send((thread, lp.handle())).unwrap();
                lp.submit(
                    Box::new(Completion::new(())),
                    |()| Timer::after(std::time::Duration::from_secs(3600)),
                    |_, _, _| (),
                );
                lp.run(RunMode::UntilDone).unwrap();
            })
        })
        .collect();
    let sleepers: Vec<_> = heard.iter().take(SLEEPERS).collect();
    for (thread, _) in &sleepers {
        // The field behind the name, which may hold anything but its own end.
        let sleeps = || {
            let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
            let state = stat.rsplit_once(") ").unwrap().1.starts_with(['S', 'D']);
            let call =
                std::fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).unwrap_or_default();
            state && (call.is_empty() || call.starts_with(&format!("{} ", libc::SYS_io_uring_enter)))
        };
        while !sleeps() {
            std::thread::yield_now();
        }
    }
    look();
    for (_, handle) in sleepers {
        handle.stop();
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// More than threads that wait for a disk at the same time for any other reason, all the time.
const SLEEPERS: usize = 64;

#[test]
fn a_loop_that_sleeps_does_not_count_as_one_that_waits_for_a_disk_unless_it_is_told_to() {
    in_a_process(
        "a_loop_that_sleeps_does_not_count_as_one_that_waits_for_a_disk_unless_it_is_told_to",
        || {
            let has = Loop::new().unwrap().capabilities();
            if !has.no_iowait {
                return eprintln!(
                    "not run: this kernel cannot be told (before 6.15, or it refuses io_uring)"
                );
            }
            assert!(!Loop::builder().iowait(true).build().unwrap().capabilities().no_iowait);
            // Others may wait for a disk now and then: the least of some readings.
            while_loops_sleep(false, || {
                assert!((0..10_000).any(|_| blocked() < SLEEPERS));
            });
            // All that sleep count, whatever others do.
            while_loops_sleep(true, || assert!(blocked() >= SLEEPERS));
        },
    );
}

/// The threads that the kernel has made for this process's operations.
fn workers() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name.starts_with("iou-wrk")).count()
}

#[test]
fn the_kernel_makes_no_more_threads_than_it_is_allowed_to() {
    in_a_process("the_kernel_makes_no_more_threads_than_it_is_allowed_to", || {
        thread_local! {
            static ENDED: Cell<usize> = const { Cell::new(0) };
        }
        const OPENS: usize = 40;
        if let Err(error) = Loop::builder().backend(Kind::IoUring).build() {
            return eprintln!("not run: there is no io_uring here: {error}");
        }
        let given = Loop::new().unwrap().capabilities().io_workers.unwrap();
        let cores = std::thread::available_parallelism().unwrap().get() as u32;
        // The kernel allows no more than the user may have.
        assert!(given.bounded <= 4 * cores && given.unbounded <= 64, "{given:?}");
        assert_eq!(errno(Loop::builder().io_workers(1 << 31, 0).build()), Some(libc::EINVAL));

        let mut lp = Loop::builder().backend(Kind::IoUring).io_workers(3, 2).build().unwrap();
        // Another loop of this thread that names no limits leaves them.
        let other = Loop::builder().backend(Kind::IoUring).build().unwrap();
        for lp in [&lp, &other] {
            let limits = lp.capabilities().io_workers.unwrap();
            assert_eq!((limits.bounded, limits.unbounded), (3, 2));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        let opens: Vec<_> = (0..OPENS)
            .map(|_| {
                let state = Box::new(Completion::new(name.clone()));
                lp.submit(
                    state,
                    |name| oxev::File::open(name, &oxev::OpenOptions::new().read(true)),
                    |_, _, _| ENDED.set(ENDED.get() + 1),
                )
            })
            .collect();
        // Each waits for a writer, and for a thread to do so.
        while workers() < 3 {
            lp.run(RunMode::NoWait).unwrap();
        }
        for _ in 0..100 {
            lp.run(RunMode::NoWait).unwrap();
            assert!(workers() <= 3 && ENDED.get() == 0, "{} workers", workers());
        }
        for open in opens {
            assert!(lp.cancel(open));
        }
        lp.run(RunMode::UntilDone).unwrap();
        assert_eq!(ENDED.get(), OPENS);
    });
}

/// Submissions that this process's rings have taken.
fn submitted() -> usize {
    let rings = std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    let infos = rings.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let heads = infos.filter_map(|info| {
        let head = info.lines().find_map(|line| line.strip_prefix("SqHead:"))?;
        head.trim().parse::<usize>().ok()
    });
    heads.sum()
}

#[test]
fn a_buffer_that_comes_back_costs_the_same_however_many_receives_wait_for_one() {
    in_a_process("a_buffer_that_comes_back_costs_the_same_however_many_receives_wait_for_one", || {
        const RECEIVES: usize = 300;
        if let Err(error) = Loop::builder().backend(Kind::IoUring).build() {
            return eprintln!("not run: there is no io_uring here: {error}");
        }
        let mut lp = Loop::builder().backend(Kind::IoUring).build().unwrap();
        let (pool, listener) = (lp.buf_pool(1, 64).unwrap(), StdListener::bind("127.0.0.1:0").unwrap());
        let mut peers = Vec::new();
        for _ in 0..RECEIVES {
            let mut peer = StdStream::connect(listener.local_addr().unwrap()).unwrap();
            peer.write_all(b"x").unwrap();
            peers.push(peer);
            let stream = TcpStream::from_std(listener.accept().unwrap().0).unwrap();
            lp.submit_with(
                (stream, pool.clone()),
                |(s, p)| s.recv_pooled(p),
                |_, _, received| {
                    assert_eq!(received.unwrap().len(), 1);
                },
            );
        }
        lp.run(RunMode::UntilDone).unwrap();
        // Each is submitted when it comes, and again when it is its turn.
        let submissions = submitted();
        assert!((RECEIVES..3 * RECEIVES).contains(&submissions), "{submissions} submissions");
    });
}

/// Completions of this process's rings that found no room in their queues, and that the kernel keeps elsewhere.
fn overflowed() -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let is_ring = |path: std::path::PathBuf| path.to_string_lossy().contains("[io_uring]");
        if !std::fs::read_link(entry.path()).is_ok_and(is_ring) {
            continue;
        }
        let info = std::path::Path::new("/proc/self/fdinfo").join(entry.file_name());
        let info = std::fs::read_to_string(info).unwrap();
        if let Some((_, list)) = info.split_once("CqOverflowList:") {
            count += list.lines().filter(|line| line.trim_start().starts_with("user_data=")).count();
        }
    }
    count
}

#[test]
fn what_completes_at_once_is_submitted_no_faster_than_the_completion_queue_holds() {
    in_a_process("what_completes_at_once_is_submitted_no_faster_than_the_completion_queue_holds", || {
        thread_local! {
            static DONE: Cell<usize> = const { Cell::new(0) };
        }
        const NOPS: usize = 10_000;
        if let Err(error) = Loop::builder().backend(Kind::IoUring).build() {
            return eprintln!("not run: there is no io_uring here: {error}");
        }
        for entries in [Some(1), Some(4), Some(64), None] {
            let builder = Loop::builder().backend(Kind::IoUring);
            let mut lp = entries.map_or(builder.clone(), |entries| builder.entries(entries)).build().unwrap();
            for _ in 0..NOPS {
                lp.submit(
                    Box::new(Completion::new(())),
                    |()| oxev::nop(),
                    |_, _, done| {
                        done.unwrap();
                        if DONE.get().is_multiple_of(128) {
                            assert_eq!(overflowed(), 0);
                        }
                        DONE.set(DONE.get() + 1);
                    },
                );
            }
            assert_eq!(overflowed(), 0);
            lp.run(RunMode::UntilDone).unwrap();
            assert_eq!(DONE.take(), NOPS);
        }
    });
}
