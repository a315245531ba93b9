//! Nothing is allocated or freed once a loop, its pools and its descriptors are set up: not at the first use
//! of an operation, not by its hundred thousandth, not by a cancel, a passed deadline or a refusal. A
//! counting allocator is the witness, for every operation, on the loop as it is here and on one that is held
//! to Linux 5.15.

#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::CString;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use oxev::raw::{self, RawCompletion};
use oxev::thread_pool::{Task, ThreadPool};
use oxev::{
    Action, BufPool, Completion, File, IoVecs, Lease, Loop, LoopHandle, Metadata, Multi, Notifier, OpKind,
    OpenOptions, Pool, Pooled, RawOp, RunMode, Shared, TcpListener, TcpStream, Timer,
};

// ---- the witness

/// Counts the calls of each thread by itself, so that the test harness does not disturb.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static DEALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does the work; the counters have no destructor and are not allocated.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        DEALLOCATIONS.set(DEALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Runs the rounds, and fails if one of them, the first included, called the allocator.
fn assert_no_allocation(rounds: usize, mut round: impl FnMut(usize)) {
    let before = (ALLOCATIONS.get(), DEALLOCATIONS.get());
    for number in 0..rounds {
        round(number);
        let now = (ALLOCATIONS.get(), DEALLOCATIONS.get());
        if now != before {
            let (allocations, deallocations) = (now.0 - before.0, now.1 - before.1);
            panic!("round {number}: {allocations} allocations, {deallocations} deallocations");
        }
    }
}

#[test]
#[should_panic(expected = "round 2: 1 allocations, 1 deallocations")]
fn the_witness_sees_an_allocation() {
    assert_no_allocation(3, |round| {
        if round == 2 {
            drop(std::hint::black_box(Box::new(round)));
        }
    });
}

/// What one round costs decides how many there are: these are enough to grow anything that grows.
const ROUNDS: usize = 100_000;
const SLOW_ROUNDS: usize = 5_000;
const CONNECTIONS: usize = 1_000;

/// Runs a test on each kind of loop: on the best one all rounds, on each other a share of them.
fn on_each_loop(test: impl Fn(Box<Loop>, usize)) {
    on_each_loop_of(64, 32, test);
}

/// A pool whose one thread is there: starting threads is part of the set-up.
fn started_pool() -> ThreadPool {
    let pool = ThreadPool::builder().max_threads(1).build().unwrap();
    let (started, starts) = mpsc::channel();
    pool.spawn(Box::new(Task::new(started)), |task| task.send(()).unwrap()).unwrap();
    starts.recv().unwrap();
    pool
}

fn on_each_loop_of(capacity: usize, entries: u32, test: impl Fn(Box<Loop>, usize)) {
    let pool = started_pool();
    let kinds = common::backends();
    for &kind in &kinds {
        for baseline in [false, true] {
            let sized = Loop::builder().capacity(capacity).entries(entries).thread_pool(&pool);
            let lp = sized.backend(kind).baseline(baseline).build().unwrap();
            let is_first = kind == kinds[0] && !baseline;
            test(lp, if is_first { 1 } else { 5 });
        }
    }
}

// ---- what the callbacks saw

#[derive(Default)]
struct Tally {
    successes: Cell<usize>,
    errors: Cell<usize>,
    /// Of the last error.
    errno: Cell<i32>,
}

impl Tally {
    fn count<R>(&self, result: &io::Result<R>) {
        match result {
            Ok(_) => self.successes.set(self.successes.get() + 1),
            Err(error) => {
                self.errors.set(self.errors.get() + 1);
                self.errno.set(error.raw_os_error().unwrap_or(0));
            }
        }
    }

    #[track_caller]
    fn assert(&self, successes: usize, errors: usize) {
        let errno = self.errno.get();
        assert_eq!((self.successes.get(), self.errors.get()), (successes, errors), "last error: {errno}");
    }
}

