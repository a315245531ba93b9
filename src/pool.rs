//! Fixed-capacity memory for completions: [`Pool`], [`Pooled`] and [`Shared`].

#![allow(unsafe_code)]

use std::alloc::{self, Layout};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::completion::{Completion, Header, Owner};

/// A fixed number of slots for [`Completion<T>`], allocated once, so that a program needs no heap after
/// start-up, new connections included.
///
/// The handle is cheap to clone; the memory lives until the last handle and the last slot are gone. A pool
/// belongs to one thread.
///
/// ```
/// use oxev::{Loop, Pool, RunMode};
///
/// let mut lp = Loop::new()?;
/// let pool = Pool::new(2);
/// let slot = pool.insert(7).unwrap();
/// lp.submit(slot, |_| oxev::nop(), |_, slot, done| {
///     done.unwrap();
///     assert_eq!(**slot, 7);
/// }); // the callback drops the slot: it is free again
/// lp.run(RunMode::UntilDone)?;
/// assert_eq!(pool.available(), 2);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Pool<T> {
    slots: NonNull<Slots<T>>,
    owns: PhantomData<Slots<T>>,
}

/// The head of the allocation; the slots follow it.
struct Slots<T> {
    /// Handles and slots in use.
    references: Cell<usize>,
    capacity: usize,
    available: Cell<usize>,
    /// The first free slot that has been used before.
    free: Cell<Option<NonNull<Slot<T>>>>,
    /// Slots from here on have never been used, nor touched.
    untouched: Cell<usize>,
}

#[repr(C)]
struct Slot<T> {
    /// First, so that the completion's address is the slot's.
    completion: Completion<T>,
    own: OfSlot<T>,
}

/// What a slot needs for itself; valid also while it has no state.
struct OfSlot<T> {
    pool: NonNull<Slots<T>>,
    next_free: Cell<Option<NonNull<Slot<T>>>>,
    /// Handles of a [`Shared`].
    shares: Cell<usize>,
}

impl<T> Pool<T> {
    /// Allocates a pool of `capacity` slots.
    ///
    /// # Panics
    /// If the size in bytes exceeds `isize::MAX`.
    #[must_use]
    pub fn new(capacity: usize) -> Pool<T> {
        let (layout, _) = Pool::<T>::layout(capacity);
        // SAFETY: S8: the layout holds at least the head, so its size is not zero.
        let memory = unsafe { alloc::alloc(layout) };
        let Some(slots) = NonNull::new(memory.cast::<Slots<T>>()) else { alloc::handle_alloc_error(layout) };
        let head = Slots {
            references: Cell::new(1),
            capacity,
            available: Cell::new(capacity),
            free: Cell::new(None),
            untouched: Cell::new(0),
        };
        // SAFETY: S12: fresh memory, large enough and aligned for the head.
        unsafe { slots.write(head) };
        Pool { slots, owns: PhantomData }
    }

    fn layout(capacity: usize) -> (Layout, usize) {
        let slots = Layout::array::<Slot<T>>(capacity);
        let whole = slots.and_then(|slots| Layout::new::<Slots<T>>().extend(slots));
        whole.expect("the pool's size exceeds the address space")
    }

    fn slots(&self) -> &Slots<T> {
        // SAFETY: S12: the handle counts in `references`, so the memory is there.
        unsafe { self.slots.as_ref() }
    }

