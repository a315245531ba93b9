//! Virtual sockets: addresses, connections, packets on their way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::world::{ObjectId, OpSeq};
use crate::descriptor::RawDescriptor;
use crate::op::OpKind;

/// What is on its way to a socket.
#[derive(Debug)]
pub(super) enum Packet {
    Data(Vec<u8>),
    /// No more data comes.
    End,
    Reset,
}

/// How far a stream is with its connection.
#[derive(Debug)]
pub(super) enum Connect {
    /// The request is on its way, for an operation or for a peer, and was sent again so many times.
    Requested { seq: Option<OpSeq>, tries: u8 },
    /// It is as it will be: a negative errno if there is none.
    Done(i32),
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) connect: Connect,
    /// It is one end of a pipe, and has no addresses to speak of.
    pub(super) is_pipe: bool,
    /// Bytes that fill the room of an end that is gone: nobody will take them.
    pub(super) lost_bytes: usize,
    /// The other end. It may be gone.
    pub(super) peer: Option<ObjectId>,
    /// Packets that have not arrived, with the time at which they do.
    pub(super) coming: VecDeque<(u64, Packet)>,
    pub(super) coming_bytes: usize,
    /// When the last of them arrives: none overtakes another.
    pub(super) last_ns: u64,
    pub(super) received: VecDeque<u8>,
    /// The peer sends no more.
    pub(super) ended: bool,
    /// What the next transfer fails with.
    pub(super) error: Option<i32>,
    /// The connection is no more.
    pub(super) broken: bool,
    pub(super) shut_read: bool,
    pub(super) shut_write: bool,
}

impl Stream {
    pub(super) fn new(local: SocketAddr, remote: SocketAddr, peer: Option<ObjectId>) -> Stream {
        Stream {
            local,
            remote,
            connect: Connect::Done(0),
            is_pipe: false,
            lost_bytes: 0,
            peer,
            coming: VecDeque::new(),
            coming_bytes: 0,
            last_ns: 0,
            received: VecDeque::new(),
            ended: false,
            error: None,
            broken: false,
            shut_read: false,
            shut_write: false,
        }
    }

    /// A receive would not wait.
    pub(super) fn is_readable(&self) -> bool {
        !self.received.is_empty() || self.error.is_some() || self.ended || self.broken || self.shut_read
    }

    /// What read(2) or write(2) says to the wrong end of a pipe: a negative errno, or 0.
    pub(super) fn pipe_refusal(&self, kind: OpKind) -> i32 {
        let is_wrong = match kind {
            OpKind::Read | OpKind::ReadVectored => self.shut_read,
            _ => self.shut_write,
        };
        if self.is_pipe && is_wrong { -libc::EBADF } else { 0 }
    }

    /// Bytes that the peer may still send.
    pub(super) fn room(&self, buffer_bytes: usize) -> usize {
        buffer_bytes.saturating_sub(self.received.len() + self.coming_bytes)
    }

    /// Whether there is something that nobody will read now.
    pub(super) fn has_unread(&self) -> bool {
        !self.received.is_empty() || self.coming_bytes > 0
    }

    /// Takes the packets that have arrived.
    pub(super) fn take_arrived(&mut self, now_ns: u64) {
        while self.coming.front().is_some_and(|(at_ns, _)| *at_ns <= now_ns) {
            let Some((_, packet)) = self.coming.pop_front() else { return };
            match packet {
                Packet::Data(bytes) => {
                    self.coming_bytes -= bytes.len();
                    self.received.extend(bytes);
                }
                Packet::End => self.ended = true,
                Packet::Reset => self.reset(),
            }
        }
    }

    /// The connection is torn down. What was received before can still be read.
    pub(super) fn reset(&mut self) {
        self.error = Some(libc::ECONNRESET);
        self.broken = true;
        self.coming.clear();
        self.coming_bytes = 0;
    }
}

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) host: IpAddr,
    pub(super) address: SocketAddr,
    pub(super) backlog: usize,
    pub(super) reuse_port: bool,
    pub(super) only_v6: bool,
    /// The real socket that has its options.
    pub(super) fd: Option<RawDescriptor>,
    /// Connections that nobody has accepted.
    pub(super) pending: VecDeque<ObjectId>,
}

impl Listener {
    /// Whether connections to this address come here.
    pub(super) fn accepts(&self, target: SocketAddr) -> bool {
        let ip = self.address.ip();
        if self.address.port() != target.port() || ip == target.ip() {
            return self.address.port() == target.port();
        }
        let speaks = ip.is_ipv4() == target.is_ipv4() || (ip.is_ipv6() && !self.only_v6);
        let is_here = self.host.is_loopback() || target.ip().is_loopback() || target.ip() == self.host;
        ip.is_unspecified() && speaks && is_here
    }

    /// Whether another listener on a host may not have this address.
    pub(super) fn conflicts(&self, host: IpAddr, address: SocketAddr) -> bool {
        let (ours, theirs) = (self.address.ip(), address.ip());
        let any = ours.is_unspecified() || theirs.is_unspecified();
        let both_families = ours.is_ipv4() == theirs.is_ipv4();
        self.address.port() == address.port()
            && (ours == theirs || any && both_families)
            && (self.host == host || !any)
    }
}

/// What is not part of a single socket.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// Listeners by port, oldest first.
    pub(super) listeners: BTreeMap<u16, Vec<ObjectId>>,
    partitions: BTreeSet<(IpAddr, IpAddr)>,
    ports: u16,
    /// Connection requests and their answers that a partition holds up.
    pub(super) held: Vec<(ObjectId, bool)>,
}

/// An address as a socket of the other family has it.
pub(super) fn mapped(address: SocketAddr, is_mapped: bool) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if is_mapped => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        _ => address,
    }
}

impl Network {
    /// A port that nobody has had for a while.
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
