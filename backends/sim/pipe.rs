//! The two ends of a pipe: a state machine each. What is written is there to be read at once.

use super::effect::{Closing, Effect, Effects, Errno, Interest, ObjectId, Path, Segment};
use super::file_system::FileSystem;
use super::inbox::{Inbox, Tail};
use super::object::{Admission, Gather, Received, Room, Sent, Share, SimObject, View};
use super::poll;
use super::request::{Position, Transfer};
use crate::sys::errno;
use crate::sys::metadata::{FileKind, Stat};
use crate::sys::poll::{POLLERR, POLLHUP};

fn stat() -> Stat {
    Stat { kind: FileKind::Pipe, permissions: 0o600, ..Stat::default() }
}

/// Where an operation waits at an end that can be read from or written to, but not both.
fn admit(transfer: Transfer, interest: Interest) -> Admission {
    match (transfer, interest) {
        (Transfer::Accept | Transfer::Receive | Transfer::Send, _) => Admission::Refused(errno::ENOTSOCK),
        (Transfer::Read(Position::At(_)) | Transfer::Write(Position::At(_)), _) => {
            Admission::Refused(errno::ESPIPE)
        }
        (Transfer::Read(Position::Cursor), Interest::Read)
        | (Transfer::Write(Position::Cursor), Interest::Write) => Admission::WhenReady(interest),
        (Transfer::Read(Position::Cursor), Interest::Write)
        | (Transfer::Write(Position::Cursor), Interest::Read) => Admission::Refused(errno::EBADF),
    }
}

/// The end to read from.
#[derive(Debug)]
pub(super) struct PipeReader {
    writer: ObjectId,
    inbox: Inbox,
}

impl PipeReader {
    pub(super) fn new(writer: ObjectId) -> PipeReader {
        PipeReader { writer, inbox: Inbox::default() }
    }
}

impl SimObject for PipeReader {
    fn stat(&self, _files: &FileSystem) -> Stat {
        stat()
    }

    fn admit(&self, transfer: Transfer) -> Admission {
        admit(transfer, Interest::Read)
    }

    fn is_ready(&self, interest: Interest, _view: &View) -> bool {
        match interest {
            Interest::Read => self.inbox.is_readable(),
            Interest::Write => false,
        }
    }

    /// An end without a writer has hung up, and can be read only as long as there is something: poll(2).
    fn poll_events(&self, _view: &View) -> i32 {
        let hang_up = match self.inbox.tail() {
            Tail::Open => 0,
            Tail::Ended => i32::from(POLLHUP),
        };
        poll::ready_events(self.inbox.len() > 0, false) | hang_up
    }

    fn peer(&self) -> Option<ObjectId> {
        Some(self.writer)
    }

    fn room(&self, buffer_bytes: usize) -> usize {
        self.inbox.room(buffer_bytes)
    }

    fn receive(&mut self, _view: &View, share: Share, room: Room<'_>) -> Result<Received, Errno> {
        let there = self.inbox.len();
        if there == 0 {
            return Ok(Received { bytes: Vec::new(), effects: Effects::NONE });
        }
        let bytes = self.inbox.take(share.of(room()?.min(there)));
        Ok(Received { bytes, effects: Effects::one(Effect::WakeWriters(self.writer)) })
    }

    fn expect(&mut self, at_ns: u64, segment: Segment) -> Option<u64> {
        Some(self.inbox.expect(at_ns, segment))
    }

    fn has_coming(&self) -> bool {
        self.inbox.has_coming()
    }

    fn arrive(&mut self, view: &View) -> Effects {
        // A pipe has no connection that could be reset.
        let _ordinary = self.inbox.take_arrived(view.now_ns);
        let figure = self.inbox.len() as i64;
        vec![Effect::Note { what: "arrive", which: view.id, figure }, Effect::Wake(view.id)].into()
    }

    fn close(&mut self, _id: ObjectId, _closing: Closing) -> Effects {
        let unread = self.inbox.unread();
        vec![Effect::PeerClosed { object: self.writer, unread }, Effect::Wake(self.writer)].into()
    }
}

/// Whether anything can be read at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readers {
    Present,
    Gone,
}

