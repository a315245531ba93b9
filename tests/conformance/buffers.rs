//! Buffer pools: buffers that are handed out when there is data, and come back when their lease is dropped.

use std::io::{Write, read_to_string};
use std::rc::Rc;

use oxev::{Action, BufPool, Lease, Loop, OpId, OpKind, RunMode, TcpStream, Timer};

use crate::support::crowds::crowd;
use crate::support::hanging::lease_of;
use crate::support::sockets::{Peer, pair};
use crate::support::surroundings::background;
use crate::support::{HOUR, Log, MS, complete, errno, is_canceled, pattern, run_until, start, start_multi};
use crate::variants::Variant;

conformance! {
    recv_pooled_lends_a_buffer_with_what_was_received,
    recv_pooled_holds_no_buffer_while_it_waits,
    the_end_of_the_stream_is_an_empty_lease_without_a_buffer,
    recv_multi_gives_lease_after_lease_and_ends_with_the_stream,
    recv_multi_is_disarmed,
    recv_multi_is_cancelled,
    recv_multi_keeps_every_byte_in_order,
    recv_multi_with_leases_held_goes_on_when_they_are_dropped,
    recv_multi_of_a_reset_connection_ends_with_the_error,
    recv_pooled_waits_until_a_lease_is_dropped,
    recv_pooled_can_be_cancelled_while_it_waits_for_a_buffer,
    a_hundred_receives_share_one_buffer,
    a_receive_of_another_pool_is_fed_although_many_starve,
    receives_that_wait_for_a_buffer_get_it_in_their_order,
    a_receive_that_finds_no_data_passes_its_turn_on,
    those_that_leave_do_not_keep_others_from_a_buffer,
    several_buffers_that_come_back_serve_as_many_receives,
    streams_that_wait_for_a_buffer_take_turns,
    a_pool_of_another_loop_is_refused,
    a_pool_outlives_its_loop,
    a_lease_outlives_its_pool_and_its_loop,
    a_lease_can_be_written_to,
    sizes_out_of_range_are_refused,
    the_largest_number_of_buffers_works,
    pools_do_not_share_buffers,
    a_pool_in_the_place_of_another_lends_no_buffer_twice,
    a_pool_that_is_not_in_use_gives_its_place_to_the_next,
    every_buffer_is_available_again_after_everything,
    a_receive_longer_than_a_buffer_is_split,
}

type Pooled = (TcpStream, BufPool);

fn recv_pooled_lends_a_buffer_with_what_was_received(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(2, 16).unwrap();
    let (ours, mut peer) = pair();
    peer.write_all(b"hello").unwrap();
    let (_, lease) = complete(&mut lp, (ours, pool.clone()), |(s, p)| s.recv_pooled(p));
    let lease = lease.unwrap();
    assert_eq!((&lease[..], lease.as_ref().len()), (&b"hello"[..], 5));
    assert_eq!((pool.capacity(), pool.available(), pool.buffer_size()), (2, 1, 16));
    drop(lease);
    assert_eq!(pool.available(), 2);
}

fn recv_pooled_holds_no_buffer_while_it_waits(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(1, 16).unwrap();
    let mut idle = Vec::new();
    for _ in 0..20 {
        let (ours, peer) = pair();
        idle.push((start(&mut lp, (ours, pool.clone()), |(s, p)| s.recv_pooled(p)), peer));
    }
    lp.run(RunMode::NoWait).unwrap();
    assert_eq!(pool.available(), 1);
    for (recv, mut peer) in idle {
        peer.write_all(b"x").unwrap();
        assert_eq!(&recv.wait(&mut lp).1.unwrap()[..], b"x");
    }
}

fn the_end_of_the_stream_is_an_empty_lease_without_a_buffer(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(1, 16).unwrap();
    let (ours, peer) = pair();
    drop(peer);
    let mut state: Pooled = (ours, pool.clone());
    let mut leases = Vec::new();
    for _ in 0..3 {
        let (back, lease) = complete(&mut lp, state, |(s, p)| s.recv_pooled(p));
        leases.push(lease.unwrap());
        state = back;
    }
    assert!(leases.iter_mut().all(|lease| lease.is_empty() && lease.as_mut().is_empty()));
    drop(leases);
    assert_eq!(pool.available(), 1);
}

/// The bytes of the leases, one after the other; the leases are dropped.
fn bytes(leases: &Log<Lease>) -> Vec<u8> {
    leases.take().iter().flat_map(|lease| lease.to_vec()).collect()
}

