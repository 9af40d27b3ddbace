use std::time::Duration;

use super::*;
use crate::link::ACK_EVERY_BYTES;
use crate::link::testing::*;
use crate::packet::{Checksum, Offload};
use crate::packet_builder::udp;
use crate::runtime::queue::Signal;
use crate::tether_links::Windows;
use crate::wire::capsule::{
    AssignedAddress, CONTEXT_SUPER_PACKET, Challenge, CloseReason, Features, Prefix, append_ack, append_address_assign,
    append_address_request, append_close, append_credit, append_routes, datagram_header,
};
use crate::wire::frame::{self, Opcode};

struct World {
    decode: WsDecode<Keeper>,
    keeper: Arc<Keeper>,
    link: Arc<Link>,
    tether: Arc<TetherLinks>,
    peer: Peer,
    work: WorkOf<WsDecode<Keeper>>,
}

fn world_with(windows: Windows, pool: BufPool) -> World {
    world_of(windows, Features::SUPER_PACKETS, pool)
}

fn world_of(windows: Windows, features: Features, pool: BufPool) -> World {
    let (link, tether, peer) = open(windows, features);
    let (links, keeper) = (Arc::new(Table::new(8)), Keeper::new());
    links.put(LINK, Arc::clone(&link));
    let decode = WsDecode { links, pool, message_bytes_max: MESSAGE_BYTES_MAX, keeper: Arc::clone(&keeper) };
    World { decode, keeper, link, tether, peer, work: WorkOf::<WsDecode<Keeper>>::default() }
}

fn world() -> World {
    world_with(Windows { send_bytes_max: 1 << 20, credit_bytes: Some(1 << 20) }, BufPool::new(1 << 24))
}

impl World {
    /// Handles the link until so many segments came in.
    fn receive(&mut self, segments: u64) {
        let Self { decode, work, .. } = self;
        let begin = std::cell::Cell::new(0);
        until(
            || {
                work.batch.lanes = vec![LINK];
                decode.handle(Instant::now(), work);
                begin.set(work.tally.received.segments);
            },
            || begin.get() >= segments,
        );
    }

    /// Handles the link until the keeper was told something.
    fn receive_until_told(&mut self) -> Vec<Told> {
        let Self { decode, work, keeper, .. } = self;
        until(
            || {
                work.batch.lanes = vec![LINK];
                decode.handle(Instant::now(), work);
            },
            || !keeper.told().is_empty(),
        );
        keeper.told()
    }

    fn drops(&self) -> [u64; 3] {
        std::array::from_fn(|reason| self.work.tally.dropped(reason).segments)
    }

    fn lanes(&self) -> Vec<(LaneId, LaneId)> {
        self.work.out.iter().map(|entry| (entry.origin, entry.lane)).collect()
    }
}

fn datagram(packet: &[u8]) -> Vec<u8> {
    [&datagram_header(packet.len(), Offload::default())[..], packet].concat()
}

fn packet() -> Vec<u8> {
    udp("100.64.0.2:4000", "192.0.2.80:443", b"question").bytes()
}

