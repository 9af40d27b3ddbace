#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::time::Duration;

use super::*;
use crate::runtime::queue::{Fifo, Latch, Signal};

mod gathering;
mod model;
mod room;

/// An item with a name of its own and a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    name: u32,
    segments: u32,
    bytes: usize,
}

impl Weigh for Item {
    fn segments(&self) -> u32 {
        self.segments
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn held_bytes(&self) -> usize {
        2 * self.bytes
    }
}

const LANES: u32 = 4;
const QUOTA: Quota = Quota { segments: 64, lane_bytes: 1 << 20 };

/// Lanes with room for `segments`, and the vectors that a stage would bring.
struct Bench {
    lanes: Lanes<Fifo<Item>>,
    now: Instant,
    entered: Batch<Item>,
    refused: Vec<Entry<Item>>,
}

impl Bench {
    fn new(segments: u64) -> Self {
        let limits = Limits { segments, held_bytes: 1 << 30 };
        Self { lanes: Lanes::new(LANES, limits), now: Instant::now(), entered: Batch::default(), refused: Vec::new() }
    }

    /// Offers items of one segment as (lane, name).
    fn offer(&mut self, hand_over: HandOver, items: &[(u32, u32)]) {
        let mut offered = items.iter().map(|&(lane, name)| entry(lane, name, 1)).collect();
        self.lanes.offer(self.now, hand_over, &mut offered, &mut self.entered, &mut self.refused, &mut Shed::default());
        assert!(offered.is_empty());
    }

    fn queue(&mut self, items: &[(u32, u32)]) {
        self.offer(HandOver::Queue, items);
    }

    fn fill(&mut self, lane: u32, count: u32, segments: u32) {
        let mut offered = (0..count).map(|name| entry(lane, name, segments)).collect();
        self.lanes.offer(
            self.now,
            HandOver::Queue,
            &mut offered,
            &mut self.entered,
            &mut self.refused,
            &mut Shed::default(),
        );
    }

    fn take(&mut self) -> Option<Batch<Item>> {
        self.take_some(QUOTA)
    }

    fn take_some(&mut self, quota: Quota) -> Option<Batch<Item>> {
        let mut batch = Batch::default();
        self.lanes.take(self.now, quota, 1, &mut batch, &mut Shed::default()).map(|_| batch)
    }

    fn done(&mut self, lane: u32, outcome: Outcome) {
        self.lanes.done(LaneId(lane), outcome);
    }

    fn names_refused(&mut self) -> Vec<u32> {
        names(&std::mem::take(&mut self.refused))
    }
}

fn entry(lane: u32, name: u32, segments: u32) -> Entry<Item> {
    let item = Item { name, segments, bytes: 100 * segments as usize };
    Entry { origin: LaneId(lane), lane: LaneId(lane), item }
}

fn names(entries: &[Entry<Item>]) -> Vec<u32> {
    entries.iter().map(|entry| entry.item.name).collect()
}

fn parked() -> Outcome {
    Outcome { park: true, ..Outcome::default() }
}

fn ids(lanes: &[u32]) -> Vec<LaneId> {
    lanes.iter().copied().map(LaneId).collect()
}

#[test]
fn a_lane_that_runs_is_taken_by_nobody_else_and_goes_on_where_it_stood() {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 1), (0, 2)]);
    assert_eq!(names(&bench.take().unwrap().items), [1, 2]);
    bench.queue(&[(0, 3)]);
    assert!(bench.take().is_none(), "a thread has the lane");
    bench.done(0, Outcome::default());
    assert_eq!(names(&bench.take().unwrap().items), [3]);
}

#[test]
fn what_has_waited_longer_than_it_may_is_given_up_when_its_turn_comes() {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 1), (0, 2), (2, 5)]);
    bench.now += Duration::from_millis(6);
    bench.queue(&[(0, 3), (1, 4)]);
    bench.lanes.set_wait_max(Some(Duration::from_millis(5)));
    let (mut batch, mut shed) = (Batch::default(), Shed::default());
    let taken = bench.lanes.take(bench.now, QUOTA, 1, &mut batch, &mut shed).unwrap();
    let mut kept = names(&batch.items);
    kept.sort_unstable();
    assert_eq!(kept, [3, 4, 5], "the last of a lane is served however old it is");
    let dropped: Vec<_> = shed.dropped.iter().map(|(law, item)| (*law, item.name)).collect();
    assert_eq!(dropped, [(Law::TooOld, 1), (Law::TooOld, 2)]);
    // Its wait is seen by the controllers, and its room is free.
    assert_eq!(taken.oldest, Some(bench.now - Duration::from_millis(6)));
    assert_eq!((taken.freed.segments, bench.lanes.load()), (5, Load::default()));
}

