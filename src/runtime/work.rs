//! A batch in a handler's hands: what a handler is, what it is given, what it gives, and what is counted of it.

use std::time::Instant;

use super::lanes::{Batch, Entry, LaneId, Outcome};
use super::queue::{Queue, Weigh};

/// Drop reasons that every stage has, before those of its handler.
///
/// `queue_full`: the queue holds all it can. `not_admitted`: it could hold more, and admits less because what waits in it
/// waits too long. `codel`: it waited too long in its flow (RFC 8289). `overlimit`: room was needed, and its flow held most
/// (RFC 8290).
pub const RUNTIME_REASONS: [&str; 6] = ["queue_full", "not_admitted", "no_owner", "panicked", "codel", "overlimit"];
pub(super) const QUEUE_FULL: usize = 0;
/// The index of `not_admitted` among them.
pub const NOT_ADMITTED: usize = 1;
pub(super) const NO_OWNER: usize = 2;
pub(super) const PANICKED: usize = 3;
pub(super) const CODEL: usize = 4;
pub(super) const OVERLIMIT: usize = 5;

/// What a stage does with a batch.
pub trait Handler: Send + Sync + 'static {
    /// The queue of each lane.
    type Queue: Queue<Item: Send> + Send;
    /// What goes on to the next stage.
    type Out: Weigh + Send + 'static;
    /// What turns round or is made here.
    type Turned: Weigh + Send + 'static;
    /// Whether the items themselves are what the stage counts as having come in. A handler that makes packets from
    /// signals counts them in [`Tally::received`].
    const COUNTS_ITEMS: bool = true;

    /// Handles a batch: drains `work.batch.items`, fills the rest.
    fn handle(&self, now: Instant, work: &mut WorkOf<Self>);

    /// What was made of a batch has been handed on, and has run on as far as it does: now others are woken that need not
    /// be awake before, since a wake-up takes longer than most batches.
    fn handed_on(&self) {}
}

/// What comes into a handler's stage.
pub(super) type In<H> = <<H as Handler>::Queue as Queue>::Item;
/// The [`Work`] of a handler.
pub type WorkOf<H> = Work<In<H>, <H as Handler>::Out, <H as Handler>::Turned>;

/// A batch in a handler's hands, and what it made of it.
#[derive(Debug)]
pub struct Work<In, Out, Turned> {
    /// What is to be handled.
    pub batch: Batch<In>,
    /// On to the next stage: `origin` is the lane here, `lane` the lane there.
    pub out: Vec<Entry<Out>>,
    /// Turned round.
    pub turned: Vec<Entry<Turned>>,
    /// Made by the handler.
    pub made: Vec<Entry<Turned>>,
    /// What is to become of lanes; those not named are simply done.
    pub outcomes: Vec<(LaneId, Outcome)>,
    /// Counts.
    pub tally: Tally,
    /// What the batch weighed when it came.
    pub(super) weight: Count,
}

impl<In, Out, Turned> Default for Work<In, Out, Turned> {
    fn default() -> Self {
        Self {
            batch: Batch::default(),
            out: Vec::new(),
            turned: Vec::new(),
            made: Vec::new(),
            outcomes: Vec::new(),
            tally: Tally::default(),
            weight: Count::default(),
        }
    }
}

impl<In, Out, Turned> Work<In, Out, Turned> {
    /// Forgets what became of the batch so far, except what cannot be undone: what was sent and what was dropped.
    pub(super) fn abandon(&mut self, counts_items: bool) {
        self.batch.items.clear();
        self.out.clear();
        self.turned.clear();
        self.made.clear();
        self.outcomes.clear();
        let came = if counts_items { self.weight } else { self.tally.received };
        let dropped: u64 = self.tally.drops.iter().map(|drops| drops.segments).sum();
        let lost = came.segments.saturating_sub(self.tally.sent.segments + dropped);
        self.tally.count_drop(PANICKED, lost, 0);
    }
}

/// Counts of one batch, added to the stage's metrics once.
#[derive(Debug, Default)]
pub struct Tally {
    /// Segments and bytes that came in, for a handler that makes items from signals.
    pub received: Count,
    /// Segments and bytes that left by a system call, for a handler with no next stage.
    pub sent: Count,
    pub(super) drops: Vec<Count>,
}

/// Segments and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Segments.
    pub segments: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Count {
    /// The count of a batch.
    pub fn of<T: Weigh>(entries: &[Entry<T>]) -> Self {
        let mut count = Self::default();
        entries.iter().for_each(|entry| count.add(&entry.item));
        count
    }

    /// Counts an item.
    pub fn add(&mut self, item: &impl Weigh) {
        self.segments += u64::from(item.segments());
        self.bytes += item.bytes() as u64;
    }
}

impl Tally {
    /// Counts a dropped item under the handler's reason of that index.
    pub fn drop(&mut self, reason: usize, item: &impl Weigh) {
        self.drop_segments(reason, u64::from(item.segments()), item.bytes() as u64);
    }

    /// Counts an item whose owner is not there.
    pub fn no_owner(&mut self, item: &impl Weigh) {
        self.count_drop(NO_OWNER, u64::from(item.segments()), item.bytes() as u64);
    }

    /// Counts segments dropped under the handler's reason of that index.
    pub fn drop_segments(&mut self, reason: usize, segments: u64, bytes: u64) {
        self.count_drop(RUNTIME_REASONS.len() + reason, segments, bytes);
    }

    /// Segments and bytes dropped under the handler's reason of that index.
    #[cfg(all(test, feature = "kernel"))]
    pub(crate) fn dropped(&self, reason: usize) -> Count {
        self.drops.get(RUNTIME_REASONS.len() + reason).copied().unwrap_or_default()
    }

    pub(super) fn count_drop(&mut self, index: usize, segments: u64, bytes: u64) {
        if self.drops.len() <= index {
            self.drops.resize(index + 1, Count::default());
        }
        self.drops[index].segments += segments;
        self.drops[index].bytes += bytes;
    }
}
