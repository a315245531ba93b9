//! Cancel and reset: what they must say, and what follows.

use super::super::program::Series;
use super::Model;
use super::request::Request;

impl Model {
    /// What a cancel must say: `None` if it may say either.
    pub(super) fn cancel_must(&self, number: usize, listed: bool) -> Option<bool> {
        let entry = &self.entries[number];
        if !listed || entry.canceled {
            return Some(false);
        }
        let now_ns = self.now_ns();
        let unsure = entry.disarmed
            || entry.perhaps_canceled
            || entry.request.notifier().is_some()
            || entry.request.may_be_beyond_cancel()
            || entry.limit_ns.is_some_and(|limit_ns| now_ns >= limit_ns);
        if unsure { None } else { Some(true) }
    }

    /// `cancel` of an entry said this; `listed`: it was among those in flight before; `begun`: a worker had it.
    pub(crate) fn canceled(&mut self, number: usize, listed: bool, begun: bool, said: bool) {
        let must = match self.entries[number].job() {
            Some(_) if begun => Some(false),
            // No worker can have come to it.
            Some(job)
                if listed
                    && !self.entries[number].canceled
                    && !job.has_begun()
                    && self.no_worker_is_free() =>
            {
                Some(true)
            }
            _ => self.cancel_must(number, listed),
        };
        if must.is_some_and(|must| must != said) {
            let detail =
                format!("{}: {said}, listed: {listed}, {:?}", self.describe(number), self.entries[number]);
            self.report("cancel says whether it cancels", detail);
        }
        self.entries[number].canceled |= said;
        let on = self.entries[number].on;
        self.loops[on].withdrew |= self.entries[number].job().is_some();
        self.stats.count("cancel", if said { "true" } else { "false" });
    }

    /// `cancel_all` said that it cancelled this many of these, which were in flight on the descriptor.
    pub(crate) fn canceled_all(&mut self, listed: &[usize], count: usize) {
        let must = |what| listed.iter().filter(|n| self.cancel_must(**n, true) == what).count();
        let (sure, perhaps) = (must(Some(true)), must(None));
        if !(sure..=sure + perhaps).contains(&count) {
            let detail = format!("{count} of {listed:?}, {sure} at least");
            self.report("cancel_all says how many it cancels", detail);
        }
        for &number in listed {
            match self.cancel_must(number, true) {
                Some(true) => self.entries[number].canceled = true,
                None => self.entries[number].perhaps_canceled = true,
                Some(false) => {}
            }
        }
        self.stats.count("cancel_all", if count > 0 { "some" } else { "none" });
    }

    /// `reset` said this; `before_ns` is the time before the call.
    pub(crate) fn reset(&mut self, number: usize, listed: bool, said: bool, before_ns: u64, us: u16) {
        let now_ns = self.now_ns();
        let entry = &self.entries[number];
        let late = entry.limit_ns.is_some_and(|limit_ns| now_ns >= limit_ns) && !entry.request.is_timer();
        let must = match () {
            () if !listed || entry.canceled => Some(false),
            () if entry.disarmed || entry.perhaps_canceled || late => None,
            // It may have been asked to end, which changed nothing.
            () if entry.request.may_be_beyond_cancel() => None,
            () => Some(true),
        };
        if must.is_some_and(|must| must != said) {
            let detail = format!("{}: {said}, listed: {listed}, {entry:?}", self.describe(number));
            self.report("reset says whether it resets", detail);
        }
        self.stats.count("reset", if said { "true" } else { "false" });
        if !said {
            return;
        }
        let on = self.entries[number].on;
        self.loops[on].withdrew |= self.entries[number].job().is_some();
        let at_ns = before_ns + u64::from(us) * 1000;
        let entry = &mut self.entries[number];
        entry.was_reset = true;
        match entry.request {
            Request::Single(work) if work.is_timer() => {
                entry.due_ns = at_ns;
                entry.limit_ns = entry.limit_ns.map(|_| at_ns);
            }
            Request::Series(Series::Every(_) | Series::EveryAfter(_)) => {
                entry.ticks.fired_before_reset |= now_ns >= entry.ticks.next_ns && !entry.in_item;
                entry.ticks.next_ns = at_ns;
            }
            _ => entry.limit_ns = Some(at_ns),
        }
    }
}
