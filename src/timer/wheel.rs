//! The hierarchical timing wheel (Varghese and Lauck, 1987, scheme 7) under every timer and deadline.
//!
//! Five levels of 1024 slots and one of 16; a slot of level *n* is 1024ⁿ ticks of 1.024 µs wide. An entry stands in the
//! level of the highest digit in which its deadline differs from the present, so insert, cancel and reset are
//! O(1), and an entry is moved to a lower level at most four times. The lists run through the in-flight table
//! by index: nothing is allocated. Each level has a bitmap of its occupied slots, so time jumps from event to
//! event.
//!
//! Order: a slot is a queue. A slot is spread over the level below when time enters it, before anything can
//! be put in that level directly, so entries of one deadline stay in the order in which they came.

use slab::Slab;

const LEVELS: usize = 6;
const SLOT_BITS: usize = 10;
const SLOTS: usize = 1 << SLOT_BITS;
const WORDS: usize = SLOTS / 64;
/// 1.024 µs.
const TICK_BITS: u32 = 10;
/// The last tick of a clock of 64 bits, after 584 years: what is due then or later is not due, ever.
const TICK_MAX: u64 = u64::MAX >> TICK_BITS;
/// The slots of all levels. The last one has as many as ticks need.
const SLOTS_ALL: usize = (LEVELS - 1) * SLOTS + (TICK_MAX >> ((LEVELS - 1) * SLOT_BITS)) as usize + 1;

/// The level of each bit of a tick.
const LEVEL_OF_BIT: [u8; 64] = {
    let mut levels = [0; 64];
    let mut bit = 0;
    while bit < 64 {
        levels[bit] = if bit / SLOT_BITS < LEVELS { (bit / SLOT_BITS) as u8 } else { LEVELS as u8 - 1 };
        bit += 1;
    }
    levels
};

/// Delays that wait for the reading of the clock that resolves them. It costs 30 ns, more than everything
/// else about a timer, so it is shared; but by so few that their entries are still in the cache.
const UNRESOLVED_MAX: usize = 64;

/// No entry.
pub(crate) const NIL: u32 = u32::MAX;

/// Where in the wheel an entry is linked: a slot, [`Place::NONE`] or [`Place::UNRESOLVED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u16);

impl Place {
    /// In no list.
    pub(crate) const NONE: Place = Place(u16::MAX);
    /// Among those that are never due.
    const NEVER: Place = Place(SLOTS_ALL as u16);
    /// Among the delays that have not been resolved against the clock.
    pub(crate) const UNRESOLVED: Place = Place(SLOTS_ALL as u16 + 1);

    fn new(level: usize, slot: usize) -> Place {
        Place((level * SLOTS + slot) as u16)
    }
}

/// What the wheel keeps in an entry of the table that its lists run through.
pub(crate) trait Timed {
    /// The deadline, or the delay while it is unresolved.
    fn deadline_ns(&self) -> u64;
    fn set_deadline_ns(&mut self, deadline_ns: u64);
    /// The neighbours in the list of its slot: the next, and the one before.
    fn neighbours(&self) -> (u32, u32);
    fn set_next(&mut self, next: u32);
    fn set_prev(&mut self, prev: u32);
    fn place(&self) -> Place;
    fn set_place(&mut self, place: Place);
}

/// The two ends of a list of entries.
#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

impl List {
    const EMPTY: List = List { head: NIL, tail: NIL };
}

/// Which slots of a level hold entries: one bit for each slot, and one for each word of those.
#[derive(Debug)]
struct Occupied {
    words: [u64; WORDS],
    summary: u16,
}

impl Occupied {
    const NONE: Occupied = Occupied { words: [0; WORDS], summary: 0 };

    fn set(&mut self, slot: usize) {
        self.words[slot / 64] |= 1 << (slot % 64);
        self.summary |= 1 << (slot / 64);
    }

