//! How connections are made: a request that takes its time, and an answer that does.

#![allow(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use super::effect::{Ending, Handshake, Interest, ObjectId, OpSeq, SimEvent};
use super::kernel::Kernel;
use super::listener::Listener;
use super::operations::Phase;
use super::stream::Stream;
use crate::net::socket;
use crate::op::addresses;
use crate::sys::errno;

impl Kernel {
    pub(super) fn begin_connect(&mut self, seq: OpSeq) {
        // SAFETY: S3: the operation is in flight, and only this world looks at it now.
        let raw = unsafe { &mut *self.place(seq) };
        let target = addresses::address_of(raw).map_err(|_| errno::EAFNOSUPPORT);
        let opened = target.and_then(|target| socket::open_for_connect(raw).map(|()| target));
        let fd = raw.fd;
        let target = match opened {
            Ok(target) => target,
            Err(errno) => return self.finish(seq, Ending::failed(errno)),
        };
        let host = self.operations[&seq].host;
        let id = self.add_connecting(host, target, Some(seq));
        self.adopt(fd, id);
        if let Some(operation) = self.operations.get_mut(&seq) {
            operation.object = Some(id);
            operation.phase = Phase::Begun;
        }
    }

    /// A stream whose connection request is on its way.
    pub(super) fn add_connecting(&mut self, host: IpAddr, target: SocketAddr, op: Option<OpSeq>) -> ObjectId {
        let local = self.network.local_for(host, target);
        let id = self.add_object(Stream::connecting(local, target, op));
        self.schedule_after_latency(SimEvent::Handshake(id, Handshake::Request));
        id
    }

    /// A connection comes a step further, unless the end that asked for it wants it no more.
    pub(super) fn handshake(&mut self, id: ObjectId, step: Handshake) {
        let Some(stream) = self.objects.get_as::<Stream>(id) else { return };
        let Some(op) = stream.requested_by() else { return };
        let goes_on = |seq| self.operations.get(&seq).is_some_and(|op| op.phase == Phase::Begun);
        if !op.is_none_or(goes_on) {
            return;
        }
        let (local, target) = stream.addresses();
        let is_cut = self.network.is_cut(local, target);
        match step {
            Handshake::Request | Handshake::Answer if is_cut => self.network.hold(id, step),
            Handshake::Request => self.request(id, local, target),
            Handshake::Answer => self.conclude(id, Ok(())),
            Handshake::Refusal(errno) => self.conclude(id, Err(errno)),
        }
    }

    fn conclude(&mut self, id: ObjectId, result: Result<(), i32>) {
        let Some(stream) = self.objects.get_mut_as::<Stream>(id) else { return };
        let effects = stream.conclude(result);
        self.apply(effects);
    }

    fn request(&mut self, id: ObjectId, local: SocketAddr, target: SocketAddr) {
        let refused = self.random.chance(self.options.faults.connection_refused);
        let listener = if refused { None } else { self.listener_at(target) };
        let back_ns = self.now().saturating_add(self.draw_latency_ns());
        let answer = |step| SimEvent::Handshake(id, step);
        let Some(listener_id) = listener else {
            return self.schedule(back_ns, answer(Handshake::Refusal(errno::ECONNREFUSED)));
        };
        let Some(listener) = self.objects.get_as::<Listener>(listener_id) else { return };
        let Some(server) = listener.answer(local, target, id) else {
            let view = self.view(id);
            let Some(stream) = self.objects.get_mut_as::<Stream>(id) else { return };
            let effects = stream.request_again(&view);
            return self.apply(effects);
        };
        let server = self.add_object(server);
        if let Some(stream) = self.objects.get_mut_as::<Stream>(id) {
            stream.meet(server);
        }
        if let Some(listener) = self.objects.get_mut_as::<Listener>(listener_id) {
            listener.push(server);
        }
        self.note("connection", id.0, server.0 as i64);
        self.wake_queue(listener_id, Interest::Read);
        self.schedule(back_ns, answer(Handshake::Answer));
    }

    /// Who takes connections to an address; of several that share it, the seed chooses.
    fn listener_at(&mut self, target: SocketAddr) -> Option<ObjectId> {
        let accepts = |id: &&ObjectId| {
            self.objects.get_as::<Listener>(**id).is_some_and(|listener| listener.accepts(target))
        };
        let found: Vec<ObjectId> =
            self.network.listeners(target.port()).iter().filter(accepts).copied().collect();
        let last = found.len().checked_sub(1)?;
        let index = if last == 0 { 0 } else { self.random.up_to(last as u64) as usize };
        Some(found[index])
    }

    /// What a partition held up goes on, as far as it can.
    pub(super) fn resume_held(&mut self) {
        let now_ns = self.now();
        for (object, step) in self.network.take_held() {
            self.schedule(now_ns, SimEvent::Handshake(object, step));
        }
        for id in self.objects.ids() {
            if self.objects.get(id).is_some_and(|object| object.kind.has_coming()) {
                self.schedule(now_ns, SimEvent::Arrive(id));
            }
        }
    }
}
