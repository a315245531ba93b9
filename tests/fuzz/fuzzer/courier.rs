//! Another thread, which posts to loops and notifies them.

use std::sync::mpsc::{Sender, channel};
use std::thread;

type Errand = Box<dyn FnOnce() + Send>;

#[derive(Clone)]
pub(crate) struct Courier(Sender<Errand>);

impl Courier {
    pub(crate) fn new() -> Courier {
        let (sender, receiver) = channel::<Errand>();
        thread::spawn(move || receiver.into_iter().for_each(|errand| errand()));
        Courier(sender)
    }

    pub(crate) fn send(&self, errand: impl FnOnce() + Send + 'static) {
        self.0.send(Box::new(errand)).expect("the courier lives as long as its customers");
    }

    /// Waits until everything that was sent is done.
    pub(crate) fn settle(&self) {
        let (sender, receiver) = channel();
        self.send(move || _ = sender.send(()));
        receiver.recv().expect("as above");
    }
}