#[test]
fn a_super_packet_leaves_in_the_buffer_that_it_was_read_to_and_what_is_beside_it_in_one_of_its_size() {
    let mut world = world();
    let offload = Offload { segment_bytes: 1_400, header_bytes: 40, ..Offload::default() };
    let large: Vec<u8> = (0..60_000_u32).map(|at| at as u8).collect();
    let super_packet = [&datagram_header(large.len(), offload)[..], &large].concat();
    let ack = written(|out| append_ack(0, out));
    let (ack_bytes, message) = (ack.len() as u64, [ack, datagram(&packet()), super_packet].concat());
    let frame = framed(Opcode::Binary, &message, KEY);
    // The start comes by itself: what comes whole is decoded where it was read.
    world.peer.send_bytes(&frame[..20_000]);
    until(
        || {
            world.work.batch.lanes = vec![LINK];
            world.decode.handle(Instant::now(), &mut world.work);
        },
        || world.decode.pool.held_bytes() > 0,
    );
    assert!(world.work.out.is_empty(), "it counts when it is whole");
    world.peer.send_bytes(&frame[20_000..]);
    world.receive(2);
    let [small, came] = &world.work.out[..] else { panic!("two packets") };
    assert_eq!((small.item.bytes(), small.item.buf().held_bytes()), (&packet()[..], 256));
    assert!(came.item.bytes() == large);
    assert_eq!((came.item.offload(), came.item.buf().held_bytes()), (offload, 65_664));
    assert_eq!(world.decode.pool.budget().held_bytes(), 65_664 + 256, "no other buffer was ever taken");
    assert_eq!(world.drops(), [0, 0, 0]);
    assert_eq!(
        (world.link.received_bytes(), world.tether.account().inside_bytes()),
        (message.len() as u64 - ack_bytes, message.len() as u64 - ack_bytes),
        "all but the ACK"
    );
}

/// A datagram of context 2 with nothing left to be done: even that needs the feature.
fn plain_super_packet(packet: &[u8]) -> Vec<u8> {
    let value = [&[CONTEXT_SUPER_PACKET as u8, 0, 0, 0, 0, 0], packet].concat();
    [&[0x00, value.len() as u8], &value[..]].concat()
}

#[test]
fn a_super_packet_is_of_an_unknown_context_where_it_was_not_agreed_on() {
    let whole = datagram(&packet());
    let partial = Offload { checksum: Checksum::Partial { start: 20, offset: 6 }, ..Offload::default() };
    let summed = [&datagram_header(packet().len(), partial)[..], &packet()].concat();
    let message = [whole, summed, plain_super_packet(&packet())].concat();
    for (features, dropped) in [(Features::default(), 2), (Features::SUPER_PACKETS, 0)] {
        let windows = Windows { send_bytes_max: 1 << 20, credit_bytes: Some(1 << 20) };
        let mut world = world_of(windows, features, BufPool::new(1 << 24));
        world.peer.send(Opcode::Binary, &message);
        world.receive(3);
        assert_eq!((world.work.out.len(), world.drops()), (3 - dropped, [dropped as u64, 0, 0]), "{features:?}");
        assert_eq!(world.link.received_bytes(), message.len() as u64, "it counts as any other");
    }
}

#[test]
fn a_broken_super_packet_ends_the_link_only_where_super_packets_were_agreed_on() {
    let broken = [0x00, 3, CONTEXT_SUPER_PACKET as u8, 0, 0];
    let windows = Windows { send_bytes_max: 1 << 20, credit_bytes: Some(1 << 20) };
    let mut world = world_of(windows, Features::default(), BufPool::new(1 << 24));
    world.peer.send(Opcode::Binary, &broken);
    world.receive(1);
    assert_eq!((world.drops(), world.link.is_open(), world.link.received_bytes()), ([1, 0, 0], true, 5));
    assert_ends("a broken super-packet", &framed(Opcode::Binary, &broken, KEY), &Told::Close(1002), 1002);
}

const UNKNOWN_CONTEXT: [u8; 6] = [0x00, 4, 5, 1, 2, 3];

#[test]
fn each_packet_of_a_message_goes_to_the_tethers_lane_and_counts_for_its_credit() {
    let mut world = world();
    let message = [datagram(&packet()), datagram(&packet())].concat();
    world.peer.send(Opcode::Binary, &message);
    world.receive(2);
    assert_eq!(world.lanes(), [(LINK, TETHER); 2]);
    assert!(world.work.out.iter().all(|entry| entry.item.bytes() == packet()));
    assert_eq!((world.work.tally.received.segments, world.work.tally.received.bytes), (2, 2 * packet().len() as u64));
    assert_eq!(world.drops(), [0, 0, 0]);
    assert_eq!(
        (world.link.received_bytes(), world.tether.account().inside_bytes()),
        (message.len() as u64, message.len() as u64)
    );
    world.work.out.clear();
    assert_eq!(world.tether.account().inside_bytes(), 0);
}

