//! How long to wait before the next attempt.

use std::time::Duration;

/// After the first failure. A gateway that restarts is back within a second or so.
const FIRST: Duration = Duration::from_millis(500);

/// After many. Long enough not to be a load, short enough that a person who comes back online need not wait.
const LONGEST: Duration = Duration::from_secs(30);

/// Whoever asks for more has us wait so long: an hour of a captive portal must not become a day without a network.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// A connection that stood for so long has shown that another attempt is worth making at once.
const STEADY: Duration = Duration::from_secs(10);

/// Doubling delays behind a first attempt at once, each drawn from its upper half, so that many clients of one gateway do
/// not come back together.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The delay before the next attempt, where the gateway has asked for one of its own or not.
    pub(super) fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let doubled =
            self.attempts.checked_sub(1).map(|doublings| FIRST.saturating_mul(2_u32.saturating_pow(doublings)));
        self.attempts = self.attempts.saturating_add(1);
        let longest = doubled.unwrap_or_default().min(LONGEST);
        let own = longest / 2 + random_part_of(longest / 2);
        let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        own.max(asked + random_part_of(asked / 2))
    }

    /// A connection has ended that stood for so long.
    pub(super) fn stood(&mut self, long: Duration) {
        if long >= STEADY {
            self.attempts = 0;
        }
    }
}

fn random_part_of(longest: Duration) -> Duration {
    // Without random numbers the delay is the longest: a client alone needs no spread.
    let random = getrandom::u32().map_or(u8::MAX, |random| random as u8);
    longest * u32::from(random) / u32::from(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempt_is_at_once_and_delays_double_up_to_a_limit_until_a_connection_has_stood() {
        let mut backoff = Backoff::default();
        for limit_ms in [0, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            let delay = backoff.next(None);
            let limit = Duration::from_millis(limit_ms);
            assert!((limit / 2..=limit).contains(&delay), "{delay:?} for {limit:?}");
        }
        backoff.stood(STEADY - Duration::from_millis(1));
        assert!(backoff.next(None) >= LONGEST / 2);
        backoff.stood(STEADY);
        assert_eq!(backoff.next(None), Duration::ZERO);
    }

    #[test]
    fn a_gateway_is_given_the_time_that_it_asks_for_and_a_random_part_and_minutes_at_most() {
        for (asked, limits) in [
            (Duration::from_secs(60), Duration::from_secs(60)..=Duration::from_secs(90)),
            (Duration::from_secs(u32::MAX.into()), RETRY_AFTER_MAX..=RETRY_AFTER_MAX * 3 / 2),
        ] {
            let delays: Vec<Duration> = (0..50).map(|_| Backoff::default().next(Some(asked))).collect();
            assert!(delays.iter().all(|delay| limits.contains(delay)), "{delays:?}");
            assert!(delays.iter().any(|delay| *delay != delays[0]), "all clients would come back at once");
        }
    }
}
