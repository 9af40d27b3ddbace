//! Packets for tests: built with complete checksums, and judged by full recomputation.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use crate::checksum;
use crate::ipv4;
use crate::packet::{BufPool, Checksum, Offload, Packet, Raw};

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const SYN_ACK: u8 = 0x12;
pub(crate) const FIN: u8 = 0x11;
pub(crate) const RST: u8 = 0x04;

/// An IPv4 packet in the making.
#[derive(Clone, Debug)]
pub(crate) struct Builder {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    ttl: u8,
    fragment: u16,
    identification: u16,
    options: Vec<u8>,
    transport: Vec<u8>,
    checksum: Option<usize>,
}

pub(crate) fn ip(text: &str) -> Ipv4Addr {
    text.parse().expect(text)
}

fn end(text: &str) -> SocketAddrV4 {
    text.parse().expect(text)
}

/// Ends are written as `192.0.2.1:80`.
pub(crate) fn udp(source: &str, destination: &str, payload: &[u8]) -> Builder {
    let (source, destination) = (end(source), end(destination));
    let mut transport = Vec::new();
    transport.extend(source.port().to_be_bytes());
    transport.extend(destination.port().to_be_bytes());
    transport.extend((8 + payload.len() as u16).to_be_bytes());
    transport.extend([0, 0]);
    transport.extend(payload);
    Builder::new(*source.ip(), *destination.ip(), ipv4::UDP, transport, Some(ipv4::UDP_CHECKSUM))
}

pub(crate) fn tcp(source: &str, destination: &str, flags: u8) -> Builder {
    tcp_with(source, destination, flags, &[], b"")
}

/// Options are padded by the caller to a multiple of 4.
pub(crate) fn tcp_with(source: &str, destination: &str, flags: u8, options: &[u8], payload: &[u8]) -> Builder {
    let (source, destination) = (end(source), end(destination));
    let mut transport = Vec::new();
    transport.extend(source.port().to_be_bytes());
    transport.extend(destination.port().to_be_bytes());
    transport.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50 + (options.len() as u8 / 4 * 16), flags, 0xff, 0xff, 0, 0, 0, 0]);
    transport.extend(options);
    transport.extend(payload);
    Builder::new(*source.ip(), *destination.ip(), ipv4::TCP, transport, Some(ipv4::TCP_CHECKSUM))
}

/// An ICMP query of type `kind`.
pub(crate) fn query(source: &str, destination: &str, kind: u8, identifier: u16) -> Builder {
    let [high, low] = identifier.to_be_bytes();
    icmp(source, destination, &[kind, 0, 0, 0, high, low, 0, 7, b'p', b'i', b'n', b'g'])
}

/// An ICMP error about `quoted`.
pub(crate) fn icmp_error(source: &str, destination: &str, kind: u8, code: u8, quoted: &[u8]) -> Builder {
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend(quoted);
    icmp(source, destination, &message)
}

pub(crate) fn icmp(source: &str, destination: &str, message: &[u8]) -> Builder {
    Builder::new(ip(source), ip(destination), ipv4::ICMP, message.to_vec(), Some(ipv4::ICMP_CHECKSUM))
}

