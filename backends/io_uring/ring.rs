//! The pair of rings and the one system call, `io_uring_enter(2)`.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::Duration;

use ::io_uring::{Builder, EnterFlags, IoUring, cqueue, squeue, types};

use super::features::{Features, too_old};
use super::{ENTRIES_MAX, IoWorkers, Options, Wait};

/// Completion queue entries for each submission queue entry: multishot operations complete more often than
/// they are submitted.
const COMPLETIONS_PER_SUBMISSION: u32 = 4;

/// The most completion queue entries that a kernel gives a ring (`IORING_MAX_CQ_ENTRIES`).
const COMPLETIONS_MAX: u32 = 2 * ENTRIES_MAX;

/// The size of the submission queue if the program names none. A ring of 512 is 17 pages of memory that counts
/// as locked (before 5.12, and again since 6.14): an ordinary user with the usual 8 MiB has 120 of them, and
/// has 15 of 4096. An echo server of 16 to 4,000 connections is as fast with 256 as with 4096 (seen on 6.18).
const ENTRIES_DEFAULT: u32 = 512;

/// The smallest size that is chosen without the program's word: three pages, and below it hardly less.
const ENTRIES_LEAST: u32 = 64;

/// How long one build waits for memory that the kernel gives back late: a ring that was closed counts until a
/// worker has freed it, 35 ms later at most (seen on 6.18). Few tries: a ring that is refused is freed as late.
const MEMORY_WAITS_MS: [u64; 5] = [2, 4, 8, 16, 32];

/// The limits of the kernel's threads if the program names none. Bounded ones, for files: as many as the kernel
/// itself gives a large ring (a small one would get no more than it has entries). Unbounded ones, for what can
/// neither be done at once nor be waited for: the kernel's own limit is the user's (`RLIMIT_NPROC`).
const BOUNDED_WORKERS_PER_CORE: u32 = 4;
const UNBOUNDED_WORKERS: u32 = 64;

thread_local! {
    /// A program has named limits for this thread: loops that name none leave them.
    static WORKERS_CHOSEN: Cell<bool> = const { Cell::new(false) };
}

pub(super) struct Ring {
    ring: ManuallyDrop<IoUring>,
    /// This process is a forked child, which has the descriptor and not the mappings.
    is_parents: bool,
    /// What `io_uring_enter` is called with: the ring's descriptor, or its index in the thread's registered
    /// rings.
    enter_fd: RawFd,
    enter_flags: EnterFlags,
    deferred: bool,
}

impl Ring {
    /// Makes the rings: of the size that the program names, or of the largest that there is memory for.
    pub(super) fn new(options: &Options) -> io::Result<(Ring, Features)> {
        let (mut entries, least) = match options.entries {
            Some(entries) => (entries, entries),
            None => (ENTRIES_DEFAULT, ENTRIES_LEAST),
        };
        let mut built = with_patience(|| Ring::of_size(entries, options.baseline));
        while entries / 2 >= least && built.as_ref().is_err_and(is_out_of_memory) {
            entries /= 2;
            built = Ring::of_size(entries, options.baseline);
        }
        let (mut ring, features) = built?;
        // 6.15. The waker's poll is always in flight, so any wait would count (`procs_blocked` of proc(5)).
        if !options.iowait && !options.baseline && ring.ring.params().is_feature_no_iowait() {
            ring.enter_flags |= EnterFlags::NO_IOWAIT;
        }
        ring.limit_workers(options.io_workers)?;
        Ok((ring, features))
    }

    /// Makes rings of this size, with the best set of flags that this kernel takes.
    fn of_size(entries: u32, baseline: bool) -> io::Result<(Ring, Features)> {
        /// From the best down; each line says since when.
        const FLAGS: [fn(&mut Builder); 5] = [
            // 6.6: the submission queue is the array of entries itself.
            |b| _ = b.setup_no_sqarray().setup_defer_taskrun().setup_single_issuer().setup_submit_all(),
            // 6.1: completions are worked on when the loop asks for them, by the one thread that submits.
            |b| _ = b.setup_defer_taskrun().setup_single_issuer().setup_submit_all(),
            // 5.19: completions do not interrupt the loop's thread.
            |b| _ = b.setup_coop_taskrun().setup_submit_all(),
            // 5.18: one bad entry does not stop the batch.
            |b| _ = b.setup_submit_all(),
            |_| (),
        ];
        let first = if baseline { FLAGS.len() - 1 } else { 0 };
        let mut refusal = io::Error::from_raw_os_error(libc::ENOSYS);
        for (index, set_flags) in FLAGS.iter().enumerate().skip(first) {
            let completions = COMPLETIONS_PER_SUBMISSION * entries.next_power_of_two();
            let mut builder = IoUring::builder();
            builder.dontfork().setup_cqsize(completions.min(COMPLETIONS_MAX));
            set_flags(&mut builder);
            #[cfg(test)]
            super::filter_tests::prepare(&mut builder);
            match builder.build(entries) {
                Ok(ring) => {
                    #[cfg(test)]
                    super::filter_tests::restrict(&ring);
                    let features = Features::probe(&ring, baseline)?;
                    let mut ring = Ring {
                        enter_fd: ring.as_raw_fd(),
                        ring: ManuallyDrop::new(ring),
                        is_parents: false,
                        enter_flags: EnterFlags::GETEVENTS,
                        deferred: index < 2,
                    };
                    if !baseline {
                        ring.register();
                    }
                    return Ok((ring, features));
                }
                // The flags are not known here.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = too_old(error),
                Err(error) => return Err(error),
            }
        }
        Err(refusal)
    }

