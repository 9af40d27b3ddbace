//! What these tests share: two namespaces with a cable, and packets.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use wstether::checksum;
use wstether::io::netlink::{Netlink, Prefix, Route};
use wstether::lab::{Namespace, veth};
use wstether::packet::{BufPool, Offload, Packet, Raw};

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

/// Has routes come and go in this thread's namespace until no monitor that nobody reads has room for more: each of the
/// notifications takes more than 500 bytes of what a socket keeps (212,992 bytes).
pub(crate) fn overflow_monitors() {
    let mut netlink = Netlink::open().unwrap();
    let route = Route::new(in_24(Ipv4Addr::new(203, 0, 113, 0)), netlink.link("eth0").unwrap().index);
    for _ in 0..500 {
        netlink.replace_route(&route).unwrap();
        netlink.delete_route(&route).unwrap();
    }
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

/// What the datagrams of a flow hold: each its number, the last one less than the others.
pub(crate) fn payloads(count: u8, bytes: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| vec![number; if number + 1 < count { bytes } else { bytes / 2 }]).collect()
}

/// Such datagrams as programs send them: never to be fragmented, and with their checksums.
pub(crate) fn flow(
    pool: &BufPool,
    source: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    payloads: &[Vec<u8>],
) -> Vec<Packet<Raw>> {
    let summed = |payload: &Vec<u8>| {
        let mut packet = udp(source, to, payload);
        packet[6] = 0x40;
        for (at, covered) in [(10, 0..20), (26, 20..packet.len())] {
            packet[at..at + 2].fill(0);
            let addresses = checksum::pseudo_header(source.0.into(), to.0.into(), 17, covered.len());
            let sum = checksum::sum(&packet[covered]) + if at == 26 { addresses } else { 0 };
            packet[at..at + 2].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
        }
        Packet::raw(pool.copy(&packet).unwrap(), Offload::default())
    };
    payloads.iter().map(summed).collect()
}

/// What a socket gets, datagram by datagram.
pub(crate) fn received(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut buf = [0; 4_096];
    (0..count).map(|_| socket.recv(&mut buf).map(|len| buf[..len].to_vec()).unwrap()).collect()
}
