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

    /// Whether the kernel has dropped something since this was asked last, for want of room. One that does not tell has
    /// not.
    fn has_dropped(&self) -> bool {
        false
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
                        has_dropped: ring.is_in_overload() && self.source.has_dropped(),
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;
    use std::sync::Weak;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::metrics::decisions::{Controller, READ_IN_VAIN};
    use crate::packet::Offload;
    use crate::packet_builder::udp;
    use crate::runtime::cores::Cores;
    use crate::runtime::lanes::Batch;
    use crate::runtime::port::{Behind, Dropped, Offer, Port, Resume, Upstream};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Datagrams as packets. An empty one is read and lost, "!" is an error.
    struct Datagrams(UnixDatagram);

    impl PacketSource for Datagrams {
        fn read_batch(&self, pool: &BufPool, max: usize, out: &mut Vec<Packet<Raw>>) -> io::Result<Received> {
            let mut received = Received::default();
            while received.packets + received.lost < max {
                let mut bytes = [0; 100];
                match self.0.recv(&mut bytes) {
                    Ok(0) => received.lost += 1,
                    Ok(1) if bytes[0] == b'!' => return Err(io::ErrorKind::NetworkDown.into()),
                    Ok(len) => {
                        out.push(Packet::raw(pool.copy(&bytes[..len]).unwrap(), Offload::default()));
                        received.packets += 1;
                    }
                    Err(_) => return Ok(received),
                }
            }
            received.more = true;
            Ok(received)
        }

        fn fd(&self) -> RawFd {
            self.0.as_raw_fd()
        }

        fn lost(&self) -> usize {
            0
        }
    }

    /// What came into the first stage: lane and bytes, and whether the source had more.
    struct Sink(Sender<(LaneId, Vec<u8>, bool)>);

    impl Port<Packet<Raw>> for Sink {
        fn offer(
            &self,
            _now: Instant,
            offer: Offer,
            items: &mut Vec<Entry<Packet<Raw>>>,
            _entered: &mut Batch<Packet<Raw>>,
            _refused: &mut Vec<Entry<Packet<Raw>>>,
        ) -> Dropped {
            for entry in items.drain(..) {
                self.0.send((entry.lane, entry.item.bytes().to_vec(), offer.behind != Behind::Nothing)).unwrap();
            }
            Dropped::default()
        }

        fn run(&self, _now: Instant, _behind: Behind, _entered: &mut Batch<Packet<Raw>>) -> Dropped {
            Dropped::default()
        }

        fn attach(&self, _upstream: Weak<dyn Resume>) -> Upstream {
            unreachable!("a source is no stage")
        }
    }

    struct Running {
        peer: UnixDatagram,
        came: Receiver<(LaneId, Vec<u8>, bool)>,
        errors: Receiver<io::ErrorKind>,
        metrics: Arc<StageMetrics>,
        stop: Arc<SourceStop>,
        thread: std::thread::JoinHandle<()>,
    }

    /// A source whose lanes are the packets' first bytes, with `waiting` in front of it already.
    fn start(waiting: &[&[u8]]) -> Running {
        let (peer, ours) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        waiting.iter().for_each(|packet| assert_eq!(peer.send(packet).unwrap(), packet.len()));
        let metrics = StageMetrics::new("source", "uplink", &["lost"]);
        let source = Source::new(Arc::new(Datagrams(ours)), BufPool::new(1 << 20), Arc::clone(&metrics)).unwrap();
        let ((sink, came), (failed, errors)) = (channel(), channel());
        let (stop, inlet) = (source.stopper(), Inlet::new(Arc::new(Sink(sink)), Cores::new(1)));
        let thread = std::thread::spawn(move || {
            let lane_of = |packet: &[u8]| LaneId(packet[0].into());
            source.run(inlet, lane_of, |error| failed.send(error.kind()).unwrap());
        });
        Running { peer, came, errors, metrics, stop, thread }
    }

    impl Running {
        fn stop(self) -> Arc<StageMetrics> {
            self.stop.stop();
            self.thread.join().unwrap();
            self.metrics
        }
    }

    #[test]
    fn packets_that_waited_and_packets_that_come_later_go_to_their_lanes_in_order() {
        let running = start(&[&[7, 1], &[8, 2]]);
        let next = || running.came.recv_timeout(PATIENCE).unwrap();
        assert_eq!([next(), next()], [(LaneId(7), vec![7, 1], false), (LaneId(8), vec![8, 2], false)]);
        running.peer.send(&[7, 3]).unwrap();
        assert_eq!(next(), (LaneId(7), vec![7, 3], false));
        let metrics = running.stop();
        assert_eq!((metrics.packets_in.get(), metrics.packets_out.get(), metrics.bytes_in.get()), (3, 3, 6));
    }

    #[test]
    fn what_is_read_and_lost_is_counted_by_its_reason() {
        let running = start(&[&[], &[7, 1], &[]]);
        running.came.recv_timeout(PATIENCE).unwrap();
        let metrics = running.stop();
        assert_eq!((metrics.packets_in.get(), metrics.packets_out.get(), metrics.drops[0].get()), (3, 1, 2));
        assert_eq!(metrics.unaccounted(), 0);
    }

    #[test]
    fn a_failed_read_is_told_and_the_source_goes_on() {
        let running = start(&[b"!", &[7, 1]]);
        assert_eq!(running.errors.recv_timeout(PATIENCE).unwrap(), io::ErrorKind::NetworkDown);
        assert_eq!(running.came.recv_timeout(PATIENCE).unwrap().0, LaneId(7));
        running.stop();
    }

    /// A socket that always has a batch more, as under a flood.
    struct Flood(UnixDatagram);

    impl PacketSource for Flood {
        fn read_batch(&self, pool: &BufPool, max: usize, out: &mut Vec<Packet<Raw>>) -> io::Result<Received> {
            out.extend((0..max).map(|at| Packet::raw(pool.copy(&[at as u8]).unwrap(), Offload::default())));
            Ok(Received { packets: max, more: true, ..Received::default() })
        }

        fn fd(&self) -> RawFd {
            self.0.as_raw_fd()
        }

        fn lost(&self) -> usize {
            0
        }
    }

    /// A first stage that is full, or takes in all; it tells of each batch.
    struct Door {
        is_full: AtomicBool,
        came: Sender<bool>,
    }

    impl Port<Packet<Raw>> for Door {
        fn offer(
            &self,
            _now: Instant,
            _offer: Offer,
            items: &mut Vec<Entry<Packet<Raw>>>,
            _entered: &mut Batch<Packet<Raw>>,
            _refused: &mut Vec<Entry<Packet<Raw>>>,
        ) -> Dropped {
            let (count, is_full) = (items.drain(..).count(), self.is_full.load(Ordering::SeqCst));
            self.came.send(is_full).unwrap();
            if is_full { Dropped { items: count, lanes: count } } else { Dropped::default() }
        }

        fn run(&self, _now: Instant, _behind: Behind, _entered: &mut Batch<Packet<Raw>>) -> Dropped {
            Dropped::default()
        }

        fn attach(&self, _upstream: Weak<dyn Resume>) -> Upstream {
            unreachable!("a source is no stage")
        }
    }

    #[test]
    fn under_a_flood_that_is_refused_a_source_rests_and_stops_resting_when_there_is_room() {
        let (_peer, ours) = UnixDatagram::pair().unwrap();
        let metrics = StageMetrics::new("source", "uplink", &["lost"]);
        let source = Source::new(Arc::new(Flood(ours)), BufPool::new(1 << 20), Arc::clone(&metrics)).unwrap();
        let decisions = Arc::<Decisions>::default();
        let source = source.noting_in(Arc::clone(&decisions));
        let (came, batches) = channel();
        let door = Arc::new(Door { is_full: AtomicBool::new(true), came });
        // No core is left: those that serve have them all.
        let (stop, inlet) = (source.stopper(), Inlet::new(Arc::clone(&door) as _, Cores::new(0)));
        let thread = std::thread::spawn(move || {
            source.run(inlet, |packet| LaneId(packet[0].into()), |error| panic!("{error}"));
        });
        (0..4).for_each(|_| assert!(batches.recv_timeout(PATIENCE).unwrap()));
        let rested = metrics.rest_seconds.get();
        assert!(rested > Duration::ZERO, "it rests after each batch that was refused");
        door.is_full.store(false, Ordering::SeqCst);
        while batches.recv_timeout(PATIENCE).unwrap() {}
        let rested = metrics.rest_seconds.get();
        (0..100).for_each(|_| assert!(!batches.recv_timeout(PATIENCE).unwrap()));
        assert_eq!(metrics.rest_seconds.get(), rested, "it does not rest any more");
        stop.stop();
        thread.join().unwrap();
        let told: Vec<_> =
            decisions.last(Instant::now()).into_iter().map(|(_, it)| (it.controller, it.reason)).collect();
        assert!(told.contains(&(Controller::Ring, READ_IN_VAIN)), "{told:?}");
        assert!(told.contains(&(Controller::Rest, READ_IN_VAIN)), "{told:?}");
    }

    /// A ring that always has a batch more, of which the first packet has waited for 3 ms.
    struct Late(UnixDatagram);

    impl PacketSource for Late {
        fn read_batch(&self, pool: &BufPool, _max: usize, out: &mut Vec<Packet<Raw>>) -> io::Result<Received> {
            out.push(Packet::raw(pool.copy(&[7]).unwrap(), Offload::default()));
            Ok(Received { waited: Some(Duration::from_millis(3)), packets: 1, more: true, ..Received::default() })
        }

        fn fd(&self) -> RawFd {
            self.0.as_raw_fd()
        }

        fn lost(&self) -> usize {
            0
        }
    }

    /// Three datagrams of a flow at each read, and whether they may be joined.
    struct OfAFlow(UnixDatagram, SuperPackets);

    impl PacketSource for OfAFlow {
        fn read_batch(&self, _pool: &BufPool, _max: usize, out: &mut Vec<Packet<Raw>>) -> io::Result<Received> {
            out.extend([b"one", b"two", b"six"].map(|data| udp("192.0.2.1:1", "192.0.2.2:2", data).packet()));
            Ok(Received { packets: 3, more: true, ..Received::default() })
        }

        fn fd(&self) -> RawFd {
            self.0.as_raw_fd()
        }

        fn lost(&self) -> usize {
            0
        }

        fn joins(&self) -> SuperPackets {
            self.1
        }
    }

    /// Tells the segments of each packet that comes.
    struct Segments(Sender<Vec<u32>>);

    impl Port<Packet<Raw>> for Segments {
        fn offer(
            &self,
            _now: Instant,
            _offer: Offer,
            items: &mut Vec<Entry<Packet<Raw>>>,
            _entered: &mut Batch<Packet<Raw>>,
            _refused: &mut Vec<Entry<Packet<Raw>>>,
        ) -> Dropped {
            // Nobody listens any more once it is known.
            drop(self.0.send(items.drain(..).map(|entry| entry.item.segments()).collect()));
            Dropped::default()
        }

        fn run(&self, _now: Instant, _behind: Behind, _entered: &mut Batch<Packet<Raw>>) -> Dropped {
            Dropped::default()
        }

        fn attach(&self, _upstream: Weak<dyn Resume>) -> Upstream {
            unreachable!("a source is no stage")
        }
    }

    #[test]
    fn what_one_read_brings_of_a_flow_is_joined_to_what_the_source_says_and_counted_as_it_came() {
        for (joins, segments) in
            [(SuperPackets::default(), vec![1; 3]), (SuperPackets::TCP, vec![1; 3]), (SuperPackets::ALL, vec![3])]
        {
            let (_peer, ours) = UnixDatagram::pair().unwrap();
            let metrics = StageMetrics::new("source", "uplink", &["lost"]);
            let source =
                Source::new(Arc::new(OfAFlow(ours, joins)), BufPool::new(1 << 20), Arc::clone(&metrics)).unwrap();
            let (told, seen) = channel();
            let (stop, inlet) = (source.stopper(), Inlet::new(Arc::new(Segments(told)), Cores::new(1)));
            let thread = std::thread::spawn(move || source.run(inlet, |_| LaneId(7), |error| panic!("{error}")));
            assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), segments, "{joins:?}");
            stop.stop();
            thread.join().unwrap();
            assert_eq!(metrics.packets_in.get(), metrics.packets_out.get());
            assert_eq!(metrics.packets_in.get() % 3, 0);
        }
    }

    /// Tells what the source says of what is behind.
    struct Behinds(Sender<Behind>);

    impl Port<Packet<Raw>> for Behinds {
        fn offer(
            &self,
            _now: Instant,
            offer: Offer,
            items: &mut Vec<Entry<Packet<Raw>>>,
            _entered: &mut Batch<Packet<Raw>>,
            _refused: &mut Vec<Entry<Packet<Raw>>>,
        ) -> Dropped {
            items.clear();
            self.0.send(offer.behind).unwrap();
            Dropped::default()
        }

        fn run(&self, _now: Instant, _behind: Behind, _entered: &mut Batch<Packet<Raw>>) -> Dropped {
            Dropped::default()
        }

        fn attach(&self, _upstream: Weak<dyn Resume>) -> Upstream {
            unreachable!("a source is no stage")
        }
    }

    #[test]
    fn what_is_late_in_front_of_a_stage_goes_by_how_long_that_lets_things_wait() {
        let behind = |wait_max_ms| {
            let (_peer, ours) = UnixDatagram::pair().unwrap();
            let metrics = StageMetrics::new("source", "uplink", &["lost"]);
            let source = Source::new(Arc::new(Late(ours)), BufPool::new(1 << 20), metrics).unwrap();
            let source = source.in_front_of(Duration::from_millis(wait_max_ms));
            let (told, behinds) = channel();
            let (stop, inlet) = (source.stopper(), Inlet::new(Arc::new(Behinds(told)), Cores::new(1)));
            let thread = std::thread::spawn(move || source.run(inlet, |_| LaneId(7), |error| panic!("{error}")));
            let behind = behinds.recv_timeout(PATIENCE).unwrap();
            stop.stop();
            thread.join().unwrap();
            behind
        };
        assert_eq!([5, 50].map(behind), [Behind::Late, Behind::Unread]);
    }

    #[test]
    fn a_source_that_waits_is_stopped() {
        start(&[]).stop();
    }
}
