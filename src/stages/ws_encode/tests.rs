use std::marker::PhantomData;

use super::testing::to_tether;
use super::*;
use crate::ipv4;
use crate::link::testing::*;
use crate::link::{ACK_EVERY_BYTES, READ_BUDGET_BYTES, Reader};
use crate::packet::{Checksum, Raw};
use crate::packet_builder::{ACK, query, raw, tcp_with, udp};
use crate::runtime::cores::Cores;
use crate::runtime::inlet::Inlet;
use crate::runtime::lanes::LaneId;
use crate::runtime::queue::Fifo;
use crate::runtime::stage::Kept as _;
use crate::tether_links::Windows;
use crate::wire::capsule::{Capsule, Datagram};
use crate::wire::frame::Opcode;
use crate::wire::fuzz::Event;

type Encode = WsEncode<Keeper, Fifo<Packet<Raw>>>;

struct World {
    encode: Encode,
    keeper: Arc<Keeper>,
    link: Arc<Link>,
    tether: Arc<TetherLinks>,
    peer: Peer,
    work: WorkOf<Encode>,
}

fn world_with(windows: Windows, features: Features, pool: BufPool) -> World {
    let (link, tether, peer) = open(windows, features);
    let (tethers, keeper) = (Arc::new(Table::new(4)), Keeper::new());
    tethers.put(TETHER, Arc::clone(&tether));
    let encode = WsEncode { tethers, pool, keeper: Arc::clone(&keeper), queue: PhantomData };
    World { encode, keeper, link, tether, peer, work: WorkOf::<Encode>::default() }
}

const WIDE: Windows = Windows { send_bytes_max: 1 << 30, credit_bytes: Some(1_000) };

fn world() -> World {
    world_with(WIDE, Features::SUPER_PACKETS, BufPool::new(1 << 24))
}

impl World {
    /// Sends packets of one lane; returns the bytes that may follow.
    fn send_on(&mut self, lane: LaneId, packets: impl IntoIterator<Item = Packet<Raw>>) -> Option<u64> {
        self.work.batch.lanes = vec![lane];
        self.work.batch.items = packets.into_iter().map(|item| Entry { origin: lane, lane, item }).collect();
        self.work.outcomes.clear();
        self.encode.handle(Instant::now(), &mut self.work);
        assert!(self.work.batch.items.is_empty());
        match self.work.outcomes[..] {
            [(named, outcome)] if named == lane => outcome.allowance_bytes,
            _ => panic!("{:?}", self.work.outcomes),
        }
    }

    fn send(&mut self, packets: impl IntoIterator<Item = Packet<Raw>>) -> u64 {
        self.send_on(TETHER, packets).expect("a tether's lane is limited")
    }

    fn drops(&self) -> [u64; 2] {
        std::array::from_fn(|reason| self.work.tally.dropped(reason).segments)
    }
}

fn packet(payload: &[u8]) -> Packet<Raw> {
    udp("192.0.2.80:443", "100.64.0.2:4000", payload).packet()
}

/// Three segments of 1,000 bytes.
fn super_packet() -> Packet<Raw> {
    let builder = tcp_with("192.0.2.80:443", "100.64.0.2:4000", ACK, &[], &[7; 3_000]);
    let checksum = Checksum::Partial { start: 20, offset: 16 };
    raw(builder.partial().bytes(), Offload { checksum, segment_bytes: 1_000, header_bytes: 40 })
}

fn datagrams(message: &[u8]) -> Vec<Datagram<'_>> {
    let datagram = |capsule| {
        let Capsule::Datagram(datagram) = capsule else { panic!("no datagram: {capsule:?}") };
        datagram
    };
    capsules(message).into_iter().map(datagram).collect()
}

#[test]
fn the_packets_of_a_batch_share_a_message_and_are_counted_as_sent() {
    let mut world = world();
    let packets = [packet(b"one"), packet(b"two")];
    let bytes: Vec<Vec<u8>> = packets.iter().map(|packet| packet.bytes().to_vec()).collect();
    let allowed = world.send(packets);
    assert_eq!(allowed, world.link.sendable_bytes());
    // The first message also tells the client's credit.
    let message = world.peer.message();
    let mut capsules = capsules(&message);
    assert_eq!(capsules.remove(0), Capsule::Credit(1_000));
    let sent: Vec<&[u8]> = capsules
        .iter()
        .map(|capsule| if let Capsule::Datagram(datagram) = capsule { datagram.payload } else { &[] })
        .collect();
    assert_eq!(sent, bytes);
    assert_eq!((world.work.tally.sent.segments, world.work.tally.sent.bytes), (2, 2 * bytes[0].len() as u64));
    assert_eq!((world.drops(), world.keeper.told()), ([0, 0], vec![]));
}

