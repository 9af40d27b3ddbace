//! Lanes: the pure structure inside a stage. Threads and the simulator drive the same code.
//!
//! Every item belongs to a lane, and a lane runs on one thread at a time, so items of a lane never overtake each other
//! whatever the number of threads. Different lanes run in parallel. The order of calls that keeps this true across
//! stages is: [`Lanes::take`], handle, offer to the next stage, [`Lanes::done`], and only then run on in the next stage.

use std::collections::VecDeque;
use std::time::Instant;

use super::queue::{Load, Queue, Weigh};

/// The least that a ready lane gets in its turn. A super-packet of 45 segments then costs a lane at most 12 turns.
const QUANTUM_SEGMENTS_MIN: i64 = 4;

/// A lane of a stage, by its place in the stage's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u32);

impl LaneId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// An item on its way into a stage.
#[derive(Debug)]
pub struct Entry<T> {
    /// The lane that it comes from, in the stage that offers it.
    pub origin: LaneId,
    /// The lane that it belongs to, in the stage that it is offered to.
    pub lane: LaneId,
    /// The item.
    pub item: T,
}

/// The most that a stage's queue may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Segments.
    pub segments: u64,
    /// Memory held in bytes.
    pub held_bytes: u64,
}

/// The most that one batch takes. Nothing waits to fill it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Segments, over all lanes of the batch.
    pub segments: u32,
    /// Bytes of any one lane.
    pub lane_bytes: u64,
}

/// A batch whose lanes are the caller's until [`Lanes::done`].
#[derive(Debug)]
pub struct Batch<T> {
    /// The lanes to be handled. One may come without an item, because it was poked.
    pub lanes: Vec<LaneId>,
    /// Lanes that were resumed: what they left over goes first, and nothing of them is handled in this batch.
    pub settling: Vec<LaneId>,
    /// The items, in order within each lane.
    pub items: Vec<Entry<T>>,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { lanes: Vec::new(), settling: Vec::new(), items: Vec::new() }
    }
}

impl<T> Batch<T> {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.settling.is_empty()
    }
}

/// Whether a batch may run on through this stage on the thread that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOver {
    /// It runs on where its lanes are free.
    RunOn,
    /// It queues.
    Queue,
}

/// What a handler says of a lane when it is done with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Run the lane again, though nothing waits in it.
    pub again: bool,
    /// Keep the lane out until [`Lanes::resume`]: what it put out did not fit into the next stage.
    pub park: bool,
    /// Bytes that the lane may put out before it is asked again; `None` leaves it unlimited.
    pub allowance_bytes: Option<u64>,
}

/// What a [`Lanes::take`] gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// When the oldest item of the batch came in; `None` for a batch of signals alone.
    pub oldest: Option<Instant>,
    /// Whether work still waits in this stage.
    pub behind: bool,
    /// Load that left the queue, shed items included.
    pub freed: Load,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// On no list. Runnable only once something comes in.
    Idle,
    /// On the ready list.
    Ready,
    /// A thread has it.
    Running,
}

#[derive(Debug)]
struct Lane<Q> {
    queue: Q,
    state: State,
    /// Run it though nothing waits.
    poked: bool,
    /// Out until resumed.
    parked: bool,
    /// A resume came while it still ran.
    resumed: bool,
    /// It has been resumed, and what it left over must go first.
    settling: bool,
    allowance_bytes: Option<u64>,
    /// Segments that it may still take in this round (deficit round robin).
    deficit_segments: i64,
    /// The offer in which it last entered, and in which it was last refused.
    entered_in: u64,
    refused_in: u64,
}

impl<Q: Queue> Lane<Q> {
    fn new() -> Self {
        Self {
            queue: Q::default(),
            state: State::Idle,
            poked: false,
            parked: false,
            resumed: false,
            settling: false,
            allowance_bytes: None,
            deficit_segments: 0,
            entered_in: 0,
            refused_in: 0,
        }
    }

    fn has_allowance(&self) -> bool {
        self.allowance_bytes != Some(0)
    }

    fn spend(&mut self, bytes: usize) {
        if let Some(allowance) = &mut self.allowance_bytes {
            *allowance = allowance.saturating_sub(bytes as u64);
        }
    }

    fn is_runnable(&self) -> bool {
        !self.parked && (self.poked || (!self.queue.is_empty() && self.has_allowance()))
    }
}

