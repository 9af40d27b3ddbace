//! What waits in a lane: the queue behind one trait, so that each stage can have the discipline it needs.

use std::marker::PhantomData;
use std::ops::{AddAssign, SubAssign};
use std::time::Instant;

use super::codel;
use super::slab::{self, List, Slab};

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

/// Memory of an item's place in a queue.
pub const fn place_bytes<T>() -> usize {
    slab::place_bytes::<(Instant, T)>()
}

/// First in, first out; sheds nothing. All lanes of a stage have their items in one memory, so that an empty queue holds none.
#[derive(Debug)]
pub struct Fifo<T> {
    items: List,
    load: Load,
    of: PhantomData<fn() -> T>,
}

impl<T> Default for Fifo<T> {
    fn default() -> Self {
        Self { items: List::default(), load: Load::default(), of: PhantomData }
    }
}

impl<T: Weigh + Send> Queue for Fifo<T> {
    type Item = T;
    type Shared = Slab<(Instant, T)>;

    fn push(&mut self, slab: &mut Self::Shared, now: Instant, item: T) {
        self.load += Load::of(&item);
        let place = slab.insert((now, item));
        self.items.push_back(slab, place);
    }

    fn pop(&mut self, slab: &mut Self::Shared, _now: Instant, _shed: &mut Shed<T>) -> Option<(Instant, T)> {
        let place = self.items.pop_front(slab)?;
        let (at, item) = slab.remove(place)?;
        self.load -= Load::of(&item);
        Some((at, item))
    }

    fn clear(&mut self, slab: &mut Self::Shared, out: &mut Vec<T>) {
        while let Some(place) = self.items.pop_front(slab) {
            out.extend(slab.remove(place).map(|(_, item)| item));
        }
        self.load = Load::default();
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

#[cfg(test)]
mod tests {
    use super::*;

    impl Weigh for u8 {
        fn segments(&self) -> u32 {
            1
        }

        fn bytes(&self) -> usize {
            (*self).into()
        }

        fn held_bytes(&self) -> usize {
            256
        }
    }

    #[test]
    fn empty_queues_hold_no_memory_but_their_own_few_bytes_and_those_of_a_stage_share_one() {
        assert!(size_of::<Fifo<u8>>() <= 32);
        let (mut slab, now) = (Slab::default(), Instant::now());
        let mut queues: Vec<Fifo<u8>> = (0..100).map(|_| Fifo::default()).collect();
        for (queue, is_cleared) in queues.iter_mut().zip([false, true].into_iter().cycle()) {
            (0..200).for_each(|item| queue.push(&mut slab, now, item));
            assert_eq!(queue.load(), Load { segments: 200, held_bytes: 200 * 256 });
            let mut out = Vec::new();
            if is_cleared {
                queue.clear(&mut slab, &mut out);
            } else {
                out.extend(
                    std::iter::from_fn(|| queue.pop(&mut slab, now, &mut Shed::default())).map(|(_, item)| item),
                );
            }
            assert_eq!(out, (0..200).collect::<Vec<u8>>());
            assert_eq!((queue.load(), queue.is_empty()), (Load::default(), true));
            assert_eq!(slab.places(), 200);
        }
    }
}
