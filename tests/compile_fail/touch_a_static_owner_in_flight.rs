//! A static completion is lent for good: not even the callback's end gives the first name back.

use oxev::{Completion, Loop};

fn twice(lp: &mut Loop, owner: &'static mut Completion<u32>) {
    lp.submit(&mut *owner, |_| oxev::nop(), |_, _, _| ());
    **owner += 1;
}

fn main() {}
