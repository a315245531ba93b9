//! An atomic in memory that another type owns. Loom's atomics are larger than what they stand for, so they
//! are kept aside, by address.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::Mutex;

use loom::sync::atomic;

pub(crate) struct AtomicU16(atomic::AtomicU16);

loom::lazy_static! {
    /// Loom forgets it after each execution. Its lock is the standard library's, which loom does not see: it
    /// makes no order.
    static ref BY_ADDRESS: Mutex<HashMap<usize, &'static AtomicU16>> = Mutex::new(HashMap::new());
}

impl AtomicU16 {
    /// # Safety
    /// As of the standard library's.
    pub(crate) unsafe fn from_ptr<'a>(place: *mut u16) -> &'a AtomicU16 {
        let mut by_address = BY_ADDRESS.lock().unwrap();
        // SAFETY: the caller's promise.
        let first = || AtomicU16(atomic::AtomicU16::new(unsafe { *place }));
        by_address.entry(place.addr()).or_insert_with(|| Box::leak(Box::new(first())))
    }
}

impl std::ops::Deref for AtomicU16 {
    type Target = atomic::AtomicU16;
    fn deref(&self) -> &atomic::AtomicU16 {
        &self.0
    }
}
