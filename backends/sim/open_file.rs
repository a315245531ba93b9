//! A file that is open: a state machine, over the file system that the file is in.

use super::effect::{Effect, Effects, Errno, Interest};
use super::file_system::{DIRECTORY, FileSystem};
use super::object::{Admission, Gather, Sent, Share, SimObject, View};
use super::request::{Position, Transfer};
use crate::sys::errno;
use crate::sys::file::Opening;
use crate::sys::metadata::Stat;

/// What a disk does beside what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiskFault {
    None,
    /// There is no room for a write.
    Full,
    Fails,
}

#[derive(Debug)]
pub(super) struct OpenFile {
    inode: u64,
    cursor: u64,
    how: Opening,
}

impl OpenFile {
    pub(super) fn new(inode: u64, how: Opening) -> OpenFile {
        OpenFile { inode, cursor: 0, how }
    }

    fn reads(&self) -> bool {
        self.how.read
    }

    fn writes(&self) -> bool {
        self.how.write
    }

    pub(super) fn sync(&self, files: &mut FileSystem, fault: DiskFault) -> Result<(), Errno> {
        if fault == DiskFault::Fails {
            return Err(errno::EIO);
        }
        files.sync(self.inode);
        Ok(())
    }

    /// Reads up to `len` bytes.
    pub(super) fn read(
        &mut self,
        files: &FileSystem,
        position: Position,
        len: usize,
        share: Share,
        fault: DiskFault,
    ) -> Result<Vec<u8>, Errno> {
        if fault == DiskFault::Fails {
            return Err(errno::EIO);
        }
        if !self.reads() {
            return Err(errno::EBADF);
        }
        if self.inode == DIRECTORY {
            return Err(errno::EISDIR);
        }
        let offset = match position {
            Position::Cursor => self.cursor,
            Position::At(offset) => offset,
        };
        let mut bytes = files.read(self.inode, offset, len);
        bytes.truncate(share.of(bytes.len()));
        if position == Position::Cursor {
            self.cursor += bytes.len() as u64;
        }
        Ok(bytes)
    }

    /// Writes a part of `len` bytes.
    pub(super) fn write(
        &mut self,
        files: &mut FileSystem,
        position: Position,
        (len, gather): (usize, Gather<'_>),
        share: Share,
        fault: DiskFault,
        now_ns: u64,
    ) -> Result<Sent, Errno> {
        if fault == DiskFault::Fails {
            return Err(errno::EIO);
        }
        if !self.writes() {
            return Err(errno::EBADF);
        }
        if fault == DiskFault::Full {
            return Err(errno::ENOSPC);
        }
        let offset = match position {
            _ if self.how.append => files.stat(self.inode).size,
            Position::Cursor => self.cursor,
            Position::At(offset) => offset,
        };
        let share = share.of(len);
        let room = if share == 0 { 0 } else { files.room(self.inode, offset, share)? };
        let bytes = gather(room);
        files.write(self.inode, offset, &bytes, now_ns)?;
        if position == Position::Cursor {
            self.cursor = offset + bytes.len() as u64;
        }
        Ok(Sent { count: bytes.len(), effects: Effects::one(Effect::NoteBytes(bytes)) })
    }
}

impl SimObject for OpenFile {
    fn stat(&self, files: &FileSystem) -> Stat {
        files.stat(self.inode)
    }

    fn admit(&self, transfer: Transfer) -> Admission {
        match transfer {
            Transfer::Accept | Transfer::Receive | Transfer::Send => Admission::Refused(errno::ENOTSOCK),
            // At the position of a file there is one at a time: it begins where the one before it ended.
            Transfer::Read(Position::Cursor) | Transfer::Write(Position::Cursor) => Admission::InTurn,
            Transfer::Read(Position::At(_)) | Transfer::Write(Position::At(_)) => Admission::AfterLatency,
        }
    }

    fn is_ready(&self, _interest: Interest, _view: &View) -> bool {
        true
    }
}
