//! What the fuzzer has found, each as a plain program and a claim.

use std::cell::Cell;
use std::hint;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener as StdListener, TcpStream as StdStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use oxev::{Action, Completion, IoVecs, Loop, Multi, Notifier, RunMode, TcpListener, TcpStream, Timer};

/// A connection: our end, and the other's.
fn pair() -> (TcpStream, StdStream) {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let peer = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    (TcpStream::from_std(listener.accept().unwrap().0).unwrap(), peer)
}

/// A loop on each backend that works here.
fn loops() -> impl Iterator<Item = Box<Loop>> {
    crate::common::backends().into_iter().map(|kind| Loop::builder().backend(kind).build().unwrap())
}

// io_uring takes it to a thread, where sendmsg(2) does not wait on a socket that is O_NONBLOCK, as ours are: EAGAIN.
#[test]
fn a_vectored_send_to_a_peer_that_has_said_its_last_word_waits_for_room() {
    const LEN: usize = 4 << 20;
    struct Sender {
        stream: TcpStream,
        parts: [Vec<u8>; 2],
        vecs: IoVecs<2>,
    }
    for mut lp in loops() {
        let (stream, mut peer) = pair();
        peer.shutdown(Shutdown::Write).unwrap();
        let parts = [vec![1; LEN / 2], vec![2; LEN / 2]];
        lp.submit(
            Box::new(Completion::new(Sender { stream, parts, vecs: IoVecs::new() })),
            |s| s.stream.send_all_vectored(s.vecs.gather(s.parts.iter().map(|part| &part[..]))),
            |_, _, sent| assert_eq!(sent.unwrap(), LEN),
        );
        // It finds no room.
        lp.run_for(Duration::from_millis(20)).unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all)
        });
        lp.run(RunMode::UntilDone).unwrap();
        let all = reader.join().unwrap().unwrap();
        assert!(
            all.len() == LEN
                && all[..LEN / 2].iter().all(|&b| b == 1)
                && all[LEN / 2..].iter().all(|&b| b == 2)
        );
    }
}

// The same, from the other side: who is woken often and finds nothing is taken to a thread.
#[test]
fn a_vectored_receive_that_others_forestall_waits_on() {
    /// More than the kernel wakes one operation for nothing.
    const MESSAGES: u32 = 1000;
    struct Receiver {
        stream: std::rc::Rc<TcpStream>,
        buf: [u8; 1],
        vecs: IoVecs<1>,
        received: std::rc::Rc<std::cell::Cell<u32>>,
    }
    type Owner = Box<Completion<Receiver>>;
    fn count(lp: &mut Loop, owner: &Owner, received: std::io::Result<usize>) {
        assert_eq!(received.unwrap(), 1);
        owner.received.set(owner.received.get() + 1);
        if owner.received.get() == MESSAGES {
            lp.stop();
        }
    }
    fn plain(lp: &mut Loop, owner: Owner) {
        lp.submit(
            owner,
            |r| r.stream.recv(&mut r.buf),
            |lp, owner, received| {
                count(lp, &owner, received);
                plain(lp, owner);
            },
        );
    }
    fn vectored(lp: &mut Loop, owner: Owner) {
        lp.submit(
            owner,
            |r| r.stream.recv_vectored(r.vecs.scatter([&mut r.buf[..]])),
            |lp, owner, received| {
                count(lp, &owner, received);
                vectored(lp, owner);
            },
        );
    }
    for mut lp in loops() {
        let (stream, mut peer) = pair();
        let (stream, received) = (std::rc::Rc::new(stream), std::rc::Rc::default());
        let receiver = || {
            let (stream, received) = (std::rc::Rc::clone(&stream), std::rc::Rc::clone(&received));
            Box::new(Completion::new(Receiver { stream, buf: [0], vecs: IoVecs::new(), received }))
        };
        plain(&mut lp, receiver());
        vectored(&mut lp, receiver());
        peer.set_nodelay(true).unwrap();
        for sent in 1..=MESSAGES {
            peer.write_all(b"x").unwrap();
            while received.get() < sent {
                lp.run(RunMode::Once).unwrap();
            }
        }
    }
}

// The kernel's receive of all (MSG_WAITALL) on io_uring is woken by the reset, takes the error off the socket, and gives the count that it had.
#[test]
fn a_reset_in_the_middle_of_an_exact_receive_is_no_end_of_stream() {
    struct Receiver {
        stream: TcpStream,
        buf: [u8; 100],
    }
    for mut lp in loops() {
        let (stream, mut peer) = pair();
        lp.submit(
            Box::new(Completion::new(Receiver { stream, buf: [0; 100] })),
            |r| r.stream.recv_exact(&mut r.buf),
            |lp, _, received| {
                let error = received.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{}", lp.backend());
            },
        );
        peer.write_all(b"ten bytes.").unwrap();
        lp.run(RunMode::NoWait).unwrap();
        lp.run_for(Duration::from_millis(1)).unwrap();
        socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        lp.run(RunMode::UntilDone).unwrap();
    }
}

