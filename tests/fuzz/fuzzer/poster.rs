//! Another thread, which posts to loops and notifies them.

use std::sync::mpsc::{Sender, channel};
use std::thread;

type Task = Box<dyn FnOnce() + Send>;

#[derive(Clone)]
pub(crate) struct PosterThread(Sender<Task>);

impl PosterThread {
    pub(crate) fn new() -> PosterThread {
        let (sender, receiver) = channel::<Task>();
        thread::spawn(move || receiver.into_iter().for_each(|task| task()));
        PosterThread(sender)
    }

    pub(crate) fn send(&self, task: impl FnOnce() + Send + 'static) {
        self.0.send(Box::new(task)).expect("the poster lives as long as its customers");
    }

    /// Waits until everything that was sent is done.
    pub(crate) fn settle(&self) {
        let (sender, receiver) = channel();
        self.send(move || _ = sender.send(()));
        receiver.recv().expect("as above");
    }
}
