//! When to dial again.

use std::time::Duration;

/// The same as the page's.
const DELAY_MIN: Duration = Duration::from_millis(250);
const DELAY_MAX: Duration = Duration::from_secs(15);

/// The longest that a busy server may send us away for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

/// Doubles from try to try.
#[derive(Debug)]
pub(super) struct Backoff {
    delay: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { delay: DELAY_MIN }
    }
}

impl Backoff {
    /// How long to wait now: half to the whole of the delay, so that the relays of a gateway that restarts do not all
    /// come at once; not less than the server asked for.
    pub(super) fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let delay = self.delay;
        self.delay = (delay * 2).min(DELAY_MAX);
        let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        asked + delay / 2 + delay.mul_f64(random_fraction() / 2.0)
    }
}

/// From 0 to 1.
fn random_fraction() -> f64 {
    // Without a random source all relays take the longest delay, which does no harm.
    f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_with_jitter_up_to_its_limit() {
        let mut backoff = Backoff::default();
        let mut whole = DELAY_MIN;
        for _ in 0..12 {
            let delay = backoff.next(None);
            assert!(whole / 2 <= delay && delay <= whole, "{delay:?} for {whole:?}");
            whole = (whole * 2).min(DELAY_MAX);
        }
        assert_eq!(whole, DELAY_MAX);
    }

    #[test]
    fn a_busy_server_is_left_alone_for_as_long_as_it_asks_and_not_for_ever() {
        let asked = Duration::from_secs(30);
        assert!(Backoff::default().next(Some(asked)) >= asked);
        assert!(Backoff::default().next(Some(Duration::MAX)) <= RETRY_AFTER_MAX + DELAY_MIN);
    }
}
