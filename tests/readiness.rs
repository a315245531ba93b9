//! What could go wrong where the kernel tells readiness, on every selector that there is here: recycled descriptors,
//! edges that are missed, stale or of somebody else, descriptors that block, files that no selector takes. What holds
//! on every backend is in `tests/conformance`.

#![allow(unsafe_code)]

mod common;

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::net::{TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use oxev::{
    Action, Completion, File, IoVecs, Kind, Loop, Multi, Op, OpId, OpKind, OpenOptions, Output, RawOp,
    RunMode, TcpListener, TcpStream, ThreadPool,
};

/// Makes a test of each body on each selector.
macro_rules! selectors {
    ($($body:ident,)*) => {
        selectors! { @on epoll, Epoll, $($body,)* }
        selectors! { @on poll, Poll, $($body,)* }
        #[cfg(kqueue_emulation)]
        selectors! { @on kqueue, Kqueue, $($body,)* }
    };
    (@on $name:ident, $kind:ident, $($body:ident,)*) => {
        mod $name {
            $(#[test]
            fn $body() {
                super::$body(oxev::Kind::$kind);
            })*
        }
    };
}

selectors! {
    a_recycled_number_is_another_descriptor,
    a_stream_that_is_given_up_and_taken_back_is_watched,
    an_edge_of_a_duplicate_does_not_reach_the_number_s_next_descriptor,
    a_stream_moves_from_loop_to_loop_and_back,
    the_end_of_the_stream_behind_a_short_read_is_seen,
    what_comes_behind_the_first_short_read_is_seen,
    a_list_in_parts_is_moved_whole_on_a_connection_that_has_waited,
    urgent_data_does_not_hide_what_is_behind_it,
    operations_of_one_direction_are_done_in_order,
    a_cancelled_operation_passes_a_ready_descriptor_on,
    a_connection_that_floods_does_not_starve_another,
    many_connections_that_are_always_ready_do_not_hold_up_those_that_wait,
    a_listener_gives_every_connection_also_those_between_two_submissions,
    a_repeated_accept_takes_turns_with_others_on_its_listener,
    a_listener_takes_no_more_than_there_is_room_for,
    a_step_of_a_busy_loop_accepts_many_connections,
    a_listener_that_blocks_does_not_block_the_loop,
    an_empty_pipe_that_blocks_is_waited_for,
    a_full_pipe_that_blocks_does_not_block_the_loop,
    foreign_descriptors_are_watched_whatever_their_number_named_before,
    a_number_that_was_redirected_is_watched_again,
    a_terminal_that_nobody_reads_does_not_block_the_loop,
    a_device_that_no_selector_takes_is_always_ready,
    files_are_read_whole_and_end_where_they_end,
    more_file_operations_than_there_are_jobs_are_all_done,
    file_operations_that_wait_for_a_thread_are_cancelled_at_once,
    an_open_that_hangs_ends_when_it_is_cancelled_and_what_it_opens_is_closed,
    an_open_that_hangs_keeps_its_deadline,
    a_loop_that_is_dropped_waits_for_its_pool_no_longer_than_for_the_kernel,
    a_path_that_is_too_long_is_an_error_as_it_is_anywhere,
    calls_that_a_pool_discards_are_made_by_the_loop,
    a_loop_that_is_dropped_waits_for_its_files,
    files_work_without_a_pool,
    what_is_ready_and_waited_for_by_none_does_not_keep_the_loop_busy,
    a_descriptor_waits_for_what_is_left_when_one_operation_is_cancelled,
    many_that_wait_for_different_events_of_one_descriptor_are_each_told_of_theirs,
    a_pending_error_queue_does_not_keep_the_loop_busy,
}

fn new_loop(kind: Kind) -> Box<Loop> {
    Loop::builder().backend(kind).capacity(1024).build().unwrap()
}

/// A connection over loopback: the loop's end and the peer's.
fn pair() -> (TcpStream, StdStream) {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let peer = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    (TcpStream::from_std(listener.accept().unwrap().0).unwrap(), peer)
}

/// Where the end of an operation is noted.
struct Slot<T, R>(Rc<End<T, R>>);

type End<T, R> = RefCell<Option<(T, io::Result<R>)>>;

/// An operation whose end is noted.
struct Started<T, R> {
    id: OpId,
    slot: Rc<End<T, R>>,
}

impl<T, R> Started<T, R> {
    fn is_done(&self) -> bool {
        self.slot.borrow().is_some()
    }

    fn take(&self) -> (T, io::Result<R>) {
        self.slot.borrow_mut().take().expect("it is not done")
    }
}

fn start<T: 'static, R: Output>(
    lp: &mut Loop,
    state: T,
    prepare: impl for<'a> FnOnce(&'a mut T) -> Op<'a, R>,
) -> Started<T, R> {
    let slot = Rc::new(RefCell::new(None));
    let owner = Box::new(Completion::new((state, Slot(Rc::clone(&slot)))));
    let id = lp.submit(
        owner,
        |(state, _)| prepare(state),
        |_, owner, result| {
            let (state, slot) = owner.into_inner();
            *slot.0.borrow_mut() = Some((state, result));
        },
    );
    Started { id, slot }
}

fn complete<T: 'static, R: Output>(
    lp: &mut Loop,
    state: T,
    prepare: impl for<'a> FnOnce(&'a mut T) -> Op<'a, R>,
) -> (T, io::Result<R>) {
    let started = start(lp, state, prepare);
    run_until(lp, || started.is_done());
    started.take()
}

/// Runs until `done`, and fails rather than hang.
fn run_until(lp: &mut Loop, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "still in flight: {:?}", lp.in_flight().collect::<Vec<_>>());
        lp.run_for(Duration::from_millis(20)).unwrap();
    }
}

