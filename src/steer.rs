//! The peek that finds a packet's tether before anything is validated. It steers and judges nothing: a packet that is
//! steered wrongly is dropped by who gets it.

use std::net::{IpAddr, Ipv4Addr};

use crate::ipv4;
use crate::nat::AddressPlan;
use crate::tether_id::TetherId;

/// The tether that a packet from the internet, or one that turned round, is for: by lease where its destination is one,
/// else by external port.
pub fn tether_for(plan: &AddressPlan, bytes: &[u8]) -> Option<TetherId> {
    let peek = Peek::at(bytes)?;
    let destination = IpAddr::V4(peek.destination);
    plan.tether_by_lease(destination).or_else(|| plan.tether_by_port(destination, peek.external_port()?))
}

/// A number that is the same for all packets of a flow in one direction: addresses, protocol and ports; for fragments
/// addresses and identification, which all fragments of a datagram share.
pub fn flow_hash(bytes: &[u8]) -> u32 {
    let Some(peek) = Peek::at(bytes) else { return hash_addresses(bytes) };
    let ports = match (peek.is_fragment, peek.protocol) {
        (true, _) => ipv4::word_at(bytes, ipv4::IDENTIFICATION).map(u32::from),
        (false, ipv4::TCP | ipv4::UDP) => ipv4::word_at(peek.payload, 0)
            .zip(ipv4::word_at(peek.payload, 2))
            .map(|(from, to)| u32::from(from) << 16 | u32::from(to)),
        (false, ipv4::ICMP) => peek.external_port().map(u32::from),
        (false, _) => None,
    };
    let addresses = u64::from(peek.source.to_bits()) << 32 | u64::from(peek.destination.to_bits());
    mix(mix(addresses) ^ u64::from(ports.unwrap_or(0)) ^ u64::from(peek.protocol) << 32) as u32
}

/// IPv6 and what is no packet: by the bytes where IPv6 has its addresses.
fn hash_addresses(bytes: &[u8]) -> u32 {
    const ADDRESSES: std::ops::Range<usize> = 8..40;
    let addresses = bytes.get(ADDRESSES).unwrap_or_default().as_chunks().0;
    addresses.iter().fold(0, |hash, &part| mix(hash ^ u64::from_be_bytes(part))) as u32
}

/// Spreads every bit over the lower half (Fibonacci hashing, its upper half folded in).
fn mix(value: u64) -> u64 {
    let product = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

struct Peek<'a> {
    protocol: u8,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    is_fragment: bool,
    payload: &'a [u8],
}

impl<'a> Peek<'a> {
    fn at(bytes: &'a [u8]) -> Option<Self> {
        let first = *bytes.first()?;
        if first >> 4 != 4 {
            return None;
        }
        Some(Self {
            protocol: *bytes.get(ipv4::PROTOCOL)?,
            source: ipv4::address_at(bytes, ipv4::SOURCE)?,
            destination: ipv4::address_at(bytes, ipv4::DESTINATION)?,
            is_fragment: ipv4::word_at(bytes, ipv4::FRAGMENT)? & ipv4::FRAGMENTED != 0,
            payload: bytes.get(usize::from(first & 0xf) * 4..)?,
        })
    }

