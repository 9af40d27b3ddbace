//! What the controllers decided, and from what they saw: a counter for each kind from the start, and the last ones in
//! words. Decisions are rare (a step of load makes a handful), so a lock around the rings costs nobody anything. Those that are
//! not, since each tether has a controller, or since each batch is decided on, are counted, and told from time to time.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::figures::Counter;
use super::handed_over::HandedOver::{
    Always, CoreFree, Gathers, LaneTaken, Late, Never, NoCoreFree, NoRoom, NothingBehind, ShortService, Unread,
};

/// Decisions that are remembered of each controller, so that one that decides often does not push out what the others
/// did: about what a step of load makes in every stage, twice.
const REMEMBERED: usize = 16;

/// Between two of one kind that [`Decisions::sample`] remembers: a thousand tethers whose credit is cut would push out all
/// else in a moment, and take the lock each time.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// The size of a stage's pool of threads.
    Pool,
    /// How much a stage's queue admits.
    Shedding,
    /// How much a stage takes at once.
    Batch,
    /// What the gateway as a whole refuses under lasting overload.
    Ladder,
    /// How much a tether may have inside the gateway.
    Credit,
    /// How much a link may have on its way.
    Window,
    /// How much may wait in the kernel in front of a source.
    Ring,
    /// Whether a source leaves what comes to the kernel for a moment.
    Rest,
    /// Whether lanes wait for more before they are served.
    Gathering,
    /// Whether batches run on or queue, as a stage mostly does.
    HandOver,
}

impl Controller {
    const COUNT: usize = 10;

    /// The label in metrics and in the status.
    pub fn label(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Shedding => "shedding",
            Self::Batch => "batch",
            Self::Ladder => "ladder",
            Self::Credit => "credit",
            Self::Window => "window",
            Self::Ring => "ring",
            Self::Rest => "rest",
            Self::Gathering => "gathering",
            Self::HandOver => "hand_over",
        }
    }
}

/// Which way a controller went: a pool up by a thread, a queue's admittance down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// More.
    Up,
    /// Less.
    Down,
}

