//! What a program does, step by step.

use oxev::{Completion, InFlightOp, OpKind};

use super::super::environment;
use super::super::model::{model, report};
use super::super::program::{Aside, Backend, Embedding, Memory, Mode, Step, Then, Work};
use super::super::submissions::{self, SeriesSpec, SingleSpec, SingleState, address_of, arrived, new_post};
use super::super::world::world;
use super::{Run, drop_loop};

impl Run<'_> {
    pub(super) fn on(&self, number: u8) -> usize {
        usize::from(number) % self.loops.len()
    }

    pub(super) fn execute(&mut self, step: Step) {
        match step {
            Step::Submit { on, work, limit_us, background, memory, prepare, drop, then } => {
                self.submit(
                    self.on(on),
                    SingleSpec { work, limit_us, background, prepare, drop, then },
                    memory,
                );
            }
            Step::SubmitSeries { on, series, items, limit_us, background, item, drop, then } => {
                let on = self.on(on);
                self.waited = true;
                let ask = SeriesSpec { series, items, limit_us, background, item, drop, then };
                submissions::submit_series(&mut self.loops[on], on, ask);
            }
            Step::PanicInPrepare { on, pooled } => {
                let on = self.on(on);
                match world(|w| w.pool.clone()).insert(SingleState::new()) {
                    Ok(slot) if pooled => submissions::panic_in_prepare(&mut self.loops[on], on, slot),
                    _ => {
                        let owner = Box::new(Completion::new(SingleState::new()));
                        submissions::panic_in_prepare(&mut self.loops[on], on, owner);
                    }
                }
            }
            Step::Cancel { which, twice } => {
                if let Some(on) = self.loop_of(which) {
                    submissions::cancel(&mut self.loops[on], which);
                    if twice {
                        submissions::cancel(&mut self.loops[on], which);
                    }
                }
            }
            Step::CancelForeign { which } => {
                if let Some(on) = self.loop_of(which) {
                    let foreign = (on + 1) % self.loops.len();
                    submissions::cancel(&mut self.loops[foreign], which);
                }
            }
            Step::CancelAll { end } => self.cancel_all(end),
            Step::Reset { which, us } => {
                if let Some(on) = self.loop_of(which) {
                    submissions::reset(&mut self.loops[on], which, us);
                }
            }
            Step::Run { on, mode } => self.run(self.on(on), mode),
            Step::RunAll { us } => self.run_all(us),
            Step::Drive { on, us } => match world(|w| w.setting.embedding) {
                // A smaller program may be none that is embedded.
                Embedding::No => self.run(self.on(on), Mode::For(us.min(300))),
                _ => self.drive(self.on(on), us),
            },
            Step::Stop { on, who } => {
                let on = self.on(on);
                submissions::stop(&mut self.loops[on], on, who)
            }
            Step::Wake { on, elsewhere } => {
                let on = self.on(on);
                let handle = world(|w| w.handles[on].clone());
                match elsewhere && self.backend != Backend::Sim {
                    true => {
                        model(|m| m.woken_elsewhere(on));
                        world(|w| w.poster.send(move || handle.wake()));
                    }
                    false => {
                        handle.wake();
                        model(|m| {
                            m.woken(on);
                            m.loops[on].surely_woken = true;
                        });
                    }
                }
            }
            Step::Burst { on, count } => {
                (0..count).for_each(|_| self.post(self.on(on), true, Then::Nothing));
            }
            Step::Post { on, elsewhere, then } => self.post(self.on(on), elsewhere, then),
            Step::Notify { notifier, elsewhere } if elsewhere && self.backend != Backend::Sim => {
                model(|m| m.notified(usize::from(notifier)));
                let notifier = world(|w| w.notifiers[usize::from(notifier)].clone());
                world(|w| w.poster.send(move || notifier.notify()));
            }
            Step::Notify { notifier, .. } => submissions::notify(notifier),
            Step::DropLease { which } => {
                let lease = world(|w| {
                    let count = w.leases.len();
                    (count > 0).then(|| w.leases.swap_remove(usize::from(which) % count))
                });
                drop(lease);
            }
            Step::DropEnd { end } => drop(world(|w| w.ends[usize::from(end)].take())),
            Step::Release => world(|w| w.release()),
            Step::DropLoop { on } => self.renew(self.on(on)),
            Step::Flush { on } => {
                self.flush(self.on(on));
            }
            Step::NextTimeout { on } => {
                let on = self.on(on);
                let _ = self.loops[on].next_timeout();
            }
            Step::Partition { cut } => environment::partition(cut),
            Step::ResetConnections => environment::reset_connections(),
        }
    }

    /// The loop of the operation that a number means.
    pub(super) fn loop_of(&self, which: u16) -> Option<usize> {
        model(|m| {
            let number = m.entries.len().checked_sub(1 + usize::from(which))?;
            Some(m.entries[number].on)
        })
    }

    pub(super) fn submit(&mut self, on: usize, ask: SingleSpec, memory: Memory) {
        self.waited |= matches!(ask.work, Work::Wait { .. });
        let lp = &mut self.loops[on];
        // A leak checker would find memory that is lost with its loop.
        if memory == Memory::Static && self.leaks && ask.work.needs_no_resources() {
            let ask = SingleSpec { drop: Aside::Nothing, ..ask };
            return submissions::submit(lp, on, submissions::static_owner(), ask);
        }
        match world(|w| w.pool.clone()).insert(SingleState::new()) {
            Ok(slot) if memory == Memory::Pool => submissions::submit(lp, on, slot, ask),
            _ => submissions::submit(lp, on, Box::new(Completion::new(SingleState::new())), ask),
        }
    }

    pub(super) fn cancel_all(&mut self, end: u8) {
        let Some(link) = world(|w| w.ends[usize::from(end)].clone()) else { return };
        let fd = std::os::fd::AsRawFd::as_raw_fd(link.stream());
        for (on, lp) in self.loops.iter_mut().enumerate() {
            // A close owns its descriptor, whose number may be another's by now.
            let theirs = |op: &InFlightOp| op.fd == Some(fd) && op.kind != OpKind::Close;
            let listed: Vec<_> = lp.in_flight().filter(theirs).collect();
            let listed: Vec<usize> =
                listed.iter().filter_map(|op| model(|m| m.listed(on, op.id, op.kind)).ok()).collect();
            let count = lp.cancel_all(link.stream());
            model(|m| m.canceled_all(&listed, count));
        }
    }

    pub(super) fn post(&mut self, on: usize, elsewhere: bool, then: Then) {
        if !elsewhere || self.backend == Backend::Sim {
            return submissions::post(on, then);
        }
        let post = new_post(on, true, then);
        let handle = world(|w| w.handles[on].clone());
        // If the loop is gone by then, the new_post comes back and is dropped there.
        world(|w| w.poster.send(move || drop(handle.post(post, arrived))));
    }

    /// Waits until everything that was sent to the other thread is done.
    pub(super) fn settle_poster(&mut self) {
        if world(|w| w.poster.settle()) {
            model(|m| m.poster_settled());
        }
    }

    pub(super) fn flush(&mut self, on: usize) {
        if let Err(error) = self.loops[on].flush() {
            report("a loop can be flushed", error.to_string());
        }
    }

    pub(super) fn renew(&mut self, on: usize) {
        let Ok((lp, bufs)) = world(|w| w.new_loop(on)) else { return };
        let address = address_of(&lp);
        world(|w| w.install(on, &lp, bufs));
        drop_loop(on, std::mem::replace(&mut self.loops[on], lp), self.leaks);
        let capacity = world(|w| w.setting.capacity);
        model(|m| {
            m.loop_built(on, address, capacity);
            m.stats.count("loop", "dropped in the middle");
        });
    }
}
