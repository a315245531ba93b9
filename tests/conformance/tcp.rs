//! TCP: listening, connecting, moving bytes, and everything that the peer can do to that.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use oxev::{IoVecs, Loop, Pool, RunMode, TcpListener, TcpStream, Timer};

use crate::support::crowds::crowd;
use crate::support::sockets::{
    Peer, assert_closed, connect, listener, loop_pair, loopbacks, pair, small_pair, small_sender, unanswering,
};
use crate::support::surroundings::{Background, background};
use crate::support::{HOUR, MS, complete, errno, is_canceled, pattern, run_until, start, start_multi};
use crate::variants::Variant;

conformance! {
    a_connection_lives_from_accept_to_close_on_every_address_family,
    accept_with_addr_tells_the_peer,
    accepted_and_connected_sockets_are_not_inherited,
    accept_multi_accepts_until_it_is_disarmed,
    accept_multi_accepts_until_it_is_cancelled,
    accept_multi_accepts_hundreds,
    several_accepts_queue_on_one_listener,
    connections_that_come_when_an_accept_ends_are_had_by_one_on_another_loop,
    a_connection_that_comes_when_a_loop_is_dropped_is_had_by_an_accept_on_another_loop,
    recv_gives_what_there_is,
    recv_exact_waits_for_all,
    recv_exact_of_a_stream_that_ends_early_is_an_unexpected_end,
    the_end_of_the_stream_stays_the_end,
    send_all_sends_megabytes_through_small_buffers_in_order,
    send_all_vectored_sends_megabytes_through_small_buffers_in_order,
    send_all_zero_copy_sends_megabytes_in_order,
    send_all_zero_copy_sends_a_little,
    a_cancelled_zero_copy_send_ends_when_the_kernel_lets_go,
    send_sends_at_least_a_byte,
    a_gather_list_may_have_empty_buffers,
    a_scatter_list_is_filled_in_order,
    recv_exact_vectored_waits_for_all,
    too_many_buffers_are_refused,
    an_empty_buffer_is_done_at_once,
    both_directions_at_once_with_rc,
    both_directions_at_once_with_a_shared_slot,
    several_reads_queue_on_one_socket_in_order,
    a_refused_connection_is_an_error,
    connect_tries_address_after_address,
    connect_ends_with_the_error_of_the_last_address,
    a_connect_goes_through_addresses_beyond_number,
    a_connect_of_several_addresses_is_cancelled_and_keeps_its_deadline,
    a_connect_of_several_addresses_that_is_not_submitted_or_not_done_is_dropped,
    an_address_that_is_no_address_is_an_error,
    a_reset_by_the_peer_is_an_error,
    sending_to_a_closed_peer_is_an_error_and_no_signal,
    a_peer_that_closes_in_the_middle_of_a_send_ends_it,
    an_address_in_use_is_refused,
    several_listeners_share_a_port_with_reuse_port,
    only_v6_leaves_ipv4_alone,
    operations_on_a_closed_stream_are_refused,
    operations_on_a_closed_listener_are_refused,
    close_reaches_the_peer,
    close_of_a_lingering_connection_holds_neither_the_loop_nor_the_data,
    a_close_that_is_refused_does_not_linger,
    a_linger_of_less_than_a_second_is_no_reset,
    dropping_a_stream_reaches_the_peer,
    shutdown_of_writing_leaves_reading,
    shutdown_ends_a_receive_in_flight,
    #[needs_kernel = "a socket that was never connected, which only the standard library makes"]
    shutdown_of_an_unconnected_socket_is_an_error,
    options_round_trip,
    #[needs_kernel = "sockets of the standard library"]
    sockets_of_the_standard_library_are_taken_over,
    a_hundred_connections_echo_at_once,
}

fn a_connection_lives_from_accept_to_close_on_every_address_family(v: Variant) {
    for address in loopbacks() {
        let mut lp = v.new_loop();
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let accept = start(&mut lp, listener, |l| l.accept());
        let client = complete(&mut lp, (), |()| TcpStream::connect(address)).1.unwrap();
        let (listener, server) = accept.wait(&mut lp);
        let server = server.unwrap();
        assert_eq!(client.peer_addr().unwrap(), address);
        assert_eq!(client.local_addr().unwrap(), server.peer_addr().unwrap());
        assert_eq!(server.local_addr().unwrap(), address);

        let ((client, _), sent) = complete(&mut lp, (client, b"ping"), |(s, b)| s.send(&b[..]));
        assert_eq!(sent.unwrap(), 4);
        let ((server, buffer), received) = complete(&mut lp, (server, [0; 16]), |(s, b)| s.recv(b));
        assert_eq!(&buffer[..received.unwrap()], b"ping");
        let (client, shut) = complete(&mut lp, client, |s| s.shutdown(Shutdown::Write));
        shut.unwrap();
        let ((server, _), received) = complete(&mut lp, (server, [0; 16]), |(s, b)| s.recv(b));
        assert_eq!(received.unwrap(), 0, "the end of the stream");
        for stream in [client, server] {
            let (closed, result) = complete(&mut lp, stream, |s| s.close());
            result.unwrap();
            assert_eq!(closed.as_raw_fd(), -1);
        }
        let (listener, closed) = complete(&mut lp, listener, |l| l.close());
        closed.unwrap();
        assert_eq!(listener.as_raw_fd(), -1);
        assert!(lp.is_empty());
    }
}

