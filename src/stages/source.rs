//! A source: a thread that waits for packets of a device or socket and pushes them into the first stage.
//!
//! What waits in the kernel is the queue in front of it, so a source has none of its own. Its figures are a stage's.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::io::Received;
use crate::metrics::StageMetrics;
use crate::metrics::decisions::Decisions;
use crate::offload::{Merger, SuperPackets};
use crate::packet::{BufPool, Packet, Raw};
use crate::runtime::inlet::Inlet;
use crate::runtime::lanes::{Entry, LaneId};
use crate::runtime::port::Behind;
use crate::runtime::rest::{self, Rest};
use crate::runtime::ring::{self, Ring};
use crate::runtime::work::Count;

mod overload;
#[cfg(test)]
mod tests;

use overload::Overload;

/// Packets read at once: at 64 the cost of a system call and of a hand-over is a few per cent of a packet's.
const BATCH_PACKETS: usize = 64;

/// Pause after a failed read. An interface that is down stays so for longer, and the thread must not spin meanwhile.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The longest that a source waits for the first stage's only lane before it reads more. On a fast link a lane is taken, or
/// its socket full, for less; on a slow one what waits is to be in the stage's queue, where flows are told apart.
const SERVE_MAX: Duration = Duration::from_micros(500);

const READABLE: Token = Token(0);
const STOP: Token = Token(1);

/// Where packets come from.
pub trait PacketSource: Send + Sync + 'static {
    /// Appends up to `max` packets to `out` without blocking.
    ///
    /// # Errors
    /// The kernel's.
    fn read_batch(&self, pool: &BufPool, max: usize, out: &mut Vec<Packet<Raw>>) -> io::Result<Received>;

    /// The descriptor that becomes readable.
    fn fd(&self) -> RawFd;

    /// The index, among the source's reasons, of a packet that was read and lost.
    fn lost(&self) -> usize;

    /// The same of one that had waited too long. One that does not tell how long packets waited has none.
    fn waited_too_long(&self) -> usize {
        self.lost()
    }

    /// Which super-packets are made of what one read brought of a flow in a row, where the kernel has not made them.
    fn joins(&self) -> SuperPackets {
        SuperPackets::default()
    }

    /// How many packets the kernel has dropped since this was asked last, for want of room. One that does not tell has
    /// dropped none.
    fn dropped_since(&self) -> u64 {
        0
    }

    /// Has the kernel hold no more than so many bytes for now; `None` is what was configured. Where that cannot be
    /// changed, nothing is.
    fn bound(&self, _bytes: Option<u32>) {}
}

/// A source before its thread runs.
#[derive(Debug)]
pub struct Source<S> {
    source: Arc<S>,
    pool: BufPool,
    metrics: Arc<StageMetrics>,
    decisions: Arc<Decisions>,
    wait_max: Duration,
    poll: Poll,
    stop: Arc<SourceStop>,
}

/// Ends a source.
#[derive(Debug)]
pub struct SourceStop {
    waker: Waker,
    stopping: AtomicBool,
}

impl SourceStop {
    /// The source ends after the batch that it is reading.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "a source cannot be woken");
        }
    }
}

