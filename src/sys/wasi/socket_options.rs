//! What is refused: the system makes no sockets, and knows neither their options nor their addresses. It has the form of
//! the crate `socket2`, which other systems have for that.

use std::io;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::descriptor;
use crate::sys::errno;

fn refused<R>() -> io::Result<R> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A socket that the host has opened, or that was accepted.
#[derive(Debug)]
#[allow(unreachable_pub, reason = "elsewhere it is a type that programs have, too")]
pub struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn new(_: Domain, _: Type, _: Option<Protocol>) -> io::Result<Socket> {
        refused()
    }

    pub(crate) fn set_nonblocking(&self, _: bool) -> io::Result<()> {
        descriptor::set_nonblocking(self.0.as_raw_fd()).map_err(errno::error)
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<TcpListener> for Socket {
    fn from(listener: TcpListener) -> Socket {
        Socket(listener.into())
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Socket {
        Socket(stream.into())
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> OwnedFd {
        socket.0
    }
}

pub(crate) struct Domain;

impl Domain {
    pub(crate) fn for_address(_: SocketAddr) -> Domain {
        Domain
    }
}

pub(crate) struct Type;

impl Type {
    pub(crate) const STREAM: Type = Type;
}

pub(crate) struct Protocol;

impl Protocol {
    pub(crate) const TCP: Protocol = Protocol;
}

pub(crate) struct SockAddr;

impl SockAddr {
    pub(crate) fn as_socket(&self) -> Option<SocketAddr> {
        None
    }
}

impl From<SocketAddr> for SockAddr {
    fn from(_: SocketAddr) -> SockAddr {
        SockAddr
    }
}

pub(crate) struct TcpKeepalive;

impl TcpKeepalive {
    pub(crate) fn new() -> TcpKeepalive {
        TcpKeepalive
    }

    pub(crate) fn with_time(self, _: Duration) -> TcpKeepalive {
        self
    }
}

/// A socket, for its options.
pub(crate) struct SockRef<'a>(PhantomData<&'a ()>);

impl<'a, S> From<&'a S> for SockRef<'a> {
    fn from(_: &'a S) -> SockRef<'a> {
        SockRef(PhantomData)
    }
}

macro_rules! refuse {
    ($type:ty: $($name:ident($($argument:ty),*) -> $result:ty;)*) => {
        impl $type {
            $(pub(crate) fn $name(&self, $(_: $argument),*) -> io::Result<$result> {
                refused()
            })*
        }
    };
}

refuse! { Socket:
    set_reuse_address(bool) -> ();
    set_reuse_port(bool) -> ();
    set_only_v6(bool) -> ();
    bind(&SockAddr) -> ();
    listen(i32) -> ();
}

refuse! { SockRef<'_>:
    local_addr() -> SockAddr;
    peer_addr() -> SockAddr;
    tcp_nodelay() -> bool;
    set_tcp_nodelay(bool) -> ();
    set_keepalive(bool) -> ();
    set_tcp_keepalive(&TcpKeepalive) -> ();
    set_linger(Option<Duration>) -> ();
    recv_buffer_size() -> usize;
    set_recv_buffer_size(usize) -> ();
    send_buffer_size() -> usize;
    set_send_buffer_size(usize) -> ();
    take_error() -> Option<io::Error>;
}
