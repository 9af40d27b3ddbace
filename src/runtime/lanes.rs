//! Lanes: the pure structure inside a stage. Threads and the simulator drive the same code.
//!
//! Every item belongs to a lane, and a lane runs on one thread at a time, so items of a lane never overtake each other
//! whatever the number of threads. Different lanes run in parallel. The order of calls that keeps this true across
//! stages is: [`Lanes::take`], handle, offer to the next stage, [`Lanes::done`], and only then run on in the next stage.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::codel;
use super::queue::{Law, Load, Queue, Shed, Weigh};
pub use gathering::Gathering;
use lane::{Lane, State};
pub use room::TurnedAway;
use shares::{Share, Shares};
use turns::{Rank, Turns};

mod gathering;
mod lane;
mod room;
mod shares;
mod turns;

/// The least that a ready lane gets in its turn. A super-packet of 45 segments then costs a lane at most 12 turns.
const QUANTUM_SEGMENTS_MIN: i64 = 4;

/// A lane of signals that brings more in its turn is not sparse, whatever it got of late: it has enough to wait for turns with.
const SPARSE_TURN_SEGMENTS: u64 = 8;

/// A lane of a stage, by its place in the stage's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// The most that one batch takes. A lane that is ready does not wait until there is so much.
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
    /// How many other lanes wait for a thread, or for room in the next stage.
    pub others: usize,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { lanes: Vec::new(), settling: Vec::new(), items: Vec::new(), others: 0 }
    }
}

impl<T> Batch<T> {
    /// Brings the items of each lane together, in the order of `lanes`, for a handler that does something once a lane.
    /// What was taken from queues is so already; what entered came as it came.
    pub fn group_by_lane(&mut self) {
        if self.lanes.len() > 1 {
            self.lanes.sort_unstable();
            self.items.sort_by_key(|entry| entry.lane);
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.settling.is_empty()
    }

    /// Whether the lane is the batch's.
    pub fn has(&self, lane: LaneId) -> bool {
        self.lanes.contains(&lane) || self.settling.contains(&lane)
    }
}

/// Whether a batch may run on through this stage on the thread that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOver {
    /// It runs on where its lanes are free.
    RunOn,
    /// It queues.
    Queue,
    /// It queues, and a lane where nothing waited begins to gather; an item that need not wait for more runs on.
    Gather,
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
    /// Whether work still waits in this stage, behind the batch in its lanes or in others.
    pub behind: bool,
    /// Load that left the queue, shed items included.
    pub freed: Load,
}

/// The lanes of one stage: their queues, who runs, who is next.
#[derive(Debug)]
pub struct Lanes<Q: Queue> {
    lanes: Vec<Lane<Q>>,
    shared: Q::Shared,
    turns: Turns,
    /// The least that a ready lane gets in its turn.
    quantum_segments_min: i64,
    /// Segments that need not wait for more.
    enough_segments: u32,
    /// Lanes that began to gather, and when, in that order. Some may be ready already.
    gathering: VecDeque<(Instant, LaneId)>,
    load: Load,
    load_max: Load,
    limits: Limits,
    parked: usize,
    running: usize,
    /// Lanes in whose queue something waits, whatever their state.
    backlogged: usize,
    offers: u64,
    /// The most that one offer lets run on: whoever comes behind it waits for all of it.
    run_on_segments_max: u32,
    /// What has waited longer is given up when its turn comes.
    wait_max: Option<Duration>,
    /// Segments above the limit that are for sparse lanes.
    sparse_segments: u64,
    shares: Shares,
    /// What was turned away since somebody asked, and how often that was.
    turned_away: TurnedAway,
    askings: u64,
    /// Off only in the test that shows what the lane rule is for.
    exclusive: bool,
}

impl<Q: Queue> Lanes<Q> {
    /// `count` lanes over one bounded queue space. All memory but the queues' own is taken here.
    pub fn new(count: u32, limits: Limits) -> Self {
        Self {
            lanes: (0..count).map(|_| Lane::new()).collect(),
            shared: Q::Shared::default(),
            turns: Turns::new(count),
            quantum_segments_min: QUANTUM_SEGMENTS_MIN,
            enough_segments: Gathering::DEFAULT.enough_segments,
            gathering: VecDeque::new(),
            load: Load::default(),
            load_max: Load::default(),
            limits,
            parked: 0,
            running: 0,
            backlogged: 0,
            offers: 0,
            run_on_segments_max: u32::MAX,
            wait_max: None,
            sparse_segments: 0,
            shares: Shares::default(),
            turned_away: TurnedAway::default(),
            askings: 1,
            exclusive: true,
        }
    }

