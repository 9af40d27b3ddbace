//! Whose turn it is, of the lanes that are ready.

use std::collections::VecDeque;

use super::LaneId;

/// Why a lane is ready, which is where it stands in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// It was resumed: what it left over goes first.
    Resumed,
    /// It got little of late, so that it takes next to nothing from others to serve it first (RFC 8290's sparse flows).
    Sparse,
    Other,
}

/// Segments that sparse lanes may bring while others are held back and nobody is let in: some packets each of some.
const PASSING_MAX: i64 = 64;

/// And for each lane that is let in: about what such a one brings of what it had left over.
const PASSING_A_LANE: i64 = 4;

/// The lanes that are ready, in their order.
#[derive(Debug)]
pub(super) struct Turns {
    resumed: VecDeque<LaneId>,
    sparse: VecDeque<LaneId>,
    others: VecDeque<LaneId>,
    /// How many of the others have a turn in a batch at most; while it is none, they are held back.
    others_max: usize,
    /// Segments that sparse lanes may still bring past those that are held back.
    passing: i64,
}

impl Turns {
    pub(super) fn new(lanes: u32) -> Self {
        Self {
            resumed: VecDeque::new(),
            sparse: VecDeque::new(),
            others: VecDeque::with_capacity(lanes as usize),
            others_max: usize::MAX,
            passing: PASSING_MAX,
        }
    }

    pub(super) fn push(&mut self, id: LaneId, rank: Rank) {
        match rank {
            Rank::Resumed => self.resumed.push_back(id),
            Rank::Sparse => self.sparse.push_back(id),
            Rank::Other => self.others.push_back(id),
        }
    }

    /// Takes a part of those that were resumed, as one of so many threads.
    pub(super) fn drain_resumed(&mut self, threads: usize) -> impl Iterator<Item = LaneId> {
        let part = self.resumed.len().div_ceil(threads.max(1));
        self.resumed.drain(..part)
    }

    /// The next one that was not resumed. Of those that are not sparse only as many as may have a turn.
    pub(super) fn pop(&mut self, others_left: &mut usize) -> Option<(LaneId, Rank)> {
        if self.sparse_may_pass()
            && let Some(id) = self.sparse.pop_front()
        {
            return Some((id, Rank::Sparse));
        }
        *others_left = others_left.checked_sub(1)?;
        self.others.pop_front().map(|id| (id, Rank::Other))
    }

    pub(super) fn any_resumed(&self) -> bool {
        !self.resumed.is_empty()
    }

    /// Those that are ready, whether they have a turn or not.
    pub(super) fn len(&self) -> usize {
        self.resumed.len() + self.unresumed()
    }

    /// The same without those that were resumed.
    pub(super) fn unresumed(&self) -> usize {
        self.sparse.len() + self.others.len()
    }

    /// Those that have a turn.
    pub(super) fn called(&self) -> usize {
        let sparse = if self.sparse_may_pass() { self.sparse.len() } else { 0 };
        self.resumed.len() + sparse + if self.holds_back() { 0 } else { self.others.len() }
    }

    /// Whether those that are neither resumed nor sparse have no turn.
    pub(super) fn holds_back(&self) -> bool {
        self.others_max == 0
    }

    /// Those that are sparse bring about as much past the others as is let in meanwhile, and no more, or it would be without
    /// bound: where lanes are so many that their turns are further apart than shares are remembered, all are sparse.
    fn sparse_may_pass(&self) -> bool {
        !self.holds_back() || self.passing > 0
    }

    /// A sparse one brought something past others that were held back. What several bring at once may be more than is left; the
    /// debt is not to outlast what they did.
    pub(super) fn passed(&mut self, segments: u64) {
        self.passing = self.passing.saturating_sub_unsigned(segments).max(-PASSING_MAX);
    }

    /// One that waited for room is let in, so that the others have turns again.
    pub(super) fn let_in(&mut self) {
        self.others_max = usize::MAX;
        self.passing = (self.passing + PASSING_A_LANE).min(PASSING_MAX);
    }

    /// How many of those that are not sparse have a turn in a batch.
    pub(super) fn others_max(&self) -> usize {
        self.others_max
    }

    /// From now on, and until one is let in, so many of them have.
    pub(super) fn set_others_max(&mut self, lanes: usize) {
        self.others_max = lanes;
    }
}
