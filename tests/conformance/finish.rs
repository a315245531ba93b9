//! How a server ends: it runs until it is stopped, then finishes what it has begun.

use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;

use oxev::{Action, Loop, Multi, Notifier, RunMode, TcpStream, Timer, is_canceled, own};

use crate::support::sockets::{assert_closed, connect, listener, pair};
use crate::support::{Counter, HOUR, Log, MS, errno, now, since};
use crate::variants::Variant;

conformance! {
    until_stop_goes_on_when_nothing_is_in_flight,
    until_stop_ends_by_a_stop_from_a_callback_or_before_it_runs,
    until_stop_fails_where_nothing_could_end_it,
    finish_accepts_no_more_and_lets_what_is_in_flight_end,
    finish_cancels_what_the_grace_period_was_too_short_for,
    finish_ends_background_operations_and_what_they_submit,
    finish_of_an_idle_loop_is_done_at_once,
    a_stop_ends_the_grace_period,
    callbacks_are_told_that_the_loop_finishes,
    finish_gives_up_on_what_submits_itself_again_without_end,
    finish_inside_a_callback_is_refused,
    a_panic_while_it_finishes_comes_through_and_the_loop_can_be_used_again,
}

const GRACE: Duration = Duration::from_millis(20);

fn until_stop_goes_on_when_nothing_is_in_flight(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::<i32>::new());
    lp.set_data(log.clone());
    let handle = lp.handle();
    let calls = move || {
        handle.call(|lp| lp.data::<Log<i32>>().push(1)).ok().unwrap();
        handle.call(|lp| lp.data::<Log<i32>>().push(2)).ok().unwrap();
        handle.call(|lp| lp.stop()).ok().unwrap();
        handle
    };
    let _handle = if v.name().starts_with("sim") { calls() } else { thread::spawn(calls).join().unwrap() };
    lp.run(RunMode::UntilStop).unwrap();
    assert_eq!(log.take(), [1, 2]);
}

fn until_stop_ends_by_a_stop_from_a_callback_or_before_it_runs(v: Variant) {
    let mut lp = v.new_loop();
    let other = lp.submit(own(()), |()| Timer::after(HOUR), |_, _, fired| assert!(fired.is_err()));
    lp.submit(
        own(()),
        |()| Timer::after(MS).background(),
        |lp, _, fired| {
            fired.unwrap();
            lp.stop();
        },
    );
    lp.run(RunMode::UntilStop).unwrap();
    assert_eq!(lp.len(), 1);
    lp.stop();
    lp.run(RunMode::UntilStop).unwrap();
    lp.cancel(other);
    lp.run(RunMode::UntilDone).unwrap();
}

fn until_stop_fails_where_nothing_could_end_it(v: Variant) {
    let (mut lp, fired) = (v.new_loop(), Counter::new());
    let counted = fired.clone();
    lp.submit_with((), |()| Timer::after(MS), move |_, (), _| counted.add());
    assert_eq!(errno(lp.run(RunMode::UntilStop)), Some(libc::EDEADLK));
    assert_eq!(fired.get(), 1);
    // A notifier could bring a wait to its end, if there were one.
    drop(lp.handle());
    assert_eq!(errno(lp.run(RunMode::UntilStop)), Some(libc::EDEADLK));
    lp.submit(
        own(Notifier::new()),
        |n| n.wait().timeout(MS),
        |lp, _, waited| {
            assert!(oxev::is_deadline(&waited.unwrap_err()));
            lp.stop();
        },
    );
    lp.run(RunMode::UntilStop).unwrap();
}

/// Accepts without end, and counts how that ends.
fn serve(lp: &mut Loop, ends: &Log<bool>) -> std::net::SocketAddr {
    let (listener, address) = listener();
    let ends = ends.clone();
    lp.submit_multi(
        own(Multi::new(listener, ())),
        |listener| listener.accept_multi(),
        |lp, (), stream| {
            let conn = own((stream, [0; 8]));
            lp.submit(
                conn,
                |(stream, bytes)| stream.recv_exact(bytes),
                |lp, conn, got| {
                    if got.is_ok() {
                        lp.submit(
                            conn,
                            |(stream, bytes)| stream.send_all(bytes),
                            |_, _, sent| _ = sent.unwrap(),
                        );
                    }
                },
            );
            Action::Rearm
        },
        |_, server, end| drop((server, end)),
    );
    let single = crate::support::sockets::listener().0;
    lp.submit_with(
        single,
        |listener| listener.accept(),
        move |_, _, accepted: io::Result<TcpStream>| {
            ends.push(is_canceled(&accepted.unwrap_err()));
        },
    );
    address
}

