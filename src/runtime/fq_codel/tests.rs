#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// A packet of a flow whose hash is its number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    flow: u64,
    number: u32,
    segments: u32,
    bytes: usize,
    is_capable: bool,
    is_marked: bool,
}

impl Weigh for Item {
    fn segments(&self) -> u32 {
        self.segments
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn held_bytes(&self) -> usize {
        2_048.max(self.bytes)
    }
}

impl OfFlow for Item {
    fn flow(&self, _keys: &RandomState) -> u64 {
        self.flow
    }

    fn mark_congestion(&mut self) -> bool {
        self.is_marked |= self.is_capable;
        self.is_capable
    }
}

fn item(flow: u64, number: u32, bytes: usize) -> Item {
    Item { flow, number, segments: 1, bytes, is_capable: false, is_marked: false }
}

/// One lane's queue in virtual time.
struct Bench {
    queue: FqCodel<Item>,
    shared: Shared<Item>,
    shed: Shed<Item>,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { queue: FqCodel::default(), shared: Shared::default(), shed: Shed::default(), now: Instant::now() }
    }

    fn push(&mut self, item: Item) {
        self.queue.push(&mut self.shared, self.now, item);
    }

    /// `count` items of a flow, numbered from 0.
    fn fill(&mut self, flow: u64, count: u32, bytes: usize) {
        (0..count).for_each(|number| self.push(item(flow, number, bytes)));
    }

