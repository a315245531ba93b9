//! Programs that have their loops in another one: they wait for the loops' descriptors, by poll(2) or by an epoll that tells of each change
//! once. The rule that they prove: whatever happened, if there is anything for `run(NoWait)` to do, the descriptor is readable or
//! `next_timeout` says when.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use oxev::Loop;

use super::super::model::{model, report};
use super::super::program::{Backend, Embedding, Mode};
use super::super::world::world;
use super::Run;

/// For what a kernel or a thread pool does meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the descriptor of one loop is watched.
pub(crate) struct Watch {
    /// `None`: by poll(2).
    epoll: Option<Epoll>,
    /// The epoll has told of a change, and the loop has not been run since.
    edge: bool,
}

impl Watch {
    /// Begins to watch a loop. From here on it shows what it has to do.
    pub(crate) fn new(lp: &Loop, embedding: Embedding) -> Option<Watch> {
        let fd = match embedding {
            Embedding::No => return None,
            Embedding::Poll | Embedding::Edge => lp.as_fd(),
        };
        let epoll = (embedding == Embedding::Edge).then(|| {
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("a descriptor is left");
            let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
            epoll.add(fd, event).expect("a loop's descriptor can be watched");
            epoll
        });
        Some(Watch { epoll, edge: false })
    }

    /// Whether the loop's descriptor is readable, or was since the loop was run.
    fn is_readable(&mut self, lp: &Loop) -> bool {
        match &self.epoll {
            None => wait_for(&[lp.as_fd()], Duration::ZERO),
            Some(epoll) => {
                let mut events = [EpollEvent::empty()];
                self.edge |= epoll.wait(&mut events, EpollTimeout::ZERO).is_ok_and(|count| count > 0);
                self.edge
            }
        }
    }

    /// What to wait for beside other descriptors.
    fn fd<'a>(&'a self, lp: &'a Loop) -> BorrowedFd<'a> {
        self.epoll.as_ref().map_or(lp.as_fd(), |epoll| epoll.0.as_fd())
    }
}

/// Waits until one of these is readable. `false`: none is.
fn wait_for(fds: &[BorrowedFd<'_>], timeout: Duration) -> bool {
    let mut polls: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    let timeout_ms = timeout.as_micros().div_ceil(1000);
    poll(&mut polls, PollTimeout::try_from(timeout_ms).unwrap_or(PollTimeout::MAX)).is_ok_and(|n| n > 0)
}

impl Run<'_> {
    /// Whether a loop shows that there is something to do.
    fn shows(&mut self, on: usize) -> bool {
        let lp = &mut self.loops[on];
        let Some(watch) = world(|w| w.watches[on].take()) else { return false };
        let mut watch = watch;
        let shows = watch.is_readable(lp) || lp.next_timeout().is_some_and(|timeout| timeout.is_zero());
        // What `next_timeout` has begun may be over.
        let shows = shows || watch.is_readable(lp);
        world(|w| w.watches[on] = Some(watch));
        shows
    }

    /// Runs a loop as a program does that was told to.
    fn run_shown(&mut self, on: usize) {
        world(|w| w.watches[on].iter_mut().for_each(|watch| watch.edge = false));
        model(|m| m.stats.count("run", "when shown"));
        self.run(on, Mode::NoWait);
    }

    /// What has surely something to do shows it.
    pub(super) fn audit_embedded(&mut self) {
        if world(|w| w.setting.embedding) == Embedding::No {
            return;
        }
        if world(|w| w.poster.is_busy()) {
            if self.random.one_in(2) {
                return;
            }
            self.settle_poster();
        }
        for on in 0..self.loops.len() {
            if self.backend != Backend::Sim && self.random.one_in(8) {
                self.await_work(on);
            }
            let Some(what) = model(|m| m.has_work(on)) else { continue };
            if self.random.one_in(4) {
                self.flush(on);
            }
            if !self.shows(on) {
                report("a loop shows what it has to do", format!("loop {on}: {what}"));
            }
            model(|m| m.stats.count("embedded", what));
        }
    }

    /// What should come to a loop shows when it has come.
    fn await_work(&mut self, on: usize) {
        let Some(what) = self.why_stuck(on) else { return };
        let end = Instant::now() + PATIENCE;
        while !self.shows(on) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return report("a loop shows what it has to do", what);
            }
            self.wait(&[on], left);
        }
        model(|m| m.stats.count("embedded", "something that comes"));
    }

    /// Waits for a loop and runs it, for so long.
    pub(super) fn drive(&mut self, on: usize, us: u16) {
        if self.backend == Backend::Sim {
            return self.drive_simulated(on, us);
        }
        let end = Instant::now() + Duration::from_micros(u64::from(us));
        loop {
            if self.shows(on) {
                self.run_shown(on);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || model(|m| !m.violations.is_empty()) {
                return;
            }
            self.wait(&[on], left);
        }
    }

    /// The same, in virtual time, which passes because it is told to.
    fn drive_simulated(&mut self, on: usize, us: u16) {
        /// What only time brings does not show.
        const STEP: Duration = Duration::from_micros(100);
        let end = model(|m| m.now_ns()) + u64::from(us) * 1000;
        while model(|m| m.now_ns() < end && m.violations.is_empty()) {
            if self.shows(on) {
                self.run_shown(on);
                continue;
            }
            let timeout = self.loops[on].next_timeout().unwrap_or(STEP).min(STEP);
            super::super::environment::advance(timeout.max(Duration::from_nanos(1)));
            self.run(on, Mode::NoWait);
        }
    }

    /// Waits for some loops, for so long at most.
    fn wait(&mut self, which: &[usize], limit: Duration) {
        let timeouts = which.iter().filter_map(|&on| self.loops[on].next_timeout());
        let timeout = timeouts.chain([limit]).min().unwrap_or(limit);
        let watches = world(|w| std::mem::take(&mut w.watches));
        let fds: Vec<_> =
            which.iter().filter_map(|&on| Some(watches[on].as_ref()?.fd(&self.loops[on]))).collect();
        wait_for(&fds, timeout);
        world(|w| w.watches = watches);
    }

    /// One round of a program that has all its loops in another one: what shows is run, else it waits.
    pub(super) fn drive_all(&mut self, limit: Duration) {
        let all: Vec<usize> = (0..self.loops.len()).collect();
        let mut idle = true;
        for &on in &all {
            if self.shows(on) {
                self.run_shown(on);
                idle = false;
            }
        }
        if idle {
            self.wait(&all, limit);
        }
    }
}
