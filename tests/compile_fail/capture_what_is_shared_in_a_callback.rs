//! The message says what to do: what a callback shares lies in the state.

use oxev::{Action, Completion, Loop, Multi, ThreadPool, Timer};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

fn one(lp: &mut Loop, count: Rc<Cell<u32>>) {
    lp.submit(
        Box::new(Completion::new(())),
        |_| Timer::after(Duration::ZERO),
        move |_, _, _| count.set(count.get() + 1),
    );
}

fn several(lp: &mut Loop, count: Rc<Cell<u32>>) {
    lp.submit_multi(
        Box::new(Completion::new(Multi::new((), ()))),
        |_| Timer::every(Duration::from_secs(1)),
        move |_, _, _| {
            count.set(count.get() + 1);
            Action::Rearm
        },
        |_, _, _| (),
    );
}

fn elsewhere(lp: &mut Loop, pool: &ThreadPool, words: Arc<Vec<String>>) {
    lp.offload(pool, Box::new(Completion::new(0)), move |sum| *sum = words.len(), |_, _, _| ());
}

fn main() {}
