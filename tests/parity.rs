//! The same program on io_uring and on epoll ends the same way: every operation, on every kind of descriptor
//! that safe code can wrap, as the right thing or as a mistake. Each case is done once on each backend, with
//! a deadline for those that have nothing to wait for, and the two lists of ends are compared. The kernel's
//! io_uring is the reference; where it is refused, there is nothing to compare.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::net::{Shutdown, TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use oxev::{
    Completion, File, IoVecs, Kind, Loop, Metadata, Op, OpKind, OpenOptions, Output, RawOp, TcpListener,
    TcpStream,
};
use socket2::{Domain, Socket, Type};

/// Longer than an operation takes that does not wait.
const PATIENCE: Duration = Duration::from_millis(300);

/// A valid number for an eventfd.
const PAYLOAD: [u8; 8] = 1u64.to_ne_bytes();

/// Memory that nothing else uses: what is to be received lands here.
struct State<D> {
    descriptor: D,
    buffer: [u8; 16],
    second: [u8; 16],
    vecs: IoVecs<2>,
    metadata: Metadata,
    _company: Company,
}

/// What has to live as long as the descriptor: the other end.
type Company = Vec<OwnedFd>;

type Ends = Rc<RefCell<Vec<(String, String)>>>;

/// One run of all cases on one backend.
struct Run<'a> {
    lp: Box<Loop>,
    ends: Ends,
    cases: usize,
    /// The cases that are wanted, if not all.
    only: Option<&'a HashSet<String>>,
}

fn told<R>(end: io::Result<R>, tell: impl FnOnce(R) -> String) -> String {
    match end {
        Ok(value) => tell(value),
        Err(error) => match error.raw_os_error() {
            Some(errno) => nix::errno::Errno::from_raw(errno).to_string(),
            None => format!("{:?}", error.kind()),
        },
    }
}

impl Run<'_> {
    fn case<D: 'static, R: Output>(
        &mut self,
        name: String,
        make: impl FnOnce() -> (D, Company),
        prepare: impl for<'a> FnOnce(&'a mut State<D>) -> Op<'a, R>,
        tell: fn(R) -> String,
    ) {
        if self.only.is_some_and(|only| !only.contains(&name)) {
            return;
        }
        self.cases += 1;
        let (descriptor, company) = make();
        let (buffer, second) = ([0; 16], [0; 16]);
        let state = State {
            descriptor,
            buffer,
            second,
            vecs: IoVecs::new(),
            metadata: Metadata::new(),
            _company: company,
        };
        let owner = Box::new(Completion::new((state, Rc::clone(&self.ends), name, tell)));
        self.lp.submit(
            owner,
            |(state, ..)| prepare(state).timeout(PATIENCE),
            |_, owner, end| {
                let (state, ends, name, tell) = owner.into_inner();
                let told = format!("{} {:?} {:?}", told(end, tell), &state.buffer, &state.second);
                ends.borrow_mut().push((name, told));
            },
        );
    }
}

// ---- what there is to wrap

type Make = fn() -> (OwnedFd, Company);

fn open(path: &str, flags: i32) -> OwnedFd {
    let access = flags & libc::O_ACCMODE;
    let mut options = fs::OpenOptions::new();
    options.read(access != libc::O_WRONLY).write(access != libc::O_RDONLY);
    options.custom_flags(flags & !libc::O_ACCMODE).open(path).unwrap().into()
}

/// A file of its own, with ten bytes in it.
fn file(flags: i32) -> (OwnedFd, Company) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all(b"0123456789").unwrap();
    (open(file.path().to_str().unwrap(), flags), vec![])
}

fn own(fd: i32) -> OwnedFd {
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: just made, and has no other owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn nonblocking(fd: OwnedFd) -> OwnedFd {
    // SAFETY: no memory is passed.
    let status = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    assert_eq!(status, 0);
    fd
}

fn full_pipe() -> (OwnedFd, Company) {
    let (reader, writer) = io::pipe().unwrap();
    let writer = nonblocking(writer.into());
    let mut file = fs::File::from(writer);
    while file.write(&[0; 4096]).is_ok() {}
    (file.into(), vec![reader.into()])
}

fn pipe_with_data() -> (OwnedFd, Company) {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(b"in the pipe").unwrap();
    (reader.into(), vec![writer.into()])
}

fn tcp() -> (StdStream, StdStream) {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let peer = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, peer)
}

