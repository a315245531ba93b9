//! Operations on sockets and pipes that exist: between the memory of operations and the state machines. How
//! connections are made is in [`connect`](super::connect).

#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::effect::{Ending, Errno, ObjectId, OpSeq};
use super::kernel::Kernel;
use super::listener::Listener;
use super::object::{Gather, Share};
use super::pipe::{PipeReader, PipeWriter};
use super::stream::Stream;
use super::transfer;
use crate::buf_pool;
use crate::op::addresses;
use crate::op::{Memory, RawOp};
use crate::sim_hooks::Listen;
use crate::sys::RawDescriptor;
use crate::sys::errno;

/// A connection that was accepted.
pub(super) struct Accepted {
    pub(super) fd: RawDescriptor,
    connection: ObjectId,
    remote: SocketAddr,
}

fn error(errno: Errno) -> io::Error {
    errno::error(errno)
}

impl Kernel {
    // ---- making

    pub(super) fn listen(
        &mut self,
        host: IpAddr,
        mut address: SocketAddr,
        options: Listen,
    ) -> io::Result<RawDescriptor> {
        if address.port() == 0 {
            address.set_port(self.network.next_port());
        }
        let mut others = self.network.listeners(address.port()).iter();
        let mut others = others.by_ref().filter_map(|id| self.objects.get_as::<Listener>(*id));
        if others.any(|other| other.conflicts(host, address, options)) {
            return Err(error(errno::EADDRINUSE));
        }
        let id = self.add_object(Listener::new(host, address, options));
        let fd = self.add_descriptor(id, Some(address)).inspect_err(|_| _ = self.objects.remove(id))?;
        if let Some(listener) = self.objects.get_mut_as::<Listener>(id) {
            listener.fd = Some(fd);
        }
        self.note("listen", id.0, i64::from(address.port()));
        self.network.add_listener(id, address.port());
        Ok(fd)
    }

    /// Two ends of a pipe: the one to read from, and the one to write to.
    pub(super) fn add_pipe(&mut self) -> io::Result<(RawDescriptor, RawDescriptor)> {
        let [reader, writer] = [ObjectId(self.next_count()), ObjectId(self.next_count())];
        self.objects.add(reader, PipeReader::new(writer).into());
        self.objects.add(writer, PipeWriter::new(reader).into());
        let reader_fd = self.add_descriptor(reader, None)?;
        match self.add_descriptor(writer, None) {
            Ok(writer_fd) => Ok((reader_fd, writer_fd)),
            Err(error) => {
                self.close_descriptor(reader_fd, reader);
                Err(error)
            }
        }
    }

    // ---- accepting

    pub(super) fn accept(&mut self, seq: OpSeq, id: ObjectId, raw: &RawOp) -> Ending {
        match self.accept_pending(id) {
            Ok(Accepted { fd, connection, remote }) => {
                if raw.flags & RawOp::ADDRESS != 0 {
                    // SAFETY: S3: the operation is in flight, and only this world looks at it now.
                    addresses::put_address(unsafe { &mut *self.place(seq) }, remote);
                }
                Ending::descriptor(fd, connection)
            }
            Err(error) => Ending::failed(error.raw_os_error().unwrap_or(errno::EMFILE)),
        }
    }

    /// Takes the next connection of a listener.
    pub(super) fn accept_pending(&mut self, id: ObjectId) -> io::Result<Accepted> {
        let listener = self.objects.get_mut_as::<Listener>(id).ok_or_else(|| error(errno::EINVAL))?;
        let listener_fd = listener.fd;
        let connection = listener.pop().ok_or_else(|| error(errno::EAGAIN))?;
        let stream = self.objects.get_as::<Stream>(connection).ok_or_else(|| error(errno::ECONNABORTED))?;
        let (_, remote) = stream.addresses();
        let fd = self.add_descriptor(connection, Some(remote)).inspect_err(|_| {
            // As the kernel does it: the connection stays for the next accept.
            if let Some(listener) = self.objects.get_mut_as::<Listener>(id) {
                listener.put_back(connection);
            }
        })?;
        if let Some(from) = listener_fd {
            transfer::inherit_options(from, fd);
        }
        Ok(Accepted { fd, connection, remote })
    }

