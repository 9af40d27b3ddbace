//! The way into a stage: what is offered runs on, queues, goes back or is dropped.

use std::sync::atomic::Ordering;
use std::sync::{PoisonError, Weak};
use std::time::{Duration, Instant};

use super::{Feeder, Inner, ONE_LANE, Stage, WhenFull};
use crate::metrics::HandedOver;
use crate::runtime::hand_over;
use crate::runtime::lanes::{Batch, Entry, HandOver, LaneId};
use crate::runtime::port::{Behind, Dropped, Gathered, Offer, Port, Resume, Upstream};
use crate::runtime::queue::Shed;
use crate::runtime::sync::lock;
use crate::runtime::work::{Count, Handler, In, NOT_ADMITTED, QUEUE_FULL};

/// Batches of what is due that a thread serves before it goes on with its own: twice what it brought in one, so that it keeps
/// up, and no more, so that it comes back.
const DUE_BATCHES_MAX: usize = 2;

impl<H: Handler> Port<In<H>> for Stage<H>
where
    In<H>: Send + 'static,
{
    fn offer(
        &self,
        now: Instant,
        offer: Offer,
        items: &mut Vec<Entry<In<H>>>,
        entered: &mut Batch<In<H>>,
        refused: &mut Vec<Entry<In<H>>>,
    ) -> Dropped {
        if items.is_empty() {
            return Dropped::default();
        }
        let mut decided = if offer.may_run_on {
            let seen = hand_over::Observation {
                behind: offer.behind,
                cores_free: self.cores.free(),
                service: self.expected_service(items),
                is_first: offer.upstream.is_none(),
                gathering_share: self.gathering_share(),
            };
            hand_over::decide(&self.settings.tuning.hand_over, self.settings.hand_over, seen)
        } else {
            HandedOver::TurnsRound
        };
        let mut hand_over = HandOver::from(decided);
        let offered = Count::of(items);
        let mut shed = Shed::default();
        {
            let mut inner = lock(&self.inner);
            if hand_over != HandOver::Queue && self.holds_back(&mut inner) {
                (decided, hand_over) = (HandedOver::NoRoom, HandOver::Queue);
            }
            inner.lanes.offer(now, hand_over, items, entered, refused, &mut shed);
            if let Some(upstream) = offer.upstream.filter(|_| self.settings.when_full == WhenFull::Park) {
                let (mut last, Inner { lanes, waiting, .. }) = (None, &mut *inner);
                for entry in refused.iter().filter(|entry| last.replace(entry.origin) != Some(entry.origin)) {
                    waiting.add(upstream, entry.origin, lanes.is_within_share(entry));
                }
            }
            self.gauge(&inner);
            self.note_gathering(&inner);
            // Where something gathers, the thread that brings it serves it.
            if hand_over != HandOver::Gather || !inner.lanes.is_gathering() {
                self.wake(&mut inner);
            }
        }
        self.count_shed(&mut shed);
        if hand_over == HandOver::RunOn && entered.is_empty() {
            decided = HandedOver::LaneTaken;
        }
        self.metrics.handovers[decided as usize].inc();
        let drops = self.settings.when_full == WhenFull::Drop || offer.upstream.is_none();
        if H::COUNTS_ITEMS {
            // What goes back did not come in.
            let back = if drops { Count::default() } else { Count::of(refused) };
            self.metrics.packets_in.add(offered.segments - back.segments);
            self.metrics.bytes_in.add(offered.bytes - back.bytes);
        }
        if drops && !refused.is_empty() {
            debug_assert!(H::COUNTS_ITEMS, "signals melt into one, so their queues refuse nothing");
            let is_shedding = self.metrics.shedding.get() > 0;
            let reason = if is_shedding { NOT_ADMITTED } else { QUEUE_FULL };
            self.count_drops(reason, refused.iter().map(|entry| &entry.item));
            return forget(refused);
        }
        Dropped::default()
    }

    fn run(&self, now: Instant, behind: Behind, entered: &mut Batch<In<H>>) -> Dropped {
        self.with_scratch(|scratch| {
            std::mem::swap(&mut scratch.work.batch, entered);
            let dropped = self.process(now, behind, scratch);
            std::mem::swap(&mut scratch.work.batch, entered);
            dropped
        })
    }

    fn serve(&self, limit: Duration) {
        if self.settings.lanes != 1 || matches!(self.settings.hand_over.now(), hand_over::Rule::Never) {
            return;
        }
        let mut inner = lock(&self.inner);
        if !inner.lanes.has_ready() && !inner.lanes.is_free(ONE_LANE) && !inner.stopping {
            inner.feeder = Feeder::Waits;
            (inner, _) = self.lane_came.wait_timeout(inner, limit).unwrap_or_else(PoisonError::into_inner);
            inner.feeder = Feeder::Away;
        }
        if inner.lanes.has_ready() && !inner.stopping {
            let _busy = self.cores.occupy();
            let threads = inner.threads;
            self.take_and_process(inner, threads);
        }
    }

    fn gathers(&self) -> bool {
        self.gathers.load(Ordering::Relaxed) || self.next.as_ref().is_some_and(|(next, _)| next.gathers())
    }

    fn serve_gathered(&self, which: Gathered) {
        if self.settings.gathers {
            let (wait, batches) = match which {
                Gathered::Due => (self.settings.tuning.gathering.wait_max, DUE_BATCHES_MAX),
                Gathered::Oldest => (Duration::ZERO, 1),
            };
            for _ in 0..batches {
                if !self.gathers.load(Ordering::Relaxed) {
                    break;
                }
                let mut inner = lock(&self.inner);
                let segments = inner.quota.segments;
                inner.lanes.end_gathering(Instant::now(), wait, segments);
                self.note_gathering(&inner);
                if !inner.lanes.has_ready() || inner.stopping {
                    break;
                }
                // This thread alone: the stage's own have no core.
                self.take_and_process(inner, 1);
            }
        }
        if let Some((next, _)) = &self.next {
            next.serve_gathered(which);
        }
    }

    fn room(&self) -> u64 {
        lock(&self.inner).lanes.room()
    }

    fn attach(&self, upstream: Weak<dyn Resume>) -> Upstream {
        let mut upstreams = lock(&self.upstreams);
        upstreams.push(upstream);
        Upstream(upstreams.len() - 1)
    }
}

impl<H: Handler> Stage<H> {
    /// What part of the machine this stage kept busy of late, if it can gather.
    pub(super) fn gathering_share(&self) -> f64 {
        let busy_cores = self.metrics.recent_busy_permille.get() as f64 / 1e3;
        if self.settings.gathers { busy_cores / self.cores.count() as f64 } else { 0.0 }
    }

    /// Has the stages before this one know whether to come back. Told under the lock, so that the last word is the truth.
    pub(super) fn note_gathering(&self, inner: &Inner<H::Queue>) {
        self.gathers.store(inner.lanes.is_gathering(), Ordering::Relaxed);
    }
}

/// Drops what was refused, and tells how much that was.
fn forget<T>(refused: &mut Vec<Entry<T>>) -> Dropped {
    let items = refused.len();
    refused.sort_unstable_by_key(|entry| entry.lane);
    refused.dedup_by_key(|entry| entry.lane);
    let lanes = refused.len();
    refused.clear();
    Dropped { items, lanes }
}

impl<H: Handler> Resume for Stage<H> {
    fn resume(&self, lane: LaneId) {
        let mut inner = lock(&self.inner);
        inner.lanes.resume(lane);
        self.wake(&mut inner);
    }
}