fn accept_with_addr_tells_the_peer(v: Variant) {
    for address in loopbacks() {
        let mut lp = v.new_loop();
        let listener = TcpListener::bind(address).unwrap();
        let client = connect(listener.local_addr().unwrap());
        let (stream, peer) = complete(&mut lp, listener, |l| l.accept_with_addr()).1.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        assert_eq!(peer, stream.peer_addr().unwrap());
    }
}

fn accepted_and_connected_sockets_are_not_inherited(v: Variant) {
    let mut lp = v.new_loop();
    let (listener, address) = listener();
    let client = complete(&mut lp, (), |()| TcpStream::connect(address)).1.unwrap();
    let (listener, accepted) = complete(&mut lp, listener, |l| l.accept());
    let multi = start_multi(&mut lp, listener, 1, |l| l.accept_multi());
    let another = complete(&mut lp, (), |()| TcpStream::connect(address)).1.unwrap();
    multi.wait(&mut lp).unwrap();
    let mut streams = multi.items.take();
    streams.extend([client, accepted.unwrap(), another]);
    for stream in streams {
        let flags = nix::fcntl::fcntl(&stream, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_ne!(flags & libc::FD_CLOEXEC, 0);
        let flags = nix::fcntl::fcntl(&stream, nix::fcntl::FcntlArg::F_GETFL).unwrap();
        assert_ne!(flags & libc::O_NONBLOCK, 0);
    }
}

fn accept_multi_accepts_until_it_is_disarmed(v: Variant) {
    let mut lp = v.new_loop();
    let (listener, address) = listener();
    let mut clients = [(); 5].map(|()| connect(address));
    let accepts = start_multi(&mut lp, listener, 3, |l| l.accept_multi());
    accepts.wait(&mut lp).unwrap();
    let mut peers: Vec<SocketAddr> = accepts.items.take().iter().map(|s| s.peer_addr().unwrap()).collect();
    assert!(peers.len() >= 3);
    let mut first: Vec<SocketAddr> = clients[..peers.len()].iter().map(|s| s.local_addr().unwrap()).collect();
    peers.sort_unstable();
    first.sort_unstable();
    assert_eq!(peers, first);
    // What nobody accepted is closed: the listener was dropped at the end.
    clients[3..].iter_mut().for_each(assert_closed);
}

fn accept_multi_accepts_until_it_is_cancelled(v: Variant) {
    let mut lp = v.new_loop();
    let (listener, address) = listener();
    let accepts = start_multi(&mut lp, listener, usize::MAX, |l| l.accept_multi());
    for round in 1..=3 {
        let _client = connect(address);
        run_until(&mut lp, || accepts.items.len() == round);
    }
    assert!(lp.cancel(accepts.id));
    assert!(is_canceled(&accepts.wait(&mut lp)));
}

fn accept_multi_accepts_hundreds(v: Variant) {
    let Some(_crowd) = crowd() else { return };
    let mut lp = v.builder().entries(8).build().unwrap();
    let (listener, address) = listener();
    let accepts = start_multi(&mut lp, listener, 300, |l| l.accept_multi());
    let clients: Vec<_> = (0..300).map(|_| connect(address)).collect();
    accepts.wait(&mut lp).unwrap();
    assert_eq!(accepts.items.len(), clients.len());
}

fn several_accepts_queue_on_one_listener(v: Variant) {
    let mut lp = v.new_loop();
    let (listener, address) = listener();
    let listener = Rc::new(listener);
    let accepts = [(); 4].map(|()| start(&mut lp, Rc::clone(&listener), |l| l.accept()));
    lp.run(RunMode::NoWait).unwrap();
    let _clients = [(); 4].map(|()| connect(address));
    lp.run(RunMode::UntilDone).unwrap();
    for accept in accepts {
        accept.result().unwrap();
    }
}

fn connections_that_come_when_an_accept_ends_are_had_by_one_on_another_loop(v: Variant) {
    let [mut lp, mut other] = [v.new_loop(), v.new_loop()];
    let (listener, address) = listener();
    let listener = Rc::new(listener);
    // It is the first that is woken.
    let ends = start(&mut lp, Rc::clone(&listener), |l| l.accept());
    lp.run(RunMode::NoWait).unwrap();
    let accepting = start(&mut other, listener, |l| l.accept());
    other.run(RunMode::NoWait).unwrap();
    lp.cancel(ends.id);
    let clients = [(); 2].map(|()| start(&mut lp, (), move |()| TcpStream::connect(address)));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(clients.iter().all(|client| client.is_done()));
    let too_late = start(&mut other, (), |()| Timer::after(10_000 * MS));
    run_until(&mut other, || accepting.is_done() || too_late.is_done());
    assert!(accepting.is_done(), "a connection is left beside an accept that waits");
}

fn a_connection_that_comes_when_a_loop_is_dropped_is_had_by_an_accept_on_another_loop(v: Variant) {
    let [mut lp, mut other] = [v.new_loop(), v.new_loop()];
    let (listener, address) = listener();
    let listener = Rc::new(listener);
    // It is the first that is woken.
    start(&mut lp, Rc::clone(&listener), |l| l.accept());
    lp.run(RunMode::NoWait).unwrap();
    let accepting = start(&mut other, listener, |l| l.accept());
    other.run(RunMode::NoWait).unwrap();
    let client = complete(&mut other, (), move |()| TcpStream::connect(address)).1.unwrap();
    drop(lp);
    // The loop may have had it before, and has closed it.
    let closed = start(&mut other, (client, vec![0; 1]), |(s, b)| s.recv(b));
    let too_late = start(&mut other, (), |()| Timer::after(10_000 * MS));
    run_until(&mut other, || accepting.is_done() || closed.is_done() || too_late.is_done());
    assert!(!too_late.is_done(), "a connection is left beside an accept that waits");
}

fn recv_gives_what_there_is(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let recv = start(&mut lp, (ours, [0; 4]), |(s, b)| s.recv(b));
    lp.run(RunMode::NoWait).unwrap();
    assert!(!recv.is_done());
    peer.write_all(b"abcdef").unwrap();
    let ((ours, buffer), received) = recv.wait(&mut lp);
    assert_eq!((received.unwrap(), &buffer), (4, b"abcd"));
    let ((_, buffer), received) = complete(&mut lp, (ours, [0; 4]), |(s, b)| s.recv(b));
    assert_eq!(&buffer[..received.unwrap()], b"ef");
}

fn recv_exact_waits_for_all(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let recv = start(&mut lp, (ours, [0; 6]), |(s, b)| s.recv_exact(b));
    for part in [b"ab", b"cd", b"ef"] {
        assert!(!recv.is_done());
        peer.write_all(part).unwrap();
        lp.run(RunMode::NoWait).unwrap();
    }
    let ((_, buffer), received) = recv.wait(&mut lp);
    assert_eq!((received.unwrap(), &buffer), (6, b"abcdef"));
}

fn recv_exact_of_a_stream_that_ends_early_is_an_unexpected_end(v: Variant) {
    let mut lp = v.new_loop();
    for sent in [&b"abc"[..], b""] {
        let (ours, mut peer) = pair();
        let recv = start(&mut lp, (ours, [0; 6]), |(s, b)| s.recv_exact(b));
        lp.run(RunMode::NoWait).unwrap();
        peer.write_all(sent).unwrap();
        drop(peer);
        let (_, received) = recv.wait(&mut lp);
        assert_eq!(received.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}

fn the_end_of_the_stream_stays_the_end(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, peer) = pair();
    drop(peer);
    let mut state = (ours, [0; 4]);
    for _ in 0..3 {
        let (back, received) = complete(&mut lp, state, |(s, b)| s.recv(b));
        assert_eq!(received.unwrap(), 0);
        state = back;
    }
}

const MEGABYTES: usize = 3 << 20;

/// Reads all that the peer gets, beside the loop.
fn reader(mut peer: Peer) -> Background<Vec<u8>> {
    background(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).unwrap();
        all
    })
}

