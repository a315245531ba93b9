//! One end of a TCP connection: a state machine, which sees of the other end no more than how much room it has.

use std::net::{Shutdown, SocketAddr};

use super::effect::{
    Closing, Effect, Effects, Ending, Errno, Handshake, Interest, ObjectId, OpSeq, Path, Segment, SimEvent,
};
use super::file_system::FileSystem;
use super::inbox::{Arrival, Inbox, Tail};
use super::object::{Admission, Gather, Received, Room, Sent, Share, SimObject, View};
use super::poll;
use super::request::{Position, Transfer};
use crate::sys;
use crate::sys::errno;
use crate::sys::metadata::{FileKind, Stat};
use crate::sys::poll::{POLLERR, POLLHUP, POLLRDHUP};

/// When a connection request that found the backlog full is sent again first: `TCP_TIMEOUT_INIT` of Linux.
const REQUEST_AGAIN_NS: u64 = 1_000_000_000;
/// How often it is sent again: tcp(7), `tcp_syn_retries`.
const REQUESTS_MAX: u8 = 6;

/// How far an end is with its connection.
#[derive(Debug)]
enum Connect {
    /// The request is on its way, for an operation or for a peer, and was sent again this many times.
    Requested { op: Option<OpSeq>, tries: u8 },
    /// It is as it will be.
    Done(Result<(), Errno>),
}

/// Whether the connection still stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Up,
    /// It was torn down. The next transfer that finds nothing is told.
    Reset,
    /// It was torn down, and a transfer was told.
    Down,
}

/// One direction, as this end has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Open,
    Shut,
}

#[derive(Debug)]
pub(super) struct Stream {
    local: SocketAddr,
    remote: SocketAddr,
    connect: Connect,
    link: Link,
    /// The other end. It may be gone.
    peer: Option<ObjectId>,
    inbox: Inbox,
    reads: Half,
    writes: Half,
    /// Bytes that fill the room of an end that is gone: they will not be read.
    lost_bytes: usize,
}

impl Stream {
    fn new(local: SocketAddr, remote: SocketAddr, connect: Connect, peer: Option<ObjectId>) -> Stream {
        Stream {
            local,
            remote,
            connect,
            link: Link::Up,
            peer,
            inbox: Inbox::default(),
            reads: Half::Open,
            writes: Half::Open,
            lost_bytes: 0,
        }
    }

    /// An end whose connection request is on its way, for an operation or for a peer.
    pub(super) fn connecting(local: SocketAddr, remote: SocketAddr, op: Option<OpSeq>) -> Stream {
        Stream::new(local, remote, Connect::Requested { op, tries: 0 }, None)
    }

    /// The end at the listener.
    pub(super) fn accepted(local: SocketAddr, remote: SocketAddr, peer: ObjectId) -> Stream {
        Stream::new(local, remote, Connect::Done(Ok(())), Some(peer))
    }

    pub(super) fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (self.local, self.remote)
    }

    // ---- connecting

    /// The operation that waits for the connection; `None` if it is as it will be.
    pub(super) fn requested_by(&self) -> Option<Option<OpSeq>> {
        match self.connect {
            Connect::Requested { op, .. } => Some(op),
            Connect::Done(_) => None,
        }
    }

    /// How connecting went; `None` as long as that is not known.
    pub(super) fn connected(&self) -> Option<Result<(), Errno>> {
        match self.connect {
            Connect::Requested { .. } => None,
            Connect::Done(result) => Some(result),
        }
    }

    /// A listener has taken the request.
    pub(super) fn meet(&mut self, peer: ObjectId) {
        self.peer = Some(peer);
    }

    /// The request found no room, and is sent again: after one second, two, four, … as tcp(7) has it.
    pub(super) fn request_again(&mut self, view: &View) -> Effects {
        let Connect::Requested { tries, .. } = &mut self.connect else { return Effects::NONE };
        let at_ns = view.now_ns.saturating_add(REQUEST_AGAIN_NS << *tries);
        *tries += 1;
        let is_last = *tries > REQUESTS_MAX;
        let step = if is_last { Handshake::Refusal(errno::ETIMEDOUT) } else { Handshake::Request };
        Effects::one(Effect::Schedule { at_ns, event: SimEvent::Handshake(view.id, step) })
    }

    /// The connection is as it will be.
    pub(super) fn conclude(&mut self, result: Result<(), Errno>) -> Effects {
        match std::mem::replace(&mut self.connect, Connect::Done(result)) {
            Connect::Requested { op: Some(op), .. } => {
                Effects::one(Effect::Complete(op, Ending::of(result.map(|()| 0))))
            }
            Connect::Requested { op: None, .. } | Connect::Done(_) => Effects::NONE,
        }
    }

    // ---- the end of it

    /// The connection is torn down. What was received before can still be read.
    fn tear_down(&mut self) {
        self.link = Link::Reset;
        self.inbox.cut_off();
    }

    /// What the next transfer fails with, which is told once.
    fn take_error(&mut self) -> Option<Errno> {
        match self.link {
            Link::Reset => {
                self.link = Link::Down;
                Some(errno::ECONNRESET)
            }
            Link::Up | Link::Down => None,
        }
    }

    /// Resets this end, if it is one of a connection between two hosts.
    pub(super) fn reset_between(&mut self, id: ObjectId, hosts: [std::net::IpAddr; 2]) -> Option<Effects> {
        let ends = [self.local, self.remote].map(|address| address.ip().to_canonical());
        let [one, other] = ends;
        if self.peer.is_none() || self.link != Link::Up || (hosts != ends && hosts != [other, one]) {
            return None;
        }
        self.tear_down();
        Some(vec![Effect::Note { what: "reset", which: id, figure: 0 }, Effect::Wake(id)].into())
    }
}

