//! [`Faults`]: what goes wrong in a world, and how often.

use std::time::Duration;

use super::random::Random;

/// What goes wrong in a simulated world, and how often. Probabilities are between 0.0 (never) and 1.0
/// (whenever it can).
///
/// ```
/// use oxev::sim::Faults;
/// let only_short_reads = Faults { short_read: 0.5, ..Faults::none() };
/// assert_ne!(only_short_reads, Faults::default());
/// assert_eq!(Faults::swarm(7), Faults::swarm(7));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// What anything takes at least: a packet on its way, an access to a file.
    pub latency_min: Duration,
    /// And at most: each time it is another value between the two.
    pub latency_max: Duration,
    /// A read or receive that gives less than there is.
    pub short_read: f64,
    /// A write or send that takes less than it could.
    pub short_write: f64,
    /// A system call that a signal interrupts (`EINTR`). The loop goes on with the operation by itself.
    pub interrupt: f64,
    /// A descriptor that was said to be ready, and is not (`EAGAIN`): the operation takes longer.
    pub again: f64,
    /// A connection that is reset while it is used (`ECONNRESET`), for each transfer.
    pub connection_reset: f64,
    /// A connection that is refused although a listener is there (`ECONNREFUSED`).
    pub connection_refused: f64,
    /// A file system that has no room for a write (`ENOSPC`).
    pub no_space: f64,
    /// A read, write or sync of a file that fails (`EIO`).
    pub io_error: f64,
    /// A completion that others overtake.
    pub reorder: f64,
    /// A cancel that comes too late: the operation goes on for a while, and ends with its result if that
    /// comes in time.
    pub cancel_loses: f64,
    /// A submission that finds the submission queue full, and begins in the next step only.
    pub submission_queue_full: f64,
    /// A step in which the completion queue gives only a few of its completions.
    pub completion_queue_overflow: f64,
    /// A completion that comes once more when its operation is long over. No callback must see it.
    pub late_completion: f64,
    /// A multi-result operation that the backend repeats natively, for each submission. Otherwise the loop
    /// submits it again after each result.
    pub native_multishot: f64,
    /// A native multi-result operation that the backend stops repeating after a result, for each of them.
    pub lost_continuation: f64,
    /// At a [power cut](crate::sim::Simulation::power_cut): a change that was not synced and has reached the
    /// disk nevertheless, in part or whole.
    pub torn_write: f64,
}

impl Faults {
    /// Nothing goes wrong, and nothing takes its time.
    #[must_use]
    pub const fn none() -> Faults {
        Faults {
            latency_min: Duration::ZERO,
            latency_max: Duration::ZERO,
            short_read: 0.0,
            short_write: 0.0,
            interrupt: 0.0,
            again: 0.0,
            connection_reset: 0.0,
            connection_refused: 0.0,
            no_space: 0.0,
            io_error: 0.0,
            reorder: 0.0,
            cancel_loses: 0.0,
            submission_queue_full: 0.0,
            completion_queue_overflow: 0.0,
            late_completion: 0.0,
            native_multishot: 1.0,
            lost_continuation: 0.0,
            torn_write: 0.0,
        }
    }

    /// Faults that the seed chooses (swarm testing: Groce et al., ISSTA 2012): many are off altogether, so
    /// that the others come in combinations that an even mixture never shows.
    #[must_use]
    pub fn swarm(seed: u64) -> Faults {
        // Other numbers than those of the world with the same seed.
        let mut random = Random::new(seed ^ 0x5741_524d);
        let mut faults = Faults::none();
        if random.chance(0.7) {
            faults.latency_max = Duration::from_nanos(random.up_to(2_000_000));
            faults.latency_min = faults.latency_max.mul_f64(random.fraction());
        }
        for (often, probability) in [
            (0.5, &mut faults.short_read),
            (0.5, &mut faults.short_write),
            (0.3, &mut faults.interrupt),
            (0.3, &mut faults.again),
            (0.02, &mut faults.connection_reset),
            (0.2, &mut faults.connection_refused),
            (0.1, &mut faults.no_space),
            (0.1, &mut faults.io_error),
            (0.5, &mut faults.reorder),
            (0.7, &mut faults.cancel_loses),
            (0.3, &mut faults.submission_queue_full),
            (0.3, &mut faults.completion_queue_overflow),
            (0.3, &mut faults.late_completion),
            (1.0, &mut faults.native_multishot),
            (0.5, &mut faults.lost_continuation),
            (0.7, &mut faults.torn_write),
        ] {
            *probability = if random.chance(0.5) { 0.0 } else { often * random.fraction() };
        }
        faults
    }
}

impl Default for Faults {
    /// A bad day: everything goes wrong now and then, and nothing so often that a program gets nowhere.
    fn default() -> Faults {
        Faults {
            latency_min: Duration::from_micros(50),
            latency_max: Duration::from_millis(1),
            short_read: 0.1,
            short_write: 0.1,
            interrupt: 0.05,
            again: 0.05,
            connection_reset: 0.001,
            connection_refused: 0.01,
            no_space: 0.001,
            io_error: 0.001,
            reorder: 0.1,
            cancel_loses: 0.3,
            submission_queue_full: 0.05,
            completion_queue_overflow: 0.05,
            late_completion: 0.05,
            native_multishot: 0.5,
            lost_continuation: 0.1,
            torn_write: 0.3,
        }
    }
}
