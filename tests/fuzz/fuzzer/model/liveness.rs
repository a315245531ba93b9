//! What is in flight, and what should have ended.

use oxev::{OpId, OpKind};

use super::super::program::{Receive, Series, Work};
use super::Model;
use super::entry::{Effect, Entry, State};
use super::request::Request;

impl Model {
    /// Operations in flight on a loop, and those of them that keep it running.
    pub(crate) fn in_flight(&self, on: usize) -> (usize, usize) {
        let life = self.loops[on].life;
        let here = |e: &&Entry| e.on == on && e.life == life && e.state == State::InFlight;
        let all = self.entries.iter().filter(here);
        all.fold((0, 0), |(all, active), e| (all + 1, active + usize::from(!e.background)))
    }

    /// The entry with this id, if it may be listed as in flight, with its kind.
    pub(crate) fn listed(&self, on: usize, id: OpId, kind: OpKind) -> Result<usize, String> {
        let found = self.entries.iter().enumerate().rev().find(|(_, e)| e.id == Some(id) && e.on == on);
        let Some((number, entry)) = found else { return Err(format!("{id:?} names no submission")) };
        let may = entry.state == State::InFlight && !entry.refused && !entry.immediate;
        if !may || entry.request.op_kind() != Some(kind) {
            return Err(format!("{id:?} as {kind:?}: {}, {:?}", self.describe(number), entry.state));
        }
        Ok(number)
    }

    /// What `run(NoWait)` has surely to do on a loop.
    pub(crate) fn has_work(&self, on: usize) -> Option<&'static str> {
        let (lp, life) = (&self.loops[on], self.loops[on].life);
        let in_flight = |e: &&Entry| e.on == on && e.life == life && e.state == State::InFlight;
        let any = |what: &dyn Fn(&Entry) -> bool| self.entries.iter().filter(in_flight).any(what);
        Some(match () {
            () if self.posts_under_way(on) > 0 => "a post",
            () if lp.stop_pending => "a stop",
            () if lp.surely_woken => "a wake-up",
            () if any(&|e| e.owed) => "a notification",
            () if any(&|e| e.refused || e.immediate) => "a refusal",
            () if any(&|e| e.canceled && (e.request.is_timer() || e.request.notifier().is_some())) => {
                "a cancel"
            }
            () => return None,
        })
    }

    /// Whether the loop waits in vain: something that is in flight on it should have come. This many buffers of its pool are free.
    pub(crate) fn why_stuck(&mut self, on: usize, buffers: usize) -> Option<String> {
        let life = self.loops[on].life;
        let candidates: Vec<usize> = (0..self.entries.len())
            .filter(|&n| {
                let e = &self.entries[n];
                e.on == on && e.life == life && e.state == State::InFlight
            })
            .collect();
        candidates
            .into_iter()
            .find(|&number| self.should_have_ended(number, buffers))
            .map(|number| self.describe(number))
    }

    pub(super) fn should_have_ended(&mut self, number: usize, buffers: usize) -> bool {
        let Entry { canceled, limit_ns, refused, immediate, request, owed, .. } = self.entries[number];
        if self.entries[number].blocks() {
            return false;
        }
        if canceled || refused || immediate || limit_ns.is_some() || owed {
            return true;
        }
        let others = |m: &Model, same: &dyn Fn(&Effect) -> bool| {
            let in_flight = |e: &Entry| e.state == State::InFlight && same(&e.effect);
            m.entries.iter().enumerate().any(|(other, e)| other != number && in_flight(e))
        };
        match (self.entries[number].effect.clone(), request) {
            _ if self.entries[number].needs_worker(self.backend) && self.pool_is_blocked() => false,
            (Effect::Receive { side, .. }, _) => {
                let pooled = matches!(
                    request,
                    Request::Series(_) | Request::Single(Work::Recv { how: Receive::Pooled, .. })
                );
                let same = |e: &Effect| matches!(e, Effect::Receive { side: s, .. } if *s == side);
                if self.partitioned || others(self, &same) {
                    return false;
                }
                let Some(peer) = self.sides[side].peer else { return false };
                let ends = self.sides[peer].write_ended || self.sides[side].read_ended;
                let comes = ends || !self.exact(number) && self.ledger_in(side).surely_holds_bytes();
                if comes && pooled && buffers == 0 {
                    self.stats.count("starved", self.entries[number].request.name());
                }
                comes && (!pooled || buffers > 0)
            }
            (Effect::Send { side, .. }, _) => {
                let Some(peer) = self.sides[side].peer else { return false };
                let same = |e: &Effect| matches!(e, Effect::Send { side: s, .. } if *s == side);
                !self.partitioned && self.sides[peer].surely_gone && !others(self, &same)
            }
            (Effect::Fifo { writes: false, .. }, _) => {
                let same = |e: &Effect| matches!(e, Effect::Fifo { writes: false, .. });
                self.fifo.surely_holds_bytes() && !others(self, &same)
            }
            (_, Request::Single(Work::Accept { .. }) | Request::Series(Series::Accept)) => {
                let accepting = |e: &&Entry| e.state == State::InFlight && e.request.accepts();
                let alone = self.entries.iter().filter(accepting).count() == 1;
                alone && !self.accepts_lost && self.connected > self.accepts
            }
            (_, Request::Single(Work::Connect { .. })) => !self.partitioned,
            // Those at the file's position take turns; one that is on another loop ends when that is run.
            (_, Request::Single(Work::Wait { .. }) | Request::Series(Series::Wait { .. })) => false,
            // No program waits for it.
            (_, Request::Single(Work::Hour)) => self.entries[number].was_reset,
            _ => true,
        }
    }

    pub(super) fn exact(&self, number: usize) -> bool {
        matches!(self.entries[number].effect, Effect::Receive { exact: true, .. })
    }
}
