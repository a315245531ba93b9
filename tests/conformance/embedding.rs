//! Embedding: a program that has a loop inside another one waits for its descriptor, or until the time that
//! `next_timeout` tells, and then runs it. Whatever has happened, it is not left waiting.
//!
//! Every body runs with every way to wait that there is: `poll(2)`; `epoll(7)`, mio and tokio, which report
//! an edge once; another loop of ours.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use oxev::net::{self, Lookup};
use oxev::{
    Action, BufPool, Completion, File, Kind, Lease, Loop, Multi, Notifier, Op, OpKind, RawOp, RunMode,
    TcpStream, ThreadPool, Timer, nop,
};

use tokio::io::unix::AsyncFd;

use crate::support::crowds::crowd;
use crate::support::sockets::{connect, listener, pair};
use crate::support::surroundings::{Named, current};
use crate::support::{Counter, HOUR, MS, Started, start, start_multi};
use crate::variants::Variant;

conformance! {
    posts_from_another_thread_show,
    many_posts_at_once_show,
    wake_ups_show,
    a_stop_shows_and_so_does_what_it_leaves,
    a_stop_from_outside_a_callback_shows,
    notifications_show,
    work_of_a_thread_pool_shows,
    received_bytes_show,
    what_comes_on_many_sockets_at_once_shows,
    more_connections_than_a_step_takes_show,
    timers_and_deadlines_are_told,
    receives_that_wait_for_a_buffer_go_on,
    a_stream_that_waits_for_a_buffer_goes_on,
    a_buffer_that_comes_back_outside_a_callback_shows,
    a_buffer_shows_for_which_a_stream_waits_that_the_backend_does_not_know,
    each_operation_of_a_chain_shows,
    what_a_stop_or_a_panic_leaves_shows,
    the_descriptor_shows_posts_after_any_kind_of_run,
    what_other_kinds_of_runs_have_not_looked_at_shows,
    files_show,
    a_stream_that_is_dropped_in_a_callback_is_closed,
    #[needs_kernel = "an eventfd of the test's own"]
    what_an_eventfd_of_the_program_brings_shows,
    #[needs_kernel = "an eventfd of the test's own"]
    what_is_read_from_an_eventfd_shows,
    #[needs_kernel = "the descriptor of one loop in another"]
    a_loop_in_a_loop_in_a_loop_shows,
    what_is_submitted_or_cancelled_outside_a_callback_is_begun_before_the_wait,
    a_flush_tells_of_a_timer_that_is_sooner,
    the_descriptor_can_be_had_inside_a_callback,
    the_descriptor_is_quiet_when_nothing_happens,
}

/// Events of each kind.
const ROUNDS: usize = 200;

/// Nothing takes that long but what never comes.
const PATIENCE: Duration = Duration::from_secs(20);

// ---- those that wait

/// A way to wait for a descriptor.
trait Embedder {
    /// Waits until the descriptor is readable, or for no longer than that. Whether it is.
    fn wait(&mut self, timeout: Duration) -> bool;
}

/// Waits as long as the loop says.
fn wait(lp: &mut Loop, embedder: &mut dyn Embedder) -> bool {
    let timeout = lp.next_timeout();
    let is_readable = embedder.wait(timeout.unwrap_or(PATIENCE));
    assert!(is_readable || timeout.is_some(), "the descriptor does not show it");
    is_readable
}

/// Runs the loop when it says so, until `condition` holds.
fn pump(lp: &mut Loop, embedder: &mut dyn Embedder, condition: impl Fn() -> bool) {
    while !condition() {
        wait(lp, embedder);
        lp.run(RunMode::NoWait).unwrap();
    }
}

/// Runs a body with each way to wait, and a fresh loop.
fn each(v: Variant, body: impl Fn(&mut Loop, &mut dyn Embedder)) {
    each_with(v, |v| v.new_loop(), body);
}

