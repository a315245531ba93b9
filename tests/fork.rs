//! A forked child: it has a copy of its parent's loop, which does nothing there and takes no harm, nor does the
//! parent. Each test runs again in a process of its own, and forks there.

#![allow(unsafe_code)]

mod common;

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use oxev::thread_pool::Task;
use oxev::{
    BufPool, Completion, File, Kind, Loop, Notifier, OpenOptions, RunMode, TcpListener, TcpStream,
    ThreadPool, Timer,
};

const IN_A_PROCESS: &str = "OXEV_TEST_IN_A_PROCESS";
const HOUR: Duration = Duration::from_secs(3600);

/// Runs a test in a process that runs it alone, once for each backend and its baseline.
fn in_a_process(test: &str, body: fn(Kind, bool)) {
    if std::env::var_os(IN_A_PROCESS).is_some() {
        return common::backends().into_iter().for_each(|kind| {
            body(kind, false);
            body(kind, true);
        });
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(IN_A_PROCESS, "");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
}

/// Forks, and has the child do this; it must come to its end.
fn in_a_child(child: impl FnOnce()) {
    // SAFETY: the child has no thread but this, and leaves by `_exit`.
    match unsafe { libc::fork() } {
        0 => {
            let done = catch_unwind(AssertUnwindSafe(child));
            // SAFETY: nothing is passed.
            unsafe { libc::_exit(i32::from(done.is_err())) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: the status is valid for the length of the call.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            assert_eq!(status, 0, "the child ended with this status (a signal, or 256 for a panic)");
        }
    }
}

fn new_loop((kind, baseline): (Kind, bool)) -> Box<Loop> {
    Loop::builder().backend(kind).baseline(baseline).capacity(256).entries(64).build().unwrap()
}

fn errno<R>(result: std::io::Result<R>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// What is in flight when a loop is forked.
struct InFlight {
    streams: Vec<std::net::TcpStream>,
    owners: Rc<()>,
    notifier: Notifier,
    bufs: BufPool,
}

fn start(lp: &mut Loop) -> InFlight {
    let owners = Rc::new(());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut streams = Vec::new();
    let mut stream = || {
        streams.push(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        TcpStream::from_std(listener.accept().unwrap().0).unwrap()
    };
    let bufs = lp.buf_pool(4, 64).unwrap();
    let notifier = Notifier::new();
    let own = Rc::clone(&owners);
    lp.submit(Box::new(Completion::new((stream(), [0u8; 8], own))), |s| s.0.recv(&mut s.1), |_, _, _| ());
    let own = Rc::clone(&owners);
    let pooled = (stream(), bufs.clone(), own);
    lp.submit(Box::new(Completion::new(pooled)), |s| s.0.recv_pooled(&s.1), |_, _, _| ());
    let own = Rc::clone(&owners);
    lp.submit(Box::new(Completion::new((notifier.clone(), own))), |s| s.0.wait(), |_, _, _| ());
    let own = Rc::clone(&owners);
    lp.submit(Box::new(Completion::new(own)), |_| Timer::after(HOUR), |_, _, _| ());
    let own = Rc::clone(&owners);
    let accepting = (TcpListener::bind("127.0.0.1:0").unwrap(), own);
    lp.submit(Box::new(Completion::new(accepting)), |s| s.0.accept(), |_, _, _| ());
    InFlight { streams, owners, notifier, bufs }
}

/// The parent's loop goes on as if there had been no child.
fn assert_works(lp: &mut Loop, mut in_flight: InFlight) {
    in_flight.streams.iter_mut().for_each(|stream| stream.write_all(b"data").unwrap());
    in_flight.notifier.notify();
    while lp.len() > 2 {
        lp.run(RunMode::Once).unwrap();
    }
    assert_eq!(Rc::strong_count(&in_flight.owners), 3, "a timer and an accept are left");
    assert_eq!(in_flight.bufs.available(), 4);
}

#[test]
fn a_child_drops_the_loop_and_its_owners_and_the_parent_notices_nothing() {
    in_a_process("a_child_drops_the_loop_and_its_owners_and_the_parent_notices_nothing", |kind, baseline| {
        for flushed in [false, true] {
            let mut lp = new_loop((kind, baseline));
            let in_flight = start(&mut lp);
            if flushed {
                lp.run(RunMode::NoWait).unwrap();
            }
            let mut lp = Some(lp);
            in_a_child(|| {
                drop(lp.take());
                assert_eq!(Rc::strong_count(&in_flight.owners), 1, "an owner was not dropped");
            });
            let mut lp = lp.take().unwrap();
            assert_works(&mut lp, in_flight);
        }
    });
}

#[test]
fn a_child_cannot_use_the_loop() {
    in_a_process("a_child_cannot_use_the_loop", |kind, baseline| {
        let mut lp = new_loop((kind, baseline));
        let in_flight = start(&mut lp);
        lp.run(RunMode::NoWait).unwrap();
        let handle = lp.handle();
        in_a_child(|| {
            for mode in [RunMode::NoWait, RunMode::Once, RunMode::UntilDone] {
                assert_eq!(errno(lp.run(mode)), Some(libc::EINVAL));
            }
            assert_eq!(errno(lp.run_for(HOUR)), Some(libc::EINVAL));
            assert_eq!(errno(lp.flush()), Some(libc::EINVAL));
            assert_eq!(errno(lp.buf_pool(1, 1)), Some(libc::EINVAL));
            let dropped = Rc::new(Cell::new(()));
            for _ in 0..1000 {
                let own = Box::new(Completion::new(Rc::clone(&dropped)));
                let id = lp.submit(own, |_| oxev::nop(), |_, _, _| unreachable!("it was begun"));
                assert!(!lp.cancel(id));
            }
            let ids: Vec<_> = lp.in_flight().map(|op| (op.id, op.kind)).collect();
            for (id, kind) in ids {
                let is_the_loops = matches!(kind, oxev::OpKind::Timer | oxev::OpKind::Notify);
                assert!(is_the_loops || !lp.cancel(id), "{kind}");
            }
            let _ = lp.next_timeout();
            let _ = (lp.as_fd(), lp.capabilities(), lp.backend(), lp.len());
            handle.wake();
            handle.stop();
            assert!(handle.post(Box::new(Completion::new(())), |_, _| ()).is_err());
            in_flight.notifier.notify();
            let pool = ThreadPool::new();
            lp.offload(&pool, Box::new(Completion::new(())), |_| unreachable!("it was begun"), |_, _, _| ());
        });
        assert_works(&mut lp, in_flight);
    });
}

#[test]
fn a_fork_in_a_callback_ends_the_run_of_the_child() {
    in_a_process("a_fork_in_a_callback_ends_the_run_of_the_child", |kind, baseline| {
        let mut lp = new_loop((kind, baseline));
        let in_flight = start(&mut lp);
        thread_local! {
            static CHILD: Cell<bool> = const { Cell::new(false) };
            static RAN: Cell<u32> = const { Cell::new(0) };
        }
        for _ in 0..8 {
            lp.submit(
                Box::new(Completion::new(())),
                |_| oxev::nop(),
                |lp, own, _| {
                    if RAN.replace(RAN.get() + 1) == 0 {
                        // SAFETY: the child leaves by `_exit`, below.
                        CHILD.set(unsafe { libc::fork() } == 0);
                        lp.submit(own, |_| oxev::nop(), |_, _, _| assert!(!CHILD.get()));
                    }
                },
            );
        }
        let ended = catch_unwind(AssertUnwindSafe(|| lp.run_for(Duration::from_millis(20))));
        if CHILD.get() {
            let as_told = ended.is_ok_and(|ended| errno(ended) == Some(libc::EINVAL)) && RAN.get() == 1;
            drop(lp);
            // SAFETY: nothing is passed.
            unsafe { libc::_exit(i32::from(!as_told)) };
        }
        ended.unwrap().unwrap();
        let mut status = 0;
        // SAFETY: the status is valid for the length of the call.
        unsafe { libc::wait(&raw mut status) };
        assert_eq!((status, RAN.get()), (0, 8));
        RAN.set(0);
        assert_works(&mut lp, in_flight);
    });
}

#[test]
fn a_child_has_loops_files_and_pools_of_its_own() {
    in_a_process("a_child_has_loops_files_and_pools_of_its_own", |kind, baseline| {
        let open = |lp: &mut Loop| {
            let opened = Rc::new(Cell::new(false));
            let own = Box::new(Completion::new(Rc::clone(&opened)));
            let options = OpenOptions::new().read(true);
            lp.submit(
                own,
                |_| File::open(c"/dev/null", &options),
                |_, own, opened| {
                    opened.unwrap();
                    own.set(true);
                },
            );
            lp.run(RunMode::UntilDone).unwrap();
            assert!(opened.get());
        };
        // On epoll, this makes the pool of the process.
        let mut lp = new_loop((kind, baseline));
        open(&mut lp);
        let pool = ThreadPool::new();
        pool.spawn(Box::new(Task::new(())), |_| ()).map_err(|_| "it is new").unwrap();
        let mut inherited = Some(pool.clone());
        in_a_child(|| {
            open(&mut new_loop((kind, baseline)));
            let rejected = pool.spawn(Box::new(Task::new(())), |_| unreachable!("there is no thread"));
            assert!(rejected.is_err() && pool.is_shut_down());
            pool.join().unwrap();
            let mut numbers = [1; 100];
            pool.each(&mut numbers, |number| *number += 1);
            assert_eq!(numbers, [2; 100]);
            drop(inherited.take());
            drop(pool);
        });
        open(&mut lp);
    });
}

#[test]
fn the_childs_copies_of_descriptors_are_closed_with_the_owners() {
    in_a_process("the_childs_copies_of_descriptors_are_closed_with_the_owners", |kind, baseline| {
        let mut lp = new_loop((kind, baseline));
        let mut in_flight = start(&mut lp);
        lp.run(RunMode::NoWait).unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        // The child has gone on when the parent closes its end, and would keep the connections open.
        // SAFETY: the child is killed, below.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(lp);
            drop(writer);
            loop {
                std::thread::park();
            }
        }
        drop(writer);
        // The child has dropped its copy.
        reader.read_to_end(&mut Vec::new()).unwrap();
        drop(lp);
        for stream in &mut in_flight.streams {
            assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0, "the connection ends");
        }
        // SAFETY: nothing is passed.
        unsafe { libc::kill(child, libc::SIGKILL) };
        // SAFETY: as above.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    });
}