fn send_all_sends_megabytes_through_small_buffers_in_order(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, peer) = small_sender();
    let send = start(&mut lp, (ours, pattern(MEGABYTES)), |(s, b)| s.send_all(b));
    lp.run(RunMode::NoWait).unwrap();
    let reader = reader(peer);
    let ((ours, _), sent) = send.wait(&mut lp);
    assert_eq!(sent.unwrap(), MEGABYTES);
    drop(ours);
    assert!(reader.join() == pattern(MEGABYTES));
}

fn send_all_vectored_sends_megabytes_through_small_buffers_in_order(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, peer) = small_sender();
    let (reader, all) = (reader(peer), pattern(MEGABYTES));
    let parts =
        [all[..1].to_vec(), Vec::new(), all[1..100_000].to_vec(), all[100_000..].to_vec(), Vec::new()];
    let state = (ours, IoVecs::<8>::new(), parts);
    let ((ours, ..), sent) = complete(&mut lp, state, |(s, v, parts)| {
        s.send_all_vectored(v.gather(parts.iter().map(|part| &part[..])))
    });
    assert_eq!(sent.unwrap(), MEGABYTES);
    drop(ours);
    assert!(reader.join() == all);
}

fn send_all_zero_copy_sends_megabytes_in_order(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, peer) = small_sender();
    let reader = reader(peer);
    let state = (ours, pattern(MEGABYTES));
    let ((ours, mut buffer), sent) = complete(&mut lp, state, |(s, b)| s.send_all_zero_copy(b));
    // The buffer is ours again: what is written to it now must not be what the peer reads.
    buffer.fill(0xff);
    assert_eq!(sent.unwrap(), MEGABYTES);
    drop(ours);
    assert!(reader.join() == pattern(MEGABYTES));
}

