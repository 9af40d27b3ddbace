//! What a bench changes about a gateway.

use crate::runtime::hand_over::Live;
use crate::stages::ballast::Ballast;

/// A gateway as it is not for anybody, to measure how it behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Experiment {
    /// Laid on nat-rewrite, in both directions.
    pub ballast: Ballast,
    /// The rule of hand-over of every stage, in place of the configured ones.
    pub hand_over: Option<&'static Live>,
}