    fn pop(&mut self) -> Option<Item> {
        self.queue.pop(&mut self.shared, self.now, &mut self.shed).map(|(_, item)| item)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Pops an item each `every` for `time`.
    fn serve(&mut self, time: Duration, every: Duration) -> Vec<Item> {
        let end = self.now + time;
        let mut out = Vec::new();
        while self.now < end {
            out.extend(self.pop());
            self.pass(every);
        }
        out
    }

    fn dropped(&self, law: Law) -> Vec<(u64, u32)> {
        let fell = |(why, item): &(Law, Item)| (*why == law).then_some((item.flow, item.number));
        self.shed.dropped.iter().filter_map(fell).collect()
    }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_ping_beside_a_bulk_flow_leaves_first() {
    let mut bench = Bench::new();
    bench.fill(1, 100, 1_400);
    bench.pop().unwrap();
    bench.push(item(2, 0, 84));
    assert_eq!(bench.pop().unwrap().flow, 1, "the rest of the turn that the bulk flow is at: 114 bytes of credit");
    assert_eq!(bench.pop().unwrap().flow, 2);
    assert_eq!(bench.pop().unwrap().flow, 1);
}

#[test]
fn flows_of_small_and_of_large_packets_get_the_same_bytes() {
    let mut bench = Bench::new();
    bench.fill(1, 2_000, 100);
    bench.fill(2, 200, 1_400);
    bench.fill(3, 20, 14_000);
    let mut bytes = BTreeMap::<u64, usize>::new();
    while bytes.values().sum::<usize>() < 300_000 {
        let item = bench.pop().unwrap();
        *bytes.entry(item.flow).or_default() += item.bytes;
    }
    let (least, most) = (bytes.values().min().unwrap(), bytes.values().max().unwrap());
    assert!(bytes.len() == 3 && most - least <= 14_000 + QUANTUM_BYTES as usize, "a packet and a turn: {bytes:?}");
}

#[test]
fn a_flow_that_has_had_its_turn_is_not_new_again_with_its_next_packet() {
    let mut bench = Bench::new();
    bench.fill(1, 10, 1_514);
    bench.fill(2, 1, 1_514);
    assert_eq!([bench.pop().unwrap().flow, bench.pop().unwrap().flow], [1, 2]);
    bench.push(item(2, 1, 1_514));
    bench.push(item(3, 0, 100));
    let order: Vec<_> = (0..4).map(|_| bench.pop().unwrap().flow).collect();
    assert_eq!(order, [3, 1, 2, 1], "the third flow alone is new");
}

#[test]
fn flows_that_share_a_bucket_share_a_queue_in_order_of_arrival() {
    let mut bench = Bench::new();
    let numbers = 0..6;
    numbers.clone().for_each(|number| bench.push(item(7 + u64::from(number % 2) * BUCKETS, number, 500)));
    assert_eq!(numbers.map(|_| bench.pop().unwrap().number).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert!(bench.queue.is_empty());
}

#[test]
fn a_flow_that_stands_is_dropped_from_and_one_that_does_not_is_spared() {
    let mut bench = Bench::new();
    bench.fill(1, 2_000, 1_400);
    for number in 0..1_000 {
        bench.push(item(2, number, 100));
        assert_eq!(bench.pop().unwrap().flow, if number == 0 { 1 } else { 2 });
        bench.pop();
        bench.pass(MS);
    }
    let dropped = bench.dropped(Law::Codel);
    assert!(dropped.len() > 5 && dropped.iter().all(|(flow, _)| *flow == 1), "{dropped:?}");
}

#[test]
fn what_understands_a_mark_is_marked_and_none_of_it_dropped() {
    let mut bench = Bench::new();
    (0..2_000).for_each(|number| bench.push(Item { is_capable: true, segments: 2, ..item(1, number, 1_400) }));
    let out = bench.serve(1_800 * MS, MS);
    let marked = out.iter().filter(|item| item.is_marked).count();
    assert!(marked > 5 && bench.shed.dropped.is_empty());
    assert_eq!(bench.shed.marked_segments, 2 * marked as u64);
}

#[test]
fn room_is_made_from_the_head_of_the_flow_that_holds_most() {
    let mut bench = Bench::new();
    bench.fill(1, 10, 1_400);
    bench.fill(2, 40, 60);
    assert!(bench.queue.relieve(&mut bench.shared, &mut bench.shed));
    let half: Vec<_> = (0..20).map(|number| (2, number)).collect();
    assert_eq!(bench.dropped(Law::Overlimit), half, "the small packets hold most memory, and half of them go");
    bench.fill(3, 1_000, 1_400);
    bench.shed.dropped.clear();
    assert!(bench.queue.relieve(&mut bench.shared, &mut bench.shed));
    assert_eq!(bench.dropped(Law::Overlimit).len(), RELIEF_ITEMS_MAX);
    assert_eq!(bench.queue.load().segments, 10 + 20 + 1_000 - 64);
}

#[test]
fn an_empty_queue_knows_nothing_to_give_up() {
    let mut bench = Bench::new();
    assert!(!bench.queue.relieve(&mut bench.shared, &mut bench.shed));
    bench.fill(1, 1, 100);
    assert!(bench.queue.relieve(&mut bench.shared, &mut bench.shed));
    assert!(!bench.queue.relieve(&mut bench.shared, &mut bench.shed) && bench.queue.is_empty());
}

#[test]
fn an_empty_lane_holds_no_memory_but_its_own_few_bytes() {
    assert!(size_of::<FqCodel<Item>>() <= 64);
    let mut bench = Bench::new();
    for round in 0..50 {
        (0..200).for_each(|number| bench.push(item(round * 7 + u64::from(number) % 20, number, 1_400)));
        while bench.pop().is_some() {}
        assert_eq!(
            (bench.shared.buckets.len(), bench.shared.items.places(), bench.shared.flows.places()),
            (0, 200, 20)
        );
    }
}

mod lanes;
mod slow_link;

#[derive(Clone, Debug)]
enum Call {
    Push { flow: u64, segments: u32, bytes: usize, is_capable: bool },
    Pop,
    Pass(u64),
    Relieve,
    Clear,
}

fn call() -> impl Strategy<Value = Call> {
    let push = (0..6_u64, 1..5_u32, 20..3_000_usize, any::<bool>())
        .prop_map(|(flow, segments, bytes, is_capable)| Call::Push { flow, segments, bytes, is_capable });
    prop_oneof![
        6 => push,
        4 => Just(Call::Pop),
        2 => (0..80_u64).prop_map(Call::Pass),
        1 => Just(Call::Relieve),
        1 => prop::num::u8::ANY.prop_map(|any| if any < 16 { Call::Clear } else { Call::Pop }),
    ]
}

/// What waits by flow, in order.
#[derive(Default)]
struct Model(BTreeMap<u64, VecDeque<Item>>);

impl Model {
    /// `gone` left the queue: it was first in its flow.
    fn takes(&mut self, gone: &Item) {
        let first = self.0.get_mut(&gone.flow).and_then(VecDeque::pop_front).unwrap();
        assert_eq!((first.number, first.bytes), (gone.number, gone.bytes), "order within a flow");
    }

    fn load(&self) -> Load {
        let mut load = Load::default();
        self.0.values().flatten().for_each(|item| load += Load::of(item));
        load
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_pushed_is_popped_shed_or_still_there_and_in_its_flows_order(
        calls in prop::collection::vec(call(), 1..200),
    ) {
        let (mut bench, mut model) = (Bench::new(), Model::default());
        let mut marked = 0;
        for (number, call) in calls.into_iter().enumerate() {
            let before = model.load();
            match call {
                Call::Push { flow, segments, bytes, is_capable } => {
                    let item = Item { segments, is_capable, ..item(flow, number as u32, bytes) };
                    model.0.entry(flow).or_default().push_back(item.clone());
                    bench.push(item);
                }
                Call::Pop => {
                    let popped = bench.pop();
                    prop_assert_eq!(popped.is_some(), before != Load::default(), "what waits can leave");
                    // What CoDel dropped was before what it let pass.
                    bench.shed.dropped.drain(..).for_each(|(law, item)| {
                        assert!(law == Law::Codel && !item.is_capable, "{law:?} {item:?}");
                        model.takes(&item);
                    });
                    if let Some(item) = popped {
                        marked += if item.is_marked { u64::from(item.segments) } else { 0 };
                        model.takes(&item);
                    }
                }
                Call::Pass(ms) => bench.pass(ms as u32 * MS),
                Call::Relieve => {
                    let relieved = bench.queue.relieve(&mut bench.shared, &mut bench.shed);
                    prop_assert_eq!(relieved, before != Load::default());
                    bench.shed.dropped.drain(..).for_each(|(_, item)| model.takes(&item));
                }
                Call::Clear => {
                    let mut out = Vec::new();
                    bench.queue.clear(&mut bench.shared, &mut out);
                    out.iter().for_each(|item| model.takes(item));
                    prop_assert!(bench.queue.is_empty());
                }
            }
            prop_assert_eq!(bench.queue.load(), model.load());
            prop_assert_eq!(bench.queue.is_empty(), model.load() == Load::default());
            prop_assert_eq!(bench.shed.marked_segments, marked);
        }
    }
}