fn send_all_zero_copy_sends_a_little(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let mut state = (ours, *b"a little");
    for _ in 0..10 {
        let (back, sent) = complete(&mut lp, state, |(s, b)| s.send_all_zero_copy(b));
        assert_eq!(sent.unwrap(), 8);
        let mut buffer = [0; 8];
        peer.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"a little");
        state = back;
    }
}

fn a_cancelled_zero_copy_send_ends_when_the_kernel_lets_go(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, peer) = small_pair();
    let state = (ours, vec![0; 4 << 20]);
    let send = start(&mut lp, state, |(s, b)| s.send_all_zero_copy(b));
    lp.run(RunMode::NoWait).unwrap();
    assert!(lp.cancel(send.id));
    lp.run(RunMode::NoWait).unwrap();
    // The bytes on their way are read from our buffer until the peer has them, or is gone.
    drop(peer);
    let (_, sent) = send.wait(&mut lp);
    let is_reset = |kind| matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    // A cancel that loses leaves it to the peer to end it.
    assert!(is_canceled(&sent) || is_reset(sent.as_ref().unwrap_err().kind()), "{sent:?}");
}

fn send_sends_at_least_a_byte(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = small_sender();
    let state = (ours, pattern(1 << 20));
    let ((ours, _), sent) = complete(&mut lp, state, |(s, b)| s.send(b));
    let sent = sent.unwrap();
    assert!((1..1 << 20).contains(&sent), "{sent}");
    drop(ours);
    let mut all = Vec::new();
    peer.read_to_end(&mut all).unwrap();
    assert!(all == pattern(1 << 20)[..sent]);
}

fn a_gather_list_may_have_empty_buffers(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let ((ours, vecs), sent) = complete(&mut lp, (ours, IoVecs::<5>::new()), |(s, v)| {
        s.send_vectored(v.gather([&b""[..], b"ab", b"", b"cd", b""]))
    });
    assert_eq!(sent.unwrap(), 4);
    let mut buffer = [0; 4];
    peer.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"abcd");
    let ((ours, vecs), sent) = complete(&mut lp, (ours, vecs), |(s, v)| s.send_all_vectored(v.gather([])));
    assert_eq!(sent.unwrap(), 0, "nothing to send is done at once");
    let (_, sent) = complete(&mut lp, (ours, vecs), |(s, v)| s.send_vectored(v.gather([&b""[..], b""])));
    assert_eq!(sent.unwrap(), 0);
}

fn a_scatter_list_is_filled_in_order(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let written = peer.write_vectored(&[IoSlice::new(b"abc"), IoSlice::new(b"defg")]).unwrap();
    assert_eq!(written, 7);
    let state = (ours, IoVecs::<4>::new(), [0; 2], [0; 0], [0; 8]);
    let ((_, _, one, _, two), received) = complete(&mut lp, state, |(s, v, one, none, two)| {
        s.recv_vectored(v.scatter([&mut one[..], &mut none[..], &mut two[..]]))
    });
    assert_eq!(received.unwrap(), 7);
    assert_eq!((&one, &two[..5]), (b"ab", &b"cdefg"[..]));
}

fn recv_exact_vectored_waits_for_all(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let state = (ours, IoVecs::<2>::new(), [0; 3], [0; 5]);
    let recv = start(&mut lp, state, |(s, v, one, two)| {
        s.recv_exact_vectored(v.scatter([&mut one[..], &mut two[..]]))
    });
    for part in [&b"ab"[..], b"cdef", b"gh"] {
        lp.run(RunMode::NoWait).unwrap();
        assert!(!recv.is_done());
        peer.write_all(part).unwrap();
    }
    let ((ours, vecs, one, two), received) = recv.wait(&mut lp);
    assert_eq!((received.unwrap(), &one, &two), (8, b"abc", b"defgh"));
    peer.write_all(b"ends here").unwrap();
    drop(peer);
    let state = (ours, vecs, [0; 8], [0; 8]);
    let (_, received) = complete(&mut lp, state, |(s, v, one, two)| {
        s.recv_exact_vectored(v.scatter([&mut one[..], &mut two[..]]))
    });
    assert_eq!(received.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

fn too_many_buffers_are_refused(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, _peer) = pair();
    let state = (ours, IoVecs::<2>::new());
    let ((ours, vecs), sent) =
        complete(&mut lp, state, |(s, v)| s.send_all_vectored(v.gather([&b"a"[..], b"b", b"c"])));
    assert_eq!(errno(sent), Some(libc::EMSGSIZE));
    let (_, received) = complete(&mut lp, (ours, vecs, [[0; 1]; 3]), |(s, v, b)| {
        s.recv_vectored(v.scatter(b.iter_mut().map(|b| &mut b[..])))
    });
    assert_eq!(errno(received), Some(libc::EMSGSIZE));
}

fn an_empty_buffer_is_done_at_once(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, _peer) = pair();
    let ours = Rc::new(ours);
    let state = || (Rc::clone(&ours), []);
    assert_eq!(complete(&mut lp, state(), |(s, b)| s.recv(b)).1.unwrap(), 0);
    assert_eq!(complete(&mut lp, state(), |(s, b)| s.recv_exact(b)).1.unwrap(), 0);
    assert_eq!(complete(&mut lp, state(), |(s, b)| s.send(b)).1.unwrap(), 0);
    assert_eq!(complete(&mut lp, state(), |(s, b)| s.send_all(b)).1.unwrap(), 0);
    assert_eq!(complete(&mut lp, state(), |(s, b)| s.send_all_zero_copy(b)).1.unwrap(), 0);
}

