//! What a program is: a setting, a list of steps, and an end. A seed expands to one.

mod choices;
mod display;

use std::fmt;

use choices::Profile;

use super::random::Random;

/// What a program runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Sim,
    IoUring,
    Epoll,
    Poll,
    /// Over an emulation.
    #[cfg(kqueue_emulation)]
    Kqueue,
}

impl Backend {
    /// What a loop is asked for to run on it; `None` for the simulator.
    pub(crate) fn kind(self) -> Option<oxev::Kind> {
        match self {
            Backend::Sim => None,
            Backend::IoUring => Some(oxev::Kind::IoUring),
            Backend::Epoll => Some(oxev::Kind::Epoll),
            Backend::Poll => Some(oxev::Kind::Poll),
            #[cfg(kqueue_emulation)]
            Backend::Kqueue => Some(oxev::Kind::Kqueue),
        }
    }

    /// Whether its files are the work of the loop's thread pool.
    pub(crate) fn uses_thread_pool(self) -> bool {
        !matches!(self, Backend::Sim | Backend::IoUring)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Backend::Sim => "sim",
            Backend::IoUring => "io_uring",
            Backend::Epoll => "epoll",
            Backend::Poll => "poll",
            #[cfg(kqueue_emulation)]
            Backend::Kqueue => "kqueue",
        })
    }
}

/// How much of everything there is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting {
    pub(crate) loops: usize,
    /// Of each loop's table.
    pub(crate) capacity: usize,
    /// Of its submission queue.
    pub(crate) entries: u32,
    pub(crate) baseline: bool,
    /// Of each loop's buffer pool: how many, and how large.
    pub(crate) buffers: (usize, usize),
    /// One lease of this many is kept; 0: none.
    pub(crate) kept: usize,
    /// The file that is appended to has room for this many bytes, by a limit of file sizes; in the simulator the disk has.
    pub(crate) room: Option<usize>,
    /// Slots of the pool of owners.
    pub(crate) slots: usize,
    /// What a connection holds in each direction.
    pub(crate) socket_bytes: usize,
    /// Sockets are shared by slots of a pool instead of by reference counts.
    pub(crate) pooled_sockets: bool,
    /// No second operation on one direction of one socket while there is one.
    pub(crate) exclusive: bool,
    /// No faults.
    pub(crate) calm: bool,
    /// Work may block, and its pool has one or two workers.
    pub(crate) blocking: bool,
    /// The program waits for the loops' descriptors.
    pub(crate) embedding: Embedding,
    /// Addresses are those of IPv6, where there is such a thing.
    pub(crate) ipv6: bool,
}

/// What the memory of an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    Box,
    /// A slot of a pool, if one is free.
    Pool,
    /// A `&'static mut`, if the operation needs nothing that would be lost with its loop.
    Static,
}

/// How a program has its loops in another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Embedding {
    No,
    /// By poll(2).
    Poll,
    /// By an epoll that tells of each change once.
    Edge,
}

/// What a receive is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receive {
    Some,
    Exact,
    Vectored,
    ExactVectored,
    Pooled,
}

/// What a send is called; a write, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transmit {
    Some,
    All,
    Vectored,
    AllVectored,
    ZeroCopy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Read,
    Write,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenWhat {
    Existing,
    Missing,
    CreateNew,
    Contradiction,
}

/// A single operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Nop,
    /// A timer, in microseconds.
    After(u16),
    /// A timer at a tick of a coarse clock, so that deadlines coincide.
    At(u8),
    /// A timer that does not fire while the program runs.
    Hour,
    Recv {
        end: u8,
        how: Receive,
        len: u8,
    },
    Send {
        end: u8,
        how: Transmit,
        len: u16,
    },
    Accept {
        address: bool,
    },
    Connect {
        nowhere: bool,
    },
    Shutdown {
        end: u8,
        half: Half,
    },
    /// Closes an end as an operation, or lets go of it if it is in use.
    Close {
        end: u8,
    },
    Read {
        at: u16,
        len: u8,
        how: Receive,
    },
    Write {
        region: u8,
        len: u8,
        how: Transmit,
    },
    /// A write at the file's own position.
    Append {
        len: u8,
        all: bool,
    },
    /// A read at the file's own position.
    ReadOn {
        len: u8,
    },
    /// A read or a write at the position of a file that is both read and written there.
    Mixed {
        len: u8,
        writes: bool,
    },
    /// A read from or a write to a FIFO (real backends).
    Fifo {
        len: u8,
        writes: bool,
    },
    /// A timer whose owner has a loop of its own, with operations in flight.
    Nested(u16),
    Sync {
        data: bool,
    },
    Metadata,
    Open(OpenWhat),
    CloseFile,
    Wait {
        notifier: u8,
    },
    /// On a thread pool. `blocks`: until the program releases it.
    Offload {
        panics: bool,
        blocks: bool,
    },
    /// On a socket that is no connection.
    Stray {
        sends: bool,
    },
    /// On a stream that was closed in place.
    OnClosed {
        sends: bool,
    },
    /// A receive into the buffers of another loop.
    ForeignPool {
        end: u8,
    },
}

/// Several results from one submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Series {
    /// Microseconds.
    Every(u16),
    EveryAfter(u16),
    Accept,
    Recv {
        end: u8,
    },
    Wait {
        notifier: u8,
    },
}