    /// The same, with queues that go by `codel`, where that is their discipline.
    #[must_use]
    pub fn going_by(mut self, codel: codel::Settings) -> Self {
        Q::configure(&mut self.shared, codel);
        self
    }

    /// The same without the lane rule: for the test that shows the disorder it prevents.
    #[cfg(test)]
    pub(crate) fn without_lane_rule(count: u32, limits: Limits) -> Self {
        Self { exclusive: false, ..Self::new(count, limits) }
    }

    /// Takes a batch in, item by item in its order. What may run on at once goes to `entered`, and its lanes are then
    /// the caller's until [`Lanes::done`]. What does not fit goes to `refused`, still in order: once an item of a lane
    /// is refused, so is the rest of that lane in this batch. A queue that knows what to give up instead does so, into
    /// `shed`, and the item is taken.
    pub fn offer(
        &mut self,
        now: Instant,
        hand_over: HandOver,
        offered: &mut Vec<Entry<Q::Item>>,
        entered: &mut Batch<Q::Item>,
        refused: &mut Vec<Entry<Q::Item>>,
        shed: &mut Shed<Q::Item>,
    ) {
        self.offers += 1;
        self.shares.look(now);
        entered.others = self.others();
        // Where things are given up because they waited, who comes now would pass those who wait, and nobody would count it.
        let (sheds, mut run_on_segments) = (self.wait_max.is_some(), 0_u64);
        let enough_segments = self.enough_segments;
        let may_run_on = |item: &Q::Item| match hand_over {
            HandOver::RunOn => !sheds,
            HandOver::Gather => !sheds && item.segments() >= enough_segments,
            HandOver::Queue => false,
        };
        for entry in offered.drain(..) {
            let Some(lane) = self.lanes.get_mut(entry.lane.index()) else {
                refused.push(entry);
                continue;
            };
            if lane.refused_in == self.offers {
                self.turn_away(entry.lane, entry.item.segments().into(), entry.item.segments());
                refused.push(entry);
            } else if may_run_on(&entry.item)
                && run_on_segments < u64::from(self.run_on_segments_max)
                && (lane.is_free() || lane.is_entering(self.offers))
            {
                if lane.state == State::Idle {
                    lane.state = State::Running;
                    lane.entered_in = self.offers;
                    self.running += 1;
                    entered.lanes.push(entry.lane);
                }
                lane.spend(entry.item.bytes());
                if !Q::COALESCES {
                    self.shares.count(&mut lane.share, entry.item.segments().into());
                }
                run_on_segments += u64::from(entry.item.segments());
                entered.items.push(entry);
            } else if self.has_room(entry.lane, &entry.item) || self.make_room(entry.lane, &entry.item, shed) {
                self.push(now, hand_over, entry.lane, entry.item);
            } else {
                let lane = &mut self.lanes[entry.lane.index()];
                lane.refused_in = self.offers;
                self.shares.count(&mut lane.share, 0);
                self.turn_away(entry.lane, entry.item.segments().into(), entry.item.segments());
                refused.push(entry);
            }
        }
    }

    fn push(&mut self, now: Instant, hand_over: HandOver, id: LaneId, item: Q::Item) {
        let lane = &mut self.lanes[id.index()];
        if !Q::COALESCES {
            self.shares.count(&mut lane.share, item.segments().into());
        }
        let before = lane.queue.load();
        lane.queue.push(&mut self.shared, now, item);
        let after = lane.queue.load();
        self.backlogged += usize::from(before == Load::default() && after != Load::default());
        self.load -= before;
        self.load += after;
        self.load_max.segments = self.load_max.segments.max(self.load.segments);
        self.load_max.held_bytes = self.load_max.held_bytes.max(self.load.held_bytes);
        self.gather_or_make_ready(now, hand_over, id);
    }

    fn make_ready(&mut self, id: LaneId) {
        let lane = &mut self.lanes[id.index()];
        if matches!(lane.state, State::Idle | State::Gathering) && lane.is_runnable() {
            lane.state = State::Ready;
            let rank = match lane.settling {
                true => Rank::Resumed,
                false if !lane.brings_much && self.shares.is_sparse(lane.share) => Rank::Sparse,
                false => Rank::Other,
            };
            self.turns.push(id, rank);
        }
    }

    /// Counts what a lane brought in its turn, of which only signals were queued, which are no measure of it.
    pub fn count(&mut self, now: Instant, id: LaneId, segments: u64) {
        self.shares.look(now);
        let Some(lane) = self.lanes.get_mut(id.index()) else { return };
        if lane.passes {
            self.turns.passed(segments);
        }
        if !lane.orphaned {
            self.shares.count(&mut lane.share, segments);
            lane.brings_much = segments > SPARSE_TURN_SEGMENTS;
        }
    }

