//! What is done in a world without an operation: by peers, for which a test speaks.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::effect::{Errno, Interest, ObjectId};
use super::kernel::Kernel;
use super::listener::Listener;
use super::object::{Admission, Share, SimObject};
use super::request::{Position, Transfer};
use super::stream::Stream;
use super::world::World;
use crate::sys::RawDescriptor;
use crate::sys::errno;

fn error(errno: Errno) -> io::Error {
    errno::error(errno)
}

/// What a peer does at an object: `None` if it would wait.
type Answer<R> = Option<Result<R, Errno>>;

impl Kernel {
    /// Whether a peer can do this at an object now: `None` if it would wait.
    fn is_ready_for(&self, id: ObjectId, transfer: Transfer) -> Answer<()> {
        let object = &self.objects.get(id)?.kind;
        match object.admit(transfer) {
            Admission::WhenReady(interest) => object.is_ready(interest, &self.view(id)).then_some(Ok(())),
            Admission::Refused(errno) => Some(Err(errno)),
            Admission::AfterLatency | Admission::InTurn => Some(Err(errno::ENOTSOCK)),
        }
    }

    fn receive_now(&mut self, id: ObjectId, len: usize) -> Answer<Vec<u8>> {
        match self.is_ready_for(id, Transfer::Read(Position::Cursor)) {
            None if len == 0 => return Some(Ok(Vec::new())),
            None => return None,
            Some(Err(errno)) => return Some(Err(errno)),
            Some(Ok(())) => {}
        }
        let view = self.view(id);
        let received = self.objects.get_mut(id)?.kind.receive(&view, Share::ALL, &mut || Ok(len));
        Some(received.map(|received| {
            self.apply(received.effects);
            received.bytes
        }))
    }

    fn send_now(&mut self, id: ObjectId, bytes: &[u8]) -> Answer<usize> {
        match self.is_ready_for(id, Transfer::Write(Position::Cursor)) {
            None | Some(Ok(())) if bytes.is_empty() => return Some(Ok(0)),
            None => return None,
            Some(Err(errno)) => return Some(Err(errno)),
            Some(Ok(())) => {}
        }
        Some(self.send_share(id, bytes.len(), Share::ALL, &mut |count| bytes[..count].to_vec()))
    }
}

impl World {
    /// Does something at an object, and lets everything happen that follows from it.
    fn on_object<R>(
        &self,
        fd: RawDescriptor,
        change: impl FnOnce(&mut Kernel, ObjectId) -> Answer<R>,
    ) -> Option<io::Result<R>> {
        let mut kernel = self.kernel.borrow_mut();
        let Some(id) = kernel.objects.id_of(fd) else { return Some(Err(error(errno::EBADF))) };
        let answer = change(&mut kernel, id);
        kernel.run_awake();
        answer.map(|result| result.map_err(error))
    }

    /// As recv(2); `None` if it would wait.
    pub(crate) fn receive_now(&self, fd: RawDescriptor, len: usize) -> Option<io::Result<Vec<u8>>> {
        self.on_object(fd, |kernel, id| kernel.receive_now(id, len))
    }

    /// As send(2), but for the signal; `None` if it would wait.
    pub(crate) fn send_now(&self, fd: RawDescriptor, bytes: &[u8]) -> Option<io::Result<usize>> {
        self.on_object(fd, |kernel, id| kernel.send_now(id, bytes))
    }

    /// As accept(2); `None` if it would wait.
    pub(crate) fn accept_now(&self, fd: RawDescriptor) -> Option<io::Result<RawDescriptor>> {
        self.on_object(fd, |kernel, id| {
            let Some(listener) = kernel.objects.get_as::<Listener>(id) else {
                return Some(Err(errno::EINVAL));
            };
            if !listener.is_ready(Interest::Read, &kernel.view(id)) {
                return None;
            }
            let accepted = kernel.accept_pending(id).map(|accepted| accepted.fd);
            Some(accepted.map_err(|error| error.raw_os_error().unwrap_or(errno::EMFILE)))
        })
    }

    /// Begins to connect; [`World::is_connected`] tells the end.
    pub(crate) fn connect(&self, host: IpAddr, target: SocketAddr) -> io::Result<RawDescriptor> {
        let mut kernel = self.kernel.borrow_mut();
        let id = kernel.add_connecting(host, target, None);
        kernel.add_descriptor(id, Some(target)).inspect_err(|_| _ = kernel.objects.remove(id))
    }

    /// `None` as long as it is not known.
    pub(crate) fn is_connected(&self, fd: RawDescriptor) -> Option<io::Result<()>> {
        self.on_object(fd, |kernel, id| match kernel.objects.get_as::<Stream>(id) {
            Some(stream) => stream.connected(),
            None => Some(Err(errno::ENOTSOCK)),
        })
    }

    pub(crate) fn shutdown(&self, fd: RawDescriptor, how: i32) -> io::Result<()> {
        self.on_object(fd, |kernel, id| Some(kernel.shutdown(id, how))).unwrap_or(Ok(()))
    }

    /// The reading and the writing end of a pipe.
    pub(crate) fn pipe(&self) -> io::Result<(RawDescriptor, RawDescriptor)> {
        self.kernel.borrow_mut().add_pipe()
    }
}
