//! How much may wait in the kernel in front of a source, and what becomes of it.
//!
//! A kernel's ring is a queue like any other, but nobody shares it out and nobody sheds from it: it is as long as it is
//! large. So it is kept short while the stages have more to do than they can, and long as long as they have not, when it
//! holds what comes while the source's thread waits for a core. Observations in, decisions out, time injected.

use std::fmt;
use std::time::{Duration, Instant};

use super::port::Behind;

/// How long things may wait where nobody says otherwise: as long as a stage lets them by default.
pub const WAIT_MAX: Duration = Duration::from_millis(5);

/// The part of that, in fifths, that a packet may wait in the kernel until the source's thread leaves the stages' work to
/// others. Of 5 ms it is longer than a scheduler's slice between two busy threads usually is; and it is under half, since what
/// is read then waits for the stages.
const LATE_FIFTHS: u32 = 2;

/// In overload, how many times what is taken in is read at once: that the first stage has a choice of whom to refuse.
const CHOICE: usize = 2;

/// How many times what a look should bring the kernel may drop, for a choice to be of use: beyond it next to nobody comes into the
/// ring but by chance, and what is read for nothing is paid by those who are taken in.
const CHOSEN_FROM: u64 = 4;

/// The least that is read at once in overload, in packets: with less a source would look for next to nothing.
const READ_MIN: usize = 16;

/// How long every batch must have waited too long for the ring to be a standing queue, and no burst or thread that was away:
/// CoDel's interval (RFC 8289, 4.3).
const STANDING_AFTER: Duration = Duration::from_millis(100);

/// How long after its last sign the overload counts as over. Several times a look of the stages' controllers (20 ms), whose
/// limits move up and down meanwhile.
const CALM: Duration = Duration::from_millis(200);

/// Between two changes of the bound: what is in the ring has then gone through a change.
const CHANGE_EVERY: Duration = Duration::from_millis(5);

/// The least and the most of the bound in overload, in bytes of the kernel's accounting: from some small packets to some
/// super-packets. The kernel doubles it for its own needs.
const BYTES: (u32, u32) = (4 << 10, 1 << 20);

/// What a batch came to. A look at the ring is all that is read until the source rests or nothing is left.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// How long the first packet has waited, where that is known.
    pub waited: Option<Duration>,
    /// Packets that the kernel has dropped since this was asked last, for want of room. It is asked in overload alone, so that the
    /// first answer of an overload is about all since the one before.
    pub dropped: u64,
    /// Packets that were read.
    pub read: usize,
    /// How many of them the stages took in.
    pub taken_in: usize,
    /// Whether more were there.
    pub has_more: bool,
    /// Whether reading was in vain.
    pub is_in_vain: bool,
    /// Whether the source rests now.
    pub rests: bool,
}

impl Observation {
    /// Packets that a look should bring.
    fn wanted(&self) -> usize {
        (CHOICE * self.taken_in).max(READ_MIN)
    }

    /// Whether the ring holds too much: what is left of it, and what is read for nothing, waits longer the next time.
    fn is_too_much(&self) -> bool {
        self.has_more || 2 * self.read > 3 * self.wanted()
    }

    /// Whether it holds too little: for the stages to have their fill, or to choose, while the kernel drops without looking
    /// whose it is. Twice as much is then less than too much.
    fn is_too_little(&self) -> bool {
        let is_choice_of_use = (1..=CHOSEN_FROM * self.wanted() as u64).contains(&self.dropped);
        let has_no_choice = is_choice_of_use && 4 * self.read < 3 * self.wanted();
        !self.has_more && (self.taken_in == self.read || has_no_choice)
    }
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { read, taken_in, has_more, .. } = self;
        let more = if *has_more { "more" } else { "nothing" };
        write!(f, "{read} packets read, {taken_in} of them taken in, {more} behind them")?;
        self.waited.map_or(Ok(()), |waited| write!(f, ", the first waited {waited:.1?}"))
    }
}

/// Why the bound has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// An overload begins: reading was in vain.
    InVain,
    /// An overload begins: every batch has waited too long for a while.
    Stands,
    /// The overload is over.
    Over,
    /// In overload: the ring holds more than the stages have use for.
    TooMuch,
    /// In overload: it holds less than they take in.
    TooLittle,
}

/// The ring in front of a source.
#[derive(Debug)]
pub struct Ring {
    /// What has waited longer waits too long. When the overload is noticed, what has is dropped unseen, until the ring was
    /// empty once.
    wait_max: Duration,
    /// When there was last a sign of overload, unless that is long ago.
    overload: Option<Instant>,
    /// Since when every batch has waited too long.
    standing: Option<Instant>,
    /// What had come before the overload was noticed has been read.
    is_flushed: bool,
    bytes: Option<u32>,
    changed: Option<Instant>,
    why: Option<Why>,
    /// What the batches of this look have brought so far, and how much of it was taken in.
    read: usize,
    taken_in: usize,
    /// What the kernel dropped meanwhile.
    dropped: u64,
}

