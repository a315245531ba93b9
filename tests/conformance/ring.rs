//! Tight queues and interruptions: more submissions than the kernel takes at once, more completions than it
//! keeps, signals, many loops.

use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::pthread::pthread_self;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use oxev::{Completion, Loop, Notifier, RunMode, TcpStream, Timer, nop};

use crate::support::crowds::crowd;
use crate::support::sockets::{connect, listener, pair};
use crate::support::{
    Counter, HOUR, Log, MS, complete, is_canceled, now, run_until, since, start, start_multi,
};
use crate::variants::Variant;

conformance! {
    more_submissions_than_the_queue_holds,
    submissions_beyond_the_queue_keep_their_order,
    more_completions_than_the_queue_holds,
    more_items_than_a_step_takes,
    a_cancel_storm_on_a_tiny_ring,
    a_timeout_storm_on_a_tiny_ring,
    cancel_of_what_is_still_queued,
    notifications_reach_a_loop_whose_queues_are_full,
    the_smallest_ring_and_table,
    a_ring_of_odd_size,
    #[needs_kernel = "signals"]
    signals_do_not_end_or_lose_anything,
    #[needs_kernel = "signals"]
    signals_do_not_make_timers_early,
    many_loops_in_one_thread,
    many_loops_in_many_threads,
    a_thread_that_ends_with_a_loop_drops_it,
    loops_come_and_go,
}

fn tiny(v: Variant) -> Box<Loop> {
    v.builder().entries(4).capacity(4096).build().unwrap()
}

fn more_submissions_than_the_queue_holds(v: Variant) {
    let (mut lp, count) = (tiny(v), Counter::new());
    for _ in 0..3 {
        for _ in 0..1000 {
            lp.submit(
                Box::new(Completion::new(count.clone())),
                |_| nop(),
                |_, count, done| {
                    done.unwrap();
                    count.add();
                },
            );
        }
        lp.run(RunMode::UntilDone).unwrap();
    }
    assert_eq!(count.get(), 3000);
}

fn submissions_beyond_the_queue_keep_their_order(v: Variant) {
    let mut lp = tiny(v);
    let (ours, mut peer) = pair();
    let ours = Rc::new(ours);
    let sends: Vec<_> =
        (0..200_u8).map(|byte| start(&mut lp, (Rc::clone(&ours), [byte]), |(s, b)| s.send(b))).collect();
    lp.run(RunMode::UntilDone).unwrap();
    assert!(sends.into_iter().all(|send| send.result().unwrap() == 1));
    let mut got = [0; 200];
    std::io::Read::read_exact(&mut peer, &mut got).unwrap();
    assert!(got.iter().copied().eq(0..200));
}

fn more_completions_than_the_queue_holds(v: Variant) {
    let Some(_crowd) = crowd() else { return };
    let mut lp = tiny(v);
    let streams: Vec<_> = (0..100).map(|_| pair()).collect();
    let (mut receives, mut peers) = (Vec::new(), Vec::new());
    for (ours, peer) in streams {
        receives.push(start(&mut lp, (ours, [0; 1]), |(s, b)| s.recv(b)));
        peers.push(peer);
    }
    for _ in 0..50 {
        lp.run(RunMode::NoWait).unwrap();
    }
    // All of them complete while the loop does not collect.
    peers.iter_mut().for_each(|peer| peer.write_all(b"x").unwrap());
    lp.run(RunMode::UntilDone).unwrap();
    assert!(receives.into_iter().all(|receive| receive.result().unwrap() == 1));
}

fn more_items_than_a_step_takes(v: Variant) {
    let mut lp = v.builder().entries(1).build().unwrap();
    let (notifiers, ticks): (Vec<_>, Vec<_>) = (0..100)
        .map(|_| {
            let notifier = Notifier::new();
            notifier.notify();
            let waits = start_multi(&mut lp, notifier, 1, |n| n.wait_multi());
            (waits, start_multi(&mut lp, (), 3, |()| Timer::every(MS)))
        })
        .unzip();
    lp.run(RunMode::UntilDone).unwrap();
    for waits in notifiers {
        waits.end().unwrap();
    }
    for ticks in ticks {
        ticks.end().unwrap();
        assert_eq!(ticks.items.len(), 3);
    }
}

fn a_cancel_storm_on_a_tiny_ring(v: Variant) {
    let mut lp = tiny(v);
    let (ours, _peer) = pair();
    let ours = Rc::new(ours);
    for steps in 0..3 {
        let receives: Vec<_> =
            (0..500).map(|_| start(&mut lp, (Rc::clone(&ours), [0; 1]), |(s, b)| s.recv(b))).collect();
        (0..steps).for_each(|_| lp.run(RunMode::NoWait).unwrap());
        assert!(receives.iter().rev().all(|receive| lp.cancel(receive.id)));
        lp.run(RunMode::UntilDone).unwrap();
        assert!(receives.into_iter().all(|receive| is_canceled(&receive.result())));
    }
}

