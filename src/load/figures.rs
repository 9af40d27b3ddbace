//! What a run comes to: latencies' quantiles, and how fairly it was shared.

use serde::Serialize;

/// Buckets a doubling, as a power of two: a quantile is told to 3 %.
const STEPS_BITS: u32 = 5;
const STEPS: u64 = 1 << STEPS_BITS;

/// The longest time that is told apart, in microseconds: over an hour.
const MICROSECONDS_MAX: u64 = u32::MAX as u64;

/// Latencies, counted in buckets whose width grows with the latency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
}

/// Quantiles of latencies, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    /// The median.
    pub p50: f64,
    /// What 9 in 10 did not exceed.
    pub p90: f64,
    /// What 99 in 100 did not exceed.
    pub p99: f64,
    /// What 999 in 1000 did not exceed.
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    /// The longest.
    pub max: f64,
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, ns: u64) {
        self.add(bucket(ns / 1_000), 1);
    }

    /// Counts `count` more in a bucket. A bucket that does not exist is the last one.
    pub fn add(&mut self, bucket: usize, count: u64) {
        let bucket = bucket.min(self::bucket(MICROSECONDS_MAX));
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        // A count that was told may be anything.
        self.buckets[bucket] = self.buckets[bucket].saturating_add(count);
        self.count = self.count.saturating_add(count);
    }

    /// Counts all of another.
    pub fn merge(&mut self, other: &Self) {
        other.counts().for_each(|(bucket, count)| self.add(bucket, count));
    }

    /// Every bucket that counted something, and its count.
    pub fn counts(&self) -> impl Iterator<Item = (usize, u64)> {
        self.buckets.iter().copied().enumerate().filter(|&(_, count)| count > 0)
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What the share `q` (0 to 1) did not exceed, in milliseconds.
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        let rank = ((self.count as f64 * q).ceil() as u64).max(1);
        let mut passed = 0;
        let (bucket, _) = self.counts().find(|(_, count)| {
            passed = u64::saturating_add(passed, *count);
            passed >= rank
        })?;
        Some(middle_us(bucket) / 1e3)
    }

    /// The usual ones; `None` where there is nothing.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let at = |q| self.quantile_ms(q);
        Some(Quantiles { p50: at(0.5)?, p90: at(0.9)?, p99: at(0.99)?, p99_9: at(0.999)?, max: at(1.0)? })
    }
}

/// The bucket of a time.
fn bucket(us: u64) -> usize {
    let us = us.min(MICROSECONDS_MAX);
    let doublings = us.checked_ilog2().unwrap_or(0).saturating_sub(STEPS_BITS);
    (u64::from(doublings) * STEPS + (us >> doublings)) as usize
}

/// The middle of a bucket, in microseconds.
fn middle_us(bucket: usize) -> f64 {
    let doublings = (bucket as u64 / STEPS).saturating_sub(1);
    let width = (1_u64 << doublings) as f64;
    let from = (bucket as u64 - doublings * STEPS) as f64 * width;
    // The finest buckets hold one value: it is told as it is.
    if doublings == 0 { from } else { from + width / 2.0 }
}

/// How evenly something was shared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Shares {
    /// Jain's index: 1 where all got the same, 1/n where one got all.
    pub jain: f64,
    /// The least that one got, as a part of the mean.
    pub worst: f64,
    /// The most that one got, as a part of the mean.
    pub best: f64,
}

/// How evenly `counts` are shared; `None` where there is nothing to share.
pub fn shares(counts: &[u64]) -> Option<Shares> {
    let sum: f64 = counts.iter().map(|&count| count as f64).sum();
    if sum == 0.0 {
        return None;
    }
    let (n, squares) = (counts.len() as f64, counts.iter().map(|&count| (count as f64).powi(2)).sum::<f64>());
    let part = |count: Option<&u64>| count.map_or(0.0, |&count| count as f64 * n / sum);
    Some(Shares { jain: sum * sum / (n * squares), worst: part(counts.iter().min()), best: part(counts.iter().max()) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_of_equals_are_one_and_of_a_hog_are_not() {
        assert_eq!(shares(&[7, 7, 7]), Some(Shares { jain: 1.0, worst: 1.0, best: 1.0 }));
        assert_eq!(shares(&[0, 0, 0, 8]), Some(Shares { jain: 0.25, worst: 0.0, best: 4.0 }));
        // Jain's own example (DEC-TR-301): 50, 30, 50 of capacity.
        let three = shares(&[50, 30, 50]).expect("something was shared");
        assert!((three.jain - 130.0 * 130.0 / (3.0 * 5_900.0)).abs() < 1e-12, "{three:?}");
        assert_eq!((shares(&[]), shares(&[0, 0])), (None, None));
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_times() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantiles(), None);
        (1..=1_000).for_each(|ms: u64| latencies.record(ms * 1_000_000));
        let quantiles = latencies.quantiles().expect("there are some");
        let told = [quantiles.p50, quantiles.p90, quantiles.p99, quantiles.p99_9, quantiles.max];
        for (told, right) in told.into_iter().zip([500.0, 900.0, 990.0, 999.0, 1_000.0]) {
            assert!((told / right - 1.0).abs() < 0.03, "{told} for {right}");
        }
    }

    #[test]
    fn a_time_beyond_all_bounds_is_the_longest() {
        let mut latencies = Latencies::default();
        latencies.record(u64::MAX);
        assert_eq!(latencies.count(), 1);
        assert!(latencies.quantile_ms(0.5).expect("one") > 3.6e6);
    }

    proptest! {
        #[test]
        fn a_bucket_is_where_its_times_are(us in 0..MICROSECONDS_MAX) {
            let middle = middle_us(bucket(us));
            prop_assert!((middle - us as f64).abs() <= us as f64 / 32.0, "{} for {}", middle, us);
            prop_assert!(bucket(us) <= bucket(us + 1));
        }

        #[test]
        fn what_is_told_in_buckets_is_the_same_when_it_is_put_together(
            ns in proptest::collection::vec(0..10_000_000_000_u64, 0..50),
        ) {
            let (mut whole, mut told) = (Latencies::default(), Latencies::default());
            ns.iter().for_each(|&ns| whole.record(ns));
            told.merge(&whole);
            prop_assert_eq!(whole, told);
        }
    }
}
