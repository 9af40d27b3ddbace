//! The workloads that the controllers must hold under, each with many seeds.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use super::super::queue::Fifo;
use super::seeds::with_seeds;
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
    /// The bound of every stage's sojourn at the 99th percentile.
    sojourn_p99_max: Duration,
}

/// The bound where how fast a stage is served is not its own affair: it shares the cores with another that has as much to
/// do, or what has no room waits in the stage before it, and is let in several at once. A packet takes a tenth of the
/// configured bound here, so a few that come at a bad time are half of it.
const SOJOURN_MAX_BESIDE_OTHERS: Duration = Duration::from_micros(7_500);

/// Runs a workload and holds it to what every workload must keep: nothing is lost uncounted or overtaken, nothing waits
/// for ever, memory is never more than there is and is all given back, and once the load is steady for a second, waits keep
/// their bound and the pools their size.
fn run(seed: u64, workload: &Workload<'_>) -> Simulation<Fifo<Item>> {
    run_within(Budget::undivided(BUDGET_BYTES), seed, workload)
}

fn run_within(budget: Budget, seed: u64, workload: &Workload<'_>) -> Simulation<Fifo<Item>> {
    let mut simulation = Simulation::<Fifo<Item>>::new(seed, CORES, workload.specs, &workload.flows);
    simulation.budget = budget;
    simulation.run_until(workload.changed + AFTER_STEP);
    simulation.changes.clear();
    simulation.stages.iter_mut().for_each(|stage| stage.sojourns.clear());
    simulation.run_until(workload.end);
    assert!(simulation.changes.len() <= 1, "{:?}", simulation.changes);
    for (at, stage) in simulation.stages.iter_mut().enumerate() {
        let p99 = quantile(&mut stage.sojourns, 99);
        assert!(
            p99 <= workload.sojourn_p99_max,
            "stage {at} has p99 {p99:?}, admits {}",
            stage.lanes.limits().segments
        );
    }
    simulation.drain(Duration::from_secs(20));
    assert!(simulation.is_quiet(), "something waits for ever");
    for flow in &simulation.delivered {
        assert_eq!((flow.sent, flow.disorder), (flow.count + flow.dropped, 0));
    }
    assert!(simulation.held_bytes_max <= simulation.budget.limit_bytes(), "{} bytes", simulation.held_bytes_max);
    assert_eq!(simulation.budget.held_bytes(), 0);
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
    with_seeds(40, |seed| {
        let step = |after| Rate::Step { at, before: after / 10.0, after };
        let all = flows(16, step, 2.0);
        let mut early = Simulation::<Fifo<Item>>::new(seed, CORES, &[SPEC], &all);
        early.run_until(at + Duration::from_millis(500));
        assert_eq!(early.stages[0].threads, CORES, "as many threads as cores, and no more");
        let simulation =
            run(seed, &Workload { specs: &[SPEC], flows: all, changed: at, end, sojourn_p99_max: SOJOURN_MAX });
        let expected = CAPACITY * (end - at).as_secs_f64() / end.as_secs_f64();
        assert!(goodput(&simulation, end) >= 0.95 * expected, "{}", goodput(&simulation, end));
        let mean = simulation.delivered.iter().map(|flow| flow.count as f64).sum::<f64>() / 16.0;
        for flow in &simulation.delivered {
            let share = flow.count as f64 / mean;
            assert!((0.85..=1.15).contains(&share), "a share of {share}");
        }
    });
}

#[test]
fn once_overload_ends_waits_are_short_at_once_all_is_admitted_after_a_second_and_the_pool_shrinks_later() {
    let at = Duration::from_secs(2);
    with_seeds(20, |seed| {
        let step = |before| Rate::Step { at, before, after: before / 40.0 };
        let mut simulation = Simulation::<Fifo<Item>>::new(seed, CORES, &[SPEC], &flows(16, step, 2.0));
        let dropped =
            |simulation: &Simulation<Fifo<Item>>| -> u64 { simulation.delivered.iter().map(|flow| flow.dropped).sum() };
        simulation.run_until(at);
        let admitted = simulation.stages[0].lanes.limits().segments;
        assert!(simulation.stages[0].shedding.is_shedding() && dropped(&simulation) > 0);
        // What was admitted is served within the bound.
        simulation.run_until(at + 2 * SOJOURN_MAX);
        simulation.stages[0].sojourns.clear();
        let dropped_before = dropped(&simulation);
        simulation.run_until(at + Duration::from_millis(500));
        let p99 = quantile(&mut simulation.stages[0].sojourns, 99);
        assert!(p99 <= SOJOURN_MAX && dropped(&simulation) == dropped_before, "p99 {p99:?}");
        // It must have been calm for a second before as much is admitted as ever, and that comes by and by.
        simulation.run_until(at + Duration::from_millis(1_200));
        let stage = &simulation.stages[0];
        assert!(!stage.shedding.is_shedding() && stage.lanes.limits().segments > 5 * admitted, "{:?}", stage.shedding);
        assert_eq!(stage.threads, CORES, "a pause would not cost it its threads");
        // In the first of the pool's whiles there was overload, too.
        simulation.run_until(at + 2 * controller::Settings::DEFAULT.shrink_after);
        assert_eq!((simulation.stages[0].threads, dropped(&simulation)), (SPEC.threads.0, dropped_before));
    });
}

