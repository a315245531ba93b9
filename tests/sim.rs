//! The simulator: what is special about it. That it is a backend like any other is the conformance suite's
//! business.
#![cfg(feature = "sim")]

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use oxev::sim::{Faults, SimOptions, Simulation};
use oxev::{
    Action, Completion, File, Kind, Loop, Metadata, Multi, Notifier, Op, OpId, OpenOptions, Output, RunMode,
    TcpListener, TcpStream, Timer, is_canceled, nop,
};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

// ---- what the tests have in common

fn world(faults: Faults) -> Simulation {
    Simulation::new(SimOptions { seed: 1, faults, ..SimOptions::default() })
}

fn calm() -> (Simulation, Box<Loop>) {
    let world = world(Faults::none());
    let lp = world.new_loop().unwrap();
    (world, lp)
}

type End<T, R> = Rc<RefCell<Option<(T, io::Result<R>)>>>;

/// Starts an operation; its end is put where the result says, once.
fn start<T, R, F>(lp: &mut Loop, state: T, prepare: F) -> (OpId, End<T, R>)
where
    T: 'static,
    R: Output,
    F: for<'a> FnOnce(&'a mut T) -> Op<'a, R>,
{
    let end: End<T, R> = Rc::default();
    let owner = Box::new(Completion::new((Some(state), Rc::clone(&end))));
    let id = lp.submit(
        owner,
        |(state, _)| prepare(state.as_mut().expect("it was put there above")),
        |_, mut owner, result| {
            let state = owner.0.take().expect("a callback runs once");
            assert!(owner.1.borrow_mut().replace((state, result)).is_none(), "a callback ran twice");
        },
    );
    (id, end)
}

fn complete<T, R, F>(lp: &mut Loop, state: T, prepare: F) -> (T, io::Result<R>)
where
    T: 'static,
    R: Output,
    F: for<'a> FnOnce(&'a mut T) -> Op<'a, R>,
{
    let end = start(lp, state, prepare).1;
    while end.borrow().is_none() {
        lp.run(RunMode::Once).unwrap();
    }
    end.take().unwrap()
}

/// Two ends of a connection, and its listener.
fn connection(world: &Simulation, lp: &mut Loop) -> (TcpStream, TcpStream, TcpListener) {
    let listener = world.enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = start(lp, listener, |l| l.accept()).1;
    let client = complete(lp, (), |()| TcpStream::connect(address)).1.unwrap();
    while accepted.borrow().is_none() {
        lp.run(RunMode::Once).unwrap();
    }
    let (listener, server) = accepted.take().unwrap();
    (client, server.unwrap(), listener)
}

