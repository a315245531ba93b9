//! Every server that the crate shows pauses when it has no descriptors left, and serves who waits as soon as
//! it has: those of the examples, and those of the documentation, whose text is in `servers/`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use oxev::{Kind, Loop, OpKind, RunMode, TcpListener};

/// What every one of them waits before it accepts again.
const PAUSE: Duration = Duration::from_millis(100);

/// How many failed accepts are looked at.
const FAILURES: u32 = 3;

#[allow(dead_code, reason = "it listens on a port of its own choice")]
#[rustfmt::skip]
mod readme {
    include!("servers/readme.rs");

    pub(super) fn start(lp: &mut Loop, listener: TcpListener) {
        accept(lp, Box::new(Completion::new(Server { listener })));
    }
}

#[rustfmt::skip]
mod sim {
    use std::io;
    use std::time::Duration;

    use oxev::{Completion, Loop, TcpListener, TcpStream, Timer};

    include!("servers/sim.rs");

    pub(super) fn start(lp: &mut Loop, listener: TcpListener) {
        serve(lp, Box::new(Completion::new(listener)));
    }
}

#[test]
fn the_servers_below_are_those_of_the_documentation() {
    assert!(include_str!("../README.md").contains(include_str!("servers/readme.rs")));
    let shown: String = include_str!("../src/sim.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line)))
        .collect();
    assert!(shown.contains(include_str!("servers/sim.rs")));
}

// ---- those of the documentation

type Start = fn(&mut Loop, TcpListener);

/// The limit is the process's, so this is a process of its own.
#[test]
fn the_servers_of_the_documentation_pause_when_there_are_no_descriptors() {
    const IS_CHILD: &str = "OXEV_TEST_HAS_FEW_DESCRIPTORS";
    if std::env::var_os(IS_CHILD).is_some() {
        for &kind in Kind::COMPILED {
            for (name, start) in [("README", readme::start as Start), ("sim", sim::start)] {
                match Loop::builder().backend(kind).build() {
                    Ok(mut lp) => pauses(&mut lp, start, &format!("{name} on {kind}")),
                    Err(error) => eprintln!("not run on {kind}: {error}"),
                }
            }
        }
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_servers_of_the_documentation_pause_when_there_are_no_descriptors"])
        .args(["--nocapture", "--test-threads=1"])
        .env(IS_CHILD, "1")
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}

fn is_pausing(lp: &Loop) -> bool {
    lp.in_flight().any(|op| op.kind == OpKind::Timer)
}

fn pauses(lp: &mut Loop, start: Start, name: &str) {
    /// A server that does not pause has its callback run this often in no time.
    const CALLBACKS_MAX: usize = 100;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    start(lp, listener);
    let mut client = connect_without_descriptors(address);
    let (mut failures, mut first) = (0, None);
    for _ in 0..CALLBACKS_MAX {
        let was_pausing = is_pausing(lp);
        lp.run(RunMode::Once).unwrap();
        if is_pausing(lp) && !was_pausing {
            failures += 1;
            first.get_or_insert_with(Instant::now);
        }
        if failures == FAILURES {
            break;
        }
    }
    assert_eq!(failures, FAILURES, "{name} tries again at once");
    assert!(first.unwrap().elapsed() >= PAUSE * (FAILURES - 1), "{name} does not wait");
    raise_limit();
    client.write_all(b"hello").unwrap();
    while client.peek(&mut [0; 5]).is_err() {
        lp.run(RunMode::Once).unwrap();
    }
    client.set_nonblocking(false).unwrap();
    let mut echo = [0; 5];
    client.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"hello");
}

/// Connects with what is then the last descriptor. The connection does not block.
fn connect_without_descriptors(address: SocketAddr) -> StdStream {
    let client = StdStream::connect(address).unwrap();
    client.set_nonblocking(true).unwrap();
    // Numbers are given from the lowest on, so those below the limit are all in use.
    let mut fillers = Vec::new();
    loop {
        match std::fs::File::open("/dev/null") {
            Ok(filler) if filler.as_raw_fd() > client.as_raw_fd() => break,
            Ok(filler) => fillers.push(filler),
            Err(error) => panic!("{error}"),
        }
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, client.as_raw_fd() as libc::rlim_t + 1, hard).unwrap();
    std::mem::forget(fillers);
    client
}

fn raise_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

// ---- the examples

/// The program of an example, which is there when the examples were built, as `cargo test` does.
fn example(name: &str) -> Option<PathBuf> {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent()?.parent()?.join("examples").join(name);
    if !program.exists() {
        eprintln!("not run: there is no {}", program.display());
        return None;
    }
    Some(program)
}

/// Ends a process when a test ends, however it does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pauses_without_descriptors(name: &str, arguments: &str) -> io::Result<()> {
    const DESCRIPTORS: usize = 24;
    let Some(program) = example(name) else { return Ok(()) };
    let command =
        format!("ulimit -n {DESCRIPTORS}; exec '{}' --bind 127.0.0.1:0 {arguments}", program.display());
    let server =
        Command::new("sh").args(["-c", &command]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut server = Running(server);
    let mut said = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let said = said.next().expect("it says where it listens")?;
    let address: SocketAddr = said.split_whitespace().nth(2).unwrap().parse().unwrap();
    let begin = Instant::now();
    let mut clients: Vec<StdStream> =
        (0..=DESCRIPTORS).map(|_| StdStream::connect(address)).collect::<io::Result<_>>()?;
    // It complains of each accept that fails.
    let complaints = BufReader::new(server.0.stderr.take().unwrap()).lines();
    let mut complaints =
        complaints.filter(|line| line.as_ref().is_ok_and(|line| line.contains("cannot accept")));
    assert_eq!(complaints.by_ref().take(FAILURES as usize).count(), FAILURES as usize);
    assert!(begin.elapsed() >= PAUSE * (FAILURES - 1), "{name} does not wait");
    // Others close, and the last one is served.
    let mut last = clients.pop().unwrap();
    clients.clear();
    last.write_all(b"hello\n")?;
    let mut echo = [0; 6];
    last.read_exact(&mut echo)?;
    Ok(())
}

#[test]
fn the_echo_server_pauses_when_there_are_no_descriptors() {
    pauses_without_descriptors("echo_server", "").unwrap();
}

#[test]
fn the_server_of_several_loops_pauses_when_there_are_no_descriptors() {
    pauses_without_descriptors("multi_loop", "--threads 1").unwrap();
}

#[test]
fn the_hybrid_server_pauses_when_there_are_no_descriptors() {
    pauses_without_descriptors("hybrid_server", "").unwrap();
}
