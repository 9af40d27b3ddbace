//! A histogram of times that many threads write into at once, and fairness over counts.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets an octave: a quantile is then at most 3 % too large.
const BUCKETS_AN_OCTAVE: u64 = 32;
const OCTAVE_BITS: u32 = BUCKETS_AN_OCTAVE.trailing_zeros();

/// Enough for every u64.
const BUCKETS: usize = ((64 - OCTAVE_BITS + 1) as usize) << OCTAVE_BITS;

/// Times in logarithmic buckets.
pub(crate) struct Histogram(Box<[AtomicU64]>);

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram").field("count", &self.count()).finish()
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Histogram {
    /// Counts one time.
    pub(crate) fn observe(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0[bucket_of(nanos)].fetch_add(1, Ordering::Relaxed);
    }

    /// How many were counted.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// The time that a share `q` of all does not exceed, as the upper end of its bucket; `None` where nothing was counted.
    pub(crate) fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((q * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut below = 0;
        let at = self.0.iter().position(|bucket| {
            below += bucket.load(Ordering::Relaxed);
            below >= rank
        })?;
        Some(Duration::from_nanos(upper_end(at)))
    }
}

/// Below one octave a bucket a value; above it, the position of the highest bit and the bits that follow it.
fn bucket_of(value: u64) -> usize {
    let octave = (u64::BITS - value.leading_zeros()).saturating_sub(OCTAVE_BITS + 1);
    ((u64::from(octave) << OCTAVE_BITS) + (value >> octave)) as usize
}

fn upper_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let octave = (bucket >> OCTAVE_BITS).saturating_sub(1);
    let first = (bucket - (octave << OCTAVE_BITS)) << octave;
    first + ((1 << octave) - 1)
}

/// Jain's index of fairness: 1 where all have the same, 1/n where one has all; `None` where nobody has anything.
pub(crate) fn jain(shares: &[u32]) -> Option<f64> {
    let sum: f64 = shares.iter().map(|share| f64::from(*share)).sum();
    let squares: f64 = shares.iter().map(|share| f64::from(*share).powi(2)).sum();
    (squares > 0.0).then(|| sum * sum / (shares.len() as f64 * squares))
}
