//! What tells files with the same descriptor number apart: how often the number has come to name a descriptor of
//! ours. It is for backends that remember something of a descriptor beyond an operation; without such a loop in
//! the process nothing is counted, and no memory is taken.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::memory::{self, Zeroed};
use crate::sys::RawDescriptor;

/// Numbers from here on have no generation; hardly a process has so many descriptors.
pub(crate) const DESCRIPTORS_MAX: usize = 1 << 20;

/// Zero at first, so pages of numbers that are never used are never touched.
type Counts = [AtomicU32; DESCRIPTORS_MAX];

static COUNTS: OnceLock<Box<Counts>> = OnceLock::new();

#[allow(unsafe_code)]
// SAFETY: an integer.
unsafe impl Zeroed for AtomicU32 {}

/// The number names a new descriptor of ours.
///
/// A thread that finds nothing counted yet is right: had a loop that counts ever had a file of this number, the
/// file was closed before this one got the number, and the kernel's lock on the table of descriptors orders the
/// two.
#[inline]
pub(crate) fn begin(fd: RawDescriptor) {
    if let Some(count) = COUNTS.get().and_then(|counts| place(counts, fd)) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[inline]
fn place(counts: &Counts, fd: RawDescriptor) -> Option<&AtomicU32> {
    usize::try_from(fd).ok().and_then(|index| counts.get(index))
}

/// The generations of all descriptors, for a loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Generations(&'static Counts);

impl Generations {
    /// From now on they are counted.
    pub(crate) fn new() -> io::Result<Generations> {
        if COUNTS.get().is_none() {
            let counts: Box<[AtomicU32]> = memory::table(DESCRIPTORS_MAX)?;
            let counts: Result<Box<Counts>, _> = counts.try_into();
            // If another thread was faster its counts stand.
            let _ = COUNTS.set(counts.expect("the table is as long as it was asked to be"));
        }
        Ok(Generations(COUNTS.get().expect("it was set before")))
    }

    /// It changes whenever the number comes to name a descriptor of ours. Numbers that have none stay at zero.
    #[inline(always)]
    pub(crate) fn of(self, fd: RawDescriptor) -> u32 {
        // Relaxed: a thread that uses a descriptor got it, one way or another, from the thread that made it.
        place(self.0, fd).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::Descriptor;
    use std::os::fd::OwnedFd;

    #[test]
    fn a_number_that_is_used_again_has_another_generation() {
        let generations = Generations::new().unwrap();
        let descriptor = Descriptor::from(OwnedFd::from(std::io::pipe().unwrap().0));
        let (fd, first) = (descriptor.number(), generations.of(descriptor.number()));
        let again = Descriptor::from(descriptor.into_owned());
        assert_eq!(again.number(), fd);
        assert_ne!(generations.of(fd), first);
    }

    #[test]
    fn numbers_beyond_every_limit_have_no_generation() {
        let generations = Generations::new().unwrap();
        begin(-1);
        begin(RawDescriptor::MAX);
        assert_eq!((generations.of(-1), generations.of(RawDescriptor::MAX)), (0, 0));
    }
}
