//! Who waits for room in a stage's queue.

use std::collections::{HashSet, VecDeque};

use super::lanes::{LaneId, Limits};
use super::port::Upstream;
use super::queue::Load;

/// Lanes of upstream stages that wait for room, first come first. Each stands in it once at most, however many of its
/// items were refused, so there are never more than lanes.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    order: VecDeque<Waiter>,
    known: HashSet<(Upstream, LaneId)>,
    within_share: usize,
}

#[derive(Debug)]
struct Waiter {
    who: (Upstream, LaneId),
    is_within_share: bool,
}

impl Waiting {
    /// A lane waits, of a tether that has not got far more than others of late, or of one that has.
    pub(super) fn add(&mut self, upstream: Upstream, lane: LaneId, is_within_share: bool) {
        if self.known.insert((upstream, lane)) {
            self.order.push_back(Waiter { who: (upstream, lane), is_within_share });
            self.within_share += usize::from(is_within_share);
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// How many of them are of tethers that have not got far more than others.
    pub(super) fn within_share(&self) -> usize {
        self.within_share
    }

    /// Moves those into `resume` who may try again with a queue that holds `load`: one a segment of room, and one at least where
    /// nothing waits there any more, since such a queue takes any one item. Not all then: of a thousand, each would offer what
    /// it has and take it back, as often as a queue that is kept short runs empty.
    pub(super) fn let_in(&mut self, load: Load, limits: Limits, resume: &mut Vec<(Upstream, LaneId)>) {
        let room = limits.segments.saturating_sub(load.segments);
        self.first(room.max((load == Load::default()).into()), resume);
    }

    fn first(&mut self, count: u64, resume: &mut Vec<(Upstream, LaneId)>) {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.order.len());
        for Waiter { who, is_within_share } in self.order.drain(..count) {
            self.known.remove(&who);
            self.within_share -= usize::from(is_within_share);
            resume.push(who);
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
            waiting.add(Upstream(0), LaneId(lane), lane == 2);
        }
        assert_eq!((waiting.len(), waiting.within_share()), (3, 1));
        waiting.first(2, &mut resume);
        assert_eq!((waiting.len(), waiting.within_share()), (1, 1));
        waiting.add(Upstream(0), LaneId(3), false);
        waiting.first(u64::MAX, &mut resume);
        assert_eq!((waiting.len(), waiting.within_share()), (0, 0));
        assert_eq!(resume.iter().map(|(_, lane)| lane.0).collect::<Vec<_>>(), [3, 1, 2, 3]);
    }

    #[test]
    fn as_many_try_again_as_there_are_segments_of_room_and_one_where_the_queue_is_empty() {
        let load = |segments| Load { segments, held_bytes: 256 * segments };
        for (segments, limit, expected) in
            [(0, 25, 25), (5, 25, 20), (25, 25, 0), (30, 25, 0), (0, 0, 1), (0, 5_000, 1_000)]
        {
            let (mut waiting, mut resume) = (Waiting::default(), Vec::new());
            (0..1_000).for_each(|lane| waiting.add(Upstream(0), LaneId(lane), true));
            let limits = Limits { segments: limit, held_bytes: u64::MAX };
            waiting.let_in(load(segments), limits, &mut resume);
            assert_eq!((resume.len(), waiting.len()), (expected, 1_000 - expected), "{segments} of {limit}");
        }
    }
}
