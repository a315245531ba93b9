//! Sends, and the room that they wait for.
//!
//! A send is submitted with `MSG_DONTWAIT`: it moves what there is room for and never waits. io_uring's own way
//! to wait would do until a peer wants otherwise: the poll that it arms for a send is woken by `POLLRDHUP` and
//! `POLLPRI`, too, so that a peer that has shut its end down, or sent a byte of urgent data, and does not read
//! has it try again and again, and after 128 times (`APOLL_MAX_RETRY`) block in a thread of the kernel's, one
//! for each send. Before 6.3 it did so after one.
//!
//! So the backend waits by polls of its own, for `POLLOUT`:
//!
//! ```text
//! SEND ──► part, or EAGAIN ──► POLL_ADD once ──► POLLOUT, or an error ──► SEND
//!                                  │
//!                                  └──► POLLRDHUP alone ──► POLL_ADD multishot
//!                                                               ──► POLLOUT ──► cancel ──► SEND
//! ```
//!
//! `POLLRDHUP` comes unasked and ends a poll at once. A multishot poll tells it once, and then each time that
//! there is room: it is edge-triggered. It is gone before the next send, as it holds the file open.
//!
//! A **zero-copy** send completes twice: with its result, and by a notification, when the kernel has let go of
//! the buffer. It is over when it has moved all and every notification has come. Where the kernel cannot do
//! without a copy (no memory that may be locked, a kind of socket that does not know how), the rest is copied.

use ::io_uring::opcode;
use ::io_uring::squeue::Entry;
use ::io_uring::types;

use super::{CQE_MORE, CQE_NOTIFICATION};
use crate::io_vecs;
use crate::op::{OpKind, Outcome, RawOp};

/// In [`RawOp::backend_state`] of a send: it waits for room, by a poll that is done once.
pub(super) const WAITS_ONCE: u16 = 1 << 0;

/// It waits for room, by a multishot poll.
pub(super) const WAITS_FOR_EDGE: u16 = 1 << 1;

/// The multishot poll has told that there is room, and is being cancelled.
pub(super) const STOPS_WAITING: u16 = 1 << 2;

pub(super) const WAITS: u16 = WAITS_ONCE | WAITS_FOR_EDGE | STOPS_WAITING;

/// A zero-copy send that is done as an ordinary one.
pub(super) const COPIES: u16 = 1 << 3;

/// A zero-copy send whose result is known, and lies in its words.
pub(super) const IS_SENT: u16 = 1 << 4;

/// A zero-copy send: one notification that has to come. The count is what is above.
const NOTIFICATION: u16 = 1 << 5;

/// As many as there is room for.
const NOTIFICATIONS_MAX: u16 = u16::MAX / NOTIFICATION - 1;

/// What the backend has to do next with an operation that is done in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing: something is still to come.
    Wait,
    /// Submit it again, as [`RawOp::backend_state`] says.
    Again,
    /// Cancel its poll.
    StopPoll,
    /// This is its outcome.
    Over(Outcome),
}

/// Whether a send waits for room, or is about to.
pub(super) fn is_waiting(op: &RawOp) -> bool {
    op.kind.is_send() && op.backend_state & WAITS != 0
}

/// Whether only the kernel's letting go of the buffer is awaited, which nothing can hasten.
pub(super) fn is_sent(op: &RawOp) -> bool {
    op.kind == OpKind::SendZeroCopy && op.backend_state & IS_SENT != 0
}

/// The poll that waits for room.
pub(super) fn poll_entry(op: &RawOp) -> Entry {
    let events = libc::POLLOUT as u32;
    let multishot = op.backend_state & WAITS_FOR_EDGE != 0;
    opcode::PollAdd::new(types::Fd(op.fd), events).multi(multishot).build()
}

/// There was no room, or not enough.
pub(super) fn wait_for_room(op: &mut RawOp) -> Progress {
    debug_assert!(op.kind.is_send() && op.backend_state & WAITS == 0);
    op.backend_state |= WAITS_ONCE;
    Progress::Again
}

