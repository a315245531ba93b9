//! Connections: their two ends, and what is sent and received there.

use super::super::program::{Backend, Half};
use super::super::random::mix;
use super::Model;
use super::byte_ledger::{ByteLedger, Moved};
use super::entry::{Effect, Entry};
use super::outcome::Failure;
use super::request::Request;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) peer: Option<usize>,
    pub(super) ledger_in: usize,
    pub(super) ledger_out: usize,
    /// Closed, or about to be.
    pub(super) gone: bool,
    pub(super) surely_gone: bool,
    pub(super) shut_read: bool,
    pub(super) shut_write: bool,
    /// For sure.
    pub(super) write_ended: bool,
    pub(super) read_ended: bool,
    /// An operation failed here.
    pub(super) error_seen: bool,
    /// An operation was lost with its loop.
    pub(super) unsure: bool,
}

impl Model {
    pub(super) fn accepted(&mut self) {
        self.accepts += 1;
        if self.accepts > self.connects {
            let detail = format!("{} accepts, {} connects", self.accepts, self.connects);
            self.report("no more connections are accepted than made", detail);
        }
    }

    pub(super) fn ledger_in(&mut self, side: usize) -> &mut ByteLedger {
        let ledger = self.sides[side].ledger_in;
        &mut self.ledgers[ledger]
    }

    pub(super) fn ledger_out(&mut self, side: usize) -> &mut ByteLedger {
        let ledger = self.sides[side].ledger_out;
        &mut self.ledgers[ledger]
    }

    /// A new end, whose other end is not known.
    pub(crate) fn add_side(&mut self) -> usize {
        let ledger = self.ledgers.len();
        self.ledgers.extend([ByteLedger::default(), ByteLedger::default()]);
        self.sides.push(Side {
            peer: None,
            ledger_in: ledger,
            ledger_out: ledger + 1,
            gone: false,
            surely_gone: false,
            shut_read: false,
            shut_write: false,
            write_ended: false,
            read_ended: false,
            error_seen: false,
            unsure: false,
        });
        self.sides.len() - 1
    }

    /// These two are ends of one connection. Nothing has been done on either yet.
    pub(crate) fn pair(&mut self, one: usize, other: usize) {
        if self.sides[one].peer.is_some() || self.sides[other].peer.is_some() {
            return self.report("a connection is accepted once", format!("sides {one} and {other}"));
        }
        self.sides[one].peer = Some(other);
        self.sides[other].peer = Some(one);
        self.sides[other].ledger_in = self.sides[one].ledger_out;
        self.sides[other].ledger_out = self.sides[one].ledger_in;
    }

    /// An end is closed, or about to be.
    pub(crate) fn side_gone(&mut self, side: usize, for_sure: bool) {
        let side = &mut self.sides[side];
        side.gone = true;
        side.surely_gone |= for_sure;
        side.write_ended |= for_sure;
    }

    pub(crate) fn begin_shutdown(&mut self, side: usize, half: Half) {
        let side = &mut self.sides[side];
        side.shut_read |= half != Half::Write;
        side.shut_write |= half != Half::Read;
    }

    pub(crate) fn shut_down(&mut self, side: usize, half: Half, result: Result<usize, Failure>) {
        match result {
            Ok(_) => {
                self.sides[side].write_ended |= half != Half::Read;
                self.sides[side].read_ended |= half != Half::Write;
            }
            Err(Failure::Errno(_)) => self.sides[side].error_seen = true,
            Err(_) => {}
        }
    }

    pub(super) fn may_be_reset(&self, side: usize) -> bool {
        let side = &self.sides[side];
        // Linux resets a connection when there comes data that will never be read: tcp_rcv_state_process().
        let unread = |peer: usize| self.sides[peer].shut_read || side.shut_read;
        let real = self.backend != Backend::Sim;
        self.faults.resets || side.peer.is_none_or(|peer| self.sides[peer].gone || real && unread(peer))
    }

