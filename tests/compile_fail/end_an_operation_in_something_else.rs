//! The message says what to do: the result of an operation is its type's.

use oxev::{Op, OpKind, RawOp};

fn nop() -> Op<'static, String> {
    // SAFETY: it does not compile.
    unsafe { Op::from_raw(RawOp::new(OpKind::Nop, -1)) }
}

fn main() {}
