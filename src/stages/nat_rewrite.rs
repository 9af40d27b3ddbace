//! nat-rewrite: finds or makes the mapping, rewrites, updates checksums incrementally (RFC 1624).

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use crate::icmp::Error;
use crate::ipv4;
use crate::nat::Nat;
use crate::nat::rewrite;
use crate::packet::Packet;
use crate::stages::Verdict;
use crate::stages::ip_parse::{self, FiveTuple, Parsed};

#[cfg(test)]
mod tests;

crate::reasons! {
    /// Why nat-rewrite drops a packet.
    pub enum Reason {
        /// Nothing inside is known by these ports, and the packet opens nothing.
        NoMapping = "no_mapping",
        /// Every external port of the tether is in use.
        PortLimit = "port_limit",
        /// The tether has as many mappings as it may have.
        MappingLimit = "mapping_limit",
        /// The tether makes mappings faster than it may.
        MappingRate = "mapping_rate",
        /// The memory budget has no room for another mapping.
        MemoryLimit = "memory_limit",
        /// The gateway has too much to do, or is nearly out of memory: nobody gets new mappings.
        Overload = "overload",
        /// The mapping's filter does not let the sender in.
        Filtered = "filtered",
        /// A protocol without ports, which an external address cannot be shared for.
        UnsupportedProtocol = "unsupported_protocol",
        /// DNS to the gateway, which knows no resolver.
        NoResolver = "no_resolver",
        /// To the tether, and larger than was agreed on with its client.
        TooBig = "too_big",
    }
}

/// Proof that a packet has the addresses of the side that it leaves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    inside: FiveTuple,
}

impl Translated {
    /// The flow's five-tuple as the inside sees it, in the packet's direction.
    pub fn inside(&self) -> &FiveTuple {
        &self.inside
    }
}

impl Packet<Translated> {
    /// Where the packet goes to now: what a route is looked up for.
    pub fn destination(&self) -> IpAddr {
        IpAddr::V4(ipv4::address_at(self.bytes(), ipv4::DESTINATION).unwrap_or(Ipv4Addr::UNSPECIFIED))
    }

    /// Marks congestion, where the sender understands it; returns whether it does.
    pub fn mark_congestion(&mut self) -> bool {
        ipv4::mark_congestion(self.bytes_mut())
    }
}

/// A packet from a tether's link.
pub fn outgoing(nat: &mut Nat, packet: Packet<Parsed>, now: Instant) -> Verdict<Packet<Translated>, Reason> {
    let inside = *packet.proof().five_tuple();
    let rewrite = match nat.translate_outgoing(&packet, now) {
        Ok(rewrite) => rewrite,
        Err(reason) => return refuse(nat, reason, packet, now),
    };
    let mut packet = rewrite::apply(packet, &rewrite);
    rewrite::clamp_mss(&mut packet, nat.mtu_bytes());
    if nat.translates() {
        let identification = nat.identification(packet.segments());
        ipv4::change_word(packet.bytes_mut(), 0, ipv4::IDENTIFICATION, identification);
    }
    if nat.is_hairpin(packet.proof()) {
        // It goes on at nat-rewrite: to ip-parse it would be a land packet where both tethers have one address.
        return Verdict::Turn(packet);
    }
    Verdict::Forward(packet.prove(Translated { inside }))
}

/// A packet for a tether: from the internet, turned round, or made by the gateway.
pub fn incoming(nat: &mut Nat, packet: Packet<Parsed>, now: Instant) -> Verdict<Packet<Translated>, Reason> {
    let rewrite = match nat.translate_incoming(&packet, now) {
        Ok(rewrite) => rewrite,
        Err(reason) => return Verdict::Drop(reason),
    };
    if ip_parse::packet_bytes_max(&packet) > usize::from(nat.mtu_bytes()) {
        return refuse_too_big(nat, packet, now);
    }
    let mut packet = rewrite::apply(packet, &rewrite);
    rewrite::clamp_mss(&mut packet, nat.mtu_bytes());
    let inside = *packet.proof().five_tuple();
    Verdict::Forward(packet.prove(Translated { inside }))
}

/// Tells the sender on the internet, where it finds out the path's MTU (RFC 1191).
fn refuse_too_big(nat: &mut Nat, packet: Packet<Parsed>, now: Instant) -> Verdict<Packet<Translated>, Reason> {
    let error = Error::TooBig { mtu_bytes: nat.mtu_bytes() };
    let told = match ip_parse::is_fragmentable(&packet) {
        true => None,
        false => nat.error_about_incoming(&as_sent(packet), error, now),
    };
    told.map_or(Verdict::Drop(Reason::TooBig), |told| Verdict::Reply(Reason::TooBig, told))
}

/// Tells the sender where an RFC asks for it, quoting the packet as it was sent.
fn refuse(nat: &mut Nat, reason: Reason, packet: Packet<Parsed>, now: Instant) -> Verdict<Packet<Translated>, Reason> {
    let error = match reason {
        Reason::PortLimit | Reason::MappingLimit | Reason::MappingRate | Reason::MemoryLimit => Error::HostUnreachable,
        // A program that is told so gives up at once, where one that waits would send again and again.
        Reason::NoResolver | Reason::Overload => Error::Prohibited,
        Reason::NoMapping | Reason::Filtered | Reason::UnsupportedProtocol | Reason::TooBig => {
            return Verdict::Drop(reason);
        }
    };
    match nat.error_about(&as_sent(packet), error, now) {
        Some(error) => Verdict::Reply(reason, error),
        None => Verdict::Drop(reason),
    }
}

/// The packet before ip-parse took one off its time to live.
fn as_sent(mut packet: Packet<Parsed>) -> Packet<Parsed> {
    let bytes = packet.bytes_mut();
    let ttl_as_sent = bytes[ipv4::TTL].saturating_add(1);
    ipv4::set_ttl(bytes, ttl_as_sent);
    packet
}

/// What the gateway itself says to the internet has the addresses of that side already.
#[cfg(feature = "kernel")]
pub(crate) fn as_it_is(packet: Packet<Parsed>) -> Packet<Translated> {
    let inside = *packet.proof().five_tuple();
    packet.prove(Translated { inside })
}
