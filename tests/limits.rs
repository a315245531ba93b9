//! What happens at the limits that a system sets to a process: the size of files. Each body runs in a process
//! of its own, so that the limit concerns no other test.

#![allow(unsafe_code)]

mod common;

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use oxev::{Builder, Completion, File, IoVecs, Loop, Op, RunMode};

/// Which test a child process shall run.
const CHILD: &str = "OXEV_LIMITS_CHILD";

/// Runs `body` in a process of its own, for every backend.
fn in_a_process(test: &str, body: fn(Builder)) {
    if std::env::var(CHILD).as_deref() == Ok(test) {
        for kind in common::backends() {
            for baseline in [false, true] {
                eprintln!("on {kind}, baseline: {baseline}");
                body(Loop::builder().backend(kind).baseline(baseline).capacity(512).entries(128));
            }
        }
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, test)
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}

/// No file of this process grows beyond this many bytes: a write that would ends short, or with `EFBIG`.
fn limit_file_size(bytes: libc::rlim_t) {
    // SAFETY: a disposition that runs no code.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, bytes, bytes).unwrap();
}

/// Bytes that tell where they belong.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// A new file, open for reading and writing, beside its twin of the standard library, which shares its
/// position.
fn file() -> (File, std::fs::File) {
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    (File::from_std(file.try_clone().unwrap()), file)
}

fn content(file: &std::fs::File) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut content = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut content, 0).unwrap();
    content
}

fn position(mut file: &std::fs::File) -> u64 {
    io::Seek::stream_position(&mut file).unwrap()
}

type End<T> = (T, io::Result<usize>, u64);

