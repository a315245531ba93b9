//! An item callback has the state for as long as it runs.

use oxev::{Action, Completion, Loop, Multi, TcpListener};
use std::cell::Cell;

thread_local!(static KEPT: Cell<Option<&'static mut Vec<u8>>> = const { Cell::new(None) });

fn accept(lp: &mut Loop, listener: TcpListener) {
    lp.submit_multi(
        Box::new(Completion::new(Multi::new(listener, Vec::new()))),
        |listener| listener.accept_multi(),
        |_, state, _| {
            KEPT.set(Some(state));
            Action::Rearm
        },
        |_, _, _| (),
    );
}

fn main() {}