impl Ring {
    /// A ring in front of a stage that lets things wait for `wait_max`: in the ring it is no longer.
    pub fn new(wait_max: Duration) -> Self {
        Self {
            wait_max,
            overload: None,
            standing: None,
            is_flushed: false,
            bytes: None,
            changed: None,
            why: None,
            read: 0,
            taken_in: 0,
            dropped: 0,
        }
    }

    /// What waits behind a batch whose first packet has waited so long, where something waits.
    pub fn behind(&self, waited: Option<Duration>) -> Behind {
        let is_late = self.is_in_overload() || waited.is_some_and(|waited| waited > self.wait_max * LATE_FIFTHS / 5);
        if is_late { Behind::Late } else { Behind::Unread }
    }

    /// Whether a batch whose first packet has waited so long is to be dropped.
    pub fn is_too_old(&self, waited: Option<Duration>) -> bool {
        self.is_in_overload() && !self.is_flushed && waited.is_some_and(|waited| waited > self.wait_max)
    }

    /// Whether more comes than the stages can do.
    pub fn is_in_overload(&self) -> bool {
        self.overload.is_some()
    }

    /// Why the bound has changed the last time.
    pub fn why(&self) -> Option<Why> {
        self.why
    }

    /// After a batch: how many bytes may wait from now on, where that changes; `None` inside is what was configured.
    pub fn after(&mut self, now: Instant, seen: Observation) -> Option<Option<u32>> {
        self.look_for_overload(now, seen);
        let (read, taken_in) = (self.read + seen.read, self.taken_in + seen.taken_in);
        let dropped = self.dropped + seen.dropped;
        let is_over = seen.rests || !seen.has_more;
        self.is_flushed = self.is_in_overload() && (self.is_flushed || !seen.has_more);
        (self.read, self.taken_in, self.dropped) = if is_over { (0, 0, 0) } else { (read, taken_in, dropped) };
        let look = Observation { read, taken_in, dropped, ..seen };
        let (least, most) = BYTES;
        let wanted = match (self.overload, self.bytes) {
            (None, _) => None,
            (Some(_), None) => Some(most),
            (Some(_), Some(bytes)) => {
                let is_settled = self.changed.is_none_or(|then| now.saturating_duration_since(then) >= CHANGE_EVERY);
                match is_settled && is_over {
                    true if look.is_too_much() => Some((bytes / 2).max(least)),
                    true if look.is_too_little() => Some((bytes * 2).min(most)),
                    _ => Some(bytes),
                }
            }
        };
        (wanted != self.bytes).then(|| {
            self.why = Some(match (self.bytes, wanted) {
                (_, None) => Why::Over,
                (None, Some(_)) if seen.is_in_vain => Why::InVain,
                (None, Some(_)) => Why::Stands,
                (Some(bytes), Some(wanted)) if wanted < bytes => Why::TooMuch,
                (Some(_), Some(_)) => Why::TooLittle,
            });
            self.bytes = wanted;
            self.changed = Some(now);
            wanted
        })
    }

