//! The pool's state in one word, and the only code that changes it. README.md tells the protocol.

use std::sync::atomic::Ordering::SeqCst;

use super::{
    event::Event,
    sync::{AtomicU32, CachePadded, read},
};

/// Bits of one count.
const COUNT_BITS: u32 = 14;
/// The most threads that the word can count.
pub(super) const THREADS_MAX: usize = (1 << COUNT_BITS) - 1;
const ONE_IDLE: u32 = 1;
const ONE_SPAWNED: u32 = 1 << COUNT_BITS;
const NOTIFIED: u32 = 1 << (2 * COUNT_BITS);
const PHASE_SHIFT: u32 = 2 * COUNT_BITS + 1;
const STARTED: u32 = 1 << 31;

/// What is under way to bring another worker to the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing.
    Pending = 0,
    /// A sleeper has been woken, or a thread is being made, and has not come to the word yet.
    Signaled = 1,
    /// That worker has come and is searching.
    Waking = 2,
    /// The end: no more waking, no more sleeping.
    ShutDown = 3,
}

#[derive(Clone, Copy)]
struct Word(u32);

impl Word {
    fn idle(self) -> usize {
        (self.0 % ONE_SPAWNED) as usize
    }

    fn spawned(self) -> usize {
        (self.0 / ONE_SPAWNED % (1 << COUNT_BITS)) as usize
    }

    fn notified(self) -> bool {
        self.0 & NOTIFIED != 0
    }

    fn started(self) -> bool {
        self.0 & STARTED != 0
    }

    fn phase(self) -> Phase {
        match self.0 >> PHASE_SHIFT & 3 {
            0 => Phase::Pending,
            1 => Phase::Signaled,
            2 => Phase::Waking,
            _ => Phase::ShutDown,
        }
    }

    fn with_phase(self, phase: Phase) -> Word {
        Word(self.0 & !(3 << PHASE_SHIFT) | (phase as u32) << PHASE_SHIFT)
    }

    fn with_notified(self) -> Word {
        Word(self.0 | NOTIFIED)
    }
}

/// What the caller of a transition has to do after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Wake {
    /// Nothing.
    None,
    /// Notify the event: a worker sleeps there.
    Sleeper,
    /// Make a thread; it is counted already. If that fails, call [`SyncState::spawn_failed`].
    NewThread,
}

/// See the module's text.
pub(super) struct SyncState {
    word: CachePadded<AtomicU32>,
    threads_max: usize,
}

impl SyncState {
    pub(super) fn new(threads_max: usize) -> SyncState {
        assert!((1..=THREADS_MAX).contains(&threads_max));
        SyncState { word: CachePadded(AtomicU32::new(0)), threads_max }
    }

    #[inline]
    fn load(&self) -> Word {
        Word(read!(self.word))
    }

    /// Changes the word if it still is `from`; otherwise says what it is now.
    #[inline]
    fn change(&self, from: Word, to: Word) -> Result<(), Word> {
        match self.word.compare_exchange_weak(from.0, to.0, SeqCst, SeqCst) {
            Ok(_) => Ok(()),
            Err(seen) => Err(Word(seen)),
        }
    }

    #[inline]
    pub(super) fn is_shut_down(&self) -> bool {
        self.load().phase() == Phase::ShutDown
    }

    /// Whether there has ever been a worker: from then on there is one until the shutdown.
    #[inline]
    pub(super) fn is_started(&self) -> bool {
        self.load().started()
    }

    /// Threads that exist or are being made.
    pub(super) fn spawned(&self) -> usize {
        self.load().spawned()
    }

    /// After tasks were pushed: makes sure that a worker comes for them.
    #[inline]
    pub(super) fn notify(&self) -> Wake {
        let word = self.load();
        if word.notified() {
            // The worker that takes that mark searches after it, and our push came before this read.
            return Wake::None;
        }
        self.wake_another(word)
    }

    /// As `notify`, by a worker that knows that there is more than it can run. It does not stop at a mark
    /// that stands: after a failed spawn the mark may stand for long with no worker on the way.
    pub(super) fn notify_more(&self) -> Wake {
        self.wake_another(self.load())
    }

    #[cold]
    fn wake_another(&self, mut word: Word) -> Wake {
        loop {
            let (next, wake) = match word.phase() {
                Phase::ShutDown => return Wake::None,
                Phase::Pending => self.with_wake(word),
                Phase::Signaled | Phase::Waking => (word.with_notified(), Wake::None),
            };
            if next.0 == word.0 {
                return Wake::None;
            }
            match self.change(word, next) {
                Ok(()) => return wake,
                Err(seen) => word = seen,
            }
        }
    }

