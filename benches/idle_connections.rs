//! The memory of idle connections: 10,000 of them, each with a multishot receive from one [`BufPool`] in
//! flight, against a receive into a buffer of 4 KiB that each connection keeps for itself, which is what
//! completion-based programs without provided buffers do.
//!
//! Resident memory of the server process for each connection: `idle` when all are connected and nothing has
//! been sent, `echoed` after each has had one message and its answer. `state` is what the caller's own state
//! takes of it (the socket and, where there is one, the buffer); what is left is oxev's: the completion's
//! header, the pool's slot, the entry in the loop's table, and a share of the 64 buffers of 4 KiB that all
//! connections have together. Goal: 0.2 KiB.
//!
//! Server and clients are two processes, for the limit on descriptors: this program starts itself again.
//! Memory of the kernel does not count.

mod support;

use std::cell::Cell;
use std::fmt::Debug;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::str::FromStr;

use oxev::{Action, BufPool, Completion, Lease, Loop, Multi, Pool, Pooled, RunMode, TcpListener, TcpStream};
use support::{scaled, verdict};

const BUFFER_BYTES: usize = 4096;
const GOAL_KIB: f64 = 0.2;
/// Heap memory of an `Rc<TcpStream>`: two counts and the socket.
const RC_BYTES: usize = 2 * size_of::<usize>() + size_of::<usize>();