/// The poll of a send has told something. `is_ending`: the send shall end.
fn polled(op: &mut RawOp, result: i32, cqe_flags: u32, is_ending: bool) -> Progress {
    const ROOM: i32 = (libc::POLLOUT | libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) as i32;
    let has_room = result > 0 && result & ROOM != 0;
    if cqe_flags & CQE_MORE != 0 {
        if !has_room || op.backend_state & STOPS_WAITING != 0 {
            return Progress::Wait;
        }
        op.backend_state |= STOPS_WAITING;
        return Progress::StopPoll;
    }
    let was_once = op.backend_state & WAITS_ONCE != 0;
    op.backend_state &= !WAITS;
    match result {
        // The backend itself has stopped it, if the program has not.
        _ if result == -libc::ECANCELED && !is_ending => Progress::Again,
        ..0 => over(op, result),
        _ if was_once && !has_room => {
            op.backend_state |= WAITS_FOR_EDGE;
            Progress::Again
        }
        _ => Progress::Again,
    }
}

/// The result of a send is known: if the kernel has its buffer, it is over later.
pub(super) fn over(op: &mut RawOp, result: i32) -> Progress {
    debug_assert!(op.backend_state & WAITS == 0);
    if op.kind == OpKind::SendZeroCopy && op.backend_state >= NOTIFICATION {
        op.as_zero_copy_mut().result = i64::from(result);
        op.backend_state |= IS_SENT;
        return Progress::Wait;
    }
    Progress::Over(Outcome::new(result))
}

/// A completion of the poll of a send, or of a zero-copy send.
pub(super) fn completed(op: &mut RawOp, result: i32, cqe_flags: u32, is_ending: bool) -> Progress {
    if cqe_flags & CQE_NOTIFICATION != 0 {
        debug_assert!(op.backend_state >= NOTIFICATION, "the result comes first");
        op.backend_state = op.backend_state.saturating_sub(NOTIFICATION);
        if op.backend_state >= NOTIFICATION || op.backend_state & IS_SENT == 0 {
            return Progress::Wait;
        }
        op.backend_state &= !IS_SENT;
        return Progress::Over(Outcome::new(op.as_zero_copy().result as i32));
    }
    if is_waiting(op) {
        return polled(op, result, cqe_flags, is_ending);
    }
    if cqe_flags & CQE_MORE != 0 {
        op.backend_state += NOTIFICATION;
    }
    let copies = op.backend_state & COPIES != 0;
    match -result {
        libc::EAGAIN => wait_for_room(op),
        libc::ENOMEM | libc::ENOBUFS | libc::EOPNOTSUPP if !copies => {
            op.backend_state |= COPIES;
            Progress::Again
        }
        _ if is_part(op, result) && !is_ending => {
            // It goes on while the kernel still has what was sent, up to as many parts as can be counted.
            io_vecs::advance(op, result as usize);
            if op.backend_state / NOTIFICATION >= NOTIFICATIONS_MAX {
                op.backend_state |= COPIES;
            }
            wait_for_room(op)
        }
        _ => over(op, result),
    }
}

/// Whether more is to be sent after this result.
fn is_part(op: &RawOp, result: i32) -> bool {
    op.flags & RawOp::EXACT != 0 && result > 0 && (result as usize) < op.as_progress().len
}

