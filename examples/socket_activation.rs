//! An echo server on a socket that it did not open: the listener is descriptor 3, as it is for a service that systemd
//! starts when a client connects (sd_listen_fds(3)), and for a program under WASI, which can open none itself.
//!
//! ```text
//! cargo build --example socket_activation
//! systemd-socket-activate -l 7000 target/debug/examples/socket_activation
//! wasmtime run -S preview2=n -S tcplisten=127.0.0.1:7000 socket_activation.wasm
//! ```
//!
//! It ends when it has served as many connections as its argument says; without one it serves for good.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, RawFd};

use oxev::{Action, Completion, Loop, Multi, RunMode, TcpListener, TcpStream};

/// `SD_LISTEN_FDS_START`.
const LISTENER: RawFd = 3;

struct Connection {
    stream: TcpStream,
    buffer: [u8; 4096],
}

fn main() -> io::Result<()> {
    let connections_max =
        std::env::args().nth(1).map_or(usize::MAX, |count| count.parse().expect("a number"));
    // SAFETY: the parent process has opened it for this program, and nothing else here uses it.
    let listener = TcpListener::from_std(unsafe { std::net::TcpListener::from_raw_fd(LISTENER) })?;
    let mut lp = Loop::new()?;
    lp.submit_multi(
        Box::new(Completion::new(Multi::new(listener, connections_max))),
        |listener| listener.accept_multi(),
        |lp, left, stream| {
            *left -= 1;
            serve(lp, stream);
            if *left > 0 { Action::Rearm } else { Action::Disarm }
        },
        |_, _, end| end.expect("connections can be accepted"),
    );
    lp.run(RunMode::UntilDone)
}

fn serve(lp: &mut Loop, stream: TcpStream) {
    let connection = Box::new(Completion::new(Connection { stream, buffer: [0; 4096] }));
    lp.submit(connection, |c| c.stream.recv(&mut c.buffer), on_received);
}

/// The end of the stream, and an error, close the connection by dropping it.
fn on_received(lp: &mut Loop, connection: Box<Completion<Connection>>, received: io::Result<usize>) {
    if let Ok(count @ 1..) = received {
        lp.submit(connection, move |c| c.stream.send_all(&c.buffer[..count]), on_sent);
    }
}

fn on_sent(lp: &mut Loop, connection: Box<Completion<Connection>>, sent: io::Result<usize>) {
    if sent.is_ok() {
        lp.submit(connection, |c| c.stream.recv(&mut c.buffer), on_received);
    }
}