/// State that callbacks can count in.
trait Tallied {
    fn tally(&self) -> &Tally;
}

impl Tallied for Rc<Tally> {
    fn tally(&self) -> &Tally {
        self
    }
}

/// The callback of most tests: counts, and frees the slot.
fn done<S: Tallied, R>(_: &mut Loop, slot: Pooled<S>, result: io::Result<R>) {
    slot.tally().count(&result);
}

fn insert<S>(pool: &Pool<S>, state: S) -> Pooled<S> {
    pool.insert(state).unwrap_or_else(|_| panic!("every slot is in use"))
}

// ---- the loop's own operations

#[test]
fn nops_allocate_nothing() {
    on_each_loop(|mut lp, share| {
        let rounds = ROUNDS / share;
        let (pool, tally) = (Pool::new(1), Rc::new(Tally::default()));
        assert_no_allocation(rounds, |_| {
            lp.submit(insert(&pool, Rc::clone(&tally)), |_| oxev::nop(), done);
            lp.run(RunMode::UntilDone).unwrap();
        });
        tally.assert(rounds, 0);
    });
}

#[test]
fn callbacks_that_capture_cost_one_allocation_each_and_data_of_the_loop_costs_none() {
    on_each_loop(|mut lp, share| {
        lp.set_data(Tally::default());
        lp.run(RunMode::NoWait).unwrap();
        let before = (ALLOCATIONS.get(), DEALLOCATIONS.get());
        let rounds = ROUNDS / share / 10;
        for round in 0..rounds {
            lp.submit_with(
                round,
                |_| oxev::nop(),
                move |lp, state, result| {
                    result.unwrap();
                    let tally = lp.data::<Tally>();
                    tally.successes.set(tally.successes.get() + usize::from(state == round));
                },
            );
            lp.run(RunMode::UntilDone).unwrap();
        }
        let now = (ALLOCATIONS.get() - before.0, DEALLOCATIONS.get() - before.1);
        assert_eq!(now, (rounds as u64, rounds as u64));
        assert_eq!(lp.data::<Tally>().successes.get(), rounds);
    });
}

#[test]
fn timers_allocate_nothing() {
    on_each_loop(|mut lp, share| {
        let rounds = ROUNDS / share;
        let (pool, tally) = (Pool::new(4), Rc::new(Tally::default()));
        let slot = || insert(&pool, Rc::clone(&tally));
        assert_no_allocation(rounds, |_| {
            lp.submit(slot(), |_| Timer::after(Duration::ZERO), done);
            lp.submit(slot(), |_| Timer::at(Instant::now()), done);
            let moved = lp.submit(slot(), |_| Timer::after(Duration::from_secs(3600)), done);
            let cancelled = lp.submit(slot(), |_| Timer::after(Duration::from_secs(7200)), done);
            assert!(lp.reset(moved, Duration::ZERO));
            assert!(lp.cancel(cancelled));
            lp.run(RunMode::UntilDone).unwrap();
        });
        tally.assert(3 * rounds, rounds);
    });
}

#[test]
fn repeating_timers_allocate_nothing() {
    struct Ticks {
        left: usize,
    }
    type Repeat = fn(Duration) -> oxev::MultiOp<'static, u64>;
    on_each_loop(|mut lp, share| {
        let slow_rounds = SLOW_ROUNDS / share;
        let rounds = ROUNDS / share;
        let pool = Pool::new(1);
        for (repeat, left) in [(Timer::every as Repeat, rounds), (Timer::every_after as Repeat, slow_rounds)]
        {
            lp.submit_multi(
                insert(&pool, Multi::new(repeat, Ticks { left })),
                |repeat| repeat(Duration::from_nanos(1)),
                |_, ticks, _| {
                    ticks.left -= 1;
                    if ticks.left > 0 { Action::Rearm } else { Action::Disarm }
                },
                |_, owner, end| {
                    end.unwrap();
                    assert_eq!(owner.state.left, 0);
                },
            );
            assert_no_allocation(1, |_| lp.run(RunMode::UntilDone).unwrap());
            assert!(lp.is_empty());
        }
    });
}

