//! What ws-encode's queue knows of packets: which flow one is of, and whether its sender takes a mark for a drop.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr};

use crate::ipv4;
use crate::packet::{Packet, Raw};
use crate::runtime::fq_codel::OfFlow;
use crate::stages::nat_rewrite::Translated;

impl OfFlow for Packet<Translated> {
    fn flow(&self, keys: &RandomState) -> u64 {
        let inside = self.proof().inside();
        match (inside.source, inside.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let ports = (inside.source_port, inside.destination_port);
                keys.hash_one(five_tuple(source, destination, inside.protocol, ports))
            }
            (_, _) => keys.hash_one(inside),
        }
    }

    fn mark_congestion(&mut self) -> bool {
        self.mark_congestion()
    }
}

/// At the client nothing has been judged: these are the bytes that the laptop's kernel sent.
impl OfFlow for Packet<Raw> {
    fn flow(&self, keys: &RandomState) -> u64 {
        match peek(self.bytes()) {
            Some(five_tuple) => keys.hash_one(five_tuple),
            // IPv6 by its addresses (RFC 8200, 3): the gateway takes none of it.
            None => keys.hash_one(self.bytes().get(8..40)),
        }
    }

    fn mark_congestion(&mut self) -> bool {
        let is_v4 = peek(self.bytes()).is_some();
        is_v4 && ipv4::mark_congestion(self.bytes_mut())
    }
}

/// In one number, since a hash takes its time for each part that it is given.
fn five_tuple(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, (from, to): (u16, u16)) -> u128 {
    let addresses = u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits());
    let rest = u64::from(protocol) << 32 | u64::from(from) << 16 | u64::from(to);
    u128::from(addresses) << 64 | u128::from(rest)
}

/// The five-tuple as it seems to be. Of fragments, and where there are no ports, it is addresses and protocol alone.
fn peek(bytes: &[u8]) -> Option<u128> {
    let first = *bytes.first()?;
    let payload_at = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || payload_at < ipv4::HEADER_BYTES {
        return None;
    }
    let protocol = *bytes.get(ipv4::PROTOCOL)?;
    let (source, destination) = (ipv4::address_at(bytes, ipv4::SOURCE)?, ipv4::address_at(bytes, ipv4::DESTINATION)?);
    let has_ports =
        matches!(protocol, ipv4::TCP | ipv4::UDP) && ipv4::word_at(bytes, ipv4::FRAGMENT)? & ipv4::FRAGMENTED == 0;
    let ports = match has_ports {
        true => ipv4::word_at(bytes, payload_at).zip(ipv4::word_at(bytes, payload_at + 2)),
        false => None,
    };
    Some(five_tuple(source, destination, protocol, ports.unwrap_or_default()))
}

#[cfg(test)]
mod tests;
