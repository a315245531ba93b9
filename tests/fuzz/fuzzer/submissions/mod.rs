//! The owners of operations, how they are submitted, and their callbacks: `single`, `series`, `offload`, `posts`; `bind` finds what they
//! need, `aside` is what is done in `prepare` and `drop`.

mod aside;
mod bind;
mod nested;
mod offload;
mod posts;
mod series;
mod single;

use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::time::Duration;

use oxev::{Completion, File, Lease, Loop, Output, RunMode, TcpStream};

pub(crate) use posts::{arrived, new_post, post};
pub(crate) use series::{SeriesSpec, submit_series};
pub(crate) use single::{SingleState, panic_in_prepare, static_owner, submit};

use super::model::{model, report};
use super::program::{Aside, Backend, Caller, Then, Work};
use super::world::world;

/// A panic that a program asks for.
pub(crate) struct PlannedPanic;

/// What buffers are filled with before something is received into them.
const BLANK: u8 = 0xa5;

/// No entry of the ledger.
const NO_ENTRY: usize = usize::MAX;

/// A submission that is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SingleSpec {
    pub(crate) work: Work,
    pub(crate) limit_us: Option<u16>,
    pub(crate) background: bool,
    pub(crate) prepare: Aside,
    pub(crate) drop: Aside,
    pub(crate) then: Then,
}

impl SingleSpec {
    pub(crate) fn plain(work: Work) -> SingleSpec {
        SingleSpec {
            work,
            limit_us: None,
            background: false,
            prepare: Aside::Nothing,
            drop: Aside::Nothing,
            then: Then::Nothing,
        }
    }
}

/// The address by which the model knows a loop.
pub(crate) fn address_of(lp: &Loop) -> usize {
    std::ptr::from_ref(lp).addr()
}

/// In the callback of what moves no bytes.
fn check_nothing_moved(lp: &Loop, what: &str) {
    if lp.moved() != 0 {
        report("moved says how far an operation came", format!("{what}: {}", lp.moved()));
    }
}

/// What an operation has brought.
pub(crate) enum Value {
    Count(usize),
    Stream(TcpStream, Option<SocketAddr>),
    /// It is closed at once.
    File,
    Lease(Lease),
    Periods(u64),
}

pub(crate) trait Yields: Output {
    fn into_value(self) -> Value;
}

macro_rules! yields {
    ($($type:ty, $this:pat => $value:expr;)*) => {
        $(impl Yields for $type {
            fn into_value(self) -> Value {
                let $this = self;
                $value
            }
        })*
    };
}

yields! {
    (), () => Value::Count(0);
    usize, count => Value::Count(count);
    u64, periods => Value::Periods(periods);
    TcpStream, stream => Value::Stream(stream, None);
    (TcpStream, SocketAddr), (stream, address) => Value::Stream(stream, Some(address));
    File, _ => Value::File;
    Lease, lease => Value::Lease(lease);
}

/// Keeps a lease, or gives it back.
fn keep_or_drop(lease: Lease, on: usize, number: usize) {
    let kept = world(|w| w.setting.kept);
    if kept > 0 && number.is_multiple_of(kept) {
        let life = model(|m| m.loops[on].life);
        world(|w| w.hold(lease, on, life));
    }
}

/// Does what a callback is told to do.
pub(crate) fn then(lp: &mut Loop, on: usize, then: Then) {
    match then {
        Then::Nothing => {}
        Then::Again(work) => {
            let owner = Box::new(Completion::new(SingleState::new()));
            submit(lp, on, owner, SingleSpec::plain(work));
        }
        Then::Cancel(which) => cancel(lp, which),
        Then::Reset(which, us) => reset(lp, which, us),
        // Without an operation of its own there is none that is meant.
        Then::CancelThis | Then::ResetThis(_) => {}
        Then::Stop(who) => stop(lp, on, who),
        Then::Wake => {
            model(|m| m.woken(on));
            world(|w| w.handles[on].clone()).wake();
        }
        Then::PanicInPrepare => {
            panic_in_prepare(lp, on, Box::new(Completion::new(SingleState::new())));
            resume_unwind(Box::new(PlannedPanic));
        }
        Then::Panic => resume_unwind(Box::new(PlannedPanic)),
        Then::Run => {
            if lp.run(RunMode::NoWait).is_ok() {
                report("a loop does not run in itself", format!("loop {on}"));
            }
        }
        Then::Post => post(on, Then::Nothing),
        Then::Notify(notifier) => notify(notifier),
        Then::Release => world(|w| w.release()),
        Then::DropLease => drop(world(|w| w.leases.pop())),
    }
}

pub(crate) fn stop(lp: &mut Loop, on: usize, who: Caller) {
    let handle = world(|w| w.handles[on].clone());
    let is_simulated = world(|w| w.backend) == Backend::Sim;
    match who {
        Caller::Program => {
            lp.stop();
            model(|m| m.stopped(on));
        }
        Caller::OtherThread if !is_simulated => {
            // When it arrives is not known, nor which run it ends.
            model(|m| m.stopped_elsewhere(on));
            world(|w| w.poster.send(move || handle.stop()));
        }
        Caller::Handle | Caller::OtherThread => {
            handle.stop();
            model(|m| {
                // It wakes the loop, too.
                m.woken(on);
                m.stopped(on);
            });
        }
    }
}

/// Does what the callback of an operation is told to do.
fn then_of(lp: &mut Loop, on: usize, number: usize, what: Then) {
    match what {
        Then::CancelThis => cancel_entry(lp, number),
        Then::ResetThis(us) => reset_entry(lp, number, us),
        what => then(lp, on, what),
    }
}

/// The entry that a number means: counted from the latest.
fn entry_of(which: u16) -> Option<usize> {
    model(|m| m.entries.len().checked_sub(1 + usize::from(which)))
}

pub(crate) fn cancel(lp: &mut Loop, which: u16) {
    if let Some(number) = entry_of(which) {
        cancel_entry(lp, number);
    }
}

fn cancel_entry(lp: &mut Loop, number: usize) {
    let Some(id) = model(|m| m.id(number)) else { return };
    let listed = lp.in_flight().any(|op| op.id == id);
    let begun = model(|m| m.has_begun(number));
    let said = lp.cancel(id);
    model(|m| m.canceled(number, listed, begun, said));
}

pub(crate) fn reset(lp: &mut Loop, which: u16, us: u16) {
    if let Some(number) = entry_of(which) {
        reset_entry(lp, number, us);
    }
}

fn reset_entry(lp: &mut Loop, number: usize, us: u16) {
    let Some(id) = model(|m| m.id(number)) else { return };
    let listed = lp.in_flight().any(|op| op.id == id);
    let before_ns = model(|m| m.now_ns());
    let said = lp.reset(id, Duration::from_micros(u64::from(us)));
    model(|m| m.reset(number, listed, said, before_ns, us));
}

/// The notification is counted before it is made: it may arrive at once.
pub(crate) fn notify(notifier: u8) {
    model(|m| m.notified(usize::from(notifier)));
    let notifier = world(|w| w.notifiers[usize::from(notifier)].clone());
    notifier.notify();
}
