//! Who finds room in a stage's queue, and how much there is.

use std::time::Duration;

use super::shares::Standing;
use super::{Entry, LaneId, Lanes, Limits};
use crate::runtime::queue::{Load, Queue, Shed, Weigh};

/// The part of a queue that is kept short into which a lane may still come that got far more than others.
const FAR_AHEAD_PART: u64 = 8;

/// Segments that were refused, or given up for their age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TurnedAway {
    /// All of them.
    pub segments: u64,
    /// Those of lanes that had not got far more than the others of late. A queue that is kept short has next to no room for
    /// one that has, and that is no sign that anybody else goes short.
    pub within_share: u64,
    /// The most of these that one lane lost. It may be such a one, of which that is not known yet, or beside which there are too
    /// few to tell.
    pub most_of_one: u64,
}

impl TurnedAway {
    /// What others than the one that lost most went without, within their share.
    pub fn of_others(&self) -> u64 {
        self.within_share - self.most_of_one
    }
}

impl<Q: Queue> Lanes<Q> {
    /// From now on this is the most that may wait. What waits above it stays, and nothing enters until it has gone.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Gives up of what waits above the limits, in the lanes that hold most, where their queues know what: `lanes_max` times.
    pub fn give_up_above(&mut self, lanes_max: usize, shed: &mut Shed<Q::Item>) {
        for _ in 0..lanes_max {
            if self.load.held_bytes <= self.limits.held_bytes && self.load.segments <= self.limits.segments {
                return;
            }
            let fattest = self.lanes.iter_mut().max_by_key(|lane| lane.queue.load().held_bytes);
            let Some(lane) = fattest else { return };
            let before = lane.queue.load();
            if !lane.queue.relieve(&mut self.shared, shed) {
                return;
            }
            let after = lane.queue.load();
            self.load -= before;
            self.load += after;
            self.backlogged -= usize::from(before != Load::default() && after == Load::default());
        }
    }

    /// From now on what has waited longer is given up when its turn comes. Lanes have turns, so it is those who hold
    /// much that lose: who holds little does not wait.
    pub fn set_wait_max(&mut self, wait_max: Option<Duration>) {
        self.wait_max = wait_max;
    }

    /// From now on so many segments above the limit are for lanes that got little of late, while the queue is kept short: what
    /// they bring is little, and is not to wait for room behind those that always have more.
    pub fn set_sparse_segments(&mut self, segments: u64) {
        self.sparse_segments = segments;
    }

    /// Segments that find room; none where the memory is used up.
    pub fn room(&self) -> u64 {
        let is_full = self.load.held_bytes >= self.limits.held_bytes;
        if is_full { 0 } else { self.limits.segments.saturating_sub(self.load.segments) }
    }

    /// The most that may wait.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What was turned away since this was asked last.
    pub fn take_turned_away(&mut self) -> TurnedAway {
        self.askings += 1;
        std::mem::take(&mut self.turned_away)
    }

    /// Counts so many segments that were turned away of a lane, in items of no more than `item_segments`.
    pub(super) fn turn_away(&mut self, id: LaneId, segments: u64, item_segments: u32) {
        let lane = &mut self.lanes[id.index()];
        self.turned_away.segments += segments;
        if segments == 0 || !self.shares.is_within(lane.share, item_segments.into()) {
            return;
        }
        let so_far = if lane.lost.0 == self.askings { lane.lost.1 } else { 0 };
        lane.lost = (self.askings, so_far + segments);
        self.turned_away.within_share += segments;
        self.turned_away.most_of_one = self.turned_away.most_of_one.max(lane.lost.1);
    }

    /// Whether the lane of `entry` has not got far more than the others of late.
    pub fn is_within_share(&self, entry: &Entry<Q::Item>) -> bool {
        self.lanes
            .get(entry.lane.index())
            .is_some_and(|lane| self.shares.is_within(lane.share, entry.item.segments().into()))
    }

    /// A lane may hold as much as is still free in the whole queue (dynamic thresholds, Choudhury and Hahne 1998): one
    /// busy lane gets half of the space, two a third each, and a newcomer always finds room. An empty lane takes any
    /// one item that fits, and an empty stage any one at all: an item larger than the queue would otherwise wait for
    /// ever.
    pub(super) fn has_room(&self, lane: LaneId, item: &Q::Item) -> bool {
        Q::COALESCES
            || self.would_fit(
                self.load,
                self.lanes[lane.index()].queue.load(),
                Load::of(item),
                self.limits_of(lane, item),
            )
    }

    /// The limits for a lane. A queue that is kept short may be shorter than there are lanes, and then it is chance, or the
    /// order in which they come, who finds room. So its last half is for those that got less than the mean of late: what
    /// comes of them between two looks of a source fits into it. And who got far more finds room where next to nothing
    /// waits: its packets are there at any time, and would be in front of all that come at once. Where what does not fit waits
    /// further up, nobody loses by that, and only sparse lanes have places of their own.
    fn limits_of(&self, lane: LaneId, item: &Q::Item) -> Limits {
        let (segments, share) = (self.limits.segments, self.lanes[lane.index()].share);
        let segments = match self.wait_max.map(|_| self.shares.standing(share, item.segments().into())) {
            None if self.sparse_segments > 0 && self.shares.is_sparse(share) => segments + self.sparse_segments,
            None | Some(Standing::Behind) => segments,
            Some(Standing::Ahead) => segments.div_ceil(2),
            Some(Standing::FarAhead) => segments.div_ceil(FAR_AHEAD_PART),
        };
        Limits { segments, ..self.limits }
    }

    /// Whether `new` fits into a lane that holds `mine`, of `all` that waits in the stage.
    fn would_fit(&self, all: Load, mine: Load, new: Load, limits: Limits) -> bool {
        if all == Load::default() {
            return true;
        }
        let is_first = mine == Load::default();
        let fits = |mine: u64, new: u64, held: u64, limit: u64| {
            let free = limit.saturating_sub(held);
            new <= free && (is_first || mine + new <= free)
        };
        fits(mine.segments, new.segments, all.segments, limits.segments)
            && fits(mine.held_bytes, new.held_bytes, all.held_bytes, limits.held_bytes)
    }

    /// Lets the lane's own queue give up what it will for `item`, until that fits. `false` where it does not come to
    /// that; nothing is given up where even all of it would not help.
    pub(super) fn make_room(&mut self, id: LaneId, item: &Q::Item, shed: &mut Shed<Q::Item>) -> bool {
        let mine = self.lanes[id.index()].queue.load();
        let mut others = self.load;
        others -= mine;
        if !self.would_fit(others, Load::default(), Load::of(item), self.limits) {
            return false;
        }
        while !self.has_room(id, item) {
            let lane = &mut self.lanes[id.index()];
            if !lane.queue.relieve(&mut self.shared, shed) {
                break;
            }
            self.load = others;
            self.load += lane.queue.load();
        }
        let left = self.lanes[id.index()].queue.load();
        self.backlogged -= usize::from(mine != Load::default() && left == Load::default());
        self.has_room(id, item)
    }
}