    fn clear(&mut self, slot: usize) {
        self.words[slot / 64] &= !(1 << (slot % 64));
        if self.words[slot / 64] == 0 {
            self.summary &= !(1 << (slot / 64));
        }
    }

    /// The first occupied slot that is not before `from`.
    fn first_from(&self, from: usize) -> Option<usize> {
        let word = from / 64;
        let here = self.words[word] & (u64::MAX << (from % 64));
        if here != 0 {
            return Some(word * 64 + here.trailing_zeros() as usize);
        }
        let later = u32::from(self.summary) & (u32::MAX << (word + 1));
        if later == 0 {
            return None;
        }
        let word = later.trailing_zeros() as usize;
        Some(word * 64 + self.words[word].trailing_zeros() as usize)
    }
}

/// What [`Wheel::advance`] does after an entry's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// The entry was taken.
    Taken,
    /// There is no room: keep it and come back in the next step.
    Full,
}

#[derive(Debug)]
pub(crate) struct Wheel {
    /// A list for each slot, and that of [`Place::NEVER`].
    lists: Box<[List]>,
    occupied: [Occupied; LEVELS],
    now_tick: u64,
    /// Entries linked, unresolved ones included.
    len: usize,
    /// Entries whose delays have not been resolved against the clock, in the order in which they came;
    /// [`NIL`] where one was removed.
    unresolved: [u32; UNRESOLVED_MAX],
    unresolved_len: usize,
}

impl Wheel {
    pub(crate) fn new(now_ns: u64) -> Wheel {
        Wheel {
            lists: vec![List::EMPTY; SLOTS_ALL + 1].into_boxed_slice(),
            occupied: [Occupied::NONE; LEVELS],
            now_tick: now_ns >> TICK_BITS,
            len: 0,
            unresolved: [NIL; UNRESOLVED_MAX],
            unresolved_len: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn has_unresolved(&self) -> bool {
        self.unresolved_len > 0
    }

    /// Takes an entry whose `deadline_ns` holds a delay, to be resolved against a later reading of the clock.
    /// `true`: there is no room for another one before that.
    #[inline]
    pub(crate) fn insert_delay(&mut self, table: &mut Slab<impl Timed>, index: u32) -> bool {
        table[index as usize].set_place(Place::UNRESOLVED);
        self.unresolved[self.unresolved_len] = index;
        self.unresolved_len += 1;
        self.len += 1;
        self.unresolved_len == UNRESOLVED_MAX
    }

    /// Links an entry at its `deadline_ns`.
    #[inline]
    pub(crate) fn insert(&mut self, table: &mut Slab<impl Timed>, index: u32) {
        self.place(table, index);
        self.len += 1;
    }

    /// Turns the unresolved delays into deadlines that count from `now_ns`.
    pub(crate) fn resolve(&mut self, table: &mut Slab<impl Timed>, now_ns: u64) {
        for position in 0..std::mem::take(&mut self.unresolved_len) {
            let index = self.unresolved[position];
            if let Some(entry) = table.get_mut(index as usize) {
                entry.set_deadline_ns(entry.deadline_ns().saturating_add(now_ns));
                self.place(table, index);
            }
        }
    }

    #[cold]
    fn forget_unresolved(&mut self, index: u32) {
        let unresolved = &mut self.unresolved[..self.unresolved_len];
        let position = unresolved.iter().rposition(|&other| other == index);
        debug_assert!(position.is_some(), "an entry with this place is among them");
        if let Some(position) = position {
            unresolved[position] = NIL;
        }
    }

    /// Unlinks an entry from wherever it is.
    #[inline]
    pub(crate) fn remove(&mut self, table: &mut Slab<impl Timed>, index: u32) {
        let entry = &mut table[index as usize];
        let ((next, prev), place) = (entry.neighbours(), entry.place());
        debug_assert!(place != Place::NONE);
        entry.set_place(Place::NONE);
        self.len -= 1;
        if place == Place::UNRESOLVED {
            return self.forget_unresolved(index);
        }
        let list = &mut self.lists[place.0 as usize];
        if prev == NIL {
            list.head = next;
        } else {
            table[prev as usize].set_next(next);
        }
        if next == NIL {
            list.tail = prev;
        } else {
            table[next as usize].set_prev(prev);
        }
        if list.head == NIL {
            self.mark_empty(place);
        }
    }

    /// When the wheel has to be looked at next: a deadline, or the moment at which a slot has to be spread.
    /// `None` if nothing is due, ever.
    pub(crate) fn next_event_ns(&self) -> Option<u64> {
        debug_assert!(!self.has_unresolved());
        self.next_slot().map(|(_, _, tick)| tick << TICK_BITS)
    }

    /// Moves time to `now_ns` and hands over every entry whose deadline has come, in the order of their
    /// ticks.
    pub(crate) fn advance<E: Timed>(
        &mut self,
        table: &mut Slab<E>,
        now_ns: u64,
        mut expire: impl FnMut(&mut Slab<E>, u32) -> Expiry,
    ) {
        let target = now_ns >> TICK_BITS;
        while let Some((level, slot, tick)) = self.next_slot() {
            if tick > target {
                break;
            }
            self.now_tick = tick;
            let place = Place::new(level, slot);
            let List { head: mut next, tail } = self.take_list(place);
            while next != NIL {
                let index = next;
                let entry = &mut table[index as usize];
                (next, _) = entry.neighbours();
                if level > 0 {
                    self.place(table, index);
                    continue;
                }
                entry.set_place(Place::NONE);
                self.len -= 1;
                if expire(table, index) == Expiry::Full {
                    self.put_back(table, place, List { head: index, tail });
                    return;
                }
            }
        }
        self.now_tick = self.now_tick.max(target);
    }

    /// The first occupied slot in the order of time: level, slot, and the tick at which it begins.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        for (level, occupied) in self.occupied.iter().enumerate() {
            let shift = level * SLOT_BITS;
            let position = (self.now_tick >> shift) as usize % SLOTS;
            if let Some(slot) = occupied.first_from(position) {
                let rotation = self.now_tick >> shift >> SLOT_BITS << SLOT_BITS;
                return Some((level, slot, (rotation | slot as u64) << shift));
            }
        }
        None
    }

