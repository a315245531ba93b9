//! `net::resolve`, on every backend that this machine has: what is found, what is not, and the early end.

mod common;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;

use oxev::net::{Lookup, resolve};
use oxev::{Completion, Loop, Pool, RunMode, ThreadPool};

/// Runs one body on each backend.
fn on_each(body: fn(Box<Loop>)) {
    for kind in common::backends() {
        body(Loop::builder().backend(kind).capacity(64).build().unwrap());
    }
}

type Owner = Box<Completion<Lookup>>;

thread_local! {
    /// The owners that came back to this test, with what the callback was told.
    static ENDS: RefCell<Vec<(Owner, io::Result<()>)>> = const { RefCell::new(Vec::new()) };
}

fn lookup(host: &str, port: u16) -> Owner {
    Box::new(Completion::new(Lookup::new(host, port)))
}

fn note(_: &mut Loop, owner: Owner, end: io::Result<()>) {
    ENDS.with_borrow_mut(|ends| ends.push((owner, end)));
}

/// The one end of the one look-up that is in flight.
fn only_end(lp: &mut Loop) -> (Owner, io::Result<()>) {
    lp.run(RunMode::UntilDone).unwrap();
    let mut ends = ENDS.take();
    assert_eq!(ends.len(), 1);
    ends.remove(0)
}

fn resolve_one(lp: &mut Loop, owner: Owner) -> (Owner, io::Result<()>) {
    resolve(lp, &ThreadPool::new(), owner, note);
    only_end(lp)
}

fn addresses(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

#[test]
fn localhost_has_loopback_addresses_with_the_given_port() {
    on_each(|mut lp| {
        let (owner, end) = resolve_one(&mut lp, lookup("localhost", 80));
        end.unwrap();
        assert!(!owner.addresses().is_empty());
        assert!(owner.addresses().iter().all(|address| address.ip().is_loopback() && address.port() == 80));
    });
}

#[test]
fn a_numeric_address_resolves_to_itself_alone() {
    on_each(|mut lp| {
        // Addresses for documentation: no resolver knows them, and no host has them.
        for (host, expected) in [("192.0.2.1", "192.0.2.1:7"), ("2001:db8::1", "[2001:db8::1]:7")] {
            let (owner, end) = resolve_one(&mut lp, lookup(host, 7));
            end.unwrap();
            assert_eq!(owner.addresses(), addresses(&[expected]));
        }
    });
}

#[test]
fn a_name_that_cannot_be_is_an_error_and_the_owner_comes_back() {
    on_each(|mut lp| {
        for host in ["no such host.invalid", "a\0b", ""] {
            let (owner, end) = resolve_one(&mut lp, lookup(host, 80));
            let error = end.unwrap_err();
            assert!(!oxev::is_canceled(&error), "{error}");
            assert_eq!(owner.addresses(), []);
        }
    });
}

#[test]
fn an_error_is_told_once_and_the_lookup_can_be_used_again() {
    on_each(|mut lp| {
        let (owner, end) = resolve_one(&mut lp, lookup("a\0b", 80));
        assert!(end.is_err());
        let (mut owner, end) = resolve_one(&mut lp, owner);
        assert!(end.is_err());
        **owner = Lookup::new("192.0.2.1", 1);
        let (owner, end) = resolve_one(&mut lp, owner);
        end.unwrap();
        let (owner, end) = resolve_one(&mut lp, owner);
        end.unwrap();
        assert_eq!(owner.addresses(), addresses(&["192.0.2.1:1"]), "not added to the former answer");
    });
}

#[test]
fn a_queued_lookup_is_cancelled_and_never_made() {
    on_each(|mut lp| {
        let (pool, release) = common::busy_pool();
        let id = resolve(&mut lp, &pool, lookup("192.0.2.1", 1), note);
        assert!(lp.cancel(id));
        drop(release);
        let (owner, end) = only_end(&mut lp);
        assert!(oxev::is_canceled(&end.unwrap_err()));
        assert_eq!(owner.addresses(), []);
    });
}

#[test]
fn the_lookup_may_be_a_part_of_the_state_of_any_owner() {
    struct Client {
        lookup: Lookup,
        name: &'static str,
    }

    impl AsMut<Lookup> for Client {
        fn as_mut(&mut self) -> &mut Lookup {
            &mut self.lookup
        }
    }

    on_each(|mut lp| {
        let threads = ThreadPool::new();
        let clients = Pool::new(1);
        let client = clients.insert(Client { lookup: Lookup::new("192.0.2.1", 1), name: "pooled" });
        resolve(&mut lp, &threads, client.map_err(|_| "full").unwrap(), |_, client, end| {
            end.unwrap();
            assert_eq!(client.name, "pooled");
            ENDS.with_borrow_mut(|ends| ends.push((lookup("seen", 1), Ok(()))));
            assert_eq!(client.lookup.addresses(), addresses(&["192.0.2.1:1"]));
        });
        only_end(&mut lp).1.unwrap();
        assert_eq!(clients.available(), 1);
    });
}
