//! ip-parse: the only place where headers are validated.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use crate::checksum::{self, Delta};
use crate::icmp::{Error, Errors};
use crate::ipv4;
use crate::nat::AddressPlan;
use crate::packet::{BufPool, Family, Packet, Raw};
use crate::policy::Policy;
use crate::stages::Verdict;
use crate::tether_id::TetherId;
pub(crate) use headers::parse;

mod headers;
#[cfg(test)]
mod tests;

/// The port on the gateway's inner address that is translated to the resolver (RFC 1035, 4.2).
pub(crate) const DNS_PORT: u16 = 53;

crate::reasons! {
    /// Why ip-parse drops a packet.
    pub enum Reason {
        /// A header that is not what its RFC says, or a length that is not there.
        Malformed = "malformed",
        /// A wrong checksum of the IP header, of an ICMP error, or of the IP header that an ICMP error quotes.
        BadChecksum = "bad_checksum",
        /// Not IPv4.
        Family = "family",
        /// A source route, which would walk around the policy.
        SourceRoute = "source_route",
        /// A fragment.
        Fragment = "fragment",
        /// An ICMP message that no router passes on: neither a query nor an error.
        IcmpType = "icmp_type",
        /// What the device says about checksum or segments does not fit the packet.
        BadOffload = "bad_offload",
        /// A source address that is not the tether's lease.
        Spoofed = "spoofed",
        /// A source from the internet that no host there can have.
        Martian = "martian",
        /// A destination that the egress policy denies.
        Policy = "policy",
        /// The time to live ran out here.
        TtlExpired = "ttl_expired",
        /// Larger than was agreed on with the client, or than the egress takes.
        TooBig = "too_big",
    }
}

/// The five-tuple of a flow. For an ICMP query both ports are its identifier; for an ICMP error they are those of the
/// packet it quotes, seen from the error's direction; for other protocols they are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// The IP protocol number (IANA).
    pub protocol: u8,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port or identifier.
    pub source_port: u16,
    /// Destination port or identifier.
    pub destination_port: u16,
}

/// The spaces that ports are counted in, each apart from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP ports.
    Tcp,
    /// UDP ports.
    Udp,
    /// Identifiers of ICMP queries (RFC 5508, 3.1).
    Query,
}

impl Transport {
    /// How many there are.
    pub const COUNT: usize = 3;
}

/// The flags of a TCP header, as its 14th byte has them (RFC 9293, 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(u8);

impl TcpFlags {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;

    /// Flags from the header's byte.
    pub fn new(byte: u8) -> Self {
        Self(byte)
    }

    /// Whether the sender has no more data.
    pub fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }

    /// Whether it opens a connection.
    pub fn syn(self) -> bool {
        self.0 & Self::SYN != 0
    }

    /// Whether it resets the connection.
    pub fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }
}

/// The packet that an ICMP error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    at: u16,
    header_bytes: u16,
    transport: Option<Transport>,
}

impl Quoted {
    /// Where the quoted IP header starts, from the error's first byte.
    pub fn at(&self) -> usize {
        self.at.into()
    }

    /// Where the quoted transport header starts, from the error's first byte.
    pub fn transport_at(&self) -> usize {
        usize::from(self.at) + usize::from(self.header_bytes)
    }
}

/// What a packet is to the translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP.
    Tcp(TcpFlags),
    /// UDP.
    Udp,
    /// An ICMP query: echo or timestamp.
    Query {
        /// Whether it is the answer.
        reply: bool,
    },
    /// An ICMP error.
    Error(Quoted),
    /// A protocol without ports that are known here.
    Other,
}

/// Proof that the headers are valid, and where they are. Only this stage makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    family: Family,
    five_tuple: FiveTuple,
    transport: u16,
    kind: Kind,
}

impl Parsed {
    /// The five-tuple, as the packet has it.
    pub fn five_tuple(&self) -> &FiveTuple {
        &self.five_tuple
    }

    /// The address family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Where the transport header starts, from the packet's first byte.
    pub fn transport_at(&self) -> usize {
        self.transport.into()
    }

    /// What the packet is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The space that the packet's ports are counted in; for an ICMP error that of the packet it quotes.
    pub fn transport(&self) -> Option<Transport> {
        match self.kind {
            Kind::Tcp(_) => Some(Transport::Tcp),
            Kind::Udp => Some(Transport::Udp),
            Kind::Query { .. } => Some(Transport::Query),
            Kind::Error(quoted) => quoted.transport,
            Kind::Other => None,
        }
    }

