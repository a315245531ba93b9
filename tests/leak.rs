//! What is said of operations that did not end when their loop was dropped. Each test runs again in a process
//! of its own, whose standard error is looked at.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use oxev::{Completion, File, Loop, RunMode, ThreadPool, Timer};

mod common;

const IN_A_PROCESS: &str = "OXEV_TEST_IN_A_PROCESS";
const HOUR: Duration = Duration::from_secs(3600);

/// Runs `body` in a process that runs this test alone, and gives what that wrote to its standard error, or to
/// the one that it was given.
fn in_a_process(test: &str, stderr: Stdio, body: impl FnOnce()) -> Option<String> {
    if std::env::var_os(IN_A_PROCESS).is_some() {
        body();
        return None;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(IN_A_PROCESS, "")
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn();
    let output = child.unwrap().wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Some(String::from_utf8(output.stderr).unwrap())
}

/// Begins work that lasts longer than the loop, and drops the loop.
fn drop_under_work(mut lp: Box<Loop>) {
    let pool = ThreadPool::new();
    let (begun, is_begun) = mpsc::channel::<()>();
    let (go, may_go) = mpsc::channel::<()>();
    let work = |(begun, may_go): &mut (mpsc::Sender<()>, mpsc::Receiver<()>)| {
        begun.send(()).unwrap();
        let _ = may_go.recv();
    };
    lp.offload(&pool, Box::new(Completion::new((begun, may_go))), work, |_, _, _| ());
    is_begun.recv().unwrap();
    let due = Rc::new(());
    let timer = Box::new(Completion::new(Rc::clone(&due)));
    lp.submit(timer, |_| Timer::after(HOUR), |_, _, _| unreachable!("the loop does not run"));
    drop(lp);
    assert_eq!(Rc::strong_count(&due), 1, "owners that nothing holds are dropped");
    drop(go);
}

fn impatient(kind: oxev::Kind) -> Box<Loop> {
    Loop::builder().backend(kind).drain_timeout(Duration::from_millis(20)).build().unwrap()
}

#[test]
fn work_that_outlives_its_loop_is_leaked_and_the_pool_is_named() {
    let said =
        in_a_process("work_that_outlives_its_loop_is_leaked_and_the_pool_is_named", Stdio::piped(), || {
            common::backends().into_iter().for_each(|kind| drop_under_work(impatient(kind)))
        });
    let Some(said) = said else { return };
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("oxev: ")).collect();
    assert_eq!(lines.len(), common::backends().len(), "{said}");
    for line in lines {
        assert!(line.ends_with("within 20ms when the loop was dropped; a thread pool has Offload"), "{line}");
    }
}

/// A read in a worker of the kernel, which takes a moment to be told that it is cancelled.
#[test]
fn a_read_that_is_not_waited_for_is_leaked_and_the_kernel_is_named() {
    let test = "a_read_that_is_not_waited_for_is_leaked_and_the_kernel_is_named";
    let said = in_a_process(test, Stdio::piped(), || {
        for kind in common::backends() {
            let mut lp = Loop::builder().backend(kind).drain_timeout(Duration::ZERO).build().unwrap();
            let (reader, writer) = std::io::pipe().unwrap();
            let file = File::from_std(std::fs::File::from(OwnedFd::from(reader)));
            lp.submit(Box::new(Completion::new((file, [0; 8]))), |s| s.0.read(&mut s.1), |_, _, _| ());
            lp.run(RunMode::NoWait).unwrap();
            drop(lp);
            std::mem::forget(writer);
        }
    });
    let Some(said) = said else { return };
    // Where readiness is waited for, every read ends at once.
    for line in said.lines().filter(|line| line.starts_with("oxev: ")) {
        assert!(
            line.contains("1 operation is leaked") && line.contains("; the kernel has Read on descriptor ")
        );
    }
}

#[test]
fn a_loop_can_be_dropped_where_standard_error_cannot_be_written() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    drop(reader);
    assert!(writer.write(b"x").is_err());
    let test = "a_loop_can_be_dropped_where_standard_error_cannot_be_written";
    in_a_process(test, Stdio::from(writer), || {
        for kind in common::backends() {
            let lp = impatient(kind);
            assert!(catch_unwind(AssertUnwindSafe(|| drop_under_work(lp))).is_ok(), "the drop panicked");
        }
    });
}
