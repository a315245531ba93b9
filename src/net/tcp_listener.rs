//! [`TcpListener`]: accepting connections.

#![allow(unsafe_code)]

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;

use super::TcpStream;
use super::socket;
use crate::descriptor::{Descriptor, descriptor_conversions};
use crate::op::{MultiOp, Op, OpKind, RawOp};
use crate::sim_hooks::{self, Listen};
use crate::sys;
use crate::sys::socket_options::{Domain, Protocol, SockRef, Socket, Type};

/// A TCP socket that accepts connections; closed when it is dropped.
///
/// # Several loops
/// Give each loop a listener of its own on the same address ([`ListenOptions::reuse_port`]), as the example
/// `multi_loop` does: the kernel shares the connections out among them, evenly, before any loop is woken.
///
/// If instead several loops accept on one listener (on duplicates of its descriptor), a connection goes to
/// the loop that the kernel wakes: on io_uring it wakes one, and does not ask whether that one has time.
/// While that loop is in a long callback the connection waits, although others are idle.
///
/// In either case a connection waits as long as the callback that its loop is in. So what takes long goes to
/// a pool ([`Loop::offload`](crate::Loop::offload)). If that cannot be, let one loop that does nothing else
/// accept, and [`post`](crate::LoopHandle::post) each connection to a loop that has time.
///
/// # No descriptors
/// When the process has no descriptors left, an accept fails at once (`EMFILE`, or `ENFILE` for the whole
/// system), also if no connection waits, and so does the next one: a connection that waits stays in the queue.
/// A server waits for a while before it accepts again ([`Timer::after`](crate::Timer::after)), or until it has
/// closed something.
#[derive(Debug)]
pub struct TcpListener {
    descriptor: Descriptor,
}

descriptor_conversions!(TcpListener);

impl TcpListener {
    /// Binds and listens, with the defaults of [`ListenOptions`]. If the address resolves to several, the
    /// first that works is taken. Port 0 asks for a free port. Names are looked up by the system, which
    /// blocks.
    ///
    /// # Errors
    /// `EADDRINUSE`, `EACCES`, … : those of `bind(2)` and `listen(2)`.
    pub fn bind(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
        TcpListener::options().bind(address)
    }

    /// Binds with other options than the defaults.
    pub fn options() -> ListenOptions {
        ListenOptions::default()
    }

    /// Takes over a listener of the standard library.
    ///
    /// # Errors
    /// Those of `fcntl(2)`: it is made non-blocking.
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<TcpListener> {
        TcpListener::from_socket(listener.into())
    }

    /// Takes over a listening `socket2` socket: for options that are not here.
    ///
    /// # Errors
    /// Those of `fcntl(2)`: it is made non-blocking.
    pub fn from_socket(socket: Socket) -> io::Result<TcpListener> {
        socket.set_nonblocking(true)?;
        // For every connection that it accepts.
        sys::socket::take_urgent_data_in_line(socket.as_raw_fd());
        let descriptor = std::os::fd::OwnedFd::from(socket).into();
        Ok(TcpListener { descriptor })
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        socket::local_addr(self)
    }

