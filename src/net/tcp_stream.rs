//! [`TcpStream`]: a connection.

#![allow(unsafe_code)]

use std::io;
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::socket;
use crate::buf_pool::{BufPool, Lease};
use crate::descriptor::{Descriptor, close_raw, descriptor_conversions};
use crate::io_vecs::{Gather, Scatter};
use crate::op::addresses;
use crate::op::{MultiOp, Op, OpKind, Outcome, Output, RawOp};
use crate::sys::socket_options::{SockRef, Socket, TcpKeepalive};
use crate::sys::{self, errno};

/// A TCP connection; closed when it is dropped.
///
/// Operations borrow it, by `&self`: to receive and send at once, share it between two owners by `Rc` or by
/// [`Pool::share`](crate::Pool::share). One operation in each direction at a time: of two receives at once
/// either may get what comes first, and two `send_all` may mix their parts (epoll keeps the order, io_uring
/// does not).
///
/// Urgent data (`MSG_OOB`) is received as what it is, bytes of the stream: streams have `SO_OOBINLINE` set, as
/// RFC 6093 asks for. Left out of the stream, it would let a peer wake a receive that finds no bytes, as often as the peer likes.
///
/// Zero bytes received is the end of the stream. An empty buffer is done at once, with `Ok(0)`.
#[derive(Debug)]
pub struct TcpStream {
    descriptor: Descriptor,
}

descriptor_conversions!(TcpStream);

impl TcpStream {
    /// Connects (`connect(2)`). If the address resolves to several, they are tried in order until one answers,
    /// and the error is that of the last. A deadline is for all of them together, and a cancel ends the
    /// attempt that is being made.
    ///
    /// Names are looked up by the system, which blocks: give an address to avoid that, if need be from
    /// [`resolve`](super::resolve). Several addresses are kept on the heap until the operation is over; for
    /// one, nothing is allocated.
    ///
    /// ```
    /// use oxev::{Completion, Loop, RunMode, TcpStream};
    /// # fn main() -> std::io::Result<()> {
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let address = listener.local_addr()?;
    /// let mut lp = Loop::new()?;
    /// lp.submit(Box::new(Completion::new(())), |_| TcpStream::connect(address), |_, _, connected| {
    ///     connected.unwrap().set_nodelay(true).unwrap();
    /// });
    /// lp.run(RunMode::UntilDone)
    /// # }
    /// ```
    pub fn connect<'a>(address: impl ToSocketAddrs) -> Op<'a, TcpStream> {
        let mut addresses = match address.to_socket_addrs() {
            Ok(addresses) => addresses,
            Err(error) => return Op::failed(error.raw_os_error().unwrap_or(errno::EINVAL)),
        };
        let raw = match (addresses.next(), addresses.next()) {
            (None, _) => return Op::failed(errno::EADDRNOTAVAIL),
            (Some(address), None) => addresses::connect_to(address),
            (Some(first), Some(second)) => {
                addresses::connect_to_any([first, second].into_iter().chain(addresses).collect())
            }
        };
        // SAFETY: S6: the operation points to its own address overlay, or to a list that it owns.
        unsafe { Op::from_raw(raw) }
    }

