//! Who got how much of late: what a short queue keeps its last places by.

use std::time::{Duration, Instant};

/// Segments a lane, on average, after which their shares are counted anew: few enough that what was long ago does not
/// count, so many that the rest of a division, a packet or two, does not either.
const WHILE_SEGMENTS: u64 = 64;
/// And after so long in any case: of a thousand that were busy one may be left, and who got what before is of no more interest.
/// Not sooner, since a thousand that share 8,000 segments a second get four each in half a second, and one more is no sign.
const WHILE_MAX: Duration = Duration::from_secs(4);

/// A lane that got so many times the mean is far ahead, if that is more by some segments, which are no sign of anything: so
/// many, or two of its items.
const FAR_TIMES: u64 = 2;
const FAR_SEGMENTS_MIN: u64 = WHILE_SEGMENTS / 8;
const FAR_ITEMS_MIN: u64 = 2;

/// Where a lane stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It got no more than the mean.
    Behind,
    Ahead,
    FarAhead,
}

/// What lanes got of late, while the queue is kept short.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shares {
    number: u32,
    begun: Option<Instant>,
    segments: u64,
    lanes: u64,
}

impl Shares {
    /// Counts `segments` of a lane, whose own part is `queued`.
    pub(super) fn count(&mut self, now: Instant, queued: &mut (u32, u64), segments: u64) {
        let is_old = self.begun.is_some_and(|begun| now.saturating_duration_since(begun) >= WHILE_MAX);
        if is_old || self.segments >= WHILE_SEGMENTS * self.lanes {
            *self = Self { number: self.number.wrapping_add(1), begun: Some(now), ..Self::default() };
        }
        if queued.0 != self.number {
            *queued = (self.number, 0);
            self.lanes += 1;
        }
        queued.1 += segments;
        self.segments += segments;
    }

    /// Where a lane stands, whose own part is `queued`, and that has an item of so many segments.
    pub(super) fn standing(&self, queued: (u32, u64), item_segments: u64) -> Standing {
        let got = if queued.0 == self.number { queued.1 } else { 0 };
        let no_sign = FAR_SEGMENTS_MIN.max(FAR_ITEMS_MIN * item_segments);
        if got * self.lanes <= self.segments {
            Standing::Behind
        } else if got * self.lanes <= FAR_TIMES * self.segments + no_sign * self.lanes {
            Standing::Ahead
        } else {
            Standing::FarAhead
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_ahead_above_the_mean_and_far_ahead_above_twice_that_and_some_segments() {
        let mut shares = Shares::default();
        let (mut lanes, now) = ([(0, 0); 4], Instant::now());
        for (lane, segments) in lanes.iter_mut().zip([10, 11, 30, 5]) {
            shares.count(now, lane, segments);
        }
        // The mean is 14: far ahead is more than 28 and 8.
        let standing =
            |lanes: &[(u32, u64)], shares: Shares| lanes.iter().map(|lane| shares.standing(*lane, 1)).collect();
        let all: Vec<_> = standing(&lanes, shares);
        assert_eq!(all, [Standing::Behind, Standing::Behind, Standing::Ahead, Standing::Behind]);
        shares.count(now, &mut lanes[2], 30);
        // Now it is 21.5: more than 43 and 8.
        let all: Vec<_> = standing(&lanes, shares);
        assert_eq!(all, [Standing::Behind, Standing::Behind, Standing::FarAhead, Standing::Behind]);
        // Two super-packets are no sign of anything.
        assert_eq!([8, 9].map(|segments| shares.standing(lanes[2], segments)), [Standing::FarAhead, Standing::Ahead]);
    }

    #[test]
    fn what_was_in_another_while_does_not_count() {
        let mut shares = Shares::default();
        let (mut early, mut late, now) = ((0, 0), (0, 0), Instant::now());
        shares.count(now, &mut early, 2 * WHILE_SEGMENTS);
        shares.count(now, &mut late, 1);
        assert_eq!([early, late].map(|lane| shares.standing(lane, 1)), [Standing::Behind, Standing::Behind]);
    }

    #[test]
    fn who_is_left_of_many_is_not_far_ahead_for_long() {
        let mut shares = Shares::default();
        let (mut many, mut last, begun) = (vec![(0, 0); 1_000], (0, 0), Instant::now());
        many.iter_mut().for_each(|lane| shares.count(begun, lane, 1));
        shares.count(begun, &mut last, 100);
        assert_eq!(shares.standing(last, 1), Standing::FarAhead);
        shares.count(begun + WHILE_MAX, &mut last, 100);
        assert_eq!(shares.standing(last, 1), Standing::Behind);
    }
}
