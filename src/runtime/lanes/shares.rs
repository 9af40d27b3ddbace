//! Who got how much of late: what a short queue keeps its last places by.

/// Segments a lane, on average, after which their shares are counted anew: few enough that what was long ago does not
/// count, so many that the rest of a division, a packet or two, does not either.
const WHILE_SEGMENTS: u64 = 64;

/// A lane that got so many times the mean, and a few segments that are no sign of anything, is far ahead.
const FAR_TIMES: u64 = 2;
const FAR_SEGMENTS_MIN: u64 = WHILE_SEGMENTS / 8;

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
    segments: u64,
    lanes: u64,
}

impl Shares {
    /// Counts `segments` of a lane, whose own part is `queued`.
    pub(super) fn count(&mut self, queued: &mut (u32, u64), segments: u64) {
        if self.segments >= WHILE_SEGMENTS * self.lanes {
            *self = Self { number: self.number.wrapping_add(1), ..Self::default() };
        }
        if queued.0 != self.number {
            *queued = (self.number, 0);
            self.lanes += 1;
        }
        queued.1 += segments;
        self.segments += segments;
    }

    /// Where a lane stands, whose own part is `queued`.
    pub(super) fn standing(&self, queued: (u32, u64)) -> Standing {
        let got = if queued.0 == self.number { queued.1 } else { 0 };
        if got * self.lanes <= self.segments {
            Standing::Behind
        } else if got * self.lanes <= FAR_TIMES * self.segments + FAR_SEGMENTS_MIN * self.lanes {
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
        let mut lanes = [(0, 0); 4];
        for (lane, segments) in lanes.iter_mut().zip([10, 11, 30, 5]) {
            shares.count(lane, segments);
        }
        // The mean is 14: far ahead is more than 28 and 8.
        let standing = |lanes: &[(u32, u64)], shares: Shares| lanes.iter().map(|lane| shares.standing(*lane)).collect();
        let all: Vec<_> = standing(&lanes, shares);
        assert_eq!(all, [Standing::Behind, Standing::Behind, Standing::Ahead, Standing::Behind]);
        shares.count(&mut lanes[2], 30);
        // Now it is 21.5: more than 43 and 8.
        let all: Vec<_> = standing(&lanes, shares);
        assert_eq!(all, [Standing::Behind, Standing::Behind, Standing::FarAhead, Standing::Behind]);
    }

    #[test]
    fn what_was_in_another_while_does_not_count() {
        let mut shares = Shares::default();
        let (mut early, mut late) = ((0, 0), (0, 0));
        shares.count(&mut early, 2 * WHILE_SEGMENTS);
        shares.count(&mut late, 1);
        assert_eq!((shares.standing(early), shares.standing(late)), (Standing::Behind, Standing::Behind));
    }
}
