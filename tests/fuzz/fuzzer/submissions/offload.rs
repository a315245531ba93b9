//! Work on a thread pool.

use std::io;
use std::panic::resume_unwind;

use oxev::{Completion, Loop};

use super::super::model::{Failure, Request, classify, model, report};
use super::super::program::{Then, Work};
use super::super::world::world;
use super::{PlannedPanic, SingleSpec, address_of, check_nothing_moved, then};

/// The owner of work that is done elsewhere.
pub(super) struct OffloadState {
    pub(super) entry: usize,
    pub(super) runs: u32,
    pub(super) panics: bool,
    pub(super) then: Then,
}

impl Drop for OffloadState {
    fn drop(&mut self) {
        model(|m| m.owner_dropped(self.entry));
    }
}

pub(super) fn offload(lp: &mut Loop, on: usize, panics: bool, ask: SingleSpec) {
    let entry = model(|m| m.begin(Request::Single(Work::Offload { panics }), on, None, false));
    let offloaded = Box::new(Completion::new(OffloadState { entry, runs: 0, panics, then: ask.then }));
    let thread_pool = world(|w| w.thread_pool.clone());
    let listed = lp.in_flight().count();
    model(|m| m.enter_submit(entry, listed));
    let id = lp.offload(&thread_pool, offloaded, work, offload_done);
    model(|m| m.leave_submit(entry, Some(id)));
}

pub(super) fn work(offloaded: &mut OffloadState) {
    offloaded.runs += 1;
    if offloaded.panics {
        resume_unwind(Box::new(PlannedPanic));
    }
}

pub(super) fn offload_done(lp: &mut Loop, offloaded: Box<Completion<OffloadState>>, result: io::Result<()>) {
    let (number, address) = (offloaded.entry, address_of(lp));
    let summary = result.map(|()| 0).map_err(|error| classify(&error));
    let on = model(|m| {
        m.called_back(number, address);
        m.check_outcome(number, summary);
        m.entries[number].on
    });
    check_nothing_moved(lp, "offload");
    let runs = u32::from(matches!(summary, Ok(_) | Err(Failure::Other)));
    if offloaded.runs != runs {
        report(
            "work is done once or not at all",
            format!("#{number}: {summary:?}, done {} times", offloaded.runs),
        );
    }
    let what = offloaded.then;
    then(lp, on, what);
}
