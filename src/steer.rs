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