/// Who writes says for the time of the write that the socket may hold something back, or readiness could come unseen.
#[test]
fn while_another_thread_writes_an_acknowledgement_a_socket_with_room_holds_nobody_back() {
    const BATCHES: usize = 60_000;
    let world = world();
    let World { mut peer, link, tether, keeper, encode, mut work } = world;
    let (acknowledged, pool) = (Arc::clone(&link), keeper.pool.clone());
    let sends = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let (goes_on, reads) = (Arc::clone(&sends), std::thread::spawn(move || while peer.close_code().is_none() {}));
    let acknowledges = std::thread::spawn(move || {
        while goes_on.load(std::sync::atomic::Ordering::Relaxed) {
            acknowledged.count_received(1);
            acknowledged.try_tell_received(Instant::now(), None, &pool).expect("a socket");
        }
    });
    let (mut held_back, mut arrived_bytes) = (0, 0);
    for _ in 0..BATCHES {
        // All has arrived, so that the window is open.
        arrived_bytes += link.in_flight_bytes();
        assert!(link.acked(Instant::now(), arrived_bytes));
        work.batch.lanes = vec![TETHER];
        work.batch.items = vec![Entry { origin: TETHER, lane: TETHER, item: packet(b"one") }];
        work.outcomes.clear();
        encode.handle(Instant::now(), &mut work);
        // Where the peer's thread had no core for long the socket is full indeed, and says so until it is tried again.
        held_back += usize::from(work.outcomes[0].1.allowance_bytes == Some(0) && !link.is_blocked());
        while link.is_blocked() {
            link.flush(&mut link.outbox(), &keeper.pool).expect("a socket");
        }
    }
    sends.store(false, std::sync::atomic::Ordering::Relaxed);
    acknowledges.join().expect("no panic");
    link.close(1_000, "", &keeper.pool);
    reads.join().expect("no panic");
    drop(tether);
    assert_eq!(held_back, 0, "of {BATCHES} batches");
}

#[test]
fn acknowledgement_and_credit_are_told_where_they_say_something_new() {
    let mut world = world();
    world.send([]);
    assert_eq!(capsules(&world.peer.message()), [Capsule::Credit(1_000)]);
    world.link.count_received(600);
    world.send([]);
    assert_eq!(capsules(&world.peer.message()), [Capsule::Ack(600), Capsule::Credit(1_600)]);
    let mut inside = world.encode.pool.copy(b"inside").expect("a buffer");
    inside.charge(world.tether.account(), 400);
    world.link.count_received(400);
    world.send([]);
    assert_eq!(capsules(&world.peer.message()), [Capsule::Ack(1_000)], "what is inside gives no credit");
    drop(inside);
    world.send([]);
    assert_eq!(capsules(&world.peer.message()), [Capsule::Credit(2_000)]);
    world.send([]);
    world.send([packet(b"x")]);
    assert_eq!(datagrams(&world.peer.message()).len(), 1, "nothing new was told in between");
}

#[test]
fn a_scheduled_acknowledgement_goes_with_the_next_packets_or_when_its_time_has_come() {
    let mut world = world();
    world.send([]);
    assert_eq!(capsules(&world.peer.message()), [Capsule::Credit(1_000)]);
    world.link.count_received(2_000);
    assert!(world.link.schedule_ack());
    world.send([]);
    world.send([packet(b"x")]);
    let message = world.peer.message();
    assert_eq!(capsules(&message)[0], Capsule::Ack(2_000), "nothing was told before");
    world.link.count_received(2_000);
    world.send([]);
    assert!(world.link.ack_is_due(false));
    world.send([]);
    assert_eq!(capsules(&world.peer.message())[0], Capsule::Ack(4_000));
}

