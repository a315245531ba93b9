//! The owners of operations, how they are submitted, and their callbacks.

use std::ffi::CString;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::ops::DerefMut;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oxev::{
    Action, BufPool, Completion, File, IoVecs, Lease, Loop, Metadata, Multi, MultiOp, Notifier, Op,
    OpenOptions, Output, Owner, RunMode, TcpListener, TcpStream, Timer,
};

use super::files::{FILE_BYTES, FileModel, REGION_BYTES};
use super::model::{Effect, Failure, Job, classify, complain, model};
use super::program::{Backend, Half, OpenWhat, Receive, Series, Then, Transmit, Work};
use super::wires;
use super::world::{Link, World, world};

/// A panic that a program asks for.
pub(crate) struct AsTold;

/// What buffers are filled with before something is received into them.
const BLANK: u8 = 0xa5;

/// No entry of the ledger.
const NOBODY: usize = usize::MAX;

/// A submission that is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) work: Work,
    pub(crate) limit_us: Option<u16>,
    pub(crate) background: bool,
    pub(crate) then: Then,
}

/// The state of an owner: all that operations borrow.
pub(crate) struct Guest {
    entry: usize,
    then: Then,
    things: Things,
}

/// What an operation may need.
#[derive(Default)]
struct Things {
    link: Option<Link>,
    listener: Option<Rc<TcpListener>>,
    file: Option<Rc<File>>,
    notifier: Option<Notifier>,
    bufs: Option<BufPool>,
    doomed: Option<TcpStream>,
    /// Whose that was.
    side: usize,
    doomed_file: Option<File>,
    path: CString,
    address: Option<SocketAddr>,
    buf: Vec<u8>,
    vecs: IoVecs<3>,
    metadata: Metadata,
}

impl Guest {
    pub(crate) fn new() -> Guest {
        Guest { entry: NOBODY, then: Then::Nothing, things: Things::default() }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.entry != NOBODY {
            model(|m| m.owner_dropped(self.entry));
        }
    }
}

pub(crate) trait Host: Owner<State = Guest> + DerefMut<Target = Completion<Guest>> {}
impl<P: Owner<State = Guest> + DerefMut<Target = Completion<Guest>>> Host for P {}

/// The address by which the model knows a loop.
pub(crate) fn address_of(lp: &Loop) -> usize {
    std::ptr::from_ref(lp).addr()
}

// ---- submitting

/// The length of a transfer: on real sockets the long ones have to be longer to find no room.
fn transfer_len(backend: Backend, end: u8, len: u16) -> usize {
    match (backend, len) {
        (Backend::Sim, len) => usize::from(len.min(2000)),
        // The first pair is never full: there the kernel always lets go of what is not copied.
        (_, 201..) if end < 2 => 200,
        (_, 1000) => 100_000,
        (_, 60_000) => 400_000,
        (_, len) => usize::from(len),
    }
}

/// Three parts of a buffer, the first and the last perhaps empty.
fn thirds(len: usize) -> (usize, usize) {
    (len / 3, len - len / 4)
}