/// Lets the loop do all that it can do now.
fn settle(lp: &mut Loop) {
    (0..10).for_each(|_| lp.run(RunMode::NoWait).unwrap());
}

// ---- descriptors and edges

/// Makes a number the name of another connection, as closing the one and making the other would.
fn recycle(number: OwnedFd, next: TcpStream) -> TcpStream {
    // SAFETY: both are open, and the number is ours.
    assert_eq!(unsafe { libc::dup2(next.as_raw_fd(), number.as_raw_fd()) }, number.as_raw_fd());
    TcpStream::from_std(number.into()).unwrap()
}

fn a_recycled_number_is_another_descriptor(kind: Kind) {
    let mut lp = new_loop(kind);
    let (mut stream, mut peer) = pair();
    for _ in 0..3 {
        let recv = start(&mut lp, (stream, [0u8; 8]), |(s, b)| s.recv(b));
        settle(&mut lp); // it waits for an edge
        peer.write_all(b"hello").unwrap();
        run_until(&mut lp, || recv.is_done());
        let ((old, _), received) = recv.take();
        assert_eq!(received.unwrap(), 5);
        let (next, next_peer) = pair();
        (stream, peer) = (recycle(old.into(), next), next_peer);
    }
}

fn a_stream_that_is_given_up_and_taken_back_is_watched(kind: Kind) {
    let mut lp = new_loop(kind);
    let (mut stream, mut peer) = pair();
    for _ in 0..3 {
        let recv = start(&mut lp, (stream, [0u8; 8]), |(s, b)| s.recv(b));
        settle(&mut lp);
        peer.write_all(b"hello").unwrap();
        run_until(&mut lp, || recv.is_done());
        let ((back, _), received) = recv.take();
        assert_eq!(received.unwrap(), 5);
        stream = TcpStream::from_std(OwnedFd::from(back).into()).unwrap();
    }
}

fn an_edge_of_a_duplicate_does_not_reach_the_number_s_next_descriptor(kind: Kind) {
    let mut lp = new_loop(kind);
    let (stream, mut old_peer) = pair();
    let recv = start(&mut lp, (stream, [0u8; 8]), |(s, b)| s.recv(b));
    settle(&mut lp);
    lp.cancel(recv.id);
    settle(&mut lp);
    let ((stream, _), _) = recv.take();
    let number = OwnedFd::from(stream);
    let duplicate = number.try_clone().unwrap(); // the registration lives on with it
    let (next, mut peer) = pair();
    let stream = recycle(number, next);
    let recv = start(&mut lp, (stream, [0u8; 8]), |(s, b)| s.recv(b));
    settle(&mut lp);
    old_peer.write_all(b"stale").unwrap();
    settle(&mut lp);
    assert!(!recv.is_done());
    peer.write_all(b"new").unwrap();
    run_until(&mut lp, || recv.is_done());
    let ((_, buffer), received) = recv.take();
    assert_eq!(&buffer[..received.unwrap()], b"new");
    drop(duplicate);
}

fn a_stream_moves_from_loop_to_loop_and_back(kind: Kind) {
    let (mut one, mut two) = (new_loop(kind), new_loop(kind));
    let (mut stream, mut peer) = pair();
    for _ in 0..3 {
        for lp in [&mut one, &mut two] {
            let recv = start(lp, (stream, [0u8; 8]), |(s, b)| s.recv(b));
            settle(lp);
            peer.write_all(b"hello").unwrap();
            run_until(lp, || recv.is_done());
            let ((back, _), received) = recv.take();
            assert_eq!(received.unwrap(), 5);
            stream = back;
        }
    }
}

fn the_end_of_the_stream_behind_a_short_read_is_seen(kind: Kind) {
    let mut lp = new_loop(kind);
    for wait_for_edge in [false, true] {
        let (stream, mut peer) = pair();
        let recv = start(&mut lp, (stream, [0u8; 64]), |(s, b)| s.recv(b));
        if wait_for_edge {
            settle(&mut lp);
        }
        peer.write_all(b"last words").unwrap();
        drop(peer);
        run_until(&mut lp, || recv.is_done());
        let (state, received) = recv.take();
        assert_eq!(received.unwrap(), 10);
        assert_eq!(complete(&mut lp, state, |(s, b)| s.recv(b)).1.unwrap(), 0);
    }
}

fn urgent_data_does_not_hide_what_is_behind_it(kind: Kind) {
    let mut lp = new_loop(kind);
    let (stream, peer) = pair();
    // The first operation waits, so the descriptor is watched when the urgent byte comes.
    let recv = start(&mut lp, (stream, [0u8; 64]), |(s, b)| s.recv(b));
    settle(&mut lp);
    let peer = socket2::Socket::from(peer);
    peer.send(b"before").unwrap();
    peer.send_out_of_band(b"!").unwrap();
    peer.send(b"after").unwrap();
    run_until(&mut lp, || recv.is_done());
    let (state, received) = recv.take();
    assert_eq!(received.unwrap(), 6, "a read stops at the mark");
    let ((_, buffer), count) = complete(&mut lp, state, |(s, b)| s.recv(b));
    assert_eq!(&buffer[..count.unwrap()], b"!after", "an urgent byte is one of the stream");
}

fn operations_of_one_direction_are_done_in_order(kind: Kind) {
    let mut lp = new_loop(kind);
    let (stream, mut peer) = pair();
    let stream = Rc::new(stream);
    let recvs: Vec<_> =
        (0..4).map(|_| start(&mut lp, (Rc::clone(&stream), [0u8; 2]), |(s, b)| s.recv_exact(b))).collect();
    settle(&mut lp);
    lp.cancel(recvs[0].id);
    lp.cancel(recvs[2].id);
    peer.write_all(b"abcd").unwrap();
    run_until(&mut lp, || recvs.iter().all(Started::is_done));
    let read: Vec<_> = recvs.iter().map(Started::take).map(|((_, b), r)| r.map(|_| b).ok()).collect();
    assert_eq!(read, [None, Some(*b"ab"), None, Some(*b"cd")]);
}

