//! A listening socket, and the connections that were not accepted yet: a state machine.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use super::effect::{Closing, Effect, Effects, Errno, Interest, ObjectId};
use super::file_system::FileSystem;
use super::network::mapped;
use super::object::{Admission, SimObject, View};
use super::request::Transfer;
use super::stream::Stream;
use crate::sim_hooks::Listen;
use crate::sys::RawDescriptor;
use crate::sys::errno;
use crate::sys::metadata::{FileKind, Stat};

#[derive(Debug)]
pub(super) struct Listener {
    host: IpAddr,
    address: SocketAddr,
    options: Listen,
    /// The real socket that has its options.
    pub(super) fd: Option<RawDescriptor>,
    /// Connections that were not accepted yet.
    pending: VecDeque<ObjectId>,
}

impl Listener {
    pub(super) fn new(host: IpAddr, address: SocketAddr, options: Listen) -> Listener {
        Listener { host, address, options, fd: None, pending: VecDeque::new() }
    }

    /// Whether connections to this address come here.
    pub(super) fn accepts(&self, target: SocketAddr) -> bool {
        let ip = self.address.ip();
        if self.address.port() != target.port() || ip == target.ip() {
            return self.address.port() == target.port();
        }
        let speaks = ip.is_ipv4() == target.is_ipv4() || (ip.is_ipv6() && !self.options.only_v6);
        let is_here = self.host.is_loopback() || target.ip().is_loopback() || target.ip() == self.host;
        ip.is_unspecified() && speaks && is_here
    }

    /// Whether another listener on a host may not have this address.
    pub(super) fn conflicts(&self, host: IpAddr, address: SocketAddr, options: Listen) -> bool {
        let (ours, theirs) = (self.address.ip(), address.ip());
        let any = ours.is_unspecified() || theirs.is_unspecified();
        let both_families = ours.is_ipv4() == theirs.is_ipv4();
        self.address.port() == address.port()
            && (ours == theirs || any && both_families)
            && (self.host == host || !any)
            && !(self.options.reuse_port && options.reuse_port)
    }

    /// Answers a connection request: with this side's end of the connection, or `None` if the backlog is full.
    pub(super) fn answer(&self, from: SocketAddr, to: SocketAddr, peer: ObjectId) -> Option<Stream> {
        if self.pending.len() > usize::try_from(self.options.backlog).unwrap_or(0) {
            return None;
        }
        // An IPv6 socket knows IPv4 addresses as mapped ones: ipv6(7).
        let maps = self.address.is_ipv6();
        Some(Stream::accepted(mapped(to, maps), mapped(from, maps), peer))
    }

    pub(super) fn push(&mut self, connection: ObjectId) {
        self.pending.push_back(connection);
    }

    pub(super) fn pop(&mut self) -> Option<ObjectId> {
        self.pending.pop_front()
    }

    /// A connection could not be accepted, and is the next again.
    pub(super) fn put_back(&mut self, connection: ObjectId) {
        self.pending.push_front(connection);
    }
}

impl SimObject for Listener {
    fn stat(&self, _files: &FileSystem) -> Stat {
        Stat { kind: FileKind::Socket, permissions: 0o777, ..Stat::default() }
    }

    fn admit(&self, transfer: Transfer) -> Admission {
        match transfer {
            Transfer::Accept => Admission::WhenReady(Interest::Read),
            Transfer::Receive | Transfer::Send => Admission::Refused(errno::ENOTCONN),
            Transfer::Read(_) | Transfer::Write(_) => Admission::AfterLatency,
        }
    }

    fn is_ready(&self, interest: Interest, _view: &View) -> bool {
        match interest {
            Interest::Read => !self.pending.is_empty(),
            Interest::Write => false,
        }
    }

    fn local_addr(&self) -> Result<SocketAddr, Errno> {
        Ok(self.address)
    }

    fn peer_addr(&self) -> Result<SocketAddr, Errno> {
        Err(errno::ENOTCONN)
    }

    fn close(&mut self, id: ObjectId, _closing: Closing) -> Effects {
        let pending = self.pending.drain(..).map(|pending| Effect::Close(pending, Closing::Reset));
        let mut effects = vec![Effect::Unlisten { listener: id, port: self.address.port() }];
        effects.extend(pending);
        effects.into()
    }
}