    /// Whether the packet belongs to name resolution at the gateway's inner address.
    pub(crate) fn is_dns_at(&self, gateway: IpAddr) -> bool {
        self.five_tuple.destination == gateway
            && self.five_tuple.destination_port == DNS_PORT
            && matches!(self.transport(), Some(Transport::Tcp | Transport::Udp))
    }

    /// The proof of the same packet after its addresses and ports were rewritten to `five_tuple`.
    pub(crate) fn readdressed(self, five_tuple: FiveTuple) -> Self {
        Self { five_tuple, ..self }
    }
}

impl Packet<Parsed> {
    /// The destination of the packet that an ICMP error quotes; `None` for every other packet.
    pub fn quoted_destination(&self) -> Option<IpAddr> {
        let Kind::Error(quoted) = self.proof().kind else { return None };
        ipv4::address_at(self.bytes(), quoted.at() + ipv4::DESTINATION).map(IpAddr::V4)
    }
}

/// What all tethers' guards share.
#[derive(Debug)]
pub struct Rules {
    /// Who has which lease and ports.
    pub plan: Arc<AddressPlan>,
    /// Which destinations may be reached.
    pub policy: Arc<Policy>,
    /// The largest packet that the egress takes at present, in bytes.
    pub mtu_bytes: AtomicU16,
    /// Where buffers for ICMP errors are from.
    pub pool: BufPool,
}

/// A tether's rules for what it sends.
#[derive(Debug)]
pub struct Guard {
    rules: Arc<Rules>,
    lease: IpAddr,
    gateway: IpAddr,
    /// The largest packet that was agreed on with the client, in bytes.
    mtu_bytes: u16,
    errors: Errors,
}

impl Guard {
    /// The guard of `tether`; `None` where the plan has no lease for it.
    pub fn new(tether: TetherId, rules: Arc<Rules>) -> Option<Self> {
        let (lease, gateway) = (rules.plan.lease(tether)?, rules.plan.gateway());
        let errors = Errors::new(gateway, rules.pool.clone());
        Some(Self { rules, lease, gateway, mtu_bytes: u16::MAX, errors })
    }

    /// From now on no packet of the tether may be larger, as it was agreed on with the client.
    pub fn set_mtu_bytes(&mut self, mtu_bytes: u16) {
        self.mtu_bytes = mtu_bytes;
    }

    /// The largest packet of the tether that the egress takes now, too.
    fn mtu_bytes(&self) -> u16 {
        self.mtu_bytes.min(self.rules.mtu_bytes.load(Ordering::Relaxed))
    }

    fn refuse(
        &mut self,
        reason: Reason,
        told: Error,
        packet: &Packet<Parsed>,
        now: Instant,
    ) -> Verdict<Packet<Parsed>, Reason> {
        match self.errors.about(packet, told, now) {
            Some(error) => Verdict::Reply(reason, error),
            None => Verdict::Drop(reason),
        }
    }

    /// Whether the packet is from the lease; for an ICMP error, whether it is about a packet to the lease too.
    fn is_from_lease(&self, packet: &Packet<Parsed>) -> bool {
        packet.proof().five_tuple.source == self.lease
            && packet.quoted_destination().is_none_or(|destination| destination == self.lease)
    }

    fn permits(&self, parsed: &Parsed) -> bool {
        let FiveTuple { destination, destination_port, .. } = parsed.five_tuple;
        if destination == self.gateway {
            return parsed.is_dns_at(self.gateway);
        }
        // The external mapping of a tether may be reached by every tether, through its filter (RFC 4787 REQ-9).
        let is_hairpin = matches!(parsed.transport(), Some(Transport::Tcp | Transport::Udp))
            && self.rules.plan.tether_by_port(destination, destination_port).is_some();
        is_hairpin || self.rules.policy.permits(destination)
    }
}