    // ---- transfers

    /// A fault: the connection is reset while it is used.
    fn fails_in_use(&mut self, id: ObjectId) -> bool {
        if !self.random.chance(self.options.faults.connection_reset) {
            return false;
        }
        let view = self.view(id);
        let effects = self.objects.get_mut(id).and_then(|object| object.kind.fail_connection(&view));
        effects.map(|effects| self.apply(effects)).is_some()
    }

    pub(super) fn receive(&mut self, id: ObjectId, raw: &RawOp) -> Ending {
        if self.fails_in_use(id) {
            return Ending::failed(errno::ECONNRESET);
        }
        let share = self.draw_share(self.options.faults.short_read);
        let view = self.view(id);
        let Some(object) = self.objects.get_mut(id) else { return Ending::failed(errno::EBADF) };
        let pool = (raw.kind.facts().memory == Memory::BufferPool).then(|| buf_pool::buffers_of(raw));
        let mut buffer = None;
        let mut room = || match pool {
            Some(pool) => {
                buffer = Some(pool.take().ok_or(errno::ENOBUFS)?);
                Ok(pool.size() as usize)
            }
            // SAFETY: S3: the operation is in flight.
            None => Ok(unsafe { transfer::room(raw) }),
        };
        let received = match object.kind.receive(&view, share, &mut room) {
            Ok(received) => received,
            Err(errno) => return Ending::failed(errno),
        };
        self.apply(received.effects);
        let ending = Ending::done(received.bytes.len() as i32);
        match (pool, buffer) {
            (Some(pool), Some(index)) => {
                // SAFETY: S13: the buffer is free and ours until it is reported, and large enough.
                unsafe { transfer::copy_to(pool.place(index), &received.bytes) };
                Ending { outcome: ending.outcome.in_buffer(index), ..ending }
            }
            // The end of the stream uses no buffer.
            (Some(_), None) => ending,
            (None, _) => {
                // SAFETY: S3: the operation is in flight, and its buffers have that much room.
                unsafe { transfer::scatter(raw, &received.bytes) };
                ending
            }
        }
    }

    pub(super) fn send(&mut self, id: ObjectId, raw: &RawOp) -> Ending {
        if self.fails_in_use(id) {
            return Ending::failed(errno::ECONNRESET);
        }
        let share = self.draw_share(self.options.faults.short_write);
        // SAFETY: S3: the operation is in flight, and its buffers have that much room.
        let mut gather = |count| unsafe { transfer::gather(raw, count) };
        // SAFETY: S3: the operation is in flight.
        let len = unsafe { transfer::room(raw) };
        let sent = self.send_share(id, len, share, &mut gather);
        Ending::of(sent.map(|count| count as i32))
    }

    /// Sends a part of `len` bytes: says how many that were.
    pub(super) fn send_share(
        &mut self,
        id: ObjectId,
        len: usize,
        share: Share,
        gather: Gather<'_>,
    ) -> Result<usize, Errno> {
        let view = self.view(id);
        let object = self.objects.get_mut(id).ok_or(errno::EBADF)?;
        let sent = object.kind.send(&view, len, share, gather)?;
        self.apply(sent.effects);
        Ok(sent.count)
    }

    pub(super) fn shutdown(&mut self, id: ObjectId, how: i32) -> Result<(), Errno> {
        let view = self.view(id);
        let object = self.objects.get_mut(id).ok_or(errno::ENOTSOCK)?;
        let effects = object.kind.shutdown(&view, how)?;
        self.apply(effects);
        Ok(())
    }

    /// Resets all connections between two hosts: says how many ends that were.
    pub(super) fn reset_connections(&mut self, hosts: [IpAddr; 2]) -> usize {
        let mut count = 0;
        for id in self.objects.ids() {
            let stream = self.objects.get_mut_as::<Stream>(id);
            if let Some(effects) = stream.and_then(|stream| stream.reset_between(id, hosts)) {
                self.apply(effects);
                count += 1;
            }
        }
        self.run_awake();
        count
    }
}