#[test]
fn a_ramp_into_overload_and_bursts_keep_the_bound() {
    with_seeds(30, |seed| {
        let ramp = |to| Rate::Ramp { over: Duration::from_secs(1), from: 0.0, to };
        let end = Duration::from_millis(2_500);
        run(
            seed,
            &Workload {
                specs: &[SPEC, SPEC],
                flows: flows(16, ramp, 1.5),
                changed: Duration::from_millis(800),
                end,
                sojourn_p99_max: SOJOURN_MAX_BESIDE_OTHERS,
            },
        );
        // Bursts of 100 ms, each twice what the cores carry.
        let bursts = |rate| Rate::Bursts { rate, on: Duration::from_millis(100), off: Duration::from_millis(100) };
        let mut simulation = Simulation::<Fifo<Item>>::new(seed, CORES, &[SPEC], &flows(16, bursts, 2.0));
        simulation.run_until(Duration::from_secs(2));
        assert!(simulation.changes.len() <= 2, "{:?}", simulation.changes);
        simulation.drain(Duration::from_secs(5));
        assert!(simulation.is_quiet());
    });
}

#[test]
fn a_stage_that_stalls_for_200_ms_is_back_within_its_bound_a_second_later() {
    let stall = (Duration::from_millis(500), Duration::from_millis(700));
    with_seeds(30, |seed| {
        let specs = [SPEC, Spec { stall: Some(stall), segment_cost: Duration::from_micros(100), ..SPEC }];
        let all = flows(16, Rate::Steady, 0.5);
        run(
            seed,
            &Workload {
                specs: &specs,
                flows: all,
                changed: stall.1,
                end: Duration::from_millis(2_500),
                sojourn_p99_max: SOJOURN_MAX,
            },
        );
    });
}

#[test]
fn a_stage_that_is_ten_times_slower_holds_the_others_back_or_drops_and_each_keeps_its_bound() {
    let fast = Spec { segment_cost: Duration::from_micros(40), ..SPEC };
    with_seeds(40, |seed| {
        let (when_full, sojourn_p99_max) =
            if seed % 2 == 0 { (WhenFull::Park, SOJOURN_MAX_BESIDE_OTHERS) } else { (WhenFull::Drop, SOJOURN_MAX) };
        let specs = [fast, Spec { when_full, ..SPEC }, Spec { when_full, ..fast }];
        let all = flows(16, Rate::Steady, 1.5);
        let end = Duration::from_secs(2);
        run(seed, &Workload { specs: &specs, flows: all, changed: Duration::ZERO, end, sojourn_p99_max });
    });
}

#[test]
fn beside_a_hog_at_a_hundred_times_their_rate_the_others_get_what_they_send() {
    with_seeds(30, |seed| {
        let mut all = flows(21, Rate::Steady, 0.42);
        all[20].rate = Rate::Steady(100.0 * 0.02 * CAPACITY);
        let simulation = run(
            seed,
            &Workload {
                specs: &[SPEC],
                flows: all,
                changed: Duration::ZERO,
                end: Duration::from_secs(2),
                sojourn_p99_max: SOJOURN_MAX,
            },
        );
        let (hog, others) = simulation.delivered.split_last().unwrap();
        assert!(hog.dropped > 0, "it sends too much");
        for flow in others {
            assert!(flow.count * 100 >= flow.sent * 95, "{flow:?}");
        }
    });
}

#[test]
fn with_ten_thousand_tethers_overload_keeps_the_bound_and_the_stage_its_work_and_nobody_gets_nothing() {
    with_seeds(3, |seed| {
        let specs = [Spec { lanes: 10_000, ..SPEC }];
        let all = flows(10_000, Rate::Steady, 2.0);
        // Long enough that each sends some: twenty, at random, of which ten find room.
        let end = Duration::from_secs(20);
        let workload =
            Workload { specs: &specs, flows: all, changed: Duration::ZERO, end, sojourn_p99_max: SOJOURN_MAX };
        let simulation = run(seed, &workload);
        assert!(goodput(&simulation, end) >= 0.93 * CAPACITY, "{}", goodput(&simulation, end));
        let mut counts: Vec<_> = simulation.delivered.iter().map(|flow| flow.count).collect();
        counts.sort_unstable();
        let (least, hundredth, mean) = (counts[0], counts[counts.len() / 100], counts.iter().sum::<u64>() / 10_000);
        assert!(least >= 1, "somebody gets nothing");
        assert!(hundredth * 2 >= mean, "one in a hundred gets {hundredth} or less, of {mean} on average");
    });
}

