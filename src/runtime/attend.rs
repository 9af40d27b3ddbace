//! A stage as seen by those who keep its lanes' owners: it can be told that a lane has something to do, or is gone.

use super::lanes::LaneId;
use super::stage::Stage;
use super::work::Handler;

/// A stage whose lanes have owners that come and go.
pub trait Attend: Send + Sync {
    /// Has a lane run once more though nothing may wait in it.
    fn poke(&self, lane: LaneId);

    /// Empties a lane whose owner has gone.
    fn clear(&self, lane: LaneId);

    /// Leaves those of `lanes` that have something to do and may have to wait for room in the next stage.
    fn held_back(&self, lanes: &mut Vec<LaneId>) {
        lanes.clear();
    }

    /// Has the queue hold no more than so many percent of what it could.
    fn hold_at_most(&self, percent: u64);
}

impl<H: Handler> Attend for Stage<H> {
    fn poke(&self, lane: LaneId) {
        Self::poke(self, lane);
    }

    fn clear(&self, lane: LaneId) {
        Self::clear(self, lane);
    }

    fn held_back(&self, lanes: &mut Vec<LaneId>) {
        Self::held_back(self, lanes);
    }

    fn hold_at_most(&self, percent: u64) {
        Self::hold_at_most(self, percent);
    }
}
