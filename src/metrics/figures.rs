//! The figures themselves: atomics that a stage updates once a batch and that controllers and scrapes read.
//!
//! All orderings are relaxed: a figure stands for itself and publishes nothing else.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Nanoseconds in a second.
const NS_PER_SECOND: f64 = 1e9;

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// `count` more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Follows a total that is counted elsewhere (in the kernel, in a pool), and never goes back.
    pub fn follow(&self, total: u64) {
        self.0.fetch_max(total, Ordering::Relaxed);
    }

    /// The count now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A sum of durations: kept in nanoseconds, shown in seconds.
#[derive(Debug, Default)]
pub struct TimeCounter(Counter);

impl TimeCounter {
    /// `time` more.
    pub fn add(&self, time: Duration) {
        self.0.add(ns(time));
    }

    /// The sum now.
    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.0.get())
    }
}

/// A level that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// The level is `level`.
    pub fn set(&self, level: u64) {
        self.0.store(signed(level), Ordering::Relaxed);
    }

    /// The level rises by `by`.
    pub fn add(&self, by: u64) {
        self.0.fetch_add(signed(by), Ordering::Relaxed);
    }

    /// The level falls by `by`.
    pub fn sub(&self, by: u64) {
        self.0.fetch_sub(signed(by), Ordering::Relaxed);
    }

    /// The level is at least `level`: a high-water mark.
    pub fn raise(&self, level: u64) {
        self.0.fetch_max(signed(level), Ordering::Relaxed);
    }

    /// The level now. Two threads' changes may be seen in either order, so a dip below zero reads as zero.
    pub fn get(&self) -> u64 {
        u64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

/// What a histogram counts. Each kind is kept as a whole number and shown in its base unit.
pub trait Quantity: Copy {
    /// The whole number that is kept.
    fn raw(self) -> u64;

    /// Raw units in one base unit.
    const PER_UNIT: f64;
}

impl Quantity for Duration {
    fn raw(self) -> u64 {
        ns(self)
    }

    const PER_UNIT: f64 = NS_PER_SECOND;
}

impl Quantity for u64 {
    fn raw(self) -> u64 {
        self
    }

    const PER_UNIT: f64 = 1.0;
}

/// The fixed upper bounds of a histogram's buckets, rising, in raw units (nanoseconds for a duration). A last bucket
/// without bound follows.
#[derive(Debug)]
pub struct Buckets {
    /// The bounds, each one within its bucket.
    pub bounds: &'static [u64],
    /// Why these.
    pub reason: &'static str,
}

/// Samples sorted into fixed buckets: bounded memory, however many samples come.
#[derive(Debug)]
pub struct Histogram<T: Quantity> {
    buckets: &'static Buckets,
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    quantity: PhantomData<fn(T)>,
}

impl<T: Quantity> Histogram<T> {
    /// An empty histogram with `buckets`.
    pub fn new(buckets: &'static Buckets) -> Self {
        let counts = (0..=buckets.bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { buckets, counts, sum: AtomicU64::new(0), quantity: PhantomData }
    }

    /// One sample.
    pub fn observe(&self, value: T) {
        self.observe_n(value, 1);
    }

    /// `count` samples of the same value.
    pub fn observe_n(&self, value: T, count: u64) {
        let raw = value.raw();
        let bucket = self.buckets.bounds.partition_point(|&bound| bound < raw);
        self.counts[bucket].fetch_add(count, Ordering::Relaxed);
        self.sum.fetch_add(raw.saturating_mul(count), Ordering::Relaxed);
    }

    /// What was observed until now. Samples that come meanwhile may be in some buckets and not yet in the sum.
    pub fn snapshot(&self) -> Snapshot {
        let bounds = self.buckets.bounds.iter().map(|&bound| bound as f64 / T::PER_UNIT).chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        Snapshot { buckets: bounds.zip(counts).collect(), sum: self.sum.load(Ordering::Relaxed) as f64 / T::PER_UNIT }
    }

    /// Brings `last` up to now, and `since` to what came in between: what a controller sees of its last interval. Their
    /// memory is used again, since a controller looks often.
    pub fn advance(&self, last: &mut Snapshot, since: &mut Snapshot) {
        for snapshot in [&mut *last, &mut *since] {
            snapshot.buckets.resize(self.counts.len(), (f64::INFINITY, 0));
        }
        let bounds = self.buckets.bounds.iter().map(|&bound| bound as f64 / T::PER_UNIT).chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        for ((bound, count), (last, since)) in bounds.zip(counts).zip(last.buckets.iter_mut().zip(&mut since.buckets)) {
            (*since, *last) = ((bound, count.saturating_sub(last.1)), (bound, count));
        }
        let sum = self.sum.load(Ordering::Relaxed) as f64 / T::PER_UNIT;
        since.sum = (sum - std::mem::replace(&mut last.sum, sum)).max(0.0);
    }
}

/// A histogram at one moment, in base units (seconds for a duration).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Each bucket's upper bound and its own samples; the last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of all samples.
    pub sum: f64,
}

impl Snapshot {
    /// How many samples there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|&(_, count)| count).sum()
    }

    /// An estimate of the quantile `q` (0 to 1): linear within its bucket, as Prometheus has it. `None` without a
    /// sample. A quantile in the last bucket is told as the highest bound, so that it is never overstated.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * total as f64;
        let (mut below, mut lower) = (0, 0.0);
        for &(upper, count) in &self.buckets {
            if count > 0 && (below + count) as f64 >= rank {
                let within = ((rank - below as f64) / count as f64).max(0.0);
                return Some(if upper.is_finite() { lower + (upper - lower) * within } else { lower });
            }
            below += count;
            lower = if upper.is_finite() { upper } else { lower };
        }
        Some(lower)
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn signed(level: u64) -> i64 {
    i64::try_from(level).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    static MS: Buckets = Buckets { bounds: &[1_000_000, 2_000_000, 5_000_000], reason: "for the tests" };
    static ONES: Buckets = Buckets { bounds: &[1, 2, 4, 8, 16, 32, 64], reason: "for the tests" };

    #[test]
    fn a_sample_on_a_bound_is_in_the_bucket_of_that_bound() {
        let histogram = Histogram::new(&MS);
        for ms in [1, 2, 5, 6] {
            histogram.observe(Duration::from_millis(ms));
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.buckets, [(0.001, 1), (0.002, 1), (0.005, 1), (f64::INFINITY, 1)]);
        assert!((snapshot.sum - 0.014).abs() < 1e-12);
    }

    #[test]
    fn a_quantile_is_linear_within_its_bucket() {
        let histogram = Histogram::new(&MS);
        histogram.observe_n(Duration::from_micros(1_500), 100);
        let snapshot = histogram.snapshot();
        assert!((snapshot.quantile(0.5).expect("samples") - 0.0015).abs() < 1e-12);
        assert_eq!(snapshot.quantile(1.0), Some(0.002));
    }

    #[test]
    fn no_sample_has_no_quantile_and_the_open_bucket_is_told_as_its_lower_bound() {
        let histogram = Histogram::new(&MS);
        assert_eq!(histogram.snapshot().quantile(0.99), None);
        histogram.observe(Duration::from_secs(9));
        assert_eq!(histogram.snapshot().quantile(0.99), Some(0.005));
    }

    #[test]
    fn what_came_since_an_earlier_snapshot_is_told_apart() {
        let histogram = Histogram::new(&ONES);
        histogram.observe(3);
        let (mut last, mut since) = (Snapshot::default(), Snapshot::default());
        histogram.advance(&mut last, &mut since);
        assert_eq!((since.count(), since.sum), (1, 3.0));
        histogram.observe_n(30, 5);
        histogram.advance(&mut last, &mut since);
        assert_eq!((since.count(), since.sum), (5, 150.0));
        assert_eq!((since.quantile(0.0), last), (Some(16.0), histogram.snapshot()));
    }

    #[test]
    fn a_gauge_that_dips_below_zero_reads_as_zero() {
        let gauge = Gauge::default();
        gauge.sub(3);
        assert_eq!(gauge.get(), 0);
        gauge.add(5);
        assert_eq!(gauge.get(), 2);
        gauge.raise(7);
        gauge.raise(4);
        assert_eq!(gauge.get(), 7);
    }

    #[test]
    fn a_counter_that_follows_a_total_never_goes_back() {
        let counter = Counter::default();
        counter.follow(10);
        counter.follow(8);
        assert_eq!(counter.get(), 10);
    }

    proptest! {
        #[test]
        fn every_sample_is_in_one_bucket_and_the_estimate_is_within_the_bucket_of_the_true_quantile(
            mut samples in proptest::collection::vec(0_u64..64, 1..200), q in 0.01_f64..1.0,
        ) {
            let histogram = Histogram::new(&ONES);
            samples.iter().for_each(|&sample| histogram.observe(sample));
            let snapshot = histogram.snapshot();
            prop_assert_eq!(snapshot.count(), samples.len() as u64);
            prop_assert_eq!(snapshot.sum, samples.iter().sum::<u64>() as f64);
            samples.sort_unstable();
            let place = (q * samples.len() as f64).ceil() as usize;
            let exact = samples[place.clamp(1, samples.len()) - 1];
            let upper = ONES.bounds[ONES.bounds.partition_point(|&bound| bound < exact)];
            let lower = ONES.bounds.iter().rev().find(|&&bound| bound < upper).copied().unwrap_or(0);
            let estimate = snapshot.quantile(q).expect("samples");
            prop_assert!(lower as f64 <= estimate && estimate <= upper as f64, "{lower} <= {estimate} <= {upper}");
        }
    }
}
