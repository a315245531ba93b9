//! A place to sleep that keeps one wake-up.
//!
//! An auto-reset event: `notify` before `wait` is kept, two of them are one. It says only "look again": what
//! there is to see stands in the word of `sync_state.rs`.

use super::sync::{AtomicU32, Ordering};
use crate::sys::futex::Futex;

/// No wake-up kept, and no thread asleep that is not being woken already.
const EMPTY: u32 = 0;
/// A thread may be asleep.
const WAITING: u32 = 1;
/// One wake-up is kept.
const NOTIFIED: u32 = 2;
/// Every wait returns at once, for good.
const CLOSED: u32 = 3;

/// See the module's text.
pub(super) struct Event {
    word: AtomicU32,
    futex: Futex,
}

impl Event {
    pub(super) fn new() -> Event {
        Event { word: AtomicU32::new(EMPTY), futex: Futex::new() }
    }

    /// Sleeps until a wake-up is there, and takes it; returns at once when the event is closed.
    pub(super) fn wait(&self) {
        // What to leave behind when the wake-up is taken. A thread that slept cannot know whether it was the
        // only one, so it leaves WAITING: at worst the next `notify` makes one system call too many.
        let mut left_behind = EMPTY;
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let next = match word {
                NOTIFIED => left_behind,
                EMPTY => WAITING,
                WAITING => {
                    self.futex.wait(&self.word, WAITING);
                    left_behind = WAITING;
                    word = self.word.load(Ordering::Acquire);
                    continue;
                }
                _ => return,
            };
            match self.word.compare_exchange_weak(word, next, Ordering::Acquire, Ordering::Acquire) {
                Ok(NOTIFIED) => return,
                Ok(_) => word = next,
                Err(seen) => word = seen,
            }
        }
    }

    /// Leaves a wake-up for one thread, asleep or not yet.
    pub(super) fn notify(&self) {
        let mut word = self.word.load(Ordering::Relaxed);
        while word != CLOSED {
            // Written even when one is kept already: the thread that takes it must see what came before this
            // call.
            match self.word.compare_exchange_weak(word, NOTIFIED, Ordering::Release, Ordering::Relaxed) {
                Ok(WAITING) => return self.futex.wake_one(&self.word),
                Ok(_) => return,
                Err(seen) => word = seen,
            }
        }
    }

    /// Wakes everybody, now and from now on.
    pub(super) fn close(&self) {
        if self.word.swap(CLOSED, Ordering::AcqRel) != CLOSED {
            self.futex.wake_all(&self.word);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    #[test]
    fn a_wake_up_before_the_wait_is_kept() {
        let event = Event::new();
        event.notify();
        event.notify();
        event.wait();
        assert_eq!(event.word.load(Ordering::Relaxed), EMPTY, "two are one");
    }

    #[test]
    fn a_closed_event_holds_no_thread_and_stays_closed() {
        let event = Arc::new(Event::new());
        let sleepers: Vec<_> = (0..3)
            .map(|_| {
                let event = Arc::clone(&event);
                thread::spawn(move || event.wait())
            })
            .collect();
        event.close();
        for sleeper in sleepers {
            sleeper.join().unwrap();
        }
        event.notify();
        event.wait();
        event.wait();
    }

    #[test]
    fn every_sleeper_is_woken_by_a_wake_up_of_its_own() {
        let event = Arc::new(Event::new());
        let (woken, woken_count) = std::sync::mpsc::channel();
        let sleepers: Vec<_> = (0..4)
            .map(|_| {
                let (event, woken) = (Arc::clone(&event), woken.clone());
                thread::spawn(move || {
                    event.wait();
                    woken.send(()).unwrap();
                })
            })
            .collect();
        for _ in 0..4 {
            event.notify();
            // The next wake-up only after this one was taken: two at once would be one.
            woken_count.recv().unwrap();
        }
        for sleeper in sleepers {
            sleeper.join().unwrap();
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::{sync::Arc, sync::atomic::AtomicBool, thread};

    use super::*;

    #[test]
    fn a_wake_up_is_never_lost_and_carries_what_was_written_before_it() {
        loom::model(|| {
            let shared = Arc::new((Event::new(), AtomicBool::new(false)));
            let waker = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.1.store(true, Ordering::Relaxed);
                    shared.0.notify();
                })
            };
            shared.0.wait();
            assert!(shared.1.load(Ordering::Relaxed));
            waker.join().unwrap();
        });
    }

    #[test]
    fn two_sleepers_and_two_wake_ups_in_turn_leave_no_thread_asleep() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Arc::new((Event::new(), Event::new()));
            let sleepers: Vec<_> = (0..2)
                .map(|_| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || {
                        shared.0.wait();
                        shared.1.notify();
                    })
                })
                .collect();
            for _ in 0..2 {
                shared.0.notify();
                shared.1.wait();
            }
            for sleeper in sleepers {
                sleeper.join().unwrap();
            }
        });
    }

    #[test]
    fn closing_wakes_sleepers_also_while_a_wake_up_is_on_its_way() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let event = Arc::new(Event::new());
            let sleepers: Vec<_> = (0..2)
                .map(|_| {
                    let event = Arc::clone(&event);
                    thread::spawn(move || event.wait())
                })
                .collect();
            event.notify();
            event.close();
            for sleeper in sleepers {
                sleeper.join().unwrap();
            }
        });
    }
}