// `LoopHandle::stop` wakes the loop, too.
#[test]
fn a_stop_by_a_handle_ends_one_run_and_no_other() {
    for mut lp in loops() {
        lp.handle().stop();
        lp.run(RunMode::NoWait).unwrap();
        lp.submit(
            Box::new(Completion::new(())),
            |()| Timer::after(Duration::from_millis(5)),
            |_, _, fired| fired.unwrap(),
        );
        lp.run(RunMode::Once).unwrap();
        assert!(lp.is_empty(), "{}: `Once` ran no callback", lp.backend());
    }
}

// io_uring: a connection wakes one of those who accept on its listener, and if that one is just being cancelled, no accept takes it. It is a race,
// so it takes many tries to see it.
#[test]
fn a_connection_that_comes_when_one_accept_ends_is_had_by_the_other() {
    const PATIENCE: Duration = Duration::from_secs(10);
    type Accepting = (Rc<TcpListener>, Rc<Cell<bool>>);
    for mut lp in loops() {
        for round in 0..1000 {
            let listener = Rc::new(TcpListener::bind("127.0.0.1:0").unwrap());
            let address = listener.local_addr().unwrap();
            let accepted = Rc::new(Cell::new(false));
            let accepting = || -> Box<Completion<Accepting>> {
                Box::new(Completion::new((Rc::clone(&listener), Rc::clone(&accepted))))
            };
            let limits = [Duration::from_micros(60), PATIENCE];
            let ids = limits.map(|limit| {
                let id = lp.submit(
                    accepting(),
                    |(listener, _)| listener.accept().timeout(PATIENCE),
                    |lp, owner, stream| {
                        if stream.is_ok() {
                            owner.1.set(true);
                            lp.stop();
                        }
                    },
                );
                assert!(lp.reset(id, limit));
                id
            });
            lp.run(RunMode::NoWait).unwrap();
            let client = thread::spawn(move || {
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_micros(round % 60) {
                    hint::spin_loop();
                }
                StdStream::connect(address).unwrap()
            });
            lp.run(RunMode::UntilDone).unwrap();
            assert!(accepted.get(), "{}: no accept took the connection", lp.backend());
            for id in ids {
                lp.cancel(id);
            }
            lp.run(RunMode::UntilDone).unwrap();
            drop(client.join().unwrap());
        }
    }
}

// io_uring: as above, of an accept that goes on and on and is disarmed by its first connection. The kernel may have woken it for more than one
// of those that come then; those it does not have the other one has.
#[test]
fn connections_that_come_when_an_accept_is_disarmed_are_had_by_it_or_by_the_other() {
    const CLIENTS: usize = 3;
    const PATIENCE: Duration = Duration::from_secs(10);
    type Accepting = (Rc<TcpListener>, Rc<Cell<usize>>);
    fn count(lp: &mut Loop, accepted: &Cell<usize>) {
        accepted.set(accepted.get() + 1);
        if accepted.get() == CLIENTS {
            lp.stop();
        }
    }
    fn accept_next(lp: &mut Loop, owner: Box<Completion<Accepting>>) {
        lp.submit(
            owner,
            |(listener, _)| listener.accept().timeout(PATIENCE),
            |lp, owner, stream| {
                if stream.is_ok() {
                    count(lp, &owner.1);
                    accept_next(lp, owner);
                }
            },
        );
    }
    for mut lp in loops() {
        for round in 0..1000 {
            let listener = Rc::new(TcpListener::bind("127.0.0.1:0").unwrap());
            let address = listener.local_addr().unwrap();
            let accepted = Rc::new(Cell::new(0));
            // It is the first that is woken.
            lp.submit_multi(
                Box::new(Completion::new(Multi::new(Rc::clone(&listener), Rc::clone(&accepted)))),
                |listener| listener.accept_multi(),
                |lp, accepted: &mut Rc<Cell<usize>>, _| {
                    count(lp, accepted);
                    Action::Disarm
                },
                |_, _, end| end.unwrap(),
            );
            accept_next(&mut lp, Box::new(Completion::new((Rc::clone(&listener), Rc::clone(&accepted)))));
            lp.run(RunMode::NoWait).unwrap();
            let clients = thread::spawn(move || {
                [(); CLIENTS].map(|()| {
                    let begin = Instant::now();
                    while begin.elapsed() < Duration::from_micros(round % 60) {
                        hint::spin_loop();
                    }
                    StdStream::connect(address).unwrap()
                })
            });
            lp.run(RunMode::UntilDone).unwrap();
            assert_eq!(accepted.get(), CLIENTS, "{}: no accept took a connection", lp.backend());
            lp.cancel_all(&*listener);
            lp.run(RunMode::UntilDone).unwrap();
            drop(clients.join().unwrap());
        }
    }
}