#[test]
fn a_message_that_comes_in_pieces_is_one_message() {
    let mut world = world();
    let mut frame = Vec::new();
    frame::append(Opcode::Binary, &datagram(&packet()), Some([9; 4]), &mut frame);
    for piece in frame.chunks(5) {
        world.peer.send_bytes(piece);
        world.work.batch.lanes = vec![LINK];
        world.decode.handle(Instant::now(), &mut world.work);
    }
    world.receive(1);
    assert_eq!((world.work.out.len(), world.drops()), (1, [0, 0, 0]));
}

#[test]
fn a_datagram_of_another_context_is_dropped_counted_and_acknowledged() {
    let mut world = world();
    world.peer.send(Opcode::Binary, &UNKNOWN_CONTEXT);
    world.receive(1);
    assert_eq!((world.drops(), world.work.out.len(), world.work.tally.received.bytes), ([1, 0, 0], 0, 3));
    assert_eq!((world.link.received_bytes(), world.keeper.told()), (6, vec![Told::AckLater]));
}

#[test]
fn what_is_beyond_the_credit_is_dropped_until_something_has_left() {
    let windows = Windows { send_bytes_max: 1 << 20, credit_bytes: Some(10) };
    let pool = BufPool::new(1 << 24);
    let mut world = world_with(windows, pool.clone());
    // All of the credit, and the packet that may cross the line, are inside already.
    let mut held = pool.take(1).expect("a buffer");
    held.charge(world.tether.account(), 10 + SLACK_BYTES);
    world.peer.send(Opcode::Binary, &[datagram(&packet()), datagram(&packet())].concat());
    world.receive(2);
    assert_eq!((world.work.out.len(), world.drops()), (1, [0, 1, 0]));
    world.work.out.clear();
    world.peer.send(Opcode::Binary, &datagram(&packet()));
    world.receive(3);
    assert_eq!((world.work.out.len(), world.drops()), (1, [0, 1, 0]));
}

#[test]
fn without_a_buffer_a_packet_is_dropped_and_the_link_goes_on() {
    let windows = Windows { send_bytes_max: 1 << 20, credit_bytes: Some(1 << 20) };
    let mut world = world_with(windows, BufPool::new(256));
    world.peer.send(Opcode::Binary, &[datagram(&packet()), datagram(&packet())].concat());
    world.receive(2);
    assert_eq!((world.work.out.len(), world.drops()), (1, [0, 0, 1]));
    world.work.out.clear();
    world.peer.send(Opcode::Binary, &datagram(&packet()));
    world.receive(3);
    assert_eq!((world.work.out.len(), world.drops(), world.link.is_open()), (1, [0, 0, 1], true));
}

/// Frames of one payload.
fn framed(opcode: Opcode, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mut frame = Vec::new();
    frame::append(opcode, payload, key, &mut frame);
    frame
}

fn written(append: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    append(&mut out);
    out
}

#[test]
fn who_breaks_a_rule_is_closed_with_the_rules_code() {
    let challenge = Challenge { nonce: crate::wire::proof::Nonce([1; 32]) };
    let too_big = &frame::header(Opcode::Binary, MESSAGE_BYTES_MAX + 1, KEY)[..];
    let cases: [(&str, Vec<u8>, u16); 6] = [
        ("a frame without a mask", framed(Opcode::Binary, b"", None), 1002),
        ("reserved bits", vec![0xf2, 0x80, 0, 0, 0, 0], 1002),
        ("text where binary was agreed on", framed(Opcode::Text, b"AAAA", KEY), 1003),
        ("a message beyond the limit", too_big.to_vec(), 1009),
        ("a capsule longer than its message", framed(Opcode::Binary, &[0x00, 60, 0], KEY), 1002),
        ("a capsule of the handshake", framed(Opcode::Binary, &written(|out| challenge.append(out)), KEY), 1002),
    ];
    for (what, bytes, code) in cases {
        assert_ends(what, &bytes, &Told::Close(code), code);
    }
}