#[test]
fn work_on_a_thread_pool_allocates_nothing() {
    on_each_loop(|mut lp, share| {
        let (workers, slots) = (started_pool(), Pool::new(1));
        assert_no_allocation(SLOW_ROUNDS / share, |_| {
            let slot = insert(&slots, 0);
            lp.offload(
                &workers,
                slot,
                |work| *work += 1,
                |_, slot, done| {
                    done.unwrap();
                    assert_eq!(**slot, 1);
                },
            );
            lp.run(RunMode::UntilDone).unwrap();
        });
    });
}

#[test]
fn notifiers_allocate_nothing() {
    on_each_loop(|mut lp, share| {
        let rounds = ROUNDS / share;
        struct Waiter {
            notifier: Notifier,
            tally: Rc<Tally>,
        }
        impl Tallied for Waiter {
            fn tally(&self) -> &Tally {
                &self.tally
            }
        }
        let (pool, tally, notifier) = (Pool::new(2), Rc::new(Tally::default()), Notifier::new());
        let slot = || insert(&pool, Waiter { notifier: notifier.clone(), tally: Rc::clone(&tally) });
        assert_no_allocation(rounds, |round| {
            if round % 2 == 0 {
                notifier.notify();
            }
            lp.submit(slot(), |w| w.notifier.wait(), done);
            // A second wait is refused, a notification that is there already is one.
            lp.submit(slot(), |w| w.notifier.wait(), done);
            notifier.notify();
            lp.run(RunMode::UntilDone).unwrap();
        });
        tally.assert(rounds, rounds);
    });
}

#[test]
fn repeated_waits_and_wake_ups_allocate_nothing() {
    on_each_loop(|mut lp, share| {
        let rounds = ROUNDS / share;
        let (pool, tally) = (Pool::new(1), Rc::new(Tally::default()));
        let (notifier, handle) = (Notifier::new(), lp.handle());
        let id = lp.submit_multi(
            insert(&pool, Multi::new(notifier.clone(), Rc::clone(&tally))),
            |notifier| notifier.wait_multi(),
            |_, tally, ()| {
                tally.count(&Ok(()));
                Action::Rearm
            },
            |_, owner, end| owner.state.count(&end),
        );
        assert_no_allocation(rounds, |_| {
            notifier.notify();
            lp.run(RunMode::Once).unwrap();
            handle.wake();
            lp.run(RunMode::Once).unwrap();
        });
        assert_no_allocation(1, |_| {
            lp.cancel(id);
            lp.run(RunMode::UntilDone).unwrap();
        });
        tally.assert(rounds, 1);
    });
}

#[test]
fn notifications_of_another_thread_allocate_nothing() {
    on_each_loop(|mut lp, share| {
        let slow_rounds = SLOW_ROUNDS / share;
        let (pool, notifier, seen) = (Pool::new(1), Notifier::new(), Arc::new(AtomicUsize::new(0)));
        // The owner's is not to be the last when it is dropped: that frees the notifier.
        let _kept = notifier.clone();
        let other = std::thread::spawn({
            let (notifier, seen) = (notifier.clone(), Arc::clone(&seen));
            move || {
                for number in 0..slow_rounds {
                    notifier.notify();
                    while seen.load(Ordering::Acquire) <= number {
                        std::thread::yield_now();
                    }
                }
            }
        });
        let id = lp.submit_multi(
            // The owner of the last clone of the notifier frees it: it shall not be the loop.
            insert(&pool, Multi::new(notifier.clone(), Arc::clone(&seen))),
            |notifier| notifier.wait_multi(),
            |_, seen, ()| {
                seen.fetch_add(1, Ordering::Release);
                Action::Rearm
            },
            |_, _, end| assert!(oxev::is_canceled(&end.unwrap_err())),
        );
        assert_no_allocation(slow_rounds, |_| lp.run(RunMode::Once).unwrap());
        assert_no_allocation(1, |_| {
            lp.cancel(id);
            lp.run(RunMode::UntilDone).unwrap();
        });
        other.join().unwrap();
    });
}

