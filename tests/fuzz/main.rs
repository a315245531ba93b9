//! What the fuzzer has found, each as a plain program and a claim; and a short run of the fuzzer itself.

#[path = "../common/mod.rs"]
mod common;
mod found;
mod fuzzer;

use std::time::{Duration, Instant};

use fuzzer::{Backend, Driver, Plan, Stats};

/// How long each backend is fuzzed. A minute and more: `cargo run --release --features sim --example fuzz -- --minutes 1`.
fn seconds() -> f64 {
    std::env::var("OXEV_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(2.0)
}

/// Programs whose descriptors are counted run one after the other, and nothing else does beside them: the plain tests above are in
/// a process of their own.
#[test]
fn random_programs_find_the_contract_kept() {
    if std::env::args().any(|argument| argument == "random_programs_find_the_contract_kept") {
        return fuzz_all();
    }
    let this = std::env::current_exe().unwrap();
    let name = "random_programs_find_the_contract_kept";
    let output = std::process::Command::new(this).args(["--exact", name, "--nocapture"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn fuzz_all() {
    let mut driver = Driver::new().unwrap();
    // A leak checker watches.
    driver.leaks = std::env::var_os("ASAN_OPTIONS").is_none();
    for backend in Backend::available() {
        let plan = Plan { backend, steps_max: 50, candidates: 2000 };
        let end = Instant::now() + Duration::from_secs_f64(seconds());
        let mut stats = Stats::default();
        for seed in (0..).take_while(|_| Instant::now() < end) {
            if let Err(failure) = fuzzer::check(&driver, plan, seed, &mut stats) {
                panic!("{failure}");
            }
        }
    }
}
