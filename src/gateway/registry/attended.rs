//! The stages, as the registry knows them.

use std::sync::Weak;

use crate::runtime::attend::Attend;
use crate::runtime::lanes::LaneId;

/// The stages that the registry attends to. They hold the registry, so the registry does not hold them.
pub struct Stages {
    /// accept, its lanes being links.
    pub accept: Weak<dyn Attend>,
    /// ws-decode, its lanes being links.
    pub ws_decode: Weak<dyn Attend>,
    /// ws-encode, its lanes being tethers.
    pub ws_encode: Weak<dyn Attend>,
    /// Every other stage whose lanes are tethers.
    pub tethered: Vec<Weak<dyn Attend>>,
}

pub(super) fn poke(stage: &Weak<dyn Attend>, lane: LaneId) {
    if let Some(stage) = stage.upgrade() {
        stage.poke(lane);
    }
}

pub(super) fn clear(stage: &Weak<dyn Attend>, lane: LaneId) {
    if let Some(stage) = stage.upgrade() {
        stage.clear(lane);
    }
}

impl std::fmt::Debug for Stages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stages").finish_non_exhaustive()
    }
}
