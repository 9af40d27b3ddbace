//! The controllers of a stage: what they see of it, and what is done as they decide.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::hand_overs::{Changes, HandOvers};
use super::{Inner, Settings, Stage, WhenFull};
use crate::metrics::decisions::{self, Change, Controller, Decision, Decisions};
use crate::metrics::{Snapshot, StageMetrics};
use crate::runtime::controller::{self, PoolController};
use crate::runtime::lanes::Limits;
use crate::runtime::queue::{Queue, Shed};
use crate::runtime::shedding::{Shedding, Verdict};
use crate::runtime::sync::lock;
use crate::runtime::work::{Handler, In};
use crate::runtime::{batch, shedding};

/// A limit that moves in small steps is told anew when it has moved by this factor.
const TELL_FACTOR: u64 = 2;

/// How many lanes give something up at once where a queue is above what it may hold: each is looked for among all, under the
/// stage's lock.
const LANES_GIVEN_UP_MAX: usize = 16;

/// Weight of the newest look in how busy a stage was of late, as a power of two: 1/16 of looks that are 20 ms apart are
/// about the last half second.
const RECENT_SHIFT: u32 = 4;

/// Those who had not got far more than others count as losers where what they lost is one part in so many of all that was turned
/// away, or more: beside one that floods, others lose something, too.
const OTHERS_PART: u64 = 8;

/// What a stage's controllers remember.
pub(super) struct Controllers {
    pool: PoolController,
    shedding: Shedding,
    hand_overs: HandOvers,
    /// The histogram of sojourns at the last look.
    sojourns: Snapshot,
    /// What came since the one before.
    sojourns_since: Snapshot,
    /// When the last look was, and how long threads had worked until then.
    busy: Option<(Instant, Duration)>,
    /// The limits that were told last.
    admitted_told: u64,
    batch_told: u32,
}

impl Controllers {
    pub(super) fn new<Q: Queue>(settings: &Settings) -> Self {
        let capacity = settings.limits.segments;
        // A queue of signals is bounded by its lanes, and refuses nothing.
        let sojourn_max = settings.sojourn_max.filter(|_| !Q::COALESCES);
        Self {
            pool: PoolController::new(settings.tuning.pool, settings.threads.0, settings.threads.1),
            shedding: Shedding::new(sojourn_max, capacity),
            hand_overs: HandOvers::default(),
            sojourns: Snapshot::default(),
            sojourns_since: Snapshot::default(),
            busy: None,
            admitted_told: capacity,
            batch_told: settings.quota.segments,
        }
    }
}

/// What all controllers of a stage see at a look.
struct Seen {
    pool: controller::Observation,
    shedding: shedding::Observation,
}