/// What a callback does beside looking at its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Nothing,
    /// Submits the owner again.
    Again(Work),
    Cancel(u16),
    Reset(u16, u16),
    /// The operation whose callback it is.
    CancelThis,
    ResetThis(u16),
    Stop(Caller),
    Wake,
    Panic,
    /// Submits an operation whose `prepare` panics.
    PanicInPrepare,
    /// Lets work go on that blocks.
    Release,
    /// Tries to run the loop in itself.
    Run,
    Post,
    Notify(u8),
    DropLease,
}

impl Then {
    /// It changes what becomes of operations: item callbacks do that each time.
    pub(crate) fn steers(self) -> bool {
        matches!(self, Then::Cancel(_) | Then::Reset(..) | Then::CancelThis | Then::ResetThis(_))
    }
}

/// What code of a program does that has no loop at hand, but a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aside {
    Nothing,
    Stop,
    Post,
    Notify(u8),
    /// In a `Drop`; elsewhere nothing.
    Panic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    NoWait,
    Once,
    UntilDone,
    /// Microseconds.
    For(u16),
}

/// Who calls a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Program,
    /// By the loop's handle.
    Handle,
    /// By its handle, from another thread.
    OtherThread,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Submit {
        on: u8,
        work: Work,
        limit_us: Option<u16>,
        background: bool,
        memory: Memory,
        /// In `prepare`, and when the owner is dropped.
        prepare: Aside,
        drop: Aside,
        then: Then,
    },
    SubmitSeries {
        on: u8,
        series: Series,
        items: u8,
        limit_us: Option<u16>,
        background: bool,
        item: Then,
        drop: Aside,
        then: Then,
    },
    PanicInPrepare {
        on: u8,
        pooled: bool,
    },
    /// Cancels an operation, finished or not, twice if so said.
    Cancel {
        which: u16,
        twice: bool,
    },
    /// With the id of another loop's operation.
    CancelForeign {
        which: u16,
    },
    CancelAll {
        end: u8,
    },
    Reset {
        which: u16,
        us: u16,
    },
    Run {
        on: u8,
        mode: Mode,
    },
    /// As a program that has the loop in another one. Microseconds.
    Drive {
        on: u8,
        us: u16,
    },
    /// All loops together (sim), or one after the other. Microseconds.
    RunAll {
        us: u16,
    },
    Stop {
        on: u8,
        who: Caller,
    },
    Wake {
        on: u8,
        elsewhere: bool,
    },
    /// Posts, one after the other from another thread.
    Burst {
        on: u8,
        count: u8,
    },
    Post {
        on: u8,
        elsewhere: bool,
        then: Then,
    },
    Notify {
        notifier: u8,
        elsewhere: bool,
    },
    DropLease {
        which: u8,
    },
    DropEnd {
        end: u8,
    },
    DropLoop {
        on: u8,
    },
    /// Lets work go on that blocks.
    Release,
    Flush {
        on: u8,
    },
    NextTimeout {
        on: u8,
    },
    /// Sim: cuts two hosts off from each other, or mends that.
    Partition {
        cut: bool,
    },
    /// Sim: resets all connections between two hosts.
    ResetConnections,
}

/// What becomes of what is in flight at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Drop,
    /// Everything is cancelled: then all must end.
    Cancel,
    /// It is given time: then what should end must have ended.
    Settle,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Program {
    pub(crate) seed: u64,
    pub(crate) backend: Backend,
    pub(crate) setting: Setting,
    pub(crate) steps: Vec<Step>,
    pub(crate) ending: Ending,
}

/// How many there are to choose from.
pub(crate) const ENDS: u8 = 6;
pub(crate) const NOTIFIERS: u8 = 2;

impl Program {
    /// The program of a seed, of no more than `steps_max` steps.
    pub(crate) fn new(seed: u64, backend: Backend, steps_max: usize) -> Program {
        let mut random = Random::new(seed);
        let setting = Setting::new(&mut random, backend);
        let count = 1 + random.below(steps_max.max(1) as u64) as usize;
        let profile = Profile::new(&mut random, backend, &setting);
        let mut steps: Vec<Step> = (0..count).map(|_| profile.step(&mut random)).collect();
        if setting.embedding != Embedding::No {
            steps.iter_mut().for_each(|step| step.embed(&mut random));
        }
        let ending = random.pick(&[Ending::Drop, Ending::Cancel, Ending::Settle]);
        Program { seed, backend, setting, steps, ending }
    }
}

#[cfg(test)]
mod tests {
    use oxev::OpKind;

    use super::*;

    /// What a step submits.
    fn op_kinds(step: &Step) -> Vec<OpKind> {
        match step {
            Step::Submit { work, .. } => work.op_kind().into_iter().collect(),
            Step::SubmitSeries { series, .. } => vec![series.op_kind()],
            _ => Vec::new(),
        }
    }

    /// An operation that was added and that no program submits would look as if it had been fuzzed.
    #[test]
    fn every_operation_of_the_safe_interface_is_in_random_programs() {
        for backend in Backend::available() {
            let programs = (0..100).map(|seed| Program::new(seed, backend, 50));
            let submitted: Vec<_> =
                programs.flat_map(|p| p.steps.iter().flat_map(op_kinds).collect::<Vec<_>>()).collect();
            let is_missing =
                |kind: &&OpKind| kind.facts().made_by != "`raw::submit`" && !submitted.contains(kind);
            let missing: Vec<_> = OpKind::ALL.iter().filter(is_missing).collect();
            assert!(missing.is_empty(), "on {backend} no program submits {missing:?}");
        }
    }
}
