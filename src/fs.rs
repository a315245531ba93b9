//! Files: [`File`], [`OpenOptions`] and [`Metadata`].

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use crate::descriptor::{Descriptor, descriptor_conversions};
use crate::io_vecs::{Gather, Scatter};
use crate::net::socket::transfer;
use crate::op::{Op, OpKind, Outcome, Output, RawOp};
use crate::sim_hooks;
use crate::sys::file::Opening;
use crate::sys::metadata::{RawMetadata, Record};
use crate::sys::{self, errno};

/// An open file; closed when it is dropped.
///
/// `read` and `write` use the file's own position, as a program that reads from front to back wants it; the
/// forms ending in `_at` take an offset in bytes and may be in flight together. At the position a loop does one
/// operation after another, in the order of their submission, and each leaves the position behind what it has
/// moved, also if it fails in the middle: as `read(2)` and `write(2)` do, on every backend. Copies of a descriptor
/// (`dup(2)`) share one position, and one order. What other loops, threads or processes do at the same position at
/// the same time is not waited for, except that with `O_APPEND` every write goes to the end.
///
/// What is longer than 1 MiB is moved in parts of that, so that the loop goes on meanwhile: the operation ends as one
/// would that was done at once, but what others write at the same time may lie between two parts. Only a write that is
/// appended (`O_APPEND`) is always one. A transfer that is cancelled or meets an error between two parts has its
/// count, if it is not an exact one.
///
/// Pipes, terminals and the like have no positions: there the offset is ignored, and of those without one
/// reads come one after another, and writes do. On io_uring everything but the closing by drop is
/// asynchronous; on epoll and poll what is not in the page cache is done by a [thread
/// pool](crate::Builder::thread_pool). Zero bytes read is the end of the file. An empty buffer is done at
/// once, with `Ok(0)`.
///
/// ```
/// use oxev::{Completion, File, Loop, OpenOptions, RunMode};
///
/// struct Reader { file: Option<File>, buf: [u8; 64] }
/// # fn main() -> std::io::Result<()> {
/// let mut lp = Loop::new()?;
/// lp.submit(
///     Box::new(Completion::new(Reader { file: None, buf: [0; 64] })),
///     |_| File::open(c"/proc/self/comm", &OpenOptions::new().read(true)),
///     |lp, mut reader, opened| {
///         reader.file = Some(opened.unwrap());
///         lp.submit(reader, |r| r.file.as_ref().unwrap().read_at(&mut r.buf, 0), |_, reader, read| {
///             println!("{}", String::from_utf8_lossy(&reader.buf[..read.unwrap()]));
///         });
///     },
/// );
/// lp.run(RunMode::UntilDone)
/// # }
/// ```
#[derive(Debug)]
pub struct File {
    descriptor: Descriptor,
}

descriptor_conversions!(File);

