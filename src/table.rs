//! A table of what lives at a lane: links by their number, tethers by theirs. Each place has a lock of its own.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::runtime::lanes::LaneId;

/// Memory of one place, with its entry among the free ones.
pub const PLACE_BYTES: usize = size_of::<RwLock<Option<Arc<()>>>>() + size_of::<AtomicBool>() + size_of::<u32>();

/// A fixed number of places.
#[derive(Debug)]
pub struct Table<T> {
    places: Box<[RwLock<Option<Arc<T>>>]>,
    /// Where there is something, for who only asks that of each packet.
    are_taken: Box<[AtomicBool]>,
    free: Mutex<VecDeque<u32>>,
}

impl<T> Table<T> {
    /// `count` empty places.
    pub fn new(count: u32) -> Self {
        Self {
            places: (0..count).map(|_| RwLock::new(None)).collect(),
            are_taken: (0..count).map(|_| AtomicBool::new(false)).collect(),
            free: Mutex::new((0..count).collect()),
        }
    }

    /// How many places there are.
    pub fn capacity(&self) -> u32 {
        self.places.len() as u32
    }

    /// Reserves the place that was freed longest ago, so that what comes late for its last owner meets nobody. `None` when
    /// the table is full.
    pub fn reserve(&self) -> Option<LaneId> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop_front().map(LaneId)
    }

    /// Puts `value` at a reserved place.
    pub fn put(&self, lane: LaneId, value: Arc<T>) {
        if let Some(place) = self.places.get(lane.0 as usize) {
            let mut place = place.write().unwrap_or_else(PoisonError::into_inner);
            *place = Some(value);
            self.are_taken[lane.0 as usize].store(true, Ordering::Relaxed);
        }
    }

    /// Whether there is something at a place, now or a moment ago.
    pub fn is_taken(&self, lane: LaneId) -> bool {
        self.are_taken.get(lane.0 as usize).is_some_and(|is_taken| is_taken.load(Ordering::Relaxed))
    }

    /// What is at a place.
    pub fn get(&self, lane: LaneId) -> Option<Arc<T>> {
        self.places.get(lane.0 as usize)?.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes out what is at a place. The place stays reserved until [`Table::release`].
    pub fn take(&self, lane: LaneId) -> Option<Arc<T>> {
        let mut place = self.places.get(lane.0 as usize)?.write().unwrap_or_else(PoisonError::into_inner);
        self.are_taken[lane.0 as usize].store(false, Ordering::Relaxed);
        place.take()
    }

    /// Takes out `value` where it is still what is at a place. Of several who try one succeeds, and nobody takes what
    /// came to the place after it.
    pub fn take_this(&self, lane: LaneId, value: &Arc<T>) -> bool {
        let Some(place) = self.places.get(lane.0 as usize) else { return false };
        let mut place = place.write().unwrap_or_else(PoisonError::into_inner);
        let is_taken_out = place.take_if(|present| Arc::ptr_eq(present, value)).is_some();
        if is_taken_out {
            self.are_taken[lane.0 as usize].store(false, Ordering::Relaxed);
        }
        is_taken_out
    }

    /// Frees a place whose lanes have been cleared.
    pub fn release(&self, lane: LaneId) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push_back(lane.0);
    }

    /// All that there is.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.those(|_| true)
    }

    /// Those that are `meant`. Each is looked at where it is, with its place locked: where there are thousands, to count
    /// a reference up and down for each costs more than the look.
    pub fn those(&self, mut meant: impl FnMut(&T) -> bool) -> Vec<Arc<T>> {
        let there = self.places.iter().map(|place| place.read().unwrap_or_else(PoisonError::into_inner));
        there.filter_map(|place| place.as_ref().filter(|value| meant(value)).cloned()).collect()
    }

    /// How many places are taken or reserved.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether every place is free.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_reserves_again_only_after_a_release() {
        let table = Table::new(2);
        let (first, second) = (table.reserve().expect("free"), table.reserve().expect("free"));
        table.put(first, Arc::new("first"));
        table.put(second, Arc::new("second"));
        assert_eq!((table.reserve(), table.len(), table.all().len()), (None, 2, 2));
        assert!([first, second].iter().all(|lane| table.is_taken(*lane)) && !table.is_taken(LaneId(2)));
        assert_eq!(table.take(first).as_deref(), Some(&"first"));
        assert_eq!([first, second].map(|lane| table.is_taken(lane)), [false, true]);
        assert_eq!((table.get(first), table.reserve()), (None, None), "taken out, but not yet released");
        table.release(first);
        assert_eq!(table.reserve(), Some(first));
    }

    #[test]
    fn who_comes_late_does_not_take_the_next_owners_place() {
        let table = Table::new(1);
        let (lane, gone, next) = (table.reserve().expect("free"), Arc::new("gone"), Arc::new("next"));
        table.put(lane, Arc::clone(&gone));
        assert!(table.take_this(lane, &gone) && !table.take_this(lane, &gone), "once");
        table.put(lane, next);
        assert!(!table.take_this(lane, &gone));
        assert_eq!(table.get(lane).as_deref(), Some(&"next"));
    }
}
