#![allow(clippy::wildcard_enum_match_arm, reason = "a test names the one verdict that it expects")]

use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::nat::Translation;
use crate::offload::fuzz;
use crate::packet::{Checksum, Offload, PACKET_BYTES_MAX};
use crate::packet_builder::*;

const LEASE: &str = "100.64.0.2";
const GATEWAY: &str = "100.64.0.1";
const REMOTE: &str = "192.0.2.80";

struct World {
    guard: Guard,
    pool: BufPool,
    now: Instant,
}

fn world() -> World {
    let translation =
        Translation::Gateway { addresses: vec![ip("198.51.100.1").into()], ports: 10_000..=19_999, block_ports: 1_000 };
    let plan = AddressPlan::new("100.64.0.0/16".parse().expect("a prefix"), translation).expect("a plan");
    let own = vec!["198.51.100.1".parse().expect("a prefix"), plan.pool()];
    let pool = BufPool::new(1 << 20);
    let policy = Policy::new(vec![], vec![], own);
    let rules = Rules { plan: Arc::new(plan), policy: Arc::new(policy), mtu_bytes: 1_400.into(), pool: pool.clone() };
    World { guard: Guard::new(TetherId(0), Arc::new(rules)).expect("a lease"), pool, now: Instant::now() }
}

impl World {
    fn send(&mut self, packet: Packet<Raw>) -> Verdict<Packet<Parsed>, Reason> {
        outgoing(&mut self.guard, packet, self.now)
    }

    fn forwarded(&mut self, packet: Packet<Raw>) -> Packet<Parsed> {
        match self.send(packet) {
            Verdict::Forward(packet) => packet,
            other => panic!("not forwarded: {other:?}"),
        }
    }

    fn dropped(&mut self, packet: Packet<Raw>) -> Reason {
        match self.send(packet) {
            Verdict::Drop(reason) => reason,
            other => panic!("not dropped: {other:?}"),
        }
    }

    fn replied(&mut self, packet: Packet<Raw>) -> (Reason, Packet<Parsed>) {
        match self.send(packet) {
            Verdict::Reply(reason, packet) => (reason, packet),
            other => panic!("no reply: {other:?}"),
        }
    }
}

/// The reason, and the error exactly as it must be on the wire.
fn assert_told(world: &mut World, sent: &Builder, reason: Reason, header: [u8; 8]) {
    let (found, error) = world.replied(sent.packet());
    assert_eq!(found, reason);
    let bytes = sent.bytes();
    let mut message = header.to_vec();
    message.extend(&bytes[..bytes.len().min(548)]);
    assert_checksums(&error);
    let mut expected = icmp(GATEWAY, LEASE, &message).bytes();
    expected[4..6].copy_from_slice(&[0, 0]);
    let checksum = Delta::default().word(0x1234, 0);
    ipv4::update(&mut expected, ipv4::CHECKSUM, checksum);
    assert_eq!(error.bytes(), expected);
}

fn syn() -> Builder {
    tcp("100.64.0.2:4000", "192.0.2.80:443", SYN)
}

fn padded(builder: &Builder) -> Packet<Raw> {
    let mut bytes = builder.bytes();
    bytes.extend([0; 6]);
    raw(&bytes, Offload::default())
}

#[test]
fn a_packet_is_forwarded_with_its_time_to_live_one_lower_and_nothing_else_changed() {
    let packet = world().forwarded(syn().packet());
    assert_eq!(packet.bytes(), syn().ttl(63).bytes());
    let parsed = packet.proof();
    assert_eq!((parsed.family(), parsed.transport_at()), (Family::V4, 20));
    assert_eq!(parsed.kind(), Kind::Tcp(TcpFlags::new(SYN)));
    let five_tuple = FiveTuple {
        protocol: 6,
        source: ip(LEASE).into(),
        destination: ip(REMOTE).into(),
        source_port: 4_000,
        destination_port: 443,
    };
    assert_eq!(parsed.five_tuple(), &five_tuple);
}

#[test]
fn a_links_padding_behind_the_packet_is_cut_off() {
    assert_eq!(world().forwarded(padded(&syn())).bytes(), syn().ttl(63).bytes());
}

