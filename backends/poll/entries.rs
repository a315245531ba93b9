//! The descriptors that are waited for, in the array that `poll(2)` takes. None is there twice, and none is there
//! for which no operation waits.

use std::io;

use super::super::readiness::numbers_max;
use crate::descriptor::RawDescriptor;
use crate::memory;
use crate::sys::poll::{POLLIN, PollFd};

pub(super) struct Entries {
    /// The first is the waker's.
    entries: Vec<PollFd>,
    /// Whose the entries are; beside them.
    generations: Vec<u32>,
    /// Where in the array a descriptor is, by its number. The waker's place, zero, says that it is not there.
    places: Box<[u32]>,
    /// How many there were when the last wait ended: they are looked at from the last to the first.
    reported: usize,
}

/// What a wait has found.
pub(super) enum Report {
    Waker,
    Events { fd: RawDescriptor, generation: u32, events: i16 },
}

impl Entries {
    /// With room for what so many operations wait for, and the waker.
    pub(super) fn new(capacity: usize, waker: RawDescriptor) -> io::Result<Entries> {
        let (mut entries, mut generations) = (memory::list(capacity + 1)?, memory::list(capacity + 1)?);
        entries.push(PollFd { fd: waker, events: POLLIN, revents: 0 });
        generations.push(0);
        Ok(Entries { entries, generations, places: memory::table(numbers_max())?, reported: 0 })
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
                self.places[fd as usize] = self.entries.len() as u32;
                self.entries.push(PollFd { fd, events, revents: 0 });
                self.generations.push(generation);
            }
        }
        Ok(())
    }

    /// Waits for it no more, if it does.
    pub(super) fn remove(&mut self, fd: RawDescriptor) {
        let Some(place) = self.place(fd) else { return };
        self.places[fd as usize] = 0;
        self.entries.swap_remove(place);
        self.generations.swap_remove(place);
        if let Some(moved) = self.entries.get(place) {
            self.places[moved.fd as usize] = place as u32;
        }
    }

    fn place(&self, fd: RawDescriptor) -> Option<usize> {
        self.places.get(fd as usize).map(|place| *place as usize).filter(|place| *place != 0)
    }

    /// One of the reports, whose descriptor is waited for no more.
    pub(super) fn take_report(&mut self, index: usize) -> Option<Report> {
        let place = self.reported.checked_sub(index + 1)?;
        let entry = self.entries.get_mut(place)?;
        let (fd, events) = (entry.fd, std::mem::take(&mut entry.revents));
        match (events, place) {
            (0, _) => None,
            (_, 0) => Some(Report::Waker),
            _ => {
                let generation = self.generations[place];
                self.remove(fd);
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