#[test]
fn posts_of_a_recycled_owner_allocate_nothing() {
    struct Parcel {
        handle: LoopHandle,
        trips: Arc<AtomicUsize>,
    }
    fn arrived(_: &mut Loop, parcel: Box<Completion<Parcel>>) {
        if parcel.trips.fetch_add(1, Ordering::Relaxed) < ROUNDS {
            let handle = parcel.handle.clone();
            assert!(handle.post(parcel, arrived).is_ok());
        }
    }
    on_each_loop(|mut lp, _| {
        let trips = Arc::new(AtomicUsize::new(0));
        let parcel = Box::new(Completion::new(Parcel { handle: lp.handle(), trips: Arc::clone(&trips) }));
        assert!(lp.handle().post(parcel, arrived).is_ok());
        assert_no_allocation(ROUNDS, |_| lp.run(RunMode::NoWait).unwrap());
        assert_eq!(trips.load(Ordering::Relaxed), ROUNDS);
        // The last trip frees it.
        lp.run(RunMode::NoWait).unwrap();
    });
}

#[test]
fn refusals_allocate_nothing() {
    on_each_loop_of(1, 1, |mut lp, share| {
        let rounds = ROUNDS / share;
        let (pool, tally) = (Pool::new(8), Rc::new(Tally::default()));
        let slot = || insert(&pool, Rc::clone(&tally));
        assert_no_allocation(rounds, |_| {
            lp.submit(slot(), |_| Timer::after(Duration::ZERO), done);
            // The table is full.
            lp.submit(slot(), |_| oxev::nop(), done);
            lp.submit(slot(), |_| Timer::after(Duration::ZERO).timeout(Duration::MAX), done);
            // No such address, and no operation at all.
            lp.submit(
                slot(),
                |_| TcpStream::connect(&[][..] as &[SocketAddr]),
                |_, slot, connected| {
                    slot.count(&connected);
                },
            );
            lp.run(RunMode::UntilDone).unwrap();
        });
        tally.assert(rounds, 3 * rounds);
    });
}

// ---- TCP

struct Conn {
    stream: Shared<TcpStream>,
    buf: [u8; 64],
    vecs: IoVecs<2>,
    bufs: BufPool,
    tally: Rc<Tally>,
}

impl Tallied for Conn {
    fn tally(&self) -> &Tally {
        &self.tally
    }
}

/// Both ends of a connection, and slots for the operations on them.
struct Connection {
    near: Shared<TcpStream>,
    far: Shared<TcpStream>,
    slots: Pool<Conn>,
    bufs: BufPool,
    tally: Rc<Tally>,
}

impl Connection {
    fn new(lp: &mut Loop) -> Connection {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        let streams = Pool::new(2);
        let share = |stream: std::net::TcpStream| {
            stream.set_nodelay(true).unwrap();
            streams.share(TcpStream::from_std(stream).unwrap()).unwrap()
        };
        Connection {
            near: share(near),
            far: share(far),
            slots: Pool::new(4),
            bufs: lp.buf_pool(4, 64).unwrap(),
            tally: Rc::default(),
        }
    }

    fn slot(&self, stream: &Shared<TcpStream>) -> Pooled<Conn> {
        let (bufs, tally) = (self.bufs.clone(), Rc::clone(&self.tally));
        insert(&self.slots, Conn { stream: stream.clone(), buf: [7; 64], vecs: IoVecs::new(), bufs, tally })
    }

    fn near(&self) -> Pooled<Conn> {
        self.slot(&self.near)
    }