pub(crate) fn other(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Builder {
    Builder::new(ip(source), ip(destination), protocol, payload.to_vec(), None)
}

impl Builder {
    fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, transport: Vec<u8>, checksum: Option<usize>) -> Self {
        let (ttl, fragment, identification) = (64, ipv4::DONT_FRAGMENT, 0x1234);
        Self { source, destination, protocol, ttl, fragment, identification, options: vec![], transport, checksum }
    }

    pub(crate) fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// Flags and offset as the header has them.
    pub(crate) fn fragment(self, fragment: u16) -> Self {
        Self { fragment, ..self }
    }

    pub(crate) fn options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let header_bytes = ipv4::HEADER_BYTES + self.options.len();
        let mut header = vec![0; header_bytes];
        header[0] = 0x40 + (header_bytes / 4) as u8;
        ipv4::set_word(&mut header, ipv4::TOTAL_LENGTH, (header_bytes + self.transport.len()) as u16);
        ipv4::set_word(&mut header, ipv4::IDENTIFICATION, self.identification);
        ipv4::set_word(&mut header, ipv4::FRAGMENT, self.fragment);
        header[ipv4::TTL] = self.ttl;
        header[ipv4::PROTOCOL] = self.protocol;
        ipv4::set_address(&mut header, ipv4::SOURCE, self.source);
        ipv4::set_address(&mut header, ipv4::DESTINATION, self.destination);
        header[ipv4::HEADER_BYTES..].copy_from_slice(&self.options);
        let checksum = checksum::of(&header);
        ipv4::set_word(&mut header, ipv4::CHECKSUM, checksum);
        let mut transport = self.transport.clone();
        if let Some(at) = self.checksum {
            let checksum = transport_checksum(self.source, self.destination, self.protocol, &transport);
            ipv4::set_word(&mut transport, at, checksum);
        }
        header.extend(transport);
        header
    }

    pub(crate) fn packet(&self) -> Packet<Raw> {
        raw(&self.bytes(), Offload::default())
    }

    /// The same with a partial checksum, as a device with offload hands it over.
    pub(crate) fn partial(&self) -> Packet<Raw> {
        let mut bytes = self.bytes();
        let start = bytes.len() - self.transport.len();
        let at = self.checksum.expect("a protocol with a checksum");
        let sum = pseudo_sum(self.source, self.destination, self.protocol, self.transport.len());
        ipv4::set_word(&mut bytes, start + at, sum);
        raw(
            &bytes,
            Offload { checksum: Checksum::Partial { start: start as u16, offset: at as u16 }, ..Offload::default() },
        )
    }
}

pub(crate) fn raw(bytes: &[u8], offload: Offload) -> Packet<Raw> {
    Packet::raw(BufPool::new(1 << 20).copy(bytes).expect("room"), offload)
}

fn pseudo_sum(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: usize) -> u16 {
    checksum::fold(checksum::pseudo_header(IpAddr::V4(source), IpAddr::V4(destination), protocol, len))
}

fn transport_checksum(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, transport: &[u8]) -> u16 {
    let pseudo = match protocol {
        ipv4::ICMP => 0,
        _ => u64::from(pseudo_sum(source, destination, protocol, transport.len())),
    };
    match !checksum::fold(pseudo + checksum::sum(transport)) {
        0 if protocol == ipv4::UDP => 0xffff,
        checksum => checksum,
    }
}

/// Holds every checksum of a packet against a full recomputation: its IP header's, its transport's (a partial one: the
/// pseudo-header's sum), and the IP header's that an ICMP error quotes.
pub(crate) fn assert_checksums<Proof>(packet: &Packet<Proof>) {
    let bytes = packet.bytes();
    let at = usize::from(bytes[0] & 0xf) * 4;
    assert!(checksum::is_valid(&bytes[..at]), "the IP header's checksum");
    let (source, destination) = (address(bytes, ipv4::SOURCE), address(bytes, ipv4::DESTINATION));
    let (protocol, transport) = (bytes[ipv4::PROTOCOL], &bytes[at..]);
    let field = match protocol {
        ipv4::TCP => ipv4::TCP_CHECKSUM,
        ipv4::UDP => ipv4::UDP_CHECKSUM,
        ipv4::ICMP => ipv4::ICMP_CHECKSUM,
        _ => return,
    };
    let found = ipv4::word_at(transport, field).expect("a checksum field");
    if packet.offload().checksum != Checksum::Complete {
        assert_eq!(found, pseudo_sum(source, destination, protocol, transport.len()), "the pseudo-header's sum");
        return;
    }
    let mut zeroed = transport.to_vec();
    ipv4::set_word(&mut zeroed, field, 0);
    assert_eq!(found, transport_checksum(source, destination, protocol, &zeroed), "the transport's checksum");
    if protocol == ipv4::ICMP && matches!(transport[0], 3 | 11 | 12) {
        let header = usize::from(transport[8] & 0xf) * 4;
        assert!(checksum::is_valid(&transport[8..8 + header]), "the quoted IP header's checksum");
    }
}

fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    ipv4::address_at(bytes, at).expect("an address")
}