fn a_timeout_storm_on_a_tiny_ring(v: Variant) {
    let mut lp = tiny(v);
    let (ours, _peer) = pair();
    let ours = Rc::new(ours);
    for limit in [Duration::ZERO, MS] {
        let receives: Vec<_> = (0..500)
            .map(|_| start(&mut lp, (Rc::clone(&ours), [0; 1]), |(s, b)| s.recv(b).timeout(limit)))
            .collect();
        lp.run(RunMode::UntilDone).unwrap();
        for receive in receives {
            assert_eq!(receive.result().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        }
    }
}

fn cancel_of_what_is_still_queued(v: Variant) {
    let mut lp = tiny(v);
    let (ours, mut peer) = pair();
    let ours = Rc::new(ours);
    peer.write_all(&[7; 1000]).unwrap();
    let receives: Vec<_> =
        (0..50).map(|_| start(&mut lp, (Rc::clone(&ours), [0; 1]), |(s, b)| s.recv(b))).collect();
    // A backend that tries at once is done before it is cancelled.
    let canceled: Vec<_> =
        receives.iter().enumerate().map(|(i, receive)| i % 2 == 1 && lp.cancel(receive.id)).collect();
    lp.run(RunMode::UntilDone).unwrap();
    for (receive, canceled) in receives.into_iter().zip(canceled) {
        let ((_, buffer), result) = receive.take();
        match result {
            Ok(n) => assert_eq!((n, buffer), (1, [7])),
            Err(error) => assert!(canceled && oxev::is_canceled(&error)),
        }
    }
}

fn notifications_reach_a_loop_whose_queues_are_full(v: Variant) {
    let mut lp = v.builder().entries(1).capacity(4096).build().unwrap();
    let (over, notifier) = (Arc::new(AtomicBool::new(false)), Notifier::new());
    let other = thread::spawn({
        let (over, notifier, handle) = (Arc::clone(&over), notifier.clone(), lp.handle());
        move || {
            while !over.load(Ordering::Relaxed) {
                notifier.notify();
                handle.wake();
            }
        }
    });
    let waits = start_multi(&mut lp, notifier.clone(), usize::MAX, |n| n.wait_multi());
    for _ in 0..20 {
        let nops: Vec<_> = (0..300).map(|_| start(&mut lp, (), |()| nop())).collect();
        run_until(&mut lp, || nops.iter().all(|nop| nop.is_done()));
    }
    over.store(true, Ordering::Relaxed);
    other.join().unwrap();
    // And afterwards the loop still wakes from its sleep.
    lp.run_for(2 * MS).unwrap();
    for _ in 0..20 {
        let before = waits.items.len();
        let other = thread::spawn({
            let notifier = notifier.clone();
            move || notifier.notify()
        });
        run_until(&mut lp, || waits.items.len() > before);
        other.join().unwrap();
    }
}

fn the_smallest_ring_and_table(v: Variant) {
    let mut lp = v.builder().entries(1).capacity(1).build().unwrap();
    let (ours, mut peer) = pair();
    let mut state = (ours, [0; 1]);
    for _ in 0..20 {
        let receive = start(&mut lp, state, |(s, b)| s.recv(b).timeout(HOUR));
        lp.run(RunMode::NoWait).unwrap();
        peer.write_all(b"x").unwrap();
        let (back, result) = receive.wait(&mut lp);
        assert_eq!(result.unwrap(), 1);
        let receive = start(&mut lp, back, |(s, b)| s.recv(b));
        assert!(lp.cancel(receive.id));
        state = receive.wait(&mut lp).0;
    }
}

fn a_ring_of_odd_size(v: Variant) {
    for entries in [3, 100, 1000, 1 << 15] {
        let mut lp = v.builder().entries(entries).build().unwrap();
        complete(&mut lp, (), |()| nop()).1.unwrap();
    }
}

/// Interrupts this thread until it is dropped.
struct Interruptions {
    over: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Interruptions {
    #[expect(unsafe_code, reason = "sets a signal handler")]
    fn start() -> Interruptions {
        extern "C" fn nothing(_: libc::c_int) {}
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, so it may run at any time; nothing else here uses the signal.
        unsafe { sigaction(Signal::SIGUSR2, &action) }.unwrap();
        let (over, sent, target) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), pthread_self());
        let (is_over, count) = (Arc::clone(&over), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                nix::sys::pthread::pthread_kill(target, Signal::SIGUSR2).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
            }
        });
        Interruptions { over, sent, thread: Some(thread) }
    }
}

