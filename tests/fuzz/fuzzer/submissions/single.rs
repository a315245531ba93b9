//! Single operations: their owner, how they are submitted, and what comes of them.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::ops::DerefMut;
use std::panic::resume_unwind;
use std::time::Duration;

use oxev::{Completion, File, Loop, Op, OpenOptions, Output, Owner, Pooled, TcpStream, Timer};

use super::super::model::{
    Effect, FILE_BYTES, Failure, FileModel, Moved, REGION_BYTES, Request, classify, model, report,
};
use super::super::program::{Half, OpenWhat, Receive, Then, Transmit, Work};
use super::super::world::world;
use super::aside::AsideOf;
use super::bind::{Resources, begin_effect, transfer_len};
use super::offload::offload;
use super::{BLANK, NO_ENTRY, PlannedPanic, SingleSpec, Value, Yields, address_of, keep_or_drop, then_of};

/// The state of an owner: all that operations borrow.
pub(crate) struct SingleState {
    pub(super) entry: usize,
    pub(super) then: Then,
    pub(super) resources: Resources,
    pub(super) at_drop: AsideOf,
}

impl SingleState {
    pub(crate) fn new() -> SingleState {
        SingleState {
            entry: NO_ENTRY,
            then: Then::Nothing,
            resources: Resources::default(),
            at_drop: AsideOf::nothing(),
        }
    }
}

impl Drop for SingleState {
    fn drop(&mut self) {
        if self.entry != NO_ENTRY {
            model(|m| m.owner_dropped(self.entry));
            self.at_drop.run(true);
        }
    }
}

pub(crate) trait SingleOwner:
    Owner<State = SingleState> + DerefMut<Target = Completion<SingleState>>
{
    const IS_STATIC: bool = false;

    /// The operation is over, and its memory is not used for another.
    fn retire(self)
    where
        Self: Sized,
    {
    }
}

impl SingleOwner for Box<Completion<SingleState>> {}

impl SingleOwner for Pooled<SingleState> {}

thread_local! {
    static FREE: RefCell<Vec<&'static mut Completion<SingleState>>> = const { RefCell::new(Vec::new()) };
}

/// Memory that is never freed, but used again.
pub(crate) fn static_owner() -> &'static mut Completion<SingleState> {
    let free = FREE.with_borrow_mut(Vec::pop);
    free.unwrap_or_else(|| Box::leak(Box::new(Completion::new(SingleState::new()))))
}

impl SingleOwner for &'static mut Completion<SingleState> {
    const IS_STATIC: bool = true;

    fn retire(self) {
        // Drops what was there, which may panic.
        **self = SingleState::new();
        FREE.with_borrow_mut(|free| free.push(self));
    }
}

/// Retires an owner, also if a callback panics.
struct Retiring<P: SingleOwner>(Option<P>);

impl<P: SingleOwner> Drop for Retiring<P> {
    fn drop(&mut self) {
        if let Some(owner) = self.0.take() {
            owner.retire();
        }
    }
}

impl Work {
    /// It needs nothing that would be lost with memory that is lost.
    pub(crate) fn needs_no_resources(self) -> bool {
        matches!(self, Work::Nop | Work::After(_) | Work::At(_) | Work::Hour)
    }
}

/// Three parts of a buffer, the first and the last perhaps empty.
pub(super) fn thirds(len: usize) -> (usize, usize) {
    (len / 3, len - len / 4)
}

