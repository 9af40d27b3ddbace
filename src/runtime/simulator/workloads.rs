//! The workloads that the controllers must hold under, each with many seeds. `SEED=7 cargo test workloads` replays one.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use super::super::queue::Fifo;
use super::*;

/// A packet takes long here, so that many seconds of overload need few events. Two cores carry about 4,900 a second.
const SPEC: Spec = Spec {
    lanes: 64,
    limits: Limits { segments: 2_048, held_bytes: 1 << 30 },
    quota: Quota { segments: 32, lane_bytes: 1 << 20 },
    threads: (1, 4),
    rule: Rule::Auto,
    when_full: WhenFull::Drop,
    sojourn_max: Some(SOJOURN_MAX),
    batch_cost: Duration::from_micros(5),
    segment_cost: Duration::from_micros(400),
    stall: None,
    has_lane_rule: true,
};

const SOJOURN_MAX: Duration = Duration::from_millis(5);

const CORES: usize = 2;

/// What two cores carry, in packets a second.
const CAPACITY: f64 = 4_900.0;

/// After a step of load, waits may be long for so long.
const AFTER_STEP: Duration = Duration::from_secs(1);

/// The seeds of a workload: `SEED`, or as many as are worth their time.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..count).collect(),
    }
}

/// `count` flows, one a lane, that together send `load` times what the cores carry.
fn flows(count: u32, rate: impl Fn(f64) -> Rate, load: f64) -> Vec<Flow> {
    let each = rate(load * CAPACITY / f64::from(count));
    (0..count).map(|lane| Flow { lane: LaneId(lane), segments: 1, rate: each }).collect()
}

struct Workload<'a> {
    specs: &'a [Spec],
    flows: Vec<Flow>,
    /// When the load changed last, and when it ends.
    changed: Duration,
    end: Duration,
    /// Stages that are held back by a later one: their lanes wait for it, whatever they admit themselves.
    held_back: usize,
}

/// Runs a workload and holds it to what every workload must keep: nothing is lost uncounted or overtaken, nothing waits
/// for ever, and once the load is steady for a second, waits keep their bound and the pools their size.
fn run(seed: u64, workload: &Workload<'_>) -> Simulation<Fifo<Item>> {
    let mut simulation = Simulation::<Fifo<Item>>::new(seed, CORES, workload.specs, &workload.flows);
    simulation.run_until(workload.changed + AFTER_STEP);
    simulation.changes.clear();
    simulation.stages.iter_mut().for_each(|stage| stage.sojourns.clear());
    simulation.run_until(workload.end);
    assert!(simulation.changes.len() <= 1, "SEED={seed}: {:?}", simulation.changes);
    // A packet here takes a tenth of the bound, and what waits for the one thread may be behind two such batches.
    for (at, stage) in simulation.stages.iter_mut().enumerate().skip(workload.held_back) {
        let p99 = quantile(&mut stage.sojourns, 99);
        assert!(
            p99 <= SOJOURN_MAX + SOJOURN_MAX / 2,
            "SEED={seed}: stage {at} has p99 {p99:?}, admits {}",
            stage.lanes.limits().segments
        );
    }
    simulation.drain(Duration::from_secs(20));
    assert!(simulation.is_quiet(), "SEED={seed}: something waits for ever");
    for flow in &simulation.delivered {
        assert_eq!((flow.sent, flow.disorder), (flow.count + flow.dropped, 0), "SEED={seed}");
    }
    simulation
}

fn quantile(sojourns: &mut [Duration], percent: usize) -> Duration {
    sojourns.sort_unstable();
    sojourns.get(sojourns.len() * percent / 100).copied().unwrap_or_default()
}

/// Packets that came out, in packets a second.
fn goodput(simulation: &Simulation<Fifo<Item>>, time: Duration) -> f64 {
    simulation.delivered.iter().map(|flow| flow.count as f64).sum::<f64>() / time.as_secs_f64()
}

