//! How operations end, and whether they may end so.

use std::io;

use oxev::Cause;

use super::super::program::{Backend, OpenWhat, Series, Work};
use super::super::random::mix;
#[cfg(feature = "sim")]
use super::Clock;
use super::Model;
use super::entry::{Effect, Entry};
use super::request::Request;

/// How an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Canceled,
    /// Its deadline passed.
    TimedOut,
    EndOfStream,
    TableFull,
    AlreadyWaiting,
    /// The kind `Other`: work panicked.
    Other,
    Errno(i32),
    Unknown,
}

impl Failure {
    pub(super) fn code(self) -> u64 {
        match self {
            Failure::Canceled => 1,
            Failure::TimedOut => 2,
            Failure::EndOfStream => 3,
            Failure::Other => 4,
            Failure::Unknown => 5,
            Failure::TableFull => 6,
            Failure::AlreadyWaiting => 7,
            Failure::Errno(errno) => 8 + errno as u64,
        }
    }
}

pub(crate) fn classify(error: &io::Error) -> Failure {
    match (Cause::of(error), error.raw_os_error()) {
        (Some(Cause::Canceled), _) => Failure::Canceled,
        (Some(Cause::Deadline), _) => Failure::TimedOut,
        (Some(Cause::TableFull), _) => Failure::TableFull,
        (Some(Cause::AlreadyWaiting), _) => Failure::AlreadyWaiting,
        (Some(Cause::UnexpectedEof), _) => Failure::EndOfStream,
        (Some(Cause::Panicked), _) => Failure::Other,
        (_, Some(errno)) => Failure::Errno(errno),
        _ => Failure::Unknown,
    }
}

impl Model {
    /// Judges how an operation ended.
    pub(crate) fn check_outcome(&mut self, number: usize, result: Result<usize, Failure>) {
        let now_ns = self.now_ns();
        let request = self.entries[number].request;
        self.stats.count(request.name(), outcome_name(result));
        let code = match result {
            Ok(n) => n as u64,
            Err(failure) => 2 << 40 | failure.code(),
        };
        self.digest(code ^ mix(number as u64));
        #[cfg(feature = "sim")]
        if matches!(self.clock, Clock::Sim(_)) {
            self.digest(now_ns);
        }
        if let Err(rule) = self.may_end(number, result, now_ns) {
            let e = &self.entries[number];
            let detail = format!(
                "{} ended with {result:?} at {now_ns} ns (canceled: {}, due: {}, limit: {:?}, refused: {})",
                self.describe(number),
                e.canceled,
                e.due_ns,
                e.limit_ns,
                e.refused
            );
            self.report(rule, detail);
        }
        if result.is_ok() {
            self.check_timer_order(number);
        }
        if self.loops[self.entries[number].on].life == self.entries[number].life {
            self.note_progress(number, result);
        }
    }

    /// `Loop::moved` says in a callback how far its operation came.
    pub(crate) fn check_moved(&mut self, number: usize, result: Result<usize, Failure>, moved: u64) {
        let (most, is_known) = match (&self.entries[number].effect, result) {
            (Effect::None | Effect::Shutdown { .. } | Effect::Close { .. } | Effect::Offload { .. }, _) => {
                (0, true)
            }
            (_, Ok(count)) => (count, true),
            (
                Effect::Send { len, all: true, .. }
                | Effect::Receive { len, exact: true, .. }
                | Effect::Write { len, all: true, .. }
                | Effect::Append { len, all: true, .. }
                | Effect::Read { len, exact: true, .. },
                Err(_),
            ) if !self.entries[number].refused => (len.saturating_sub(1), false),
            (_, Err(_)) => (0, true),
        };
        let moved = usize::try_from(moved).unwrap_or(usize::MAX);
        if moved > most || is_known && moved < most {
            let detail = format!("{}: {result:?}, moved {moved}", self.describe(number));
            self.report("moved says how far an operation came", detail);
        }
        if !is_known && moved > 0 {
            self.stats.count("moved in part", self.entries[number].request.name());
        }
    }

    pub(super) fn note_progress(&mut self, number: usize, result: Result<usize, Failure>) {
        match (self.entries[number].request, result) {
            (Request::Single(Work::Connect { nowhere: false }), Ok(_)) => self.connected += 1,
            (Request::Single(Work::Wait { notifier }), Ok(_)) => self.notified_wait(usize::from(notifier)),
            (Request::Single(Work::Accept { .. }), Ok(_)) => self.accepted(),
            _ => {}
        }
    }