/// Waits until what the peer sent has arrived.
fn arrived(stream: &StdStream) {
    let mut poll =
        libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLIN | libc::POLLRDHUP, revents: 0 };
    // SAFETY: the one record is valid for the length of the call.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1);
}

fn tcp_with_data() -> (OwnedFd, Company) {
    let (stream, mut peer) = tcp();
    peer.write_all(b"sent by the peer, and more than fits").unwrap();
    arrived(&stream);
    (stream.into(), vec![peer.into()])
}

fn reset() -> (OwnedFd, Company) {
    let (stream, peer) = tcp();
    Socket::from(peer).set_linger(Some(Duration::ZERO)).unwrap();
    arrived(&stream);
    (stream.into(), vec![])
}

fn socket(domain: Domain, kind: Type) -> OwnedFd {
    Socket::new(domain, kind, None).unwrap().into()
}

fn socket_pair(kind: Type) -> (OwnedFd, OwnedFd) {
    let (one, other) = Socket::pair(Domain::UNIX, kind, None).unwrap();
    (one.into(), other.into())
}

/// Two ends of a terminal.
fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut master, mut slave) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: the two places are valid for the length of the call, and nothing else is passed.
    let status = unsafe { libc::openpty(&raw mut master, &raw mut slave, null, null.cast(), null.cast()) };
    assert_eq!(status, 0);
    (own(master), own(slave))
}

