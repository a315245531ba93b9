//! The descriptors that are waited for, in the array that `poll(2)` takes. None is there twice, and none is there
//! for which no operation waits.
//!
//! **Bare errors.** `POLLERR` is reported also where it is not waited for, and a socket may have it for long: what can be
//! told of what was sent (`MSG_ERRQUEUE` of recv(2)) makes it, and a receive finds nothing. A descriptor that had nothing
//! else is passed over by the waits (its number in the array is negative) until it has; it is looked at beside them.

use std::io;

use super::super::readiness::numbers_max;
use crate::descriptor::RawDescriptor;
use crate::memory;
use crate::sys::poll::{POLLERR, POLLIN, POLLNVAL, PollFd, poll};

pub(super) struct Entries {
    /// The first is the waker's.
    entries: Vec<PollFd>,
    /// Whose the entries are; beside them.
    generations: Vec<u32>,
    /// Where in the array a descriptor is, by its number. The waker's place, zero, says that it is not there. Beside it
    /// is [`BARE_ERROR`].
    places: Box<[u32]>,
    /// How many are passed over.
    passed_over: usize,
    /// How many there were when the last wait ended: they are looked at from the last to the first.
    reported: usize,
}

/// The last report of a descriptor was a bare error.
const BARE_ERROR: u32 = 1 << 31;

/// The descriptor of an entry, which may be passed over.
fn number(entry: &PollFd) -> RawDescriptor {
    if entry.fd < 0 { !entry.fd } else { entry.fd }
}

/// What a wait has found.
pub(super) enum Report {
    Waker,
    Events { fd: RawDescriptor, generation: u32, events: i16 },
}

impl Entries {
    /// With room for what this many operations wait for, and the waker.
    pub(super) fn new(capacity: usize, waker: RawDescriptor) -> io::Result<Entries> {
        let (mut entries, mut generations) = (memory::list(capacity + 1)?, memory::list(capacity + 1)?);
        entries.push(PollFd { fd: waker, events: POLLIN, revents: 0 });
        generations.push(0);
        let places = memory::table(numbers_max())?;
        Ok(Entries { entries, generations, places, passed_over: 0, reported: 0 })
    }

    /// How many descriptors there can be.
    pub(super) fn capacity(&self) -> usize {
        self.entries.capacity() - 1
    }

    /// The array for a wait.
    pub(super) fn all(&mut self) -> &mut [PollFd] {
        &mut self.entries
    }

    /// All but the waker.
    pub(super) fn descriptors(&self) -> &[PollFd] {
        &self.entries[1..]
    }

    /// How many reports there are to be asked for.
    pub(super) fn len(&mut self) -> usize {
        self.reported = self.entries.len();
        self.reported
    }

    /// Waits for these events, too.
    pub(super) fn add(&mut self, fd: RawDescriptor, generation: u32, events: i16) -> io::Result<()> {
        if fd as usize >= self.places.len() {
            memory::grow(&mut self.places, fd as usize)?;
        }
        match self.place(fd) {
            Some(place) if self.generations[place] == generation => self.entries[place].events |= events,
            Some(place) => {
                self.entries[place].events = events;
                self.generations[place] = generation;
            }
            None => {
                debug_assert!(self.entries.len() < self.entries.capacity(), "one for each operation");
                let bare_error = self.places[fd as usize] & BARE_ERROR;
                self.places[fd as usize] = self.entries.len() as u32 | bare_error;
                let fd = if bare_error == 0 { fd } else { !fd };
                self.passed_over += usize::from(fd < 0);
                self.entries.push(PollFd { fd, events, revents: 0 });
                self.generations.push(generation);
            }
        }
        Ok(())
    }

    /// Waits for it no more, if it does, and knows nothing of it.
    pub(super) fn remove(&mut self, fd: RawDescriptor) {
        self.take(fd);
        if let Some(place) = self.places.get_mut(fd as usize) {
            *place = 0;
        }
    }

    fn take(&mut self, fd: RawDescriptor) {
        let Some(place) = self.place(fd) else { return };
        self.places[fd as usize] &= BARE_ERROR;
        let taken = self.entries.swap_remove(place);
        self.passed_over -= usize::from(taken.fd < 0);
        self.generations.swap_remove(place);
        if let Some(moved) = self.entries.get(place) {
            let moved = &mut self.places[number(moved) as usize];
            *moved = *moved & BARE_ERROR | place as u32;
        }
    }

