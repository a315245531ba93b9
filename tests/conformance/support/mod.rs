//! What the bodies have in common: operations whose end is remembered, sockets, counted drops.

pub(crate) mod crowds;
pub(crate) mod hanging;
pub(crate) mod sockets;
pub(crate) mod surroundings;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use oxev::{Action, Completion, Loop, Multi, MultiOp, Op, OpId, Output, RunMode};

pub(crate) use surroundings::{now, since, spin};

/// Longer than any test runs.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const MS: Duration = Duration::from_millis(1);

/// A shared list that callbacks write to and the test reads.
pub(crate) struct Log<E>(Rc<RefCell<Vec<E>>>);

impl<E> Log<E> {
    pub(crate) fn new() -> Log<E> {
        Log(Rc::new(RefCell::new(Vec::new())))
    }

    pub(crate) fn push(&self, entry: E) {
        self.0.borrow_mut().push(entry);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was written since the last time.
    pub(crate) fn take(&self) -> Vec<E> {
        std::mem::take(&mut self.0.borrow_mut())
    }
}

impl<E> Clone for Log<E> {
    fn clone(&self) -> Log<E> {
        Log(Rc::clone(&self.0))
    }
}

/// Counts how often things happen; clones count together.
#[derive(Clone, Default)]
pub(crate) struct Counter(Rc<Cell<usize>>);

impl Counter {
    pub(crate) fn new() -> Counter {
        Counter::default()
    }

    pub(crate) fn add(&self) {
        self.0.set(self.0.get() + 1);
    }

    pub(crate) fn get(&self) -> usize {
        self.0.get()
    }

    /// Something that counts when it is dropped.
    pub(crate) fn on_drop(&self) -> CountedDrop {
        CountedDrop(self.clone())
    }
}

/// Counts its drop.
pub(crate) struct CountedDrop(Counter);

impl Drop for CountedDrop {
    fn drop(&mut self) {
        self.0.add();
    }
}

/// State that remembers its operation's end.
pub(crate) struct Kept<T, R> {
    state: Option<T>,
    end: End<T, R>,
    moved: Rc<Cell<u64>>,
}

type End<T, R> = Rc<RefCell<Option<(T, io::Result<R>)>>>;

/// An operation that was started, and its end.
pub(crate) struct Started<T, R> {
    pub(crate) id: OpId,
    end: End<T, R>,
    /// What the loop said, when the callback ran, of how much was moved.
    pub(crate) moved: Rc<Cell<u64>>,
}

impl<T: 'static, R: Output> Started<T, R> {
    pub(crate) fn is_done(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// The state and the result.
    pub(crate) fn take(self) -> (T, io::Result<R>) {
        self.end.take().expect("the callback has not run")
    }

    pub(crate) fn result(self) -> io::Result<R> {
        self.take().1
    }

    /// Runs the loop until the operation is done.
    pub(crate) fn wait(self, lp: &mut Loop) -> (T, io::Result<R>) {
        run_until(lp, || self.is_done());
        self.take()
    }
}

/// Starts an operation; its end is kept.
pub(crate) fn start<T, R, F>(lp: &mut Loop, state: T, prepare: F) -> Started<T, R>
where
    T: 'static,
    R: Output,
    F: for<'a> FnOnce(&'a mut T) -> Op<'a, R>,
{
    let (end, moved) = (End::default(), Rc::new(Cell::new(u64::MAX)));
    let kept = Kept { state: Some(state), end: Rc::clone(&end), moved: Rc::clone(&moved) };
    let id = lp.submit(
        Box::new(Completion::new(kept)),
        |kept| prepare(kept.state.as_mut().expect("it was put there above")),
        |lp, mut kept: Box<Completion<Kept<T, R>>>, result| {
            kept.moved.set(lp.moved());
            let state = kept.state.take().expect("the callback runs once");
            let before = kept.end.borrow_mut().replace((state, result));
            assert!(before.is_none(), "the callback ran twice");
        },
    );
    Started { id, end, moved }
}

/// Runs one operation to its end.
pub(crate) fn complete<T, R, F>(lp: &mut Loop, state: T, prepare: F) -> (T, io::Result<R>)
where
    T: 'static,
    R: Output,
    F: for<'a> FnOnce(&'a mut T) -> Op<'a, R>,
{
    start(lp, state, prepare).wait(lp)
}

/// The state of a multi-result operation whose items and end are kept.
pub(crate) struct KeptItems<R> {
    items: Log<R>,
    wanted: usize,
    end: Rc<RefCell<Option<io::Result<()>>>>,
}

/// A multi-result operation that was started, its items and its end.
pub(crate) struct StartedMulti<R> {
    pub(crate) id: OpId,
    pub(crate) items: Log<R>,
    end: Rc<RefCell<Option<io::Result<()>>>>,
}

impl<R> StartedMulti<R> {
    pub(crate) fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    pub(crate) fn end(&self) -> io::Result<()> {
        self.end.take().expect("the end callback has not run")
    }

    /// Runs the loop until the submission has ended.
    pub(crate) fn wait(&self, lp: &mut Loop) -> io::Result<()> {
        run_until(lp, || self.has_ended());
        self.end()
    }
}

/// Starts a multi-result operation that is disarmed when it has given `wanted` items; what has arrived by then
/// comes, too. The source is dropped at the end.
pub(crate) fn start_multi<S, R, F>(lp: &mut Loop, source: S, wanted: usize, prepare: F) -> StartedMulti<R>
where
    S: 'static,
    R: Output,
    F: for<'a> FnOnce(&'a mut S) -> MultiOp<'a, R>,
{
    let (items, end) = (Log::new(), Rc::default());
    let kept = KeptItems { items: items.clone(), wanted, end: Rc::clone(&end) };
    let id = lp.submit_multi(
        Box::new(Completion::new(Multi::new(source, kept))),
        prepare,
        |_, kept: &mut KeptItems<R>, item| {
            assert!(kept.end.borrow().is_none(), "an item after the end");
            kept.items.push(item);
            kept.wanted = kept.wanted.saturating_sub(1);
            if kept.wanted > 0 { Action::Rearm } else { Action::Disarm }
        },
        |_, owner, end| {
            let before = owner.state.end.borrow_mut().replace(end);
            assert!(before.is_none(), "the end callback ran twice");
        },
    );
    StartedMulti { id, items, end }
}

/// Runs the loop until `condition` holds.
pub(crate) fn run_until(lp: &mut Loop, condition: impl Fn() -> bool) {
    while !condition() {
        assert!(!lp.is_empty(), "nothing is in flight that could make the condition true");
        lp.run(RunMode::Once).unwrap();
    }
}

/// The errno of a failed result.
pub(crate) fn errno<R>(result: io::Result<R>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// Whether a result says that the operation was cancelled.
pub(crate) fn is_canceled<R>(result: &io::Result<R>) -> bool {
    result.as_ref().is_err_and(oxev::is_canceled)
}

/// Bytes that tell where they belong.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}
