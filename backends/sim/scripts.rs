//! Scripts: peers that speak for themselves, each on a thread of its own.
//!
//! A script never runs at the same time as its world: it asks, and waits for the answer, while the world answers,
//! and waits for the next question. So what it does is as much a part of the run as everything else.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc::Receiver;

use super::effect::SimEvent;
use super::port::LoopPort;
use super::world::World;

/// A question to a world, asked until there is an answer: then it is true.
pub(crate) type Question = Box<dyn FnMut(&World) -> bool + Send>;

/// A script that goes on.
#[derive(Default)]
pub(super) struct Scripts(Vec<ScriptRun>);

struct ScriptRun {
    /// `None` is its end.
    questions: Receiver<Option<Question>>,
    is_over: Rc<Cell<bool>>,
    /// What it waits for.
    pending: Option<Question>,
}

/// How far a script could go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advance {
    /// Not at all: it waits for the same as before.
    None,
    /// Up to the next question that has no answer yet.
    Some,
    ToItsEnd,
}

impl ScriptRun {
    /// Lets it go on as far as it can.
    fn advance(&mut self, world: &World) -> Advance {
        let mut advance = Advance::None;
        loop {
            let next = self.pending.take().map_or_else(|| self.questions.recv(), |pending| Ok(Some(pending)));
            let Ok(Some(mut question)) = next else {
                self.is_over.set(true);
                return Advance::ToItsEnd;
            };
            if !question(world) {
                self.pending = Some(question);
                return advance;
            }
            advance = Advance::Some;
        }
    }
}

impl World {
    /// What is given is true when the script is at its end.
    pub(crate) fn add_script(&self, questions: Receiver<Option<Question>>) -> Rc<Cell<bool>> {
        let is_over = Rc::new(Cell::new(false));
        let script = ScriptRun { questions, is_over: Rc::clone(&is_over), pending: None };
        self.scripts.borrow_mut().0.push(script);
        is_over
    }

    /// Lets every script go on as far as it can, and says whether one could.
    fn run_scripts(&self) -> bool {
        let mut running = self.scripts.take();
        let mut any_moved = false;
        running.0.retain_mut(|script| {
            let advance = script.advance(self);
            any_moved |= advance != Advance::None;
            advance != Advance::ToItsEnd
        });
        let mut scripts = self.scripts.borrow_mut();
        running.0.append(&mut scripts.0);
        *scripts = running;
        any_moved
    }

    /// Lets everything happen whose time has come, and says whether a script went on.
    pub(crate) fn run_due(&self) -> bool {
        let mut any_moved = false;
        loop {
            self.kernel.borrow_mut().run_events();
            if !self.run_scripts() {
                return any_moved;
            }
            any_moved = true;
        }
    }

    /// Goes on to the next event, and says whether there was one: otherwise nothing happens unless a loop
    /// does it.
    pub(crate) fn run_next_event(&self) -> bool {
        let next_ns = self.kernel.borrow().next_event_ns();
        let Some(next_ns) = next_ns else { return false };
        self.advance_to(next_ns);
        self.run_due();
        true
    }

    /// Loops whose descriptors are polled show that there is something for them.
    pub(crate) fn signal_outcomes(&self) {
        let now_ns = self.now_ns();
        let kernel = self.kernel.borrow();
        kernel.ports.iter().for_each(|port: &LoopPort| port.signal_outcomes(now_ns));
    }

    /// Makes something happen at a time: a script looks whether it is its own.
    pub(crate) fn wake_at(&self, at_ns: u64) {
        self.kernel.borrow_mut().schedule(at_ns, SimEvent::ScriptTimer);
    }
}
