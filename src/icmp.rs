//! ICMP errors that the gateway makes itself (RFC 792, RFC 1812 4.3).

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::bucket::Bucket;
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

/// Makes the errors of one tether, from the gateway's inner address, at most 100 a second in the long run and 50
/// at once.
#[derive(Debug)]
pub struct Errors {
    gateway: IpAddr,
    pool: BufPool,
    rate: Bucket,
}

impl Errors {
    /// Errors from `gateway`, in buffers of `pool`.
    pub fn new(gateway: IpAddr, pool: BufPool) -> Self {
        Self { gateway, pool, rate: Bucket::new(BURST, INTERVAL * BURST) }
    }

    /// The error about `packet`, quoting it as it stands; `None` where none may be made (RFC 1812, 4.3.2.7), the rate is
    /// used up, or no buffer is free.
    pub fn about(&mut self, packet: &Packet<Parsed>, error: Error, now: Instant) -> Option<Packet<Parsed>> {
        self.from(self.gateway, packet, error, now)
    }

    /// The same about a packet from the internet, where nobody knows the gateway's inner address: as from the address
    /// that the packet was sent to.
    pub fn about_incoming(&mut self, packet: &Packet<Parsed>, error: Error, now: Instant) -> Option<Packet<Parsed>> {
        self.from(packet.proof().five_tuple().destination, packet, error, now)
    }

    fn from(&mut self, from: IpAddr, packet: &Packet<Parsed>, error: Error, now: Instant) -> Option<Packet<Parsed>> {
        let five_tuple = packet.proof().five_tuple();
        let (IpAddr::V4(from), IpAddr::V4(source)) = (from, five_tuple.source) else { return None };
        if matches!(packet.proof().kind(), Kind::Error(_)) || !is_host(five_tuple.destination) || !self.rate.take(now) {
            return None;
        }
        make(&self.pool, from, source, error, packet.bytes())
    }
}

fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_multicast() && !address.is_broadcast(),
        IpAddr::V6(address) => !address.is_multicast(),
    }
}

fn make(pool: &BufPool, from: Ipv4Addr, to: Ipv4Addr, error: Error, about: &[u8]) -> Option<Packet<Parsed>> {
    const HEADERS: usize = ipv4::HEADER_BYTES + ipv4::ICMP_HEADER_BYTES;
    let quote = &about[..about.len().min(ERROR_BYTES_MAX - HEADERS)];
    let mut icmp = error.header();
    let checksum = !checksum::fold(checksum::sum(&icmp) + checksum::sum(quote));
    ipv4::set_word(&mut icmp, ipv4::ICMP_CHECKSUM, checksum);
    let header = ipv4::header(from, to, ipv4::ICMP, icmp.len() + quote.len(), ipv4::TTL_DEFAULT);
    let mut buf = pool.take(HEADERS + quote.len())?;
    for part in [&header[..], &icmp[..], quote] {
        buf.extend(part);
    }
    ip_parse::parse(Packet::raw(buf, Offload::default())).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet_builder::*;
    use crate::stages::ip_parse::FiveTuple;

    fn errors() -> Errors {
        Errors::new(ip("100.64.0.1").into(), BufPool::new(1 << 20))
    }

    fn parsed(builder: &Builder) -> Packet<Parsed> {
        ip_parse::parse(builder.packet()).expect("a valid packet")
    }

    #[test]
    fn an_error_has_type_code_and_mtu_of_its_cause() {
        let about = parsed(&udp("100.64.0.2:4000", "192.0.2.80:443", b"x"));
        let causes =
            [Error::HostUnreachable, Error::TooBig { mtu_bytes: 1_280 }, Error::Prohibited, Error::TimeExceeded];
        let expected = [[3, 1, 0, 0], [3, 4, 5, 0], [3, 13, 0, 0], [11, 0, 0, 0]];
        for (cause, [kind, code, high, low]) in causes.into_iter().zip(expected) {
            let error = errors().about(&about, cause, Instant::now()).expect("an error");
            assert_eq!(error.bytes()[20..22], [kind, code], "{cause:?}");
            assert_eq!(error.bytes()[24..28], [0, 0, high, low], "{cause:?}");
            assert_checksums(&error);
        }
    }

    #[test]
    fn to_the_internet_an_error_is_from_the_address_that_the_packet_was_sent_to() {
        let about = parsed(&udp("192.0.2.80:443", "198.51.100.1:10000", b"x"));
        let cause = Error::TooBig { mtu_bytes: 1_280 };
        let error = errors().about_incoming(&about, cause, Instant::now()).expect("an error");
        let FiveTuple { source, destination, .. } = *error.proof().five_tuple();
        assert_eq!((source, destination), (ip("198.51.100.1").into(), ip("192.0.2.80").into()));
        assert_eq!(&error.bytes()[28..], about.bytes());
        assert_checksums(&error);
    }

    #[test]
    fn no_error_is_made_about_an_error_or_a_packet_to_many() {
        let quoted = udp("192.0.2.80:443", "100.64.0.2:4000", b"x").bytes();
        for about in [
            icmp_error("100.64.0.2", "192.0.2.80", 3, 3, &quoted),
            udp("100.64.0.2:5353", "224.0.0.251:5353", b"x"),
            udp("100.64.0.2:68", "255.255.255.255:67", b"x"),
        ] {
            assert!(errors().about(&parsed(&about), Error::Prohibited, Instant::now()).is_none());
        }
    }

    proptest! {
        #[test]
        fn an_error_quotes_as_much_as_fits_in_576_bytes(payload in prop::collection::vec(any::<u8>(), 0..1_400)) {
            let about = parsed(&udp("100.64.0.2:4000", "192.0.2.80:443", &payload));
            let error = errors().about(&about, Error::Prohibited, Instant::now()).expect("an error");
            prop_assert_eq!(error.len(), (28 + about.len()).min(ERROR_BYTES_MAX));
            prop_assert_eq!(&error.bytes()[28..], &about.bytes()[..error.len() - 28]);
            assert_checksums(&error);
        }
    }
}
