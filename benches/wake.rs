//! What it costs to reach a loop from another thread.
//!
//! * `notify`: a producer on core 1 calls [`Notifier::notify`] as fast as it can, while a loop on core 0 runs
//!   its callbacks. Against an eventfd that is written each time, which is what a waker without a flag does.
//!   Goal: 12 ns. Thousands of notifications a callback mean that the loop did not get its core, and that the
//!   figure flatters.
//! * `round trip`: two loops in two threads on **one** core wake each other in turns, against two threads
//!   that block in `read(2)` of an eventfd each. Goal: 2.1 µs. (On two cores it is the machine's idle wake-up
//!   that is measured, whatever the primitive.)
//! * `message`: values posted by a thread on core 1 to a loop on core 0, end to end, against the channel of
//!   the standard library. The messages are made beforehand and used again; a message through the channel is
//!   one word and nothing else.
//!
//! Figures are nanoseconds, medians of rounds in turns: for `notify` the producer's CPU time, for the round
//! trip that of both threads together, for a message the time on the clock, in which other load on the
//! machine shows.

mod support;

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use nix::sys::eventfd::{EfdFlags, EventFd};
use oxev::{Action, Completion, Loop, LoopHandle, Multi, Notifier, RunMode};
use support::{alternate, pin_to, scaled, thread_ns_per, verdict};

fn eventfd(flags: EfdFlags) -> EventFd {
    EventFd::from_value_and_flags(0, flags).expect("an eventfd")
}

// ---- notify

/// A loop on core 0 that waits on `notifier` again and again, until it is stopped.
fn run_waiting_loop(notifier: Notifier, started: &mpsc::Sender<LoopHandle>) -> u64 {
    pin_to(0);
    let mut lp = Loop::new().expect("a loop");
    thread_local!(static CALLBACKS: RefCell<u64> = const { RefCell::new(0) });
    lp.submit_multi(
        Box::new(Completion::new(Multi::new(notifier, ()))),
        |notifier| notifier.wait_multi(),
        |_, _, ()| {
            CALLBACKS.with_borrow_mut(|callbacks| *callbacks += 1);
            Action::Rearm
        },
        |_, _, _| (),
    );
    started.send(lp.handle()).expect("the producer waits for it");
    lp.run(RunMode::UntilDone).expect("the loop runs");
    CALLBACKS.take()
}

/// Nanoseconds for each notification; and notifications for each callback.
fn notify_oxev(count: usize) -> (f64, f64) {
    let notifier = Notifier::new();
    let waited_on = notifier.clone();
    let (started, start) = mpsc::channel();
    let consumer = thread::spawn(move || run_waiting_loop(waited_on, &started));
    let handle = start.recv().expect("the loop starts");
    let ns = thread_ns_per(count, || (0..count).for_each(|_| notifier.notify()));
    handle.stop();
    let callbacks = consumer.join().expect("the loop's thread ends");
    (ns, count as f64 / callbacks as f64)
}

fn notify_eventfd(count: usize) -> f64 {
    let wake_up = Arc::new(eventfd(EfdFlags::empty()));
    let stop = Arc::new(AtomicBool::new(false));
    let (read_from, stopped) = (Arc::clone(&wake_up), Arc::clone(&stop));
    let consumer = thread::spawn(move || {
        pin_to(0);
        while !stopped.load(Ordering::Relaxed) {
            read_from.read().expect("an eventfd is read");
        }
    });
    let write = || _ = wake_up.write(1).expect("an eventfd is written");
    let ns = thread_ns_per(count, || (0..count).for_each(|_| write()));
    stop.store(true, Ordering::Relaxed);
    write();
    consumer.join().expect("the reader ends");
    ns
}

fn bench_notify(rounds: usize) {
    let (count, count_eventfd) = scaled((20_000_000, 300_000), (1000, 1000));
    let mut coalesced = Vec::new();
    let [eventfd, oxev] = alternate(
        rounds,
        [&mut || notify_eventfd(count_eventfd), &mut || {
            let (ns, each) = notify_oxev(count);
            coalesced.push(each);
            ns
        }],
    );
    let (figure, goal) = (oxev.median(), 12.0);
    print!("notify      eventfd {:>8.1}   oxev {figure:>8.1}", eventfd.median());
    println!(
        "   goal <= {goal} {} ({:.0} a callback)",
        verdict(figure, goal),
        support::Samples(coalesced).median()
    );
}

// ---- round trip

/// One side of the ping-pong: wakes `peer` each time that it is woken, `left` times.
struct Side {
    mine: Notifier,
    peer: Notifier,
    left: usize,
}

fn on_woken(lp: &mut Loop, mut side: Box<Completion<Side>>, woken: io::Result<()>) {
    woken.expect("no code cancels it");
    side.left -= 1;
    side.peer.notify();
    if side.left > 0 {
        lp.submit(side, |side| side.mine.wait(), on_woken);
    }
}

fn run_side(side: Side) {
    let mut lp = Loop::new().expect("a loop");
    lp.submit(Box::new(Completion::new(side)), |side| side.mine.wait(), on_woken);
    lp.run(RunMode::UntilDone).expect("the loop runs");
}

