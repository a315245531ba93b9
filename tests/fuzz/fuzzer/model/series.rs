//! The items of operations that give several results.

use super::super::program::Series;
use super::super::random::mix;
use super::Model;
use super::entry::{Entry, State, Ticks};
use super::request::Request;

impl Model {
    /// An item of a series comes; `value` is its number of periods.
    pub(crate) fn item(&mut self, number: usize, address: usize, value: u64) {
        let now_ns = self.now_ns();
        let Entry { on, life, submitted_in_run, state, disarmed, request, in_item, .. } =
            self.entries[number];
        self.stats.count(request.name(), "item");
        self.digest(mix(number as u64) ^ (3 << 40) ^ value);
        self.enter_callback(on, life, address, submitted_in_run);
        let rule = match () {
            () if state != State::InFlight => Some("items come between submit and the end"),
            () if disarmed && !request.brings_resources() => Some("no tick comes after Disarm"),
            () if in_item => Some("one item callback at a time"),
            () if self.entries[number].refused => Some("a full table refuses an operation"),
            () => None,
        };
        if let Some(rule) = rule {
            self.report(rule, self.describe(number));
        }
        let entry = &mut self.entries[number];
        entry.items += 1;
        entry.owed = false;
        entry.in_item = true;
        match request {
            Request::Series(Series::Every(_) | Series::EveryAfter(_)) => self.tick(number, now_ns, value),
            Request::Series(Series::Accept) => self.accepted(),
            Request::Series(Series::Wait { notifier }) => self.notified_wait(usize::from(notifier)),
            _ => {}
        }
    }

    pub(super) fn tick(&mut self, number: usize, now_ns: u64, periods: u64) {
        let entry = &mut self.entries[number];
        let Ticks { period_ns, next_ns, .. } = entry.ticks;
        let fixed_delay = matches!(entry.request, Request::Series(Series::EveryAfter(_)));
        if std::mem::take(&mut entry.ticks.fired_before_reset) {
            // It may be from before, and then says nothing of what comes.
            return;
        }
        let wrong = periods == 0
            || fixed_delay && periods != 1
            || now_ns < next_ns.saturating_add((periods - 1).saturating_mul(period_ns));
        entry.ticks.next_ns = match fixed_delay {
            true => now_ns + period_ns,
            false => next_ns + periods * period_ns,
        };
        if wrong {
            let detail =
                format!("{}: {periods} periods at {now_ns}, not before {next_ns}", self.describe(number));
            self.report("a repeating timer is never early", detail);
        }
    }

    /// An item callback is over, or will be by a panic.
    pub(crate) fn item_over(&mut self, number: usize, disarms: bool) {
        let now_ns = self.now_ns();
        let entry = &mut self.entries[number];
        entry.in_item = false;
        entry.disarmed |= disarms;
        if matches!(entry.request, Request::Series(Series::EveryAfter(_))) && !entry.was_reset {
            // The delay counts from the end of the callback.
            entry.ticks.next_ns = now_ns + entry.ticks.period_ns;
        }
        entry.was_reset = false;
    }
}