#[test]
fn who_says_goodbye_is_answered_and_its_reason_is_passed_on() {
    assert_ends("a frame that closes", &framed(Opcode::Close, &1000_u16.to_be_bytes(), KEY), &Told::Closed(None), 1000);
    let reason = CloseReason::ShuttingDown;
    let capsule = framed(Opcode::Binary, &written(|out| append_close(reason, "bye", out)), KEY);
    assert_ends("a capsule that closes", &capsule, &Told::Closed(Some(reason)), 1000);
}

/// A client's mask.
const KEY: Option<[u8; 4]> = Some([7; 4]);

/// Those bytes end the link, with that said to its keeper and that code to the peer.
fn assert_ends(what: &str, bytes: &[u8], told: &Told, code: u16) {
    let mut world = world();
    world.peer.send_bytes(bytes);
    assert_eq!(&world.receive_until_told(), std::slice::from_ref(told), "{what}");
    assert_eq!(world.peer.close_code(), Some(code), "{what}");
    assert_eq!((world.work.out.len(), world.drops(), world.link.is_closed()), (0, [0, 0, 0], true), "{what}");
}

#[test]
fn what_came_before_a_broken_rule_goes_on() {
    let mut world = world();
    world.peer.send(Opcode::Binary, &[datagram(&packet()), vec![0x00, 60, 0]].concat());
    let told = world.receive_until_told();
    assert!(told.contains(&Told::Close(1002)), "{told:?}");
    assert_eq!((world.work.out.len(), world.drops()), (1, [0, 0, 0]));
}

#[test]
fn a_peer_that_goes_without_a_word_ends_the_link() {
    let mut world = world();
    world.peer.leave();
    assert_eq!(world.receive_until_told(), [Told::Ended]);
    world.keeper.forget();
    world.work.batch.lanes = vec![LINK];
    world.decode.handle(Instant::now(), &mut world.work);
    assert_eq!(world.keeper.told(), [], "a closed link is not read");
}

#[test]
fn a_ping_asks_for_an_answer_at_once() {
    let mut world = world();
    world.peer.send(Opcode::Ping, b"are you there");
    assert_eq!(world.receive_until_told(), [Told::Control(TETHER)]);
    assert!(world.link.outbox().owes_pong());
}

/// Two datagrams that are acknowledged at once.
fn much() -> Vec<u8> {
    datagram(&[0x45; ACK_EVERY_BYTES as usize / 2]).repeat(2)
}

#[test]
fn little_is_acknowledged_soon_and_much_at_once() {
    let mut world = world();
    world.peer.send(Opcode::Binary, &datagram(&packet()));
    world.receive(1);
    world.peer.send(Opcode::Binary, &datagram(&packet()));
    world.receive(2);
    assert_eq!(world.keeper.told(), [Told::AckLater], "scheduled once");
    world.keeper.forget();
    world.peer.send(Opcode::Binary, &much());
    world.receive(4);
    let received = world.link.received_bytes();
    assert_eq!(capsules(&world.peer.message())[0], Capsule::Ack(received));
    assert_eq!((world.keeper.told(), world.link.unacknowledged_bytes()), (vec![], 0), "nobody was woken for it");
}

#[test]
fn who_is_writing_to_the_link_sends_the_acknowledgement_too() {
    let mut world = world();
    let (link, keeper) = (Arc::clone(&world.link), Arc::clone(&world.keeper));
    world.peer.send(Opcode::Binary, &much());
    world.receive(2);
    drop(world.peer.message());
    link.count_received(ACK_EVERY_BYTES as usize);
    let writing = link.outbox();
    assert!(!link.try_tell_received(Instant::now(), None, &keeper.pool).expect("a socket"));
    drop(writing);
    assert_eq!(link.unacknowledged_bytes(), ACK_EVERY_BYTES);
    assert!(link.try_tell_received(Instant::now(), None, &keeper.pool).expect("a socket"));
    assert_eq!(link.unacknowledged_bytes(), 0);
}