#[test]
fn a_spoofed_source_is_dropped_and_counted() {
    assert_eq!(world().dropped(tcp("100.64.0.3:4000", "192.0.2.80:443", SYN).packet()), Reason::Spoofed);
    let quoted = udp("192.0.2.80:443", "100.64.0.3:4000", b"x").bytes();
    assert_eq!(world().dropped(icmp_error(LEASE, REMOTE, 3, 3, &quoted).packet()), Reason::Spoofed);
}

#[test]
fn what_is_no_header_is_malformed() {
    let whole = syn().bytes();
    for len in [0, 1, 19, 20, 30, 39] {
        assert_eq!(world().dropped(raw(&whole[..len], Offload::default())), Reason::Malformed, "{len} bytes");
    }
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut bytes = syn().bytes();
        change(&mut bytes);
        ipv4::set_word(&mut bytes, ipv4::CHECKSUM, 0);
        let checksum = checksum::of(&bytes[..20]);
        ipv4::set_word(&mut bytes, ipv4::CHECKSUM, checksum);
        raw(&bytes, Offload::default())
    };
    assert_eq!(world().dropped(changed(|bytes| bytes[0] = 0x44)), Reason::Malformed, "header below 20 bytes");
    assert_eq!(world().dropped(changed(|bytes| bytes[0] = 0x55)), Reason::Malformed, "version 5");
    assert_eq!(world().dropped(changed(|bytes| bytes[3] += 1)), Reason::Malformed, "longer than the bytes");
    assert_eq!(world().dropped(changed(|bytes| bytes[3] = 0)), Reason::Malformed, "shorter than the header");
    assert_eq!(world().dropped(changed(|bytes| bytes[32] = 0x40)), Reason::Malformed, "TCP header below 20 bytes");
    assert_eq!(world().dropped(changed(|bytes| bytes[32] = 0x60)), Reason::Malformed, "TCP header beyond the packet");
}

#[test]
fn a_land_packet_is_malformed() {
    assert_eq!(world().dropped(tcp("100.64.0.2:4000", "100.64.0.2:4000", SYN).packet()), Reason::Malformed);
}

#[test]
fn a_udp_length_beyond_the_packet_or_below_its_header_is_malformed() {
    for len in [0, 7, 10] {
        let mut bytes = udp("100.64.0.2:4000", "192.0.2.80:443", b"x").bytes();
        bytes[25] = len;
        assert_eq!(world().dropped(raw(&bytes, Offload::default())), Reason::Malformed, "{len}");
    }
}

#[test]
fn a_wrong_header_checksum_is_dropped() {
    let mut bytes = syn().bytes();
    bytes[ipv4::CHECKSUM] ^= 1;
    assert_eq!(world().dropped(raw(&bytes, Offload::default())), Reason::BadChecksum);
}

#[test]
fn ipv6_is_another_family() {
    assert_eq!(world().dropped(raw(&[0x60; 40], Offload::default())), Reason::Family);
}

#[test]
fn options_are_walked_and_a_source_route_is_refused() {
    let with = |options: &[u8]| syn().options(options).packet();
    let packet = world().forwarded(with(&[1, 7, 3, 4]));
    assert_eq!((packet.proof().transport_at(), packet.proof().five_tuple().source_port), (24, 4_000));
    world().forwarded(with(&[0, 7, 200, 4]));
    assert_eq!(world().dropped(with(&[1, 131, 3, 4])), Reason::SourceRoute);
    assert_eq!(world().dropped(with(&[137, 3, 4, 0])), Reason::SourceRoute);
    assert_eq!(world().dropped(with(&[7, 1, 0, 0])), Reason::Malformed, "a length that does not hold itself");
    assert_eq!(world().dropped(with(&[7, 5, 0, 0])), Reason::Malformed, "a length beyond the header");
    assert_eq!(world().dropped(with(&[1, 1, 1, 7])), Reason::Malformed, "no length at all");
}

#[test]
fn first_and_later_fragments_are_dropped() {
    for fragment in [0x2000, 0x2001, 0x0001] {
        assert_eq!(world().dropped(syn().fragment(fragment).packet()), Reason::Fragment, "{fragment:#x}");
    }
}

#[test]
fn an_icmp_message_that_is_neither_query_nor_error_is_dropped() {
    for kind in [4, 5, 9, 10, 17] {
        assert_eq!(world().dropped(query(LEASE, REMOTE, kind, 1).packet()), Reason::IcmpType, "{kind}");
    }
}

