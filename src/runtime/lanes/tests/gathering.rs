//! Lanes that gather: when they are ready, and in which order.

use super::*;

const WAIT: Duration = Duration::from_millis(10);

impl Bench {
    fn gather(&mut self, items: &[(u32, u32)]) {
        self.offer(HandOver::Gather, items);
    }

    /// What a thread would take, lane by lane, after `elapsed` and the end of what has gathered for `WAIT`.
    fn take_after(&mut self, elapsed: Duration) -> Vec<(u32, usize)> {
        self.now += elapsed;
        self.lanes.end_gathering(self.now, WAIT, u32::MAX);
        let Some(batch) = self.take() else { return Vec::new() };
        batch.lanes.iter().for_each(|lane| self.lanes.done(*lane, Outcome::default()));
        let of = |lane: &LaneId| batch.items.iter().filter(|entry| entry.lane == *lane).count();
        batch.lanes.iter().map(|lane| (lane.0, of(lane))).collect()
    }
}

#[test]
fn a_lane_that_gathers_is_served_with_all_that_came_when_its_first_item_has_waited_for_so_long() {
    let mut bench = Bench::new(100);
    bench.gather(&[(1, 0), (2, 1)]);
    assert_eq!(bench.take_after(WAIT / 2), []);
    bench.gather(&[(2, 2), (3, 3)]);
    assert_eq!(bench.take_after(WAIT / 2), [(1, 1), (2, 2)], "3 has waited for half of it");
    assert_eq!(bench.take_after(WAIT / 2), [(3, 1)]);
    assert!(bench.lanes.is_quiet() && !bench.lanes.is_gathering());
}

#[test]
fn what_has_gathered_for_longest_is_served_first_up_to_so_many_segments() {
    let mut bench = Bench::new(100);
    bench.gather(&[(3, 0), (1, 1), (1, 2), (2, 3)]);
    bench.lanes.end_gathering(bench.now, Duration::ZERO, 3);
    assert_eq!(bench.take().unwrap().lanes, [LaneId(3), LaneId(1)]);
    assert!(bench.lanes.is_gathering(), "2 still does");
}

#[test]
fn a_lane_that_has_gathered_enough_or_is_poked_is_ready_at_once() {
    let mut bench = Bench::new(100);
    bench.fill(1, 0, 1);
    let mut offered = vec![entry(1, 0, 15)];
    let Bench { lanes, now, entered, refused, .. } = &mut bench;
    lanes.offer(*now, HandOver::Gather, &mut offered, entered, refused, &mut Shed::default());
    assert!(!bench.lanes.has_ready());
    bench.gather(&[(1, 1)]);
    assert_eq!(bench.take_after(Duration::ZERO), [(1, 2)], "16 segments");
    bench.gather(&[(2, 2)]);
    bench.lanes.poke(LaneId(2));
    assert_eq!(bench.take_after(Duration::ZERO), [(2, 1)]);
}

#[test]
fn what_is_brought_to_a_lane_that_gathers_gathers_with_it_whatever_the_hand_over() {
    let mut bench = Bench::new(100);
    bench.gather(&[(1, 0)]);
    bench.offer(HandOver::RunOn, &[(1, 1), (2, 2)]);
    assert_eq!(bench.entered.lanes, [LaneId(2)], "nothing overtakes what waits");
    bench.queue(&[(1, 3)]);
    assert!(!bench.lanes.has_ready());
    assert_eq!(bench.take_after(WAIT), [(1, 3)]);
}

#[test]
fn a_lane_that_waits_for_its_allowance_gathers_nothing() {
    let mut bench = Bench::new(100);
    bench.queue(&[(1, 0)]);
    let batch = bench.take().unwrap();
    bench.lanes.done(batch.lanes[0], Outcome { allowance_bytes: Some(0), ..Outcome::default() });
    bench.gather(&[(1, 1)]);
    assert!(!bench.lanes.is_gathering());
    assert_eq!(bench.take_after(WAIT), []);
    bench.lanes.poke(LaneId(1));
    let poked = bench.take().unwrap();
    assert_eq!((poked.lanes.len(), poked.items.len()), (1, 0), "its handler gives it a new one");
}

#[test]
fn what_gathers_no_longer_is_nobodys_when_its_lane_is_cleared_or_given_up() {
    let mut bench = Bench::new(100);
    bench.gather(&[(1, 0)]);
    bench.lanes.clear(LaneId(1), &mut Vec::new());
    assert!(bench.lanes.is_quiet());
    bench.offer(HandOver::RunOn, &[(1, 1)]);
    assert_eq!(bench.entered.lanes, [LaneId(1)], "its next owner begins anew");
    bench.lanes.done(LaneId(1), Outcome::default());
    assert_eq!(bench.take_after(WAIT), [], "the list ends without it");
    bench.gather(&[(1, 2)]);
    assert_eq!(bench.take_after(WAIT), [(1, 1)], "and gathers as anyone");
}

#[test]
fn a_super_packet_has_nothing_to_gather_for() {
    let mut bench = Bench::new(100);
    let mut offered = vec![entry(1, 0, 16), entry(2, 1, 15)];
    let Bench { lanes, now, entered, refused, .. } = &mut bench;
    lanes.offer(*now, HandOver::Gather, &mut offered, entered, refused, &mut Shed::default());
    assert_eq!(bench.entered.lanes, [LaneId(1)]);
    assert!(bench.lanes.is_gathering());
}

#[test]
fn how_much_is_enough_is_as_it_is_set() {
    let limits = Limits { segments: 100, held_bytes: 1 << 30 };
    let mut lanes = Lanes::<Fifo<Item>>::that_gather(LANES, limits, 3);
    let mut bring = |numbers: std::ops::Range<u32>| {
        let mut offered = numbers.map(|number| entry(1, number, 1)).collect();
        let now = Instant::now();
        lanes.offer(now, HandOver::Gather, &mut offered, &mut Batch::default(), &mut Vec::new(), &mut Shed::default());
        lanes.has_ready()
    };
    assert_eq!([bring(0..2), bring(2..3)], [false, true]);
}

#[test]
fn a_lane_is_served_with_all_that_it_gathered_however_many_there_are() {
    let limits = Limits { segments: 10_000, held_bytes: 1 << 30 };
    let (mut lanes, now) = (Lanes::<Fifo<Item>>::that_gather(200, limits, 16), Instant::now());
    let mut offered = (0..2_000).map(|number| entry(number % 200, number, 1)).collect();
    lanes.offer(now, HandOver::Gather, &mut offered, &mut Batch::default(), &mut Vec::new(), &mut Shed::default());
    lanes.end_gathering(now + WAIT, WAIT, u32::MAX);
    let mut batch = Batch::default();
    lanes.take(now + WAIT, QUOTA, 1, &mut batch, &mut Shed::default()).unwrap();
    assert_eq!((batch.lanes.len(), batch.items.len()), (7, 70), "ten each, until 64 are reached");
}
