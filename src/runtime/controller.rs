//! The thread pool controller: observations in, a decision out, time injected.
//!
//! Handlers do not block, so a thread more than there are cores never helps. A pool grows at once while work waits and
//! a core is free, and shrinks slowly, so that a short pause does not cost it its threads.

use std::time::{Duration, Instant};

/// How long a pool must have been larger than its work needs before it loses a thread. Long against the few hundred
/// milliseconds in which bursts of a TCP flow come and go, so that steady load changes nothing.
pub const SHRINK_AFTER: Duration = Duration::from_secs(2);

/// How often controllers look. A step of load is answered within a few looks.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A queue whose oldest item waited this long has work that its threads do not keep up with. About the time a batch
/// takes; less would be noise.
pub const SOJOURN_TO_GROW: Duration = Duration::from_micros(500);

/// What a stage looks like now.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// Lanes that wait for a thread.
    pub lanes_ready: usize,
    /// The longest wait among what was taken since the last look.
    pub sojourn_max: Duration,
    /// Threads that the pool has.
    pub threads: usize,
    /// Of them, how many had nothing to do.
    pub threads_idle: usize,
    /// Cores that no thread of the runtime keeps busy.
    pub cores_free: usize,
}

/// Why a pool's size was changed, or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// As it is.
    Keep,
    /// One thread more: work waits and a core is free.
    Grow,
    /// One thread less: it had nothing to do for a while.
    Shrink,
}

/// The controller of one pool.
#[derive(Debug)]
pub struct PoolController {
    threads_min: usize,
    threads_max: usize,
    idle_since: Option<Instant>,
}

impl PoolController {
    /// A controller that stays within `threads_min..=threads_max`.
    pub fn new(threads_min: usize, threads_max: usize) -> Self {
        Self { threads_min, threads_max: threads_max.max(threads_min), idle_since: None }
    }

    /// What to do after a look.
    pub fn decide(&mut self, now: Instant, seen: Observation) -> Decision {
        let waits = seen.lanes_ready > 0 && seen.sojourn_max >= SOJOURN_TO_GROW && seen.threads_idle == 0;
        if waits && seen.threads < self.threads_max && seen.cores_free > 0 {
            self.idle_since = None;
            return Decision::Grow;
        }
        if seen.threads_idle == 0 || seen.threads <= self.threads_min {
            self.idle_since = None;
            return Decision::Keep;
        }
        let since = *self.idle_since.get_or_insert(now);
        if now.saturating_duration_since(since) < SHRINK_AFTER {
            return Decision::Keep;
        }
        self.idle_since = Some(now);
        Decision::Shrink
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(lanes_ready: usize, threads: usize, threads_idle: usize, cores_free: usize) -> Observation {
        Observation { lanes_ready, sojourn_max: 2 * SOJOURN_TO_GROW, threads, threads_idle, cores_free }
    }

    #[test]
    fn a_pool_grows_while_work_waits_and_a_core_is_free_and_no_further_than_its_limit() {
        let (mut controller, now) = (PoolController::new(1, 2), Instant::now());
        assert_eq!(controller.decide(now, seen(5, 1, 0, 1)), Decision::Grow);
        assert_eq!(controller.decide(now, seen(5, 2, 0, 1)), Decision::Keep);
        assert_eq!(controller.decide(now, seen(5, 1, 0, 0)), Decision::Keep, "no core is free");
        assert_eq!(controller.decide(now, seen(0, 1, 0, 1)), Decision::Keep, "nothing waits");
    }

    #[test]
    fn a_pool_shrinks_only_after_it_was_too_large_for_a_while_and_not_below_its_minimum() {
        let (mut controller, start) = (PoolController::new(1, 4), Instant::now());
        assert_eq!(controller.decide(start, seen(0, 2, 1, 1)), Decision::Keep);
        assert_eq!(controller.decide(start + SHRINK_AFTER / 2, seen(0, 2, 1, 1)), Decision::Keep);
        assert_eq!(controller.decide(start + SHRINK_AFTER, seen(0, 2, 1, 1)), Decision::Shrink);
        assert_eq!(controller.decide(start + 3 * SHRINK_AFTER, seen(0, 1, 1, 1)), Decision::Keep);
    }

    #[test]
    fn a_busy_moment_starts_the_wait_anew() {
        let (mut controller, start) = (PoolController::new(1, 4), Instant::now());
        controller.decide(start, seen(0, 2, 1, 1));
        controller.decide(start + SHRINK_AFTER / 2, seen(0, 2, 0, 1));
        assert_eq!(controller.decide(start + SHRINK_AFTER, seen(0, 2, 1, 1)), Decision::Keep);
    }
}
