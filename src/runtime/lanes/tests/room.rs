//! Lanes that wait for room in the next stage, and those that are left where they are meanwhile.

use std::hash::RandomState;

use super::*;
use crate::runtime::fq_codel::{FqCodel, OfFlow};
use crate::runtime::queue::Law;

const ONE: Quota = Quota { segments: 1, ..QUOTA };

/// Lanes 0 to 2 have something, and `count` of them wait for room.
fn with_parked(count: u32) -> Bench {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 10), (1, 11), (2, 12)]);
    for lane in 0..count {
        assert_eq!(bench.take_some(ONE).expect("work").lanes, ids(&[lane]));
        bench.done(lane, parked());
    }
    bench
}

#[test]
fn while_some_wait_for_room_and_there_is_none_only_who_is_resumed_has_a_turn() {
    let mut bench = with_parked(1);
    assert!(!bench.lanes.holds_back(|| 2), "a lane may have to wait for its own share where others find room");
    assert_eq!((bench.lanes.ready(), bench.lanes.ready_for_more(1)), (2, 2));
    assert!(bench.lanes.holds_back(|| 0));
    bench.queue(&[(3, 13)]);
    bench.lanes.poke(LaneId(2));
    assert_eq!((bench.lanes.ready(), bench.lanes.ready_for_more(0), bench.lanes.has_ready()), (0, 0, false));
    assert!(bench.take().is_none());
    assert!(!bench.lanes.is_quiet());
    bench.lanes.resume(LaneId(0));
    let batch = bench.take().expect("what it left over");
    assert_eq!((batch.settling, names(&batch.items), batch.others), (ids(&[0]), vec![], 3));
    // It did not fit this time either.
    bench.done(0, parked());
    assert!(bench.lanes.holds_back(|| 0) && bench.take().is_none());
    bench.lanes.resume(LaneId(0));
    bench.take().expect("what it left over");
    bench.done(0, Outcome::default());
    assert!(!bench.lanes.holds_back(|| 0), "nobody would tell when there is room");
    assert_eq!(names(&bench.take().expect("all of it").items), [11, 12, 13]);
}

#[test]
fn while_some_wait_for_room_as_many_others_have_a_turn_as_there_are_segments_of_room() {
    let mut bench = with_parked(1);
    bench.queue(&[(3, 13)]);
    assert!(!bench.lanes.holds_back(|| 2));
    assert_eq!(bench.take().expect("work").lanes, ids(&[1, 2]));
    bench.lanes.resume(LaneId(0));
    bench.take().expect("what it left over");
    bench.done(0, Outcome::default());
    bench.queue(&[(0, 20)]);
    assert_eq!(bench.take().expect("work").lanes, ids(&[3, 0]));
}

#[test]
fn where_nobody_waits_for_room_the_next_stage_is_not_asked() {
    let mut bench = with_parked(0);
    assert!(!bench.lanes.holds_back(|| unreachable!("a lock for each batch")));
}

#[test]
fn who_is_resumed_comes_before_all_others_in_order_and_shared_between_threads() {
    let mut bench = with_parked(2);
    bench.lanes.resume(LaneId(1));
    bench.lanes.resume(LaneId(0));
    assert_eq!(bench.lanes.ready(), 3);
    let mut take = || {
        let mut batch = Batch::default();
        let taken = bench.lanes.take(bench.now, QUOTA, 2, &mut batch, &mut Shed::default()).expect("work");
        (batch.settling, batch.lanes, batch.others, taken.behind)
    };
    assert_eq!(take(), (ids(&[1]), vec![], 2, true));
    assert_eq!(take(), (ids(&[0]), vec![], 1, true));
    assert_eq!(take(), (vec![], ids(&[2]), 0, false));
}

#[test]
fn a_queue_that_is_full_by_memory_has_no_room_for_a_segment() {
    let mut bench = Bench::new(100);
    bench.lanes.set_limits(Limits { segments: 100, held_bytes: 600 });
    // Of 200 bytes each.
    let mut room_after = |lane| {
        bench.queue(&[(lane, 0)]);
        bench.lanes.room()
    };
    assert_eq!([0, 1, 2].map(&mut room_after), [99, 98, 0]);
    assert_eq!(bench.names_refused(), [] as [u32; 0]);
}