const DESCRIPTORS: &[(&str, Make)] = &[
    ("a file", || file(libc::O_RDWR)),
    ("a file for reading", || file(libc::O_RDONLY)),
    ("a file for writing", || file(libc::O_WRONLY)),
    ("a file for appending", || file(libc::O_RDWR | libc::O_APPEND)),
    ("a file that does not block", || file(libc::O_RDWR | libc::O_NONBLOCK)),
    ("a path", || file(libc::O_PATH)),
    ("a directory", || (open("/tmp", libc::O_RDONLY | libc::O_DIRECTORY), vec![])),
    ("a memory file", || {
        // SAFETY: the name is a literal.
        (own(unsafe { libc::memfd_create(c"memory".as_ptr(), 0) }), vec![])
    }),
    ("/dev/null", || (open("/dev/null", libc::O_RDWR), vec![])),
    ("/dev/zero", || (open("/dev/zero", libc::O_RDWR), vec![])),
    ("/dev/full", || (open("/dev/full", libc::O_RDWR), vec![])),
    ("/proc", || (open("/proc/self/comm", libc::O_RDONLY), vec![])),
    ("an empty pipe", || {
        let (reader, writer) = io::pipe().unwrap();
        (reader.into(), vec![writer.into()])
    }),
    ("an empty pipe that does not block", || {
        let (reader, writer) = io::pipe().unwrap();
        (nonblocking(reader.into()), vec![writer.into()])
    }),
    ("a pipe with data", pipe_with_data),
    ("a pipe with data that does not block", || {
        let (reader, company) = pipe_with_data();
        (nonblocking(reader), company)
    }),
    ("a pipe at its end", || (io::pipe().unwrap().0.into(), vec![])),
    ("a pipe to write to", || {
        let (reader, writer) = io::pipe().unwrap();
        (writer.into(), vec![reader.into()])
    }),
    ("a pipe to write to that does not block", || {
        let (reader, writer) = io::pipe().unwrap();
        (nonblocking(writer.into()), vec![reader.into()])
    }),
    ("a full pipe", full_pipe),
    ("a pipe that no process reads", || (io::pipe().unwrap().1.into(), vec![])),
    ("an eventfd", || {
        // SAFETY: no memory is passed.
        (own(unsafe { libc::eventfd(5, 0) }), vec![])
    }),
    ("an eventfd that does not block", || {
        // SAFETY: no memory is passed.
        (own(unsafe { libc::eventfd(5, libc::EFD_NONBLOCK) }), vec![])
    }),
    ("an eventfd of zero", || {
        // SAFETY: no memory is passed.
        (own(unsafe { libc::eventfd(0, 0) }), vec![])
    }),
    ("a timerfd", || {
        // SAFETY: no memory is passed.
        (own(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, 0) }), vec![])
    }),
    ("an inotify", || {
        // SAFETY: no memory is passed.
        (own(unsafe { libc::inotify_init1(0) }), vec![])
    }),
    ("a terminal", || {
        let (master, slave) = terminal();
        (slave, vec![master])
    }),
    ("a terminal with a line", || {
        let (master, slave) = terminal();
        let mut master = fs::File::from(master);
        master.write_all(b"a line\n").unwrap();
        (slave, vec![master.into()])
    }),
    ("a terminal's other side", || {
        let (master, slave) = terminal();
        (master, vec![slave])
    }),
    ("a terminal's other side that was left", || (terminal().0, vec![])),
    ("a listener", || (StdListener::bind("127.0.0.1:0").unwrap().into(), vec![])),
    ("a listener with a guest", || {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let guest = StdStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.into(), vec![guest.into()])
    }),
    ("a local listener with a guest", || {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let guest = std::os::unix::net::UnixStream::connect(&path).unwrap();
        (listener.into(), vec![guest.into()])
    }),
    ("an unconnected socket", || (socket(Domain::IPV4, Type::STREAM), vec![])),
    ("a connection", || {
        let (stream, peer) = tcp();
        (stream.into(), vec![peer.into()])
    }),
    ("a connection with data", tcp_with_data),
    ("a connection at its end", || {
        let (stream, peer) = tcp();
        peer.shutdown(Shutdown::Write).unwrap();
        arrived(&stream);
        (stream.into(), vec![peer.into()])
    }),
    ("a connection with data at its end", || {
        let (stream, mut peer) = tcp();
        peer.write_all(b"end").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        arrived(&stream);
        (stream.into(), vec![peer.into()])
    }),
    ("a connection shut down for reading", || {
        let (stream, peer) = tcp();
        stream.shutdown(Shutdown::Read).unwrap();
        (stream.into(), vec![peer.into()])
    }),
    ("a connection shut down for writing", || {
        let (stream, peer) = tcp();
        stream.shutdown(Shutdown::Write).unwrap();
        (stream.into(), vec![peer.into()])
    }),
    ("a connection shut down with data", || {
        let (fd, company) = tcp_with_data();
        StdStream::from(fd.try_clone().unwrap()).shutdown(Shutdown::Both).unwrap();
        (fd, company)
    }),
    ("a connection that was reset", reset),
    ("a datagram socket", || (std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into(), vec![])),
    ("a datagram socket with an empty datagram", || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(&[], socket.local_addr().unwrap()).unwrap();
        (socket.into(), vec![])
    }),
    ("a local stream", || {
        let (one, other) = socket_pair(Type::STREAM);
        (one, vec![other])
    }),
    ("a local stream with data", || {
        let (one, other) = socket_pair(Type::STREAM);
        let mut other = std::os::unix::net::UnixStream::from(other);
        other.write_all(b"sent").unwrap();
        (one, vec![other.into()])
    }),
    ("a local stream at its end", || (socket_pair(Type::STREAM).0, vec![])),
    ("local datagrams", || {
        let (one, other) = socket_pair(Type::DGRAM);
        (one, vec![other])
    }),
    ("local packets", || {
        let (one, other) = socket_pair(Type::SEQPACKET);
        (one, vec![other])
    }),
    ("local packets with one", || {
        let (one, other) = socket_pair(Type::SEQPACKET);
        Socket::from(other.try_clone().unwrap()).send(b"more than sixteen bytes").unwrap();
        (one, vec![other])
    }),
    ("a local socket", || (socket(Domain::UNIX, Type::STREAM), vec![])),
];

// ---- what there is to do

fn stream((fd, company): (OwnedFd, Company)) -> (TcpStream, Company) {
    (TcpStream::from_socket(fd.into()).unwrap(), company)
}

