//! Work that is of no use, for benches: with a fixed cost a packet, what is measured is how a pipeline behaves under load
//! and not how fast its handlers are.

use std::hint::black_box;

/// What a packet costs beside what it costs anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ballast {
    /// Rounds of arithmetic a segment. How long one takes is for the bench to measure.
    pub rounds: u64,
}

impl Ballast {
    /// No more work than there is.
    pub const NONE: Self = Self { rounds: 0 };

    /// Does the work of so many segments.
    pub fn burn(self, segments: u32) {
        let mut state = 1_u64;
        for round in 0..self.rounds * u64::from(segments) {
            state = black_box(state.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round);
        }
    }
}
