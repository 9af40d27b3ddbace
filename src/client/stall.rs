//! Whether what is sent arrives: it is acknowledged within some milliseconds and the path's round trip.

use std::time::{Duration, Instant};

/// Where nothing is acknowledged for so long, the phone's screen may be off: the browser answers pings for a page that it has
/// put to sleep.
pub(super) const STALLED: Duration = Duration::from_secs(10);

/// What a person is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing that was sent has arrived for [`STALLED`].
    Stalls,
    /// After that, something has.
    GoesOn,
}

/// Bytes that are on their way, and none of them acknowledged.
#[derive(Debug, Default)]
pub(super) struct Stall {
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    acked_bytes: u64,
    since: Instant,
    is_told: bool,
}

impl Stall {
    /// `acked_bytes` have arrived so far, where more is on its way. Each turn is told once.
    pub(super) fn look(&mut self, now: Instant, acked_bytes: Option<u64>) -> Option<Turn> {
        if let Some(seen) = self.seen.as_mut().filter(|seen| acked_bytes == Some(seen.acked_bytes)) {
            let stalls = !seen.is_told && now.saturating_duration_since(seen.since) >= STALLED;
            seen.is_told |= stalls;
            return stalls.then_some(Turn::Stalls);
        }
        let next = acked_bytes.map(|acked_bytes| Seen { acked_bytes, since: now, is_told: false });
        let before = std::mem::replace(&mut self.seen, next);
        before.filter(|before| before.is_told).map(|_| Turn::GoesOn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_told_once_after_ten_seconds_and_its_end_once() {
        let (mut stall, start) = (Stall::default(), Instant::now());
        let mut look = |after_ms, acked| stall.look(start + Duration::from_millis(after_ms), acked);
        assert_eq!(look(0, Some(100)), None);
        assert_eq!(look(9_999, Some(100)), None);
        assert_eq!(look(10_000, Some(100)), Some(Turn::Stalls));
        assert_eq!(look(60_000, Some(100)), None, "once");
        assert_eq!(look(60_100, Some(101)), Some(Turn::GoesOn));
        assert_eq!(look(60_200, Some(102)), None);
    }

    #[test]
    fn nothing_stalls_while_anything_arrives_or_nothing_is_on_its_way() {
        let (mut stall, start) = (Stall::default(), Instant::now());
        let mut look = |after_s, acked| stall.look(start + Duration::from_secs(after_s), acked);
        for second in 0..100 {
            assert_eq!(look(9 * second, Some(second)), None);
        }
        assert_eq!(look(895, None), None, "all was acknowledged");
        assert_eq!(look(2_000, None), None);
        assert_eq!(look(2_001, Some(99)), None, "what is sent now has its own time");
        assert_eq!(look(2_010, Some(99)), None);
        assert_eq!(look(2_011, Some(99)), Some(Turn::Stalls));
        assert_eq!(look(2_012, None), Some(Turn::GoesOn), "the last of it was acknowledged");
    }
}
