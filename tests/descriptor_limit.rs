//! A descriptor may have a number beyond the limit that holds when a loop is made: the limit was lowered
//! since, or is raised later. It works nevertheless, on every backend. This has a binary to itself, as the
//! limit is the process's.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use oxev::{Completion, Kind, Loop, RunMode, TcpStream};

thread_local! {
    static RECEIVED: Cell<usize> = const { Cell::new(0) };
}

fn pair() -> (StdStream, StdStream) {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let peer = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, peer)
}

/// Another name for a stream, with a number of at least `number`.
fn numbered(stream: &StdStream, number: libc::rlim_t) -> io::Result<TcpStream> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::fcntl(stream.as_raw_fd(), libc::F_DUPFD_CLOEXEC, number as i32) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just made, and has no other owner.
    TcpStream::from_std(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

#[test]
fn a_number_beyond_the_limit_works() {
    const LOWERED: libc::rlim_t = 1024;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if hard <= 2 * LOWERED {
        return eprintln!("skipped: the limit is low already");
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let connections: Vec<_> = Kind::COMPILED
        .iter()
        .flat_map(|kind| [2 * LOWERED, hard - 100].map(|number| (*kind, number)))
        .map(|(kind, number)| {
            let (stream, peer) = pair();
            (kind, numbered(&stream, number).unwrap(), peer)
        })
        .collect();
    setrlimit(Resource::RLIMIT_NOFILE, LOWERED, LOWERED).unwrap();
    for (kind, stream, mut peer) in connections {
        let Ok(mut lp) = Loop::builder().backend(kind).build() else { continue };
        let owner = Box::new(Completion::new((stream, [0u8; 4])));
        lp.submit(owner, |(s, b)| s.recv_exact(b), |_, _, received| RECEIVED.set(received.unwrap()));
        lp.run(RunMode::NoWait).unwrap();
        assert_eq!(RECEIVED.take(), 0);
        peer.write_all(b"sent").unwrap();
        lp.run(RunMode::UntilDone).unwrap();
        assert_eq!(RECEIVED.take(), 4, "on {kind}");
    }
}

/// With neither a descriptor to spare nor a socket that could be had, as where there is no IPv6.
#[test]
fn a_connect_of_several_addresses_for_which_there_is_no_socket_ends_with_the_error() {
    // In a process of its own, since the limit holds for every test of this one.
    const NAME: &str = "a_connect_of_several_addresses_for_which_there_is_no_socket_ends_with_the_error";
    const CHILD: &str = "OXEV_TEST_NO_SOCKETS";
    let Some(kind) = std::env::var_os(CHILD) else {
        for kind in Kind::COMPILED {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let child = child.args([NAME, "--exact", "--nocapture"]).env(CHILD, kind.to_string());
            assert!(child.status().unwrap().success(), "on {kind}");
        }
        return;
    };
    let Ok(mut lp) = Loop::builder().backend(kind.to_str().unwrap().parse().unwrap()).build() else { return };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
    let addresses: Vec<SocketAddr> =
        ["127.0.0.1:1", "[::1]:1", "127.0.0.1:2"].map(|a| a.parse().unwrap()).into();
    lp.submit(
        Box::new(Completion::new(addresses)),
        |addresses| TcpStream::connect(&addresses[..]),
        |_, _, connected| {
            assert_eq!(connected.unwrap_err().raw_os_error(), Some(libc::EMFILE));
            RECEIVED.set(1);
        },
    );
    lp.run_for(Duration::from_secs(10)).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert_eq!(RECEIVED.take(), 1, "it has not ended");
}
