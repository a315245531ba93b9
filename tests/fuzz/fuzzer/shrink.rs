//! Makes a failing program small: steps are left out and made simpler as long as it fails in the same way.

use super::driver::Driver;
use super::program::{Aside, Backend, Embedding, Ending, Memory, Program, Step, Then};

/// How often a candidate is tried where not everything is decided by the seed.
const TRIES_REAL: usize = 4;
struct Shrinker<'a> {
    driver: &'a Driver,
    rule: &'static str,
    candidates_left: usize,
}

/// The smallest program that was found to violate the same rule, among this many.
pub(crate) fn shrink(driver: &Driver, program: &Program, rule: &'static str, candidates: usize) -> Program {
    let mut shrinker = Shrinker { driver, rule, candidates_left: candidates };
    let mut program = program.clone();
    loop {
        let before = program.clone();
        shrinker.leave_out_steps(&mut program);
        shrinker.simplify_setting(&mut program);
        shrinker.simplify_steps(&mut program);
        if program == before || shrinker.candidates_left == 0 {
            return program;
        }
    }
}

impl Shrinker<'_> {
    fn fails(&mut self, program: &Program) -> bool {
        let tries = if program.backend == Backend::Sim { 1 } else { TRIES_REAL };
        let Some(left) = self.candidates_left.checked_sub(1) else { return false };
        self.candidates_left = left;
        (0..tries).any(|_| super::run_once(self.driver, program).is_some_and(|v| v.rule == self.rule))
    }

    fn keep_if_it_fails(&mut self, program: &mut Program, change: impl FnOnce(&mut Program)) -> bool {
        let mut candidate = program.clone();
        change(&mut candidate);
        let kept = candidate != *program && self.fails(&candidate);
        if kept {
            *program = candidate;
        }
        kept
    }

    /// Delta debugging (Zeller and Hildebrandt, 2002), from large parts to single steps.
    fn leave_out_steps(&mut self, program: &mut Program) {
        let mut size = program.steps.len().div_ceil(2).max(1);
        loop {
            let mut at = 0;
            while at < program.steps.len() {
                let end = (at + size).min(program.steps.len());
                if !self.keep_if_it_fails(program, |p| drop(p.steps.drain(at..end))) {
                    at = end;
                }
            }
            if size == 1 {
                return;
            }
            size /= 2;
        }
    }

    fn simplify_setting(&mut self, program: &mut Program) {
        self.keep_if_it_fails(program, |p| p.setting.calm = true);
        self.keep_if_it_fails(program, |p| p.setting.embedding = Embedding::No);
        self.keep_if_it_fails(program, |p| p.setting.blocking = false);
        self.keep_if_it_fails(program, |p| p.setting.loops = 1);
        self.keep_if_it_fails(program, |p| (p.setting.capacity, p.setting.entries) = (256, 64));
        self.keep_if_it_fails(program, |p| p.setting.baseline = false);
        self.keep_if_it_fails(program, |p| p.setting.pooled_sockets = false);
        self.keep_if_it_fails(program, |p| p.setting.socket_bytes = 65_536);
        self.keep_if_it_fails(program, |p| p.setting.buffers = (4, 64));
        self.keep_if_it_fails(program, |p| p.setting.kept = 0);
        self.keep_if_it_fails(program, |p| p.setting.room = None);
        self.keep_if_it_fails(program, |p| p.setting.ipv6 = false);
        self.keep_if_it_fails(program, |p| p.ending = Ending::Drop);
    }

    fn simplify_steps(&mut self, program: &mut Program) {
        for index in 0..program.steps.len() {
            for change in SIMPLER {
                self.keep_if_it_fails(program, |p| change(&mut p.steps[index]));
            }
        }
    }
}

const SIMPLER: [fn(&mut Step); 6] = [
    |step| {
        if let Step::Submit { limit_us, .. } | Step::SubmitSeries { limit_us, .. } = step {
            *limit_us = None;
        }
    },
    |step| {
        if let Step::Submit { background, .. } | Step::SubmitSeries { background, .. } = step {
            *background = false;
        }
    },
    |step| {
        if let Step::Submit { then, .. } | Step::SubmitSeries { then, .. } | Step::Post { then, .. } = step {
            *then = Then::Nothing;
        }
    },
    |step| {
        if let Step::Submit { prepare, .. } = step {
            *prepare = Aside::Nothing;
        }
    },
    |step| {
        if let Step::Submit { drop, .. } | Step::SubmitSeries { drop, .. } = step {
            *drop = Aside::Nothing;
        }
    },
    |step| {
        if let Step::SubmitSeries { item, .. } = step {
            *item = Then::Nothing;
        }
        if let Step::Submit { memory, .. } = step {
            *memory = Memory::Box;
        }
    },
];