#[test]
fn an_acknowledgement_opens_the_window_for_who_waits_and_wakes_nobody_else() {
    let mut world = world();
    let ack = written(|out| append_ack(0, out));
    world.peer.send(Opcode::Binary, &[&ack[..], &datagram(&packet())].concat());
    world.receive(1);
    assert_eq!(world.keeper.told(), [Told::AckLater]);
    world.keeper.forget();
    world.tether.wait_for_window();
    world.peer.send(Opcode::Binary, &ack);
    assert_eq!(world.receive_until_told()[0], Told::Control(TETHER));
}

impl World {
    /// Sends a packet on the link, which its peer has to acknowledge; tells up to where.
    fn owes_an_acknowledgement(&self) -> u64 {
        let buf = self.decode.pool.copy(&packet()).expect("room");
        self.link.push_datagram(&mut self.link.outbox(), buf, Offload::default());
        self.link.in_flight_bytes()
    }

    /// Hears the link, which has no turn, until so many messages and pings were heard.
    fn hear(&self, count: usize) {
        let heard = std::cell::Cell::new(0);
        let listen = || listen(&*self.keeper, Instant::now(), &self.link, MESSAGE_BYTES_MAX);
        let count_more = |Heard { messages, pings, .. }| heard.set(heard.get() + messages + pings);
        until(|| count_more(listen()), || heard.get() >= count);
    }
}

#[test]
fn what_a_link_acknowledges_behind_packets_that_wait_is_heard_before_them_and_breaks_no_rule_in_its_turn() {
    let mut world = world();
    let sent = world.owes_an_acknowledgement();
    world.tether.wait_for_window();
    for acked in [sent / 2, sent] {
        let ack = written(|out| append_ack(acked, out));
        world.peer.send(Opcode::Binary, &[datagram(&packet()), ack].concat());
    }
    world.hear(2);
    assert_eq!((world.link.acked_bytes(), world.link.in_flight_bytes()), (sent, 0));
    assert_eq!((world.keeper.told(), world.tether.account().inside_bytes()), (vec![Told::Control(TETHER)], 0));
    // In their turn the packets come, and nothing is acknowledged again: the older one would go back.
    world.receive(2);
    assert_eq!((world.work.out.len(), world.drops(), world.link.is_open()), (2, [0, 0, 0], true));
    assert_eq!(world.link.received_bytes(), 2 * datagram(&packet()).len() as u64);
    world.owes_an_acknowledgement();
    // What is impossible breaks a rule in its turn, behind what came before it, whether it was seen earlier or not.
    world.peer.send(Opcode::Binary, &[datagram(&packet()), written(|out| append_ack(3 * sent, out))].concat());
    world.keeper.forget();
    assert_eq!(listen(&*world.keeper, Instant::now(), &world.link, MESSAGE_BYTES_MAX).messages, 0);
    assert!(world.link.is_open());
    assert_eq!(world.receive_until_told().last(), Some(&Told::Close(1002)));
    assert_eq!(world.work.out.len(), 3);
}

#[test]
fn a_ping_behind_packets_that_wait_asks_for_its_answer_before_them() {
    let world = &mut world();
    world.peer.send(Opcode::Binary, &datagram(&packet()));
    world.peer.send(Opcode::Ping, b"well?");
    let unasked = listen(&*world.keeper, Instant::now(), &world.link, MESSAGE_BYTES_MAX);
    assert_eq!(unasked, Heard::default(), "who owes nothing has its turn");
    world.owes_an_acknowledgement();
    world.hear(2);
    assert_eq!(world.keeper.told(), [Told::Control(TETHER)]);
    assert!(world.link.outbox().owes_pong());
}

