//! The end of a multi-result operation throws nothing away: what arrives between `Disarm`, a cancel, a
//! deadline or a panic and the end is still delivered.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use oxev::{
    Action, BufPool, Completion, Lease, Loop, Multi, MultiOp, OpId, Output, RunMode, TcpListener, TcpStream,
};

use crate::support::sockets::{connect, listener, pair};
use crate::support::surroundings::background;
use crate::support::{Log, complete, errno, pattern};
use crate::variants::Variant;

conformance! {
    disarm_drops_no_client,
    cancel_in_the_item_callback_drops_no_client,
    a_deadline_drops_no_client,
    a_panic_in_the_item_callback_drops_no_client,
    disarm_at_every_item_loses_no_byte,
    disarm_with_every_buffer_on_lease_loses_no_byte,
    cancel_in_the_item_callback_loses_no_byte,
    a_panic_in_the_item_callback_loses_no_byte,
    a_reset_between_disarm_and_the_end_is_told,
}

/// What the item callback does when it has had as many items as the number says.
#[derive(Clone, Copy)]
enum Ending {
    Disarm(usize),
    Cancel(usize),
    Panic(usize),
    Never,
}

/// State whose items and end the test sees, whatever the callback does.
struct Watched<R> {
    ending: Ending,
    count: usize,
    items: Log<R>,
    id: Rc<Cell<Option<OpId>>>,
    end: Rc<RefCell<Option<io::Result<()>>>>,
}

/// Submits a multi-result operation and runs it to its end, through the panics of its item callback.
fn run_multi<S, R, F>(lp: &mut Loop, source: S, ending: Ending, items: &Log<R>, prepare: F) -> io::Result<()>
where
    S: 'static,
    R: Output,
    F: for<'a> FnOnce(&'a mut S) -> MultiOp<'a, R>,
{
    let (id, end) = (Rc::default(), Rc::default());
    let watched =
        Watched { ending, count: 0, items: items.clone(), id: Rc::clone(&id), end: Rc::clone(&end) };
    id.set(Some(lp.submit_multi(
        Box::new(Completion::new(Multi::new(source, watched))),
        prepare,
        |lp, watched: &mut Watched<R>, item| {
            watched.items.push(item);
            watched.count += 1;
            match watched.ending {
                // After the first `Disarm` the action is ignored.
                Ending::Disarm(at) if watched.count == at => return Action::Disarm,
                Ending::Cancel(at) if watched.count == at => {
                    assert!(lp.cancel(watched.id.get().expect("it was submitted")));
                }
                Ending::Panic(at) if watched.count == at => panic!("an item callback panics"),
                _ => {}
            }
            Action::Rearm
        },
        |_, owner, end| *owner.state.end.borrow_mut() = Some(end),
    )));
    while end.borrow().is_none() {
        let run = catch_unwind(AssertUnwindSafe(|| lp.run(RunMode::Once).unwrap()));
        assert!(matches!(ending, Ending::Panic(_)) || run.is_ok());
    }
    end.take().expect("the end callback has run")
}

// ---- connections

/// Ten clients connect, and accepting ends in the middle of them: who was not accepted waits for the next
/// accept. Gives the end of the first, and how many it accepted.
fn no_client_is_dropped(v: Variant, ending: Ending, limit: Option<Duration>) -> (io::Result<()>, usize) {
    const CLIENTS: usize = 10;
    let mut lp = v.new_loop();
    let (listener, address) = listener();
    let listener = Rc::new(listener);
    let mut clients = [(); CLIENTS].map(|()| connect(address));
    let accepted = Log::new();
    let end =
        run_multi(&mut lp, Rc::clone(&listener), ending, &accepted, |listener: &mut Rc<TcpListener>| {
            let accepts = listener.accept_multi();
            if let Some(limit) = limit { accepts.timeout(limit) } else { accepts }
        });
    let mut streams = accepted.take();
    let count = streams.len();
    while streams.len() < CLIENTS {
        streams.push(complete(&mut lp, Rc::clone(&listener), |l| l.accept()).1.unwrap());
    }
    let mut peers: Vec<SocketAddr> = streams.iter().map(|s| s.peer_addr().unwrap()).collect();
    let mut locals: Vec<SocketAddr> = clients.iter().map(|c| c.local_addr().unwrap()).collect();
    peers.sort_unstable();
    locals.sort_unstable();
    assert_eq!(peers, locals);
    // Each is served: the first byte that it hears is ours.
    for stream in streams {
        let address = stream.peer_addr().unwrap();
        complete(&mut lp, (stream, *b"served"), |(s, b)| s.send_all(b)).1.unwrap();
        let client = clients.iter_mut().find(|c| c.local_addr().unwrap() == address).unwrap();
        let mut heard = [0; 6];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"served");
    }
    (end, count)
}

