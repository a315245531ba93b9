//! What operations need: bound to them before they are submitted.

use std::ffi::CString;
use std::net::SocketAddr;
use std::rc::Rc;

use oxev::{BufPool, File, IoVecs, Metadata, Notifier, OpenOptions, TcpListener, TcpStream};

use super::super::model::{Effect, FILE_BYTES, bytes_of, model};
use super::super::program::{Backend, OpenWhat, Receive, Transmit, Work};
use super::super::world::{Link, World};
use super::BLANK;
use super::nested::NestedLoop;

/// What an operation may need.
#[derive(Default)]
pub(super) struct Resources {
    pub(super) link: Option<Link>,
    pub(super) listener: Option<Rc<TcpListener>>,
    pub(super) file: Option<Rc<File>>,
    pub(super) notifier: Option<Notifier>,
    pub(super) bufs: Option<BufPool>,
    pub(super) doomed: Option<TcpStream>,
    /// Whose that was.
    pub(super) side: usize,
    pub(super) doomed_file: Option<File>,
    pub(super) path: CString,
    pub(super) address: Option<SocketAddr>,
    pub(super) buf: Vec<u8>,
    pub(super) vecs: IoVecs<3>,
    pub(super) metadata: Metadata,
    pub(super) nested: Option<NestedLoop>,
}

/// The length of a transfer: on real sockets the long ones have to be longer to find no room.
pub(super) fn transfer_len(backend: Backend, end: u8, len: u16) -> usize {
    match (backend, len) {
        (Backend::Sim, len) => usize::from(len.min(2000)),
        // The first pair is never full: there the kernel always lets go of what is not copied.
        (_, 201..) if end < 2 => 200,
        (_, 1000) => 100_000,
        (_, 60_000) => 400_000,
        (_, len) => usize::from(len),
    }
}

impl World {
    /// Finds what an operation needs, and adapts it to what there is. `None`: there is none of it.
    pub(super) fn bind_resources(&mut self, on: usize, work: Work) -> Option<(Work, Resources)> {
        let mut resources = Resources::default();
        let link = |this: &World, end: u8| this.ends[usize::from(end)].clone();
        let work = match work {
            Work::Recv { end, how, len } => {
                let link = link(self, end)?;
                if self.setting.exclusive && model(|m| m.is_receiving(link.side)) {
                    return None;
                }
                resources.buf = vec![BLANK; usize::from(len)];
                resources.bufs = Some(self.bufs[on].clone());
                resources.link = Some(link);
                Work::Recv { end, how, len }
            }
            Work::Send { end, mut how, len } => {
                let link = link(self, end)?;
                if self.setting.exclusive && model(|m| m.is_sending(link.side)) {
                    return None;
                }
                if self.backend == Backend::IoUring && how == Transmit::ZeroCopy && end > 1 {
                    how = Transmit::All;
                }
                resources.link = Some(link);
                Work::Send { end, how, len }
            }
            Work::ForeignPool { end } => {
                let other = (on + 1) % self.bufs.len();
                resources.bufs = Some(self.bufs[other].clone()).filter(|_| other != on);
                resources.bufs.as_ref()?;
                resources.link = Some(link(self, end)?);
                work
            }
            Work::Accept { .. } => {
                resources.listener = Some(Rc::clone(&self.listener));
                work
            }
            Work::Connect { nowhere } => {
                resources.address = Some(if nowhere { self.nowhere } else { self.address });
                work
            }
            Work::Shutdown { end, .. } => {
                resources.link = Some(link(self, end)?);
                work
            }
            Work::Close { end } => {
                let link = self.ends[usize::from(end)].take()?;
                resources.side = link.side;
                resources.doomed = link.into_stream();
                resources.doomed.as_ref()?;
                work
            }
            Work::Read { at, len, how } => {
                let how = match how {
                    Receive::Pooled => Receive::Some,
                    Receive::ExactVectored => Receive::Vectored,
                    how => how,
                };
                resources.buf = vec![BLANK; usize::from(len)];
                resources.file = Some(Rc::clone(&self.file));
                Work::Read { at, len, how }
            }
            Work::Write { region, len, how } => {
                let how = if how == Transmit::ZeroCopy { Transmit::All } else { how };
                resources.file = Some(Rc::clone(&self.file));
                Work::Write { region, len, how }
            }
            Work::Append { .. } => {
                resources.file = Some(Rc::clone(&self.log));
                work
            }
            Work::Mixed { len, .. } => {
                resources.buf = vec![BLANK; usize::from(len)];
                resources.file = Some(Rc::clone(&self.mixed));
                work
            }
            Work::Fifo { len, .. } => {
                resources.buf = vec![BLANK; usize::from(len)];
                resources.file = Some(Rc::clone(self.fifo.as_ref()?));
                work
            }
            Work::Nested(_) => {
                resources.nested = Some(NestedLoop::new(self, on)?);
                work
            }
            Work::ReadOn { len } => {
                resources.buf = vec![BLANK; usize::from(len)];
                resources.file = Some(Rc::clone(&self.constant));
                work
            }
            Work::Sync { .. } | Work::Metadata => {
                resources.file = Some(Rc::clone(&self.file));
                work
            }
            Work::Open(what) => {
                resources.path = self.path(match what {
                    OpenWhat::Missing => "missing",
                    OpenWhat::CreateNew => "new",
                    OpenWhat::Existing | OpenWhat::Contradiction => "constant",
                });
                work
            }
            Work::CloseFile => {
                let path = format!("{}/constant", self.directory);
                let opened = self.platform.enter(|| OpenOptions::new().read(true).open_blocking(path));
                resources.doomed_file = Some(opened.ok()?);
                work
            }
            Work::Wait { notifier } => {
                resources.notifier = Some(self.notifiers[usize::from(notifier)].clone());
                work
            }
            Work::Stray { .. } | Work::OnClosed { .. } => {
                resources.doomed = stray();
                resources.buf = vec![BLANK; 8];
                work
            }
            Work::Offload { panics, blocks } => Work::Offload {
                panics,
                blocks: blocks && self.setting.blocking && self.backend != Backend::Sim,
            },
            Work::Nop | Work::After(_) | Work::At(_) | Work::Hour => work,
        };
        Some((work, resources))
    }
}