#[test]
fn a_request_for_addresses_breaks_no_rule_but_a_client_that_grants_credit_does() {
    let mut world = world();
    let request = written(|out| {
        let wanted = AssignedAddress { request_id: 1, prefix: Prefix::host([100, 64, 0, 2].into()) };
        append_address_request(&[wanted], out);
    });
    world.peer.send(Opcode::Binary, &[request, datagram(&packet())].concat());
    world.receive(1);
    assert_eq!((world.work.out.len(), world.link.is_open()), (1, true));
    let credit = framed(Opcode::Binary, &written(|out| append_credit(5, out)), KEY);
    assert_ends("credit from a client", &credit, &Told::Close(1002), 1002);
}

#[test]
fn a_client_that_is_told_other_terms_ends_the_link_to_take_them_up_by_the_next_handshake() {
    let lease = written(|out| {
        append_address_assign(&[AssignedAddress { request_id: 0, prefix: Prefix::host([100, 64, 0, 9].into()) }], out);
    });
    for terms in [lease, written(|out| append_routes(&[], out))] {
        let mut world = world_with(Windows { send_bytes_max: 1 << 20, credit_bytes: None }, BufPool::new(1 << 24));
        world.peer.send(Opcode::Binary, &[datagram(&packet()), terms].concat());
        assert_eq!(world.receive_until_told().last(), Some(&Told::Close(1000)));
        assert_eq!(world.work.out.len(), 1, "what came before them goes on");
    }
}

#[test]
fn the_more_links_are_read_the_less_each_of_them_brings_in_its_turn() {
    assert_eq!([1, 2, 8, 1_000].map(turn_bytes), [READ_BUDGET_ALONE_BYTES, 131_072, 32_768, READ_TURN_BYTES_MIN]);
    let shared_by_most = READ_BUDGET_BYTES / READ_TURN_BYTES_MIN;
    assert_eq!((2..=shared_by_most).map(|links| links * turn_bytes(links)).max(), Some(READ_BUDGET_BYTES));
}

#[test]
fn a_link_brings_less_in_its_turn_where_others_wait_for_theirs() {
    let mut world = world();
    // Some turns' worth, and no more than a socket holds unread.
    let frames: Vec<u8> = (0..400).flat_map(|_| framed(Opcode::Binary, &datagram(&packet()), KEY)).collect();
    world.peer.send_bytes(&frames);
    let mut brought = |others: usize| {
        (world.work.batch.lanes, world.work.batch.others) = (vec![LINK], others);
        let before = world.work.tally.received.segments;
        world.decode.handle(Instant::now(), &mut world.work);
        (world.work.tally.received.segments - before) * (frames.len() as u64 / 400)
    };
    assert!(brought(999) <= READ_TURN_BYTES_MIN as u64);
    assert!(brought(0) > READ_TURN_BYTES_MIN as u64);
}

#[test]
fn what_waits_unread_for_long_costs_its_tether_credit() {
    let mut world = world();
    let credit = world.tether.credit_bytes().expect("a gateway grants credit");
    // For half a second each turn finds what was there 100 ms before.
    let mut now = Instant::now();
    for _ in 0..5 {
        now += Duration::from_millis(100);
        let since = now - Duration::from_millis(100);
        world.peer.send(Opcode::Binary, &datagram(&packet()));
        let before = world.work.tally.received.segments;
        let World { decode, work, .. } = &mut world;
        let came = std::cell::Cell::new(before);
        until(
            || {
                work.batch.lanes = vec![LINK];
                work.batch.items = vec![Entry { origin: LINK, lane: LINK, item: Signal { since } }];
                decode.handle(now, work);
                came.set(work.tally.received.segments);
            },
            || came.get() > before,
        );
        world.work.out.clear();
        world.tether.grant(now, &world.link);
    }
    assert!(world.tether.is_credit_cut());
    assert!(world.tether.credit_bytes().is_some_and(|cut| cut < credit), "of {credit}");
}
