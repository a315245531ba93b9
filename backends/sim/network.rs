//! What is between sockets: addresses, ports, partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::effect::{Handshake, ObjectId};

/// What is not part of a single socket.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// Listeners by port, oldest first.
    listeners: BTreeMap<u16, Vec<ObjectId>>,
    partitions: BTreeSet<(IpAddr, IpAddr)>,
    ports: u16,
    /// Connection requests and their answers that a partition holds up.
    held: Vec<(ObjectId, Handshake)>,
}

/// An address as a socket of the other family has it.
pub(super) fn mapped(address: SocketAddr, is_mapped: bool) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if is_mapped => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}

impl Network {
    /// The listeners of a port, oldest first.
    pub(super) fn listeners(&self, port: u16) -> &[ObjectId] {
        self.listeners.get(&port).map_or(&[], Vec::as_slice)
    }

    pub(super) fn add_listener(&mut self, listener: ObjectId, port: u16) {
        self.listeners.entry(port).or_default().push(listener);
    }

    pub(super) fn unlisten(&mut self, listener: ObjectId, port: u16) {
        if let Some(listeners) = self.listeners.get_mut(&port) {
            listeners.retain(|other| *other != listener);
            if listeners.is_empty() {
                self.listeners.remove(&port);
            }
        }
    }

    /// A step of a connection has to wait for the end of a partition.
    pub(super) fn hold(&mut self, object: ObjectId, step: Handshake) {
        self.held.push((object, step));
    }

    pub(super) fn take_held(&mut self) -> Vec<(ObjectId, Handshake)> {
        std::mem::take(&mut self.held)
    }

    /// A port that has not been used for a while.
    pub(super) fn next_port(&mut self) -> u16 {
        const FIRST: u16 = 32_768;
        const COUNT: u16 = 28_232;
        loop {
            let port = FIRST + self.ports;
            self.ports = (self.ports + 1) % COUNT;
            if !self.listeners.contains_key(&port) {
                return port;
            }
        }
    }

    /// The address from which a host connects.
    pub(super) fn local_for(&mut self, host: IpAddr, target: SocketAddr) -> SocketAddr {
        let ip = match target {
            _ if !target.ip().is_loopback() && target.is_ipv4() == host.is_ipv4() => host,
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        SocketAddr::new(ip, self.next_port())
    }

    fn pair(a: IpAddr, b: IpAddr) -> (IpAddr, IpAddr) {
        (a.min(b), a.max(b))
    }

    pub(super) fn cut(&mut self, a: IpAddr, b: IpAddr) {
        self.partitions.insert(Network::pair(a, b));
    }

    pub(super) fn mend(&mut self, a: IpAddr, b: IpAddr) {
        self.partitions.remove(&Network::pair(a, b));
    }

    pub(super) fn is_cut(&self, a: SocketAddr, b: SocketAddr) -> bool {
        let (a, b) = (a.ip().to_canonical(), b.ip().to_canonical());
        !self.partitions.is_empty() && self.partitions.contains(&Network::pair(a, b))
    }
}
