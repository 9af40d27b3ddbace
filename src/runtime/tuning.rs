//! The figures of a pipeline's mechanisms that who runs it may trade: the same for each of its stages. What a mechanism is made
//! of is a constant beside it (docs/decisions/0024-what-is-configured.md).

use super::codel;

/// What a pipeline's mechanisms go by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuning {
    /// When a flow's queue is too long.
    pub codel: codel::Settings,
}

impl Tuning {
    /// What an empty configuration says.
    pub const DEFAULT: Self = Self { codel: codel::Settings::DEFAULT };
}
