//! Handlers for the runtime's own tests: a source, a stage that passes on, and a sink that notes what came.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::cores::Cores;
use super::lanes::{Entry, LaneId, Limits, Outcome, Quota};
use super::port::Port;
use super::queue::{Fifo, Latch, Weigh};
use super::stage::{Settings, Stage, WhenFull};
use super::sync::{Condvar, Mutex, lock};
use super::tuning::Tuning;
use super::work::{Handler, RUNTIME_REASONS, Work, WorkOf};
use crate::metrics::StageMetrics;
use crate::runtime::hand_over::Rule;

/// A packet of a flow with its number in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) flow: u32,
    pub(super) number: u32,
}

impl Weigh for Item {
    fn segments(&self) -> u32 {
        1
    }

    fn bytes(&self) -> usize {
        100
    }

    fn held_bytes(&self) -> usize {
        2_048
    }
}

pub(super) fn entry(lane: u32, flow: u32, number: u32) -> Entry<Item> {
    Entry { origin: LaneId(lane), lane: LaneId(lane), item: Item { flow, number } }
}

pub(super) fn settings(lanes: u32, segments: u64, hand_over: Rule, when_full: WhenFull) -> Settings {
    Settings {
        lanes,
        limits: Limits { segments, held_bytes: 1 << 30 },
        quota: Quota { segments: 16, lane_bytes: 1 << 20 },
        threads: (1, 4),
        hand_over,
        when_full,
        sojourn_max: Some(std::time::Duration::from_secs(60)),
        gathers: false,
        tuning: Tuning::DEFAULT,
    }
}

/// A stage with the figures that it needs.
pub(super) fn stage<H: Handler>(
    name: &'static str,
    settings: Settings,
    handler: H,
    next: Option<Arc<dyn Port<H::Out>>>,
    turn: Option<Arc<dyn Port<H::Turned>>>,
) -> Arc<Stage<H>> {
    let metrics = StageMetrics::new(name, "uplink", &RUNTIME_REASONS);
    Stage::new(name, settings, handler, next, turn, Cores::new(2), metrics)
}

/// Does what the function says.
pub(super) struct Does<F>(pub(super) F);

impl<F> Handler for Does<F>
where
    F: Fn(&mut Work<Item, Item, Item>) + Send + Sync + 'static,
{
    type Queue = Fifo<Item>;
    type Out = Item;
    type Turned = Item;

    fn handle(&self, _now: std::time::Instant, work: &mut WorkOf<Self>) {
        (self.0)(work);
    }
}

/// Passes every item on in its lane.
pub(super) fn pass(work: &mut Work<Item, Item, Item>) {
    let passed = work.batch.items.drain(..).map(|entry| Entry { origin: entry.lane, ..entry });
    work.out.extend(passed);
}

/// Makes `count` items of each of its lanes, a few a turn, as a link does that has something to read. Each lane carries
/// two flows.
pub(super) struct Source {
    made: Vec<Mutex<u32>>,
    count: u32,
}

/// Items that a source makes of a lane in one turn.
const A_TURN: u32 = 6;

impl Source {
    pub(super) fn new(lanes: u32, count: u32) -> Self {
        Self { made: (0..lanes).map(|_| Mutex::new(0)).collect(), count }
    }
}

impl Handler for Source {
    type Queue = Latch;
    type Out = Item;
    type Turned = Item;
    const COUNTS_ITEMS: bool = false;

    fn handle(&self, _now: std::time::Instant, work: &mut WorkOf<Self>) {
        work.batch.items.clear();
        for lane in &work.batch.lanes {
            let mut made = lock(&self.made[lane.0 as usize]);
            for _ in 0..A_TURN.min(self.count - *made) {
                let made_now = entry(lane.0, 2 * lane.0 + *made % 2, *made / 2);
                work.tally.received.add(&made_now.item);
                work.out.push(made_now);
                *made += 1;
            }
            work.outcomes.push((*lane, Outcome { again: *made < self.count, ..Outcome::default() }));
        }
    }
}

/// What a sink has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    flows: Mutex<Flows>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct Flows {
    next: std::collections::HashMap<u32, u32>,
    total: usize,
    disorder: usize,
    stopped: bool,
}

impl Seen {
    /// Waits until `total` items have come.
    pub(super) fn wait_for(&self, total: usize) {
        let mut flows = lock(&self.flows);
        while flows.total < total && !flows.stopped {
            #[cfg(not(feature = "model"))]
            {
                let waited = self.came.wait_timeout(flows, PATIENCE).unwrap();
                flows = waited.0;
                assert!(!waited.1.timed_out() || flows.total >= total, "{} of {total} came", flows.total);
            }
            #[cfg(feature = "model")]
            {
                flows = self.came.wait(flows).unwrap();
            }
        }
    }

    pub(super) fn total(&self) -> usize {
        lock(&self.flows).total
    }

    /// Items that came after a later one of their flow.
    pub(super) fn disorder(&self) -> usize {
        lock(&self.flows).disorder
    }
}

/// How long a test waits before it says that something was lost.
#[cfg(not(feature = "model"))]
pub(super) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Notes what comes. While it is shut it gives `shut_lane` no allowance.
pub(super) struct Sink {
    pub(super) seen: Arc<Seen>,
    pub(super) is_shut: AtomicBool,
    pub(super) shut_lane: Option<LaneId>,
}

impl Sink {
    pub(super) fn new(shut_lane: Option<LaneId>) -> Self {
        Self { seen: Arc::default(), is_shut: AtomicBool::new(shut_lane.is_some()), shut_lane }
    }
}

impl Handler for Sink {
    type Queue = Fifo<Item>;
    type Out = Item;
    type Turned = Item;

    fn handle(&self, _now: std::time::Instant, work: &mut WorkOf<Self>) {
        let mut flows = lock(&self.seen.flows);
        for Entry { item, .. } in work.batch.items.drain(..) {
            work.tally.sent.add(&item);
            flows.total += 1;
            let expected = flows.next.entry(item.flow).or_default();
            let is_late = item.number < *expected;
            *expected = item.number + 1;
            flows.disorder += usize::from(is_late);
        }
        drop(flows);
        self.seen.came.notify_all();
        let allowance_bytes = self.is_shut.load(Ordering::SeqCst).then_some(0);
        for lane in work.batch.lanes.iter().filter(|lane| Some(**lane) == self.shut_lane) {
            work.outcomes.push((*lane, Outcome { allowance_bytes, ..Outcome::default() }));
        }
    }
}
