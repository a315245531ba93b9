//! How far an operation came: `Loop::moved` in its callback, however it ended.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;

use oxev::{Action, Completion, IoVecs, Loop, Multi, RunMode, TcpStream};

use crate::support::sockets::{Peer, pair, small_pair};
use crate::support::surroundings::{Named, background};
use crate::support::{MS, Started, complete, errno, is_canceled, pattern, start};
use crate::variants::Variant;

conformance! {
    after_a_deadline_the_peer_gets_as_many_bytes_as_the_send_has_moved,
    after_a_cancel_the_peer_gets_as_many_bytes_as_the_send_has_moved,
    after_a_reset_a_send_says_how_far_it_came,
    an_exact_receive_that_ends_early_says_how_much_is_in_the_buffer,
    an_exact_receive_into_a_list_says_how_much_is_in_its_buffers,
    an_exact_read_past_the_end_says_how_much_there_was,
    an_operation_that_was_not_tried_has_moved_nothing,
    a_success_has_moved_its_count,
    an_operation_that_moves_no_bytes_has_moved_none,
    the_items_of_a_multi_receive_say_their_own,
    a_raw_operation_says_it_too,
}

/// Far more than the buffers of both ends take.
const BYTES: usize = 4 << 20;

struct Sender {
    stream: TcpStream,
    bytes: Vec<u8>,
    vecs: IoVecs<3>,
}

/// Starts a send to a peer that does not read, in every form that there is.
fn started_sends(lp: &mut Loop, limit: Option<std::time::Duration>) -> Vec<(Started<Sender, usize>, Peer)> {
    let mut sends = Vec::new();
    for form in 0..3 {
        let (stream, peer) = small_pair();
        let sender = Sender { stream, bytes: pattern(BYTES), vecs: IoVecs::new() };
        let send = start(lp, sender, |s| {
            let op = match form {
                0 => s.stream.send_all(&s.bytes),
                1 => s.stream.send_all_zero_copy(&s.bytes),
                _ => {
                    let (one, two) = s.bytes.split_at(3000);
                    let list = [one, &two[..1], &two[1..]];
                    s.stream.send_all_vectored(s.vecs.gather(list))
                }
            };
            match limit {
                Some(limit) => op.timeout(limit),
                None => op,
            }
        });
        sends.push((send, peer));
    }
    sends
}

/// The operations are over, but for buffers that the kernel still holds (zero copy): it lets go of them when
/// the peer has read. The peer has as many bytes as the send says it had moved.
fn assert_arrived(lp: &mut Loop, send: Started<Sender, usize>, mut peer: Peer) -> io::Error {
    let arrived = background(move || {
        let mut arrived = Vec::new();
        peer.read_to_end(&mut arrived).map(|_| arrived)
    });
    let moved = Rc::clone(&send.moved);
    let (sender, sent) = send.wait(lp);
    drop(sender.stream);
    let arrived = arrived.join().unwrap();
    assert!((1..BYTES as u64).contains(&moved.get()), "{} of {BYTES}", moved.get());
    assert_eq!(arrived.len() as u64, moved.get());
    assert!(arrived == sender.bytes[..arrived.len()]);
    sent.unwrap_err()
}

fn after_a_deadline_the_peer_gets_as_many_bytes_as_the_send_has_moved(v: Variant) {
    let mut lp = v.new_loop();
    let sends = started_sends(&mut lp, Some(20 * MS));
    lp.run_for(60 * MS).unwrap();
    for (send, peer) in sends {
        assert!(oxev::is_deadline(&assert_arrived(&mut lp, send, peer)));
    }
}

fn after_a_cancel_the_peer_gets_as_many_bytes_as_the_send_has_moved(v: Variant) {
    let mut lp = v.new_loop();
    let sends = started_sends(&mut lp, None);
    lp.run_for(20 * MS).unwrap();
    assert!(sends.iter().all(|(send, _)| lp.cancel(send.id)));
    lp.run_for(20 * MS).unwrap();
    for (send, peer) in sends {
        assert!(oxev::is_canceled(&assert_arrived(&mut lp, send, peer)));
    }
}

fn after_a_reset_a_send_says_how_far_it_came(v: Variant) {
    let mut lp = v.new_loop();
    let sends = started_sends(&mut lp, None);
    lp.run_for(20 * MS).unwrap();
    for (send, peer) in sends {
        peer.reset();
        let moved = Rc::clone(&send.moved);
        let (_, sent) = send.wait(&mut lp);
        let kind = sent.unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind}");
        assert!((1..BYTES as u64).contains(&moved.get()), "{} of {BYTES}", moved.get());
    }
}

fn an_exact_receive_that_ends_early_says_how_much_is_in_the_buffer(v: Variant) {
    let mut lp = v.new_loop();
    for end in ["deadline", "cancel", "end of stream"] {
        let (ours, mut peer) = pair();
        peer.write_all(b"12345").unwrap();
        let received = start(&mut lp, (ours, [0u8; 16]), |(s, b)| match end {
            "deadline" => s.recv_exact(b).timeout(20 * MS),
            _ => s.recv_exact(b),
        });
        lp.run_for(20 * MS).unwrap();
        let mut peer = Some(peer);
        match end {
            "cancel" => assert!(lp.cancel(received.id)),
            "end of stream" => drop(peer.take()),
            _ => {}
        }
        let moved = Rc::clone(&received.moved);
        let ((_, buffer), result) = received.wait(&mut lp);
        assert!(result.is_err(), "{end}");
        assert_eq!((moved.get(), &buffer[..5]), (5, &b"12345"[..]), "{end}");
    }
}

