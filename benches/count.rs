//! How many instructions the crate takes in user space for one operation, for each kind of work that a program
//! has: `count WHAT BACKEND N` does N operations and measures nothing. It is run under callgrind, which does not
//! care how busy the machine is, by `benches/instructions.sh`: twice, as the difference of two counts has
//! no start-up in it. One thread is client and server, so the client's calls are in the figure of `echo` and
//! `pooled`; they are the same for every backend and version.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use oxev::{BufPool, Completion, Kind, Lease, Loop, Notifier, Owner, Pool, Pooled, RunMode, Timer};

/// Connections, timers or completions that are in flight at once.
const IN_FLIGHT: usize = 64;
const MESSAGE: [u8; 64] = [7; 64];

thread_local! {
    /// Operations that are still to be done.
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// One less is to be done; whether there are more.
fn done() -> bool {
    LEFT.set(LEFT.get().saturating_sub(1));
    LEFT.get() > 0
}

// ---- echo

struct Connection {
    stream: oxev::TcpStream,
    buffer: [u8; 1024],
}

fn receive<P: Owner<State = Connection>>(lp: &mut Loop, connection: P) {
    lp.submit(connection, |c| c.stream.recv(&mut c.buffer), on_received);
}

fn on_received<P: Owner<State = Connection>>(lp: &mut Loop, connection: P, received: io::Result<usize>) {
    let count = received.expect("the client is there");
    lp.submit(connection, answer(count), |lp, connection, sent| {
        sent.expect("the client reads");
        done();
        receive(lp, connection);
    });
}

/// What sends the answer.
fn answer(count: usize) -> impl for<'a> FnOnce(&'a mut Connection) -> oxev::Op<'a, usize> {
    move |c| c.stream.send_all(&c.buffer[..count])
}

/// Both ends of some connections.
fn connections() -> (Vec<TcpStream>, Vec<oxev::TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let pair = |_| {
        let client = TcpStream::connect(address).expect("the listener is there");
        let server = listener.accept().expect("the client connects").0;
        (client, oxev::TcpStream::from_std(server).expect("a connected socket"))
    };
    (0..IN_FLIGHT).map(pair).unzip()
}

/// Each client sends a message, and reads the answer when the loop has sent all.
fn exchange(lp: &mut Loop, clients: &mut [TcpStream], count: usize) {
    for _ in 0..count / IN_FLIGHT {
        LEFT.set(IN_FLIGHT);
        clients.iter_mut().for_each(|client| client.write_all(&MESSAGE).expect("there is room"));
        while LEFT.get() > 0 {
            lp.run(RunMode::Once).expect("the loop runs");
        }
        clients.iter_mut().for_each(|client| client.read_exact(&mut [0; 64]).expect("the answer is there"));
    }
}

fn echo(lp: &mut Loop, count: usize) {
    let (mut clients, servers) = connections();
    for stream in servers {
        receive(lp, Box::new(Completion::new(Connection { stream, buffer: [0; 1024] })));
    }
    exchange(lp, &mut clients, count);
    std::process::exit(0);
}

/// As `echo`, in memory of a [`Pool`].
fn slots(lp: &mut Loop, count: usize) {
    let (mut clients, servers) = connections();
    let pool = Pool::new(IN_FLIGHT);
    for stream in servers {
        let slot = pool.insert(Connection { stream, buffer: [0; 1024] });
        receive::<Pooled<Connection>>(lp, slot.ok().expect("there is a slot"));
    }
    exchange(lp, &mut clients, count);
    std::process::exit(0);
}

// ---- pooled receives

struct Reader {
    stream: oxev::TcpStream,
    buffers: BufPool,
    lease: Option<Lease>,
}

fn receive_pooled(lp: &mut Loop, reader: Box<Completion<Reader>>) {
    lp.submit(
        reader,
        |r| r.stream.recv_pooled(&r.buffers),
        |lp, mut reader, received| {
            reader.lease = Some(received.expect("the client is there"));
            lp.submit(
                reader,
                |r| r.stream.send_all(r.lease.as_deref().expect("just received")),
                |lp, mut reader, sent| {
                    sent.expect("the client reads");
                    reader.lease = None;
                    done();
                    receive_pooled(lp, reader);
                },
            );
        },
    );
}

fn pooled(lp: &mut Loop, count: usize) {
    let buffers = lp.buf_pool(IN_FLIGHT, 1024).expect("buffers");
    let (mut clients, servers) = connections();
    for stream in servers {
        let reader = Reader { stream, buffers: buffers.clone(), lease: None };
        receive_pooled(lp, Box::new(Completion::new(reader)));
    }
    exchange(lp, &mut clients, count);
    std::process::exit(0);
}

// ---- timers