fn a_cancelled_operation_passes_a_ready_descriptor_on(kind: Kind) {
    let mut lp = new_loop(kind);
    let (stream, mut peer) = pair();
    let stream = Rc::new(stream);
    let recvs: Vec<_> =
        (0..200).map(|_| start(&mut lp, (Rc::clone(&stream), [0u8; 1]), |(s, b)| s.recv(b))).collect();
    settle(&mut lp);
    peer.write_all(&[7; 200]).unwrap();
    // One step does not do that much for one descriptor, and no other edge comes.
    while !recvs[0].is_done() {
        lp.run(RunMode::NoWait).unwrap();
    }
    let first = recvs.iter().position(|recv| !recv.is_done()).expect("one step was enough");
    assert!(lp.cancel(recvs[first].id));
    run_until(&mut lp, || recvs.iter().all(Started::is_done));
    for (index, recv) in recvs.iter().enumerate() {
        assert_eq!(recv.take().1.is_ok(), index != first);
    }
}

fn what_comes_behind_the_first_short_read_is_seen(kind: Kind) {
    // What the peer does between the loop's first receive and its second.
    type Act = fn(&StdStream);
    let behind: [(Act, bool, usize); 4] = [
        (|_| {}, true, 0),
        (|mut peer| peer.write_all(b"de").unwrap(), false, 2),
        (|peer| peer.shutdown(std::net::Shutdown::Write).unwrap(), false, 0),
        (|mut peer| peer.write_all(b"de").unwrap(), true, 2),
    ];
    for (act, closes, count) in behind {
        let mut lp = new_loop(kind);
        let (stream, mut peer) = pair();
        peer.write_all(b"abc").unwrap();
        let first = start(&mut lp, (stream, [0u8; 8]), |(stream, buffer)| stream.recv(buffer));
        lp.run(RunMode::UntilDone).unwrap();
        let ((stream, _), received) = first.take();
        assert_eq!(received.unwrap(), 3);
        act(&peer);
        let _open = Some(peer).filter(|_| !closes);
        let second = start(&mut lp, (stream, [0u8; 8]), |(stream, buffer)| stream.recv(buffer));
        lp.run(RunMode::UntilDone).unwrap();
        assert_eq!(second.take().1.unwrap(), count);
    }
}

fn a_list_in_parts_is_moved_whole_on_a_connection_that_has_waited(kind: Kind) {
    const BYTES: usize = 3000;
    let mut lp = new_loop(kind);
    let (stream, mut peer) = pair();
    let waited = start(&mut lp, (stream, [0u8; 1]), |(stream, byte)| stream.recv_exact(byte));
    lp.run(RunMode::NoWait).unwrap();
    peer.write_all(b"a").unwrap();
    run_until(&mut lp, || waited.is_done());
    let (stream, _) = waited.take().0;
    peer.write_all(&[7; BYTES]).unwrap();
    let mut has_come = PollFd::new(stream.as_fd(), PollFlags::POLLIN);
    nix::poll::poll(std::slice::from_mut(&mut has_come), PollTimeout::NONE).unwrap();
    let state = (stream, vec![0u8; BYTES], Box::new(IoVecs::<BYTES>::new()));
    let (state, received) = complete(&mut lp, state, |(stream, buffer, list)| {
        stream.recv_exact_vectored(list.scatter(buffer.chunks_mut(1)))
    });
    received.unwrap();
    assert!(state.1.iter().all(|&byte| byte == 7));
}

fn many_connections_that_are_always_ready_do_not_hold_up_those_that_wait(kind: Kind) {
    const READY: usize = 300;

    struct Ready {
        stream: TcpStream,
        byte: [u8; 1],
        turns: Rc<Cell<usize>>,
        until: Rc<Cell<bool>>,
    }

    fn receive(lp: &mut Loop, ready: Box<Completion<Ready>>) {
        lp.submit(
            ready,
            |r| r.stream.recv(&mut r.byte),
            |lp, ready, received| {
                assert_eq!(received.unwrap(), 1);
                ready.turns.set(ready.turns.get() + 1);
                if !ready.until.get() {
                    receive(lp, ready);
                }
            },
        );
    }

    let mut lp = new_loop(kind);
    let (turns, heard) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let peers: Vec<StdStream> = (0..READY)
        .map(|_| {
            let (stream, mut peer) = pair();
            peer.write_all(&[1; 64]).unwrap();
            let ready = Ready { stream, byte: [0], turns: turns.clone(), until: heard.clone() };
            receive(&mut lp, Box::new(Completion::new(ready)));
            peer
        })
        .collect();
    let (stream, mut peer) = pair();
    let waiting = (stream, [0u8; 1], heard.clone());
    lp.submit(
        Box::new(Completion::new(waiting)),
        |w| w.0.recv(&mut w.1),
        |_, waiting, received| {
            assert_eq!(received.unwrap(), 1);
            waiting.2.set(true);
        },
    );
    for _ in 0..7 {
        lp.run(RunMode::NoWait).unwrap();
        assert!(!heard.get());
    }
    peer.write_all(&[1]).unwrap();
    turns.set(0);
    while !heard.get() {
        lp.run(RunMode::NoWait).unwrap();
    }
    assert!(turns.get() <= 2 * READY, "{} callbacks of others came first", turns.get());
    drop(peers);
}