fn both_directions_at_once_with_rc(v: Variant) {
    let (one, two) = loop_pair();
    full_duplex(v, [Rc::new(one), Rc::new(two)]);
}

fn both_directions_at_once_with_a_shared_slot(v: Variant) {
    let pool = Pool::new(2);
    let (one, two) = loop_pair();
    full_duplex(v, [pool.share(one).unwrap(), pool.share(two).unwrap()]);
    assert_eq!(pool.available(), 2);
}

/// Both ends send and receive a megabyte at the same time.
fn full_duplex<S>(v: Variant, ends: [S; 2])
where
    S: std::ops::Deref<Target = TcpStream> + Clone + 'static,
{
    const LEN: usize = 1 << 20;
    let mut lp = v.new_loop();
    let sends =
        ends.each_ref().map(|end| start(&mut lp, (end.clone(), pattern(LEN)), |(s, b)| s.send_all(b)));
    let receives = ends.map(|end| start(&mut lp, (end, vec![0; LEN]), |(s, b)| s.recv_exact(b)));
    lp.run(RunMode::UntilDone).unwrap();
    for send in sends {
        assert_eq!(send.result().unwrap(), LEN);
    }
    for receive in receives {
        let ((_, buffer), received) = receive.take();
        assert_eq!(received.unwrap(), LEN);
        assert!(buffer == pattern(LEN));
    }
}

fn several_reads_queue_on_one_socket_in_order(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let ours = Rc::new(ours);
    peer.write_all(b"abcdef").unwrap();
    let reads = [(); 3].map(|()| start(&mut lp, (Rc::clone(&ours), [0; 2]), |(s, b)| s.recv_exact(b)));
    lp.run(RunMode::UntilDone).unwrap();
    let got = reads.map(|read| read.take().0.1);
    assert_eq!(got.concat(), b"abcdef");
}

