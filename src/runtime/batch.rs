//! How much a stage takes at once: what is there, up to a limit that follows the service time.
//!
//! A batch is not interrupted: what comes meanwhile waits for all of it, and what stands last in it waits for all that
//! stands before. So a batch may take a small part of the bound on waiting. While a core is free nothing begins to wait
//! for one to fill; with none free, only what gathers does (`lanes/gathering.rs`).

use std::time::Duration;

/// One batch may take this part of the bound on a stage's sojourn: a packet that just missed one, and is last in the
/// next, has then spent half of the bound.
const PART_OF_SOJOURN: u32 = 4;

/// The most segments of a batch: `configured`, or as many as the stage serves in its part of `sojourn_max`, at
/// `segment_service` each. One at least. Without a bound, or before a service time is known, `configured`.
pub fn limit(configured: u32, sojourn_max: Option<Duration>, segment_service: Duration) -> u32 {
    let Some(time) = sojourn_max.map(|bound| bound / PART_OF_SOJOURN) else { return configured };
    let served = time.as_nanos().checked_div(segment_service.as_nanos()).unwrap_or(u128::MAX);
    u32::try_from(served).unwrap_or(u32::MAX).clamp(1, configured.max(1))
}

/// The most segments of a batch that runs on: as many as the stage serves in the same time. What comes in one piece,
/// super-packets above all, need not be taken apart because a configured batch is small.
pub fn run_on_limit(sojourn_max: Option<Duration>, segment_service: Duration) -> u32 {
    limit(u32::MAX, sojourn_max, segment_service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_at_most_a_quarter_of_the_bound_and_one_segment_at_least() {
        let bound = Some(Duration::from_millis(5));
        for (segment_us, expected) in [(0, 64), (1, 64), (19, 64), (50, 25), (500, 2), (1_300, 1), (100_000, 1)] {
            assert_eq!(limit(64, bound, Duration::from_micros(segment_us)), expected, "{segment_us} µs");
        }
    }

    #[test]
    fn what_runs_on_is_bounded_by_its_time_alone() {
        let bound = Some(Duration::from_millis(5));
        assert_eq!(run_on_limit(bound, Duration::from_micros(1)), 1_250);
        assert_eq!(run_on_limit(bound, Duration::from_micros(500)), 2);
        assert_eq!(run_on_limit(None, Duration::from_micros(1)), u32::MAX);
    }

    #[test]
    fn a_stage_without_a_bound_takes_what_is_configured() {
        assert_eq!(limit(64, None, Duration::from_secs(1)), 64);
    }
}