    /// Registers the ring with the thread, so that the kernel need not look its descriptor up in each call
    /// (5.18). The index goes when the ring is closed and the thread needs the place, at the latest with the
    /// thread.
    fn register(&mut self) {
        /// `IORING_REGISTER_RING_FDS` and its inverse.
        const REGISTER_RING_FDS: libc::c_uint = 20;
        let mut update = RingUpdate { offset: u32::MAX, reserved: 0, data: self.ring.as_raw_fd() as u64 };
        // SAFETY: S8: `update` is the one record that the call is told of.
        let registered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.ring.as_raw_fd(),
                REGISTER_RING_FDS,
                &raw mut update,
                1,
            )
        };
        if registered == 1 {
            self.enter_fd = update.offset as RawFd;
            self.enter_flags |= EnterFlags::REGISTERED_RING;
        }
    }

    /// This process is a forked child: the rings are its parent's.
    pub(super) fn leave_to_parent(&mut self) {
        self.is_parents = true;
    }

    /// Limits the threads that the kernel makes for this thread's operations (5.15).
    fn limit_workers(&self, chosen: Option<[u32; 2]>) -> io::Result<()> {
        if let Some(mut limits) = chosen {
            self.ring.submitter().register_iowq_max_workers(&mut limits)?;
            WORKERS_CHOSEN.set(true);
        } else if !WORKERS_CHOSEN.get() {
            let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
            let mut limits = [cores.saturating_mul(BOUNDED_WORKERS_PER_CORE), UNBOUNDED_WORKERS];
            // A kernel that cannot be told has limits of its own.
            let _ = self.ring.submitter().register_iowq_max_workers(&mut limits);
        }
        Ok(())
    }

    /// The limits that hold now.
    pub(super) fn io_workers(&self) -> Option<IoWorkers> {
        // Zeros change nothing and ask.
        let mut limits = [0; 2];
        self.ring.submitter().register_iowq_max_workers(&mut limits).ok()?;
        Some(IoWorkers { bounded: limits[0], unbounded: limits[1] })
    }

    pub(super) fn has_no_iowait(&self) -> bool {
        self.enter_flags.contains(EnterFlags::NO_IOWAIT)
    }

    pub(super) fn is_deferred(&self) -> bool {
        self.deferred
    }

    /// Lets the ring write to an eventfd whenever there is something new to collect (5.1).
    pub(super) fn register_eventfd(&self, eventfd: RawFd) -> io::Result<()> {
        self.ring.submitter().register_eventfd(eventfd)
    }

    pub(super) fn unregister_eventfd(&self) -> io::Result<()> {
        self.ring.submitter().unregister_eventfd()
    }

    pub(super) fn is_registered(&self) -> bool {
        self.enter_flags.contains(EnterFlags::REGISTERED_RING)
    }

    /// The size of the submission queue.
    pub(super) fn entries(&self) -> u32 {
        self.ring.params().sq_entries()
    }

    pub(super) fn completions_max(&self) -> usize {
        self.ring.params().cq_entries() as usize
    }

    /// Puts an entry into the submission queue; if it is full, the kernel is made to take what is in it.
    /// `false`: it did not.
    ///
    /// # Safety
    /// What the entry points to is valid until its completion (S1).
    #[inline(always)]
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        let mut queue = self.ring.submission();
        if queue.is_full() {
            drop(queue);
            if !self.make_room() {
                return false;
            }
            queue = self.ring.submission();
        }
        // SAFETY: S1: the caller's promise.
        unsafe { queue.push(entry) }.is_ok()
    }

    /// Has the kernel take what is in the submission queue if that is full. `false`: it did not, or what is in
    /// the queue might complete at once and find no room. The kernel keeps such completions, but allocates for
    /// each: a NOP then costs four times as much (seen on 6.18).
    #[cold]
    #[inline(never)]
    pub(super) fn make_room(&mut self) -> bool {
        if !self.ring.submission().is_full() {
            return true;
        }
        let uncollected = self.ring.completion().len();
        // What comes into the queue afterwards is submitted by the next step, before it collects.
        let completions = uncollected + 2 * self.unsubmitted();
        completions <= self.completions_max() && self.submit().is_ok()
    }

    /// Entries that the kernel has not taken yet.
    #[inline]
    pub(super) fn unsubmitted(&mut self) -> usize {
        self.ring.submission().len()
    }

    /// The completions that there are; they are taken as they are looked at.
    #[inline]
    pub(super) fn completions(&mut self) -> cqueue::CompletionQueue<'_> {
        self.ring.completion()
    }

    /// Gives what is in the submission queue to the kernel.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        let to_submit = self.unsubmitted();
        if to_submit == 0 {
            return Ok(());
        }
        let flags = self.enter_flags.difference(EnterFlags::GETEVENTS);
        loop {
            match self.call(to_submit, 0, flags, std::ptr::null(), 0) {
                Err(libc::EINTR) => {}
                Err(errno) => return Err(io::Error::from_raw_os_error(errno)),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Submits, waits and lets the kernel post completions. What was not taken stays in the queue for the
    /// next call.
    #[inline]
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let to_submit = self.unsubmitted();
        let entered = match wait {
            Wait::Skip | Wait::Peek => self.call(to_submit, 0, self.enter_flags, std::ptr::null(), 0),
            Wait::Forever => self.call(to_submit, 1, self.enter_flags, std::ptr::null(), 0),
            Wait::For { timeout_ns } => {
                let timeout = types::Timespec::new()
                    .sec(timeout_ns / 1_000_000_000)
                    .nsec((timeout_ns % 1_000_000_000) as u32);
                let argument = types::SubmitArgs::new().timespec(&timeout);
                let flags = self.enter_flags | EnterFlags::EXT_ARG;
                self.call(
                    to_submit,
                    1,
                    flags,
                    (&raw const argument).cast(),
                    size_of::<types::SubmitArgs<'_, '_>>(),
                )
            }
        };
        match entered {
            // Time is up; a signal came; no memory for requests, or too many completions to take more
            // submissions: what there is of completions can be collected, and the rest stays in the queue.
            Ok(()) | Err(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
            Err(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    #[inline]
    fn call(
        &self,
        to_submit: usize,
        min_complete: u32,
        flags: EnterFlags,
        argument: *const libc::c_void,
        argument_len: usize,
    ) -> Result<(), i32> {
        // SAFETY: S1: everything that the submission queue points to is valid; S8: the argument is, for the
        // length of the call.
        let entered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                to_submit as u32,
                min_complete,
                flags.bits(),
                argument,
                argument_len,
            )
        };
        if entered >= 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
        }
    }

    /// Lets the kernel take receive buffers from a ring (5.19).
    ///
    /// # Safety
    /// The ring and its buffers live until this ring is closed or they are unregistered (S13).
    pub(super) unsafe fn register_buf_ring(
        &mut self,
        address: u64,
        slots: u16,
        group: u16,
    ) -> io::Result<()> {
        // SAFETY: S13: the caller's promise.
        unsafe { self.ring.submitter().register_buf_ring_with_flags(address, slots, group, 0) }
    }

    pub(super) fn unregister_buf_ring(&mut self, group: u16) {
        let unregistered = self.ring.submitter().unregister_buf_ring(group);
        debug_assert!(unregistered.is_ok(), "{unregistered:?}");
    }
}

/// Tries again for a while if there is no memory now.
#[cold]
pub(super) fn with_patience<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut tried = attempt();
    for wait_ms in MEMORY_WAITS_MS {
        if !tried.as_ref().is_err_and(is_out_of_memory) {
            break;
        }
        thread::sleep(Duration::from_millis(wait_ms));
        tried = attempt();
    }
    tried
}

/// Whether the kernel has no memory for a ring, or the user may lock no more of it. `EAGAIN` is what `mmap(2)`
/// says of the latter in a process that locks all of its memory.
pub(super) fn is_out_of_memory(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EAGAIN))
}

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RingUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

impl Drop for Ring {
    fn drop(&mut self) {
        /// `IORING_UNREGISTER_RING_FDS`.
        const UNREGISTER_RING_FDS: libc::c_uint = 21;
        if self.is_parents {
            // Where the mappings were, others may be by now.
            // SAFETY: S16: the child's copy of the descriptor is ours, and the ring is not dropped.
            return drop(unsafe { OwnedFd::from_raw_fd(self.ring.as_raw_fd()) });
        }
        if self.is_registered() {
            let mut update = RingUpdate { offset: self.enter_fd as u32, reserved: 0, data: 0 };
            let fd = self.ring.as_raw_fd();
            // SAFETY: S8: `update` is the one record that the call is told of.
            unsafe {
                libc::syscall(libc::SYS_io_uring_register, fd, UNREGISTER_RING_FDS, &raw mut update, 1)
            };
        }
        // SAFETY: S16: it is dropped once, here, in the process that made it.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: S7: the ring owns its descriptor, and is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}