    /// How many slots there are.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slots().capacity
    }

    /// How many slots are free.
    #[must_use]
    pub fn available(&self) -> usize {
        self.slots().available.get()
    }

    /// Puts `state` into a free slot.
    ///
    /// # Errors
    /// The state comes back if no slot is free.
    pub fn insert(&self, state: T) -> Result<Pooled<T>, T> {
        let Some(free) = self.take_free() else { return Err(state) };
        // SAFETY: S12: the slot is ours, and has no state.
        unsafe { free.state_place().write(state) };
        Ok(free.into_pooled())
    }

    /// Puts what `make` returns into a free slot. `None`, without a call of `make`, if no slot is free.
    ///
    /// This is for large states: what `make` builds is copied once, into the slot, where [`Pool::insert`] moves it from
    /// call to call over the stack.
    ///
    /// ```
    /// let pool = oxev::Pool::new(1);
    /// let buffer = pool.insert_with(|| [0u8; 65_536]).unwrap();
    /// assert_eq!(buffer.len(), 65_536);
    /// assert!(pool.insert_with(|| unreachable!()).is_none());
    /// ```
    pub fn insert_with(&self, make: impl FnOnce() -> T) -> Option<Pooled<T>> {
        let free = self.take_free()?;
        let place = free.state_place();
        // SAFETY: S12: the slot is ours, and has no state.
        unsafe { place.write(make()) };
        Some(free.into_pooled())
    }

    /// Takes a slot off the free ones, or one that has never been used.
    fn take_free(&self) -> Option<FreeSlot<T>> {
        let slots = self.slots();
        let slot = if let Some(slot) = slots.free.get() {
            // SAFETY: S12: a slot on the free list is ours. Its header is as inert as a new one.
            let next = unsafe { OfSlot::of(slot) }.next_free.get();
            slots.free.set(next);
            slot
        } else if slots.untouched.get() < slots.capacity {
            let index = slots.untouched.replace(slots.untouched.get() + 1);
            let (_, offset) = Pool::<T>::layout(slots.capacity);
            // SAFETY: S12: the slots begin at `offset` of the allocation.
            let first = unsafe { self.slots.byte_add(offset) }.cast::<Slot<T>>();
            // SAFETY: S12: `index` is less than the capacity.
            let slot = unsafe { first.add(index) };
            // SAFETY: S12: memory of a slot that was never used.
            unsafe { Slot::begin(slot, self.slots) };
            slot
        } else {
            return None;
        };
        slots.available.set(slots.available.get() - 1);
        slots.references.set(slots.references.get() + 1);
        Some(FreeSlot(slot))
    }

    /// Puts `state` into a free slot, as a reference-counted value: for what several owners use together, as
    /// the socket of a connection that receives and sends at once.
    ///
    /// ```
    /// let pool = oxev::Pool::new(1);
    /// let one = pool.share(String::from("socket")).unwrap();
    /// let two = one.clone();
    /// drop(one);
    /// assert_eq!(*two, "socket");
    /// assert_eq!(pool.available(), 0);
    /// drop(two);
    /// assert_eq!(pool.available(), 1);
    /// ```
    ///
    /// # Errors
    /// The state comes back if no slot is free.
    pub fn share(&self, state: T) -> Result<Shared<T>, T> {
        let pooled = std::mem::ManuallyDrop::new(self.insert(state)?);
        // SAFETY: S12: the slot is in use, by us.
        unsafe { pooled.slot.as_ref() }.own.shares.set(1);
        Ok(Shared { slot: pooled.slot, owns: PhantomData })
    }
}

impl<T> Slots<T> {
    /// Gives one reference back, and the memory with the last.
    ///
    /// # Safety
    /// `this` is live, and the caller's reference counts in it.
    unsafe fn release(this: NonNull<Slots<T>>) {
        // SAFETY: S12: the caller's reference keeps it alive.
        let slots = unsafe { this.as_ref() };
        slots.references.set(slots.references.get() - 1);
        if slots.references.get() > 0 {
            return;
        }
        let (layout, _) = Pool::<T>::layout(slots.capacity);
        // SAFETY: S12: nothing refers to it any more, and every slot's state has been dropped.
        unsafe { alloc::dealloc(this.as_ptr().cast(), layout) };
    }

    /// Drops the state in a slot and frees the slot.
    ///
    /// # Safety
    /// `slot` is in use, and the caller is its only user.
    unsafe fn free(slot: NonNull<Slot<T>>) {
        // The slot is freed even if the drop of the state panics.
        let free = FreeSlot(slot);
        // SAFETY: S12: the caller is the only user of a slot in use.
        unsafe { free.state_place().drop_in_place() };
    }
}

