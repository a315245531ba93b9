//! A TCP echo server through the safe API against the same server on a bare ring
//! (`SINGLE_ISSUER | DEFER_TASKRUN`): the server's CPU time for each request.
//!
//! Server on core 0, a load generator on core 1 that keeps one request in flight on each connection and is
//! the same for both. Over nine tenths of the time is the kernel's TCP, so what counts is the ratio to the
//! bare ring, medians of rounds in turns. Goal: 1.03. Requests per second are the whole machine's, client
//! included.

mod peers;
mod support;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Instant;

use io_uring::squeue::Flags;
use io_uring::{opcode, types};
use oxev::{Completion, Loop, RunMode};
use peers::uring::RawRing;
use support::{Samples, alternate, pin_to, scaled, thread_ns_per, verdict};

const BUFFER_BYTES: usize = 16 * 1024;
const GOAL: f64 = 1.03;

/// How many connections send messages of how many bytes.
#[derive(Clone, Copy)]
struct Load {
    connections: usize,
    bytes: usize,
    /// Of each connection.
    requests: usize,
}

impl Load {
    fn requests_total(&self) -> usize {
        self.connections * self.requests
    }
}

// ---- the servers: they serve these connections until the last has been closed

struct Connection {
    stream: oxev::TcpStream,
    buffer: [u8; BUFFER_BYTES],
}

fn serve_oxev(streams: Vec<TcpStream>) {
    let mut lp = Loop::new().expect("a loop");
    for stream in streams {
        let stream = oxev::TcpStream::from_std(stream).expect("a connected socket");
        receive(&mut lp, Box::new(Completion::new(Connection { stream, buffer: [0; BUFFER_BYTES] })));
    }
    lp.run(RunMode::UntilDone).expect("the loop runs");
}

fn receive(lp: &mut Loop, connection: Box<Completion<Connection>>) {
    lp.submit(connection, |c| c.stream.recv(&mut c.buffer), on_received);
}

fn on_received(lp: &mut Loop, connection: Box<Completion<Connection>>, received: io::Result<usize>) {
    if let Ok(count @ 1..) = received {
        lp.submit(connection, |c| c.stream.send_all(&c.buffer[..count]), on_sent);
    }
}

fn on_sent(lp: &mut Loop, connection: Box<Completion<Connection>>, sent: io::Result<usize>) {
    if sent.is_ok() {
        receive(lp, connection);
    }
}

/// Marks the user data of a send.
const SEND: u64 = 1 << 32;

#[allow(unsafe_code)]
fn serve_raw(streams: Vec<TcpStream>) {
    let mut ring = RawRing::new(4096);
    let mut buffers: Vec<Box<[u8; BUFFER_BYTES]>> =
        streams.iter().map(|_| Box::new([0; BUFFER_BYTES])).collect();
    let mut streams: Vec<Option<TcpStream>> = streams.into_iter().map(Some).collect();
    let fds: Vec<types::Fd> = streams.iter().flatten().map(|stream| types::Fd(stream.as_raw_fd())).collect();
    let mut receive = |ring: &mut RawRing, index: usize| {
        let recv = opcode::Recv::new(fds[index], buffers[index].as_mut_ptr(), BUFFER_BYTES as u32);
        // SAFETY: the buffers outlive the ring's last completion, which is waited for.
        unsafe { ring.push(&recv.build().user_data(index as u64)) };
        buffers[index].as_ptr()
    };
    let places: Vec<*const u8> = (0..fds.len()).map(|index| receive(&mut ring, index)).collect();
    let mut open = fds.len();
    while open > 0 {
        ring.wait(|ring, completion| {
            let index = (completion.user_data() & !SEND) as usize;
            if completion.user_data() & SEND != 0 {
                receive(ring, index);
            } else if let Ok(count @ 1..) = u32::try_from(completion.result()) {
                let send = opcode::Send::new(fds[index], places[index], count).flags(libc::MSG_WAITALL);
                // SAFETY: as above.
                unsafe { ring.push(&send.build().user_data(index as u64 | SEND)) };
            } else {
                streams[index] = None;
                open -= 1;
            }
        });
    }
}

