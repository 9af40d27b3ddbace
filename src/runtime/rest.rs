//! When a source rests: receive livelock (Mogul and Ramakrishnan 1997), and how it is kept out.
//!
//! A source that reads packets which the first stage then refuses takes the time from the stages that would serve what
//! was admitted: the more is offered, the less is done. What is not read costs nothing: the kernel's ring is full, and
//! drops the rest. But the ring drops without looking whose it is, where the first stage drops those that hold most. So
//! a source rests only where reading on would serve nobody, and only in proportion to the time it has wasted.

use std::time::{Duration, Instant};

use super::inlet::Pushed;

/// Rest for each unit of wasted time: a source then wastes one part in 33, 3 % of its time.
const REST_FOR_WASTE: u32 = 32;

/// The longest rest at once. A queue that refuses holds work for some milliseconds (5 by default), and must not run dry
/// meanwhile; the thread may then wait for a core as long again.
const REST_MAX: Duration = Duration::from_micros(1_500);

/// The rest where all was taken in and the stages have run dry: long enough that some packets come meanwhile, which are
/// worth a batch, and a core that has nothing else to do is not idle for long.
const REST_DRY: Duration = Duration::from_micros(300);

/// What a source has just done.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// Whether the batch was full, and more waits behind it.
    pub has_more: bool,
    /// Whether reading was in vain a moment ago.
    pub is_in_overload: bool,
    /// What became of it.
    pub pushed: Pushed,
    /// How long it took to read.
    pub read: Duration,
    /// Cores that no thread of the pipeline keeps busy.
    pub cores_free: usize,
}

impl Observation {
    /// Whether reading on is in vain: most of a full batch was refused, of most of the lanes that were in it, and no
    /// core is left. What a hog sends too much is refused in its lane alone, and the others need the source.
    pub fn is_in_vain(&self) -> bool {
        let Pushed { items, lanes, refused_items, refused_lanes, .. } = self.pushed;
        self.has_more && self.cores_free == 0 && 2 * refused_items >= items && 2 * refused_lanes >= lanes
    }

    fn wasted(&self) -> Duration {
        let Pushed { items, refused_items, offer, .. } = self.pushed;
        (self.read + offer) * refused_items as u32 / items.max(1) as u32
    }
}

/// Why a source rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Reading was in vain, and the time that this took is not made up for yet.
    InVain,
    /// In overload: something was refused.
    Refused,
    /// In overload: all was taken in, and nothing is left to be read.
    Dry,
}

/// How long a source still owes to rest.
#[derive(Debug, Default)]
pub struct Rest {
    owed: Duration,
    looked: Option<Instant>,
    why: Option<Why>,
}

impl Rest {
    /// Why it rests now; `None` where it does not.
    pub fn why(&self) -> Option<Why> {
        self.why
    }

    /// How long the source rests now, after what it has done. Nothing once all it brings is taken in.
    pub fn after(&mut self, now: Instant, seen: Observation) -> Duration {
        let elapsed = self.looked.replace(now).map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        let is_refused = seen.pushed.refused_items > 0;
        self.why = None;
        if seen.is_in_overload && (is_refused || !seen.has_more) {
            self.why = Some(if is_refused { Why::Refused } else { Why::Dry });
            // It looks from time to time: what comes by ones and twos would wake it as often.
            return if is_refused || seen.cores_free == 0 { REST_MAX } else { REST_DRY };
        }
        if !is_refused {
            self.owed = Duration::ZERO;
            return Duration::ZERO;
        }
        self.owed = self.owed.saturating_sub(elapsed);
        if seen.is_in_vain() {
            self.owed += seen.wasted() * REST_FOR_WASTE;
        }
        self.why = (!self.owed.is_zero()).then_some(Why::InVain);
        self.owed.min(REST_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Duration = Duration::from_micros(10);

    fn seen(refused_items: usize, refused_lanes: usize) -> Observation {
        let pushed = Pushed { items: 64, lanes: 32, refused_items, refused_lanes, offer: Duration::ZERO };
        Observation { has_more: true, is_in_overload: false, pushed, read: READ, cores_free: 0 }
    }

    #[test]
    fn a_source_rests_in_proportion_to_what_it_wasted() {
        for (refused, expected) in [(64, 32 * READ), (48, 24 * READ), (32, 16 * READ), (31, Duration::ZERO)] {
            assert_eq!(Rest::default().after(Instant::now(), seen(refused, 32)), expected, "{refused} of 64");
        }
    }

    #[test]
    fn it_does_not_rest_for_a_hog_nor_with_a_core_free_nor_when_nothing_is_behind() {
        let (hog, all) = (seen(60, 1), seen(64, 32));
        for vain_not in [hog, Observation { cores_free: 1, ..all }, Observation { has_more: false, ..all }] {
            assert_eq!(Rest::default().after(Instant::now(), vain_not), Duration::ZERO, "{vain_not:?}");
        }
    }

    #[test]
    fn a_rest_is_short_and_what_is_left_of_it_is_owed_until_something_is_taken_in() {
        let (mut rest, start) = (Rest::default(), Instant::now());
        let waste = Observation { read: Duration::from_micros(75), ..seen(64, 32) };
        assert_eq!(rest.after(start, waste), REST_MAX);
        // 2.4 ms were owed, and 1.5 have gone by: a batch of which little was refused adds nothing.
        assert_eq!(rest.after(start + REST_MAX, seen(2, 1)), Duration::from_micros(900));
        assert_eq!(rest.after(start + REST_MAX, seen(0, 0)), Duration::ZERO);
        assert_eq!(rest.after(start + REST_MAX, seen(2, 1)), Duration::ZERO);
    }

    #[test]
    fn in_overload_it_looks_from_time_to_time_until_something_is_taken_in_and_more_waits() {
        let (mut rest, now) = (Rest::default(), Instant::now());
        let overload = |refused, has_more| Observation { is_in_overload: true, has_more, ..seen(refused, 1) };
        let rests = [(1, true), (1, false), (0, false), (0, true)]
            .map(|(refused, more)| rest.after(now, overload(refused, more)));
        assert_eq!(rests, [REST_MAX, REST_MAX, REST_MAX, Duration::ZERO]);
        let dry = |refused| rest.after(now, Observation { cores_free: 1, ..overload(refused, false) });
        assert_eq!([0, 1].map(dry), [REST_DRY, REST_MAX], "a core is left, and the stages have nothing for it");
    }

    #[test]
    fn each_rest_says_why_and_where_there_is_none_nothing_is_said() {
        let (mut rest, now) = (Rest::default(), Instant::now());
        let overload = |refused, has_more| Observation { is_in_overload: true, has_more, ..seen(refused, 1) };
        for (observed, why) in [
            (seen(64, 32), Some(Why::InVain)),
            (seen(2, 1), Some(Why::InVain)),
            (seen(0, 0), None),
            (overload(1, true), Some(Why::Refused)),
            (overload(0, false), Some(Why::Dry)),
            (overload(0, true), None),
        ] {
            let rests = rest.after(now, observed);
            assert_eq!((rest.why(), rests.is_zero()), (why, why.is_none()), "{observed:?}");
        }
    }

    #[test]
    fn over_time_no_more_than_three_per_cent_are_wasted() {
        let (mut rest, mut now) = (Rest::default(), Instant::now());
        let (start, mut wasted) = (now, Duration::ZERO);
        for _ in 0..10_000 {
            now += READ;
            wasted += READ;
            now += rest.after(now, seen(64, 32));
        }
        assert!(wasted.as_secs_f64() / (now - start).as_secs_f64() < 0.031);
    }
}