    /// The rule that forbids this end.
    pub(super) fn may_end(
        &self,
        number: usize,
        result: Result<usize, Failure>,
        now_ns: u64,
    ) -> Result<(), &'static str> {
        let entry = &self.entries[number];
        let allowed = |allowed: bool, rule: &'static str| if allowed { Ok(()) } else { Err(rule) };
        match result {
            Err(Failure::Canceled) => {
                let canceled = entry.canceled || entry.perhaps_canceled;
                allowed(canceled && !entry.disarmed, "only what was cancelled ends as cancelled")
            }
            Err(Failure::TimedOut) => {
                let passed = entry.limit_ns.is_some_and(|limit_ns| now_ns >= limit_ns);
                allowed(passed && !entry.canceled && !entry.disarmed, "a deadline is never early")
            }
            // Work that was withdrawn counts until a worker has come to it.
            Err(Failure::TableFull) if entry.job().is_some() && self.loops[entry.on].withdrew => Ok(()),
            Err(Failure::TableFull) => allowed(entry.refused, "only a full table refuses an operation"),
            _ if entry.refused => Err("a full table refuses an operation"),
            Err(Failure::AlreadyWaiting) => {
                let waits = matches!(
                    entry.request,
                    Request::Single(Work::Wait { .. }) | Request::Series(Series::Wait { .. })
                );
                allowed(waits && entry.contested, "only a second wait for a notifier is refused")
            }
            Err(Failure::Errno(errno)) => {
                allowed(self.may_fail(entry, errno), "an operation fails for a reason")
            }
            Err(Failure::EndOfStream) => self.may_reach_the_end(entry),
            Err(Failure::Other) => {
                let panics = matches!(entry.request, Request::Single(Work::Offload { panics: true, .. }));
                allowed(panics, "an operation fails for a reason")
            }
            Err(Failure::Unknown) => Err("an operation fails for a reason"),
            Ok(count) => self.may_succeed(entry, count, now_ns),
        }
    }

    pub(super) fn may_succeed(&self, entry: &Entry, count: usize, now_ns: u64) -> Result<(), &'static str> {
        const COUNT: &str = "a count is that of the bytes";
        let allowed = |allowed: bool, rule: &'static str| if allowed { Ok(()) } else { Err(rule) };
        match (&entry.effect, entry.request) {
            (_, Request::Series(_)) if entry.disarmed => Ok(()),
            (_, Request::Series(Series::Recv { .. })) => self.may_reach_the_end(entry),
            (_, Request::Series(_)) => Err("a series ends for a reason"),
            (Effect::Send { len, all, .. }, _) if *all => allowed(count == *len, COUNT),
            (Effect::Send { len, .. }, _) => allowed((usize::from(*len > 0)..=*len).contains(&count), COUNT),
            (Effect::Receive { len, exact, .. }, _) => match count {
                _ if *exact => allowed(count == *len, COUNT),
                0 if *len > 0 => self.may_reach_the_end(entry),
                _ => allowed(count <= *len, COUNT),
            },
            (Effect::Write { len, all, .. }, _) => {
                let least = if *all || !self.faults.short_writes { *len } else { usize::from(*len > 0) };
                allowed((least..=*len).contains(&count), COUNT)
            }
            (Effect::Read { there, len, exact, .. }, _) => {
                let most = *there.min(len);
                let least = match () {
                    () if *exact => *len,
                    () if self.faults.short_reads => usize::from(most > 0),
                    () => most,
                };
                allowed((least..=most).contains(&count), COUNT)
            }
            (Effect::Append { len, all, .. }, _) => {
                let may_be_short = self.faults.short_writes || self.faults.room.is_some();
                let least = if *all || !may_be_short { *len } else { usize::from(*len > 0) };
                allowed((least..=*len).contains(&count), COUNT)
            }
            (Effect::Mixed { len, writes: true, .. }, _) => {
                let may_be_short = self.faults.short_writes || self.faults.room.is_some();
                let least = if may_be_short { usize::from(*len > 0) } else { *len };
                allowed((least..=*len).contains(&count), COUNT)
            }
            (Effect::Fifo { len, .. }, _) => allowed((usize::from(*len > 0)..=*len).contains(&count), COUNT),
            (Effect::ReadOn { len, .. } | Effect::Mixed { len, .. }, _) => allowed(count <= *len, COUNT),
            (_, Request::Single(work)) if work.is_timer() => {
                allowed(now_ns >= entry.due_ns, "a timer is never early")
            }
            (_, Request::Single(Work::Open(what))) => allowed(
                matches!(what, OpenWhat::Existing | OpenWhat::CreateNew),
                "an operation fails when it must",
            ),
            (_, Request::Single(Work::Connect { nowhere: true })) => Err("an operation fails when it must"),
            (_, Request::Single(Work::Stray { .. } | Work::OnClosed { .. } | Work::ForeignPool { .. })) => {
                Err("an operation fails when it must")
            }
            (_, Request::Single(Work::Offload { panics: true, .. })) => {
                Err("an operation fails when it must")
            }
            (_, Request::Single(Work::Offload { .. })) => {
                allowed(!entry.canceled, "what is withdrawn is not done")
            }
            _ => Ok(()),
        }
    }

    pub(super) fn may_fail(&self, entry: &Entry, errno: i32) -> bool {
        let world = self.backend == Backend::Sim;
        match (&entry.effect, entry.request) {
            // A receive that was disarmed tells what the kernel tells once.
            (_, Request::Series(_)) if entry.disarmed && !matches!(entry.effect, Effect::Receive { .. }) => {
                false
            }
            (Effect::Send { side, .. }, _) => match errno {
                libc::EPIPE => self.may_be_reset(*side) || self.sides[*side].shut_write,
                libc::ECONNRESET => self.may_be_reset(*side),
                _ => false,
            },
            (Effect::Receive { side, .. }, _) => errno == libc::ECONNRESET && self.may_be_reset(*side),
            (Effect::Shutdown { side }, _) => {
                let side_is = &self.sides[*side];
                errno == libc::ENOTCONN
                    && (self.may_be_reset(*side) || side_is.shut_read || side_is.shut_write)
            }
            (Effect::Append { .. }, _) if errno == libc::EFBIG => self.faults.room.is_some(),
            // A disk that is full has room for what makes no file longer.
            (Effect::Append { .. } | Effect::Mixed { writes: true, .. }, _)
                if errno == libc::ENOSPC && world =>
            {
                self.faults.no_space || self.faults.room.is_some()
            }
            (Effect::Write { .. } | Effect::Append { .. } | Effect::Mixed { writes: true, .. }, _) => {
                match errno {
                    libc::EIO => self.faults.io_errors,
                    libc::ENOSPC => self.faults.no_space,
                    _ => false,
                }
            }
            (Effect::Fifo { .. }, _) => false,
            (Effect::Read { .. } | Effect::ReadOn { .. } | Effect::Mixed { .. }, _)
            | (_, Request::Single(Work::Sync { .. })) => errno == libc::EIO && self.faults.io_errors,
            (_, Request::Single(work)) => match work {
                Work::Connect { nowhere } => errno == libc::ECONNREFUSED && (nowhere || self.faults.refuses),
                Work::Open(OpenWhat::Missing) => errno == libc::ENOENT,
                Work::Open(OpenWhat::CreateNew) => errno == libc::EEXIST,
                Work::Open(OpenWhat::Contradiction) | Work::ForeignPool { .. } => errno == libc::EINVAL,
                Work::OnClosed { .. } => errno == libc::EBADF,
                Work::Stray { .. } if world => errno == libc::EBADF,
                Work::Stray { sends: true } => errno == libc::EPIPE || errno == libc::ENOTCONN,
                Work::Stray { sends: false } => errno == libc::ENOTCONN,
                _ => false,
            },
            (_, Request::Series(Series::Every(0) | Series::EveryAfter(0))) => errno == libc::EINVAL,
            (_, Request::Series(_)) => false,
        }
    }

    /// Timers with equal deadlines fire in the order of their submission.
    pub(super) fn check_timer_order(&mut self, number: usize) {
        let Entry { request, on, life, due_ns, was_reset, .. } = self.entries[number];
        if !matches!(request, Request::Single(Work::At(_))) || was_reset {
            return;
        }
        let last = self.fired.insert((on, life, due_ns), number);
        if last.is_some() {
            self.stats.count("at", "the same time as another");
        }
        if last.is_some_and(|last| last > number) {
            let detail = format!("#{number} after #{}", last.unwrap_or_default());
            self.report("timers with equal deadlines fire in order", detail);
        }
    }
}

fn outcome_name(result: Result<usize, Failure>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(Failure::Canceled) => "canceled",
        Err(Failure::TimedOut) => "timed out",
        Err(Failure::EndOfStream) => "end of stream",
        Err(Failure::Other) => "panicked",
        Err(Failure::Unknown) => "unknown",
        Err(Failure::TableFull) => "table full",
        Err(Failure::AlreadyWaiting) => "already waiting",
        Err(Failure::Errno(errno)) => match errno {
            libc::ECONNRESET => "ECONNRESET",
            libc::ECONNREFUSED => "ECONNREFUSED",
            libc::EPIPE => "EPIPE",
            libc::ENOTCONN => "ENOTCONN",
            libc::EBADF => "EBADF",
            libc::EINVAL => "EINVAL",
            libc::EIO => "EIO",
            libc::ENOSPC => "ENOSPC",
            libc::EFBIG => "EFBIG",
            libc::ENOENT => "ENOENT",
            libc::EEXIST => "EEXIST",
            _ => "another errno",
        },
    }
}