fn recv_multi_gives_lease_after_lease_and_ends_with_the_stream(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(4, 16).unwrap();
    let (ours, mut peer) = pair();
    let recv = start_multi(&mut lp, (ours, pool.clone()), usize::MAX, |(s, p)| s.recv_multi(p));
    for part in [&b"one"[..], b"two", b"three"] {
        peer.write_all(part).unwrap();
        run_until(&mut lp, || !recv.items.is_empty());
        assert_eq!(bytes(&recv.items), part);
    }
    drop(peer);
    recv.wait(&mut lp).unwrap();
    assert!(recv.items.is_empty(), "the end is no item");
    assert_eq!(pool.available(), 4);
}

fn recv_multi_is_disarmed(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(8, 2).unwrap();
    let (ours, mut peer) = pair();
    peer.write_all(b"abcdefgh").unwrap();
    let recv = start_multi(&mut lp, (ours, pool.clone()), 2, |(s, p)| s.recv_multi(p));
    recv.wait(&mut lp).unwrap();
    let got = bytes(&recv.items);
    assert!(got.len() >= 4 && b"abcdefgh".starts_with(&got));
    assert_eq!(pool.available(), 8);
}

fn recv_multi_is_cancelled(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(2, 16).unwrap();
    let (ours, mut peer) = pair();
    let recv = start_multi(&mut lp, (ours, pool.clone()), usize::MAX, |(s, p)| s.recv_multi(p));
    peer.write_all(b"x").unwrap();
    run_until(&mut lp, || recv.items.len() == 1);
    assert!(lp.cancel(recv.id));
    assert!(is_canceled(&recv.wait(&mut lp)));
    drop(recv);
    assert_eq!(pool.available(), 2);
}

fn recv_multi_keeps_every_byte_in_order(v: Variant) {
    const LEN: usize = 1 << 20;
    let mut lp = v.builder().entries(4).build().unwrap();
    let pool = lp.buf_pool(4, 1000).unwrap();
    let (ours, mut peer) = pair();
    let recv = start_multi(&mut lp, (ours, pool.clone()), usize::MAX, |(s, p)| s.recv_multi(p));
    let writer = background(move || peer.write_all(&pattern(LEN)).unwrap());
    let mut all = Vec::new();
    while !recv.has_ended() {
        lp.run(RunMode::Once).unwrap();
        all.extend(bytes(&recv.items));
    }
    recv.end().unwrap();
    writer.join();
    assert!(all == pattern(LEN));
    assert_eq!(pool.available(), 4);
}

fn recv_multi_with_leases_held_goes_on_when_they_are_dropped(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(2, 4).unwrap();
    let (ours, mut peer) = pair();
    peer.write_all(b"abcdefghijkl").unwrap();
    drop(peer);
    let recv = start_multi(&mut lp, (ours, pool.clone()), usize::MAX, |(s, p)| s.recv_multi(p));
    let mut all = Vec::new();
    while !recv.has_ended() {
        complete(&mut lp, (), |()| Timer::after(MS)).1.unwrap();
        assert!(recv.items.len() <= 2);
        all.extend(bytes(&recv.items));
    }
    recv.end().unwrap();
    assert_eq!(all, b"abcdefghijkl");
    assert_eq!(pool.available(), 2);
}

fn recv_multi_of_a_reset_connection_ends_with_the_error(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(2, 16).unwrap();
    let (ours, peer) = pair();
    let recv = start_multi(&mut lp, (ours, pool.clone()), usize::MAX, |(s, p)| s.recv_multi(p));
    lp.run(RunMode::NoWait).unwrap();
    peer.reset();
    assert_eq!(errno(recv.wait(&mut lp)), Some(libc::ECONNRESET));
    assert_eq!(pool.available(), 2);
}

fn recv_pooled_waits_until_a_lease_is_dropped(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(1, 16).unwrap();
    let lease = lease_of(&mut lp, &pool);
    let (ours, mut peer) = pair();
    peer.write_all(b"later").unwrap();
    let recv = start(&mut lp, (ours, pool.clone()), |(s, p)| s.recv_pooled(p));
    lp.run_for(2 * MS).unwrap();
    assert!(!recv.is_done());
    assert_eq!(lp.in_flight().next().unwrap().kind, OpKind::RecvPooled);
    drop(lease);
    assert_eq!(&recv.wait(&mut lp).1.unwrap()[..], b"later");
}

