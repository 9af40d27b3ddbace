//! FQ-CoDel (RFC 8290): a queue a flow, [CoDel](super::codel) on each, and turns by bytes among them. A flow that sends
//! less than its share leaves before those that fill the link.
//!
//! The queues of all lanes of a stage live in one memory: a lane where nothing waits holds none of it, and nothing is
//! allocated once the most that waits has waited before.

use std::hash::RandomState;
use std::marker::PhantomData;
use std::time::Instant;

use hashbrown::HashMap;

use super::codel::{Codel, Leaving, MTU_BYTES, Settings};
use super::queue::{Law, Load, Queue, Shed, Weigh};
use super::slab::{List, Slab};

/// Bytes that a flow may send in its turn: one packet of an Ethernet, so that a turn is never long (RFC 8290, 5.2).
const QUANTUM_BYTES: i64 = MTU_BYTES as i64;

/// Queues that the flows of a lane are spread over (RFC 8290, 5.2). It also bounds how many new flows can go before an
/// old one has its turn: whoever opens a flow a packet meets queues that are old already.
const BUCKETS: u64 = 1_024;

/// The most that is given up at once of the flow that holds most, and never more than half of it: to look for that flow
/// for each packet of a flood would cost more than the packet.
const RELIEF_ITEMS_MAX: usize = 64;

/// An item that is part of a flow.
pub trait OfFlow: Weigh {
    /// A number that is the same for all items of a flow, and that nobody can aim at who does not know `keys`.
    fn flow(&self, keys: &RandomState) -> u64;

    /// Marks congestion, where the flow's sender understands that; returns whether it does.
    fn mark_congestion(&mut self) -> bool;
}

/// What the queues of a stage's lanes have in common.
#[derive(Debug)]
pub struct Shared<T> {
    items: Slab<(Instant, T)>,
    flows: Slab<Flow>,
    /// The flow of each bucket in use.
    buckets: HashMap<Bucket, u32>,
    /// Random for each process, so that no peer can have flows of others share its queue.
    keys: RandomState,
    settings: Settings,
    /// Queues that were told apart so far.
    queues: u32,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self {
            items: Slab::default(),
            flows: Slab::default(),
            buckets: HashMap::new(),
            keys: RandomState::new(),
            settings: Settings::DEFAULT,
            queues: 0,
        }
    }
}

/// A queue's number, and the part of a flow's number that tells flows apart.
type Bucket = (u32, u16);

#[derive(Debug)]
struct Flow {
    bucket: Bucket,
    items: List,
    load: Load,
    bytes: u64,
    /// Bytes that it may still send in this turn (deficit round robin).
    deficit_bytes: i64,
    codel: Codel,
}

/// The queue of one lane.
#[derive(Debug)]
pub struct FqCodel<T> {
    /// Its number among the stage's; 0 until it is first used.
    number: u32,
    items: u32,
    /// Flows that came up since they were last empty, and those that had a turn. An empty one may be among them.
    new: List,
    old: List,
    load: Load,
    of: PhantomData<fn() -> T>,
}

impl<T> Default for FqCodel<T> {
    fn default() -> Self {
        Self { number: 0, items: 0, new: List::default(), old: List::default(), load: Load::default(), of: PhantomData }
    }
}

impl<T: OfFlow + Send> Queue for FqCodel<T> {
    type Item = T;
    type Shared = Shared<T>;

    fn configure(shared: &mut Shared<T>, codel: Settings) {
        shared.settings = codel;
    }

    fn push(&mut self, shared: &mut Shared<T>, now: Instant, item: T) {
        let id = self.flow_of(shared, &item);
        let load = Load::of(&item);
        let bytes = item.bytes() as u64;
        let place = shared.items.insert((now, item));
        if let Some(flow) = shared.flows.get_mut(id) {
            flow.items.push_back(&mut shared.items, place);
            flow.load += load;
            flow.bytes += bytes;
        }
        self.items += 1;
        self.load += load;
    }

    fn pop(&mut self, shared: &mut Shared<T>, now: Instant, shed: &mut Shed<T>) -> Option<(Instant, T)> {
        let popped = loop {
            let is_new = !self.new.is_empty();
            let id = if is_new { self.new.front() } else { self.old.front() }?;
            let flow = shared.flows.get_mut(id)?;
            let has_turn = flow.deficit_bytes > 0;
            if !has_turn {
                flow.deficit_bytes += QUANTUM_BYTES;
            } else if let Some(popped) = self.pop_of(shared, id, now, shed) {
                break popped;
            }
            if is_new { &mut self.new } else { &mut self.old }.pop_front(&mut shared.flows);
            // An empty one goes once through the others, so that it is not new again with its next packet.
            if is_new || !has_turn {
                self.old.push_back(&mut shared.flows, id);
            } else {
                shared.end(id);
            }
        };
        self.tidy(shared);
        Some(popped)
    }