/// The lanes of one stage: their queues, who runs, who is next.
#[derive(Debug)]
pub struct Lanes<Q: Queue> {
    lanes: Vec<Lane<Q>>,
    ready: VecDeque<LaneId>,
    load: Load,
    load_max: Load,
    limits: Limits,
    parked: usize,
    running: usize,
    offers: u64,
    /// Off only in the test that shows what the lane rule is for.
    exclusive: bool,
}

impl<Q: Queue> Lanes<Q> {
    /// `count` lanes over one bounded queue space. All memory but the queues' own is taken here.
    pub fn new(count: u32, limits: Limits) -> Self {
        Self {
            lanes: (0..count).map(|_| Lane::new()).collect(),
            ready: VecDeque::with_capacity(count as usize),
            load: Load::default(),
            load_max: Load::default(),
            limits,
            parked: 0,
            running: 0,
            offers: 0,
            exclusive: true,
        }
    }

    /// The same without the lane rule: for the test that shows the disorder it prevents.
    #[cfg(test)]
    pub(crate) fn without_lane_rule(count: u32, limits: Limits) -> Self {
        Self { exclusive: false, ..Self::new(count, limits) }
    }

    /// Takes a batch in, item by item in its order. What may run on at once goes to `entered`, and its lanes are then
    /// the caller's until [`Lanes::done`]. What does not fit goes to `refused`, still in order: once an item of a lane
    /// is refused, so is the rest of that lane in this batch.
    pub fn offer(
        &mut self,
        now: Instant,
        hand_over: HandOver,
        offered: &mut Vec<Entry<Q::Item>>,
        entered: &mut Batch<Q::Item>,
        refused: &mut Vec<Entry<Q::Item>>,
    ) {
        self.offers += 1;
        for entry in offered.drain(..) {
            let Some(lane) = self.lanes.get_mut(entry.lane.index()) else {
                refused.push(entry);
                continue;
            };
            let entered_now = lane.state == State::Running && lane.entered_in == self.offers;
            let is_free = lane.state == State::Idle && !lane.parked && lane.queue.is_empty() && lane.has_allowance();
            if hand_over == HandOver::RunOn
                && (is_free || (entered_now && lane.queue.is_empty() && lane.has_allowance()))
            {
                if is_free {
                    lane.state = State::Running;
                    lane.entered_in = self.offers;
                    self.running += 1;
                    entered.lanes.push(entry.lane);
                }
                lane.spend(entry.item.bytes());
                entered.items.push(entry);
            } else if lane.refused_in == self.offers || !self.has_room(entry.lane, &entry.item) {
                self.lanes[entry.lane.index()].refused_in = self.offers;
                refused.push(entry);
            } else {
                self.push(now, entry.lane, entry.item);
            }
        }
    }

    /// A lane may hold as much as is still free in the whole queue (dynamic thresholds, Choudhury and Hahne 1998): one
    /// busy lane gets half of the space, two a third each, and a newcomer always finds room. An empty lane takes any
    /// one item while there is space at all.
    fn has_room(&self, lane: LaneId, item: &Q::Item) -> bool {
        let (mine, new) = (self.lanes[lane.index()].queue.load(), Load::of(item));
        let fits = |mine: u64, new: u64, held: u64, limit: u64| {
            let free = limit.saturating_sub(held);
            new <= free && (mine == 0 || mine + new <= free)
        };
        fits(mine.segments, new.segments, self.load.segments, self.limits.segments)
            && fits(mine.held_bytes, new.held_bytes, self.load.held_bytes, self.limits.held_bytes)
    }

    fn push(&mut self, now: Instant, id: LaneId, item: Q::Item) {
        let lane = &mut self.lanes[id.index()];
        let before = lane.queue.load();
        lane.queue.push(now, item);
        let after = lane.queue.load();
        self.load.segments = self.load.segments + after.segments - before.segments;
        self.load.held_bytes = self.load.held_bytes + after.held_bytes - before.held_bytes;
        self.load_max.segments = self.load_max.segments.max(self.load.segments);
        self.load_max.held_bytes = self.load_max.held_bytes.max(self.load.held_bytes);
        self.make_ready(id);
    }

    fn make_ready(&mut self, id: LaneId) {
        let lane = &mut self.lanes[id.index()];
        if lane.state == State::Idle && lane.is_runnable() {
            lane.state = State::Ready;
            self.ready.push_back(id);
        }
    }

