//! A process that may lock no memory: zero-copy sends copy. This has a binary to itself, as the limit is the
//! process's.

#![allow(unsafe_code)]

use std::io::Read;
use std::net::{TcpListener as StdListener, TcpStream as StdStream};
use std::thread;

use nix::sys::resource::{Resource, setrlimit};
use oxev::{Completion, Kind, Loop, RunMode, TcpStream};

/// Gives up the right of this thread to lock as much memory as it likes (`CAP_IPC_LOCK`).
fn give_up_privileges() {
    #[repr(C)]
    struct CapHeader {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct CapData {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // `_LINUX_CAPABILITY_VERSION_3`, with two records.
    let mut header = CapHeader { version: 0x2008_0522, pid: 0 };
    let none = [CapData::default(); 2];
    // SAFETY: header and records are valid for the length of the call.
    let status = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, none.as_ptr()) };
    assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_zero_copy_send_without_memory_that_may_be_locked_copies() {
    const LEN: usize = 4 << 20;
    struct Sender {
        stream: TcpStream,
        bytes: Vec<u8>,
    }
    give_up_privileges();
    let kinds = Kind::COMPILED.iter().copied();
    let loops: Vec<_> =
        kinds.filter_map(|kind| Loop::builder().backend(kind).entries(8).capacity(8).build().ok()).collect();
    // The rings have what they need.
    setrlimit(Resource::RLIMIT_MEMLOCK, 0, 0).unwrap();
    for mut lp in loops {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let ours = StdStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            all
        });
        let sender = Sender { stream: TcpStream::from_std(ours).unwrap(), bytes: vec![7; LEN] };
        lp.submit(
            Box::new(Completion::new(sender)),
            |s| s.stream.send_all_zero_copy(&s.bytes),
            |_, _, sent| assert_eq!(sent.unwrap(), LEN),
        );
        lp.run(RunMode::UntilDone).unwrap();
        assert!(reader.join().unwrap() == vec![7; LEN], "{}", lp.backend());
    }
}
