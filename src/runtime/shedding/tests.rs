use super::*;
use crate::runtime::controller::LOOK_EVERY;

const BOUND: Duration = Duration::from_millis(5);
const CAPACITY: u64 = 4_096;

/// 20,000 segments a second are 400 a look, 100 in the bound, and of that 60 are admitted.
const DRAIN_A_LOOK: u64 = 400;
const LAW: u64 = 60;
const ABLE: u64 = 20_000;

struct Bench {
    shedding: Shedding,
    now: Instant,
    turned_away_segments: u64,
}

impl Bench {
    fn new() -> Self {
        Self { shedding: Shedding::new(Some(BOUND), CAPACITY), now: Instant::now(), turned_away_segments: 0 }
    }

    fn look(&mut self, sojourn_ms: u64, waiting_segments: u64) -> Verdict {
        self.look_at(sojourn_ms, waiting_segments, DRAIN_A_LOOK)
    }

    fn look_at(&mut self, sojourn_ms: u64, waiting_segments: u64, taken_segments: u64) -> Verdict {
        self.now += LOOK_EVERY;
        let seen = Observation {
            sojourn_p99: Some(Duration::from_millis(sojourn_ms)),
            turned_away_segments: self.turned_away_segments,
            taken_segments,
            waiting_segments,
            largest_segments: 1,
            able_segments_per_second: ABLE,
        };
        self.shedding.decide(self.now, seen)
    }

    /// A queue that has waited too long, so that it sheds.
    fn shedding() -> Self {
        let mut bench = Self::new();
        let verdicts: Vec<_> = (0..3).map(|_| bench.look(100, 0)).collect();
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
        let verdicts = [bench.look(100, 50), bench.look(4, 50)];
        assert_eq!(verdicts, [Verdict::Keep; 2]);
    }
}

#[test]
fn a_full_queue_that_is_over_the_bound_needs_no_second_look() {
    for (waiting, expected) in [(3_071, Verdict::Keep), (3_072, Verdict::Less(3_072 + LAW))] {
        let mut bench = Bench::new();
        assert_eq!([bench.look(1, 10), bench.look(100, waiting)], [Verdict::Keep, expected]);
    }
}

#[test]
fn however_long_some_wait_it_goes_no_further_than_the_law() {
    let mut bench = Bench::shedding();
    for waiting in [1_600, 1_200, LAW + 1, LAW, LAW, 20, 20, 20] {
        assert_eq!(bench.look(50, waiting), Verdict::Keep, "{waiting}");
    }
    // Served at half the pace, it allows less.
    bench.shedding.drain_segments_per_second /= 2;
    let verdicts: Vec<_> = (0..2).map(|_| bench.look_at(50, 20, DRAIN_A_LOOK / 2)).collect();
    assert_eq!(verdicts, [Verdict::Less(LAW / 2 + 20), Verdict::Less(LAW / 2)]);
}

#[test]
fn a_queue_that_holds_much_comes_down_in_steps_so_that_those_who_hold_nothing_find_room() {
    let mut bench = Bench::new();
    let waiting = [1_500, 1_500, 1_400, 1_200, 1_000];
    let verdicts: Vec<_> = waiting.into_iter().map(|waiting| bench.look(100, waiting)).collect();
    let [a, b, c, d] = [1_500, 1_300, 1_100, 900].map(|waiting| Verdict::Less(waiting + LAW));
    assert_eq!(verdicts, [Verdict::Keep, a, b, c, d]);
    assert_eq!((0..20).map(|_| bench.look(4, LAW)).last(), Some(Verdict::Keep));
    assert_eq!(bench.shedding.admitted_segments(), LAW);
}

#[test]
fn a_wait_between_half_and_all_of_the_bound_leaves_it_as_it_is() {
    let mut bench = Bench::shedding();
    assert!((0..100).all(|_| bench.look(4, LAW) == Verdict::Keep));
}

#[test]
fn it_is_relaxed_step_by_step_to_what_the_law_allows_and_ends_after_a_quiet_second() {
    let mut bench = Bench::shedding();
    // A stage that was slow for a while allowed less.
    (bench.shedding.admitted_segments, bench.shedding.target_segments) = (48, 48);
    let verdicts = [bench.look(1, 20), bench.look(1, 20), bench.look(1, 20)];
    assert_eq!(verdicts, [Verdict::More(54), Verdict::More(LAW), Verdict::Keep]);
    let mut more = (3..200).map(|_| bench.look(1, 0)).filter(|verdict| *verdict != Verdict::Keep);
    assert_eq!(more.next(), Some(Verdict::More(2 * LAW)));
    assert_eq!(more.last(), Some(Verdict::More(CAPACITY)));
    assert!(!bench.shedding.is_shedding());
}