fn a_connection_that_floods_does_not_starve_another(kind: Kind) {
    const FLOOD: usize = 256 << 20;
    let mut lp = new_loop(kind);
    let (stream, mut flood) = pair();
    let flooder = std::thread::spawn(move || {
        let chunk = vec![1u8; 1 << 20];
        for _ in 0..FLOOD / chunk.len() {
            if flood.write_all(&chunk).is_err() {
                return;
            }
        }
    });
    let flooded = start(&mut lp, (stream, vec![0u8; FLOOD]), |(s, b)| s.recv_exact(b));
    lp.run(RunMode::NoWait).unwrap();
    let (stream, mut peer) = pair();
    let small = start(&mut lp, (stream, [0u8; 8]), |(s, b)| s.recv(b));
    peer.write_all(b"hello").unwrap();
    while !small.is_done() {
        lp.run(RunMode::NoWait).unwrap();
        assert!(!flooded.is_done() || small.is_done(), "the flood came first");
    }
    drop(lp);
    flooder.join().unwrap();
}

fn a_listener_gives_every_connection_also_those_between_two_submissions(kind: Kind) {
    const GUESTS: usize = 3;
    fn on_accept(lp: &mut Loop, server: Box<Completion<Server>>, accepted: io::Result<TcpStream>) {
        accepted.unwrap();
        server.accepted.set(server.accepted.get() + 1);
        if server.accepted.get() == GUESTS - 1 {
            // Between two accepts there is a step in which nobody accepts.
            lp.submit(
                server,
                |_| oxev::nop(),
                |lp, server, _| _ = lp.submit(server, |s| s.listener.accept(), on_accept),
            );
        } else if server.accepted.get() < GUESTS {
            lp.submit(server, |s| s.listener.accept(), on_accept);
        }
    }
    struct Server {
        listener: TcpListener,
        accepted: Rc<Cell<usize>>,
    }
    let mut lp = new_loop(kind);
    let (listener, accepted) = (TcpListener::bind("127.0.0.1:0").unwrap(), Rc::new(Cell::new(0)));
    let address = listener.local_addr().unwrap();
    let _before: Vec<_> = (0..GUESTS).map(|_| StdStream::connect(address).unwrap()).collect();
    let server = Box::new(Completion::new(Server { listener, accepted: Rc::clone(&accepted) }));
    lp.submit(server, |s| s.listener.accept(), on_accept);
    run_until(&mut lp, || accepted.get() == GUESTS);
}

fn a_repeated_accept_takes_turns_with_others_on_its_listener(kind: Kind) {
    let mut lp = new_loop(kind);
    let listener = Rc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    lp.submit_multi(
        Box::new(Completion::new(Multi::new(Rc::clone(&listener), ()))),
        |listener| listener.accept_multi(),
        |_, (), _stream| Action::Rearm,
        |_, _, _| unreachable!("it goes on"),
    );
    let once = start(&mut lp, listener, |listener| listener.accept());
    let _guests: Vec<_> = (0..2).map(|_| StdStream::connect(address).unwrap()).collect();
    run_until(&mut lp, || once.is_done());
    once.take().1.unwrap();
}

fn a_listener_takes_no_more_than_there_is_room_for(kind: Kind) {
    const GUESTS: usize = 600;
    let mut lp = new_loop(kind);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let guests: Vec<_> = (0..GUESTS).map(|_| StdStream::connect(address).unwrap()).collect();
    let accepted = Rc::new(Cell::new(0));
    lp.submit_multi(
        Box::new(Completion::new(Multi::new(listener, Rc::clone(&accepted)))),
        |listener| listener.accept_multi(),
        |lp, accepted, _stream| {
            accepted.set(accepted.get() + 1);
            // Callbacks that take their time: the next ones come in the next `run`.
            lp.stop();
            Action::Rearm
        },
        |_, _, _| unreachable!("it goes on"),
    );
    run_until(&mut lp, || accepted.get() == GUESTS);
    drop(guests);
}

fn a_step_of_a_busy_loop_accepts_many_connections(kind: Kind) {
    const GUESTS: usize = 40;
    const STEPS: usize = 8;
    let mut lp = new_loop(kind);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let owner = Box::new(Completion::new(Multi::new(listener, (0usize, Vec::new()))));
    let id = lp.submit_multi(
        owner,
        |listener| listener.accept_multi(),
        |_, (count, streams), stream| {
            streams.push(stream);
            *count += 1;
            Action::Rearm
        },
        |_, server, end| {
            assert!(oxev::is_canceled(&end.unwrap_err()));
            assert_eq!(server.state.0, GUESTS);
        },
    );
    settle(&mut lp);
    let guests: Vec<_> = (0..GUESTS).map(|_| StdStream::connect(address).unwrap()).collect();
    (0..STEPS).for_each(|_| lp.run(RunMode::NoWait).unwrap());
    assert!(lp.cancel(id));
    lp.run(RunMode::UntilDone).unwrap();
    drop(guests);
}

fn a_listener_that_blocks_does_not_block_the_loop(kind: Kind) {
    use oxev::raw::{self, RawCompletion};
    unsafe fn note(_: Option<&mut Loop>, completion: *mut RawCompletion) {
        // SAFETY: it has come back.
        let completion = unsafe { &*completion };
        // SAFETY: its user data is a place for the result.
        unsafe { *completion.user_data.cast::<i32>() = completion.outcome().result };
    }
    let mut lp = new_loop(kind);
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let mut result = 0;
    let mut completion = RawCompletion::new((&raw mut result).cast());
    let op = oxev::RawOp::new(oxev::OpKind::Accept, listener.as_raw_fd());
    // SAFETY: everything outlives the operation, which ends below.
    unsafe { raw::submit(&mut lp, &raw mut completion, op, None, note) };
    settle(&mut lp);
    assert_eq!(lp.len(), 1);
    let _client = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    lp.run(RunMode::UntilDone).unwrap();
    assert!(result > 0);
    // SAFETY: the callback's descriptor, which nobody else closes.
    drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(result) });
}