/// Puts what was asked for beside an operation into it.
pub(super) fn shaped<R: Output>(mut op: Op<'_, R>, ask: SingleSpec) -> Op<'_, R> {
    if let Some(us) = ask.limit_us {
        op = op.timeout(Duration::from_micros(u64::from(us)));
    }
    if ask.background { op.background() } else { op }
}

/// Submits an owner, unless there is nothing to do it on.
pub(crate) fn submit<P: SingleOwner>(lp: &mut Loop, on: usize, mut owner: P, mut ask: SingleSpec) {
    let Some((work, mut resources)) = world(|w| w.bind_resources(on, ask.work)) else {
        return owner.retire();
    };
    if let Work::Offload { panics, blocks } = work {
        owner.retire();
        return offload(lp, on, panics, blocks, ask);
    }
    ask.work = work;
    let (backend, base) = world(|w| (w.backend, w.base));
    let number = model(|m| m.begin(Request::Single(work), on, ask.limit_us, ask.background));
    begin_effect(number, work, &mut resources, backend, 0);
    model(|m| m.entries[number].is_static = P::IS_STATIC);
    owner.entry = number;
    owner.then = ask.then;
    owner.at_drop = AsideOf::new(ask.drop, on);
    let mut aside = AsideOf::new(ask.prepare, on);
    // What the last operation needed is dropped here.
    drop(std::mem::replace(&mut owner.resources, resources));
    let listed = lp.in_flight().count();
    model(|m| m.enter_submit(number, listed));
    /// Submits one kind.
    macro_rules! go {
        (|$t:ident| $op:expr) => {
            lp.submit(
                owner,
                move |state: &mut SingleState| {
                    aside.run(false);
                    let $t = &mut state.resources;
                    shaped($op, ask)
                },
                finished,
            )
        };
    }
    macro_rules! link {
        ($t:ident) => {
            $t.link.as_ref().expect("bound").stream()
        };
    }
    macro_rules! file {
        ($t:ident) => {
            $t.file.as_ref().expect("bound")
        };
    }
    let (offset, a, b) = {
        let at = match work {
            Work::Read { at, .. } => u64::from(at),
            Work::Write { region, .. } => u64::from(region) * REGION_BYTES as u64,
            _ => 0,
        };
        let len = match work {
            Work::Recv { len, .. } | Work::Read { len, .. } | Work::Write { len, .. } => usize::from(len),
            Work::Send { end, len, .. } => transfer_len(backend, end, len),
            _ => 0,
        };
        let (a, b) = thirds(len);
        (at, a, b)
    };
    macro_rules! gather {
        ($t:ident) => {
            $t.vecs.gather([&$t.buf[..a], &$t.buf[a..b], &$t.buf[b..]])
        };
    }
    macro_rules! scatter {
        ($t:ident) => {{
            let (head, tail) = $t.buf.split_at_mut(a);
            let (middle, tail) = tail.split_at_mut(b - a);
            $t.vecs.scatter([head, middle, tail])
        }};
    }
    let id = match work {
        Work::Nop => go!(|_t| oxev::nop()),
        Work::After(us) | Work::Nested(us) => go!(|_t| Timer::after(Duration::from_micros(u64::from(us)))),
        Work::At(tick) => {
            let at = base + Duration::from_micros(u64::from(tick) * 100);
            go!(|_t| Timer::at(at))
        }
        Work::Hour => go!(|_t| Timer::after(Duration::from_secs(3600))),
        Work::Recv { how, .. } => match how {
            Receive::Some => go!(|t| link!(t).recv(&mut t.buf)),
            Receive::Exact => go!(|t| link!(t).recv_exact(&mut t.buf)),
            Receive::Vectored => go!(|t| link!(t).recv_vectored(scatter!(t))),
            Receive::ExactVectored => go!(|t| link!(t).recv_exact_vectored(scatter!(t))),
            Receive::Pooled => go!(|t| link!(t).recv_pooled(t.bufs.as_ref().expect("bound"))),
        },
        Work::ForeignPool { .. } => go!(|t| link!(t).recv_pooled(t.bufs.as_ref().expect("bound"))),
        Work::Send { how, .. } => match how {
            Transmit::Some => go!(|t| link!(t).send(&t.buf)),
            Transmit::All => go!(|t| link!(t).send_all(&t.buf)),
            Transmit::Vectored => go!(|t| link!(t).send_vectored(gather!(t))),
            Transmit::AllVectored => go!(|t| link!(t).send_all_vectored(gather!(t))),
            Transmit::ZeroCopy => go!(|t| link!(t).send_all_zero_copy(&t.buf)),
        },
        Work::Accept { address: false } => go!(|t| t.listener.as_ref().expect("bound").accept()),
        Work::Accept { address: true } => go!(|t| t.listener.as_ref().expect("bound").accept_with_addr()),
        Work::Connect { .. } => go!(|t| TcpStream::connect(t.address.expect("bound"))),
        Work::Shutdown { half, .. } => {
            let how = match half {
                Half::Read => Shutdown::Read,
                Half::Write => Shutdown::Write,
                Half::Both => Shutdown::Both,
            };
            go!(|t| link!(t).shutdown(how))
        }
        Work::Close { .. } => go!(|t| t.doomed.as_mut().expect("bound").close()),
        Work::Read { how, .. } => match how {
            Receive::Exact => go!(|t| file!(t).read_exact_at(&mut t.buf, offset)),
            Receive::Vectored => go!(|t| file!(t).read_vectored_at(scatter!(t), offset)),
            _ => go!(|t| file!(t).read_at(&mut t.buf, offset)),
        },
        Work::Write { how, .. } => match how {
            Transmit::Some => go!(|t| file!(t).write_at(&t.buf, offset)),
            Transmit::Vectored => go!(|t| file!(t).write_vectored_at(gather!(t), offset)),
            Transmit::AllVectored => go!(|t| file!(t).write_all_vectored_at(gather!(t), offset)),
            _ => go!(|t| file!(t).write_all_at(&t.buf, offset)),
        },
        Work::Mixed { writes: true, .. } | Work::Fifo { writes: true, .. } => go!(|t| file!(t).write(&t.buf)),
        Work::Mixed { writes: false, .. } | Work::Fifo { writes: false, .. } => {
            go!(|t| file!(t).read(&mut t.buf))
        }
        Work::Append { all: true, .. } => go!(|t| file!(t).write_all(&t.buf)),
        Work::Append { all: false, .. } => go!(|t| file!(t).write(&t.buf)),
        Work::ReadOn { .. } => go!(|t| file!(t).read(&mut t.buf)),
        Work::Sync { data: true } => go!(|t| file!(t).sync_data()),
        Work::Sync { data: false } => go!(|t| file!(t).sync_all()),
        Work::Metadata => go!(|t| t.file.as_ref().expect("bound").metadata(&mut t.metadata)),
        Work::Open(what) => {
            let options = match what {
                OpenWhat::CreateNew => OpenOptions::new().write(true).create_new(true),
                OpenWhat::Contradiction => OpenOptions::new().read(true).create(true),
                _ => OpenOptions::new().read(true),
            };
            go!(|t| File::open(&t.path, &options))
        }
        Work::CloseFile => go!(|t| t.doomed_file.as_mut().expect("bound").close()),
        Work::Wait { .. } => go!(|t| t.notifier.as_ref().expect("bound").wait()),
        Work::Stray { sends: false } => go!(|t| t.doomed.as_ref().expect("bound").recv(&mut t.buf)),
        Work::Stray { sends: true } => go!(|t| t.doomed.as_ref().expect("bound").send(&t.buf)),
        Work::OnClosed { sends } => {
            macro_rules! close {
                ($t:ident) => {{
                    let doomed = $t.doomed.as_mut().expect("bound");
                    // An operation that is not submitted closes nevertheless.
                    drop(doomed.close());
                    doomed
                }};
            }
            if sends { go!(|t| close!(t).send(&t.buf)) } else { go!(|t| close!(t).recv(&mut t.buf)) }
        }
        Work::Offload { .. } => unreachable!("has owners of its own"),
    };
    model(|m| m.leave_submit(number, Some(id)));
}

/// Submits an owner whose `prepare` panics.
pub(crate) fn panic_in_prepare<P: SingleOwner>(lp: &mut Loop, on: usize, mut owner: P) {
    let number = model(|m| m.begin(Request::Single(Work::Nop), on, None, false));
    owner.entry = number;
    model(|m| m.enter_submit(number, 0));
    model(|m| m.never_begun(number));
    let submitted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        lp.submit(owner, |_| -> Op<'_, ()> { resume_unwind(Box::new(PlannedPanic)) }, finished)
    }));
    model(|m| m.leave_submit(number, None));
    if submitted.is_ok() {
        report("a panic in prepare comes through", format!("#{number}"));
    }
}