    fn far(&self) -> Pooled<Conn> {
        self.slot(&self.far)
    }
}

#[test]
fn receiving_and_sending_allocate_nothing() {
    on_each_loop(|mut lp, share| {
        let rounds = ROUNDS / share;
        let pair = Connection::new(&mut lp);
        assert_no_allocation(rounds, |_| {
            lp.submit(pair.near(), |c| c.stream.recv(&mut c.buf), done);
            lp.submit(pair.far(), |c| c.stream.send(&c.buf), done);
            lp.run(RunMode::UntilDone).unwrap();
        });
        pair.tally.assert(2 * rounds, 0);
    });
}

#[test]
fn exact_and_vectored_transfers_allocate_nothing() {
    on_each_loop(|mut lp, share| {
        let slow_rounds = SLOW_ROUNDS / share;
        let pair = Connection::new(&mut lp);
        assert_no_allocation(slow_rounds, |_| {
            lp.submit(pair.near(), |c| c.stream.recv_exact(&mut c.buf), done);
            lp.submit(pair.far(), |c| c.stream.send_all(&c.buf[..32]), done);
            lp.run(RunMode::Once).unwrap();
            lp.submit(pair.far(), |c| c.stream.send_all(&c.buf[32..]), done);
            lp.run(RunMode::UntilDone).unwrap();

            let receive: fn(&mut Conn) -> oxev::Op<'_, usize> = |c| {
                let (head, body) = c.buf.split_at_mut(16);
                c.stream.recv_exact_vectored(c.vecs.scatter([head, body]))
            };
            lp.submit(pair.near(), receive, done);
            let send: fn(&mut Conn) -> oxev::Op<'_, usize> = |c| {
                let (head, body) = c.buf.split_at(48);
                c.stream.send_all_vectored(c.vecs.gather([head, body]))
            };
            lp.submit(pair.far(), send, done);
            lp.run(RunMode::UntilDone).unwrap();

            lp.submit(pair.near(), |c| c.stream.recv_exact(&mut c.buf), done);
            lp.submit(pair.far(), |c| c.stream.send_all_zero_copy(&c.buf), done);
            lp.run(RunMode::UntilDone).unwrap();
        });
        pair.tally.assert(7 * slow_rounds, 0);
    });
}

#[test]
fn shutdowns_allocate_nothing() {
    on_each_loop(|mut lp, share| {
        let slow_rounds = SLOW_ROUNDS / share;
        let pair = Connection::new(&mut lp);
        assert_no_allocation(slow_rounds, |_| {
            lp.submit(pair.near(), |c| c.stream.shutdown(Shutdown::Read), done);
            lp.run(RunMode::UntilDone).unwrap();
        });
        pair.tally.assert(slow_rounds, 0);
    });
}

#[test]
fn waits_for_poll_events_allocate_nothing() {
    unsafe fn on_events(_: Option<&mut Loop>, completion: *mut RawCompletion) {
        // SAFETY: the completion has come back.
        assert_eq!(unsafe { (*completion).outcome() }.result, i32::from(libc::POLLOUT));
    }
    on_each_loop(|mut lp, share| {
        let pair = Connection::new(&mut lp);
        let mut op = RawOp::new(OpKind::Poll, pair.near.as_raw_fd());
        op.as_poll_mut().events = libc::POLLOUT as u32;
        let mut completion = RawCompletion::new(std::ptr::null_mut());
        let place = &raw mut completion;
        assert_no_allocation(SLOW_ROUNDS / share, |_| {
            // SAFETY: the completion outlives the operation: `run` ends it.
            unsafe { raw::submit(&mut lp, place, op, None, on_events) };
            lp.run(RunMode::UntilDone).unwrap();
        });
    });
}

