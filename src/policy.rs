//! The egress policy: which destinations a tether may reach.

use std::net::{IpAddr, Ipv4Addr};

pub use prefix::{Prefix, PrefixError};

mod prefix;

/// Destinations denied by default, with the RFC that sets each range apart. None of them is a host on the internet; what
/// answers there is the gateway's own network.
///
/// The documentation ranges (RFC 5737) and the benchmark range (RFC 2544) are not here: they are never routed on the
/// internet, so that nothing is protected by denying them, and tests of a gateway need addresses to play the internet.
pub const DENIED_BY_DEFAULT: &[(Ipv4Addr, u8, &str)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this network, RFC 1122 3.2.1.3"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private, RFC 1918"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "carrier-grade NAT, RFC 6598"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback, RFC 1122 3.2.1.3"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local, RFC 3927; cloud metadata answers at 169.254.169.254"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private, RFC 1918"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "IETF protocol assignments, RFC 6890"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "6to4 relay anycast, deprecated by RFC 7526"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private, RFC 1918"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast, RFC 5771"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved, RFC 1112 4, with limited broadcast, RFC 919"),
];

/// Which destinations may be reached. It never changes; a new one replaces it.
///
/// The order of judgement: the gateway's own addresses are denied, whatever else is said; then the allow list wins over
/// the denied ranges; what is in neither is permitted. IPv6 is denied as a whole until it is translated.
#[derive(Clone, Debug)]
pub struct Policy {
    own: Ranges,
    allowed: Ranges,
    denied: Ranges,
}

/// IPv4 prefixes in the form that judges a packet in a few nanoseconds.
#[derive(Clone, Debug)]
struct Ranges(Vec<Range>);

#[derive(Clone, Copy, Debug)]
struct Range {
    address: u32,
    mask: u32,
}

impl Ranges {
    fn new(prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        let range = |prefix: Prefix| match prefix.address() {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix.bits())).unwrap_or(0);
                Some(Range { address: address.to_bits(), mask })
            }
            IpAddr::V6(_) => None,
        };
        Self(prefixes.into_iter().filter_map(range).collect())
    }

    fn contain(&self, address: Ipv4Addr) -> bool {
        self.0.iter().any(|range| address.to_bits() & range.mask == range.address)
    }
}

impl Policy {
    /// A policy with [`DENIED_BY_DEFAULT`] and `denied` shut, `allowed` open in them, and `own` always shut: the
    /// gateway's addresses and its lease pool, so that no tether reaches the gateway itself or another's lease.
    pub fn new(denied: Vec<Prefix>, allowed: Vec<Prefix>, own: Vec<Prefix>) -> Self {
        let defaults = DENIED_BY_DEFAULT.iter().filter_map(|&(address, len, _)| Prefix::new(address.into(), len).ok());
        Self { own: Ranges::new(own), allowed: Ranges::new(allowed), denied: Ranges::new(defaults.chain(denied)) }
    }

    /// Whether a tether may send to `destination`.
    pub fn permits(&self, destination: IpAddr) -> bool {
        let IpAddr::V4(destination) = destination else { return false };
        !self.own.contain(destination) && (self.allowed.contain(destination) || !self.denied.contain(destination))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().expect(text)).collect()
    }

    fn permits(policy: &Policy, address: &str) -> bool {
        policy.permits(address.parse().expect(address))
    }

    #[test]
    fn every_default_range_is_a_prefix_and_is_denied_from_edge_to_edge() {
        let policy = Policy::new(vec![], vec![], vec![]);
        for &(address, len, why) in DENIED_BY_DEFAULT {
            assert!(Prefix::new(address.into(), len).is_ok(), "{address}/{len}");
            let last = Ipv4Addr::from(address.to_bits() | (u32::MAX >> len));
            assert!(!policy.permits(address.into()) && !policy.permits(last.into()), "{why}");
        }
    }

    #[test]
    fn the_metadata_address_and_limited_broadcast_are_denied() {
        let policy = Policy::new(vec![], vec![], vec![]);
        assert!(!permits(&policy, "169.254.169.254") && !permits(&policy, "255.255.255.255"));
    }

    #[test]
    fn the_internet_and_the_ranges_for_documentation_and_benchmarks_are_permitted() {
        let policy = Policy::new(vec![], vec![], vec![]);
        for address in
            ["1.1.1.1", "9.255.255.255", "11.0.0.0", "192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1"]
        {
            assert!(permits(&policy, address), "{address}");
        }
    }

    #[test]
    fn the_allow_list_wins_over_what_is_denied() {
        let policy = Policy::new(prefixes(&["203.0.113.0/24"]), prefixes(&["10.1.0.0/16", "203.0.113.7"]), vec![]);
        assert!(permits(&policy, "10.1.2.3") && !permits(&policy, "10.2.0.1"));
        assert!(permits(&policy, "203.0.113.7") && !permits(&policy, "203.0.113.8"));
    }

    #[test]
    fn the_gateways_own_addresses_stay_shut_whatever_is_allowed() {
        let policy = Policy::new(vec![], prefixes(&["0.0.0.0/0"]), prefixes(&["198.51.100.1", "100.64.0.0/16"]));
        assert!(!permits(&policy, "198.51.100.1") && !permits(&policy, "100.64.3.4"));
        assert!(permits(&policy, "198.51.100.2"));
    }

    #[test]
    fn ipv6_is_denied_while_it_is_not_translated() {
        assert!(!permits(&Policy::new(vec![], prefixes(&["::/0"]), vec![]), "2001:db8::1"));
    }
}