impl<S: PacketSource> Source<S> {
    /// A source that takes its buffers from `pool`. `metrics` are those of its reasons alone: a source has no queue.
    ///
    /// # Errors
    /// No descriptor left for the readiness wait.
    pub fn new(source: Arc<S>, pool: BufPool, metrics: Arc<StageMetrics>) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&source.fd()), READABLE, Interest::READABLE)?;
        let stop = SourceStop { waker: Waker::new(poll.registry(), STOP)?, stopping: AtomicBool::new(false) };
        Ok(Self {
            source,
            pool,
            metrics,
            decisions: Arc::default(),
            wait_max: ring::WAIT_MAX,
            poll,
            stop: Arc::new(stop),
        })
    }

    /// What is decided about it in overload is noted in `decisions`.
    #[must_use]
    pub fn noting_in(self, decisions: Arc<Decisions>) -> Self {
        Self { decisions, ..self }
    }

    /// The first stage lets things wait for `wait_max`: no longer shall they wait in front of it.
    #[must_use]
    pub fn in_front_of(self, wait_max: Duration) -> Self {
        Self { wait_max, ..self }
    }

    /// What ends the thread.
    pub fn stopper(&self) -> Arc<SourceStop> {
        Arc::clone(&self.stop)
    }

    /// Reads until stopped; `lane_of` tells the lane of a packet's bytes, `failed` is told of each failed read.
    pub fn run(
        mut self,
        mut inlet: Inlet<Packet<Raw>>,
        lane_of: impl Fn(&[u8]) -> LaneId,
        failed: impl Fn(&io::Error),
    ) {
        let (mut packets, mut entries, mut events) = (Vec::new(), Vec::new(), Events::with_capacity(2));
        let (mut rest, mut ring, mut merger) = (Rest::default(), Ring::new(self.wait_max), Merger::default());
        let mut overload = Overload::new(&self.metrics, Arc::clone(&self.decisions));
        while !self.stop.stopping.load(Ordering::Acquire) {
            let started = Instant::now();
            match self.read(&mut packets, &mut merger, &ring) {
                Ok(received) => {
                    entries.extend(packets.drain(..).map(|item| {
                        let lane = lane_of(item.bytes());
                        Entry { origin: lane, lane, item }
                    }));
                    let now = Instant::now();
                    let behind = if received.more { ring.behind(received.waited) } else { Behind::Nothing };
                    let pushed = inlet.push(now, behind, &mut entries);
                    let seen = rest::Observation {
                        has_more: received.more,
                        is_in_overload: ring.is_in_overload(),
                        pushed,
                        read: now.saturating_duration_since(started),
                        cores_free: inlet.cores_free(),
                    };
                    let rests = rest.after(now, seen);
                    let batch = ring::Observation {
                        waited: received.waited,
                        dropped: if ring.is_in_overload() { self.source.dropped_since() } else { 0 },
                        read: pushed.items,
                        taken_in: pushed.items - pushed.refused_items,
                        has_more: received.more,
                        is_in_vain: seen.is_in_vain(),
                        rests: !rests.is_zero(),
                    };
                    if let Some(bytes) = ring.after(now, batch) {
                        self.source.bound(bytes);
                        overload.tell_bound(now, bytes, ring.why(), &batch);
                    }
                    overload.tell_rest(now, rests, rest.why(), &batch);
                    self.rest(rests);
                    if received.more {
                        // To read on now would put a batch into the queue, and out of this core's cache.
                        inlet.serve(SERVE_MAX);
                    } else {
                        self.wait(&mut events, None);
                    }
                }
                Err(error) => {
                    failed(&error);
                    self.wait(&mut events, Some(RETRY_AFTER));
                }
            }
        }
    }

    /// Reads a batch and counts it. What has waited too long is dropped.
    fn read(&self, packets: &mut Vec<Packet<Raw>>, merger: &mut Merger, ring: &Ring) -> io::Result<Received> {
        let started = Instant::now();
        let received = self.source.read_batch(&self.pool, BATCH_PACKETS, packets)?;
        let joins = self.source.joins();
        if joins != SuperPackets::default() {
            merger.merge(packets, joins, &self.pool);
        }
        if packets.is_empty() && received.lost == 0 {
            return Ok(received);
        }
        let mut count = Count::default();
        packets.iter().for_each(|packet| count.add(packet));
        let (metrics, service, lost) = (&self.metrics, started.elapsed(), received.lost as u64);
        metrics.packets_in.add(count.segments + lost);
        metrics.bytes_in.add(count.bytes);
        if let Some(waited) = received.waited {
            metrics.sojourn_seconds.observe(waited);
        }
        if ring.is_too_old(received.waited) {
            packets.clear();
            if let Some(counter) = metrics.drops.get(self.source.waited_too_long()) {
                counter.add(count.segments);
            }
        } else {
            metrics.packets_out.add(count.segments);
            metrics.bytes_out.add(count.bytes);
        }
        if let Some(counter) = metrics.drops.get(self.source.lost()) {
            counter.add(lost);
        }
        metrics.batches.add(1);
        metrics.batch_packets.observe(count.segments + lost);
        metrics.service_seconds.observe(service);
        metrics.busy_seconds.add(service);
        Ok(received)
    }

    /// Leaves what comes to the kernel for a moment. Too short to be ended early.
    fn rest(&self, time: Duration) {
        if !time.is_zero() {
            std::thread::sleep(time);
            self.metrics.rest_seconds.add(time);
        }
    }

    /// Waits until there is something to read, or to stop for.
    fn wait(&mut self, events: &mut Events, limit: Option<Duration>) {
        if let Err(error) = self.poll.poll(events, limit)
            && error.kind() != io::ErrorKind::Interrupted
        {
            tracing::error!(%error, "a source's readiness wait failed");
            std::thread::sleep(RETRY_AFTER);
        }
    }
}
