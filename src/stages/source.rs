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
use crate::packet::{BufPool, Packet, Raw};
use crate::runtime::inlet::Inlet;
use crate::runtime::lanes::{Entry, LaneId};
use crate::runtime::stage::Count;

/// Packets read at once: at 64 the cost of a system call and of a hand-over is a few per cent of a packet's.
const BATCH_PACKETS: usize = 64;

/// Pause after a failed read. An interface that is down stays so for longer, and the thread must not spin meanwhile.
const RETRY_AFTER: Duration = Duration::from_millis(100);

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
}

/// A source before its thread runs.
#[derive(Debug)]
pub struct Source<S> {
    source: Arc<S>,
    pool: BufPool,
    metrics: Arc<StageMetrics>,
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
        Ok(Self { source, pool, metrics, poll, stop: Arc::new(stop) })
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
        while !self.stop.stopping.load(Ordering::Acquire) {
            match self.read(&mut packets) {
                Ok(received) => {
                    entries.extend(packets.drain(..).map(|item| {
                        let lane = lane_of(item.bytes());
                        Entry { origin: lane, lane, item }
                    }));
                    inlet.push(Instant::now(), received.more, &mut entries);
                    if !received.more {
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

    /// Reads a batch and counts it.
    fn read(&self, packets: &mut Vec<Packet<Raw>>) -> io::Result<Received> {
        let started = Instant::now();
        let received = self.source.read_batch(&self.pool, BATCH_PACKETS, packets)?;
        if packets.is_empty() && received.lost == 0 {
            return Ok(received);
        }
        let mut count = Count::default();
        packets.iter().for_each(|packet| count.add(packet));
        let (metrics, service, lost) = (&self.metrics, started.elapsed(), received.lost as u64);
        metrics.packets_in.add(count.segments + lost);
        metrics.bytes_in.add(count.bytes);
        metrics.packets_out.add(count.segments);
        metrics.bytes_out.add(count.bytes);
        if let Some(counter) = metrics.drops.get(self.source.lost()) {
            counter.add(lost);
        }
        metrics.batches.add(1);
        metrics.batch_packets.observe(count.segments + lost);
        metrics.service_seconds.observe(service);
        metrics.busy_seconds.add(service);
        Ok(received)
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
