//! Connections over the loopback interface.

use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use oxev::{TcpListener, TcpStream};

pub(crate) use super::surroundings::Peer;
use super::surroundings::current;

/// A listener on a free port.
pub(crate) fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The loopback addresses that this machine has, each with a free port.
pub(crate) fn loopbacks() -> Vec<SocketAddr> {
    let all: [SocketAddr; 2] = [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()];
    all.into_iter().filter(|&address| TcpListener::bind(address).is_ok()).collect()
}

/// Connects to one of the loop's listeners, which need not accept yet.
pub(crate) fn connect(address: SocketAddr) -> Peer {
    current().connect(address).unwrap()
}

/// Accepts what a listener has, without waiting.
pub(crate) fn accept_now(listener: &TcpListener) -> io::Result<Peer> {
    current().accept(listener)
}

/// A connection: this end is the loop's, the other blocks.
pub(crate) fn pair() -> (TcpStream, Peer) {
    let (ours, peer) = current().pair();
    (ours.into_stream(), peer)
}

/// A connection between two of the loop's.
pub(crate) fn loop_pair() -> (TcpStream, TcpStream) {
    let (one, two) = current().pair();
    (one.into_stream(), two.into_stream())
}

/// A connection with a small send buffer on our side: much is sent in many parts.
pub(crate) fn small_sender() -> (TcpStream, Peer) {
    let (ours, peer) = current().pair();
    ours.options().set_send_buffer_size(8 << 10).unwrap();
    (ours.into_stream(), peer)
}

/// A connection with small buffers on both sides: what the peer does not read is soon held up.
pub(crate) fn small_pair() -> (TcpStream, Peer) {
    let (ours, peer) = small_sender();
    peer.options().set_recv_buffer_size(8 << 10).unwrap();
    (ours, peer)
}

/// An address that answers no connection request: the queue of its listener is full. What is returned with it
/// must be kept.
pub(crate) fn unanswering() -> (SocketAddr, impl Sized) {
    let listener = TcpListener::options().backlog(0).bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let in_queue = connect(address);
    (address, (listener, in_queue))
}

/// Waits until the peer's end says that our end is closed: the end of the stream or a reset.
pub(crate) fn assert_closed(peer: &mut Peer) {
    peer.options().set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    match peer.read(&mut [0; 64]) {
        Ok(0) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        other => panic!("the connection is still open: {other:?}"),
    }
}
