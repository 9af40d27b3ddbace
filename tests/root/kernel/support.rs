//! What these tests share: two namespaces with a cable, and packets.

use std::net::Ipv4Addr;

use wstether::io::netlink::Prefix;
use wstether::lab::{Namespace, veth};

pub(crate) const LEFT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const RIGHT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// An address in a network of 24 bits.
pub(crate) fn in_24(address: Ipv4Addr) -> Prefix {
    Prefix::new(address.into(), 24)
}

/// Two namespaces with `eth0` each: 198.51.100.1 left and .2 right.
pub(crate) fn pair() -> (Namespace, Namespace) {
    let (left, right) = (Namespace::new("left").unwrap(), Namespace::new("right").unwrap());
    veth(&left, "eth0", &right, "eth0").unwrap();
    left.address("eth0", in_24(LEFT)).unwrap();
    right.address("eth0", in_24(RIGHT)).unwrap();
    (left, right)
}

/// An IPv4 packet with a UDP datagram in it, its UDP checksum left out (RFC 768 allows it).
pub(crate) fn udp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let udp_len = (8 + payload.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0];
    packet[2..4].copy_from_slice(&(20 + udp_len).to_be_bytes());
    packet.extend(source.0.octets());
    packet.extend(destination.0.octets());
    let sum: u32 = packet.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    for word in [source.1, destination.1, udp_len, 0] {
        packet.extend(word.to_be_bytes());
    }
    packet.extend(payload);
    packet
}