/// A send that was to be submitted again shall end.
pub(super) fn canceled(op: &mut RawOp) -> Progress {
    op.backend_state &= !WAITS;
    over(op, -libc::ECANCELED)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: i32 = libc::POLLOUT as i32;
    const HALF_CLOSED: i32 = libc::POLLRDHUP as i32;

    fn send(kind: OpKind, len: usize) -> RawOp {
        let mut op = RawOp::with_buffer(kind, 3, std::ptr::null_mut(), len);
        op.flags = RawOp::EXACT;
        op
    }

    fn over_with(result: i32) -> Progress {
        Progress::Over(Outcome::new(result))
    }

    #[test]
    fn a_half_closed_peer_is_waited_for_by_a_poll_that_is_gone_before_the_next_send() {
        let mut op = send(OpKind::Send, 100);
        assert_eq!(wait_for_room(&mut op), Progress::Again);
        assert_eq!(op.backend_state, WAITS_ONCE);
        assert_eq!(completed(&mut op, HALF_CLOSED, 0, false), Progress::Again);
        assert_eq!(op.backend_state, WAITS_FOR_EDGE);
        assert_eq!(completed(&mut op, HALF_CLOSED, CQE_MORE, false), Progress::Wait);
        assert_eq!(completed(&mut op, HALF_CLOSED | ROOM, CQE_MORE, false), Progress::StopPoll);
        assert_eq!(completed(&mut op, HALF_CLOSED | ROOM, CQE_MORE, false), Progress::Wait);
        assert_eq!(completed(&mut op, -libc::ECANCELED, 0, false), Progress::Again);
        assert_eq!(op.backend_state, 0);
    }

    #[test]
    fn an_open_peer_is_waited_for_by_one_poll() {
        for told in [ROOM, libc::POLLERR as i32, libc::POLLHUP as i32 | HALF_CLOSED] {
            let mut op = send(OpKind::Send, 100);
            wait_for_room(&mut op);
            assert_eq!(completed(&mut op, told, 0, false), Progress::Again);
            assert_eq!(op.backend_state, 0);
        }
    }

    #[test]
    fn a_send_that_waits_is_cancelled_if_the_program_wants_it() {
        for multishot in [false, true] {
            let mut op = send(OpKind::Send, 100);
            wait_for_room(&mut op);
            if multishot {
                completed(&mut op, HALF_CLOSED, 0, false);
            }
            assert_eq!(completed(&mut op, -libc::ECANCELED, 0, true), over_with(-libc::ECANCELED));
        }
    }

    #[test]
    fn a_zero_copy_send_is_over_when_all_is_sent_and_every_part_is_let_go_of() {
        let mut op = send(OpKind::SendZeroCopy, 100);
        assert_eq!(completed(&mut op, 60, CQE_MORE, false), Progress::Again);
        assert_eq!((op.as_progress().len, op.done()), (40, 60));
        assert_eq!(completed(&mut op, ROOM, 0, false), Progress::Again);
        assert_eq!(completed(&mut op, 40, CQE_MORE, false), Progress::Wait);
        assert!(is_sent(&op));
        assert_eq!(completed(&mut op, 0, CQE_NOTIFICATION, false), Progress::Wait);
        assert_eq!(completed(&mut op, 0, CQE_NOTIFICATION, false), over_with(40));
        assert_eq!(op.backend_state, 0);
    }

    #[test]
    fn a_zero_copy_send_that_is_cancelled_keeps_its_buffer_until_it_is_let_go_of() {
        let mut op = send(OpKind::SendZeroCopy, 100);
        completed(&mut op, 60, CQE_MORE, false);
        assert_eq!(completed(&mut op, -libc::ECANCELED, 0, true), Progress::Wait);
        assert_eq!(completed(&mut op, 0, CQE_NOTIFICATION, true), over_with(-libc::ECANCELED));
        let mut op = send(OpKind::SendZeroCopy, 100);
        completed(&mut op, 60, CQE_MORE, false);
        assert_eq!(canceled(&mut op), Progress::Wait);
    }

    #[test]
    fn a_zero_copy_send_that_cannot_do_without_a_copy_goes_on_with_copies() {
        for errno in [libc::ENOMEM, libc::ENOBUFS, libc::EOPNOTSUPP] {
            for (flags, notified) in [(0, false), (CQE_MORE, true)] {
                let mut op = send(OpKind::SendZeroCopy, 100);
                assert_eq!(completed(&mut op, -errno, flags, false), Progress::Again);
                assert_ne!(op.backend_state & COPIES, 0);
                if notified {
                    assert_eq!(completed(&mut op, 0, CQE_NOTIFICATION, false), Progress::Wait);
                }
                assert_eq!(completed(&mut op, 100, 0, false), over_with(100));
            }
        }
        // An ordinary send that fails so fails.
        let mut op = send(OpKind::SendZeroCopy, 100);
        op.backend_state = COPIES;
        assert_eq!(completed(&mut op, -libc::ENOMEM, 0, false), over_with(-libc::ENOMEM));
    }

    #[test]
    fn a_zero_copy_send_counts_no_more_notifications_than_there_is_room_for() {
        let mut op = send(OpKind::SendZeroCopy, 1 << 20);
        for _ in 0..NOTIFICATIONS_MAX {
            assert_eq!(op.backend_state & COPIES, 0);
            assert_eq!(completed(&mut op, 1, CQE_MORE, false), Progress::Again);
            assert_eq!(completed(&mut op, ROOM, 0, false), Progress::Again);
        }
        assert_ne!(op.backend_state & COPIES, 0);
    }
}
