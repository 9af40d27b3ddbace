#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::hash::RandomState;

use super::seeds::with_seeds;
use super::*;
use crate::runtime::fq_codel::{FqCodel, OfFlow};
use crate::runtime::queue::Fifo;

type Simulation = super::Simulation<Fifo<Item>>;

impl OfFlow for Item {
    fn flow(&self, _keys: &RandomState) -> u64 {
        self.flow.into()
    }

    fn mark_congestion(&mut self) -> bool {
        false
    }
}

const SPEC: Spec = Spec {
    lanes: 64,
    limits: Limits { segments: 2_048, held_bytes: 1 << 30 },
    quota: Quota { segments: 32, lane_bytes: 1 << 20 },
    threads: (1, 4),
    rule: Rule::Auto,
    when_full: WhenFull::Park,
    sojourn_max: Some(SOJOURN_P99_MAX),
    batch_cost: Duration::from_micros(5),
    segment_cost: Duration::from_micros(10),
    stall: None,
    has_lane_rule: true,
};

/// One of several, after the seed, so that a seed replays it too.
fn choice<T, const N: usize>(seed: u64, of: [T; N]) -> T {
    let at = (seed % N as u64) as usize;
    of.into_iter().nth(at).expect("it is within")
}

/// Flows of `rate` packets a second each, one a lane.
fn flows(count: u32, rate: Rate) -> Vec<Flow> {
    (0..count).map(|lane| Flow { lane: LaneId(lane), segments: 1, rate }).collect()
}

/// Three stages with four workers each, the hand-over forced to queue, and more load than they can carry at times.
fn forced_to_queue(seed: u64, has_lane_rule: bool) -> Simulation {
    let spec = Spec { threads: (4, 4), rule: Rule::Never, has_lane_rule, ..SPEC };
    let small = Spec { limits: Limits { segments: 64, ..SPEC.limits }, ..spec };
    let bursts = Rate::Bursts { rate: 8_000.0, on: Duration::from_millis(20), off: Duration::from_millis(10) };
    let mut simulation = Simulation::new(seed, 4, &[spec, small, small], &flows(32, bursts));
    simulation.run_until(Duration::from_millis(100));
    simulation.drain(Duration::from_secs(10));
    simulation
}

fn disorder(simulation: &Simulation) -> u64 {
    simulation.delivered.iter().map(|flow| flow.disorder).sum()
}

#[test]
fn four_workers_with_the_hand_over_forced_to_queue_keep_every_flow_in_order_and_lose_nothing() {
    with_seeds(50, |seed| {
        let simulation = forced_to_queue(seed, true);
        assert_eq!(disorder(&simulation), 0);
        assert!(simulation.is_quiet(), "something waits for ever");
        for flow in &simulation.delivered {
            assert_eq!(flow.sent, flow.count + flow.dropped);
        }
    });
}

#[test]
fn without_the_lane_rule_seed_1_comes_out_of_order() {
    assert!(disorder(&forced_to_queue(1, false)) > 0);
    assert_eq!(disorder(&forced_to_queue(1, true)), 0);
}

#[test]
fn a_seed_replays() {
    let counts = |simulation: &Simulation| -> Vec<_> {
        simulation.delivered.iter().map(|flow| (flow.sent, flow.count, flow.latency_max)).collect()
    };
    with_seeds(3, |seed| {
        assert_eq!(counts(&forced_to_queue(seed, true)), counts(&forced_to_queue(seed, true)));
    });
}

#[test]
fn order_and_count_hold_with_every_rule_of_hand_over() {
    with_seeds(9, |seed| {
        let rule = choice(seed, [Rule::Auto, Rule::Always, Rule::Never]);
        let spec = Spec { threads: (2, 4), rule, limits: Limits { segments: 32, ..SPEC.limits }, ..SPEC };
        let mut simulation = Simulation::new(seed, 3, &[spec; 3], &flows(16, Rate::Steady(6_000.0)));
        simulation.run_until(Duration::from_millis(200));
        simulation.drain(Duration::from_secs(10));
        assert_eq!((disorder(&simulation), simulation.is_quiet()), (0, true), "{rule:?}");
    });
}

fn changes(simulation: &Simulation) -> String {
    let tell = |change: &Change| format!("stage {} to {} at {:?}", change.stage, change.threads, change.at);
    simulation.changes.iter().map(tell).collect::<Vec<_>>().join(", ")
}

/// Dearer packets, so that long times need fewer events. A core carries about 23,000 a second.
const DEAR: Spec = Spec { batch_cost: Duration::from_micros(5), segment_cost: Duration::from_micros(40), ..SPEC };

/// The bound of a stage's sojourn at the 99th percentile.
const SOJOURN_P99_MAX: Duration = Duration::from_millis(5);

#[test]
fn a_step_of_load_is_settled_within_half_a_second() {
    let (at, settled) = (Duration::from_secs(1), Duration::from_millis(1_500));
    with_seeds(5, |seed| {
        let step = Rate::Step { at, before: 5_000.0 / 16.0, after: 60_000.0 / 16.0 };
        let mut simulation = Simulation::new(seed, 4, &[DEAR], &flows(16, step));
        simulation.run_until(settled);
        assert!(simulation.stages[0].threads >= 3, "it takes three");
        simulation.changes.clear();
        // What had piled up until then is worked off within another half a second.
        simulation.run_until(settled + Duration::from_millis(500));
        simulation.stages[0].sojourns.clear();
        simulation.run_until(Duration::from_secs(3));
        assert!(simulation.changes.len() <= 1, "{}", changes(&simulation));
        let sojourns = &mut simulation.stages[0].sojourns;
        sojourns.sort_unstable();
        let p99 = sojourns[sojourns.len() * 99 / 100];
        assert!(p99 <= SOJOURN_P99_MAX, "{p99:?}");
    });
}