/// Runs one operation to its end: the state, the result, and what was moved.
fn complete<T, F>(lp: &mut Loop, state: T, prepare: F) -> End<T>
where
    T: 'static,
    F: for<'a> FnOnce(&'a mut T) -> Op<'a, usize>,
{
    let end = Rc::new(RefCell::new(None));
    let state = (Some(state), Rc::clone(&end));
    lp.submit(
        Box::new(Completion::new(state)),
        |s| prepare(s.0.as_mut().unwrap()),
        |lp, mut s, result| {
            let state = s.0.take().unwrap();
            *s.1.borrow_mut() = Some((state, result, lp.moved()));
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
    end.take().unwrap()
}

fn errno(result: io::Result<usize>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

const LIMIT: usize = 64 << 10;
const BYTES: usize = 100_000;

#[test]
fn write_all_at_the_position_writes_from_the_first_byte_on_and_no_byte_twice() {
    in_a_process("write_all_at_the_position_writes_from_the_first_byte_on_and_no_byte_twice", |builder| {
        limit_file_size(LIMIT as libc::rlim_t);
        let mut lp = builder.build().unwrap();
        let (file, twin) = file();
        let ((_, bytes), written, moved) = complete(&mut lp, (file, pattern(BYTES)), |(f, b)| f.write_all(b));
        assert_eq!((errno(written), moved), (Some(libc::EFBIG), LIMIT as u64));
        assert!(content(&twin) == bytes[..LIMIT]);
        assert_eq!(position(&twin), LIMIT as u64);
    });
}

#[test]
fn a_write_in_a_loop_writes_from_the_first_byte_on() {
    in_a_process("a_write_in_a_loop_writes_from_the_first_byte_on", |builder| {
        limit_file_size(LIMIT as libc::rlim_t);
        let mut lp = builder.build().unwrap();
        let (file, twin) = file();
        let mut state = (file, pattern(BYTES), 0);
        loop {
            let (back, written, _) = complete(&mut lp, state, |(f, b, done)| f.write(&b[*done..]));
            state = back;
            match written {
                Ok(count) => state.2 += count,
                Err(error) => break assert_eq!(error.raw_os_error(), Some(libc::EFBIG)),
            }
            assert_eq!(position(&twin), state.2 as u64);
        }
        assert!(content(&twin) == state.1[..LIMIT]);
    });
}

#[test]
fn writes_that_are_queued_at_the_position_keep_their_order_when_the_file_is_full() {
    in_a_process(
        "writes_that_are_queued_at_the_position_keep_their_order_when_the_file_is_full",
        |builder| {
            limit_file_size(LIMIT as libc::rlim_t);
            let mut lp = builder.build().unwrap();
            let (file, twin) = file();
            let (file, ends) = (Rc::new(file), Rc::new(RefCell::new(Vec::new())));
            for index in 0..40_u8 {
                let state = (Rc::clone(&file), vec![index; 3000], Rc::clone(&ends));
                lp.submit(
                    Box::new(Completion::new(state)),
                    |(f, b, _)| f.write_all(b),
                    |lp, s, result| s.2.borrow_mut().push((s.1[0], result, lp.moved())),
                );
            }
            lp.run(RunMode::UntilDone).unwrap();
            let content = content(&twin);
            assert_eq!(content.len(), LIMIT);
            let mut sorted = content.clone();
            sorted.sort_unstable();
            assert!(content == sorted, "the writes are not in their order");
            let moved: u64 = ends.borrow().iter().map(|(.., moved)| moved).sum();
            assert_eq!(moved, LIMIT as u64);
            for (index, result, _) in ends.borrow_mut().drain(..) {
                let whole = (usize::from(index) + 1) * 3000 <= LIMIT;
                assert_eq!(result.is_ok(), whole, "{index}: {result:?}");
            }
        },
    );
}

#[test]
fn a_list_that_is_written_at_an_offset_says_how_far_it_came() {
    in_a_process("a_list_that_is_written_at_an_offset_says_how_far_it_came", |builder| {
        limit_file_size(LIMIT as libc::rlim_t);
        let mut lp = builder.build().unwrap();
        let (file, twin) = file();
        let state = (file, pattern(BYTES), IoVecs::<3>::new());
        let ((_, bytes, _), written, moved) = complete(&mut lp, state, |(f, b, v)| {
            f.write_all_vectored_at(v.gather([&b[..1000], &b[1000..LIMIT - 7], &b[LIMIT - 7..]]), 5)
        });
        assert_eq!((errno(written), moved), (Some(libc::EFBIG), LIMIT as u64 - 5));
        assert!(content(&twin)[5..] == bytes[..LIMIT - 5]);
        assert_eq!(position(&twin), 0);
    });
}

#[test]
fn a_file_behind_no_cache_moves_its_position() {
    #[repr(align(4096))]
    struct Block([u8; 4096]);

    fn body(builder: Builder) {
        let mut lp = builder.build().unwrap();
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let options =
            oxev::OpenOptions::new().read(true).write(true).create(true).custom_flags(libc::O_DIRECT);
        let Ok(file) = options.open_blocking(dir.path().join("file")) else {
            return eprintln!("not run: this file system knows no O_DIRECT");
        };
        let twin = std::fs::File::from(file.as_fd().try_clone_to_owned().unwrap());
        let mut state = (file, Box::new(Block([1; 4096])));
        for index in 1..4 {
            state.1.0 = [index; 4096];
            let (back, written, _) = complete(&mut lp, state, |(f, b)| f.write_all(&b.0));
            assert_eq!(written.unwrap(), 4096);
            assert_eq!(position(&twin), 4096 * u64::from(index));
            state = back;
        }
        io::Seek::rewind(&mut &twin).unwrap();
        for index in 1..4 {
            let (back, read, _) = complete(&mut lp, state, |(f, b)| f.read(&mut b.0));
            assert_eq!((read.unwrap(), back.1.0[0]), (4096, index));
            state = back;
        }
    }
    in_a_process("a_file_behind_no_cache_moves_its_position", body);
}

#[test]
fn where_no_thread_can_be_made_files_are_served_all_the_same() {
    in_a_process("where_no_thread_can_be_made_files_are_served_all_the_same", |builder| {
        // Every user may make a file there.
        let twin = tempfile::tempfile().unwrap();
        let file = File::from_std(twin.try_clone().unwrap());
        let (ours, mut peer) = std::os::unix::net::UnixStream::pair().unwrap();
        // The limit is for ordinary users.
        // SAFETY: no memory is passed.
        if unsafe { libc::geteuid() } == 0 {
            // SAFETY: as above.
            assert_eq!(unsafe { libc::setuid(65534) }, 0);
        }
        setrlimit(Resource::RLIMIT_NPROC, 0, 0).unwrap();
        let mut lp = builder.build().unwrap();
        let file = Rc::new(file);
        let state = (Rc::clone(&file), pattern(10_000), IoVecs::<2>::new());
        let (state, written, _) = complete(&mut lp, state, |(f, b, _)| f.write_all(b));
        assert_eq!(written.unwrap(), 10_000);
        let (state, written, _) = complete(&mut lp, state, |(f, b, v)| {
            f.write_all_vectored_at(v.gather([&b[..1], &b[1..]]), 10_000)
        });
        assert_eq!(written.unwrap(), 10_000);
        let (_, read, _) = complete(&mut lp, state, |(f, b, _)| f.read_exact_at(b, 5000));
        assert_eq!(read.unwrap(), 10_000);
        assert_eq!((content(&twin), position(&twin)), ([pattern(10_000), pattern(10_000)].concat(), 10_000));
        let done: Rc<RefCell<Vec<io::Result<()>>>> = Rc::default();
        lp.submit(
            Box::new(Completion::new((file, Rc::clone(&done)))),
            |s| s.0.sync_all(),
            |lp, s, synced| {
                s.1.borrow_mut().push(synced);
                let metadata = oxev::Metadata::new();
                let state = (Rc::clone(&s.0), Rc::clone(&s.1), metadata);
                lp.submit(
                    Box::new(Completion::new(state)),
                    |s| s.0.metadata(&mut s.2),
                    |_, s, filled| {
                        assert_eq!(s.2.len(), 20_000);
                        s.1.borrow_mut().push(filled);
                    },
                );
            },
        );
        let stream = oxev::TcpStream::from_std(std::os::fd::OwnedFd::from(ours).into()).unwrap();
        lp.submit(
            Box::new(Completion::new((stream, Rc::clone(&done)))),
            |s| s.0.shutdown(std::net::Shutdown::Write),
            |lp, mut s, shut| {
                s.1.borrow_mut().push(shut);
                let done = std::mem::take(&mut s.1);
                let state = (s, done);
                lp.submit(
                    Box::new(Completion::new(state)),
                    |s| s.0.0.close(),
                    |_, s, closed| {
                        s.1.borrow_mut().push(closed);
                    },
                );
            },
        );
        lp.submit(
            Box::new(Completion::new(Rc::clone(&done))),
            |_| File::open(c"/proc/self/status", &oxev::OpenOptions::new().read(true)),
            |_, done, opened| done.borrow_mut().push(opened.map(drop)),
        );
        lp.run(RunMode::UntilDone).unwrap();
        let done = done.take();
        assert_eq!(done.len(), 5);
        assert!(done.iter().all(Result::is_ok), "{done:?}");
        assert_eq!(io::Read::read(&mut peer, &mut [0; 8]).unwrap(), 0);
    });
}

/// An open that waits for a process to open the other end: the worker of the kernel that waits says `ERESTARTSYS`.
#[test]
fn an_open_that_waits_ends_as_cancelled_or_at_its_deadline() {
    for kind in common::backends() {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path =
            std::ffi::CString::new(dir.path().join("fifo").into_os_string().into_encoded_bytes()).unwrap();
        nix::unistd::mkfifo(path.as_c_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut lp = Loop::builder().backend(kind).capacity(16).entries(16).build().unwrap();
        // With `create` io_uring leaves it to a worker in any case (Linux 5.19).
        let options = oxev::OpenOptions::new().write(true).create(true);
        let ends = Rc::new(RefCell::new(Vec::new()));
        let mut ids = Vec::new();
        for limit in [None, Some(Duration::from_millis(20))] {
            ids.push(lp.submit(
                Box::new(Completion::new((path.clone(), Rc::clone(&ends)))),
                |s| match limit {
                    None => File::open(&s.0, &options),
                    Some(limit) => File::open(&s.0, &options).timeout(limit),
                },
                |_, s, opened| s.1.borrow_mut().push(opened.unwrap_err()),
            ));
        }
        lp.run_for(Duration::from_millis(60)).unwrap();
        lp.cancel(ids[0]);
        lp.run(RunMode::UntilDone).unwrap();
        let ends = ends.take();
        assert!(ends.iter().any(oxev::is_canceled), "{kind}: {ends:?}");
        assert!(ends.iter().any(oxev::is_deadline), "{kind}: {ends:?}");
        // A thread that still waits there is let go.
        let _ = std::fs::File::options().read(true).write(true).open(dir.path().join("fifo"));
    }
}