// ---- the client

/// Sends all requests and checks the answers.
#[allow(unsafe_code)]
fn run_client(streams: &[TcpStream], load: Load) {
    let mut ring = RawRing::new(4096);
    let message: Vec<u8> = (0..load.bytes).map(|index| index as u8).collect();
    let mut answers = vec![vec![0; load.bytes]; load.connections];
    let mut left = vec![load.requests; load.connections];
    let fds: Vec<types::Fd> = streams.iter().map(|stream| types::Fd(stream.as_raw_fd())).collect();
    let request = |ring: &mut RawRing, index: usize, answer: &mut [u8]| {
        let send =
            opcode::Send::new(fds[index], message.as_ptr(), load.bytes as u32).flags(libc::MSG_WAITALL);
        let recv =
            opcode::Recv::new(fds[index], answer.as_mut_ptr(), load.bytes as u32).flags(libc::MSG_WAITALL);
        // SAFETY: message and answers outlive the ring's last completion, which is waited for.
        unsafe { ring.push(&send.build().flags(Flags::SKIP_SUCCESS).user_data(index as u64)) };
        // SAFETY: as above.
        unsafe { ring.push(&recv.build().user_data(index as u64)) };
    };
    answers.iter_mut().enumerate().for_each(|(index, answer)| request(&mut ring, index, answer));
    let mut running = load.connections;
    while running > 0 {
        ring.wait(|ring, completion| {
            let index = completion.user_data() as usize;
            assert_eq!(completion.result(), load.bytes as i32, "the whole answer");
            assert_eq!(answers[index], message, "the answer is the message");
            left[index] -= 1;
            if left[index] > 0 {
                request(ring, index, &mut answers[index]);
            } else {
                running -= 1;
            }
        });
    }
}

// ---- one round

/// What a round measured.
struct Run {
    server_us: f64,
    per_second: f64,
}

fn run(load: Load, serve: fn(Vec<TcpStream>)) -> Run {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let server = thread::spawn(move || {
        pin_to(0);
        let accept = |_| listener.accept().expect("the client connects").0;
        let streams: Vec<TcpStream> =
            (0..load.connections).map(accept).inspect(|s| s.set_nodelay(true).unwrap()).collect();
        thread_ns_per(load.requests_total(), || serve(streams)) / 1000.0
    });
    let streams = connect(address, load.connections);
    let start = Instant::now();
    run_client(&streams, load);
    let per_second = load.requests_total() as f64 / start.elapsed().as_secs_f64();
    drop(streams);
    Run { server_us: server.join().expect("the server ends"), per_second }
}

fn connect(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let connect = |_| {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        stream
    };
    (0..count).map(connect).collect()
}

fn main() {
    pin_to(1);
    let rounds = scaled(7, 1);
    println!("TCP echo, {rounds} rounds: the server's CPU time for each request in µs, requests a second");
    println!(
        "{:>11} {:>6} {:>8} {:>8} {:>7} {:>9} {:>9}   goal",
        "connections", "bytes", "raw", "oxev", "ratio", "raw", "oxev"
    );
    for (connections, bytes, requests) in
        [(10, 64, 5000), (100, 64, 1000), (1000, 64, 100), (100, 16384, 300)]
    {
        let load = Load { connections, bytes, requests: scaled(requests, 2) };
        let (mut rate_raw, mut rate_oxev) = (Samples::default(), Samples::default());
        let measure = |serve, rates: &mut Samples| {
            let run = run(load, serve);
            rates.0.push(run.per_second);
            run.server_us
        };
        let [raw, oxev] = alternate(
            rounds,
            [&mut || measure(serve_raw, &mut rate_raw), &mut || measure(serve_oxev, &mut rate_oxev)],
        );
        let ratio = oxev.paired(&raw, |oxev, raw| oxev / raw);
        println!(
            "{connections:>11} {bytes:>6} {:>8.2} {:>8.2} {ratio:>7.3} {:>9.0} {:>9.0}   <= {GOAL} {}",
            raw.median(),
            oxev.median(),
            rate_raw.median(),
            rate_oxev.median(),
            verdict(ratio, GOAL),
        );
    }
}