    /// Links an entry in the slot of its deadline, rounded up to a tick so that it is never early.
    #[inline(always)]
    fn place(&mut self, table: &mut Slab<impl Timed>, index: u32) {
        let deadline_ns = table[index as usize].deadline_ns();
        let tick = deadline_ns.div_ceil(1 << TICK_BITS);
        if tick >= TICK_MAX {
            return self.link(table, index, Place::NEVER);
        }
        let tick = tick.max(self.now_tick);
        let level = LEVEL_OF_BIT[(tick ^ self.now_tick | 1).ilog2() as usize] as usize;
        let slot = (tick >> (level * SLOT_BITS)) as usize % SLOTS;
        self.link(table, index, Place::new(level, slot));
    }

    #[inline(always)]
    fn link(&mut self, table: &mut Slab<impl Timed>, index: u32, place: Place) {
        let list = &mut self.lists[place.0 as usize];
        let tail = std::mem::replace(&mut list.tail, index);
        if tail == NIL {
            list.head = index;
            if place != Place::NEVER {
                self.occupied[place.0 as usize / SLOTS].set(place.0 as usize % SLOTS);
            }
        } else {
            table[tail as usize].set_next(index);
        }
        let entry = &mut table[index as usize];
        entry.set_prev(tail);
        entry.set_next(NIL);
        entry.set_place(place);
    }

    /// Links the rest of a list again that was taken from a slot; its first entry was unlinked already.
    fn put_back(&mut self, table: &mut Slab<impl Timed>, place: Place, rest: List) {
        let first = &mut table[rest.head as usize];
        first.set_prev(NIL);
        first.set_place(place);
        self.lists[place.0 as usize] = rest;
        self.occupied[place.0 as usize / SLOTS].set(place.0 as usize % SLOTS);
        self.len += 1;
    }