fn listener((fd, company): (OwnedFd, Company)) -> (TcpListener, Company) {
    (TcpListener::from_socket(fd.into()).unwrap(), company)
}

fn as_file((fd, company): (OwnedFd, Company)) -> (File, Company) {
    (File::from_std(fd.into()), company)
}

fn count(n: usize) -> String {
    format!("{n} bytes")
}

fn nothing((): ()) -> String {
    "done".into()
}

type S<D> = State<D>;

impl Run<'_> {
    fn network(&mut self, name: &str, make: Make) {
        let pool = self.lp.buf_pool(1, 16).unwrap();
        let n = |what: &str| format!("{what}: {name}");
        // A path has no flags to be set.
        if name == "a path" {
            return;
        }
        self.case(
            n("recv"),
            || stream(make()),
            |s: &mut S<TcpStream>| s.descriptor.recv(&mut s.buffer),
            count,
        );
        self.case(n("recv nothing"), || stream(make()), |s| s.descriptor.recv(&mut s.buffer[..0]), count);
        self.case(n("recv_exact"), || stream(make()), |s| s.descriptor.recv_exact(&mut s.buffer), count);
        self.case(
            n("recv_vectored"),
            || stream(make()),
            |s| s.descriptor.recv_vectored(s.vecs.scatter([&mut s.buffer[..], &mut s.second])),
            count,
        );
        self.case(
            n("recv_exact_vectored"),
            || stream(make()),
            |s| s.descriptor.recv_exact_vectored(s.vecs.scatter([&mut s.buffer[..], &mut s.second])),
            count,
        );
        self.case(
            n("recv_pooled"),
            || {
                let (fd, company) = stream(make());
                ((fd, pool), company)
            },
            |s| s.descriptor.0.recv_pooled(&s.descriptor.1),
            |lease| format!("{lease:?}"),
        );
        self.case(n("send"), || stream(make()), |s| s.descriptor.send(&PAYLOAD), count);
        self.case(n("send_all"), || stream(make()), |s| s.descriptor.send_all(&PAYLOAD), count);
        self.case(
            n("send_all_zero_copy"),
            || stream(make()),
            |s| s.descriptor.send_all_zero_copy(&PAYLOAD),
            count,
        );
        self.case(
            n("send_vectored"),
            || stream(make()),
            |s| s.descriptor.send_vectored(s.vecs.gather([&PAYLOAD[..], &PAYLOAD])),
            count,
        );
        self.case(
            n("send_all_vectored"),
            || stream(make()),
            |s| s.descriptor.send_all_vectored(s.vecs.gather([&PAYLOAD[..], &PAYLOAD])),
            count,
        );
        for how in [Shutdown::Read, Shutdown::Write, Shutdown::Both] {
            self.case(
                n(&format!("shutdown {how:?}")),
                || stream(make()),
                move |s| s.descriptor.shutdown(how),
                nothing,
            );
        }
        self.case(n("accept"), || listener(make()), |s| s.descriptor.accept(), |_| "a stream".into());
        self.case(
            n("accept_with_addr"),
            || listener(make()),
            |s| s.descriptor.accept_with_addr(),
            |(_, address)| address.ip().to_string(),
        );
        self.case(n("close a stream"), || stream(make()), |s| s.descriptor.close(), nothing);
        self.case(n("close a listener"), || listener(make()), |s| s.descriptor.close(), nothing);
    }

    fn files(&mut self, name: &str, make: Make) {
        let n = |what: &str| format!("{what}: {name}");
        self.case(n("read"), || as_file(make()), |s: &mut S<File>| s.descriptor.read(&mut s.buffer), count);
        self.case(n("write"), || as_file(make()), |s| s.descriptor.write(&PAYLOAD), count);
        self.case(n("write_all"), || as_file(make()), |s| s.descriptor.write_all(&PAYLOAD), count);
        for at in [0, 3, 1000, i64::MAX as u64, u64::MAX] {
            // Of two mistakes at once, either may be the one that is told.
            let has_positions = name.contains("file") || name.contains("directory") || name.contains("/dev");
            if at == i64::MAX as u64 && !has_positions {
                continue;
            }
            let n = |what: &str| format!("{what} {at}: {name}");
            self.case(
                n("read_at"),
                || as_file(make()),
                move |s| s.descriptor.read_at(&mut s.buffer, at),
                count,
            );
            self.case(
                n("read_exact_at"),
                || as_file(make()),
                move |s| s.descriptor.read_exact_at(&mut s.buffer, at),
                count,
            );
            self.case(n("write_at"), || as_file(make()), move |s| s.descriptor.write_at(&PAYLOAD, at), count);
            self.case(
                n("write_all_at"),
                || as_file(make()),
                move |s| s.descriptor.write_all_at(&PAYLOAD, at),
                count,
            );
            self.case(
                n("read nothing at"),
                || as_file(make()),
                move |s| s.descriptor.read_at(&mut s.buffer[..0], at),
                count,
            );
            self.case(
                n("read_vectored_at"),
                || as_file(make()),
                move |s| {
                    let list = s.vecs.scatter([&mut s.buffer[..4], &mut s.second[..8]]);
                    s.descriptor.read_vectored_at(list, at)
                },
                count,
            );
            self.case(
                n("write_vectored_at"),
                || as_file(make()),
                move |s| s.descriptor.write_vectored_at(s.vecs.gather([&PAYLOAD[..], &PAYLOAD]), at),
                count,
            );
            self.case(
                n("write_all_vectored_at"),
                || as_file(make()),
                move |s| s.descriptor.write_all_vectored_at(s.vecs.gather([&PAYLOAD[..], &PAYLOAD]), at),
                count,
            );
        }
        self.case(n("sync_all"), || as_file(make()), |s| s.descriptor.sync_all(), nothing);
        self.case(n("sync_data"), || as_file(make()), |s| s.descriptor.sync_data(), nothing);
        self.case(n("metadata"), || as_file(make()), |s| s.descriptor.metadata(&mut s.metadata), nothing);
        self.case(n("close a file"), || as_file(make()), |s| s.descriptor.close(), nothing);
    }
}

