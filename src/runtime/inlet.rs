//! The way into a pipeline: what a source's thread pushes its batches through.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cores::Cores;
use super::lanes::{Batch, Entry, LaneId};
use super::port::{Behind, Offer, Port};

/// A source's end of the first stage. One a source thread: it holds that thread's scratch space.
///
/// A source cannot be parked: what does not fit into the first stage is dropped and counted there. A source that can be
/// held back is a stage of signals, which leaves the data where it is.
pub struct Inlet<T> {
    next: Arc<dyn Port<T>>,
    cores: Arc<Cores>,
    entered: Batch<T>,
    refused: Vec<Entry<T>>,
    /// The lanes of the batch that is being pushed.
    lanes: Vec<LaneId>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Items of the batch.
    pub items: usize,
    /// Lanes that they belong to; known only where some were refused.
    pub lanes: usize,
    /// Items that found no room, in the first stage or in one that they ran on to.
    pub refused_items: usize,
    /// Lanes of which something found no room.
    pub refused_lanes: usize,
    /// How long the offer took.
    pub offer: Duration,
}

impl<T> fmt::Debug for Inlet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inlet").finish_non_exhaustive()
    }
}

impl<T> Inlet<T> {
    /// A way into `next`. The pushing thread counts as busy on one of `cores` for as long as a push takes.
    pub fn new(next: Arc<dyn Port<T>>, cores: Arc<Cores>) -> Self {
        Self { next, cores, entered: Batch::default(), refused: Vec::new(), lanes: Vec::new() }
    }

    /// Pushes a batch in, and empties `items`. `behind` tells whether the source has more waiting (ready sockets, ring
    /// occupancy): its backlog counts as the first stage's queue. Where nothing waits, the batch runs on through the
    /// pipeline on this thread. Tells what was refused.
    pub fn push(&mut self, now: Instant, behind: impl Into<Behind>, items: &mut Vec<Entry<T>>) -> Pushed {
        if items.is_empty() {
            return Pushed::default();
        }
        let (behind, mut pushed) = (behind.into(), Pushed { items: items.len(), ..Pushed::default() });
        self.lanes.clear();
        self.lanes.extend(items.iter().map(|entry| entry.lane));
        let _busy = self.cores.occupy();
        let offer = Offer { upstream: None, behind, may_run_on: true };
        let mut dropped = self.next.offer(now, offer, items, &mut self.entered, &mut self.refused);
        debug_assert!(self.refused.is_empty(), "a port gives nothing back to an offer without upstream");
        pushed.offer = now.elapsed();
        if !self.entered.is_empty() {
            dropped += self.next.run(now, behind, &mut self.entered);
        }
        if dropped.items > 0 {
            self.lanes.sort_unstable();
            self.lanes.dedup();
            pushed.lanes = self.lanes.len();
            (pushed.refused_items, pushed.refused_lanes) = (dropped.items, dropped.lanes);
        }
        pushed
    }

    /// See [`Port::serve`].
    pub fn serve(&self, limit: Duration) {
        self.next.serve(limit);
    }

    /// Cores that no thread of the pipeline keeps busy, while this one pushes nothing.
    pub fn cores_free(&self) -> usize {
        self.cores.free()
    }
}
