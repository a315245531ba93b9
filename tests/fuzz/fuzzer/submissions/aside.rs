//! What is done where there is no loop at hand: in `prepare`, and when an owner is dropped. That may be in the middle of anything, the end
//! of its loop too.

use std::panic::resume_unwind;

use oxev::LoopHandle;

use super::super::model::model;
use super::super::program::{Aside, Then};
use super::super::world::{is_over, world};
use super::posts::post_by;
use super::{PlannedPanic, notify};

/// Something to do aside, and the loop that it concerns.
pub(super) struct AsideOf {
    what: Aside,
    on: usize,
    life: usize,
    handle: Option<LoopHandle>,
}

impl AsideOf {
    pub(super) fn new(what: Aside, on: usize) -> AsideOf {
        let handle = (what != Aside::Nothing).then(|| world(|w| w.handles[on].clone()));
        AsideOf { what, on, life: model(|m| m.loops[on].life), handle }
    }

    pub(super) fn nothing() -> AsideOf {
        AsideOf { what: Aside::Nothing, on: 0, life: 0, handle: None }
    }

    pub(super) fn run(&mut self, in_drop: bool) {
        let what = std::mem::replace(&mut self.what, Aside::Nothing);
        let Some(handle) = self.handle.take().filter(|_| !is_over()) else { return };
        model(|m| m.stats.count(if in_drop { "in a drop" } else { "in prepare" }, what.name()));
        match what {
            Aside::Nothing => {}
            Aside::Stop => {
                handle.stop();
                model(|m| m.stopped_aside(self.on, self.life));
            }
            Aside::Post => post_by(&handle, self.on, self.life, Then::Nothing),
            Aside::Notify(notifier) => notify(notifier),
            // A panic while another one goes on aborts the process, in every program.
            Aside::Panic if in_drop && !std::thread::panicking() => resume_unwind(Box::new(PlannedPanic)),
            Aside::Panic => {}
        }
    }
}

impl Aside {
    fn name(self) -> &'static str {
        match self {
            Aside::Nothing => "nothing",
            Aside::Stop => "stop",
            Aside::Post => "post",
            Aside::Notify(_) => "notify",
            Aside::Panic => "panic",
        }
    }
}