    /// Takes over a connection of the standard library.
    ///
    /// # Errors
    /// Those of `fcntl(2)`: it is made non-blocking.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<TcpStream> {
        TcpStream::from_socket(stream.into())
    }

    /// Takes over a connected `socket2` socket: for options that are not here.
    ///
    /// # Errors
    /// Those of `fcntl(2)`: it is made non-blocking.
    pub fn from_socket(socket: Socket) -> io::Result<TcpStream> {
        socket.set_nonblocking(true)?;
        sys::socket::take_urgent_data_in_line(socket.as_raw_fd());
        let descriptor = std::os::fd::OwnedFd::from(socket).into();
        Ok(TcpStream { descriptor })
    }

    // ---- operations

    /// Receives what there is, up to the buffer's length (`recv(2)`). `Ok(0)` is the end of the stream.
    pub fn recv<'a>(&'a self, buffer: &'a mut [u8]) -> Op<'a, usize> {
        let (buf, len) = (buffer.as_mut_ptr(), buffer.len());
        // SAFETY: S6: socket and buffer are borrowed, the buffer alone.
        unsafe { socket::transfer(OpKind::Recv, self.descriptor.number(), buf, len, 0) }
    }

    /// Receives until the buffer is full. If the stream ends before, the error is
    /// [`io::ErrorKind::UnexpectedEof`].
    pub fn recv_exact<'a>(&'a self, buffer: &'a mut [u8]) -> Op<'a, usize> {
        let (buf, len) = (buffer.as_mut_ptr(), buffer.len());
        // SAFETY: S6: as in `recv`.
        unsafe { socket::transfer(OpKind::Recv, self.descriptor.number(), buf, len, RawOp::EXACT) }
    }

    /// Receives into several buffers (`recvmsg(2)`).
    pub fn recv_vectored<'a>(&'a self, buffers: Scatter<'a>) -> Op<'a, usize> {
        self.vectored(buffers.list.into_op(OpKind::RecvVectored, self.descriptor.number()), 0)
    }

    /// Receives until several buffers are full. If the stream ends before, the error is
    /// [`io::ErrorKind::UnexpectedEof`].
    pub fn recv_exact_vectored<'a>(&'a self, buffers: Scatter<'a>) -> Op<'a, usize> {
        self.vectored(buffers.list.into_op(OpKind::RecvVectored, self.descriptor.number()), RawOp::EXACT)
    }

    /// Receives into a buffer that the pool hands out when there is data: a connection that waits holds none.
    /// An empty lease is the end of the stream. If all buffers are on lease, this waits. A pool of another
    /// loop is `EINVAL`.
    pub fn recv_pooled<'a>(&'a self, pool: &'a BufPool) -> Op<'a, Lease> {
        let mut raw = RawOp::new(OpKind::RecvPooled, self.descriptor.number());
        raw.as_pooled_mut().buffers = std::rc::Rc::as_ptr(&pool.0).cast();
        // SAFETY: S6: socket and pool are borrowed.
        unsafe { Op::from_raw(raw) }
    }

    /// Receives buffer after buffer, for [`Loop::submit_multi`](crate::Loop::submit_multi). The end of the
    /// stream is the end of the submission, with `Ok`. Bytes that were received when it is disarmed or
    /// cancelled are still delivered, so that another receive goes on where it ended.
    pub fn recv_multi<'a>(&'a self, pool: &'a BufPool) -> MultiOp<'a, Lease> {
        MultiOp::repeat(self.recv_pooled(pool))
    }

    /// Sends what the socket takes, at least one byte (`send(2)`). The peer's reset is an error, never a
    /// signal.
    pub fn send<'a>(&'a self, buffer: &'a [u8]) -> Op<'a, usize> {
        self.sending(OpKind::Send, buffer, 0)
    }

    /// Sends the whole buffer.
    pub fn send_all<'a>(&'a self, buffer: &'a [u8]) -> Op<'a, usize> {
        self.sending(OpKind::Send, buffer, RawOp::EXACT)
    }

    /// Sends the whole buffer without copying it, where the backend can
    /// ([`Capabilities::zero_copy_send`](crate::Capabilities::zero_copy_send)); otherwise as
    /// [`TcpStream::send_all`]. Worth it from some ten KiB on, and not over loopback. What the kernel cannot do
    /// without a copy, for want of memory that may be locked (`RLIMIT_MEMLOCK`) for instance, it does with one.
    ///
    /// It completes when the kernel has let go of the buffer, which can be as late as when the peer has taken
    /// the data. What is sent cannot be called back: a cancel or a deadline that comes then waits for that,
    /// too, and so does dropping the loop.
    pub fn send_all_zero_copy<'a>(&'a self, buffer: &'a [u8]) -> Op<'a, usize> {
        self.sending(OpKind::SendZeroCopy, buffer, RawOp::EXACT)
    }

    /// Sends from several buffers what the socket takes (`sendmsg(2)`).
    pub fn send_vectored<'a>(&'a self, buffers: Gather<'a>) -> Op<'a, usize> {
        self.vectored(buffers.list.into_op(OpKind::SendVectored, self.descriptor.number()), 0)
    }

    /// Sends several buffers whole.
    pub fn send_all_vectored<'a>(&'a self, buffers: Gather<'a>) -> Op<'a, usize> {
        self.vectored(buffers.list.into_op(OpKind::SendVectored, self.descriptor.number()), RawOp::EXACT)
    }

    /// Shuts one direction down, or both (`shutdown(2)`): `Write` sends the end of the stream.
    pub fn shutdown(&self, how: Shutdown) -> Op<'_, ()> {
        let mut raw = RawOp::new(OpKind::Shutdown, self.descriptor.number());
        raw.as_shutdown_mut().how = sys::socket::direction(how);
        // SAFETY: S6: the operation points to nothing, and the socket is borrowed.
        unsafe { Op::from_raw(raw) }
    }

    /// Closes the connection as an operation; dropping it closes it, too, at once. Further operations on it
    /// end with `EBADF`. What is unsent is sent in the background, also if the connection
    /// [lingers](TcpStream::set_linger).
    ///
    /// Nothing can be in flight on it: operations borrow the stream, and this takes it mutably. For a shared
    /// stream see [`Loop::cancel_all`](crate::Loop::cancel_all).
    pub fn close(&mut self) -> Op<'_, ()> {
        // SAFETY: S6: the operation owns the descriptor that it closes.
        unsafe { Op::from_raw(RawOp::new(OpKind::Close, self.descriptor.take())) }
    }

    fn sending<'a>(&'a self, kind: OpKind, buffer: &'a [u8], flags: u8) -> Op<'a, usize> {
        let (buf, len) = (buffer.as_ptr().cast_mut(), buffer.len());
        // SAFETY: S6: socket and buffer are borrowed, and the buffer is only read.
        unsafe { socket::transfer(kind, self.descriptor.number(), buf, len, flags) }
    }

    fn vectored<'a>(&'a self, mut raw: RawOp, flags: u8) -> Op<'a, usize> {
        raw.flags |= flags;
        if raw.immediate_result().is_none() && raw.as_vectored().len == 0 {
            raw = RawOp::immediate(0);
        }
        // SAFETY: S6: socket and list are borrowed, and by the list its buffers.
        unsafe { Op::from_raw(raw) }
    }

    // ---- addresses and options

    /// The address of this end.
    ///
    /// # Errors
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        socket::local_addr(self)
    }

    /// The address of the other end.
    ///
    /// # Errors
    /// Those of `getpeername(2)`: `ENOTCONN` if the connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        socket::peer_addr(self)
    }

    /// Whether small writes are sent at once (`TCP_NODELAY`).
    ///
    /// # Errors
    /// Those of `getsockopt(2)`.
    pub fn nodelay(&self) -> io::Result<bool> {
        SockRef::from(self).tcp_nodelay()
    }

    /// Sets whether small writes are sent at once (`TCP_NODELAY`).
    ///
    /// # Errors
    /// Those of `setsockopt(2)`.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        SockRef::from(self).set_tcp_nodelay(nodelay)
    }

    /// Sets for how long an idle connection is left alone before it is probed (`SO_KEEPALIVE`,
    /// `TCP_KEEPIDLE`). With `None`, the default, it is never probed.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`.
    pub fn set_keepalive(&self, idle: Option<Duration>) -> io::Result<()> {
        match idle {
            None => SockRef::from(self).set_keepalive(false),
            Some(idle) => SockRef::from(self).set_tcp_keepalive(&TcpKeepalive::new().with_time(idle)),
        }
    }

    /// Sets what closing does with unsent data (`SO_LINGER`): `Some(0)` throws it away and resets the
    /// connection; with `None`, the default, the kernel goes on sending in the background.
    ///
    /// With a time, which the kernel has in seconds and which is rounded up to them, **dropping the stream
    /// blocks the thread**, and the loop with it, until the peer has taken everything or the time has passed;
    /// then the kernel goes on in the background as well, and nothing tells how that ended (`socket(7)`). The
    /// operation [`close`](TcpStream::close) does not wait: it sets the
    /// option back first. To know that the peer has everything, [`shutdown`](TcpStream::shutdown) `Write` and
    /// receive until the peer's end.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`.
    pub fn set_linger(&self, linger: Option<Duration>) -> io::Result<()> {
        // A part of a second is not none, which would be a reset.
        let whole_seconds = |time: Duration| {
            let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
            Duration::from_secs(seconds.min(i32::MAX as u64))
        };
        SockRef::from(self).set_linger(linger.map(whole_seconds))
    }

    /// The bytes of the receive buffer (`SO_RCVBUF`).
    ///
    /// # Errors
    /// Those of `getsockopt(2)`.
    pub fn recv_buffer_size(&self) -> io::Result<usize> {
        SockRef::from(self).recv_buffer_size()
    }

    /// Sets the bytes of the receive buffer (`SO_RCVBUF`); Linux doubles them.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`.
    pub fn set_recv_buffer_size(&self, bytes: usize) -> io::Result<()> {
        SockRef::from(self).set_recv_buffer_size(bytes)
    }

    /// The bytes of the send buffer (`SO_SNDBUF`).
    ///
    /// # Errors
    /// Those of `getsockopt(2)`.
    pub fn send_buffer_size(&self) -> io::Result<usize> {
        SockRef::from(self).send_buffer_size()
    }

    /// Sets the bytes of the send buffer (`SO_SNDBUF`); Linux doubles them.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`.
    pub fn set_send_buffer_size(&self, bytes: usize) -> io::Result<()> {
        SockRef::from(self).set_send_buffer_size(bytes)
    }

    /// The error that is pending on the socket, if any (`SO_ERROR`).
    ///
    /// # Errors
    /// Those of `getsockopt(2)`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        SockRef::from(self).take_error()
    }
}

