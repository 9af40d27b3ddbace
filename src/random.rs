//! Random numbers from a seed, so that a failure can be played again: the same seed means the same for ever.

/// SplitMix64 (Steele, Lea, Flood 2014): small and well spread, and no secret. For what nobody may guess there is
/// `getrandom`.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `limit` - 1; 0 for a limit of 0.
    pub fn below(&mut self, limit: u32) -> u32 {
        (((self.next_u64() >> 32) * u64::from(limit)) >> 32) as u32
    }

    /// Evenly from 0 up to 1, without it.
    pub fn fraction(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Exponentially distributed: the gaps between arrivals that know nothing of each other.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.fraction()).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_what_the_paper_says() {
        // The first numbers of seed 1234567 in the reference implementation (prng.di.unimi.it/splitmix64.c).
        let mut random = Random::new(1_234_567);
        assert_eq!([random.next_u64(), random.next_u64()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn numbers_stay_within_their_limits_and_gaps_have_their_mean() {
        let mut random = Random::new(7);
        assert!((0..10_000).all(|_| random.below(3) < 3 && (0.0..1.0).contains(&random.fraction())));
        assert_eq!(random.below(0), 0);
        let sum: f64 = (0..100_000).map(|_| random.exponential(5.0)).sum();
        assert!((sum / 100_000.0 - 5.0).abs() < 0.1, "{sum}");
    }
}
