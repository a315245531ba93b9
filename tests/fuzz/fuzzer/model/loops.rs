//! Loops: when they run, stop, come and go.

use super::Model;
use super::entry::State;

/// One loop's place; loops come and go there.
#[derive(Debug, Default)]
pub(crate) struct LoopModel {
    pub(crate) life: usize,
    pub(crate) alive: bool,
    pub(crate) address: usize,
    pub(crate) capacity: usize,
    pub(super) running: bool,
    /// In this run every callback is of an operation from before it.
    pub(super) single_step: bool,
    pub(super) run: u64,
    pub(super) callbacks: u64,
    pub(super) stopped: bool,
    /// The next run returns at once.
    pub(crate) stop_pending: bool,
    /// It may be that the next run returns at once.
    pub(crate) perhaps_stop_pending: bool,
    pub(crate) woken: bool,
    pub(super) inside_submit: bool,
    pub(super) tearing_down: bool,
}

impl Model {
    /// `run` begins.
    pub(crate) fn enter_run(&mut self, on: usize, single_step: bool) {
        self.runs += 1;
        let lp = &mut self.loops[on];
        lp.running = true;
        lp.run = self.runs;
        lp.single_step = single_step;
        lp.callbacks = 0;
        lp.stopped = lp.stop_pending;
    }

    /// `run` is over; says how many callbacks there were.
    pub(crate) fn leave_run(&mut self, on: usize, returned: bool) -> u64 {
        let lp = &mut self.loops[on];
        lp.running = false;
        // Who is stopped has looked at what came with it. Other runs than a single step may end before they look.
        let has_stopped = returned && (lp.stopped || lp.stop_pending);
        lp.woken &= !has_stopped && (!lp.single_step || lp.stop_pending || lp.perhaps_stop_pending);
        // Who leaves by an error or a panic has not looked.
        lp.stop_pending = !returned && lp.stopped;
        lp.stopped = false;
        lp.perhaps_stop_pending = false;
        lp.callbacks
    }

    /// A step without its being known in which run.
    pub(crate) fn stopped(&mut self, on: usize) {
        let lp = &mut self.loops[on];
        match lp.running {
            true => lp.stopped = true,
            false => lp.stop_pending = true,
        }
    }

    pub(crate) fn is_stopped(&self, on: usize) -> bool {
        self.loops[on].stopped
    }

    pub(crate) fn tear_down(&mut self, on: usize, begins: bool) {
        self.loops[on].tearing_down = begins;
        if begins {
            return;
        }
        let life = self.loops[on].life;
        for number in 0..self.entries.len() {
            let e = &self.entries[number];
            if e.on != on || e.life != life || e.state != State::InFlight {
                continue;
            }
            let detail = self.describe(number);
            self.report("a loop that is dropped drops every owner", detail);
        }
    }

    /// A new loop is in a place.
    pub(crate) fn loop_built(&mut self, on: usize, address: usize, capacity: usize) {
        let lp = &mut self.loops[on];
        lp.life += 1;
        (lp.alive, lp.address, lp.capacity) = (true, address, capacity);
        // It may be put there in the middle of a run of its predecessor.
        (lp.stop_pending, lp.stopped, lp.woken, lp.single_step) = (false, false, false, false);
    }
}