#[test]
fn an_echo_request_to_the_gateway_is_answered_in_place() {
    let mut world = world();
    let Verdict::Turn(answer) = world.send(query(LEASE, GATEWAY, 8, 77).ttl(1).packet()) else { panic!("no answer") };
    assert_eq!(answer.bytes(), query(GATEWAY, LEASE, 0, 77).bytes());
    assert_checksums(&answer);
    let parsed = *answer.proof();
    assert_eq!((parsed.kind(), parsed.five_tuple().destination), (Kind::Query { reply: true }, ip(LEASE).into()));
    let mut wrong = query(LEASE, GATEWAY, 8, 77).bytes();
    wrong[22] ^= 1;
    assert_eq!(world.dropped(raw(&wrong, Offload::default())), Reason::BadChecksum);
}

#[test]
fn dns_to_the_gateway_is_forwarded_and_every_other_port_is_refused() {
    let mut world = world();
    world.forwarded(udp("100.64.0.2:4000", "100.64.0.1:53", b"?").packet());
    world.forwarded(tcp("100.64.0.2:4000", "100.64.0.1:53", SYN).packet());
    assert_told(&mut world, &tcp("100.64.0.2:4000", "100.64.0.1:80", SYN), Reason::Policy, [3, 13, 0, 0, 0, 0, 0, 0]);
    let (reason, _) = world.replied(query(LEASE, GATEWAY, 13, 1).packet());
    assert_eq!(reason, Reason::Policy);
}