/// Inserts and fires.
fn timers(lp: &mut Loop, count: usize) {
    for index in 0..count {
        let delay = Duration::from_micros(index as u64 % 2000);
        lp.submit(
            Box::new(Completion::new(())),
            |_| Timer::after(delay),
            |_, _, fired| fired.expect("it fires"),
        );
    }
    lp.run(RunMode::UntilDone).expect("the loop runs");
}

/// Inserts and cancels.
fn cancels(lp: &mut Loop, count: usize) {
    for _ in 0..count {
        let id =
            lp.submit(Box::new(Completion::new(())), |_| Timer::after(Duration::from_secs(60)), |_, _, _| {});
        lp.cancel(id);
        if lp.len() >= IN_FLIGHT {
            lp.run(RunMode::NoWait).expect("the loop runs");
        }
    }
}

fn resets(lp: &mut Loop, count: usize) {
    let insert =
        |_| lp.submit(Box::new(Completion::new(())), |_| Timer::after(Duration::from_secs(60)), |_, _, _| {});
    let ids: Vec<_> = (0..IN_FLIGHT).map(insert).collect();
    for index in 0..count {
        lp.reset(ids[index % IN_FLIGHT], Duration::from_millis(1000 + index as u64 % 5000));
    }
    std::process::exit(0);
}

// ---- files

struct Page {
    file: oxev::File,
    page: Vec<u8>,
}

fn again(lp: &mut Loop, page: Box<Completion<Page>>, moved: io::Result<usize>) {
    assert_eq!(moved.expect("the file is there"), 4096);
    if done() {
        read_page(lp, page);
    }
}

fn read_page(lp: &mut Loop, page: Box<Completion<Page>>) {
    lp.submit(page, |p| p.file.read_at(&mut p.page, 0), again);
}

fn write_again(lp: &mut Loop, page: Box<Completion<Page>>, moved: io::Result<usize>) {
    assert_eq!(moved.expect("the file is there"), 4096);
    if done() {
        write_page(lp, page);
    }
}

fn write_page(lp: &mut Loop, page: Box<Completion<Page>>) {
    lp.submit(page, |p| p.file.write_at(&p.page, 0), write_again);
}

fn page() -> Box<Completion<Page>> {
    let path = std::env::temp_dir().join(format!("oxev-count-{}", std::process::id()));
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(true).open(&path).expect("a file");
    std::fs::remove_file(&path).expect("it was made");
    file.write_all(&[0; 4096]).expect("there is room");
    Box::new(Completion::new(Page { file: oxev::File::from_std(file), page: vec![0; 4096] }))
}

fn files(lp: &mut Loop, count: usize, start: fn(&mut Loop, Box<Completion<Page>>)) {
    LEFT.set(count);
    start(lp, page());
    lp.run(RunMode::UntilDone).expect("the loop runs");
}

// ---- waking

fn posts(lp: &mut Loop, count: usize) {
    let handle = lp.handle();
    for _ in 0..count / IN_FLIGHT {
        for _ in 0..IN_FLIGHT {
            let posted = handle.post(Box::new(Completion::new(())), |_, _| {});
            assert!(posted.is_ok(), "the loop is there");
        }
        lp.run(RunMode::NoWait).expect("the loop runs");
    }
}

fn wait(lp: &mut Loop, notifier: Box<Completion<Notifier>>) {
    lp.submit(
        notifier,
        |n| n.wait(),
        |lp, notifier, notified| {
            notified.expect("it was notified");
            if done() {
                notifier.notify();
                wait(lp, notifier);
            }
        },
    );
}

fn notifies(lp: &mut Loop, count: usize) {
    LEFT.set(count);
    let notifier = Notifier::new();
    notifier.notify();
    wait(lp, Box::new(Completion::new(notifier)));
    lp.run(RunMode::UntilDone).expect("the loop runs");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, backend, count] = &arguments[..] else {
        return println!("count WHAT io_uring|epoll N: see benches/instructions.sh");
    };
    let kind = if backend == "epoll" { Kind::Epoll } else { Kind::IoUring };
    let count: usize = count.parse().expect("a number");
    let mut lp = Loop::builder().backend(kind).capacity(1 << 17).build().expect("a loop");
    match what.as_str() {
        "echo" => echo(&mut lp, count),
        "slots" => slots(&mut lp, count),
        "pooled" => pooled(&mut lp, count),
        "timers" => timers(&mut lp, count),
        "cancels" => cancels(&mut lp, count),
        "resets" => resets(&mut lp, count),
        "reads" => files(&mut lp, count, read_page),
        "writes" => files(&mut lp, count, write_page),
        "posts" => posts(&mut lp, count),
        "notifies" => notifies(&mut lp, count),
        other => panic!("no such work: {other}"),
    }
}
