//! A load generator for echo servers: every connection sends a request, waits for the whole reply, compares
//! the two, and goes on (a closed loop: a slow server is asked less often). Ends with the rate and a latency
//! histogram; any error, or a reply that differs, makes it exit with 1.
//!
//! It shows `connect`, `send_all` and `recv_exact` with deadlines, a run in two phases on one loop (first all
//! connect, then the clock starts), and background timers, which end the run and move the progress bar but do
//! not keep the loop running.
//!
//! ```text
//! cargo run --release --example echo_client -- --connect 127.0.0.1:7000 --connections 100 --size 64 --seconds 10
//! ```

#![expect(clippy::boxed_local, reason = "a callback takes its owner as it was submitted")]

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use oxev::{Action, Completion, Loop, Multi, RunMode, TcpStream, Timer};

/// Loads an echo server and reports its rate and latency.
#[derive(Parser)]
struct Args {
    /// The address of the server.
    #[arg(long, default_value = "127.0.0.1:7000")]
    connect: String,
    /// How many connections ask at once.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    connections: u32,
    /// The size of a request, which is sent whole before its reply is read.
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    size: u32,
    /// For how long to go on.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    seconds: f64,
    /// Ends after this many requests instead.
    #[arg(long, conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// The longest that a connection, a request or a reply may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    timeout: f64,
}

/// How often the progress bar moves.
const PROGRESS_PERIOD: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("echo_client: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `false` if there were errors.
fn run(args: &Args) -> io::Result<bool> {
    raise_descriptor_limit()?;
    let address = resolve(&args.connect)?;
    let load = Rc::new(Load::new(args));
    let mut lp = Loop::new()?;
    let handle = lp.handle();
    ctrlc::set_handler(move || handle.stop()).map_err(io::Error::other)?;

    connect_all(&mut lp, &load, address, args.connections);
    lp.run(RunMode::UntilDone)?;

    let begun = Instant::now();
    for client in load.connected.take() {
        ask(&mut lp, Box::new(Completion::new(client)));
    }
    let bar = start_progress(&mut lp, &load, args);
    lp.run(RunMode::UntilDone)?;
    let elapsed = begun.elapsed();
    bar.finish_and_clear();

    load.report(args, elapsed)?;
    Ok(load.errors.get() == 0)
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    let valid = seconds > 0.0 && Duration::try_from_secs_f64(seconds).is_ok();
    if valid { Ok(seconds) } else { Err("not a time that can be waited for".into()) }
}

fn resolve(address: &str) -> io::Result<SocketAddr> {
    let unknown = |why: String| io::Error::other(format!("no address in {address}: {why}"));
    let mut found = address.to_socket_addrs().map_err(|error| unknown(error.to_string()))?;
    found.next().ok_or_else(|| unknown("the name has none".into()))
}

/// Every connection is a descriptor, and the customary limit of 1024 is soon reached.
fn raise_descriptor_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// What all connections share; everything is on the loop's thread.
struct Load {
    connected: RefCell<Vec<Client>>,
    /// Requests that may still begin.
    left: Cell<u64>,
    done: Cell<u64>,
    errors: Cell<u64>,
    latency_ns: RefCell<Histogram<u64>>,
    size: usize,
    timeout: Duration,
}

impl Load {
    fn new(args: &Args) -> Load {
        const LATENCY_MAX_NS: u64 = 3_600_000_000_000;
        let latency_ns = Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("the bounds are valid");
        Load {
            connected: RefCell::default(),
            left: Cell::new(args.requests.unwrap_or(u64::MAX)),
            done: Cell::new(0),
            errors: Cell::new(0),
            latency_ns: RefCell::new(latency_ns),
            size: args.size as usize,
            timeout: Duration::from_secs_f64(args.timeout),
        }
    }

    /// Counts an error, and tells of the first.
    fn fail(&self, what: &str, error: &io::Error) {
        if self.errors.replace(self.errors.get() + 1) == 0 {
            eprintln!("echo_client: {what}: {error}");
        }
    }

    fn succeed(&self, latency: Duration) {
        self.done.set(self.done.get() + 1);
        let latency_ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency_ns.borrow_mut().saturating_record(latency_ns);
    }

    fn report(&self, args: &Args, elapsed: Duration) -> io::Result<()> {
        let (done, latency_ns) = (self.done.get(), self.latency_ns.borrow());
        let rate = done as f64 / elapsed.as_secs_f64();
        let us = |ns: u64| ns as f64 / 1e3;
        let mut out = io::stdout().lock();
        writeln!(out, "load         {} connections, {} bytes, {elapsed:.2?}", args.connections, args.size)?;
        writeln!(out, "requests     {done}, errors {}", self.errors.get())?;
        writeln!(
            out,
            "rate         {rate:.0} requests/s, {}/s each way",
            HumanBytes((rate * f64::from(args.size)) as u64)
        )?;
        if done == 0 {
            return Ok(());
        }
        for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)] {
            writeln!(out, "latency {name:<4} {:10.1} us", us(latency_ns.value_at_quantile(quantile)))?;
        }
        writeln!(out, "latency max  {:10.1} us", us(latency_ns.max()))
    }
}

