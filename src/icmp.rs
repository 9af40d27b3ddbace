//! ICMP errors that the gateway makes itself (RFC 792, RFC 1812 4.3).

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::checksum;
use crate::ipv4;
use crate::packet::{BufPool, Offload, Packet};
use crate::stages::ip_parse::{self, Kind, Parsed};

/// The largest error, in bytes: as much as possible is quoted without passing what every host takes (RFC 1812, 4.3.2.3).
const ERROR_BYTES_MAX: usize = 576;

/// Time between two errors to one tether in the long run: 100 a second (RFC 1812, 4.3.2.8). Above what traceroute and
/// path MTU discovery need, far below what a flood would ask for.
const INTERVAL: Duration = Duration::from_millis(10);

/// Errors that may follow each other at once: `mtr` and a page that opens its connections together stay below.
const BURST: u32 = 50;

/// What the sender of a packet is told about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Type 3 code 1: no port is left (RFC 6888 REQ-11).
    HostUnreachable,
    /// Type 3 code 4: larger than the next link takes (RFC 1191).
    TooBig {
        /// The largest packet that it takes, in bytes.
        mtu_bytes: u16,
    },
    /// Type 3 code 13: refused by policy (RFC 5508 REQ-8).
    Prohibited,
    /// Type 11 code 0: the time to live ran out.
    TimeExceeded,
}

impl Error {
    fn header(self) -> [u8; ipv4::ICMP_HEADER_BYTES] {
        let (kind, code, mtu_bytes) = match self {
            Self::HostUnreachable => (ipv4::ICMP_UNREACHABLE, 1, 0),
            Self::TooBig { mtu_bytes } => (ipv4::ICMP_UNREACHABLE, 4, mtu_bytes),
            Self::Prohibited => (ipv4::ICMP_UNREACHABLE, 13, 0),
            Self::TimeExceeded => (ipv4::ICMP_TIME_EXCEEDED, 0, 0),
        };
        let [high, low] = mtu_bytes.to_be_bytes();
        [kind, code, 0, 0, 0, 0, high, low]
    }
}

/// Makes the errors of one tether, from the gateway's inner address, no faster than [`INTERVAL`] and [`BURST`] allow.
#[derive(Debug)]
pub struct Errors {
    gateway: IpAddr,
    pool: BufPool,
    /// When the errors made so far would have been due at the long run's rate.
    due: Option<Instant>,
}

impl Errors {
    /// Errors from `gateway`, in buffers of `pool`.
    pub fn new(gateway: IpAddr, pool: BufPool) -> Self {
        Self { gateway, pool, due: None }
    }

    /// The error about `packet`, quoting it as it stands; `None` where none may be made (RFC 1812, 4.3.2.7), the rate is
    /// used up, or no buffer is free.
    pub fn about(&mut self, packet: &Packet<Parsed>, error: Error, now: Instant) -> Option<Packet<Parsed>> {
        let five_tuple = packet.proof().five_tuple();
        let (IpAddr::V4(gateway), IpAddr::V4(source)) = (self.gateway, five_tuple.source) else { return None };
        if matches!(packet.proof().kind(), Kind::Error(_)) || !is_host(five_tuple.destination) || !self.is_due(now) {
            return None;
        }
        make(&self.pool, gateway, source, error, packet.bytes())
    }

    /// A leaky bucket as one point in time (the generic cell rate algorithm).
    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.due.map_or(now, |due| due.max(now));
        let allowed = due.saturating_duration_since(now) < INTERVAL * BURST;
        if allowed {
            self.due = Some(due + INTERVAL);
        }
        allowed
    }
}

fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_multicast() && !address.is_broadcast(),
        IpAddr::V6(address) => !address.is_multicast(),
    }
}

fn make(pool: &BufPool, gateway: Ipv4Addr, to: Ipv4Addr, error: Error, about: &[u8]) -> Option<Packet<Parsed>> {
    const HEADERS: usize = ipv4::HEADER_BYTES + ipv4::ICMP_HEADER_BYTES;
    let quote = &about[..about.len().min(ERROR_BYTES_MAX - HEADERS)];
    let mut icmp = error.header();
    let checksum = !checksum::fold(checksum::sum(&icmp) + checksum::sum(quote));
    ipv4::set_word(&mut icmp, ipv4::ICMP_CHECKSUM, checksum);
    let header = ipv4::header(gateway, to, ipv4::ICMP, icmp.len() + quote.len(), ipv4::TTL_DEFAULT);
    let mut buf = pool.take(HEADERS + quote.len())?;
    for part in [&header[..], &icmp[..], quote] {
        buf.extend(part);
    }
    ip_parse::parse(Packet::raw(buf, Offload::default())).ok()
}