/// Has the peer ping, and the link read it.
fn ping(world: &mut World, buffer: &mut Vec<u8>, payload: &[u8]) {
    world.peer.send(Opcode::Ping, payload);
    buffer.resize(crate::link::read_buffer_bytes(MESSAGE_BYTES_MAX), 0);
    let (link, read) = (Arc::clone(&world.link), std::cell::Cell::new(false));
    until(
        || {
            let reader = Reader { buffer, pool: None, budget_bytes: READ_BUDGET_BYTES, messages_max: 1 };
            let begun = link.heard();
            drop(link.receive::<crate::link::LinkError>(begun + HEARD, reader, |_| Ok(())));
            read.set(link.heard() > begun);
        },
        || read.get(),
    );
    assert!(world.link.outbox().owes_pong());
}

/// By how much the link's clock is put on where something was read.
const HEARD: std::time::Duration = std::time::Duration::from_millis(1);

/// Sends packets until the socket is full; tells how many.
fn fill(world: &mut World) -> usize {
    let mut packets = 0;
    while !world.link.is_blocked() {
        world.send([packet(&[7; 60_000])]);
        packets += 1;
    }
    packets
}

#[test]
fn a_peer_that_does_not_read_costs_the_same_memory_whatever_it_sends_and_is_told_the_newest_once_it_reads() {
    const TURNS: u32 = 10_000;
    // The kernel finds room for a little more now and then. What was told there is not the newest at the end.
    const TOLD_MEANWHILE_MAX: usize = 100;
    let (mut world, mut buffer) = (world(), Vec::new());
    let mut packets = fill(&mut world);
    for turn in 1..=TURNS {
        ping(&mut world, &mut buffer, format!("{turn:0125}").as_bytes());
        world.link.count_received(ACK_EVERY_BYTES as usize);
        world.send([]);
        packets += fill(&mut world);
        assert_eq!(world.encode.pool.held_bytes(), 0, "after {turn} turns");
        let own_bytes = world.link.outbox().own_bytes();
        assert!(own_bytes < 1_024, "{own_bytes} after {turn} turns");
    }
    let received = u64::from(TURNS) * ACK_EVERY_BYTES;
    let (mut pongs, mut told) = (Vec::new(), Vec::new());
    while packets > 0 || !told.ends_with(&[received, received + 1_000]) {
        if world.link.is_blocked() {
            world.send([]);
        }
        let event = world.peer.next();
        if let Event::Pong(payload) = event {
            pongs.push(String::from_utf8(payload).expect("digits"));
            continue;
        }
        let Event::Message(message) = event else { panic!("{event:?}") };
        for capsule in capsules(&message) {
            if let Capsule::Ack(offset) | Capsule::Credit(offset) = capsule {
                told.push(offset);
            } else {
                packets -= 1;
            }
        }
    }
    assert_eq!(pongs.last(), Some(&format!("{TURNS:0125}")));
    assert!(pongs.len().max(told.len()) < TOLD_MEANWHILE_MAX, "{} pongs, {told:?}", pongs.len());
    world.send([packet(b"last")]);
    assert_eq!(datagrams(&world.peer.message()).len(), 1, "nothing came behind them");
}

#[test]
fn acknowledgement_credit_and_pong_need_no_buffer_and_what_was_told_is_known_to_be_told() {
    let mut world = world_with(WIDE, Features::SUPER_PACKETS, BufPool::new(0));
    ping(&mut world, &mut Vec::new(), b"are you there");
    world.link.outbox().ping();
    world.link.count_received(600);
    world.send([]);
    assert_eq!(world.peer.next(), Event::Pong(b"are you there".to_vec()));
    assert_eq!(world.peer.next(), Event::Ping(vec![]));
    assert_eq!(capsules(&world.peer.message()), [Capsule::Ack(600), Capsule::Credit(1_600)]);
    world.link.count_received(400);
    world.send([packet(b"x")]);
    let message = world.peer.message();
    assert_eq!(capsules(&message)[..2], [Capsule::Ack(1_000), Capsule::Credit(2_000)], "and share a packet's message");
    assert_eq!(capsules(&message).len(), 3);
}

#[test]
fn a_ping_is_answered_with_its_own_bytes() {
    let mut world = world();
    ping(&mut world, &mut Vec::new(), b"are you there");
    world.send([]);
    assert_eq!(world.peer.next(), Event::Pong(b"are you there".to_vec()));
}