    /// Lanes that wait for a thread, or for room in the next stage.
    fn others(&self) -> usize {
        self.turns.len() + self.parked
    }

    /// Whether only lanes that are resumed, or sparse, have a turn: some wait for room in the next stage, where there is none.
    /// What another put out would not fit either: it would wait here in a place that nobody bounds, behind all that was read
    /// before it was needed. From then on no other is ready, until one is resumed. Where there is room for some segments,
    /// so many others have a turn.
    pub fn holds_back(&mut self, room: impl FnOnce() -> u64) -> bool {
        if self.parked > 0 && !self.turns.any_resumed() && !self.turns.holds_back() {
            self.turns.set_others_max(usize::try_from(room()).unwrap_or(usize::MAX));
        }
        self.turns.holds_back()
    }

    /// The next batch: ready lanes in turn, each up to a fair part of the quota (deficit round robin, so that a lane of
    /// heavy items gets no more than one of light ones). Of the lanes with work it takes no more than each of
    /// `threads` can have: one that took all would leave the others without.
    pub fn take(
        &mut self,
        now: Instant,
        quota: Quota,
        threads: usize,
        batch: &mut Batch<Q::Item>,
        shed: &mut Shed<Q::Item>,
    ) -> Option<Taken> {
        if !self.has_ready() {
            return None;
        }
        if self.turns.any_resumed() {
            self.take_resumed(threads, batch);
            return Some(Taken { oldest: None, behind: self.others() > self.parked, freed: Load::default() });
        }
        // At least one segment and byte, or a lane would run for ever without an item.
        let quota = Quota { segments: quota.segments.max(1), lane_bytes: quota.lane_bytes.max(1) };
        let before = self.load;
        let called = self.backlogged.saturating_sub(self.gathering.len());
        let part = self.turns.unresumed().max(called).div_ceil(threads.max(1));
        let quantum = i64::from(quota.segments).div_euclid(part as i64).max(self.quantum_segments_min);
        let (mut left, mut oldest, mut rest) = (i64::from(quota.segments), None::<Instant>, false);
        let (mut unvisited, mut others_left, mut found) = (part, self.turns.others_max(), false);
        while left > 0 {
            // A lane has one turn in a batch: those that were served are no longer on the list, and one that was passed
            // over would get the share that they can no longer claim. Unless all were.
            if (unvisited == 0 || others_left == 0) && !found {
                (unvisited, others_left) = (part, self.turns.others_max());
            }
            if unvisited == 0 {
                break;
            }
            let Some((id, rank)) = self.turns.pop(&mut others_left) else { break };
            unvisited -= 1;
            let lane = &mut self.lanes[id.index()];
            // One that got little owes nobody anything.
            let debt = if rank == Rank::Sparse { 0 } else { lane.deficit_segments };
            lane.deficit_segments = (debt + quantum).min(quantum);
            if lane.deficit_segments <= 0 && !lane.poked {
                self.turns.push(id, rank);
                continue;
            }
            found = true;
            lane.passes = rank == Rank::Sparse && self.turns.holds_back();
            lane.state = State::Running;
            self.running += 1;
            lane.poked = false;
            batch.lanes.push(id);
            let load_before = lane.queue.load();
            let (mut lane_bytes, mut given_up, mut largest) = (0, 0, 0);
            while lane.deficit_segments > 0 && lane.has_allowance() && lane_bytes < quota.lane_bytes {
                let Some((at, item)) = lane.queue.pop(&mut self.shared, now, shed) else { break };
                oldest = Some(oldest.map_or(at, |oldest| oldest.min(at)));
                // One that was alone is served however old it is: a lane that holds no more than one is no hog.
                let is_old = self.wait_max.is_some_and(|max| now.saturating_duration_since(at) > max);
                if is_old && load_before.segments > u64::from(item.segments()) {
                    given_up += u64::from(item.segments());
                    largest = item.segments().max(largest);
                    shed.dropped.push((Law::TooOld, item));
                    continue;
                }
                lane.deficit_segments -= i64::from(item.segments());
                lane_bytes += item.bytes() as u64;
                left -= i64::from(item.segments());
                lane.spend(item.bytes());
                batch.items.push(Entry { origin: id, lane: id, item });
            }
            if lane.queue.is_empty() {
                lane.deficit_segments = 0;
                self.backlogged -= usize::from(load_before != Load::default());
            }
            rest |= lane.has_work();
            let load_after = lane.queue.load();
            self.load.segments -= load_before.segments - load_after.segments;
            self.load.held_bytes -= load_before.held_bytes - load_after.held_bytes;
            if lane.passes && !Q::COALESCES {
                self.turns.passed(load_before.segments - load_after.segments);
            }
            if !self.exclusive {
                lane.state = State::Idle;
                self.make_ready(id);
            }
            self.turn_away(id, given_up, largest);
        }
        let freed = Load {
            segments: before.segments - self.load.segments,
            held_bytes: before.held_bytes - self.load.held_bytes,
        };
        batch.others = self.others();
        Some(Taken { oldest, behind: rest || self.turns.unresumed() > 0, freed })
    }

