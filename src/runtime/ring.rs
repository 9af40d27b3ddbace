//! How much may wait in the kernel in front of a source, and what becomes of it.
//!
//! A kernel's ring is a queue like any other, but nobody shares it out and nobody sheds from it: it is as long as it is
//! large. So it is kept short while the stages have more to do than they can, and long as long as they have not, when it
//! holds what comes while the source's thread waits for a core. Observations in, decisions out, time injected.

use std::time::{Duration, Instant};

use super::port::Behind;

/// How long a packet may wait in the kernel until the source's thread leaves the stages' work to others. Longer than a
/// scheduler's slice between two busy threads usually is, and under half of a stage's bound (5 ms by default).
const LATE: Duration = Duration::from_millis(2);

/// In overload, the wait above which less may wait. A source that rests finds what came meanwhile.
const LONG: Duration = Duration::from_millis(3);

/// Packets read at once in overload, at least.
const BATCH_MIN: usize = 8;

/// In overload, what has waited longer is dropped unseen: as long as a stage lets things wait.
const TOO_OLD: Duration = Duration::from_millis(5);

/// How long after the last batch that was read in vain the overload counts as over. Several times a look of the stages'
/// controllers (20 ms), whose limits move up and down meanwhile.
const CALM: Duration = Duration::from_millis(200);

/// Between two changes of the bound: what is in the ring has then gone through a change.
const CHANGE_EVERY: Duration = Duration::from_millis(5);

/// The least and the most of the bound in overload, in bytes of the kernel's accounting: from some small packets to some
/// super-packets. The kernel doubles it for its own needs.
const BYTES: (u32, u32) = (8 << 10, 1 << 20);

/// The ring in front of a source.
#[derive(Debug, Default)]
pub struct Ring {
    /// When a batch was last read in vain, unless that is long ago.
    vain: Option<Instant>,
    bytes: Option<u32>,
    changed: Option<Instant>,
}

impl Ring {
    /// What waits behind a batch whose first packet has waited so long, where something waits.
    pub fn behind(&self, waited: Option<Duration>) -> Behind {
        let is_late = self.vain.is_some() || waited.is_some_and(|waited| waited > LATE);
        if is_late { Behind::Late } else { Behind::Work }
    }

    /// Whether a batch whose first packet has waited so long is to be dropped.
    pub fn is_too_old(&self, waited: Option<Duration>) -> bool {
        self.vain.is_some() && waited.is_some_and(|waited| waited > TOO_OLD)
    }

    /// Whether reading was in vain a moment ago.
    pub fn is_in_overload(&self) -> bool {
        self.vain.is_some()
    }

    /// How many packets to read at once, of `most`, where so many of the last batch were taken in: in overload, twice as
    /// many. What is read beyond that is read to be dropped.
    pub fn batch(&self, most: usize, taken_in: usize) -> usize {
        if self.is_in_overload() { (2 * taken_in).clamp(BATCH_MIN, most) } else { most }
    }

    /// After a batch: how many bytes may wait from now on, where that changes; `None` inside is what was configured.
    pub fn after(&mut self, now: Instant, is_in_vain: bool, waited: Option<Duration>) -> Option<Option<u32>> {
        if is_in_vain {
            self.vain = Some(now);
        }
        self.vain = self.vain.filter(|then| now.saturating_duration_since(*then) < CALM);
        let (least, most) = BYTES;
        let wanted = match (self.vain, self.bytes) {
            (None, _) => None,
            (Some(_), None) => Some(most),
            (Some(_), Some(bytes)) => {
                let is_settled = self.changed.is_none_or(|then| now.saturating_duration_since(then) >= CHANGE_EVERY);
                match waited.filter(|_| is_settled) {
                    Some(waited) if waited > LONG => Some((bytes / 2).max(least)),
                    Some(waited) if waited < LONG / 3 => Some((bytes * 2).min(most)),
                    Some(_) | None => Some(bytes),
                }
            }
        };
        (wanted != self.bytes).then(|| {
            self.bytes = wanted;
            self.changed = Some(now);
            wanted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_ring_is_as_configured_until_reading_is_in_vain_and_again_when_it_has_not_been_for_a_while() {
        let (mut ring, start) = (Ring::default(), Instant::now());
        assert_eq!(ring.after(start, false, Some(ms(100))), None);
        assert_eq!(ring.after(start, true, Some(ms(100))), Some(Some(BYTES.1)));
        assert_eq!(ring.after(start + CALM - ms(1), false, Some(ms(1))), None);
        assert_eq!(ring.after(start + CALM, false, Some(ms(1))), Some(None));
    }

    #[test]
    fn in_overload_it_holds_what_is_read_in_time() {
        let (mut ring, start) = (Ring::default(), Instant::now());
        let mut bytes = |at_ms, waited| ring.after(start + ms(at_ms), true, Some(waited));
        assert_eq!(bytes(0, ms(4)), Some(Some(1 << 20)));
        assert_eq!(bytes(1, ms(4)), None, "the change has to show first");
        assert_eq!(bytes(5, ms(4)), Some(Some(512 << 10)));
        assert_eq!(bytes(10, ms(2)), None);
        let halved: Vec<_> = (0..7).map(|turn| bytes(15 + 5 * turn, ms(4))).collect();
        assert_eq!(halved[..6], [18, 17, 16, 15, 14, 13].map(|power| Some(Some(1 << power))));
        assert_eq!((halved[6], bytes(60, ms(4)), bytes(65, ms(0))), (None, None, Some(Some(2 * BYTES.0))));
    }

    #[test]
    fn what_waits_too_long_is_late_and_dropped_only_in_overload() {
        let (mut ring, now) = (Ring::default(), Instant::now());
        let seen = |ring: &Ring, waited| (ring.behind(Some(waited)), ring.is_too_old(Some(waited)));
        assert_eq!([seen(&ring, ms(1)), seen(&ring, ms(9))], [(Behind::Work, false), (Behind::Late, false)]);
        assert_eq!((ring.behind(None), ring.is_too_old(None)), (Behind::Work, false));
        ring.after(now, true, None);
        assert_eq!([seen(&ring, ms(1)), seen(&ring, ms(9))], [(Behind::Late, false), (Behind::Late, true)]);
    }

    #[test]
    fn in_overload_twice_as_many_are_read_as_were_taken_in() {
        let mut ring = Ring::default();
        assert_eq!(ring.batch(64, 10), 64);
        ring.after(Instant::now(), true, None);
        assert_eq!([0, 10, 40].map(|taken_in| ring.batch(64, taken_in)), [8, 20, 64]);
    }
}
