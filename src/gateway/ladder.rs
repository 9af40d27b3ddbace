//! The ladder: what a gateway goes without under lasting overload, a rung at a time, and when it takes it up again.
//!
//! Pure: it is shown what is, with `now`, and says which step is taken.

use std::time::{Duration, Instant};

use crate::overload::{Cause, Rung};

/// When rungs are taken and left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long somebody must have lost by shedding, at every look, before the next rung is taken.
    pub climb_after: Duration,
    /// How long it must have been calm before a rung is left.
    pub leave_after: Duration,
    /// The part of the budget, in percent, from which on a rung is taken at once, from the lowest: memory does not wait.
    pub memory_percent: [u64; 3],
}

impl Settings {
    /// To climb takes longer than a burst or one bulk transfer's search for the rate, which the queues' own controllers deal
    /// with. To leave takes some round trips of those who were turned away, and less than to climb, so that nobody is kept out
    /// for long. The parts of the budget are a percent, or some, below the ceilings where it would itself refuse what the rung
    /// refuses: at the ceiling it would have refused with a little less held than that, and no rung would tell.
    pub const DEFAULT: Self =
        Self { climb_after: Duration::from_secs(5), leave_after: Duration::from_secs(2), memory_percent: [79, 84, 89] };
}

/// A rung is left only once so much less is held, in percent of the budget.
const MEMORY_MARGIN_PERCENT: u64 = 5;

/// What the ladder is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Memory that could not be given back at once.
    pub memory_bytes: u64,
    /// The budget.
    pub memory_limit_bytes: u64,
    /// Whether a stage sheds.
    pub sheds: bool,
}

/// A step by one rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The rung that is left.
    pub from: Rung,
    /// The rung that is taken.
    pub to: Rung,
    /// Why.
    pub cause: Cause,
}

/// The ladder.
#[derive(Debug)]
pub struct Ladder {
    settings: Settings,
    rung: Rung,
    /// Since when stages shed without a break, or since the last step that this led to.
    sheds_since: Option<Instant>,
    /// Since when there is enough for the rung below, or since the last step that this led to.
    calm_since: Option<Instant>,
}

impl Ladder {
    /// On the ground.
    pub fn new(settings: Settings) -> Self {
        Self { settings, rung: Rung::Calm, sheds_since: None, calm_since: None }
    }

    /// The rung now.
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// Looks at what is, and takes at most one step. It is asked again until it takes none.
    pub fn look(&mut self, now: Instant, seen: Observation) -> Option<Step> {
        let percent = percent(seen);
        self.sheds_since = if seen.sheds { Some(self.sheds_since.unwrap_or(now)) } else { None };
        if let Some(above) = self.rung.above() {
            if percent >= self.threshold(above) {
                return Some(self.step(above, Cause::Memory));
            }
            if has_lasted(self.sheds_since, now, self.settings.climb_after) {
                self.sheds_since = Some(now);
                return Some(self.step(above, Cause::Shedding));
            }
        }
        let below = self.rung.below()?;
        let is_calm = !seen.sheds && percent + MEMORY_MARGIN_PERCENT < self.threshold(self.rung);
        self.calm_since = if is_calm { Some(self.calm_since.unwrap_or(now)) } else { None };
        has_lasted(self.calm_since, now, self.settings.leave_after).then(|| {
            let step = self.step(below, Cause::Calm);
            self.calm_since = Some(now);
            step
        })
    }

    /// From which percentage on `rung` is taken.
    fn threshold(&self, rung: Rung) -> u64 {
        (rung as usize).checked_sub(1).map_or(0, |at| self.settings.memory_percent[at])
    }

    fn step(&mut self, to: Rung, cause: Cause) -> Step {
        self.calm_since = None;
        Step { from: std::mem::replace(&mut self.rung, to), to, cause }
    }
}

fn has_lasted(since: Option<Instant>, now: Instant, time: Duration) -> bool {
    since.is_some_and(|since| now.saturating_duration_since(since) >= time)
}