type Fill = fn(&mut Run<'_>);

fn ends(kind: Kind, fill: Fill, only: Option<&HashSet<String>>) -> BTreeMap<String, String> {
    let lp = Loop::builder().backend(kind).capacity(1 << 14).build().unwrap();
    let mut run = Run { lp, ends: Ends::default(), cases: 0, only };
    fill(&mut run);
    let limit = Instant::now() + Duration::from_secs(60);
    while run.ends.borrow().len() < run.cases {
        assert!(Instant::now() < limit, "{kind}: {:?}", run.lp.in_flight().collect::<Vec<_>>());
        run.lp.run_for(Duration::from_millis(100)).unwrap();
    }
    let ends: BTreeMap<_, _> = run.ends.take().into_iter().collect();
    assert_eq!(ends.len(), run.cases, "every case has its name");
    ends
}

/// The backends that are compared with io_uring.
const OTHERS: [Kind; 2] = [Kind::Epoll, Kind::Poll];

/// Does all that `fill` submits on io_uring and on each of the others, and compares.
fn compare(fill: Fill) {
    if Loop::builder().backend(Kind::IoUring).build().is_err() {
        return eprintln!("skipped: this machine has no io_uring to compare with");
    }
    OTHERS.into_iter().for_each(|other| compare_with(other, fill));
}

/// `poll(2)` does not say that a device has no events, as `epoll_ctl(2)` does: those that it does not report are waited
/// for in vain, and for as long as the program likes.
fn is_never_told(backend: Kind, case: &str) -> bool {
    backend == Kind::Poll && case.starts_with("poll for ") && case.contains(": /dev/")
}

/// What is different is tried again by itself: on a machine that is busy, the deadline of a case passes that has
/// nothing to wait for.
fn compare_with(other: Kind, fill: Fill) {
    const TRIES: usize = 4;
    let (mut only, mut report) = (None, String::new());
    for _ in 0..TRIES {
        let [expected, seen] = [Kind::IoUring, other].map(|kind| ends(kind, fill, only.as_ref()));
        assert!(expected.keys().eq(seen.keys()));
        let is_different = |name: &String, end: &String| seen[name] != *end && !is_never_told(other, name);
        let different: Vec<_> = expected.iter().filter(|(name, end)| is_different(name, end)).collect();
        if different.is_empty() {
            return;
        }
        report = different.iter().fold(String::new(), |report, (name, end)| {
            format!("{report}\n{name}\n    io_uring: {end}\n    {other}: {}", seen[*name])
        });
        only = Some(different.into_iter().map(|(name, _)| name.clone()).collect());
    }
    panic!("{report}");
}

#[test]
fn sockets_and_what_is_none() {
    compare(|run| DESCRIPTORS.iter().for_each(|(name, make)| run.network(name, *make)));
}

#[test]
fn files_and_what_is_none() {
    compare(|run| DESCRIPTORS.iter().for_each(|(name, make)| run.files(name, *make)));
}

/// An address of this host where nothing listens.
fn without_listener(address: &str) -> std::net::SocketAddr {
    std::net::TcpListener::bind(address).unwrap().local_addr().unwrap()
}

#[test]
fn connections_that_cannot_be_made() {
    compare(|run| {
        let none = || ((), vec![]);
        for (name, address) in [
            ("refused", without_listener("127.0.0.1:0")),
            ("refused on IPv6", without_listener("[::1]:0")),
            ("port 0", "127.0.0.1:0".parse().unwrap()),
            ("broadcast", "255.255.255.255:80".parse().unwrap()),
            ("multicast", "224.0.0.1:80".parse().unwrap()),
            ("reserved", "240.0.0.1:80".parse().unwrap()),
            ("link-local without a scope", "[fe80::1]:80".parse().unwrap()),
        ] {
            let name = format!("connect: {name}");
            run.case(name, none, move |_| TcpStream::connect(address), |_| "a stream".into());
        }
        run.case("connect: no address".into(), none, |_| TcpStream::connect(&[][..]), |_| "a stream".into());
    });
}

#[test]
fn files_that_cannot_be_opened() {
    compare(|run| {
        let none = || ((), vec![]);
        let read = OpenOptions::new().read(true);
        let write = OpenOptions::new().write(true);
        for (name, path, options) in [
            ("nothing", c"", &read),
            ("no file", c"/nowhere/to/be/found", &read),
            ("below a file", c"/etc/passwd/below", &read),
            ("a directory to write to", c"/tmp", &write),
            ("a directory", c"/tmp", &read),
            ("what is there already", c"/etc/passwd", &write.clone().create_new(true)),
            ("a link in circles", c"/proc/self/fd/../exe/x", &read),
            ("what is no directory", c"/etc/passwd", &read.clone().custom_flags(libc::O_DIRECTORY)),
            ("a link that is not followed", c"/proc/self/exe", &read.clone().custom_flags(libc::O_NOFOLLOW)),
            ("flags that make no sense", c"/tmp", &read.clone().create(true)),
            ("a terminal that there is none of", c"/dev/tty", &read),
        ] {
            let options = options.clone();
            run.case(format!("open: {name}"), none, move |_| File::open(path, &options), |_| "a file".into());
        }
    });
}

/// A list of more buffers than Linux takes.
struct Many {
    vecs: IoVecs<1025>,
    bytes: [u8; 1025],
}

#[test]
fn more_buffers_than_the_kernel_takes() {
    fn many<D>((descriptor, company): (D, Company)) -> ((D, Box<Many>), Company) {
        ((descriptor, Box::new(Many { vecs: IoVecs::new(), bytes: [7; 1025] })), company)
    }
    type S<D> = State<(D, Box<Many>)>;
    compare(|run| {
        // Not those on which the operation is a mistake anyhow: of two mistakes, either may be the one that
        // is told.
        for (name, make) in [("a file", (|| file(libc::O_RDWR)) as Make), ("a pipe", pipe_with_data)] {
            let n = |what: &str| format!("{what}: {name}");
            let (file, stream) = (|| many(as_file(make())), || many(stream(tcp_with_data())));
            fn pieces(many: &mut Many) -> oxev::Gather<'_> {
                many.vecs.gather(many.bytes.chunks(1))
            }
            fn places(many: &mut Many) -> oxev::Scatter<'_> {
                many.vecs.scatter(many.bytes.chunks_mut(1))
            }
            fn write(s: &mut S<File>) -> Op<'_, usize> {
                s.descriptor.0.write_vectored_at(pieces(&mut s.descriptor.1), 0)
            }
            fn read(s: &mut S<File>) -> Op<'_, usize> {
                s.descriptor.0.read_vectored_at(places(&mut s.descriptor.1), 0)
            }
            fn send(s: &mut S<TcpStream>) -> Op<'_, usize> {
                s.descriptor.0.send_vectored(pieces(&mut s.descriptor.1))
            }
            fn recv(s: &mut S<TcpStream>) -> Op<'_, usize> {
                s.descriptor.0.recv_vectored(places(&mut s.descriptor.1))
            }
            if name == "a file" {
                run.case(n("write"), file, write, count);
            }
            run.case(n("read"), file, read, count);
            run.case(n("send"), stream, send, count);
            run.case(n("recv"), stream, recv, count);
        }
    });
}