fn each_with(v: Variant, make: fn(Variant) -> Box<Loop>, body: impl Fn(&mut Loop, &mut dyn Embedder)) {
    let run = |name: &str, embed: &dyn Fn(&Loop) -> Box<dyn Embedder>| {
        eprintln!("embedded in {name}");
        let mut lp = make(v);
        let mut embedder = embed(&lp);
        body(&mut lp, &mut *embedder);
    };
    if v.new_loop().backend() == Kind::Sim {
        return run("the world", &|lp| Box::new(InWorld(lp.as_raw_fd())));
    }
    run("poll", &|lp| Box::new(InPoll(lp.as_raw_fd())));
    run("edge-triggered epoll", &|lp| Box::new(InEpoll::new(lp)));
    run("mio", &|lp| Box::new(InMio::new(lp)));
    run("tokio", &|lp| Box::new(InTokio::new(lp)));
    run("another loop", &|lp| Box::new(InLoop { outer: v.new_loop(), fd: lp.as_raw_fd() }));
}

/// Descriptors that a test keeps open.
fn borrowed(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the loop outlives its embedder.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn is_readable(fd: RawFd, timeout: Duration) -> bool {
    let timeout = PollTimeout::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap();
    uninterrupted(|| Ok(poll(&mut [PollFd::new(borrowed(fd), PollFlags::POLLIN)], timeout)? > 0))
}

/// A ring without deferred task work interrupts system calls of the loop's thread.
fn uninterrupted<R>(mut call: impl FnMut() -> io::Result<R>) -> R {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.unwrap(),
        }
    }
}

struct InPoll(RawFd);

impl Embedder for InPoll {
    fn wait(&mut self, timeout: Duration) -> bool {
        is_readable(self.0, timeout)
    }
}

/// `poll(2)` while a world's time passes.
struct InWorld(RawFd);

impl Embedder for InWorld {
    fn wait(&mut self, timeout: Duration) -> bool {
        let (begin, patience) = (crate::support::now(), Instant::now() + PATIENCE);
        while !is_readable(self.0, Duration::ZERO) {
            let passed = crate::support::since(begin);
            // Other threads are in no world: for them, it is real time that counts.
            if passed >= timeout && (timeout < PATIENCE || Instant::now() > patience) {
                return false;
            }
            current()
                .poll(borrowed(self.0), MS.min(timeout.saturating_sub(passed).max(Duration::from_micros(1))));
            thread::yield_now();
        }
        true
    }
}

struct InEpoll(Epoll);

impl InEpoll {
    fn new(lp: &Loop) -> InEpoll {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        epoll.add(lp, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0)).unwrap();
        InEpoll(epoll)
    }
}

impl Embedder for InEpoll {
    fn wait(&mut self, timeout: Duration) -> bool {
        let timeout = EpollTimeout::try_from(timeout.as_nanos().div_ceil(1_000_000) as i32).unwrap();
        uninterrupted(|| Ok(self.0.wait(&mut [EpollEvent::empty()], timeout)? > 0))
    }
}

struct InMio(mio::Poll, mio::Events);

impl InMio {
    fn new(lp: &Loop) -> InMio {
        let poll = mio::Poll::new().unwrap();
        let source = &mut mio::unix::SourceFd(&lp.as_raw_fd());
        poll.registry().register(source, mio::Token(0), mio::Interest::READABLE).unwrap();
        InMio(poll, mio::Events::with_capacity(4))
    }
}

impl Embedder for InMio {
    fn wait(&mut self, timeout: Duration) -> bool {
        uninterrupted(|| self.0.poll(&mut self.1, Some(timeout)));
        self.1.iter().next().is_some()
    }
}

struct InTokio {
    // Before the runtime.
    fd: AsyncFd<BorrowedFd<'static>>,
    runtime: tokio::runtime::Runtime,
}

impl InTokio {
    fn new(lp: &Loop) -> InTokio {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
        let (fd, interest) = (borrowed(lp.as_raw_fd()), tokio::io::Interest::READABLE);
        // SAFETY: it is taken out again before it is closed.
        let fd = runtime.block_on(async { unsafe { AsyncFd::register_with_interest(fd, interest) } });
        InTokio { fd: fd.unwrap(), runtime }
    }
}

