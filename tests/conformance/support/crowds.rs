//! Room for descriptors: where a process may have few, only a few tests run at a time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::common::raise_descriptor_limit;

/// What most tests get along with.
const DESCRIPTORS: usize = 100;
/// What is kept free for the one test that needs more.
const DESCRIPTORS_OF_A_CROWD: usize = 700;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ONE_IS_OVER: Condvar = Condvar::new();
static CROWD: Mutex<()> = Mutex::new(());

/// A place for one test, given back when it is dropped.
pub(crate) struct Place(());

impl Place {
    /// Waits for one.
    pub(crate) fn take() -> Place {
        let room = raise_descriptor_limit().saturating_sub(DESCRIPTORS_OF_A_CROWD) / DESCRIPTORS;
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |running: &mut usize| *running >= room.max(1);
        let running = ONE_IS_OVER.wait_while(running, is_full);
        *running.unwrap_or_else(PoisonError::into_inner) += 1;
        Place(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ONE_IS_OVER.notify_one();
    }
}

/// To be held by a body that needs hundreds of descriptors: one at a time. `None` if there are never that many.
pub(crate) fn crowd() -> Option<MutexGuard<'static, ()>> {
    if raise_descriptor_limit() < DESCRIPTORS_OF_A_CROWD {
        eprintln!("not run: this process may not have {DESCRIPTORS_OF_A_CROWD} descriptors");
        return None;
    }
    Some(CROWD.lock().unwrap_or_else(PoisonError::into_inner))
}