#[test]
fn pooled_receives_allocate_nothing() {
    on_each_loop(|mut lp, share| {
        let slow_rounds = SLOW_ROUNDS / share;
        let pair = Connection::new(&mut lp);
        assert_no_allocation(slow_rounds, |_| {
            lp.submit(pair.near(), |c| c.stream.recv_pooled(&c.bufs), done);
            lp.submit(pair.far(), |c| c.stream.send_all(&c.buf), done);
            lp.run(RunMode::UntilDone).unwrap();
        });
        pair.tally.assert(2 * slow_rounds, 0);
        assert_eq!(pair.bufs.available(), 4);
    });
}

/// Two buffers, of which the callback keeps one until the next comes: now and then the receive has to wait
/// for one.
#[test]
fn multishot_receives_allocate_nothing_even_if_they_wait_for_buffers() {
    #[derive(Default)]
    struct Received {
        kept: Option<Lease>,
        tally: Rc<Tally>,
    }
    on_each_loop(|mut lp, share| {
        let slow_rounds = SLOW_ROUNDS / share;
        let pair = Connection::new(&mut lp);
        let (bufs, slots) = (lp.buf_pool(2, 16).unwrap(), Pool::new(1));
        let state = Received { kept: None, tally: Rc::clone(&pair.tally) };
        let id = lp.submit_multi(
            insert(&slots, Multi::new((pair.near.clone(), bufs), state)),
            |(stream, bufs)| stream.recv_multi(bufs),
            |_, received, lease| {
                received.tally.count(&Ok(()));
                received.kept = Some(lease);
                Action::Rearm
            },
            |_, owner, end| owner.state.tally.count(&end),
        );
        assert_no_allocation(slow_rounds, |round| {
            lp.submit(
                pair.far(),
                |c| c.stream.send_all(&c.buf),
                |_, slot, sent| {
                    drop(slot);
                    sent.unwrap();
                },
            );
            while pair.tally.successes.get() < 4 * (round + 1) {
                lp.run(RunMode::Once).unwrap();
            }
        });
        assert_no_allocation(1, |_| {
            lp.cancel(id);
            lp.run(RunMode::UntilDone).unwrap();
        });
        pair.tally.assert(4 * slow_rounds, 1);
    });
}

#[test]
fn deadlines_and_cancels_allocate_nothing() {
    on_each_loop(|mut lp, share| {
        let slow_rounds = SLOW_ROUNDS / share;
        let pair = Connection::new(&mut lp);
        assert_no_allocation(slow_rounds, |_| {
            // One that passes, one that does not, and one that is moved until it does.
            lp.submit(pair.near(), |c| c.stream.recv(&mut c.buf).timeout(Duration::ZERO), done);
            lp.run(RunMode::UntilDone).unwrap();
            lp.submit(pair.near(), |c| c.stream.recv(&mut c.buf).timeout(Duration::from_secs(60)), done);
            lp.submit(pair.far(), |c| c.stream.send(&c.buf), done);
            lp.run(RunMode::UntilDone).unwrap();
            let moved = lp.submit(pair.near(), |c| c.stream.recv_pooled(&c.bufs), done);
            assert!(lp.reset(moved, Duration::ZERO));
            lp.run(RunMode::UntilDone).unwrap();
            // Cancelled by itself, before and after the kernel has it, and with all that is on the
            // descriptor.
            let early = lp.submit(pair.near(), |c| c.stream.recv_exact(&mut c.buf), done);
            assert!(lp.cancel(early));
            lp.run(RunMode::UntilDone).unwrap();
            let late = lp.submit(pair.near(), |c| c.stream.recv(&mut c.buf), done);
            lp.run(RunMode::NoWait).unwrap();
            assert!(lp.cancel(late));
            lp.submit(pair.near(), |c| c.stream.recv(&mut c.buf), done);
            assert_eq!(lp.cancel_all(&*pair.near), 1);
            lp.run(RunMode::UntilDone).unwrap();
        });
        pair.tally.assert(2 * slow_rounds, 5 * slow_rounds);
    });
}