#[test]
fn where_the_queue_is_shorter_than_there_are_lanes_those_that_got_least_find_room() {
    let mut bench = Bench::new(8);
    bench.lanes = Lanes::new(33, Limits { segments: 8, held_bytes: 1 << 30 });
    let mut served = |wait_max| {
        bench.lanes.set_wait_max(wait_max);
        let mut served = [0_u32; 33];
        // Of three packets two are served, and the lanes' order is always the same: the third is always the same ones'.
        for turn in 0..33 * 300 {
            bench.now += Duration::from_millis(1);
            bench.queue(&[(turn % 33, 0)]);
            if turn % 3 > 0 {
                let lane = bench.take_some(Quota { segments: 1, ..QUOTA }).unwrap().lanes[0];
                served[lane.0 as usize] += 1;
                bench.done(lane.0, Outcome::default());
            }
        }
        (*served.iter().min().unwrap(), *served.iter().max().unwrap())
    };
    let (least, most) = served(None);
    assert!(least * 10 < most * 9, "{least} to {most}");
    let (least, most) = served(Some(Duration::from_secs(1)));
    assert!(least * 10 >= most * 9, "{least} to {most}");
}

#[test]
fn where_the_queue_is_short_who_got_far_more_takes_no_room_from_what_the_others_bring_at_once() {
    const OTHERS: u32 = 20;
    const HOG: u32 = OTHERS;
    const SERVED: u32 = 30;
    let mut bench = Bench::new(24);
    bench.lanes = Lanes::new(OTHERS + 1, Limits { segments: 24, held_bytes: 1 << 30 });
    bench.lanes.set_wait_max(Some(Duration::from_secs(1)));
    let (mut refused, mut of_hog) = ([0_u32; HOG as usize + 1], 0);
    let warm_up = 30;
    for turn in 0..warm_up + 100 {
        if turn == warm_up {
            bench.lanes.take_turned_away();
        }
        // The source had no core for a while: all that came meanwhile comes at once, and as much of the hog.
        let offered: Vec<_> = (0..OTHERS).flat_map(|lane| [(HOG, 0), (lane, 0)]).collect();
        bench.queue(&offered);
        for _ in 0..SERVED {
            let lane = bench.take_some(Quota { segments: 1, ..QUOTA }).expect("the hog has always more").lanes[0].0;
            bench.done(lane, Outcome::default());
            of_hog += u32::from(lane == HOG && turn >= warm_up);
            bench.queue(&[(HOG, 0)]);
        }
        for entry in bench.refused.drain(..).filter(|_| turn >= warm_up) {
            refused[entry.lane.index()] += 1;
        }
    }
    assert!(refused[HOG as usize] > 0, "it sends too much");
    // Where shares are counted anew, nobody is far ahead for a moment.
    let of_others: u32 = refused[..HOG as usize].iter().sum();
    assert!(of_others * 200 <= 100 * OTHERS, "they send less than their share, and lost {of_others}");
    assert_eq!(of_hog + 100 * OTHERS - of_others, 100 * SERVED, "what they leave is the hog's");
    let turned_away = bench.lanes.take_turned_away();
    let TurnedAway { segments, within_share, .. } = turned_away;
    assert_eq!(segments, refused.iter().copied().map(u64::from).sum::<u64>());
    assert!(within_share >= of_others.into() && within_share * 20 <= segments, "{within_share} of {segments}");
    assert!(turned_away.of_others() <= of_others.into(), "{turned_away:?}, {of_others} of others");
}