/// The callback of every single operation.
pub(super) fn finished<P: SingleOwner, R: Yields>(lp: &mut Loop, owner: P, result: io::Result<R>) {
    let number = owner.entry;
    let mut retiring = Retiring(Some(owner));
    let owner = retiring.0.as_ref().expect("just put there");
    let address = address_of(lp);
    let (on, request) = model(|m| {
        m.called_back(number, address);
        (m.entries[number].on, m.entries[number].request)
    });
    let result = result.map(Yields::into_value);
    let summary = match &result {
        Ok(Value::Count(count)) => Ok(*count),
        Ok(Value::Lease(lease)) => Ok(lease.len()),
        Ok(_) => Ok(0),
        Err(error) => Err(classify(error)),
    };
    let moved = lp.moved();
    model(|m| {
        m.check_outcome(number, summary);
        m.check_moved(number, summary, moved);
    });
    if let Request::Single(work) = request {
        let moved = usize::try_from(moved).unwrap_or(usize::MAX).min(owner.resources.buf.len());
        apply_effect(number, work, &owner.resources, summary, moved, on, result.ok());
    }
    model(|m| m.entries[number].effect = Effect::None);
    match owner.then {
        Then::Again(work) if !P::IS_STATIC || work.needs_no_resources() => {
            model(|m| m.owner_reused(number));
            again(lp, on, retiring.0.take().expect("as above"), work);
        }
        what => then_of(lp, on, number, what),
    }
}

pub(super) fn again<P: SingleOwner>(lp: &mut Loop, on: usize, mut owner: P, work: Work) {
    owner.entry = NO_ENTRY;
    submit(lp, on, owner, SingleSpec::plain(work));
}

