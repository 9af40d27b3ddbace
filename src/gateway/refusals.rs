//! Tells the log of tokens that were refused: nobody who tries a thousand a second fills the log with them.

use std::time::{Duration, Instant};

use tracing::warn;

/// How often at most: who runs the gateway is not there sooner.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    told: u64,
    last: Option<Instant>,
}

impl Refusals {
    /// Tells of those that came since it last did, of `refused` since the start: of the first at once.
    pub(super) fn look(&mut self, now: Instant, refused: u64) {
        if let Some(connections) = self.due(now, refused) {
            warn!(
                connections,
                "token refused: it is unknown, revoked, or another gateway's; \"wstether token list\" shows those that hold"
            );
        }
    }

    fn due(&mut self, now: Instant, refused: u64) -> Option<u64> {
        let is_early = self.last.is_some_and(|last| now.saturating_duration_since(last) < TELL_EVERY);
        if is_early || refused == self.told {
            return None;
        }
        self.last = Some(now);
        Some(refused - std::mem::replace(&mut self.told, refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_more_of_them_together_after_a_while() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(refusals.due(after(0), 0), None);
        assert_eq!(refusals.due(after(1), 3), Some(3));
        assert_eq!(refusals.due(after(2), 1_000), None);
        assert_eq!(refusals.due(after(60), 2_000), None);
        assert_eq!(refusals.due(after(61), 2_003), Some(2_000));
        assert_eq!(refusals.due(after(200), 2_003), None);
    }
}