fn errno<R>(result: io::Result<R>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

// ---- time

#[test]
fn an_hour_passes_in_no_time() {
    let (world, mut lp) = calm();
    assert_eq!(lp.backend(), Kind::Sim);
    let (real, begin) = (Instant::now(), lp.now());
    let ticks = Multi::new((), 0u64);
    lp.submit_multi(
        Box::new(Completion::new(ticks)),
        |()| Timer::every(Duration::from_secs(1)),
        |_, ticks, periods| {
            *ticks += periods;
            if *ticks < 3600 { Action::Rearm } else { Action::Disarm }
        },
        |_, owner, end| {
            end.unwrap();
            assert_eq!(owner.state, 3600);
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
    lp.update_now();
    let passed = lp.now() - begin;
    assert!(passed >= HOUR && passed < HOUR + Duration::from_secs(1), "{passed:?}");
    assert!(world.elapsed() >= HOUR && world.elapsed() < HOUR + Duration::from_secs(1));
    assert!(real.elapsed() < HOUR / 60);
}

#[test]
fn a_timer_at_an_instant_of_the_loop_is_never_early() {
    let (_world, mut lp) = calm();
    let deadline = lp.now() + HOUR;
    complete(&mut lp, (), |()| Timer::at(deadline)).1.unwrap();
    assert!(lp.now() >= deadline && lp.now() < deadline + MS);
}

#[test]
fn run_for_lets_virtual_time_pass() {
    let (world, mut lp) = calm();
    let (_id, end) = start(&mut lp, (), |()| Timer::after(2 * HOUR));
    lp.run_for(HOUR).unwrap();
    assert!(end.borrow().is_none() && world.elapsed() >= HOUR);
    world.run_for(&mut [&mut lp], 2 * HOUR).unwrap();
    assert!(end.borrow().is_some());
}

#[test]
fn waiting_for_what_never_happens_is_an_error() {
    let (world, mut lp) = calm();
    let (id, end) = start(&mut lp, Notifier::new(), |n| n.wait());
    assert_eq!(errno(lp.run(RunMode::UntilDone)), Some(libc::EDEADLK));
    assert_eq!(errno(world.run(&mut [&mut lp])), Some(libc::EDEADLK));
    assert!(lp.cancel(id));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(is_canceled(&end.take().unwrap().1.unwrap_err()));
}

#[test]
fn a_loop_that_never_waits_grows_old_too() {
    let (_world, mut lp) = calm();
    let (_id, end) = start(&mut lp, (), |()| Timer::after(MS));
    while end.borrow().is_none() {
        lp.run(RunMode::NoWait).unwrap();
    }
}

#[test]
fn a_loop_that_may_waits_for_other_threads() {
    let options = SimOptions { wait_for_threads: true, ..SimOptions::calm() };
    let mut lp = Simulation::new(options).new_loop().unwrap();
    let notifier = Notifier::new();
    let (_id, end) = start(&mut lp, notifier.clone(), |n| n.wait());
    let thread = std::thread::spawn(move || notifier.notify());
    lp.run(RunMode::UntilDone).unwrap();
    thread.join().unwrap();
    end.take().unwrap().1.unwrap();
}

/// In a build that has nothing else: `cargo test --no-default-features --features sim`.
#[cfg(not(any(feature = "io_uring", feature = "epoll")))]
#[test]
fn without_a_world_and_without_another_backend_there_is_no_loop() {
    assert_eq!(errno(Loop::new()), Some(libc::ENOSYS));
    assert!(Kind::COMPILED.is_empty());
    assert_eq!(calm().1.backend(), Kind::Sim);
}

// ---- descriptors

#[test]
fn sockets_tell_their_virtual_addresses_and_keep_their_options() {
    let (world, mut lp) = calm();
    let (client, server, listener) = connection(&world, &mut lp);
    assert_eq!(client.peer_addr().unwrap(), listener.local_addr().unwrap());
    assert_eq!(client.local_addr().unwrap(), server.peer_addr().unwrap());
    assert!(!client.nodelay().unwrap());
    client.set_nodelay(true).unwrap();
    assert!(client.nodelay().unwrap());
    assert!(client.take_error().unwrap().is_none());
    let second = world.enter(|| TcpListener::bind(listener.local_addr().unwrap()));
    assert_eq!(second.unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[test]
fn outside_of_a_world_sockets_are_real() {
    let (world, mut lp) = calm();
    let real = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = real.local_addr().unwrap();
    assert_eq!(errno(complete(&mut lp, real, |l| l.accept()).1), Some(libc::EBADF));
    world.enter(|| TcpListener::bind(address)).expect("the world does not know of the real one");
}

#[test]
fn callbacks_run_in_the_world_of_their_loop() {
    let (_world, mut lp) = calm();
    let bound = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..2 {
        lp.submit(
            Box::new(Completion::new(Rc::clone(&bound))),
            |_| nop(),
            |_, bound, _| {
                let listener = TcpListener::options().reuse_port(true).bind((Ipv4Addr::LOCALHOST, 7));
                bound.borrow_mut().push(listener.expect("port 7 of the real world needs privileges"));
            },
        );
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(bound.borrow().len(), 2);
}

#[test]
fn dropping_a_stream_ends_the_peers() {
    let (world, mut lp) = calm();
    let (client, server, _listener) = connection(&world, &mut lp);
    drop(client);
    let ((server, _), received) = complete(&mut lp, (server, [0; 8]), |(s, b)| s.recv(b));
    assert_eq!(received.unwrap(), 0);
    let (server, sent) = complete(&mut lp, server, |s| s.send(b"nobody"));
    assert_eq!(sent.unwrap(), 6, "the kernel takes it");
    assert_eq!(errno(complete(&mut lp, server, |s| s.send(b"there")).1), Some(libc::ECONNRESET));
}

#[test]
fn closing_with_unread_data_or_without_linger_resets() {
    let (world, mut lp) = calm();
    for unread in [true, false] {
        let (client, server, _listener) = connection(&world, &mut lp);
        let (server, sent) = complete(&mut lp, server, |s| s.send(b"unread"));
        sent.unwrap();
        lp.run(RunMode::NoWait).unwrap();
        let client = if unread {
            client
        } else {
            client.set_linger(Some(Duration::ZERO)).unwrap();
            complete(&mut lp, (client, [0; 6]), |(s, b)| s.recv_exact(b)).0.0
        };
        drop(client);
        let (_, received) = complete(&mut lp, (server, [0; 8]), |(s, b)| s.recv(b));
        assert_eq!(errno(received), Some(libc::ECONNRESET));
    }
}

/// ThreadSanitizer sees a race here if the text has anything of the world in it.
#[test]
fn a_builder_that_is_shared_is_printed_without_a_look_at_its_world() {
    let world = world(Faults::none());
    let builder = Loop::builder().simulation(&world);
    let text = format!("{builder:?}");
    std::thread::scope(|scope| {
        let printer = scope.spawn(|| (0..1000).all(|_| format!("{builder:?}") == text));
        while !printer.is_finished() {
            world.set_faults(Faults { latency_min: world.faults().latency_min + MS, ..Faults::none() });
        }
        assert!(printer.join().unwrap(), "the text changes with the world");
    });
    assert_eq!(format!("{builder:?}"), text);
}

#[test]
fn a_loop_is_built_on_the_thread_of_its_world_only() {
    let builder = Loop::builder().simulation(&world(Faults::none()));
    builder.clone().build().unwrap();
    std::thread::spawn(move || assert_eq!(errno(builder.build()), Some(libc::EINVAL))).join().unwrap();
    assert_eq!(errno(Loop::builder().backend(Kind::Sim).build()), Some(libc::EINVAL));
}

// ---- an echo server and its clients, whatever happens

struct Conn {
    stream: TcpStream,
    buffer: [u8; 256],
}

fn serve(lp: &mut Loop, listener: TcpListener) {
    lp.submit_multi(
        Box::new(Completion::new(Multi::new(listener, ()))),
        |listener| listener.accept_multi().background(),
        |lp, (), stream| {
            receive(lp, Box::new(Completion::new(Conn { stream, buffer: [0; 256] })));
            Action::Rearm
        },
        |lp, owner, end| {
            assert!(end.is_err());
            serve(lp, owner.into_inner().source);
        },
    );
}

fn receive(lp: &mut Loop, conn: Box<Completion<Conn>>) {
    lp.submit(
        conn,
        |c| c.stream.recv(&mut c.buffer).background(),
        |lp, conn, received| {
            if let Ok(count @ 1..) = received {
                lp.submit(
                    conn,
                    |c| c.stream.send_all(&c.buffer[..count]),
                    |lp, conn, sent| {
                        if sent.is_ok() {
                            receive(lp, conn);
                        }
                    },
                );
            }
        },
    );
}

/// What a client has seen.
#[derive(Debug, Default)]
struct Seen {
    echoes: Cell<usize>,
    errors: Cell<usize>,
    ends: Cell<usize>,
}

fn count(cell: &Cell<usize>) {
    cell.set(cell.get() + 1);
}

/// A connection with both directions at once: what is sent must come back, in order and without a gap, as far
/// as it does.
struct Client {
    stream: Rc<TcpStream>,
    seen: Rc<Seen>,
    buffer: Vec<u8>,
    done: usize,
}

const MESSAGE_BYTES: usize = 3000;

const MESSAGE: [u8; MESSAGE_BYTES] = {
    let mut message = [0; MESSAGE_BYTES];
    let mut i = 0;
    while i < MESSAGE_BYTES {
        message[i] = (i % 251) as u8;
        i += 1;
    }
    message
};

fn connect(lp: &mut Loop, address: SocketAddr, seen: &Rc<Seen>) {
    lp.submit(
        Box::new(Completion::new((address, Rc::clone(seen)))),
        |(address, _)| TcpStream::connect(*address).timeout(Duration::from_secs(30)),
        |lp, owner, connected| {
            let (_, seen) = owner.into_inner();
            let Ok(stream) = connected else {
                count(&seen.errors);
                return count(&seen.ends);
            };
            let stream = Rc::new(stream);
            let part =
                |buffer| Client { stream: Rc::clone(&stream), seen: Rc::clone(&seen), buffer, done: 0 };
            let (writer, reader) = (part(MESSAGE.to_vec()), part(vec![0; MESSAGE_BYTES]));
            lp.submit(
                Box::new(Completion::new(writer)),
                |c| c.stream.send_all(&c.buffer).timeout(Duration::from_secs(30)),
                |_, client, sent| {
                    if sent.is_err() {
                        count(&client.seen.errors);
                    }
                },
            );
            read_echo(lp, Box::new(Completion::new(reader)));
        },
    );
}

fn read_echo(lp: &mut Loop, client: Box<Completion<Client>>) {
    lp.submit(
        client,
        |c| c.stream.recv(&mut c.buffer[c.done..]).timeout(Duration::from_secs(30)),
        |lp, mut client, received| {
            match received {
                Ok(count @ 1..) => client.done += count,
                _ => {
                    count(&client.seen.errors);
                    count(&client.seen.ends);
                    return;
                }
            }
            assert_eq!(client.buffer[..client.done], MESSAGE[..client.done], "echoed in order");
            if client.done == MESSAGE_BYTES {
                count(&client.seen.echoes);
                return count(&client.seen.ends);
            }
            read_echo(lp, client);
        },
    );
}

const CLIENTS: usize = 4;

/// Runs an echo server and clients on two loops; says what happened.
fn echo(options: SimOptions) -> (Rc<Seen>, Simulation) {
    let world = Simulation::new(options);
    let (server, client) = (world.host([10, 0, 0, 1]), world.host([10, 0, 0, 2]));
    let capacity = 64;
    let build = |host: &Simulation| Loop::builder().capacity(capacity).simulation(host).build().unwrap();
    let (mut server_loop, mut client_loop) = (build(&server), build(&client));
    let listener = server.enter(|| TcpListener::bind("0.0.0.0:7000")).unwrap();
    serve(&mut server_loop, listener);
    let seen = Rc::new(Seen::default());
    for _ in 0..CLIENTS {
        connect(&mut client_loop, "10.0.0.1:7000".parse().unwrap(), &seen);
    }
    world.run(&mut [&mut server_loop, &mut client_loop]).unwrap();
    (seen, world)
}

#[test]
fn without_faults_everything_is_echoed() {
    let (seen, world) = echo(SimOptions::calm());
    assert_eq!((seen.echoes.get(), seen.errors.get()), (CLIENTS, 0));
    assert!(world.elapsed() < Duration::from_secs(1));
}

/// 1,000 seeds, each with faults of its own choosing.
#[test]
fn a_thousand_seeds_end_in_an_echo_or_an_error_for_every_client() {
    let (mut echoes, mut errors) = (0, 0);
    for seed in 0..1000 {
        let (seen, _world) = echo(SimOptions::swarm(seed));
        assert_eq!(seen.ends.get(), CLIENTS, "seed {seed}: {seen:?}");
        echoes += seen.echoes.get();
        errors += seen.errors.get();
    }
    assert!(echoes > 1000 && errors > 100, "both must happen: {echoes} echoes, {errors} errors");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..50 {
        let options = SimOptions { trace_text: true, ..SimOptions::swarm(seed) };
        let (one, another) = (echo(options.clone()).1, echo(options).1);
        assert!(one.trace_text().lines().count() > 50);
        assert_eq!(one.trace_text(), another.trace_text(), "seed {seed}");
        assert_eq!(one.trace(), another.trace(), "seed {seed}");
    }
}

#[test]
fn another_seed_gives_another_run() {
    let run = |seed| echo(SimOptions { seed, ..SimOptions::default() }).1.trace();
    assert_ne!(run(1), run(2));
}

// ---- each fault shows, and the loop copes with it

/// A connection in a world with these faults. It is made before they begin.
fn connection_with(faults: Faults) -> (Simulation, Box<Loop>, TcpStream, TcpStream) {
    let (world, mut lp) = calm();
    let (client, server, _listener) = connection(&world, &mut lp);
    world.set_faults(faults);
    (world, lp, client, server)
}

#[test]
fn short_transfers_give_less_and_exact_ones_go_on() {
    let faults = Faults { short_read: 1.0, short_write: 1.0, ..Faults::none() };
    let (_world, mut lp, client, server) = connection_with(faults);
    let ((client, bytes), sent) = complete(&mut lp, (client, [7; 4096]), |(s, b)| s.send(b));
    let sent = sent.unwrap();
    assert!((1..4096).contains(&sent));
    let ((server, buffer), received) = complete(&mut lp, (server, [0; 4096]), |(s, b)| s.recv(b));
    let received = received.unwrap();
    assert!((1..=sent).contains(&received));
    assert_eq!(buffer[..received], bytes[..received]);

    let (_, all) = start(&mut lp, (client, [7; 4096]), |(s, b)| s.send_all(b));
    let rest = sent - received + 4096;
    let (_, exact) = complete(&mut lp, (server, vec![0; rest]), |(s, b)| s.recv_exact(b));
    assert_eq!(exact.unwrap(), rest);
    assert_eq!(all.take().unwrap().1.unwrap(), 4096);
}

#[test]
fn interrupted_and_delayed_operations_end_all_the_same() {
    let faults = Faults { interrupt: 1.0, again: 1.0, ..Faults::none() };
    let (world, mut lp, client, server) = connection_with(faults);
    complete(&mut lp, client, |s| s.send_all(b"all the same")).1.unwrap();
    let ((_, buffer), received) = complete(&mut lp, (server, [0; 12]), |(s, b)| s.recv_exact(b));
    assert_eq!((received.unwrap(), &buffer), (12, b"all the same"));
    assert!(world.elapsed() > Duration::from_micros(10), "an operation that was not ready took its time");
}

#[test]
fn a_connection_is_reset_while_it_is_used_at_both_ends() {
    let (world, mut lp, client, server) = connection_with(Faults { connection_reset: 1.0, ..Faults::none() });
    assert_eq!(errno(complete(&mut lp, client, |s| s.send(b"lost")).1), Some(libc::ECONNRESET));
    world.set_faults(Faults::none());
    let ((server, _), received) = complete(&mut lp, (server, [0; 8]), |(s, b)| s.recv(b));
    assert_eq!(errno(received), Some(libc::ECONNRESET));
    assert_eq!(errno(complete(&mut lp, server, |s| s.send(b"lost")).1), Some(libc::EPIPE));
}

#[test]
fn a_pipe_has_no_connection_that_could_be_reset() {
    let world = world(Faults { connection_reset: 1.0, ..Faults::none() });
    let mut lp = world.new_loop().unwrap();
    let (reader, writer) = world.pipe().unwrap();
    complete(&mut lp, writer, |f| f.write(b"kept")).1.unwrap();
    let ((_, buffer), read) = complete(&mut lp, (reader, [0; 4]), |(f, b)| f.read(b));
    assert_eq!((read.unwrap(), &buffer), (4, b"kept"));
}

#[test]
fn connections_are_refused_with_and_without_a_listener() {
    let (world, mut lp) = calm();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7000));
    let connect = |lp: &mut Loop| errno(complete(lp, (), |()| TcpStream::connect("127.0.0.1:7000")).1);
    assert_eq!(connect(&mut lp), Some(libc::ECONNREFUSED));
    let _listener = world.enter(|| TcpListener::bind(address)).unwrap();
    assert_eq!(connect(&mut lp), None);
    world.set_faults(Faults { connection_refused: 1.0, ..Faults::none() });
    assert_eq!(connect(&mut lp), Some(libc::ECONNREFUSED));
}

#[test]
fn latency_delays_what_is_sent() {
    let faults = Faults { latency_min: 20 * MS, latency_max: 30 * MS, ..Faults::none() };
    let (world, mut lp, client, server) = connection_with(faults);
    let begin = world.elapsed();
    complete(&mut lp, client, |s| s.send_all(b"late")).1.unwrap();
    assert!(world.elapsed() - begin < MS, "the kernel takes it at once");
    complete(&mut lp, (server, [0; 4]), |(s, b)| s.recv_exact(b)).1.unwrap();
    let passed = world.elapsed() - begin;
    assert!(passed >= 20 * MS && passed < 31 * MS, "{passed:?}");
}

#[test]
fn completions_are_overtaken() {
    let order = |faults| {
        let mut lp = world(faults).new_loop().unwrap();
        let order = Rc::new(RefCell::new(Vec::new()));
        for number in 0..64 {
            let owner = Box::new(Completion::new((number, Rc::clone(&order))));
            lp.submit(owner, |_| nop(), |_, owner, _| owner.1.borrow_mut().push(owner.0));
        }
        lp.run(RunMode::UntilDone).unwrap();
        order.take()
    };
    assert!(order(Faults::none()).is_sorted());
    let mut reordered = order(Faults { reorder: 0.5, ..Faults::none() });
    assert!(!reordered.is_sorted());
    reordered.sort_unstable();
    assert!(reordered.into_iter().eq(0..64), "each exactly once");
}

#[test]
fn a_cancel_wins_or_loses() {
    let cancel = |cancel_loses: f64| {
        let (_world, mut lp, client, server) = connection_with(Faults { cancel_loses, ..Faults::none() });
        let (id, end) = start(&mut lp, (server, [0; 4]), |(s, b)| s.recv(b));
        lp.run(RunMode::NoWait).unwrap();
        assert!(lp.cancel(id));
        let (_, sent) = start(&mut lp, client, |s| s.send(b"ping"));
        lp.run(RunMode::UntilDone).unwrap();
        sent.take().unwrap().1.unwrap();
        end.take().unwrap().1
    };
    assert!(is_canceled(&cancel(0.0).unwrap_err()));
    assert_eq!(cancel(1.0).unwrap(), 4);
}

#[test]
fn a_cancel_that_loses_ends_the_operation_in_the_end() {
    let faults = Faults { cancel_loses: 1.0, ..Faults::none() };
    let (_world, mut lp, _client, server) = connection_with(faults);
    let (id, end) = start(&mut lp, (server, [0; 4]), |(s, b)| s.recv(b));
    assert!(lp.cancel(id));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(is_canceled(&end.take().unwrap().1.unwrap_err()));
}

#[test]
fn full_queues_and_late_completions_lose_and_repeat_nothing() {
    let faults = Faults {
        submission_queue_full: 0.7,
        completion_queue_overflow: 0.9,
        late_completion: 1.0,
        ..Faults::none()
    };
    let mut lp = world(faults).new_loop().unwrap();
    let ran = Rc::new(Cell::new(0));
    for _ in 0..500 {
        lp.submit(
            Box::new(Completion::new(Rc::clone(&ran))),
            |_| nop(),
            |lp, ran, done| {
                done.unwrap();
                count_up(&ran);
                // Its entry in the table is free, and taken again at once.
                lp.submit(
                    ran,
                    |_| nop(),
                    |_, ran, done| {
                        done.unwrap();
                        count_up(&ran);
                    },
                );
            },
        );
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(ran.get(), 1000);
}

fn count_up(ran: &Cell<usize>) {
    ran.set(ran.get() + 1);
}

#[test]
fn a_multi_result_operation_goes_on_however_it_is_repeated() {
    for (native_multishot, lost_continuation) in [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (1.0, 0.5)] {
        let faults = Faults { native_multishot, lost_continuation, reorder: 0.3, ..Faults::none() };
        let (_world, mut lp, client, server) = connection_with(faults);
        let pool = lp.buf_pool(2, 16).unwrap();
        let got = Rc::new(RefCell::new(Vec::new()));
        lp.submit_multi(
            Box::new(Completion::new(Multi::new((server, pool), Rc::clone(&got)))),
            |(server, pool)| server.recv_multi(pool),
            |_, got, lease| {
                got.borrow_mut().extend_from_slice(&lease);
                Action::Rearm
            },
            |_, _, end| end.unwrap(),
        );
        let all: Vec<u8> = (0..=255).collect();
        lp.submit(
            Box::new(Completion::new((client, all.clone()))),
            |(s, b)| s.send_all(b),
            |_, _, sent| assert_eq!(sent.unwrap(), 256),
        );
        lp.run(RunMode::UntilDone).unwrap();
        assert_eq!(*got.borrow(), all, "in order, to the end of the stream");
    }
}

#[test]
fn a_partition_holds_up_connections_and_data_until_it_is_healed() {
    let world = world(Faults::none());
    let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let mut lp = world.host(a).new_loop().unwrap();
    let listener = world.host(b).enter(|| TcpListener::bind("0.0.0.0:80")).unwrap();
    world.partition(a, b);
    let late = complete(&mut lp, (), |()| TcpStream::connect("10.0.0.2:80").timeout(HOUR)).1;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
    let (_, connected) = start(&mut lp, (), |()| TcpStream::connect("10.0.0.2:80"));
    lp.run_for(MS).unwrap();
    assert!(connected.borrow().is_none());
    world.heal(b, a);
    lp.run(RunMode::UntilDone).unwrap();
    let stream = connected.take().unwrap().1.unwrap();
    assert_eq!(stream.local_addr().unwrap().ip(), Ipv4Addr::from(a));
    drop(listener);
}

// ---- peers and scripts

/// Echoes on one connection, to its end.
fn echo_once(lp: &mut Loop, listener: TcpListener) {
    lp.submit(
        Box::new(Completion::new(listener)),
        |l| l.accept(),
        |lp, _, accepted| again(lp, Box::new(Completion::new((accepted.unwrap(), [0; 64])))),
    );
    fn again(lp: &mut Loop, conn: Box<Completion<(TcpStream, [u8; 64])>>) {
        lp.submit(
            conn,
            |(stream, buffer)| stream.recv(buffer),
            |lp, conn, received| {
                if let Ok(count @ 1..) = received {
                    let echo = |lp: &mut Loop, conn, sent: io::Result<usize>| {
                        sent.unwrap();
                        again(lp, conn);
                    };
                    lp.submit(conn, |(stream, buffer)| stream.send_all(&buffer[..count]), echo);
                }
            },
        );
    }
}

fn slow() -> Faults {
    Faults { latency_min: MS, latency_max: 2 * MS, ..Faults::none() }
}

#[test]
fn a_peer_speaks_with_a_server_between_its_steps() {
    let world = world(slow());
    let mut lp = world.new_loop().unwrap();
    let listener = world.enter(|| TcpListener::bind("127.0.0.1:80")).unwrap();
    let mut peer = world.connect("127.0.0.1:80").unwrap();
    assert!(world.elapsed() >= 2 * MS, "there and back");
    assert_eq!(peer.peer_addr().unwrap(), listener.local_addr().unwrap());
    echo_once(&mut lp, listener);
    for round in 0..3 {
        let mut echo = [0; 5];
        peer.write_all(b"hello").unwrap();
        lp.run_for(10 * MS).unwrap();
        assert_eq!(peer.read(&mut echo[..2]).unwrap(), 2);
        peer.read_exact(&mut echo[2..]).unwrap();
        assert_eq!(&echo, b"hello", "round {round}");
    }
    drop(peer);
    lp.run(RunMode::UntilDone).unwrap();
}

#[test]
fn a_peer_waits_for_what_is_on_its_way_and_for_nothing_else() {
    let world = world(slow());
    let listener = world.enter(|| TcpListener::bind("127.0.0.1:80")).unwrap();
    let mut one = world.connect("127.0.0.1:80").unwrap();
    let mut two = world.accept(&listener).unwrap();
    assert_eq!(world.accept(&listener).unwrap_err().kind(), ErrorKind::WouldBlock);
    let begin = world.elapsed();
    one.write_all(b"abc").unwrap();
    assert_eq!(world.elapsed(), begin);
    assert_eq!(two.read(&mut [0; 8]).unwrap(), 3);
    assert!(world.elapsed() >= begin + MS);
    assert_eq!(two.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    // As much as the connection holds.
    assert_eq!(one.write(&[0; 1 << 20]).unwrap(), 64 << 10);
    assert_eq!(one.write(b"x").unwrap_err().kind(), ErrorKind::WouldBlock);
    one.reset().unwrap();
    let error = io::copy(&mut two, &mut io::sink()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(world.connect("127.0.0.1:81").unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_peer_goes_to_a_loop_and_comes_back() {
    let (world, mut lp) = calm();
    let listener = world.enter(|| TcpListener::bind("[::1]:80")).unwrap();
    let mut peer = world.connect("[::1]:80").unwrap();
    let stream = world.accept(&listener).unwrap().into_stream().unwrap();
    let ((stream, _), sent) = complete(&mut lp, (stream, *b"there"), |(s, b)| s.send_all(b));
    assert_eq!(sent.unwrap(), 5);
    let mut back = oxev::sim::Peer::from(stream);
    back.write_all(b" and back").unwrap();
    back.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = String::new();
    peer.read_to_string(&mut all).unwrap();
    assert_eq!(all, "there and back");
}

#[test]
fn an_ipv6_listener_knows_ipv4_peers_by_mapped_addresses_and_partitions_hold() {
    let world = world(Faults::none());
    let (server, client) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let listener = world.host(server).enter(|| TcpListener::bind("[::]:80")).unwrap();
    let mut one = world.host(client).connect("10.0.0.1:80").unwrap();
    let mut two = world.accept(&listener).unwrap();
    let mapped = Ipv4Addr::from(client).to_ipv6_mapped();
    assert_eq!(two.peer_addr().unwrap().ip(), std::net::IpAddr::from(mapped));
    world.partition(server, client);
    one.write_all(b"x").unwrap();
    assert_eq!(two.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    world.heal(server, client);
    assert_eq!(two.read(&mut [0; 8]).unwrap(), 1);
    assert_eq!(world.reset_connections(server, client), 2);
}

#[test]
fn a_connection_that_finds_the_backlog_full_times_out_after_two_minutes() {
    let (world, mut lp) = calm();
    let listener = world.enter(|| TcpListener::options().backlog(0).bind("127.0.0.1:80")).unwrap();
    let _in_queue = world.connect("127.0.0.1:80").unwrap();
    let begin = world.elapsed();
    assert_eq!(world.connect("127.0.0.1:80").unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!((world.elapsed() - begin).as_secs(), 127);
    let (_id, connected) = start(&mut lp, (), |()| TcpStream::connect("127.0.0.1:80"));
    lp.run_for(Duration::from_secs(2)).unwrap();
    assert!(connected.borrow().is_none());
    drop(world.accept(&listener).unwrap());
    lp.run(RunMode::UntilDone).unwrap();
    connected.take().unwrap().1.expect("there is room now");
}

/// Three scripts on a bad day: the trace, and how their parts ended.
fn scripted(seed: u64) -> (u64, Vec<Result<usize, ErrorKind>>) {
    let faults = Faults { connection_refused: 0.1, connection_reset: 0.01, ..Faults::default() };
    let world = Simulation::new(SimOptions { seed, faults, ..SimOptions::default() });
    let mut lp = world.new_loop().unwrap();
    serve(&mut lp, world.enter(|| TcpListener::bind("10.0.0.1:80")).unwrap());
    let scripts = [2, 3, 4].map(|number| {
        let talk = move |script: oxev::sim::Script| -> io::Result<usize> {
            script.sleep(u32::from(number) * 3 * MS)?;
            let mut peer = script.connect("10.0.0.1:80")?;
            let mut echo = [0; 100];
            for round in 0..100 {
                peer.write_all(&[number; 100][..=round])?;
                peer.read_exact(&mut echo[..=round])?;
                assert_eq!(echo[..=round], [number; 100][..=round], "seed {seed}");
            }
            Ok(script.elapsed()?.as_nanos() as usize)
        };
        world.host([10, 0, 0, number]).script(talk).unwrap()
    });
    start(&mut lp, (), |()| Timer::after(HOUR));
    lp.run(RunMode::UntilDone).unwrap();
    let ends = scripts.map(|script| script.join().unwrap().map_err(|error| error.kind()));
    (world.trace(), ends.to_vec())
}

#[test]
fn scripts_are_a_part_of_what_the_seed_decides() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..30 {
        let run = scripted(seed);
        assert_eq!(run, scripted(seed), "seed {seed}");
        good += run.1.iter().filter(|end| end.is_ok()).count();
        bad += run.1.iter().filter(|end| end.is_err()).count();
    }
    assert!(good > 0 && bad > 0, "{good} and {bad}");
}

#[test]
fn a_script_posts_notifies_and_stops() {
    let (world, mut lp) = calm();
    let (notifier, handle) = (Notifier::new(), lp.handle());
    let (_id, notified) = start(&mut lp, notifier.clone(), |n| n.wait());
    start(&mut lp, Notifier::new(), |n| n.wait());
    let script = world.script(move |script| {
        script.sleep(HOUR).unwrap();
        notifier.notify();
        script.sleep(HOUR).unwrap();
        handle.stop();
    });
    lp.run(RunMode::UntilDone).unwrap();
    notified.take().unwrap().1.unwrap();
    assert!((2 * HOUR..2 * HOUR + MS).contains(&world.elapsed()), "{:?}", world.elapsed());
    script.unwrap().join().unwrap();
}

#[test]
fn a_script_that_waits_for_ever_is_told_when_its_world_ends() {
    let world = world(Faults::none());
    let listener = world.enter(|| TcpListener::bind("127.0.0.1:80")).unwrap();
    let (told, tells) = std::sync::mpsc::channel();
    let script = world.script(move |script| {
        let mut peer = script.connect("127.0.0.1:80").unwrap();
        told.send(peer.read(&mut [0; 8]).unwrap_err().raw_os_error()).unwrap();
    });
    let script = script.unwrap();
    assert!(!script.is_finished());
    assert_eq!(script.join().unwrap_err().kind(), ErrorKind::WouldBlock);
    drop((listener, world));
    assert_eq!(tells.recv().unwrap(), Some(libc::ECONNABORTED));
}

#[test]
fn a_panic_in_a_script_comes_through_its_join_and_closes_its_peers() {
    let world = world(Faults::none());
    let listener = world.enter(|| TcpListener::bind("127.0.0.1:80")).unwrap();
    let script = world.script(|script| {
        let _peer = script.connect("127.0.0.1:80").unwrap();
        assert!(std::hint::black_box(false), "a script panics");
    });
    let mut accepted = world.accept(&listener).unwrap();
    assert_eq!(accepted.read(&mut [0; 8]).unwrap(), 0);
    let join = std::panic::AssertUnwindSafe(|| script.unwrap().join());
    assert!(std::panic::catch_unwind(join).is_err());
}

// ---- files

fn read_write() -> OpenOptions {
    OpenOptions::new().read(true).write(true).create(true)
}

#[test]
fn files_are_written_and_read() {
    let (world, mut lp) = calm();
    let file = complete(&mut lp, (), |()| File::open(c"/data/log", &read_write())).1.unwrap();
    let (file, written) = complete(&mut lp, file, |f| f.write_all_at(b"hello", 3));
    assert_eq!(written.unwrap(), 5);
    let ((file, buffer), read) = complete(&mut lp, (file, [1; 16]), |(f, b)| f.read(b));
    assert_eq!(&buffer[..read.unwrap()], b"\0\0\0hello");
    let ((file, metadata), known) = complete(&mut lp, (file, Metadata::new()), |(f, m)| f.metadata(m));
    known.unwrap();
    assert!(metadata.len() == 8 && metadata.is_file());
    assert_eq!(world.read_file(c"/data/log").unwrap(), b"\0\0\0hello");
    complete(&mut lp, file, |f| f.close()).1.unwrap();
    let missing = complete(&mut lp, (), |()| File::open(c"/none", &OpenOptions::new().read(true))).1;
    assert_eq!(errno(missing), Some(libc::ENOENT));
    world.write_file(c"/config", "there");
    let config = world.enter(|| OpenOptions::new().read(true).open_blocking("/config")).unwrap();
    let ((config, buffer), read) = complete(&mut lp, (config, [0; 5]), |(f, b)| f.read_exact_at(b, 0));
    assert_eq!((read.unwrap(), &buffer), (5, b"there"));
    assert_eq!(errno(complete(&mut lp, config, |f| f.write(b"x")).1), Some(libc::EBADF));
}

#[test]
fn a_transfer_at_the_position_of_a_file_does_not_wait_for_another_loop() {
    let (world, mut lp) = calm();
    let other = &mut world.new_loop().unwrap();
    world.write_file(c"/data", "shared");
    let file = world.enter(|| OpenOptions::new().read(true).open_blocking("/data")).unwrap();
    let file = Rc::new(file);
    let (_, waits) = start(other, (Rc::clone(&file), [0; 3]), |(f, b)| f.read(b));
    // The other loop does not run meanwhile.
    complete(&mut lp, (file, [0; 3]), |(f, b)| f.read(b)).1.unwrap();
    other.run(RunMode::UntilDone).unwrap();
    assert_eq!(waits.take().unwrap().1.unwrap(), 3);
}

#[test]
fn a_power_cut_takes_what_was_not_synced() {
    let (world, mut lp) = calm();
    let file = complete(&mut lp, (), |()| File::open(c"/log", &read_write())).1.unwrap();
    let _never_synced = complete(&mut lp, (), |()| File::open(c"/other", &read_write())).1.unwrap();
    let (file, _) = complete(&mut lp, file, |f| f.write_all(b"durable"));
    let (file, synced) = complete(&mut lp, file, |f| f.sync_data());
    synced.unwrap();
    let (file, _) = complete(&mut lp, file, |f| f.write_all(b", lost"));
    drop((file, lp));
    assert_eq!(world.read_file(c"/log").unwrap(), b"durable, lost");
    world.power_cut();
    assert_eq!(world.read_file(c"/log").unwrap(), b"durable");
    assert_eq!(world.read_file(c"/other"), None);
}

#[test]
fn a_torn_write_reaches_the_disk_in_part() {
    let contents: Vec<usize> = (0..50)
        .map(|seed| {
            let faults = Faults { torn_write: 0.5, ..Faults::none() };
            let world = Simulation::new(SimOptions { seed, faults, ..SimOptions::default() });
            let mut lp = world.new_loop().unwrap();
            let file = complete(&mut lp, (), |()| File::open(c"/log", &read_write())).1.unwrap();
            let (file, _) = complete(&mut lp, file, |f| f.sync_all());
            complete(&mut lp, (file, [1; 1000]), |(f, b)| f.write_all(b)).1.unwrap();
            world.power_cut();
            world.read_file(c"/log").unwrap().len()
        })
        .collect();
    assert!(contents.contains(&0) && contents.iter().any(|len| (1..1000).contains(len)), "{contents:?}");
}

#[test]
fn disks_fail_and_fill_up() {
    let (world, mut lp) = calm();
    let file = complete(&mut lp, (), |()| File::open(c"/log", &read_write())).1.unwrap();
    world.set_faults(Faults { no_space: 1.0, ..Faults::none() });
    let (file, written) = complete(&mut lp, file, |f| f.write(b"x"));
    assert_eq!(errno(written), Some(libc::ENOSPC));
    world.set_faults(Faults { io_error: 1.0, ..Faults::none() });
    let (file, written) = complete(&mut lp, file, |f| f.write(b"x"));
    assert_eq!(errno(written), Some(libc::EIO));
    assert_eq!(errno(complete(&mut lp, file, |f| f.sync_all()).1), Some(libc::EIO));
}

#[test]
fn a_disk_that_gets_full_in_the_middle_of_a_write_takes_what_it_has_room_for() {
    let (world, mut lp) = calm();
    world.write_file(c"/other", [0; 100]);
    let file = complete(&mut lp, (), |()| File::open(c"/log", &read_write())).1.unwrap();
    world.limit_disk(105);
    let (file, written) = complete(&mut lp, file, |f| f.write(b"abcdefgh"));
    assert_eq!(written.unwrap(), 5);
    let (file, full) = complete(&mut lp, file, |f| f.write(b"fgh"));
    assert_eq!(errno(full), Some(libc::ENOSPC));
    // There is room for what makes no file longer, and for nothing.
    let (file, written) = complete(&mut lp, file, |f| f.write_all_at(b"ABC", 0));
    assert_eq!(written.unwrap(), 3);
    let (file, written) = complete(&mut lp, file, |f| f.write(b""));
    assert_eq!(written.unwrap(), 0);
    assert_eq!(written_of_too_much(&mut lp, file), (Some(libc::ENOSPC), 2));
    world.limit_disk(None);
    assert_eq!(world.read_file(c"/log").unwrap(), b"ABCxy");
}

/// Writes four bytes at 3, and says how many of them were written before it failed.
fn written_of_too_much(lp: &mut Loop, file: File) -> (Option<i32>, u64) {
    let told = Rc::new(Cell::new((None, 0)));
    lp.submit(
        Box::new(Completion::new((file, Rc::clone(&told)))),
        |(file, _)| file.write_all_at(b"xyzw", 3),
        |lp, owner, written| owner.1.set((errno(written), lp.moved())),
    );
    lp.run(RunMode::UntilDone).unwrap();
    told.get()
}

#[test]
fn exact_file_operations_survive_short_ones_and_signals() {
    let faults = Faults { short_read: 1.0, short_write: 1.0, interrupt: 0.5, ..Faults::none() };
    let mut lp = world(faults).new_loop().unwrap();
    let file = complete(&mut lp, (), |()| File::open(c"/log", &read_write())).1.unwrap();
    let bytes: Vec<u8> = (0..=255).collect();
    let ((file, bytes), written) = complete(&mut lp, (file, bytes), |(f, b)| f.write_all(b));
    assert_eq!(written.unwrap(), 256);
    let ((_, buffer), read) = complete(&mut lp, (file, vec![0; 256]), |(f, b)| f.read_exact_at(b, 0));
    assert_eq!((read.unwrap(), buffer), (256, bytes));
}

// ---- everything else

#[test]
fn offloaded_work_is_done_on_this_thread() {
    let (_world, mut lp) = calm();
    let (pool, here) = (oxev::ThreadPool::new(), std::thread::current().id());
    lp.offload(
        &pool,
        Box::new(Completion::new(None)),
        |thread| *thread = Some(std::thread::current().id()),
        |lp, owner, done| {
            done.unwrap();
            assert!(owner.is_some());
            lp.submit(owner, |_| nop(), |_, _, _| ());
        },
    );
    let (_, waited) = start(&mut lp, (), |()| Timer::after(MS));
    lp.run(RunMode::UntilDone).unwrap();
    assert!(waited.borrow().is_some() && std::thread::current().id() == here);
}

#[test]
fn dropping_a_loop_amid_faults_drops_every_owner_once() {
    struct Counted(Rc<Cell<usize>>);
    impl Drop for Counted {
        fn drop(&mut self) {
            count_up(&self.0);
        }
    }
    for seed in 0..200 {
        let world = Simulation::new(SimOptions::swarm(seed));
        let mut lp = world.new_loop().unwrap();
        let drops = Rc::new(Cell::new(0));
        let listener = Rc::new(world.enter(|| TcpListener::bind("127.0.0.1:80")).unwrap());
        for _ in 0..10 {
            let counted = || Counted(Rc::clone(&drops));
            lp.submit(Box::new(Completion::new(counted())), |_| nop(), |_, _, _| ());
            let waiting = (Rc::clone(&listener), counted());
            lp.submit(Box::new(Completion::new(waiting)), |(l, _)| l.accept(), |_, _, _| ());
            lp.submit(
                Box::new(Completion::new(counted())),
                |_| TcpStream::connect("127.0.0.1:80"),
                |_, _, _| (),
            );
            lp.submit(Box::new(Completion::new(counted())), |_| Timer::after(MS), |_, _, _| ());
        }
        lp.run(RunMode::NoWait).unwrap();
        drop(lp);
        assert_eq!(drops.get(), 40, "seed {seed}");
    }
}

#[test]
fn a_timer_that_ends_with_the_clock_never_ends_and_the_others_do() {
    let world = Simulation::new(SimOptions::calm());
    let mut lp = world.new_loop().unwrap();
    lp.submit(Box::new(Completion::new(())), |_| Timer::after(Duration::MAX), |_, _, _| panic!("it ends"));
    // Years beyond what the wheel reached once.
    let years = Duration::from_secs(400 * 365 * 24 * 3600);
    let fired = Rc::new(Cell::new(Duration::ZERO));
    let state = (world.clone(), Rc::clone(&fired));
    lp.submit(
        Box::new(Completion::new(state)),
        move |_| Timer::after(years),
        |_, state, result| {
            result.unwrap();
            state.1.set(state.0.elapsed());
        },
    );
    assert_eq!(lp.run(RunMode::UntilDone).unwrap_err().raw_os_error(), Some(libc::EDEADLK));
    assert!((years..years + Duration::from_secs(1)).contains(&fired.get()));
}

#[test]
fn a_world_at_the_end_of_its_clock_goes_on() {
    let world = Simulation::new(SimOptions::calm());
    let mut lp = world.new_loop().unwrap();
    world.advance(Duration::MAX);
    lp.submit(Box::new(Completion::new(())), |_| nop(), |_, _, result| result.unwrap());
    lp.run(RunMode::UntilDone).unwrap();
    let _ = lp.now();
    lp.submit(Box::new(Completion::new(())), |_| Timer::after(Duration::from_secs(1)), |_, _, _| ());
    assert_eq!(lp.run(RunMode::UntilDone).unwrap_err().raw_os_error(), Some(libc::EDEADLK));
}
