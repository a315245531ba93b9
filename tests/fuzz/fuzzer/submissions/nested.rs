//! A loop that an owner has, with operations in flight: it is dropped wherever its owner is.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use oxev::{Completion, File, Loop, RunMode, Timer};

use super::super::model::report;
use super::super::world::World;

pub(super) struct NestedLoop {
    lp: Option<Box<Loop>>,
    /// Owners that are not dropped.
    owners: Rc<Cell<usize>>,
}

/// An owner of the small loop's.
struct Counted {
    file: Rc<File>,
    buf: [u8; 16],
    owners: Rc<Cell<usize>>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.owners.set(self.owners.get() - 1);
    }
}

impl NestedLoop {
    pub(super) fn new(world: &World, on: usize) -> Option<NestedLoop> {
        let mut lp = world.new_nested_loop(on).ok()?;
        let owners = Rc::new(Cell::new(0));
        let owner = || {
            owners.set(owners.get() + 1);
            let (file, owners) = (Rc::clone(&world.constant), Rc::clone(&owners));
            Box::new(Completion::new(Counted { file, buf: [0; 16], owners }))
        };
        lp.submit(owner(), |_| Timer::after(Duration::from_secs(3600)), |_, _, _| {});
        lp.submit(owner(), |c| c.file.read_at(&mut c.buf, 0), |_, _, _| {});
        // The first read is the kernel's or a worker's by then, the second one is not submitted to either.
        let begun = lp.run(RunMode::NoWait);
        lp.submit(owner(), |c| c.file.read_at(&mut c.buf, 8), |_, _, _| {});
        begun.ok()?;
        Some(NestedLoop { lp: Some(lp), owners })
    }
}

impl Drop for NestedLoop {
    fn drop(&mut self) {
        drop(self.lp.take());
        if self.owners.get() != 0 {
            report(
                "a loop that is dropped drops every owner",
                format!("{} of a small loop", self.owners.get()),
            );
        }
    }
}
