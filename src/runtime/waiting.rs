//! Who waits for room in a stage's queue.

use std::collections::{HashSet, VecDeque};

use super::lanes::LaneId;
use super::port::Upstream;

/// Lanes of upstream stages that wait for room, first come first. Each stands in it once at most, however many of its
/// items were refused, so there are never more than lanes.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    order: VecDeque<(Upstream, LaneId)>,
    known: HashSet<(Upstream, LaneId)>,
}

impl Waiting {
    /// A lane waits.
    pub(super) fn add(&mut self, upstream: Upstream, lane: LaneId) {
        if self.known.insert((upstream, lane)) {
            self.order.push_back((upstream, lane));
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Moves the first `count` into `resume`.
    pub(super) fn first(&mut self, count: u64, resume: &mut Vec<(Upstream, LaneId)>) {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.order.len());
        for waiter in self.order.drain(..count) {
            self.known.remove(&waiter);
            resume.push(waiter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_waits_once_and_is_served_in_the_order_of_its_first_refusal() {
        let (mut waiting, mut resume) = (Waiting::default(), Vec::new());
        for lane in [3, 1, 3, 2, 1] {
            waiting.add(Upstream(0), LaneId(lane));
        }
        waiting.first(2, &mut resume);
        waiting.add(Upstream(0), LaneId(3));
        waiting.first(u64::MAX, &mut resume);
        assert_eq!(resume.iter().map(|(_, lane)| lane.0).collect::<Vec<_>>(), [3, 1, 2, 3]);
    }
}