/// Runs both sides: the CPU time of both together for each round trip.
fn round_trip_ns(count: usize, sides: [Box<dyn FnOnce() + Send>; 2]) -> f64 {
    let threads = sides.map(|side| {
        thread::spawn(move || {
            pin_to(0);
            thread_ns_per(count, side)
        })
    });
    threads.into_iter().map(|thread| thread.join().expect("a side ends")).sum()
}

fn round_trip_oxev(count: usize) -> f64 {
    let (ping, pong) = (Notifier::new(), Notifier::new());
    let one = Side { mine: ping.clone(), peer: pong.clone(), left: count };
    let two = Side { mine: pong, peer: ping.clone(), left: count };
    ping.notify();
    round_trip_ns(count, [Box::new(|| run_side(one)), Box::new(|| run_side(two))])
}

fn round_trip_eventfd(count: usize) -> f64 {
    let ends = Arc::new([eventfd(EfdFlags::empty()), eventfd(EfdFlags::empty())]);
    ends[0].write(1).expect("an eventfd is written");
    let side = |mine: usize| {
        let ends = Arc::clone(&ends);
        Box::new(move || {
            for _ in 0..count {
                ends[mine].read().expect("an eventfd is read");
                ends[1 - mine].write(1).expect("an eventfd is written");
            }
        })
    };
    round_trip_ns(count, [side(0), side(1)])
}

fn bench_round_trip(rounds: usize) {
    let count = scaled(50_000, 100);
    let [eventfd, oxev] =
        alternate(rounds, [&mut || round_trip_eventfd(count), &mut || round_trip_oxev(count)]);
    let (figure, goal) = (oxev.median(), 2100.0);
    print!("round trip  eventfd {:>8.0}   oxev {figure:>8.0}", eventfd.median());
    println!(
        "   goal <= {goal} {} (x{:.2})",
        verdict(figure, goal),
        oxev.paired(&eventfd, |oxev, eventfd| oxev / eventfd)
    );
}

// ---- messages

type Message = Box<Completion<u64>>;

thread_local! {
    /// The messages that have arrived at the loop of this thread.
    static ARRIVED: RefCell<Vec<Message>> = const { RefCell::new(Vec::new()) };
}

fn on_message(lp: &mut Loop, message: Message) {
    ARRIVED.with_borrow_mut(|arrived| {
        arrived.push(message);
        if arrived.len() == arrived.capacity() {
            lp.stop();
        }
    });
}

/// Posts all messages, which come back in `messages`; nanoseconds for each.
fn messages_oxev(messages: &mut Vec<Message>) -> f64 {
    let count = messages.len();
    let outgoing = std::mem::take(messages);
    let (started, start) = mpsc::channel::<LoopHandle>();
    let producer = thread::spawn(move || {
        pin_to(1);
        let handle = start.recv().expect("the loop starts");
        for message in outgoing {
            assert!(handle.post(message, on_message).is_ok());
        }
    });
    pin_to(0);
    let mut lp = Loop::new().expect("a loop");
    ARRIVED.set(Vec::with_capacity(count));
    let keep_running = Notifier::new();
    lp.submit(Box::new(Completion::new(keep_running)), |notifier| notifier.wait(), |_, _, _| ());
    let begin = Instant::now();
    started.send(lp.handle()).expect("the producer waits for it");
    lp.run(RunMode::UntilDone).expect("the loop runs");
    let ns = begin.elapsed().as_nanos() as f64 / count as f64;
    producer.join().expect("the producer ends");
    *messages = ARRIVED.take();
    assert_eq!(messages.len(), count);
    ns
}

fn messages_mpsc(count: usize) -> f64 {
    let (sender, receiver) = mpsc::channel::<u64>();
    let (started, start) = mpsc::channel::<()>();
    let producer = thread::spawn(move || {
        pin_to(1);
        start.recv().expect("the receiver starts");
        (0..count as u64).for_each(|message| sender.send(message).expect("it is received"));
    });
    pin_to(0);
    let begin = Instant::now();
    started.send(()).expect("the producer waits for it");
    let received = receiver.iter().count();
    assert_eq!(received, count);
    let ns = begin.elapsed().as_nanos() as f64 / count as f64;
    producer.join().expect("the producer ends");
    ns
}

fn bench_messages(rounds: usize) {
    let count = scaled(1_000_000, 1000);
    let mut messages: Vec<Message> = (0..count as u64).map(|n| Box::new(Completion::new(n))).collect();
    let [mpsc, oxev] =
        alternate(rounds, [&mut || messages_mpsc(count), &mut || messages_oxev(&mut messages)]);
    print!("message     mpsc    {:>8.1}   oxev {:>8.1}", mpsc.median(), oxev.median());
    println!("   (x{:.2})", oxev.paired(&mpsc, |oxev, mpsc| oxev / mpsc));
}

fn main() {
    let rounds = scaled(9, 1);
    println!("Waking a loop from another thread: ns, {rounds} rounds");
    pin_to(1);
    bench_notify(rounds);
    bench_round_trip(rounds);
    bench_messages(scaled(5, 1));
}
