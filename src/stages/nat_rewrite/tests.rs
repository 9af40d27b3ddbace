#![allow(clippy::wildcard_enum_match_arm, reason = "a test names the one verdict that it expects")]

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::budget::{Budget, Part};
use crate::nat::{AddressPlan, Count, Filtering, Rules, Timers, Translation};
use crate::overload::{Overload, Rung};
use crate::packet::{BufPool, Checksum, Offload, Raw};
use crate::packet_builder::*;
use crate::stages::ip_parse;
use crate::tether_id::TetherId;

mod icmp_and_dns;
mod model;
mod mtu;
mod tcp;

const CLIENT: &str = "100.64.0.2:4000";
const SERVER: &str = "192.0.2.80:443";
const LEASE: &str = "100.64.0.2";
const GATEWAY: &str = "100.64.0.1";
const EXTERNAL: &str = "198.51.100.1";
const RESOLVER: &str = "192.0.2.53";
const FIRST_PORT: u16 = 10_000;
const BLOCK_PORTS: u16 = 100;

/// Two tethers on one external address, as the rest of the gateway would drive them.
struct World {
    nats: [Nat; 2],
    now: Instant,
}

fn rules(translation: Translation, change: impl FnOnce(&mut Rules)) -> Arc<Rules> {
    let plan = AddressPlan::new("100.64.0.0/16".parse().expect("a prefix"), translation).expect("a plan");
    let mut rules = Rules {
        plan: Arc::new(plan),
        timers: Timers::default(),
        filtering: Filtering::default(),
        resolver: Some(ip(RESOLVER).into()),
        mtu_bytes: 1_400,
        mappings_max: 1_000,
        mappings_per_second: 10_000,
        remotes_max: 4,
        pool: BufPool::new(1 << 20),
        overload: Overload::default(),
    };
    change(&mut rules);
    Arc::new(rules)
}

fn world_with(translation: Translation, change: impl FnOnce(&mut Rules)) -> World {
    let rules = rules(translation, change);
    let nat = |tether| Nat::new(TetherId(tether), Arc::clone(&rules), 42 + u64::from(tether)).expect("a lease");
    World { nats: [nat(0), nat(1)], now: Instant::now() }
}

fn translating(change: impl FnOnce(&mut Rules)) -> World {
    let (ports, addresses) = (FIRST_PORT..=FIRST_PORT + 999, vec![ip(EXTERNAL).into()]);
    world_with(Translation::Gateway { addresses, ports, block_ports: BLOCK_PORTS }, change)
}

fn world() -> World {
    translating(|_| {})
}

/// A gateway that leaves the lease's address in place.
fn untranslated() -> World {
    world_with(Translation::None, |_| {})
}

fn parse(packet: Packet<Raw>) -> Packet<Parsed> {
    ip_parse::parse(packet).expect("a valid packet")
}

impl World {
    fn send(&mut self, packet: Packet<Raw>) -> Verdict<Packet<Translated>, Reason> {
        outgoing(&mut self.nats[0], parse(packet), self.now)
    }

    fn come(&mut self, packet: Packet<Raw>) -> Verdict<Packet<Translated>, Reason> {
        incoming(&mut self.nats[0], parse(packet), self.now)
    }

    fn sent(&mut self, packet: &Builder) -> Packet<Translated> {
        forwarded(self.send(packet.packet()))
    }

    fn came(&mut self, packet: &Builder) -> Packet<Translated> {
        forwarded(self.come(packet.packet()))
    }

    fn refused(&mut self, packet: &Builder) -> Reason {
        match self.come(packet.packet()) {
            Verdict::Drop(reason) => reason,
            other => panic!("not dropped: {other:?}"),
        }
    }

