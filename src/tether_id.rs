//! The number of a tether.

use std::fmt;

/// A tether's number: the index of its lease in the pool and of its port block, from 0. It is given again to another
/// tether once this one is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TetherId(pub u32);

impl TetherId {
    /// As an index into a table.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for TetherId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
