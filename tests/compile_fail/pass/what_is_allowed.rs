//! The same programs with state where it belongs: they compile, and run.

use oxev::{Action, Completion, Loop, Multi, Pool, RunMode, Timer};
use std::time::Duration;

fn main() {
    let mut lp = Loop::new().unwrap();
    let pool = Pool::new(1);
    lp.submit(Box::new(Completion::new(7)), |_| oxev::nop(), |_, number, _| assert_eq!(**number, 7));
    lp.submit(pool.insert(7).unwrap(), |_| oxev::nop(), |lp, slot, _| {
        lp.submit(slot, |_| Timer::after(Duration::ZERO), |_, _, _| ());
    });
    lp.submit_multi(
        Box::new(Completion::new(Multi::new(Duration::from_millis(1), 0))),
        |period| Timer::every(*period),
        |_, ticks, periods: u64| {
            *ticks += periods;
            Action::Disarm
        },
        |_, owner, _| assert!(owner.state > 0),
    );
    lp.handle().post(Box::new(Completion::new(String::new())), |_, text| assert!(text.is_empty())).ok().unwrap();
    lp.run(RunMode::UntilDone).unwrap();
}