#[test]
fn what_one_lane_loses_alone_is_no_loss_of_others_however_few_there_are_and_however_large_its_items() {
    for (lanes, segments) in [(1, 1), (2, 1), (4, 45)] {
        let mut bench = Bench::new(100);
        bench.lanes.set_wait_max(Some(Duration::from_secs(1)));
        (1..lanes).for_each(|lane| bench.fill(lane, 1, 1));
        bench.fill(0, 200, segments);
        let lost: u64 = bench.refused.drain(..).map(|entry| u64::from(entry.item.segments)).sum();
        let turned_away = bench.lanes.take_turned_away();
        assert!(lost > 0 && turned_away.segments == lost && turned_away.of_others() == 0, "{lanes}: {turned_away:?}");
        // Of two that lose the one that loses less is the other.
        bench.fill(0, 20, 1);
        bench.fill(1, 200, 1);
        let of_0 = bench.refused.iter().filter(|entry| entry.lane == LaneId(0)).count() as u64;
        let others = bench.lanes.take_turned_away().of_others();
        assert_eq!(others, if lanes < 4 { of_0 } else { 0 }, "where it is known who got far more, only one lost");
    }
}

#[test]
fn a_batch_spans_lanes() {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 1), (1, 2), (2, 3), (0, 4)]);
    let batch = bench.take().unwrap();
    assert_eq!(batch.lanes, ids(&[0, 1, 2]));
    assert_eq!(names(&batch.items), [1, 4, 2, 3]);
}

#[test]
fn a_batch_leaves_other_threads_their_part_of_the_lanes() {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 1), (1, 2), (2, 3)]);
    let mut batch = Batch::default();
    bench.lanes.take(bench.now, QUOTA, 2, &mut batch, &mut Shed::default()).unwrap();
    assert_eq!((batch.lanes, bench.lanes.ready()), (ids(&[0, 1]), 1));
}

#[test]
fn lanes_that_run_and_have_more_waiting_are_work_for_another_thread() {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 1), (1, 2)]);
    bench.take().unwrap();
    bench.queue(&[(0, 3)]);
    assert_eq!((bench.lanes.ready(), bench.lanes.ready_for_more(1)), (0, 0), "one lane keeps one thread busy");
    bench.queue(&[(1, 4)]);
    assert_eq!((bench.lanes.ready_for_more(1), bench.lanes.ready_for_more(2)), (1, 0));
    bench.done(0, Outcome::default());
    bench.done(1, Outcome::default());
    bench.take().unwrap();
    assert_eq!(bench.lanes.backlogged, 0);
}

#[test]
fn what_is_free_runs_on_and_what_is_busy_queues() {
    let mut bench = Bench::new(100);
    bench.queue(&[(1, 1)]);
    bench.offer(HandOver::RunOn, &[(0, 2), (1, 3), (0, 4)]);
    assert_eq!((bench.entered.lanes.clone(), names(&bench.entered.items)), (ids(&[0]), vec![2, 4]));
    assert_eq!(names(&bench.take().unwrap().items), [1, 3]);
    bench.offer(HandOver::RunOn, &[(0, 5)]);
    assert_eq!(bench.entered.items.len(), 2, "the lane is still out, so nothing enters it");
    bench.done(0, Outcome::default());
    assert_eq!(names(&bench.take().unwrap().items), [5]);
}

#[test]
fn told_to_queue_nothing_enters() {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 1)]);
    assert!(bench.entered.is_empty());
    assert_eq!(bench.lanes.load().segments, 1);
}

#[test]
fn once_an_item_is_refused_so_is_the_rest_of_its_lane_in_the_batch() {
    let mut bench = Bench::new(10);
    bench.fill(0, 5, 1);
    // Of lane 1 a heavy item does not fit, and a light one behind it would.
    let mut offered = vec![entry(1, 10, 1), entry(1, 11, 9), entry(2, 20, 1), entry(1, 12, 1)];
    bench.lanes.offer(
        bench.now,
        HandOver::Queue,
        &mut offered,
        &mut bench.entered,
        &mut bench.refused,
        &mut Shed::default(),
    );
    assert_eq!(bench.names_refused(), [11, 12]);
    bench.queue(&[(1, 13)]);
    assert!(bench.refused.is_empty(), "the next batch is judged anew");
}