    /// Those that were resumed, and nothing else: what they left over goes first, and whether there is room for more is seen
    /// then. A poke outlives this: the lane is not handled now.
    fn take_resumed(&mut self, threads: usize, batch: &mut Batch<Q::Item>) {
        for id in self.turns.drain_resumed(threads) {
            self.lanes[id.index()].state = State::Running;
            self.running += 1;
            batch.settling.push(id);
        }
        batch.others = self.others();
    }

    /// Gives a lane back that [`Lanes::take`] or [`Lanes::offer`] handed out.
    pub fn done(&mut self, id: LaneId, outcome: Outcome) {
        let Some(lane) = self.lanes.get_mut(id.index()) else { return };
        if lane.state == State::Running {
            lane.state = State::Idle;
        }
        self.running = self.running.saturating_sub(1);
        let (settled, orphaned) = (std::mem::take(&mut lane.settling), std::mem::take(&mut lane.orphaned));
        // A lane that only settled was not handled, so nobody had a say about it.
        if !settled && !orphaned {
            lane.allowance_bytes = outcome.allowance_bytes;
            lane.poked |= outcome.again;
            lane.brings_much |= outcome.again;
        }
        lane.passes = false;
        let resumed = std::mem::take(&mut lane.resumed);
        if outcome.park && !resumed {
            lane.parked = true;
            self.parked += 1;
        }
        lane.settling = outcome.park && resumed;
        self.make_ready(id);
    }

    /// Lets a parked lane run again. One that still runs, and will be parked when it is given back, runs again at once
    /// then; to any other it means nothing.
    pub fn resume(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(id.index()) else { return };
        if lane.parked {
            lane.parked = false;
            self.parked -= 1;
            self.turns.let_in();
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

    /// Empties a lane whose owner has gone; what waited in it goes to `out`. The next owner of the lane begins without
    /// the last one's allowance.
    pub fn clear(&mut self, id: LaneId, out: &mut Vec<Q::Item>) {
        let Some(lane) = self.lanes.get_mut(id.index()) else { return };
        let before = lane.queue.load();
        lane.queue.clear(&mut self.shared, out);
        self.load -= before;
        self.backlogged -= usize::from(before != Load::default());
        lane.deficit_segments = 0;
        (lane.share, lane.brings_much) = (Share::default(), false);
        lane.allowance_bytes = None;
        lane.orphaned = lane.state == State::Running;
        // What its next owner brings has its own time.
        if lane.state == State::Gathering {
            lane.state = State::Idle;
        }
    }

    /// Whether what is brought of a lane could run on: nothing of it waits, and nobody has it.
    pub fn is_free(&self, id: LaneId) -> bool {
        self.lanes.get(id.index()).is_some_and(Lane::is_free)
    }

    /// Whether a thread would find work.
    pub fn has_ready(&self) -> bool {
        self.ready() > 0
    }

    /// Lanes that wait for a thread, and for nothing else.
    pub fn ready(&self) -> usize {
        self.turns.called()
    }

    /// Lanes that one thread more than `threads` could serve. Those that a thread has are not on the list, but if more
    /// than `threads` of them have work waiting, another thread would take its part when they are given back.
    pub fn ready_for_more(&self, threads: usize) -> usize {
        let called = if self.turns.holds_back() { 0 } else { self.backlogged.saturating_sub(self.gathering.len()) };
        self.ready().max(called.saturating_sub(threads))
    }

    /// Lanes that wait for the next stage.
    pub fn parked(&self) -> usize {
        self.parked
    }

    /// Whether somebody waits for room in the next stage, and the lane has something to do that may have to wait for that,
    /// too.
    pub fn may_be_held_back(&self, id: LaneId) -> bool {
        self.parked > 0 && self.lanes.get(id.index()).is_some_and(|lane| lane.parked || lane.state != State::Idle)
    }

    /// Whether nothing waits, runs or is parked.
    pub fn is_quiet(&self) -> bool {
        self.running == 0 && self.others() == 0 && self.load == Load::default()
    }

    /// What waits now.
    pub fn load(&self) -> Load {
        self.load
    }

    /// The most that ever waited.
    pub fn load_max(&self) -> Load {
        self.load_max
    }

    /// From now on an offer lets so many segments run on, and queues the rest.
    pub fn set_run_on_segments_max(&mut self, segments: u32) {
        self.run_on_segments_max = segments;
    }
}

#[cfg(test)]
mod tests;
