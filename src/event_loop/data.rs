//! Data of a loop: one value of each type, which every callback can reach.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::rc::Rc;

use super::Loop;

/// The values of a loop, by their type. Programs keep a handful, so they are searched one by one.
#[derive(Default)]
pub(super) struct DataByType {
    values: Vec<(TypeId, Rc<dyn Any>)>,
}

impl DataByType {
    fn position<T: 'static>(&self) -> Option<usize> {
        let wanted = TypeId::of::<T>();
        self.values.iter().position(|(id, _)| *id == wanted)
    }
}

impl fmt::Debug for DataByType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataByType").field("values", &self.values.len()).finish()
    }
}

fn downcast<T: 'static>(value: Rc<dyn Any>) -> Rc<T> {
    value.downcast().expect("a value is kept under the id of its type")
}

/// # Data of the loop
///
/// State that many callbacks share (a configuration, counters, a cache, a table of connections) needs no `Rc` in
/// every owner: the loop keeps one value of each type, and each callback gets at it through the loop. A
/// library keeps its own under types that only the library can name. The values are dropped with the loop, after the
/// owners of what was in flight.
impl Loop {
    /// Keeps `value` as the loop's data of type `T`, and returns the value that was there before. A callback that
    /// holds the earlier value keeps it alive.
    ///
    /// This allocates once for each value. To change a value in place, keep it in a [`Cell`](std::cell::Cell) or
    /// [`RefCell`](std::cell::RefCell).
    ///
    /// ```
    /// use std::cell::Cell;
    /// use oxev::{Loop, RunMode, nop, own};
    ///
    /// struct Served(Cell<u64>);
    ///
    /// let mut lp = Loop::new()?;
    /// lp.set_data(Served(Cell::new(0)));
    /// for _ in 0..3 {
    ///     lp.submit(own(()), |_| nop(), |lp, _, _| {
    ///         let served = lp.data::<Served>();
    ///         served.0.set(served.0.get() + 1);
    ///     });
    /// }
    /// lp.run(RunMode::UntilDone)?;
    /// assert_eq!(lp.data::<Served>().0.get(), 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_data<T: 'static>(&mut self, value: T) -> Option<Rc<T>> {
        let value: Rc<dyn Any> = Rc::new(value);
        let values = &mut self.core.data;
        if let Some(index) = values.position::<T>() {
            return Some(downcast(std::mem::replace(&mut values.values[index].1, value)));
        }
        values.values.push((TypeId::of::<T>(), value));
        None
    }

    /// The loop's data of type `T`. The handle does not borrow the loop, so a callback can submit with it in its hands.
    /// It costs a comparison for each type that the loop keeps, and nothing is allocated.
    ///
    /// # Panics
    /// If the loop has none; [`Loop::try_data`] asks.
    #[must_use]
    #[track_caller]
    pub fn data<T: 'static>(&self) -> Rc<T> {
        match self.try_data() {
            Some(value) => value,
            None => panic!("the loop has no data of type `{}`: `set_data` comes first", type_name::<T>()),
        }
    }

    /// The loop's data of type `T`, if it has one.
    #[must_use]
    pub fn try_data<T: 'static>(&self) -> Option<Rc<T>> {
        let values = &self.core.data;
        let index = values.position::<T>()?;
        Some(downcast(Rc::clone(&values.values[index].1)))
    }

    /// Takes the loop's data of type `T` from it.
    pub fn remove_data<T: 'static>(&mut self) -> Option<Rc<T>> {
        let values = &mut self.core.data;
        let index = values.position::<T>()?;
        Some(downcast(values.values.swap_remove(index).1))
    }
}
