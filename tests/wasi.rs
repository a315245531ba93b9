//! What a loop does under WASI (preview 1), where there is one thread, and files and sockets are only those that the host
//! has opened. It is run by `.ci/wasi/run`, with a directory for it at `/tmp`.

#![cfg(target_os = "wasi")]
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::CStr;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use oxev::{
    Action, Completion, File, Kind, Loop, Metadata, Multi, Notifier, Op, OpId, OpKind, OpenOptions, Output,
    RawOp, RunMode, TcpListener, TcpStream, ThreadPool, Timer, nop,
};

const MS: Duration = Duration::from_millis(1);

type End<T, R> = Rc<RefCell<Option<(T, io::Result<R>)>>>;

/// Starts an operation, and keeps its end.
fn start<T: 'static, R: Output>(
    lp: &mut Loop,
    state: T,
    prepare: impl for<'a> FnOnce(&'a mut T) -> Op<'a, R>,
) -> (OpId, End<T, R>) {
    let end = End::default();
    let kept = (Some(state), Rc::clone(&end));
    let id = lp.submit(
        Box::new(Completion::new(kept)),
        |(state, _)| prepare(state.as_mut().unwrap()),
        |_, mut kept, result| *kept.1.borrow_mut() = Some((kept.0.take().unwrap(), result)),
    );
    (id, end)
}

/// Runs one operation to its end.
fn complete<T: 'static, R: Output>(
    lp: &mut Loop,
    state: T,
    prepare: impl for<'a> FnOnce(&'a mut T) -> Op<'a, R>,
) -> (T, io::Result<R>) {
    let (_, end) = start(lp, state, prepare);
    while end.borrow().is_none() {
        lp.run(RunMode::Once).unwrap();
    }
    end.take().unwrap()
}

fn error_of<R>(result: io::Result<R>) -> io::Error {
    result.err().expect("an error")
}

#[test]
fn the_backend_is_that_of_wasi() {
    assert_eq!(Loop::new().unwrap().backend(), Kind::Wasi);
    assert_eq!("wasi".parse(), Ok(Kind::Wasi));
}

#[test]
fn operations_complete_and_chains_go_on() {
    fn on_nop(lp: &mut Loop, mut left: Box<Completion<usize>>, done: io::Result<()>) {
        done.unwrap();
        **left -= 1;
        if **left > 0 {
            lp.submit(left, |_| nop(), on_nop);
        }
    }
    let mut lp = Loop::new().unwrap();
    lp.submit(Box::new(Completion::new(1000)), |_| nop(), on_nop);
    lp.run(RunMode::UntilDone).unwrap();
    assert!(lp.is_empty());
}

