//! A stage: a handler behind bounded lanes, with a pool of threads.
//!
//! The lock of a stage covers the bookkeeping of its lanes only: no handler, system call or log runs inside it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;

use super::cores::Cores;
use super::hand_over::Rule;
use super::lanes::{Batch, Entry, LaneId, Lanes, Limits, Quota};
use super::port::{Behind, Dropped, Gathered, Offer, Port, Resume, Upstream};
use super::queue::{Law, Load, Queue, Shed, Weigh};
use super::sync::{Condvar, Mutex, MutexGuard, lock};
use super::tuning::Tuning;
use super::waiting::Waiting;
use super::work::{CODEL, Count, Handler, In, NO_OWNER, NOT_ADMITTED, OVERLIMIT, RUNTIME_REASONS, Work, WorkOf};
use crate::metrics::StageMetrics;

mod conditioning;
mod entrance;
mod hand_overs;
mod leftovers;
mod pool;

use conditioning::Controllers;
use leftovers::Leftovers;
pub use pool::Kept;

/// What happens to an item that does not fit into the queue of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It goes back, and the lane it comes from is parked until there is room. For what can be held back at its source.
    Park,
    /// It is dropped and counted. For what comes from the internet, and for what turns round.
    Drop,
}

/// Settings of one stage.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Lanes.
    pub lanes: u32,
    /// The most that may wait.
    pub limits: Limits,
    /// The most that one batch takes.
    pub quota: Quota,
    /// The least and the most threads.
    pub threads: (usize, usize),
    /// The hand-over into this stage.
    pub hand_over: Rule,
    /// What happens when the queue is full.
    pub when_full: WhenFull,
    /// How long things may wait in the queue, the oldest of each batch at the 99th percentile, before it admits less. `None`
    /// where the wait is for something else than a thread of this stage, and managed by the queue itself. A queue of
    /// signals, which is bounded by its lanes, admits all in any case.
    pub sojourn_max: Option<Duration>,
    /// Whether lanes may gather, since that makes the stage's work less.
    pub gathers: bool,
    /// What its mechanisms go by.
    pub tuning: Tuning,
}

struct Inner<Q: Queue> {
    lanes: Lanes<Q>,
    waiting: Waiting,
    /// Batches taken, and how many there were at the last look.
    takes: u64,
    takes_looked: u64,
    /// When the last look was.
    looked: Option<Instant>,
    threads: usize,
    threads_wanted: usize,
    /// Threads that were started and have not come to their first look at the lanes.
    threads_starting: usize,
    threads_idle: usize,
    /// Of the idle ones, how many have been woken and not yet come.
    threads_waking: usize,
    feeder: Feeder,
    sojourn_max: Duration,
    /// Segments taken from the queue since the last look.
    taken_segments: u64,
    /// What one batch takes at most at present.
    quota: Quota,
    stopping: bool,
}

/// Where the thread is that feeds a stage of one lane ([`Port::serve`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feeder {
    /// It brings something, or looks for it.
    Away,
    /// It waits for the lane.
    Waits,
    /// It was woken for the lane, which nobody else takes meanwhile.
    Comes,
}

/// The next stage, and who this one is to it.
type Next<T> = (Arc<dyn Port<T>>, Upstream);

impl<Q: Queue> Inner<Q> {
    /// Lanes of upstream stages that may try again.
    fn let_in(&mut self, resume: &mut Vec<(Upstream, LaneId)>) {
        self.waiting.let_in(self.lanes.load(), self.lanes.limits(), resume);
    }
}

/// A stage of a pipeline.
pub struct Stage<H: Handler> {
    name: &'static str,
    settings: Settings,
    handler: H,
    inner: Mutex<Inner<H::Queue>>,
    work_came: Condvar,
    /// For the feeder: the lane is ready, or free.
    lane_came: Condvar,
    next: Option<Next<H::Out>>,
    turn: Option<Arc<dyn Port<H::Turned>>>,
    upstreams: Mutex<Vec<Weak<dyn Resume>>>,
    leftovers: Leftovers<H::Out>,
    scratch: ArrayQueue<Box<Scratch<H>>>,
    controllers: Mutex<Controllers>,
    service_ns_a_segment: AtomicU64,
    /// The largest item of late.
    largest_segments: AtomicU32,
    running: AtomicBool,
    /// Whether lanes gather.
    gathers: AtomicBool,
    cores: Arc<Cores>,
    metrics: Arc<StageMetrics>,
}

