//! How a program ends: what must have happened then.

use std::time::{Duration, Instant};

use super::super::environment;
use super::super::model::{model, report};
use super::super::program::{Backend, Embedding, Mode};
use super::super::world::world;
use super::Run;

impl Run<'_> {
    /// Cancels everything: then everything ends, in a bounded number of rounds.
    pub(super) fn end_by_cancel(&mut self) {
        const ROUNDS_MAX: usize = 300;
        let patience = Instant::now() + Duration::from_secs(10);
        // What has not begun ends also while all workers are kept.
        self.quiet(true, !world(|w| w.setting.blocking));
        for round in 0.. {
            for (on, lp) in self.loops.iter_mut().enumerate() {
                let ids: Vec<_> = lp.in_flight().map(|op| (op.id, op.kind)).collect();
                for (id, kind) in ids {
                    let Ok(number) = model(|m| m.listed(on, id, kind)) else { continue };
                    let begun = model(|m| m.has_begun(number));
                    let said = lp.cancel(id);
                    model(|m| m.canceled(number, true, begun, said));
                }
            }
            let posts = (0..self.loops.len()).any(|on| model(|m| m.posts_under_way(on)) > 0);
            let blocking: usize = (0..self.loops.len()).map(|on| model(|m| m.blocking(on))).sum();
            if !posts && self.loops.iter().map(|lp| lp.len()).sum::<usize>() == blocking {
                if blocking == 0 {
                    break;
                }
                model(|m| m.stats.count("programs that", "end while work blocks"));
                world(|w| w.release());
            }
            // A thread pool takes the time that it takes.
            if round > ROUNDS_MAX && (self.backend == Backend::Sim || Instant::now() > patience) {
                let left: Vec<_> = self.loops.iter().flat_map(|lp| lp.in_flight()).collect();
                return report("what is cancelled ends", format!("after {round} rounds: {left:?}"));
            }
            for on in 0..self.loops.len() {
                self.run(on, Mode::NoWait);
            }
            self.run_all(300);
            if model(|m| !m.violations.is_empty()) {
                return;
            }
        }
        self.audit();
        self.audit_settled();
    }

    /// Goes on until nothing is in flight but what waits for something that has not happened.
    pub(super) fn settle(&mut self) {
        const ROUNDS_MAX: usize = 100;
        let patience = Instant::now() + Duration::from_secs(10);
        self.quiet(false, true);
        let embedded = self.backend != Backend::Sim && world(|w| w.setting.embedding) != Embedding::No;
        for round in 0.. {
            if embedded {
                self.drive_all(Duration::from_millis(10));
            }
            for on in (0..self.loops.len()).filter(|_| !embedded) {
                // Virtual time does not pass for background operations alone, but if one waits for them.
                self.run(on, if self.backend == Backend::Sim { Mode::Once } else { Mode::NoWait });
            }
            if !embedded {
                self.run_all(if round < 10 { 300 } else { 3000 });
            }
            if model(|m| !m.violations.is_empty()) {
                return;
            }
            let stuck = (0..self.loops.len()).find_map(|on| {
                let posts = model(|m| m.posts_under_way(on));
                if posts > 0 { Some(format!("{posts} posts")) } else { self.why_stuck(on) }
            });
            let Some(what) = stuck else {
                // A buffer that is given back feeds who waits for one.
                if self.give_back(round) { continue } else { break }
            };
            if round > ROUNDS_MAX && (self.backend == Backend::Sim || Instant::now() > patience) {
                return report("nothing hangs", what);
            }
        }
        model(|m| m.stats.count("programs that", "settled"));
        self.audit();
    }

    /// Gives leases back: one, and after some rounds all of them for good. `false`: there are none.
    fn give_back(&mut self, round: usize) -> bool {
        let leases = world(|w| match round {
            0..20 => w.leases.pop().into_iter().collect(),
            _ => {
                w.setting.kept = 0;
                std::mem::take(&mut w.leases)
            }
        });
        !leases.is_empty()
    }

    /// What should have come to a loop and has not.
    pub(super) fn why_stuck(&self, on: usize) -> Option<String> {
        let buffers = world(|w| w.bufs[on].available());
        model(|m| m.why_stuck(on, buffers))
    }

    /// Nothing more comes from elsewhere, nothing is cut off, and unless the program gives them back one by one all buffers are there.
    pub(super) fn quiet(&mut self, all_buffers: bool, release: bool) {
        self.settle_poster();
        if release {
            world(|w| w.release());
        }
        environment::partition(false);
        if all_buffers {
            drop(world(|w| std::mem::take(&mut w.leases)));
        }
    }

    pub(super) fn audit_settled(&self) {
        for on in 0..self.loops.len() {
            let (operations, _) = model(|m| m.in_flight(on));
            if operations > 0 {
                report("what is cancelled ends", format!("loop {on}: {operations} have not"));
            }
        }
        let (available, capacity) = world(|w| (w.pool.available(), w.pool.capacity()));
        if available != capacity {
            report("slots are given back", format!("{available} of {capacity}"));
        }
    }
}