#[test]
fn timers_fire_in_order_and_never_early() {
    let mut lp = Loop::new().unwrap();
    let (fired, begin) = (Rc::new(RefCell::new(Vec::new())), Instant::now());
    for delay in [3, 1, 2] {
        let state = (delay, Rc::clone(&fired), begin);
        lp.submit(
            Box::new(Completion::new(state)),
            |(delay, ..)| Timer::after(MS * *delay),
            |_, state, done| {
                done.unwrap();
                assert!(state.2.elapsed() >= MS * state.0);
                state.1.borrow_mut().push(state.0);
            },
        );
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(*fired.borrow(), [1, 2, 3]);
}

#[test]
fn a_repeated_timer_fires_until_it_is_disarmed() {
    let mut lp = Loop::new().unwrap();
    let count = Rc::new(RefCell::new(0));
    lp.submit_multi(
        Box::new(Completion::new(Multi::new((), Rc::clone(&count)))),
        |()| Timer::every(MS),
        |_, count, _| {
            *count.borrow_mut() += 1;
            if *count.borrow() < 5 { Action::Rearm } else { Action::Disarm }
        },
        |_, _, end| end.unwrap(),
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(*count.borrow(), 5);
}

#[test]
fn a_cancelled_timer_ends_at_once() {
    let mut lp = Loop::new().unwrap();
    let (id, end) = start(&mut lp, (), |()| Timer::after(Duration::from_secs(3600)));
    assert!(lp.cancel(id));
    assert!(!lp.cancel(id));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(oxev::is_canceled(&error_of(end.take().unwrap().1)));
}

#[test]
fn run_for_waits_that_long() {
    let (mut lp, begin) = (Loop::new().unwrap(), Instant::now());
    let _timer = start(&mut lp, (), |()| Timer::after(Duration::from_secs(3600)));
    lp.run_for(5 * MS).unwrap();
    assert!(begin.elapsed() >= 5 * MS);
}

#[test]
fn deadlines_and_notifications_end_a_wait() {
    let mut lp = Loop::new().unwrap();
    let notifier = Notifier::new();
    let (notifier, late) = complete(&mut lp, notifier, |n| n.wait().timeout(2 * MS));
    assert!(oxev::is_deadline(&error_of(late)));
    notifier.notify();
    complete(&mut lp, notifier, |n| n.wait()).1.unwrap();
}

#[test]
fn a_wait_that_nothing_can_end_is_an_error_and_loses_nothing() {
    let mut lp = Loop::new().unwrap();
    let (id, end) = start(&mut lp, Notifier::new(), |n| n.wait());
    let error = error_of(lp.run(RunMode::UntilDone));
    assert_eq!(error.raw_os_error(), Some(libc::EDEADLK));
    assert_eq!(lp.len(), 1);
    lp.cancel(id);
    lp.run(RunMode::UntilDone).unwrap();
    assert!(end.borrow().is_some());
}

#[test]
fn a_post_arrives_and_a_stop_stops() {
    let mut lp = Loop::new().unwrap();
    let (handle, arrived) = (lp.handle(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let post = Box::new(Completion::new(std::sync::Arc::clone(&arrived)));
    assert!(handle.post(post, |_, it| it.store(true, std::sync::atomic::Ordering::Relaxed)).is_ok());
    lp.run(RunMode::NoWait).unwrap();
    assert!(arrived.load(std::sync::atomic::Ordering::Relaxed));
    let _timer = start(&mut lp, (), |()| Timer::after(Duration::from_secs(3600)));
    handle.stop();
    lp.run(RunMode::UntilDone).unwrap();
}

// ---- files

/// A path of a test's own below the directory that the host has opened.
const fn options() -> OpenOptions {
    OpenOptions::new().read(true).write(true).create(true).truncate(true)
}

fn open(lp: &mut Loop, path: &'static CStr, options: OpenOptions) -> io::Result<File> {
    complete(lp, (path, options), |(path, options)| File::open(path, options)).1
}

#[test]
fn files_are_opened_written_read_and_closed() {
    let mut lp = Loop::new().unwrap();
    let file = open(&mut lp, c"/tmp/oxev-wasi-file", options()).unwrap();
    let (state, written) = complete(&mut lp, (file, b"hello, world".to_vec()), |(f, b)| f.write_all_at(b, 0));
    assert_eq!(written.unwrap(), 12);
    let (file, synced) = complete(&mut lp, state.0, |f| f.sync_all());
    synced.unwrap();
    let ((file, buffer), read) = complete(&mut lp, (file, [0; 32]), |(f, b)| f.read_at(b, 7));
    assert_eq!(&buffer[..read.unwrap()], b"world");
    let ((file, metadata), told) =
        complete(&mut lp, (file, Metadata::new()), |(f, metadata)| f.metadata(metadata));
    told.unwrap();
    assert!(metadata.len() == 12 && metadata.is_file());
    complete(&mut lp, file, |f| f.close()).1.unwrap();
    std::fs::remove_file("/tmp/oxev-wasi-file").unwrap();
}

#[test]
fn transfers_at_the_position_of_a_file_come_one_after_another() {
    let mut lp = Loop::new().unwrap();
    let file = Rc::new(open(&mut lp, c"/tmp/oxev-wasi-position", options()).unwrap());
    for part in [b"one ", b"two ", b"tri "] {
        let state = (Rc::clone(&file), *part);
        lp.submit(
            Box::new(Completion::new(state)),
            |(f, b)| f.write_all(b),
            |_, _, written| assert_eq!(written.unwrap(), 4),
        );
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(std::fs::read("/tmp/oxev-wasi-position").unwrap(), b"one two tri ");
    std::fs::remove_file("/tmp/oxev-wasi-position").unwrap();
}

#[test]
fn a_file_that_is_not_there_or_not_below_what_the_host_has_opened_is_an_error() {
    let mut lp = Loop::new().unwrap();
    let missing = open(&mut lp, c"/tmp/oxev-wasi-nothing", OpenOptions::new().read(true));
    assert_eq!(error_of(missing).raw_os_error(), Some(libc::ENOENT));
    assert!(open(&mut lp, c"/etc/hosts", OpenOptions::new().read(true)).is_err());
}

#[test]
fn a_large_file_is_written_and_read_whole() {
    const LEN: usize = (5 << 20) + 3;
    let mut lp = Loop::new().unwrap();
    let file = open(&mut lp, c"/tmp/oxev-wasi-large", options()).unwrap();
    let bytes: Vec<u8> = (0..LEN).map(|index| (index ^ index >> 8 ^ index >> 16) as u8).collect();
    let ((file, bytes), written) = complete(&mut lp, (file, bytes), |(f, b)| f.write_all_at(b, 0));
    assert_eq!(written.unwrap(), LEN);
    let ((_, read_bytes), read) = complete(&mut lp, (file, vec![0; LEN]), |(f, b)| f.read_exact_at(b, 0));
    assert_eq!(read.unwrap(), LEN);
    assert!(read_bytes == bytes);
    std::fs::remove_file("/tmp/oxev-wasi-large").unwrap();
}

// ---- what there is not

#[test]
fn sockets_cannot_be_made_and_say_so() {
    let unsupported = error_of(TcpListener::bind("127.0.0.1:0"));
    assert_eq!(unsupported.kind(), io::ErrorKind::Unsupported);
    let mut lp = Loop::new().unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let connected = complete(&mut lp, (), |()| TcpStream::connect(address)).1;
    assert_eq!(error_of(connected).raw_os_error(), Some(libc::EOPNOTSUPP));
}

#[test]
fn offloaded_work_is_refused_or_done_and_its_owner_comes_back() {
    let mut lp = Loop::new().unwrap();
    let (pool, told) = (ThreadPool::new(), std::sync::Arc::new(std::sync::Mutex::new(None)));
    lp.offload(
        &pool,
        Box::new(Completion::new(std::sync::Arc::clone(&told))),
        |_| (),
        |_, told, done| *told.lock().unwrap() = Some(done.map_err(|error| error.kind())),
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(told.lock().unwrap().take(), Some(Err(io::ErrorKind::Unsupported)));
}

#[test]
fn a_descriptor_that_is_not_open_ends_its_own_operations_and_no_others() {
    let mut lp = Loop::new().unwrap();
    let mut op = RawOp::new(OpKind::Poll, 77);
    op.as_poll_mut().events = libc::POLLIN as u32;
    op.flags = RawOp::UNTRACKED;
    // SAFETY: nothing is pointed to.
    let (_, bad) = start(&mut lp, (), move |()| unsafe { Op::from_raw(op) });
    complete(&mut lp, (), |()| Timer::after(MS)).1.unwrap();
    let ended: io::Result<usize> = bad.take().unwrap().1;
    assert_eq!(error_of(ended).raw_os_error(), Some(libc::EBADF));
}
