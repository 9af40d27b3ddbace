//! Who got how much of late: what a short queue keeps its last places by, and who need not wait for a turn.

use std::time::{Duration, Instant};

/// Segments a lane, on average, after which their shares are counted anew: few enough that what was long ago does not
/// count, so many that the rest of a division, a packet or two, does not either.
const WHILE_SEGMENTS: u64 = 64;
/// And after so long in any case: of a thousand that were busy one may be left, and who got what before is of no more interest.
/// Not sooner, since a thousand that share 8,000 segments a second get four each in half a second, and one more is no sign.
const WHILE_MAX: Duration = Duration::from_secs(4);
/// But not before, however much comes: one that brings much at once would seem to be all there is.
const WHILE_MIN: Duration = Duration::from_millis(100);

/// A lane that got so many times the mean is far ahead, if that is more by some segments, which are no sign of anything: so
/// many, or two of its items.
const FAR_TIMES: u64 = 2;
const FAR_SEGMENTS_MIN: u64 = WHILE_SEGMENTS / 8;
const FAR_ITEMS_MIN: u64 = 2;

/// Of the mean, a lane that got no more than one part in so many is sparse (RFC 8290): what little it brings leaves first.
const SPARSE_PART: u64 = 2;
/// If the mean is so many segments, or more: it is chance who got one of few.
const SPARSE_MEAN_MIN: u64 = 16;

/// Where a lane stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It got no more than the mean.
    Behind,
    Ahead,
    FarAhead,
}

/// What one lane got: in the while of that number, and in the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    number: u32,
    segments: u64,
    segments_before: u64,
}

impl Share {
    /// The same in the while of that number.
    fn in_while(self, number: u32) -> Self {
        match number.wrapping_sub(self.number) {
            0 => self,
            1 => Self { number, segments: 0, segments_before: self.segments },
            _ => Self { number, ..Self::default() },
        }
    }
}

/// What all lanes got in a while.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    segments: u64,
    lanes: u64,
}

/// What lanes got of late.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shares {
    number: u32,
    begun: Option<Instant>,
    total: Total,
    /// Of the while before; `None` where there was none, or it is long ago, or nothing came in it.
    before: Option<Total>,
}

impl Shares {
    /// Begins another while where this one is over.
    pub(super) fn look(&mut self, now: Instant) {
        let age = self.begun.map(|begun| now.saturating_duration_since(begun));
        let is_much = self.total.lanes > 0 && self.total.segments >= WHILE_SEGMENTS * self.total.lanes;
        if age.is_none_or(|age| age >= WHILE_MAX || age >= WHILE_MIN && is_much) {
            let is_recent = age.is_some_and(|age| age < 2 * WHILE_MAX);
            let before = Some(self.total).filter(|total| is_recent && total.lanes > 0);
            *self = Self { number: self.number.wrapping_add(1), begun: Some(now), total: Total::default(), before };
        }
    }

    /// Counts `segments` of a lane, whose own part is `share`.
    pub(super) fn count(&mut self, share: &mut Share, segments: u64) {
        if share.number != self.number {
            *share = share.in_while(self.number);
            self.total.lanes += 1;
        }
        share.segments += segments;
        self.total.segments += segments;
    }

    /// Where a lane stands, whose own part is `share`, and that has an item of so many segments.
    pub(super) fn standing(&self, share: Share, item_segments: u64) -> Standing {
        let Total { segments, lanes } = self.total;
        let got = share.in_while(self.number).segments;
        let no_sign = FAR_SEGMENTS_MIN.max(FAR_ITEMS_MIN * item_segments);
        if got * lanes <= segments {
            Standing::Behind
        } else if got * lanes <= FAR_TIMES * segments + no_sign * lanes {
            Standing::Ahead
        } else {
            Standing::FarAhead
        }
    }

    /// Whether a lane that has an item of so many segments has not got far more than the others.
    pub(super) fn is_within(&self, share: Share, item_segments: u64) -> bool {
        self.standing(share, item_segments) != Standing::FarAhead
    }