#[test]
fn it_never_admits_less_than_the_largest_item() {
    for (largest_segments, least) in [(1, ADMITTED_MIN), (45, 45)] {
        let mut bench = Bench::new();
        for _ in 0..50 {
            bench.now += LOOK_EVERY;
            let seen = Observation {
                sojourn_p99: Some(10 * BOUND),
                turned_away_segments: 0,
                taken_segments: 1,
                waiting_segments: 1,
                largest_segments,
                able_segments_per_second: 50,
            };
            bench.shedding.decide(bench.now, seen);
        }
        assert_eq!(bench.shedding.admitted_segments(), least);
    }
}

#[test]
fn the_largest_item_is_forgotten_within_a_second_of_the_last_of_its_size() {
    let sizes: Vec<u32> =
        std::iter::successors(Some(1_364), |largest| Some(largest - forgotten_segments(*largest))).take(51).collect();
    assert_eq!((sizes[1], sizes[50]), (1_193, 1));
    assert_eq!(forgotten_segments(0), 0);
}

#[test]
fn a_stage_that_serves_nothing_is_not_taken_for_one_that_waits_little() {
    let mut bench = Bench::shedding();
    for _ in 0..50 {
        bench.now += LOOK_EVERY;
        let seen = Observation {
            sojourn_p99: None,
            turned_away_segments: 0,
            taken_segments: 0,
            waiting_segments: LAW,
            largest_segments: 1,
            able_segments_per_second: ABLE,
        };
        assert_eq!(bench.shedding.decide(bench.now, seen), Verdict::Keep);
    }
}

#[test]
fn without_a_bound_all_is_admitted() {
    let mut bench = Bench { shedding: Shedding::new(None, CAPACITY), now: Instant::now(), turned_away_segments: 0 };
    assert!((0..50).all(|_| bench.look(1_000, CAPACITY) == Verdict::Keep));
}

#[test]
fn a_stage_that_has_had_little_to_do_is_not_taken_for_a_slow_one() {
    let mut bench = Bench::new();
    // Nothing ever waits at a look, and only a few come: what the stage could do counts, not what it did.
    (0..50).for_each(|_| assert_eq!(bench.look_at(1, 0, 2), Verdict::Keep));
    let verdicts: Vec<_> = (0..2).map(|_| bench.look_at(100, 0, 2)).collect();
    assert_eq!(verdicts, [Verdict::Keep, Verdict::Less(LAW)]);
}

#[test]
fn what_threads_are_able_to_serve_follows_from_the_service_time() {
    for (threads, service_us, able) in [(1, 50, 20_000), (2, 50, 40_000), (1, 0, 0)] {
        assert_eq!(able_segments_per_second(threads, Duration::from_micros(service_us)), able);
    }
}

#[test]
fn a_queue_holds_at_most_a_few_bounds_of_work_by_what_its_stage_could_serve() {
    let mut shedding = Shedding::new(Some(BOUND), CAPACITY);
    assert_eq!(shedding.hold(0), None, "nothing is known yet");
    assert_eq!(shedding.hold(100_000), Some(CEILING_BOUNDS * 500));
    assert_eq!((shedding.hold(100_000), shedding.is_shedding()), (None, false));
    assert_eq!(shedding.hold(1_000), Some(CEILING_BOUNDS * 437), "a moment of slow service is hardly believed");
    let lasts: Vec<_> = (0..30).filter_map(|_| shedding.hold(1_000)).collect();
    assert!(lasts.is_sorted_by(|more, less| more > less), "{lasts:?}");
    assert_eq!(lasts.last(), Some(&CEILING_MIN), "not less than a burst");
    assert_eq!(shedding.hold(1_000_000), Some(CAPACITY), "10,000 are more than it was given");
}

#[test]
fn a_queue_that_sheds_keeps_what_it_admits_while_that_is_less_than_it_may_hold() {
    let mut bench = Bench::shedding();
    assert_eq!(bench.shedding.hold(100_000), None);
    assert_eq!((bench.shedding.admitted_segments(), bench.shedding.is_shedding()), (LAW, true));
    assert_eq!(Shedding::new(None, CAPACITY).hold(1_000), None, "without a bound it holds what it was given");
}

#[test]
fn while_others_are_turned_away_a_short_wait_is_no_quiet() {
    let mut bench = Bench::shedding();
    bench.turned_away_segments = 1;
    assert!((0..200).all(|_| bench.look(1, 20) == Verdict::Keep), "it admits what the law allows, and no more");
    bench.turned_away_segments = 0;
    let looks = (0..200).position(|_| bench.look(1, 20) != Verdict::Keep);
    assert_eq!(looks, Some(LOOKS_TO_END as usize - 1));
}
