//! How much a tether may have inside the gateway: a credit that follows what it sends, and how long that waits.
//!
//! Credit covers what is on its way to the gateway as well as what waits inside, and of a long and fast path the former
//! alone is some megabytes. What was granted cannot be taken back: had each of a thousand tethers as much, all of it could come
//! at once, and would wait for a minute. So a tether that sends little is granted little, and one that sends much what its
//! path can hold. It is halved as long as its packets wait too long, unread or inside, and grows back once they do not.
//! Observations in, a verdict out, time injected. See docs/decisions/0004-credit.md.

use std::fmt;
use std::time::{Duration, Instant};

/// When a credit is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a tether's packets may wait.
    pub wait_max: Duration,
    /// How long packets must wait too long before the credit is cut. A thread that the machine held up, or connections that
    /// begin all at once, are over by then, and a cut would cost their senders losses.
    pub cut_after: Duration,
}

impl Settings {
    /// Packets may wait as long as what a window lets wait on a short path ([`window`](crate::window)), since an overloaded
    /// gateway is a slow path.
    pub const DEFAULT: Self = Self { wait_max: Duration::from_millis(20), cut_after: Duration::from_millis(100) };
}

/// Between two looks: what the last one did must be seen, and a thread that waited for a core be forgotten.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The credit of who sends little: the first flight of a TCP connection (RFC 6928, 10 segments), or a hundred small packets.
const BYTES_START: u64 = 16_384;

/// What all together have of it, where they are many: of the smallest packets as many as a gateway handles in 0.1 s.
const BYTES_START_OF_ALL: u64 = 1 << 20;

/// The least that is granted where more is configured: a large packet, or a dozen small ones, so that the message that brings
/// them is worth its cost. A packet that begins within the credit may end beyond it, so no packet is too large for it. Nor is
/// less granted than what leaves in a round trip and 20 ms: what waits beyond that is not the tether's doing, but that of
/// others or of its own downlink, whose acknowledgements it would hold back.
pub const BYTES_MIN: u64 = 2_048;

/// The credit is [`ROUND_FACTOR`] times what came within such a time. So a sender on a path of up to this round trip twice over
/// (by satellite: 600 ms) is not held up by it, and before it is known how much it sends, its credit has doubled.
const ROUND: Duration = Duration::from_millis(300);
const ROUND_FACTOR: u64 = 2;

/// What is seen of a tether.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// How many tethers there are.
    pub tethers: u64,
    /// Bytes of its packets that wait inside.
    pub inside_bytes: u64,
    /// Bytes that have left, all in all.
    pub left_bytes: u64,
    /// The smallest round trip of its link of late; zero where none is known.
    pub round_trip: Duration,
}

/// What a look has changed, and from what. That credit follows what comes is no decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    #[default]
    Keep,
    /// It was halved.
    Cut(Waits),
    /// One half was taken back.
    Raise(Waits),
}

/// How the packets of a tether wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Bytes inside.
    pub inside_bytes: u64,
    /// The longest wait that is right.
    pub wait_max: Duration,
    /// How much leaves within it.
    pub leaves_bytes: u64,
    /// The longest that something waited unread.
    pub unread: Duration,
}

impl Waits {
    /// Whether what has come waits too long before it is read.
    pub fn is_unread(&self) -> bool {
        self.unread > self.wait_max
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inside_bytes, wait_max, leaves_bytes, unread } = self;
        write!(
            f,
            "{inside_bytes} bytes inside, {leaves_bytes} leave within {wait_max:?}, unread for up to {unread:.1?}"
        )
    }
}

/// The credit of one tether.
#[derive(Debug)]
pub struct Credit {
    settings: Settings,
    bytes_max: u64,
    /// When the present round began, and what had come by then.
    round: Option<(Instant, u64)>,
    /// What came in the last one.
    last_round_bytes: u64,
    /// What is to be granted for what came, before it is cut.
    follows_bytes: u64,
    /// What left in a round trip and [`Settings::wait_max`], by the last two looks.
    least_of: (u64, u64),
    /// How often it is halved.
    cuts: u32,
    /// When it was last looked at, and what had left by then.
    looked: Option<(Instant, u64)>,
    /// Since when packets wait too long.
    over_since: Option<Instant>,
    /// Since when something waits that was left unread.
    unread_since: Option<Instant>,
    /// The longest that something waited unread, since the last look.
    waited: Duration,
    /// What a turn of reading brought, and when: it has not waited for anything yet.
    brought: Option<(Instant, u64)>,
    /// What the last look changed.
    verdict: Verdict,
}