    /// Sets `TCP_NODELAY`, which accepted connections inherit on Linux.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        SockRef::from(self).set_tcp_nodelay(nodelay)
    }

    /// Accepts one connection (`accept4(2)`). The peer's address is at hand with [`TcpStream::peer_addr`], or
    /// with the result of [`TcpListener::accept_with_addr`].
    ///
    /// Several accepts may wait on one listener, on several loops, too. Each connection goes to one of them, and an
    /// accept that is cancelled leaves none beside the others.
    pub fn accept(&self) -> Op<'_, TcpStream> {
        // SAFETY: S6: the operation points to nothing, and the socket is borrowed.
        unsafe { Op::from_raw(RawOp::new(OpKind::Accept, self.descriptor.number())) }
    }

    /// Accepts one connection, and gives the peer's address with it.
    pub fn accept_with_addr(&self) -> Op<'_, (TcpStream, SocketAddr)> {
        let mut raw = RawOp::new(OpKind::Accept, self.descriptor.number());
        raw.flags = RawOp::ADDRESS;
        // SAFETY: S6: the operation points to its own address overlay, and the socket is borrowed.
        unsafe { Op::from_raw(raw) }
    }

    /// Accepts connection after connection, for [`Loop::submit_multi`](crate::Loop::submit_multi).
    /// Connections that were accepted when it is disarmed or cancelled are still delivered: a program that caps its
    /// connections plans for up to 256 more after [`Action::Disarm`](crate::Action::Disarm) on epoll and poll, and
    /// on io_uring for as many as the completion queue holds; what it has no room for it drops in the item callback,
    /// which closes it.
    pub fn accept_multi(&self) -> MultiOp<'_, TcpStream> {
        MultiOp::repeat(self.accept())
    }

    /// Closes the socket as an operation; dropping it closes it, too, at once. Further operations on it end
    /// with `EBADF`.
    pub fn close(&mut self) -> Op<'_, ()> {
        // SAFETY: S6: the operation owns the descriptor that it closes.
        unsafe { Op::from_raw(RawOp::new(OpKind::Close, self.descriptor.take())) }
    }
}

/// How to listen: [`TcpListener::options`].
///
/// ```
/// let listener = oxev::TcpListener::options().backlog(64).reuse_port(true).bind("127.0.0.1:0")?;
/// assert_ne!(listener.local_addr()?.port(), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing listens before `bind`"]
pub struct ListenOptions {
    backlog: i32,
    reuse_address: bool,
    reuse_port: bool,
    only_v6: Option<bool>,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions { backlog: 4096, reuse_address: true, reuse_port: false, only_v6: None }
    }
}

impl ListenOptions {
    /// How many connections may wait to be accepted: 4096 by default; the system has a limit of its own
    /// (`net.core.somaxconn`).
    pub fn backlog(mut self, connections: i32) -> ListenOptions {
        self.backlog = connections;
        self
    }

    /// `SO_REUSEADDR`: bind although old connections linger on the address. On by default.
    pub fn reuse_address(mut self, reuse: bool) -> ListenOptions {
        self.reuse_address = reuse;
        self
    }

    /// `SO_REUSEPORT` (`socket(7)`): several sockets on one address share the connections, one for each loop.
    /// Off by default. The kernel chooses by a hash of the addresses. Connections that are in the queue of a
    /// listener when it is closed are lost (unless `net.ipv4.tcp_migrate_req` is set, Linux 5.14), so this is
    /// not for listeners that come and go.
    pub fn reuse_port(mut self, reuse: bool) -> ListenOptions {
        self.reuse_port = reuse;
        self
    }

    /// `IPV6_V6ONLY`: whether an IPv6 socket leaves IPv4 alone. The system's default if it is not set.
    pub fn only_v6(mut self, only: bool) -> ListenOptions {
        self.only_v6 = Some(only);
        self
    }

    /// Binds and listens.
    ///
    /// # Errors
    /// As [`TcpListener::bind`].
    pub fn bind(&self, address: impl ToSocketAddrs) -> io::Result<TcpListener> {
        let mut last = io::Error::from(io::ErrorKind::InvalidInput);
        for address in address.to_socket_addrs()? {
            match self.bind_one(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn bind_one(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let options = Listen {
            backlog: self.backlog,
            reuse_port: self.reuse_port,
            only_v6: self.only_v6.unwrap_or(false),
        };
        if let Some(fd) = sim_hooks::listen(address, options) {
            // SAFETY: S7: the world made the descriptor for us.
            return Ok(TcpListener { descriptor: unsafe { Descriptor::from_raw(fd?) } });
        }
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(self.reuse_address)?;
        socket.set_reuse_port(self.reuse_port)?;
        if let (Some(only), SocketAddr::V6(_)) = (self.only_v6, address) {
            socket.set_only_v6(only)?;
        }
        socket.bind(&address.into())?;
        socket.listen(self.backlog)?;
        TcpListener::from_socket(socket)
    }
}