#[test]
fn one_busy_lane_gets_half_of_the_queue_and_two_a_third_each() {
    let mut bench = Bench::new(90);
    bench.fill(0, 90, 1);
    assert_eq!((bench.lanes.load().segments, bench.refused.len()), (45, 45));
    // The other now has half of what is left, until the first comes down to a third.
    while bench.lanes.load().segments > 0 {
        bench.lanes.clear(LaneId(0), &mut Vec::new());
    }
    bench.refused.clear();
    let turn_about = (0..180).map(|name| entry(name % 2, name, 1));
    bench.lanes.offer(
        bench.now,
        HandOver::Queue,
        &mut turn_about.collect(),
        &mut bench.entered,
        &mut bench.refused,
        &mut Shed::default(),
    );
    assert_eq!(bench.lanes.load().segments, 60);
    assert_eq!([0, 1].map(|lane| bench.lanes.lanes[lane].queue.load().segments), [30, 30]);
    assert_eq!(bench.refused.len(), 120);
}

#[test]
fn a_newcomer_always_finds_room_while_there_is_any() {
    let mut bench = Bench::new(8);
    bench.fill(0, 8, 1);
    bench.fill(1, 8, 1);
    bench.refused.clear();
    bench.queue(&[(2, 1)]);
    assert!(bench.refused.is_empty());
    bench.queue(&[(3, 1), (3, 2)]);
    assert_eq!((bench.lanes.load().segments, bench.names_refused()), (8, vec![2]));
}

#[test]
fn memory_held_bounds_as_segments_do() {
    let mut bench = Bench::new(1_000);
    bench.lanes.limits.held_bytes = 800;
    bench.fill(0, 10, 1);
    assert_eq!((bench.lanes.load().held_bytes, bench.refused.len()), (400, 8), "each holds 200 bytes");
}

#[test]
fn an_item_larger_than_the_queue_passes_when_nothing_else_waits() {
    let mut bench = Bench::new(10);
    bench.fill(0, 2, 45);
    assert_eq!((bench.lanes.load().segments, bench.refused.len()), (45, 1), "else it would wait for ever");
}

#[test]
fn heavy_and_light_items_get_the_same_share_of_segments() {
    let mut bench = Bench::new(100_000);
    bench.fill(0, 200, 45);
    bench.fill(1, 9_000, 1);
    let mut segments = [0_u32; 2];
    for _ in 0..50 {
        let batch = bench.take_some(Quota { segments: 64, lane_bytes: 1 << 30 }).unwrap();
        batch.items.iter().for_each(|entry| segments[entry.lane.index()] += entry.item.segments);
        batch.lanes.iter().for_each(|lane| bench.lanes.done(*lane, Outcome::default()));
    }
    let difference = segments[0].abs_diff(segments[1]);
    assert!(difference <= 45, "at most a heavy item apart: {segments:?}");
}

#[test]
fn a_batch_takes_no_more_of_a_lane_than_its_bytes_allow() {
    let mut bench = Bench::new(100);
    bench.fill(0, 10, 1);
    let taken = bench.take_some(Quota { segments: 64, lane_bytes: 250 }).unwrap();
    assert_eq!(taken.items.len(), 3, "the one that passes the limit is the last");
}

#[test]
fn what_a_lane_leaves_behind_in_its_queue_counts_as_work_behind() {
    let mut bench = Bench::new(100);
    bench.fill(0, 10, 1);
    let mut batch = Batch::default();
    let quota = Quota { segments: 4, ..QUOTA };
    assert!(bench.lanes.take(bench.now, quota, 1, &mut batch, &mut Shed::default()).unwrap().behind);
    bench.done(0, Outcome::default());
    assert!(!bench.lanes.take(bench.now, QUOTA, 1, &mut batch, &mut Shed::default()).unwrap().behind);
}

#[test]
fn a_take_tells_what_it_freed_and_how_long_the_oldest_waited() {
    let mut bench = Bench::new(100);
    let came = bench.now;
    bench.fill(0, 2, 3);
    bench.now += Duration::from_millis(5);
    bench.queue(&[(1, 1)]);
    let taken = bench.lanes.take(bench.now, QUOTA, 1, &mut Batch::default(), &mut Shed::default()).unwrap();
    assert_eq!((taken.oldest, taken.freed), (Some(came), Load { segments: 7, held_bytes: 1_400 }));
}

