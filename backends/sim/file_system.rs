//! A file system in memory. Names are whole paths; a directory is there as long as a name goes through it.
//! What was written is durable when the file has been synced, the file's name with it.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::effect::Errno;
use super::open_file::OpenFile;
use super::random::Random;
use crate::sys;
use crate::sys::errno;
use crate::sys::file::Opening;
use crate::sys::metadata::{FileKind, Stat};

const PAGE_BYTES: usize = 4096;

/// What is in a file: pages that were written, and zeros between them. A copy costs next to nothing.
#[derive(Clone, Debug, Default)]
struct Content {
    pages: BTreeMap<u64, Rc<[u8; PAGE_BYTES]>>,
    len: u64,
}

impl Content {
    fn of(bytes: &[u8]) -> Content {
        let mut content = Content::default();
        content.write(0, bytes);
        content
    }

    /// Up to `len` bytes from an offset on.
    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let there = self.len.saturating_sub(offset);
        let mut bytes = vec![0; usize::try_from(there).unwrap_or(usize::MAX).min(len)];
        let mut done = 0;
        while done < bytes.len() {
            let (page, begin, count) = place(offset + done as u64, bytes.len() - done);
            if let Some(page) = self.pages.get(&page) {
                bytes[done..done + count].copy_from_slice(&page[begin..begin + count]);
            }
            done += count;
        }
        bytes
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let (page, begin, count) = place(offset + done as u64, bytes.len() - done);
            let page = self.pages.entry(page).or_insert_with(|| Rc::new([0; PAGE_BYTES]));
            Rc::make_mut(page)[begin..begin + count].copy_from_slice(&bytes[done..done + count]);
            done += count;
        }
        if done > 0 {
            self.len = self.len.max(offset + done as u64);
        }
    }
}

/// The page of an offset, where in it that is, and how many of `len` bytes are in it.
fn place(offset: u64, len: usize) -> (u64, usize, usize) {
    let begin = (offset % PAGE_BYTES as u64) as usize;
    (offset / PAGE_BYTES as u64, begin, len.min(PAGE_BYTES - begin))
}

/// A change that a power cut may undo.
#[derive(Debug)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Cut,
}

#[derive(Debug, Default)]
pub(super) struct Inode {
    data: Content,
    /// As of the last sync; `None` if there was none.
    durable: Option<Content>,
    unsynced: Vec<Change>,
    mode: u32,
    modified_ns: u64,
}

/// The number of every directory. Nothing of one is known but that it is one.
pub(super) const DIRECTORY: u64 = 0;

/// A path without what says nothing at its end.
fn trimmed(mut path: &[u8]) -> &[u8] {
    while let Some(shorter) = path.strip_suffix(b"/.").or_else(|| path.strip_suffix(b"/")) {
        path = shorter;
    }
    path
}

#[derive(Debug, Default)]
pub(super) struct FileSystem {
    names: BTreeMap<Vec<u8>, u64>,
    inodes: BTreeMap<u64, Inode>,
    count: u64,
    /// The lengths of all files together.
    bytes_max: Option<u64>,
}

impl FileSystem {
    /// Opens a file with the flags of `open(2)`. The error is an errno.
    pub(super) fn open(
        &mut self,
        path: &[u8],
        flags: i32,
        mode: u32,
        now_ns: u64,
    ) -> Result<OpenFile, Errno> {
        let path = trimmed(path);
        let how = sys::file::opening(flags);
        let creates = how.create || how.create_new;
        if self.is_directory(path) {
            return match how {
                Opening { create_new: true, .. } => Err(errno::EEXIST),
                Opening { write: false, create: false, .. } => Ok(OpenFile::new(DIRECTORY, how)),
                _ => Err(errno::EISDIR),
            };
        }
        let inode = match self.names.get(path).copied() {
            _ if self.goes_through_a_file(path) => return Err(errno::ENOTDIR),
            None if !creates => return Err(errno::ENOENT),
            Some(_) if how.create_new => return Err(errno::EEXIST),
            Some(inode) => inode,
            None => self.create(path, mode, now_ns),
        };
        if how.truncate && how.write {
            self.truncate(inode, now_ns);
        }
        Ok(OpenFile::new(inode, how))
    }

    /// Whether a name goes through this path.
    fn is_directory(&self, path: &[u8]) -> bool {
        let below = [path, b"/"].concat();
        self.names.range(below.clone()..).next().is_some_and(|(name, _)| name.starts_with(&below))
    }

    fn goes_through_a_file(&self, path: &[u8]) -> bool {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        slashes.into_iter().any(|(at, _)| self.names.contains_key(&path[..at]))
    }