fn an_exact_receive_into_a_list_says_how_much_is_in_its_buffers(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    peer.write_all(b"12345").unwrap();
    let received = start(&mut lp, (ours, IoVecs::<2>::new(), [0u8; 3], [0u8; 9]), |(s, v, a, b)| {
        s.recv_exact_vectored(v.scatter([&mut a[..], &mut b[..]])).timeout(20 * MS)
    });
    let moved = Rc::clone(&received.moved);
    let ((_, _, a, b), result) = received.wait(&mut lp);
    assert!(oxev::is_deadline(&result.unwrap_err()));
    assert_eq!((moved.get(), &a, &b[..2]), (5, b"123", &b"45"[..]));
}

fn an_exact_read_past_the_end_says_how_much_there_was(v: Variant) {
    let mut lp = v.new_loop();
    let named = Named::new(b"abcdef");
    let read = start(&mut lp, (named.open(), [0u8; 64]), |(f, b)| f.read_exact_at(b, 2));
    let moved = Rc::clone(&read.moved);
    let ((_, buffer), result) = read.wait(&mut lp);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!((moved.get(), &buffer[..4]), (4, &b"cdef"[..]));
}

fn an_operation_that_was_not_tried_has_moved_nothing(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, _peer) = pair();
    let file = Named::new(b"abc").open();
    // Something is left over from the operation before.
    let (state, written) = complete(&mut lp, (file, *b"abc"), |(f, b)| f.write_all_at(b, 0));
    assert_eq!((written.unwrap(), lp.moved()), (3, 3));
    let refused = start(&mut lp, state, |(f, b)| f.write_all_at(b, u64::MAX));
    let moved = Rc::clone(&refused.moved);
    assert_eq!(errno(refused.wait(&mut lp).1), Some(libc::EINVAL));
    assert_eq!(moved.get(), 0);
    let canceled = start(&mut lp, (ours, [0u8; 8]), |(s, b)| s.recv_exact(b));
    assert!(lp.cancel(canceled.id));
    let moved = Rc::clone(&canceled.moved);
    assert!(is_canceled(&canceled.wait(&mut lp).1));
    assert_eq!(moved.get(), 0);
}

fn a_success_has_moved_its_count(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    peer.write_all(b"12345").unwrap();
    let received = start(&mut lp, (ours, [0u8; 5]), |(s, b)| s.recv_exact(b));
    let moved = Rc::clone(&received.moved);
    let ((ours, buffer), result) = received.wait(&mut lp);
    assert_eq!((result.unwrap(), moved.get()), (5, 5));
    let sent = start(&mut lp, (ours, buffer), |(s, b)| s.send(b));
    let moved = Rc::clone(&sent.moved);
    let (_, result) = sent.wait(&mut lp);
    assert_eq!(result.unwrap() as u64, moved.get());
}

fn an_operation_that_moves_no_bytes_has_moved_none(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    peer.write_all(b"12345").unwrap();
    complete(&mut lp, (ours, [0u8; 5]), |(s, b)| s.recv_exact(b)).1.unwrap();
    assert_eq!(lp.moved(), 5);
    complete(&mut lp, (), |()| oxev::Timer::after(MS)).1.unwrap();
    assert_eq!(lp.moved(), 0);
}

fn the_items_of_a_multi_receive_say_their_own(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(4, 64).unwrap();
    let (ours, mut peer) = pair();
    peer.write_all(b"12345").unwrap();
    drop(peer);
    let total = Rc::new(Cell::new(0));
    lp.submit_multi(
        Box::new(Completion::new(Multi::new((ours, pool), Rc::clone(&total)))),
        |(s, p)| s.recv_multi(p),
        |lp, total: &mut Rc<Cell<u64>>, lease| {
            assert_eq!(lp.moved(), lease.len() as u64);
            total.set(total.get() + lp.moved());
            Action::Rearm
        },
        |lp, _, end| {
            end.unwrap();
            assert_eq!(lp.moved(), 0);
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(total.get(), 5);
}

#[allow(unsafe_code)]
fn a_raw_operation_says_it_too(v: Variant) {
    use std::os::fd::AsRawFd;

    use oxev::raw::{self, RawCompletion};
    use oxev::{OpKind, RawOp};

    unsafe fn on_received(lp: Option<&mut Loop>, completion: *mut RawCompletion) {
        let Some(lp) = lp else { return };
        // SAFETY: the completion is the callback's, and its user data is the place below.
        let completion = unsafe { &*completion };
        let (moved, place) = (completion.moved(), completion.user_data.cast::<u64>());
        assert_eq!(lp.moved(), moved);
        // SAFETY: as above.
        unsafe { *place = moved };
    }

    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    peer.write_all(b"12345").unwrap();
    let (mut buffer, mut moved) = ([0u8; 16], 0u64);
    let mut completion = RawCompletion::new((&raw mut moved).cast());
    let mut op = RawOp::with_buffer(OpKind::Recv, ours.as_raw_fd(), (&raw mut buffer).cast(), 16);
    op.flags = RawOp::EXACT;
    // SAFETY: everything outlives the operation, which its deadline ends.
    unsafe { raw::submit(&mut lp, &raw mut completion, op, Some(20 * MS), on_received) };
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!((moved, &buffer[..5]), (5, &b"12345"[..]));
}