#[test]
fn a_denied_destination_is_refused_with_administratively_prohibited() {
    for destination in ["10.0.0.1:80", "169.254.169.254:80", "127.0.0.1:80", "100.64.0.3:80", "198.51.100.1:22"] {
        let sent = tcp("100.64.0.2:4000", destination, SYN);
        assert_told(&mut world(), &sent, Reason::Policy, [3, 13, 0, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn nobody_is_told_about_multicast_broadcast_or_an_icmp_error() {
    assert_eq!(world().dropped(udp("100.64.0.2:5353", "224.0.0.251:5353", b"?").packet()), Reason::Policy);
    assert_eq!(world().dropped(udp("100.64.0.2:68", "255.255.255.255:67", b"?").packet()), Reason::Policy);
    let quoted = udp("10.0.0.1:53", "100.64.0.2:4000", b"x").bytes();
    assert_eq!(world().dropped(icmp_error(LEASE, "10.0.0.1", 3, 3, &quoted).packet()), Reason::Policy);
}

#[test]
fn an_external_port_of_a_tether_may_be_reached_and_a_ping_to_the_external_address_may_not() {
    world().forwarded(udp("100.64.0.2:4000", "198.51.100.1:10000", b"x").packet());
    world().forwarded(udp("100.64.0.2:4000", "198.51.100.1:19999", b"x").packet());
    let (reason, _) = world().replied(udp("100.64.0.2:4000", "198.51.100.1:9999", b"x").packet());
    assert_eq!(reason, Reason::Policy);
    let (reason, _) = world().replied(query(LEASE, "198.51.100.1", 8, 10_000).packet());
    assert_eq!(reason, Reason::Policy);
}

#[test]
fn a_time_to_live_that_runs_out_here_is_told_with_the_packet_as_it_was_sent() {
    for ttl in [0, 1] {
        assert_told(&mut world(), &syn().ttl(ttl), Reason::TtlExpired, [11, 0, 0, 0, 0, 0, 0, 0]);
    }
    assert_eq!(world().forwarded(syn().ttl(2).packet()).bytes(), syn().ttl(1).bytes());
}

#[test]
fn a_packet_too_big_that_may_not_be_fragmented_is_told_the_mtu() {
    let sized = |bytes: usize| udp("100.64.0.2:4000", "192.0.2.80:443", &vec![7; bytes - 28]);
    world().forwarded(sized(1_400).packet());
    let [high, low] = 1_400_u16.to_be_bytes();
    assert_told(&mut world(), &sized(1_401), Reason::TooBig, [3, 4, 0, 0, 0, 0, high, low]);
    assert_eq!(world().dropped(sized(1_401).fragment(0).packet()), Reason::TooBig);
}

#[test]
fn a_packet_larger_than_was_agreed_on_with_the_client_is_told_that_mtu() {
    let mut world = world();
    let sized = |bytes: usize| udp("100.64.0.2:4000", "192.0.2.80:443", &vec![7; bytes - 28]);
    world.guard.set_mtu_bytes(1_300);
    world.forwarded(sized(1_300).packet());
    let [high, low] = 1_300_u16.to_be_bytes();
    assert_told(&mut world, &sized(1_301), Reason::TooBig, [3, 4, 0, 0, 0, 0, high, low]);
    // What a client resumes with may be more; the egress takes no more than before.
    world.guard.set_mtu_bytes(9_000);
    world.forwarded(sized(1_400).packet());
    assert_eq!(world.replied(sized(1_401).packet()).0, Reason::TooBig);
}

#[test]
fn an_egress_that_takes_less_than_at_the_start_is_told_of_until_it_takes_as_much_again() {
    let mut world = world();
    let sized = |bytes: usize| udp("100.64.0.2:4000", "192.0.2.80:443", &vec![7; bytes - 28]);
    let takes = |world: &World, bytes| world.guard.rules.mtu_bytes.store(bytes, Ordering::Relaxed);
    takes(&world, 1_350);
    world.forwarded(sized(1_350).packet());
    let [high, low] = 1_350_u16.to_be_bytes();
    assert_told(&mut world, &sized(1_351), Reason::TooBig, [3, 4, 0, 0, 0, 0, high, low]);
    takes(&world, 1_400);
    world.forwarded(sized(1_400).packet());
}

fn super_packet(segment_bytes: u16, header_bytes: u16) -> Packet<Raw> {
    let packet = tcp_with("100.64.0.2:4000", "192.0.2.80:443", ACK, &[], &[7; 5_000]).partial();
    let offload = Offload { segment_bytes, header_bytes, ..packet.offload() };
    raw(packet.bytes(), offload)
}

#[test]
fn a_super_packet_is_judged_by_its_segments() {
    let packet = world().forwarded(super_packet(1_360, 40));
    assert_eq!((packet.segments(), packet.len()), (4, 5_040));
    assert_checksums(&packet);
    let (reason, error) = world().replied(super_packet(1_361, 40));
    assert_eq!((reason, error.len()), (Reason::TooBig, 576));
}

#[test]
fn an_offload_that_does_not_fit_the_packet_is_dropped() {
    for (segment_bytes, header_bytes) in [(1_000, 44), (1_000, 36), (1_000, 0), (40, 40), (0, 40)] {
        assert_eq!(world().dropped(super_packet(segment_bytes, header_bytes)), Reason::BadOffload);
    }
    let mut packet = super_packet(1_000, 40);
    packet.set_offload(Offload { checksum: Checksum::Complete, ..packet.offload() });
    assert_eq!(world().dropped(packet), Reason::BadOffload);
    let padded = [super_packet(1_000, 40).bytes(), &[0]].concat();
    assert_eq!(world().dropped(raw(&padded, super_packet(1_000, 40).offload())), Reason::BadOffload);
    let mut packet = query(LEASE, REMOTE, 8, 1).packet();
    packet.set_offload(Offload { segment_bytes: 100, header_bytes: 28, ..Offload::default() });
    assert_eq!(world().dropped(packet), Reason::BadOffload);
    for (start, offset) in [(20, 6), (24, 16), (20, 60_000)] {
        let mut packet = syn().partial();
        packet.set_offload(Offload { checksum: Checksum::Partial { start, offset }, ..Offload::default() });
        assert_eq!(world().dropped(packet), Reason::BadOffload);
    }
}

#[test]
fn errors_follow_each_other_at_a_limited_rate() {
    let mut world = world();
    let told = |world: &mut World| {
        (0..200).filter(|_| matches!(world.send(syn().ttl(1).packet()), Verdict::Reply(Reason::TtlExpired, _))).count()
    };
    assert_eq!(told(&mut world), 50, "a burst");
    world.now += Duration::from_millis(100);
    assert_eq!(told(&mut world), 10, "one every 10 ms");
}

#[test]
fn without_a_buffer_the_packet_is_dropped_for_the_same_reason_untold() {
    let mut world = world();
    let held: Vec<_> = std::iter::from_fn(|| world.pool.take(1)).collect();
    assert_eq!(world.dropped(syn().ttl(1).packet()), Reason::TtlExpired);
    drop(held);
    world.replied(syn().ttl(1).packet());
}

fn come(packet: Packet<Raw>) -> Verdict<Packet<Parsed>, Reason> {
    incoming(packet, Instant::now())
}

fn error_from_outside(quoted: &[u8]) -> Packet<Raw> {
    icmp_error("203.0.113.9", "198.51.100.1", 11, 0, quoted).packet()
}

#[test]
fn an_icmp_error_has_the_ports_of_what_it_quotes_from_its_own_direction() {
    let quoted = tcp("198.51.100.1:10007", "192.0.2.80:443", SYN).bytes();
    let Verdict::Forward(packet) = come(error_from_outside(&quoted[..28])) else { panic!("dropped") };
    let (parsed, five_tuple) = (packet.proof(), packet.proof().five_tuple());
    assert_eq!((five_tuple.source, five_tuple.source_port), (ip("203.0.113.9").into(), 443));
    assert_eq!((five_tuple.destination_port, parsed.transport()), (10_007, Some(Transport::Tcp)));
    let Kind::Error(quoted) = parsed.kind() else { panic!("no error") };
    assert_eq!((quoted.at(), quoted.transport_at()), (28, 48));
    assert_eq!(packet.quoted_destination(), Some(ip(REMOTE).into()));
}

#[test]
fn an_icmp_error_with_a_wrong_checksum_its_own_or_the_quoted_headers_is_dropped() {
    let quoted = tcp("198.51.100.1:10007", "192.0.2.80:443", SYN).bytes();
    let mut bytes = error_from_outside(&quoted).bytes().to_vec();
    bytes[60] ^= 1;
    assert!(matches!(come(raw(&bytes, Offload::default())), Verdict::Drop(Reason::BadChecksum)));
    let mut wrong = quoted.clone();
    wrong[ipv4::CHECKSUM] ^= 1;
    assert!(matches!(come(error_from_outside(&wrong)), Verdict::Drop(Reason::BadChecksum)));
    let mut wrong = quoted;
    wrong[36] ^= 1;
    assert!(matches!(come(error_from_outside(&wrong)), Verdict::Forward(_)), "the quoted transport's is not judged");
}

#[test]
fn an_icmp_error_that_quotes_too_little_a_stranger_an_error_or_a_later_fragment_is_dropped() {
    let quoted = tcp("198.51.100.1:10007", "192.0.2.80:443", SYN);
    for len in [0, 19, 20, 27] {
        assert!(matches!(come(error_from_outside(&quoted.bytes()[..len])), Verdict::Drop(Reason::Malformed)), "{len}");
    }
    let stranger = tcp("198.51.100.2:10007", "192.0.2.80:443", SYN).bytes();
    assert!(matches!(come(error_from_outside(&stranger)), Verdict::Drop(Reason::Malformed)));
    let error = icmp_error("198.51.100.1", REMOTE, 3, 3, &quoted.bytes()).bytes();
    assert!(matches!(come(error_from_outside(&error)), Verdict::Drop(Reason::Malformed)));
    let later = quoted.fragment(0x0001).bytes();
    assert!(matches!(come(error_from_outside(&later)), Verdict::Drop(Reason::Fragment)));
}

#[test]
fn a_source_that_no_host_on_the_internet_has_is_a_martian() {
    for source in ["127.0.0.1:53", "0.0.0.0:53", "224.0.0.1:53", "255.255.255.255:53"] {
        let packet = udp(source, "198.51.100.1:10000", b"x").packet();
        assert!(matches!(come(packet), Verdict::Drop(Reason::Martian)), "{source}");
    }
    assert!(matches!(come(udp("10.0.0.1:53", "198.51.100.1:10000", b"x").packet()), Verdict::Forward(_)));
}

#[test]
fn a_packet_from_the_internet_loses_a_hop_too() {
    let packet = udp("192.0.2.80:53", "198.51.100.1:10000", b"x");
    let Verdict::Forward(forwarded) = come(packet.clone().packet()) else { panic!("dropped") };
    assert_eq!(forwarded.bytes(), packet.clone().ttl(63).bytes());
    assert!(matches!(come(packet.ttl(1).packet()), Verdict::Drop(Reason::TtlExpired)));
}

/// Bytes that get past the first checks: a plausible header with a right checksum, and anything behind it.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let header = (5..8_u8, prop::sample::select(vec![1_u8, 1, 6, 17, 47]), any::<u8>(), prop::bool::weighted(0.1));
    (header, prop::collection::vec(any::<u8>(), 0..120), 0..16_u8).prop_map(
        |((ihl, protocol, ttl, fragment), rest, kind)| {
            let mut bytes = vec![1; usize::from(ihl) * 4];
            bytes.extend(rest);
            if let Some(first) = bytes.get_mut(usize::from(ihl) * 4) {
                *first = kind;
            }
            let len = bytes.len() as u16;
            bytes[0] = 0x40 + ihl;
            ipv4::set_word(&mut bytes, ipv4::TOTAL_LENGTH, len);
            ipv4::set_word(&mut bytes, ipv4::FRAGMENT, if fragment { 0x2000 } else { 0 });
            (bytes[ipv4::TTL], bytes[ipv4::PROTOCOL]) = (ttl, protocol);
            ipv4::set_address(&mut bytes, ipv4::SOURCE, ip(LEASE));
            ipv4::set_address(&mut bytes, ipv4::DESTINATION, Ipv4Addr::new(192, 0, 2, kind));
            ipv4::set_word(&mut bytes, ipv4::CHECKSUM, 0);
            let checksum = checksum::of(&bytes[..usize::from(ihl) * 4]);
            ipv4::set_word(&mut bytes, ipv4::CHECKSUM, checksum);
            bytes
        },
    )
}

/// A packet for the internet with an offload of which each word is true or not, and whether all are.
fn offloaded() -> impl Strategy<Value = (Vec<u8>, Offload, bool)> {
    let lie = || {
        let few = (0..130_u16).prop_map(Some);
        prop_oneof![12 => Just(None), 1 => Just(Some(0)), 1 => few, 1 => any::<u16>().prop_map(Some)]
    };
    let flags = prop::sample::select(vec![ACK, ACK, ACK, FIN, SYN_ACK, RST]);
    let packet = (any::<bool>(), flags, prop::collection::vec(any::<u8>(), 1..6_000), 200..=1_360_u16);
    (packet, [lie(), lie(), lie(), lie()]).prop_map(|((is_tcp, flags, payload, segment_bytes), lies)| {
        let (source, destination) = ("100.64.0.2:4000", "192.0.2.80:443");
        let (sent, header_bytes) = match is_tcp {
            true => (tcp_with(source, destination, flags, &[], &payload), 40),
            false => (udp(source, destination, &payload), 28),
        };
        let packet = sent.partial();
        let Checksum::Partial { start, offset } = packet.offload().checksum else { panic!("a partial checksum") };
        let honest = [start, offset, segment_bytes, header_bytes];
        let said = std::array::from_fn(|at| lies[at].unwrap_or(honest[at]));
        let [start, offset, segment_bytes, header_bytes] = said;
        let offload = Offload { checksum: Checksum::Partial { start, offset }, segment_bytes, header_bytes };
        let is_true = said == honest && (!is_tcp || matches!(flags, ACK | FIN));
        (packet.bytes().to_vec(), offload, is_true)
    })
}

proptest! {
    #[test]
    fn an_offload_that_is_forwarded_is_true_and_a_true_one_is_forwarded((bytes, offload, is_true) in offloaded()) {
        // What comes from outside is held to the MTU behind the translation.
        let both = [(world().send(raw(&bytes, offload)), 1_400), (come(raw(&bytes, offload)), PACKET_BYTES_MAX)];
        for (verdict, mtu_bytes) in both {
            match verdict {
                Verdict::Forward(packet) => fuzz::assert_believable(packet.bytes(), packet.offload(), mtu_bytes),
                other => prop_assert!(!is_true, "{other:?}"),
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic_and_what_is_forwarded_has_a_right_header_checksum(
        bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), plausible()],
        segment_bytes in prop_oneof![Just(0), any::<u16>()], start in any::<u16>(),
    ) {
        for checksum in [Checksum::Complete, Checksum::Partial { start, offset: 16 }] {
            let packet = || raw(&bytes, Offload { checksum, segment_bytes, header_bytes: 40 });
            for verdict in [world().send(packet()), come(packet())] {
                if let Verdict::Forward(packet) | Verdict::Turn(packet) | Verdict::Reply(_, packet) = verdict {
                    let header_bytes = packet.proof().transport_at();
                    prop_assert!(checksum::is_valid(&packet.bytes()[..header_bytes]));
                }
            }
        }
    }
}