impl Credit {
    /// At most `bytes_max`; little, until more comes.
    pub fn new(settings: Settings, bytes_max: u64) -> Self {
        Self {
            settings,
            bytes_max,
            round: None,
            last_round_bytes: 0,
            follows_bytes: BYTES_START.min(bytes_max),
            least_of: (0, 0),
            cuts: 0,
            looked: None,
            over_since: None,
            unread_since: None,
            waited: Duration::ZERO,
            brought: None,
            verdict: Verdict::Keep,
        }
    }

    /// The credit now.
    pub fn bytes(&self) -> u64 {
        (self.follows_bytes >> self.cuts).max(self.least_bytes())
    }

    fn least_bytes(&self) -> u64 {
        self.least_of.0.max(self.least_of.1).max(BYTES_MIN).min(self.follows_bytes)
    }

    /// Whether it is less than it would be if nothing waited.
    pub fn is_cut(&self) -> bool {
        self.cuts > 0
    }

    /// What the last look has changed.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// A link of the tether was read. So many bytes came, and had waited since `signalled`, where readiness told of it; some is
    /// left unread where it `leaves_more`.
    pub fn read(&mut self, now: Instant, bytes: u64, signalled: Option<Instant>, leaves_more: bool) {
        let since = [signalled, self.unread_since].into_iter().flatten().min();
        self.waited = self.waited.max(since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)));
        self.unread_since = leaves_more.then_some(now);
        let before = self.brought.filter(|(then, _)| *then == now).map_or(0, |(_, bytes)| bytes);
        self.brought = Some((now, before + bytes));
    }

    /// The credit from now on.
    pub fn look(&mut self, now: Instant, seen: Observation) -> u64 {
        let Observation { inside_bytes, left_bytes, .. } = seen;
        self.verdict = Verdict::Keep;
        let Settings { wait_max, cut_after } = self.settings;
        self.follow(now, seen);
        let (then, left_then) = *self.looked.get_or_insert((now, left_bytes));
        let elapsed = now.saturating_duration_since(then);
        if elapsed < LOOK_EVERY {
            return self.bytes();
        }
        self.looked = Some((now, left_bytes));
        let unread = std::mem::take(&mut self.waited);
        // By Little's law what is inside waits as long as it takes so much to leave.
        let leaves_within = |wait: Duration| {
            let left = left_bytes.saturating_sub(left_then) as f64;
            (left * wait.as_secs_f64() / elapsed.as_secs_f64()) as u64
        };
        let waits_within = |bytes: u64, wait: Duration| unread <= wait && bytes <= leaves_within(wait);
        let waits = Waits { inside_bytes, wait_max, leaves_bytes: leaves_within(wait_max), unread };
        // Of two looks, since in one of them nothing may leave by chance. An acknowledgement that told the round trip waited
        // unread as what comes now does.
        let round_trip = seen.round_trip.saturating_sub(unread);
        let (newer, older) = (leaves_within(round_trip + wait_max), self.least_of.0);
        self.least_of = (newer, older);
        if waits_within(inside_bytes, wait_max) {
            self.over_since = None;
            if self.cuts > 0 && waits_within(inside_bytes, wait_max / 2) {
                self.cuts -= 1;
                self.verdict = Verdict::Raise(waits);
            }
            return self.bytes();
        }
        // An upload in bursts has a whole one inside whenever it is looked at in the turn that reads it. That says neither that
        // it waits nor that it does not.
        let brought = self.brought.filter(|(then, _)| *then == now).map_or(0, |(_, bytes)| bytes);
        if waits_within(inside_bytes.saturating_sub(brought), wait_max) {
            return self.bytes();
        }
        let since = *self.over_since.get_or_insert(now);
        // One cut more would change nothing.
        if now.saturating_duration_since(since) >= cut_after && self.bytes() > self.least_bytes() {
            self.cuts += 1;
            self.verdict = Verdict::Cut(waits);
        }
        self.bytes()
    }

    /// Takes note of what has come.
    fn follow(&mut self, now: Instant, seen: Observation) {
        let came_bytes = seen.inside_bytes + seen.left_bytes;
        let start_bytes = (BYTES_START_OF_ALL / seen.tethers.max(1)).clamp(BYTES_MIN, BYTES_START);
        let (began, came_then) = *self.round.get_or_insert((now, came_bytes));
        let (elapsed, bytes) = (now.saturating_duration_since(began), came_bytes.saturating_sub(came_then));
        let most_bytes = bytes.max(self.last_round_bytes);
        self.follows_bytes = (ROUND_FACTOR * most_bytes).max(start_bytes).min(self.bytes_max);
        // Cuts beyond the least would have to be undone one by one.
        self.cuts = self.cuts.min((self.follows_bytes / BYTES_MIN).max(1).ilog2());
        if elapsed >= ROUND {
            self.round = Some((now, came_bytes));
            // Of a round that was longer, since nothing came, as much as of one of its length.
            self.last_round_bytes = (bytes as f64 * ROUND.as_secs_f64() / elapsed.as_secs_f64()) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const BY_DEFAULT: Settings = Settings::DEFAULT;
    const WAIT_MAX: Duration = BY_DEFAULT.wait_max;
    const CUT_AFTER: Duration = BY_DEFAULT.cut_after;
    const NOTHING: Observation = Observation { tethers: 1, inside_bytes: 0, left_bytes: 0, round_trip: Duration::ZERO };

    /// A tether of which so many bytes wait and so many leave between two looks.
    struct Bench {
        credit: Credit,
        now: Instant,
        left_bytes: u64,
        round_trip: Duration,
    }

    impl Bench {
        fn new(bytes_max: u64) -> Self {
            Self {
                credit: Credit::new(BY_DEFAULT, bytes_max),
                now: Instant::now(),
                left_bytes: 0,
                round_trip: Duration::ZERO,
            }
        }

        fn look(&mut self, inside_bytes: u64, leave_bytes: u64) -> u64 {
            self.now += LOOK_EVERY;
            self.left_bytes += leave_bytes;
            self.credit.look(
                self.now,
                Observation { inside_bytes, left_bytes: self.left_bytes, round_trip: self.round_trip, ..NOTHING },
            )
        }

        /// Sends for a second what is granted, all of which leaves at once.
        fn grown(bytes_max: u64) -> Self {
            let mut bench = Self::new(bytes_max);
            bench.look(0, 0);
            (0..50).for_each(|_| _ = bench.look(0, bench.credit.bytes()));
            bench
        }
    }

    #[test]
    fn who_sends_little_is_granted_little_however_long_it_does() {
        let mut bench = Bench::new(4 * MIB);
        assert_eq!(bench.credit.bytes(), BYTES_START);
        // 25 KiB a second, so that less than half of the credit comes in a round.
        assert!((0..1_000).all(|_| bench.look(0, 512) == BYTES_START));
        assert!(!bench.credit.is_cut(), "less than the most that it could be is not cut");
    }

    #[test]
    fn the_more_tethers_there_are_the_less_each_begins_with() {
        let begins_with =
            |tethers| Credit::new(BY_DEFAULT, 4 * MIB).look(Instant::now(), Observation { tethers, ..NOTHING });
        assert_eq!(
            [0, 1, 64, 128, 512, 10_000].map(begins_with),
            [16_384, 16_384, 16_384, 8_192, BYTES_MIN, BYTES_MIN]
        );
    }

    #[test]
    fn who_uses_its_credit_has_twice_of_all_that_came_next_and_at_most_what_is_configured() {
        let mut bench = Bench::new(MIB);
        bench.look(0, 0);
        let grants: Vec<_> = (0..6).map(|_| bench.look(0, bench.credit.bytes()) / BYTES_START).collect();
        assert_eq!(grants, [2, 6, 18, 54, 64, 64], "what came so far in the round counts");
    }

    #[test]
    fn it_goes_back_with_what_comes_within_some_rounds() {
        let mut bench = Bench::grown(4 * MIB);
        assert_eq!(bench.credit.bytes(), 4 * MIB);
        let looks_a_round = ROUND.as_millis() / LOOK_EVERY.as_millis();
        (0..3 * looks_a_round).for_each(|_| _ = bench.look(0, 4_096));
        assert_eq!(bench.credit.bytes(), ROUND_FACTOR * 4_096 * looks_a_round as u64);
        bench.now += 100 * ROUND;
        bench.look(0, 0);
        assert_eq!(bench.look(0, 0), BYTES_START, "a long silence is less than a round's");
    }

    #[test]
    fn it_is_halved_while_what_is_inside_waits_too_long_and_not_below_a_dozen_small_packets() {
        let mut bench = Bench::grown(4 * MIB);
        let looks = (CUT_AFTER.as_millis() / LOOK_EVERY.as_millis()) as usize;
        let credits: Vec<_> = (0..40).map(|_| bench.look(bench.credit.bytes(), 100)).collect();
        assert!(credits[..looks].iter().all(|&credit| credit == 4 * MIB), "a moment's wait cuts nothing: {credits:?}");
        assert_eq!(credits[looks..looks + 3], [2 * MIB, MIB, MIB / 2]);
        assert_eq!(*credits.last().expect("some"), BYTES_MIN);
        assert!(bench.credit.is_cut());
    }

    #[test]
    fn it_is_halved_while_what_has_come_waits_unread_too_long() {
        let mut bench = Bench::new(4 * MIB);
        // Each turn of reading comes 30 ms after the last, which left something.
        let turn = |bench: &mut Bench| {
            bench.now += Duration::from_millis(30);
            bench.credit.read(bench.now, 0, None, true);
            bench.credit.look(bench.now, NOTHING)
        };
        let credits: Vec<_> = (0..12).map(|_| turn(&mut bench)).collect();
        assert_eq!(credits[..5], [BYTES_START; 5], "the first look that finds a wait, and 100 ms");
        assert_eq!(credits[5..9], [8_192, 4_096, BYTES_MIN, BYTES_MIN]);
        // Readiness tells since when something waits, too; the longest wait of all turns since the last look counts.
        let mut signalled = Bench::new(4 * MIB);
        for _ in 0..7 {
            signalled.now += 2 * LOOK_EVERY;
            signalled.credit.read(signalled.now, 0, Some(signalled.now - 2 * WAIT_MAX), false);
            signalled.credit.read(signalled.now, 0, Some(signalled.now), false);
            signalled.credit.look(signalled.now, NOTHING);
        }
        assert!(signalled.credit.is_cut());
    }

    #[test]
    fn it_is_not_cut_below_what_leaves_in_a_round_trip_and_as_long_as_it_may_wait() {
        for (round_trip, least) in [(0, 20_000), (100, 80_000), (300, 280_000)] {
            let mut bench = Bench::new(4 * MIB);
            bench.round_trip = Duration::from_millis(round_trip);
            // 1 MB a second, of which none waits for long inside; but each turn of reading is 40 ms late, as were those that brought
            // the acknowledgements by which the round trip is known.
            for _ in 0..100 {
                bench.credit.read(bench.now + LOOK_EVERY, 0, Some(bench.now - WAIT_MAX), false);
                bench.look(0, 20_000);
            }
            let rounds = (least..=least * 11 / 10).contains(&bench.credit.bytes());
            assert!(rounds, "{} at {round_trip} ms", bench.credit.bytes());
            // Once it sends less, it may be granted less.
            (0..100).for_each(|_| {
                bench.credit.read(bench.now + LOOK_EVERY, 0, Some(bench.now - WAIT_MAX), false);
                bench.look(0, 100);
            });
            assert_eq!(bench.credit.bytes(), BYTES_MIN, "at {round_trip} ms");
        }
    }

    #[test]
    fn an_upload_in_bursts_of_which_nothing_waits_is_never_cut() {
        const BURST: u64 = 65_536;
        let mut bench = Bench::grown(4 * MIB);
        for _ in 0..100 {
            // The last one has long left, and this one is looked at in the turn that reads it.
            bench.now += Duration::from_millis(50);
            let (read, rest) = (BURST / 4, bench.now + LOOK_EVERY);
            (0..4).for_each(|_| bench.credit.read(rest, read, Some(rest), false));
            bench.look(BURST, BURST);
            assert!(!bench.credit.is_cut());
        }
        // What a turn before brought has waited for this one.
        let cut = (0..100).any(|_| {
            bench.credit.read(bench.now, BURST, Some(bench.now), false);
            bench.look(BURST, 100);
            bench.credit.is_cut()
        });
        assert!(cut);
    }

    #[test]
    fn it_comes_to_rest_where_its_packets_wait_a_little() {
        let mut bench = Bench::grown(4 * MIB);
        // 600 KiB leave in 20 ms, so that more than those would wait for longer.
        let credits: Vec<_> = (0..40).map(|_| bench.look(bench.credit.bytes(), 600 << 10)).collect();
        assert_eq!(credits[8..], [600 << 10; 32]);
    }

    #[test]
    fn how_long_packets_may_wait_and_for_how_long_they_may_wait_longer_is_as_it_is_set() {
        let looks_until_cut = |settings| {
            let mut bench = Bench::grown(4 * MIB);
            bench.credit.settings = settings;
            // Each look finds three times of what leaves between two: it waits for 60 ms.
            let cut = |bench: &mut Bench| {
                bench.look(300 << 10, 100 << 10);
                bench.credit.is_cut()
            };
            (1..=20).find(|_| cut(&mut bench))
        };
        assert_eq!(looks_until_cut(BY_DEFAULT), Some(6), "100 ms after the first that finds it");
        assert_eq!(
            looks_until_cut(Settings { cut_after: Duration::ZERO, ..BY_DEFAULT }),
            Some(2),
            "by two it is known what leaves"
        );
        assert_eq!(looks_until_cut(Settings { wait_max: Duration::from_millis(100), ..BY_DEFAULT }), None);
    }

    #[test]
    fn it_grows_back_once_little_waits() {
        let mut bench = Bench::new(4 * MIB);
        (0..20).for_each(|_| _ = bench.look(4_096, 0));
        assert_eq!(bench.credit.bytes(), BYTES_MIN);
        let grown: Vec<_> = (0..4).map(|_| bench.look(0, 0)).collect();
        assert_eq!(grown, [4_096, 8_192, BYTES_START, BYTES_START]);
        assert!(!bench.credit.is_cut());
    }

    #[test]
    fn each_cut_and_each_raise_is_told_with_what_was_seen_and_nothing_else_is() {
        let mut bench = Bench::grown(64 << 10);
        assert_eq!(bench.credit.verdict(), Verdict::Keep, "to follow what comes is no decision");
        let mut verdicts = |inside_bytes, looks: u32| -> Vec<_> {
            let looked = (0..looks).map(|_| {
                bench.look(inside_bytes, 0);
                bench.credit.verdict()
            });
            looked.filter(|verdict| *verdict != Verdict::Keep).collect()
        };
        let waits = Waits { inside_bytes: 60_000, wait_max: WAIT_MAX, leaves_bytes: 0, unread: Duration::ZERO };
        let looks = (CUT_AFTER.as_millis() / LOOK_EVERY.as_millis()) as u32;
        assert_eq!(verdicts(60_000, looks + 2), [Verdict::Cut(waits); 2]);
        assert_eq!(verdicts(0, 10), [Verdict::Raise(Waits { inside_bytes: 0, ..waits }); 2], "once for each cut");
        assert_eq!(waits.to_string(), "60000 bytes inside, 0 leave within 20ms, unread for up to 0.0ns");
        assert_eq!([19, 21].map(|ms| Waits { unread: Duration::from_millis(ms), ..waits }.is_unread()), [false, true]);
        // Between two looks nothing is decided, whatever the last one did.
        let begun = bench.now;
        bench.credit.look(begun + LOOK_EVERY / 2, Observation { inside_bytes: 60_000, ..NOTHING });
        assert_eq!(bench.credit.verdict(), Verdict::Keep);
    }

    #[test]
    fn what_waits_for_a_moment_cuts_nothing() {
        let mut bench = Bench::grown(4 * MIB);
        let looks = (0..40).map(|at| bench.look(if at % 5 == 4 { 0 } else { MIB }, 300 << 10)).collect::<Vec<_>>();
        assert_eq!(looks.iter().min(), Some(&(4 * MIB)));
    }

    #[test]
    fn looks_in_between_judge_no_wait_and_a_credit_that_is_configured_lower_stays() {
        let start = Instant::now();
        let mut credit = Credit::new(BY_DEFAULT, 4 * MIB);
        let waiting = Observation { inside_bytes: 4_096, ..NOTHING };
        assert!((0..100).all(|at| credit.look(start + at * LOOK_EVERY / 101, waiting) == BYTES_START));
        assert!(!credit.is_cut());
        let mut small = Bench::new(BYTES_MIN / 2);
        assert!((0..20).all(|_| small.look(4_096, 0) == BYTES_MIN / 2));
    }
}
