//! The thread pool controller: observations in, a decision out, time injected.
//!
//! Handlers do not block, so a thread more than there are cores never helps. A pool grows at once while work waits and
//! a core is free, and shrinks slowly, so that a short pause does not cost it its threads.

use std::fmt;
use std::time::{Duration, Instant};

/// When a pool changes its size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// A queue whose oldest item waited this long has work that its threads do not keep up with.
    pub grow_sojourn: Duration,
    /// How long a pool must have been larger than its work needs before it loses a thread.
    pub shrink_after: Duration,
    /// The longest that it takes after shrinking turned out wrong again and again.
    pub shrink_after_max: Duration,
    /// How busy the remaining threads may be for a pool to lose one: busy threads on average, for each that would remain.
    pub shrink_below: f64,
}

impl Settings {
    /// A pool grows by a wait of about the time a batch takes; less would be noise. A thread that has nothing to do costs its
    /// stack alone, so it is long before it goes: steady load, and bursts that come again within seconds, change nothing. At 15 %
    /// a queue hardly ever forms, so what was taken away is not soon wanted back.
    pub const DEFAULT: Self = Self {
        grow_sojourn: Duration::from_micros(500),
        shrink_after: Duration::from_secs(10),
        shrink_after_max: Duration::from_secs(160),
        shrink_below: 0.15,
    };
}

/// Looks in a row at which work must wait before a pool grows: bursts shorter than that are gone before a thread comes.
/// At 60 ms a thread, a step of load is answered well within half a second.
const GROW_AFTER_LOOKS: u32 = 3;

/// How often controllers look by default. A step of load is answered within a few looks.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a stage looks like now.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// Lanes that wait for a thread, or would be served by one more.
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

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lanes_ready, sojourn_max, threads, threads_idle, cores_free } = self;
        write!(
            f,
            "{lanes_ready} lanes ready, longest wait {sojourn_max:.1?}, {threads_idle} of {threads} threads idle, \
             {cores_free} cores free"
        )
    }
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
    settings: Settings,
    threads_min: usize,
    threads_max: usize,
    waiting_looks: u32,
    window: Window,
    shrink_after: Duration,
    shrunk_at: Option<Instant>,
}

/// How busy the pool was since the last change.
#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    looks: u32,
    busy: usize,
}

impl Window {
    fn look(&mut self, now: Instant, busy: usize) -> Duration {
        self.looks += 1;
        self.busy += busy;
        now.saturating_duration_since(*self.since.get_or_insert(now))
    }

    fn busy_mean(&self) -> f64 {
        self.busy as f64 / f64::from(self.looks.max(1))
    }
}

impl PoolController {
    /// A controller that stays within `threads_min..=threads_max`.
    pub fn new(settings: Settings, threads_min: usize, threads_max: usize) -> Self {
        Self {
            settings,
            threads_min,
            threads_max: threads_max.max(threads_min),
            waiting_looks: 0,
            window: Window::default(),
            shrink_after: settings.shrink_after,
            shrunk_at: None,
        }
    }

    /// What to do after a look.
    pub fn decide(&mut self, now: Instant, seen: Observation) -> Decision {
        let waits = seen.lanes_ready > 0 && seen.sojourn_max >= self.settings.grow_sojourn && seen.threads_idle == 0;
        self.waiting_looks = if waits { self.waiting_looks + 1 } else { 0 };
        if self.waiting_looks >= GROW_AFTER_LOOKS && seen.threads < self.threads_max && seen.cores_free > 0 {
            self.regret(now);
            self.restart();
            return Decision::Grow;
        }
        let age = self.window.look(now, seen.threads.saturating_sub(seen.threads_idle));
        if age < self.shrink_after {
            return Decision::Keep;
        }
        let remain = seen.threads.saturating_sub(1);
        let is_larger_than_needed = self.window.busy_mean() <= self.settings.shrink_below * remain as f64;
        self.restart();
        if remain < self.threads_min || !is_larger_than_needed {
            return Decision::Keep;
        }
        self.shrunk_at = Some(now);
        Decision::Shrink
    }

    fn restart(&mut self) {
        (self.waiting_looks, self.window) = (0, Window::default());
    }

