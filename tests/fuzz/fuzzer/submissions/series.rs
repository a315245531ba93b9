//! Operations that give several results.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use oxev::{Action, Completion, Lease, Loop, Multi, MultiOp, Output, TcpStream, Timer};

use super::super::model::{Effect, Request, classify, model, report};
use super::super::program::{Aside, Series, Then};
use super::super::world::world;
use super::aside::AsideOf;
use super::{Value, Yields, address_of, check_nothing_moved, keep_or_drop, then_of};

#[derive(Clone, Copy, Debug)]
pub(crate) struct SeriesSpec {
    pub(crate) series: Series,
    pub(crate) items: u8,
    pub(crate) limit_us: Option<u16>,
    pub(crate) background: bool,
    pub(crate) item: Then,
    pub(crate) drop: Aside,
    pub(crate) then: Then,
}

/// The state of a series.
pub(super) struct SeriesState {
    pub(super) entry: usize,
    pub(super) items_left: u8,
    pub(super) is_first: bool,
    pub(super) item: Then,
    pub(super) then: Then,
    at_drop: AsideOf,
}

impl Drop for SeriesState {
    fn drop(&mut self) {
        model(|m| m.owner_dropped(self.entry));
        self.at_drop.run(true);
    }
}

pub(crate) fn submit_series(lp: &mut Loop, on: usize, ask: SeriesSpec) {
    let link = match ask.series {
        Series::Recv { end } => {
            let Some(link) = world(|w| w.ends[usize::from(end)].clone()) else { return };
            if world(|w| w.setting.exclusive) && model(|m| m.is_receiving(link.side)) {
                return;
            }
            Some(link)
        }
        _ => None,
    };
    let entry = model(|m| m.begin(Request::Series(ask.series), on, ask.limit_us, ask.background));
    if let Some(link) = &link {
        // It may drop any number of results.
        const UNSEEN_MAX: usize = 1 << 20;
        model(|m| m.begin_receive(entry, link.side, UNSEEN_MAX, false, true));
    }
    let state = SeriesState {
        entry,
        items_left: ask.items,
        is_first: true,
        item: ask.item,
        then: ask.then,
        at_drop: AsideOf::new(ask.drop, on),
    };
    let listed = lp.in_flight().count();
    model(|m| m.enter_submit(entry, listed));
    macro_rules! go {
        ($source:expr, $result:ty, |$borrowed:pat_param| $op:expr) => {{
            let owner = Box::new(Completion::new(Multi::new($source, state)));
            lp.submit_multi(owner, move |$borrowed| shaped_series($op, ask), item::<$result>, ended)
        }};
    }
    let micros = |us: u16| Duration::from_micros(u64::from(us));
    let id = match ask.series {
        Series::Every(us) => go!((), u64, |_| Timer::every(micros(us))),
        Series::EveryAfter(us) => go!((), u64, |_| Timer::every_after(micros(us))),
        Series::Accept => {
            go!(world(|w| Rc::clone(&w.listener)), TcpStream, |listener| listener.accept_multi())
        }
        Series::Recv { .. } => {
            let source = (link.expect("looked for above"), world(|w| w.bufs[on].clone()));
            go!(source, Lease, |(link, bufs)| link.stream().recv_multi(bufs))
        }
        Series::Wait { notifier } => {
            let notifier = world(|w| w.notifiers[usize::from(notifier)].clone());
            go!(notifier, (), |notifier| notifier.wait_multi())
        }
    };
    model(|m| m.leave_submit(entry, Some(id)));
}

pub(super) fn item<R: Yields>(lp: &mut Loop, series: &mut SeriesState, result: R) -> Action {
    let (number, address) = (series.entry, address_of(lp));
    let value = result.into_value();
    let periods = if let Value::Periods(periods) = value { periods } else { 0 };
    let on = model(|m| {
        m.item(number, address, periods);
        m.entries[number].on
    });
    match value {
        Value::Stream(stream, key) => drop(world(|w| w.adopt(stream, key, false))),
        Value::Lease(lease) => {
            if lp.moved() != lease.len() as u64 {
                report("moved says how far an operation came", format!("item of #{number}: {}", lp.moved()));
            }
            model(|m| m.receive(number, &lease));
            keep_or_drop(lease, on, number + usize::from(series.items_left));
        }
        _ => check_nothing_moved(lp, "an item"),
    }
    // After `Disarm` come those that have arrived.
    series.items_left = series.items_left.saturating_sub(1);
    let disarms = series.items_left == 0;
    if std::mem::take(&mut series.is_first) {
        if matches!(series.item, Then::Panic | Then::PanicInPrepare) {
            // A series whose callback panics ends.
            model(|m| m.item_over(number, true));
        }
        then_of(lp, on, number, series.item);
    } else if series.item.steers() {
        then_of(lp, on, number, series.item);
    }
    model(|m| m.item_over(number, disarms));
    if disarms { Action::Disarm } else { Action::Rearm }
}

pub(super) fn ended<S: 'static>(
    lp: &mut Loop,
    owner: Box<Completion<Multi<S, SeriesState>>>,
    end: io::Result<()>,
) {
    let (number, address) = (owner.state.entry, address_of(lp));
    let summary = end.map(|()| 0).map_err(|error| classify(&error));
    let on = model(|m| {
        m.called_back(number, address);
        m.check_outcome(number, summary);
        m.end_receive(number, summary);
        m.entries[number].effect = Effect::None;
        m.entries[number].on
    });
    check_nothing_moved(lp, "an end");
    let what = owner.state.then;
    drop(owner);
    then_of(lp, on, number, what);
}

pub(super) fn shaped_series<R: Output>(mut op: MultiOp<'_, R>, ask: SeriesSpec) -> MultiOp<'_, R> {
    if let Some(us) = ask.limit_us {
        op = op.timeout(Duration::from_micros(u64::from(us)));
    }
    if ask.background { op.background() } else { op }
}