impl World {
    /// Finds what an operation needs, and adapts it to what there is. `None`: there is none of it.
    fn furnish(&mut self, on: usize, work: Work) -> Option<(Work, Things)> {
        let mut things = Things::default();
        let link = |this: &World, end: u8| this.ends[usize::from(end)].clone();
        let work = match work {
            Work::Recv { end, how, len } => {
                let link = link(self, end)?;
                if self.setting.polite && model(|m| m.is_receiving(link.side)) {
                    return None;
                }
                things.buf = vec![BLANK; usize::from(len)];
                things.bufs = Some(self.bufs[on].clone());
                things.link = Some(link);
                Work::Recv { end, how, len }
            }
            Work::Send { end, mut how, len } => {
                let link = link(self, end)?;
                if self.setting.polite && model(|m| m.is_sending(link.side)) {
                    return None;
                }
                if self.backend == Backend::IoUring && how == Transmit::ZeroCopy && end > 1 {
                    how = Transmit::All;
                }
                things.link = Some(link);
                Work::Send { end, how, len }
            }
            Work::ForeignPool { end } => {
                let other = (on + 1) % self.bufs.len();
                things.bufs = Some(self.bufs[other].clone()).filter(|_| other != on);
                things.bufs.as_ref()?;
                things.link = Some(link(self, end)?);
                work
            }
            Work::Accept { .. } => {
                things.listener = Some(Rc::clone(&self.listener));
                work
            }
            Work::Connect { nowhere } => {
                things.address = Some(if nowhere { self.nowhere } else { self.address });
                work
            }
            Work::Shutdown { end, .. } => {
                things.link = Some(link(self, end)?);
                work
            }
            Work::Close { end } => {
                let link = self.ends[usize::from(end)].take()?;
                things.side = link.side;
                things.doomed = link.into_stream();
                things.doomed.as_ref()?;
                work
            }
            Work::Read { at, len, how } => {
                let how = match how {
                    Receive::Pooled => Receive::Some,
                    Receive::ExactVectored => Receive::Vectored,
                    how => how,
                };
                things.buf = vec![BLANK; usize::from(len)];
                things.file = Some(Rc::clone(&self.file));
                Work::Read { at, len, how }
            }
            Work::Write { region, len, how } => {
                let how = if how == Transmit::ZeroCopy { Transmit::All } else { how };
                things.file = Some(Rc::clone(&self.file));
                Work::Write { region, len, how }
            }
            Work::ReadOn { len } => {
                things.buf = vec![BLANK; usize::from(len)];
                things.file = Some(Rc::clone(&self.constant));
                work
            }
            Work::Sync { .. } | Work::Metadata => {
                things.file = Some(Rc::clone(&self.file));
                work
            }
            Work::Open(what) => {
                things.path = self.path(match what {
                    OpenWhat::Missing => "missing",
                    OpenWhat::CreateNew => "new",
                    OpenWhat::Existing | OpenWhat::Contradiction => "constant",
                });
                work
            }
            Work::CloseFile => {
                let path = format!("{}/constant", self.directory);
                let opened = self.places.enter(|| OpenOptions::new().read(true).open_blocking(path));
                things.doomed_file = Some(opened.ok()?);
                work
            }
            Work::Wait { notifier } => {
                things.notifier = Some(self.notifiers[usize::from(notifier)].clone());
                work
            }
            Work::Stray { .. } | Work::OnClosed { .. } => {
                things.doomed = stray();
                things.buf = vec![BLANK; 8];
                work
            }
            Work::Nop | Work::After(_) | Work::At(_) | Work::Hour | Work::Offload { .. } => work,
        };
        Some((work, things))
    }
}

/// A socket that is not connected, of the real world.
fn stray() -> Option<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).ok()?;
    TcpStream::from_socket(socket).ok()
}

