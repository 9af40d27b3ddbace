//! Who got how much of late: what a short queue keeps its last places by.

/// Segments a lane, on average, after which their shares are counted anew: few enough that what was long ago does not
/// count, so many that the rest of a division, a packet or two, does not either.
const WHILE_SEGMENTS: u64 = 64;

/// What lanes got of late, while the queue is kept short.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shares {
    number: u32,
    segments: u64,
    lanes: u64,
}

impl Shares {
    /// Counts `segments` of a lane, whose own part is `queued`.
    pub(super) fn count(&mut self, queued: &mut (u32, u64), segments: u64) {
        if self.segments >= WHILE_SEGMENTS * self.lanes {
            *self = Self { number: self.number.wrapping_add(1), ..Self::default() };
        }
        if queued.0 != self.number {
            *queued = (self.number, 0);
            self.lanes += 1;
        }
        queued.1 += segments;
        self.segments += segments;
    }

    /// Whether a lane got more than the mean.
    pub(super) fn is_ahead(&self, queued: (u32, u64)) -> bool {
        queued.0 == self.number && queued.1 * self.lanes > self.segments
    }
}