    fn look_for_overload(&mut self, now: Instant, seen: Observation) {
        let waited_too_long = seen.waited.is_some_and(|waited| waited > self.wait_max);
        self.standing = waited_too_long.then(|| self.standing.unwrap_or(now));
        let since = |then: Instant| now.saturating_duration_since(then);
        let is_standing = self.standing.is_some_and(|then| since(then) >= STANDING_AFTER);
        // A ring that is kept short drops what would be read in vain: the overload is no less for it.
        if seen.is_in_vain || is_standing || (self.is_in_overload() && seen.dropped > 0) {
            self.overload = Some(now);
        }
        self.overload = self.overload.filter(|then| since(*then) < CALM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const VAIN: Observation =
        Observation { waited: None, dropped: 0, read: 64, taken_in: 10, has_more: true, is_in_vain: true, rests: true };
    const FINE: Observation = Observation { read: 20, has_more: false, is_in_vain: false, ..VAIN };

    #[test]
    fn a_ring_is_as_configured_until_reading_is_in_vain_and_again_when_it_has_not_been_for_a_while() {
        let (mut ring, start) = (Ring::new(WAIT_MAX), Instant::now());
        assert_eq!(ring.after(start, FINE), None);
        assert_eq!(ring.after(start, VAIN), Some(Some(BYTES.1)));
        assert_eq!(ring.why(), Some(Why::InVain));
        assert_eq!(ring.after(start + CALM - ms(1), FINE), None);
        assert_eq!(ring.after(start + CALM, FINE), Some(None));
        assert_eq!(ring.why(), Some(Why::Over));
    }

    #[test]
    fn in_overload_it_holds_about_twice_of_what_is_taken_in_at_a_look() {
        let (mut ring, start) = (Ring::new(WAIT_MAX), Instant::now());
        let mut bytes = |at_ms, look| ring.after(start + ms(at_ms), look);
        assert_eq!(bytes(0, VAIN), Some(Some(1 << 20)));
        assert_eq!(bytes(1, VAIN), None, "the change has to show first");
        assert_eq!(bytes(5, VAIN), Some(Some(512 << 10)));
        assert_eq!(
            bytes(10, Observation { read: 30, has_more: false, ..VAIN }),
            None,
            "three times is not far from twice"
        );
        assert_eq!(bytes(15, Observation { read: 31, has_more: false, ..VAIN }), Some(Some(256 << 10)));
        assert_eq!(
            bytes(20, Observation { read: 24, taken_in: 3, has_more: false, ..VAIN }),
            None,
            "it always brings some"
        );
        let halved: Vec<_> = (0..7).map(|turn| bytes(25 + 5 * turn, VAIN)).collect();
        assert_eq!(halved[..6], [17, 16, 15, 14, 13, 12].map(|power| Some(Some(1 << power))));
        assert_eq!(halved[6], None);
        assert_eq!(
            bytes(60, Observation { read: 10, ..FINE }),
            Some(Some(2 * BYTES.0)),
            "all was taken in, and nothing is left"
        );
    }

    #[test]
    fn while_the_kernel_drops_it_holds_enough_for_the_stages_to_choose_whom_they_refuse() {
        let (mut ring, start) = (Ring::new(WAIT_MAX), Instant::now());
        let mut bytes = |at_ms, look| ring.after(start + ms(at_ms), look);
        assert_eq!(bytes(0, VAIN), Some(Some(1 << 20)));
        assert_eq!(bytes(5, VAIN), Some(Some(512 << 10)));
        let look = |read, dropped| Observation { read, has_more: false, dropped, ..VAIN };
        assert_eq!(bytes(10, look(14, 0)), None, "all that came was read");
        assert_eq!(bytes(15, look(15, 1)), None, "one and a half times of what is taken in is a choice");
        assert_eq!(bytes(20, look(14, 1)), Some(Some(1 << 20)));
        assert_eq!(bytes(25, look(28, 1)), None, "twice as much is not too much");
        assert_eq!(bytes(30, VAIN), Some(Some(512 << 10)));
        // What it dropped is the sum of a look's batches.
        let goes_on = Observation { read: 4, taken_in: 4, dropped: 1, rests: false, is_in_vain: false, ..VAIN };
        assert_eq!(bytes(36, goes_on), None);
        assert_eq!(bytes(37, Observation { taken_in: 6, ..look(10, 0) }), Some(Some(1 << 20)));
    }

    #[test]
    fn where_the_kernel_drops_next_to_all_the_stages_have_their_fill_and_no_choice() {
        let (mut ring, start) = (Ring::new(WAIT_MAX), Instant::now());
        let mut bytes = |at_ms, look| ring.after(start + ms(at_ms), look);
        assert_eq!(bytes(0, VAIN), Some(Some(1 << 20)));
        assert_eq!(bytes(5, VAIN), Some(Some(512 << 10)));
        let look = |read, dropped| Observation { read, has_more: false, dropped, ..VAIN };
        assert_eq!(bytes(10, look(14, 4 * 20 + 1)), None);
        assert_eq!(bytes(15, look(10, 1_000)), Some(Some(1 << 20)), "all was taken in: there could be more");
        assert_eq!(bytes(20, VAIN), Some(Some(512 << 10)));
        assert_eq!(bytes(25, look(14, 4 * 20)), Some(Some(1 << 20)), "of five times as much a choice is of use");
    }

    #[test]
    fn each_change_in_overload_says_why_and_what_was_seen_can_be_told() {
        let (mut ring, start) = (Ring::new(WAIT_MAX), Instant::now());
        ring.after(start, VAIN);
        let whys = [(5, VAIN), (10, FINE), (15, Observation { read: 10, ..FINE })].map(|(at_ms, look)| {
            ring.after(start + ms(at_ms), look);
            ring.why()
        });
        assert_eq!(whys, [Some(Why::TooMuch), Some(Why::TooMuch), Some(Why::TooLittle)]);
        assert_eq!(VAIN.to_string(), "64 packets read, 10 of them taken in, more behind them");
        let waited = Observation { waited: Some(ms(6)), ..FINE };
        assert_eq!(
            waited.to_string(),
            "20 packets read, 10 of them taken in, nothing behind them, the first waited 6.0ms"
        );
    }

    #[test]
    fn the_batches_of_a_look_count_together_however_many_the_ring_holds() {
        let (mut ring, start) = (Ring::new(WAIT_MAX), Instant::now());
        let mut bytes = |at_ms, look| ring.after(start + ms(at_ms), look);
        assert_eq!(bytes(0, VAIN), Some(Some(1 << 20)));
        assert_eq!(bytes(5, VAIN), Some(Some(512 << 10)));
        let full = Observation { taken_in: 64, is_in_vain: false, rests: false, ..VAIN };
        for at_ms in [10, 11, 12] {
            assert_eq!(bytes(at_ms, full), None, "nothing is said of a look that goes on");
        }
        let last = Observation { read: 30, taken_in: 10, has_more: false, rests: true, ..full };
        assert_eq!(bytes(13, last), None, "222 were read, and 202 of them taken in: neither too much nor too little");
        assert_eq!(bytes(18, full), None);
        let all = Observation { read: 20, taken_in: 20, has_more: false, ..full };
        assert_eq!(bytes(19, all), Some(Some(1 << 20)), "all were taken in, and the stages could do with more");
        assert_eq!(
            bytes(24, Observation { rests: true, ..VAIN }),
            Some(Some(512 << 10)),
            "more is left than is taken in"
        );
    }

    #[test]
    fn what_waits_too_long_is_late_and_dropped_only_in_overload() {
        let (mut ring, now) = (Ring::new(WAIT_MAX), Instant::now());
        let seen = |ring: &Ring, waited| (ring.behind(Some(waited)), ring.is_too_old(Some(waited)));
        assert_eq!([seen(&ring, ms(1)), seen(&ring, ms(9))], [(Behind::Unread, false), (Behind::Late, false)]);
        assert_eq!((ring.behind(None), ring.is_too_old(None)), (Behind::Unread, false));
        ring.after(now, VAIN);
        assert_eq!([seen(&ring, ms(1)), seen(&ring, ms(9))], [(Behind::Late, false), (Behind::Late, true)]);
        // Once nothing is left, what is in the ring has come since.
        ring.after(now, FINE);
        assert_eq!(seen(&ring, ms(9)), (Behind::Late, false));
    }

    #[test]
    fn what_is_late_and_too_old_goes_by_how_long_a_stage_lets_things_wait() {
        let (mut ring, start) = (Ring::new(ms(50)), Instant::now());
        assert_eq!([20, 21].map(|waited| ring.behind(Some(ms(waited)))), [Behind::Unread, Behind::Late]);
        let batch = |waited| Observation { waited: Some(ms(waited)), taken_in: 64, is_in_vain: false, ..VAIN };
        assert_eq!([0, 100].map(|at| ring.after(start + ms(at), batch(50))), [None; 2], "no standing queue");
        ring.after(start, VAIN);
        assert_eq!([50, 51].map(|waited| ring.is_too_old(Some(ms(waited)))), [false, true]);
    }

    #[test]
    fn a_ring_in_which_everything_waits_too_long_for_a_while_is_an_overload_and_one_late_batch_is_none() {
        let (mut ring, start) = (Ring::new(WAIT_MAX), Instant::now());
        let batch = |waited| Observation { waited: Some(waited), taken_in: 64, is_in_vain: false, ..VAIN };
        for at_ms in (0..1_000).step_by(10) {
            let waited = if at_ms % 100 == 0 { ms(1) } else { ms(200) };
            assert_eq!(ring.after(start + ms(at_ms), batch(waited)), None, "after {at_ms} ms");
        }
        let mut ring = Ring::new(WAIT_MAX);
        assert_eq!(ring.after(start, batch(ms(6))), None);
        assert_eq!(ring.after(start + STANDING_AFTER - ms(1), batch(ms(6))), None);
        assert_eq!(ring.after(start + STANDING_AFTER, batch(ms(6))), Some(Some(BYTES.1)));
        assert!(ring.is_in_overload());
        assert_eq!(ring.why(), Some(Why::Stands));
    }

    #[test]
    fn an_overload_lasts_while_the_ring_that_is_kept_short_drops() {
        let (mut ring, start) = (Ring::new(WAIT_MAX), Instant::now());
        let drops = Observation { dropped: 1, ..FINE };
        ring.after(start, drops);
        assert!(!ring.is_in_overload(), "a burst that a ring of its full size does not hold is none");
        ring.after(start, VAIN);
        for look in 1..=10 {
            ring.after(start + look * CALM / 2, drops);
            assert!(ring.is_in_overload());
        }
        ring.after(start + 6 * CALM, FINE);
        assert!(!ring.is_in_overload());
    }
}
