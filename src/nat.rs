//! The translation's state: mappings, filters, timers (RFC 4787, 5382, 5508, 7857, 6888, 7422).
//!
//! A [`Nat`] belongs to one tether. What it shares with others never changes ([`Rules`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bucket::Bucket;
use crate::budget::Part;
use crate::icmp::{Error, Errors};
use crate::overload::Overload;
use crate::packet::{BufPool, Packet};
use crate::random::Random;
use crate::stages::ip_parse::{DNS_PORT, FiveTuple, Kind, Parsed, TcpFlags, Transport};
use crate::stages::nat_rewrite::Reason;
use crate::tether_id::TetherId;
use mapping::{Behaviour, Key, Peer};
pub use mapping::{Filtering, Timers};
pub use plan::{AddressPlan, PlanError, PortBlock, Translation};
use table::{Full, Slot, Table};

mod mapping;
mod plan;
pub(crate) mod rewrite;
mod table;

/// What the translations of all tethers share.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Who has which lease and ports.
    pub plan: Arc<AddressPlan>,
    /// How long what is idle lives.
    pub timers: Timers,
    /// What passes a mapping from the internet.
    pub filtering: Filtering,
    /// Who answers DNS that is sent to the gateway's inner address, at port 53; nobody where none is known.
    pub resolver: Option<IpAddr>,
    /// The largest packet between laptop and internet, in bytes.
    pub mtu_bytes: u16,
    /// Mappings that a tether may have (RFC 6888 REQ-4).
    pub mappings_max: usize,
    /// New mappings a second that a tether may make in the long run (RFC 6888 REQ-4); as many may come at once.
    pub mappings_per_second: u32,
    /// Remotes that a mapping remembers: filter entries, and TCP sessions (RFC 6888 REQ-5).
    pub remotes_max: usize,
    /// Where buffers for ICMP errors are from, whose budget mappings draw on too.
    pub pool: BufPool,
    /// Whether the gateway makes mappings at present.
    pub overload: Overload,
}

/// What a translation holds, by transport: TCP, UDP, queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Mappings.
    pub mappings: [u64; Transport::COUNT],
    /// External ports and identifiers.
    pub ports: [u64; Transport::COUNT],
}

/// A tether's translation.
#[derive(Debug)]
pub struct Nat {
    rules: Arc<Rules>,
    behaviour: Behaviour,
    lease: IpAddr,
    gateway: IpAddr,
    block: Option<PortBlock>,
    /// The largest packet of this tether, in bytes: TCP's segments are kept within it.
    mtu_bytes: u16,
    table: Table,
    making: Bucket,
    made: [u64; Transport::COUNT],
    random: Random,
    identification: u16,
    errors: Errors,
}

/// What a translation makes of a packet's addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rewrite {
    pub(crate) five_tuple: FiveTuple,
    /// The destination of the packet that an ICMP error quotes.
    pub(crate) quoted_destination: Option<IpAddr>,
}

impl Rewrite {
    fn none(packet: &Packet<Parsed>) -> Self {
        Self { five_tuple: *packet.proof().five_tuple(), quoted_destination: packet.quoted_destination() }
    }
}

fn tcp_flags(parsed: &Parsed) -> Option<TcpFlags> {
    match parsed.kind() {
        Kind::Tcp(flags) => Some(flags),
        Kind::Udp | Kind::Query { .. } | Kind::Error(_) | Kind::Other => None,
    }
}

impl Nat {
    /// The translation of `tether`; `None` where the plan has no lease for it. Ports are chosen after `seed`.
    pub fn new(tether: TetherId, rules: Arc<Rules>, seed: u64) -> Option<Self> {
        let mut random = Random::new(seed);
        Some(Self {
            behaviour: Behaviour { timers: rules.timers, filtering: rules.filtering, remotes_max: rules.remotes_max },
            lease: rules.plan.lease(tether)?,
            gateway: rules.plan.gateway(),
            block: rules.plan.block(tether),
            mtu_bytes: rules.mtu_bytes,
            table: Table::new(rules.pool.budget().share(Part::Mappings)),
            making: Bucket::new(rules.mappings_per_second, Duration::from_secs(1)),
            made: [0; Transport::COUNT],
            identification: random.next_u64() as u16,
            random,
            errors: Errors::new(rules.plan.gateway(), rules.pool.clone()),
            rules,
        })
    }

    /// Live mappings, with those whose time is over and that were not met since.
    pub fn mappings(&self) -> usize {
        self.table.len()
    }

    /// The same, and the external ports in use, by transport: TCP, UDP, queries.
    pub fn count(&self) -> Count {
        Count { mappings: self.table.mappings(), ports: self.table.ports() }
    }

    /// Mappings made since this was last asked, by transport.
    pub fn take_made(&mut self) -> [u64; Transport::COUNT] {
        std::mem::take(&mut self.made)
    }

