use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::nat::{AddressPlan, Filtering, Rules, Timers, Translation};
use crate::packet::{BufPool, Checksum, Offload, Raw};
use crate::packet_builder::*;
use crate::stages::ip_parse;
use crate::tether_id::TetherId;

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
        remotes_max: 4,
        pool: BufPool::new(1 << 20),
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
    assert_eq!(sent.proof().destination(), IpAddr::V4(ip("192.0.2.80")));
    assert_eq!(sent.proof().inside(), parse(question(4_000).packet()).proof().five_tuple());
    let came = world.came(&udp("192.0.2.80:443", &external, b"answer"));
    let answer = udp("192.0.2.80:443", "100.64.0.2:4000", b"answer");
    assert_eq!(came.bytes(), answer.bytes());
    assert_eq!(came.proof().inside(), parse(answer.packet()).proof().five_tuple());
    assert_eq!(came.proof().destination(), IpAddr::V4(ip(LEASE)));
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
fn an_echo_has_its_identifier_mapped_both_ways() {
    let mut world = world();
    let sent = world.sent(&query(LEASE, "192.0.2.80", 8, 77));
    let identifier = reparsed(&sent).source_port;
    assert_packet(&sent, &query(EXTERNAL, "192.0.2.80", 8, identifier));
    let came = world.came(&query("192.0.2.80", EXTERNAL, 0, identifier));
    assert_eq!(came.bytes(), query("192.0.2.80", LEASE, 0, 77).bytes());
    assert_eq!(came.proof().inside().source_port, 77);
}

