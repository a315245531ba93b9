//! What a loop says of itself, and what the model knows.

use oxev::Loop;

use super::super::model::{model, report};
use super::super::world::world;
use super::Run;

impl Run<'_> {
    /// The loops and the model agree.
    pub(super) fn audit(&self) {
        for (on, lp) in self.loops.iter().enumerate() {
            let ((operations, _), posts) = model(|m| (m.in_flight(on), m.posts_under_way(on)));
            let len = lp.len();
            // A loop counts a post when it has seen it, and a notification for which there is no room yet.
            let most = operations + posts + if self.waited { 2 } else { 0 };
            if !(operations..=most).contains(&len) {
                report(
                    "len counts what is in flight",
                    format!("loop {on}: {len}, not {operations} to {most}"),
                );
            }
            if lp.is_empty() != (len == 0) {
                report("len counts what is in flight", format!("loop {on}: is_empty and {len}"));
            }
            self.audit_listed(on, lp, len);
            self.audit_buffers(on);
        }
    }

    pub(super) fn audit_listed(&self, on: usize, lp: &Loop, len: usize) {
        let mut seen = Vec::new();
        for op in lp.in_flight() {
            match model(|m| m.listed(on, op.id, op.kind)) {
                Ok(number) => seen.push(number),
                Err(detail) => report("in_flight lists what is in flight", detail),
            }
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() != count || count > len || count > world(|w| w.setting.capacity) {
            report(
                "in_flight lists what is in flight",
                format!("{count} listed, {} of them different", seen.len()),
            );
        }
    }

    pub(super) fn audit_buffers(&self, on: usize) {
        let life = model(|m| m.loops[on].life);
        let (available, capacity, held, empty) = world(|w| {
            let held = w.leases.iter().filter(|lease| lease.on == on && lease.life == life);
            let (held, empty) =
                held.fold((0, 0), |(all, empty), lease| (all + 1, empty + usize::from(lease.is_empty())));
            (w.bufs[on].available(), w.bufs[on].capacity(), held, empty)
        });
        // The end of a stream may need no buffer.
        if !(capacity..=capacity + empty).contains(&(available + held)) {
            let detail = format!("loop {on}: {available} available, {held} held, of {capacity}");
            report("what is not on lease is available", detail);
        }
    }
}