    fn place(&self, fd: RawDescriptor) -> Option<usize> {
        let place = self.places.get(fd as usize)? & !BARE_ERROR;
        (place != 0).then_some(place as usize)
    }

    /// Whether there are descriptors that have to be looked at beside the waits.
    pub(super) fn are_passed_over(&self) -> bool {
        self.passed_over > 0
    }

    /// Looks at the descriptors that the wait has passed over, and says how many of them have a report.
    #[cold]
    pub(super) fn look_beside(&mut self) -> usize {
        let mut found = 0;
        for entry in self.entries.iter_mut().filter(|entry| entry.fd < 0) {
            let events = poll(!entry.fd, entry.events);
            // What is closed, too, has its report.
            let events = if events < 0 { POLLNVAL } else { events as i16 };
            if events == 0 {
                entry.fd = !entry.fd;
                self.passed_over -= 1;
                self.places[entry.fd as usize] &= !BARE_ERROR;
            } else if events != POLLERR {
                entry.revents = events;
                found += 1;
            }
        }
        found
    }

    /// One of the reports, whose descriptor is waited for no more.
    pub(super) fn take_report(&mut self, index: usize) -> Option<Report> {
        let place = self.reported.checked_sub(index + 1)?;
        let entry = self.entries.get_mut(place)?;
        let (fd, events) = (number(entry), std::mem::take(&mut entry.revents));
        match (events, place) {
            (0, _) => None,
            (_, 0) => Some(Report::Waker),
            _ => {
                let generation = self.generations[place];
                self.take(fd);
                // A poll for errors is done with its first report.
                self.places[fd as usize] = if events == POLLERR { BARE_ERROR } else { 0 };
                Some(Report::Events { fd, generation, events })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll::POLLOUT;

    fn filled(fds: &[RawDescriptor]) -> Entries {
        let mut entries = Entries::new(8, 0).unwrap();
        fds.iter().for_each(|fd| entries.add(*fd, 7, POLLIN).unwrap());
        entries
    }

    fn numbers(entries: &Entries) -> Vec<RawDescriptor> {
        entries.descriptors().iter().map(|entry| entry.fd).collect()
    }

    /// What the reports of a wait are that found these ready.
    fn reports(entries: &mut Entries, ready: &[RawDescriptor]) -> Vec<RawDescriptor> {
        for entry in entries.all() {
            entry.revents = if ready.contains(&entry.fd) { POLLIN } else { 0 };
        }
        let fd_of = |report| match report {
            Report::Waker => 0,
            Report::Events { fd, .. } => fd,
        };
        (0..entries.len()).filter_map(|index| entries.take_report(index)).map(fd_of).collect()
    }

    #[test]
    fn a_descriptor_is_there_once_with_all_that_is_waited_for() {
        let mut entries = filled(&[3]);
        entries.add(3, 7, POLLOUT).unwrap();
        assert_eq!(numbers(&entries), [3]);
        assert_eq!(entries.descriptors()[0].events, POLLIN | POLLOUT);
    }

    #[test]
    fn what_a_number_named_before_is_waited_for_no_more() {
        let mut entries = filled(&[3]);
        entries.add(3, 8, POLLOUT).unwrap();
        assert_eq!(entries.descriptors()[0].events, POLLOUT);
    }

    #[test]
    fn whichever_leaves_the_others_are_found() {
        for leaver in [3, 4, 5] {
            let mut entries = filled(&[3, 4, 5]);
            entries.remove(leaver);
            entries.remove(leaver);
            let rest: Vec<_> = [3, 4, 5].into_iter().filter(|fd| *fd != leaver).collect();
            for fd in rest {
                entries.add(fd, 7, POLLOUT).unwrap();
            }
            assert_eq!(numbers(&entries).len(), 2);
            assert!(entries.descriptors().iter().all(|entry| entry.events == POLLIN | POLLOUT));
        }
    }

    #[test]
    fn all_that_are_ready_are_reported_once_and_leave() {
        let mut entries = filled(&[3, 4, 5, 6]);
        let mut reported = reports(&mut entries, &[0, 3, 5, 6]);
        reported.sort_unstable();
        assert_eq!(reported, [0, 3, 5, 6]);
        assert_eq!(numbers(&entries), [4]);
        assert_eq!(reports(&mut entries, &[]), []);
    }

    #[test]
    fn a_number_above_the_limit_gets_room() {
        let high = numbers_max() as RawDescriptor + 5;
        let mut entries = filled(&[high]);
        assert_eq!(reports(&mut entries, &[high]), [high]);
    }
}