    /// The word after a worker was called, or with a mark only if there is none to call.
    fn with_wake(&self, word: Word) -> (Word, Wake) {
        let word = word.with_notified();
        if word.idle() > 0 {
            (word.with_phase(Phase::Signaled), Wake::Sleeper)
        } else if word.spawned() < self.threads_max {
            let counted = Word(word.0 + ONE_SPAWNED);
            (counted.with_phase(Phase::Signaled), Wake::NewThread)
        } else {
            (word.with_phase(Phase::Pending), Wake::None)
        }
    }

    /// The waking worker has found work and gives up its part: to another one if there is `more` or the mark
    /// was set meanwhile. `None`: no worker was called, and the caller has to look through the queues once more.
    pub(super) fn hand_over(&self, more: bool) -> Option<Wake> {
        let mut word = self.load();
        loop {
            let (next, wake) = match word.phase() {
                Phase::ShutDown => return Some(Wake::None),
                Phase::Waking if more || word.notified() => {
                    let (next, wake) = self.with_wake(word);
                    (next, Some(wake))
                }
                Phase::Waking => (word.with_phase(Phase::Pending), None),
                phase @ (Phase::Pending | Phase::Signaled) => {
                    unreachable!("the waking worker found the phase {phase:?}")
                }
            };
            match self.change(word, next) {
                Ok(()) => return wake,
                Err(seen) => word = seen,
            }
        }
    }

    /// A worker that has found nothing waits for a mark and takes it. Returns whether it is the waking worker
    /// now (which it may be already: `waking`), or nothing when the pool has been shut down.
    pub(super) fn wait(&self, event: &Event, mut waking: bool) -> Option<bool> {
        let mut idle = false;
        let mut word = self.load();
        loop {
            if word.phase() == Phase::ShutDown {
                return None;
            }
            let next = if word.notified() {
                let next = Word(word.0 - NOTIFIED - if idle { ONE_IDLE } else { 0 });
                match word.phase() {
                    Phase::Signaled => next.with_phase(Phase::Waking),
                    Phase::Pending | Phase::Waking | Phase::ShutDown => next,
                }
            } else if !idle {
                let next = Word(word.0 + ONE_IDLE);
                if waking { next.with_phase(Phase::Pending) } else { next }
            } else {
                event.wait();
                word = self.load();
                continue;
            };
            match self.change(word, next) {
                Err(seen) => word = seen,
                Ok(()) if word.notified() => {
                    return Some(waking || word.phase() == Phase::Signaled);
                }
                Ok(()) => {
                    (idle, waking, word) = (true, false, next);
                }
            }
        }
    }

    /// Counts the first thread before it is made, and sets the mark for it, so that the pushes that it is
    /// made for do not call another one. False: the pool has been shut down. Only under the pool's lock for
    /// threads.
    pub(super) fn first_spawn_begins(&self) -> bool {
        let first = Word(ONE_SPAWNED).with_notified().with_phase(Phase::Signaled);
        self.word.compare_exchange(0, first.0, SeqCst, SeqCst).is_ok()
    }

    /// The first thread has been made, or not. In that case nothing was pushed either, so that the mark can
    /// go.
    pub(super) fn first_spawn_ends(&self, made: bool) {
        if made {
            self.word.fetch_or(STARTED, SeqCst);
            return;
        }
        let mut word = self.load();
        loop {
            let next = match word.phase() {
                Phase::ShutDown => Word(0).with_phase(Phase::ShutDown),
                Phase::Pending | Phase::Signaled | Phase::Waking => Word(0),
            };
            match self.change(word, next) {
                Ok(()) => return,
                Err(seen) => word = seen,
            }
        }
    }

    /// As if this many threads had been made, the last of them just now, and none had come to the word yet.
    #[cfg(all(test, loom))]
    pub(super) fn start_with(&self, threads: u32) {
        let word = Word(threads * ONE_SPAWNED + STARTED).with_notified();
        self.word.store(word.with_phase(Phase::Signaled).0, SeqCst);
    }

    /// The thread that was counted by [`Wake::NewThread`] could not be made. The mark stays, so that no
    /// worker goes to sleep without a search; the phase goes back, so that others can be called.
    pub(super) fn spawn_failed(&self) {
        let mut word = self.load();
        loop {
            let uncounted = Word(word.0 - ONE_SPAWNED);
            let next = match word.phase() {
                Phase::Signaled => uncounted.with_phase(Phase::Pending),
                Phase::Pending | Phase::Waking | Phase::ShutDown => uncounted,
            };
            match self.change(word, next) {
                Ok(()) => return,
                Err(seen) => word = seen,
            }
        }
    }

