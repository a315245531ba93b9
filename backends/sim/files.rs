//! A file system in memory. Names are whole paths; there are no directories to be made. What was written is durable when the file has
//! been synced, the file's name with it.

use std::collections::BTreeMap;

use super::random::Random;

/// A change that a power cut may undo.
#[derive(Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Cut,
}

#[derive(Debug, Default)]
pub(super) struct Inode {
    data: Vec<u8>,
    /// As of the last sync; `None` if there was none.
    durable: Option<Vec<u8>>,
    unsynced: Vec<Change>,
    mode: u32,
    modified_ns: u64,
}

/// How a file is open.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) inode: u64,
    pub(super) position: u64,
    pub(super) flags: i32,
}

impl OpenFile {
    pub(super) fn reads(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_WRONLY
    }

    pub(super) fn writes(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }
}

#[derive(Debug, Default)]
pub(super) struct FileSystem {
    names: BTreeMap<Vec<u8>, u64>,
    inodes: BTreeMap<u64, Inode>,
    count: u64,
}

impl FileSystem {
    /// Opens a file with the flags of `open(2)`. The error is an errno.
    pub(super) fn open(&mut self, path: &[u8], flags: i32, mode: u32, now_ns: u64) -> Result<OpenFile, i32> {
        let known = self.names.get(path).copied();
        let inode = match known {
            None if flags & libc::O_CREAT == 0 => return Err(libc::ENOENT),
            Some(_) if flags & libc::O_EXCL != 0 => return Err(libc::EEXIST),
            Some(inode) => inode,
            None => self.create(path, mode, now_ns),
        };
        if flags & libc::O_TRUNC != 0 && flags & libc::O_ACCMODE != libc::O_RDONLY {
            self.truncate(inode, now_ns);
        }
        Ok(OpenFile { inode, position: 0, flags })
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
        inode.data.clear();
        inode.unsynced.push(Change::Cut);
        inode.modified_ns = now_ns;
    }

    /// What there is at an offset.
    pub(super) fn at(&self, inode: u64, offset: u64) -> &[u8] {
        let data = self.inodes.get(&inode).map_or(&[][..], |inode| &inode.data);
        usize::try_from(offset).ok().and_then(|offset| data.get(offset..)).unwrap_or_default()
    }

    /// Writes at an offset. The error is an errno: a file that is larger than the simulation's memory.
    pub(super) fn write(&mut self, inode: u64, offset: u64, bytes: &[u8], now_ns: u64) -> Result<(), i32> {
        const BYTES_MAX: u64 = 1 << 32;
        let Some(inode) = self.inodes.get_mut(&inode) else { return Err(libc::EIO) };
        if offset.saturating_add(bytes.len() as u64) > BYTES_MAX {
            return Err(libc::EFBIG);
        }
        let offset = offset as usize;
        put(&mut inode.data, offset, bytes);
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

    /// Size, permissions, and the time of the last change.
    pub(super) fn metadata(&self, inode: u64) -> (u64, u32, u64) {
        self.inodes.get(&inode).map_or((0, 0, 0), |i| (i.data.len() as u64, i.mode, i.modified_ns))
    }

    /// Puts a durable file there, without any operation.
    pub(super) fn put(&mut self, path: &[u8], content: &[u8], now_ns: u64) {
        let inode = self.names.get(path).copied().unwrap_or_else(|| self.create(path, 0o644, now_ns));
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.data = content.to_vec();
        }
        self.sync(inode);
    }

    pub(super) fn content(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.names.get(path).map(|inode| self.at(*inode, 0).to_vec())
    }

    /// Everything is as it was synced last, but for changes that have reached the disk all the same.
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
                    Change::Cut => data.clear(),
                    Change::Write { offset, bytes } => {
                        let kept = random.up_to(bytes.len() as u64) as usize;
                        put(&mut data, offset, &bytes[..kept]);
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

fn put(data: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = offset + bytes.len();
    if data.len() < end {
        data.resize(end, 0);
    }
    data[offset..end].copy_from_slice(bytes);
}
