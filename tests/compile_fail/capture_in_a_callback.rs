//! A callback is made again from its type alone: it has to be of size zero. This is found when the program is built.

use oxev::{Action, Completion, Loop, Multi, Timer};

fn main() {
    let mut lp = Loop::new().unwrap();
    let number = 7;
    lp.submit(
        Box::new(Completion::new(())),
        |_| oxev::nop(),
        move |_, _, _| println!("{number}"),
    );
    lp.submit_multi(
        Box::new(Completion::new(Multi::new((), ()))),
        |_| Timer::every(std::time::Duration::from_secs(1)),
        move |_, _, _| {
            println!("{number}");
            Action::Disarm
        },
        |_, _, _| (),
    );
    let _ = lp.handle().post(Box::new(Completion::new(())), move |_, _| println!("{number}"));
}