fn recv_pooled_can_be_cancelled_while_it_waits_for_a_buffer(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(1, 16).unwrap();
    let lease = lease_of(&mut lp, &pool);
    let (ours, mut peer) = pair();
    peer.write_all(b"later").unwrap();
    let recv = start(&mut lp, (ours, pool.clone()), |(s, p)| s.recv_pooled(p));
    lp.run_for(2 * MS).unwrap();
    assert!(lp.cancel(recv.id));
    let (state, result) = recv.wait(&mut lp);
    assert!(is_canceled(&result));
    drop(lease);
    assert_eq!(&complete(&mut lp, state, |(s, p)| s.recv_pooled(p)).1.unwrap()[..], b"later");
    assert_eq!(pool.available(), 1);
}

fn a_hundred_receives_share_one_buffer(v: Variant) {
    let Some(_crowd) = crowd() else { return };
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(1, 16).unwrap();
    let lease = lease_of(&mut lp, &pool);
    let mut started = Vec::new();
    for name in 0..100_u8 {
        let (ours, mut peer) = pair();
        peer.write_all(&[name]).unwrap();
        let recv = start(&mut lp, (ours, pool.clone(), 0_u8), |(s, p, _)| s.recv_pooled(p));
        started.push((name, recv, peer));
    }
    lp.run_for(2 * MS).unwrap();
    assert!(started.iter().all(|(_, recv, _)| !recv.is_done()));
    drop(lease);
    // Each result holds the one buffer until it is taken.
    while !started.is_empty() {
        lp.run_for(HOUR.min(5 * MS)).unwrap();
        started = started
            .into_iter()
            .filter_map(|(name, recv, peer)| {
                if !recv.is_done() {
                    return Some((name, recv, peer));
                }
                assert_eq!(&recv.result().unwrap()[..], &[name]);
                None
            })
            .collect();
    }
    assert_eq!(pool.available(), 1);
}

fn a_receive_of_another_pool_is_fed_although_many_starve(v: Variant) {
    let Some(_crowd) = crowd() else { return };
    let mut lp = v.new_loop();
    let (busy, other) = (lp.buf_pool(1, 16).unwrap(), lp.buf_pool(1, 16).unwrap());
    let (_lease, other_lease) = (lease_of(&mut lp, &busy), lease_of(&mut lp, &other));
    let starve = |lp: &mut Loop, pool: &BufPool| {
        let (ours, mut peer) = pair();
        peer.write_all(b"x").unwrap();
        (start(lp, (ours, pool.clone()), |(s, p)| s.recv_pooled(p)), peer)
    };
    let starving: Vec<_> = (0..200).map(|_| starve(&mut lp, &busy)).collect();
    let (fed, _peer) = starve(&mut lp, &other);
    lp.run_for(2 * MS).unwrap();
    assert!(!fed.is_done() && starving.iter().all(|(recv, _)| !recv.is_done()));
    drop(other_lease);
    // Nothing else wakes the loop.
    run_until(&mut lp, || fed.is_done());
}

/// Receives that wait for the one buffer of a pool, each with data but those that are named.
fn waiting_for(
    lp: &mut Loop,
    pool: &BufPool,
    count: usize,
    without_data: &[usize],
    order: &Log<usize>,
) -> (Vec<OpId>, Vec<Peer>) {
    let all = (0..count).map(|number| {
        let (ours, mut peer) = pair();
        if !without_data.contains(&number) {
            peer.write_all(b"x").unwrap();
        }
        let order = order.clone();
        let state = (ours, pool.clone());
        let id = lp.submit_with(
            state,
            |(s, p)| s.recv_pooled(p),
            move |_, _, received| {
                // Dropped here, the lease is there for the next.
                order.push(if received.is_ok() { number } else { number + 1000 });
            },
        );
        (id, peer)
    });
    let (ids, peers) = all.unzip();
    lp.run_for(2 * MS).unwrap();
    assert!(order.is_empty());
    (ids, peers)
}

fn receives_that_wait_for_a_buffer_get_it_in_their_order(v: Variant) {
    let (mut lp, order) = (v.new_loop(), Log::new());
    let pool = lp.buf_pool(1, 16).unwrap();
    let lease = lease_of(&mut lp, &pool);
    let (_, _peers) = waiting_for(&mut lp, &pool, 50, &[], &order);
    drop(lease);
    lp.run(RunMode::UntilDone).unwrap();
    let order = order.take();
    assert_eq!(order.len(), 50);
    // A simulated world may complete in another order than it was asked.
    if !v.name().starts_with("sim") {
        assert!(order.is_sorted(), "{order:?}");
    }
}