fn finish_accepts_no_more_and_lets_what_is_in_flight_end(v: Variant) {
    let (mut lp, ends) = (v.new_loop(), Log::new());
    let address = serve(&mut lp, &ends);
    let (peer, back) = (connect(address), Log::new());
    while lp.len() < 3 {
        lp.run(RunMode::Once).unwrap();
    }
    // The request comes while the loop finishes.
    let peers = back.clone();
    lp.submit_with(
        peer,
        |_| Timer::after(MS),
        move |_, mut peer, _| {
            peer.write_all(b"whole it").unwrap();
            peers.push(peer);
        },
    );
    assert_eq!(lp.finish(HOUR).unwrap(), 0);
    assert_eq!(ends.take(), [true]);
    assert!(lp.is_empty());
    let (mut peer, mut answer) = (back.take().pop().unwrap(), [0; 8]);
    peer.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"whole it");
    assert_closed(&mut peer);
}

fn finish_cancels_what_the_grace_period_was_too_short_for(v: Variant) {
    let (mut lp, ends) = (v.new_loop(), Log::new());
    let address = serve(&mut lp, &ends);
    let mut peers = [connect(address), connect(address)];
    while lp.len() < 4 {
        lp.run(RunMode::Once).unwrap();
    }
    let begin = now();
    assert_eq!(lp.finish(GRACE).unwrap(), 2);
    assert!(since(begin) >= GRACE);
    assert!(lp.is_empty());
    peers.iter_mut().for_each(assert_closed);
}

fn finish_ends_background_operations_and_what_they_submit(v: Variant) {
    let (mut lp, ended) = (v.new_loop(), Log::new());
    let (log, again) = (ended.clone(), ended.clone());
    lp.submit_with(
        (),
        |()| Timer::after(HOUR).background(),
        move |lp, (), fired| {
            log.push(is_canceled(&fired.unwrap_err()));
            lp.submit_with(
                (),
                |()| Timer::after(HOUR),
                move |_, (), fired| {
                    again.push(is_canceled(&fired.unwrap_err()));
                },
            );
        },
    );
    assert_eq!(lp.finish(HOUR).unwrap(), 2);
    assert_eq!(ended.take(), [true, true]);
}

fn finish_of_an_idle_loop_is_done_at_once(v: Variant) {
    let mut lp = v.new_loop();
    assert_eq!(lp.finish(HOUR).unwrap(), 0);
    assert_eq!(lp.finish(Duration::MAX).unwrap(), 0);
    assert!(!lp.is_finishing());
}

fn a_stop_ends_the_grace_period(v: Variant) {
    let (mut lp, ended) = (v.new_loop(), Counter::new());
    let count = ended.clone();
    lp.submit_with(
        (),
        |()| Timer::after(HOUR),
        move |_, (), fired| {
            assert!(is_canceled(&fired.unwrap_err()));
            count.add();
        },
    );
    lp.submit(own(()), |()| Timer::after(MS), |lp, _, _| lp.stop());
    assert_eq!(lp.finish(HOUR).unwrap(), 1);
    assert_eq!(ended.get(), 1);
}

fn callbacks_are_told_that_the_loop_finishes(v: Variant) {
    let (mut lp, told) = (v.new_loop(), Log::new());
    for _ in 0..2 {
        let log = told.clone();
        lp.submit_with((), |()| Timer::after(MS), move |lp, (), _| log.push(lp.is_finishing()));
        if told.is_empty() {
            lp.run(RunMode::UntilDone).unwrap();
        } else {
            lp.finish(HOUR).unwrap();
        }
    }
    assert_eq!(told.take(), [false, true]);
}

fn finish_gives_up_on_what_submits_itself_again_without_end(v: Variant) {
    fn again(lp: &mut Loop, owner: Box<oxev::Completion<()>>, _: io::Result<()>) {
        lp.submit(owner, |()| Timer::after(HOUR), again);
    }
    let mut lp = v.builder().drain_timeout(GRACE).build().unwrap();
    lp.submit(own(()), |()| Timer::after(HOUR), again);
    assert!(lp.finish(Duration::ZERO).unwrap() >= 1);
    assert_eq!(lp.len(), 1);
}

fn finish_inside_a_callback_is_refused(v: Variant) {
    let mut lp = v.new_loop();
    lp.submit(
        own(()),
        |()| Timer::after(MS),
        |lp, _, _| {
            assert_eq!(errno(lp.finish(HOUR)), Some(libc::EDEADLK));
            assert!(!lp.is_finishing());
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
}

fn a_panic_while_it_finishes_comes_through_and_the_loop_can_be_used_again(v: Variant) {
    let mut lp = v.new_loop();
    let (stream, _peer) = pair();
    lp.submit_with(stream, |_| Timer::after(MS), |_, _, _| std::panic::resume_unwind(Box::new("finish")));
    let finished = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lp.finish(HOUR)));
    assert!(finished.is_err() && !lp.is_finishing());
    assert_eq!(lp.finish(HOUR).unwrap(), 0);
}