    /// Gives up what is first in the flow that holds most memory, since memory held is what is bounded.
    fn relieve(&mut self, shared: &mut Shared<T>, shed: &mut Shed<T>) -> bool {
        let held = |id: &u32| shared.flows.get(*id).map_or(0, |flow| flow.load.held_bytes);
        let Some(id) = self.new.iter(&shared.flows).chain(self.old.iter(&shared.flows)).max_by_key(held) else {
            return false;
        };
        let half = held(&id) / 2;
        for _ in 0..RELIEF_ITEMS_MAX {
            let Some((_, item)) = self.take_first(shared, id) else { break };
            shed.dropped.push((Law::Overlimit, item));
            if held_bytes(shared, id) <= half {
                break;
            }
        }
        self.tidy(shared);
        true
    }

    fn clear(&mut self, shared: &mut Shared<T>, out: &mut Vec<T>) {
        for id in self.new.iter(&shared.flows).chain(self.old.iter(&shared.flows)).collect::<Vec<_>>() {
            while let Some((_, item)) = self.take_first(shared, id) {
                out.push(item);
            }
        }
        self.tidy(shared);
    }

    fn is_empty(&self) -> bool {
        self.items == 0
    }

    fn load(&self) -> Load {
        self.load
    }
}

fn held_bytes<T>(shared: &Shared<T>, id: u32) -> u64 {
    shared.flows.get(id).map_or(0, |flow| flow.load.held_bytes)
}

impl<T: OfFlow> FqCodel<T> {
    /// The flow of an item; one that is on no list comes up as a new one.
    fn flow_of(&mut self, shared: &mut Shared<T>, item: &T) -> u32 {
        if self.number == 0 {
            shared.queues += 1;
            self.number = shared.queues;
        }
        let bucket = (self.number, (item.flow(&shared.keys) % BUCKETS) as u16);
        let flows = &mut shared.flows;
        *shared.buckets.entry(bucket).or_insert_with(|| {
            let id = flows.insert(Flow {
                bucket,
                items: List::default(),
                load: Load::default(),
                bytes: 0,
                deficit_bytes: QUANTUM_BYTES,
                codel: Codel::default(),
            });
            self.new.push_back(flows, id);
            id
        })
    }

    /// The next item of a flow that CoDel lets pass.
    fn pop_of(&mut self, shared: &mut Shared<T>, id: u32, now: Instant, shed: &mut Shed<T>) -> Option<(Instant, T)> {
        loop {
            let (at, mut item) = self.take_first(shared, id)?;
            let flow = shared.flows.get_mut(id)?;
            let segments = item.segments();
            let sojourn = now.saturating_duration_since(at);
            let leaving = Leaving { sojourn, behind_bytes: flow.bytes, segments };
            if flow.codel.must_signal(&shared.settings, now, leaving) {
                if !item.mark_congestion() {
                    shed.dropped.push((Law::Codel, item));
                    continue;
                }
                shed.marked_segments += u64::from(segments);
            }
            flow.deficit_bytes -= item.bytes() as i64;
            return Some((at, item));
        }
    }

    fn take_first(&mut self, shared: &mut Shared<T>, id: u32) -> Option<(Instant, T)> {
        let flow = shared.flows.get_mut(id)?;
        let place = flow.items.pop_front(&mut shared.items)?;
        let (at, item) = shared.items.remove(place)?;
        let load = Load::of(&item);
        flow.load -= load;
        flow.bytes -= item.bytes() as u64;
        self.load -= load;
        self.items -= 1;
        Some((at, item))
    }

    /// Where nothing waits, no flow is there to be fair to.
    fn tidy(&mut self, shared: &mut Shared<T>) {
        if self.items > 0 {
            return;
        }
        for list in [&mut self.new, &mut self.old] {
            while let Some(id) = list.pop_front(&mut shared.flows) {
                shared.end(id);
            }
        }
    }
}

impl<T> Shared<T> {
    /// Forgets a flow that is empty and on no list.
    fn end(&mut self, id: u32) {
        if let Some(flow) = self.flows.remove(id) {
            self.buckets.remove(&flow.bucket);
        }
    }
}

#[cfg(test)]
mod tests;