    fn take_list(&mut self, place: Place) -> List {
        self.mark_empty(place);
        std::mem::replace(&mut self.lists[place.0 as usize], List::EMPTY)
    }

    fn mark_empty(&mut self, place: Place) {
        if place == Place::NEVER {
            return;
        }
        self.occupied[place.0 as usize / SLOTS].clear(place.0 as usize % SLOTS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const TICK: u64 = 1 << TICK_BITS;

    /// An entry that is nothing but timed.
    struct Entry {
        deadline_ns: u64,
        next: u32,
        prev: u32,
        place: Place,
    }

    impl Entry {
        fn at(deadline_ns: u64) -> Entry {
            Entry { deadline_ns, next: NIL, prev: NIL, place: Place::NONE }
        }
    }

    impl Timed for Entry {
        fn deadline_ns(&self) -> u64 {
            self.deadline_ns
        }

        fn set_deadline_ns(&mut self, deadline_ns: u64) {
            self.deadline_ns = deadline_ns;
        }

        fn neighbours(&self) -> (u32, u32) {
            (self.next, self.prev)
        }

        fn set_next(&mut self, next: u32) {
            self.next = next;
        }

        fn set_prev(&mut self, prev: u32) {
            self.prev = prev;
        }

        fn place(&self) -> Place {
            self.place
        }

        fn set_place(&mut self, place: Place) {
            self.place = place;
        }
    }

    fn insert_at(wheel: &mut Wheel, table: &mut Slab<Entry>, deadline_ns: u64) -> u32 {
        let index = table.insert(Entry::at(deadline_ns)) as u32;
        wheel.insert(table, index);
        index
    }

    fn fired(wheel: &mut Wheel, table: &mut Slab<Entry>, now_ns: u64) -> Vec<u32> {
        let mut fired = Vec::new();
        wheel.advance(table, now_ns, |_, index| {
            fired.push(index);
            Expiry::Taken
        });
        fired
    }

    #[test]
    fn a_deadline_between_two_ticks_fires_at_the_later_one() {
        let (mut wheel, mut table) = (Wheel::new(0), Slab::new());
        let index = insert_at(&mut wheel, &mut table, TICK + 1);
        assert_eq!(fired(&mut wheel, &mut table, TICK + 1), []);
        assert_eq!(fired(&mut wheel, &mut table, 2 * TICK), [index]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_delay_that_was_removed_is_not_resolved_and_leaves_the_order_of_the_others() {
        let (mut wheel, mut table) = (Wheel::new(0), Slab::new());
        let delayed = |wheel: &mut Wheel, table: &mut Slab<Entry>| {
            let index = table.insert(Entry::at(TICK)) as u32;
            wheel.insert_delay(table, index);
            index
        };
        let (first, second) = (delayed(&mut wheel, &mut table), delayed(&mut wheel, &mut table));
        wheel.remove(&mut table, first);
        table.remove(first as usize);
        let third = delayed(&mut wheel, &mut table);
        assert_eq!(third, first, "the entry is used again");
        wheel.resolve(&mut table, 0);
        assert!(!wheel.has_unresolved());
        assert_eq!(fired(&mut wheel, &mut table, TICK), [second, third]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn equal_deadlines_fire_in_order_even_across_levels() {
        let (mut wheel, mut table) = (Wheel::new(0), Slab::new());
        let far = 5_000_000 * TICK;
        let first = insert_at(&mut wheel, &mut table, far);
        assert_eq!(fired(&mut wheel, &mut table, far - 3 * TICK), []);
        let second = insert_at(&mut wheel, &mut table, far);
        assert_eq!(fired(&mut wheel, &mut table, far), [first, second]);
    }

    #[test]
    fn the_longest_duration_is_held_and_can_be_removed() {
        let (mut wheel, mut table) = (Wheel::new(123_456), Slab::new());
        let index = insert_at(&mut wheel, &mut table, u64::MAX);
        assert_eq!(fired(&mut wheel, &mut table, 1 << 58), []);
        wheel.remove(&mut table, index);
        assert!(wheel.is_empty());
        assert_eq!(wheel.next_event_ns(), None);
    }

    #[test]
    fn a_deadline_at_the_end_of_the_clock_never_comes_and_those_before_it_do() {
        let last = (TICK_MAX - 1) << TICK_BITS;
        let (mut wheel, mut table) = (Wheel::new(0), Slab::new());
        let never = insert_at(&mut wheel, &mut table, u64::MAX);
        assert_eq!(wheel.next_event_ns(), None);
        // Beyond what five levels reach, and the last one that there is.
        for at in [1 << 62, last - TICK, last] {
            let index = insert_at(&mut wheel, &mut table, at);
            assert!(wheel.next_event_ns().is_some_and(|next| next <= at));
            assert_eq!(fired(&mut wheel, &mut table, at - 1), []);
            assert_eq!(fired(&mut wheel, &mut table, at), [index]);
        }
        // There, too, a deadline that has not come is not now.
        let also_never = insert_at(&mut wheel, &mut table, u64::MAX - 1);
        assert_eq!(fired(&mut wheel, &mut table, u64::MAX), []);
        for index in [never, also_never] {
            wheel.remove(&mut table, index);
        }
        assert!(wheel.is_empty());
    }

    #[test]
    fn an_expiry_without_room_keeps_the_rest_in_order() {
        let (mut wheel, mut table) = (Wheel::new(0), Slab::new());
        let all: Vec<u32> = (0..3).map(|_| insert_at(&mut wheel, &mut table, TICK)).collect();
        let mut taken = Vec::new();
        wheel.advance(&mut table, 9 * TICK, |_, index| {
            if taken.len() == 1 {
                return Expiry::Full;
            }
            taken.push(index);
            Expiry::Taken
        });
        taken.extend(fired(&mut wheel, &mut table, 9 * TICK));
        assert_eq!(taken, all);
    }

    proptest! {
        /// Against an ordered map: same entries, never early, in the order of ticks and then of insertion.
        #[test]
        fn it_agrees_with_an_ordered_map(
            start in 0u64..1 << 45,
            steps in prop::collection::vec((0u8..4, 0u64..1 << 44, 0usize..64), 1..200),
        ) {
            let (mut wheel, mut table) = (Wheel::new(start), Slab::new());
            let mut model: BTreeMap<(u64, usize), u32> = BTreeMap::new();
            let mut now = start;
            for (order, (action, amount, pick)) in steps.into_iter().enumerate() {
                let amount = amount >> (pick % 44);
                match action {
                    0 | 1 => {
                        let index = insert_at(&mut wheel, &mut table, now + amount);
                        let tick = (now + amount).div_ceil(TICK).max(now >> TICK_BITS);
                        model.insert((tick, order), index);
                    }
                    2 => if let Some((&key, &index)) = model.iter().nth(pick) {
                        wheel.remove(&mut table, index);
                        table.remove(index as usize);
                        model.remove(&key);
                    },
                    _ => {
                        now += amount;
                        let later = model.split_off(&((now >> TICK_BITS) + 1, 0));
                        let due: Vec<u32> = std::mem::replace(&mut model, later).into_values().collect();
                        prop_assert_eq!(fired(&mut wheel, &mut table, now), due.clone());
                        for index in due {
                            table.remove(index as usize);
                        }
                    }
                }
                let next = wheel.next_event_ns();
                match model.keys().next() {
                    None => prop_assert_eq!(next, None),
                    Some(&(tick, _)) => prop_assert!(next.unwrap() <= tick << TICK_BITS),
                }
            }
        }
    }
}