impl SimObject for Stream {
    fn stat(&self, _files: &FileSystem) -> Stat {
        Stat { kind: FileKind::Socket, permissions: 0o777, ..Stat::default() }
    }

    fn admit(&self, transfer: Transfer) -> Admission {
        match transfer {
            Transfer::Accept => Admission::Refused(errno::EINVAL),
            Transfer::Receive | Transfer::Read(Position::Cursor) => Admission::WhenReady(Interest::Read),
            Transfer::Send | Transfer::Write(Position::Cursor) => Admission::WhenReady(Interest::Write),
            Transfer::Read(Position::At(_)) | Transfer::Write(Position::At(_)) => {
                Admission::Refused(errno::ESPIPE)
            }
        }
    }

    fn is_ready(&self, interest: Interest, view: &View) -> bool {
        match interest {
            Interest::Read => self.inbox.is_readable() || self.link != Link::Up || self.reads == Half::Shut,
            Interest::Write if self.link != Link::Up || self.writes == Half::Shut => true,
            Interest::Write => match view.peer_room {
                Some(room) => room > 0,
                None => self.lost_bytes < view.buffer_bytes,
            },
        }
    }

    fn poll_events(&self, view: &View) -> i32 {
        let reads = self.is_ready(Interest::Read, view);
        let mut events = poll::ready_events(reads, self.is_ready(Interest::Write, view));
        let is_down = self.link != Link::Up;
        let has_ended = self.inbox.tail() == Tail::Ended;
        if has_ended || is_down {
            events |= i32::from(POLLRDHUP);
        }
        if self.link == Link::Reset {
            events |= i32::from(POLLERR);
        }
        if is_down || has_ended && self.writes == Half::Shut {
            events |= i32::from(POLLHUP);
        }
        events
    }

    fn peer(&self) -> Option<ObjectId> {
        self.peer
    }

    fn room(&self, buffer_bytes: usize) -> usize {
        self.inbox.room(buffer_bytes)
    }

    fn local_addr(&self) -> Result<SocketAddr, Errno> {
        Ok(self.local)
    }

    fn peer_addr(&self) -> Result<SocketAddr, Errno> {
        let is_connected = self.peer.is_some() && self.link == Link::Up;
        if is_connected { Ok(self.remote) } else { Err(errno::ENOTCONN) }
    }

    fn receive(&mut self, _view: &View, share: Share, room: Room<'_>) -> Result<Received, Errno> {
        let there = self.inbox.len();
        if there == 0 {
            let end = Received { bytes: Vec::new(), effects: Effects::NONE };
            return self.take_error().map_or(Ok(end), Err);
        }
        let bytes = self.inbox.take(share.of(room()?.min(there)));
        let effects = self.peer.map_or(Effects::NONE, |peer| Effects::one(Effect::WakeWriters(peer)));
        Ok(Received { bytes, effects })
    }

    fn send(&mut self, view: &View, len: usize, share: Share, gather: Gather<'_>) -> Result<Sent, Errno> {
        if let Some(errno) = self.take_error() {
            return Err(errno);
        }
        let Some(peer) = self.peer.filter(|_| self.link == Link::Up && self.writes == Half::Open) else {
            return Err(errno::EPIPE);
        };
        let send = |to, segment| Effects::one(Effect::Send { to, segment, path: Path::Network });
        let Some(room) = view.peer_room else {
            // The kernel takes what it has room for, and the other side answers that there is no such
            // connection.
            let count = share.of(len.min(view.buffer_bytes.saturating_sub(self.lost_bytes)));
            self.lost_bytes += count;
            return Ok(Sent { count, effects: send(view.id, Segment::Reset) });
        };
        let count = share.of(len.min(room));
        Ok(Sent { count, effects: send(peer, Segment::Data(gather(count))) })
    }

