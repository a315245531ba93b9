//! What is posted goes to the loop's thread, or is dropped there.

use oxev::{Completion, LoopHandle, Pool};
use std::rc::Rc;

fn post(handle: &LoopHandle, pool: &Pool<u8>) {
    let _ = handle.post(Box::new(Completion::new(Rc::new(1))), |_, _| ());
    let _ = handle.post(pool.insert(1).unwrap(), |_, _| ());
}

fn main() {}