/// A socket that is not connected, of the real world.
pub(super) fn stray() -> Option<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).ok()?;
    TcpStream::from_socket(socket).ok()
}

/// Tells the model of the effects that an operation will have, and makes the bytes that it sends or writes.
pub(super) fn begin_effect(
    number: usize,
    work: Work,
    resources: &mut Resources,
    backend: Backend,
    origin_ns: u64,
) {
    let side = resources.link.as_ref().map_or(0, |link| link.side);
    let key = model(|m| super::super::random::mix(number as u64 ^ m.digest.rotate_left(17)));
    match work {
        Work::At(tick) => model(|m| m.set_due(number, origin_ns + u64::from(tick) * 100_000)),
        Work::Recv { how, .. } => {
            let (pooled, exact) =
                (how == Receive::Pooled, matches!(how, Receive::Exact | Receive::ExactVectored));
            let len = match &resources.bufs {
                Some(bufs) if pooled => bufs.buffer_size(),
                _ => resources.buf.len(),
            };
            model(|m| m.begin_receive(number, side, len, exact, pooled));
        }
        Work::Send { end, how, len } => {
            let len = transfer_len(backend, end, len);
            resources.buf = bytes_of(key, len);
            let all = matches!(how, Transmit::All | Transmit::AllVectored | Transmit::ZeroCopy);
            model(|m| m.begin_send(number, side, key, len, all));
        }
        Work::Close { .. } => model(|m| m.entries[number].effect = Effect::Close { side: resources.side }),
        Work::Shutdown { half, .. } => model(|m| {
            m.begin_shutdown(side, half);
            m.entries[number].effect = Effect::Shutdown { side };
        }),
        Work::Write { region, len, how } => {
            resources.buf = bytes_of(key, usize::from(len));
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
        Work::Append { len, all } => {
            resources.buf = bytes_of(key, usize::from(len));
            model(|m| {
                let on = (m.entries[number].on, m.entries[number].life);
                let ticket = m.log.begin_write(&resources.buf, on);
                m.entries[number].effect = Effect::Append { ticket, len: usize::from(len), all };
            });
        }
        Work::Mixed { len, writes } => {
            let len = usize::from(len);
            if writes {
                resources.buf = bytes_of(key, len);
            }
            model(|m| {
                let on = (m.entries[number].on, m.entries[number].life);
                let ticket = match writes {
                    true => m.mixed.begin_write(&resources.buf, on),
                    false => m.mixed.begin_read(on),
                };
                m.entries[number].effect = Effect::Mixed { ticket, len, writes };
            });
        }
        Work::Fifo { len, writes } => {
            let len = usize::from(len);
            if writes {
                resources.buf = bytes_of(key, len);
            }
            model(|m| {
                let on = (m.entries[number].on, m.entries[number].life);
                let ticket = match writes {
                    true => m.fifo.begin_send(key, len, on, false),
                    false => m.fifo.begin_receive(len, on, false),
                };
                m.entries[number].effect = Effect::Fifo { ticket, len, writes };
            });
        }
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
