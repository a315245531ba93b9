//! Steering what is in flight: cancels, passed deadlines, moved times.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use super::Loop;
use crate::descriptor::RawDescriptor;
use crate::in_flight::Cancel;
use crate::op::{OpKind, Server, duration_to_ns};
use crate::token::{OpId, Token};

impl Loop {
    /// Cancels an operation: its callback runs, once, with `ECANCELED` ([`is_canceled`](crate::is_canceled)),
    /// or with its own result if it is done before it can be stopped.
    ///
    /// `true` if this call asks for the end of the operation: it ends as cancelled unless it is done before.
    /// `false` if this call changes nothing: the operation is over or is being ended already, or it is sure to
    /// end with a result of its own, because a thread pool has begun its work ([offloaded](Loop::offload), or
    /// on a file on epoll or poll), the kernel is closing its descriptor, or has sent its bytes and is only yet to let
    /// go of the buffer. Ids of other loops name nothing.
    ///
    /// ```
    /// use oxev::{Completion, Loop, RunMode, Timer};
    /// # fn main() -> std::io::Result<()> {
    /// let mut lp = Loop::new()?;
    /// let id = lp.submit(
    ///     Box::new(Completion::new(())),
    ///     |_| Timer::after(std::time::Duration::from_secs(3600)),
    ///     |_, _, fired| assert!(oxev::is_canceled(&fired.unwrap_err())),
    /// );
    /// assert!(lp.cancel(id));
    /// assert!(!lp.cancel(id));
    /// lp.run(RunMode::UntilDone)
    /// # }
    /// ```
    pub fn cancel(&mut self, id: OpId) -> bool {
        self.core.ops.token(id).is_some_and(|token| self.cancel_token(token))
    }

    pub(super) fn cancel_token(&mut self, token: Token) -> bool {
        match self.core.ops.cancel(token) {
            Cancel::Late => false,
            Cancel::Noted => true,
            Cancel::AskBackend => {
                let changed = self.cancel_in_backend(token);
                if !changed {
                    self.core.ops.forget_cancel(token);
                }
                changed
            }
        }
    }

    /// Asks the backend, or a thread pool, to end an operation that it has. `false`: that changes nothing.
    pub(super) fn cancel_in_backend(&mut self, token: Token) -> bool {
        match self.core.ops.op_kind(token).map(|kind| kind.facts().server) {
            Some(Server::Workers) => self.core.ops.withdraw(token),
            Some(Server::Backend | Server::EventLoop) if !self.is_inherited() => {
                self.core.backend.cancel(token, &mut self.core.ops)
            }
            Some(Server::Backend | Server::EventLoop) | None => false,
        }
    }

    /// Cancels every operation in flight on a descriptor, as [`Loop::cancel`] does one, and says for how many
    /// that is `true`.
    /// Looks through the whole table.
    pub fn cancel_all(&mut self, descriptor: impl AsFd) -> usize {
        let fd = descriptor.as_fd().as_raw_fd();
        self.cancel_wanted(|_, on_fd| on_fd == fd)
    }

    /// Cancels every operation of a kind and on a descriptor that is wanted, and says how many.
    pub(crate) fn cancel_wanted(&mut self, wanted: impl Fn(OpKind, RawDescriptor) -> bool) -> usize {
        let (mut cursor, mut count) = (0, 0);
        while let Some(token) = self.core.ops.next_wanted(&wanted, &mut cursor) {
            count += usize::from(self.cancel_token(token));
        }
        count
    }

    pub(super) fn cancel_expired(&mut self) {
        while let Some(token) = self.core.expired.pop() {
            self.cancel_in_backend(token);
        }
    }

    /// Moves the time of a timer or the deadline of an operation to `delay` from now, in place; an operation
    /// without a deadline gets one. `false` if the operation is over, or is being cancelled.
    ///
    /// A timer with a deadline has its new time alone afterwards. Of a repeating timer the next tick moves;
    /// its deadline stays.
    pub fn reset(&mut self, id: OpId, delay: Duration) -> bool {
        let Some(token) = self.core.ops.token(id) else { return false };
        self.core.ops.reset(token, duration_to_ns(delay))
    }
}
