//! What a forked child does not have: [`Home`], a page of the process that made it.
//!
//! A loop belongs to the process that made it: the kernel works for that process, in its memory, and a child has
//! neither the rings nor the threads. A child finds the page wiped (`MADV_WIPEONFORK`, Linux 4.14). The words in
//! it are chosen so that zero keeps the child from what it must not do, where the loop looks anyway: the table
//! has room for nothing, and the run is to stop.

#![allow(unsafe_code)]

use std::io;

use crate::sync::{AtomicUsize, Ordering};

/// The words that a child finds zero.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Words {
    /// How many operations the table takes; never zero at home.
    room: AtomicUsize,
    /// Zero: the run is to stop.
    pub(crate) go: AtomicUsize,
}

/// Where the words are.
#[derive(Debug)]
pub(crate) struct Home {
    #[cfg(not(loom))]
    pages: crate::sys::pages::Pages,
    #[cfg(loom)]
    words: Words,
}

// SAFETY: S16: of the pages only the words are used, which are atomic.
#[cfg(not(loom))]
unsafe impl Send for Home {}
// SAFETY: S16: as above.
#[cfg(not(loom))]
unsafe impl Sync for Home {}

#[cfg(not(loom))]
impl Home {
    /// A home with room for this many operations, more than none.
    pub(crate) fn new(room: usize) -> io::Result<Home> {
        debug_assert!(room > 0);
        let pages = crate::sys::pages::Pages::of_this_process(size_of::<Words>())?;
        let words = Words { room: AtomicUsize::new(room), go: AtomicUsize::new(1) };
        // SAFETY: S16: the pages are ours alone, and large enough.
        unsafe { pages.base().cast::<Words>().write(words) };
        Ok(Home { pages })
    }

    #[inline(always)]
    pub(crate) fn words(&self) -> &Words {
        // SAFETY: S16: they were written above; in a child they are zero, which is a value, too.
        unsafe { &*self.pages.base().cast_const().cast::<Words>() }
    }

    /// This process is a child of the one whose home it is.
    #[inline(always)]
    pub(crate) fn is_inherited(&self) -> bool {
        self.words().room() == 0
    }
}

impl Words {
    #[inline(always)]
    pub(crate) fn is_to_stop(&self) -> bool {
        self.go.load(Ordering::Relaxed) == 0
    }
}

#[cfg(not(loom))]
impl Words {
    #[inline(always)]
    pub(crate) fn room(&self) -> usize {
        // Relaxed: the word is never written again.
        self.room.load(Ordering::Relaxed)
    }
}

/// In a model there are no processes.
#[cfg(loom)]
impl Home {
    pub(crate) fn new(room: usize) -> io::Result<Home> {
        // The room is not loaded: it would be one more choice for each operation.
        let words = Words { room: AtomicUsize::new(room), go: AtomicUsize::new(1) };
        Ok(Home { words })
    }

    pub(crate) fn words(&self) -> &Words {
        &self.words
    }

    pub(crate) fn is_inherited(&self) -> bool {
        false
    }
}

#[cfg(loom)]
impl Words {
    pub(crate) fn room(&self) -> usize {
        // SAFETY: it is never written.
        unsafe { self.room.unsync_load() }
    }
}