// ---- connecting

fn connect_all(lp: &mut Loop, load: &Rc<Load>, address: SocketAddr, connections: u32) {
    for _ in 0..connections {
        let connecting = Connecting { address, load: Rc::clone(load) };
        lp.submit(
            Box::new(Completion::new(connecting)),
            |c| TcpStream::connect(c.address).timeout(c.load.timeout),
            on_connect,
        );
    }
}

struct Connecting {
    address: SocketAddr,
    load: Rc<Load>,
}

fn on_connect(_: &mut Loop, connecting: Box<Completion<Connecting>>, connected: io::Result<TcpStream>) {
    let load = &connecting.load;
    let connected = connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
    match connected {
        Ok(stream) => load.connected.borrow_mut().push(Client::new(stream, load)),
        Err(error) => load.fail(&format!("cannot connect to {}", connecting.address), &error),
    }
}

// ---- asking

struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    reply: Vec<u8>,
    number: u64,
    asked: Instant,
    load: Rc<Load>,
}

impl Client {
    fn new(stream: TcpStream, load: &Rc<Load>) -> Client {
        let request = (0..load.size).map(|at| at as u8).collect();
        let reply = vec![0; load.size];
        Client { stream, request, reply, number: 0, asked: Instant::now(), load: Rc::clone(load) }
    }

    /// Makes a request that differs from the one before, so that an old reply is not taken for the new one.
    fn make_request(&mut self) {
        self.number += 1;
        for (byte, digit) in self.request.iter_mut().zip(self.number.to_le_bytes()) {
            *byte = digit;
        }
    }
}

/// Sends the next request, or, if there is to be none, drops the connection.
fn ask(lp: &mut Loop, mut client: Box<Completion<Client>>) {
    let Some(left) = client.load.left.get().checked_sub(1) else { return };
    client.load.left.set(left);
    client.make_request();
    client.asked = Instant::now();
    lp.submit(client, |c| c.stream.send_all(&c.request).timeout(c.load.timeout), on_sent);
}

fn on_sent(lp: &mut Loop, client: Box<Completion<Client>>, sent: io::Result<usize>) {
    match sent {
        Ok(_) => {
            lp.submit(client, |c| c.stream.recv_exact(&mut c.reply).timeout(c.load.timeout), on_reply);
        }
        Err(error) => client.load.fail("cannot send", &error),
    }
}

fn on_reply(lp: &mut Loop, client: Box<Completion<Client>>, received: io::Result<usize>) {
    let load = &client.load;
    match received {
        Ok(_) if client.reply == client.request => {
            load.succeed(client.asked.elapsed());
            ask(lp, client);
        }
        Ok(_) => load.fail("wrong reply", &io::ErrorKind::InvalidData.into()),
        Err(error) => load.fail("no reply", &error),
    }
}

// ---- progress

struct Progress {
    bar: ProgressBar,
    load: Rc<Load>,
    begun: Instant,
    by_requests: bool,
}

impl Progress {
    fn show(&self) {
        let (done, elapsed) = (self.load.done.get(), self.begun.elapsed());
        self.bar.set_position(if self.by_requests { done } else { elapsed.as_millis() as u64 });
        self.bar.set_message(format!("{:.0} requests/s", done as f64 / elapsed.as_secs_f64()));
    }
}

/// Starts the timers: one that moves the bar, and one that ends the run, unless a number of requests does.
fn start_progress(lp: &mut Loop, load: &Rc<Load>, args: &Args) -> ProgressBar {
    let end = Duration::from_secs_f64(args.seconds);
    if args.requests.is_none() {
        lp.submit(
            Box::new(Completion::new(end)),
            |end| Timer::after(*end).background(),
            |lp, _, _| lp.stop(),
        );
    }
    let bar = ProgressBar::new(args.requests.unwrap_or(end.as_millis() as u64));
    bar.set_style(
        ProgressStyle::with_template("{wide_bar} {percent:>3} %  {msg}").expect("the template is valid"),
    );
    let begun = Instant::now();
    let by_requests = args.requests.is_some();
    let progress = Progress { bar: bar.clone(), load: Rc::clone(load), begun, by_requests };
    lp.submit_multi(
        Box::new(Completion::new(Multi::new((), progress))),
        |()| Timer::every(PROGRESS_PERIOD).background(),
        |_, progress, _| {
            progress.show();
            Action::Rearm
        },
        |_, _, _| (),
    );
    bar
}