// ---- descriptors that block

fn pipe_files() -> (File, io::PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    (File::from_std(OwnedFd::from(reader).into()), writer)
}

fn an_empty_pipe_that_blocks_is_waited_for(kind: Kind) {
    let mut lp = new_loop(kind);
    let (reader, mut writer) = pipe_files();
    let read = start(&mut lp, (reader, [0u8; 16]), |(f, b)| f.read(b));
    settle(&mut lp);
    assert!(!read.is_done());
    writer.write_all(b"through the pipe").unwrap();
    run_until(&mut lp, || read.is_done());
    let (state, count) = read.take();
    assert_eq!(&state.1[..count.unwrap()], b"through the pipe");
    drop(writer);
    assert_eq!(complete(&mut lp, state, |(f, b)| f.read(b)).1.unwrap(), 0);
}

fn a_full_pipe_that_blocks_does_not_block_the_loop(kind: Kind) {
    let mut lp = new_loop(kind);
    let (mut reader, writer) = io::pipe().unwrap();
    let writer = File::from_std(OwnedFd::from(writer).into());
    let sent: Vec<u8> = (0..1 << 20).map(|i| (i / 7) as u8).collect();
    let expected = sent.clone();
    let write = start(&mut lp, (writer, sent), |(f, b)| f.write_all(b));
    settle(&mut lp); // it would hang here
    assert!(!write.is_done());
    let drain = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all)
    });
    run_until(&mut lp, || write.is_done());
    let (state, written) = write.take();
    assert_eq!(written.unwrap(), 1 << 20);
    drop(state);
    assert!(drain.join().unwrap().unwrap() == expected);
}

/// Nobody says when the number of a foreign descriptor comes to name another file.
fn foreign_descriptors_are_watched_whatever_their_number_named_before(kind: Kind) {
    fn wait_for_data(lp: &mut Loop, stream: StdStream) -> Started<StdStream, usize> {
        start(lp, stream, |stream| {
            let mut op = RawOp::new(OpKind::Poll, stream.as_raw_fd());
            op.as_poll_mut().events = libc::POLLIN as u32;
            op.flags = RawOp::UNTRACKED;
            // SAFETY: the descriptor is in the state, and nothing else is pointed to.
            unsafe { Op::from_raw(op) }
        })
    }
    let mut lp = new_loop(kind);
    let connection = || {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let peer = StdStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, peer)
    };
    let (mut stream, mut peer) = connection();
    for round in 0..10 {
        if round % 3 == 2 {
            // Closed; another connection gets the numbers, most likely.
            drop((stream, peer));
            (stream, peer) = connection();
        }
        let waiting = wait_for_data(&mut lp, stream);
        settle(&mut lp);
        assert!(!waiting.is_done());
        peer.write_all(b"data").unwrap();
        run_until(&mut lp, || waiting.is_done());
        let (state, events) = waiting.take();
        assert_eq!(events.unwrap(), libc::POLLIN as usize);
        stream = state;
        stream.read_exact(&mut [0; 4]).unwrap();
    }
}

/// Somebody redirects a descriptor that the loop watches, as a daemon does with its own: its number then
/// names a file that epoll does not know.
fn a_number_that_was_redirected_is_watched_again(kind: Kind) {
    let mut lp = new_loop(kind);
    let ((stream, mut peer), (other, mut other_peer)) = (pair(), pair());
    let stream = Rc::new(stream);
    let read = start(&mut lp, (Rc::clone(&stream), [0u8; 4]), |(s, b)| s.recv(b));
    settle(&mut lp);
    peer.write_all(b"read").unwrap();
    run_until(&mut lp, || read.is_done());
    // SAFETY: both are open, and both are ours.
    assert!(unsafe { libc::dup2(other.as_raw_fd(), stream.as_raw_fd()) } >= 0);
    let written = start(&mut lp, (stream, vec![7u8; 16 << 20]), |(s, b)| s.send_all(b));
    settle(&mut lp);
    assert!(!written.is_done());
    let reader =
        std::thread::spawn(move || other_peer.read_exact(&mut vec![0; 16 << 20]).map(|()| other_peer));
    run_until(&mut lp, || written.is_done());
    assert_eq!(written.take().1.unwrap(), 16 << 20);
    reader.join().unwrap().unwrap();
}

/// Two ends of a terminal.
fn terminal() -> (std::fs::File, std::fs::File) {
    let (mut master, mut slave) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: the two places are valid for the length of the call, and nothing else is passed.
    let status = unsafe { libc::openpty(&raw mut master, &raw mut slave, null, null.cast(), null.cast()) };
    assert_eq!(status, 0);
    // SAFETY: both were just made, and are nobody else's; here and below.
    let master = unsafe { OwnedFd::from_raw_fd(master) };
    // SAFETY: as above.
    (master.into(), unsafe { OwnedFd::from_raw_fd(slave) }.into())
}

fn a_terminal_that_nobody_reads_does_not_block_the_loop(kind: Kind) {
    let mut lp = new_loop(kind);
    let (mut master, slave) = terminal();
    let sent = vec![b'x'; 1 << 16];
    let write = start(&mut lp, (File::from_std(slave), sent), |(f, b)| f.write_all(b));
    (0..1000).for_each(|_| lp.run(RunMode::NoWait).unwrap()); // it would hang here
    assert!(!write.is_done());
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; 1 << 16];
        master.read_exact(&mut all).map(|()| (all, master))
    });
    run_until(&mut lp, || write.is_done());
    assert_eq!(write.take().1.unwrap(), 1 << 16);
    assert!(reader.join().unwrap().unwrap().0.iter().all(|&byte| byte == b'x'));
}

