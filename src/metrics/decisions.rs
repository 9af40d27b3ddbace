//! What the controllers decided, and from what they saw: a counter for each kind from the start, and the last ones in
//! words. Decisions are rare (a step of load makes a handful), so a lock around the rings costs nobody anything.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::figures::Counter;

/// Decisions that are remembered of each controller, so that one that decides often does not push out what the others
/// did: about what a step of load makes in every stage, twice.
const REMEMBERED: usize = 16;

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
}

impl Controller {
    const COUNT: usize = 4;

    /// The label in metrics and in the status.
    pub fn label(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Shedding => "shedding",
            Self::Batch => "batch",
            Self::Ladder => "ladder",
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

/// Every kind of decision there is.
const KINDS: [(Controller, Change, &str); 9] = [
    (Controller::Pool, Change::Up, WORK_WAITS),
    (Controller::Pool, Change::Down, IDLE),
    (Controller::Shedding, Change::Down, WAITS_TOO_LONG),
    (Controller::Shedding, Change::Up, WAITS_LITTLE),
    (Controller::Batch, Change::Down, SLOW_SERVICE),
    (Controller::Batch, Change::Up, QUICK_SERVICE),
    (Controller::Ladder, Change::Up, MEMORY_SHORT),
    (Controller::Ladder, Change::Up, OVERLOAD_LASTS),
    (Controller::Ladder, Change::Down, OVERLOAD_OVER),
];

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Who decided.
    pub controller: Controller,
    /// About what: a stage with its direction, or a rung.
    pub subject: Cow<'static, str>,
    /// Which way.
    pub change: Change,
    /// Why: one of the constants here.
    pub reason: &'static str,
    /// What came of it, and what was seen, in words.
    pub inputs: String,
}

/// The log that all controllers of a gateway share.
#[derive(Debug, Default)]
pub struct Decisions {
    counts: [Counter; KINDS.len()],
    /// By controller, the newest last.
    last: Mutex<[VecDeque<(Instant, Decision)>; Controller::COUNT]>,
}

impl Decisions {
    /// Counts a decision and remembers it.
    pub fn note(&self, now: Instant, decision: Decision) {
        self.count(decision.controller, decision.change, decision.reason);
        let last = &mut self.last.lock().unwrap_or_else(PoisonError::into_inner)[decision.controller as usize];
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back((now, decision));
    }

    /// Counts a small step of a decision that is remembered already.
    pub fn count(&self, controller: Controller, change: Change, reason: &'static str) {
        let kind = KINDS.iter().position(|kind| *kind == (controller, change, reason));
        debug_assert!(kind.is_some(), "every kind is listed: {controller:?} {change:?} {reason}");
        if let Some(kind) = kind {
            self.counts[kind].inc();
        }
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

    /// Every kind with its count: controller, change, reason.
    pub(super) fn counts(&self) -> Vec<([&'static str; 3], u64)> {
        let label = |&(controller, change, reason): &(Controller, Change, &'static str)| {
            [controller.label(), change.label(), reason]
        };
        KINDS.iter().map(label).zip(self.counts.iter().map(Counter::get)).collect()
    }
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
}