impl Change {
    /// The label in metrics and in the status.
    pub fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// Work waits, no thread of the pool is idle, and a core is free.
pub const WORK_WAITS: &str = "work_waits";
/// The pool's threads had nothing to do for a while.
pub const IDLE: &str = "idle";
/// What waits in the queue waits longer than its bound.
pub const WAITS_TOO_LONG: &str = "waits_too_long";
/// What waits in the queue waits less than half of its bound.
pub const WAITS_LITTLE: &str = "waits_little";
/// A whole batch would take too much of the bound.
pub const SLOW_SERVICE: &str = "slow_service";
/// A larger batch takes little of the bound.
pub const QUICK_SERVICE: &str = "quick_service";
/// Memory runs short.
pub const MEMORY_SHORT: &str = "memory_short";
/// Overload lasts.
pub const OVERLOAD_LASTS: &str = "overload_lasts";
/// The overload is over.
pub const OVERLOAD_OVER: &str = "overload_over";
/// A tether's packets wait too long inside the gateway.
pub const WAITS_INSIDE: &str = "waits_inside";
/// What a tether sent waits too long before it is read.
pub const WAITS_UNREAD: &str = "waits_unread";

/// A source reads what is then refused.
pub const READ_IN_VAIN: &str = "read_in_vain";
/// What waits in front of a source has waited too long for a while.
pub const QUEUE_STANDS: &str = "queue_stands";
/// The ring holds more than the stages have use for.
pub const HOLDS_TOO_MUCH: &str = "holds_too_much";
/// The ring holds less than the stages take in.
pub const HOLDS_TOO_LITTLE: &str = "holds_too_little";
/// In overload something that was read was refused.
pub const REFUSED: &str = "refused";
/// In overload nothing is left to be read.
pub const NOTHING_LEFT: &str = "nothing_left";
/// A full window makes no queue.
pub const TOO_SHORT: &str = "too_short";
/// A full window makes less of a queue than it may.
pub const PATH_FASTER: &str = "path_faster";
/// A window that has just grown makes more of a queue than it may.
pub const GREW_TOO_FAR: &str = "grew_too_far";
/// A window that is not full, and packets wait behind it: for others.
pub const OTHERS_QUEUE: &str = "others_queue";
/// The path is to be seen without its queue.
pub const MEASURES: &str = "measures";
/// The machine is busy, and a stage with a price for each lane takes much of it.
pub const MACHINE_BUSY: &str = "machine_busy";
/// It is so no more.
pub const MACHINE_CALM: &str = "machine_calm";

/// A kind of decision: a series of its own.
struct Kind {
    controller: Controller,
    change: Change,
    reason: &'static str,
    /// What docs/metrics.md says of it.
    meaning: &'static str,
}

const fn kind(controller: Controller, change: Change, reason: &'static str, meaning: &'static str) -> Kind {
    Kind { controller, change, reason, meaning }
}

/// Every kind of decision there is.
#[rustfmt::skip]
const KINDS: [Kind; KINDS_COUNT] = [
    kind(Controller::Pool, Change::Up, WORK_WAITS, "A stage's pool has a thread more: work waits, none of its threads is idle, and a core is free."),
    kind(Controller::Pool, Change::Down, IDLE, "It has one less: its threads had nothing to do for a while."),
    kind(Controller::Shedding, Change::Down, WAITS_TOO_LONG, "A stage's queue admits less: what waits in it waits longer than `sojourn_max`."),
    kind(Controller::Shedding, Change::Up, WAITS_LITTLE, "It admits more, or all again: what waits in it waits less than half of that."),
    kind(Controller::Batch, Change::Down, SLOW_SERVICE, "A stage takes half as many packets at once, or fewer: a whole batch would take too much of `sojourn_max`."),
    kind(Controller::Batch, Change::Up, QUICK_SERVICE, "It takes twice as many or more, or all that it may: a larger batch takes little of that."),
    kind(Controller::Ladder, Change::Up, MEMORY_SHORT, "The gateway does without something more: memory runs short."),
    kind(Controller::Ladder, Change::Up, OVERLOAD_LASTS, "The same, because stages have shed for a while."),
    kind(Controller::Ladder, Change::Down, OVERLOAD_OVER, "It does without one thing less: neither is so any more."),
    kind(Controller::Credit, Change::Down, WAITS_INSIDE, "A tether's credit is halved: its packets wait too long inside."),
    kind(Controller::Credit, Change::Down, WAITS_UNREAD, "The same: what it sent waits too long before it is read."),
    kind(Controller::Credit, Change::Up, WAITS_LITTLE, "A credit that was halved is doubled again: neither waits for long."),
    kind(Controller::Ring, Change::Down, READ_IN_VAIN, "A source's overload begins, and the kernel's ring in front of it is kept short: most of a batch was refused, in most of its lanes, with no core free."),
    kind(Controller::Ring, Change::Down, QUEUE_STANDS, "The same, because all that was read of it waited too long for a while."),
    kind(Controller::Ring, Change::Down, HOLDS_TOO_MUCH, "In overload the ring may hold half as much: it holds more than the stages have use for."),
    kind(Controller::Ring, Change::Up, HOLDS_TOO_LITTLE, "In overload it may hold twice as much: all was taken in, and nothing was left."),
    kind(Controller::Ring, Change::Up, OVERLOAD_OVER, "The source's overload is over, and the ring may hold what it did: no sign of one for a while."),
    kind(Controller::Rest, Change::Down, READ_IN_VAIN, "A source rests once, for the time that it has wasted on what was refused."),
    kind(Controller::Rest, Change::Down, REFUSED, "It rests once, in overload: something was refused."),
    kind(Controller::Rest, Change::Down, NOTHING_LEFT, "It rests once, in overload: nothing is left to be read."),
    kind(Controller::Rest, Change::Up, OVERLOAD_OVER, "A source that rested in an overload does so no more: that is over."),
    kind(Controller::Window, Change::Up, TOO_SHORT, "A link's window grows by a quarter or more: it was full, and made no queue."),
    kind(Controller::Window, Change::Up, PATH_FASTER, "It grows by an eighth or more: it was full, and made less of a queue than it may."),
    kind(Controller::Window, Change::Down, QUEUE_STANDS, "It shrinks by an eighth or more: it was full, and more waits behind the path than should."),
    kind(Controller::Window, Change::Down, GREW_TOO_FAR, "The same, behind a step by which it grew too far."),
    kind(Controller::Window, Change::Down, OTHERS_QUEUE, "The same, though it was not full: others are on the path, or it has become slower."),
    kind(Controller::Window, Change::Down, MEASURES, "It is held below the path for a round trip, so that the queue runs dry and the path is seen."),
    kind(Controller::Gathering, Change::Up, MACHINE_BUSY, "Lanes of a stage begin to gather: no core is free, and the stage takes much of the machine."),
    kind(Controller::Gathering, Change::Down, MACHINE_CALM, "None has gathered for a while."),
    kind(Controller::HandOver, Change::Down, NothingBehind.reason(), "What is handed to a stage mostly runs on since: nothing waits behind it."),
    kind(Controller::HandOver, Change::Down, NoCoreFree.reason(), "The same: no core is free."),
    kind(Controller::HandOver, Change::Down, ShortService.reason(), "The same: it is not worth a hand-over."),
    kind(Controller::HandOver, Change::Down, Always.reason(), "The same: by its configured rule."),
    kind(Controller::HandOver, Change::Up, CoreFree.reason(), "It mostly queues since: a core is free for it."),
    kind(Controller::HandOver, Change::Up, Unread.reason(), "The same: it takes long, and its source alone can read what waits behind."),
    kind(Controller::HandOver, Change::Up, Late.reason(), "The same: what waits behind it waits too long already."),
    kind(Controller::HandOver, Change::Up, NoRoom.reason(), "The same: lanes of the stage wait for room in the next one."),
    kind(Controller::HandOver, Change::Up, LaneTaken.reason(), "The same: its lanes hold something, or a thread has them, or the stage sheds."),
    kind(Controller::HandOver, Change::Up, Never.reason(), "The same: by its configured rule."),
    kind(Controller::HandOver, Change::Up, Gathers.reason(), "It mostly gathers since: no core is free, and the stage takes much of the machine."),
];

const KINDS_COUNT: usize = 40;

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Who decided.
    pub controller: Controller,
    /// About what: a stage with its direction, a tether, or a rung.
    pub subject: Cow<'static, str>,
    /// Which way.
    pub change: Change,
    /// Why: one of the constants here.
    pub reason: &'static str,
    /// What came of it, and what was seen, in words.
    pub inputs: String,
}

