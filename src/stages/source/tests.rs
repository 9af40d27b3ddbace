#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::metrics::decisions::{Controller, READ_IN_VAIN};
use crate::packet::Offload;
use crate::packet_builder::udp;
use crate::runtime::cores::Cores;
use crate::runtime::port::{Behind, Dropped, Offer, Port};
use crate::stages::testing::Takes;

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

/// What is offered to the first stage.
type Items = Vec<Entry<Packet<Raw>>>;

struct Running {
    peer: UnixDatagram,
    /// Lane and bytes, and whether the source had more.
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
    let first_stage = Takes(move |offer: Offer, items: &mut Items| {
        for entry in items.drain(..) {
            sink.send((entry.lane, entry.item.bytes().to_vec(), offer.behind != Behind::Nothing)).unwrap();
        }
        Dropped::default()
    });
    let (stop, inlet) = (source.stopper(), Inlet::new(Arc::new(first_stage), Cores::new(1)));
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

#[test]
fn under_a_flood_that_is_refused_a_source_rests_and_stops_resting_when_there_is_room() {
    let (_peer, ours) = UnixDatagram::pair().unwrap();
    let metrics = StageMetrics::new("source", "uplink", &["lost"]);
    let source = Source::new(Arc::new(Flood(ours)), BufPool::new(1 << 20), Arc::clone(&metrics)).unwrap();
    let decisions = Arc::<Decisions>::default();
    let source = source.noting_in(Arc::clone(&decisions));
    let (came, batches) = channel();
    let is_full = Arc::new(AtomicBool::new(true));
    let first_is_full = Arc::clone(&is_full);
    let first_stage = Takes(move |_, items: &mut Items| {
        let (count, is_full) = (items.drain(..).count(), first_is_full.load(Ordering::SeqCst));
        came.send(is_full).unwrap();
        if is_full { Dropped { items: count, lanes: count } } else { Dropped::default() }
    });
    // No core is left: those that serve have them all.
    let (stop, inlet) = (source.stopper(), Inlet::new(Arc::new(first_stage), Cores::new(0)));
    let thread = std::thread::spawn(move || {
        source.run(inlet, |packet| LaneId(packet[0].into()), |error| panic!("{error}"));
    });
    (0..4).for_each(|_| assert!(batches.recv_timeout(PATIENCE).unwrap()));
    let rested = metrics.rest_seconds.get();
    assert!(rested > Duration::ZERO, "it rests after each batch that was refused");
    is_full.store(false, Ordering::SeqCst);
    while batches.recv_timeout(PATIENCE).unwrap() {}
    let rested = metrics.rest_seconds.get();
    (0..100).for_each(|_| assert!(!batches.recv_timeout(PATIENCE).unwrap()));
    assert_eq!(metrics.rest_seconds.get(), rested, "it does not rest any more");
    stop.stop();
    thread.join().unwrap();
    let told: Vec<_> = decisions.last(Instant::now()).into_iter().map(|(_, it)| (it.controller, it.reason)).collect();
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

/// A first stage that takes all in, and tells something of each offer.
fn telling<T: Send + 'static>(tell: fn(Offer, &Items) -> T) -> (Arc<dyn Port<Packet<Raw>>>, Receiver<T>) {
    let (told, seen) = channel();
    let first_stage = Takes(move |offer, items: &mut Items| {
        // Nobody listens any more once it is known.
        drop(told.send(tell(offer, items)));
        items.clear();
        Dropped::default()
    });
    (Arc::new(first_stage), seen)
}

#[test]
fn what_one_read_brings_of_a_flow_is_joined_to_what_the_source_says_and_counted_as_it_came() {
    for (joins, segments) in
        [(SuperPackets::default(), vec![1; 3]), (SuperPackets::TCP, vec![1; 3]), (SuperPackets::ALL, vec![3])]
    {
        let (_peer, ours) = UnixDatagram::pair().unwrap();
        let metrics = StageMetrics::new("source", "uplink", &["lost"]);
        let source = Source::new(Arc::new(OfAFlow(ours, joins)), BufPool::new(1 << 20), Arc::clone(&metrics)).unwrap();
        let (first_stage, seen) =
            telling(|_, items| items.iter().map(|entry| entry.item.segments()).collect::<Vec<_>>());
        let (stop, inlet) = (source.stopper(), Inlet::new(first_stage, Cores::new(1)));
        let thread = std::thread::spawn(move || source.run(inlet, |_| LaneId(7), |error| panic!("{error}")));
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), segments, "{joins:?}");
        stop.stop();
        thread.join().unwrap();
        assert_eq!(metrics.packets_in.get(), metrics.packets_out.get());
        assert_eq!(metrics.packets_in.get() % 3, 0);
    }
}

#[test]
fn what_is_late_in_front_of_a_stage_goes_by_how_long_that_lets_things_wait() {
    let behind = |wait_max_ms| {
        let (_peer, ours) = UnixDatagram::pair().unwrap();
        let metrics = StageMetrics::new("source", "uplink", &["lost"]);
        let source = Source::new(Arc::new(Late(ours)), BufPool::new(1 << 20), metrics).unwrap();
        let source = source.in_front_of(Duration::from_millis(wait_max_ms));
        let (first_stage, behinds) = telling(|offer, _| offer.behind);
        let (stop, inlet) = (source.stopper(), Inlet::new(first_stage, Cores::new(1)));
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
