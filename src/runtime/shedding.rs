//! Shedding: how much a stage's queue admits, so that what it admits does not wait too long.
//!
//! Little's law: what waits is what is served in the time it waits. So a queue that admits no more than its stage serves
//! within the bound keeps the bound, whatever is offered. Who loses is not decided here: each lane may hold as much as
//! is free ([`Lanes`](super::lanes::Lanes)), so the lanes that hold most lose first. Observations in, a verdict out,
//! time injected.

use std::fmt;
use std::time::{Duration, Instant};

/// Looks in a row at which the bound must be passed. One may be a thread that the machine held up.
const LOOKS_TO_SHED: u32 = 2;

/// The part of what Little's law allows, in percent, that is admitted: the law is about the mean, and the bound about the
/// 99th percentile.
const LAW_PERCENT: u64 = 60;

/// A queue that holds more than it shall admit comes down to that by half of what is served, or by this part a look.
/// At once, it would have no room for those who hold nothing until those who hold most have been served.
const DOWN_PART: u64 = 16;

/// While the wait is under half of the bound, the queue admits this part more at each look, up to what the law allows;
const RELAX_PART: u64 = 8;

/// and after so many such looks in a row, a second, twice as much at each until it admits all. Load that hovers about what
/// the stage can do would otherwise fill the queue again and again.
const LOOKS_TO_END: u32 = 50;

/// The least that a queue admits in segments: enough to keep some threads busy until more comes.
const ADMITTED_MIN: u64 = 8;

/// Weight of the newest look in the moving average of what is served, as a power of two: 1/4.
const DRAIN_SHIFT: u32 = 2;

/// While nothing waits too long, a queue holds at most so many times what its stage could serve within the bound, by the
/// time that a segment takes: a burst passes, and an overload that begins is seen before the queue is as long as
/// it is large.
const CEILING_BOUNDS: u64 = 2;

/// But never less, in segments: some super-packets.
const CEILING_MIN: u64 = 128;

/// By how much of itself what a stage could serve is believed to shrink at a look, as a power of two: 1/8. The time that a
/// segment takes may have been measured while the machine did something else.
const ABLE_SHIFT: u32 = 3;

/// The largest item shrinks by one part in so many at each look after it.
const FORGOTTEN_PART: u32 = 8;

/// What a stage's queue looks like now.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// The 99th percentile of the wait of each batch's oldest item, of the batches taken since the last look; `None` where
    /// none was.
    pub sojourn_p99: Option<Duration>,
    /// Segments that were turned away since the last look.
    pub turned_away_segments: u64,
    /// Segments that were taken from the queue since the last look.
    pub taken_segments: u64,
    /// Segments that wait now.
    pub waiting_segments: u64,
    /// Segments of the largest item of late: the queue must have room for one.
    pub largest_segments: u32,
    /// Segments that the stage's threads could serve in a second with nothing else to do; 0 until that is known.
    pub able_segments_per_second: u64,
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sojourn_p99 {
            Some(wait) => write!(f, "p99 of the wait {wait:.1?}")?,
            None => f.write_str("nothing taken")?,
        }
        write!(f, ", {} waiting", self.waiting_segments)
    }
}

/// What `threads` threads serve in a second, in segments of `service` each; 0 while that is not known.
pub fn able_segments_per_second(threads: usize, service: Duration) -> u64 {
    (threads as u128 * Duration::from_secs(1).as_nanos()).checked_div(service.as_nanos()).unwrap_or(0) as u64
}

/// How much of the largest item is forgotten at a look. A second after the last of 1,400 segments, a single packet is the measure
/// again.
pub fn forgotten_segments(largest_segments: u32) -> u32 {
    largest_segments.div_ceil(FORGOTTEN_PART).min(largest_segments.saturating_sub(1))
}

/// Segments above what is admitted that are for those who got little of late, where the queue could hold so many. They bring
/// less than half of what all do.
pub fn sparse_segments(admitted_segments: u64, capacity_segments: u64) -> u64 {
    admitted_segments.min(capacity_segments.saturating_sub(admitted_segments))
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it is.
    Keep,
    /// The queue admits so many segments, which is less than before: what waits in it waits too long.
    Less(u64),
    /// The queue admits so many segments, which is more than before: what waits in it waits little.
    More(u64),
}

/// The controller of one queue.
#[derive(Debug)]
pub struct Shedding {
    sojourn_max: Option<Duration>,
    configured_segments: u64,
    /// What it admits while it does not shed.
    capacity_segments: u64,
    admitted_segments: u64,
    /// What it shall admit: less than it does only on the way down.
    target_segments: u64,
    looks_over: u32,
    looks_quiet: u32,
    looked: Option<Instant>,
    was_waiting: bool,
    /// What is served in a second while work waits; 0 until that is known.
    drain_segments_per_second: u64,
    /// What could be served in a second; 0 until that is known.
    able_segments_per_second: u64,
}

impl Shedding {
    /// A controller that admits all of `capacity_segments`, until the wait passes `sojourn_max`. Without a bound it
    /// always does.
    pub fn new(sojourn_max: Option<Duration>, capacity_segments: u64) -> Self {
        Self {
            sojourn_max,
            configured_segments: capacity_segments,
            capacity_segments,
            admitted_segments: capacity_segments,
            target_segments: capacity_segments,
            looks_over: 0,
            looks_quiet: 0,
            looked: None,
            was_waiting: false,
            drain_segments_per_second: 0,
            able_segments_per_second: 0,
        }
    }