    fn shutdown(&mut self, view: &View, how: i32) -> Result<Effects, Errno> {
        let peer = self.peer.filter(|_| self.link == Link::Up).ok_or(errno::ENOTCONN)?;
        let how = sys::socket::shutdown_of(how);
        if matches!(how, Some(Shutdown::Read | Shutdown::Both)) {
            self.reads = Half::Shut;
        }
        let mut effects = Vec::new();
        if matches!(how, Some(Shutdown::Write | Shutdown::Both)) && self.writes == Half::Open {
            self.writes = Half::Shut;
            effects.push(Effect::Send { to: peer, segment: Segment::End, path: Path::Network });
        }
        effects.push(Effect::Wake(view.id));
        Ok(effects.into())
    }

    fn fail_connection(&mut self, view: &View) -> Option<Effects> {
        if self.link != Link::Up {
            return None;
        }
        self.tear_down();
        // The transfer that meets it is told.
        self.link = Link::Down;
        let tell = |to| Effect::Send { to, segment: Segment::Reset, path: Path::Network };
        Some(self.peer.map(tell).into_iter().chain([Effect::Wake(view.id)]).collect::<Vec<_>>().into())
    }

    fn route(&self) -> Option<(SocketAddr, SocketAddr)> {
        Some(self.addresses())
    }

    fn expect(&mut self, at_ns: u64, segment: Segment) -> Option<u64> {
        (self.link == Link::Up).then(|| self.inbox.expect(at_ns, segment))
    }

    fn has_coming(&self) -> bool {
        self.inbox.has_coming()
    }

    fn arrive(&mut self, view: &View) -> Effects {
        if self.inbox.take_arrived(view.now_ns) == Arrival::Reset {
            self.tear_down();
        }
        let figure = self.inbox.len() as i64;
        vec![Effect::Note { what: "arrive", which: view.id, figure }, Effect::Wake(view.id)].into()
    }

    fn peer_closed(&mut self, unread: usize) {
        self.lost_bytes = unread;
    }

    fn close(&mut self, _id: ObjectId, closing: Closing) -> Effects {
        let Some(peer) = self.peer.filter(|_| self.link == Link::Up) else { return Effects::NONE };
        let unread = self.inbox.unread();
        let mut effects = vec![Effect::PeerClosed { object: peer, unread }];
        let segment = match closing {
            Closing::Orderly if unread == 0 => (self.writes == Half::Open).then_some(Segment::End),
            Closing::Orderly | Closing::Reset => Some(Segment::Reset),
        };
        effects.extend(segment.map(|segment| Effect::Send { to: peer, segment, path: Path::Network }));
        // What waits for room waits no more.
        effects.push(Effect::Wake(peer));
        effects.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ObjectId = ObjectId(1);
    const PEER: ObjectId = ObjectId(2);

    fn view(peer_room: Option<usize>) -> View {
        View { id: ID, now_ns: 0, buffer_bytes: 8, peer_room }
    }

    fn stream() -> Stream {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        Stream::accepted(address, address, PEER)
    }

    fn send(segment: Segment) -> Effect {
        Effect::Send { to: PEER, segment, path: Path::Network }
    }

    #[test]
    fn a_send_is_what_the_peer_has_room_for() {
        let sent = stream().send(&view(Some(3)), 5, Share::ALL, &mut |count| b"hello"[..count].to_vec());
        let Sent { count, effects } = sent.unwrap();
        assert_eq!((count, effects), (3, Effects::one(send(Segment::Data(b"hel".to_vec())))));
    }

    #[test]
    fn an_end_that_is_closed_with_unread_bytes_resets_the_other() {
        for (bytes, segment) in [(0, Segment::End), (2, Segment::Reset)] {
            let mut stream = stream();
            stream.expect(0, Segment::Data(vec![0; bytes]));
            let effects = stream.close(ID, Closing::Orderly);
            let closed = Effect::PeerClosed { object: PEER, unread: bytes };
            assert_eq!(effects, vec![closed, send(segment), Effect::Wake(PEER)].into());
        }
    }

    #[test]
    fn a_reset_is_told_once_and_after_what_had_arrived() {
        let (mut stream, view) = (stream(), view(Some(8)));
        stream.expect(0, Segment::Data(b"a".to_vec()));
        stream.expect(0, Segment::Reset);
        let _woken = stream.arrive(&view);
        let mut receive = || stream.receive(&view, Share::ALL, &mut || Ok(8)).map(|received| received.bytes);
        assert_eq!(
            [receive(), receive(), receive()],
            [Ok(b"a".to_vec()), Err(errno::ECONNRESET), Ok(vec![])]
        );
    }

    #[test]
    fn a_request_is_sent_again_six_times() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let mut stream = Stream::connecting(address, address, None);
        let steps: Vec<_> = (0..7).map(|_| stream.request_again(&view(None))).collect();
        let again = |at_s: u64, step| {
            let event = SimEvent::Handshake(ID, step);
            Effects::one(Effect::Schedule { at_ns: at_s * 1_000_000_000, event })
        };
        let requests = [1, 2, 4, 8, 16, 32].map(|at_s| again(at_s, Handshake::Request));
        assert_eq!(steps[..6], requests);
        assert_eq!(steps[6], again(64, Handshake::Refusal(errno::ETIMEDOUT)));
    }
}