#[test]
fn a_full_window_stops_the_lane_until_the_client_acknowledges() {
    let mut world =
        world_with(Windows { send_bytes_max: 100, credit_bytes: None }, Features::default(), BufPool::new(1 << 24));
    let left = world.send([packet(&[0; 20])]);
    assert_eq!(left, 100 - world.link.in_flight_bytes());
    assert_eq!(world.send([packet(&[0; 20])]), 0);
    assert!(world.tether.window_opened(), "somebody waits");
    assert!(world.link.in_flight_bytes() > 100, "one batch may pass the window's end, and no more");
    assert!(world.link.acked(Instant::now(), world.link.in_flight_bytes()));
    assert_eq!(world.send([]), 100);
    assert_eq!(world.drops(), [0, 0]);
}

#[test]
fn a_peer_that_does_not_read_stops_the_lane_and_loses_nothing() {
    let mut world = world();
    let mut batches = 0_u32;
    let batch = |number: u32| (0..40).map(move |_| packet(&[&number.to_be_bytes()[..], &[7; 1_400]].concat()));
    while !world.link.is_blocked() {
        let allowed = world.send(batch(batches));
        batches += 1;
        assert!(allowed == 0 || !world.link.is_blocked());
        assert!(batches < 10_000, "a socket has an end");
    }
    let socket_is_full = world.send([]);
    assert_eq!(socket_is_full, 0);
    let mut numbers: Vec<u32> = Vec::new();
    while numbers.len() < 40 * batches as usize {
        if world.link.is_blocked() {
            world.send([]);
        }
        for capsule in capsules(&world.peer.message()) {
            if let Capsule::Datagram(datagram) = capsule {
                numbers.push(u32::from_be_bytes(datagram.payload[28..32].try_into().expect("4 bytes")));
            }
        }
    }
    assert!(numbers.is_sorted() && numbers.last() == Some(&(batches - 1)));
    assert!(world.link.acked(Instant::now(), world.link.in_flight_bytes()));
    assert!(world.send([]) > 0, "it goes on");
    assert_eq!((world.drops(), world.work.tally.sent.segments), ([0, 0], u64::from(40 * batches)));
}

#[test]
fn a_super_packet_goes_whole_to_a_client_that_takes_it() {
    let mut world = world();
    world.link.tell_received(Instant::now(), &mut Outbox::default(), Some(1_000));
    world.send([super_packet()]);
    let message = world.peer.message();
    let datagrams = datagrams(&message);
    assert_eq!((datagrams.len(), datagrams[0].offload), (1, Some(super_packet().offload())));
    assert_eq!((world.work.tally.sent.segments, world.drops()), (3, [0, 0]));
}

#[test]
fn a_super_packet_is_cut_for_a_client_that_takes_single_ones_alone() {
    let mut world = world_with(Windows { credit_bytes: None, ..WIDE }, Features::default(), BufPool::new(1 << 24));
    world.send([super_packet(), packet(b"x")]);
    let message = world.peer.message();
    let datagrams = datagrams(&message);
    assert!(datagrams.iter().all(|datagram| datagram.offload == Some(Offload::default())));
    assert_eq!(datagrams.iter().map(|datagram| datagram.payload.len()).collect::<Vec<_>>(), [1_040, 1_040, 1_040, 29]);
    assert_eq!((world.work.tally.sent.segments, world.drops()), (4, [0, 0]));
}

#[test]
fn on_a_slow_link_the_segments_of_a_flow_share_their_headers_where_the_client_takes_that() {
    for (cut_bytes, features, expected) in [
        (1_508, Features::SUPER_PACKETS, vec![3_040]),
        (u64::MAX, Features::SUPER_PACKETS, vec![1_040; 3]),
        (1_508, Features::default(), vec![1_040; 3]),
    ] {
        let mut world = world_with(Windows { credit_bytes: None, ..WIDE }, features, BufPool::new(1 << 24));
        world.tether.set_cut_bytes(cut_bytes);
        let mut singles = Vec::new();
        offload::segment(super_packet(), &world.encode.pool, &mut |single| singles.push(single)).expect("room");
        let bytes: u64 = singles.iter().map(|single| single.len() as u64).sum();
        world.send(singles);
        let message = world.peer.message();
        let sent: Vec<_> = datagrams(&message).iter().map(|datagram| datagram.payload.len()).collect();
        assert_eq!(sent, expected, "{cut_bytes} {features:?}");
        let tally = &world.work.tally.sent;
        assert_eq!((tally.segments, tally.bytes, world.drops()), (3, bytes, [0, 0]), "what left the queue is counted");
    }
}