fn a_device_that_no_selector_takes_is_always_ready(kind: Kind) {
    let mut lp = new_loop(kind);
    let zero = OpenOptions::new().read(true).open_blocking("/dev/zero").unwrap();
    let ((_, buffer), read) = complete(&mut lp, (zero, [1u8; 64]), |(f, b)| f.read(b));
    assert_eq!((read.unwrap(), buffer), (64, [0; 64]));
    let null = OpenOptions::new().write(true).open_blocking("/dev/null").unwrap();
    assert_eq!(complete(&mut lp, (null, [1u8; 64]), |(f, b)| f.write_all(b)).1.unwrap(), 64);
}

// ---- files and the pool

fn files_are_read_whole_and_end_where_they_end(kind: Kind) {
    let mut lp = new_loop(kind);
    let file = File::from_std(tempfile::tempfile().unwrap());
    let content: Vec<u8> = (0..100_000u32).map(|i| (i / 3) as u8).collect();
    let ((file, content), written) = complete(&mut lp, (file, content), |(f, c)| f.write_all_at(c, 0));
    assert_eq!(written.unwrap(), 100_000);
    let (file, synced) = complete(&mut lp, file, |f| f.sync_data());
    synced.unwrap();
    let ((file, buffer), read) = complete(&mut lp, (file, vec![0; 1 << 20]), |(f, b)| f.read_at(b, 0));
    assert_eq!(read.unwrap(), content.len());
    assert!(buffer[..content.len()] == content);
    let ((file, _), read) = complete(&mut lp, (file, vec![0; 100]), |(f, b)| f.read_at(b, 100_000));
    assert_eq!(read.unwrap(), 0);
    let ((file, _), read) = complete(&mut lp, (file, vec![0; 100]), |(f, b)| f.read_exact_at(b, 99_950));
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    let (_, closed) = complete(&mut lp, file, |f| f.close());
    closed.unwrap();
}

fn more_file_operations_than_there_are_jobs_are_all_done(kind: Kind) {
    const WRITES: usize = 1000;
    let mut lp = new_loop(kind);
    let file = Rc::new(File::from_std(tempfile::tempfile().unwrap()));
    let writes: Vec<_> = (0..WRITES)
        .map(|i| {
            start(&mut lp, (Rc::clone(&file), [i as u8; 8]), move |(f, b)| f.write_all_at(b, i as u64 * 8))
        })
        .collect();
    run_until(&mut lp, || writes.iter().all(Started::is_done));
    assert!(writes.iter().all(|write| write.take().1.is_ok_and(|count| count == 8)));
    let ((_, buffer), read) =
        complete(&mut lp, (file, vec![0u8; WRITES * 8]), |(f, b)| f.read_exact_at(b, 0));
    read.unwrap();
    assert!(buffer.chunks(8).enumerate().all(|(i, chunk)| chunk == [i as u8; 8]));
}

fn file_operations_that_wait_for_a_thread_are_cancelled_at_once(kind: Kind) {
    let (pool, release) = common::busy_pool();
    let mut lp = Loop::builder().backend(kind).thread_pool(&pool).build().unwrap();
    let file = Rc::new(File::from_std(tempfile::tempfile().unwrap()));
    let writes: Vec<_> =
        (0..600).map(|_| start(&mut lp, (Rc::clone(&file), [1u8; 8]), |(f, b)| f.write_at(b, 0))).collect();
    settle(&mut lp);
    assert!(writes.iter().all(|write| !write.is_done()));
    for write in &writes {
        assert!(lp.cancel(write.id));
    }
    settle(&mut lp);
    assert!(writes.iter().all(|write| oxev::is_canceled(&write.take().1.unwrap_err())));
    // Their jobs are still with the pool, which outlives the loop.
    drop(lp);
    drop(release);
    pool.join().unwrap();
}

/// A FIFO in a folder of its own, where only the test opens the other end.
fn fifo() -> (tempfile::TempDir, CString) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = CString::new(dir.path().join("fifo").into_os_string().into_encoded_bytes()).unwrap();
    // SAFETY: the path is valid for the length of the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    (dir, path)
}

/// A loop with the last handle of a pool, whose threads have this name.
fn loop_with_pool(kind: Kind, name: &str) -> Box<Loop> {
    let pool = ThreadPool::builder().thread_name(name).build().unwrap();
    let limit = Duration::from_millis(20);
    Loop::builder().backend(kind).drain_timeout(limit).thread_pool(&pool).build().unwrap()
}

/// Begins to open the FIFO for reading, and waits until a worker of this name does.
fn start_to_open(lp: &mut Loop, worker: &str, fifo: &CString) -> Started<CString, File> {
    let options = OpenOptions::new().read(true);
    let opened = start(lp, fifo.clone(), |path| File::open(path, &options));
    let read = |task: &std::path::Path, what| std::fs::read_to_string(task.join(what)).unwrap_or_default();
    let opens = |task: &std::path::Path| {
        let call = read(task, "syscall");
        read(task, "comm").starts_with(worker)
            && call.split_whitespace().next() == Some(&libc::SYS_openat.to_string())
    };
    let tasks = || std::fs::read_dir("/proc/self/task").unwrap();
    while !tasks().any(|task| opens(&task.unwrap().path())) {
        std::thread::yield_now();
    }
    opened
}

/// Opens the end to write to, which lets the worker go on; and waits until the other end is closed.
fn assert_closed(fifo: &CString) {
    let open = || {
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(fifo.as_bytes()));
        std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path)
    };
    let writer = loop {
        match open() {
            Ok(writer) => break writer,
            // The worker has not come so far.
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENXIO)),
        }
        std::thread::yield_now();
    };
    // A writer without a reader.
    let mut poll = [PollFd::new(writer.as_fd(), PollFlags::empty())];
    assert_eq!(nix::poll::poll(&mut poll, PollTimeout::NONE), Ok(1));
    assert_eq!(poll[0].revents(), Some(PollFlags::POLLERR));
}

