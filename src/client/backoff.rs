//! How long to wait before the next attempt.

use std::time::Duration;

/// After the first failure. A gateway that restarts is back within a second or so.
const FIRST: Duration = Duration::from_millis(500);

/// After many. Long enough not to be a load, short enough that a person who comes back online need not wait.
const LONGEST: Duration = Duration::from_secs(30);

/// Doubling delays, each drawn from its upper half, so that many clients of one gateway do not come back at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next delay.
    pub(super) fn next(&mut self) -> Duration {
        // Without random numbers the delay is the longest: a client alone needs no spread.
        let random = getrandom::u32().map_or(u8::MAX, |random| random as u8);
        let longest = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        longest / 2 + longest / 2 * u32::from(random) / u32::from(u8::MAX)
    }

    /// The last attempt went well.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_limit_and_begin_anew_after_success() {
        let mut backoff = Backoff::default();
        for limit_ms in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            let delay = backoff.next();
            let limit = Duration::from_millis(limit_ms);
            assert!((limit / 2..=limit).contains(&delay), "{delay:?} for {limit:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