#[test]
fn events_that_are_waited_for() {
    const SETS: &[(&str, i16)] = &[
        ("in", libc::POLLIN),
        ("out", libc::POLLOUT),
        ("in or out", libc::POLLIN | libc::POLLOUT),
        ("urgent", libc::POLLPRI),
        ("writable, as System V has it", libc::POLLWRNORM),
        ("half closed", libc::POLLRDHUP),
        ("nothing but the end", 0),
    ];
    compare(|run| {
        for (name, make) in DESCRIPTORS {
            for (set, events) in SETS {
                run.case(
                    format!("poll for {set}: {name}"),
                    make,
                    |s: &mut State<OwnedFd>| {
                        let mut op = RawOp::new(OpKind::Poll, s.descriptor.as_raw_fd());
                        op.as_poll_mut().events = *events as u32;
                        op.flags = RawOp::UNTRACKED;
                        // SAFETY: the descriptor is in the state, and nothing else is pointed to.
                        unsafe { Op::from_raw(op) }
                    },
                    |events: usize| format!("{events:#x}"),
                );
            }
        }
    });
}

/// Programs of more than one operation: what each of them ended with, in the order of the ends.
mod programs {
    use super::*;
    use oxev::{Action, Multi, RunMode, is_canceled};

    struct Told(Rc<RefCell<Vec<String>>>);

