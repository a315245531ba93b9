//! What `kqueue(2)` says of events, on the emulation. The quotations are from FreeBSD's page (14.0).

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::{EventFilter, EventFlag, FilterFlag, kevent as Event};

struct Queue(OwnedFd);

impl Queue {
    fn new() -> Queue {
        Queue(unsafe { OwnedFd::from_raw_fd(super::kqueue()) })
    }

    /// Applies changes, and returns the answers, or the events that there are now.
    fn call(&self, changes: &[Event], room: usize) -> Vec<Event> {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let mut events =
            vec![Event::new(0, EventFilter::EVFILT_READ, EventFlag::empty(), FilterFlag::empty()); room];
        let (list, len) = (changes.as_ptr(), changes.len() as i32);
        let (place, room) = (events.as_mut_ptr(), room as i32);
        let count = unsafe { super::kevent(self.0.as_raw_fd(), list, len, place, room, &raw const now) };
        events.truncate(count.try_into().expect("the call fails"));
        events
    }

    fn change(&self, fd: &impl AsRawFd, filter: EventFilter, flags: EventFlag, data: usize) {
        assert!(self.call(&[change(fd, filter, flags, data)], 0).is_empty());
    }

    /// The filters and the data of the events that there are now.
    fn told(&self) -> Vec<(EventFilter, usize)> {
        self.call(&[], 8).iter().map(|event| (event.filter, event.udata.addr())).collect()
    }
}

fn change(fd: &impl AsRawFd, filter: EventFilter, flags: EventFlag, data: usize) -> Event {
    let mut change = Event::new(fd.as_raw_fd() as usize, filter, flags, FilterFlag::empty());
    change.udata = std::ptr::without_provenance_mut(data);
    change
}

const READ: EventFilter = EventFilter::EVFILT_READ;
const WRITE: EventFilter = EventFilter::EVFILT_WRITE;

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

/// "A filter is identified by an (ident, filter) pair."
#[test]
fn both_filters_of_a_descriptor_are_told_each_with_its_data() {
    let (queue, (ours, mut peer)) = (Queue::new(), pair());
    queue.change(&ours, READ, EventFlag::EV_ADD, 1);
    queue.change(&ours, WRITE, EventFlag::EV_ADD, 2);
    peer.write_all(b"x").unwrap();
    assert_eq!(queue.told(), [(READ, 1), (WRITE, 2)]);
}

/// "EV_CLEAR: After the event is retrieved by the user, its state is reset."
#[test]
fn an_event_that_clears_is_told_once_for_each_change_of_state() {
    let (queue, (ours, mut peer)) = (Queue::new(), pair());
    queue.change(&ours, READ, EventFlag::EV_ADD | EventFlag::EV_CLEAR, 1);
    peer.write_all(b"x").unwrap();
    assert_eq!((queue.told(), queue.told()), (vec![(READ, 1)], vec![]));
    peer.write_all(b"y").unwrap();
    assert_eq!(queue.told(), [(READ, 1)]);
}

/// Without it an event is told for as long as it lasts.
#[test]
fn an_event_that_does_not_clear_is_told_as_long_as_it_lasts() {
    let (queue, (mut ours, mut peer)) = (Queue::new(), pair());
    queue.change(&ours, READ, EventFlag::EV_ADD, 1);
    peer.write_all(b"x").unwrap();
    assert_eq!((queue.told(), queue.told()), (vec![(READ, 1)], vec![(READ, 1)]));
    ours.read_exact(&mut [0]).unwrap();
    assert_eq!(queue.told(), []);
}

/// "Re-adding an existing event will modify the parameters of the original event, and not result in a duplicate entry."
#[test]
fn an_event_that_is_added_again_has_new_data_and_is_looked_at_again() {
    let (queue, (ours, mut peer)) = (Queue::new(), pair());
    let flags = EventFlag::EV_ADD | EventFlag::EV_CLEAR;
    queue.change(&ours, READ, flags, 1);
    peer.write_all(b"x").unwrap();
    assert_eq!(queue.told(), [(READ, 1)]);
    queue.change(&ours, READ, flags, 2);
    assert_eq!(queue.told(), [(READ, 2)]);
}

/// "EV_ENABLE: Permit kevent() to return the event if it is triggered." Its data stay as they were.
#[test]
fn an_event_that_is_only_enabled_keeps_its_data() {
    let (queue, (ours, mut peer)) = (Queue::new(), pair());
    queue.change(&ours, READ, EventFlag::EV_ADD | EventFlag::EV_DISABLE, 1);
    peer.write_all(b"x").unwrap();
    assert_eq!(queue.told(), []);
    queue.change(&ours, READ, EventFlag::EV_ENABLE, 2);
    assert_eq!(queue.told(), [(READ, 1)]);
}

