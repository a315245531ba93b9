//! A loop that is dropped with reads in flight gives no memory back that the kernel still writes to. (Closing
//! an io_uring descriptor does not wait for the kernel: a loop that relied on it would be seen here.)
//!
//! The owners' `Drop` overwrites their buffers with a pattern, the moment they are free to use, and leaves
//! them to the test, which then makes the data come that the reads were waiting for: the pattern has to stay
//! as it is, and the data has to be where it was.

#![allow(unsafe_code)]

mod common;

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::{PipeWriter, Read, Write};
use std::net::{TcpListener, TcpStream as StdStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use oxev::{BufPool, Completion, File, IoVecs, Loop, Pool, RunMode, TcpStream};

const BLOCK_BYTES: usize = 16 << 10;
const PATTERN: u8 = 0xa5;
const DATA: u8 = 0x11;

/// As O_DIRECT wants it.
#[repr(align(4096))]
struct Block([u8; BLOCK_BYTES]);

impl Block {
    fn new() -> Option<Box<Block>> {
        Some(Box::new(Block([0; BLOCK_BYTES])))
    }
}

thread_local! {
    /// Buffers whose owners are gone.
    static FREED: RefCell<Vec<Box<Block>>> = const { RefCell::new(Vec::new()) };
}

/// The state of a read in flight. What it reads from is kept open by the test, too.
struct Reader<S> {
    source: S,
    buf: Option<Box<Block>>,
    vecs: IoVecs<2>,
}

impl<S> Reader<S> {
    fn new(source: S) -> Reader<S> {
        Reader { source, buf: Block::new(), vecs: IoVecs::new() }
    }
}

impl<S> Drop for Reader<S> {
    fn drop(&mut self) {
        if let Some(mut block) = self.buf.take() {
            block.0.fill(PATTERN);
            FREED.with_borrow_mut(|freed| freed.push(block));
        }
    }
}

/// Looks at the freed buffers for a while.
fn assert_untouched(count: usize) {
    let freed = FREED.take();
    assert_eq!(freed.len(), count, "every owner was dropped");
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(5) {
        for (number, block) in freed.iter().enumerate() {
            for (offset, byte) in block.0.iter().enumerate().step_by(8) {
                // SAFETY: a reference. Volatile: whether it changes behind the compiler's back is the
                // question.
                let byte = unsafe { std::ptr::from_ref(byte).read_volatile() };
                assert_eq!(byte, PATTERN, "buffer {number} was written to at {offset} after it was freed");
            }
        }
    }
}

fn on_each_loop(test: impl Fn(Box<Loop>)) {
    for kind in common::backends() {
        for baseline in [false, true] {
            // The kernel has them, or they are still in the queue, or do not fit into it.
            for entries in [256, 4] {
                test(Loop::builder().backend(kind).baseline(baseline).entries(entries).build().unwrap());
            }
        }
    }
}

const READS: usize = 24;

#[test]
fn pipes_that_were_being_read_are_left_alone() {
    on_each_loop(|mut lp| {
        let mut pipes: Vec<(File, PipeWriter)> = Vec::new();
        for _ in 0..READS {
            let (reader, writer) = std::io::pipe().unwrap();
            let kept = File::from_std(std::fs::File::from(OwnedFd::from(reader.try_clone().unwrap())));
            pipes.push((kept, writer));
            let reader = Reader::new(File::from_std(std::fs::File::from(OwnedFd::from(reader))));
            lp.submit(
                Box::new(Completion::new(reader)),
                |r| r.source.read(&mut r.buf.as_mut().unwrap().0),
                |_, _, _| unreachable!("nothing was written"),
            );
        }
        lp.run(RunMode::NoWait).unwrap();
        drop(lp);
        for (_, writer) in &mut pipes {
            writer.write_all(&[DATA; 512]).unwrap();
        }
        assert_untouched(READS);
        for (kept, _) in pipes {
            let mut data = [0; 512];
            std::fs::File::from(OwnedFd::from(kept)).read_exact(&mut data).unwrap();
            assert_eq!(data, [DATA; 512]);
        }
    });
}

/// Two ends of a connection: the loop's, a second handle to it, and the peer's.
fn connection() -> (TcpStream, StdStream, StdStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let kept = stream.try_clone().unwrap();
    (TcpStream::from_std(stream).unwrap(), kept, peer)
}

/// What arrived before the loop was dropped, in the exact receives.
const HEAD_BYTES: usize = 100;

#[test]
fn sockets_that_were_being_received_from_are_left_alone() {
    on_each_loop(|mut lp| {
        let pool = Pool::new(READS);
        let mut connections = Vec::new();
        for number in 0..READS {
            let (stream, kept, mut peer) = connection();
            let slot = pool.insert(Reader::new(stream)).unwrap_or_else(|_| unreachable!("there is room"));
            match number % 3 {
                0 => lp.submit(
                    slot,
                    |r| r.source.recv(&mut r.buf.as_mut().unwrap().0),
                    |_, _, _| unreachable!("nothing was sent"),
                ),
                1 => {
                    // Some of it arrives: it is in the kernel's hands in the middle of the buffer.
                    peer.write_all(&[DATA; HEAD_BYTES]).unwrap();
                    lp.submit(
                        slot,
                        |r| r.source.recv_exact(&mut r.buf.as_mut().unwrap().0),
                        |_, _, _| unreachable!("not all of it was sent"),
                    )
                }
                _ => lp.submit(
                    slot,
                    |r| {
                        let (head, body) = r.buf.as_mut().unwrap().0.split_at_mut(8);
                        r.source.recv_vectored(r.vecs.scatter([head, body]))
                    },
                    |_, _, _| unreachable!("nothing was sent"),
                ),
            };
            connections.push((kept, peer));
        }
        lp.run(RunMode::NoWait).unwrap();
        drop(lp);
        for (_, peer) in &mut connections {
            peer.write_all(&[DATA; 512]).unwrap();
        }
        assert_untouched(READS);
        assert_eq!(pool.available(), READS);
        for (mut kept, _) in connections {
            kept.set_nonblocking(false).unwrap();
            let mut data = [0; 512];
            kept.read_exact(&mut data).unwrap();
            assert_eq!(data, [DATA; 512]);
        }
    });
}

#[test]
fn what_arrives_while_the_loop_is_dropped_is_not_written_to_freed_buffers() {
    for _ in 0..8 {
        on_each_loop(|mut lp| {
            let mut connections = Vec::new();
            for _ in 0..READS {
                let (stream, kept, peer) = connection();
                connections.push((kept, peer));
                lp.submit(
                    Box::new(Completion::new(Reader::new(stream))),
                    |r| r.source.recv(&mut r.buf.as_mut().unwrap().0),
                    |_, _, _| (),
                );
            }
            lp.run(RunMode::NoWait).unwrap();
            let start = Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    for (_, peer) in &mut connections {
                        peer.write_all(&[DATA; 512]).unwrap();
                    }
                });
                start.wait();
                drop(lp);
            });
            assert_untouched(READS);
        });
    }
}

