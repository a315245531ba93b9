//! `kqueue(2)` on Linux, for the tests of the kqueue backend: descriptors for reading and writing, over `epoll(7)`. The
//! names are those of the crate `kqueue-sys`, whose place this takes (`--cfg kqueue_emulation`).
//!
//! A queue is an epoll descriptor, so that it can be polled and waited for as a kqueue can, and a list of its filters.
//! What differs from a kqueue: an event for one filter may come for the other one, too, for nothing; and the amount of
//! data is that of `FIONREAD`.

#![allow(
    non_camel_case_types,
    non_snake_case,
    clippy::undocumented_unsafe_blocks,
    reason = "the names are the system's, and these calls are made in tests"
)]

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;
use std::sync::{LazyLock, Mutex};

use libc::{EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EventFilter {
    EVFILT_READ,
    EVFILT_WRITE,
}

/// A set of flags; the numbers are FreeBSD's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventFlag(u16);

impl EventFlag {
    pub(crate) const EV_ADD: EventFlag = EventFlag(0x0001);
    pub(crate) const EV_DELETE: EventFlag = EventFlag(0x0002);
    pub(crate) const EV_ENABLE: EventFlag = EventFlag(0x0004);
    pub(crate) const EV_DISABLE: EventFlag = EventFlag(0x0008);
    pub(crate) const EV_ONESHOT: EventFlag = EventFlag(0x0010);
    pub(crate) const EV_CLEAR: EventFlag = EventFlag(0x0020);
    pub(crate) const EV_RECEIPT: EventFlag = EventFlag(0x0040);
    pub(crate) const EV_DISPATCH: EventFlag = EventFlag(0x0080);
    pub(crate) const EV_EOF: EventFlag = EventFlag(0x8000);
    pub(crate) const EV_ERROR: EventFlag = EventFlag(0x4000);

    pub(crate) const fn empty() -> EventFlag {
        EventFlag(0)
    }

    pub(crate) const fn from_bits_retain(bits: u16) -> EventFlag {
        EventFlag(bits)
    }

    pub(crate) const fn contains(self, other: EventFlag) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for EventFlag {
    type Output = EventFlag;
    fn bitor(self, other: EventFlag) -> EventFlag {
        EventFlag(self.0 | other.0)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FilterFlag(u32);

impl FilterFlag {
    pub(crate) const fn empty() -> FilterFlag {
        FilterFlag(0)
    }
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct kevent {
    pub(crate) ident: usize,
    pub(crate) filter: EventFilter,
    pub(crate) flags: EventFlag,
    pub(crate) fflags: FilterFlag,
    pub(crate) data: i64,
    pub(crate) udata: *mut c_void,
}

impl kevent {
    pub(crate) fn new(ident: usize, filter: EventFilter, flags: EventFlag, fflags: FilterFlag) -> kevent {
        kevent { ident, filter, flags, fflags, data: 0, udata: std::ptr::null_mut() }
    }
}

/// What is known of one filter of one descriptor.
#[derive(Clone, Copy, Debug)]
struct Knote {
    flags: EventFlag,
    udata: usize,
    is_enabled: bool,
}

/// The filters of a queue.
type Knotes = HashMap<(RawFd, EventFilter), Knote>;

/// Of all queues of this process. A number that names another queue by now begins anew.
static QUEUES: LazyLock<Mutex<HashMap<RawFd, Knotes>>> = LazyLock::new(Mutex::default);

fn queues<R>(work: impl FnOnce(&mut HashMap<RawFd, Knotes>) -> R) -> R {
    work(&mut QUEUES.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

pub(crate) unsafe fn kqueue() -> c_int {
    let kq = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    queues(|queues| queues.insert(kq, Knotes::new()));
    kq
}

/// Applies changes, and takes events. An answer to a change takes room from the events.
pub(crate) unsafe fn kevent(
    kq: c_int,
    changes: *const kevent,
    changes_len: c_int,
    events: *mut kevent,
    events_len: c_int,
    timeout: *const libc::timespec,
) -> c_int {
    let mut answers = 0;
    for index in 0..changes_len as usize {
        let change = unsafe { changes.add(index).read() };
        let errno = queues(|queues| apply(kq, queues.entry(kq).or_default(), &change));
        if errno == 0 && !change.flags.contains(EventFlag::EV_RECEIPT) {
            continue;
        }
        if answers == events_len {
            // There is no room for the answer: the call fails with it.
            return fail(errno);
        }
        let answer = kevent { flags: change.flags | EventFlag::EV_ERROR, data: i64::from(errno), ..change };
        unsafe { events.add(answers as usize).write(answer) };
        answers += 1;
    }
    if answers > 0 || events_len == 0 {
        return answers;
    }
    unsafe { take(kq, events, events_len, timeout) }
}

fn fail(errno: i32) -> c_int {
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// The error's code, or zero.
fn apply(kq: c_int, knotes: &mut Knotes, change: &kevent) -> i32 {
    let (fd, key) = (change.ident as RawFd, (change.ident as RawFd, change.filter));
    let has = |flag| change.flags.contains(flag);
    if has(EventFlag::EV_ADD) {
        // An event that is there keeps its place, and takes the new data and flags.
        let disabled = has(EventFlag::EV_DISABLE);
        knotes.insert(key, Knote { flags: change.flags, udata: change.udata.addr(), is_enabled: !disabled });
    } else {
        let Some(knote) = knotes.get_mut(&key) else { return libc::ENOENT };
        if has(EventFlag::EV_DELETE) {
            knotes.remove(&key);
        } else if has(EventFlag::EV_ENABLE) {
            // Its data stay as they are.
            knote.is_enabled = true;
        } else if has(EventFlag::EV_DISABLE) {
            knote.is_enabled = false;
        }
    }
    let errno = watch(kq, knotes, fd);
    if errno != 0 {
        knotes.remove(&key);
    }
    errno
}

/// Has the selector watch what the enabled filters of a descriptor wait for. What is ready now is told again.
fn watch(kq: c_int, knotes: &Knotes, fd: RawFd) -> i32 {
    let (mut events, mut clears) = (0, false);
    for (filter, wanted) in
        [(EventFilter::EVFILT_READ, EPOLLIN | EPOLLRDHUP | EPOLLPRI), (EventFilter::EVFILT_WRITE, EPOLLOUT)]
    {
        if let Some(knote) = knotes.get(&(fd, filter)).filter(|knote| knote.is_enabled) {
            events |= wanted;
            clears |= knote.flags.contains(EventFlag::EV_CLEAR);
        }
    }
    let control = |operation| {
        let mut event = libc::epoll_event { events: events as u32, u64: fd as u64 };
        if clears {
            event.events |= EPOLLET as u32;
        }
        match unsafe { libc::epoll_ctl(kq, operation, fd, &raw mut event) } {
            0 => 0,
            _ => match std::io::Error::last_os_error().raw_os_error().unwrap() {
                // macOS's word for a device that has no events.
                libc::EPERM => libc::EINVAL,
                code => code,
            },
        }
    };
    if events == 0 {
        return match control(libc::EPOLL_CTL_DEL) {
            libc::ENOENT => 0,
            errno => errno,
        };
    }
    match control(libc::EPOLL_CTL_MOD) {
        libc::ENOENT => control(libc::EPOLL_CTL_ADD),
        errno => errno,
    }
}

/// Takes events until the list is full or there are no more.
unsafe fn take(kq: c_int, events: *mut kevent, events_len: c_int, timeout: *const libc::timespec) -> c_int {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let events = unsafe { std::slice::from_raw_parts_mut(events, events_len as usize) };
    let mut taken = 0;
    loop {
        let timeout = if taken == 0 { timeout } else { &raw const now };
        let mut ready = [libc::epoll_event { events: 0, u64: 0 }; 256];
        let (place, room) = (ready.as_mut_ptr(), (events.len() - taken).min(256));
        let no_mask = std::ptr::null::<libc::sigset_t>();
        let count =
            unsafe { libc::syscall(libc::SYS_epoll_pwait2, kq, place, room, timeout, no_mask, 0usize) };
        if count <= 0 {
            return if taken == 0 { count as c_int } else { taken as c_int };
        }
        let mut lasts = false;
        for event in &ready[..count as usize] {
            for filter in [EventFilter::EVFILT_READ, EventFilter::EVFILT_WRITE] {
                let (fd, flags) = (event.u64 as RawFd, event.events as i32);
                let place = events.get_mut(taken);
                let Some(told) = queues(|queues| {
                    tell(kq, queues.entry(kq).or_default(), (fd, filter), flags, place.is_some())
                }) else {
                    continue;
                };
                if let Some(place) = place {
                    *place = told;
                    taken += 1;
                    lasts |= !told.flags.contains(EventFlag::EV_CLEAR);
                    place.flags = if told.flags.contains(EventFlag::EV_EOF) {
                        EventFlag::EV_EOF
                    } else {
                        EventFlag::empty()
                    };
                }
            }
        }
        // What lasts would be told again at once.
        if lasts || taken == events.len() {
            return taken as c_int;
        }
    }
}

/// The event of a filter, if these flags of the selector are one. If there is no room for it, it is told with the next
/// call.
fn tell(
    kq: c_int,
    knotes: &mut Knotes,
    key: (RawFd, EventFilter),
    flags: i32,
    has_room: bool,
) -> Option<kevent> {
    let (fd, filter) = key;
    let (ready, ended) = match filter {
        EventFilter::EVFILT_READ => {
            (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR, EPOLLRDHUP | EPOLLHUP)
        }
        EventFilter::EVFILT_WRITE => (EPOLLOUT | EPOLLHUP | EPOLLERR, EPOLLHUP | EPOLLERR),
    };
    let knote = knotes.get_mut(&key).filter(|knote| knote.is_enabled && flags & ready != 0)?;
    let mut event = kevent::new(fd as usize, filter, knote.flags, FilterFlag::empty());
    event.udata = std::ptr::without_provenance_mut(knote.udata);
    event.data = amount(fd, filter);
    if flags & ended != 0 {
        event.flags = event.flags | EventFlag::EV_EOF;
    }
    if !has_room {
        watch(kq, knotes, fd);
    } else if event.flags.contains(EventFlag::EV_DISPATCH) {
        knote.is_enabled = false;
        watch(kq, knotes, fd);
    } else if event.flags.contains(EventFlag::EV_ONESHOT) {
        knotes.remove(&key);
        watch(kq, knotes, fd);
    }
    Some(event)
}

/// The bytes that there are, for reading.
fn amount(fd: RawFd, filter: EventFilter) -> i64 {
    let mut bytes: c_int = 0;
    let is_told =
        filter == EventFilter::EVFILT_READ && unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut bytes) } == 0;
    if is_told { i64::from(bytes) } else { 1 }
}