/// "EV_DISPATCH: Disable the event source immediately after delivery of an event."
#[test]
fn an_event_that_dispatches_is_told_again_when_it_is_enabled() {
    let (queue, (ours, mut peer)) = (Queue::new(), pair());
    queue.change(&ours, READ, EventFlag::EV_ADD | EventFlag::EV_DISPATCH, 1);
    peer.write_all(b"x").unwrap();
    assert_eq!((queue.told(), queue.told()), (vec![(READ, 1)], vec![]));
    queue.change(&ours, READ, EventFlag::EV_ENABLE, 1);
    assert_eq!(queue.told(), [(READ, 1)]);
}

/// "EV_ONESHOT: Causes the event to return only the first occurrence of the filter being triggered."
#[test]
fn an_event_of_one_shot_is_gone_afterwards() {
    let (queue, (ours, mut peer)) = (Queue::new(), pair());
    queue.change(&ours, READ, EventFlag::EV_ADD | EventFlag::EV_ONESHOT, 1);
    peer.write_all(b"x").unwrap();
    assert_eq!((queue.told(), queue.told()), (vec![(READ, 1)], vec![]));
    let answers = queue.call(&[change(&ours, READ, EventFlag::EV_ENABLE | EventFlag::EV_RECEIPT, 1)], 1);
    assert_eq!(answers[0].data, i64::from(libc::ENOENT));
}

/// "EV_RECEIPT: When a filter is successfully added the data field will be zero."
#[test]
fn each_change_with_a_receipt_is_answered_and_no_event_is_taken() {
    let (queue, (ours, mut peer)) = (Queue::new(), pair());
    peer.write_all(b"x").unwrap();
    let flags = EventFlag::EV_ADD | EventFlag::EV_RECEIPT;
    // No process has that many.
    let closed = i32::MAX;
    let answers = queue.call(&[change(&ours, READ, flags, 1), change(&closed, READ, flags, 2)], 4);
    let told: Vec<_> = answers.iter().map(|answer| (answer.udata.addr(), answer.data)).collect();
    assert_eq!(told, [(1, 0), (2, i64::from(libc::EBADF))]);
    assert!(answers.iter().all(|answer| answer.flags.contains(EventFlag::EV_ERROR)));
    assert_eq!(queue.told(), [(READ, 1)]);
}

/// "If the read direction of the socket has shutdown, then the filter also sets EV_EOF in flags"; there may be data still.
#[test]
fn the_end_of_a_stream_is_told_with_the_data_before_it() {
    let (queue, (ours, mut peer)) = (Queue::new(), pair());
    queue.change(&ours, READ, EventFlag::EV_ADD | EventFlag::EV_CLEAR, 1);
    peer.write_all(b"last").unwrap();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    let events = queue.call(&[], 8);
    assert!(events[0].flags.contains(EventFlag::EV_EOF));
    assert_eq!((events.len(), events[0].data), (1, 4));
}

/// "EV_DELETE: Removes the event from the kqueue. Events which are attached to file descriptors are automatically deleted
/// on the last close of the descriptor."
#[test]
fn a_closed_descriptor_and_a_deleted_event_are_told_no_more() {
    let (queue, (ours, mut peer), (closed, mut other)) = (Queue::new(), pair(), pair());
    queue.change(&ours, READ, EventFlag::EV_ADD, 1);
    queue.change(&closed, READ, EventFlag::EV_ADD, 2);
    peer.write_all(b"x").unwrap();
    other.write_all(b"x").unwrap();
    queue.change(&ours, READ, EventFlag::EV_DELETE, 0);
    drop(closed);
    assert_eq!(queue.told(), []);
}

/// "The kevent() system call returns the number of events placed in the eventlist, up to the value given by nevents."
#[test]
fn what_there_is_no_room_for_comes_with_the_next_call() {
    let queue = Queue::new();
    let pairs: Vec<_> = (0..300).map(|_| pair()).collect();
    for (number, (ours, peer)) in pairs.iter().enumerate() {
        queue.change(ours, READ, EventFlag::EV_ADD | EventFlag::EV_CLEAR, number);
        { peer }.write_all(b"x").unwrap();
    }
    let mut told = Vec::new();
    while told.len() < 300 {
        let events = queue.told();
        assert!((1..=8).contains(&events.len()));
        told.extend(events.iter().map(|(_, data)| *data));
    }
    told.sort_unstable();
    assert!(told.into_iter().eq(0..300));
}

/// Not on the page: macOS refuses `/dev/null` and `/dev/tty` with EINVAL, FreeBSD with ENODEV, where epoll says EPERM.
#[test]
fn a_device_without_events_is_refused_in_the_words_of_macos() {
    let null = std::fs::File::open("/dev/null").unwrap();
    let flags = EventFlag::EV_ADD | EventFlag::EV_RECEIPT;
    let answers = Queue::new().call(&[change(&null, READ, flags, 1)], 1);
    assert_eq!(answers[0].data, i64::from(libc::EINVAL));
}