impl Drop for Interruptions {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().map(|thread| thread.join());
    }
}

fn signals_do_not_end_or_lose_anything(v: Variant) {
    let mut lp = v.new_loop();
    let interruptions = Interruptions::start();
    let (listener, address) = listener();
    let accepts = start_multi(&mut lp, listener, 20, |l| l.accept_multi());
    let other = thread::spawn(move || {
        for number in 0..20_u8 {
            connect(address).write_all(&[number]).unwrap();
        }
    });
    accepts.wait(&mut lp).unwrap();
    for stream in accepts.items.take() {
        let state = (stream, [0; 8]);
        let (_, received) = complete(&mut lp, state, |(s, b)| s.recv_exact(b));
        assert_eq!(received.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    }
    let _pending = start(&mut lp, (), |()| Timer::after(HOUR));
    lp.run_for(5 * MS).unwrap();
    while interruptions.sent.load(Ordering::Relaxed) < 100 {
        lp.run_for(MS).unwrap();
    }
    other.join().unwrap();
    // The teardown is interrupted, too.
    let (ours, _peer) = pair();
    start(&mut lp, (ours, [0; 8]), |(s, b)| s.recv(b));
    drop(lp);
}

fn signals_do_not_make_timers_early(v: Variant) {
    let mut lp = v.new_loop();
    let _interruptions = Interruptions::start();
    for _ in 0..10 {
        let begin = now();
        complete(&mut lp, (), |()| Timer::after(2 * MS)).1.unwrap();
        assert!(since(begin) >= 2 * MS);
    }
    // A signal is no event: `Once` waits on.
    let begin = now();
    let timer = start(&mut lp, (), |()| Timer::after(3 * MS));
    lp.run(RunMode::Once).unwrap();
    assert!(timer.is_done() && since(begin) >= 3 * MS);
}

fn many_loops_in_one_thread(v: Variant) {
    let Some(_crowd) = crowd() else { return };
    let mut loops: Vec<_> = (0..32).map(|_| v.builder().capacity(16).entries(4).build().unwrap()).collect();
    let log = Log::new();
    for round in 0..3 {
        for lp in &mut loops {
            complete(lp, (), |()| Timer::after(Duration::from_micros(round))).1.unwrap();
            log.push(());
        }
    }
    // Out of the order in which they were made.
    for index in [31, 0, 15] {
        drop(loops.swap_remove(index.min(loops.len() - 1)));
    }
    for lp in &mut loops {
        complete(lp, (), |()| nop()).1.unwrap();
    }
    assert_eq!(log.len(), 96);
}

fn many_loops_in_many_threads(v: Variant) {
    let Some(_crowd) = crowd() else { return };
    let threads = [(); 8].map(|()| {
        v.spawn(move || {
            let mut lp = v.builder().capacity(64).entries(8).build().unwrap();
            let (listener, address) = listener();
            let accepts = start_multi(&mut lp, listener, 10, |l| l.accept_multi());
            let connects = [(); 10].map(|()| start(&mut lp, (), |()| TcpStream::connect(address)));
            lp.run(RunMode::UntilDone).unwrap();
            accepts.end().unwrap();
            connects.into_iter().for_each(|connect| drop(connect.result().unwrap()));
        })
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn a_thread_that_ends_with_a_loop_drops_it(v: Variant) {
    thread_local! {
        static LOOP: std::cell::RefCell<Option<Box<Loop>>> = const { std::cell::RefCell::new(None) };
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = CountedInThread(Arc::clone(&dropped));
    let thread = v.spawn(move || {
        let mut lp = v.new_loop();
        let (ours, peer) = pair();
        start(&mut lp, (ours, [0; 4], peer, count), |(s, b, ..)| s.recv(b));
        lp.run(RunMode::NoWait).unwrap();
        LOOP.with(|place| *place.borrow_mut() = Some(lp));
    });
    thread.join().unwrap();
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

/// Counts its drop, on whatever thread.
struct CountedInThread(Arc<AtomicUsize>);

impl Drop for CountedInThread {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn loops_come_and_go(v: Variant) {
    for _ in 0..100 {
        let mut lp = v.builder().capacity(8).entries(2).build().unwrap();
        start(&mut lp, (), |()| Timer::after(HOUR));
        start_multi(&mut lp, listener().0, 1, |l| l.accept_multi());
        lp.run(RunMode::NoWait).unwrap();
    }
}