    /// The port or identifier that the gateway gave to the tether, as this packet has it.
    fn external_port(&self) -> Option<u16> {
        if self.is_fragment {
            return None;
        }
        match self.protocol {
            ipv4::TCP | ipv4::UDP => ipv4::word_at(self.payload, 2),
            ipv4::ICMP => match *self.payload.first()? {
                ipv4::ICMP_ECHO_REPLY | ipv4::ICMP_TIMESTAMP_REPLY => {
                    ipv4::word_at(self.payload, ipv4::ICMP_IDENTIFIER)
                }
                ipv4::ICMP_UNREACHABLE | ipv4::ICMP_TIME_EXCEEDED | ipv4::ICMP_PARAMETER_PROBLEM => {
                    let quoted = Peek::at(self.payload.get(ipv4::ICMP_HEADER_BYTES..)?)?;
                    quoted.own_port()
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// The port or identifier of who sent the packet.
    fn own_port(&self) -> Option<u16> {
        match self.protocol {
            ipv4::TCP | ipv4::UDP => ipv4::word_at(self.payload, 0),
            ipv4::ICMP => ipv4::word_at(self.payload, ipv4::ICMP_IDENTIFIER),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nat::Translation;
    use crate::packet_builder::*;

    const EXTERNAL: &str = "198.51.100.1";

    fn plan(translation: Translation) -> AddressPlan {
        AddressPlan::new("100.64.0.0/16".parse().expect("a prefix"), translation).expect("a plan")
    }

    fn translating() -> AddressPlan {
        plan(Translation::Gateway { addresses: vec![ip(EXTERNAL).into()], ports: 10_000..=10_999, block_ports: 100 })
    }

    fn tether(packet: &Builder) -> Option<u32> {
        tether_for(&translating(), &packet.bytes()).map(|tether| tether.0)
    }

    #[test]
    fn a_packet_from_the_internet_finds_its_tether_by_the_destination_port() {
        assert_eq!(tether(&udp("192.0.2.80:443", "198.51.100.1:10000", b"x")), Some(0));
        assert_eq!(tether(&tcp("192.0.2.80:443", "198.51.100.1:10999", SYN_ACK)), Some(9));
        assert_eq!(tether(&udp("192.0.2.80:443", "198.51.100.1:9999", b"x")), None);
        assert_eq!(tether(&udp("192.0.2.80:443", "198.51.100.2:10000", b"x")), None);
    }

    #[test]
    fn options_move_the_ports() {
        assert_eq!(tether(&udp("192.0.2.80:443", "198.51.100.1:10250", b"x").options(&[1; 8])), Some(2));
    }

    #[test]
    fn an_echo_reply_finds_its_tether_by_the_identifier_and_a_request_finds_none() {
        assert_eq!(tether(&query("192.0.2.80", EXTERNAL, 0, 10_350)), Some(3));
        assert_eq!(tether(&query("192.0.2.80", EXTERNAL, 14, 10_350)), Some(3));
        assert_eq!(tether(&query("192.0.2.80", EXTERNAL, 8, 10_350)), None);
    }

    #[test]
    fn an_icmp_error_finds_its_tether_by_the_source_port_that_it_quotes() {
        for quoted in [
            udp("198.51.100.1:10450", "192.0.2.80:443", b"x"),
            tcp("198.51.100.1:10450", "192.0.2.80:443", SYN),
            query(EXTERNAL, "192.0.2.80", 8, 10_450),
        ] {
            assert_eq!(tether(&icmp_error("203.0.113.9", EXTERNAL, 3, 1, &quoted.bytes()[..28])), Some(4));
        }
    }

    #[test]
    fn where_the_destination_is_a_lease_it_decides_for_every_protocol() {
        for plan in [translating(), plan(Translation::None)] {
            let gre = other("100.64.0.1", "100.64.0.7", 47, b"gre").bytes();
            assert_eq!(tether_for(&plan, &gre), Some(TetherId(5)));
        }
        assert_eq!(tether(&other("192.0.2.80", EXTERNAL, 47, b"gre")), None);
    }

    #[test]
    fn a_fragment_has_no_port() {
        assert_eq!(tether(&udp("192.0.2.80:443", "198.51.100.1:10000", b"x").fragment(0x2000)), None);
    }

    #[test]
    fn packets_of_a_flow_have_one_hash_and_other_flows_others() {
        let hash = |packet: &Builder| flow_hash(&packet.bytes());
        let flow = || tcp("192.0.2.80:443", "198.51.100.1:10000", ACK);
        assert_eq!(hash(&flow()), hash(&flow().ttl(9)));
        let mut hashes: Vec<_> = (0..1_000)
            .map(|port| hash(&tcp("192.0.2.80:443", &format!("198.51.100.1:{}", 10_000 + port), ACK)) % 64)
            .collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 64, "a thousand flows reach each of 64 lanes");
    }

    #[test]
    fn all_fragments_of_a_datagram_have_one_hash() {
        let first = udp("192.0.2.80:443", "198.51.100.1:10000", b"first").fragment(0x2000).bytes();
        let later = other("192.0.2.80", EXTERNAL, 17, b"anything").fragment(0x0002).bytes();
        assert_eq!(flow_hash(&first), flow_hash(&later));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_peek_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), is_v4 in any::<bool>()) {
            if is_v4 && let Some(first) = bytes.first_mut() {
                *first = 0x40 | *first & 0x0f;
            }
            flow_hash(&bytes);
            tether_for(&translating(), &bytes);
        }
    }
}
