//! The variants `sim` and `sim_faulty`: every body runs inside a world of its own, with peers, files and a
//! clock of that world. In the second, everything goes wrong that a program must not notice.

use std::cell::{Cell, OnceCell};
use std::ffi::CString;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oxev::sim::{self, Faults, SimOptions, Simulation};
use oxev::{Builder, File, Loop, TcpListener, TcpStream};

use crate::support::surroundings::{self, Folder, Peer, PipeEnd, Surroundings, Wire, Work};

thread_local! {
    /// The world of this test, or of one of its threads.
    static WORLD: OnceCell<Simulation> = const { OnceCell::new() };
}

/// What the loop and the backend settle between them.
const UNNOTICED: Faults = Faults {
    interrupt: 0.3,
    cancel_loses: 0.5,
    submission_queue_full: 0.5,
    completion_queue_overflow: 0.5,
    late_completion: 0.5,
    native_multishot: 0.5,
    lost_continuation: 0.5,
    ..Faults::none()
};

/// This thread's world.
fn world(faults: Faults) -> Simulation {
    let seed = std::env::var("OXEV_SEED").map_or(0, |seed| seed.parse().expect("a number"));
    let options = SimOptions { seed, faults, wait_for_threads: true, ..SimOptions::calm() };
    WORLD.with(|world| world.get_or_init(|| Simulation::new(options)).clone())
}

pub(crate) fn builder() -> Builder {
    Loop::builder().simulation(&world(Faults::none()))
}

pub(crate) fn faulty_builder() -> Builder {
    Loop::builder().simulation(&world(UNNOTICED))
}

/// Runs something inside this thread's world, which is made with its first loop.
pub(crate) fn run<R>(make: fn() -> Builder, body: impl FnOnce() -> R) -> R {
    drop(make());
    let world = WORLD.with(|world| world.get().cloned().expect("it has just been made"));
    let begin = world.new_loop().unwrap().now() - world.elapsed();
    surroundings::set(Rc::new(World { world: world.clone(), begin, folders: Cell::new(0) }));
    world.enter(body)
}

struct World {
    world: Simulation,
    /// When its loops say that it began.
    begin: Instant,
    folders: Cell<usize>,
}

impl Surroundings for World {
    fn now(&self) -> Instant {
        self.begin + self.world.elapsed()
    }

    fn spin(&self, duration: Duration) {
        self.world.advance(duration);
    }

    fn poll(&self, fd: BorrowedFd<'_>, timeout: Duration) {
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO).unwrap() == 0 {
            self.world.advance(timeout);
        }
    }

    fn connect(&self, address: SocketAddr) -> io::Result<Peer> {
        self.world.connect(address).map(Peer::new)
    }

    fn accept(&self, listener: &TcpListener) -> io::Result<Peer> {
        self.world.accept(listener).map(Peer::new)
    }

    fn pair(&self) -> (Peer, Peer) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let one = self.world.connect(listener.local_addr().unwrap()).unwrap();
        (Peer::new(one), Peer::new(self.world.accept(&listener).unwrap()))
    }

    fn pipe(&self) -> ((File, PipeEnd), (File, PipeEnd)) {
        let ((reader, to_it), (from_it, writer)) = (self.world.pipe().unwrap(), self.world.pipe().unwrap());
        ((reader, Box::new(sim::Peer::from(to_it))), (writer, Box::new(sim::Peer::from(from_it))))
    }

    fn folder(&self) -> Rc<dyn Folder> {
        self.folders.set(self.folders.get() + 1);
        let path = PathBuf::from(format!("/test/{}", self.folders.get()));
        Rc::new(VirtualFolder { world: self.world.clone(), path })
    }

    fn background(&self, work: Work) -> Box<dyn FnOnce()> {
        let script = self.world.script(|_| work()).unwrap();
        Box::new(|| script.join().expect("it waits for what no loop will ever do"))
    }
}

impl Wire for sim::Peer {
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        sim::Peer::shutdown(self, how)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        sim::Peer::local_addr(self)
    }

    fn into_stream(self: Box<Self>) -> TcpStream {
        sim::Peer::into_stream(*self).unwrap()
    }
}

struct VirtualFolder {
    world: Simulation,
    path: PathBuf,
}

fn name(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

impl Folder for VirtualFolder {
    fn path(&self) -> &Path {
        &self.path
    }

    fn write(&self, path: &Path, content: &[u8]) {
        self.world.write_file(&name(path), content);
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        self.world.read_file(&name(path))
    }

    fn facts(&self, _: &Path) -> Option<(SystemTime, u64)> {
        None
    }
}
