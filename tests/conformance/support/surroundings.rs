//! What the test's own side of things is made of: the sockets, files and clock of the machine or, for the
//! variant `sim`, of a simulated world. A body asks here, and does not know which.

use std::cell::RefCell;
use std::ffi::CString;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oxev::{File, OpenOptions, TcpListener, TcpStream};

pub(crate) trait Surroundings {
    fn now(&self) -> Instant;
    /// Holds the thread up without giving it away, as a long callback does.
    fn spin(&self, duration: Duration);
    /// Waits for a while, or until a loop's descriptor is readable.
    fn poll(&self, fd: BorrowedFd<'_>, timeout: Duration);
    fn connect(&self, address: SocketAddr) -> io::Result<Peer>;
    /// A connection to a listener of the loop's, if there is one.
    fn accept(&self, listener: &TcpListener) -> io::Result<Peer>;
    fn pair(&self) -> (Peer, Peer);
    /// The reading and the writing end.
    fn pipe(&self) -> ((File, PipeEnd), (File, PipeEnd));
    fn folder(&self) -> Rc<dyn Folder>;
    fn background(&self, work: Work) -> Box<dyn FnOnce()>;
}

/// One end of a pipe that is not the loop's.
pub(crate) trait Pipe: Read + Write + Send {}
impl<P: Read + Write + Send> Pipe for P {}
pub(crate) type PipeEnd = Box<dyn Pipe>;
pub(crate) type Work = Box<dyn FnOnce() + Send>;

thread_local! {
    static CURRENT: RefCell<Rc<dyn Surroundings>> = RefCell::new(Rc::new(Machine));
}

/// From now on, this thread's.
#[cfg(feature = "sim")]
pub(crate) fn set(surroundings: Rc<dyn Surroundings>) {
    CURRENT.set(surroundings);
}

pub(crate) fn current() -> Rc<dyn Surroundings> {
    CURRENT.with_borrow(Rc::clone)
}

// ---- time

pub(crate) fn now() -> Instant {
    current().now()
}

pub(crate) fn since(begin: Instant) -> Duration {
    now().saturating_duration_since(begin)
}

/// Holds the thread up without giving it away, as a long callback does.
pub(crate) fn spin(duration: Duration) {
    current().spin(duration);
}

// ---- sockets

/// What a peer can do.
pub(crate) trait Wire: Read + Write + AsFd + Send {
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;
    fn local_addr(&self) -> io::Result<SocketAddr>;
    fn into_stream(self: Box<Self>) -> TcpStream;
}

impl Wire for std::net::TcpStream {
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        std::net::TcpStream::shutdown(self, how)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        std::net::TcpStream::local_addr(self)
    }

    fn into_stream(self: Box<Self>) -> TcpStream {
        TcpStream::from_std(*self).unwrap()
    }
}

/// An end of a connection that is not the loop's: it blocks.
pub(crate) struct Peer(Box<dyn Wire>);

impl Peer {
    pub(crate) fn new(wire: impl Wire + 'static) -> Peer {
        Peer(Box::new(wire))
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    pub(crate) fn options(&self) -> socket2::SockRef<'_> {
        socket2::SockRef::from(&self.0)
    }

    /// Closes it with a reset.
    pub(crate) fn reset(self) {
        self.options().set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Gives it to the loop's side.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.0.into_stream()
    }
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

// ---- files

/// A directory, or what goes for one.
pub(crate) trait Folder {
    fn path(&self) -> &Path;
    fn write(&self, path: &Path, content: &[u8]);
    fn read(&self, path: &Path) -> Option<Vec<u8>>;
    /// When a file was changed, and the number of its inode, if another source knows that.
    fn facts(&self, path: &Path) -> Option<(SystemTime, u64)>;
}

/// An empty directory, which is gone when it is dropped.
pub(crate) struct Dir(Rc<dyn Folder>);

impl Dir {
    pub(crate) fn new() -> Dir {
        Dir(current().folder())
    }