impl File {
    /// Opens a file (`openat(2)`). The path is borrowed from the owner's state, or is a literal:
    /// `c"/etc/hosts"`.
    ///
    /// An open of a FIFO waits until the other end is opened, too, as `open(2)` does (`fifo(7)`), and holds a
    /// thread meanwhile. Cancelling it, its deadline, and dropping the loop end it on every backend. On
    /// io_uring that frees the thread, which is the kernel's. Elsewhere it is a thread of the [thread
    /// pool](crate::Builder::thread_pool), and waits on until the other end is opened; what it opens then is
    /// closed. Where others choose the path, pass `O_NONBLOCK` to [`OpenOptions::custom_flags`]: then a FIFO is
    /// opened for reading at once, and for writing it is `ENXIO` without a reader. Opened for both it never
    /// waits.
    pub fn open<'a>(path: &'a CStr, options: &OpenOptions) -> Op<'a, File> {
        let Some(flags) = options.flags() else { return Op::failed(errno::EINVAL) };
        let mut raw = RawOp::new(OpKind::Open, -1);
        let words = raw.as_open_mut();
        (words.path, words.flags, words.mode) = (path.as_ptr(), flags, options.mode);
        // SAFETY: S6: the path is borrowed, and only read.
        unsafe { Op::from_raw(raw) }
    }

    /// Takes over a file of the standard library.
    #[must_use]
    pub fn from_std(file: std::fs::File) -> File {
        File { descriptor: OwnedFd::from(file).into() }
    }

    /// Reads at the file's position, and moves it.
    pub fn read<'a>(&'a self, buffer: &'a mut [u8]) -> Op<'a, usize> {
        self.reading(buffer, 0, RawOp::CURSOR)
    }

    /// Writes at the file's position, and moves it.
    pub fn write<'a>(&'a self, buffer: &'a [u8]) -> Op<'a, usize> {
        self.writing(buffer, 0, RawOp::CURSOR)
    }

    /// Writes the whole buffer at the file's position, and moves it. After an error,
    /// [`Loop::moved`](crate::Loop::moved) says in the callback how many bytes were written; the position is
    /// behind those.
    pub fn write_all<'a>(&'a self, buffer: &'a [u8]) -> Op<'a, usize> {
        self.writing(buffer, 0, RawOp::CURSOR | RawOp::EXACT)
    }

    /// Reads at `offset` bytes (`pread(2)`).
    pub fn read_at<'a>(&'a self, buffer: &'a mut [u8], offset: u64) -> Op<'a, usize> {
        self.reading(buffer, offset, 0)
    }

    /// Writes at `offset` bytes (`pwrite(2)`).
    pub fn write_at<'a>(&'a self, buffer: &'a [u8], offset: u64) -> Op<'a, usize> {
        self.writing(buffer, offset, 0)
    }

    /// Reads at `offset` until the buffer is full. If the file ends before, the error is
    /// [`io::ErrorKind::UnexpectedEof`].
    pub fn read_exact_at<'a>(&'a self, buffer: &'a mut [u8], offset: u64) -> Op<'a, usize> {
        self.reading(buffer, offset, RawOp::EXACT)
    }

    /// Writes the whole buffer at `offset`. After an error, [`Loop::moved`](crate::Loop::moved) says in the
    /// callback how many bytes were written.
    pub fn write_all_at<'a>(&'a self, buffer: &'a [u8], offset: u64) -> Op<'a, usize> {
        self.writing(buffer, offset, RawOp::EXACT)
    }

    /// Reads into several buffers at `offset` (`preadv(2)`).
    pub fn read_vectored_at<'a>(&'a self, buffers: Scatter<'a>, offset: u64) -> Op<'a, usize> {
        self.vectored(buffers.list.into_op(OpKind::ReadVectored, self.descriptor.number()), offset, 0)
    }

    /// Writes from several buffers at `offset` (`pwritev(2)`).
    pub fn write_vectored_at<'a>(&'a self, buffers: Gather<'a>, offset: u64) -> Op<'a, usize> {
        self.vectored(buffers.list.into_op(OpKind::WriteVectored, self.descriptor.number()), offset, 0)
    }

    /// Writes several buffers whole at `offset`.
    pub fn write_all_vectored_at<'a>(&'a self, buffers: Gather<'a>, offset: u64) -> Op<'a, usize> {
        self.vectored(
            buffers.list.into_op(OpKind::WriteVectored, self.descriptor.number()),
            offset,
            RawOp::EXACT,
        )
    }

    /// Makes data and metadata durable (`fsync(2)`).
    pub fn sync_all(&self) -> Op<'_, ()> {
        // SAFETY: S6: the operation points to nothing, and the file is borrowed.
        unsafe { Op::from_raw(RawOp::new(OpKind::SyncAll, self.descriptor.number())) }
    }

    /// Makes data durable, and what metadata is needed to read it (`fdatasync(2)`).
    pub fn sync_data(&self) -> Op<'_, ()> {
        // SAFETY: S6: as in `sync_all`.
        unsafe { Op::from_raw(RawOp::new(OpKind::SyncData, self.descriptor.number())) }
    }

    /// Fills `metadata` (`fstat(2)`, on Linux `statx(2)`), which is in the owner's state.
    pub fn metadata<'a>(&'a self, metadata: &'a mut Metadata) -> Op<'a, ()> {
        let mut raw = RawOp::new(OpKind::Metadata, self.descriptor.number());
        raw.as_metadata_mut().record = (&raw mut metadata.record).cast();
        // SAFETY: S6: file and record are borrowed, the record alone.
        unsafe { Op::from_raw(raw) }
    }

    /// Closes the file as an operation, so that its errors are seen; dropping it closes it, too, at once.
    /// Further operations on it end with `EBADF`.
    pub fn close(&mut self) -> Op<'_, ()> {
        // SAFETY: S6: the operation owns the descriptor that it closes.
        unsafe { Op::from_raw(RawOp::new(OpKind::Close, self.descriptor.take())) }
    }

    fn reading<'a>(&'a self, buffer: &'a mut [u8], offset: u64, flags: u8) -> Op<'a, usize> {
        let (buf, len) = (buffer.as_mut_ptr(), buffer.len());
        // SAFETY: S6: file and buffer are borrowed, the buffer alone.
        let op = unsafe { transfer(OpKind::Read, self.descriptor.number(), buf, len, flags) };
        at(op, offset)
    }

    fn writing<'a>(&'a self, buffer: &'a [u8], offset: u64, flags: u8) -> Op<'a, usize> {
        let (buf, len) = (buffer.as_ptr().cast_mut(), buffer.len());
        // SAFETY: S6: file and buffer are borrowed, and the buffer is only read.
        let op = unsafe { transfer(OpKind::Write, self.descriptor.number(), buf, len, flags) };
        at(op, offset)
    }

    fn vectored<'a>(&'a self, mut raw: RawOp, offset: u64, flags: u8) -> Op<'a, usize> {
        raw.flags |= flags;
        if raw.immediate_result().is_none() && raw.as_vectored().len == 0 {
            raw = RawOp::immediate(0);
        }
        // SAFETY: S6: file and list are borrowed, and by the list its buffers.
        at(unsafe { Op::from_raw(raw) }, offset)
    }
}