fn a_refused_connection_is_an_error(v: Variant) {
    let mut lp = v.new_loop();
    for address in loopbacks() {
        let gone = TcpListener::bind(address).unwrap().local_addr().unwrap();
        let (_, connected) = complete(&mut lp, (), |()| TcpStream::connect(gone));
        assert_eq!(connected.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

/// Addresses that refuse a connection.
fn refusing<const N: usize>() -> [SocketAddr; N] {
    let listeners = [(); N].map(|()| listener());
    listeners.map(|(_closed, address)| address)
}

fn connect_tries_address_after_address(v: Variant) {
    let mut lp = v.new_loop();
    for refused in 0..4 {
        let (listener, address) = listener();
        let mut addresses = refusing::<3>()[..refused].to_vec();
        addresses.extend([address, listener.local_addr().unwrap()]);
        let connect = complete(&mut lp, addresses, |all| TcpStream::connect(&all[..]));
        assert_eq!(connect.1.unwrap().peer_addr().unwrap(), address);
        complete(&mut lp, listener, |l| l.accept()).1.unwrap();
    }
}

fn connect_ends_with_the_error_of_the_last_address(v: Variant) {
    let mut lp = v.new_loop();
    let addresses = refusing::<3>().to_vec();
    let (addresses, connect) = complete(&mut lp, addresses, |all| TcpStream::connect(&all[..]));
    assert_eq!(connect.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let (_, connect) = complete(&mut lp, addresses, |_| TcpStream::connect(&[][..]));
    assert!(connect.is_err());
}

/// Addresses that are refused at once: broadcast is not for TCP.
fn a_connect_goes_through_addresses_beyond_number(v: Variant) {
    let mut lp = v.new_loop();
    let (listener, address) = listener();
    let mut addresses = vec!["255.255.255.255:1".parse().unwrap(); 60_000];
    addresses.push(address);
    let connect = complete(&mut lp, addresses, |all| TcpStream::connect(&all[..]));
    assert_eq!(connect.1.unwrap().peer_addr().unwrap(), address);
    complete(&mut lp, listener, |l| l.accept()).1.unwrap();
}

fn a_connect_of_several_addresses_is_cancelled_and_keeps_its_deadline(v: Variant) {
    let mut lp = v.new_loop();
    let (full, _keep) = unanswering();
    let [refused] = refusing();
    let connect = start(&mut lp, (), |()| TcpStream::connect(&[refused, full, refused][..]).timeout(50 * MS));
    assert!(oxev::is_deadline(&connect.wait(&mut lp).1.unwrap_err()));
    let connect = start(&mut lp, (), |()| TcpStream::connect(&[refused, full, refused][..]));
    lp.run_for(20 * MS).unwrap();
    assert!(lp.cancel(connect.id));
    assert!(is_canceled(&connect.wait(&mut lp).1));
}

fn a_connect_of_several_addresses_that_is_not_submitted_or_not_done_is_dropped(v: Variant) {
    let mut lp = v.builder().capacity(1).build().unwrap();
    let (full, _keep) = unanswering();
    let [refused] = refusing();
    drop(TcpStream::connect(&[refused, full][..]));
    let _waits = start(&mut lp, (), |()| TcpStream::connect(&[refused, full][..]));
    let too_many = start(&mut lp, (), |()| TcpStream::connect(&[refused, full][..]));
    assert!(oxev::is_table_full(&too_many.wait(&mut lp).1.unwrap_err()));
    lp.run_for(20 * MS).unwrap();
}

fn an_address_that_is_no_address_is_an_error(v: Variant) {
    let mut lp = v.new_loop();
    complete(&mut lp, (), |()| TcpStream::connect("no port")).1.unwrap_err();
    let none: &'static [SocketAddr] = &[];
    let (_, connected) = complete(&mut lp, (), |()| TcpStream::connect(none));
    assert_eq!(errno(connected), Some(libc::EADDRNOTAVAIL));
    TcpListener::bind("no port").unwrap_err();
    TcpListener::bind(none).unwrap_err();
}

fn a_reset_by_the_peer_is_an_error(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, peer) = pair();
    let recv = start(&mut lp, (ours, [0; 4]), |(s, b)| s.recv(b));
    lp.run(RunMode::NoWait).unwrap();
    peer.reset();
    assert_eq!(recv.wait(&mut lp).1.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn sending_to_a_closed_peer_is_an_error_and_no_signal(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, peer) = pair();
    peer.reset();
    let mut state = (ours, IoVecs::<1>::new(), [0; 4]);
    let mut kinds = Vec::new();
    for round in 0..6 {
        let (back, sent) = complete(&mut lp, state, |(s, v, b)| match round % 3 {
            0 => s.send_all(b),
            1 => s.send_vectored(v.gather([&b[..]])),
            _ => s.send_all_zero_copy(b),
        });
        kinds.extend(sent.err().map(|error| error.kind()));
        state = back;
    }
    assert_eq!(kinds[0], ErrorKind::ConnectionReset);
    assert!(kinds[1..].iter().all(|kind| *kind == ErrorKind::BrokenPipe), "{kinds:?}");
    assert_eq!(kinds.len(), 6);
}

fn a_peer_that_closes_in_the_middle_of_a_send_ends_it(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, peer) = small_pair();
    let state = (ours, vec![0; 8 << 20]);
    let send = start(&mut lp, state, |(s, b)| s.send_all(b));
    for _ in 0..3 {
        lp.run(RunMode::NoWait).unwrap();
    }
    assert!(!send.is_done());
    drop(peer);
    let kind = send.wait(&mut lp).1.unwrap_err().kind();
    assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind:?}");
}

fn an_address_in_use_is_refused(v: Variant) {
    let _lp = v.new_loop();
    let (_listener, address) = listener();
    assert_eq!(TcpListener::bind(address).unwrap_err().kind(), ErrorKind::AddrInUse);
}

fn several_listeners_share_a_port_with_reuse_port(v: Variant) {
    let mut lp = v.new_loop();
    let options = TcpListener::options().reuse_port(true).backlog(64);
    let one = options.bind("127.0.0.1:0").unwrap();
    let address = one.local_addr().unwrap();
    let two = options.bind(address).unwrap();
    let accepts = [one, two].map(|l| start_multi(&mut lp, l, usize::MAX, |l| l.accept_multi()));
    let _clients: Vec<_> = (0..32).map(|_| connect(address)).collect();
    run_until(&mut lp, || accepts.iter().map(|a| a.items.len()).sum::<usize>() == 32);
}

fn only_v6_leaves_ipv4_alone(v: Variant) {
    let mut lp = v.new_loop();
    let Ok(listener) = TcpListener::options().only_v6(false).bind("[::]:0") else { return };
    let port = listener.local_addr().unwrap().port();
    let _client = connect(([127, 0, 0, 1], port).into());
    let (_, peer) = complete(&mut lp, listener, |l| l.accept_with_addr()).1.unwrap();
    assert!(matches!(peer, SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some()));
    let listener = TcpListener::options().only_v6(true).bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let refused = complete(&mut lp, (), |()| TcpStream::connect(("127.0.0.1", port))).1;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

fn operations_on_a_closed_stream_are_refused(v: Variant) {
    let mut lp = v.new_loop();
    let (closed, result) = complete(&mut lp, pair().0, |s| s.close());
    result.unwrap();
    let pool = lp.buf_pool(1, 8).unwrap();
    let closed = Rc::new(closed);
    let state = || (Rc::clone(&closed), [0; 4], IoVecs::<1>::new(), pool.clone());
    let bad = Some(libc::EBADF);
    assert_eq!(errno(complete(&mut lp, state(), |(s, b, ..)| s.recv(b)).1), bad);
    assert_eq!(errno(complete(&mut lp, state(), |(s, b, ..)| s.recv_exact(b)).1), bad);
    assert_eq!(errno(complete(&mut lp, state(), |(s, b, ..)| s.send_all(b)).1), bad);
    assert_eq!(errno(complete(&mut lp, state(), |(s, b, ..)| s.send_all_zero_copy(b)).1), bad);
    assert_eq!(
        errno(complete(&mut lp, state(), |(s, b, v, _)| s.recv_vectored(v.scatter([&mut b[..]]))).1),
        bad
    );
    assert_eq!(errno(complete(&mut lp, state(), |(s, b, v, _)| s.send_vectored(v.gather([&b[..]]))).1), bad);
    assert_eq!(errno(complete(&mut lp, state(), |(s, _, _, p)| s.recv_pooled(p)).1), bad);
    assert_eq!(errno(complete(&mut lp, state(), |(s, ..)| s.shutdown(Shutdown::Both)).1), bad);
    let multi = start_multi(&mut lp, state(), 1, |(s, _, _, p)| s.recv_multi(p));
    assert_eq!(errno(multi.wait(&mut lp)), bad);
    let closed_twice = complete(&mut lp, pair().0, |s| s.close()).0;
    assert_eq!(errno(complete(&mut lp, closed_twice, |s| s.close()).1), bad);
}

fn operations_on_a_closed_listener_are_refused(v: Variant) {
    let mut lp = v.new_loop();
    let (closed, result) = complete(&mut lp, listener().0, |l| l.close());
    result.unwrap();
    let (closed, accepted) = complete(&mut lp, closed, |l| l.accept());
    assert_eq!(errno(accepted), Some(libc::EBADF));
    let (closed, accepted) = complete(&mut lp, closed, |l| l.accept_with_addr());
    assert_eq!(errno(accepted), Some(libc::EBADF));
    let multi = start_multi(&mut lp, closed, 1, |l| l.accept_multi());
    assert_eq!(errno(multi.wait(&mut lp)), Some(libc::EBADF));
}

fn close_reaches_the_peer(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    complete(&mut lp, ours, |s| s.close()).1.unwrap();
    assert_closed(&mut peer);
    // An operation that was made and never submitted closes, too.
    let (mut ours, mut peer) = pair();
    drop(ours.close());
    assert_closed(&mut peer);
}

/// A connection that lingers for an hour, whose peer has not read any of so many bytes, and cannot take more.
fn lingering(lp: &mut Loop) -> (TcpStream, Peer, usize) {
    let (ours, peer) = small_pair();
    ours.set_linger(Some(HOUR)).unwrap();
    let (mut state, mut sent) = ((ours, vec![7; 1 << 20]), 0);
    loop {
        let (back, more) = complete(lp, state, |(s, b)| s.send(b).timeout(20 * MS));
        match more {
            Ok(bytes) => sent += bytes,
            Err(_) => return (back.0, peer, sent),
        }
        state = back;
    }
}

fn read_to_the_end(mut peer: Peer) -> usize {
    let mut all = Vec::new();
    peer.read_to_end(&mut all).unwrap()
}

fn close_of_a_lingering_connection_holds_neither_the_loop_nor_the_data(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, peer, sent) = lingering(&mut lp);
    complete(&mut lp, ours, |s| s.close()).1.unwrap();
    assert_eq!(read_to_the_end(peer), sent);
    // An operation that was made and never submitted closes, too.
    let (mut ours, peer, sent) = lingering(&mut lp);
    drop(ours.close());
    assert_eq!(read_to_the_end(peer), sent);
}

fn a_close_that_is_refused_does_not_linger(v: Variant) {
    let mut lp = v.builder().capacity(1).build().unwrap();
    let (ours, peer, sent) = lingering(&mut lp);
    let timer = start(&mut lp, (), |()| Timer::after(HOUR));
    let close = start(&mut lp, ours, |s| s.close());
    assert!(oxev::is_table_full(&close.wait(&mut lp).1.unwrap_err()));
    assert_eq!(read_to_the_end(peer), sent);
    lp.cancel(timer.id);
}

fn a_linger_of_less_than_a_second_is_no_reset(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    ours.set_linger(Some(MS)).unwrap();
    let linger = || socket2::SockRef::from(&ours).linger().unwrap();
    assert_eq!(linger(), Some(Duration::from_secs(1)));
    ours.set_linger(Some(Duration::MAX)).unwrap();
    assert!(linger().is_some_and(|linger| linger >= HOUR));
    ours.set_linger(Some(MS)).unwrap();
    let ((ours, _), sent) = complete(&mut lp, (ours, *b"whole"), |(s, b)| s.send_all(b));
    sent.unwrap();
    drop(ours);
    let mut all = Vec::new();
    assert_eq!(peer.read_to_end(&mut all).unwrap(), 5);
}

fn dropping_a_stream_reaches_the_peer(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    peer.write_all(b"x").unwrap();
    drop(complete(&mut lp, (ours, [0; 8]), |(s, b)| s.recv(b)));
    assert_closed(&mut peer);
}

fn shutdown_of_writing_leaves_reading(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, mut peer) = pair();
    let (ours, shut) = complete(&mut lp, ours, |s| s.shutdown(Shutdown::Write));
    shut.unwrap();
    assert_eq!(peer.read(&mut [0; 4]).unwrap(), 0);
    peer.write_all(b"late").unwrap();
    let ((ours, buffer), received) = complete(&mut lp, (ours, [0; 4]), |(s, b)| s.recv(b));
    assert_eq!((received.unwrap(), &buffer), (4, b"late"));
    let (_, sent) = complete(&mut lp, (ours, [0; 4]), |(s, b)| s.send(b));
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

fn shutdown_ends_a_receive_in_flight(v: Variant) {
    let mut lp = v.new_loop();
    let (ours, _peer) = pair();
    let ours = Rc::new(ours);
    let recv = start(&mut lp, (Rc::clone(&ours), [0; 4]), |(s, b)| s.recv(b));
    lp.run(RunMode::NoWait).unwrap();
    complete(&mut lp, ours, |s| s.shutdown(Shutdown::Both)).1.unwrap();
    assert_eq!(recv.wait(&mut lp).1.unwrap(), 0);
}

fn shutdown_of_an_unconnected_socket_is_an_error(v: Variant) {
    let mut lp = v.new_loop();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let stream = TcpStream::from_socket(socket).unwrap();
    assert_eq!(stream.peer_addr().unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    let (_, shut) = complete(&mut lp, stream, |s| s.shutdown(Shutdown::Both));
    assert_eq!(errno(shut), Some(libc::ENOTCONN));
}

fn options_round_trip(v: Variant) {
    let mut lp = v.new_loop();
    let (listener, address) = listener();
    listener.set_nodelay(true).unwrap();
    let _client = connect(address);
    let stream = complete(&mut lp, listener, |l| l.accept()).1.unwrap();
    assert!(stream.nodelay().unwrap(), "inherited");
    stream.set_nodelay(false).unwrap();
    assert!(!stream.nodelay().unwrap());
    stream.set_recv_buffer_size(20_000).unwrap();
    stream.set_send_buffer_size(20_000).unwrap();
    assert!(stream.recv_buffer_size().unwrap() >= 20_000);
    assert!(stream.send_buffer_size().unwrap() >= 20_000);
    let socket = socket2::SockRef::from(&stream);
    stream.set_keepalive(Some(HOUR)).unwrap();
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), HOUR);
    stream.set_keepalive(None).unwrap();
    assert!(!socket.keepalive().unwrap());
    stream.set_linger(Some(Duration::from_secs(3))).unwrap();
    assert_eq!(socket.linger().unwrap(), Some(Duration::from_secs(3)));
    stream.set_linger(None).unwrap();
    assert_eq!(socket.linger().unwrap(), None);
    assert!(stream.take_error().unwrap().is_none());
}

fn sockets_of_the_standard_library_are_taken_over(v: Variant) {
    let mut lp = v.new_loop();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    client.connect(&address.into()).unwrap();
    let client = TcpStream::from_socket(client).unwrap();
    let (listener, accepted) = complete(&mut lp, listener, |l| l.accept());
    let server = accepted.unwrap();
    complete(&mut lp, (client, *b"x"), |(s, b)| s.send_all(b)).1.unwrap();
    // And given back.
    let server: std::net::TcpStream = OwnedFd::from(server).into();
    server.set_nonblocking(false).unwrap();
    assert_eq!((&server).read(&mut [0; 4]).unwrap(), 1);
    let listener: std::net::TcpListener = OwnedFd::from(listener).into();
    assert_eq!(listener.local_addr().unwrap(), address);
}

fn a_hundred_connections_echo_at_once(v: Variant) {
    let Some(_crowd) = crowd() else { return };
    let mut lp = v.builder().entries(16).build().unwrap();
    let pairs: Vec<_> = (0..100).map(|_| loop_pair()).collect();
    let started: Vec<_> = pairs
        .into_iter()
        .enumerate()
        .map(|(i, (one, two))| {
            let recv = start(&mut lp, (two, [0; 8]), |(s, b)| s.recv_exact(b));
            let send = start(&mut lp, (one, (i as u64).to_ne_bytes()), |(s, b)| s.send_all(b));
            (send, recv)
        })
        .collect();
    lp.run_for(60_000 * MS).unwrap();
    for (i, (send, recv)) in started.into_iter().enumerate() {
        assert_eq!(send.result().unwrap(), 8);
        let ((_, buffer), received) = recv.take();
        assert_eq!((received.unwrap(), u64::from_ne_bytes(buffer)), (8, i as u64));
    }
}
