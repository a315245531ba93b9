//! Everything that timers do, one after the other, with the times at which it happens: a delay and a point in
//! time, a repeating timer at a fixed rate and one with a fixed delay (and what a slow callback does to
//! either), a watchdog that is pushed back, a timer that is cancelled, a deadline on an operation, and a
//! background timer that does not keep the loop running.
//!
//! ```text
//! cargo run --example timer -- --period 100
//! ```

#![expect(clippy::boxed_local, reason = "a callback takes its owner as it was submitted")]

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use oxev::{Action, Completion, Loop, Multi, OpId, RunMode, TcpListener, TcpStream, Timer};

/// Shows what timers do.
#[derive(Parser)]
struct Args {
    /// The unit of all the times that follow, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    period: u64,
}

/// What is to be shown: it submits something, and says what it is.
type Demo = fn(&mut Loop, Watch) -> io::Result<&'static str>;

const DEMOS: [Demo; 8] =
    [delay, point_in_time, fixed_rate, fixed_delay, watchdog, cancelled_timer, deadline, background];

fn main() -> io::Result<()> {
    let period = Duration::from_millis(Args::parse().period);
    let mut lp = Loop::new()?;
    for demo in DEMOS {
        let watch = Watch { begun: Instant::now(), period };
        let what = demo(&mut lp, watch)?;
        println!("{what}");
        lp.run(RunMode::UntilDone)?;
        watch.tell("nothing is left to do");
    }
    Ok(())
}

/// Tells events with their times.
#[derive(Clone, Copy)]
struct Watch {
    begun: Instant,
    period: Duration,
}

impl Watch {
    fn tell(&self, event: &str) {
        println!("{:10.3} ms  {event}", self.begun.elapsed().as_secs_f64() * 1e3);
    }
}

// ---- once

fn delay(lp: &mut Loop, watch: Watch) -> io::Result<&'static str> {
    lp.submit(Box::new(Completion::new(watch)), |w| Timer::after(w.period), on_fired);
    Ok("After one period:")
}

fn point_in_time(lp: &mut Loop, watch: Watch) -> io::Result<&'static str> {
    lp.submit(Box::new(Completion::new(watch)), |w| Timer::at(w.begun + 2 * w.period), on_fired);
    Ok("At the time that is two periods from the beginning:")
}

fn on_fired(_: &mut Loop, watch: Box<Completion<Watch>>, fired: io::Result<()>) {
    match fired {
        Ok(()) => watch.tell("fired"),
        Err(error) if oxev::is_canceled(&error) => watch.tell("cancelled"),
        Err(error) => watch.tell(&format!("failed: {error}")),
    }
}

// ---- again and again

/// A repeating timer's state: what [`Loop::submit_multi`] hands to every firing.
struct Ticks {
    watch: Watch,
    count: u32,
}

type Repeating = Box<Completion<Multi<Duration, Ticks>>>;

fn repeating(watch: Watch) -> Repeating {
    Box::new(Completion::new(Multi::new(watch.period, Ticks { watch, count: 0 })))
}

fn fixed_rate(lp: &mut Loop, watch: Watch) -> io::Result<&'static str> {
    lp.submit_multi(repeating(watch), |period| Timer::every(*period), on_tick, on_ticks_end);
    Ok("Every period, at a fixed rate; the second callback takes two and a half periods:")
}

fn fixed_delay(lp: &mut Loop, watch: Watch) -> io::Result<&'static str> {
    lp.submit_multi(repeating(watch), |period| Timer::every_after(*period), on_tick, on_ticks_end);
    Ok("The same with a fixed delay, which counts from the end of the callback:")
}

fn on_tick(_: &mut Loop, ticks: &mut Ticks, periods: u64) -> Action {
    ticks.count += 1;
    ticks.watch.tell(&format!("firing {}, periods since the last one: {periods}", ticks.count));
    if ticks.count == 2 {
        thread::sleep(ticks.watch.period * 5 / 2); // stands for work; a real callback should not block the loop
    }
    if ticks.count < 5 { Action::Rearm } else { Action::Disarm }
}

fn on_ticks_end(_: &mut Loop, ticks: Repeating, end: io::Result<()>) {
    ticks.state.watch.tell(&format!("disarmed: {end:?}"));
}

// ---- moved and cancelled

/// Pushes a watchdog back, by its id.
struct Feeder {
    watch: Watch,
    watchdog: OpId,
    meals: u32,
}

fn watchdog(lp: &mut Loop, watch: Watch) -> io::Result<&'static str> {
    let watchdog = lp.submit(Box::new(Completion::new(watch)), |w| Timer::after(w.period * 2), on_fired);
    let feeder = Feeder { watch, watchdog, meals: 3 };
    lp.submit(Box::new(Completion::new(feeder)), |f| Timer::after(f.watch.period), on_feed);
    Ok("A watchdog of two periods that is reset after each of three:")
}

fn on_feed(lp: &mut Loop, mut feeder: Box<Completion<Feeder>>, _: io::Result<()>) {
    let reset = lp.reset(feeder.watchdog, feeder.watch.period * 2);
    feeder.watch.tell(&format!("reset: {reset}"));
    feeder.meals -= 1;
    if feeder.meals > 0 {
        lp.submit(feeder, |f| Timer::after(f.watch.period), on_feed);
    }
}

fn cancelled_timer(lp: &mut Loop, watch: Watch) -> io::Result<&'static str> {
    let id =
        lp.submit(Box::new(Completion::new(watch)), |_| Timer::after(Duration::from_secs(3600)), on_fired);
    let canceller = Completion::new((watch, id));
    lp.submit(
        Box::new(canceller),
        |c| Timer::after(c.0.period),
        |lp, c, _| {
            let (watch, id) = **c;
            watch.tell(&format!("cancel: {}, and once more: {}", lp.cancel(id), lp.cancel(id)));
        },
    );
    Ok("A timer of an hour that is cancelled after one period; its callback runs, too:")
}

// ---- deadlines

struct Waiting {
    listener: TcpListener,
    watch: Watch,
}

fn deadline(lp: &mut Loop, watch: Watch) -> io::Result<&'static str> {
    let waiting = Waiting { listener: TcpListener::bind("127.0.0.1:0")?, watch };
    lp.submit(
        Box::new(Completion::new(waiting)),
        |w| w.listener.accept().timeout(w.watch.period),
        |_, waiting, accepted: io::Result<TcpStream>| match accepted {
            Ok(_) => waiting.watch.tell("a client has connected"),
            Err(error) => waiting.watch.tell(&format!("accept: {:?}", error.kind())),
        },
    );
    Ok("An accept with a deadline of one period, and no client that connects:")
}

fn background(lp: &mut Loop, watch: Watch) -> io::Result<&'static str> {
    lp.submit(
        Box::new(Completion::new(())),
        |()| Timer::after(Duration::from_secs(3600)).background(),
        |_, _, _| (),
    );
    lp.submit(Box::new(Completion::new(watch)), |w| Timer::after(w.period), on_fired);
    Ok("A background timer of an hour beside one of a period, for which alone the loop stays:")
}
