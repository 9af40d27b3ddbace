//! What lanes have put out and the next stage had no room for. It waits outside of both queues, each lane's in its order.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::runtime::lanes::{Entry, LaneId};
use crate::runtime::queue::Weigh;
use crate::runtime::sync::{Mutex, MutexGuard, lock};

#[derive(Debug)]
pub(super) struct Leftovers<T> {
    of_lanes: Mutex<HashMap<LaneId, VecDeque<Entry<T>>>>,
    /// How many lanes have some, for who only asks whether any has.
    count: AtomicUsize,
}

impl<T> Default for Leftovers<T> {
    fn default() -> Self {
        Self { of_lanes: Mutex::new(HashMap::new()), count: AtomicUsize::new(0) }
    }
}

impl<T: Weigh> Leftovers<T> {
    /// Lanes that have some.
    pub(super) fn lanes(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Keeps what came back, in front of what its lane has from before, and adds to `parked` whose it is.
    pub(super) fn keep(&self, refused: &mut Vec<Entry<T>>, parked: &mut Vec<LaneId>) {
        let mut of_lanes = lock(&self.of_lanes);
        for entry in refused.drain(..).rev() {
            parked.push(entry.origin);
            of_lanes.entry(entry.origin).or_default().push_front(entry);
        }
        self.count_of(&of_lanes);
    }

    /// Takes up to so many segments of each of `lanes` to `out`, whole items. Lanes that have more are added to `unsettled`.
    pub(super) fn take_up(
        &self,
        lanes: &[LaneId],
        segments: i64,
        out: &mut Vec<Entry<T>>,
        unsettled: &mut Vec<LaneId>,
    ) {
        let mut of_lanes = lock(&self.of_lanes);
        for &lane in lanes {
            let Some(rest) = of_lanes.get_mut(&lane) else { continue };
            let mut left = segments;
            while left > 0
                && let Some(entry) = rest.pop_front()
            {
                left -= i64::from(entry.item.segments());
                out.push(entry);
            }
            if rest.is_empty() {
                of_lanes.remove(&lane);
            } else {
                unsettled.push(lane);
            }
        }
        self.count_of(&of_lanes);
    }

    /// All of a lane, whose owner has gone.
    pub(super) fn remove(&self, lane: LaneId) -> VecDeque<Entry<T>> {
        let mut of_lanes = lock(&self.of_lanes);
        let removed = of_lanes.remove(&lane).unwrap_or_default();
        self.count_of(&of_lanes);
        removed
    }

    /// What a lane has.
    #[cfg(all(test, not(feature = "model")))]
    pub(super) fn of(&self, lane: LaneId) -> usize {
        lock(&self.of_lanes).get(&lane).map_or(0, VecDeque::len)
    }

    fn count_of(&self, of_lanes: &MutexGuard<'_, HashMap<LaneId, VecDeque<Entry<T>>>>) {
        self.count.store(of_lanes.len(), Ordering::Relaxed);
    }
}