/// Resident memory of this process in KiB.
fn resident_kib() -> f64 {
    let map = std::fs::read_to_string("/proc/self/smaps_rollup").expect("Linux 4.14 or later");
    let line = map.lines().find(|line| line.starts_with("Rss:")).expect("a line for resident memory");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// Counts connections and, later, echoes, and says what all of them together took.
struct Meter {
    count: usize,
    left: Cell<usize>,
    start_kib: Cell<f64>,
}

impl Meter {
    fn new(count: usize) -> Meter {
        Meter { count, left: Cell::new(2 * count), start_kib: Cell::new(0.0) }
    }

    /// Something has happened; `true`: that was the last.
    fn tick(&self) -> bool {
        let left = self.left.get() - 1;
        self.left.set(left);
        if left == 2 * self.count - 1 {
            // With the first connection came the code and the tables.
            self.start_kib.set(resident_kib());
        }
        if left.is_multiple_of(self.count) {
            println!("{}", (resident_kib() - self.start_kib.get()) / self.count as f64);
        }
        left == 0
    }
}

// ---- a server whose connections share a pool of buffers

mod pooled {
    use super::*;

    /// What a receive borrows.
    struct Source {
        stream: Rc<TcpStream>,
        buffers: BufPool,
    }

    /// A connection: what its receive borrows, and what its callback works with.
    type Connection = Multi<Source, Context>;

    struct Context {
        stream: Rc<TcpStream>,
        server: Rc<Server>,
    }

    /// An answer on its way.
    struct Answer {
        stream: Rc<TcpStream>,
        server: Rc<Server>,
        lease: Lease,
    }

    struct Server {
        connections: Pool<Connection>,
        answers: Pool<Answer>,
        buffers: BufPool,
        meter: Meter,
    }

    pub(super) const STATE_BYTES: usize = size_of::<Connection>() + RC_BYTES;

    pub(super) fn serve(lp: &mut Loop, listener: TcpListener, count: usize) {
        let server = Rc::new(Server {
            connections: Pool::new(count),
            answers: Pool::new(16),
            buffers: lp.buf_pool(64, BUFFER_BYTES).expect("a buffer pool"),
            meter: Meter::new(count),
        });
        let acceptor = Box::new(Completion::new(Multi::new(listener, server)));
        lp.submit_multi(acceptor, |listener| listener.accept_multi(), on_accept, |_, _, _| ());
    }

    fn on_accept(lp: &mut Loop, server: &mut Rc<Server>, stream: TcpStream) -> Action {
        let stream = Rc::new(stream);
        let source = Source { stream: Rc::clone(&stream), buffers: server.buffers.clone() };
        let context = Context { stream, server: Rc::clone(server) };
        let connection = server.connections.insert(Multi::new(source, context)).ok().expect("room for all");
        lp.submit_multi(
            connection,
            |source| source.stream.recv_multi(&source.buffers),
            on_message,
            |_, _, _| (),
        );
        server.meter.tick();
        Action::Rearm
    }

    fn on_message(lp: &mut Loop, context: &mut Context, lease: Lease) -> Action {
        let answer = Answer { stream: Rc::clone(&context.stream), server: Rc::clone(&context.server), lease };
        let answer = context.server.answers.insert(answer).ok().expect("one answer at a time");
        lp.submit(answer, |answer| answer.stream.send_all(&answer.lease), on_answered);
        Action::Rearm
    }

    fn on_answered(lp: &mut Loop, answer: Pooled<Answer>, sent: io::Result<usize>) {
        sent.expect("the client takes it");
        if answer.server.meter.tick() {
            lp.stop();
        }
    }
}

// ---- a server whose connections have a buffer each

mod owned {
    use super::*;

    struct Connection {
        stream: TcpStream,
        server: Rc<Server>,
        buffer: [u8; BUFFER_BYTES],
    }

    struct Server {
        connections: Pool<Connection>,
        meter: Meter,
    }

    pub(super) const STATE_BYTES: usize = size_of::<Connection>();

    pub(super) fn serve(lp: &mut Loop, listener: TcpListener, count: usize) {
        let server = Rc::new(Server { connections: Pool::new(count), meter: Meter::new(count) });
        let acceptor = Box::new(Completion::new(Multi::new(listener, server)));
        lp.submit_multi(acceptor, |listener| listener.accept_multi(), on_accept, |_, _, _| ());
    }

    fn on_accept(lp: &mut Loop, server: &mut Rc<Server>, stream: TcpStream) -> Action {
        let connection = Connection { stream, server: Rc::clone(server), buffer: [0; BUFFER_BYTES] };
        receive(lp, server.connections.insert(connection).ok().expect("room for all"));
        server.meter.tick();
        Action::Rearm
    }

    fn receive(lp: &mut Loop, connection: Pooled<Connection>) {
        lp.submit(connection, |c| c.stream.recv(&mut c.buffer), on_message);
    }

    fn on_message(lp: &mut Loop, connection: Pooled<Connection>, received: io::Result<usize>) {
        if let Ok(count @ 1..) = received {
            lp.submit(connection, |c| c.stream.send_all(&c.buffer[..count]), on_answered);
        }
    }

    fn on_answered(lp: &mut Loop, connection: Pooled<Connection>, sent: io::Result<usize>) {
        sent.expect("the client takes it");
        if connection.server.meter.tick() {
            lp.stop();
        }
        receive(lp, connection);
    }
}

/// The server process: prints its address, the bytes of the caller's state, and the two figures in KiB.
fn serve(kind: &str, count: usize) -> io::Result<()> {
    let mut lp = Loop::builder().capacity(2 * count).build()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let (serve, state_bytes): (fn(&mut Loop, TcpListener, usize), usize) = match kind {
        "pooled" => (pooled::serve, pooled::STATE_BYTES),
        _ => (owned::serve, owned::STATE_BYTES),
    };
    println!("{state_bytes}");
    serve(&mut lp, listener, count);
    lp.run(RunMode::UntilDone)
}

// ---- the client

fn next_line<T: FromStr<Err: Debug>>(lines: &mut impl BufRead) -> io::Result<T> {
    let mut line = String::new();
    lines.read_line(&mut line)?;
    Ok(line.trim().parse().expect("a line from the server"))
}

/// Connects, waits for the first figure, has a message echoed on each connection, and waits for the second.
fn measure(kind: &str, count: usize) -> io::Result<[f64; 3]> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut server = command.args(["serve", kind, &count.to_string()]).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(server.stdout.take().expect("it is piped"));
    let address: SocketAddr = next_line(&mut lines)?;
    let state_bytes: usize = next_line(&mut lines)?;
    let mut streams: Vec<std::net::TcpStream> =
        (0..count).map(|_| std::net::TcpStream::connect(address)).collect::<io::Result<_>>()?;
    let idle_kib = next_line(&mut lines)?;
    for stream in &mut streams {
        let mut answer = [0; 4];
        stream.write_all(b"ping")?;
        stream.read_exact(&mut answer)?;
        assert_eq!(answer, *b"ping");
    }
    let echoed_kib = next_line(&mut lines)?;
    drop(streams);
    assert!(server.wait()?.success());
    Ok([state_bytes as f64 / 1024.0, idle_kib, echoed_kib])
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [serving, kind, count] = arguments.as_slice()
        && serving == "serve"
    {
        return serve(kind, count.parse().expect("a number of connections"));
    }
    let count = scaled(10_000, 100);
    println!("{count} idle connections: KiB of resident memory for each");
    println!("{:<16} {:>8} {:>8} {:>8} {:>8}", "", "idle", "echoed", "state", "oxev's");
    for (kind, name) in [("pooled", "buffer pool"), ("owned", "buffer of 4 KiB")] {
        let [state, idle, echoed] = measure(kind, count)?;
        let beyond = idle.max(echoed) - state;
        print!("{name:<16} {idle:>8.3} {echoed:>8.3} {state:>8.3} {beyond:>8.3}");
        println!("   goal <= {GOAL_KIB} {}", verdict(beyond, GOAL_KIB));
    }
    Ok(())
}