#[test]
fn a_parked_lane_stays_out_until_resumed_and_first_settles_what_it_left_over() {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 1)]);
    bench.take().unwrap();
    bench.queue(&[(0, 2)]);
    bench.done(0, parked());
    assert!(bench.take().is_none());
    assert_eq!((bench.lanes.parked(), bench.lanes.is_quiet()), (1, false));
    bench.lanes.resume(LaneId(0));
    let batch = bench.take().unwrap();
    assert_eq!((batch.settling, batch.lanes, batch.items.len()), (ids(&[0]), vec![], 0));
    bench.done(0, Outcome::default());
    assert_eq!(names(&bench.take().unwrap().items), [2]);
}

#[test]
fn a_parked_lane_leaves_the_others_alone() {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 1), (1, 2)]);
    bench.take().unwrap();
    bench.done(0, parked());
    bench.done(1, Outcome::default());
    bench.queue(&[(0, 3), (1, 4)]);
    assert_eq!(names(&bench.take().unwrap().items), [4]);
}

#[test]
fn a_lane_that_is_never_given_back_leaves_the_others_alone() {
    let mut bench = Bench::new(8);
    bench.queue(&[(0, 1)]);
    bench.take().unwrap();
    bench.fill(0, 8, 1);
    for name in 0..20 {
        bench.queue(&[(1, name)]);
        assert_eq!(names(&bench.take().unwrap().items), [name]);
        bench.done(1, Outcome::default());
    }
}

#[test]
fn a_resume_that_comes_before_the_lane_is_parked_is_not_lost() {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 1)]);
    bench.take().unwrap();
    bench.lanes.resume(LaneId(0));
    bench.done(0, parked());
    assert_eq!((bench.lanes.parked(), bench.take().unwrap().settling), (0, ids(&[0])));
}

#[test]
fn a_resume_of_a_lane_that_is_not_parked_after_all_loses_nothing() {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 1)]);
    bench.take().unwrap();
    bench.queue(&[(0, 2)]);
    bench.lanes.resume(LaneId(0));
    bench.done(0, Outcome::default());
    assert_eq!(names(&bench.take().unwrap().items), [2]);
}

#[test]
fn a_poked_lane_runs_once_without_an_item() {
    let mut bench = Bench::new(100);
    bench.lanes.poke(LaneId(2));
    bench.lanes.poke(LaneId(2));
    let batch = bench.take().unwrap();
    assert_eq!((batch.lanes, batch.items.len()), (ids(&[2]), 0));
    bench.lanes.poke(LaneId(2));
    assert!(bench.take().is_none());
    bench.done(2, Outcome::default());
    assert_eq!(bench.take().unwrap().lanes, ids(&[2]), "the poke that came meanwhile");
    bench.done(2, Outcome::default());
    assert!(bench.lanes.is_quiet());
}

#[test]
fn a_poke_of_a_parked_lane_outlives_its_settling() {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 1)]);
    bench.take().unwrap();
    bench.done(0, Outcome { again: true, ..parked() });
    bench.lanes.resume(LaneId(0));
    assert_eq!(bench.take().unwrap().settling, ids(&[0]));
    bench.done(0, Outcome::default());
    assert_eq!(bench.take().unwrap().lanes, ids(&[0]), "it had asked to run again");
}

#[test]
fn a_lane_runs_again_when_its_handler_asks_for_it() {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 1)]);
    bench.take().unwrap();
    bench.done(0, Outcome { again: true, ..Outcome::default() });
    assert_eq!(bench.take().unwrap().lanes, ids(&[0]));
}

#[test]
fn a_lane_without_allowance_waits_and_a_poke_has_it_ask_anew() {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 1)]);
    bench.take().unwrap();
    bench.done(0, Outcome { allowance_bytes: Some(150), ..Outcome::default() });
    bench.queue(&[(0, 2), (0, 3), (0, 4)]);
    assert_eq!(names(&bench.take().unwrap().items), [2, 3], "100 bytes each");
    bench.done(0, Outcome { allowance_bytes: Some(0), ..Outcome::default() });
    assert!(bench.take().is_none());
    assert!(!bench.lanes.is_quiet(), "an item waits");
    bench.lanes.poke(LaneId(0));
    assert_eq!(bench.take().unwrap().items.len(), 0);
    bench.done(0, Outcome::default());
    assert_eq!(names(&bench.take().unwrap().items), [4]);
}

