use super::*;

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
fn a_mapping_whose_last_connection_closes_ends_with_the_one_before_it_in_front_of_those_that_live() {
    let mut world = world();
    let open = |world: &mut World, client: &str, server: &str| {
        let external = world.external(&tcp(client, server, SYN));
        world.came(&tcp(server, &external, SYN_ACK));
    };
    let another = "192.0.2.81:443";
    open(&mut world, CLIENT, SERVER);
    world.wait(3_000);
    open(&mut world, "100.64.0.2:4001", SERVER);
    world.wait(4_000);
    open(&mut world, CLIENT, another);
    open(&mut world, "100.64.0.2:4002", SERVER);
    world.sent(&tcp(CLIENT, another, RST));
    let ended = |world: &mut World, seconds| {
        world.wait(seconds);
        world.nats[0].expire(world.now, 10)
    };
    assert_eq!([439, 1, 2_999, 1, 3_999, 1].map(|seconds| ended(&mut world, seconds)), [0, 1, 0, 1, 0, 1]);
}

#[test]
fn a_tcp_segment_that_opens_nothing_makes_no_mapping() {
    let mut world = world();
    for flags in [ACK, FIN, RST, SYN | RST] {
        assert!(matches!(world.send(tcp(CLIENT, SERVER, flags).packet()), Verdict::Drop(Reason::NoMapping)));
    }
    assert_eq!(world.nats[0].mappings(), 0);
}

#[test]
fn the_mss_of_a_syn_is_lowered_to_what_fits_around_and_into_the_mtu_both_ways_and_never_raised() {
    let with = |from: &str, to: &str, mss: u16, pad: &[u8]| {
        let mut options = pad.to_vec();
        options.extend([2, 4]);
        options.extend(mss.to_be_bytes());
        options.resize(options.len().next_multiple_of(4), 0);
        tcp_with(from, to, SYN, &options, b"")
    };
    // Without padding the value is at an even place, behind one no-operation at an odd one.
    for pad in [&[][..], &[1], &[3, 3, 7], &[1, 3, 3, 7, 1]] {
        for (mss, expected) in [(1_460, 1_328), (1_329, 1_328), (1_328, 1_328), (536, 536)] {
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
