//! A set of lanes that many threads add to and one empties.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::runtime::lanes::LaneId;

/// A set of lanes below a bound: a bit each, so that thousands of lanes are looked through in a few cache lines.
#[derive(Debug)]
pub struct LaneSet {
    words: Box<[AtomicU64]>,
}

impl LaneSet {
    /// An empty set of lanes below `bound`.
    pub fn new(bound: u32) -> Self {
        Self { words: (0..bound.div_ceil(u64::BITS)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Adds `lane`. That it is there already costs a look.
    pub fn insert(&self, lane: LaneId) {
        let Some(word) = self.words.get((lane.0 / u64::BITS) as usize) else { return };
        let bit = 1 << (lane.0 % u64::BITS);
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::AcqRel);
        }
    }

    /// Takes out all lanes.
    pub fn drain(&self) -> impl Iterator<Item = LaneId> + '_ {
        let taken =
            |word: &AtomicU64| if word.load(Ordering::Relaxed) == 0 { 0 } else { word.swap(0, Ordering::AcqRel) };
        let words = self.words.iter().map(taken).zip((0..).step_by(u64::BITS as usize));
        words.flat_map(|(word, first)| {
            (0..u64::BITS).filter(move |bit| word >> bit & 1 == 1).map(move |bit| LaneId(first + bit))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_taken_out_once_and_what_is_out_of_bounds_is_not_there() {
        let set = LaneSet::new(130);
        for lane in [129, 0, 63, 64, 63, 500] {
            set.insert(LaneId(lane));
        }
        let taken = || set.drain().map(|lane| lane.0).collect::<Vec<_>>();
        assert_eq!(taken(), [0, 63, 64, 129]);
        assert_eq!(taken(), [0_u32; 0]);
        set.insert(LaneId(63));
        assert_eq!(taken(), [63]);
    }
}
