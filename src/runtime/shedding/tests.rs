use super::*;
use crate::runtime::controller::LOOK_EVERY;

const BOUND: Duration = Duration::from_millis(5);
const CAPACITY: u64 = 4_096;

/// 20,000 segments a second are 400 a look, and 100 in the bound.
const DRAIN_A_LOOK: u64 = 400;
const LAW: u64 = 100;

struct Bench {
    shedding: Shedding,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { shedding: Shedding::new(Some(BOUND), CAPACITY), now: Instant::now() }
    }

    fn look(&mut self, sojourn_ms: u64, waiting_segments: u64, has_refused: bool) -> Verdict {
        self.now += LOOK_EVERY;
        let seen = Observation {
            sojourn_p99: Some(Duration::from_millis(sojourn_ms)),
            taken_segments: DRAIN_A_LOOK,
            waiting_segments,
            batch_segments: 4,
            largest_segments: 1,
            has_refused,
        };
        self.shedding.decide(self.now, seen)
    }

    /// A queue that has waited too long, so that it sheds.
    fn shedding() -> Self {
        let mut bench = Self::new();
        let verdicts: Vec<_> = (0..3).map(|_| bench.look(100, 2_000, true)).collect();
        assert_eq!(verdicts, [Verdict::Keep, Verdict::Less(LAW), Verdict::Keep]);
        bench
    }
}

#[test]
fn a_queue_that_waits_too_long_admits_what_is_served_within_the_bound() {
    let bench = Bench::shedding();
    assert_eq!((bench.shedding.admitted_segments(), bench.shedding.is_shedding()), (LAW, true));
}

#[test]
fn one_look_over_the_bound_changes_nothing() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        assert_eq!((bench.look(100, 50, false), bench.look(4, 50, false)), (Verdict::Keep, Verdict::Keep));
    }
}

#[test]
fn what_still_stands_above_the_limit_does_not_tighten_it_and_what_stands_within_does() {
    let mut bench = Bench::shedding();
    for waiting in [1_600, 1_200, 800, 400, LAW + 1] {
        assert_eq!(bench.look(50, waiting, true), Verdict::Keep, "{waiting}");
    }
    assert_eq!((bench.look(9, LAW, true), bench.look(9, LAW, true)), (Verdict::Keep, Verdict::Less(88)));
    // However unevenly lanes wait, it goes no further than a part of what the law allows.
    for _ in 0..100 {
        bench.look(9, 20, true);
    }
    assert_eq!(bench.shedding.admitted_segments(), LAW / UNEVEN_PART);
}

#[test]
fn a_wait_between_half_and_all_of_the_bound_leaves_it_as_it_is() {
    let mut bench = Bench::shedding();
    assert!((0..100).all(|_| bench.look(4, LAW, true) == Verdict::Keep));
}

#[test]
fn it_is_relaxed_step_by_step_while_it_refuses_and_at_once_when_nothing_does() {
    let mut bench = Bench::shedding();
    assert_eq!([bench.look(1, 20, true), bench.look(1, 20, true)], [Verdict::More(112), Verdict::More(126)]);
    let verdicts: Vec<_> = (0..7).map(|_| bench.look(1, 0, false)).collect();
    assert_eq!(verdicts[..2], [Verdict::More(252), Verdict::More(504)]);
    assert_eq!(verdicts[5..], [Verdict::More(CAPACITY), Verdict::Keep]);
    assert!(!bench.shedding.is_shedding());
}

#[test]
fn it_never_admits_less_than_the_largest_item_or_two_batches() {
    for (batch_segments, largest_segments, least) in [(1, 1, ADMITTED_MIN), (1, 45, 45), (64, 45, 128)] {
        let mut bench = Bench::new();
        for _ in 0..50 {
            bench.now += LOOK_EVERY;
            let seen = Observation {
                sojourn_p99: Some(10 * BOUND),
                taken_segments: 1,
                waiting_segments: 1,
                batch_segments,
                largest_segments,
                has_refused: true,
            };
            bench.shedding.decide(bench.now, seen);
        }
        assert_eq!(bench.shedding.admitted_segments(), least);
    }
}

#[test]
fn a_stage_that_serves_nothing_is_not_taken_for_one_that_waits_little() {
    let mut bench = Bench::shedding();
    for _ in 0..50 {
        bench.now += LOOK_EVERY;
        let seen = Observation {
            sojourn_p99: None,
            taken_segments: 0,
            waiting_segments: LAW,
            batch_segments: 1,
            largest_segments: 1,
            has_refused: true,
        };
        assert_eq!(bench.shedding.decide(bench.now, seen), Verdict::Keep);
    }
}

#[test]
fn without_a_bound_all_is_admitted() {
    let mut bench = Bench { shedding: Shedding::new(None, CAPACITY), now: Instant::now() };
    assert!((0..50).all(|_| bench.look(1_000, CAPACITY, true) == Verdict::Keep));
}