    /// Whether a lane got little in this while and the one before. Nobody is known to have before there was one: else all
    /// were, when an overload begins.
    pub(super) fn is_sparse(&self, share: Share) -> bool {
        let Some(before) = self.before else { return false };
        let share = share.in_while(self.number);
        let got = share.segments + share.segments_before;
        let (all, lanes) = (self.total.segments + before.segments, self.total.lanes.max(before.lanes));
        all >= SPARSE_MEAN_MIN * lanes && got * SPARSE_PART * lanes <= all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts as an offer would at that time.
    fn count(shares: &mut Shares, now: Instant, share: &mut Share, segments: u64) {
        shares.look(now);
        shares.count(share, segments);
    }

    fn standings(shares: Shares, lanes: &[Share]) -> Vec<Standing> {
        lanes.iter().map(|share| shares.standing(*share, 1)).collect()
    }

    #[test]
    fn a_lane_is_ahead_above_the_mean_and_far_ahead_above_twice_that_and_some_segments() {
        let mut shares = Shares::default();
        let (mut lanes, now) = ([Share::default(); 4], Instant::now());
        for (lane, segments) in lanes.iter_mut().zip([10, 11, 30, 5]) {
            count(&mut shares, now, lane, segments);
        }
        // The mean is 14: far ahead is more than 28 and 8.
        let [behind, ahead, far_ahead] = [Standing::Behind, Standing::Ahead, Standing::FarAhead];
        assert_eq!(standings(shares, &lanes), [behind, behind, ahead, behind]);
        count(&mut shares, now, &mut lanes[2], 30);
        // Now it is 21.5: more than 43 and 8.
        assert_eq!(standings(shares, &lanes), [behind, behind, far_ahead, behind]);
        // Two super-packets are no sign of anything.
        assert_eq!([8, 9].map(|segments| shares.standing(lanes[2], segments)), [far_ahead, ahead]);
    }

    #[test]
    fn a_while_is_over_after_so_many_segments_a_lane_or_so_long_and_what_was_in_it_does_not_count() {
        for (segments, after, is_over) in [
            (WHILE_SEGMENTS, WHILE_MIN, true),
            (WHILE_SEGMENTS - 1, WHILE_MIN, false),
            (1_000 * WHILE_SEGMENTS, WHILE_MIN - Duration::from_millis(1), false),
            (1, WHILE_MAX, true),
            (1, WHILE_MAX - Duration::from_millis(1), false),
            (0, WHILE_MAX - Duration::from_millis(1), true),
        ] {
            let (mut shares, mut lanes, begun) = (Shares::default(), [Share::default(); 2], Instant::now());
            count(&mut shares, begun, &mut lanes[0], 2 * segments);
            count(&mut shares, begun, &mut lanes[1], 0);
            shares.look(begun + after);
            assert_eq!(lanes[0].in_while(shares.number).segments == 0, is_over, "{segments} in {after:?}");
        }
    }

    #[test]
    fn who_is_left_of_many_is_not_far_ahead_for_long() {
        let mut shares = Shares::default();
        let (mut many, mut last, begun) = (vec![Share::default(); 1_000], Share::default(), Instant::now());
        many.iter_mut().for_each(|lane| count(&mut shares, begun, lane, 1));
        count(&mut shares, begun, &mut last, 100);
        assert_eq!(shares.standing(last, 1), Standing::FarAhead);
        count(&mut shares, begun + WHILE_MAX, &mut last, 100);
        assert_eq!(shares.standing(last, 1), Standing::Behind);
    }

    /// Two that got `much`, and one that got `little`, in a while that is over `after` its begin.
    fn after_a_while(much: u64, little: u64, after: Duration) -> (Shares, [Share; 3]) {
        let (mut shares, mut lanes, begun) = (Shares::default(), [Share::default(); 3], Instant::now());
        for (lane, segments) in lanes.iter_mut().zip([much, much, little]) {
            count(&mut shares, begun, lane, segments);
        }
        count(&mut shares, begun + after, &mut lanes[0], 1);
        (shares, lanes)
    }

    #[test]
    fn a_lane_is_sparse_that_got_half_of_the_mean_at_most_in_this_while_and_the_one_before() {
        for (little, expected) in [(0, true), (20, true), (21, false)] {
            let (shares, lanes) = after_a_while(50, little, WHILE_MAX);
            assert_eq!(lanes.map(|share| shares.is_sparse(share)), [false, false, expected], "{little}");
        }
        let (mut shares, mut lanes) = after_a_while(50, 20, WHILE_MAX);
        assert!(shares.is_sparse(Share::default()), "who got nothing yet");
        shares.count(&mut lanes[2], 1);
        assert!(!shares.is_sparse(lanes[2]));
    }

    #[test]
    fn nobody_is_sparse_where_all_got_little_nor_in_the_first_while_nor_after_a_long_rest() {
        for (much, expected) in [(23, false), (24, true)] {
            let (shares, lanes) = after_a_while(much, 0, WHILE_MAX);
            assert_eq!(lanes.map(|share| shares.is_sparse(share)), [false, false, expected], "{much}");
        }
        let (mut shares, mut lanes) = (Shares::default(), [Share::default(); 2]);
        count(&mut shares, Instant::now(), &mut lanes[0], 60);
        assert!(!shares.is_sparse(lanes[1]));
        let (shares, lanes) = after_a_while(50, 0, 2 * WHILE_MAX);
        assert_eq!(lanes.map(|share| shares.is_sparse(share)), [false; 3]);
        let (mut shares, begun) = (Shares::default(), Instant::now());
        for looks in 0..8 {
            shares.look(begun + looks * WHILE_MAX / 4);
            assert!(!shares.is_sparse(Share::default()), "nothing came");
        }
    }
}