impl<H: Handler> Stage<H>
where
    In<H>: Send + 'static,
{
    pub(super) fn condition(self: &Arc<Self>, now: Instant, decisions: &Decisions) {
        let mut controllers = lock(&self.controllers);
        let batch_segments = batch::limit(self.settings.quota.segments, self.settings.sojourn_max, self.service());
        let Controllers { sojourns, sojourns_since, .. } = &mut *controllers;
        self.metrics.sojourn_seconds.advance(sojourns, sojourns_since);
        let sojourn_p99 = sojourns_since.quantile(0.99).map(Duration::from_secs_f64);
        let mut resume = Vec::new();
        let seen = {
            let mut inner = lock(&self.inner);
            // Room that was offered to lanes that could make no use of it passes on: else, where all that is queued
            // belongs to lanes that are held up, nothing would be taken and nobody told.
            if inner.takes == inner.takes_looked {
                inner.let_in(&mut resume);
            }
            inner.quota.segments = batch_segments;
            inner.lanes.set_run_on_segments_max(batch::run_on_limit(self.settings.sojourn_max, self.service()));
            let seen = self.observe(now, sojourn_p99, &mut inner);
            // Whose thread ended before it came back to what it brought.
            if self.settings.gathers {
                inner.lanes.end_gathering(now, self.settings.tuning.gathering.wait_max, u32::MAX);
                self.note_gathering(&inner);
                self.wake(&mut inner);
            }
            seen
        };
        self.resume_upstream(&mut resume);
        self.tell_recent(&mut controllers, now, seen.shedding.sojourn_p99);
        let log = Log { metrics: &self.metrics, now, decisions };
        self.size_batch(&mut controllers, batch_segments, &log);
        self.admit(&mut controllers, seen.shedding, &log);
        self.size_pool(&mut controllers, seen.pool, &log);
        self.tell_hand_overs(&mut controllers, &log);
    }

    /// Keeps how busy the stage was of late and how long things waited, for a status that has no past.
    fn tell_recent(&self, controllers: &mut Controllers, now: Instant, sojourn_p99: Option<Duration>) {
        let busy = self.metrics.busy_seconds.get();
        if let Some((then, busy_then)) = controllers.busy.replace((now, busy))
            && now > then
        {
            let new = (1e3 * (busy - busy_then).as_secs_f64() / (now - then).as_secs_f64()) as u64;
            let old = self.metrics.recent_busy_permille.get();
            // Rounded towards the newest, or the average would never come to rest.
            let part = old.abs_diff(new).div_ceil(1 << RECENT_SHIFT);
            self.metrics.recent_busy_permille.set(if new > old { old + part } else { old - part });
        }
        self.metrics.recent_sojourn_ns.set(sojourn_p99.unwrap_or_default().as_nanos() as u64);
    }

    /// How long a segment takes at present.
    fn service(&self) -> Duration {
        Duration::from_nanos(self.service_ns_a_segment.load(Ordering::Relaxed))
    }

    /// The largest item of late: a part of one that does not come again is forgotten at each look.
    fn largest_of_late(&self) -> u32 {
        let largest = self.largest_segments.load(Ordering::Relaxed);
        self.largest_segments.fetch_sub(shedding::forgotten_segments(largest), Ordering::Relaxed);
        largest
    }

    /// Has the controllers' view of this moment. A lane that was ready at the last look already, and no batch taken
    /// since, has waited at least that long: no sojourn would tell while all threads are held up.
    fn observe(&self, now: Instant, sojourn_p99: Option<Duration>, inner: &mut Inner<H::Queue>) -> Seen {
        let is_stuck = inner.takes == inner.takes_looked && inner.lanes.has_ready();
        let held_up = inner.looked.filter(|_| is_stuck).map(|then| now.saturating_duration_since(then));
        inner.looked = Some(now);
        inner.takes_looked = inner.takes;
        let turned_away = inner.lanes.take_turned_away();
        if self.metrics.shedding.get() > 0 {
            let (lost, of_others) = (turned_away.segments, turned_away.of_others());
            let lost_by_others = of_others > 0 && of_others * OTHERS_PART >= lost;
            // One of them may be such a one, of which that is not known yet; and beside one that stands there all the time,
            // others come and go: they are those who lose where they are half of all, or more.
            let (held_back, others) = (inner.waiting.len(), inner.waiting.within_share().saturating_sub(1));
            let held_back_others = others > 0 && 2 * others >= held_back;
            self.metrics.losers.note(lost > 0 || held_back > 0, lost_by_others || held_back_others);
        }
        Seen {
            pool: controller::Observation {
                lanes_ready: inner.lanes.ready_for_more(inner.threads),
                sojourn_max: std::mem::take(&mut inner.sojourn_max).max(held_up.unwrap_or_default()),
                threads: inner.threads,
                // One that is about to come has nothing to do yet: without it a pool would grow at each look until then.
                threads_idle: inner.threads_idle + inner.threads_starting,
                cores_free: self.cores.free(),
            },
            shedding: shedding::Observation {
                sojourn_p99,
                turned_away_segments: turned_away.segments,
                taken_segments: std::mem::take(&mut inner.taken_segments),
                waiting_segments: inner.lanes.load().segments,
                largest_segments: self.largest_of_late(),
                able_segments_per_second: shedding::able_segments_per_second(inner.threads, self.service()),
            },
        }
    }

    fn size_pool(self: &Arc<Self>, controllers: &mut Controllers, seen: controller::Observation, log: &Log<'_>) {
        let (change, reason, threads) = match controllers.pool.decide(log.now, seen) {
            controller::Decision::Keep => return,
            controller::Decision::Grow => {
                self.metrics.pool_grow.add(1);
                (Change::Up, decisions::WORK_WAITS, seen.threads + 1)
            }
            controller::Decision::Shrink => {
                self.metrics.pool_shrink.add(1);
                (Change::Down, decisions::IDLE, seen.threads - 1)
            }
        };
        log.note(Controller::Pool, change, reason, format_args!("{threads} threads: {seen}"));
        self.resize(threads);
    }

    /// Changes what the queue admits. Who was held back is told when it is more.
    fn admit(&self, controllers: &mut Controllers, seen: shedding::Observation, log: &Log<'_>) {
        let Controllers { shedding, admitted_told, .. } = controllers;
        let was = (shedding.admitted_segments(), shedding.is_shedding());
        // What can be held back at its source is bounded by its credit.
        if self.settings.when_full == WhenFull::Drop {
            shedding.hold(seen.able_segments_per_second);
        }
        let verdict = shedding.decide(log.now, seen);
        let (admitted, is_shedding) = (shedding.admitted_segments(), shedding.is_shedding());
        if (admitted, is_shedding) != was {
            self.set_admitted(admitted, is_shedding);
        }
        let (change, reason) = match verdict {
            Verdict::Less(_) => (Change::Down, decisions::WAITS_TOO_LONG),
            Verdict::More(_) => (Change::Up, decisions::WAITS_LITTLE),
            // What it may hold at all has come down to what it admits.
            Verdict::Keep if was.1 && !is_shedding => (Change::Up, decisions::WAITS_LITTLE),
            Verdict::Keep => return,
        };
        let capacity = self.settings.limits.segments;
        // Its begin and its end are always told.
        let is_edge = *admitted_told == capacity || !is_shedding;
        if is_edge || has_moved(*admitted_told, admitted) {
            *admitted_told = if is_shedding { admitted } else { capacity };
            let drain = shedding.drain_segments_per_second();
            log.note(
                Controller::Shedding,
                change,
                reason,
                format_args!("admits {admitted} of {capacity} packets: {seen}, {drain} a second served"),
            );
        } else {
            log.decisions.count(Controller::Shedding, change, reason);
        }
    }

    fn set_admitted(&self, segments: u64, is_shedding: bool) {
        let mut resume = Vec::new();
        {
            let mut inner = lock(&self.inner);
            inner.lanes.set_limits(Limits { segments, ..self.settings.limits });
            let drops = self.settings.when_full == WhenFull::Drop;
            inner.lanes.set_wait_max(self.settings.sojourn_max.filter(|_| drops && is_shedding));
            inner.lanes.set_sparse_segments(if drops {
                0
            } else {
                shedding::sparse_segments(segments, self.settings.limits.segments)
            });
            inner.let_in(&mut resume);
        }
        self.resume_upstream(&mut resume);
        self.metrics.queue_admitted_packets.set(segments);
        self.metrics.shedding.set(is_shedding.into());
    }

    /// Has the queue hold no more than so many percent of what it could. What is above is given up, some of it at each call,
    /// from the fattest flows of the lanes that hold most, where the queue knows any. For a stage whose own controller does
    /// not shed.
    pub(crate) fn hold_at_most(&self, percent: u64) {
        debug_assert!(self.settings.sojourn_max.is_none(), "one controller changes a stage's limits");
        let Limits { segments, held_bytes } = self.settings.limits;
        let part = |whole: u64| whole.saturating_mul(percent) / 100;
        let limits = Limits { segments: part(segments), held_bytes: part(held_bytes) };
        let mut shed = Shed::default();
        {
            let mut inner = lock(&self.inner);
            inner.lanes.set_limits(limits);
            inner.lanes.give_up_above(LANES_GIVEN_UP_MAX, &mut shed);
            self.gauge(&inner);
        }
        self.count_shed(&mut shed);
        self.metrics.queue_admitted_packets.set(limits.segments);
    }

    /// Tells what was decided of most batches of late, where that has changed.
    fn tell_hand_overs(&self, controllers: &mut Controllers, log: &Log<'_>) {
        let counts = || std::array::from_fn(|case| self.metrics.handovers[case].get());
        let Some(changes) = controllers.hand_overs.look(log.now, counts) else { return };
        let [run_on, queued, gathered] = ["run_on", "queued", "gathered"].map(|decision| changes.of(decision));
        let Changes { mostly, gathers, .. } = changes;
        if let Some(mostly) = mostly {
            let change = if run_on > queued + gathered { Change::Down } else { Change::Up };
            let inputs =
                format_args!("of {} batches {run_on} ran on, {queued} queued, {gathered} gathered", changes.all());
            log.note(Controller::HandOver, change, mostly.reason(), inputs);
        }
        if let Some(gathers) = gathers {
            let (change, reason) = match gathers {
                true => (Change::Up, decisions::MACHINE_BUSY),
                false => (Change::Down, decisions::MACHINE_CALM),
            };
            let (percent, free) = (100.0 * self.gathering_share(), self.cores.free());
            let of = changes.all();
            let inputs =
                format_args!("{gathered} of {of} batches gathered: {percent:.0} % of the machine, {free} cores free");
            log.note(Controller::Gathering, change, reason, inputs);
        }
    }

    fn size_batch(&self, controllers: &mut Controllers, segments: u32, log: &Log<'_>) {
        self.metrics.batch_limit_packets.set(segments.into());
        let told = controllers.batch_told;
        let is_edge = segments == self.settings.quota.segments && told != segments;
        if !is_edge && !has_moved(told.into(), segments.into()) {
            return;
        }
        controllers.batch_told = segments;
        let (change, reason) = if segments < told {
            (Change::Down, decisions::SLOW_SERVICE)
        } else {
            (Change::Up, decisions::QUICK_SERVICE)
        };
        let service = self.service();
        log.note(Controller::Batch, change, reason, format_args!("{segments} packets at once: {service:.1?} a packet"));
    }
}

fn has_moved(told: u64, value: u64) -> bool {
    value >= told.saturating_mul(TELL_FACTOR) || value.saturating_mul(TELL_FACTOR) <= told
}

/// Where decisions of one stage at one look go.
struct Log<'a> {
    metrics: &'a StageMetrics,
    now: Instant,
    decisions: &'a Decisions,
}

impl Log<'_> {
    fn note(&self, controller: Controller, change: Change, reason: &'static str, inputs: fmt::Arguments<'_>) {
        let inputs = inputs.to_string();
        let subject = format!("{} {}", self.metrics.name, self.metrics.direction);
        tracing::debug!(subject, controller = controller.label(), change = change.label(), reason, inputs, "decided");
        let decision = Decision { controller, subject: subject.into(), change, reason, inputs };
        self.decisions.note(self.now, decision);
    }
}
