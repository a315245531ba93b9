//! How a server ends.

use std::io;
use std::time::Duration;

use super::Loop;
use super::run::Running;
use super::step::Limit;
use crate::op::{Target, duration_to_ns};

impl Loop {
    /// Ends what the program serves, in order: cancels every accept, lets what else is in flight go on for as long as
    /// `grace`, then cancels what is left and runs its callbacks. Returns the number of operations that it had to cancel
    /// after the grace period: 0 if all came to their own end.
    ///
    /// Callbacks run as always, and submit what they need to end well; [`Loop::is_finishing`] tells them to begin
    /// nothing new (an HTTP server answers with `Connection: close`). A [`stop`](crate::LoopHandle::stop) meanwhile, a second Ctrl-C
    /// for instance, ends the grace period at once. What is submitted after the grace period is cancelled, too; what
    /// has not ended by [`Builder::drain_timeout`](crate::Builder::drain_timeout) after it, or by another stop, is left in flight.
    ///
    /// ```
    /// use std::time::Duration;
    /// use oxev::{Action, Completion, Loop, Multi, RunMode, TcpListener, Timer, own};
    ///
    /// let mut lp = Loop::new()?;
    /// lp.submit_multi(
    ///     own(Multi::new(TcpListener::bind("127.0.0.1:0")?, ())),
    ///     |listener| listener.accept_multi(),
    ///     |_lp, (), _stream| Action::Rearm,
    ///     |_lp, _server, end| assert!(oxev::is_canceled(&end.unwrap_err())),
    /// );
    /// // A real server hands `lp.handle()` to its signal handler.
    /// lp.submit(own(()), |_| Timer::after(Duration::from_millis(1)).background(), |lp, _, _| lp.stop());
    /// lp.run(RunMode::UntilStop)?;
    /// assert_eq!(lp.finish(Duration::from_secs(5))?, 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Loop::run`].
    ///
    /// # Panics
    /// As [`Loop::run`].
    pub fn finish(&mut self, grace: Duration) -> io::Result<usize> {
        let mut lp = Running::enter(self)?;
        lp.core.finishing = true;
        lp.cancel_wanted(|kind, _| kind.facts().target == Target::ListeningSocket);
        lp.steps_for(grace)?;
        let end_ns = lp.core.ops.clock.refresh().saturating_add(duration_to_ns(lp.core.drain_timeout));
        let mut cut = 0;
        while !lp.is_empty() {
            cut += lp.cancel_wanted(|_, _| true);
            if lp.core.ops.clock.refresh() >= end_ns || lp.take_stop() {
                break;
            }
            lp.step(Limit::At(end_ns))?;
        }
        lp.take_stop();
        lp.check_is_at_home().map(|()| cut)
    }

    /// In a callback: whether [`Loop::finish`] runs it, so that the program ends and begins nothing new.
    #[must_use]
    pub fn is_finishing(&self) -> bool {
        self.core.finishing
    }
}
