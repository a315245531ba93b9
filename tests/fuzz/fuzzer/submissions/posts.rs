//! What is posted to a loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oxev::{Completion, Loop, LoopHandle};

use super::super::model::{model, report};
use super::super::program::Then;
use super::super::world::world;
use super::{address_of, check_nothing_moved, then};

/// What is posted.
pub(crate) struct PostState {
    pub(crate) number: usize,
    pub(super) then: Then,
    pub(super) gone: Arc<AtomicUsize>,
}

impl Drop for PostState {
    fn drop(&mut self) {
        self.gone.fetch_add(1, Ordering::Release);
    }
}

/// A post to a loop's place, and how to send it.
pub(crate) fn new_post(on: usize, elsewhere: bool, then: Then) -> Box<Completion<PostState>> {
    let life = model(|m| m.loops[on].life);
    new_post_to(on, life, elsewhere, then)
}

fn new_post_to(on: usize, life: usize, elsewhere: bool, then: Then) -> Box<Completion<PostState>> {
    let number = model(|m| m.begin_post(on, life, elsewhere));
    let gone = world(|w| Arc::clone(&w.posts_gone));
    Box::new(Completion::new(PostState { number, then, gone }))
}

pub(crate) fn post(on: usize, then: Then) {
    let (handle, life) = (world(|w| w.handles[on].clone()), model(|m| m.loops[on].life));
    post_by(&handle, on, life, then);
}

/// Posts to a loop that may be gone.
pub(super) fn post_by(handle: &LoopHandle, on: usize, life: usize, then: Then) {
    let post = new_post_to(on, life, false, then);
    let lives = model(|m| m.is_alive(on, life));
    if handle.post(post, arrived).is_err() && lives {
        report("a loop that lives takes posts", format!("loop {on}"));
    }
}

pub(crate) fn arrived(lp: &mut Loop, post: Box<Completion<PostState>>) {
    let address = address_of(lp);
    let on = model(|m| m.post_arrived(post.number, address));
    check_nothing_moved(lp, "post");
    let what = post.then;
    drop(post);
    then(lp, on, what);
}
