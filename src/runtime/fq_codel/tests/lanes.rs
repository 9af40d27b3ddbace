//! FQ-CoDel as the queue of lanes, under their bounds.

use super::*;
use crate::runtime::lanes::{Batch, Entry, HandOver, LaneId, Lanes, Limits, Outcome, Quota};

const QUOTA: Quota = Quota { segments: 64, lane_bytes: 65_536 };

struct World {
    lanes: Lanes<FqCodel<Item>>,
    now: Instant,
    shed: Shed<Item>,
    refused: Vec<Entry<Item>>,
}

impl World {
    fn new(segments: u64) -> Self {
        let limits = Limits { segments, held_bytes: 1 << 30 };
        Self { lanes: Lanes::new(3, limits), now: Instant::now(), shed: Shed::default(), refused: Vec::new() }
    }

    fn offer(&mut self, lane: u32, items: impl IntoIterator<Item = Item>) {
        let lane = LaneId(lane);
        let mut offered = items.into_iter().map(|item| Entry { origin: lane, lane, item }).collect();
        let mut entered = Batch::default();
        self.lanes.offer(self.now, HandOver::Queue, &mut offered, &mut entered, &mut self.refused, &mut self.shed);
        assert!(entered.is_empty());
    }

    /// The next batch, and `allowance_bytes` for what follows it.
    fn take(&mut self, quota: Quota, allowance_bytes: Option<u64>) -> Vec<Entry<Item>> {
        let mut batch = Batch::default();
        self.lanes.take(self.now, quota, 1, &mut batch, &mut self.shed);
        for lane in batch.lanes {
            self.lanes.done(lane, Outcome { allowance_bytes, ..Outcome::default() });
        }
        batch.items
    }

    fn overlimit(&self) -> Vec<(u64, u32)> {
        let overlimit = self.shed.dropped.iter().filter(|(law, _)| *law == Law::Overlimit);
        overlimit.map(|(_, item)| (item.flow, item.number)).collect()
    }
}

#[test]
fn a_newcomer_to_a_full_lane_is_let_in_for_the_head_of_the_flow_that_holds_most() {
    let mut world = World::new(20);
    world.offer(0, (0..10).map(|number| item(1, number, 1_400)));
    assert!(world.shed.dropped.is_empty(), "half of the queue is one lane's");
    world.offer(0, [item(2, 0, 100)]);
    assert_eq!((world.overlimit(), world.refused.len()), ((0..5).map(|number| (1, number)).collect(), 0));
    assert_eq!(world.lanes.load().segments, 6);
    let left: Vec<_> = world.take(QUOTA, None).iter().map(|entry| (entry.item.flow, entry.item.number)).collect();
    assert_eq!(left, [(1, 5), (1, 6), (2, 0), (1, 7), (1, 8), (1, 9)]);
    assert!(world.lanes.is_quiet());
}

#[test]
fn a_lane_gives_up_nothing_for_what_would_not_fit_into_it_when_empty() {
    let mut world = World::new(20);
    world.offer(1, (0..10).map(|number| item(1, number, 1_400)));
    world.offer(0, [item(2, 0, 100)]);
    world.offer(0, [Item { segments: 11, ..item(3, 0, 15_000) }]);
    assert_eq!((world.shed.dropped.len(), world.refused.len(), world.lanes.load().segments), (0, 1, 11));
}

#[test]
fn a_lane_is_relieved_of_its_own_and_the_others_keep_theirs() {
    let mut world = World::new(30);
    world.offer(1, (0..10).map(|number| item(1, number, 1_400)));
    for number in 0..100 {
        world.offer(0, [item(2, number, 1_400)]);
    }
    assert!(world.refused.is_empty() && world.overlimit().iter().all(|(flow, _)| *flow == 2));
    let kept = world.lanes.load().segments;
    assert_eq!(kept + world.shed.dropped.len() as u64, 110);
    assert_eq!(
        world.take(Quota { segments: 1_000, ..QUOTA }, None).iter().filter(|entry| entry.lane.0 == 1).count(),
        10
    );
}