/// The stream that an accept or a connect has brought.
///
/// # Safety
/// `outcome` is that of `op`, and is turned into a stream only once.
unsafe fn stream_of(op: &RawOp, outcome: Outcome) -> io::Result<TcpStream> {
    addresses::drop_list(op);
    if op.kind == OpKind::Connect {
        // The socket was made for the operation.
        outcome.count().inspect_err(|_| close_raw(op.fd))?;
        // SAFETY: S7: this is the one time that it is wrapped.
        return Ok(TcpStream { descriptor: unsafe { Descriptor::from_known(op.fd) } });
    }
    let fd = outcome.count()? as i32;
    // SAFETY: S7: the kernel, or the backend, made the descriptor for this operation, and this is the one
    // time that it is wrapped.
    let descriptor = unsafe { Descriptor::from_raw(fd) };
    Ok(TcpStream { descriptor })
}

// SAFETY: S7: the descriptor of a successful accept or connect is owned by the stream; that of a failed
// connect is closed.
unsafe impl Output for TcpStream {
    unsafe fn decode(op: &RawOp, outcome: Outcome) -> io::Result<TcpStream> {
        // SAFETY: S7: the caller's promise.
        unsafe { stream_of(op, outcome) }
    }
}

// SAFETY: S7: as above; if the address cannot be read the stream is dropped.
unsafe impl Output for (TcpStream, SocketAddr) {
    unsafe fn decode(op: &RawOp, outcome: Outcome) -> io::Result<(TcpStream, SocketAddr)> {
        // SAFETY: S7: the caller's promise.
        let stream = unsafe { stream_of(op, outcome) }?;
        Ok((stream, addresses::address_of(op)?))
    }
}
