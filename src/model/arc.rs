//! [`Arc`], with the orderings of the standard library's: loom's own cannot tell its count, which the loop
//! asks for.

#![allow(unsafe_code)]

use std::fmt;
use std::mem::offset_of;
use std::ops::Deref;
use std::ptr::NonNull;

use loom::alloc::Track;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering, fence};

pub(crate) struct Arc<T>(NonNull<Inner<T>>);

struct Inner<T> {
    count: AtomicUsize,
    /// Read by every use, written by the end: loom complains if a use does not come before the end.
    alive: UnsafeCell<()>,
    /// Loom complains if it is there when the model is over.
    _leak: Track<()>,
    value: T,
}

// SAFETY: as for the standard library's.
unsafe impl<T: Send + Sync> Send for Arc<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Arc<T> {}

impl<T> Arc<T> {
    pub(crate) fn new(value: T) -> Arc<T> {
        let (count, alive) = (AtomicUsize::new(1), UnsafeCell::new(()));
        Arc(NonNull::from(Box::leak(Box::new(Inner { count, alive, _leak: Track::new(()), value }))))
    }

    fn inner(&self) -> &Inner<T> {
        // SAFETY: this is one of its counts; if that is wrong, loom finds out by `alive`.
        let inner = unsafe { self.0.as_ref() };
        inner.alive.with(|_| ());
        inner
    }

    pub(crate) fn strong_count(this: &Arc<T>) -> usize {
        this.inner().count.load(Ordering::Relaxed)
    }

    pub(crate) fn as_ptr(this: &Arc<T>) -> *const T {
        this.0.as_ptr().cast_const().wrapping_byte_add(offset_of!(Inner<T>, value)).cast()
    }

    pub(crate) fn into_raw(this: Arc<T>) -> *const T {
        let value = Arc::as_ptr(&this);
        std::mem::forget(this);
        value
    }

    /// # Safety
    /// As of the standard library's.
    pub(crate) unsafe fn from_raw(value: *const T) -> Arc<T> {
        let inner = value.wrapping_byte_sub(offset_of!(Inner<T>, value)).cast::<Inner<T>>().cast_mut();
        // SAFETY: it came from `into_raw`.
        Arc(unsafe { NonNull::new_unchecked(inner) })
    }
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Arc<T> {
        self.inner().count.fetch_add(1, Ordering::Relaxed);
        Arc(self.0)
    }
}

impl<T> Drop for Arc<T> {
    fn drop(&mut self) {
        if self.inner().count.fetch_sub(1, Ordering::Release) > 1 {
            return;
        }
        fence(Ordering::Acquire);
        // SAFETY: that was the last count.
        let inner = unsafe { Box::from_raw(self.0.as_ptr()) };
        inner.alive.with_mut(|_| ());
    }
}

impl<T> Deref for Arc<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner().value
    }
}

impl<T: fmt::Debug> fmt::Debug for Arc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