/// Sets the offset of a file operation. The kernel's offsets are signed.
fn at(mut op: Op<'_, usize>, offset: u64) -> Op<'_, usize> {
    if op.raw.immediate_result().is_some() {
        return op;
    }
    if i64::try_from(offset).is_err() {
        return Op::failed(errno::EINVAL);
    }
    op.raw.as_progress_mut().offset = offset;
    op
}

impl From<std::fs::File> for File {
    fn from(file: std::fs::File) -> File {
        File::from_std(file)
    }
}

// SAFETY: S7: the descriptor of a successful open is owned by the file.
unsafe impl Output for File {
    unsafe fn decode(_: &RawOp, outcome: Outcome) -> io::Result<File> {
        let fd = outcome.count()? as i32;
        // SAFETY: S7: the kernel made the descriptor for this operation, and this is the one time that it is
        // wrapped.
        Ok(File { descriptor: unsafe { Descriptor::from_raw(fd) } })
    }
}

/// How to open a file: [`File::open`]. The same choices as [`std::fs::OpenOptions`].
#[derive(Clone, Debug)]
pub struct OpenOptions {
    opening: Opening,
    mode: u32,
}

macro_rules! switches {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        $($(#[$doc])*
        #[must_use]
        pub const fn $name(mut self, $name: bool) -> OpenOptions {
            self.opening.$name = $name;
            self
        })*
    };
}

impl OpenOptions {
    /// Nothing is set: at least one of `read`, `write` and `append` has to be.
    #[must_use]
    pub const fn new() -> OpenOptions {
        OpenOptions { opening: Opening::NONE, mode: 0o666 }
    }

    switches! {
        /// For reading.
        read,
        /// For writing.
        write,
        /// For writing at the end, always.
        append,
        /// Cut to nothing, if it exists. Needs `write`.
        truncate,
        /// Make it if it does not exist. Needs `write` or `append`.
        create,
        /// Make it; fail if it exists. Needs `write` or `append`.
        create_new,
    }

    /// The permissions of a new file, less the process's umask: `0o666` by default.
    #[must_use]
    pub const fn mode(mut self, mode: u32) -> OpenOptions {
        self.mode = mode;
        self
    }

    /// Further flags of `open(2)`: `O_DIRECT`, `O_DSYNC`, ….
    #[must_use]
    pub const fn custom_flags(mut self, flags: i32) -> OpenOptions {
        self.opening.custom = flags;
        self
    }

    /// The flags of `open(2)`, or `None` if the choices contradict each other.
    fn flags(&self) -> Option<i32> {
        let Opening { read, write, append, truncate, create, create_new, .. } = self.opening;
        let (writes, creates) = (write || append, create || create_new);
        let access_is_valid = writes || (read && !creates);
        let truncation_is_valid = !truncate || (write && !append) || create_new;
        (access_is_valid && truncation_is_valid).then(|| sys::file::open_flags(&self.opening))
    }

    /// Opens the file at once, blocking: for start-up.
    ///
    /// # Errors
    /// Those of `open(2)`; `EINVAL` if the choices contradict each other.
    pub fn open_blocking(&self, path: impl AsRef<std::path::Path>) -> io::Result<File> {
        let (path, mode) = (sys::file::c_path(path.as_ref())?, self.mode);
        let flags = self.flags().ok_or_else(|| errno::error(errno::EINVAL))?;
        if let Some(fd) = sim_hooks::open(&path, flags, mode) {
            // SAFETY: S7: the world made the descriptor for us.
            return Ok(File { descriptor: unsafe { Descriptor::from_raw(fd?) } });
        }
        let opened = loop {
            // SAFETY: S8: the path is valid for the length of the call.
            match unsafe { sys::file::open(path.as_ptr(), flags, mode) } {
                errno if errno == -errno::EINTR => {}
                opened => break Outcome::new(opened),
            }
        };
        // SAFETY: S7: the descriptor was opened for us, and this is the one time that it is wrapped.
        unsafe { File::decode(&RawOp::new(OpKind::Open, -1), opened) }
    }
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions::new()
    }
}

