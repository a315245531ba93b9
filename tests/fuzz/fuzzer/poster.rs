//! Another thread, which posts to loops and notifies them.

use std::sync::mpsc::{Sender, channel};
use std::thread;

type Task = Box<dyn FnOnce() + Send>;

#[derive(Clone)]
pub(crate) struct PosterThread {
    tasks: Sender<Task>,
    /// It may not have done all that it was sent.
    busy: bool,
}

impl PosterThread {
    pub(crate) fn new() -> PosterThread {
        let (sender, receiver) = channel::<Task>();
        thread::spawn(move || receiver.into_iter().for_each(|task| task()));
        PosterThread { tasks: sender, busy: false }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    pub(crate) fn send(&mut self, task: impl FnOnce() + Send + 'static) {
        self.busy = true;
        self.tasks.send(Box::new(task)).expect("the poster lives as long as its customers");
    }

    /// Waits until everything that was sent is done. `false`: it was already.
    pub(crate) fn settle(&mut self) -> bool {
        if !self.busy {
            return false;
        }
        let (sender, receiver) = channel();
        self.send(move || _ = sender.send(()));
        receiver.recv().expect("as above");
        self.busy = false;
        true
    }
}
