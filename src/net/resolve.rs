//! [`Lookup`] and [`resolve`]: host names to addresses, on a thread pool.

#![allow(unsafe_code)]

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use crate::completion::{Completion, Owner};
use crate::event_loop::Loop;
use crate::stateless::Stateless;
use crate::thread_pool::ThreadPool;
use crate::token::OpId;

/// A question to the system's resolver and the answer to it: the state, or a part of the state, of a
/// [`resolve`].
///
/// To keep it beside other state, implement `AsMut<Lookup>` for the whole.
#[derive(Debug)]
pub struct Lookup {
    host: String,
    port: u16,
    addresses: Vec<SocketAddr>,
    /// What went wrong, on its way from the worker to the callback.
    error: Option<io::Error>,
}

impl Lookup {
    /// Asks for the addresses of `host`: a name or a numeric address (of IPv6 without brackets). `port` is
    /// put into each.
    pub fn new(host: impl Into<String>, port: u16) -> Lookup {
        Lookup { host: host.into(), port, addresses: Vec::new(), error: None }
    }

    /// What the last look-up found, the system's preference first. Empty if it failed, or before the first.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Blocks, so it is for a worker.
    fn ask(&mut self) {
        self.addresses.clear();
        match (self.host.as_str(), self.port).to_socket_addrs() {
            Ok(found) => self.addresses.extend(found),
            Err(error) => self.error = Some(error),
        }
    }

    fn outcome(&mut self) -> io::Result<()> {
        self.error.take().map_or(Ok(()), Err)
    }
}

impl AsMut<Lookup> for Lookup {
    fn as_mut(&mut self) -> &mut Lookup {
        self
    }
}

/// Looks a host name up (`getaddrinfo(3)`), which blocks, on a thread pool, and hands the owner back to
/// `callback` on this loop. The addresses are left in the [`Lookup`] of its state.
///
/// It is an operation as [`Loop::offload`] makes them, and what is said there holds: the callback runs
/// exactly once, captures nothing, and [`Loop::cancel`] works while the look-up is queued. The resolver has
/// its own patience (by default seconds for each server) and cannot be interrupted, so a pool that is also to
/// compute needs threads to spare.
///
/// # Errors
/// They come to the callback: the resolver's, for a name that is not found one without an errno; and those of
/// [`Loop::offload`]. If the look-up was cancelled while it was queued, the addresses are those from before.
///
/// ```
/// use oxev::net::{self, Lookup, TcpStream};
/// use oxev::{Completion, Loop, RunMode, ThreadPool};
///
/// let listener = std::net::TcpListener::bind("localhost:0")?;
/// let port = listener.local_addr()?.port();
/// let (mut lp, pool) = (Loop::new()?, ThreadPool::new());
/// let lookup = Box::new(Completion::new(Lookup::new("localhost", port)));
/// net::resolve(&mut lp, &pool, lookup, |lp, lookup, resolved| {
///     resolved.unwrap();
///     let Some(&address) = lookup.addresses().first() else { return };
///     lp.submit(lookup, |_| TcpStream::connect(address), |_, _, connected| {
///         println!("{:?}", connected.map(|_stream| "connected"));
///     });
/// });
/// lp.run(RunMode::UntilDone)?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A callback that captures is refused:
/// ```compile_fail,E0080
/// # use oxev::{Completion, Loop, ThreadPool, net::{Lookup, resolve}};
/// # let (mut lp, pool) = (Loop::new().unwrap(), ThreadPool::new());
/// let captured = 1;
/// let lookup = Box::new(Completion::new(Lookup::new("localhost", 0)));
/// resolve(&mut lp, &pool, lookup, move |_, _, _| println!("{captured}"));
/// ```
pub fn resolve<P, C>(lp: &mut Loop, pool: &ThreadPool, owner: P, callback: C) -> OpId
where
    P: Owner,
    P::State: AsMut<Lookup> + Send,
    C: FnOnce(&mut Loop, P, io::Result<()>) + Stateless,
{
    // A capture without a size gives a closure without a size.
    lp.offload(
        pool,
        owner,
        |state| state.as_mut().ask(),
        move |lp, owner, done| {
            let (owner, outcome) = take_outcome(owner);
            callback(lp, owner, done.and(outcome));
        },
    )
}

/// An [`Owner`] has no way to its state, other than through its completion.
fn take_outcome<P>(owner: P) -> (P, io::Result<()>)
where
    P: Owner,
    P::State: AsMut<Lookup>,
{
    let raw = owner.into_raw();
    // SAFETY: S4: the owner has just given up its completion, so it is there.
    let place = unsafe { Completion::state_place(raw) };
    // SAFETY: S4: as above, and nothing else uses it until `from_raw`.
    let outcome = unsafe { &mut *place }.as_mut().outcome();
    // SAFETY: S4: it came from `into_raw` above, and the borrow of its state has ended.
    (unsafe { P::from_raw(raw) }, outcome)
}