    /// Sends from an inside port, and returns the external end that the remote sees.
    fn external(&mut self, packet: &Builder) -> String {
        external_end(&self.sent(packet))
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn answers(&mut self, external: &str, remote: &str) -> bool {
        matches!(self.come(udp(remote, external, b"answer").packet()), Verdict::Forward(_))
    }
}

fn forwarded(verdict: Verdict<Packet<Translated>, Reason>) -> Packet<Translated> {
    match verdict {
        Verdict::Forward(packet) => packet,
        other => panic!("not forwarded: {other:?}"),
    }
}

fn external_end(packet: &Packet<Translated>) -> String {
    assert_checksums(packet);
    let parsed = reparsed(packet);
    format!("{}:{}", parsed.source, parsed.source_port)
}

fn reparsed<Proof>(packet: &Packet<Proof>) -> FiveTuple {
    *parse(raw(packet.bytes(), packet.offload())).proof().five_tuple()
}

fn question(port: u16) -> Builder {
    udp(&format!("{LEASE}:{port}"), "192.0.2.80:443", b"question")
}

fn port_of(end: &str) -> u16 {
    end.rsplit(':').next().expect("a port").parse().expect("a number")
}

/// Asserts the whole packet but its identification.
fn assert_packet<Proof>(packet: &Packet<Proof>, expected: &Builder) {
    assert_checksums(packet);
    let mut expected = expected.bytes();
    let identification = ipv4::word_at(packet.bytes(), ipv4::IDENTIFICATION).expect("a header");
    ipv4::change_word(&mut expected, 0, ipv4::IDENTIFICATION, identification);
    assert_eq!(packet.bytes(), expected);
}

#[test]
fn a_packet_leaves_from_the_external_address_and_its_answer_comes_back_to_the_lease() {
    let mut world = world();
    let sent = world.sent(&question(4_000));
    let external = external_end(&sent);
    assert!(external.starts_with(EXTERNAL) && (FIRST_PORT..FIRST_PORT + BLOCK_PORTS).contains(&port_of(&external)));
    assert_packet(&sent, &udp(&external, "192.0.2.80:443", b"question"));
    assert_eq!(sent.destination(), IpAddr::V4(ip("192.0.2.80")));
    assert_eq!(sent.proof().inside(), parse(question(4_000).packet()).proof().five_tuple());
    let came = world.came(&udp("192.0.2.80:443", &external, b"answer"));
    let answer = udp("192.0.2.80:443", "100.64.0.2:4000", b"answer");
    assert_eq!(came.bytes(), answer.bytes());
    assert_eq!(came.proof().inside(), parse(answer.packet()).proof().five_tuple());
    assert_eq!(came.destination(), IpAddr::V4(ip(LEASE)));
}

#[test]
fn an_inside_port_has_one_external_port_whatever_the_remote() {
    let mut world = world();
    let external = world.external(&question(4_000));
    assert_eq!(world.external(&udp("100.64.0.2:4000", "203.0.113.1:9", b"x")), external);
    assert_ne!(world.external(&question(4_001)), external);
    assert_eq!(world.nats[0].mappings(), 2);
}

#[test]
fn tcp_udp_and_queries_have_their_ports_apart() {
    let mut world = translating(|rules| rules.mappings_max = 3);
    world.sent(&question(4_000));
    world.sent(&tcp("100.64.0.2:4000", "192.0.2.80:443", SYN));
    world.sent(&query(LEASE, "192.0.2.80", 8, 4_000));
    assert_eq!(world.nats[0].mappings(), 3);
}

#[test]
fn the_same_seed_gives_the_same_ports_and_another_seed_others() {
    let ports = |seed| {
        let rules = rules(
            Translation::Gateway { addresses: vec![ip(EXTERNAL).into()], ports: 1_024..=65_535, block_ports: 2_048 },
            |_| {},
        );
        let mut nat = Nat::new(TetherId(0), rules, seed).expect("a lease");
        let now = Instant::now();
        let sent = |port| forwarded(outgoing(&mut nat, parse(question(port).packet()), now));
        (1..=20).map(sent).map(|packet| external_end(&packet)).collect::<Vec<_>>()
    };
    assert_eq!(ports(1), ports(1));
    assert_ne!(ports(1), ports(2));
    assert!(
        ports(1).windows(2).any(|pair| port_of(&pair[0]).abs_diff(port_of(&pair[1])) > 1),
        "not one after the other"
    );
}

#[test]
fn what_comes_to_a_port_without_a_mapping_or_to_another_address_is_dropped() {
    let mut world = world();
    assert_eq!(world.refused(&udp("192.0.2.80:443", "198.51.100.1:10000", b"x")), Reason::NoMapping);
    assert_eq!(world.refused(&udp("192.0.2.80:443", "198.51.100.1:10100", b"x")), Reason::NoMapping);
    let external = world.external(&question(4_000));
    assert_eq!(
        world.refused(&udp("192.0.2.80:443", &external.replace(EXTERNAL, "198.51.100.2"), b"x")),
        Reason::NoMapping
    );
    assert_eq!(world.refused(&udp("192.0.2.80:443", "100.64.0.2:4000", b"x")), Reason::NoMapping, "the lease itself");
}

#[test]
fn what_the_gateway_makes_passes_to_the_lease_unchanged() {
    let mut world = world();
    let error = icmp_error(GATEWAY, LEASE, 3, 13, &question(4_000).bytes());
    assert_eq!(world.came(&error).bytes(), error.bytes());
    let echo = query(GATEWAY, LEASE, 0, 77);
    assert_eq!(world.came(&echo).bytes(), echo.bytes());
}

#[test]
fn a_protocol_without_ports_is_dropped_both_ways() {
    let mut world = world();
    assert!(matches!(
        world.send(other(LEASE, "192.0.2.80", 47, b"gre").packet()),
        Verdict::Drop(Reason::UnsupportedProtocol)
    ));
    assert_eq!(world.refused(&other("192.0.2.80", EXTERNAL, 47, b"gre")), Reason::UnsupportedProtocol);
}

#[test]
fn the_filter_lets_in_whom_its_option_says() {
    // The remote sent to, the same address from another port, somebody else.
    let cases = [
        (Filtering::EndpointIndependent, [true, true, true]),
        (Filtering::AddressDependent, [true, true, false]),
        (Filtering::AddressAndPortDependent, [true, false, false]),
    ];
    for (filtering, expected) in cases {
        let mut world = translating(|rules| rules.filtering = filtering);
        let external = world.external(&question(4_000));
        let found =
            ["192.0.2.80:443", "192.0.2.80:444", "192.0.2.81:443"].map(|remote| world.answers(&external, remote));
        assert_eq!(found, expected, "{filtering:?}");
    }
}

#[test]
fn a_filter_entry_beyond_the_limit_takes_the_place_of_the_one_that_ends_first() {
    let mut world = world();
    let remote = |last: u8| format!("192.0.2.{last}:9");
    let external = world.external(&udp("100.64.0.2:4000", &remote(1), b"x"));
    for last in 2..=5 {
        world.wait(1);
        world.sent(&udp("100.64.0.2:4000", &remote(last), b"x"));
    }
    let let_in: Vec<_> = (1..=5).filter(|&last| world.answers(&external, &remote(last))).collect();
    assert_eq!((let_in, world.nats[0].mappings()), (vec![2, 3, 4, 5], 1));
}

#[test]
fn a_udp_mapping_ends_300_s_after_the_last_packet_from_inside() {
    let mut world = world();
    let external = world.external(&question(4_000));
    world.wait(299);
    assert!(world.answers(&external, "192.0.2.80:443"), "and what comes in does not refresh");
    world.wait(1);
    assert_eq!(world.refused(&udp("192.0.2.80:443", &external, b"x")), Reason::NoMapping);
    assert_eq!(world.nats[0].mappings(), 0);
}

#[test]
fn a_packet_from_inside_refreshes_its_mapping() {
    let mut world = world();
    let external = world.external(&question(4_000));
    world.wait(299);
    assert_eq!(world.external(&question(4_000)), external);
    world.wait(299);
    assert!(world.answers(&external, "192.0.2.80:443"));
}

#[test]
fn a_mapping_to_port_53_ends_after_10_s_and_a_query_after_60_s() {
    let mut world = world();
    let dns = world.external(&udp("100.64.0.2:4000", "192.0.2.80:53", b"?"));
    let identifier = reparsed(&world.sent(&query(LEASE, "192.0.2.80", 8, 77))).source_port;
    world.wait(10);
    assert!(!world.answers(&dns, "192.0.2.80:53"));
    world.wait(49);
    world.came(&query("192.0.2.80", EXTERNAL, 0, identifier));
    world.wait(1);
    assert_eq!(world.refused(&query("192.0.2.80", EXTERNAL, 0, identifier)), Reason::NoMapping);
}

fn as_sent_with_ttl_of(world: &mut World, sent: &Builder) -> (Reason, Packet<Parsed>) {
    match outgoing(&mut world.nats[0], parse(sent.clone().ttl(63).packet()), world.now) {
        Verdict::Reply(reason, error) => (reason, error),
        other => panic!("no reply: {other:?}"),
    }
}

#[test]
fn at_the_port_limit_the_sender_is_told_and_every_live_mapping_stays() {
    let mut world = world();
    let mut external: Vec<_> = (1..=BLOCK_PORTS).map(|port| world.external(&question(port))).collect();
    let (reason, error) = as_sent_with_ttl_of(&mut world, &question(BLOCK_PORTS + 1));
    assert_eq!(reason, Reason::PortLimit);
    let told = icmp_error(GATEWAY, LEASE, 3, 1, &question(BLOCK_PORTS + 1).bytes());
    assert_packet(&error, &told);
    assert!(external.iter().all(|external| world.answers(external, "192.0.2.80:443")));
    external.sort();
    external.dedup();
    assert_eq!(external.len(), usize::from(BLOCK_PORTS), "no two share a port");
    world.wait(300);
    world.sent(&question(BLOCK_PORTS + 1));
    assert_eq!(world.nats[0].mappings(), 1, "what had ended made room");
}

#[test]
fn at_the_mapping_limit_the_sender_is_told() {
    let mut world = translating(|rules| rules.mappings_max = 2);
    world.sent(&question(1));
    world.sent(&tcp("100.64.0.2:1", "192.0.2.80:443", SYN));
    let (reason, _) = as_sent_with_ttl_of(&mut world, &question(3));
    assert_eq!(reason, Reason::MappingLimit);
    world.wait(240);
    world.sent(&question(3));
}

#[test]
fn mappings_made_faster_than_allowed_are_refused_and_the_sender_is_told() {
    let mut world = translating(|rules| rules.mappings_per_second = 4);
    for port in 1..=4 {
        world.sent(&question(port));
    }
    let (reason, error) = as_sent_with_ttl_of(&mut world, &question(5));
    assert_eq!(reason, Reason::MappingRate);
    assert_packet(&error, &icmp_error(GATEWAY, LEASE, 3, 1, &question(5).bytes()));
    world.sent(&question(1));
    world.now += Duration::from_millis(249);
    assert_eq!(as_sent_with_ttl_of(&mut world, &question(5)).0, Reason::MappingRate);
    world.now += Duration::from_millis(1);
    world.sent(&question(5));
    assert_eq!(as_sent_with_ttl_of(&mut world, &question(6)).0, Reason::MappingRate);
}

#[test]
fn a_mapping_refused_for_want_of_ports_costs_none_of_the_rate() {
    let mut world = translating(|rules| rules.mappings_per_second = u32::from(BLOCK_PORTS) + 1);
    (1..=BLOCK_PORTS).for_each(|port| drop(world.sent(&question(port))));
    for _ in 0..3 {
        assert_eq!(as_sent_with_ttl_of(&mut world, &question(BLOCK_PORTS + 1)).0, Reason::PortLimit);
    }
    world.sent(&tcp(CLIENT, SERVER, SYN));
}

#[test]
fn while_memory_is_short_live_mappings_serve_and_new_ones_are_refused() {
    let budget = Budget::new(1 << 20);
    let mut world = translating(|rules| rules.pool = BufPool::drawing_on(&budget));
    (1..=4).for_each(|port| drop(world.sent(&question(port))));
    let mut held = budget.share(Part::Messages);
    assert!(held.set(budget.limit_bytes() * 9 / 10));
    assert_eq!(as_sent_with_ttl_of(&mut world, &question(5)).0, Reason::MemoryLimit);
    world.sent(&question(1));
    drop(held);
    world.sent(&question(5));
}

#[test]
fn under_overload_live_mappings_serve_and_new_ones_are_refused_for_good() {
    let overload = Overload::default();
    let mut world = translating(|rules| rules.overload = overload.clone());
    world.sent(&question(1));
    overload.set(Rung::NoNewMappings, 0);
    let (reason, error) = as_sent_with_ttl_of(&mut world, &question(2));
    assert_eq!(reason, Reason::Overload);
    // Communication administratively prohibited (RFC 1812, 5.2.7.1).
    assert_packet(&error, &icmp_error(GATEWAY, LEASE, 3, 13, &question(2).bytes()));
    world.sent(&question(1));
    overload.set(Rung::NoNewTethers, 0);
    world.sent(&question(2));
}

#[test]
fn mappings_and_ports_are_counted_by_transport() {
    let mut world = world();
    world.sent(&question(1));
    world.sent(&question(2));
    world.sent(&tcp(CLIENT, SERVER, SYN));
    world.sent(&query(LEASE, "192.0.2.80", 8, 7));
    let count = Count { mappings: [1, 2, 1], ports: [1, 2, 1] };
    assert_eq!((world.nats[0].count(), world.nats[0].take_made()), (count, [1, 2, 1]));
    world.wait(7_440);
    world.nats[0].expire(world.now, 10);
    assert_eq!((world.nats[0].count(), world.nats[0].take_made()), (Count::default(), [0; 3]));
}

#[test]
fn mappings_end_within_a_budget_and_an_idle_nat_has_nothing_due() {
    let mut world = world();
    assert_eq!(world.nats[0].next_expiry(), None);
    for port in 1..=10 {
        world.sent(&question(port));
    }
    world.sent(&tcp(CLIENT, SERVER, SYN));
    assert_eq!(world.nats[0].next_expiry(), Some(world.now + Duration::from_secs(240)));
    assert_eq!(world.nats[0].expire(world.now + Duration::from_secs(239), 100), 0);
    let later = world.now + Duration::from_secs(300);
    assert_eq!([4, 4, 4, 4].map(|budget| world.nats[0].expire(later, budget)), [4, 4, 3, 0]);
    assert_eq!((world.nats[0].mappings(), world.nats[0].next_expiry()), (0, None));
}

#[test]
fn a_refreshed_mapping_lets_those_behind_it_in_the_list_end_in_time() {
    let mut world = world();
    world.sent(&question(1));
    world.wait(10);
    world.sent(&question(2));
    world.wait(10);
    world.sent(&question(1));
    assert_eq!(world.nats[0].expire(world.now + Duration::from_secs(290), 10), 1);
    assert_eq!(world.nats[0].expire(world.now + Duration::from_secs(299), 10), 0);
    assert_eq!(world.nats[0].expire(world.now + Duration::from_secs(300), 10), 1);
}

#[test]
fn where_the_lease_stays_every_packet_passes_unchanged_and_no_state_is_kept() {
    let mut world = untranslated();
    for packet in [
        question(4_000),
        tcp(CLIENT, SERVER, ACK),
        other(LEASE, "192.0.2.80", 47, b"gre"),
        query(LEASE, "192.0.2.80", 8, 7),
    ] {
        assert_eq!(world.sent(&packet).bytes(), packet.bytes());
    }
    for packet in
        [udp(SERVER, CLIENT, b"x"), other("192.0.2.80", LEASE, 47, b"gre"), udp("192.0.2.53:53", CLIENT, b"x")]
    {
        assert_eq!(world.came(&packet).bytes(), packet.bytes());
    }
    assert_eq!(world.nats[0].mappings(), 0);
    assert_eq!(world.refused(&udp(SERVER, "100.64.0.3:4000", b"x")), Reason::NoMapping);
}

#[test]
fn a_udp_packet_without_a_checksum_stays_without() {
    let mut bytes = question(4_000).bytes();
    ipv4::set_word(&mut bytes, 26, 0);
    let sent = forwarded(world().send(raw(&bytes, Offload::default())));
    assert_eq!(ipv4::word_at(sent.bytes(), 26), Some(0));
}

#[test]
fn the_identification_that_the_laptop_counted_is_not_shown() {
    let mut world = world();
    let mut seen: Vec<_> = (0..3).map(|_| ipv4::word_at(world.sent(&question(4_000)).bytes(), 4)).collect();
    assert!(seen.iter().all(|&identification| identification != Some(0x1234)));
    seen.dedup();
    assert_eq!(seen.len(), 3);
}

#[test]
fn congestion_is_marked_only_where_the_sender_understands_it() {
    let mut world = world();
    let mut marked = |tos: u8| {
        let mut bytes = question(4_000).bytes();
        ipv4::change_word(&mut bytes, 0, 0, u16::from_be_bytes([0x45, tos]));
        let mut sent = forwarded(world.send(raw(&bytes, Offload::default())));
        let is_marked = sent.mark_congestion();
        assert_checksums(&sent);
        (is_marked, sent.bytes()[1])
    };
    assert_eq!(
        [0b00, 0b01, 0b1010, 0b11].map(&mut marked),
        [(false, 0b00), (true, 0b11), (true, 0b1011), (true, 0b11)]
    );
}
