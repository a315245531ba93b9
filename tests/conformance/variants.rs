//! The variants of the loop that every behaviour is checked on.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use oxev::{Builder, Loop};

use crate::common::is_refusal;
use crate::support::crowds::Place;

/// One way to build a loop.
#[derive(Clone, Copy)]
pub(crate) struct Variant {
    name: &'static str,
    make: fn() -> Builder,
}

/// Small enough that a test has its loops in no time, and large enough that it need not think of it.
const CAPACITY: usize = 512;
const ENTRIES: u32 = 128;

/// Nothing takes that long: an operation that is still waiting then waits without end.
const HUNG_AFTER: Duration = Duration::from_secs(60);

impl Variant {
    /// A builder for loops of this variant.
    pub(crate) fn builder(self) -> Builder {
        (self.make)().capacity(CAPACITY).entries(ENTRIES)
    }

    /// A loop of this variant.
    pub(crate) fn new_loop(self) -> Box<Loop> {
        self.builder().build().expect("the variant was there a moment ago")
    }

    /// As in the names of its tests.
    pub(crate) fn name(self) -> &'static str {
        self.name
    }

    /// A thread that makes loops of this variant.
    pub(crate) fn spawn<R: Send + 'static>(
        self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> thread::JoinHandle<R> {
        thread::spawn(move || run(self, work))
    }

    fn is_missing(self) -> Option<io::Error> {
        self.builder().build().err().filter(is_refusal)
    }
}

#[cfg(not(feature = "sim"))]
fn run<R>(_: Variant, body: impl FnOnce() -> R) -> R {
    body()
}

#[cfg(feature = "sim")]
fn run<R>(variant: Variant, body: impl FnOnce() -> R) -> R {
    if variant.name.starts_with("sim") { crate::simulated::run(variant.make, body) } else { body() }
}

/// Runs one body on one variant; fails if it panics or hangs.
pub(crate) fn check(name: &'static str, make: fn() -> Builder, body: fn(Variant)) {
    let variant = Variant { name, make };
    let _place = Place::take();
    if let Some(why) = variant.is_missing() {
        return eprintln!("not run: this machine has no {}: {why}", variant.name);
    }
    let (done, is_done) = mpsc::channel::<()>();
    let test = thread::Builder::new().name(name.into()).spawn(move || {
        let _done = done;
        run(variant, || body(variant));
    });
    let test = test.expect("a thread for the test");
    match is_done.recv_timeout(HUNG_AFTER) {
        Err(RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => test.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

/// Makes a test of each body on each variant. **The list of variants is here**: a name, and how to make a
/// builder.
///
/// A body that is about the real world, and says why, is ignored by the simulated variants: `#[needs_kernel =
/// "why"] body,`.
macro_rules! conformance {
    ($($(#[needs_kernel = $why:literal])? $body:ident,)*) => {
        conformance! { @each [$([$($why)?] $body)*]
            io_uring: || oxev::Loop::builder().backend(oxev::Kind::IoUring),
            epoll: || oxev::Loop::builder().backend(oxev::Kind::Epoll),
            epoll_baseline: || oxev::Loop::builder().backend(oxev::Kind::Epoll).baseline(true),
            poll: || oxev::Loop::builder().backend(oxev::Kind::Poll),
            poll_baseline: || oxev::Loop::builder().backend(oxev::Kind::Poll).baseline(true),
            io_uring_baseline: || oxev::Loop::builder().backend(oxev::Kind::IoUring).baseline(true),
        }
        #[cfg(kqueue_emulation)]
        conformance! { @one kqueue, || oxev::Loop::builder().backend(oxev::Kind::Kqueue), [$($body)*] }
        #[cfg(feature = "sim")]
        conformance! { @one sim, crate::simulated::builder, [$($(#[ignore = $why])? $body)*] }
        #[cfg(feature = "sim")]
        conformance! { @one sim_faulty, crate::simulated::faulty_builder, [$($(#[ignore = $why])? $body)*] }
    };
    (@each [$([$($why:literal)?] $body:ident)*] $($variant:ident: $make:expr,)*) => {
        conformance! { @those [$($body)*] $($variant: $make,)* }
    };
    (@those $bodies:tt $($variant:ident: $make:expr,)*) => {
        $(conformance! { @one $variant, $make, $bodies })*
    };
    (@one $variant:ident, $make:expr, [$($(#[ignore = $why:literal])? $body:ident)*]) => {
        mod $variant {
            $(#[test]
            $(#[ignore = $why])?
            fn $body() {
                crate::variants::check(stringify!($variant), $make, super::$body);
            })*
        }
    };
}

conformance! {
    the_variant_builds_or_is_missing_for_a_reason,
}

fn the_variant_builds_or_is_missing_for_a_reason(variant: Variant) {
    assert!(variant.new_loop().is_empty());
}

/// A machine on which nothing runs would pass every test.
#[cfg(any(feature = "io_uring", feature = "epoll"))]
#[test]
fn the_best_backend_of_this_machine_is_tested() {
    let best = Loop::new().expect("no backend works here").backend();
    assert!(oxev::Kind::COMPILED.contains(&best));
}