#[test]
fn segments_that_find_no_buffer_are_dropped_and_counted_and_the_last_keeps_the_packets_own() {
    let mut world = world_with(Windows { credit_bytes: None, ..WIDE }, Features::default(), BufPool::new(0));
    world.send([super_packet()]);
    assert_eq!((world.work.tally.sent.segments, world.drops()), (1, [0, 2]));
}

#[test]
fn where_nobody_is_linked_packets_are_dropped_and_counted() {
    let mut world = world();
    assert_eq!(world.send_on(LaneId(2), [packet(b"no tether"), super_packet()]), Some(BATCH_BYTES_MAX));
    assert_eq!(world.drops(), [4, 0]);
    world.tether.leave(&world.link);
    assert_eq!(world.send([packet(b"no link")]), BATCH_BYTES_MAX, "what is behind it goes the same way");
    assert_eq!((world.drops(), world.work.tally.sent.segments), ([5, 0], 0));
}

#[test]
fn a_link_that_broke_is_told_and_its_lane_does_not_wait_for_it() {
    let mut world = world();
    world.link.abandon();
    assert_eq!(world.send([packet(b"x")]), BATCH_BYTES_MAX);
    assert_eq!(world.drops(), [1, 0], "a closed link is no link");
    let mut world = self::world();
    world.link.transport().shut();
    assert_eq!(world.send([packet(b"x")]), BATCH_BYTES_MAX);
    assert_eq!(world.keeper.told(), [Told::Ended]);
}

/// How many packets are ahead of a ping that comes behind a bulk flow's: no more than leave in one turn of it.
const AHEAD_OF_A_PING_MAX: usize = 3;

#[test]
fn a_ping_to_a_tether_does_not_wait_behind_the_tethers_own_bulk_flow() {
    let bulk = || to_tether(&udp("192.0.2.80:443", "100.64.0.2:4000", &[7; 1_372]));
    let ping = to_tether(&query("192.0.2.80", "100.64.0.2", 0, 7));
    let is_ping = |datagram: &Datagram<'_>| datagram.payload[ipv4::PROTOCOL] == ipv4::ICMP;
    let (window, keeper) = (Windows { send_bytes_max: 3_000, credit_bytes: None }, Keeper::new());
    let (link, tether, mut peer) = open(window, Features::SUPER_PACKETS);
    let tethers = Arc::new(Table::new(4));
    tethers.put(TETHER, tether);
    let stage = testing::stage(&keeper, &tethers, &keeper.pool, 1_000);
    let stages = crate::runtime::keeper::Keeper::new(vec![Arc::clone(&stage) as _], Cores::new(1));
    let mut inlet = Inlet::new(Arc::clone(&stage) as _, Cores::new(1));
    let mut push = |packets: Vec<_>| {
        let entry = |item| Entry { origin: TETHER, lane: TETHER, item };
        inlet.push(Instant::now(), false, &mut packets.into_iter().map(entry).collect());
    };
    push((0..3).map(|_| bulk()).collect());
    stages.start().expect("a thread");
    until(|| {}, || link.sendable_bytes() == 0 && stage.metrics().queue_packets.get() == 0);
    // The window is full, so that what comes now waits.
    push((0..100).map(|_| bulk()).chain([ping]).collect());
    let (mut seen, mut ahead) = (0, None);
    while ahead.is_none() {
        let message = peer.message();
        let of_message = datagrams(&message);
        ahead = of_message.iter().position(is_ping).map(|at| seen + at);
        seen += of_message.len();
        assert!(link.acked(Instant::now(), link.acked_bytes() + link.in_flight_bytes()));
        stage.poke(TETHER);
    }
    assert!(ahead.is_some_and(|ahead| ahead <= 3 + AHEAD_OF_A_PING_MAX), "{ahead:?} were ahead of it");
    assert!(stage.metrics().queue_packets.get() > 0, "the others still wait");
    assert_eq!(stages.stop(), Vec::<&str>::new());
}