// io_uring: as above, of more connections than one. All of them may wake the accept that ends, which takes but one.
#[test]
fn connections_that_come_when_one_accept_ends_are_had_by_the_other() {
    const PATIENCE: Duration = Duration::from_secs(10);
    type Accepting = (Rc<TcpListener>, Rc<Cell<bool>>);
    for mut lp in loops() {
        let listener = Rc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let accepted = Rc::new(Cell::new(false));
        let first = lp.submit(
            Box::new(Completion::new(Rc::clone(&listener))),
            |listener| listener.accept(),
            |_, _, stream| drop(stream),
        );
        lp.submit(
            Box::new(Completion::new((Rc::clone(&listener), Rc::clone(&accepted)))),
            |(listener, _): &mut Accepting| listener.accept(),
            |lp, owner, stream| {
                owner.1.set(stream.is_ok());
                lp.stop();
            },
        );
        lp.cancel(first);
        for _ in 0..2 {
            lp.submit(
                Box::new(Completion::new(())),
                move |()| TcpStream::connect(address),
                |_, _, stream| drop(stream.unwrap()),
            );
        }
        lp.submit(
            Box::new(Completion::new(())),
            |()| Timer::after(PATIENCE).background(),
            |lp, _, _| lp.stop(),
        );
        lp.run(RunMode::UntilDone).unwrap();
        assert!(accepted.get(), "{}: the other accept took no connection", lp.backend());
    }
}

// A notification that is on its way when the deadline passes is an item, and the end comes after it. It is a race, so it takes many tries.
#[test]
fn a_wait_that_is_notified_at_its_deadline_ends_all_the_same() {
    const PATIENCE: Duration = Duration::from_secs(10);
    for mut lp in loops() {
        let (notifier, is_over) = (Notifier::new(), Arc::new(AtomicBool::new(false)));
        let other = thread::spawn({
            let (notifier, is_over) = (notifier.clone(), Arc::clone(&is_over));
            move || {
                for pause in (0..1000).cycle().take_while(|_| !is_over.load(Ordering::Relaxed)) {
                    notifier.notify();
                    (0..pause).for_each(|_| hint::spin_loop());
                }
            }
        });
        for _ in 0..10_000 {
            lp.submit_multi(
                Box::new(Completion::new(Multi::new(notifier.clone(), ()))),
                |notifier| notifier.wait_multi().timeout(Duration::from_micros(3)),
                |_, (), ()| Action::Rearm,
                |_, _, end| assert!(oxev::is_deadline(&end.unwrap_err())),
            );
            let begin = Instant::now();
            while !lp.is_empty() && begin.elapsed() < PATIENCE {
                lp.run(RunMode::NoWait).unwrap();
            }
            if !lp.is_empty() {
                is_over.store(true, Ordering::Relaxed);
                panic!("{}: its deadline is forgotten", lp.backend());
            }
        }
        is_over.store(true, Ordering::Relaxed);
        other.join().unwrap();
    }
}

// io_uring: the kernel stops an accept that goes on and on when the completion queue is full, though it has woken it for more connections.
#[test]
fn connections_that_come_when_the_kernel_stops_an_accept_are_had_by_the_other() {
    const CLIENTS: usize = 64;
    const PATIENCE: Duration = Duration::from_secs(10);
    for kind in crate::common::backends() {
        // The smallest completion queue.
        let mut lp = Loop::builder().backend(kind).entries(1).build().unwrap();
        let listener = Rc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let [taken, accepted] = [(); 2].map(|()| Rc::new(Cell::new(0)));
        // It is the first that is woken.
        lp.submit_multi(
            Box::new(Completion::new(Multi::new(Rc::clone(&listener), Rc::clone(&taken)))),
            |listener| listener.accept_multi(),
            |lp, taken: &mut Rc<Cell<usize>>, _| {
                taken.set(taken.get() + 1);
                if taken.get() == CLIENTS {
                    lp.stop();
                }
                Action::Disarm
            },
            |_, _, end| end.unwrap(),
        );
        lp.run(RunMode::NoWait).unwrap();
        lp.submit(
            Box::new(Completion::new((Rc::clone(&listener), Rc::clone(&accepted)))),
            |(listener, _)| listener.accept(),
            |lp, owner, stream| {
                drop(stream.unwrap());
                owner.1.set(1);
                lp.stop();
            },
        );
        lp.run(RunMode::NoWait).unwrap();
        let _clients = [(); CLIENTS].map(|()| StdStream::connect(address).unwrap());
        lp.submit(
            Box::new(Completion::new(())),
            |()| Timer::after(PATIENCE).background(),
            |lp, _, _| lp.stop(),
        );
        lp.run(RunMode::UntilDone).unwrap();
        // Either has them, and none of them is left beside an accept that waits.
        assert!(accepted.get() == 1 || taken.get() == CLIENTS, "{kind}: the other accept took no connection");
    }
}
