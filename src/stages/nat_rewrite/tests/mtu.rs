//! What comes for a tether that takes less than the gateway.

use super::*;

const MTU_BYTES: u16 = 1_300;

/// A tether of that MTU with a mapping, and the mapping's external end.
fn narrow() -> (World, String) {
    narrow_in(world())
}

fn narrow_in(mut world: World) -> (World, String) {
    world.nats[0].set_mtu_bytes(MTU_BYTES);
    let external = world.external(&question(4_000));
    (world, external)
}

/// An answer of so many bytes in all, as ip-parse hands it on.
fn answer(external: &str, bytes: u16) -> Builder {
    udp(SERVER, external, &vec![7; usize::from(bytes) - 28]).ttl(63)
}

#[test]
fn a_packet_larger_than_the_tethers_mtu_is_told_to_its_sender_as_from_the_external_address() {
    let (mut world, external) = narrow();
    world.came(&answer(&external, MTU_BYTES));
    let Verdict::Reply(Reason::TooBig, told) = world.come(answer(&external, MTU_BYTES + 1).packet()) else {
        panic!("not told")
    };
    let [high, low] = MTU_BYTES.to_be_bytes();
    let mut message = vec![3, 4, 0, 0, 0, 0, high, low];
    message.extend(&answer(&external, MTU_BYTES + 1).ttl(64).bytes()[..548]);
    let mut expected = icmp(EXTERNAL, "192.0.2.80", &message).bytes();
    ipv4::change_word(&mut expected, 0, ipv4::IDENTIFICATION, 0);
    assert_eq!(told.bytes(), expected);
    assert_checksums(&told);
}

#[test]
fn a_packet_that_may_be_fragmented_and_one_that_is_not_from_the_internet_are_dropped_untold() {
    let everybody = translating(|rules| rules.filtering = Filtering::EndpointIndependent);
    let (mut world, external) = narrow_in(everybody);
    let dropped = world.come(answer(&external, MTU_BYTES + 1).fragment(0).packet());
    assert!(matches!(dropped, Verdict::Drop(Reason::TooBig)), "{dropped:?}");
    let from_neighbour = parse(udp("100.64.0.3:5000", &external, &[7; 1_350]).packet());
    let Verdict::Turn(turned) = outgoing(&mut world.nats[1], from_neighbour, world.now) else { panic!("not turned") };
    let dropped = incoming(&mut world.nats[0], turned, world.now);
    assert!(matches!(dropped, Verdict::Drop(Reason::TooBig)), "{dropped:?}");
    let mut echo = vec![0, 0, 0, 0, 0, 77, 0, 1];
    echo.resize(1_350, 0);
    assert_eq!(world.refused(&icmp(GATEWAY, LEASE, &echo)), Reason::TooBig);
}

#[test]
fn nobody_is_told_of_a_packet_that_would_not_have_come_in() {
    let (mut world, external) = narrow();
    let stranger = udp("203.0.113.9:443", &external, &[7; 1_400]);
    assert_eq!(world.refused(&stranger), Reason::Filtered);
}

#[test]
fn a_super_packet_to_the_tether_is_judged_by_its_segments() {
    let (mut world, _) = narrow();
    let external = world.external(&tcp(CLIENT, SERVER, SYN));
    let mut come = |segment_bytes| {
        let whole = tcp_with(SERVER, &external, ACK, &[], &[7; 5_000]).partial();
        world.come(raw(whole.bytes(), Offload { segment_bytes, header_bytes: 40, ..whole.offload() }))
    };
    assert!(matches!(come(MTU_BYTES - 40), Verdict::Forward(_)));
    assert!(matches!(come(MTU_BYTES - 39), Verdict::Reply(Reason::TooBig, _)));
}

#[test]
fn the_mss_is_lowered_to_the_tethers_mtu() {
    let (mut world, _) = narrow();
    let with_mss = |mss: u16| tcp_with(CLIENT, SERVER, SYN, &[&[2, 4], &mss.to_be_bytes()[..]].concat(), b"");
    let sent = world.sent(&with_mss(1_460));
    assert_eq!(ipv4::word_at(sent.bytes(), 42), Some(MTU_BYTES - 40));
    assert_checksums(&sent);
}