/// Tells the model of the effects that an operation will have, and makes the bytes that it sends or writes.
fn begin_effect(number: usize, work: Work, things: &mut Things, backend: Backend, origin_ns: u64) {
    let side = things.link.as_ref().map_or(0, |link| link.side);
    let key = model(|m| super::random::mix(number as u64 ^ m.digest.rotate_left(17)));
    match work {
        Work::At(tick) => model(|m| m.set_due(number, origin_ns + u64::from(tick) * 100_000)),
        Work::Recv { how, .. } => {
            let (pooled, exact) =
                (how == Receive::Pooled, matches!(how, Receive::Exact | Receive::ExactVectored));
            let len = match &things.bufs {
                Some(bufs) if pooled => bufs.buffer_size(),
                _ => things.buf.len(),
            };
            model(|m| m.begin_receive(number, side, len, exact, pooled));
        }
        Work::Send { end, how, len } => {
            let len = transfer_len(backend, end, len);
            things.buf = wires::bytes_of(key, len);
            let all = matches!(how, Transmit::All | Transmit::AllVectored | Transmit::ZeroCopy);
            model(|m| m.begin_send(number, side, key, len, all));
        }
        Work::Close { .. } => model(|m| m.entries[number].effect = Effect::Close { side: things.side }),
        Work::Shutdown { half, .. } => model(|m| {
            m.begin_shutdown(side, half);
            m.entries[number].effect = Effect::Shutdown { side };
        }),
        Work::Write { region, len, how } => {
            things.buf = wires::bytes_of(key, usize::from(len));
            let all = matches!(how, Transmit::All | Transmit::AllVectored);
            model(|m| {
                let ticket = m.file.begin_write(usize::from(region));
                m.entries[number].effect = Effect::Write { ticket, len: usize::from(len), all };
            });
        }
        Work::Read { at, len, how } => model(|m| {
            let (at, len) = (usize::from(at), usize::from(len));
            let there = FILE_BYTES.saturating_sub(at);
            let ticket = m.file.begin_read(at, len.min(there));
            m.entries[number].effect = Effect::Read { ticket, there, len, exact: how == Receive::Exact };
        }),
        Work::ReadOn { len } => model(|m| {
            m.file.readers_on += 1;
            if m.file.readers_on > 1 {
                m.file.position = None;
            }
            m.entries[number].effect = Effect::ReadOn { position: m.file.position, len: usize::from(len) };
        }),
        _ => {}
    }
}