#[test]
fn a_step_into_overload_is_answered_within_half_a_second_and_waits_keep_their_bound() {
    let (at, end) = (Duration::from_millis(300), Duration::from_millis(2_500));
    for seed in seeds(40) {
        let step = |after| Rate::Step { at, before: after / 10.0, after };
        let all = flows(16, step, 2.0);
        let mut early = Simulation::<Fifo<Item>>::new(seed, CORES, &[SPEC], &all);
        early.run_until(at + Duration::from_millis(500));
        assert_eq!(early.stages[0].threads, CORES, "SEED={seed}: as many threads as cores, and no more");
        let simulation = run(seed, &Workload { specs: &[SPEC], flows: all, changed: at, end, held_back: 0 });
        let expected = CAPACITY * (end - at).as_secs_f64() / end.as_secs_f64();
        assert!(goodput(&simulation, end) >= 0.95 * expected, "SEED={seed}: {}", goodput(&simulation, end));
        let mean = simulation.delivered.iter().map(|flow| flow.count as f64).sum::<f64>() / 16.0;
        for flow in &simulation.delivered {
            let share = flow.count as f64 / mean;
            assert!((0.85..=1.15).contains(&share), "SEED={seed}: a share of {share}");
        }
    }
}

#[test]
fn a_ramp_into_overload_and_bursts_keep_the_bound() {
    for seed in seeds(30) {
        let ramp = |to| Rate::Ramp { over: Duration::from_secs(1), from: 0.0, to };
        let end = Duration::from_millis(2_500);
        run(
            seed,
            &Workload {
                specs: &[SPEC, SPEC],
                flows: flows(16, ramp, 1.5),
                changed: Duration::from_millis(800),
                end,
                held_back: 0,
            },
        );
        // Bursts of 100 ms, each twice what the cores carry.
        let bursts = |rate| Rate::Bursts { rate, on: Duration::from_millis(100), off: Duration::from_millis(100) };
        let mut simulation = Simulation::<Fifo<Item>>::new(seed, CORES, &[SPEC], &flows(16, bursts, 2.0));
        simulation.run_until(Duration::from_secs(2));
        assert!(simulation.changes.len() <= 2, "SEED={seed}: {:?}", simulation.changes);
        simulation.drain(Duration::from_secs(5));
        assert!(simulation.is_quiet(), "SEED={seed}");
    }
}

#[test]
fn a_stage_that_stalls_for_200_ms_is_back_within_its_bound_a_second_later() {
    let stall = (Duration::from_millis(500), Duration::from_millis(700));
    for seed in seeds(30) {
        let specs = [SPEC, Spec { stall: Some(stall), segment_cost: Duration::from_micros(100), ..SPEC }];
        let all = flows(16, Rate::Steady, 0.5);
        run(
            seed,
            &Workload { specs: &specs, flows: all, changed: stall.1, end: Duration::from_millis(2_500), held_back: 0 },
        );
    }
}

#[test]
fn a_stage_that_is_ten_times_slower_holds_the_others_back_or_drops_and_each_keeps_its_bound() {
    let fast = Spec { segment_cost: Duration::from_micros(40), ..SPEC };
    for seed in seeds(40) {
        let when_full = if seed % 2 == 0 { WhenFull::Park } else { WhenFull::Drop };
        let specs = [fast, Spec { when_full, ..SPEC }, Spec { when_full, ..fast }];
        let all = flows(16, Rate::Steady, 1.5);
        let held_back = usize::from(when_full == WhenFull::Park);
        let end = Duration::from_secs(2);
        run(seed, &Workload { specs: &specs, flows: all, changed: Duration::ZERO, end, held_back });
    }
}

#[test]
fn beside_a_hog_at_a_hundred_times_their_rate_the_others_get_what_they_send() {
    for seed in seeds(30) {
        let mut all = flows(21, Rate::Steady, 0.42);
        all[20].rate = Rate::Steady(100.0 * 0.02 * CAPACITY);
        let simulation = run(
            seed,
            &Workload {
                specs: &[SPEC],
                flows: all,
                changed: Duration::ZERO,
                end: Duration::from_secs(2),
                held_back: 0,
            },
        );
        let (hog, others) = simulation.delivered.split_last().unwrap();
        assert!(hog.dropped > 0, "SEED={seed}: it sends too much");
        let (sent, count) = others.iter().fold((0, 0), |(sent, count), flow| (sent + flow.sent, count + flow.count));
        assert!(count * 100 >= sent * 95, "SEED={seed}: {count} of {sent}");
    }
}

