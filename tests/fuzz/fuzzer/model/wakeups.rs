//! Posts and notifications.

use super::super::random::mix;
use super::Model;
use super::entry::State;

#[derive(Debug, Default)]
pub(super) struct NotifierModel {
    pub(super) notified: u64,
    pub(super) completed: u64,
}

#[derive(Debug)]
pub(super) struct PostModel {
    pub(super) on: usize,
    pub(super) life: usize,
    pub(super) elsewhere: bool,
    pub(super) arrived: bool,
}

impl Model {
    pub(crate) fn notified(&mut self, notifier: usize) {
        self.notifiers[notifier].notified += 1;
        let mut waits = self
            .entries
            .iter_mut()
            .filter(|e| e.state == State::InFlight && e.request.notifier() == Some(notifier) && !e.contested);
        if let (Some(one), None) = (waits.next(), waits.next()) {
            one.owed = true;
        }
    }

    pub(super) fn notified_wait(&mut self, notifier: usize) {
        let n = &mut self.notifiers[notifier];
        n.completed += 1;
        if n.completed > n.notified {
            let detail = format!("{n:?}");
            self.report("a wait ends when its notifier is notified", detail);
        }
    }

    pub(crate) fn begin_post(&mut self, on: usize, life: usize, elsewhere: bool) -> usize {
        self.posts.push(PostModel { on, life, elsewhere, arrived: false });
        self.posts.len() - 1
    }

    /// A post arrives: those of one thread in their order.
    pub(crate) fn post_arrived(&mut self, number: usize, address: usize) -> usize {
        let PostModel { on, life, elsewhere, arrived } = self.posts[number];
        self.digest(mix(number as u64) ^ (4 << 40));
        self.enter_callback(on, life, address, u64::MAX);
        if arrived {
            self.report("each callback runs exactly once", format!("post {number}"));
        }
        self.posts[number].arrived = true;
        let last = self.last_posts.insert((on, life, elsewhere), number);
        if last.is_some_and(|last| last > number) {
            self.report("posts of one thread arrive in their order", format!("post {number} after {last:?}"));
        }
        self.stats.count("post", "arrived");
        on
    }

    /// How many posts there have been.
    pub(crate) fn posts(&self) -> usize {
        self.posts.len()
    }

    pub(crate) fn posts_under_way(&self, on: usize) -> usize {
        let life = self.loops[on].life;
        self.posts.iter().filter(|p| p.on == on && p.life == life && !p.arrived).count()
    }
}
