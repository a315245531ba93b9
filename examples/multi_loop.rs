//! An echo server with one loop per core: each thread has its own loop, its own listening socket on the same
//! address (the kernel shares the connections out, `SO_REUSEPORT`), and its own counters. The threads share
//! nothing and lock nothing.
//!
//! It shows how loops talk to each other. Every second each loop fills its one [`Report`] and posts it to the
//! first loop, which takes the figures and posts the report back: the same completion serves for the timer
//! and for both ways, so no message is ever allocated. A posted callback reaches the state of the loop that
//! it arrives at by a thread-local, as a loop never leaves its thread.
//!
//! ```text
//! cargo run --release --example multi_loop -- --bind 127.0.0.1:7000 --threads 4
//! ```

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::iter;
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use oxev::{Action, Completion, Loop, LoopHandle, Multi, RunMode, TcpListener, TcpStream, Timer};

/// Sends back whatever it receives, on every core.
#[derive(Parser)]
struct Args {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:7000")]
    bind: String,
    /// How many loops there are; one per core if it is not given.
    #[arg(long)]
    threads: Option<NonZero<usize>>,
}

/// How often the loops report.
const REPORT_PERIOD: Duration = Duration::from_secs(1);

/// How long to wait before accepting again if there are no descriptors left, or no memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    match serve(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("multi_loop: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the first loop on this thread, and the others on threads of their own.
fn serve(args: &Args) -> io::Result<()> {
    raise_descriptor_limit()?;
    let threads = args.threads.map_or_else(thread::available_parallelism, Ok)?.get();
    let mut listeners = listen(&args.bind, threads)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {}: {error}", args.bind)))?;
    let own_listener = listeners.remove(0);
    let address = own_listener.local_addr()?;

    let mut lp = Loop::new()?;
    let first = lp.handle();
    let (mut handles, workers) = start_workers(listeners, &first)?;
    handles.push(first.clone());
    ctrlc::set_handler(move || handles.iter().for_each(LoopHandle::stop)).map_err(io::Error::other)?;

    writeln!(io::stdout(), "listening on {address} ({}, loops: {threads})", lp.backend())?;
    STATISTICS.set(Statistics::new(threads));
    show_regularly(&mut lp);
    let own = run_server(lp, own_listener, 0, first);
    let others = workers.into_iter().map(|worker| worker.join().expect("a loop's thread has panicked"));
    show_totals(iter::once(own).chain(others))
}

/// Every connection is a descriptor, and the customary limit of 1024 is soon reached.
fn raise_descriptor_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// One socket for each loop, on one address: for a connection to a socket that they shared the kernel would wake
/// any of them, also one that is busy. If the address asks for a free port, all get the port of the first.
fn listen(address: &str, count: usize) -> io::Result<Vec<TcpListener>> {
    let options = TcpListener::options().reuse_port(true);
    let first = options.bind(address)?;
    let address = first.local_addr()?;
    let others = (1..count).map(|_| options.bind(address));
    let listeners: Vec<_> = iter::once(Ok(first)).chain(others).collect::<io::Result<_>>()?;
    listeners.iter().try_for_each(|listener| listener.set_nodelay(true))?; // for every connection
    Ok(listeners)
}

// ---- the threads

type Worker = JoinHandle<io::Result<Counts>>;

/// Starts a thread for each listener, and waits until each has its loop.
fn start_workers(
    listeners: Vec<TcpListener>,
    first: &LoopHandle,
) -> io::Result<(Vec<LoopHandle>, Vec<Worker>)> {
    let (sender, receiver) = mpsc::channel();
    let mut workers = Vec::new();
    for (listener, index) in listeners.into_iter().zip(1..) {
        let (sender, first) = (sender.clone(), first.clone());
        let thread = thread::Builder::new().name(format!("loop {index}"));
        workers.push(thread.spawn(move || work(listener, index, first, sender))?);
    }
    drop(sender);
    Ok((receiver.iter().collect::<io::Result<_>>()?, workers))
}

/// What a thread does: makes its loop, which cannot leave it, hands out what reaches the loop from others,
/// and serves.
fn work(
    listener: TcpListener,
    index: usize,
    first: LoopHandle,
    handles: Sender<io::Result<LoopHandle>>,
) -> io::Result<Counts> {
    let lp = match Loop::new() {
        Ok(lp) => lp,
        Err(error) => {
            let _ = handles.send(Err(error)); // the receiver gives up
            return Ok(Counts::default());
        }
    };
    let _ = handles.send(Ok(lp.handle()));
    drop(handles); // the last one ends the waiting
    run_server(lp, listener, index, first)
}

/// Serves on one loop until it is stopped, and says what it has done.
fn run_server(
    mut lp: Box<Loop>,
    listener: TcpListener,
    index: usize,
    first: LoopHandle,
) -> io::Result<Counts> {
    accept(&mut lp, Box::new(Completion::new(Multi::new(listener, ()))));
    let report = Report { index, counts: Counts::default(), home: lp.handle(), first };
    report_later(&mut lp, Box::new(Completion::new(report)));
    lp.run(RunMode::UntilDone)?;
    Ok(COUNTS.get())
}

