//! What waits in a lane: the queue behind one trait, so that each stage can have the discipline it needs.

use std::collections::VecDeque;
use std::ops::{AddAssign, SubAssign};
use std::time::Instant;

use super::codel;

/// What an item weighs in queues, shares and counters.
pub trait Weigh {
    /// Segments on the wire of an interface: what counters and fair shares count.
    fn segments(&self) -> u32;

    /// Length in bytes: what counters and windows count.
    fn bytes(&self) -> usize;

    /// Memory held in bytes, whatever the length: what bounds count.
    fn held_bytes(&self) -> usize;
}

/// What stands in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Segments.
    pub segments: u64,
    /// Memory held in bytes.
    pub held_bytes: u64,
}

impl Load {
    /// The load that one item is.
    pub fn of(item: &impl Weigh) -> Self {
        Self { segments: u64::from(item.segments()), held_bytes: item.held_bytes() as u64 }
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Self) {
        self.segments += other.segments;
        self.held_bytes += other.held_bytes;
    }
}

impl SubAssign for Load {
    fn sub_assign(&mut self, other: Self) {
        self.segments -= other.segments;
        self.held_bytes -= other.held_bytes;
    }
}

/// The rule by which a queue gave an item up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// What waited had waited too long for an interval (CoDel, RFC 8289).
    Codel,
    /// Room was needed, and this was first in the flow that held most (RFC 8290, 4.1.3).
    Overlimit,
    /// It had waited longer than the stage lets anything wait now.
    TooOld,
}

/// What queues gave up instead of letting it wait or leave.
#[derive(Debug)]
pub struct Shed<T> {
    /// Items, with the rule that each fell to.
    pub dropped: Vec<(Law, T)>,
    /// Segments that left with a mark of congestion, where they would else have been dropped.
    pub marked_segments: u64,
}

impl<T> Default for Shed<T> {
    fn default() -> Self {
        Self { dropped: Vec::new(), marked_segments: 0 }
    }
}

/// The queue of one lane. What may enter has been judged by [`Lanes`](super::lanes::Lanes); the discipline decides in
/// which order items leave, and which are shed on the way.
pub trait Queue: Default {
    /// What waits.
    type Item: Weigh;

    /// What the queues of all lanes of a stage have in common: settings, and memory that one lends another. It is given
    /// to each call, the same to each queue.
    type Shared: Default + Send;

    /// Whether items melt into those that wait, so that a lane holds one at most. Such a queue is bounded by the number
    /// of lanes, and never refuses: a signal that is refused is lost, and nobody repeats it.
    const COALESCES: bool = false;

    /// Has the queues go by `codel`, where their discipline is that.
    fn configure(_shared: &mut Self::Shared, _codel: codel::Settings) {}

    /// Takes an item in.
    fn push(&mut self, shared: &mut Self::Shared, now: Instant, item: Self::Item);

    /// The next item with the time it came in. What the discipline drops instead goes into `shed`.
    fn pop(
        &mut self,
        shared: &mut Self::Shared,
        now: Instant,
        shed: &mut Shed<Self::Item>,
    ) -> Option<(Instant, Self::Item)>;

    /// Makes room for a newcomer by giving up what waits. `false`, where the discipline knows nothing better than to
    /// refuse the newcomer, or nothing waits.
    fn relieve(&mut self, _shared: &mut Self::Shared, _shed: &mut Shed<Self::Item>) -> bool {
        false
    }

    /// Takes everything out, whatever the discipline.
    fn clear(&mut self, shared: &mut Self::Shared, out: &mut Vec<Self::Item>);

    /// Whether nothing waits.
    fn is_empty(&self) -> bool;

    /// What waits now.
    fn load(&self) -> Load;
}

/// First in, first out; sheds nothing.
#[derive(Debug)]
pub struct Fifo<T> {
    items: VecDeque<(Instant, T)>,
    load: Load,
}

impl<T> Default for Fifo<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), load: Load::default() }
    }
}

impl<T: Weigh> Queue for Fifo<T> {
    type Item = T;
    type Shared = ();

    fn push(&mut self, _shared: &mut (), now: Instant, item: T) {
        self.load += Load::of(&item);
        self.items.push_back((now, item));
    }

    fn pop(&mut self, _shared: &mut (), _now: Instant, _shed: &mut Shed<T>) -> Option<(Instant, T)> {
        let (at, item) = self.items.pop_front()?;
        self.load -= Load::of(&item);
        Some((at, item))
    }

    fn clear(&mut self, _shared: &mut (), out: &mut Vec<T>) {
        out.extend(std::mem::take(self).items.into_iter().map(|(_, item)| item));
    }

    fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn load(&self) -> Load {
        self.load
    }
}

/// A signal that a lane has something to do, such as a readable link. A second one before the first was taken says
/// nothing new, so a lane holds at most one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Since when there is something to do.
    pub since: Instant,
}

impl Weigh for Signal {
    fn segments(&self) -> u32 {
        1
    }

    fn bytes(&self) -> usize {
        0
    }

    fn held_bytes(&self) -> usize {
        0
    }
}

/// The queue of [`Signal`]s.
#[derive(Debug, Default)]
pub struct Latch(Option<Instant>);

impl Queue for Latch {
    type Item = Signal;
    type Shared = ();

    const COALESCES: bool = true;

    fn push(&mut self, _shared: &mut (), _now: Instant, signal: Signal) {
        self.0.get_or_insert(signal.since);
    }

    fn pop(&mut self, _shared: &mut (), _now: Instant, _shed: &mut Shed<Signal>) -> Option<(Instant, Signal)> {
        self.0.take().map(|since| (since, Signal { since }))
    }

    fn clear(&mut self, _shared: &mut (), out: &mut Vec<Signal>) {
        out.extend(self.0.take().map(|since| Signal { since }));
    }

    fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn load(&self) -> Load {
        Load { segments: u64::from(self.0.is_some()), held_bytes: 0 }
    }
}