    pub(crate) fn path(&self, name: &str) -> CString {
        CString::new(self.0.path().join(name).as_os_str().as_bytes()).unwrap()
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        self.0.write(&self.0.path().join(name), content);
    }

    pub(crate) fn read(&self, name: &str) -> Option<Vec<u8>> {
        self.0.read(&self.0.path().join(name))
    }
}

/// A file, which is gone when it is dropped.
pub(crate) struct Named {
    dir: Dir,
    pub(crate) path: PathBuf,
}

impl Named {
    pub(crate) fn new(content: &[u8]) -> Named {
        let dir = Dir::new();
        dir.write("file", content);
        Named { path: dir.0.path().join("file"), dir }
    }

    /// For reading and writing.
    pub(crate) fn open(&self) -> File {
        OpenOptions::new().read(true).write(true).open_blocking(&self.path).unwrap()
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        self.dir.0.read(&self.path).unwrap()
    }

    pub(crate) fn facts(&self) -> Option<(SystemTime, u64)> {
        self.dir.0.facts(&self.path)
    }
}

// ---- work beside the loop

/// Work that was started, and its result.
pub(crate) struct Background<R> {
    result: std::sync::mpsc::Receiver<R>,
    join: Box<dyn FnOnce()>,
}

impl<R> Background<R> {
    pub(crate) fn join(self) -> R {
        (self.join)();
        self.result.recv().expect("it has panicked")
    }
}

/// Starts work that blocks on peers, beside the loop.
pub(crate) fn background<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Background<R> {
    let (done, result) = std::sync::mpsc::channel();
    let join = current().background(Box::new(move || {
        // If the test is over, the answer is not needed.
        let _ = done.send(work());
    }));
    Background { result, join }
}

// ---- the machine

/// Sockets and files of the standard library.
struct Machine;

impl Surroundings for Machine {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn spin(&self, duration: Duration) {
        let start = Instant::now();
        while start.elapsed() < duration {
            std::hint::spin_loop();
        }
    }

    fn poll(&self, fd: BorrowedFd<'_>, timeout: Duration) {
        let timeout = PollTimeout::try_from(timeout.as_millis()).unwrap();
        poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout).unwrap();
    }

    fn connect(&self, address: SocketAddr) -> io::Result<Peer> {
        std::net::TcpStream::connect(address).map(Peer::new)
    }

    fn accept(&self, listener: &TcpListener) -> io::Result<Peer> {
        let (accepted, _) = socket2::SockRef::from(listener).accept()?;
        Ok(Peer::new(std::net::TcpStream::from(accepted)))
    }

    fn pair(&self) -> (Peer, Peer) {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let one = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Peer::new(one), Peer::new(listener.accept().unwrap().0))
    }

    fn pipe(&self) -> ((File, PipeEnd), (File, PipeEnd)) {
        let ends = || {
            let (reader, writer) = io::pipe().unwrap();
            (std::fs::File::from(OwnedFd::from(reader)), std::fs::File::from(OwnedFd::from(writer)))
        };
        let ((reader, to_it), (from_it, writer)) = (ends(), ends());
        ((File::from_std(reader), Box::new(to_it)), (File::from_std(writer), Box::new(from_it)))
    }

    fn folder(&self) -> Rc<dyn Folder> {
        // Not in /tmp, which may be of a kind that knows less than others (no O_DIRECT).
        Rc::new(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    fn background(&self, work: Work) -> Box<dyn FnOnce()> {
        let thread = thread::spawn(work);
        Box::new(move || thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Folder for tempfile::TempDir {
    fn path(&self) -> &Path {
        tempfile::TempDir::path(self)
    }

    fn write(&self, path: &Path, content: &[u8]) {
        std::fs::write(path, content).unwrap();
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        std::fs::read(path).ok()
    }

    fn facts(&self, path: &Path) -> Option<(SystemTime, u64)> {
        let metadata = std::fs::metadata(path).unwrap();
        Some((metadata.modified().unwrap(), metadata.ino()))
    }
}
