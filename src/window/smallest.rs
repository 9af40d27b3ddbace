//! The smallest round trip of the last ten seconds.

use std::time::{Duration, Instant};

/// Round trips are remembered for one to two of these: a path that became longer is believed after ten seconds.
const HALF: Duration = Duration::from_secs(5);

/// A round trip of a message, and the rate in bytes a second at that time, where it was known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) round_trip: Duration,
    pub(super) message_bytes: u64,
    pub(super) rate: Option<f64>,
}

impl Sample {
    /// What it would have been at `rate` with a message of so many bytes: a larger one, or one on a slower link, itself
    /// takes longer.
    pub(super) fn at(self, rate: f64, message_bytes: u64) -> Duration {
        let message_s = |bytes: u64, rate: f64| bytes as f64 / rate.max(1.0);
        let later_s = message_s(message_bytes, rate) - message_s(self.message_bytes, self.rate.unwrap_or(rate));
        self.round_trip + Duration::from_secs_f64(later_s.max(0.0))
    }

    pub(super) fn min(self, other: Self) -> Self {
        if other.round_trip < self.round_trip { other } else { self }
    }
}

/// The smallest round trip of this half and of the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Smallest {
    began: Instant,
    this: Option<Sample>,
    before: Option<Sample>,
}

impl Smallest {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, this: None, before: None }
    }

    pub(super) fn get(&self) -> Option<Sample> {
        match (self.this, self.before) {
            (Some(this), Some(before)) => Some(this.min(before)),
            (this, before) => this.or(before),
        }
    }

    pub(super) fn take(&mut self, sample: Sample) {
        self.this = Some(self.this.map_or(sample, |least| least.min(sample)));
    }

    /// Whether this half is over.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= HALF
    }

    /// The next half begins.
    pub(super) fn turn(&mut self, now: Instant) {
        (self.before, self.this, self.began) = (self.this.or(self.before), None, now);
    }
}
