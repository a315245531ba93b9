//! What the type system forbids: each file of `compile_fail/` is a program that would be unsound if it
//! compiled.
//!
//! The messages are compared with those of the compiler version below; on others the test says so and does
//! nothing. To write them anew: `TRYBUILD=overwrite cargo test --test compile_fail`. (What is not `Send` is
//! shown in another way: that message lists the loop's insides.)

use std::process::Command;
use std::rc::Rc;

use oxev::{BufPool, Completion, IoVecs, Lease, Loop, LoopHandle, Notifier, OpId, Pool, Pooled, Shared};

const WRITTEN_WITH: &str = "rustc 1.95.";

#[test]
fn unsound_programs_do_not_compile() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().expect("the compiler runs").stdout;
    if !version.starts_with(WRITTEN_WITH.as_bytes()) {
        return eprintln!("skipped: the messages are those of {WRITTEN_WITH}*");
    }
    let programs = trybuild::TestCases::new();
    // With a program that compiles, all are built and not only checked, which finds what generic code
    // asserts.
    programs.pass("tests/compile_fail/pass/*.rs");
    programs.compile_fail("tests/compile_fail/*.rs");
}

/// `T` is not `Send`: if it were, two implementations would fit, and this would not compile.
trait NotSend<Ambiguous> {
    fn check() {}
}
impl<T: ?Sized> NotSend<()> for T {}
impl<T: Send + ?Sized> NotSend<u8> for T {}

/// The same for `Sync`.
trait NotSync<Ambiguous> {
    fn check() {}
}
impl<T: ?Sized> NotSync<()> for T {}
impl<T: Sync + ?Sized> NotSync<u8> for T {}

fn is_send_and_sync<T: Send + Sync>() {}

#[test]
fn a_loop_and_what_belongs_to_it_stay_on_their_thread_and_handles_do_not() {
    <Loop as NotSend<_>>::check();
    <Loop as NotSync<_>>::check();
    <Pool<u8> as NotSend<_>>::check();
    <Pool<u8> as NotSync<_>>::check();
    <Pooled<u8> as NotSend<_>>::check();
    <Shared<u8> as NotSend<_>>::check();
    <Shared<u8> as NotSync<_>>::check();
    <BufPool as NotSend<_>>::check();
    <BufPool as NotSync<_>>::check();
    <Lease as NotSend<_>>::check();
    <Completion<Rc<u8>> as NotSend<_>>::check();
    <Completion<Rc<u8>> as NotSync<_>>::check();
    <oxev::Op<'_, usize> as NotSend<_>>::check();
    is_send_and_sync::<LoopHandle>();
    is_send_and_sync::<Notifier>();
    is_send_and_sync::<OpId>();
    is_send_and_sync::<IoVecs<2>>();
    is_send_and_sync::<Completion<[u8; 8]>>();
}
