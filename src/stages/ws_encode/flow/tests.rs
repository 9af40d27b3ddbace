use proptest::prelude::*;

use super::*;
use crate::checksum;
use crate::packet_builder::*;
use crate::stages::ws_encode::testing::to_tether;

fn keys() -> RandomState {
    RandomState::new()
}

fn raw_of(bytes: &[u8]) -> Packet<Raw> {
    raw(bytes, crate::packet::Offload::default())
}

/// Six flows of one tether, each with two of its packets.
fn flows() -> [[Builder; 2]; 6] {
    let (client, server) = ("100.64.0.2:4000", "192.0.2.80:443");
    let of_tcp = |source, destination| [ACK, FIN].map(|flags| tcp(source, destination, flags));
    let of_udp = |source, destination| [b"x", b"y"].map(|payload| udp(source, destination, payload));
    let of_icmp = |identifier| [64, 9].map(|ttl| query("192.0.2.80", "100.64.0.2", 0, identifier).ttl(ttl));
    [
        of_tcp(server, client),
        of_tcp(server, "100.64.0.2:4001"),
        of_udp(server, client),
        of_udp("192.0.2.81:443", client),
        of_icmp(7),
        of_icmp(8),
    ]
}

#[test]
fn packets_of_a_flow_to_a_tether_have_one_number_and_other_flows_others() {
    let keys = keys();
    let number = |packet: &Builder| to_tether(packet).flow(&keys);
    let numbers = flows().map(|packets| packets.each_ref().map(&number));
    assert!(numbers.iter().all(|[one, another]| one == another), "{numbers:x?}");
    let apart: std::collections::HashSet<_> = numbers.iter().flatten().collect();
    assert_eq!(apart.len(), numbers.len(), "{numbers:x?}");
}

#[test]
fn packets_of_a_flow_have_one_number_and_other_flows_others() {
    let keys = keys();
    let number = |builder: Builder| builder.packet().flow(&keys);
    let flow = || tcp("100.64.0.2:4000", "192.0.2.80:443", ACK);
    assert_eq!(number(flow()), number(flow().ttl(9)));
    let mut numbers: Vec<_> = [
        flow(),
        tcp("100.64.0.2:4001", "192.0.2.80:443", ACK),
        tcp("100.64.0.2:4000", "192.0.2.80:444", ACK),
        tcp("100.64.0.2:4000", "192.0.2.81:443", ACK),
        udp("100.64.0.2:4000", "192.0.2.80:443", b"x"),
        query("100.64.0.2", "192.0.2.80", 8, 7),
    ]
    .map(number)
    .into();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 6);
}

#[test]
fn fragments_and_what_has_no_ports_are_told_apart_by_addresses_and_protocol() {
    let keys = keys();
    let number = |builder: Builder| builder.packet().flow(&keys);
    let fragment = |port: u16, bits| udp(&format!("100.64.0.2:{port}"), "192.0.2.80:443", b"x").fragment(bits);
    assert_eq!(number(fragment(1, 0x2000)), number(fragment(2, 0x0002)));
    assert_eq!(
        number(other("100.64.0.2", "192.0.2.80", 47, b"a")),
        number(other("100.64.0.2", "192.0.2.80", 47, b"b"))
    );
}

#[test]
fn another_process_has_other_numbers() {
    let packet = tcp("100.64.0.2:4000", "192.0.2.80:443", ACK).packet();
    assert_ne!(packet.flow(&keys()), packet.flow(&keys()));
}

#[test]
fn a_mark_is_set_where_the_sender_understands_it_and_the_header_stays_right() {
    for (tos, marked) in [(0x00, 0x00), (0x01, 0x03), (0xb8, 0xb8), (0xba, 0xbb), (0x03, 0x03)] {
        let mut bytes = udp("100.64.0.2:4000", "192.0.2.80:443", b"x").bytes();
        let word = u16::from_be_bytes([bytes[0], tos]);
        ipv4::change_word(&mut bytes, 0, 0, word);
        let mut packet = raw_of(&bytes);
        assert_eq!(OfFlow::mark_congestion(&mut packet), tos & 3 != 0, "{tos:#x}");
        assert_eq!(packet.bytes()[ipv4::TOS], marked);
        assert!(checksum::is_valid(&packet.bytes()[..ipv4::HEADER_BYTES]));
    }
}

proptest! {
    #[test]
    fn no_bytes_of_the_laptop_make_the_peek_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80), is_v4: bool) {
        if is_v4 && let Some(first) = bytes.first_mut() {
            *first = 0x40 | *first & 0x0f;
        }
        let mut packet = raw_of(&bytes);
        packet.flow(&keys());
        OfFlow::mark_congestion(&mut packet);
    }
}