// ---- serving

#[derive(Clone, Copy, Default)]
struct Counts {
    connections: u64,
    requests: u64,
}

thread_local! {
    /// What the loop of this thread has done.
    static COUNTS: Cell<Counts> = const { Cell::new(Counts { connections: 0, requests: 0 }) };
}

fn count(connections: u64, requests: u64) {
    let counts = COUNTS.get();
    COUNTS
        .set(Counts { connections: counts.connections + connections, requests: counts.requests + requests });
}

type Server = Box<Completion<Multi<TcpListener, ()>>>;

fn accept(lp: &mut Loop, server: Server) {
    lp.submit_multi(server, |listener| listener.accept_multi(), on_accept, on_accept_end);
}

fn on_accept(lp: &mut Loop, (): &mut (), stream: TcpStream) -> Action {
    count(1, 0);
    receive(lp, Box::new(Completion::new(Connection { stream, buffer: [0; 4096] })));
    Action::Rearm
}

/// Accepting has failed, for want of descriptors perhaps: trying again at once would spin.
fn on_accept_end(lp: &mut Loop, server: Server, end: io::Result<()>) {
    if let Err(error) = end {
        eprintln!("multi_loop: cannot accept, trying again in {ACCEPT_PAUSE:?}: {error}");
    }
    lp.submit(server, |_| Timer::after(ACCEPT_PAUSE), |lp, server, _| accept(lp, server));
}

struct Connection {
    stream: TcpStream,
    buffer: [u8; 4096],
}

fn receive(lp: &mut Loop, connection: Box<Completion<Connection>>) {
    lp.submit(connection, |c| c.stream.recv(&mut c.buffer), on_recv);
}

/// Returning without a new submission drops the connection, which closes it.
fn on_recv(lp: &mut Loop, connection: Box<Completion<Connection>>, received: io::Result<usize>) {
    if let Ok(bytes @ 1..) = received {
        count(0, 1);
        lp.submit(connection, |c| c.stream.send_all(&c.buffer[..bytes]), on_sent);
    }
}

fn on_sent(lp: &mut Loop, connection: Box<Completion<Connection>>, sent: io::Result<usize>) {
    if sent.is_ok() {
        receive(lp, connection);
    }
}

// ---- reporting

/// The one message of a loop, which goes to the first loop and comes back, again and again.
struct Report {
    index: usize,
    counts: Counts,
    home: LoopHandle,
    first: LoopHandle,
}

/// On the report's own loop.
fn report_later(lp: &mut Loop, report: Box<Completion<Report>>) {
    lp.submit(report, |_| Timer::after(REPORT_PERIOD).background(), on_time);
}

/// On the report's own loop. A loop that has ended gives back what is posted to it, and the report is
/// dropped.
fn on_time(_: &mut Loop, mut report: Box<Completion<Report>>, _: io::Result<()>) {
    report.counts = COUNTS.get();
    let first = report.first.clone();
    let _ = first.post(report, on_report);
}

/// On the first loop.
fn on_report(_: &mut Loop, report: Box<Completion<Report>>) {
    STATISTICS.with_borrow_mut(|statistics| statistics.latest[report.index] = report.counts);
    let home = report.home.clone();
    let _ = home.post(report, report_later);
}

thread_local! {
    /// On the first loop's thread: what the loops have reported.
    static STATISTICS: RefCell<Statistics> = const { RefCell::new(Statistics { latest: Vec::new(), shown: Vec::new() }) };
}

struct Statistics {
    latest: Vec<Counts>,
    /// What was shown the last time.
    shown: Vec<Counts>,
}

impl Statistics {
    fn new(loops: usize) -> Statistics {
        let latest = vec![Counts::default(); loops];
        Statistics { shown: latest.clone(), latest }
    }

    /// Shows what each loop has done since the last time, if anything.
    fn show(&mut self) -> io::Result<()> {
        let requests = iter::zip(&self.latest, &self.shown).map(|(now, then)| now.requests - then.requests);
        if requests.clone().any(|requests| requests > 0) {
            let mut out = io::stdout().lock();
            write!(out, "{:9} requests:", requests.clone().sum::<u64>())?;
            requests.clone().try_for_each(|requests| write!(out, " {requests:8}"))?;
            writeln!(out)?;
        }
        self.shown.copy_from_slice(&self.latest);
        Ok(())
    }
}

/// A lost standard output ends the table, and nothing else.
fn show_regularly(lp: &mut Loop) {
    lp.submit_multi(
        Box::new(Completion::new(Multi::new((), ()))),
        |()| Timer::every(REPORT_PERIOD).background(),
        |_, (), _| {
            let shown = STATISTICS.with_borrow_mut(Statistics::show);
            if shown.is_ok() { Action::Rearm } else { Action::Disarm }
        },
        |_, _, _| (),
    );
}

fn show_totals(loops: impl Iterator<Item = io::Result<Counts>>) -> io::Result<()> {
    for (index, counts) in loops.enumerate() {
        let Counts { connections, requests } = counts?;
        writeln!(io::stdout(), "loop {index}: {connections} connections, {requests} requests")?;
    }
    Ok(())
}
