//! The smallest round trip of the last ten seconds.

use std::time::{Duration, Instant};

use super::PACKET_BYTES;

/// Round trips are remembered for one to two of these: a path that became longer is believed after ten seconds.
const HALF: Duration = Duration::from_secs(5);

/// A round trip, and the rate in bytes a second at that time, where it was known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) round_trip: Duration,
    pub(super) rate: Option<f64>,
}

impl Sample {
    /// What it would have been at `rate`: on a slower link a packet itself takes longer.
    pub(super) fn at(self, rate: f64) -> Duration {
        let packet_s = |rate: f64| PACKET_BYTES as f64 / rate.max(1.0);
        let later_s = self.rate.map_or(0.0, |then| packet_s(rate) - packet_s(then)).max(0.0);
        self.round_trip + Duration::from_secs_f64(later_s)
    }

    fn min(self, other: Self) -> Self {
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
