//! One operation of every kind that waits until something happens that never does.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use oxev::{
    Action, BufPool, Completion, File, IoVecs, Lease, Loop, Multi, MultiOp, Notifier, Op, OpId, Output,
    TcpStream, Timer,
};

use super::sockets::{listener, pair, small_pair, unanswering};
use super::surroundings::{PipeEnd, current};
use super::{CountedDrop, Counter, HOUR, now};

/// How an operation ended; `None` as long as its callback has not run.
type End = Rc<RefCell<Option<io::Result<()>>>>;

/// An operation in flight.
pub(crate) struct Hanging {
    pub(crate) name: &'static str,
    pub(crate) id: OpId,
    end: End,
    drops: Counter,
}

impl Hanging {
    /// How it ended.
    pub(crate) fn end(&self) -> Option<io::Result<()>> {
        self.end.take()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// How often its owner was dropped.
    pub(crate) fn drops(&self) -> usize {
        self.drops.get()
    }
}

struct State<T> {
    state: T,
    end: End,
    _drop: CountedDrop,
}

/// Starts operations, and keeps alive what they need.
struct Starter<'l> {
    lp: &'l mut Loop,
    limit: Option<Duration>,
    started: Vec<Hanging>,
}

fn remember(end: &End, result: io::Result<()>) {
    let before = end.borrow_mut().replace(result);
    assert!(before.is_none(), "a callback ran twice");
}

impl Starter<'_> {
    fn one<T, R, F>(&mut self, name: &'static str, state: T, prepare: F)
    where
        T: 'static,
        R: Output,
        F: for<'a> FnOnce(&'a mut T) -> Op<'a, R>,
    {
        let (end, drops, limit) = (End::default(), Counter::new(), self.limit);
        let state = State { state, end: Rc::clone(&end), _drop: drops.on_drop() };
        let id = self.lp.submit(
            Box::new(Completion::new(state)),
            |s| match limit {
                Some(limit) => prepare(&mut s.state).timeout(limit),
                None => prepare(&mut s.state),
            },
            |_, owner, result| remember(&owner.end, result.map(drop)),
        );
        self.started.push(Hanging { name, id, end, drops });
    }

    fn multi<S, R, F>(&mut self, name: &'static str, source: S, prepare: F)
    where
        S: 'static,
        R: Output,
        F: for<'a> FnOnce(&'a mut S) -> MultiOp<'a, R>,
    {
        let (end, drops, limit) = (End::default(), Counter::new(), self.limit);
        let state = State { state: name, end: Rc::clone(&end), _drop: drops.on_drop() };
        let id = self.lp.submit_multi(
            Box::new(Completion::new(Multi::new(source, state))),
            |source| match limit {
                Some(limit) => prepare(source).timeout(limit),
                None => prepare(source),
            },
            |_, state: &mut State<&'static str>, _: R| -> Action { panic!("an item of {}", state.state) },
            |_, owner, result| remember(&owner.state.end, result),
        );
        self.started.push(Hanging { name, id, end, drops });
    }
}

/// Starts one operation of every kind that can wait; with a deadline if there is a `limit`. What is returned
/// second must be kept.
pub(crate) fn start_every_kind(lp: &mut Loop, limit: Option<Duration>) -> (Vec<Hanging>, Box<dyn Any>) {
    let (pool, empty_pool) = (lp.buf_pool(4, 64).unwrap(), lp.buf_pool(1, 64).unwrap());
    let lease = lease_of(lp, &empty_pool);
    let mut peers = Vec::new();
    let mut stream = || {
        let (ours, peer) = pair();
        peers.push(peer);
        ours
    };
    let (silent, unanswered) = unanswering();
    let mut starter = Starter { lp, limit, started: Vec::new() };

    starter.one("after", (), |()| Timer::after(HOUR));
    starter.one("at", (), |()| Timer::at(now() + HOUR));
    starter.multi("every", (), |()| Timer::every(HOUR));
    starter.multi("every_after", (), |()| Timer::every_after(HOUR));
    starter.one("wait", Notifier::new(), |n| n.wait());
    starter.multi("wait_multi", Notifier::new(), |n| n.wait_multi());
    starter.one("accept", listener().0, |l| l.accept());
    starter.one("accept_with_addr", listener().0, |l| l.accept_with_addr());
    starter.multi("accept_multi", listener().0, |l| l.accept_multi());
    starter.one("connect", silent, |&mut address| TcpStream::connect(address));
    starter.one("recv", (stream(), [0; 64]), |(s, b)| s.recv(b));
    starter.one("recv_exact", (stream(), [0; 64]), |(s, b)| s.recv_exact(b));
    starter.one("recv_vectored", (stream(), IoVecs::<1>::new(), [0; 64]), |(s, v, b)| {
        s.recv_vectored(v.scatter([&mut b[..]]))
    });
    starter.one("recv_exact_vectored", (stream(), IoVecs::<1>::new(), [0; 64]), |(s, v, b)| {
        s.recv_exact_vectored(v.scatter([&mut b[..]]))
    });
    starter.one("recv_pooled", (stream(), pool.clone()), |(s, p)| s.recv_pooled(p));
    starter.multi("recv_multi", (stream(), pool), |(s, p)| s.recv_multi(p));
    let (starving, mut fed) = pair();
    io::Write::write_all(&mut fed, b"there is no buffer for this").unwrap();
    starter.one("recv_pooled without a buffer", (starving, empty_pool), |(s, p)| s.recv_pooled(p));
    let mut sender = || {
        let (ours, peer) = small_pair();
        peers.push(peer);
        // Far more than the buffers of both ends take.
        (ours, IoVecs::<1>::new(), vec![0; 4 << 20])
    };
    starter.one("send_all", sender(), |(s, _, b)| s.send_all(b));
    starter.one("send_all_vectored", sender(), |(s, v, b)| s.send_all_vectored(v.gather([&b[..]])));
    let (pipe, pipe_end) = pipe();
    starter.one("read", (pipe, [0; 64]), |(f, b)| f.read(b));
    let started = starter.started;
    (started, Box::new((peers, unanswered, pipe_end, fed, lease)))
}

/// The reading end of a pipe as the loop's file, and the other end.
pub(crate) fn pipe() -> (File, PipeEnd) {
    current().pipe().0
}

/// Takes a buffer out of the pool.
pub(crate) fn lease_of(lp: &mut Loop, pool: &BufPool) -> Lease {
    let (ours, mut peer) = pair();
    io::Write::write_all(&mut peer, b"x").unwrap();
    super::complete(lp, (ours, pool.clone()), |(s, p)| s.recv_pooled(p)).1.unwrap()
}