fn an_open_that_hangs_ends_when_it_is_cancelled_and_what_it_opens_is_closed(kind: Kind) {
    let (mut lp, (_dir, fifo)) = (loop_with_pool(kind, "cancelled"), fifo());
    let opened = start_to_open(&mut lp, "cancelled", &fifo);
    assert!(lp.cancel(opened.id));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(oxev::is_canceled(&opened.take().1.unwrap_err()));
    assert_closed(&fifo);
}

fn an_open_that_hangs_keeps_its_deadline(kind: Kind) {
    let (mut lp, (_dir, fifo)) = (loop_with_pool(kind, "late"), fifo());
    let opened = start_to_open(&mut lp, "late", &fifo);
    assert!(lp.reset(opened.id, Duration::from_millis(1)));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(oxev::is_deadline(&opened.take().1.unwrap_err()));
    assert_closed(&fifo);
}

/// The open ends at once. Its thread does not, and the loop has the last handle of the pool.
fn a_loop_that_is_dropped_waits_for_its_pool_no_longer_than_for_the_kernel(kind: Kind) {
    let (mut lp, (_dir, fifo)) = (loop_with_pool(kind, "dropped"), fifo());
    let opened = start_to_open(&mut lp, "dropped", &fifo);
    drop(lp);
    assert_eq!(Rc::strong_count(&opened.slot), 1, "the owner was dropped");
    assert_closed(&fifo);
}

fn a_path_that_is_too_long_is_an_error_as_it_is_anywhere(kind: Kind) {
    let mut lp = new_loop(kind);
    for (bytes, errno) in [(libc::PATH_MAX as usize - 1, libc::ENAMETOOLONG), (1 << 20, libc::ENAMETOOLONG)] {
        let path = CString::new(vec![b'x'; bytes]).unwrap();
        let opened = start(&mut lp, path, |path| File::open(path, &OpenOptions::new().read(true)));
        lp.run(RunMode::UntilDone).unwrap();
        assert_eq!(opened.take().1.unwrap_err().raw_os_error(), Some(errno));
    }
    // As long as it may be.
    let path = CString::new("/".repeat(libc::PATH_MAX as usize - 1)).unwrap();
    let opened = start(&mut lp, path, |path| File::open(path, &OpenOptions::new().read(true)));
    lp.run(RunMode::UntilDone).unwrap();
    opened.take().1.unwrap();
}

/// As the documents of `Builder::thread_pool` have it: no operation is lost, or ends as if it were cancelled.
fn calls_that_a_pool_discards_are_made_by_the_loop(kind: Kind) {
    let (pool, busy) = common::busy_pool();
    let mut lp = Loop::builder().backend(kind).thread_pool(&pool).build().unwrap();
    let opened = start(&mut lp, (), |()| File::open(c"/dev/null", &OpenOptions::new().read(true)));
    pool.shutdown(oxev::thread_pool::Shutdown::Discard);
    drop(busy);
    lp.run(RunMode::UntilDone).unwrap();
    opened.take().1.unwrap();
}

fn a_loop_that_is_dropped_waits_for_its_files(kind: Kind) {
    let mut lp = new_loop(kind);
    let writes: Vec<_> = (0..50)
        .map(|_| {
            let file = File::from_std(tempfile::tempfile().unwrap());
            start(&mut lp, (file, vec![1u8; 1 << 16]), |(f, b)| f.write_all_at(b, 0))
        })
        .collect();
    drop(lp);
    assert!(writes.iter().all(|write| !write.is_done()), "no callback runs without a loop");
}

fn files_work_without_a_pool(kind: Kind) {
    let pool = ThreadPool::new();
    pool.shutdown(oxev::thread_pool::Shutdown::Drain);
    let mut lp = Loop::builder().backend(kind).thread_pool(&pool).build().unwrap();
    let file = File::from_std(tempfile::tempfile().unwrap());
    assert_eq!(complete(&mut lp, (file, [1u8; 8]), |(f, b)| f.write_all_at(b, 0)).1.unwrap(), 8);
}

/// The processor time of this thread.
fn cpu_time() -> Duration {
    Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap())
}

/// Waits for events of a stream.
fn poll_op<'a>(stream: &Rc<TcpStream>, events: i16) -> Op<'a, usize> {
    let mut op = RawOp::new(OpKind::Poll, stream.as_raw_fd());
    op.as_poll_mut().events = events as u32;
    // SAFETY: the state of its operation keeps the stream open.
    unsafe { Op::from_raw(op) }
}

fn what_is_ready_and_waited_for_by_none_does_not_keep_the_loop_busy(kind: Kind) {
    let mut lp = new_loop(kind);
    let (stream, mut peer) = pair();
    let stream = Rc::new(stream);
    // It can be written to, and read, and all that is waited for is urgent data.
    let urgent = start(&mut lp, Rc::clone(&stream), |s| poll_op(s, libc::POLLPRI));
    peer.write_all(b"hello").unwrap();
    // It can be read, and all that is waited for is room.
    let (full, mut other_peer) = pair();
    let (full, buffer) = (Rc::new(full), vec![0u8; 1 << 23]);
    let send = start(&mut lp, (Rc::clone(&full), buffer), |(s, b)| s.send_all(b));
    other_peer.write_all(b"hello").unwrap();
    // It was read, and something came since.
    let (quiet, mut third_peer) = pair();
    third_peer.write_all(b"hello").unwrap();
    let (quiet, _) = complete(&mut lp, (quiet, [0; 4]), |(s, b)| s.recv(b));
    let begin = cpu_time();
    lp.run_for(Duration::from_millis(200)).unwrap();
    let spent = cpu_time() - begin;
    assert!(spent < Duration::from_millis(20), "{spent:?}");
    assert!(!urgent.is_done() && !send.is_done());
    assert_eq!(lp.cancel_all(&*stream) + lp.cancel_all(&*full), 2);
    run_until(&mut lp, || urgent.is_done() && send.is_done());
    drop(quiet);
}

