//! A TCP echo server, as one would write it for production: it sends back what it receives, keeps no more
//! than one operation for each connection, survives running out of descriptors, and ends cleanly on Ctrl-C
//! and SIGTERM.
//!
//! It shows how a connection is a chain of callbacks (`accept_multi`, then `recv` and `send_all` in turn),
//! how its memory is either boxed or a slot of a [`Pool`] that is made at start-up (`--pool N`: no heap
//! afterwards, new connections included) with the same callbacks for both, and how a signal handler stops a
//! loop from another thread.
//!
//! ```text
//! cargo run --release --example echo_server -- --bind 127.0.0.1:7000 --pool 1000
//! ```

use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use oxev::{Action, Completion, Kind, Loop, Multi, Op, Owner, Pool, RunMode, TcpListener, TcpStream, Timer};

/// Sends back whatever it receives.
#[derive(Parser)]
struct Args {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:7000")]
    bind: String,
    /// The backend to run on; the best that works here if it is not given.
    #[arg(long)]
    backend: Option<Kind>,
    /// Takes connections from a pool of this many, allocated at the start; further ones are closed.
    #[arg(long, value_name = "CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..))]
    pool: Option<u32>,
    /// The size of each connection's buffer.
    #[arg(long, value_name = "BYTES", default_value_t = POOLED_BUFFER_BYTES as u32, conflicts_with = "pool",
          value_parser = clap::value_parser!(u32).range(1..))]
    buffer: u32,
}

/// The buffer that is part of each slot of the pool.
const POOLED_BUFFER_BYTES: usize = 16 << 10;

/// How long a request may take that is being answered when the server is told to end. A connection that waits for a
/// request takes that long, too.
const GRACE: Duration = Duration::from_millis(500);

/// How long to wait before accepting again if there are no descriptors left, or no memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    match serve(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo_server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &Args) -> io::Result<()> {
    raise_descriptor_limit()?;
    let mut lp = build_loop(args).map_err(|error| context("cannot make the loop", &error))?;
    let listener =
        listen(&args.bind).map_err(|error| context(&format!("cannot listen on {}", args.bind), &error))?;
    stop_on_signal(&lp)?;

    let totals = Rc::new(Totals::default());
    writeln!(io::stdout(), "listening on {} ({})", listener.local_addr()?, lp.backend())?;
    match args.pool {
        Some(connections) => start(
            &mut lp,
            listener,
            Pooling { pool: Pool::new(connections as usize), totals: totals.clone() },
        ),
        None => {
            start(&mut lp, listener, Boxing { buffer_bytes: args.buffer as usize, totals: totals.clone() })
        }
    }
    lp.run(RunMode::UntilStop)?;

    // Connections that are still open add themselves to the totals when they are cut off.
    lp.finish(GRACE)?;
    drop(lp);
    writeln!(io::stdout(), "{totals}")
}

fn build_loop(args: &Args) -> io::Result<Box<Loop>> {
    let mut builder = Loop::builder();
    if let Some(kind) = args.backend {
        builder = builder.backend(kind);
    }
    if let Some(connections) = args.pool {
        // Each connection has one operation in flight, and accepting is one more.
        builder = builder.capacity(connections as usize + 1);
    }
    builder.build()
}

fn listen(address: &str) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nodelay(true)?; // for every connection that it accepts
    Ok(listener)
}

fn stop_on_signal(lp: &Loop) -> io::Result<()> {
    let handle = lp.handle();
    ctrlc::set_handler(move || handle.stop()).map_err(io::Error::other)
}

/// Every connection is a descriptor, and the customary limit of 1024 is soon reached.
fn raise_descriptor_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

fn context(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

// ---- accepting

/// Where the memory of new connections comes from: all that differs between a server with a pool and one
/// without.
trait Connections: 'static {
    /// Begins to serve a connection, or closes it.
    fn open(&self, lp: &mut Loop, stream: TcpStream);
}

/// Connections on the heap.
struct Boxing {
    buffer_bytes: usize,
    totals: Rc<Totals>,
}

impl Connections for Boxing {
    fn open(&self, lp: &mut Loop, stream: TcpStream) {
        let buffer = vec![0; self.buffer_bytes].into_boxed_slice();
        receive(lp, Box::new(Completion::new(Connection::new(stream, buffer, &self.totals))));
    }
}

/// Connections in a pool, with their buffers.
struct Pooling {
    pool: Pool<Connection<[u8; POOLED_BUFFER_BYTES]>>,
    totals: Rc<Totals>,
}