    /// A pool that must grow soon after it shrank waits twice as long the next time, so that a load that comes and goes
    /// does not change it for ever.
    fn regret(&mut self, now: Instant) {
        let was_wrong = self.shrunk_at.take().is_some_and(|at| now.saturating_duration_since(at) < self.shrink_after);
        let Settings { shrink_after, shrink_after_max, .. } = self.settings;
        self.shrink_after = if was_wrong { (2 * self.shrink_after).min(shrink_after_max) } else { shrink_after };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY_DEFAULT: Settings = Settings::DEFAULT;
    const SHRINK_AFTER: Duration = BY_DEFAULT.shrink_after;

    fn seen(lanes_ready: usize, threads: usize, threads_idle: usize, cores_free: usize) -> Observation {
        Observation { lanes_ready, sojourn_max: 2 * BY_DEFAULT.grow_sojourn, threads, threads_idle, cores_free }
    }

    /// The first decision but to keep, within `time`.
    fn first_change(controller: &mut PoolController, start: Instant, time: Duration, seen: Observation) -> Decision {
        let looks = time.as_millis() / LOOK_EVERY.as_millis();
        let mut decisions = (0..=looks as u32).map(|look| controller.decide(start + look * LOOK_EVERY, seen));
        decisions.find(|decision| *decision != Decision::Keep).unwrap_or(Decision::Keep)
    }

    #[test]
    fn a_pool_grows_while_work_waits_and_a_core_is_free_and_no_further_than_its_limit() {
        let soon = GROW_AFTER_LOOKS * LOOK_EVERY;
        for (observation, expected, why) in [
            (seen(5, 1, 0, 1), Decision::Grow, "work waits and a core is free"),
            (seen(5, 2, 0, 1), Decision::Keep, "it is at its limit"),
            (seen(5, 1, 0, 0), Decision::Keep, "no core is free"),
            (seen(0, 1, 0, 1), Decision::Keep, "nothing waits"),
            (seen(5, 1, 1, 1), Decision::Keep, "a thread is there for it"),
        ] {
            let mut controller = PoolController::new(BY_DEFAULT, 1, 2);
            assert_eq!(first_change(&mut controller, Instant::now(), soon, observation), expected, "{why}");
        }
    }

    #[test]
    fn a_burst_that_is_over_before_a_thread_could_come_changes_nothing() {
        let (mut controller, now) = (PoolController::new(BY_DEFAULT, 1, 2), Instant::now());
        for look in 0..100 {
            let lanes_ready = if look % GROW_AFTER_LOOKS == 0 { 0 } else { 5 };
            assert_eq!(controller.decide(now + look * LOOK_EVERY, seen(lanes_ready, 1, 0, 1)), Decision::Keep);
        }
    }

    #[test]
    fn a_pool_shrinks_only_after_it_was_too_large_for_a_while_and_not_below_its_minimum() {
        let start = Instant::now();
        for (time, threads, idle, expected) in [
            (SHRINK_AFTER / 2, 2, 2, Decision::Keep),
            (SHRINK_AFTER, 2, 2, Decision::Shrink),
            (SHRINK_AFTER, 2, 1, Decision::Keep),
            (SHRINK_AFTER, 1, 1, Decision::Keep),
        ] {
            let mut controller = PoolController::new(BY_DEFAULT, 1, 4);
            assert_eq!(first_change(&mut controller, start, time, seen(0, threads, idle, 1)), expected);
        }
    }

    #[test]
    fn a_pool_changes_its_size_by_the_settings() {
        let (start, idle) = (Instant::now(), seen(0, 2, 1, 1));
        let shrinks = |settings| {
            let mut controller = PoolController::new(settings, 1, 4);
            first_change(&mut controller, start, SHRINK_AFTER, idle) == Decision::Shrink
        };
        assert_eq!([BY_DEFAULT, Settings { shrink_below: 1.0, ..BY_DEFAULT }].map(shrinks), [false, true]);
        let mut slow = PoolController::new(Settings { grow_sojourn: Duration::from_secs(1), ..BY_DEFAULT }, 1, 4);
        assert_eq!(first_change(&mut slow, start, SHRINK_AFTER / 2, seen(5, 1, 0, 1)), Decision::Keep);
    }

    #[test]
    fn a_pool_that_was_wrong_again_and_again_shrinks_after_the_longest_time_that_is_set() {
        let settings = Settings { shrink_after_max: SHRINK_AFTER, ..BY_DEFAULT };
        let (mut controller, mut now) = (PoolController::new(settings, 1, 4), Instant::now());
        for _ in 0..3 {
            assert_eq!(first_change(&mut controller, now, SHRINK_AFTER, seen(0, 2, 2, 1)), Decision::Shrink);
            now += SHRINK_AFTER;
            let soon = GROW_AFTER_LOOKS * LOOK_EVERY;
            assert_eq!(first_change(&mut controller, now, soon, seen(5, 1, 0, 1)), Decision::Grow);
            now += soon;
        }
    }

    #[test]
    fn a_pool_that_had_to_grow_again_waits_longer_before_it_shrinks() {
        let (mut controller, start) = (PoolController::new(BY_DEFAULT, 1, 4), Instant::now());
        assert_eq!(first_change(&mut controller, start, SHRINK_AFTER, seen(0, 2, 2, 1)), Decision::Shrink);
        let again = start + SHRINK_AFTER;
        assert_eq!(
            first_change(&mut controller, again, LOOK_EVERY * GROW_AFTER_LOOKS, seen(5, 1, 0, 1)),
            Decision::Grow
        );
        let idle = seen(0, 2, 2, 1);
        assert_eq!(first_change(&mut controller, again, SHRINK_AFTER, idle), Decision::Keep);
        assert_eq!(first_change(&mut controller, again + SHRINK_AFTER, SHRINK_AFTER, idle), Decision::Shrink);
    }
}