    fn create(&mut self, path: &[u8], mode: u32, now_ns: u64) -> u64 {
        self.count += 1;
        let inode = Inode { mode: mode & 0o7777, modified_ns: now_ns, ..Inode::default() };
        self.inodes.insert(self.count, inode);
        self.names.insert(path.to_vec(), self.count);
        self.count
    }

    fn truncate(&mut self, inode: u64, now_ns: u64) {
        let Some(inode) = self.inodes.get_mut(&inode) else { return };
        inode.data = Content::default();
        inode.unsynced.push(Change::Cut);
        inode.modified_ns = now_ns;
    }

    /// What there is at an offset, up to `len` bytes.
    pub(super) fn read(&self, inode: u64, offset: u64, len: usize) -> Vec<u8> {
        self.inodes.get(&inode).map_or_else(Vec::new, |inode| inode.data.read(offset, len))
    }

    /// Files get no longer than this, all together. Those that are longer already stay.
    pub(super) fn limit(&mut self, bytes_max: Option<u64>) {
        self.bytes_max = bytes_max;
    }

    /// How many of `len` bytes, which are more than none, the disk has room for at an offset. The error is an errno.
    pub(super) fn room(&self, inode: u64, offset: u64, len: usize) -> Result<usize, Errno> {
        let (Some(max), Some(inode)) = (self.bytes_max, self.inodes.get(&inode)) else { return Ok(len) };
        let used: u64 = self.inodes.values().map(|inode| inode.data.len).sum();
        let end_max = inode.data.len.saturating_add(max.saturating_sub(used));
        match usize::try_from(end_max.saturating_sub(offset)) {
            Ok(0) => Err(errno::ENOSPC),
            Ok(room) => Ok(room.min(len)),
            Err(_) => Ok(len),
        }
    }

    /// Writes at an offset. The error is an errno.
    pub(super) fn write(&mut self, inode: u64, offset: u64, bytes: &[u8], now_ns: u64) -> Result<(), Errno> {
        /// As ext4 has it.
        const FILE_BYTES_MAX: u64 = 16 << 40;
        let Some(inode) = self.inodes.get_mut(&inode) else { return Err(errno::EIO) };
        if offset.saturating_add(bytes.len() as u64) > FILE_BYTES_MAX {
            return Err(errno::EFBIG);
        }
        inode.data.write(offset, bytes);
        inode.unsynced.push(Change::Write { offset, bytes: bytes.to_vec() });
        inode.modified_ns = now_ns;
        Ok(())
    }

    pub(super) fn sync(&mut self, inode: u64) {
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.durable = Some(inode.data.clone());
            inode.unsynced.clear();
        }
    }

    pub(super) fn stat(&self, inode: u64) -> Stat {
        let Some(Inode { data, mode, modified_ns, .. }) = self.inodes.get(&inode) else {
            return Stat { kind: FileKind::Directory, permissions: 0o755, ..Stat::default() };
        };
        Stat { kind: FileKind::Regular, permissions: *mode, inode, size: data.len, modified_ns: *modified_ns }
    }

    /// Puts a durable file there, without any operation.
    pub(super) fn put(&mut self, path: &[u8], content: &[u8], now_ns: u64) {
        let path = trimmed(path);
        let inode = self.names.get(path).copied().unwrap_or_else(|| self.create(path, 0o644, now_ns));
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.data = Content::of(content);
            inode.modified_ns = now_ns;
        }
        self.sync(inode);
    }

    pub(super) fn content(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.names.get(trimmed(path)).map(|inode| self.read(*inode, 0, usize::MAX))
    }

    /// Everything is as it was synced last, but for changes that have reached the disk nevertheless.
    pub(super) fn power_cut(&mut self, random: &mut Random, torn_write: f64) {
        for inode in self.inodes.values_mut() {
            let mut survives = inode.durable.is_some();
            let mut data = inode.durable.clone().unwrap_or_default();
            for change in inode.unsynced.drain(..) {
                if !random.chance(torn_write) {
                    continue;
                }
                survives = true;
                match change {
                    Change::Cut => data = Content::default(),
                    Change::Write { offset, bytes } => {
                        let kept = random.up_to(bytes.len() as u64) as usize;
                        data.write(offset, &bytes[..kept]);
                    }
                }
            }
            inode.durable = survives.then(|| data.clone());
            inode.data = data;
        }
        let inodes = &self.inodes;
        self.names.retain(|_, inode| inodes.get(inode).is_some_and(|inode| inode.durable.is_some()));
    }
}