struct Scratch<H: Handler> {
    work: WorkOf<H>,
    onward: Batch<H::Out>,
    refused: Vec<Entry<H::Out>>,
    /// Segments that lanes brought of which only signals had waited here.
    brought: Vec<(LaneId, u64)>,
    /// Lanes of this batch that left something over.
    parked: Vec<LaneId>,
    /// Lanes that have more left over than was offered now.
    unsettled: Vec<LaneId>,
    turn_entered: Batch<H::Turned>,
    turn_refused: Vec<Entry<H::Turned>>,
    shed: Shed<In<H>>,
    resume: Vec<(Upstream, LaneId)>,
}

impl<H: Handler> Default for Scratch<H> {
    fn default() -> Self {
        Self {
            work: Work::default(),
            onward: Batch::default(),
            refused: Vec::new(),
            brought: Vec::new(),
            parked: Vec::new(),
            unsettled: Vec::new(),
            turn_entered: Batch::default(),
            turn_refused: Vec::new(),
            shed: Shed::default(),
            resume: Vec::new(),
        }
    }
}

/// The lane of a stage that has one.
const ONE_LANE: LaneId = LaneId(0);

/// Scratch space kept for threads that come by; more threads than this at once take fresh space.
const SCRATCH_KEPT: usize = 16;

/// Weight of the newest batch in the moving average of service time, as a power of two: 1/8, as TCP's for round trips.
const SERVICE_SHIFT: u32 = 3;