impl<T> Slot<T> {
    /// Writes all of a slot but its state.
    ///
    /// # Safety
    /// `this` is the memory of a slot that was never used, of the pool at `pool`.
    unsafe fn begin(this: NonNull<Slot<T>>, pool: NonNull<Slots<T>>) {
        // SAFETY: S12: the caller's promise.
        let header = unsafe { &raw mut (*this.as_ptr()).completion.header };
        // SAFETY: S12: as above.
        unsafe { header.write(Header::new()) };
        // SAFETY: S12: as above.
        let own = unsafe { &raw mut (*this.as_ptr()).own };
        // SAFETY: S12: as above.
        unsafe { own.write(OfSlot { pool, next_free: Cell::new(None), shares: Cell::new(0) }) };
    }
}

impl<T> OfSlot<T> {
    /// A slot's own fields, without a reference to its state.
    ///
    /// # Safety
    /// The slot has been [begun](Slot::begin), and its memory stays for `'a`.
    unsafe fn of<'a>(slot: NonNull<Slot<T>>) -> &'a OfSlot<T> {
        // SAFETY: S12: the caller's promise.
        unsafe { &(*slot.as_ptr()).own }
    }
}

/// A slot in use that has no state; free again when this is dropped.
struct FreeSlot<T>(NonNull<Slot<T>>);

impl<T> FreeSlot<T> {
    fn state_place(&self) -> *mut T {
        // SAFETY: S12: the memory of a slot in use is there.
        unsafe { Completion::<T>::state_place(self.0.cast()) }
    }

    /// The slot has a state now.
    fn into_pooled(self) -> Pooled<T> {
        Pooled { slot: std::mem::ManuallyDrop::new(self).0, owns: PhantomData }
    }
}

impl<T> Drop for FreeSlot<T> {
    fn drop(&mut self) {
        // SAFETY: S12: the slot has been begun, and its memory is there.
        let OfSlot { pool, next_free, .. } = unsafe { OfSlot::of(self.0) };
        // SAFETY: S12: a slot in use counts as a reference.
        let slots = unsafe { pool.as_ref() };
        next_free.set(slots.free.replace(Some(self.0)));
        slots.available.set(slots.available.get() + 1);
        // SAFETY: S12: that reference is given up.
        unsafe { Slots::release(*pool) };
    }
}

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Pool<T> {
        let slots = self.slots();
        slots.references.set(slots.references.get() + 1);
        Pool { slots: self.slots, owns: PhantomData }
    }
}

impl<T> Drop for Pool<T> {
    fn drop(&mut self) {
        // SAFETY: S12: a handle counts as a reference.
        unsafe { Slots::release(self.slots) };
    }
}

impl<T> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("capacity", &self.capacity())
            .field("available", &self.available())
            .finish()
    }
}

/// A slot of a [`Pool`] with a [`Completion<T>`] in it; freed when it is dropped.
pub struct Pooled<T> {
    slot: NonNull<Slot<T>>,
    owns: PhantomData<Slot<T>>,
}

impl<T> Pooled<T> {
    /// Takes the state out and frees the slot.
    ///
    /// ```
    /// let pool = oxev::Pool::new(1);
    /// let slot = pool.insert(String::from("state")).unwrap();
    /// assert_eq!(slot.into_inner(), "state");
    /// assert_eq!(pool.available(), 1);
    /// ```
    #[must_use]
    pub fn into_inner(self) -> T {
        let slot = FreeSlot(std::mem::ManuallyDrop::new(self).slot);
        // SAFETY: S12: the slot was in use by this handle alone, and has no state from here on.
        unsafe { slot.state_place().read() }
    }
}

impl<T> Deref for Pooled<T> {
    type Target = Completion<T>;
    fn deref(&self) -> &Completion<T> {
        // SAFETY: S12: the slot is in use, by us alone.
        unsafe { &self.slot.as_ref().completion }
    }
}