#[test]
fn with_ten_thousand_tethers_that_wait_for_room_hardly_more_than_a_batch_is_taken_up_before_there_is_some() {
    with_seeds(8, |seed| {
        let fast = Spec { lanes: 10_000, segment_cost: Duration::from_micros(1), when_full: WhenFull::Park, ..SPEC };
        let specs = [fast, Spec { when_full: WhenFull::Park, lanes: 10_000, ..SPEC }];
        let all = flows(10_000, Rate::Steady, 2.0);
        let end = Duration::from_secs(2);
        let workload = Workload {
            specs: &specs,
            flows: all,
            changed: Duration::ZERO,
            end,
            sojourn_p99_max: SOJOURN_MAX_BESIDE_OTHERS,
        };
        let simulation = run(seed, &workload);
        let (left_over, threads) = (simulation.stages[0].leftovers_max, specs[0].threads.1);
        assert!(left_over <= threads * fast.quota.segments as usize, "{left_over} lanes");
        assert!(goodput(&simulation, end) >= 0.93 * CAPACITY, "{}", goodput(&simulation, end));
    });
}

#[test]
fn under_any_steady_load_a_pool_changes_at_most_once_in_ten_seconds() {
    with_seeds(24, |seed| {
        let load = Random::new(seed ^ 0x5eed).fraction() * 2.0;
        let all = flows(8, Rate::Steady, load);
        run(
            seed,
            &Workload {
                specs: &[SPEC],
                flows: all,
                changed: Duration::ZERO,
                end: Duration::from_secs(11),
                sojourn_p99_max: SOJOURN_MAX,
            },
        );
    });
}

/// What one flow comes to that sends so much a second, beside so many others of which each sends far more than it gets and
/// is held back.
fn beside_many_held_back(seed: u64, others: u32, segments: u32, rate: f64) -> Delivered {
    let slow = Spec { lanes: others + 1, when_full: WhenFull::Park, ..SPEC };
    // As links are: what waits there is bounded by their credit alone.
    let limits = Limits { segments: 16_384, ..SPEC.limits };
    let links = Spec { segment_cost: Duration::from_micros(1), sojourn_max: None, limits, ..slow };
    let specs = [links, Spec { segment_cost: Duration::from_micros(10), ..slow }, slow];
    let mut all = flows(others, Rate::Steady, 3.0);
    all.push(Flow { lane: LaneId(others), segments, rate: Rate::Steady(rate) });
    let mut simulation = Simulation::<Fifo<Item>>::new(seed, CORES, &specs, &all);
    // Who is sparse is known once there was a while before.
    simulation.run_until(Duration::from_secs(6));
    simulation.delivered.iter_mut().for_each(|flow| flow.latency_max = 0);
    simulation.run_until(Duration::from_secs(12));
    let of_others = Duration::from_nanos(simulation.delivered[0].latency_max);
    assert!(of_others > Duration::from_millis(500), "{of_others:?}, so nobody is held back");
    simulation.delivered[others as usize]
}

/// The longest that a tether waits which brings little, while the others are held back. A turn of each of two hundred is
/// 800 packets or more: 0.16 s.
const SPARSE_WAIT_MAX: Duration = Duration::from_millis(80);

#[test]
fn beside_many_that_are_held_back_a_sparse_one_waits_for_some_batches_and_not_for_a_turn_of_each() {
    with_seeds(10, |seed| {
        let sparse = beside_many_held_back(seed, 200, 1, 5.0);
        let waited = Duration::from_nanos(sparse.latency_max);
        assert!(waited < SPARSE_WAIT_MAX, "{waited:?}");
        assert!(sparse.dropped == 0 && sparse.count + 2 >= sparse.sent, "{sparse:?}");
    });
}

/// Nothing but control capsules comes from it. They end in the first stage, where its turn must come for them to be read.
#[test]
fn while_a_hundred_uplinks_are_held_back_the_acknowledgements_of_a_tether_that_only_downloads_are_read_in_time() {
    with_seeds(10, |seed| {
        let downloading = beside_many_held_back(seed, 100, 0, 50.0);
        let waited = Duration::from_nanos(downloading.latency_max);
        assert!(waited < SPARSE_WAIT_MAX, "{waited:?}");
        assert!(downloading.dropped == 0 && downloading.count + 1 >= downloading.sent, "{downloading:?}");
    });
}

/// What sixteen packets hold, of the two thousand that the queue admits here: a wait of 3 ms.
const SMALL_BUDGET_BYTES: u64 = 16 * 2_048;

#[test]
fn where_memory_is_short_overload_takes_no_more_than_there_is_and_the_stage_keeps_its_work() {
    with_seeds(20, |seed| {
        let specs = [Spec { sojourn_max: None, ..SPEC }];
        let (all, end) = (flows(16, Rate::Steady, 2.0), Duration::from_secs(3));
        let budget = Budget::undivided(SMALL_BUDGET_BYTES);
        let workload =
            Workload { specs: &specs, flows: all, changed: Duration::ZERO, end, sojourn_p99_max: SOJOURN_MAX };
        let simulation = run_within(budget, seed, &workload);
        assert!(simulation.budget.refused() > 0, "memory was short");
        assert!(goodput(&simulation, end) >= 0.95 * CAPACITY, "{}", goodput(&simulation, end));
    });
}
