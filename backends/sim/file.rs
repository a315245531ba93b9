//! Operations on files: between the memory of operations and the state machines of [`open_file`](super::open_file).

#![allow(unsafe_code)]

use std::ffi::CStr;

use super::effect::{Ending, Errno, ObjectId};
use super::kernel::Kernel;
use super::object::Share;
use super::open_file::{DiskFault, OpenFile};
use super::request::Position;
use super::transfer;
use crate::op::RawOp;
use crate::sys::RawDescriptor;
use crate::sys::errno;

/// Whether an access brings bytes or takes them: each has faults of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl Kernel {
    pub(super) fn perform_open(&mut self, raw: &RawOp) -> Ending {
        // SAFETY: S6: the operation borrows the path, a C string.
        let path = unsafe { CStr::from_ptr(raw.as_open().path) };
        match self.open(path, raw.as_open().flags, raw.as_open().mode) {
            Ok((fd, id)) => Ending::descriptor(fd, id),
            Err(errno) => Ending::failed(errno),
        }
    }

    pub(super) fn open(
        &mut self,
        path: &CStr,
        flags: i32,
        mode: u32,
    ) -> Result<(RawDescriptor, ObjectId), Errno> {
        let now_ns = self.now();
        let file = self.files.open(path.to_bytes(), flags, mode, now_ns)?;
        let id = self.add_object(file);
        match self.add_descriptor(id, None) {
            Ok(fd) => Ok((fd, id)),
            Err(error) => {
                self.objects.remove(id);
                Err(error.raw_os_error().unwrap_or(errno::EMFILE))
            }
        }
    }

    /// What the disk does with one access, and with how much of it.
    fn draw_disk(&mut self, access: Access) -> (DiskFault, Share) {
        let faults = &self.options.faults;
        let (io_error, no_space) = (faults.io_error, faults.no_space);
        let short = match access {
            Access::Read => faults.short_read,
            Access::Write => faults.short_write,
        };
        let fails = self.random.chance(io_error);
        let full = access == Access::Write && self.random.chance(no_space);
        let fault = match (fails, full) {
            (true, _) => DiskFault::Fails,
            (false, true) => DiskFault::Full,
            (false, false) => DiskFault::None,
        };
        (fault, self.draw_share(short))
    }

    pub(super) fn perform_metadata(&mut self, id: ObjectId, raw: &RawOp) -> Result<i32, Errno> {
        // It never fails, but takes the same numbers as every access.
        let _fault = self.draw_disk(Access::Read);
        let stat = self.objects.get(id).ok_or(errno::EINVAL)?.kind.stat(&self.files);
        // SAFETY: S6: the operation borrows the record.
        unsafe { transfer::put_metadata(raw, stat) };
        Ok(0)
    }

    pub(super) fn perform_sync(&mut self, id: ObjectId) -> Result<i32, Errno> {
        let (fault, _share) = self.draw_disk(Access::Read);
        let file = self.objects.get_as::<OpenFile>(id).ok_or(errno::EINVAL)?;
        file.sync(&mut self.files, fault).map(|()| 0)
    }

    pub(super) fn perform_read(
        &mut self,
        id: ObjectId,
        position: Position,
        raw: &RawOp,
    ) -> Result<i32, Errno> {
        let (fault, share) = self.draw_disk(Access::Read);
        let file = self.objects.get_mut_as::<OpenFile>(id).ok_or(errno::EINVAL)?;
        // SAFETY: S3: the operation is in flight.
        let len = unsafe { transfer::room(raw) };
        let bytes = file.read(&self.files, position, len, share, fault)?;
        // SAFETY: S3: the operation is in flight, and its buffers have that much room.
        unsafe { transfer::scatter(raw, &bytes) };
        Ok(bytes.len() as i32)
    }

    pub(super) fn perform_write(
        &mut self,
        id: ObjectId,
        position: Position,
        raw: &RawOp,
    ) -> Result<i32, Errno> {
        let (fault, share) = self.draw_disk(Access::Write);
        let now_ns = self.now();
        let file = self.objects.get_mut_as::<OpenFile>(id).ok_or(errno::EINVAL)?;
        // SAFETY: S3: the operation is in flight, and its buffers have that much room.
        let mut gather = |count| unsafe { transfer::gather(raw, count) };
        // SAFETY: S3: the operation is in flight.
        let len = unsafe { transfer::room(raw) };
        let bytes = (len, &mut gather as &mut dyn FnMut(usize) -> Vec<u8>);
        let sent = file.write(&mut self.files, position, bytes, share, fault, now_ns)?;
        self.apply(sent.effects);
        Ok(sent.count as i32)
    }
}