/// Lane 0 waits for room, lanes 1 and 2 got their part in the while before, and lane 3 nothing.
fn with_a_sparse_lane() -> Bench {
    let mut bench = with_parked(1);
    [1, 2].into_iter().for_each(|lane| bench.lanes.count(bench.now, LaneId(lane), 500));
    bench.now += Duration::from_secs(5);
    bench.lanes.count(bench.now, LaneId(1), 1);
    bench
}

#[test]
fn a_lane_that_got_little_of_late_has_a_turn_before_the_others_and_while_these_have_none() {
    for (room, expected) in [(u64::MAX, &[3, 1, 2][..]), (1, &[3, 1]), (0, &[3])] {
        let mut bench = with_a_sparse_lane();
        bench.queue(&[(3, 13)]);
        assert_eq!(bench.lanes.holds_back(|| room), room == 0);
        assert_eq!(bench.lanes.ready(), if room == 0 { 1 } else { 3 });
        assert_eq!(bench.take().expect("work").lanes, ids(expected), "room for {room}");
    }
    // What is resumed goes before it, and it does not wait for room where nobody does.
    let mut bench = with_a_sparse_lane();
    bench.queue(&[(3, 13)]);
    bench.lanes.resume(LaneId(0));
    assert_eq!(bench.take().expect("what it left over").settling, ids(&[0]));
    bench.done(0, Outcome::default());
    assert_eq!(bench.take().expect("work").lanes, ids(&[3, 1, 2]));
}

#[test]
fn a_lane_that_got_little_of_late_finds_room_above_the_limit_of_a_queue_that_is_kept_short() {
    let mut bench = with_a_sparse_lane();
    bench.lanes.set_limits(Limits { segments: 4, held_bytes: 1 << 30 });
    bench.lanes.set_sparse_segments(2);
    bench.queue(&[(1, 20), (2, 21), (1, 22), (3, 23), (3, 24), (3, 25)]);
    assert_eq!((bench.names_refused(), bench.lanes.load().segments), (vec![21, 22, 25], 5));
    assert_eq!(bench.lanes.room(), 0);
}

#[test]
fn a_lane_whose_last_turn_brought_much_or_was_not_enough_is_held_back_whatever_it_got_of_late() {
    for (brought, again, has_turn) in [(8, false, true), (9, false, false), (8, true, false)] {
        let mut bench = with_a_sparse_lane();
        bench.queue(&[(3, 13)]);
        assert_eq!(bench.take().expect("work").lanes, ids(&[3, 1, 2]));
        bench.lanes.count(bench.now, LaneId(3), brought);
        [1, 2].into_iter().for_each(|lane| bench.done(lane, Outcome::default()));
        bench.done(3, Outcome { again, ..Outcome::default() });
        bench.queue(&[(3, 14)]);
        assert!(bench.lanes.holds_back(|| 0));
        assert_eq!(bench.take().is_some(), has_turn, "{brought} {again}");
    }
}

#[test]
fn lanes_that_got_little_bring_about_as_much_past_those_that_are_held_back_as_is_let_in() {
    let mut bench = with_a_sparse_lane();
    bench.lanes.set_limits(Limits { segments: 1_000, held_bytes: 1 << 30 });
    bench.fill(3, 84, 1);
    assert!(bench.lanes.holds_back(|| 0));
    let mut brought = 0;
    while let Some(batch) = bench.take() {
        brought += batch.items.len();
        bench.done(3, Outcome::default());
    }
    assert_eq!(brought, 84, "64 may pass, and of the last turn there are 20 more");
    bench.queue(&[(3, 13)]);
    for let_in in [0, 4, 8, 12, 16, 20] {
        assert_eq!((bench.lanes.ready(), bench.take().is_none()), (0, true), "{let_in} segments were let in");
        bench.lanes.resume(LaneId(0));
        assert_eq!(bench.take().expect("what it left over").settling, ids(&[0]));
        bench.done(0, parked());
        assert!(bench.lanes.holds_back(|| 0));
    }
    assert_eq!(names(&bench.take().expect("work").items), [13]);
}