/// A packet from a tether's link.
pub fn outgoing(guard: &mut Guard, packet: Packet<Raw>, now: Instant) -> Verdict<Packet<Parsed>, Reason> {
    let mut packet = match parse(packet) {
        Ok(packet) => packet,
        Err(reason) => return Verdict::Drop(reason),
    };
    if !guard.is_from_lease(&packet) {
        return Verdict::Drop(Reason::Spoofed);
    }
    if packet.proof().five_tuple.destination == guard.gateway && is_echo(&packet) {
        return answer_echo(packet);
    }
    if !guard.permits(packet.proof()) {
        return guard.refuse(Reason::Policy, Error::Prohibited, &packet, now);
    }
    if packet.bytes()[ipv4::TTL] <= 1 {
        return guard.refuse(Reason::TtlExpired, Error::TimeExceeded, &packet, now);
    }
    let mtu_bytes = guard.mtu_bytes();
    if packet_bytes_max(&packet) > usize::from(mtu_bytes) {
        return match is_fragmentable(&packet) {
            true => Verdict::Drop(Reason::TooBig),
            false => guard.refuse(Reason::TooBig, Error::TooBig { mtu_bytes }, &packet, now),
        };
    }
    pass_on(&mut packet);
    Verdict::Forward(packet)
}

/// A packet from the internet.
pub fn incoming(packet: Packet<Raw>, _now: Instant) -> Verdict<Packet<Parsed>, Reason> {
    let mut packet = match parse(packet) {
        Ok(packet) => packet,
        Err(reason) => return Verdict::Drop(reason),
    };
    if is_martian(packet.proof().five_tuple.source) {
        return Verdict::Drop(Reason::Martian);
    }
    if packet.bytes()[ipv4::TTL] <= 1 {
        return Verdict::Drop(Reason::TtlExpired);
    }
    pass_on(&mut packet);
    Verdict::Forward(packet)
}

/// A source that is no single host elsewhere (RFC 1122, 3.2.1.3). Private ones pass: routers have them.
fn is_martian(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(source) => !ipv4::is_a_hosts(source),
        IpAddr::V6(source) => source.is_loopback() || source.is_unspecified() || source.is_multicast(),
    }
}

/// A router's part in the time to live (RFC 1812, 5.3.1).
fn pass_on(packet: &mut Packet<Parsed>) {
    let bytes = packet.bytes_mut();
    let ttl = bytes[ipv4::TTL].saturating_sub(1);
    ipv4::set_ttl(bytes, ttl);
}

/// The largest packet on the wire: a super-packet leaves in segments.
pub(crate) fn packet_bytes_max(packet: &Packet<Parsed>) -> usize {
    let offload = packet.offload();
    match offload.segment_bytes {
        0 => packet.len(),
        segment_bytes => packet.len().min(usize::from(offload.header_bytes) + usize::from(segment_bytes)),
    }
}

/// Whether a router may cut it into fragments. The gateway does not, and drops what would have to be.
pub(crate) fn is_fragmentable(packet: &Packet<Parsed>) -> bool {
    ipv4::word_at(packet.bytes(), ipv4::FRAGMENT).is_some_and(|word| word & ipv4::DONT_FRAGMENT == 0)
}

fn is_echo(packet: &Packet<Parsed>) -> bool {
    let parsed = packet.proof();
    parsed.kind == Kind::Query { reply: false } && packet.bytes()[parsed.transport_at()] == ipv4::ICMP_ECHO
}

/// Answers an echo request in place (RFC 1122, 3.2.2.6).
fn answer_echo(mut packet: Packet<Parsed>) -> Verdict<Packet<Parsed>, Reason> {
    let parsed = *packet.proof();
    let at = parsed.transport_at();
    let bytes = packet.bytes_mut();
    if !checksum::is_valid(&bytes[at..]) {
        return Verdict::Drop(Reason::BadChecksum);
    }
    let code = bytes[at + 1];
    bytes[at] = ipv4::ICMP_ECHO_REPLY;
    let old = u16::from_be_bytes([ipv4::ICMP_ECHO, code]);
    let new = u16::from_be_bytes([ipv4::ICMP_ECHO_REPLY, code]);
    ipv4::update(bytes, at + ipv4::ICMP_CHECKSUM, Delta::default().word(old, new));
    // Swapped addresses leave the header's sum as it was.
    let (source, destination) = bytes[ipv4::SOURCE..ipv4::HEADER_BYTES].split_at_mut(4);
    source.swap_with_slice(destination);
    ipv4::set_ttl(bytes, ipv4::TTL_DEFAULT);
    let FiveTuple { source, destination, .. } = parsed.five_tuple;
    let five_tuple = FiveTuple { source: destination, destination: source, ..parsed.five_tuple };
    Verdict::Turn(packet.prove(Parsed { five_tuple, kind: Kind::Query { reply: true }, ..parsed }))
}
