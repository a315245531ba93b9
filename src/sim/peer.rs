//! [`Peer`]: one end of a virtual connection, which a test uses as it would a blocking socket.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use super::script;
use crate::backends::sim::World;
use crate::descriptor::{Descriptor, RawDescriptor, descriptor_conversions};
use crate::fs::File;
use crate::net::TcpStream;
use crate::sim_hooks;
use crate::sys::{self, errno};

/// One end of a virtual connection, or of a [pipe](super::Simulation::pipe), that belongs to the test and not
/// to a loop: the client of a server under test, say, or the server of a client. It reads and writes as a
/// blocking socket of the standard library does.
///
/// Outside of a [script](super::Simulation::script), the loops do not run while it waits. So it waits only
/// for what is on its way in the world already, for which the virtual time passes that it takes; if nothing
/// is, the error is [`WouldBlock`](io::ErrorKind::WouldBlock), and the loops are to be run first.
///
/// ```
/// use oxev::sim::{SimOptions, Simulation};
/// use oxev::{Completion, RunMode, TcpListener};
/// use std::io::{Read, Write};
///
/// let world = Simulation::new(SimOptions::default());
/// let mut lp = world.new_loop()?;
/// let listener = world.enter(|| TcpListener::bind("127.0.0.1:80"))?;
///
/// let mut client = world.connect("127.0.0.1:80")?;
/// client.write_all(b"to whom it may concern")?;
///
/// lp.submit(Box::new(Completion::new(listener)), |l| l.accept(), |_, _, accepted| drop(accepted));
/// lp.run(RunMode::UntilDone)?;
/// // It was closed with unread data.
/// assert_eq!(client.read(&mut [0; 16]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// The faults of the world's network hold for it (latency, partitions, resets by whom it is connected to),
/// but its own calls are neither short nor interrupted. It may be sent to a script of its world, and back; on
/// other threads there is no such connection (`EBADF`).
#[derive(Debug)]
pub struct Peer {
    descriptor: Descriptor,
}

descriptor_conversions!(Peer);

impl Peer {
    pub(super) fn new(descriptor: Descriptor) -> Peer {
        Peer { descriptor }
    }

    /// Shuts one direction down, or both: `Write` sends the end of the stream.
    ///
    /// # Errors
    /// Those of `shutdown(2)`.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = sys::socket::direction(how);
        self.ask(move |world, fd| Some(world.shutdown(fd, how)))
    }

    /// The address of this end.
    ///
    /// # Errors
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.ask(|_, fd| sim_hooks::local_addr(fd))
    }

    /// The address of the other end.
    ///
    /// # Errors
    /// Those of `getpeername(2)`: `ENOTCONN` if the connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.ask(|_, fd| sim_hooks::peer_addr(fd))
    }

    /// Closes the connection with a reset, whatever has been read.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`.
    pub fn reset(self) -> io::Result<()> {
        socket2::SockRef::from(&self).set_linger(Some(std::time::Duration::ZERO))
    }

    /// Gives it to the loops' side of the world.
    ///
    /// # Errors
    /// Those of `fcntl(2)`.
    pub fn into_stream(self) -> io::Result<TcpStream> {
        TcpStream::from_std(OwnedFd::from(self).into())
    }

    fn ask<R: Send + 'static>(
        &self,
        attempt: impl Fn(&World, RawDescriptor) -> Option<io::Result<R>> + Send + 'static,
    ) -> io::Result<R> {
        ask_about(self.as_raw_fd(), attempt)
    }
}

/// Asks the world that a descriptor belongs to until it answers.
pub(super) fn ask_about<R: Send + 'static>(
    fd: RawDescriptor,
    attempt: impl Fn(&World, RawDescriptor) -> Option<io::Result<R>> + Send + 'static,
) -> io::Result<R> {
    let not_here = || errno::error(errno::EBADF);
    match (sim_hooks::world_of(fd), script::line()) {
        (Some(world), _) => {
            let world = world.as_any().downcast_ref::<World>().ok_or_else(not_here)?;
            ask_here(world, |world| attempt(world, fd))
        }
        (None, Some(line)) => script::ask(&line, move |world| attempt(world, fd)),
        (None, None) => Err(not_here()),
    }
}

/// Asks a world on its own thread, and lets pass what is on its way in it.
pub(super) fn ask_here<R>(world: &World, attempt: impl Fn(&World) -> Option<io::Result<R>>) -> io::Result<R> {
    world.run_due();
    loop {
        if let Some(result) = attempt(world) {
            world.run_due();
            world.signal_outcomes();
            return result;
        }
        if !world.run_next_event() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
    }
}

impl Read for &Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len();
        let bytes = self.ask(move |world, fd| world.receive_now(fd, len))?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for &Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = bytes.to_vec();
        self.ask(move |world, fd| world.send_now(fd, &bytes))
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        self.write(&bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl From<TcpStream> for Peer {
    /// Takes a connection from the loops' side of the world.
    fn from(stream: TcpStream) -> Peer {
        Peer::new(OwnedFd::from(stream).into())
    }
}

impl From<File> for Peer {
    /// Takes one end of a [pipe](super::Simulation::pipe).
    fn from(file: File) -> Peer {
        Peer::new(OwnedFd::from(file).into())
    }
}
