//! The cut in front of ws-encode's queue. A super-packet of 64 KiB takes 52 ms on a link of 10 Mbit/s: nothing could come
//! between, however short the queue. So it is cut to what the tether's link sends in a moment, by the thread that
//! brings it and outside of every lock; on a fast link nothing is cut.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;

use crate::metrics::StageMetrics;
use crate::offload;
use crate::packet::{BufPool, Packet};
use crate::runtime::lanes::{Batch, Entry, LaneId};
use crate::runtime::port::{Behind, Dropped, Gathered, Offer, Port, Resume, Upstream};
use crate::runtime::work::RUNTIME_REASONS;
use crate::stages::Reason as _;
use crate::stages::ws_encode::Reason;
use crate::table::Table;
use crate::tether_links::TetherLinks;

/// Lists kept for threads that come by; more threads than this at once take fresh ones.
const SCRATCH_KEPT: usize = 16;

/// A port that hands on to another what it has cut.
pub struct Cut<P> {
    next: Arc<dyn Port<Packet<P>>>,
    tethers: Arc<Table<TetherLinks>>,
    pool: BufPool,
    /// The next stage's, which is where a piece that finds no buffer is lost.
    metrics: Arc<StageMetrics>,
    scratch: ArrayQueue<Vec<Entry<Packet<P>>>>,
}

impl<P> std::fmt::Debug for Cut<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cut").finish_non_exhaustive()
    }
}

impl<P: Copy> Cut<P> {
    /// In front of `next`, a ws-encode that counts in `metrics` and has `tethers` as its lanes.
    pub fn new(
        next: Arc<dyn Port<Packet<P>>>,
        tethers: Arc<Table<TetherLinks>>,
        pool: BufPool,
        metrics: Arc<StageMetrics>,
    ) -> Self {
        Self { next, tethers, pool, metrics, scratch: ArrayQueue::new(SCRATCH_KEPT) }
    }

    /// Puts what is too long for its tether's link into `items` in pieces, and all else as it is.
    fn cut(&self, items: &mut Vec<Entry<Packet<P>>>) {
        let mut whole = self.scratch.pop().unwrap_or_default();
        std::mem::swap(&mut whole, items);
        let mut last = None;
        for entry in whole.drain(..) {
            if entry.item.segments() == 1 {
                items.push(entry);
                continue;
            }
            let cut_bytes = match last {
                Some((lane, bytes)) if lane == entry.lane => bytes,
                _ => self.cut_bytes(entry.lane),
            };
            last = Some((entry.lane, cut_bytes));
            self.cut_one(entry, cut_bytes, items);
        }
        drop(self.scratch.push(whole));
    }

    fn cut_bytes(&self, lane: LaneId) -> u64 {
        self.tethers.get(lane).map_or(u64::MAX, |tether| tether.cut_bytes())
    }

    fn cut_one(&self, entry: Entry<Packet<P>>, cut_bytes: u64, out: &mut Vec<Entry<Packet<P>>>) {
        let Entry { origin, lane, item } = entry;
        if item.len() as u64 <= cut_bytes {
            return out.push(Entry { origin, lane, item });
        }
        let offload = item.offload();
        let payload_bytes = cut_bytes.saturating_sub(offload.header_bytes.into());
        let segments_max = payload_bytes / u64::from(offload.segment_bytes.max(1));
        let mut push = |item| out.push(Entry { origin, lane, item });
        if let Err(lost) = offload::split(item, segments_max as u32, &self.pool, &mut push) {
            // It came in there and was lost there: in = out + dropped holds on both sides.
            let segments = u64::from(lost.segments());
            self.metrics.packets_in.add(segments);
            self.metrics.drops[RUNTIME_REASONS.len() + Reason::CannotCut.index()].add(segments);
        }
    }
}

impl<P: Copy + Send + Sync> Port<Packet<P>> for Cut<P> {
    fn offer(
        &self,
        now: Instant,
        offer: Offer,
        items: &mut Vec<Entry<Packet<P>>>,
        entered: &mut Batch<Packet<P>>,
        refused: &mut Vec<Entry<Packet<P>>>,
    ) -> Dropped {
        if items.iter().any(|entry| entry.item.segments() > 1) {
            self.cut(items);
        }
        self.next.offer(now, offer, items, entered, refused)
    }

    fn run(&self, now: Instant, behind: Behind, entered: &mut Batch<Packet<P>>) -> Dropped {
        self.next.run(now, behind, entered)
    }

    fn gathers(&self) -> bool {
        self.next.gathers()
    }

    fn serve_gathered(&self, which: Gathered) {
        self.next.serve_gathered(which);
    }

    fn serve(&self, limit: Duration) {
        self.next.serve(limit);
    }

    fn attach(&self, upstream: Weak<dyn Resume>) -> Upstream {
        self.next.attach(upstream)
    }
}

#[cfg(test)]
mod tests;
