//! Data of the loop: one value of each type, within reach of every callback.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use oxev::{Action, Completion, Loop, Multi, RunMode, Timer, nop, own};

use crate::support::{CountedDrop, Counter, HOUR, MS};
use crate::variants::Variant;

conformance! {
    every_kind_of_callback_reaches_it,
    it_is_told_apart_by_its_type,
    a_handle_outlives_the_value_that_takes_its_place,
    it_is_dropped_with_the_loop_after_the_owners,
    what_is_not_there_is_missed_by_name,
}

#[derive(Default)]
struct Seen(Cell<usize>);

fn see(lp: &Loop) {
    let seen = lp.data::<Seen>();
    seen.0.set(seen.0.get() + 1);
}

fn every_kind_of_callback_reaches_it(v: Variant) {
    let mut lp = v.new_loop();
    lp.set_data(Seen::default());
    lp.submit(
        own(()),
        |_| nop(),
        |lp, _, _| {
            // The handle does not borrow the loop.
            let seen = lp.data::<Seen>();
            lp.submit(own(()), |_| nop(), |lp, _, _| see(lp));
            seen.0.set(seen.0.get() + 1);
        },
    );
    lp.submit_multi(
        Box::new(Completion::new(Multi::new((), ()))),
        |()| Timer::every(MS),
        |lp, (), _| {
            see(lp);
            Action::Disarm
        },
        |lp, _, _| see(lp),
    );
    lp.handle().post(own(()), |lp, _| see(lp)).unwrap();
    lp.handle().call(|lp| see(lp)).ok().unwrap();
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(lp.data::<Seen>().0.get(), 6);
}

fn it_is_told_apart_by_its_type(v: Variant) {
    #[derive(Debug, PartialEq)]
    struct Name(&'static str);
    let mut lp = v.new_loop();
    assert!(lp.set_data(Name("one")).is_none() && lp.set_data(7u8).is_none() && lp.set_data(7u16).is_none());
    assert_eq!(*lp.set_data(Name("two")).unwrap(), Name("one"));
    assert_eq!(*lp.remove_data::<u8>().unwrap(), 7);
    assert!(lp.try_data::<u8>().is_none() && lp.remove_data::<u8>().is_none());
    assert_eq!((lp.data::<Name>().0, *lp.data::<u16>()), ("two", 7));
}

fn a_handle_outlives_the_value_that_takes_its_place(v: Variant) {
    let (mut lp, drops) = (v.new_loop(), Counter::new());
    lp.set_data(drops.on_drop());
    let handle = lp.data::<CountedDrop>();
    lp.set_data(drops.on_drop());
    assert_eq!(drops.get(), 0);
    drop(handle);
    assert_eq!(drops.get(), 1);
    drop(lp);
    assert_eq!(drops.get(), 2);
}

fn it_is_dropped_with_the_loop_after_the_owners(v: Variant) {
    struct Says(&'static str, Rc<RefCell<Vec<&'static str>>>);
    impl Drop for Says {
        fn drop(&mut self) {
            self.1.borrow_mut().push(self.0);
        }
    }
    let (mut lp, said) = (v.new_loop(), Rc::default());
    lp.set_data(Says("data", Rc::clone(&said)));
    lp.submit(own(Says("owner", Rc::clone(&said))), |_| Timer::after(HOUR), |_, _, _| ());
    drop(lp);
    assert_eq!(*said.borrow(), ["owner", "data"]);
}

fn what_is_not_there_is_missed_by_name(v: Variant) {
    let lp = v.new_loop();
    let missed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lp.data::<Seen>())).err().unwrap();
    let message = missed.downcast::<String>().unwrap();
    assert!(message.contains("Seen") && message.contains("set_data"), "{message}");
}
