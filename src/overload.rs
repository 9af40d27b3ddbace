//! What a gateway does without while it has too much to do: the rungs of a ladder, and the word on which one it stands.
//!
//! Who decides is [`crate::gateway`]'s ladder; who acts on it reads the word where it acts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::budget::Budget;
use crate::credit::BYTES_MIN;

/// A rung. Each goes without what the ones below it go without too: first what was never promised to anybody, last what
/// those who are in hold most of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Everybody is served.
    Calm,
    /// No new tethers. Who comes back to a tether is let in.
    NoNewTethers,
    /// No new NAT mappings either.
    NoNewMappings,
    /// The tethers that hold most get less credit, and the largest flows that wait for a link less room.
    TrimLargest,
}

impl Rung {
    /// Every rung, from the ground up.
    pub const ALL: [Self; 4] = [Self::Calm, Self::NoNewTethers, Self::NoNewMappings, Self::TrimLargest];

    /// The rung above; `None` at the top.
    pub fn above(self) -> Option<Self> {
        Self::ALL.get(self as usize + 1).copied()
    }

    /// The rung below; `None` on the ground.
    pub fn below(self) -> Option<Self> {
        Self::ALL.get((self as usize).checked_sub(1)?).copied()
    }

    /// What the gateway does without, in a word for the log.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::NoNewTethers => "no_new_tethers",
            Self::NoNewMappings => "no_new_mappings",
            Self::TrimLargest => "trim_largest",
        }
    }
}

/// Why a step on the ladder is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Memory runs short.
    Memory,
    /// Stages have shed for long.
    Shedding,
    /// There was enough of all for long.
    Calm,
}

impl Cause {
    /// The labels in metrics, in the order of the variants.
    pub const LABELS: [&'static str; 3] = ["memory", "shedding", "calm"];

    /// Its label.
    pub fn label(self) -> &'static str {
        Self::LABELS[self as usize]
    }
}

/// The rung that a gateway stands on, for all who act on it. Cloning gives another handle to the same word.
#[derive(Clone, Debug, Default)]
pub struct Overload(Arc<Word>);

#[derive(Debug, Default)]
struct Word {
    rung: AtomicU8,
    large_bytes: AtomicU64,
    tethers: AtomicU64,
}

impl Overload {
    /// The rung now.
    pub fn rung(&self) -> Rung {
        let rung = usize::from(self.0.rung.load(Ordering::Relaxed));
        Rung::ALL.get(rung).copied().unwrap_or(Rung::TrimLargest)
    }

    /// The gateway stands on `rung`; a tether that holds `large_bytes` is one of the largest.
    pub fn set(&self, rung: Rung, large_bytes: u64) {
        self.0.large_bytes.store(large_bytes, Ordering::Relaxed);
        self.0.rung.store(rung as u8, Ordering::Relaxed);
    }

    /// So many tethers are here now.
    pub fn set_tethers(&self, tethers: u64) {
        self.0.tethers.store(tethers, Ordering::Relaxed);
    }

    /// How many tethers are here.
    pub fn tethers(&self) -> u64 {
        self.0.tethers.load(Ordering::Relaxed)
    }

    /// Whether nobody new is let in.
    pub fn refuses_tethers(&self) -> bool {
        self.rung() >= Rung::NoNewTethers
    }

    /// Whether no mapping is made.
    pub fn refuses_mappings(&self) -> bool {
        self.rung() >= Rung::NoNewMappings
    }

    /// Whether a tether whose packets hold `held_bytes` is to have less. Where nobody holds anything, nobody is.
    pub fn trims(&self, held_bytes: u64) -> bool {
        let large_bytes = self.0.large_bytes.load(Ordering::Relaxed);
        self.rung() == Rung::TrimLargest && large_bytes > 0 && held_bytes >= large_bytes
    }
}

/// How much credit a tether gets of what it would get at rest: less as memory runs short.
#[derive(Clone, Debug)]
pub struct Squeeze {
    /// What all draw on.
    pub budget: Budget,
    /// The rung.
    pub overload: Overload,
    /// What of it those keep who are trimmed, in percent.
    pub trimmed_to_percent: u64,
}

impl Squeeze {
    /// The credit of a tether that would have `full_bytes`, and whose packets hold `held_bytes`. All of it while half the
    /// budget is free, then in proportion to what is; a part of that for those who are trimmed.
    pub fn credit_bytes(&self, full_bytes: u64, held_bytes: u64) -> u64 {
        let limit = self.budget.limit_bytes();
        let free = limit.saturating_sub(self.budget.needed_bytes());
        let plenty = (limit / 2).max(1);
        let credit = (u128::from(full_bytes) * u128::from(free.min(plenty)) / u128::from(plenty)) as u64;
        let credit = if self.overload.trims(held_bytes) { credit * self.trimmed_to_percent / 100 } else { credit };
        credit.max(BYTES_MIN.min(full_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Part;

    #[test]
    fn each_rung_goes_without_what_those_below_it_go_without() {
        let overload = Overload::default();
        for (rung, tethers, mappings, trims) in [
            (Rung::Calm, false, false, false),
            (Rung::NoNewTethers, true, false, false),
            (Rung::NoNewMappings, true, true, false),
            (Rung::TrimLargest, true, true, true),
        ] {
            overload.set(rung, 100);
            assert_eq!(overload.rung(), rung);
            assert_eq!((overload.refuses_tethers(), overload.refuses_mappings()), (tethers, mappings));
            assert_eq!((overload.trims(100), overload.trims(99)), (trims, false));
            overload.set(rung, 0);
            assert!(!overload.trims(0) && !overload.trims(100), "there is no largest among none");
        }
    }

    #[test]
    fn the_rungs_are_a_ladder() {
        let up: Vec<_> = std::iter::successors(Some(Rung::Calm), |rung| rung.above()).collect();
        let down: Vec<_> = std::iter::successors(Some(Rung::TrimLargest), |rung| rung.below()).collect();
        assert_eq!(up, Rung::ALL);
        assert_eq!(down, Rung::ALL.iter().rev().copied().collect::<Vec<_>>());
    }

    #[test]
    fn credit_shrinks_with_what_is_free_and_for_the_largest_first() {
        const MIB: u64 = 1 << 20;
        let (budget, overload) = (Budget::undivided(100 * MIB), Overload::default());
        let mut squeeze = Squeeze { budget, overload, trimmed_to_percent: 50 };
        let mut held = squeeze.budget.share(Part::Messages);
        for (held_mib, credit) in [(0, 8 * MIB), (50, 8 * MIB), (75, 4 * MIB), (100, BYTES_MIN)] {
            assert!(held.set(held_mib * MIB));
            assert_eq!(squeeze.credit_bytes(8 * MIB, 0), credit, "with {held_mib} MiB held");
        }
        assert!(held.set(75 * MIB));
        squeeze.overload.set(Rung::TrimLargest, 1_000);
        assert_eq!((squeeze.credit_bytes(8 * MIB, 1_000), squeeze.credit_bytes(8 * MIB, 999)), (2 * MIB, 4 * MIB));
        squeeze.trimmed_to_percent = 75;
        assert_eq!(squeeze.credit_bytes(8 * MIB, 1_000), 3 * MIB);
        assert!(held.set(100 * MIB));
        assert_eq!(squeeze.credit_bytes(BYTES_MIN / 2, 1_001), BYTES_MIN / 2, "no more than at rest");
    }
}