    /// Segments that the queue admits.
    pub fn admitted_segments(&self) -> u64 {
        self.admitted_segments
    }

    /// Whether the queue admits less than it could hold, or is on its way there.
    pub fn is_shedding(&self) -> bool {
        self.target_segments < self.capacity_segments
    }

    /// What is served in a second while work waits, in segments; 0 until that is known.
    pub fn drain_segments_per_second(&self) -> u64 {
        self.drain_segments_per_second
    }

    /// What it holds at most, now that its threads could serve so many segments a second; 0 where that is not known. Tells
    /// what it admits from now on, where that changes.
    pub fn hold(&mut self, able_segments_per_second: u64) -> Option<u64> {
        let bound = self.sojourn_max?;
        let was_able = self.able_segments_per_second;
        let able = able_segments_per_second.max(was_able - (was_able >> ABLE_SHIFT));
        self.able_segments_per_second = able;
        let ceiling = (able as f64 * bound.as_secs_f64()) as u64 * CEILING_BOUNDS;
        let ceiling = if able == 0 { u64::MAX } else { ceiling.max(CEILING_MIN) };
        let (was_shedding, was) = (self.is_shedding(), self.admitted_segments);
        self.capacity_segments = self.configured_segments.min(ceiling);
        if was_shedding && self.is_shedding() {
            self.admitted_segments = was.min(self.capacity_segments);
        } else {
            (self.admitted_segments, self.target_segments) = (self.capacity_segments, self.capacity_segments);
        }
        (self.admitted_segments != was).then_some(self.admitted_segments)
    }

    /// What to do after a look.
    pub fn decide(&mut self, now: Instant, seen: Observation) -> Verdict {
        let Some(bound) = self.sojourn_max else { return Verdict::Keep };
        self.learn(now, seen);
        let wait = seen.sojourn_p99.unwrap_or_default();
        // What is above the limit still comes from before it: it tells nothing of the limit.
        let is_over = wait > bound && (!self.is_shedding() || seen.waiting_segments <= self.target_segments);
        // What fills the queue all by the time of a look is no thread that was held up.
        let is_full = seen.waiting_segments >= self.admitted_segments / 4 * 3;
        self.looks_over = if !is_over {
            0
        } else if is_full {
            LOOKS_TO_SHED
        } else {
            self.looks_over + 1
        };
        let is_stuck = seen.sojourn_p99.is_none() && seen.waiting_segments > 0;
        let is_quiet = wait < bound / 2 && !is_stuck;
        // Little waits just because others are turned away: that is no quiet.
        self.looks_quiet = if is_quiet && seen.turned_away_segments == 0 { self.looks_quiet + 1 } else { 0 };
        let law = (self.drain_segments_per_second as f64 * bound.as_secs_f64()) as u64 * LAW_PERCENT / 100;
        if self.admitted_segments > self.target_segments {
            return self.come_down(seen);
        }
        if self.looks_over >= LOOKS_TO_SHED {
            return self.tighten(law, seen);
        }
        if self.is_shedding() && is_quiet { self.relax(law) } else { Verdict::Keep }
    }

    /// Learns what the stage serves in a second. What it served tells that only while something waited all the time;
    /// else it is what it could: a stage that had little to do is not taken for a slow one.
    fn learn(&mut self, now: Instant, seen: Observation) {
        let waits = seen.waiting_segments > 0;
        let elapsed = self.looked.replace(now).map(|then| now.saturating_duration_since(then));
        let was_waiting = std::mem::replace(&mut self.was_waiting, waits);
        let Some(elapsed) = elapsed.filter(|elapsed| !elapsed.is_zero()) else { return };
        if !(was_waiting && waits) {
            self.drain_segments_per_second = seen.able_segments_per_second;
        } else if seen.sojourn_p99.is_some() {
            let new = (seen.taken_segments as f64 / elapsed.as_secs_f64()) as u64;
            let old = self.drain_segments_per_second;
            self.drain_segments_per_second =
                if old == 0 { new } else { old - (old >> DRAIN_SHIFT) + (new >> DRAIN_SHIFT) };
        }
    }

    /// Never above what the law allows. Where that is kept and some still wait longer, theirs are the lanes that hold
    /// most: less room for all would cost those that hold little.
    fn tighten(&mut self, law: u64, seen: Observation) -> Verdict {
        let wanted = law.max(ADMITTED_MIN).max(seen.largest_segments.into());
        if wanted >= self.admitted_segments {
            return Verdict::Keep;
        }
        self.looks_over = 0;
        self.target_segments = wanted;
        self.admitted_segments = self.admitted_segments.min(seen.waiting_segments + wanted);
        Verdict::Less(self.admitted_segments)
    }

    fn come_down(&mut self, seen: Observation) -> Verdict {
        let less = (seen.taken_segments / 2).max(self.admitted_segments / DOWN_PART).max(1);
        self.admitted_segments = self.admitted_segments.saturating_sub(less).max(self.target_segments);
        Verdict::Less(self.admitted_segments)
    }

    fn relax(&mut self, law: u64) -> Verdict {
        let admitted = self.admitted_segments;
        let wanted = if self.looks_quiet >= LOOKS_TO_END {
            2 * admitted
        } else if admitted < law {
            (admitted + (admitted / RELAX_PART).max(1)).min(law)
        } else {
            return Verdict::Keep;
        };
        self.admitted_segments = wanted.min(self.capacity_segments);
        self.target_segments = self.admitted_segments;
        Verdict::More(self.admitted_segments)
    }
}

#[cfg(test)]
mod tests;