fn disarm_drops_no_client(v: Variant) {
    let (end, accepted) = no_client_is_dropped(v, Ending::Disarm(3), None);
    end.unwrap();
    assert!(accepted >= 3);
}

fn cancel_in_the_item_callback_drops_no_client(v: Variant) {
    let (end, accepted) = no_client_is_dropped(v, Ending::Cancel(3), None);
    assert!(oxev::is_canceled(&end.unwrap_err()));
    assert!(accepted >= 3);
}

fn a_deadline_drops_no_client(v: Variant) {
    let (end, _) = no_client_is_dropped(v, Ending::Never, Some(Duration::ZERO));
    assert!(oxev::is_deadline(&end.unwrap_err()));
}

fn a_panic_in_the_item_callback_drops_no_client(v: Variant) {
    let (end, accepted) = no_client_is_dropped(v, Ending::Panic(3), None);
    end.unwrap();
    assert!(accepted >= 3);
}

// ---- bytes

type Pooled = (Rc<TcpStream>, BufPool);

/// A peer sends many bytes, and the receive ends again and again: the next one goes on where it ended.
fn no_byte_is_lost(v: Variant, ending: Ending, hold_leases: bool) {
    const LEN: usize = 20_000;
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(8, 100).unwrap();
    let (ours, mut peer) = pair();
    let ours = Rc::new(ours);
    let writer = background(move || peer.write_all(&pattern(LEN)).unwrap());
    let (mut got, leases) = (Vec::new(), Log::<Lease>::new());
    while got.len() < LEN {
        let source: Pooled = (Rc::clone(&ours), pool.clone());
        let end = run_multi(&mut lp, source, ending, &leases, |(s, p)| s.recv_multi(p));
        assert!(end.is_ok() || oxev::is_canceled(&end.unwrap_err()));
        let mut held = leases.take();
        held.iter().for_each(|lease| got.extend_from_slice(lease));
        if !hold_leases {
            held.clear();
        }
    }
    assert!(got == pattern(LEN));
    assert_eq!(pool.available(), 8);
    writer.join();
}

fn disarm_at_every_item_loses_no_byte(v: Variant) {
    no_byte_is_lost(v, Ending::Disarm(1), false);
}

/// The log holds the leases until the end: of the ninth item the receive is starved when it is disarmed.
fn disarm_with_every_buffer_on_lease_loses_no_byte(v: Variant) {
    no_byte_is_lost(v, Ending::Disarm(8), true);
}

fn cancel_in_the_item_callback_loses_no_byte(v: Variant) {
    no_byte_is_lost(v, Ending::Cancel(2), false);
}

fn a_panic_in_the_item_callback_loses_no_byte(v: Variant) {
    no_byte_is_lost(v, Ending::Panic(2), false);
}

/// The kernel tells a reset once: if the receive that was disarmed had it, its end has.
fn a_reset_between_disarm_and_the_end_is_told(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(8, 100).unwrap();
    let (ours, mut peer) = pair();
    let ours = Rc::new(ours);
    peer.write_all(b"bytes before the reset").unwrap();
    peer.reset();
    let leases = Log::<Lease>::new();
    let source: Pooled = (Rc::clone(&ours), pool.clone());
    let end = run_multi(&mut lp, source, Ending::Disarm(1), &leases, |(s, p)| s.recv_multi(p));
    let told = match end {
        Ok(()) => errno(complete(&mut lp, (ours, [0; 1]), |(s, b)| s.recv(b)).1),
        Err(error) => error.raw_os_error(),
    };
    assert_eq!(told, Some(libc::ECONNRESET));
}