fn a_receive_that_finds_no_data_passes_its_turn_on(v: Variant) {
    let (mut lp, order) = (v.new_loop(), Log::new());
    let pool = lp.buf_pool(1, 16).unwrap();
    let lease = lease_of(&mut lp, &pool);
    // Where a receive without data takes no buffer, it does not wait for one either.
    let without: Vec<_> = (0..60).filter(|&number| number != 59).collect();
    let (_, mut peers) = waiting_for(&mut lp, &pool, 60, &without, &order);
    drop(lease);
    run_until(&mut lp, || order.len() == 1);
    assert_eq!(order.take(), [59]);
    peers.iter_mut().for_each(|peer| peer.write_all(b"late").unwrap());
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!((order.len(), pool.available()), (59, 1));
}

fn those_that_leave_do_not_keep_others_from_a_buffer(v: Variant) {
    let (mut lp, order) = (v.new_loop(), Log::new());
    let pool = lp.buf_pool(1, 16).unwrap();
    let lease = lease_of(&mut lp, &pool);
    let (ids, _peers) = waiting_for(&mut lp, &pool, 20, &[], &order);
    // The first, the last, and some in between, by a cancel and by a deadline.
    for number in [0, 7, 19] {
        assert!(lp.cancel(ids[number]));
    }
    for number in [8, 18] {
        assert!(lp.reset(ids[number], MS));
    }
    run_until(&mut lp, || order.len() == 5);
    let mut left = order.take();
    left.sort_unstable();
    assert_eq!(left, [1000, 1007, 1008, 1018, 1019]);
    drop(lease);
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!((order.len(), pool.available()), (15, 1));
    assert!(order.take().iter().all(|&number| number < 1000));
}

fn several_buffers_that_come_back_serve_as_many_receives(v: Variant) {
    let (mut lp, order) = (v.new_loop(), Log::new());
    let pool = lp.buf_pool(3, 16).unwrap();
    let leases = [(); 3].map(|()| lease_of(&mut lp, &pool));
    let (_, _peers) = waiting_for(&mut lp, &pool, 30, &[], &order);
    drop(leases);
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!((order.len(), pool.available()), (30, 3));
}