impl Connections for Pooling {
    fn open(&self, lp: &mut Loop, stream: TcpStream) {
        if self.pool.available() == 0 {
            return Totals::add(&self.totals.refused, 1);
        }
        let connection = Connection::new(stream, [0; POOLED_BUFFER_BYTES], &self.totals);
        if let Ok(connection) = self.pool.insert(connection) {
            receive(lp, connection);
        }
    }
}

type Server<C> = Box<Completion<Multi<TcpListener, C>>>;

fn start<C: Connections>(lp: &mut Loop, listener: TcpListener, connections: C) {
    accept(lp, Box::new(Completion::new(Multi::new(listener, connections))));
}

fn accept<C: Connections>(lp: &mut Loop, server: Server<C>) {
    lp.submit_multi(server, |listener| listener.accept_multi(), on_accept, on_accept_end);
}

fn on_accept<C: Connections>(lp: &mut Loop, connections: &mut C, stream: TcpStream) -> Action {
    connections.open(lp, stream);
    Action::Rearm
}

/// Accepting has failed. A connection that was gone before it was accepted is no reason to pause; without
/// descriptors (`EMFILE`, `ENFILE`) or memory, trying again at once would spin.
fn on_accept_end<C: Connections>(lp: &mut Loop, server: Server<C>, end: io::Result<()>) {
    match end {
        // The server ends.
        Err(error) if oxev::is_canceled(&error) => {}
        Err(error) if error.kind() != io::ErrorKind::ConnectionAborted => {
            eprintln!("echo_server: cannot accept, trying again in {ACCEPT_PAUSE:?}: {error}");
            lp.submit(server, |_| Timer::after(ACCEPT_PAUSE), |lp, server, _| accept(lp, server));
        }
        _ => accept(lp, server),
    }
}

// ---- a connection

struct Connection<B> {
    stream: TcpStream,
    buffer: B,
    requests: u64,
    bytes: u64,
    totals: Rc<Totals>,
}

impl<B: AsMut<[u8]> + AsRef<[u8]>> Connection<B> {
    fn new(stream: TcpStream, buffer: B, totals: &Rc<Totals>) -> Connection<B> {
        Connection { stream, buffer, requests: 0, bytes: 0, totals: Rc::clone(totals) }
    }

    fn recv(&mut self) -> Op<'_, usize> {
        self.stream.recv(self.buffer.as_mut())
    }

    fn echo(&mut self, bytes: usize) -> Op<'_, usize> {
        self.requests += 1;
        self.bytes += bytes as u64;
        self.stream.send_all(&self.buffer.as_ref()[..bytes])
    }
}

impl<B> Drop for Connection<B> {
    fn drop(&mut self) {
        Totals::add(&self.totals.connections, 1);
        Totals::add(&self.totals.requests, self.requests);
        Totals::add(&self.totals.bytes, self.bytes);
    }
}

/// What the callbacks below need: a buffer, and an owner of the connection that has it.
trait Buffer: AsMut<[u8]> + AsRef<[u8]> + 'static {}
impl<B: AsMut<[u8]> + AsRef<[u8]> + 'static> Buffer for B {}

fn receive<P: Owner<State = Connection<B>>, B: Buffer>(lp: &mut Loop, connection: P) {
    lp.submit(connection, |c| c.recv(), on_recv);
}

/// Returning without a new submission drops the connection, which closes it.
fn on_recv<P: Owner<State = Connection<B>>, B: Buffer>(
    lp: &mut Loop,
    connection: P,
    received: io::Result<usize>,
) {
    if let Ok(bytes @ 1..) = received {
        lp.submit(connection, |c| c.echo(bytes), on_sent);
    }
}

fn on_sent<P: Owner<State = Connection<B>>, B: Buffer>(
    lp: &mut Loop,
    connection: P,
    sent: io::Result<usize>,
) {
    if sent.is_ok() {
        receive(lp, connection);
    }
}

// ---- totals

/// Counted where everything is on one thread, so plain cells do.
#[derive(Default)]
struct Totals {
    connections: Cell<u64>,
    refused: Cell<u64>,
    requests: Cell<u64>,
    bytes: Cell<u64>,
}

impl Totals {
    fn add(count: &Cell<u64>, more: u64) {
        count.set(count.get() + more);
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { connections, refused, requests, bytes } = self;
        let (connections, refused, requests, bytes) =
            (connections.get(), refused.get(), requests.get(), bytes.get());
        write!(
            f,
            "served {connections} connections, {requests} requests, {bytes} bytes; turned {refused} away"
        )
    }
}