impl<T> DerefMut for Pooled<T> {
    fn deref_mut(&mut self) -> &mut Completion<T> {
        // SAFETY: S12: as above.
        unsafe { &mut self.slot.as_mut().completion }
    }
}

impl<T> Drop for Pooled<T> {
    fn drop(&mut self) {
        // SAFETY: S12: as above.
        unsafe { Slots::free(self.slot) };
    }
}

impl<T: fmt::Debug> fmt::Debug for Pooled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pooled").field(&self.state).finish()
    }
}

// SAFETY: S4: a slot does not move, and is ours alone until it is dropped; its pool lives as long as the slot
// is in use.
unsafe impl<T: 'static> Owner for Pooled<T> {
    type State = T;

    fn into_raw(self) -> NonNull<Completion<T>> {
        std::mem::ManuallyDrop::new(self).slot.cast()
    }

    unsafe fn from_raw(raw: NonNull<Completion<T>>) -> Pooled<T> {
        Pooled { slot: raw.cast(), owns: PhantomData }
    }
}

/// A reference-counted value in a slot of a [`Pool`]: an `Rc` without the heap. Made by [`Pool::share`].
pub struct Shared<T> {
    slot: NonNull<Slot<T>>,
    owns: PhantomData<Slot<T>>,
}

impl<T> Shared<T> {
    fn slot(&self) -> &Slot<T> {
        // SAFETY: S12: the slot is in use as long as there is a share.
        unsafe { self.slot.as_ref() }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.slot().completion
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        let shares = &self.slot().own.shares;
        // Forgotten clones cannot make the count wrap: it would take 2^64 of them.
        shares.set(shares.get() + 1);
        Shared { slot: self.slot, owns: PhantomData }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let shares = &self.slot().own.shares;
        shares.set(shares.get() - 1);
        if shares.get() == 0 {
            // SAFETY: S12: this was the last share.
            unsafe { Slots::free(self.slot) };
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_reused_and_a_full_pool_hands_the_state_back() {
        let pool = Pool::new(2);
        let (one, two) = (pool.insert(1).unwrap(), pool.insert(2).unwrap());
        assert_eq!(pool.insert(3).unwrap_err(), 3);
        let place = one.slot;
        drop(one);
        assert_eq!(pool.insert(4).unwrap().slot, place);
        assert_eq!(**two, 2);
    }

    #[test]
    fn slots_outlive_the_handles_of_their_pool() {
        let pool = Pool::new(1);
        let slot = pool.insert(String::from("alive")).unwrap();
        drop(pool);
        assert_eq!(**slot, "alive");
    }

    #[test]
    fn a_slot_whose_state_panics_in_drop_is_freed() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("bomb");
            }
        }
        let pool = Pool::new(1);
        let slot = pool.insert(Bomb).map_err(std::mem::forget).unwrap();
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(slot))).is_err());
        assert_eq!(pool.available(), 1);
    }

    #[test]
    fn a_slot_whose_state_was_taken_or_never_made_is_free() {
        let pool = Pool::new(1);
        assert_eq!(pool.insert(String::from("one")).unwrap().into_inner(), "one");
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.insert_with(|| panic!("no state"))
        }));
        assert!(made.is_err());
        assert_eq!(pool.available(), 1);
        // While a state is made its slot is taken.
        let one = pool.insert_with(|| pool.insert(String::from("two")).unwrap_err()).unwrap();
        assert_eq!((one.as_str(), pool.available()), ("two", 0));
    }

    #[test]
    fn a_state_as_large_as_a_third_of_the_stack_is_made_in_its_slot() {
        const BYTES: usize = 4 << 20;
        let made = std::thread::Builder::new().stack_size(3 * BYTES).spawn(|| {
            let pool = Pool::new(1);
            pool.insert_with(|| [7u8; BYTES]).map(|slot| slot[BYTES - 1])
        });
        assert_eq!(made.unwrap().join().unwrap(), Some(7));
    }

    #[test]
    fn a_pool_of_nothing_is_always_full() {
        assert!(Pool::new(0).insert(()).is_err());
    }
}
