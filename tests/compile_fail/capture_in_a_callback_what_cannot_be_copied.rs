//! Nor can a callback that captures by reference, or something that is not `Copy`, be passed.

use oxev::{Completion, Loop};

fn main() {
    let mut lp = Loop::new().unwrap();
    let (name, mut count) = (String::from("name"), 0);
    lp.submit(Box::new(Completion::new(())), |_| oxev::nop(), move |_, _, _| println!("{name}"));
    lp.submit(Box::new(Completion::new(())), |_| oxev::nop(), |_, _, _| count += 1);
}