    /// No more waiting from now on. The caller closes the event after it.
    pub(super) fn shut_down(&self) {
        self.word.fetch_or(3 << PHASE_SHIFT, SeqCst);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn started(threads_max: usize) -> (SyncState, Event) {
        let (sync, event) = (SyncState::new(threads_max), Event::new());
        assert!(sync.first_spawn_begins());
        sync.first_spawn_ends(true);
        (sync, event)
    }

    #[test]
    fn the_first_thread_is_the_waking_worker_and_calls_no_other_for_nothing() {
        let (sync, event) = started(2);
        assert_eq!(sync.notify(), Wake::None);
        assert_eq!(sync.wait(&event, false), Some(true));
        assert_eq!(sync.hand_over(false), None);
        assert_eq!(sync.spawned(), 1);
    }

    #[test]
    fn only_one_worker_is_called_at_a_time_and_a_mark_stays_for_the_rest() {
        let (sync, event) = started(3);
        assert_eq!(sync.wait(&event, false), Some(true));
        assert_eq!(sync.hand_over(false), None);
        assert_eq!(sync.notify(), Wake::NewThread);
        assert_eq!(sync.notify(), Wake::None);
        assert_eq!(sync.notify_more(), Wake::None);
        // The new thread comes, becomes the waking one, and is told meanwhile that there is more.
        assert_eq!(sync.wait(&event, false), Some(true));
        assert_eq!(sync.notify(), Wake::None);
        assert_eq!(sync.hand_over(false), Some(Wake::NewThread));
        assert_eq!(sync.wait(&event, false), Some(true));
        // All threads exist and are busy: only the mark is left.
        assert_eq!(sync.hand_over(true), Some(Wake::None));
        assert_eq!(sync.spawned(), 3);
        assert_eq!(sync.wait(&event, false), Some(false));
    }

    #[test]
    fn a_sleeper_is_woken_before_a_thread_is_made_and_counts_as_idle_no_more() {
        let (sync, event) = started(2);
        assert_eq!(sync.wait(&event, false), Some(true));
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| sync.wait(&event, true));
            while sync.load().idle() == 0 {
                std::thread::yield_now();
            }
            assert_eq!(sync.notify(), Wake::Sleeper);
            event.notify();
            assert_eq!(sleeper.join().unwrap(), Some(true));
        });
        assert_eq!(sync.load().idle(), 0);
        assert_eq!(sync.hand_over(true), Some(Wake::NewThread));
    }

    #[test]
    fn a_refused_thread_leaves_the_mark_and_can_be_asked_for_again() {
        let (sync, event) = started(2);
        assert_eq!(sync.wait(&event, false), Some(true));
        assert_eq!(sync.hand_over(false), None);
        assert_eq!(sync.notify(), Wake::NewThread);
        sync.spawn_failed();
        assert_eq!(sync.spawned(), 1);
        assert_eq!(sync.notify(), Wake::None);
        assert_eq!(sync.notify_more(), Wake::NewThread);
        sync.spawn_failed();
        assert_eq!(sync.wait(&event, false), Some(false), "it searches once more");
    }

    #[test]
    fn a_refused_first_thread_leaves_nothing() {
        let sync = SyncState::new(1);
        assert!(sync.first_spawn_begins());
        sync.first_spawn_ends(false);
        assert_eq!(sync.load().0, 0);
        assert!(sync.first_spawn_begins());
        sync.shut_down();
        sync.first_spawn_ends(false);
        assert!(sync.is_shut_down());
        assert_eq!(sync.spawned(), 0);
        assert!(!sync.first_spawn_begins());
    }

    #[test]
    fn after_the_shutdown_no_worker_waits_and_none_is_called() {
        let (sync, event) = started(2);
        assert_eq!(sync.wait(&event, false), Some(true));
        sync.shut_down();
        assert_eq!(sync.hand_over(true), Some(Wake::None));
        assert_eq!(sync.notify(), Wake::None);
        assert_eq!(sync.notify_more(), Wake::None);
        assert_eq!(sync.wait(&event, false), None);
    }

    #[test]
    fn the_counts_do_not_run_into_each_other_at_their_maximum() {
        let sync = SyncState::new(THREADS_MAX);
        let full = THREADS_MAX as u32;
        sync.word.store(full * ONE_SPAWNED + full, SeqCst);
        let word = sync.load();
        assert_eq!((word.idle(), word.spawned()), (THREADS_MAX, THREADS_MAX));
        assert_eq!(word.phase(), Phase::Pending);
        assert!(!word.notified() && !word.started());
        let all = word.with_notified().with_phase(Phase::ShutDown);
        assert_eq!((all.idle(), all.spawned()), (THREADS_MAX, THREADS_MAX));
        assert_eq!(all.0 | STARTED, u32::MAX);
    }
}