impl Embedder for InTokio {
    fn wait(&mut self, timeout: Duration) -> bool {
        let wait = async { tokio::time::timeout(timeout, self.fd.readable()).await };
        match self.runtime.block_on(wait) {
            Ok(ready) => {
                ready.unwrap().clear_ready();
                true
            }
            Err(_) => false,
        }
    }
}

struct InLoop {
    outer: Box<Loop>,
    fd: RawFd,
}

/// Waits in a loop for a descriptor that a test keeps open.
fn start_poll(lp: &mut Loop, fd: RawFd) -> Started<(), usize> {
    start(lp, (), |()| poll_op(fd))
}

fn poll_op<'a>(fd: RawFd) -> Op<'a, usize> {
    let mut op = RawOp::new(OpKind::Poll, fd);
    op.as_poll_mut().events = libc::POLLIN as u32;
    op.flags = RawOp::UNTRACKED;
    // SAFETY: the descriptor stays open, and nothing else is pointed to.
    unsafe { Op::from_raw(op) }
}

impl Embedder for InLoop {
    fn wait(&mut self, timeout: Duration) -> bool {
        let fd = self.fd;
        let (_, ready) = start(&mut self.outer, (), |()| poll_op(fd).timeout(timeout)).wait(&mut self.outer);
        ready.is_ok()
    }
}

// ---- those that make something happen

/// A thread that does something when it is told to.
struct Elsewhere {
    tell: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Elsewhere {
    fn new(mut work: impl FnMut() + Send + 'static) -> Elsewhere {
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || told.into_iter().for_each(|()| work()));
        Elsewhere { tell: Some(tell), thread: Some(thread) }
    }

    fn go(&self) {
        self.tell.as_ref().unwrap().send(()).unwrap();
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.tell = None;
        let _ = self.thread.take().unwrap().join();
    }
}