#[test]
fn with_ten_thousand_tethers_overload_keeps_the_bound_and_the_stage_its_work() {
    for seed in seeds(8) {
        let specs = [Spec { lanes: 10_000, ..SPEC }];
        let all = flows(10_000, Rate::Steady, 2.0);
        let end = Duration::from_secs(2);
        let simulation = run(seed, &Workload { specs: &specs, flows: all, changed: Duration::ZERO, end, held_back: 0 });
        assert!(goodput(&simulation, end) >= 0.93 * CAPACITY, "SEED={seed}: {}", goodput(&simulation, end));
    }
}

#[test]
fn with_ten_thousand_tethers_that_wait_for_room_hardly_more_than_a_batch_is_taken_up_before_there_is_some() {
    for seed in seeds(8) {
        let fast = Spec { lanes: 10_000, segment_cost: Duration::from_micros(1), when_full: WhenFull::Park, ..SPEC };
        let specs = [fast, Spec { when_full: WhenFull::Park, lanes: 10_000, ..SPEC }];
        let all = flows(10_000, Rate::Steady, 2.0);
        let end = Duration::from_secs(2);
        let simulation = run(seed, &Workload { specs: &specs, flows: all, changed: Duration::ZERO, end, held_back: 1 });
        let (left_over, threads) = (simulation.stages[0].leftovers_max, specs[0].threads.1);
        assert!(left_over <= threads * fast.quota.segments as usize, "SEED={seed}: {left_over} lanes");
        assert!(goodput(&simulation, end) >= 0.93 * CAPACITY, "SEED={seed}: {}", goodput(&simulation, end));
    }
}

#[test]
fn under_any_steady_load_a_pool_changes_at_most_once_in_ten_seconds() {
    for seed in seeds(24) {
        let load = Random::new(seed ^ 0x5eed).fraction() * 2.0;
        let all = flows(8, Rate::Steady, load);
        run(
            seed,
            &Workload {
                specs: &[SPEC],
                flows: all,
                changed: Duration::ZERO,
                end: Duration::from_secs(11),
                held_back: 0,
            },
        );
    }
}

#[test]
fn beside_many_that_are_held_back_a_sparse_one_waits_for_some_batches_and_not_for_a_turn_of_each() {
    const HOGS: u32 = 200;
    for seed in seeds(10) {
        let slow = Spec { lanes: HOGS + 1, when_full: WhenFull::Park, ..SPEC };
        // As links are: what waits there is bounded by their credit alone.
        let limits = Limits { segments: 16_384, ..SPEC.limits };
        let links = Spec { segment_cost: Duration::from_micros(1), sojourn_max: None, limits, ..slow };
        let specs = [links, Spec { segment_cost: Duration::from_micros(10), ..slow }, slow];
        let mut all = flows(HOGS, Rate::Steady, 3.0);
        all.push(Flow { lane: LaneId(HOGS), segments: 1, rate: Rate::Steady(5.0) });
        let mut simulation = Simulation::<Fifo<Item>>::new(seed, CORES, &specs, &all);
        // Who is sparse is known once there was a while before.
        simulation.run_until(Duration::from_secs(6));
        simulation.delivered.iter_mut().for_each(|flow| flow.latency_max = 0);
        simulation.run_until(Duration::from_secs(12));
        let (sparse, hogs) = simulation.delivered.split_last().unwrap();
        let [of_sparse, of_hogs] = [sparse.latency_max, hogs[0].latency_max].map(Duration::from_nanos);
        // A turn of each is 800 packets or more: 0.16 s.
        assert!(of_sparse < Duration::from_millis(80), "SEED={seed}: {of_sparse:?}");
        assert!(of_hogs > Duration::from_millis(500), "SEED={seed}: {of_hogs:?}, so nobody is held back");
        assert!(sparse.dropped == 0 && sparse.count + 2 >= sparse.sent, "SEED={seed}: {sparse:?}");
    }
}