    /// Ends up to `budget` mappings whose time is over, and returns how many. What is not ended here ends when a packet
    /// meets it; this gives memory back.
    pub fn expire(&mut self, now: Instant, budget: usize) -> usize {
        self.table.expire(now, budget)
    }

    /// When [`Nat::expire`] will next have something to do; `None` without mappings.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.table.next_deadline()
    }

    /// From now on no packet of the tether may be larger, as it was agreed on with the client.
    pub fn set_mtu_bytes(&mut self, mtu_bytes: u16) {
        self.mtu_bytes = mtu_bytes.min(self.rules.mtu_bytes);
    }

    pub(crate) fn mtu_bytes(&self) -> u16 {
        self.mtu_bytes
    }

    /// Whether packets get the external address.
    pub(crate) fn translates(&self) -> bool {
        self.block.is_some()
    }

    /// Whether a translated packet goes to a tether's external port.
    pub(crate) fn is_hairpin(&self, parsed: &Parsed) -> bool {
        let FiveTuple { destination, destination_port, .. } = *parsed.five_tuple();
        matches!(parsed.transport(), Some(Transport::Tcp | Transport::Udp))
            && self.rules.plan.tether_by_port(destination, destination_port).is_some()
    }

    /// Whether a packet to the tether is from the internet, and not the gateway's own or another tether's by its external
    /// port.
    fn is_from_internet(&self, parsed: &Parsed) -> bool {
        let FiveTuple { source, source_port, .. } = *parsed.five_tuple();
        let is_hairpin = matches!(parsed.transport(), Some(Transport::Tcp | Transport::Udp))
            && self.rules.plan.tether_by_port(source, source_port).is_some();
        source != self.gateway && !is_hairpin
    }

    /// Identifications for the next `count` packets (RFC 7857 REQ-10): what the laptop counted is not shown.
    pub(crate) fn identification(&mut self, count: u32) -> u16 {
        let first = self.identification;
        self.identification = first.wrapping_add(count as u16);
        first
    }

    /// The ICMP error for a packet that is refused.
    pub(crate) fn error_about(
        &mut self,
        packet: &Packet<Parsed>,
        error: Error,
        now: Instant,
    ) -> Option<Packet<Parsed>> {
        self.errors.about(packet, error, now)
    }

    /// The ICMP error for the sender of a packet to the tether, where that is on the internet. Another tether is not told:
    /// what leaves to the internet does not come back to it.
    pub(crate) fn error_about_incoming(
        &mut self,
        packet: &Packet<Parsed>,
        error: Error,
        now: Instant,
    ) -> Option<Packet<Parsed>> {
        if self.is_from_internet(packet.proof()) { self.errors.about_incoming(packet, error, now) } else { None }
    }

    /// What becomes of a packet from the lease.
    pub(crate) fn translate_outgoing(&mut self, packet: &Packet<Parsed>, now: Instant) -> Result<Rewrite, Reason> {
        let parsed = packet.proof();
        let dns = parsed.is_dns_at(self.gateway);
        let mut rewrite = Rewrite::none(packet);
        if !dns && self.block.is_none() {
            return Ok(rewrite);
        }
        let to = &mut rewrite.five_tuple;
        let transport = parsed.transport().ok_or(Reason::UnsupportedProtocol)?;
        if dns {
            to.destination = self.rules.resolver.ok_or(Reason::NoResolver)?;
        }
        let key = Key { transport, port: to.source_port, dns };
        let slot = self.outgoing_slot(key, parsed.kind(), now)?;
        if !matches!(parsed.kind(), Kind::Error(_)) {
            let peer = peer(transport, to.destination, to.destination_port);
            self.table.sent(slot, peer, tcp_flags(parsed), &self.behaviour, now);
        }
        if let (Some(block), Some(mapping)) = (self.block, self.table.mapping(slot)) {
            to.source = block.address;
            to.source_port = block.first + mapping.offset;
            if transport == Transport::Query {
                to.destination_port = to.source_port;
            }
        }
        rewrite.quoted_destination = rewrite.quoted_destination.map(|_| rewrite.five_tuple.source);
        Ok(rewrite)
    }

    fn outgoing_slot(&mut self, key: Key, kind: Kind, now: Instant) -> Result<Slot, Reason> {
        if let Some(slot) = self.table.by_inside(key, now) {
            return Ok(slot);
        }
        let opens = match kind {
            Kind::Tcp(flags) => flags.syn() && !flags.rst(),
            Kind::Udp => true,
            Kind::Query { reply } => !reply,
            Kind::Error(_) | Kind::Other => false,
        };
        if !opens {
            return Err(Reason::NoMapping);
        }
        // A live mapping is never ended to make room (RFC 6888 REQ-11).
        let at_limit = self.table.len() >= self.rules.mappings_max;
        if at_limit && self.table.expire(now, self.rules.mappings_max) == 0 {
            return Err(Reason::MappingLimit);
        }
        if self.rules.overload.refuses_mappings() {
            return Err(Reason::Overload);
        }
        if !self.making.has_room(now) {
            return Err(Reason::MappingRate);
        }
        let ports = self.block.map_or(0, |block| block.len);
        let slot = self.table.create(key, ports, &mut self.random, now).map_err(|full| match full {
            Full::Ports => Reason::PortLimit,
            Full::Memory => Reason::MemoryLimit,
        })?;
        self.making.take(now);
        self.made[key.transport as usize] += 1;
        Ok(slot)
    }

    /// What becomes of a packet to the tether.
    pub(crate) fn translate_incoming(&mut self, packet: &Packet<Parsed>, now: Instant) -> Result<Rewrite, Reason> {
        let parsed = packet.proof();
        let tuple = *parsed.five_tuple();
        let Some(block) = self.block else { return self.untranslated_incoming(packet, now) };
        if tuple.destination == self.lease && tuple.source == self.gateway {
            // Made by the gateway itself: an ICMP error, an echo reply.
            return Ok(Rewrite::none(packet));
        }
        let transport = parsed.transport().ok_or(Reason::UnsupportedProtocol)?;
        let offset = block.offset(tuple.destination_port).filter(|_| tuple.destination == block.address);
        let slot = self.table.by_port(transport, offset.ok_or(Reason::NoMapping)?, now).ok_or(Reason::NoMapping)?;
        if self.passes(slot, packet, transport, now) {
            Ok(self.shown_inside(slot, packet))
        } else {
            Err(Reason::Filtered)
        }
    }

    /// Where the lease's address stays: only what the resolver answers is shown as from the gateway. A laptop that asks
    /// the resolver itself from the same port at the same time sees that answer from the gateway too.
    fn untranslated_incoming(&mut self, packet: &Packet<Parsed>, now: Instant) -> Result<Rewrite, Reason> {
        let parsed = packet.proof();
        let tuple = *parsed.five_tuple();
        if tuple.destination != self.lease {
            return Err(Reason::NoMapping);
        }
        let remote = packet.quoted_destination().unwrap_or(tuple.source);
        let from_resolver = Some(remote) == self.rules.resolver && tuple.source_port == DNS_PORT;
        let Some(transport) = parsed.transport().filter(|_| from_resolver) else { return Ok(Rewrite::none(packet)) };
        let key = Key { transport, port: tuple.destination_port, dns: true };
        match self.table.by_inside(key, now) {
            Some(slot) if self.passes(slot, packet, transport, now) => Ok(self.shown_inside(slot, packet)),
            _ => Ok(Rewrite::none(packet)),
        }
    }

    fn passes(&mut self, slot: Slot, packet: &Packet<Parsed>, transport: Transport, now: Instant) -> bool {
        let FiveTuple { source, source_port, .. } = *packet.proof().five_tuple();
        if let Some(destination) = packet.quoted_destination() {
            // An error is judged by whom the quoted packet went to, for every router on the way may send it. It
            // refreshes nothing and ends nothing (RFC 4787 REQ-12, RFC 5508 REQ-6).
            let quoted = peer(transport, destination, source_port);
            return self
                .table
                .mapping(slot)
                .is_some_and(|mapping| mapping.permits(quoted, self.behaviour.filtering, now));
        }
        if packet.proof().kind() == (Kind::Query { reply: false }) {
            // Nobody outside may ask.
            return false;
        }
        let peer = peer(transport, source, source_port);
        self.table.received(slot, peer, tcp_flags(packet.proof()), &self.behaviour, now)
    }

    fn shown_inside(&self, slot: Slot, packet: &Packet<Parsed>) -> Rewrite {
        let mut rewrite = Rewrite::none(packet);
        let Some(mapping) = self.table.mapping(slot) else { return rewrite };
        let to = &mut rewrite.five_tuple;
        (to.destination, to.destination_port) = (self.lease, mapping.key.port);
        if mapping.key.transport == Transport::Query {
            to.source_port = mapping.key.port;
        }
        if mapping.key.dns {
            let is_resolver = |address: &IpAddr| Some(*address) == self.rules.resolver;
            if is_resolver(&to.source) {
                to.source = self.gateway;
            }
            if rewrite.quoted_destination.as_ref().is_some_and(is_resolver) {
                rewrite.quoted_destination = Some(self.gateway);
            }
        }
        rewrite
    }
}

/// The other end, as filters know it: a query has no port there.
fn peer(transport: Transport, address: IpAddr, port: u16) -> Peer {
    Peer { address, port: if transport == Transport::Query { 0 } else { port } }
}