impl<H: Handler> fmt::Debug for Stage<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<H: Handler> Stage<H> {
    /// A stage that hands on to `next`, and what turns round to `turn`. Sinks are made first, so the graph has no cycle.
    pub fn new(
        name: &'static str,
        settings: Settings,
        handler: H,
        next: Option<Arc<dyn Port<H::Out>>>,
        turn: Option<Arc<dyn Port<H::Turned>>>,
        cores: Arc<Cores>,
        metrics: Arc<StageMetrics>,
    ) -> Arc<Self> {
        debug_assert!(metrics.reasons.starts_with(&RUNTIME_REASONS), "the runtime's reasons come first");
        metrics.queue_capacity_packets.set(settings.limits.segments);
        metrics.queue_capacity_bytes.set(settings.limits.held_bytes);
        metrics.queue_admitted_packets.set(settings.limits.segments);
        metrics.batch_limit_packets.set(settings.quota.segments.into());
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            name,
            settings,
            handler,
            inner: Mutex::new(Inner {
                lanes: if settings.gathers {
                    let enough_segments = settings.tuning.gathering.enough_segments;
                    Lanes::that_gather(settings.lanes, settings.limits, enough_segments)
                } else {
                    Lanes::new(settings.lanes, settings.limits)
                }
                .going_by(settings.tuning.codel),
                waiting: Waiting::default(),
                takes: 0,
                takes_looked: 0,
                looked: None,
                threads: 0,
                threads_wanted: 0,
                threads_starting: 0,
                threads_idle: 0,
                threads_waking: 0,
                feeder: Feeder::Away,
                sojourn_max: Duration::ZERO,
                taken_segments: 0,
                quota: settings.quota,
                stopping: false,
            }),
            work_came: Condvar::new(),
            lane_came: Condvar::new(),
            next: next.map(|next| {
                let upstream = next.attach(Weak::clone(this) as Weak<dyn Resume>);
                (next, upstream)
            }),
            turn,
            upstreams: Mutex::new(Vec::new()),
            leftovers: Leftovers::default(),
            scratch: ArrayQueue::new(SCRATCH_KEPT),
            controllers: Mutex::new(Controllers::new::<H::Queue>(&settings)),
            largest_segments: AtomicU32::new(1),
            service_ns_a_segment: AtomicU64::new(0),
            running: AtomicBool::new(false),
            gathers: AtomicBool::new(false),
            cores,
            metrics,
        })
    }

    /// The handler.
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// Has a lane run once more though nothing may wait in it.
    pub fn poke(&self, lane: LaneId) {
        let mut inner = lock(&self.inner);
        inner.lanes.poke(lane);
        self.wake(&mut inner);
    }

    /// Leaves those of `lanes` that have something to do and may have to wait for room in the next stage.
    pub fn held_back(&self, lanes: &mut Vec<LaneId>) {
        if self.leftovers.lanes() == 0 {
            return lanes.clear();
        }
        let inner = lock(&self.inner);
        lanes.retain(|lane| inner.lanes.may_be_held_back(*lane));
    }

    /// Empties a lane whose owner has gone.
    pub fn clear(&self, lane: LaneId) {
        let (mut shed, mut resume) = (Vec::new(), Vec::new());
        let leftover = {
            let mut inner = lock(&self.inner);
            inner.lanes.clear(lane, &mut shed);
            let leftover = self.leftovers.remove(lane);
            inner.lanes.resume(lane);
            // What was cleared makes room, and no take may follow that would tell.
            inner.let_in(&mut resume);
            self.gauge(&inner);
            self.wake(&mut inner);
            leftover
        };
        self.metrics.held_back_packets.sub(segments_of(&leftover));
        if H::COUNTS_ITEMS {
            self.count_drops(NO_OWNER, shed.iter());
        }
        self.count_drops(NO_OWNER, leftover.iter().map(|entry| &entry.item));
        self.resume_upstream(&mut resume);
    }

    /// Wakes one thread where a lane is ready that no woken thread will take. One that feeds the lane comes first: what it
    /// brings next is in its own core's cache, and it could bring nothing meanwhile.
    fn wake(&self, inner: &mut Inner<H::Queue>) {
        if inner.feeder != Feeder::Away {
            let has_come = inner.lanes.has_ready() || inner.lanes.is_free(ONE_LANE);
            if inner.feeder == Feeder::Waits && has_come {
                inner.feeder = Feeder::Comes;
                self.lane_came.notify_one();
            }
            return;
        }
        if inner.threads_idle > inner.threads_waking && inner.lanes.ready() > inner.threads_waking {
            inner.threads_waking += 1;
            self.work_came.notify_one();
        }
    }

    fn add_threads(&self, inner: &mut Inner<H::Queue>, more: isize) {
        inner.threads = inner.threads.saturating_add_signed(more);
        self.metrics.threads.set(inner.threads as u64);
        self.metrics.threads_max_seen.raise(inner.threads as u64);
    }

    fn gauge(&self, inner: &Inner<H::Queue>) {
        let (load, max) = (inner.lanes.load(), inner.lanes.load_max());
        self.metrics.queue_packets.set(load.segments);
        self.metrics.queue_bytes.set(load.held_bytes);
        self.metrics.queue_packets_max_seen.set(max.segments);
        self.metrics.lanes_parked.set(inner.waiting.len() as u64);
    }

    fn count_drops<'a, T: Weigh + 'a>(&self, reason: usize, items: impl Iterator<Item = &'a T>) {
        let segments: u64 = items.map(|item| u64::from(item.segments())).sum();
        self.metrics.drops[reason].add(segments);
    }

    fn count_shed(&self, shed: &mut Shed<In<H>>) {
        for (law, item) in shed.dropped.drain(..) {
            let reason = match law {
                Law::Codel => CODEL,
                Law::Overlimit => OVERLIMIT,
                Law::TooOld => NOT_ADMITTED,
            };
            self.metrics.drops[reason].add(u64::from(item.segments()));
        }
        self.metrics.marked.add(std::mem::take(&mut shed.marked_segments));
    }

    fn expected_service(&self, items: &[Entry<In<H>>]) -> Duration {
        let segments: u64 = items.iter().map(|entry| u64::from(entry.item.segments())).sum();
        Duration::from_nanos(self.service_ns_a_segment.load(Ordering::Relaxed).saturating_mul(segments))
    }

    fn learn_service(&self, service: Duration, segments: u64) {
        let new = service.as_nanos() as u64 / segments.max(1);
        let old = self.service_ns_a_segment.load(Ordering::Relaxed);
        let next = if old == 0 { new } else { old - (old >> SERVICE_SHIFT) + (new >> SERVICE_SHIFT) };
        self.service_ns_a_segment.store(next, Ordering::Relaxed);
    }

    /// Handles `scratch.work`, hands on, gives the lanes back, and runs on. In this order: a lane that is given back
    /// before its items are with the next stage could be overtaken by its next batch. Tells what was dropped further on.
    fn process(&self, started: Instant, behind: Behind, scratch: &mut Scratch<H>) -> Dropped {
        let mut now = started;
        if !scratch.work.batch.lanes.is_empty() {
            self.handle(started, &mut scratch.work);
            now = Instant::now();
            self.count_batch(now.saturating_duration_since(started), &mut scratch.work);
            self.turn_round(now, scratch);
            note_brought::<H>(scratch);
        }
        self.take_up_leftovers(scratch);
        let mut dropped = self.hand_on(now, behind, scratch);
        self.give_back(now, scratch);
        if let Some((next, _)) = &self.next
            && !scratch.onward.is_empty()
        {
            dropped += next.run(now, behind, &mut scratch.onward);
        }
        // Not by a source, for which others wait, nor by who has nothing more to do: that one serves it before it sleeps.
        if let Some((next, _)) = self.next.as_ref().filter(|_| behind == Behind::Work) {
            next.serve_gathered(Gathered::Due);
        }
        self.handler.handed_on();
        dropped
    }

    /// Runs the handler. One that panics loses its batch and nothing else: what it put out so far is forgotten, what
    /// came in and has not left is counted as dropped. What the handler itself guards is its own affair.
    fn handle(&self, started: Instant, work: &mut WorkOf<H>) {
        // Known before the handler drains the items.
        work.weight = Count::of(&work.batch.items);
        let largest = work.batch.items.iter().map(|entry| entry.item.segments()).max().unwrap_or(0);
        if largest > self.largest_segments.load(Ordering::Relaxed) {
            self.largest_segments.fetch_max(largest, Ordering::Relaxed);
        }
        if catch_unwind(AssertUnwindSafe(|| self.handler.handle(started, work))).is_err() {
            tracing::error!(stage = self.name, "a handler panicked; its batch is dropped");
            work.abandon(H::COUNTS_ITEMS);
        }
        debug_assert!(work.batch.items.is_empty(), "a handler drains its batch");
        work.batch.items.clear();
    }

    fn count_batch(&self, service: Duration, work: &mut WorkOf<H>) {
        let metrics = &self.metrics;
        let tally = &mut work.tally;
        let sent = std::mem::take(&mut tally.sent);
        let received = std::mem::take(&mut tally.received);
        metrics.packets_in.add(received.segments);
        metrics.bytes_in.add(received.bytes);
        metrics.packets_out.add(sent.segments);
        metrics.bytes_out.add(sent.bytes);
        metrics.turned.add(Count::of(&work.turned).segments);
        metrics.made.add(Count::of(&work.made).segments);
        debug_assert!(tally.drops.len() <= metrics.drops.len(), "every reason has its counter");
        for (counter, drops) in metrics.drops.iter().zip(&mut tally.drops) {
            counter.add(std::mem::take(drops).segments);
        }
        metrics.batches.add(1);
        metrics.batch_packets.observe(work.weight.segments.max(received.segments));
        metrics.service_seconds.observe(service);
        metrics.busy_seconds.add(service);
        // By what was offered, since that is what the next batch's service is reckoned from: a signal, not the packets
        // that were read because of it. A lane may have been poked and bring nothing.
        self.learn_service(service, work.weight.segments.max(work.batch.lanes.len() as u64));
    }

    fn turn_round(&self, now: Instant, scratch: &mut Scratch<H>) {
        let Some(turn) = &self.turn else {
            debug_assert!(scratch.work.turned.is_empty() && scratch.work.made.is_empty(), "a stage with a way back");
            scratch.work.turned.clear();
            scratch.work.made.clear();
            return;
        };
        let offer = Offer { upstream: None, behind: Behind::Work, may_run_on: false };
        for items in [&mut scratch.work.turned, &mut scratch.work.made] {
            if !items.is_empty() {
                turn.offer(now, offer, items, &mut scratch.turn_entered, &mut scratch.turn_refused);
            }
        }
    }

    fn take_up_leftovers(&self, scratch: &mut Scratch<H>) {
        if scratch.work.batch.settling.is_empty() {
            return;
        }
        // What there is room for, and a batch at most: to offer hundreds for each bit of room, and to take them back, would take
        // the time in which room is made.
        let lanes = scratch.work.batch.settling.len() as u64;
        let room = self.next.as_ref().map_or(0, |(next, _)| next.room());
        let share = room.saturating_sub(Count::of(&scratch.work.out).segments) / lanes;
        let share = share.clamp(1, self.settings.quota.segments.max(1).into()) as i64;
        let offered_before = scratch.work.out.len();
        let Scratch { work: Work { batch, out, .. }, unsettled, .. } = scratch;
        self.leftovers.take_up(&batch.settling, share, out, unsettled);
        self.metrics.held_back_packets.sub(segments_of(&scratch.work.out[offered_before..]));
    }

    fn hand_on(&self, now: Instant, behind: Behind, scratch: &mut Scratch<H>) -> Dropped {
        let Some((next, upstream)) = &self.next else {
            debug_assert!(scratch.work.out.is_empty(), "a stage with a next one");
            scratch.work.out.clear();
            return Dropped::default();
        };
        if scratch.work.out.is_empty() {
            return Dropped::default();
        }
        let offer = Offer { upstream: Some(*upstream), behind, may_run_on: true };
        let offered = Count::of(&scratch.work.out);
        let dropped = next.offer(now, offer, &mut scratch.work.out, &mut scratch.onward, &mut scratch.refused);
        let refused = Count::of(&scratch.refused);
        self.metrics.packets_out.add(offered.segments - refused.segments);
        self.metrics.bytes_out.add(offered.bytes - refused.bytes);
        self.leave_over(scratch);
        dropped
    }

    /// Keeps what the next stage had no room for, and notes the lanes that have to wait for it.
    fn leave_over(&self, scratch: &mut Scratch<H>) {
        if scratch.refused.is_empty() {
            return;
        }
        let Scratch { work, refused, parked, .. } = scratch;
        debug_assert!(refused.iter().all(|entry| work.batch.has(entry.origin)), "what a lane puts out names it");
        self.metrics.held_back_packets.add(segments_of(&*refused));
        self.leftovers.keep(refused, parked);
        parked.sort_unstable();
        parked.dedup();
    }

    fn give_back(&self, now: Instant, scratch: &mut Scratch<H>) {
        let Scratch { work, brought, parked, unsettled, resume, .. } = scratch;
        // Sorted before the lock is taken, so that none of a thousand lanes is searched for under it.
        work.outcomes.sort_unstable_by_key(|(lane, _)| *lane);
        unsettled.sort_unstable();
        let mut inner = lock(&self.inner);
        for (lane, segments) in brought.drain(..) {
            inner.lanes.count(now, lane, segments);
        }
        for lane in work.batch.lanes.drain(..).chain(work.batch.settling.drain(..)) {
            let named = work.outcomes.binary_search_by_key(&lane, |(lane, _)| *lane).map(|at| work.outcomes[at].1);
            let mut outcome = named.unwrap_or_default();
            let has_no_room = parked.binary_search(&lane).is_ok();
            let settles_on = !has_no_room && unsettled.binary_search(&lane).is_ok();
            outcome.park |= has_no_room || settles_on;
            inner.lanes.done(lane, outcome);
            if settles_on {
                inner.lanes.resume(lane);
            }
        }
        // What ran on has freed no room, but nothing takes a batch of an empty queue, and none would be let in.
        if inner.lanes.load() == Load::default() {
            inner.let_in(resume);
        }
        self.gauge(&inner);
        self.wake(&mut inner);
        drop(inner);
        work.outcomes.clear();
        parked.clear();
        unsettled.clear();
        self.resume_upstream(resume);
    }

    fn with_scratch<T>(&self, use_it: impl FnOnce(&mut Scratch<H>) -> T) -> T {
        let mut scratch = self.scratch.pop().unwrap_or_default();
        let done = use_it(&mut scratch);
        drop(self.scratch.push(scratch));
        done
    }

    /// Whether what is ready is left where it is, since the next stage has no room, and others wait for that.
    fn holds_back(&self, inner: &mut Inner<H::Queue>) -> bool {
        self.next.as_ref().is_some_and(|(next, _)| inner.lanes.holds_back(|| next.room()))
    }

    /// Takes the next batch, as one of so many threads, and processes it. `false` when nothing was ready.
    fn take_and_process<'a>(&'a self, mut inner: MutexGuard<'a, Inner<H::Queue>>, threads: usize) -> bool {
        let mut found = false;
        self.with_scratch(|scratch| {
            let now = Instant::now();
            let quota = inner.quota;
            let batch = &mut scratch.work.batch;
            // Known to the lanes, which then give nothing, or those alone that were resumed.
            self.holds_back(&mut inner);
            let Some(taken) = inner.lanes.take(now, quota, threads, batch, &mut scratch.shed) else {
                return;
            };
            found = true;
            let sojourn = taken.oldest.map(|oldest| now.saturating_duration_since(oldest));
            inner.sojourn_max = inner.sojourn_max.max(sojourn.unwrap_or_default());
            inner.takes += 1;
            // What was given up was not served.
            inner.taken_segments += Count::of(&batch.items).segments;
            if taken.freed != Load::default() {
                inner.let_in(&mut scratch.resume);
            }
            self.gauge(&inner);
            self.wake(&mut inner);
            drop(inner);
            if let Some(sojourn) = sojourn {
                self.metrics.sojourn_seconds.observe(sojourn);
            }
            self.count_shed(&mut scratch.shed);
            self.resume_upstream(&mut scratch.resume);
            // What gathers further on is work for this thread, too.
            let behind = taken.behind || self.next.as_ref().is_some_and(|(next, _)| next.gathers());
            self.process(now, behind.into(), scratch);
        });
        found
    }

    fn resume_upstream(&self, resume: &mut Vec<(Upstream, LaneId)>) {
        if resume.is_empty() {
            return;
        }
        let upstreams = lock(&self.upstreams);
        for (upstream, lane) in resume.drain(..) {
            if let Some(stage) = upstreams.get(upstream.0).and_then(Weak::upgrade) {
                stage.resume(lane);
            }
        }
    }
}

fn segments_of<'a, T: Weigh + 'a>(entries: impl IntoIterator<Item = &'a Entry<T>>) -> u64 {
    entries.into_iter().map(|entry| u64::from(entry.item.segments())).sum()
}

/// Notes what lanes brought, where their own items are signals, which do not tell.
fn note_brought<H: Handler>(scratch: &mut Scratch<H>) {
    if !H::Queue::COALESCES {
        return;
    }
    for of_lane in scratch.work.out.chunk_by(|one, next| one.origin == next.origin) {
        scratch.brought.push((of_lane[0].origin, Count::of(of_lane).segments));
    }
}

#[cfg(all(test, not(feature = "model")))]
mod tests;

#[cfg(all(test, feature = "model"))]
mod model;
