//! CoDel (RFC 8289): tells a queue that stands from a burst that passes, by how long what leaves has waited.
//!
//! A queue is a good one as long as some packet of each interval leaves within the target. Once none did for a whole
//! interval, a packet is dropped or marked, and then another each interval / √n for as long as that goes on.

use std::time::{Duration, Instant};

/// What a queue may cost in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The time in the queue that some packet of each interval has to stay within.
    pub target: Duration,
    /// How long a queue may stand before its senders are told; a little more than the longest usual round trip.
    pub interval: Duration,
}

impl Settings {
    /// The target is that of Linux in front of a radio: behind the queue is a window and not a wire, and what it and TCP's turns
    /// make of bursts is no queue that stands. A cubic flow that is told at 5 ms leaves a link of 60 ms idle behind each loss;
    /// other flows have queues of their own. The interval is twice what RFC 8289 (4.3) has for the Internet, since a phone's
    /// link comes on top of that: with 100 ms a second loss came before the sender could have heeded the first.
    pub const DEFAULT: Self = Self { target: Duration::from_millis(20), interval: Duration::from_millis(200) };
}

/// What waits in a queue at most without its being called a queue, in bytes: a packet of an Ethernet. On a link where
/// one takes longer than the target, nothing would else leave in time and all would be dropped (RFC 8289, 5.3).
pub const MTU_BYTES: u64 = 1_514;

/// Intervals after the last drop in which a queue that stands anew is taken for the same one (RFC 8289, 5.6).
const SAME_QUEUE_INTERVALS: u32 = 16;

/// A packet on its way out of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Leaving {
    /// How long it was in.
    pub sojourn: Duration,
    /// Bytes that wait behind it.
    pub behind_bytes: u64,
    /// What it counts for.
    pub segments: u32,
}

/// The state of one queue. Its names are the RFC's.
#[derive(Clone, Debug, Default)]
pub struct Codel {
    /// When a queue that stands will have stood for an interval.
    first_above_time: Option<Instant>,
    /// When the next packet is to be dropped; of the last one, after the end of dropping.
    drop_next: Option<Instant>,
    count: u32,
    /// The count with which dropping last began.
    lastcount: u32,
    is_dropping: bool,
}

impl Codel {
    /// Judges what leaves, which must be told of each packet in turn: whether this one has to be dropped or marked.
    pub fn must_signal(&mut self, settings: &Settings, now: Instant, leaving: Leaving) -> bool {
        if !self.stands(settings, now, leaving) {
            self.is_dropping = false;
            return false;
        }
        if !self.is_dropping {
            self.begin(settings, now);
            self.advance(settings, leaving.segments.saturating_sub(1));
            return true;
        }
        let due = self.drop_next.unwrap_or(now);
        if now < due {
            return false;
        }
        // Where nothing left for longer than an interval, it was the way that stood still: to make up for all drops of
        // that time would throw away the queue at once. The RFC leaves this open, since its queues never stop.
        if now.saturating_duration_since(due) > settings.interval {
            self.drop_next = Some(now);
        }
        self.advance(settings, leaving.segments);
        true
    }

    /// Whether nothing has left within the target for an interval.
    fn stands(&mut self, settings: &Settings, now: Instant, leaving: Leaving) -> bool {
        if leaving.sojourn < settings.target || leaving.behind_bytes <= MTU_BYTES {
            self.first_above_time = None;
            return false;
        }
        now >= *self.first_above_time.get_or_insert(now + settings.interval)
    }

    fn begin(&mut self, settings: &Settings, now: Instant) {
        let delta = self.count.saturating_sub(self.lastcount);
        let is_same = self
            .drop_next
            .is_some_and(|last| now.saturating_duration_since(last) < SAME_QUEUE_INTERVALS * settings.interval);
        self.count = if is_same { delta.max(1) } else { 1 };
        self.lastcount = self.count;
        self.is_dropping = true;
        self.drop_next = Some(now + self.spacing(settings));
    }

    /// Puts the next drop off by as many spacings as segments were signalled: a super-packet is as many drops.
    fn advance(&mut self, settings: &Settings, segments: u32) {
        for _ in 0..segments {
            self.count = self.count.saturating_add(1);
            let spacing = self.spacing(settings);
            self.drop_next = self.drop_next.map(|due| due + spacing);
        }
    }

    /// The control law: a sender's rate goes by one over the root of what it loses (RFC 8289, 4.1).
    fn spacing(&self, settings: &Settings) -> Duration {
        settings.interval.div_f64(f64::from(self.count.max(1)).sqrt())
    }
}

#[cfg(test)]
mod tests;