/// Puts what was asked for beside an operation into it.
fn shaped<R: Output>(mut op: Op<'_, R>, ask: Ask) -> Op<'_, R> {
    if let Some(us) = ask.limit_us {
        op = op.timeout(Duration::from_micros(u64::from(us)));
    }
    if ask.background { op.background() } else { op }
}

fn shaped_series<R: Output>(mut op: MultiOp<'_, R>, ask: AskSeries) -> MultiOp<'_, R> {
    if let Some(us) = ask.limit_us {
        op = op.timeout(Duration::from_micros(u64::from(us)));
    }
    if ask.background { op.background() } else { op }
}

/// Submits an owner, unless there is nothing to do it on.
pub(crate) fn submit<P: Host>(lp: &mut Loop, on: usize, mut owner: P, mut ask: Ask) {
    let Some((work, mut things)) = world(|w| w.furnish(on, ask.work)) else { return };
    if let Work::Offload { panics } = work {
        return offload(lp, on, panics, ask);
    }
    ask.work = work;
    let (backend, base) = world(|w| (w.backend, w.base));
    let number = model(|m| m.begin(Job::Single(work), on, ask.limit_us, ask.background));
    begin_effect(number, work, &mut things, backend, 0);
    owner.entry = number;
    owner.then = ask.then;
    // What the last operation needed is dropped here.
    drop(std::mem::replace(&mut owner.things, things));
    let listed = lp.in_flight().count();
    model(|m| m.enter_submit(number, listed));
    /// Submits one kind.
    macro_rules! go {
        (|$t:ident| $op:expr) => {
            lp.submit(
                owner,
                move |guest: &mut Guest| {
                    let $t = &mut guest.things;
                    shaped($op, ask)
                },
                finished,
            )
        };
    }
    macro_rules! link {
        ($t:ident) => {
            $t.link.as_ref().expect("furnished").stream()
        };
    }
    macro_rules! file {
        ($t:ident) => {
            $t.file.as_ref().expect("furnished")
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
        Work::After(us) => go!(|_t| Timer::after(Duration::from_micros(u64::from(us)))),
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
            Receive::Pooled => go!(|t| link!(t).recv_pooled(t.bufs.as_ref().expect("furnished"))),
        },
        Work::ForeignPool { .. } => go!(|t| link!(t).recv_pooled(t.bufs.as_ref().expect("furnished"))),
        Work::Send { how, .. } => match how {
            Transmit::Some => go!(|t| link!(t).send(&t.buf)),
            Transmit::All => go!(|t| link!(t).send_all(&t.buf)),
            Transmit::Vectored => go!(|t| link!(t).send_vectored(gather!(t))),
            Transmit::AllVectored => go!(|t| link!(t).send_all_vectored(gather!(t))),
            Transmit::ZeroCopy => go!(|t| link!(t).send_all_zero_copy(&t.buf)),
        },
        Work::Accept { address: false } => go!(|t| t.listener.as_ref().expect("furnished").accept()),
        Work::Accept { address: true } => go!(|t| t.listener.as_ref().expect("furnished").accept_with_addr()),
        Work::Connect { .. } => go!(|t| TcpStream::connect(t.address.expect("furnished"))),
        Work::Shutdown { half, .. } => {
            let how = match half {
                Half::Read => Shutdown::Read,
                Half::Write => Shutdown::Write,
                Half::Both => Shutdown::Both,
            };
            go!(|t| link!(t).shutdown(how))
        }
        Work::Close { .. } => go!(|t| t.doomed.as_mut().expect("furnished").close()),
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
        Work::ReadOn { .. } => go!(|t| file!(t).read(&mut t.buf)),
        Work::Sync { data: true } => go!(|t| file!(t).sync_data()),
        Work::Sync { data: false } => go!(|t| file!(t).sync_all()),
        Work::Metadata => go!(|t| t.file.as_ref().expect("furnished").metadata(&mut t.metadata)),
        Work::Open(what) => {
            let options = match what {
                OpenWhat::CreateNew => OpenOptions::new().write(true).create_new(true),
                OpenWhat::Contradiction => OpenOptions::new().read(true).create(true),
                _ => OpenOptions::new().read(true),
            };
            go!(|t| File::open(&t.path, &options))
        }
        Work::CloseFile => go!(|t| t.doomed_file.as_mut().expect("furnished").close()),
        Work::Wait { .. } => go!(|t| t.notifier.as_ref().expect("furnished").wait()),
        Work::Stray { sends: false } => go!(|t| t.doomed.as_ref().expect("furnished").recv(&mut t.buf)),
        Work::Stray { sends: true } => go!(|t| t.doomed.as_ref().expect("furnished").send(&t.buf)),
        Work::OnClosed { sends } => {
            macro_rules! close {
                ($t:ident) => {{
                    let doomed = $t.doomed.as_mut().expect("furnished");
                    // An operation that is not submitted closes all the same.
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
pub(crate) fn panic_in_prepare<P: Host>(lp: &mut Loop, on: usize, mut owner: P) {
    let number = model(|m| m.begin(Job::Single(Work::Nop), on, None, false));
    owner.entry = number;
    model(|m| m.enter_submit(number, 0));
    model(|m| m.never_begun(number));
    let submitted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        lp.submit(owner, |_| -> Op<'_, ()> { resume_unwind(Box::new(AsTold)) }, finished)
    }));
    model(|m| m.leave_submit(number, None));
    if submitted.is_ok() {
        complain("a panic in prepare comes through", format!("#{number}"));
    }
}

// ---- single results

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

/// The callback of every single operation.
fn finished<P: Host, R: Yields>(lp: &mut Loop, owner: P, result: io::Result<R>) {
    let number = owner.entry;
    let address = address_of(lp);
    let (on, job) = model(|m| {
        m.called_back(number, address);
        (m.entries[number].on, m.entries[number].job)
    });
    let result = result.map(Yields::into_value);
    let summary = match &result {
        Ok(Value::Count(count)) => Ok(*count),
        Ok(Value::Lease(lease)) => Ok(lease.len()),
        Ok(_) => Ok(0),
        Err(error) => Err(classify(error)),
    };
    model(|m| m.judge(number, summary));
    if let Job::Single(work) = job {
        conclude(number, work, &owner.things, summary, on, result.ok());
    }
    model(|m| m.entries[number].effect = Effect::None);
    match owner.then {
        Then::Again(work) => {
            model(|m| m.owner_reused(number));
            again(lp, on, owner, work);
        }
        what => then(lp, on, what),
    }
}

fn again<P: Host>(lp: &mut Loop, on: usize, mut owner: P, work: Work) {
    owner.entry = NOBODY;
    submit(lp, on, owner, Ask { work, limit_us: None, background: false, then: Then::Nothing });
}

/// The effects of an operation that is over.
fn conclude(
    number: usize,
    work: Work,
    things: &Things,
    result: Result<usize, Failure>,
    on: usize,
    value: Option<Value>,
) {
    let count = result.unwrap_or(0).min(things.buf.len());
    match work {
        Work::Recv { how, .. } => {
            match &value {
                Some(Value::Lease(lease)) => model(|m| m.receive(number, lease)),
                _ => model(|m| m.receive(number, &things.buf[..count])),
            }
            let partly = matches!(how, Receive::Exact | Receive::ExactVectored) && result.is_err();
            if !partly {
                check_blank(number, &things.buf[count..]);
            }
            model(|m| m.end_receive(number, result));
        }
        Work::Send { .. } => model(|m| m.end_send(number, result)),
        Work::Close { .. } => model(|m| m.side_gone(things.side, true)),
        Work::Shutdown { half, .. } => {
            if let Effect::Shutdown { side } = model(|m| m.entries[number].effect.clone()) {
                model(|m| m.shut_down(side, half, result));
            }
        }
        Work::Write { .. } => conclude_write(number, things, result),
        Work::Read { how, .. } => {
            if how != Receive::Exact || result.is_ok() {
                check_blank(number, &things.buf[count..]);
            }
            conclude_read(number, &things.buf[..count], result);
        }
        Work::ReadOn { .. } => conclude_read_on(number, &things.buf[..count], result),
        Work::Metadata if result.is_ok() && things.metadata.len() != FILE_BYTES as u64 => {
            complain("metadata is that of the file", format!("{} bytes", things.metadata.len()));
        }
        Work::Open(OpenWhat::CreateNew) if result.is_ok() => model(|m| {
            if !m.created.is_empty() {
                m.complain("a file is made once", format!("#{number}"));
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
        Some(Value::Lease(lease)) if number.is_multiple_of(2) => keep(lease, on),
        other => drop(other),
    }
}

fn keep(lease: Lease, on: usize) {
    let life = model(|m| m.loops[on].life);
    world(|w| w.hold(lease, on, life));
}

/// What was not received into must be as it was.
fn check_blank(number: usize, rest: &[u8]) {
    if rest.iter().any(|&byte| byte != BLANK) {
        complain("only what is received is written to", format!("#{number}: {rest:?}"));
    }
}

fn conclude_write(number: usize, things: &Things, result: Result<usize, Failure>) {
    model(|m| {
        let Effect::Write { ticket, all, .. } = m.entries[number].effect else { return };
        let written = match result {
            Ok(count) => Some(count),
            Err(Failure::TableFull) => Some(0),
            Err(Failure::Errno(_)) if !all => Some(0),
            Err(_) => None,
        };
        m.file.end_write(ticket, &things.buf, written.map(|n| n.min(things.buf.len())));
    });
}

fn conclude_read(number: usize, bytes: &[u8], result: Result<usize, Failure>) {
    model(|m| {
        let Effect::Read { ticket, .. } = m.entries[number].effect.clone() else { return };
        if result.is_err() {
            return;
        }
        match m.file.check_read(&ticket, bytes) {
            Ok(checked) => m.stats.add("bytes", "read back", checked as u64),
            Err(detail) => m.complain("what is read is what was written", format!("#{number}: {detail}")),
        }
    });
}

fn conclude_read_on(number: usize, bytes: &[u8], result: Result<usize, Failure>) {
    model(|m| {
        let Effect::ReadOn { position, .. } = m.entries[number].effect else { return };
        m.file.readers_on -= 1;
        // It is not known any more if another one began meanwhile.
        let position = position.and(m.file.position);
        let next = match (position, result) {
            (Some(position), Ok(count)) => {
                if let Err(detail) = FileModel::check_read_on(position, bytes) {
                    m.complain("what is read is what was written", format!("#{number}: {detail}"));
                }
                Some(position + count)
            }
            (position, Err(Failure::Errno(_))) => position,
            _ => None,
        };
        m.file.position = m.file.position.and(next);
    });
}

// ---- what callbacks do

/// Does what a callback is told to do.
pub(crate) fn then(lp: &mut Loop, on: usize, then: Then) {
    match then {
        Then::Nothing => {}
        Then::Again(work) => {
            let owner = Box::new(Completion::new(Guest::new()));
            submit(lp, on, owner, Ask { work, limit_us: None, background: false, then: Then::Nothing });
        }
        Then::Cancel(which) => cancel(lp, which),
        Then::Reset(which, us) => reset(lp, which, us),
        Then::Stop => {
            lp.stop();
            model(|m| m.stopped(on));
        }
        Then::Panic => resume_unwind(Box::new(AsTold)),
        Then::Run => {
            if lp.run(RunMode::NoWait).is_ok() {
                complain("a loop does not run in itself", format!("loop {on}"));
            }
        }
        Then::Post => post(on, false, Then::Nothing),
        Then::Notify(notifier) => notify(notifier),
        Then::DropLease => drop(world(|w| w.leases.pop())),
    }
}

/// The entry that a number means: counted from the latest.
fn entry_of(which: u16) -> Option<usize> {
    model(|m| m.entries.len().checked_sub(1 + usize::from(which)))
}

pub(crate) fn cancel(lp: &mut Loop, which: u16) {
    let Some(number) = entry_of(which) else { return };
    let Some(id) = model(|m| m.id(number)) else { return };
    let listed = lp.in_flight().any(|op| op.id == id);
    let said = lp.cancel(id);
    model(|m| m.canceled(number, listed, said));
}

pub(crate) fn reset(lp: &mut Loop, which: u16, us: u16) {
    let Some(number) = entry_of(which) else { return };
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

// ---- posts

/// What is posted.
pub(crate) struct Parcel {
    pub(crate) number: usize,
    then: Then,
    gone: Arc<AtomicUsize>,
}

impl Drop for Parcel {
    fn drop(&mut self) {
        self.gone.fetch_add(1, Ordering::Release);
    }
}

/// A post to a loop's place, and how to send it.
pub(crate) fn parcel(on: usize, elsewhere: bool, then: Then) -> Box<Completion<Parcel>> {
    let number = model(|m| m.begin_post(on, elsewhere));
    let gone = world(|w| Arc::clone(&w.parcels_gone));
    Box::new(Completion::new(Parcel { number, then, gone }))
}

pub(crate) fn post(on: usize, elsewhere: bool, then: Then) {
    let parcel = parcel(on, elsewhere, then);
    let handle = world(|w| w.handles[on].clone());
    if handle.post(parcel, arrived).is_err() {
        complain("a loop that lives takes posts", format!("loop {on}"));
    }
}

pub(crate) fn arrived(lp: &mut Loop, parcel: Box<Completion<Parcel>>) {
    let address = address_of(lp);
    let on = model(|m| m.post_arrived(parcel.number, address));
    let what = parcel.then;
    drop(parcel);
    then(lp, on, what);
}

// ---- work on a thread pool

/// The owner of work that is done elsewhere.
struct Chore {
    entry: usize,
    runs: u32,
    panics: bool,
    then: Then,
}

impl Drop for Chore {
    fn drop(&mut self) {
        model(|m| m.owner_dropped(self.entry));
    }
}

fn offload(lp: &mut Loop, on: usize, panics: bool, ask: Ask) {
    let entry = model(|m| m.begin(Job::Single(Work::Offload { panics }), on, None, false));
    let chore = Box::new(Completion::new(Chore { entry, runs: 0, panics, then: ask.then }));
    let thread_pool = world(|w| w.thread_pool.clone());
    let listed = lp.in_flight().count();
    model(|m| m.enter_submit(entry, listed));
    let id = lp.offload(&thread_pool, chore, do_chore, chore_done);
    model(|m| m.leave_submit(entry, Some(id)));
}

fn do_chore(chore: &mut Chore) {
    chore.runs += 1;
    if chore.panics {
        resume_unwind(Box::new(AsTold));
    }
}

fn chore_done(lp: &mut Loop, chore: Box<Completion<Chore>>, result: io::Result<()>) {
    let (number, address) = (chore.entry, address_of(lp));
    let summary = result.map(|()| 0).map_err(|error| classify(&error));
    let on = model(|m| {
        m.called_back(number, address);
        m.judge(number, summary);
        m.entries[number].on
    });
    let runs = u32::from(matches!(summary, Ok(_) | Err(Failure::Other)));
    if chore.runs != runs {
        complain(
            "work is done once or not at all",
            format!("#{number}: {summary:?}, done {} times", chore.runs),
        );
    }
    let what = chore.then;
    then(lp, on, what);
}

// ---- several results

#[derive(Clone, Copy, Debug)]
pub(crate) struct AskSeries {
    pub(crate) series: Series,
    pub(crate) items: u8,
    pub(crate) limit_us: Option<u16>,
    pub(crate) background: bool,
    pub(crate) item: Then,
    pub(crate) then: Then,
}

/// The state of a series.
struct Regular {
    entry: usize,
    items_left: u8,
    is_first: bool,
    item: Then,
    then: Then,
}

impl Drop for Regular {
    fn drop(&mut self) {
        model(|m| m.owner_dropped(self.entry));
    }
}

pub(crate) fn submit_series(lp: &mut Loop, on: usize, ask: AskSeries) {
    let link = match ask.series {
        Series::Recv { end } => {
            let Some(link) = world(|w| w.ends[usize::from(end)].clone()) else { return };
            if world(|w| w.setting.polite) && model(|m| m.is_receiving(link.side)) {
                return;
            }
            Some(link)
        }
        _ => None,
    };
    let entry = model(|m| m.begin(Job::Many(ask.series), on, ask.limit_us, ask.background));
    if let Some(link) = &link {
        // It may drop any number of results.
        const UNSEEN_MAX: usize = 1 << 20;
        model(|m| m.begin_receive(entry, link.side, UNSEEN_MAX, false, true));
    }
    let state = Regular { entry, items_left: ask.items, is_first: true, item: ask.item, then: ask.then };
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

fn item<R: Yields>(lp: &mut Loop, regular: &mut Regular, result: R) -> Action {
    let (number, address) = (regular.entry, address_of(lp));
    let value = result.into_value();
    let periods = if let Value::Periods(periods) = value { periods } else { 0 };
    let on = model(|m| {
        m.item(number, address, periods);
        m.entries[number].on
    });
    match value {
        Value::Stream(stream, key) => drop(world(|w| w.adopt(stream, key, false))),
        Value::Lease(lease) => {
            model(|m| m.receive(number, &lease));
            if number.is_multiple_of(2) {
                keep(lease, on);
            }
        }
        _ => {}
    }
    // After `Disarm` come those that have arrived.
    regular.items_left = regular.items_left.saturating_sub(1);
    let disarms = regular.items_left == 0;
    if std::mem::take(&mut regular.is_first) {
        if regular.item == Then::Panic {
            // A series whose callback panics ends.
            model(|m| m.item_over(number, true));
        }
        then(lp, on, regular.item);
    }
    model(|m| m.item_over(number, disarms));
    if disarms { Action::Disarm } else { Action::Rearm }
}

fn ended<S: 'static>(lp: &mut Loop, owner: Box<Completion<Multi<S, Regular>>>, end: io::Result<()>) {
    let (number, address) = (owner.state.entry, address_of(lp));
    let summary = end.map(|()| 0).map_err(|error| classify(&error));
    let on = model(|m| {
        m.called_back(number, address);
        m.judge(number, summary);
        m.end_receive(number, summary);
        m.entries[number].effect = Effect::None;
        m.entries[number].on
    });
    let what = owner.state.then;
    drop(owner);
    then(lp, on, what);
}