#[test]
fn what_a_lane_of_signals_brings_counts_as_passed_by_where_it_did_and_only_then() {
    let mut lanes: Lanes<Latch> = Lanes::new(LANES, Limits { segments: 100, held_bytes: 1 << 30 });
    let mut now = Instant::now();
    let [parking, much, sparse] = [0, 1, 3].map(LaneId);
    let turn_of = |lanes: &mut Lanes<Latch>, now: Instant, id: LaneId| {
        lanes.poke(id);
        let mut batch = Batch::default();
        lanes.take(now, QUOTA, 1, &mut batch, &mut Shed::default()).is_some_and(|_| batch.has(id))
    };
    for lane in [much, LaneId(2)] {
        lanes.count(now, lane, 500);
    }
    now += Duration::from_secs(5);
    lanes.count(now, much, 1);
    assert!(turn_of(&mut lanes, now, parking));
    lanes.done(parking, parked());
    assert!(lanes.holds_back(|| 0));
    for brought in (0..64).step_by(8) {
        assert!(turn_of(&mut lanes, now, sparse), "{brought} of 64 segments");
        lanes.count(now, sparse, 8);
        lanes.done(sparse, Outcome::default());
    }
    assert!(!turn_of(&mut lanes, now, sparse), "64 have passed, and nobody was let in");
    lanes.resume(parking);
    assert!(turn_of(&mut lanes, now, parking));
    lanes.done(parking, parked());
    // Its turn began before the others were held back again.
    assert!(turn_of(&mut lanes, now, much) && lanes.holds_back(|| 0));
    lanes.count(now, much, 500);
    lanes.done(much, Outcome::default());
    lanes.done(sparse, Outcome::default());
    lanes.poke(sparse);
    assert_eq!(lanes.ready(), 1, "what the other brought is not its debt");
}

#[test]
fn the_next_owner_of_a_lane_does_not_stand_where_the_last_one_did() {
    let mut bench = with_a_sparse_lane();
    bench.take().expect("lanes 1 and 2");
    bench.lanes.clear(LaneId(1), &mut Vec::new());
    // What the last one's turn brought is told of only now.
    bench.lanes.count(bench.now, LaneId(1), 100);
    [1, 2].into_iter().for_each(|lane| bench.done(lane, Outcome::default()));
    bench.queue(&[(2, 21), (1, 20)]);
    assert!(bench.lanes.holds_back(|| 0));
    assert_eq!(names(&bench.take().expect("the new owner's").items), [20]);
}

impl OfFlow for Item {
    fn flow(&self, _keys: &RandomState) -> u64 {
        0
    }

    fn mark_congestion(&mut self) -> bool {
        false
    }
}

#[test]
fn what_is_above_a_lowered_limit_is_given_up_in_the_lanes_that_hold_most_and_they_still_run() {
    let limits = |segments| Limits { segments, held_bytes: 1 << 30 };
    let mut lanes: Lanes<FqCodel<Item>> = Lanes::new(LANES, limits(300));
    let (now, mut shed) = (Instant::now(), Shed::default());
    let mut offered = Vec::new();
    for (lane, count) in [(0, 100), (1, 40), (2, 4)] {
        offered.extend((0..count).map(|name| entry(lane, name, 1)));
    }
    let (mut entered, mut refused) = (Batch::default(), Vec::new());
    lanes.offer(now, HandOver::Queue, &mut offered, &mut entered, &mut refused, &mut shed);
    assert_eq!((lanes.load().segments, refused.len(), shed.dropped.len()), (144, 0, 0));
    lanes.give_up_above(100, &mut shed);
    assert_eq!(shed.dropped.len(), 0, "nothing is above");
    lanes.set_limits(limits(60));
    lanes.give_up_above(1, &mut shed);
    assert_eq!((lanes.load().segments, shed.dropped.len()), (94, 50), "half of what lane 0 held");
    lanes.give_up_above(100, &mut shed);
    // 25 more of lane 0, then of lane 1, which holds most now, 20.
    assert_eq!((lanes.load().segments, shed.dropped.len()), (49, 95));
    assert!(shed.dropped.iter().all(|(law, _)| *law == Law::Overlimit));
    let mut batch = Batch::default();
    lanes.take(now, QUOTA, 1, &mut batch, &mut shed).expect("work");
    let of = |lane| batch.items.iter().filter(|entry| entry.lane == LaneId(lane)).count();
    assert_eq!([of(0), of(1), of(2)], [21, 20, 4], "each up to its part of 64");
}