#[test]
fn what_runs_on_spends_the_allowance_too() {
    let mut bench = Bench::new(100);
    bench.lanes.poke(LaneId(0));
    bench.take().unwrap();
    bench.done(0, Outcome { allowance_bytes: Some(100), ..Outcome::default() });
    bench.offer(HandOver::RunOn, &[(0, 1), (0, 2)]);
    assert_eq!(names(&bench.entered.items), [1]);
    assert_eq!(bench.lanes.load().segments, 1);
}

#[test]
fn settling_leaves_a_lanes_allowance_as_it_was() {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 1)]);
    bench.take().unwrap();
    bench.queue(&[(0, 2)]);
    bench.done(0, Outcome { allowance_bytes: Some(0), ..parked() });
    bench.lanes.resume(LaneId(0));
    bench.take().unwrap();
    bench.done(0, Outcome::default());
    assert!(bench.take().is_none(), "nobody has allowed it anything since");
}

#[test]
fn a_cleared_lane_is_empty_and_its_next_owner_begins_afresh() {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 1)]);
    bench.take().unwrap();
    bench.queue(&[(0, 2), (0, 3)]);
    let mut shed = Vec::new();
    bench.lanes.clear(LaneId(0), &mut shed);
    assert_eq!(shed.iter().map(|item| item.name).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(bench.lanes.load(), Load::default());
    bench.done(0, Outcome { allowance_bytes: Some(0), again: true, park: false });
    assert!(bench.lanes.is_quiet(), "what its last owner wanted is of no interest");
    bench.queue(&[(0, 4)]);
    assert_eq!(names(&bench.take().unwrap().items), [4]);
}

#[test]
fn a_signal_is_never_refused_and_waits_once() {
    let mut lanes = Lanes::<Latch>::new(3, Limits { segments: 1, held_bytes: 1 });
    let mut offered: Vec<Entry<Signal>> = [0, 1, 0, 2, 1]
        .map(|lane| Entry { origin: LaneId(lane), lane: LaneId(lane), item: Signal { since: Instant::now() } })
        .into();
    let (mut batch, mut refused) = (Batch::default(), Vec::new());
    lanes.offer(Instant::now(), HandOver::Queue, &mut offered, &mut batch, &mut refused, &mut Shed::default());
    assert_eq!((lanes.load().segments, refused.len()), (3, 0));
    lanes.take(Instant::now(), QUOTA, 1, &mut batch, &mut Shed::default()).unwrap();
    assert_eq!(batch.items.len(), 3);
}

#[test]
fn an_item_for_a_lane_that_there_is_not_is_refused() {
    let mut bench = Bench::new(100);
    bench.queue(&[(LANES, 1)]);
    assert_eq!(bench.names_refused(), [1]);
}

#[test]
fn a_batch_tells_how_many_other_lanes_wait_for_a_thread_or_for_room() {
    let mut bench = Bench::new(100);
    bench.queue(&[(0, 0), (1, 1), (2, 2), (3, 3)]);
    let first = bench.take_some(Quota { segments: 1, ..QUOTA }).expect("work");
    assert_eq!((first.lanes, first.others), (ids(&[0]), 3));
    bench.done(0, parked());
    let second = bench.take_some(Quota { segments: 1, ..QUOTA }).expect("work");
    assert_eq!((second.lanes, second.others), (ids(&[1]), 3), "two are ready, and one waits for room");
    bench.done(1, Outcome::default());
    bench.offer(HandOver::RunOn, &[(1, 4)]);
    assert_eq!((&bench.entered.lanes, bench.entered.others), (&ids(&[1]), 3));
}

#[test]
fn a_batch_that_came_interleaved_is_brought_together_by_lane_and_keeps_each_lanes_order() {
    let entry = |lane, item| Entry { origin: LaneId(lane), lane: LaneId(lane), item };
    let mut batch = Batch {
        others: 0,
        lanes: vec![LaneId(7), LaneId(2)],
        settling: Vec::new(),
        items: vec![entry(7, 'a'), entry(2, 'b'), entry(7, 'c'), entry(2, 'd')],
    };
    batch.group_by_lane();
    assert_eq!(batch.lanes, [LaneId(2), LaneId(7)]);
    assert_eq!(batch.items.iter().map(|entry| entry.item).collect::<String>(), "bdac");
}
