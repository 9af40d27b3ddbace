//! How stages are joined: a stage is a port to the one before it, and is resumed by the one behind it.

use std::ops::AddAssign;
use std::sync::Weak;
use std::time::{Duration, Instant};

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

    /// Runs what entered, on this thread, through this stage and on. Tells what was dropped further on.
    fn run(&self, now: Instant, behind: Behind, entered: &mut Batch<T>) -> Dropped;

    /// What the thread that feeds this port does before it brings more: while that could not run on, it works for the stage
    /// where the lane is ready, and waits for it otherwise, for `limit` at most. Only where there is one lane, or what it
    /// could bring to others would wait, too; elsewhere it is nothing.
    fn serve(&self, _limit: Duration) {}

    /// Whether something gathers here, for a thread that brought it and is to come back.
    fn gathers(&self) -> bool {
        false
    }

    /// Works for what has gathered, on this thread.
    fn serve_gathered(&self, _which: Gathered) {}

    /// Segments that find room.
    fn room(&self) -> u64 {
        u64::MAX
    }

    /// Makes `upstream` known, to be resumed when there is room again.
    fn attach(&self, upstream: Weak<dyn Resume>) -> Upstream;
}

/// What waits behind a batch, where it comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behind {
    /// Nothing: the thread has nothing better to do than to run on.
    #[default]
    Nothing,
    /// Work, which another thread can take up.
    Work,
    /// Work that a source's thread alone can read.
    Unread,
    /// Work that waits too long already, outside of any queue of ours: the thread is to come back for it soon.
    Late,
}

impl From<bool> for Behind {
    fn from(is_there: bool) -> Self {
        if is_there { Self::Work } else { Self::Nothing }
    }
}

/// What of that which has gathered is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gathered {
    /// What has for long enough, as fast as a thread brings it.
    Due,
    /// A batch of what has for longest: for a thread that has nothing else to do.
    Oldest,
}

/// What of an offer was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Items.
    pub items: usize,
    /// Lanes that they belonged to.
    pub lanes: usize,
}

impl AddAssign for Dropped {
    fn add_assign(&mut self, other: Self) {
        self.items += other.items;
        self.lanes += other.lanes;
    }
}

/// How something is offered.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Who offers; `None` for one that cannot be parked.
    pub upstream: Option<Upstream>,
    /// What waits behind the batch.
    pub behind: Behind,
    /// Whether the offering thread could run it at all.
    pub may_run_on: bool,
}

/// A stage whose lanes can be resumed.
pub trait Resume: Send + Sync {
    /// Lets a parked lane run again.
    fn resume(&self, lane: LaneId);
}
