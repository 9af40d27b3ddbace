//! Random calls against a plain model: for each lane a list of what waits, and what it is.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Call {
    Offer { hand_over: HandOver, items: Vec<(u32, u32)> },
    Take { segments: u32, lane_bytes: u64 },
    Done { which: usize, outcome: (bool, bool, Option<u64>) },
    Resume(u32),
    HoldBack { room: u64 },
    Poke(u32),
    EndGathering { after_ms: u64, segments: u32 },
    Clear(u32),
}

fn call() -> impl Strategy<Value = Call> {
    let lane = 0..LANES;
    let item = (lane.clone(), prop_oneof![Just(1), Just(1), 2..9_u32]);
    let hand_over = prop_oneof![Just(HandOver::RunOn), Just(HandOver::Queue), Just(HandOver::Gather)];
    let allowance = prop_oneof![3 => Just(None), 1 => (0..500_u64).prop_map(Some)];
    prop_oneof![
        4 => (hand_over, prop::collection::vec(item, 1..6))
            .prop_map(|(hand_over, items)| Call::Offer { hand_over, items }),
        3 => (1..20_u32, 1..2_000_u64).prop_map(|(segments, lane_bytes)| Call::Take { segments, lane_bytes }),
        4 => (any::<usize>(), (any::<bool>(), any::<bool>(), allowance))
            .prop_map(|(which, outcome)| Call::Done { which, outcome }),
        2 => lane.clone().prop_map(Call::Resume),
        1 => (0..2_u64).prop_map(|room| Call::HoldBack { room }),
        1 => lane.clone().prop_map(Call::Poke),
        1 => (0..3_u64, 1..9_u32).prop_map(|(after_ms, segments)| Call::EndGathering { after_ms, segments }),
        1 => lane.prop_map(Call::Clear),
    ]
}

#[derive(Clone, Debug, Default)]
struct ModelLane {
    waits: VecDeque<Item>,
    /// Whom it has been handed out to; `Some(true)` where it only settles.
    runs: Option<bool>,
    parked: bool,
    resumed: bool,
    settling: bool,
    poked: bool,
    orphaned: bool,
    allowance: Option<u64>,
}

impl ModelLane {
    fn is_runnable(&self) -> bool {
        let works = !self.waits.is_empty() && self.allowance != Some(0);
        self.runs.is_none() && !self.parked && (self.settling || self.poked || works)
    }

    fn spend(&mut self, bytes: usize) {
        self.allowance = self.allowance.map(|left| left.saturating_sub(bytes as u64));
    }
}

struct Model {
    bench: Bench,
    lanes: Vec<ModelLane>,
    named: u32,
    /// Only lanes that settle have a turn.
    held_back: bool,
}

impl Model {
    fn new(segments: u64) -> Self {
        Self {
            bench: Bench::new(segments),
            lanes: vec![ModelLane::default(); LANES as usize],
            named: 0,
            held_back: false,
        }
    }

    fn apply(&mut self, call: Call) {
        match call {
            Call::Offer { hand_over, items } => self.offer(hand_over, &items),
            Call::Take { segments, lane_bytes } => self.take(Quota { segments, lane_bytes }),
            Call::Done { which, outcome } => self.done(which, outcome),
            Call::Resume(id) => self.resume(id),
            Call::HoldBack { room } => {
                let is_parked = self.lanes.iter().any(|lane| lane.parked);
                let was = self.held_back;
                let is_settling = self.lanes.iter().any(|lane| lane.runs.is_none() && lane.settling);
                self.held_back |= is_parked && !is_settling && room == 0;
                assert_eq!((self.bench.lanes.holds_back(|| room), was && !is_parked), (self.held_back, false));
            }
            Call::Poke(id) => {
                self.bench.lanes.poke(LaneId(id));
                self.lanes[id as usize].poked = true;
            }
            Call::EndGathering { after_ms, segments } => {
                self.bench.now += Duration::from_millis(1);
                self.bench.lanes.end_gathering(self.bench.now, Duration::from_millis(after_ms), segments);
            }
            Call::Clear(id) => self.clear(id),
        }
        self.check();
    }

    fn offer(&mut self, hand_over: HandOver, items: &[(u32, u32)]) {
        let mut offered = Vec::new();
        for &(lane, segments) in items {
            offered.push(entry(lane, self.named, segments));
            self.named += 1;
        }
        let all: Vec<_> = offered.iter().map(|entry| (entry.lane.0, entry.item.clone())).collect();
        let free: Vec<_> =
            self.lanes.iter().map(|lane| lane.runs.is_none() && !lane.is_runnable() && !lane.parked).collect();
        let (mut entered, mut refused) = (Batch::default(), Vec::new());
        self.bench.lanes.offer(
            self.bench.now,
            hand_over,
            &mut offered,
            &mut entered,
            &mut refused,
            &mut Shed::default(),
        );
        for lane in &entered.lanes {
            assert!(
                hand_over == HandOver::RunOn && free[lane.index()] && self.lanes[lane.index()].waits.is_empty(),
                "entered over others"
            );
            self.lanes[lane.index()].runs = Some(false);
        }
        for (id, lane) in self.lanes.iter_mut().enumerate() {
            let of = |entries: &[Entry<Item>]| -> Vec<Item> {
                entries.iter().filter(|entry| entry.lane.index() == id).map(|entry| entry.item.clone()).collect()
            };
            let (entered, refused) = (of(&entered.items), of(&refused));
            let mine: Vec<_> =
                all.iter().filter(|(lane, _)| *lane as usize == id).map(|(_, item)| item.clone()).collect();
            let queued = &mine[entered.len()..mine.len() - refused.len()];
            // First what entered, then what queued, then what was refused: each is a run of the batch.
            assert_eq!([&entered[..], queued, &refused[..]].concat(), mine);
            entered.iter().for_each(|item| lane.spend(item.bytes));
            lane.waits.extend(queued.iter().cloned());
        }
    }