/// Posts to the loop when it is told to, and how many posts have arrived.
fn poster(lp: &Loop) -> (Elsewhere, Arc<AtomicUsize>) {
    let (handle, arrived) = (lp.handle(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&arrived);
    let elsewhere = Elsewhere::new(move || {
        let posted = handle.post(Box::new(Completion::new(Arc::clone(&count))), |_, count| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert!(posted.is_ok());
    });
    (elsewhere, arrived)
}

fn posts_from_another_thread_show(v: Variant) {
    each(v, |lp, embedder| {
        let (poster, arrived) = poster(lp);
        for round in 1..=ROUNDS {
            poster.go();
            pump(lp, embedder, || arrived.load(Ordering::Relaxed) == round);
        }
    });
}

fn many_posts_at_once_show(v: Variant) {
    each(v, |lp, embedder| {
        let posters: Vec<_> = (0..3).map(|_| poster(lp)).collect();
        (0..ROUNDS).for_each(|_| posters.iter().for_each(|(poster, _)| poster.go()));
        for (_, arrived) in &posters {
            pump(lp, embedder, || arrived.load(Ordering::Relaxed) == ROUNDS);
        }
    });
}

fn wake_ups_show(v: Variant) {
    each(v, |lp, embedder| {
        let handle = lp.handle();
        let waker = Elsewhere::new(move || handle.wake());
        for _ in 0..ROUNDS {
            waker.go();
            assert!(wait(lp, embedder));
            lp.run(RunMode::NoWait).unwrap();
        }
    });
}

fn a_stop_shows_and_so_does_what_it_leaves(v: Variant) {
    each(v, |lp, embedder| {
        let handle = lp.handle();
        let stopper = Elsewhere::new(move || handle.stop());
        for _ in 0..ROUNDS {
            let one = start(lp, (), |()| nop());
            stopper.go();
            pump(lp, embedder, || one.is_done());
            let handle = lp.handle();
            // Nothing but the stop.
            handle.stop();
            wait(lp, embedder);
            lp.run(RunMode::NoWait).unwrap();
        }
    });
}

fn a_stop_from_outside_a_callback_shows(v: Variant) {
    each(v, |lp, embedder| {
        for _ in 0..ROUNDS {
            lp.stop();
            assert!(embedder.wait(PATIENCE));
            lp.run(RunMode::NoWait).unwrap();
        }
    });
}

fn notifications_show(v: Variant) {
    each(v, |lp, embedder| {
        let (once, often) = (Notifier::new(), Notifier::new());
        let often_waiting = start_multi(lp, often.clone(), usize::MAX, |n| n.wait_multi());
        let notifier = {
            let (once, often) = (once.clone(), often.clone());
            Elsewhere::new(move || {
                once.notify();
                often.notify();
            })
        };
        for round in 1..=ROUNDS {
            let waiting = start(lp, once.clone(), |n| n.wait());
            notifier.go();
            pump(lp, embedder, || waiting.is_done() && often_waiting.items.len() == round);
            once.notify();
            let again = start(lp, once.clone(), |n| n.wait());
            pump(lp, embedder, || again.is_done());
        }
    });
}

fn work_of_a_thread_pool_shows(v: Variant) {
    let pool = ThreadPool::new();
    each(v, |lp, embedder| {
        for round in 0..ROUNDS {
            let done = Arc::new(AtomicUsize::new(0));
            let owner = Box::new(Completion::new(Arc::clone(&done)));
            lp.offload(
                &pool,
                owner,
                |_| (),
                |_, done, result| {
                    result.unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                },
            );
            pump(lp, embedder, || done.load(Ordering::Relaxed) == 1);
            if round % 50 == 0 {
                let lookup =
                    Box::new(Completion::new(CountedLookup { lookup: Lookup::new("127.0.0.1", 1), done }));
                net::resolve(lp, &pool, lookup, |_, named, resolved| {
                    resolved.unwrap();
                    named.done.fetch_add(1, Ordering::Relaxed);
                });
            }
        }
        while !lp.is_empty() {
            wait(lp, embedder);
            lp.run(RunMode::NoWait).unwrap();
        }
    });
}

/// A look-up that counts.
struct CountedLookup {
    lookup: Lookup,
    done: Arc<AtomicUsize>,
}

impl AsMut<Lookup> for CountedLookup {
    fn as_mut(&mut self) -> &mut Lookup {
        &mut self.lookup
    }
}

fn received_bytes_show(v: Variant) {
    each(v, |lp, embedder| {
        let (ours, mut peer) = pair();
        let mut state = (ours, [0; 8]);
        for _ in 0..ROUNDS {
            let received = start(lp, state, |(s, b)| s.recv(b));
            assert!(lp.next_timeout().is_none_or(|timeout| timeout.is_zero()));
            peer.write_all(b"hello").unwrap();
            pump(lp, embedder, || received.is_done());
            let (back, result) = received.take();
            assert_eq!(result.unwrap(), 5);
            state = back;
        }
    });
}

fn what_comes_on_many_sockets_at_once_shows(v: Variant) {
    let Some(_crowd) = crowd() else { return };
    each(v, |lp, embedder| {
        let mut peers = Vec::new();
        let mut sockets: Vec<_> = (0..100)
            .map(|_| pair())
            .map(|(ours, peer)| {
                peers.push(peer);
                (ours, [0; 8])
            })
            .collect();
        for _ in 0..4 {
            let received: Vec<_> =
                sockets.drain(..).map(|state| start(lp, state, |(s, b)| s.recv(b))).collect();
            pump_until_quiet(lp, embedder);
            peers.iter_mut().for_each(|peer| peer.write_all(b"hello").unwrap());
            pump(lp, embedder, || received.iter().all(Started::is_done));
            sockets.extend(received.into_iter().map(|received| received.take().0));
        }
    });
}

/// Runs the loop for as long as its descriptor shows something.
fn pump_until_quiet(lp: &mut Loop, embedder: &mut dyn Embedder) {
    while lp.next_timeout().is_some_and(|timeout| timeout.is_zero()) || embedder.wait(Duration::ZERO) {
        lp.run(RunMode::NoWait).unwrap();
    }
}

fn more_connections_than_a_step_takes_show(v: Variant) {
    let Some(_crowd) = crowd() else { return };
    each_with(
        v,
        |v| v.builder().entries(2).build().unwrap(),
        |lp, embedder| {
            let (listener, address) = listener();
            let accepts = start_multi(lp, listener, usize::MAX, |l| l.accept_multi());
            lp.flush().unwrap();
            let _clients: Vec<_> = (0..100).map(|_| connect(address)).collect();
            pump(lp, embedder, || accepts.items.len() == 100);
        },
    );
}

fn timers_and_deadlines_are_told(v: Variant) {
    each(v, |lp, embedder| {
        let (ours, _peer) = pair();
        let mut state = (ours, [0; 8]);
        for round in 0..20 {
            let begin = crate::support::now();
            let timer = start(lp, (), |()| Timer::after(MS));
            let receive = start(lp, state, |(s, b)| s.recv(b).timeout(2 * MS));
            pump(lp, embedder, || timer.is_done() && receive.is_done());
            assert!(crate::support::since(begin) >= 2 * MS, "round {round}");
            let (back, result) = receive.take();
            assert!(oxev::is_deadline(&result.unwrap_err()));
            state = back;
        }
    });
}

// ---- buffers

fn receives_that_wait_for_a_buffer_go_on(v: Variant) {
    each(v, |lp, embedder| {
        let pool = lp.buf_pool(1, 4).unwrap();
        let mut peers = Vec::new();
        let mut streams: Vec<_> = (0..20)
            .map(|_| pair())
            .map(|(ours, peer)| {
                peers.push(peer);
                (ours, pool.clone())
            })
            .collect();
        for _ in 0..10 {
            peers.iter_mut().for_each(|peer| peer.write_all(b"four").unwrap());
            // A state is freed with its callback, and the lease that it had.
            let receives: Vec<_> = streams
                .drain(..)
                .map(|state| {
                    let end = Rc::new(RefCell::new(None));
                    let kept = (Some(state), Rc::clone(&end));
                    lp.submit(
                        Box::new(Completion::new(kept)),
                        |(state, _)| {
                            let (s, pool) = state.as_ref().unwrap();
                            s.recv_pooled(pool)
                        },
                        |_, mut kept, lease| {
                            assert_eq!(lease.unwrap()[..], *b"four");
                            let state = kept.0.take();
                            *kept.1.borrow_mut() = state;
                        },
                    );
                    end
                })
                .collect();
            pump(lp, embedder, || receives.iter().all(|end| end.borrow().is_some()));
            streams.extend(receives.into_iter().map(|end| end.take().unwrap()));
        }
    });
}

fn a_stream_that_waits_for_a_buffer_goes_on(v: Variant) {
    each(v, |lp, embedder| {
        let pool = lp.buf_pool(1, 4).unwrap();
        let (ours, mut peer) = pair();
        let total = Rc::new(Cell::new(0));
        lp.submit_multi(
            Box::new(Completion::new(Multi::new((ours, pool), Rc::clone(&total)))),
            |(s, pool): &mut (TcpStream, BufPool)| s.recv_multi(pool),
            |_, total, lease: Lease| {
                total.set(total.get() + lease.len());
                Action::Rearm
            },
            |_, _, _| (),
        );
        for round in 1..=20 {
            peer.write_all(&[7; 100]).unwrap();
            pump(lp, embedder, || total.get() == round * 100);
        }
    });
}

fn a_buffer_that_comes_back_outside_a_callback_shows(v: Variant) {
    each(v, |lp, embedder| {
        let pool = lp.buf_pool(1, 4).unwrap();
        let (ours, mut peer) = pair();
        let mut stream = (ours, pool);
        let mut held = None;
        for _ in 0..ROUNDS / 2 {
            let waiting = start(lp, stream, |(s, pool)| s.recv_pooled(pool));
            peer.write_all(b"four").unwrap();
            if held.is_some() {
                pump_until_quiet(lp, embedder);
                assert!(!waiting.is_done());
                // Nothing is asked of the loop from here on.
                held = None;
                assert!(embedder.wait(PATIENCE), "a buffer is back");
            }
            pump(lp, embedder, || waiting.is_done());
            let (back, lease) = waiting.take();
            drop(held.replace(lease.unwrap()));
            stream = back;
        }
    });
}

fn a_buffer_shows_for_which_a_stream_waits_that_the_backend_does_not_know(v: Variant) {
    each(v, |lp, embedder| {
        let pool = lp.buf_pool(1, 4).unwrap();
        let (ours, mut peer) = pair();
        peer.write_all(b"four").unwrap();
        let held = crate::support::complete(lp, (ours, pool.clone()), |(s, pool)| s.recv_pooled(pool)).1;
        pump_until_quiet(lp, embedder);
        let (ours, mut peer) = pair();
        peer.write_all(b"four").unwrap();
        let waiting = start(lp, (ours, pool), |(s, pool)| s.recv_pooled(pool));
        pump_until_quiet(lp, embedder);
        drop(held);
        assert!(embedder.wait(PATIENCE), "a buffer is back");
        pump(lp, embedder, || waiting.is_done());
    });
}

fn a_stream_that_is_dropped_in_a_callback_is_closed(v: Variant) {
    each(v, |lp, embedder| {
        for _ in 0..ROUNDS / 10 {
            let (ours, mut peer) = pair();
            let receive = Box::new(Completion::new((ours, [0; 8])));
            lp.submit(receive, |(s, b)| s.recv(b), |_, stream, _| drop(stream));
            pump_until_quiet(lp, embedder);
            peer.write_all(b"hello").unwrap();
            while !lp.is_empty() {
                wait(lp, embedder);
                lp.run(RunMode::NoWait).unwrap();
            }
            // The end of the stream.
            assert_eq!(io::Read::read(&mut peer, &mut [0; 8]).unwrap(), 0);
        }
    });
}

// ---- what is left

/// Submits itself again this many times.
fn start_chain(lp: &mut Loop, len: usize, link: fn(&mut Loop, usize)) -> Counter {
    struct Chain {
        left: usize,
        count: Counter,
        link: fn(&mut Loop, usize),
    }
    fn on_link(lp: &mut Loop, mut chain: Box<Completion<Chain>>, done: io::Result<()>) {
        done.unwrap();
        chain.count.add();
        chain.left -= 1;
        let (left, link) = (chain.left, chain.link);
        if left > 0 {
            lp.submit(chain, |_| nop(), on_link);
        }
        link(lp, left);
    }
    let count = Counter::new();
    let chain = Chain { left: len, count: count.clone(), link };
    lp.submit(Box::new(Completion::new(chain)), |_| nop(), on_link);
    count
}

fn each_operation_of_a_chain_shows(v: Variant) {
    each(v, |lp, embedder| {
        let count = start_chain(lp, ROUNDS, |_, _| ());
        pump(lp, embedder, || count.get() == ROUNDS);
    });
}

fn what_a_stop_or_a_panic_leaves_shows(v: Variant) {
    each(v, |lp, embedder| {
        let chains: Vec<_> = (0..3)
            .map(|_| {
                start_chain(lp, ROUNDS, |lp, left| match left % 4 {
                    0 => lp.stop(),
                    1 => std::panic::resume_unwind(Box::new("as told")),
                    _ => {}
                })
            })
            .collect();
        let (poster, arrived) = poster(lp);
        for round in 1..=ROUNDS {
            poster.go();
            while arrived.load(Ordering::Relaxed) < round {
                wait(lp, embedder);
                let _ = catch_unwind(AssertUnwindSafe(|| lp.run(RunMode::NoWait).unwrap()));
            }
        }
        while chains.iter().any(|chain| chain.get() < ROUNDS) {
            wait(lp, embedder);
            let _ = catch_unwind(AssertUnwindSafe(|| lp.run(RunMode::NoWait).unwrap()));
        }
    });
}

fn the_descriptor_shows_posts_after_any_kind_of_run(v: Variant) {
    each(v, |lp, embedder| {
        let (poster, arrived) = poster(lp);
        for round in 1..=ROUNDS {
            start(lp, (), |()| nop());
            match round % 3 {
                0 => lp.run(RunMode::Once).unwrap(),
                1 => lp.run(RunMode::UntilDone).unwrap(),
                _ => lp.run_for(HOUR).unwrap(),
            }
            poster.go();
            pump(lp, embedder, || arrived.load(Ordering::Relaxed) == round);
        }
    });
}

/// What made the descriptor readable has been reported once: it is not lost if the loop is then run in a way
/// that does not look at it.
fn what_other_kinds_of_runs_have_not_looked_at_shows(v: Variant) {
    each(v, |lp, embedder| {
        let (ours, mut peer) = pair();
        let mut state = (ours, [0; 8]);
        for round in 0..ROUNDS {
            let received = start(lp, state, |(s, b)| s.recv(b).background());
            pump_until_quiet(lp, embedder);
            peer.write_all(b"hello").unwrap();
            assert!(wait(lp, embedder));
            match round % 4 {
                // It does not step: there is nothing to be done.
                0 => lp.run(RunMode::UntilDone).unwrap(),
                3 => {
                    // Neither does it here.
                    lp.stop();
                    lp.run(RunMode::NoWait).unwrap();
                }
                1 => {
                    // It has something to do without the backend.
                    start(lp, (), |()| nop());
                    lp.run(RunMode::Once).unwrap();
                }
                _ => {
                    start_chain(lp, 2, |lp, _| lp.stop());
                    lp.run(RunMode::UntilDone).unwrap();
                }
            }
            pump(lp, embedder, || received.is_done());
            state = received.take().0;
        }
    });
}

fn files_show(v: Variant) {
    each(v, |lp, embedder| {
        let named = Named::new(b"");
        let mut state = (named.open(), *b"hello");
        for round in 0..ROUNDS / 4 {
            let written = start(lp, state, |(file, bytes)| file.write_at(bytes, round as u64 * 5));
            pump(lp, embedder, || written.is_done());
            let (back, result) = written.take();
            assert_eq!(result.unwrap(), 5);
            let synced = start(lp, back, |(file, _)| file.sync_data());
            pump(lp, embedder, || synced.is_done());
            state = synced.take().0;
        }
    });
}

/// The kernel signals no eventfd while it signals another one.
fn what_an_eventfd_of_the_program_brings_shows(v: Variant) {
    each(v, |lp, embedder| {
        let event = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).unwrap());
        let writer = {
            let event = Arc::clone(&event);
            Elsewhere::new(move || assert_eq!(event.write(1).unwrap(), 8))
        };
        for _ in 0..ROUNDS / 4 {
            let readable = start_poll(lp, event.as_fd().as_raw_fd());
            pump_until_quiet(lp, embedder);
            writer.go();
            pump(lp, embedder, || readable.is_done());
            event.read().unwrap();
        }
    });
}

