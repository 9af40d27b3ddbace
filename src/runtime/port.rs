//! How stages are joined: a stage is a port to the one before it, and is resumed by the one behind it.

use std::sync::Weak;
use std::time::Instant;

use super::lanes::{Batch, Entry, LaneId};

/// Who offers, so that it can be resumed when there is room again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Upstream(pub(super) usize);

/// Something that can be given items: the next stage.
pub trait Port<T>: Send + Sync {
    /// Offers items. What may run on at once is left in `entered`, and must then be given to [`Port::run`]. What does
    /// not fit goes to `refused` where the port parks, and is dropped and counted where it drops; so much is told.
    fn offer(
        &self,
        now: Instant,
        offer: Offer,
        items: &mut Vec<Entry<T>>,
        entered: &mut Batch<T>,
        refused: &mut Vec<Entry<T>>,
    ) -> Dropped;

    /// Runs what entered, on this thread, through this stage and on.
    fn run(&self, now: Instant, behind: bool, entered: &mut Batch<T>);

    /// Makes `upstream` known, to be resumed when there is room again.
    fn attach(&self, upstream: Weak<dyn Resume>) -> Upstream;
}

/// What of an offer was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Items.
    pub items: usize,
    /// Lanes that they belonged to.
    pub lanes: usize,
}

/// How something is offered.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Who offers; `None` for one that cannot be parked.
    pub upstream: Option<Upstream>,
    /// Whether work waits behind the batch.
    pub behind: bool,
    /// Whether the offering thread could run it at all.
    pub may_run_on: bool,
}

/// A stage whose lanes can be resumed.
pub trait Resume: Send + Sync {
    /// Lets a parked lane run again.
    fn resume(&self, lane: LaneId);
}