    fn take(&mut self, quota: Quota) {
        let has_turn = |lane: &ModelLane| lane.is_runnable() && (lane.settling || !self.held_back);
        let runnable = self.lanes.iter().any(has_turn);
        if !self.bench.lanes.has_ready() {
            self.bench.lanes.end_gathering(self.bench.now, Duration::ZERO, u32::MAX);
        }
        let Some(batch) = self.bench.take_some(quota) else {
            assert!(!runnable, "a runnable lane is forgotten");
            return;
        };
        assert!(!batch.is_empty());
        assert!(batch.settling.is_empty() != batch.lanes.is_empty(), "who settles does so alone");
        for id in &batch.settling {
            let lane = &mut self.lanes[id.index()];
            assert!(lane.runs.is_none() && !lane.parked && lane.settling);
            lane.runs = Some(true);
        }
        for id in &batch.lanes {
            assert!(!self.held_back);
            let lane = &mut self.lanes[id.index()];
            assert!(lane.runs.is_none() && !lane.parked && !lane.settling);
            (lane.runs, lane.poked) = (Some(false), false);
        }
        for entry in batch.items {
            assert!(batch.lanes.contains(&entry.lane));
            let lane = &mut self.lanes[entry.lane.index()];
            assert_ne!(lane.allowance, Some(0));
            assert_eq!(lane.waits.pop_front(), Some(entry.item.clone()), "first in, first out");
            lane.spend(entry.item.bytes);
        }
    }

    fn done(&mut self, which: usize, (again, park, allowance_bytes): (bool, bool, Option<u64>)) {
        let running: Vec<_> = (0..self.lanes.len()).filter(|id| self.lanes[*id].runs.is_some()).collect();
        if running.is_empty() {
            return;
        }
        let id = running[which % running.len()];
        self.bench.lanes.done(LaneId(id as u32), Outcome { again, park, allowance_bytes });
        let lane = &mut self.lanes[id];
        let settled = lane.runs.take() == Some(true);
        let orphaned = std::mem::take(&mut lane.orphaned);
        if settled {
            lane.settling = false;
        } else if !orphaned {
            lane.poked |= again;
            lane.allowance = allowance_bytes;
        }
        if std::mem::take(&mut lane.resumed) {
            lane.settling |= park;
        } else {
            lane.parked |= park;
        }
    }

    fn resume(&mut self, id: u32) {
        self.bench.lanes.resume(LaneId(id));
        let lane = &mut self.lanes[id as usize];
        if std::mem::take(&mut lane.parked) {
            lane.settling = true;
            self.held_back = false;
        } else {
            lane.resumed |= lane.runs.is_some();
        }
    }

    fn clear(&mut self, id: u32) {
        let mut shed = Vec::new();
        self.bench.lanes.clear(LaneId(id), &mut shed);
        let lane = &mut self.lanes[id as usize];
        assert_eq!(std::mem::take(&mut lane.waits), shed, "what is cleared is all that waited");
        lane.allowance = None;
        lane.orphaned = lane.runs.is_some();
    }

    fn check(&self) {
        let lanes = &self.bench.lanes;
        let waits = || self.lanes.iter().flat_map(|lane| &lane.waits);
        let mut load = Load::default();
        waits().for_each(|item| load += Load::of(item));
        assert_eq!(lanes.load(), load, "the load is the sum of what waits");
        let largest = u64::from(waits().map(|item| item.segments).max().unwrap_or(0));
        assert!(load.segments <= lanes.limits().segments.max(largest), "the bound holds but for one large item alone");
        assert_eq!(lanes.parked(), self.lanes.iter().filter(|lane| lane.parked).count());
        assert_eq!(lanes.running, self.lanes.iter().filter(|lane| lane.runs.is_some()).count());
        assert_eq!(lanes.backlogged, self.lanes.iter().filter(|lane| !lane.waits.is_empty()).count());
        let has_turn = |lane: &&ModelLane| lane.is_runnable() && (lane.settling || !self.held_back);
        let runnable = self.lanes.iter().filter(has_turn).count();
        let gathering = lanes.lanes.iter().filter(|lane| lane.state == State::Gathering).count();
        assert!(lanes.ready() + gathering >= runnable, "a runnable lane is on a list");
        let listed = lanes.lanes.iter().filter(|lane| lane.is_listed).count();
        assert_eq!(lanes.gathering.len(), listed, "no lane is listed twice");
        assert!(lanes.lanes.iter().all(|lane| lane.state != State::Gathering || lane.is_listed));
        let is_quiet = self.lanes.iter().all(|lane| lane.runs.is_none() && !lane.parked && lane.waits.is_empty());
        assert_eq!(lanes.is_quiet(), is_quiet && lanes.others() == 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_called_lanes_keep_order_bounds_and_forget_nobody(
        segments in 1..40_u64,
        calls in prop::collection::vec(call(), 1..120),
    ) {
        let mut model = Model::new(segments);
        calls.into_iter().for_each(|call| model.apply(call));
    }
}
