//! The smallest round trip of the last ten seconds.

use std::time::{Duration, Instant};

/// Round trips are remembered for one to two of these: a path that became longer is believed after ten seconds.
const HALF: Duration = Duration::from_secs(5);

/// The smallest round trip of this half and of the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Smallest {
    began: Instant,
    this: Option<Duration>,
    before: Option<Duration>,
}

impl Smallest {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, this: None, before: None }
    }

    pub(super) fn get(&self) -> Option<Duration> {
        match (self.this, self.before) {
            (Some(this), Some(before)) => Some(this.min(before)),
            (this, before) => this.or(before),
        }
    }

    pub(super) fn take(&mut self, round_trip: Duration) {
        self.this = Some(self.this.map_or(round_trip, |least| least.min(round_trip)));
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