/// What the file system knows of a file, filled by [`File::metadata`].
#[derive(Clone, Copy)]
pub struct Metadata {
    record: Record,
}

impl Metadata {
    /// An empty record, to be filled.
    #[must_use]
    pub const fn new() -> Metadata {
        Metadata { record: Record::new() }
    }

    /// The size in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "as in std::fs::Metadata")]
    pub const fn len(&self) -> u64 {
        self.record.size()
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.record.is_file()
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.record.is_directory()
    }

    /// The permission bits.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.record.permissions()
    }

    /// When the content was last changed.
    #[must_use]
    pub fn modified(&self) -> SystemTime {
        let (seconds, nanoseconds) = self.record.modified();
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let second =
            if seconds >= 0 { SystemTime::UNIX_EPOCH + whole } else { SystemTime::UNIX_EPOCH - whole };
        second + Duration::from_nanos(u64::from(nanoseconds))
    }

    /// The whole record, as the system filled it.
    #[must_use]
    pub const fn as_raw(&self) -> &RawMetadata {
        self.record.raw()
    }
}

impl Default for Metadata {
    fn default() -> Metadata {
        Metadata::new()
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata")
            .field("len", &self.len())
            .field("mode", &self.mode())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictory_options_are_refused_as_std_refuses_them() {
        let valid = |o: OpenOptions| o.flags().is_some();
        assert!(!valid(OpenOptions::new()));
        assert!(!valid(OpenOptions::new().read(true).create(true)));
        assert!(!valid(OpenOptions::new().append(true).truncate(true)));
        assert!(valid(OpenOptions::new().write(true).create(true).truncate(true)));
        assert!(valid(OpenOptions::new().append(true).create_new(true)));
    }
}
