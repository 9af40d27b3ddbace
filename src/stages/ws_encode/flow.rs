//! What ws-encode's queue knows of packets: which flow one is of, and whether its sender takes a mark for a drop.

use std::hash::{BuildHasher as _, RandomState};
use std::net::Ipv4Addr;

use crate::ipv4;
use crate::packet::{Packet, Raw};
use crate::runtime::fq_codel::OfFlow;
use crate::stages::nat_rewrite::Translated;

impl OfFlow for Packet<Translated> {
    fn flow(&self, keys: &RandomState) -> u64 {
        keys.hash_one(self.proof().inside())
    }

    fn mark_congestion(&mut self) -> bool {
        self.mark_congestion()
    }
}

/// At the client nothing has been judged: these are the bytes that the laptop's kernel sent.
impl OfFlow for Packet<Raw> {
    fn flow(&self, keys: &RandomState) -> u64 {
        match Peek::at(self.bytes()) {
            Some(peek) => keys.hash_one(peek),
            // The fixed header of IPv6, in which its flows are told apart by addresses (RFC 8200, 3); the gateway takes
            // none of it.
            None => keys.hash_one(self.bytes().get(8..40)),
        }
    }

    fn mark_congestion(&mut self) -> bool {
        let is_v4 = Peek::at(self.bytes()).is_some();
        is_v4 && ipv4::mark_congestion(self.bytes_mut())
    }
}

/// The five-tuple as it seems to be. Of fragments, and where there are no ports, it is addresses and protocol alone.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Peek {
    protocol: u8,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ports: Option<(u16, u16)>,
}

impl Peek {
    fn at(bytes: &[u8]) -> Option<Self> {
        let first = *bytes.first()?;
        let payload_at = usize::from(first & 0xf) * 4;
        if first >> 4 != 4 || payload_at < ipv4::HEADER_BYTES {
            return None;
        }
        let protocol = *bytes.get(ipv4::PROTOCOL)?;
        let has_ports =
            matches!(protocol, ipv4::TCP | ipv4::UDP) && ipv4::word_at(bytes, ipv4::FRAGMENT)? & ipv4::FRAGMENTED == 0;
        Some(Self {
            protocol,
            source: ipv4::address_at(bytes, ipv4::SOURCE)?,
            destination: ipv4::address_at(bytes, ipv4::DESTINATION)?,
            ports: match has_ports {
                true => ipv4::word_at(bytes, payload_at).zip(ipv4::word_at(bytes, payload_at + 2)),
                false => None,
            },
        })
    }
}

#[cfg(test)]
mod tests;