fn a_descriptor_waits_for_what_is_left_when_one_operation_is_cancelled(kind: Kind) {
    let mut lp = new_loop(kind);
    let (stream, mut peer) = pair();
    let stream = Rc::new(stream);
    let [readable, received] = std::array::from_fn(|index| {
        start(&mut lp, (Rc::clone(&stream), [0; 8]), move |(s, b)| match index {
            0 => poll_op(s, libc::POLLIN),
            _ => s.recv(b),
        })
    });
    let send = start(&mut lp, (Rc::clone(&stream), vec![7u8; 1 << 23]), |(s, b)| s.send_all(b));
    settle(&mut lp);
    assert!(lp.cancel(received.id));
    settle(&mut lp);
    assert!(!readable.is_done() && !send.is_done());
    peer.write_all(b"hello").unwrap();
    run_until(&mut lp, || readable.is_done());
    assert!(!send.is_done());
    let reader = std::thread::spawn(move || peer.read_exact(&mut vec![0; 1 << 23]).map(|()| peer));
    run_until(&mut lp, || send.is_done());
    reader.join().unwrap().unwrap();
}

fn many_that_wait_for_different_events_of_one_descriptor_are_each_told_of_theirs(kind: Kind) {
    let mut lp = new_loop(kind);
    let (stream, mut peer) = pair();
    let stream = Rc::new(stream);
    let events = [libc::POLLIN, libc::POLLPRI, libc::POLLRDHUP];
    let [readable, urgent, ended] =
        events.map(|events| start(&mut lp, Rc::clone(&stream), move |s| poll_op(s, events)));
    settle(&mut lp);
    peer.write_all(b"hello").unwrap();
    run_until(&mut lp, || readable.is_done());
    assert!(!urgent.is_done() && !ended.is_done());
    // SAFETY: the byte is valid for the length of the call.
    assert_eq!(unsafe { libc::send(peer.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) }, 1);
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    run_until(&mut lp, || ended.is_done());
    lp.cancel_all(&*stream);
    run_until(&mut lp, || urgent.is_done());
}

/// Its file is closed, and the selector does not tell of files, as epoll does, but of numbers.
#[test]
fn on_poll_a_descriptor_that_is_closed_ends_what_waits_for_it() {
    let mut lp = new_loop(Kind::Poll);
    let (reader, _writer) = io::pipe().unwrap();
    let (other, mut other_writer) = io::pipe().unwrap();
    let wait_for_data = |lp: &mut Loop, fd: i32| {
        start(lp, (), move |()| {
            let mut op = RawOp::new(OpKind::Poll, fd);
            op.as_poll_mut().events = libc::POLLIN as u32;
            op.flags = RawOp::UNTRACKED;
            // SAFETY: nothing is pointed to, and a descriptor that is closed is what this is about.
            unsafe { Op::from_raw(op) }
        })
    };
    let closed = wait_for_data(&mut lp, reader.as_raw_fd());
    let open = wait_for_data(&mut lp, other.as_raw_fd());
    settle(&mut lp);
    drop(reader);
    run_until(&mut lp, || closed.is_done());
    let (_, ended): ((), io::Result<usize>) = closed.take();
    assert_eq!(ended.unwrap_err().raw_os_error(), Some(libc::EBADF));
    other_writer.write_all(b"!").unwrap();
    run_until(&mut lp, || open.is_done());
}

/// What the socket could tell of what it has sent makes `POLLERR`, which cannot be left out, and nothing to receive.
fn a_pending_error_queue_does_not_keep_the_loop_busy(kind: Kind) {
    let mut lp = new_loop(kind);
    let (stream, mut peer) = pair();
    let flags: u32 = libc::SOF_TIMESTAMPING_TX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;
    let len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the value is valid for the length of the call.
    let status = unsafe {
        let value = (&raw const flags).cast();
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPING, value, len)
    };
    assert_eq!(status, 0);
    let (stream, sent) = complete(&mut lp, stream, |s| s.send_all(b"hello"));
    sent.unwrap();
    peer.read_exact(&mut [0; 5]).unwrap();
    let error = &mut [PollFd::new(stream.as_fd(), PollFlags::empty())];
    assert_eq!(nix::poll::poll(error, PollTimeout::NONE), Ok(1), "the time is in the queue");
    let received = start(&mut lp, (stream, [0; 8]), |(s, b)| s.recv(b));
    let begin = cpu_time();
    lp.run_for(Duration::from_millis(200)).unwrap();
    let spent = cpu_time() - begin;
    assert!(spent < Duration::from_millis(20), "{spent:?}");
    peer.write_all(b"hello").unwrap();
    run_until(&mut lp, || received.is_done());
    let ((stream, _), bytes) = received.take();
    assert_eq!(bytes.unwrap(), 5);
    // A program that has the loop inside another one is told, too.
    let received = start(&mut lp, (stream, [0; 8]), |(s, b)| s.recv(b));
    lp.run(RunMode::NoWait).unwrap();
    let _ = lp.as_fd();
    lp.run(RunMode::NoWait).unwrap();
    peer.write_all(b"hello").unwrap();
    while !received.is_done() {
        assert_eq!(lp.next_timeout().filter(|timeout| !timeout.is_zero()), None);
        nix::poll::poll(&mut [PollFd::new(lp.as_fd(), PollFlags::POLLIN)], PollTimeout::from(20_000u16))
            .unwrap();
        lp.run(RunMode::NoWait).unwrap();
    }
}