struct Listening {
    listener: Shared<TcpListener>,
    address: SocketAddr,
    tally: Rc<Tally>,
}

impl Listening {
    fn new(tally: &Rc<Tally>) -> Listening {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let listener = Pool::new(1).share(listener).unwrap();
        Listening { listener, address, tally: Rc::clone(tally) }
    }

    fn clone(&self) -> Listening {
        let Listening { listener, address, tally } = self;
        Listening { listener: listener.clone(), address: *address, tally: Rc::clone(tally) }
    }
}

/// Closes with a reset, so that the port is free at once.
fn hang_up(tally: &Tally, stream: io::Result<TcpStream>) {
    tally.count(&stream);
    if let Ok(stream) = stream {
        stream.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

#[test]
fn accepting_connecting_and_closing_allocate_nothing() {
    on_each_loop(|mut lp, share| {
        let connections = CONNECTIONS / share;
        struct Closing {
            stream: TcpStream,
            tally: Rc<Tally>,
        }
        let tally = Rc::new(Tally::default());
        let (listening, slots, closing) = (Listening::new(&tally), Pool::new(4), Pool::<Closing>::new(4));
        thread_local!(static CLOSING: Cell<Option<Pool<Closing>>> = const { Cell::new(None) });
        CLOSING.set(Some(closing.clone()));
        let slot = || insert(&slots, listening.clone());
        fn close(lp: &mut Loop, stream: TcpStream, tally: &Rc<Tally>) {
            let pool = CLOSING.take().unwrap();
            stream.set_linger(Some(Duration::ZERO)).unwrap();
            let slot = insert(&pool, Closing { stream, tally: Rc::clone(tally) });
            CLOSING.set(Some(pool));
            lp.submit(slot, |c| c.stream.close(), |_, c, closed| c.tally.count(&closed));
        }
        assert_no_allocation(connections, |_| {
            lp.submit(slot(), |l| l.listener.accept(), |_, l, accepted| hang_up(&l.tally, accepted));
            lp.submit(
                slot(),
                |l| l.listener.accept_with_addr(),
                |lp, l, accepted| close(lp, accepted.unwrap().0, &l.tally),
            );
            for _ in 0..2 {
                lp.submit(
                    slot(),
                    |l| TcpStream::connect(l.address),
                    |lp, l, connected| close(lp, connected.unwrap(), &l.tally),
                );
            }
            lp.run(RunMode::UntilDone).unwrap();
        });
        tally.assert(4 * connections, 0);
        CLOSING.take();
    });
}

#[test]
fn accepting_again_and_again_allocates_nothing() {
    on_each_loop(|mut lp, share| {
        let connections = CONNECTIONS / share;
        let tally = Rc::new(Tally::default());
        let (listening, slots, acceptors) = (Listening::new(&tally), Pool::new(2), Pool::new(1));
        let id = lp.submit_multi(
            insert(&acceptors, Multi::new(listening.listener.clone(), Rc::clone(&tally))),
            |listener| listener.accept_multi(),
            |_, tally, stream| {
                hang_up(tally, Ok(stream));
                Action::Rearm
            },
            |_, owner, end| owner.state.count(&end),
        );
        assert_no_allocation(connections, |round| {
            lp.submit(
                insert(&slots, listening.clone()),
                |l| TcpStream::connect(l.address),
                |_, l, connected| hang_up(&l.tally, connected),
            );
            while tally.successes.get() < 2 * (round + 1) {
                lp.run(RunMode::Once).unwrap();
            }
        });
        assert_no_allocation(1, |_| {
            lp.cancel(id);
            lp.run(RunMode::UntilDone).unwrap();
        });
        tally.assert(2 * connections, 1);
    });
}

#[test]
fn many_that_are_cancelled_while_they_wait_for_room_allocate_nothing() {
    const ACCEPTORS: usize = 60;
    on_each_loop_of(64, 1, |mut lp, share| {
        let (rounds, tally) = (100 / share, Rc::new(Tally::default()));
        let (listening, acceptors) = (Listening::new(&tally), Pool::new(ACCEPTORS));
        assert_no_allocation(rounds, |_| {
            for _ in 0..ACCEPTORS {
                let source = listening.listener.clone();
                let id = lp.submit_multi(
                    insert(&acceptors, Multi::new(source, Rc::clone(&tally))),
                    |listener| listener.accept_multi(),
                    |_, _, _| unreachable!("no client connects"),
                    |_, owner, end| owner.state.count(&end),
                );
                lp.cancel(id);
            }
            lp.run(RunMode::UntilDone).unwrap();
        });
        tally.assert(0, ACCEPTORS * rounds);
    });
}

// ---- files

struct Work {
    path: Rc<CString>,
    file: Option<File>,
    buf: [u8; 64],
    vecs: IoVecs<2>,
    metadata: Metadata,
    /// Where the callbacks put the slot, for the next operation.
    place: Rc<Cell<Option<Pooled<Work>>>>,
    tally: Rc<Tally>,
}

impl Work {
    fn file(&self) -> &File {
        self.file.as_ref().unwrap()
    }
}

/// Counts, and keeps the slot.
fn keep<R>(_: &mut Loop, slot: Pooled<Work>, result: io::Result<R>) {
    slot.tally.count(&result);
    let place = Rc::clone(&slot.place);
    place.set(Some(slot));
}

#[test]
fn files_allocate_nothing() {
    const ROUNDS: usize = 1_000;
    let directory = tempfile::tempdir().unwrap();
    on_each_loop(|mut lp, share| {
        let rounds = ROUNDS / share;
        let path = directory.path().join("file");
        let path = Rc::new(CString::new(path.as_os_str().as_bytes()).unwrap());
        let (slots, place, tally) = (Pool::new(1), Rc::default(), Rc::<Tally>::default());
        let work = || Work {
            path: Rc::clone(&path),
            file: None,
            buf: [7; 64],
            vecs: IoVecs::new(),
            metadata: Metadata::new(),
            place: Rc::clone(&place),
            tally: Rc::clone(&tally),
        };
        assert_no_allocation(rounds, |_| {
            lp.submit(
                insert(&slots, work()),
                |w| File::open(&w.path, &OpenOptions::new().read(true).write(true).create(true)),
                |lp, mut slot, opened| {
                    slot.tally.count(&opened);
                    slot.file = opened.ok();
                    keep(lp, slot, Ok(()));
                },
            );
            lp.run(RunMode::UntilDone).unwrap();
            macro_rules! then {
                ($prepare:expr) => {
                    lp.submit(place.take().unwrap(), $prepare, keep);
                    lp.run(RunMode::UntilDone).unwrap();
                };
            }
            then!(|w| w.file.as_ref().unwrap().write_all(&w.buf));
            then!(|w| w.file.as_ref().unwrap().write_all_at(&w.buf, 64));
            then!(|w| w.file.as_ref().unwrap().read_at(&mut w.buf, 32));
            then!(|w| w.file.as_ref().unwrap().read_exact_at(&mut w.buf, 64));
            then!(|w| {
                let (head, body) = w.buf.split_at(16);
                w.file.as_ref().unwrap().write_all_vectored_at(w.vecs.gather([head, body]), 0)
            });
            then!(|w| {
                let (head, body) = w.buf.split_at_mut(32);
                w.file.as_ref().unwrap().read_vectored_at(w.vecs.scatter([head, body]), 0)
            });
            then!(|w| w.file().sync_data());
            then!(|w| w.file().sync_all());
            then!(|w| w.file.as_ref().unwrap().metadata(&mut w.metadata));
            then!(|w| w.file.as_mut().unwrap().close());
            let work = place.take().unwrap();
            assert!(work.metadata.is_file() && work.metadata.len() == 128);
        });
        tally.assert(12 * rounds, 0);
    });
}
