//! Loops: when they run, stop, come and go.

use super::Model;
use super::entry::State;

/// A stop or a wake-up from another thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    #[default]
    No,
    /// It comes at any time.
    OnItsWay,
    /// It has come, and has ended a run or will end the next one.
    Come,
}

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
    pub(super) stop_elsewhere: Elsewhere,
    pub(super) wake_elsewhere: Elsewhere,
    /// A run of one step may return without a callback.
    pub(crate) woken: bool,
    /// It was woken in this run.
    pub(super) woken_inside: bool,
    /// It was woken outside `run`, and has not been run since.
    pub(crate) surely_woken: bool,
    pub(super) inside_submit: bool,
    /// Work on a thread pool may have been withdrawn.
    pub(super) withdrew: bool,
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
        (lp.surely_woken, lp.woken_inside) = (false, false);
        lp.stopped = lp.stop_pending;
    }

    /// `run` is over; says how many callbacks there were.
    pub(crate) fn leave_run(&mut self, on: usize, returned: bool) -> u64 {
        let lp = &mut self.loops[on];
        lp.running = false;
        // Who is stopped has looked at what came with it. Other runs than a single step may end before they look.
        let has_stopped = returned && (lp.stopped || lp.stop_pending);
        let perhaps_stopped = lp.perhaps_stop_pending || lp.stop_elsewhere != Elsewhere::No;
        lp.woken &= lp.woken_inside
            || lp.stop_elsewhere == Elsewhere::OnItsWay
            || lp.wake_elsewhere == Elsewhere::OnItsWay
            || !has_stopped && (!lp.single_step || lp.stop_pending || perhaps_stopped);
        if returned && lp.stop_elsewhere == Elsewhere::Come {
            lp.stop_elsewhere = Elsewhere::No;
        }
        // Who leaves by an error or a panic has not looked.
        lp.stop_pending = !returned && lp.stopped;
        lp.stopped = false;
        lp.perhaps_stop_pending = false;
        lp.callbacks
    }

    /// Its handle has woken it, or is about to.
    pub(crate) fn woken(&mut self, on: usize) {
        let lp = &mut self.loops[on];
        (lp.woken, lp.woken_inside) = (true, lp.running);
    }

    /// A step without its being known in which run.
    pub(crate) fn stopped(&mut self, on: usize) {
        let lp = &mut self.loops[on];
        match lp.running {
            true => lp.stopped = true,
            false => lp.stop_pending = true,
        }
    }

    /// A handle of a loop that may be gone has stopped it.
    pub(crate) fn stopped_aside(&mut self, on: usize, life: usize) {
        if self.is_alive(on, life) {
            self.woken(on);
            self.stopped(on);
        }
    }

    /// Whether the loop of a submission lives, and is not being dropped.
    pub(crate) fn is_alive(&self, on: usize, life: usize) -> bool {
        self.loops[on].life == life && !self.loops[on].tearing_down
    }

    /// Another thread is told to wake a loop.
    pub(crate) fn woken_elsewhere(&mut self, on: usize) {
        self.loops[on].wake_elsewhere = Elsewhere::OnItsWay;
        self.woken(on);
    }

    /// Another thread is told to stop a loop.
    pub(crate) fn stopped_elsewhere(&mut self, on: usize) {
        self.loops[on].stop_elsewhere = Elsewhere::OnItsWay;
        self.woken(on);
    }

    /// The other thread has done all that it was told.
    pub(crate) fn poster_settled(&mut self) {
        for lp in &mut self.loops {
            lp.wake_elsewhere = Elsewhere::No;
            if lp.stop_elsewhere == Elsewhere::OnItsWay {
                lp.stop_elsewhere = Elsewhere::Come;
            }
        }
    }

    /// Whether the run that is on may return before its time.
    pub(crate) fn may_be_stopped(&self, on: usize) -> bool {
        let lp = &self.loops[on];
        lp.stopped || lp.perhaps_stop_pending || lp.stop_elsewhere != Elsewhere::No
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
            if e.is_static {
                self.entries[number].state = State::TornDown;
                self.settle_unknown(number);
                continue;
            }
            if e.blocks() {
                self.entries[number].state = State::Leaked;
                self.stats.count("loop", "dropped while work blocks");
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
        (lp.surely_woken, lp.withdrew) = (false, false);
        (lp.stop_elsewhere, lp.wake_elsewhere) = (Elsewhere::No, Elsewhere::No);
    }
}
