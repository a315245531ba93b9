//! A server that both waits and computes: one loop reads and writes for all connections, a thread pool does
//! the work of the requests. A request is a line; the reply is a hash of it that is slow to compute
//! (`--rounds`), in hexadecimal.
//!
//! It shows how work leaves the loop and comes back: [`Loop::offload`] lends the connection to a worker, with
//! its buffers and without allocating anything, and the callback is on the loop again. So there is no lock;
//! while a worker has a connection the loop cannot reach it, and the client's next line waits in the buffer
//! or in the kernel. One client's slow requests do not hold up another's, up to as many as there are threads.
//!
//! ```text
//! cargo run --release --example hybrid_server -- --bind 127.0.0.1:7000 --rounds 1000000
//! printf 'one\ntwo\n' | nc -N 127.0.0.1 7000
//! ```

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::num::NonZero;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use oxev::{Action, Completion, Kind, Loop, Multi, Op, RunMode, TcpListener, TcpStream, ThreadPool, Timer};

/// Answers each line with a hash of it.
#[derive(Parser)]
struct Args {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:7000")]
    bind: String,
    /// The backend to run on; the best that works here if it is not given.
    #[arg(long)]
    backend: Option<Kind>,
    /// How many threads hash; one per core if it is not given.
    #[arg(long)]
    threads: Option<NonZero<usize>>,
    /// How often each line is hashed: what a request costs.
    #[arg(long, default_value_t = 100_000)]
    rounds: u32,
}

/// The longest line that is answered, with its end. What is longer gets a line that says so.
const LINE_BYTES_MAX: usize = 4096;

/// How long to wait before accepting again if there are no descriptors left, or no memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    match serve(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hybrid_server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &Args) -> io::Result<()> {
    let mut builder = Loop::builder();
    if let Some(kind) = args.backend {
        builder = builder.backend(kind);
    }
    let mut lp = builder.build().map_err(|error| context("cannot make the loop", &error))?;
    let threads = args.threads.map_or_else(std::thread::available_parallelism, Ok)?.get();
    let pool = ThreadPool::builder().max_threads(threads).build()?;
    let listener = TcpListener::bind(&args.bind)
        .map_err(|error| context(&format!("cannot listen on {}", args.bind), &error))?;
    listener.set_nodelay(true)?; // for every connection that it accepts
    stop_on_signal(&lp)?;

    writeln!(io::stdout(), "listening on {} ({}, {threads} threads)", listener.local_addr()?, lp.backend())?;
    let service = Service { pool, rounds: args.rounds };
    accept(&mut lp, Box::new(Completion::new(Multi::new(listener, service))));
    lp.run(RunMode::UntilDone)
}

fn stop_on_signal(lp: &Loop) -> io::Result<()> {
    let handle = lp.handle();
    ctrlc::set_handler(move || handle.stop()).map_err(io::Error::other)
}

