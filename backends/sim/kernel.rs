//! The kernel of a world: its clock and its events, and the effects of state machines, which it applies.
//!
//! Everything that happens is an event at a time of the virtual clock, in the order of time and, at one time,
//! of making. An event goes to the state machine that it is for; what that decides, the kernel does.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::rc::{Rc, Weak};

use super::effect::{Closing, Effect, Effects, Interest, ObjectId, OpSeq, Path, Segment, SimEvent};
use super::faults::Faults;
use super::file_system::FileSystem;
use super::network::Network;
use super::object::{ObjectKind, Objects, Share, View};
use super::operations::Operation;
use super::port::LoopPort;
use super::random::Random;
use super::trace::Trace;
use super::transfer;
use super::world::{SimOptions, World};
use crate::descriptor::close_number;
use crate::sim_hooks::{self, SimHooks};
use crate::sys::{self, RawDescriptor, errno};

pub(super) struct Kernel {
    now_ns: Rc<Cell<u64>>,
    pub(super) options: SimOptions,
    pub(super) random: Random,
    pub(super) trace: Trace,
    events: BTreeMap<(u64, u64), SimEvent>,
    /// Of events, completions, operations and objects.
    count: u64,
    pub(super) operations: BTreeMap<OpSeq, Operation>,
    pub(super) objects: Objects,
    /// Queues that may be able to go on.
    awake: VecDeque<(ObjectId, Interest)>,
    pub(super) ports: Vec<LoopPort>,
    pub(super) network: Network,
    pub(super) files: FileSystem,
    world: Weak<World>,
}

