use super::*;

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