fn percent(seen: Observation) -> u64 {
    (u128::from(seen.memory_bytes) * 100 / u128::from(seen.memory_limit_bytes.max(1))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUIET: Observation = Observation { memory_bytes: 10, memory_limit_bytes: 100, sheds: false };
    const SHEDS: Observation = Observation { sheds: true, ..QUIET };

    fn holding(memory_bytes: u64) -> Observation {
        Observation { memory_bytes, ..QUIET }
    }

    /// Looks four times a second from `from` until `until`, in milliseconds, and tells the steps with their times.
    fn steps(
        ladder: &mut Ladder,
        start: Instant,
        (from, until): (u64, u64),
        seen: Observation,
    ) -> Vec<(u64, Rung, Cause)> {
        let looks = (from..until).step_by(250);
        let step = |ms| ladder.look(start + Duration::from_millis(ms), seen).map(|step| (ms, step.to, step.cause));
        looks.filter_map(step).collect()
    }

    #[test]
    fn lasting_overload_climbs_a_rung_at_a_time_and_calm_leaves_in_reverse_order() {
        let (mut ladder, start) = (Ladder::new(Settings::DEFAULT), Instant::now());
        assert_eq!(
            steps(&mut ladder, start, (0, 30_000), SHEDS),
            [
                (5_000, Rung::NoNewTethers, Cause::Shedding),
                (10_000, Rung::NoNewMappings, Cause::Shedding),
                (15_000, Rung::TrimLargest, Cause::Shedding),
            ]
        );
        assert_eq!(
            steps(&mut ladder, start, (30_000, 41_000), QUIET),
            [
                (32_000, Rung::NoNewMappings, Cause::Calm),
                (34_000, Rung::NoNewTethers, Cause::Calm),
                (36_000, Rung::Calm, Cause::Calm),
            ]
        );
    }

    #[test]
    fn a_burst_takes_no_rung() {
        let (mut ladder, start) = (Ladder::new(Settings::DEFAULT), Instant::now());
        for burst in (0..20_000).step_by(1_000) {
            assert_eq!(steps(&mut ladder, start, (burst, burst + 750), SHEDS), []);
            assert_eq!(steps(&mut ladder, start, (burst + 750, burst + 1_000), QUIET), []);
        }
    }

    #[test]
    fn short_memory_takes_every_rung_that_it_calls_for_at_once() {
        for (held, rungs) in [(78, 0), (79, 1), (83, 1), (84, 2), (88, 2), (89, 3), (100, 3)] {
            let (mut ladder, now) = (Ladder::new(Settings::DEFAULT), Instant::now());
            let taken: Vec<Step> = std::iter::from_fn(|| ladder.look(now, holding(held))).collect();
            assert_eq!(taken.len(), rungs, "at {held} %");
            assert!(taken.iter().all(|step| step.cause == Cause::Memory && Some(step.to) == step.from.above()));
            assert_eq!(ladder.rung(), Rung::ALL[rungs]);
        }
    }

    #[test]
    fn a_rung_is_left_only_with_a_margin() {
        let (mut ladder, start) = (Ladder::new(Settings::DEFAULT), Instant::now());
        assert_eq!(steps(&mut ladder, start, (0, 250), holding(79)), [(0, Rung::NoNewTethers, Cause::Memory)]);
        assert_eq!(steps(&mut ladder, start, (250, 9_000), holding(74)), []);
        assert_eq!(steps(&mut ladder, start, (9_000, 12_000), holding(73)), [(11_000, Rung::Calm, Cause::Calm)]);
    }

    #[test]
    fn rungs_are_taken_and_left_by_the_settings() {
        let settings = Settings {
            climb_after: Duration::from_secs(1),
            leave_after: Duration::from_millis(500),
            memory_percent: [70, 70, 80],
        };
        let (mut ladder, start) = (Ladder::new(settings), Instant::now());
        assert_eq!(steps(&mut ladder, start, (0, 1_250), SHEDS), [(1_000, Rung::NoNewTethers, Cause::Shedding)]);
        assert_eq!(steps(&mut ladder, start, (1_250, 2_000), QUIET), [(1_750, Rung::Calm, Cause::Calm)]);
        for (held, rungs) in [(69, 0), (70, 2), (79, 2), (80, 3)] {
            let mut ladder = Ladder::new(settings);
            assert_eq!(std::iter::from_fn(|| ladder.look(start, holding(held))).count(), rungs, "at {held} %");
        }
    }

    #[test]
    fn calm_that_is_interrupted_begins_again() {
        let (mut ladder, start) = (Ladder::new(Settings::DEFAULT), Instant::now());
        assert_eq!(steps(&mut ladder, start, (0, 5_250), SHEDS), [(5_000, Rung::NoNewTethers, Cause::Shedding)]);
        assert_eq!(steps(&mut ladder, start, (5_250, 7_250), QUIET), []);
        assert_eq!(steps(&mut ladder, start, (7_250, 7_500), SHEDS), []);
        assert_eq!(steps(&mut ladder, start, (7_500, 10_000), QUIET), [(9_500, Rung::Calm, Cause::Calm)]);
    }

    proptest! {
        #[test]
        fn every_step_is_to_the_next_rung_and_calm_always_ends_on_the_ground(
            seen in proptest::collection::vec((0_u64..=100, any::<bool>(), 1_u64..3_000), 1..100),
        ) {
            let (mut ladder, mut now) = (Ladder::new(Settings::DEFAULT), Instant::now());
            for (memory_bytes, sheds, wait_ms) in seen {
                now += Duration::from_millis(wait_ms);
                let before = ladder.rung();
                if let Some(step) = ladder.look(now, Observation { memory_bytes, memory_limit_bytes: 100, sheds }) {
                    prop_assert_eq!((step.from, step.to), (before, ladder.rung()));
                    let next = if step.cause == Cause::Calm { before.below() } else { before.above() };
                    prop_assert_eq!(Some(step.to), next);
                }
            }
            for _ in 0..8 {
                now += Settings::DEFAULT.leave_after;
                ladder.look(now, QUIET);
            }
            prop_assert_eq!(ladder.rung(), Rung::Calm);
        }
    }
}