/// The effects of an operation that is over.
pub(super) fn apply_effect(
    number: usize,
    work: Work,
    resources: &Resources,
    result: Result<usize, Failure>,
    moved: usize,
    on: usize,
    value: Option<Value>,
) {
    let count = result.unwrap_or(0).min(resources.buf.len());
    match work {
        Work::Recv { .. } => {
            match &value {
                Some(Value::Lease(lease)) => {
                    model(|m| m.receive(number, lease));
                    check_blank(number, &resources.buf);
                }
                _ => {
                    model(|m| m.receive(number, &resources.buf[..moved]));
                    check_blank(number, &resources.buf[moved..]);
                }
            }
            model(|m| m.end_receive(number, result));
        }
        Work::Send { .. } => model(|m| m.end_send(number, result, moved)),
        Work::Close { .. } => model(|m| m.side_gone(resources.side, true)),
        Work::Shutdown { half, .. } => {
            if let Effect::Shutdown { side } = model(|m| m.entries[number].effect.clone()) {
                model(|m| m.shut_down(side, half, result));
            }
        }
        Work::Write { .. } => apply_write(number, resources, moved),
        Work::Read { .. } => {
            check_blank(number, &resources.buf[moved..]);
            apply_read(number, &resources.buf[..moved]);
        }
        Work::Append { .. } => model(|m| {
            let Effect::Append { ticket, .. } = m.entries[number].effect else { return };
            m.log.end_write(ticket, Some(moved));
        }),
        Work::Mixed { writes, .. } | Work::Fifo { writes, .. } => {
            if !writes {
                check_blank(number, &resources.buf[moved..]);
            }
            apply_in_turn(number, &resources.buf[..moved]);
        }
        Work::ReadOn { .. } => apply_read_on(number, &resources.buf[..count], result),
        Work::Metadata if result.is_ok() && resources.metadata.len() != FILE_BYTES as u64 => {
            report("metadata is that of the file", format!("{} bytes", resources.metadata.len()));
        }
        Work::Open(OpenWhat::CreateNew) if result.is_ok() => model(|m| {
            if !m.created.is_empty() {
                m.report("a file is made once", format!("#{number}"));
            }
            m.created.push(true);
        }),
        _ => {}
    }
    match value {
        Some(Value::Stream(stream, address)) => {
            let connected = matches!(work, Work::Connect { .. });
            let replaced = world(|w| w.adopt(stream, address, connected));
            drop(replaced);
        }
        Some(Value::Lease(lease)) => keep_or_drop(lease, on, number),
        other => drop(other),
    }
}

/// What was not received into must be as it was.
pub(super) fn check_blank(number: usize, rest: &[u8]) {
    if rest.iter().any(|&byte| byte != BLANK) {
        report("only what is received is written to", format!("#{number}: {rest:?}"));
    }
}

pub(super) fn apply_write(number: usize, resources: &Resources, moved: usize) {
    model(|m| {
        let Effect::Write { ticket, .. } = m.entries[number].effect else { return };
        m.file.end_write(ticket, &resources.buf, Some(moved));
    });
}

pub(super) fn apply_read(number: usize, bytes: &[u8]) {
    model(|m| {
        let Effect::Read { ticket, .. } = m.entries[number].effect.clone() else { return };
        match m.file.check_read(&ticket, bytes) {
            Ok(checked) => m.stats.add("bytes", "read back", checked as u64),
            Err(detail) => m.report("what is read is what was written", format!("#{number}: {detail}")),
        }
    });
}

/// Bytes were moved at the position of a file, or of a FIFO.
fn apply_in_turn(number: usize, bytes: &[u8]) {
    model(|m| match m.entries[number].effect {
        Effect::Mixed { ticket, writes: true, .. } => m.mixed.end_write(ticket, Some(bytes.len())),
        Effect::Mixed { ticket, writes: false, .. } => m.mixed.end_read(ticket, Some(bytes)),
        Effect::Fifo { ticket, writes: true, .. } => m.fifo.end_send(ticket, Moved::Exactly(bytes.len())),
        Effect::Fifo { ticket, writes: false, .. } => {
            m.fifo.receive(ticket, bytes);
            m.fifo.end_receive(ticket, 0);
        }
        _ => {}
    });
}

pub(super) fn apply_read_on(number: usize, bytes: &[u8], result: Result<usize, Failure>) {
    model(|m| {
        let Effect::ReadOn { position, .. } = m.entries[number].effect else { return };
        m.file.readers_on -= 1;
        // It is not known any more if another one began meanwhile.
        let position = position.and(m.file.position);
        let next = match (position, result) {
            (Some(position), Ok(count)) => {
                if let Err(detail) = FileModel::check_read_on(position, bytes) {
                    m.report("what is read is what was written", format!("#{number}: {detail}"));
                }
                Some(position + count)
            }
            (position, Err(Failure::Errno(_))) => position,
            _ => None,
        };
        m.file.position = m.file.position.and(next);
    });
}