    pub(super) fn may_reach_the_end(&self, entry: &Entry) -> Result<(), &'static str> {
        let may = match &entry.effect {
            Effect::Read { there, len, exact: true, .. } => there < len,
            Effect::Receive { side, .. } => {
                let this = &self.sides[*side];
                let peer_ends = |peer: usize| self.sides[peer].shut_write;
                self.may_be_reset(*side)
                    || this.shut_read
                    || this.error_seen
                    || this.peer.is_some_and(peer_ends)
            }
            _ => false,
        };
        if may { Ok(()) } else { Err("the end of the stream is not made up") }
    }

    /// Whether an operation is in flight in a direction of an end.
    pub(crate) fn is_sending(&mut self, side: usize) -> bool {
        self.ledger_out(side).sends.in_flight > 0
    }

    pub(crate) fn is_receiving(&mut self, side: usize) -> bool {
        self.ledger_in(side).receives.in_flight > 0
    }

    /// Operations of one kind on one loop are done in the order of their submission: the backends that queue them promise that.
    pub(super) fn keeps_order(&self) -> bool {
        self.backend != Backend::IoUring
    }

    pub(crate) fn begin_send(&mut self, number: usize, side: usize, key: u64, len: usize, all: bool) {
        let (on, in_order) = ((self.entries[number].on, self.entries[number].life), self.keeps_order());
        let segment = self.ledger_out(side).begin_send(key, len, on, in_order);
        self.entries[number].effect = Effect::Send { side, segment, len, all };
    }

    pub(crate) fn end_send(&mut self, number: usize, result: Result<usize, Failure>, moved: usize) {
        let Effect::Send { side, segment, len, .. } = self.entries[number].effect else { return };
        self.ledger_out(side).end_send(segment, Moved::Exactly(moved.min(len)));
        self.note_error(side, result);
    }

    pub(crate) fn begin_receive(
        &mut self,
        number: usize,
        side: usize,
        len: usize,
        exact: bool,
        pooled: bool,
    ) {
        let (on, in_order) =
            ((self.entries[number].on, self.entries[number].life), self.keeps_order() && !pooled);
        let chunk = self.ledger_in(side).begin_receive(len, on, in_order);
        self.entries[number].effect = Effect::Receive { side, chunk, len, exact };
    }

    /// Received bytes; the receive may go on.
    pub(crate) fn receive(&mut self, number: usize, bytes: &[u8]) {
        let Effect::Receive { side, chunk, .. } = self.entries[number].effect else { return };
        self.digest(bytes.iter().fold(5, |digest, byte| mix(digest ^ u64::from(*byte))));
        self.ledger_in(side).receive(chunk, bytes);
    }

    pub(crate) fn end_receive(&mut self, number: usize, result: Result<usize, Failure>) {
        let Effect::Receive { side, chunk, len, .. } = self.entries[number].effect else { return };
        let entry = &self.entries[number];
        let is_end = match result {
            Ok(0) if matches!(entry.request, Request::Series(_)) => !entry.disarmed,
            Ok(0) => len > 0,
            Err(Failure::EndOfStream) => true,
            _ => false,
        };
        let ledger = self.ledger_in(side);
        ledger.end_receive(chunk, 0);
        ledger.end_seen |= is_end;
        self.note_error(side, result);
    }

    pub(super) fn note_error(&mut self, side: usize, result: Result<usize, Failure>) {
        if matches!(result, Err(Failure::Errno(_))) {
            self.sides[side].error_seen = true;
        }
    }

    pub(super) fn verify_side(&mut self, side: usize) {
        let this = &self.sides[side];
        if this.peer.is_none() {
            return;
        }
        let sure = !self.faults.resets && !this.shut_read && !this.error_seen && !this.unsure;
        let ledger = &self.ledgers[this.ledger_in];
        self.stats.add("bytes", "followed", ledger.followed() as u64);
        self.stats.add("connections", if ledger.is_ordered() { "in order" } else { "out of order" }, 1);
        if let Err(detail) = ledger.verify(ledger.end_seen && sure) {
            self.report("bytes come out as they went in", format!("to side {side}: {detail}"));
        }
    }
}