    /// The next batch: ready lanes in turn, each up to a fair part of the quota (deficit round robin, so that a lane of
    /// heavy items gets no more than one of light ones).
    pub fn take(
        &mut self,
        now: Instant,
        quota: Quota,
        batch: &mut Batch<Q::Item>,
        shed: &mut Vec<Q::Item>,
    ) -> Option<Taken> {
        if self.ready.is_empty() {
            return None;
        }
        let before = self.load;
        let quantum = i64::from(quota.segments).div_euclid(self.ready.len() as i64).max(QUANTUM_SEGMENTS_MIN);
        let (mut left, mut oldest) = (i64::from(quota.segments), None::<Instant>);
        while left > 0 {
            let Some(id) = self.ready.pop_front() else { break };
            let lane = &mut self.lanes[id.index()];
            lane.deficit_segments = (lane.deficit_segments + quantum).min(quantum);
            if lane.deficit_segments <= 0 && !lane.poked {
                self.ready.push_back(id);
                continue;
            }
            lane.state = State::Running;
            lane.poked = false;
            self.running += 1;
            if std::mem::take(&mut lane.settling) {
                batch.settling.push(id);
                continue;
            }
            batch.lanes.push(id);
            let load_before = lane.queue.load();
            let mut lane_bytes = 0;
            while lane.deficit_segments > 0 && lane.has_allowance() && lane_bytes < quota.lane_bytes {
                let Some((at, item)) = lane.queue.pop(now, shed) else { break };
                oldest = Some(oldest.map_or(at, |oldest| oldest.min(at)));
                lane.deficit_segments -= i64::from(item.segments());
                lane_bytes += item.bytes() as u64;
                left -= i64::from(item.segments());
                lane.spend(item.bytes());
                batch.items.push(Entry { origin: id, lane: id, item });
            }
            if lane.queue.is_empty() {
                lane.deficit_segments = 0;
            }
            let load_after = lane.queue.load();
            self.load.segments -= load_before.segments - load_after.segments;
            self.load.held_bytes -= load_before.held_bytes - load_after.held_bytes;
            if !self.exclusive {
                lane.state = State::Idle;
                self.make_ready(id);
            }
        }
        let freed = Load {
            segments: before.segments - self.load.segments,
            held_bytes: before.held_bytes - self.load.held_bytes,
        };
        Some(Taken { oldest, behind: !self.ready.is_empty(), freed })
    }

    /// Gives a lane back that [`Lanes::take`] or [`Lanes::offer`] handed out.
    pub fn done(&mut self, id: LaneId, outcome: Outcome) {
        let Some(lane) = self.lanes.get_mut(id.index()) else { return };
        if lane.state == State::Running {
            lane.state = State::Idle;
        }
        self.running = self.running.saturating_sub(1);
        lane.allowance_bytes = outcome.allowance_bytes;
        lane.poked |= outcome.again;
        if outcome.park && !lane.parked {
            lane.parked = true;
            self.parked += 1;
        }
        if std::mem::take(&mut lane.resumed) {
            self.resume(id);
        } else {
            self.make_ready(id);
        }
    }

    /// Lets a parked lane run again.
    pub fn resume(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(id.index()) else { return };
        if lane.parked {
            lane.parked = false;
            self.parked -= 1;
            lane.poked = true;
            lane.settling = true;
            self.make_ready(id);
        } else if lane.state == State::Running {
            lane.resumed = true;
        }
    }

    /// Has a lane run once more though nothing may wait in it, such as a link that became writable.
    pub fn poke(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(id.index()) else { return };
        lane.poked = true;
        self.make_ready(id);
    }

    /// Empties a lane whose owner has gone; what waited in it goes to `shed`.
    pub fn clear(&mut self, now: Instant, id: LaneId, shed: &mut Vec<Q::Item>) {
        let Some(lane) = self.lanes.get_mut(id.index()) else { return };
        let before = lane.queue.load();
        while let Some((_, item)) = lane.queue.pop(now, shed) {
            shed.push(item);
        }
        self.load -= before;
        lane.deficit_segments = 0;
    }

    /// Whether a thread would find work.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Lanes that wait for a thread.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Lanes that wait for the next stage.
    pub fn parked(&self) -> usize {
        self.parked
    }

    /// Whether nothing waits, runs or is parked.
    pub fn is_quiet(&self) -> bool {
        self.running == 0 && self.parked == 0 && self.ready.is_empty() && self.load == Load::default()
    }

    /// What waits now.
    pub fn load(&self) -> Load {
        self.load
    }

    /// The most that ever waited.
    pub fn load_max(&self) -> Load {
        self.load_max
    }

    /// The most that may wait.
    pub fn limits(&self) -> Limits {
        self.limits
    }
}