/// As above, and the descriptor cannot be polled beside the loop.
fn what_is_read_from_an_eventfd_shows(v: Variant) {
    each(v, |lp, embedder| {
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).unwrap();
        let writer = {
            let mut event = std::fs::File::from(event.as_fd().try_clone_to_owned().unwrap());
            Elsewhere::new(move || event.write_all(&1_u64.to_ne_bytes()).unwrap())
        };
        let mut state = (File::from_std(OwnedFd::from(event).into()), [0; 8]);
        // Each may take the kernel some milliseconds.
        for _ in 0..ROUNDS / 20 {
            let count = start(lp, state, |(file, count)| file.read(count));
            pump_until_quiet(lp, embedder);
            writer.go();
            pump(lp, embedder, || count.is_done());
            let (back, result) = count.take();
            assert_eq!((result.unwrap(), u64::from_ne_bytes(back.1)), (8, 1));
            state = back;
        }
    });
}

fn a_loop_in_a_loop_in_a_loop_shows(v: Variant) {
    each(v, |lp, embedder| {
        let mut inner = v.new_loop();
        let (poster, arrived) = poster(&inner);
        for round in 1..=ROUNDS / 4 {
            let readable = start_poll(lp, inner.as_raw_fd());
            pump_until_quiet(lp, embedder);
            poster.go();
            pump(lp, embedder, || readable.is_done());
            while arrived.load(Ordering::Relaxed) < round {
                inner.run(RunMode::NoWait).unwrap();
            }
        }
    });
}

