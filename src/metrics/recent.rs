//! How long packets waited of late: the stages' histograms are since the start, and tell little of now.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::figures::Snapshot;
use super::{Metrics, StageMetrics};

/// How far back "of late" reaches: long enough for the p99 of a stage with little to do, short enough to be about now.
pub const RECENT: Duration = Duration::from_secs(5);

/// How often a snapshot is taken: what is told is of [`RECENT`], and of this much more at most.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Snapshots of every stage's time in the queue, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Past(Mutex<VecDeque<(Instant, Vec<Snapshot>)>>);

impl Metrics {
    /// Takes a snapshot where the last one is old enough, and forgets those that are older than need be. Who serves the
    /// figures does so every [`LOOK_EVERY`].
    pub fn look(&self, now: Instant) {
        let mut past = self.past.0.lock().unwrap_or_else(PoisonError::into_inner);
        if past.back().is_some_and(|(at, _)| now.saturating_duration_since(*at) < LOOK_EVERY) {
            return;
        }
        past.push_back((now, self.stages.iter().map(|stage| stage.sojourn_seconds.snapshot()).collect()));
        while past.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= RECENT) {
            past.pop_front();
        }
    }

    /// The times in each stage's queue of late; since the start, where that was not longer ago.
    pub fn recent_sojourns(&self, now: Instant) -> Vec<Snapshot> {
        let past = self.past.0.lock().unwrap_or_else(PoisonError::into_inner);
        let then = past.front().filter(|(at, _)| now.saturating_duration_since(*at) >= RECENT);
        let since = |(at, stage): (usize, &Arc<StageMetrics>)| {
            let mut last = then.and_then(|(_, snapshots)| snapshots.get(at).cloned()).unwrap_or_default();
            let mut since = Snapshot::default();
            stage.sojourn_seconds.advance(&mut last, &mut since);
            since
        };
        self.stages.iter().enumerate().map(since).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::GatewayMetrics;

    #[test]
    fn waits_are_told_from_the_start_at_first_and_of_the_last_seconds_from_then_on() {
        let stage = StageMetrics::new("ip-parse", "uplink", &[]);
        let (metrics, start) = (Metrics::new(vec![Arc::clone(&stage)], GatewayMetrics::new(&[])), Instant::now());
        let counts = |now| metrics.recent_sojourns(now)[0].count();
        for second in 0..20 {
            let now = start + second * LOOK_EVERY;
            metrics.look(now);
            stage.sojourn_seconds.observe_n(Duration::from_millis(2), 10);
            metrics.look(now + LOOK_EVERY / 2);
            assert_eq!(counts(now), 10 * u64::from(second + 1).min(RECENT.as_secs() + 1), "in second {second}");
        }
        let later = start + 20 * LOOK_EVERY;
        (0..=5).for_each(|second| metrics.look(later + second * LOOK_EVERY));
        assert_eq!(counts(later + RECENT), 0, "what was is over");
        assert_eq!(stage.sojourn_seconds.snapshot().count(), 200);
    }
}