/// The log that all controllers of a gateway share.
#[derive(Debug)]
pub struct Decisions {
    kinds: [OfKind; KINDS.len()],
    /// By controller, the newest last.
    last: Mutex<[VecDeque<(Instant, Decision)>; Controller::COUNT]>,
    /// What the times of samples are reckoned from.
    began: OnceLock<Instant>,
}

/// What is known of the decisions of one kind.
#[derive(Debug, Default)]
struct OfKind {
    count: Counter,
    /// In milliseconds after `began`: from when on another sample is remembered.
    sample_from_ms: AtomicU64,
}

impl Default for Decisions {
    fn default() -> Self {
        let kinds = std::array::from_fn(|_| OfKind::default());
        Self { kinds, last: Mutex::default(), began: OnceLock::new() }
    }
}

impl Decisions {
    /// Counts a decision and remembers it.
    pub fn note(&self, now: Instant, decision: Decision) {
        self.count(decision.controller, decision.change, decision.reason);
        self.remember(now, decision);
    }

    /// Counts a decision of one that nobody needs all of. One a second of each kind is remembered, in these words: its subject,
    /// and its inputs. No lock otherwise.
    pub fn sample(
        &self,
        now: Instant,
        (controller, change, reason): (Controller, Change, &'static str),
        words: impl FnOnce() -> (Cow<'static, str>, String),
    ) {
        let Some(kind) = self.count(controller, change, reason) else { return };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now_ms = millis(now.saturating_duration_since(*self.began.get_or_init(|| now)));
        let (from_ms, next_ms) = (&self.kinds[kind].sample_from_ms, now_ms.saturating_add(millis(SAMPLE_EVERY)));
        let due_ms = from_ms.load(Ordering::Relaxed);
        // Of several threads one is the first.
        let is_due =
            now_ms >= due_ms && from_ms.compare_exchange(due_ms, next_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_due {
            let (subject, inputs) = words();
            self.remember(now, Decision { controller, subject, change, reason, inputs });
        }
    }

    fn remember(&self, now: Instant, decision: Decision) {
        let last = &mut self.last.lock().unwrap_or_else(PoisonError::into_inner)[decision.controller as usize];
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back((now, decision));
    }

    /// Counts a small step of a decision that is remembered already. Tells the place of its kind.
    pub fn count(&self, controller: Controller, change: Change, reason: &'static str) -> Option<usize> {
        let is_it = |kind: &Kind| (kind.controller, kind.change) == (controller, change) && kind.reason == reason;
        let kind = KINDS.iter().position(is_it);
        debug_assert!(kind.is_some(), "every kind is listed: {controller:?} {change:?} {reason}");
        self.kinds[kind?].count.inc();
        kind
    }

    /// The last decisions of all controllers, the newest first, each with its age.
    pub fn last(&self, now: Instant) -> Vec<(Duration, Decision)> {
        let mut last: Vec<(Instant, Decision)> = {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.iter().flat_map(|of_one| of_one.iter().rev().cloned()).collect()
        };
        last.sort_by_key(|&(at, _)| Reverse(at));
        last.into_iter().map(|(at, decision)| (now.saturating_duration_since(at), decision)).collect()
    }

    /// Decisions of one kind since the start.
    pub fn counted(&self, controller: Controller, change: Change, reason: &'static str) -> u64 {
        let labels = [controller.label(), change.label(), reason];
        self.counts().into_iter().find(|(kind, _)| *kind == labels).map_or(0, |(_, count)| count)
    }

    /// Every kind with its count: controller, change, reason.
    pub(super) fn counts(&self) -> Vec<([&'static str; 3], u64)> {
        KINDS.iter().zip(&self.kinds).map(|(kind, of_kind)| (kind.labels(), of_kind.count.get())).collect()
    }
}

impl Kind {
    fn labels(&self) -> [&'static str; 3] {
        [self.controller.label(), self.change.label(), self.reason]
    }
}

/// Every kind and what it means, for docs/metrics.md.
pub fn meanings() -> impl Iterator<Item = ([&'static str; 3], &'static str)> {
    KINDS.iter().map(|kind| (kind.labels(), kind.meaning))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(threads: usize) -> Decision {
        Decision {
            controller: Controller::Pool,
            subject: "ip-parse uplink".into(),
            change: Change::Up,
            reason: WORK_WAITS,
            inputs: format!("{threads} threads"),
        }
    }

    #[test]
    fn the_last_decisions_are_remembered_the_newest_first_and_all_are_counted() {
        let (decisions, start) = (Decisions::default(), Instant::now());
        for second in 0..REMEMBERED + 3 {
            decisions.note(start + Duration::from_secs(second as u64), grown(second));
        }
        decisions.count(Controller::Shedding, Change::Down, WAITS_TOO_LONG);
        let last = decisions.last(start + Duration::from_secs(REMEMBERED as u64 + 2));
        assert_eq!(last.len(), REMEMBERED);
        assert_eq!(last[0], (Duration::ZERO, grown(REMEMBERED + 2)));
        assert_eq!(last[REMEMBERED - 1], (Duration::from_secs(REMEMBERED as u64 - 1), grown(3)));
        let counts = decisions.counts();
        assert_eq!(counts[0], (["pool", "up", WORK_WAITS], REMEMBERED as u64 + 3));
        assert_eq!(counts[2], (["shedding", "down", WAITS_TOO_LONG], 1));
    }

    #[test]
    fn a_controller_that_decides_often_does_not_push_out_what_the_others_decided() {
        let (decisions, start) = (Decisions::default(), Instant::now());
        decisions.note(start, grown(2));
        let batch = Decision { controller: Controller::Batch, reason: QUICK_SERVICE, ..grown(1) };
        (1..100).for_each(|second| decisions.note(start + Duration::from_secs(second), batch.clone()));
        let last = decisions.last(start + Duration::from_secs(99));
        assert_eq!(last.len(), REMEMBERED + 1);
        assert_eq!((&last[0].1, &last[REMEMBERED].1), (&batch, &grown(2)));
    }

    #[test]
    fn of_those_that_are_sampled_all_are_counted_and_one_a_second_of_each_kind_is_remembered() {
        let (decisions, start) = (Decisions::default(), Instant::now());
        let cut = |at_ms: u64, reason| {
            let words = || ("tether 7".into(), format!("at {at_ms} ms"));
            decisions.sample(start + Duration::from_millis(at_ms), (Controller::Credit, Change::Down, reason), words);
        };
        (0..=2_000).step_by(100).for_each(|at_ms| cut(at_ms, WAITS_INSIDE));
        cut(2_000, WAITS_UNREAD);
        assert_eq!(decisions.counted(Controller::Credit, Change::Down, WAITS_INSIDE), 21);
        let last = decisions.last(start + Duration::from_secs(2));
        let told: Vec<_> = last.iter().map(|(_, it)| (it.reason, &*it.inputs)).collect();
        assert_eq!(
            told,
            [
                (WAITS_UNREAD, "at 2000 ms"),
                (WAITS_INSIDE, "at 2000 ms"),
                (WAITS_INSIDE, "at 1000 ms"),
                (WAITS_INSIDE, "at 0 ms")
            ]
        );
    }

    #[test]
    fn every_kind_is_listed_once_and_every_controller_has_one_each_way() {
        let kinds: std::collections::HashSet<_> = KINDS.iter().map(Kind::labels).collect();
        assert_eq!(kinds.len(), KINDS.len());
        for controller in KINDS.iter().map(|kind| kind.controller) {
            for change in [Change::Up, Change::Down] {
                let has = KINDS.iter().any(|kind| (kind.controller, kind.change) == (controller, change));
                assert!(has, "{controller:?} {change:?}");
            }
        }
        assert!(KINDS.iter().all(|kind| (kind.controller as usize) < Controller::COUNT));
    }
}
