//! What the fuzz targets of the packet path run, and what the unit tests replay their corpora through: each function
//! takes any bytes, and panics where a rule does not hold.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::checksum;
use crate::icmp::{Error, Errors};
use crate::ipv4;
use crate::nat::{self, AddressPlan, Filtering, Nat, Timers, Translation};
use crate::overload::Overload;
use crate::packet::{BufPool, Offload, Packet, Raw};
use crate::packet_builder::{Builder, icmp_error, other, query, tcp, udp};
use crate::policy::Policy;
use crate::stages::Verdict;
use crate::stages::ip_parse::{self, Guard, Parsed};
use crate::stages::nat_rewrite::{self, Translated};
use crate::steer;
use crate::tether_id::TetherId;

const LEASE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const FIRST_PORT: u16 = 10_000;
const BLOCK_PORTS: u16 = 8;
const MAPPINGS_MAX: usize = 12;
const MTU_BYTES: u16 = 1_400;

/// Bytes of one step of [`translate`].
const STEP_BYTES: usize = 6;

/// The largest ICMP error (RFC 1812, 4.3.2.3).
const ERROR_BYTES_MAX: usize = 576;

fn plan() -> AddressPlan {
    let (addresses, ports) = (vec![EXTERNAL.into()], FIRST_PORT..=FIRST_PORT + 99);
    let pool = "100.64.0.0/16".parse().expect("a prefix");
    AddressPlan::new(pool, Translation::Gateway { addresses, ports, block_ports: BLOCK_PORTS }).expect("a plan")
}

/// One tether's guard and translation.
struct World {
    guard: Guard,
    nat: Nat,
    pool: BufPool,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let (plan, pool) = (Arc::new(plan()), BufPool::new(1 << 20));
        let own = vec!["198.51.100.1".parse().expect("a prefix"), plan.pool()];
        let guard_rules = ip_parse::Rules {
            plan: Arc::clone(&plan),
            policy: Arc::new(Policy::new(vec![], vec![], own)),
            mtu_bytes: MTU_BYTES.into(),
            pool: pool.clone(),
        };
        let nat_rules = nat::Rules {
            plan,
            timers: Timers::default(),
            filtering: Filtering::AddressDependent,
            resolver: Some(Ipv4Addr::new(192, 0, 2, 53).into()),
            mtu_bytes: MTU_BYTES,
            mappings_max: MAPPINGS_MAX,
            mappings_per_second: 5,
            remotes_max: 2,
            pool: pool.clone(),
            overload: Overload::default(),
        };
        Self {
            guard: Guard::new(TetherId(0), Arc::new(guard_rules)).expect("a lease"),
            nat: Nat::new(TetherId(0), Arc::new(nat_rules), 1).expect("a lease"),
            pool,
            now: Instant::now(),
        }
    }

    fn send(&mut self, packet: Packet<Raw>) {
        match ip_parse::outgoing(&mut self.guard, packet, self.now) {
            Verdict::Forward(parsed) => match nat_rewrite::outgoing(&mut self.nat, parsed, self.now) {
                Verdict::Forward(sent) => assert_outside(&sent),
                Verdict::Turn(hairpin) => self.arrive(hairpin),
                Verdict::Reply(_, error) => self.told(error),
                Verdict::Drop(_) => {}
            },
            Verdict::Turn(reply) => self.arrive(reply),
            Verdict::Reply(_, error) => self.told(error),
            Verdict::Drop(_) => {}
        }
    }

    fn come(&mut self, packet: Packet<Raw>) {
        match ip_parse::incoming(packet, self.now) {
            Verdict::Forward(parsed) => self.arrive(parsed),
            Verdict::Turn(_) | Verdict::Reply(..) => panic!("what comes is neither turned nor answered"),
            Verdict::Drop(_) => {}
        }
    }

    /// An ICMP error of the gateway's own.
    fn told(&mut self, error: Packet<Parsed>) {
        assert!(error.len() <= ERROR_BYTES_MAX);
        assert_eq!(source(error.bytes()), Some(GATEWAY));
        self.arrive(error);
    }

    fn arrive(&mut self, packet: Packet<Parsed>) {
        match nat_rewrite::incoming(&mut self.nat, packet, self.now) {
            Verdict::Forward(came) => {
                assert_header(came.bytes());
                assert_eq!(came.destination(), IpAddr::V4(LEASE), "the tether's own packets alone");
            }
            Verdict::Turn(_) | Verdict::Reply(..) => panic!("what comes is neither turned nor answered"),
            Verdict::Drop(_) => {}
        }
    }

    fn assert_bounds(&self) {
        let count = self.nat.count();
        assert!(self.nat.mappings() <= MAPPINGS_MAX);
        assert_eq!(count.mappings.iter().sum::<u64>(), self.nat.mappings() as u64);
        assert!(count.ports.iter().all(|&ports| ports <= u64::from(BLOCK_PORTS)));
        assert_eq!(self.pool.held_bytes(), 0, "every buffer came back");
    }
}

fn source(bytes: &[u8]) -> Option<Ipv4Addr> {
    ipv4::address_at(bytes, ipv4::SOURCE)
}

fn assert_header(bytes: &[u8]) {
    let len = usize::from(bytes[0] & 0xf) * 4;
    assert!(checksum::is_valid(&bytes[..len]), "the header's checksum");
    assert_eq!(ipv4::word_at(bytes, ipv4::TOTAL_LENGTH).map(usize::from), Some(bytes.len()), "its length");
}

