//! A loop does not move: a callback cannot put another one in the place of the one that runs it.

use oxev::{Completion, Loop, nop};

fn submit(lp: &mut Loop) {
    lp.submit(
        Box::new(Completion::new(())),
        |()| nop(),
        |lp, _, _| {
            *lp = *Loop::new().unwrap();
        },
    );
}

fn main() {}