    impl Told {
        fn tell<R: std::fmt::Debug>(&self, name: &str, end: io::Result<R>) {
            let end = match end {
                Err(error) if is_canceled(&error) => "canceled".into(),
                Err(error) => {
                    error.raw_os_error().map_or(format!("{:?}", error.kind()), |errno| errno.to_string())
                }
                Ok(value) => format!("{value:?}"),
            };
            self.0.borrow_mut().push(format!("{name}: {end}"));
        }
    }

    struct Half {
        stream: Rc<TcpStream>,
        buffer: Vec<u8>,
        name: &'static str,
        told: Told,
    }

    struct Program {
        lp: Box<Loop>,
        told: Rc<RefCell<Vec<String>>>,
    }

    impl Program {
        fn start(
            &mut self,
            name: &'static str,
            stream: &Rc<TcpStream>,
            bytes: usize,
            prepare: impl for<'a> FnOnce(&'a mut Half) -> Op<'a, usize>,
        ) -> oxev::OpId {
            let (told, stream) = (Told(Rc::clone(&self.told)), Rc::clone(stream));
            let half = Half { stream, buffer: vec![7; bytes], name, told };
            self.lp.submit(Box::new(Completion::new(half)), prepare, |_, half, end| {
                half.told.tell(half.name, end)
            })
        }

        fn settle(&mut self) {
            for _ in 0..20 {
                self.lp.run(RunMode::NoWait).unwrap();
            }
        }