fn assert_outside(sent: &Packet<Translated>) {
    assert_header(sent.bytes());
    assert_eq!(source(sent.bytes()), Some(EXTERNAL), "no inside address is shown");
    let parsed = ip_parse::parse(Packet::raw(sent_copy(sent), sent.offload())).expect("what leaves can be parsed");
    let port = parsed.proof().five_tuple().source_port;
    assert!((FIRST_PORT..FIRST_PORT + BLOCK_PORTS).contains(&port), "port {port} is the tether's");
}

fn sent_copy(sent: &Packet<Translated>) -> crate::packet::Buf {
    BufPool::new(1 << 20).copy(sent.bytes()).expect("a buffer")
}

/// Packets in both directions through one guard and one translation. A step has 6 bytes: kind and direction, inside
/// port, remote, TCP flags or ICMP type, and where and how the packet's bytes are changed.
pub fn translate(data: &[u8]) {
    let mut world = World::new();
    let (steps, _) = data.as_chunks::<STEP_BYTES>();
    for &[kind, port, remote, flags, at, change] in steps {
        if kind & 0x10 != 0 {
            world.now += Duration::from_secs(1 << (port & 0xf));
        }
        if kind & 0x20 != 0 {
            world.nat.expire(world.now, usize::from(remote));
        }
        let is_outgoing = kind & 0x08 == 0;
        let mut bytes = step_packet(kind, is_outgoing, port, remote, flags).ttl(64 - (kind >> 6)).bytes();
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= change;
        let Some(buf) = world.pool.copy(&bytes) else { return };
        let packet = Packet::raw(buf, Offload::default());
        if is_outgoing {
            world.send(packet)
        } else {
            world.come(packet)
        }
        world.assert_bounds();
    }
}

fn step_packet(kind: u8, is_outgoing: bool, port: u8, remote: u8, flags: u8) -> Builder {
    let (inside_port, outside_port) = (u16::from(port), FIRST_PORT + u16::from(port) % (BLOCK_PORTS + 1));
    let ours = if is_outgoing { (LEASE, inside_port) } else { (EXTERNAL, outside_port) };
    let theirs = match remote {
        0 => (GATEWAY, 53),
        1 => (EXTERNAL, FIRST_PORT + u16::from(flags) % BLOCK_PORTS),
        _ => (Ipv4Addr::new(192, 0, 2, remote), 53 + u16::from(remote & 1)),
    };
    let (from, to) = if is_outgoing { (ours, theirs) } else { (theirs, ours) };
    let end = |(address, port): (Ipv4Addr, u16)| format!("{address}:{port}");
    let [from_host, to_host] = [from.0, to.0].map(|address| address.to_string());
    match kind & 7 {
        0 | 1 => udp(&end(from), &end(to), &[flags]),
        2 | 3 => tcp(&end(from), &end(to), flags),
        4 => query(&from_host, &to_host, flags, if is_outgoing { from.1 } else { to.1 }),
        5 => icmp_error(&from_host, &to_host, 3, flags, &udp(&end(to), &end(from), b"quoted").bytes()),
        6 => icmp_error(&from_host, &to_host, 11, 0, &query(&to_host, &from_host, 8, to.1).bytes()),
        _ => other(&from_host, &to_host, flags, b"portless"),
    }
}

/// The peek at any bytes: it finds a tether of the plan or none, and the hash needs nothing but the bytes.
pub fn steer(data: &[u8]) {
    let plan = plan();
    if let Some(tether) = steer::tether_for(&plan, data) {
        assert!(tether.0 < plan.capacity());
    }
    let copy = data.to_vec();
    assert_eq!(steer::flow_hash(data), steer::flow_hash(&copy));
}

/// Any bytes as a packet, and the ICMP errors about it.
pub fn icmp(data: &[u8]) {
    let pool = BufPool::new(1 << 20);
    let Some(buf) = pool.copy(&data[..data.len().min(usize::from(u16::MAX))]) else { return };
    let Ok(about) = ip_parse::parse(Packet::raw(buf, Offload::default())) else { return };
    let mut errors = Errors::new(GATEWAY.into(), pool);
    for cause in
        [Error::HostUnreachable, Error::TooBig { mtu_bytes: MTU_BYTES }, Error::Prohibited, Error::TimeExceeded]
    {
        let Some(error) = errors.about(&about, cause, Instant::now()) else { continue };
        assert_header(error.bytes());
        assert!(error.len() <= ERROR_BYTES_MAX);
        assert!(checksum::is_valid(&error.bytes()[ipv4::HEADER_BYTES..]), "the message's checksum");
        assert_eq!(ipv4::address_at(error.bytes(), ipv4::DESTINATION), source(about.bytes()), "its sender is told");
        let quoted = &error.bytes()[ipv4::HEADER_BYTES + ipv4::ICMP_HEADER_BYTES..];
        assert!(about.bytes().starts_with(quoted), "the packet is quoted as it is");
        assert!(errors.about(&error, cause, Instant::now()).is_none(), "no error about an error");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::fuzz::replay;

    #[test]
    fn every_committed_input_of_the_packet_path_passes() {
        replay("translate", translate);
        replay("steer", steer);
        replay("icmp", icmp);
    }

    proptest! {
        #[test]
        fn random_steps_keep_every_rule(data in prop::collection::vec(any::<u8>(), 0..600)) {
            translate(&data);
        }

        #[test]
        fn unchanged_packets_keep_every_rule(
            steps in prop::collection::vec((any::<u8>(), 0..10_u8, 0..6_u8, any::<u8>()), 0..200),
        ) {
            let data: Vec<u8> = steps.into_iter().flat_map(|(a, b, c, d)| [a, b, c, d, 0, 0]).collect();
            translate(&data);
        }

        #[test]
        fn random_bytes_are_peeked_at_and_told_about(data in prop::collection::vec(any::<u8>(), 0..200)) {
            steer(&data);
            icmp(&data);
        }
    }
}
