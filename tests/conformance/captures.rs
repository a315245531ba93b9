//! Callbacks that capture, at the price of an allocation.

use std::sync::mpsc;
use std::thread;

use oxev::{Action, Cause, Notifier, RunMode, ThreadPool, Timer, is_canceled, own};

use crate::support::sockets::loop_pair;
use crate::support::{Counter, HOUR, Log, MS};
use crate::variants::Variant;

conformance! {
    a_callback_gets_the_state_that_its_operation_borrowed_from,
    a_series_changes_what_its_callback_captured,
    a_dropped_loop_drops_what_was_captured,
    work_that_captures_gives_its_value,
    work_that_panics_or_is_withdrawn_gives_an_error,
    a_call_from_another_thread_runs_on_the_loop,
    a_call_comes_back_from_a_loop_that_is_gone,
    another_thread_cancels_by_the_id,
}

fn a_callback_gets_the_state_that_its_operation_borrowed_from(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    let (one, two) = loop_pair();
    let (sent, received) = (log.clone(), log.clone());
    lp.submit_with(
        (one, *b"capture"),
        |(stream, bytes)| stream.send_all(bytes),
        move |_, (_, bytes), count| sent.push((bytes.to_vec(), count.unwrap())),
    );
    lp.submit_with(
        (two, [0; 7]),
        |(stream, bytes)| stream.recv_exact(bytes),
        move |_, (_, bytes), count| {
            received.push((bytes.to_vec(), count.unwrap()));
        },
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), [(b"capture".to_vec(), 7), (b"capture".to_vec(), 7)]);
}

fn a_series_changes_what_its_callback_captured(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    let (mut ticks, end) = (0, log.clone());
    lp.submit_multi_with(
        "source",
        |_| Timer::every(MS),
        move |_, _| {
            ticks += 1;
            if ticks < 3 { Action::Rearm } else { Action::Disarm }
        },
        move |_, source, ended| end.push((source, ended.is_ok())),
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), [("source", true)]);
}

fn a_dropped_loop_drops_what_was_captured(v: Variant) {
    let (mut lp, drops, ran) = (v.new_loop(), Counter::new(), Counter::new());
    for _ in 0..3 {
        let (state, captured, ran) = (drops.on_drop(), drops.on_drop(), ran.clone());
        lp.submit_with(
            state,
            |_| Timer::after(HOUR),
            move |_, _, _| {
                drop(captured);
                ran.add();
            },
        );
    }
    let (in_item, in_end) = (drops.on_drop(), drops.on_drop());
    lp.submit_multi_with(
        drops.on_drop(),
        |_| Timer::every(HOUR),
        move |_, _| {
            let _ = &in_item;
            Action::Rearm
        },
        move |_, _, _| drop(in_end),
    );
    lp.run(RunMode::NoWait).unwrap();
    drop(lp);
    assert_eq!((drops.get(), ran.get()), (9, 0));
}

fn work_that_captures_gives_its_value(v: Variant) {
    let (mut lp, log, pool) = (v.new_loop(), Log::new(), ThreadPool::new());
    // What the callback captures is bound to this thread.
    let (text, values) = (String::from("four"), log.clone());
    lp.offload_with(&pool, move || text.len(), move |_, len| values.push(len.unwrap()));
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), [4]);
}

fn work_that_panics_or_is_withdrawn_gives_an_error(v: Variant) {
    let pool = ThreadPool::builder().max_threads(1).build().unwrap();
    let (mut lp, log, drops) = (v.new_loop(), Log::new(), Counter::new());
    let panicked = log.clone();
    lp.offload_with(
        &pool,
        || -> usize { std::panic::resume_unwind(Box::new("no value")) },
        move |_, value| panicked.push(value.unwrap_err().kind()),
    );
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), [std::io::ErrorKind::Other]);

    // In a simulated world the work is done at once.
    if v.name().starts_with("sim") {
        return;
    }
    let (release, released) = mpsc::channel::<()>();
    lp.offload_with(&pool, move || released.recv().is_err(), |_, done| assert!(done.unwrap()));
    let (withdrawn, captured) = (log.clone(), drops.on_drop());
    let id = lp.offload_with(
        &pool,
        || unreachable!("a withdrawn function runs"),
        move |_, value: Result<(), _>| {
            withdrawn.push(value.unwrap_err().kind());
            drop(captured);
        },
    );
    assert!(lp.cancel(id));
    drop(release);
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!((log.len(), drops.get()), (1, 1));
}

fn a_call_from_another_thread_runs_on_the_loop(v: Variant) {
    let mut lp = v.new_loop();
    let log: Log<i32> = Log::new();
    lp.set_data(log.clone());
    lp.submit(own(Notifier::new()), |n| n.wait(), |_, _, _| ());
    let handle = lp.handle();
    let calls = move || {
        for number in 0..10 {
            handle.call(move |lp| lp.data::<Log<i32>>().push(number)).ok().unwrap();
        }
        handle.call(|lp| lp.stop()).ok().unwrap();
    };
    if v.name().starts_with("sim") {
        calls()
    } else {
        thread::spawn(calls).join().unwrap()
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.take(), (0..10).collect::<Vec<_>>());
}

fn a_call_comes_back_from_a_loop_that_is_gone(v: Variant) {
    let lp = v.new_loop();
    let handle = lp.handle();
    let text = String::from("captured");
    let (dropped, pending) = (lp.handle(), mpsc::channel::<()>());
    let (sender, receiver) = pending;
    dropped.call(move |_| drop(sender)).ok().unwrap();
    drop(lp);
    assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    let (told, tells) = mpsc::channel();
    let refused = handle.call(move |_| told.send(text).unwrap()).err().unwrap();
    refused(&mut v.new_loop());
    assert_eq!(tells.recv().unwrap(), "captured");
}

fn another_thread_cancels_by_the_id(v: Variant) {
    let (mut lp, log) = (v.new_loop(), Log::new());
    let ended = log.clone();
    let id = lp.submit_with(
        (),
        |()| Timer::after(HOUR),
        move |_, (), fired| {
            let error = fired.unwrap_err();
            assert!(is_canceled(&error) && Cause::of(&error) == Some(Cause::Canceled));
            ended.push(());
        },
    );
    let handle = lp.handle();
    let cancel = move || handle.cancel(id);
    assert!(if v.name().starts_with("sim") { cancel() } else { thread::spawn(cancel).join().unwrap() });
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(log.len(), 1);
    let handle = lp.handle();
    drop(lp);
    assert!(!handle.cancel(id));
}