fn context(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

// ---- accepting

/// What connections share.
#[derive(Clone)]
struct Service {
    pool: ThreadPool,
    rounds: u32,
}

type Server = Box<Completion<Multi<TcpListener, Service>>>;

fn accept(lp: &mut Loop, server: Server) {
    lp.submit_multi(server, |listener| listener.accept_multi(), on_accept, on_accept_end);
}

fn on_accept(lp: &mut Loop, service: &mut Service, stream: TcpStream) -> Action {
    next_request(lp, Box::new(Completion::new(Connection::new(stream, service.clone()))));
    Action::Rearm
}

/// Accepting has failed. A connection that was gone before it was accepted is no reason to pause; without
/// descriptors or memory, trying again at once would spin.
fn on_accept_end(lp: &mut Loop, server: Server, end: io::Result<()>) {
    match end {
        Err(error) if error.kind() != io::ErrorKind::ConnectionAborted => {
            eprintln!("hybrid_server: cannot accept, trying again in {ACCEPT_PAUSE:?}: {error}");
            lp.submit(server, |_| Timer::after(ACCEPT_PAUSE), |lp, server, _| accept(lp, server));
        }
        _ => accept(lp, server),
    }
}

// ---- a connection: read until there is a line, hash it, reply, and so on

struct Connection {
    stream: TcpStream,
    service: Service,
    /// The first `filled` bytes have been received; the first `line` of them are the request, with its end.
    buffer: Box<[u8; LINE_BYTES_MAX]>,
    filled: usize,
    line: usize,
    /// What comes is the rest of a line that has been refused.
    skipping: bool,
    reply: String,
}

enum Line {
    Whole,
    Unfinished,
    TooLong,
}

type Client = Box<Completion<Connection>>;

impl Connection {
    fn new(stream: TcpStream, service: Service) -> Connection {
        let buffer = Box::new([0; LINE_BYTES_MAX]);
        Connection { stream, service, buffer, filled: 0, line: 0, skipping: false, reply: String::new() }
    }

    /// Goes on to the next line.
    fn next_line(&mut self) -> Line {
        self.remove(self.line);
        if self.skipping {
            let rest = self.line_end();
            self.skipping = rest.is_none();
            self.remove(rest.unwrap_or(self.filled));
        }
        let Some(end) = self.line_end() else { return self.unfinished() };
        self.line = end;
        Line::Whole
    }

    fn unfinished(&mut self) -> Line {
        if self.filled < LINE_BYTES_MAX {
            return Line::Unfinished;
        }
        self.line = self.filled;
        self.skipping = true;
        Line::TooLong
    }

    fn line_end(&self) -> Option<usize> {
        self.buffer[..self.filled].iter().position(|&byte| byte == b'\n').map(|at| at + 1)
    }

    /// Takes bytes off the front of the buffer.
    fn remove(&mut self, bytes: usize) {
        self.buffer.copy_within(bytes..self.filled, 0);
        self.filled -= bytes;
        self.line = 0;
    }

    fn recv(&mut self) -> Op<'_, usize> {
        self.stream.recv(&mut self.buffer[self.filled..])
    }

    /// Runs on a worker.
    fn hash(&mut self) {
        let line = self.buffer[..self.line].trim_ascii_end();
        let hash = (0..self.service.rounds).fold(FNV_OFFSET_BASIS, |hash, _| fnv_1a(hash, line));
        self.reply.clear();
        let _ = writeln!(self.reply, "{hash:016x}"); // a string takes whatever it is given
    }

    fn send_reply(&mut self) -> Op<'_, usize> {
        self.stream.send_all(self.reply.as_bytes())
    }
}

fn next_request(lp: &mut Loop, mut client: Client) {
    match client.next_line() {
        Line::Whole => {
            let pool = client.service.pool.clone();
            lp.offload(&pool, client, Connection::hash, on_hashed);
        }
        Line::Unfinished => {
            lp.submit(client, Connection::recv, on_recv);
        }
        Line::TooLong => {
            client.reply = format!("error: a line has at most {LINE_BYTES_MAX} bytes\n");
            lp.submit(client, Connection::send_reply, on_replied);
        }
    }
}

/// Returning without a new submission drops the connection, which closes it.
fn on_recv(lp: &mut Loop, mut client: Client, received: io::Result<usize>) {
    if let Ok(bytes @ 1..) = received {
        client.filled += bytes;
        next_request(lp, client);
    }
}

fn on_hashed(lp: &mut Loop, client: Client, done: io::Result<()>) {
    match done {
        Ok(()) => {
            lp.submit(client, Connection::send_reply, on_replied);
        }
        Err(error) => eprintln!("hybrid_server: cannot hash: {error}"),
    }
}

fn on_replied(lp: &mut Loop, client: Client, sent: io::Result<usize>) {
    if sent.is_ok() {
        next_request(lp, client);
    }
}

// ---- the work

const FNV_OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

fn fnv_1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME))
}