        fn finish(mut self) -> Vec<String> {
            self.lp.run(RunMode::UntilDone).unwrap();
            self.told.take()
        }
    }

    fn connection() -> (Rc<TcpStream>, StdStream) {
        let (stream, peer) = tcp();
        (Rc::new(TcpStream::from_std(stream).unwrap()), peer)
    }

    fn same(program: fn(Program) -> Vec<String>) {
        let ends = |kind| {
            let lp = Loop::builder().backend(kind).capacity(64).build().ok()?;
            Some(program(Program { lp, told: Rc::default() }))
        };
        let Some(expected) = ends(Kind::IoUring) else {
            return eprintln!("skipped: there is no io_uring here");
        };
        for other in OTHERS {
            assert_eq!(ends(other).as_ref(), Some(&expected), "{other}");
        }
    }

    /// Several receives at once are served in no order (io_uring takes the newest first), but each byte once.
    #[test]
    fn of_several_receives_some_get_data_and_the_rest_is_told_of_the_end() {
        same(|mut p| {
            let (stream, mut peer) = connection();
            for _ in 0..4 {
                p.start("recv_exact", &stream, 4, |half| half.stream.recv_exact(&mut half.buffer));
            }
            p.settle();
            peer.write_all(b"aaaabbbbcc").unwrap();
            p.settle();
            drop(peer);
            p.finish()
        });
    }

    #[test]
    fn what_waits_on_a_connection_that_is_reset_is_told_so() {
        for receives in [true, false] {
            let program = if receives {
                |mut p: Program| {
                    let (stream, peer) = connection();
                    p.start("recv", &stream, 4, |half| half.stream.recv(&mut half.buffer));
                    p.settle();
                    Socket::from(peer).set_linger(Some(Duration::ZERO)).unwrap();
                    p.finish()
                }
            } else {
                |mut p: Program| {
                    let (stream, peer) = connection();
                    p.start("send", &stream, 64 << 20, |half| half.stream.send_all(&half.buffer));
                    p.settle();
                    Socket::from(peer).set_linger(Some(Duration::ZERO)).unwrap();
                    // ECONNRESET goes to the call that asks first, and that may be inside of the kernel; then it is
                    // EPIPE.
                    p.finish().into_iter().map(|line| line.replace(": 32", ": 104")).collect()
                }
            };
            same(program);
        }
    }

    #[test]
    fn shutting_down_ends_what_waits() {
        same(|mut p| {
            let (stream, _peer) = connection();
            p.start("recv", &stream, 4, |half| half.stream.recv(&mut half.buffer));
            p.start("recv_exact", &stream, 4, |half| half.stream.recv_exact(&mut half.buffer));
            p.settle();
            socket2::SockRef::from(&*stream).shutdown(Shutdown::Both).unwrap();
            p.start("send", &stream, 4, |half| half.stream.send(&half.buffer));
            let mut told = p.finish();
            told.sort();
            told
        });
    }

    #[test]
    fn a_cancelled_transfer_that_moved_a_part_is_cancelled() {
        same(|mut p| {
            let (stream, mut peer) = connection();
            let recv = p.start("recv_exact", &stream, 8, |half| half.stream.recv_exact(&mut half.buffer));
            let send = p.start("send_all", &stream, 64 << 20, |half| half.stream.send_all(&half.buffer));
            peer.write_all(b"half").unwrap();
            p.settle();
            assert!(p.lp.cancel(recv));
            assert!(p.lp.cancel(send));
            let mut told = p.finish();
            told.sort();
            told
        });
    }

    #[test]
    fn a_listener_that_is_shut_down_ends_its_accepts() {
        same(|mut p| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            // SAFETY: no memory is passed.
            let fd = own(unsafe { libc::fcntl(listener.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) });
            let told = Told(Rc::clone(&p.told));
            p.lp.submit_multi(
                Box::new(Completion::new(Multi::new(listener, told))),
                |listener| listener.accept_multi(),
                |_, told, _stream| {
                    told.tell("accept", Ok(()));
                    Action::Rearm
                },
                |_, server, end| server.state.tell("end", end),
            );
            p.settle();
            let address = Socket::from(fd.try_clone().unwrap()).local_addr().unwrap().as_socket().unwrap();
            let _guests = [StdStream::connect(address).unwrap(), StdStream::connect(address).unwrap()];
            p.settle();
            Socket::from(fd).shutdown(Shutdown::Both).unwrap();
            p.finish()
        });
    }
}
