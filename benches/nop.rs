//! What one operation costs: NOPs through [`Loop::submit`] and a callback that submits its owner again,
//! against the same NOPs on a bare ring (`SINGLE_ISSUER | DEFER_TASKRUN`, which is the limit: it is the
//! kernel's own work and nothing else).
//!
//! `K` is how many are in flight at once, and so how many share a system call. Figures are nanoseconds of CPU
//! time for each operation, medians of rounds in turns. The difference is what the loop adds: the in-flight
//! table, the ready list, the callback. Goal: 15 ns.
//!
//! `nop count oxev|raw K N` runs N operations and measures nothing: for counting instructions
//! (`benches/instructions.sh`).

mod peers;
mod support;

use std::io;

use io_uring::opcode;
use oxev::{Completion, Loop, RunMode};
use peers::uring::RawRing;
use support::{alternate, pin_to, scaled, thread_ns_per, verdict};

const ENTRIES: u32 = 1024;
const GOAL_NS: f64 = 15.0;

/// An owner that goes round until it has been submitted `left` times more.
type Runner = Box<Completion<usize>>;

fn on_nop(lp: &mut Loop, mut runner: Runner, done: io::Result<()>) {
    done.expect("a NOP cannot fail");
    if **runner > 0 {
        **runner -= 1;
        lp.submit(runner, |_| oxev::nop(), on_nop);
    }
}

fn run_oxev(lp: &mut Loop, in_flight: usize, count: usize) {
    for _ in 0..in_flight {
        let runner = Box::new(Completion::new(count / in_flight - 1));
        lp.submit(runner, |_| oxev::nop(), on_nop);
    }
    lp.run(RunMode::UntilDone).expect("the loop runs");
}

#[allow(unsafe_code)]
fn run_raw(ring: &mut RawRing, in_flight: usize, count: usize) {
    // SAFETY: a NOP points to nothing.
    let submit = |ring: &mut RawRing, id| unsafe { ring.push(&opcode::Nop::new().build().user_data(id)) };
    for id in 0..in_flight {
        submit(ring, id as u64);
    }
    let mut left = count - in_flight;
    let mut running = in_flight;
    while running > 0 {
        ring.wait(|ring, completion| {
            if left > 0 {
                left -= 1;
                submit(ring, completion.user_data());
            } else {
                running -= 1;
            }
        });
    }
}

fn build_loop() -> Box<Loop> {
    Loop::builder().capacity(4096).entries(ENTRIES).build().expect("a loop")
}

/// `count oxev|raw K N`
fn count(arguments: &[String]) {
    let number = |index: usize| arguments[index].parse().expect("count oxev|raw K N");
    match arguments[1].as_str() {
        "oxev" => run_oxev(&mut build_loop(), number(2), number(3)),
        _ => run_raw(&mut RawRing::new(ENTRIES), number(2), number(3)),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "count") {
        return count(&arguments);
    }
    pin_to(0);
    let (rounds, operations) = scaled((31, 256 * 1024), (1, 4096));
    println!("NOP: ns per operation, {rounds} rounds of {operations}");
    println!("{:>5} {:>9} {:>9} {:>12}  goal", "K", "raw", "oxev", "difference");
    for in_flight in [1, 8, 64, 512] {
        let (mut lp, mut ring) = (build_loop(), RawRing::new(ENTRIES));
        let [raw, oxev] = alternate(
            rounds,
            [&mut || thread_ns_per(operations, || run_raw(&mut ring, in_flight, operations)), &mut || {
                thread_ns_per(operations, || run_oxev(&mut lp, in_flight, operations))
            }],
        );
        let difference = oxev.paired(&raw, |oxev, raw| oxev - raw);
        println!(
            "{in_flight:>5} {:>9.1} {:>9.1} {difference:>+12.1}  <= {GOAL_NS:+} {}",
            raw.median(),
            oxev.median(),
            verdict(difference, GOAL_NS)
        );
    }
}