impl Kernel {
    pub(super) fn new(options: SimOptions, now_ns: Rc<Cell<u64>>, world: Weak<World>) -> Kernel {
        Kernel {
            now_ns,
            random: Random::new(options.seed),
            trace: Trace::new(options.trace_text),
            options,
            events: BTreeMap::new(),
            count: 0,
            operations: BTreeMap::new(),
            objects: Objects::default(),
            awake: VecDeque::new(),
            ports: Vec::new(),
            network: Network::default(),
            files: FileSystem::default(),
            world,
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.now_ns.get()
    }

    pub(super) fn note(&mut self, what: &'static str, which: u64, figure: i64) {
        self.trace.note(self.now_ns.get(), what, which, figure);
    }

    pub(super) fn next_count(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    // ---- chance

    pub(super) fn draw_latency_ns(&mut self) -> u64 {
        let Faults { latency_min, latency_max, .. } = self.options.faults;
        self.random.between(latency_min, latency_max)
    }

    /// How much of what is possible a transfer moves, which is short with this probability.
    pub(super) fn draw_share(&mut self, short: f64) -> Share {
        if self.random.chance(short) { Share::new(self.random.fraction()) } else { Share::ALL }
    }

    // ---- events

    pub(super) fn schedule(&mut self, at_ns: u64, event: SimEvent) {
        let count = self.next_count();
        self.events.insert((at_ns, count), event);
    }

    pub(super) fn schedule_after_latency(&mut self, event: SimEvent) {
        let at_ns = self.now().saturating_add(self.draw_latency_ns());
        self.schedule(at_ns, event);
    }

    pub(super) fn next_event_ns(&self) -> Option<u64> {
        self.events.first_key_value().map(|(key, _)| key.0)
    }

    /// Lets everything happen whose time has come.
    pub(super) fn run_events(&mut self) {
        self.run_awake();
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= self.now_ns.get()) {
            match entry.remove() {
                SimEvent::Perform(seq) => self.perform(seq),
                SimEvent::Retry(object, interest) => self.awake.push_back((object, interest)),
                SimEvent::Arrive(object) => self.arrive(object),
                SimEvent::Handshake(object, step) => self.handshake(object, step),
                SimEvent::Cancel(seq) => self.end_waiting(seq, errno::ECANCELED),
                SimEvent::ScriptTimer => {}
            }
            self.run_awake();
        }
    }

    pub(super) fn wake(&mut self, object: ObjectId) {
        self.awake.push_back((object, Interest::Read));
        self.awake.push_back((object, Interest::Write));
    }

    pub(super) fn wake_queue(&mut self, object: ObjectId, interest: Interest) {
        self.awake.push_back((object, interest));
    }

    pub(super) fn run_awake(&mut self) {
        while let Some((object, interest)) = self.awake.pop_front() {
            self.run_queue(object, interest);
            self.run_polls(object);
        }
    }

    // ---- effects

    pub(super) fn apply(&mut self, effects: Effects) {
        for effect in effects {
            match effect {
                Effect::Complete(seq, ending) => self.finish(seq, ending),
                Effect::Schedule { at_ns, event } => self.schedule(at_ns, event),
                Effect::Wake(object) => self.wake(object),
                Effect::WakeWriters(object) => self.wake_queue(object, Interest::Write),
                Effect::Send { to, segment, path } => self.send_segment(to, segment, path),
                Effect::PeerClosed { object, unread } => {
                    if let Some(object) = self.objects.get_mut(object) {
                        object.kind.peer_closed(unread);
                    }
                }
                Effect::Close(object, closing) => self.close_object(object, closing),
                Effect::Unlisten { listener, port } => self.network.unlisten(listener, port),
                Effect::Note { what, which, figure } => self.note(what, which.0, figure),
                Effect::NoteBytes(bytes) => self.trace.note_bytes(&bytes),
            }
        }
    }

    /// What an object sees of the world around it.
    pub(super) fn view(&self, id: ObjectId) -> View {
        let buffer_bytes = self.options.socket_buffer_bytes.max(1);
        let peer = self.objects.get(id).and_then(|object| object.kind.peer());
        let peer_room = peer.and_then(|peer| self.objects.get(peer)).map(|peer| peer.kind.room(buffer_bytes));
        View { id, now_ns: self.now(), buffer_bytes, peer_room }
    }

    fn send_segment(&mut self, to: ObjectId, segment: Segment, path: Path) {
        if let Segment::Data(bytes) = &segment {
            self.trace.note_bytes(bytes);
        }
        let latency_ns = match path {
            Path::Network => self.draw_latency_ns(),
            Path::Local => 0,
        };
        let at_ns = self.now().saturating_add(latency_ns);
        let Some(object) = self.objects.get_mut(to) else { return };
        if let Some(at_ns) = object.kind.expect(at_ns, segment) {
            self.schedule(at_ns, SimEvent::Arrive(to));
        }
    }

    fn arrive(&mut self, id: ObjectId) {
        let view = self.view(id);
        let Some(object) = self.objects.get_mut(id) else { return };
        if object.kind.route().is_some_and(|(from, to)| self.network.is_cut(from, to)) {
            return;
        }
        let effects = object.kind.arrive(&view);
        self.apply(effects);
    }

    // ---- objects

    pub(super) fn add_object(&mut self, kind: impl Into<ObjectKind>) -> ObjectId {
        let id = ObjectId(self.next_count());
        self.objects.add(id, kind.into());
        id
    }

    /// Makes a descriptor that stands for an object: a socket for such an address, or none.
    pub(super) fn add_descriptor(
        &mut self,
        id: ObjectId,
        address: Option<SocketAddr>,
    ) -> io::Result<RawDescriptor> {
        let fd = match address {
            // A real socket, so that its options are there.
            Some(address) => {
                let family = socket2::Domain::for_address(address).into();
                sys::socket::open_stream(family).map_err(errno::error)?
            }
            None => std::fs::File::open("/dev/null")?.into_raw_fd(),
        };
        self.adopt(fd, id);
        Ok(fd)
    }

    /// A descriptor stands for an object from now on.
    pub(super) fn adopt(&mut self, fd: RawDescriptor, id: ObjectId) {
        if let Some(stale) = self.objects.bind(fd, id) {
            // Its descriptor was closed out of the world's sight.
            self.close_object(stale, Closing::Orderly);
        }
        sim_hooks::adopt(fd, self.world.clone() as Weak<dyn SimHooks>);
    }

    /// Closes a descriptor of the kernel's own, or one that an operation owns.
    pub(super) fn close_descriptor(&mut self, fd: RawDescriptor, id: ObjectId) {
        self.objects.unbind(fd);
        sim_hooks::forget(fd);
        let closing = transfer::closing_of(fd);
        close_number(fd);
        self.close_object(id, closing);
    }

    pub(super) fn close_object(&mut self, id: ObjectId, closing: Closing) {
        let Some(object) = self.objects.remove(id) else { return };
        self.note("close", id.0, 0);
        let (mut kind, waiting) = object.into_parts();
        waiting.for_each(|seq| self.end_waiting(seq, errno::EBADF));
        let effects = kind.close(id, closing);
        self.apply(effects);
    }
}