#[test]
fn pooled_receives_take_nothing_after_the_loop_is_gone() {
    struct Pooled {
        stream: TcpStream,
        bufs: BufPool,
    }
    on_each_loop(|mut lp| {
        let bufs = lp.buf_pool(8, 512).unwrap();
        let mut connections = Vec::new();
        for _ in 0..READS {
            let (stream, kept, peer) = connection();
            connections.push((kept, peer));
            lp.submit(
                Box::new(Completion::new(Pooled { stream, bufs: bufs.clone() })),
                |p| p.stream.recv_pooled(&p.bufs),
                |_, _, _| unreachable!("nothing was sent"),
            );
        }
        lp.run(RunMode::NoWait).unwrap();
        drop(lp);
        assert_eq!(bufs.available(), bufs.capacity());
        for (mut kept, mut peer) in connections {
            peer.write_all(&[DATA; 512]).unwrap();
            kept.set_nonblocking(false).unwrap();
            let mut data = [0; 512];
            kept.read_exact(&mut data).unwrap();
            assert_eq!(data, [DATA; 512]);
        }
    });
}

/// These reads cannot be cancelled once the device has them: dropping the loop has to wait for them.
#[test]
fn direct_reads_of_a_file_are_waited_for() {
    let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.write_all(&vec![DATA; READS * BLOCK_BYTES]).unwrap();
    file.as_file().sync_all().unwrap();
    let open = || OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(file.path());
    if let Err(error) = open() {
        return eprintln!("skipped: no O_DIRECT in {}: {error}", file.path().display());
    }
    for round in 0..8 {
        on_each_loop(|mut lp| {
            for number in 0..READS {
                let state = (Reader::new(File::from_std(open().unwrap())), (number * BLOCK_BYTES) as u64);
                lp.submit(
                    Box::new(Completion::new(state)),
                    |(r, offset)| r.source.read_at(&mut r.buf.as_mut().unwrap().0, *offset),
                    |_, _, _| (),
                );
            }
            // The kernel has them all, or none was even submitted.
            if round % 2 == 0 {
                lp.flush().unwrap();
            }
            drop(lp);
            assert_untouched(READS);
        });
    }
}