#[test]
fn nobody_outside_may_ping_the_inside_and_an_answer_from_inside_opens_nothing() {
    let mut world = world();
    let identifier = reparsed(&world.sent(&query(LEASE, "192.0.2.80", 8, 77))).source_port;
    assert_eq!(world.refused(&query("192.0.2.80", EXTERNAL, 8, identifier)), Reason::Filtered);
    assert!(matches!(world.send(query(LEASE, "192.0.2.80", 0, 78).packet()), Verdict::Drop(Reason::NoMapping)));
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

const CLIENT: &str = "100.64.0.2:4000";
const SERVER: &str = "192.0.2.80:443";

#[test]
fn a_tcp_connection_lives_240_s_while_it_opens_and_7440_s_once_it_is_established() {
    let mut world = world();
    let external = world.external(&tcp(CLIENT, SERVER, SYN));
    world.wait(239);
    world.came(&tcp(SERVER, &external, SYN_ACK));
    world.wait(7_439);
    world.came(&tcp(SERVER, &external, ACK));
    world.wait(7_439);
    assert_eq!(world.external(&tcp(CLIENT, SERVER, ACK)), external);
    world.wait(7_440);
    assert_eq!(world.refused(&tcp(SERVER, &external, ACK)), Reason::NoMapping);
    let external = world.external(&tcp(CLIENT, SERVER, SYN));
    world.wait(240);
    assert_eq!(world.refused(&tcp(SERVER, &external, SYN_ACK)), Reason::NoMapping);
}

#[test]
fn a_fin_from_both_sides_leaves_240_s_and_from_one_side_the_whole_time() {
    let mut world = world();
    let external = world.external(&tcp(CLIENT, SERVER, SYN));
    world.came(&tcp(SERVER, &external, SYN_ACK));
    world.sent(&tcp(CLIENT, SERVER, FIN));
    world.wait(7_000);
    world.came(&tcp(SERVER, &external, FIN));
    world.wait(239);
    world.sent(&tcp(CLIENT, SERVER, ACK));
    world.wait(1);
    assert_eq!(world.refused(&tcp(SERVER, &external, ACK)), Reason::NoMapping);
}

#[test]
fn a_reset_is_translated_leaves_240_s_and_is_forgotten_when_data_follows() {
    let mut world = world();
    let external = world.external(&tcp(CLIENT, SERVER, SYN));
    world.came(&tcp(SERVER, &external, SYN_ACK));
    world.came(&tcp(SERVER, &external, RST));
    world.wait(239);
    world.sent(&tcp(CLIENT, SERVER, ACK));
    world.wait(7_439);
    world.came(&tcp(SERVER, &external, RST));
    world.wait(240);
    assert_eq!(world.refused(&tcp(SERVER, &external, ACK)), Reason::NoMapping);
}

#[test]
fn a_closed_connections_ports_may_be_used_again_at_once() {
    let mut world = world();
    let external = world.external(&tcp(CLIENT, SERVER, SYN));
    world.came(&tcp(SERVER, &external, SYN_ACK));
    world.came(&tcp(SERVER, &external, RST));
    assert_eq!(world.external(&tcp(CLIENT, SERVER, SYN)), external);
    world.came(&tcp(SERVER, &external, SYN_ACK));
    world.wait(7_439);
    world.came(&tcp(SERVER, &external, ACK));
}

#[test]
fn a_simultaneous_open_establishes_the_connection() {
    let mut world = world();
    let external = world.external(&tcp(CLIENT, SERVER, SYN));
    world.came(&tcp(SERVER, &external, SYN));
    world.wait(7_439);
    world.came(&tcp(SERVER, &external, ACK));
}

#[test]
fn an_established_connection_outlives_another_from_the_same_port_that_closes() {
    let mut world = world();
    let external = world.external(&tcp(CLIENT, SERVER, SYN));
    world.came(&tcp(SERVER, &external, SYN_ACK));
    world.sent(&tcp(CLIENT, "192.0.2.81:443", SYN));
    world.came(&tcp("192.0.2.81:443", &external, SYN_ACK));
    world.came(&tcp("192.0.2.81:443", &external, RST));
    world.wait(7_000);
    world.came(&tcp(SERVER, &external, ACK));
    assert_eq!(world.refused(&tcp("192.0.2.81:443", &external, ACK)), Reason::Filtered);
}

#[test]
fn a_tcp_segment_that_opens_nothing_makes_no_mapping() {
    let mut world = world();
    for flags in [ACK, FIN, RST, SYN | RST] {
        assert!(matches!(world.send(tcp(CLIENT, SERVER, flags).packet()), Verdict::Drop(Reason::NoMapping)));
    }
    assert_eq!(world.nats[0].mappings(), 0);
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
fn an_icmp_error_from_outside_shows_the_packet_as_the_inside_sent_it() {
    for (sent, kind) in [(question(4_000), 3), (tcp(CLIENT, SERVER, SYN), 11), (query(LEASE, "192.0.2.80", 8, 77), 12)]
    {
        let mut world = world();
        let outside = world.sent(&sent).bytes().to_vec();
        let came = world.came(&icmp_error("203.0.113.9", EXTERNAL, kind, 4, &outside));
        assert_checksums(&came);
        let mut inside = sent.bytes();
        ipv4::change_word(&mut inside, 0, ipv4::IDENTIFICATION, u16::from_be_bytes([outside[4], outside[5]]));
        assert_eq!(came.bytes(), icmp_error("203.0.113.9", LEASE, kind, 4, &inside).bytes());
    }
}

#[test]
fn an_icmp_error_neither_refreshes_nor_ends_a_mapping() {
    let mut world = world();
    let outside = world.sent(&question(4_000)).bytes().to_vec();
    world.wait(299);
    world.came(&icmp_error("203.0.113.9", EXTERNAL, 3, 3, &outside));
    assert_eq!(world.nats[0].mappings(), 1);
    world.wait(1);
    assert_eq!(world.refused(&icmp_error("203.0.113.9", EXTERNAL, 3, 3, &outside)), Reason::NoMapping);
}

#[test]
fn an_icmp_error_about_a_packet_that_was_never_sent_is_filtered() {
    let mut world = world();
    let external = world.external(&question(4_000));
    let forged = udp(&external, "203.0.113.77:443", b"x").bytes();
    assert_eq!(world.refused(&icmp_error("203.0.113.9", EXTERNAL, 3, 3, &forged)), Reason::Filtered);
}

#[test]
fn an_icmp_error_from_inside_quotes_what_the_outside_sent() {
    let mut world = world();
    let external = world.external(&question(4_000));
    let inside = world.came(&udp(SERVER, &external, b"answer")).bytes().to_vec();
    let sent = world.sent(&icmp_error(LEASE, "192.0.2.80", 3, 3, &inside));
    assert_packet(&sent, &icmp_error(EXTERNAL, "192.0.2.80", 3, 3, &udp(SERVER, &external, b"answer").bytes()));
    let unknown = udp(SERVER, "100.64.0.2:4001", b"answer").bytes();
    assert!(matches!(
        world.send(icmp_error(LEASE, "192.0.2.80", 3, 3, &unknown).packet()),
        Verdict::Drop(Reason::NoMapping)
    ));
}

#[test]
fn a_cut_off_quote_without_its_checksum_is_translated_too() {
    let mut world = world();
    let outside = world.sent(&tcp(CLIENT, SERVER, SYN)).bytes().to_vec();
    let came = world.came(&icmp_error("203.0.113.9", EXTERNAL, 11, 0, &outside[..28]));
    assert_checksums(&came);
    assert_eq!(came.bytes()[48..52], tcp(CLIENT, SERVER, SYN).bytes()[20..24]);
}

#[test]
fn a_packet_to_another_tethers_port_turns_round_with_its_external_source() {
    let mut world = world();
    let peer = udp("100.64.0.3:5000", &world.external(&question(4_000)), b"hello");
    let outcome = outgoing(&mut world.nats[1], parse(peer.packet()), world.now);
    let Verdict::Turn(turned) = outcome else { panic!("not turned: {outcome:?}") };
    assert_checksums(&turned);
    let source = *turned.proof().five_tuple();
    assert_eq!((source.source, source.destination), (ip(EXTERNAL).into(), ip(EXTERNAL).into()));
    let blocked = incoming(&mut world.nats[0], turned, world.now);
    assert!(matches!(blocked, Verdict::Drop(Reason::Filtered)), "through the filter: {blocked:?}");
    let reply = udp(CLIENT, &format!("{EXTERNAL}:{}", source.source_port), b"hello");
    let Verdict::Turn(turned) = world.send(reply.packet()) else { panic!("not turned") };
    let came = forwarded(incoming(&mut world.nats[1], turned, world.now));
    assert_checksums(&came);
    assert_eq!(reparsed(&came).destination, IpAddr::V4(ip("100.64.0.3")));
}

#[test]
fn an_icmp_error_about_a_hairpinned_packet_turns_round_too() {
    let mut world = translating(|rules| rules.filtering = Filtering::EndpointIndependent);
    let external = world.external(&question(4_000));
    let hello = udp("100.64.0.3:5000", &external, b"hello");
    let Verdict::Turn(turned) = outgoing(&mut world.nats[1], parse(hello.packet()), world.now) else {
        panic!("not turned")
    };
    let came = forwarded(incoming(&mut world.nats[0], turned, world.now));
    let error = icmp_error(LEASE, EXTERNAL, 3, 3, came.bytes());
    let Verdict::Turn(turned) = world.send(error.packet()) else { panic!("not turned") };
    let came = forwarded(incoming(&mut world.nats[1], turned, world.now));
    assert_checksums(&came);
    assert_eq!(came.bytes()[48..52], hello.bytes()[20..24], "the ports as they were sent");
    assert_eq!(came.bytes()[40..48], hello.bytes()[12..20], "the addresses as they were sent");
}

#[test]
fn dns_to_the_gateway_goes_to_the_resolver_and_its_answer_comes_from_the_gateway() {
    for mut world in [world(), untranslated()] {
        let sent = world.sent(&udp(CLIENT, "100.64.0.1:53", b"name?"));
        let external = external_end(&sent);
        assert_packet(&sent, &udp(&external, "192.0.2.53:53", b"name?"));
        let came = world.came(&udp("192.0.2.53:53", &external, b"name!"));
        assert_eq!(came.bytes(), udp("100.64.0.1:53", CLIENT, b"name!").bytes());
        let sent = world.sent(&tcp(CLIENT, "100.64.0.1:53", SYN));
        let came = world.came(&tcp("192.0.2.53:53", &external_end(&sent), SYN_ACK));
        assert_eq!(came.bytes(), tcp("100.64.0.1:53", CLIENT, SYN_ACK).bytes());
    }
}

#[test]
fn dns_to_the_gateway_has_a_port_apart_from_what_the_same_port_sends_to_the_resolver_itself() {
    let mut world = world();
    let asked = world.external(&udp(CLIENT, "100.64.0.1:53", b"?"));
    let direct = world.external(&udp(CLIENT, "192.0.2.53:53", b"?"));
    assert_ne!(asked, direct);
    assert_eq!(world.came(&udp("192.0.2.53:53", &direct, b"!")).bytes(), udp("192.0.2.53:53", CLIENT, b"!").bytes());
}

#[test]
fn icmp_errors_about_dns_are_shown_with_the_gateway_and_the_resolver_on_their_sides() {
    for mut world in [world(), untranslated()] {
        let asked = udp(CLIENT, "100.64.0.1:53", b"?");
        let sent = world.sent(&asked);
        let external = external_end(&sent);
        let address = external.split(':').next().expect("an address");
        let came = world.came(&icmp_error("192.0.2.53", address, 3, 3, sent.bytes()));
        let mut inside = asked.bytes();
        ipv4::change_word(&mut inside, 0, ipv4::IDENTIFICATION, u16::from_be_bytes([sent.bytes()[4], sent.bytes()[5]]));
        assert_eq!(came.bytes(), icmp_error(GATEWAY, LEASE, 3, 3, &inside).bytes());
        let answer = udp("192.0.2.53:53", &external, b"!");
        let inside = world.came(&answer).bytes().to_vec();
        let sent = world.sent(&icmp_error(LEASE, GATEWAY, 3, 3, &inside));
        assert_packet(&sent, &icmp_error(address, "192.0.2.53", 3, 3, &answer.bytes()));
    }
}

#[test]
fn without_a_resolver_dns_to_the_gateway_is_refused() {
    let mut world = translating(|rules| rules.resolver = None);
    let asked = udp(CLIENT, "100.64.0.1:53", b"?");
    let (reason, error) = as_sent_with_ttl_of(&mut world, &asked);
    assert_eq!(reason, Reason::NoResolver);
    assert_packet(&error, &icmp_error(GATEWAY, LEASE, 3, 13, &asked.bytes()));
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
fn the_mss_of_a_syn_is_lowered_to_the_mtu_both_ways_and_never_raised() {
    let with = |from: &str, to: &str, mss: u16, pad: &[u8]| {
        let mut options = pad.to_vec();
        options.extend([2, 4]);
        options.extend(mss.to_be_bytes());
        options.resize(options.len().next_multiple_of(4), 0);
        tcp_with(from, to, SYN, &options, b"")
    };
    // Without padding the value is at an even place, behind one no-operation at an odd one.
    for pad in [&[][..], &[1], &[3, 3, 7], &[1, 3, 3, 7, 1]] {
        for (mss, expected) in [(1_460, 1_360), (1_361, 1_360), (1_360, 1_360), (536, 536)] {
            let mut world = world();
            let sent = world.sent(&with(CLIENT, SERVER, mss, pad));
            let external = external_end(&sent);
            assert_packet(&sent, &with(&external, SERVER, expected, pad));
            let came = world.came(&with(SERVER, &external, mss, pad));
            assert_packet(&came, &with(SERVER, CLIENT, expected, pad));
            let partial = forwarded(world.send(with(CLIENT, SERVER, mss, pad).partial()));
            assert_checksums(&partial);
        }
    }
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

#[derive(Clone, Debug)]
struct Flow {
    kind: u8,
    port: u16,
    remote: [u8; 4],
    remote_port: u16,
    payload: Vec<u8>,
    is_partial: bool,
}

fn flow() -> impl Strategy<Value = Flow> {
    let ends = (0..3_u8, any::<u16>(), prop::array::uniform4(1..224_u8), any::<u16>());
    (ends, prop::collection::vec(any::<u8>(), 0..64), any::<bool>()).prop_map(
        |((kind, port, remote, remote_port), payload, is_partial)| Flow {
            kind,
            port,
            remote,
            remote_port,
            payload,
            is_partial,
        },
    )
}

impl Flow {
    fn build(&self, inside: IpAddr, port: u16, outgoing: bool) -> Builder {
        let (inside_end, remote) = (format!("{inside}:{port}"), std::net::Ipv4Addr::from(self.remote).to_string());
        let remote_end = format!("{remote}:{}", self.remote_port);
        let (from, to) = if outgoing { (inside_end, remote_end) } else { (remote_end, inside_end) };
        match (self.kind, outgoing) {
            (0, _) => udp(&from, &to, &self.payload),
            (1, _) => tcp_with(&from, &to, if outgoing { SYN } else { SYN_ACK }, &[], &self.payload),
            (_, true) => query(&inside.to_string(), &remote, 8, port),
            (_, false) => query(&remote, &inside.to_string(), 0, port),
        }
    }

    fn packet(&self, builder: &Builder) -> Packet<Raw> {
        if self.is_partial && self.kind < 2 { builder.partial() } else { builder.packet() }
    }
}

proptest! {
    #[test]
    fn what_goes_out_comes_back_as_it_was_with_right_checksums_and_no_port_is_shared(flows in prop::collection::vec(flow(), 1..60)) {
        let mut world = world();
        let mut external = std::collections::HashMap::new();
        for flow in &flows {
            let sent = forwarded(world.send(flow.packet(&flow.build(ip(LEASE).into(), flow.port, true))));
            assert_checksums(&sent);
            let seen = reparsed(&sent);
            let known = external.entry((flow.kind, seen.source_port)).or_insert(flow.port);
            prop_assert_eq!(*known, flow.port, "two inside ports share an external one");
            let came = forwarded(world.come(flow.packet(&flow.build(seen.source, seen.source_port, false))));
            assert_checksums(&came);
            let expected = flow.packet(&flow.build(ip(LEASE).into(), flow.port, false));
            prop_assert_eq!(came.bytes(), expected.bytes());
        }
    }

    #[test]
    fn whatever_parses_is_judged_without_a_panic_and_leaves_with_a_right_header(
        kinds in prop::collection::vec((any::<bool>(), 0..4_u8, prop::sample::select(vec![1_u8, 6, 17, 47]), prop::collection::vec(any::<u8>(), 8..90)), 1..20),
        translates in any::<bool>(),
    ) {
        let mut world = if translates { world() } else { untranslated() };
        for (out, icmp_kind, protocol, mut payload) in kinds {
            if protocol == 1 {
                payload[0] = [0, 8, 3, 11][usize::from(icmp_kind)];
            }
            let (from, to) = if out { (LEASE, "192.0.2.80") } else { ("192.0.2.80", EXTERNAL) };
            let Ok(packet) = ip_parse::parse(other(from, to, protocol, &payload).packet()) else { continue };
            prop_assert_eq!(packet.offload().checksum, Checksum::Complete);
            let now = world.now;
            let nat = &mut world.nats[0];
            let verdict = if out { outgoing(nat, packet, now) } else { incoming(nat, packet, now) };
            if let Verdict::Forward(packet) = verdict {
                prop_assert!(crate::checksum::is_valid(&packet.bytes()[..20]));
            }
        }
    }
}

#[test]
fn a_super_packet_is_translated_once_and_counts_identifications_for_its_segments() {
    let mut world = world();
    world.sent(&tcp(CLIENT, SERVER, SYN));
    let before = world.nats[0].identification(0);
    let single = tcp_with(CLIENT, SERVER, ACK, &[], &[7; 4_000]).partial();
    let offload = Offload { segment_bytes: 1_000, header_bytes: 40, ..single.offload() };
    let sent = forwarded(world.send(raw(single.bytes(), offload)));
    assert_checksums(&sent);
    assert_eq!((sent.offload(), sent.segments()), (offload, 4));
    assert_eq!(world.nats[0].identification(0), before.wrapping_add(4));
}