// ---- outside of callbacks

fn what_is_submitted_or_cancelled_outside_a_callback_is_begun_before_the_wait(v: Variant) {
    each(v, |lp, embedder| {
        for _ in 0..ROUNDS {
            let (ours, _peer) = pair();
            let receive = start(lp, (ours, [0; 8]), |(s, b)| s.recv(b));
            pump_until_quiet(lp, embedder);
            assert!(lp.cancel(receive.id));
            pump(lp, embedder, || receive.is_done());
            assert!(receive.result().is_err_and(|error| oxev::is_canceled(&error)));
        }
    });
}

fn a_flush_tells_of_a_timer_that_is_sooner(v: Variant) {
    each(v, |lp, embedder| {
        let later = start(lp, (), |()| Timer::after(HOUR));
        pump_until_quiet(lp, embedder);
        assert!(lp.next_timeout().unwrap() > HOUR / 2);
        lp.flush().unwrap();
        assert!(!embedder.wait(Duration::ZERO), "nothing is new");
        // The program waits for an hour from here on, but for this.
        let sooner = start(lp, (), |()| Timer::after(HOUR / 2));
        lp.flush().unwrap();
        assert!(embedder.wait(PATIENCE));
        assert!(lp.reset(later.id, MS));
        lp.cancel(sooner.id);
        lp.flush().unwrap();
        assert!(embedder.wait(PATIENCE));
        pump(lp, embedder, || later.is_done() && sooner.is_done());
    });
}