fn streams_that_wait_for_a_buffer_take_turns(v: Variant) {
    const BYTES: usize = 1 << 10;
    let (mut lp, totals) = (v.new_loop(), Log::new());
    let pool = lp.buf_pool(2, 64).unwrap();
    for _ in 0..8 {
        let (ours, mut peer) = pair();
        peer.write_all(&pattern(BYTES)).unwrap();
        drop(peer);
        let log = totals.clone();
        lp.submit_multi_with(
            (ours, pool.clone()),
            |(s, p)| s.recv_multi(p),
            move |_, lease: Lease| {
                log.push(lease.len());
                Action::Rearm
            },
            |_, _, end| end.unwrap(),
        );
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(totals.take().iter().sum::<usize>(), 8 * BYTES);
    assert_eq!(pool.available(), 2);
}

fn a_pool_of_another_loop_is_refused(v: Variant) {
    let (mut lp, mut other) = (v.new_loop(), v.new_loop());
    let pool = other.buf_pool(1, 16).unwrap();
    let (ours, mut peer) = pair();
    peer.write_all(b"x").unwrap();
    let (state, result) = complete(&mut lp, (ours, pool), |(s, p)| s.recv_pooled(p));
    assert_eq!(errno(result), Some(libc::EINVAL));
    let multi = start_multi(&mut lp, state, 1, |(s, p)| s.recv_multi(p));
    assert_eq!(errno(multi.wait(&mut lp)), Some(libc::EINVAL));
}

fn a_pool_outlives_its_loop(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(1, 16).unwrap();
    lp = v.new_loop();
    let (ours, _peer) = pair();
    let (_, result) = complete(&mut lp, (ours, pool.clone()), |(s, p)| s.recv_pooled(p));
    assert_eq!(errno(result), Some(libc::EINVAL));
    assert_eq!(pool.available(), 1);
}

fn a_lease_outlives_its_pool_and_its_loop(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(2, 16).unwrap();
    let (one, mut two) = (lease_of(&mut lp, &pool), lease_of(&mut lp, &pool));
    drop(pool);
    drop(one);
    drop(lp);
    two[0] = b'y';
    assert_eq!(&two[..], b"y");
}

fn a_lease_can_be_written_to(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(1, 16).unwrap();
    let mut lease = lease_of(&mut lp, &pool);
    lease.make_ascii_uppercase();
    let (ours, peer) = pair();
    let (state, sent) = complete(&mut lp, (ours, lease), |(s, lease)| s.send_all(lease));
    assert_eq!(sent.unwrap(), 1);
    drop(state);
    assert_eq!(read_to_string(peer).unwrap(), "X");
    assert_eq!(pool.available(), 1);
}

fn sizes_out_of_range_are_refused(v: Variant) {
    let mut lp = v.new_loop();
    for (count, size) in [(0, 16), (1 << 15 | 1, 16), (usize::MAX, 16), (1, 0), (1, usize::MAX), (1, 1 << 31)]
    {
        assert_eq!(errno(lp.buf_pool(count, size)), Some(libc::EINVAL), "{count} of {size}");
    }
}

fn the_largest_number_of_buffers_works(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(1 << 15, 64).unwrap();
    assert_eq!(&lease_of(&mut lp, &pool)[..], b"x");
    // And one that is no power of two.
    let pool = lp.buf_pool(3, 64).unwrap();
    let held = [(); 3].map(|()| lease_of(&mut lp, &pool));
    assert_eq!(pool.available(), 0);
    drop(held);
    assert_eq!(pool.available(), 3);
}

fn pools_do_not_share_buffers(v: Variant) {
    let mut lp = v.new_loop();
    let (small, large) = (lp.buf_pool(1, 2).unwrap(), lp.buf_pool(1, 64).unwrap());
    let lease = lease_of(&mut lp, &small);
    assert_eq!((small.available(), large.available()), (0, 1));
    let (ours, mut peer) = pair();
    peer.write_all(b"abcdef").unwrap();
    let (_, received) = complete(&mut lp, (ours, large), |(s, p)| s.recv_pooled(p));
    assert_eq!(received.unwrap().len(), 6);
    drop(lease);
}

fn a_pool_that_is_not_in_use_gives_its_place_to_the_next(v: Variant) {
    let mut lp = v.new_loop();
    for round in 1..100 {
        let pool = lp.buf_pool(round, 16).unwrap();
        drop(lease_of(&mut lp, &pool));
    }
}

fn every_buffer_is_available_again_after_everything(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(3, 2).unwrap();
    for round in 0..60 {
        let (ours, mut peer) = pair();
        let ours = Rc::new(ours);
        let multi =
            start_multi(&mut lp, (Rc::clone(&ours), pool.clone()), 1 + round % 5, |(s, p)| s.recv_multi(p));
        peer.write_all(b"abcdefgh").unwrap();
        if round % 4 == 0 {
            lp.run(RunMode::NoWait).unwrap();
        }
        match round % 3 {
            0 => drop(peer),
            1 => _ = lp.cancel(multi.id),
            _ => _ = lp.reset(multi.id, MS),
        }
        while !multi.has_ended() {
            multi.items.take();
            lp.run(RunMode::Once).unwrap();
        }
        drop(multi);
        assert_eq!(pool.available(), 3, "round {round}");
    }
    // They are, truly: each can be used.
    let held = [(); 3].map(|()| lease_of(&mut lp, &pool));
    assert_eq!(pool.available(), 0);
    drop(held);
}

fn a_receive_longer_than_a_buffer_is_split(v: Variant) {
    let mut lp = v.new_loop();
    let pool = lp.buf_pool(1, 3).unwrap();
    let (ours, mut peer) = pair();
    peer.write_all(b"abcd").unwrap();
    let (state, lease) = complete(&mut lp, (ours, pool), |(s, p)| s.recv_pooled(p));
    assert_eq!(&lease.unwrap()[..], b"abc");
    assert_eq!(&complete(&mut lp, state, |(s, p)| s.recv_pooled(p)).1.unwrap()[..], b"d");
}

/// Linux 6.1 would go on where the earlier pool's ring stopped, if it had the same number.
fn a_pool_in_the_place_of_another_lends_no_buffer_twice(v: Variant) {
    let mut lp = v.new_loop();
    let receive = |lp: &mut Loop, pool: &BufPool, byte: &[u8]| {
        let (ours, mut peer) = pair();
        peer.write_all(byte).unwrap();
        (start(lp, (ours, pool.clone()), |(s, p)| s.recv_pooled(p)), peer)
    };
    let old = lp.buf_pool(4, 1).unwrap();
    drop([(); 4].map(|()| lease_of(&mut lp, &old)));
    drop(old);
    let pool = lp.buf_pool(2, 1).unwrap();
    let lent = [b"1", b"2"].map(|byte| receive(&mut lp, &pool, byte).0.wait(&mut lp).1.unwrap());
    let (third, _peer) = receive(&mut lp, &pool, b"3");
    lp.run_for(2 * MS).unwrap();
    assert!(!third.is_done());
    assert_eq!((&lent[0][..], &lent[1][..]), (&b"1"[..], &b"2"[..]));
    drop(lent);
    assert_eq!(&third.wait(&mut lp).1.unwrap()[..], b"3");
}
