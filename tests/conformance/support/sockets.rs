//! Connections over the loopback interface.

use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use oxev::{TcpListener, TcpStream};

/// A listener on a free port.
pub(crate) fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The loopback addresses that this machine has, each with a free port.
pub(crate) fn loopbacks() -> Vec<SocketAddr> {
    let all: [SocketAddr; 2] = [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()];
    all.into_iter().filter(|&address| std::net::TcpListener::bind(address).is_ok()).collect()
}

/// A connection of two sockets of the standard library.
pub(crate) fn std_pair() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let one = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

/// A connection: this end is the loop's, the other blocks.
pub(crate) fn pair() -> (TcpStream, std::net::TcpStream) {
    let (ours, peer) = std_pair();
    (TcpStream::from_std(ours).unwrap(), peer)
}

/// A connection between two of the loop's.
pub(crate) fn loop_pair() -> (TcpStream, TcpStream) {
    let (one, two) = std_pair();
    (TcpStream::from_std(one).unwrap(), TcpStream::from_std(two).unwrap())
}

/// A connection with a small send buffer on our side: much is sent in many parts.
pub(crate) fn small_sender() -> (TcpStream, std::net::TcpStream) {
    let (ours, peer) = std_pair();
    socket2::SockRef::from(&ours).set_send_buffer_size(8 << 10).unwrap();
    (TcpStream::from_std(ours).unwrap(), peer)
}

/// A connection with small buffers on both sides: what nobody reads is soon held up.
pub(crate) fn small_pair() -> (TcpStream, std::net::TcpStream) {
    let (ours, peer) = small_sender();
    socket2::SockRef::from(&peer).set_recv_buffer_size(8 << 10).unwrap();
    (ours, peer)
}

/// An address that answers no connection request: the queue of its listener is full. The sockets must be kept.
pub(crate) fn unanswering() -> (SocketAddr, Vec<socket2::Socket>) {
    use socket2::{Domain, Socket, Type};
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut sockets = vec![listener];
    for _ in 0..4 {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        let _ = client.connect(&address);
        sockets.push(client);
    }
    (address.as_socket().unwrap(), sockets)
}

/// Waits until the peer's end says that our end is closed: the end of the stream or a reset.
pub(crate) fn assert_closed(mut peer: &std::net::TcpStream) {
    peer.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    match peer.read(&mut [0; 64]) {
        Ok(0) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        other => panic!("the connection is still open: {other:?}"),
    }
}