#[test]
fn under_steady_load_a_pool_changes_at_most_once_in_ten_seconds() {
    with_seeds(6, |seed| {
        let load = choice(seed, [0.1, 0.3, 0.6, 0.9, 1.3, 2.6]);
        let rate = Rate::Steady(load * 23_000.0 / 16.0);
        let mut simulation = Simulation::new(seed, 4, &[DEAR], &flows(16, rate));
        simulation.run_until(Duration::from_secs(1));
        simulation.changes.clear();
        simulation.run_until(Duration::from_secs(11));
        assert!(simulation.changes.len() <= 1, "load {load}: {}", changes(&simulation));
    });
}

#[test]
fn with_a_hog_the_others_get_what_they_send() {
    with_seeds(10, |seed| {
        let when_full = choice(seed, [WhenFull::Park, WhenFull::Drop]);
        let spec = Spec { when_full, ..DEAR };
        let mut all = flows(21, Rate::Steady(200.0));
        // A hundred times their rate, and heavier than the stages can carry.
        all[20] = Flow { rate: Rate::Steady(20_000.0), segments: 4, ..all[20] };
        let mut simulation = Simulation::new(seed, 2, &[spec; 2], &all);
        simulation.run_until(Duration::from_secs(2));
        simulation.drain(Duration::from_secs(5));
        let (hog, others) = simulation.delivered.split_last().unwrap();
        assert!(hog.dropped > 0, "it sends too much");
        for flow in others {
            assert!(flow.count * 100 >= flow.sent * 95, "{when_full:?}: {flow:?}");
        }
    });
}

#[test]
fn equal_flows_get_equal_shares_of_what_there_is() {
    with_seeds(5, |seed| {
        let mut simulation = Simulation::new(seed, 2, &[DEAR; 2], &flows(40, Rate::Steady(2_000.0)));
        simulation.run_until(Duration::from_secs(2));
        let counts: Vec<f64> = simulation.delivered.iter().map(|flow| flow.segments as f64).collect();
        let (sum, squares) =
            counts.iter().fold((0.0, 0.0), |(sum, squares), count| (sum + count, squares + count * count));
        let jain = sum * sum / (counts.len() as f64 * squares);
        assert!(jain > 0.99, "Jain's index {jain}");
    });
}

#[test]
fn a_stage_that_stalls_is_caught_up_with() {
    let stall = Some((Duration::from_millis(300), Duration::from_millis(500)));
    let stalls = Spec { stall, rule: Rule::Never, ..SPEC };
    let ramp = Rate::Ramp { over: Duration::from_secs(1), from: 100.0, to: 2_000.0 };
    with_seeds(5, |seed| {
        let mut simulation = Simulation::new(seed, 4, &[SPEC, stalls, SPEC], &flows(16, ramp));
        simulation.run_until(Duration::from_secs(1));
        simulation.drain(Duration::from_secs(5));
        assert_eq!((disorder(&simulation), simulation.is_quiet()), (0, true));
        let longest = simulation.stages[1].sojourns.iter().max().copied().unwrap_or_default();
        assert!(longest >= Duration::from_millis(100), "it was stalled: {longest:?}");
    });
}

/// A sparse flow beside one that sends twice what the stage carries, in one lane of queues of kind `Q`.
fn sparse_beside_bulk<Q: Queue<Item = Item>>(seed: u64) -> Vec<Delivered> {
    let [sparse, bulk] = [100.0, 46_000.0].map(|rate| Flow { lane: LaneId(0), segments: 1, rate: Rate::Steady(rate) });
    let spec = Spec { threads: (1, 1), when_full: WhenFull::Drop, sojourn_max: None, ..DEAR };
    let mut simulation = super::Simulation::<Q>::new(seed, 1, &[spec], &[sparse, bulk]);
    simulation.run_until(Duration::from_secs(1));
    simulation.drain(Duration::from_secs(5));
    assert!(simulation.is_quiet(), "something waits for ever");
    for flow in &simulation.delivered {
        assert_eq!((flow.sent, flow.disorder), (flow.count + flow.dropped, 0));
    }
    simulation.delivered
}

#[test]
fn with_a_queue_a_flow_a_sparse_one_waits_for_no_more_than_the_batches_at_work() {
    with_seeds(10, |seed| {
        let [sparse, bulk] = sparse_beside_bulk::<FqCodel<Item>>(seed)[..] else { panic!("two flows") };
        assert!(sparse.dropped == 0 && bulk.dropped > 10_000, "{sparse:?} {bulk:?}");
        // A batch is 32 segments of 40 µs, and up to half as much again: one at work, and its own.
        assert!(Duration::from_nanos(sparse.latency_max) < Duration::from_millis(5), "{sparse:?}");
        let fifo = sparse_beside_bulk::<Fifo<Item>>(seed)[0];
        assert!(Duration::from_nanos(fifo.latency_max) > Duration::from_millis(30), "{fifo:?}");
    });
}