/// The end to write to.
#[derive(Debug)]
pub(super) struct PipeWriter {
    reader: ObjectId,
    readers: Readers,
}

impl PipeWriter {
    pub(super) fn new(reader: ObjectId) -> PipeWriter {
        PipeWriter { reader, readers: Readers::Present }
    }

    /// How much room there is at the other end.
    fn room(&self, view: &View) -> Result<usize, Errno> {
        match self.readers {
            Readers::Present => view.peer_room.ok_or(errno::EPIPE),
            Readers::Gone => Err(errno::EPIPE),
        }
    }
}

impl SimObject for PipeWriter {
    fn stat(&self, _files: &FileSystem) -> Stat {
        stat()
    }

    fn admit(&self, transfer: Transfer) -> Admission {
        admit(transfer, Interest::Write)
    }

    fn is_ready(&self, interest: Interest, view: &View) -> bool {
        match interest {
            Interest::Read => false,
            Interest::Write => self.room(view) != Ok(0),
        }
    }

    /// An end that is read by no one is in error, and a write does not wait: poll(2).
    fn poll_events(&self, view: &View) -> i32 {
        let error = match self.readers {
            Readers::Present => 0,
            Readers::Gone => i32::from(POLLERR),
        };
        poll::ready_events(false, self.is_ready(Interest::Write, view)) | error
    }

    fn peer(&self) -> Option<ObjectId> {
        Some(self.reader)
    }

    fn send(&mut self, view: &View, len: usize, share: Share, gather: Gather<'_>) -> Result<Sent, Errno> {
        let count = share.of(len.min(self.room(view)?));
        let segment = Segment::Data(gather(count));
        let effect = Effect::Send { to: self.reader, segment, path: Path::Local };
        Ok(Sent { count, effects: Effects::one(effect) })
    }

    fn peer_closed(&mut self, _unread: usize) {
        self.readers = Readers::Gone;
    }

    fn close(&mut self, _id: ObjectId, _closing: Closing) -> Effects {
        match self.readers {
            Readers::Present => {
                let end = Effect::Send { to: self.reader, segment: Segment::End, path: Path::Local };
                vec![end, Effect::Wake(self.reader)].into()
            }
            Readers::Gone => Effects::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READER: ObjectId = ObjectId(1);
    const WRITER: ObjectId = ObjectId(2);

    fn view(id: ObjectId, peer_room: Option<usize>) -> View {
        View { id, now_ns: 0, buffer_bytes: 8, peer_room }
    }

    // poll(2), pipe(7).
    #[test]
    fn a_reader_has_input_as_long_as_there_is_some_and_has_hung_up_without_a_writer() {
        let (mut reader, view) = (PipeReader::new(WRITER), view(READER, Some(0)));
        assert_eq!(reader.poll_events(&view), 0);
        reader.expect(0, Segment::Data(b"abc".to_vec()));
        reader.expect(0, Segment::End);
        let _woken = reader.arrive(&view);
        let (input, hang_up) = (poll::ready_events(true, false), i32::from(POLLHUP));
        assert_eq!(reader.poll_events(&view), input | hang_up);
        let received = reader.receive(&view, Share::ALL, &mut || Ok(8)).unwrap();
        assert_eq!(received.bytes, b"abc");
        assert_eq!(received.effects, Effects::one(Effect::WakeWriters(WRITER)));
        assert_eq!(reader.poll_events(&view), hang_up);
        assert!(reader.is_ready(Interest::Read, &view), "a read gives the end");
    }

    #[test]
    fn a_writer_waits_for_room_and_is_in_error_without_a_reader() {
        let (mut writer, output) = (PipeWriter::new(READER), poll::ready_events(false, true));
        assert_eq!(writer.poll_events(&view(WRITER, Some(0))), 0);
        assert_eq!(writer.poll_events(&view(WRITER, Some(1))), output);
        writer.peer_closed(0);
        let alone = view(WRITER, None);
        assert_eq!(writer.poll_events(&alone), output | i32::from(POLLERR));
        let sent = writer.send(&alone, 3, Share::ALL, &mut |_| unreachable!("nothing is sent"));
        assert_eq!(sent.unwrap_err(), errno::EPIPE);
    }
}