fn the_descriptor_can_be_had_inside_a_callback(v: Variant) {
    let mut lp = v.new_loop();
    let fd = Rc::new(Cell::new(-1));
    let message = Box::new(Completion::new(Rc::clone(&fd)));
    lp.submit(message, |_| nop(), |lp, fd, _| fd.set(lp.as_raw_fd()));
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(fd.get(), lp.as_fd().as_raw_fd());
    let (poster, arrived) = poster(&lp);
    for round in 1..=10 {
        poster.go();
        assert!(is_readable(fd.get(), PATIENCE));
        while arrived.load(Ordering::Relaxed) < round {
            lp.run(RunMode::NoWait).unwrap();
        }
    }
}

fn the_descriptor_is_quiet_when_nothing_happens(v: Variant) {
    each(v, |lp, embedder| {
        let _timer = start(lp, (), |()| Timer::after(HOUR));
        let (ours, mut peer) = pair();
        let mut state = (ours, [0; 8]);
        for _ in 0..10 {
            let received = start(lp, state, |(s, b)| s.recv(b));
            peer.write_all(b"hello").unwrap();
            lp.handle().wake();
            pump(lp, embedder, || received.is_done());
            state = received.take().0;
            let mut turns = 0;
            while embedder.wait(Duration::ZERO) {
                lp.run(RunMode::NoWait).unwrap();
                turns += 1;
                assert!(turns < 10, "it spins");
            }
            lp.flush().unwrap();
            assert!(!embedder.wait(Duration::ZERO));
            assert!(lp.next_timeout().is_some_and(|timeout| timeout > HOUR / 2));
        }
    });
}
