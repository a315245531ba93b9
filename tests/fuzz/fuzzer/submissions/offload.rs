//! Work on a thread pool.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;

use oxev::{Completion, Loop};

use super::super::model::{Effect, Failure, Job, Request, classify, model, report};
use super::super::program::{Then, Work};
use super::super::world::{is_over, world};
use super::{PlannedPanic, SingleSpec, address_of, check_nothing_moved, then};

/// The owner of work that is done elsewhere.
pub(super) struct OffloadState {
    pub(super) entry: usize,
    pub(super) runs: u32,
    pub(super) panics: bool,
    pub(super) then: Then,
    job: Arc<Job>,
}

impl Drop for OffloadState {
    fn drop(&mut self) {
        // A worker that has it when its loop is gone has no model, and nothing to tell it.
        if !is_over() {
            model(|m| m.owner_dropped(self.entry));
        }
    }
}

pub(super) fn offload(lp: &mut Loop, on: usize, panics: bool, blocks: bool, ask: SingleSpec) {
    let entry = model(|m| m.begin(Request::Single(Work::Offload { panics, blocks }), on, None, false));
    let job = Job::new(blocks.then(|| world(|w| Arc::clone(&w.gate))));
    model(|m| m.entries[entry].effect = Effect::Offload { job: Arc::clone(&job) });
    let offloaded = Box::new(Completion::new(OffloadState { entry, runs: 0, panics, then: ask.then, job }));
    let thread_pool = world(|w| w.thread_pool.clone()).expect("it is there until the end");
    let listed = lp.in_flight().count();
    model(|m| m.enter_submit(entry, listed));
    let id = lp.offload(&thread_pool, offloaded, work, offload_done);
    model(|m| m.leave_submit(entry, Some(id)));
}

pub(super) fn work(offloaded: &mut OffloadState) {
    /// Tells that it is done, also if it panics.
    struct End<'a>(&'a Job);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.end();
        }
    }
    offloaded.runs += 1;
    let _end = End(&offloaded.job);
    offloaded.job.begin();
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
        m.entries[number].effect = Effect::None;
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
