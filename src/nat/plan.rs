//! Which addresses and ports belong to which tether: arithmetic alone (deterministic, RFC 7422).

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use crate::policy::Prefix;
use crate::tether_id::TetherId;

/// Addresses of the lease pool in front of the first lease: the network's own and the gateway's.
const ADDRESSES_BEFORE_LEASES: u32 = 2;

/// Addresses of the pool behind the last lease: the directed broadcast address.
const ADDRESSES_AFTER_LEASES: u32 = 1;

/// How tethers appear on the internet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Translation {
    /// The gateway translates: each tether has one block of ports of one external address.
    Gateway {
        /// The external addresses, each filled with blocks before the next.
        addresses: Vec<IpAddr>,
        /// The external ports handed out, on each address.
        ports: RangeInclusive<u16>,
        /// Ports a tether, for each of TCP, UDP and query identifiers.
        block_ports: u16,
    },
    /// The gateway leaves the lease's address in place: the kernel translates, or the pool is a routed prefix.
    None,
}

/// Why addresses and ports do not make a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// IPv6 is not translated.
    #[error("{0} is not an IPv4 address, and only IPv4 is translated")]
    Family(IpAddr),
    /// The pool has no room for gateway, one lease, network and broadcast address.
    #[error("the lease pool {0} is too small: it needs a prefix length of 30 or less")]
    PoolTooSmall(Prefix),
    /// No external address.
    #[error("there is no external address to translate to")]
    NoExternalAddress,
    /// An external address stands in the list twice, or in the lease pool.
    #[error("the external address {0} is listed twice or lies in the lease pool")]
    ExternalAddress(IpAddr),
    /// The range is empty or holds port 0.
    #[error("the external ports {first} to {last} are not a range from 1 or more to 65535")]
    Ports {
        /// First port as written.
        first: u16,
        /// Last port as written.
        last: u16,
    },
    /// No whole block fits in the range.
    #[error("a block of {block_ports} ports does not fit in the {ports} external ports; allowed is 1 to {ports}")]
    Block {
        /// The block as written.
        block_ports: u16,
        /// The range's size.
        ports: u32,
    },
}

/// A tether's ports on its external address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortBlock {
    /// The external address, the same for all of a tether's sessions (RFC 6888 REQ-2).
    pub address: IpAddr,
    /// The first port.
    pub first: u16,
    /// Number of ports.
    pub len: u16,
}

impl PortBlock {
    /// The offset of `port` in the block; `None` where it is outside.
    pub fn offset(&self, port: u16) -> Option<u16> {
        port.checked_sub(self.first).filter(|&offset| offset < self.len)
    }
}

/// Leases, external addresses and port blocks of every tether, and back: a function and its inverse.
#[derive(Clone, Debug)]
pub struct AddressPlan {
    pool: Prefix,
    base: u32,
    capacity: u32,
    external: Option<External>,
}

#[derive(Clone, Debug)]
struct External {
    addresses: Vec<Ipv4Addr>,
    first: u16,
    block_ports: u16,
    blocks_per_address: u32,
}

impl AddressPlan {
    /// A plan for leases from `pool`, seen on the internet as `translation` says.
    ///
    /// # Errors
    /// Where pool, addresses, ports or block do not fit together.
    pub fn new(pool: Prefix, translation: Translation) -> Result<Self, PlanError> {
        let base = v4(pool.address())?.to_bits();
        if pool.bits() > 30 {
            return Err(PlanError::PoolTooSmall(pool));
        }
        // A pool of length 0 has 2^32 addresses; one less keeps the arithmetic in 32 bits.
        let addresses = u32::MAX.checked_shr(pool.bits().into()).unwrap_or(0);
        let leases = addresses - (ADDRESSES_BEFORE_LEASES + ADDRESSES_AFTER_LEASES - 1);
        let external = External::new(pool, translation)?;
        let capacity = external.as_ref().map_or(leases, |external| external.blocks().min(leases));
        Ok(Self { pool, base, capacity, external })
    }

    /// Number of tethers that the plan has leases and port blocks for.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The pool that leases are from.
    pub fn pool(&self) -> Prefix {
        self.pool
    }

    /// The gateway's inner address: the pool's first host.
    pub fn gateway(&self) -> IpAddr {
        IpAddr::V4((self.base + 1).into())
    }

    /// Whether the gateway translates.
    pub fn translates(&self) -> bool {
        self.external.is_some()
    }

    /// The tether's lease; `None` beyond the capacity.
    pub fn lease(&self, tether: TetherId) -> Option<IpAddr> {
        (tether.0 < self.capacity).then(|| IpAddr::V4((self.base + ADDRESSES_BEFORE_LEASES + tether.0).into()))
    }

    /// The tether's ports; `None` beyond the capacity, or where the gateway does not translate.
    pub fn block(&self, tether: TetherId) -> Option<PortBlock> {
        let external = self.external.as_ref().filter(|_| tether.0 < self.capacity)?;
        let address = *external.addresses.get((tether.0 / external.blocks_per_address) as usize)?;
        let block = tether.0 % external.blocks_per_address;
        let first = u32::from(external.first) + block * u32::from(external.block_ports);
        Some(PortBlock { address: address.into(), first: u16::try_from(first).ok()?, len: external.block_ports })
    }

    /// The tether that holds `lease`.
    pub fn tether_by_lease(&self, lease: IpAddr) -> Option<TetherId> {
        let IpAddr::V4(lease) = lease else { return None };
        let index = lease.to_bits().checked_sub(self.base)?.checked_sub(ADDRESSES_BEFORE_LEASES)?;
        (index < self.capacity).then_some(TetherId(index))
    }

    /// The tether whose block `port` of the external `address` is in.
    pub fn tether_by_port(&self, address: IpAddr, port: u16) -> Option<TetherId> {
        let external = self.external.as_ref()?;
        let IpAddr::V4(address) = address else { return None };
        let address = external.addresses.iter().position(|&own| own == address)?;
        let block = u32::from(port.checked_sub(external.first)? / external.block_ports);
        if block >= external.blocks_per_address {
            return None;
        }
        let index = (address as u32).checked_mul(external.blocks_per_address)?.checked_add(block)?;
        (index < self.capacity).then_some(TetherId(index))
    }

    /// The external addresses; empty where the gateway does not translate.
    pub fn external_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.external.iter().flat_map(|external| external.addresses.iter().map(|&address| IpAddr::V4(address)))
    }
}

impl External {
    fn new(pool: Prefix, translation: Translation) -> Result<Option<Self>, PlanError> {
        let Translation::Gateway { addresses, ports, block_ports } = translation else { return Ok(None) };
        if addresses.is_empty() {
            return Err(PlanError::NoExternalAddress);
        }
        for (at, &address) in addresses.iter().enumerate() {
            if pool.contains(address) || addresses[..at].contains(&address) {
                return Err(PlanError::ExternalAddress(address));
            }
        }
        let (&first, &last) = (ports.start(), ports.end());
        if first == 0 || first > last {
            return Err(PlanError::Ports { first, last });
        }
        let ports = u32::from(last - first) + 1;
        if block_ports == 0 || u32::from(block_ports) > ports {
            return Err(PlanError::Block { block_ports, ports });
        }
        let addresses = addresses.into_iter().map(v4).collect::<Result<_, _>>()?;
        Ok(Some(Self { addresses, first, block_ports, blocks_per_address: ports / u32::from(block_ports) }))
    }

    fn blocks(&self) -> u32 {
        u32::try_from(self.addresses.len()).unwrap_or(u32::MAX).saturating_mul(self.blocks_per_address)
    }
}

fn v4(address: IpAddr) -> Result<Ipv4Addr, PlanError> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err(PlanError::Family(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(pool: &str, translation: Translation) -> Result<AddressPlan, PlanError> {
        AddressPlan::new(pool.parse().expect(pool), translation)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn gateway(addresses: &[&str], ports: RangeInclusive<u16>, block_ports: u16) -> Translation {
        Translation::Gateway { addresses: addresses.iter().map(|text| address(text)).collect(), ports, block_ports }
    }

    #[test]
    fn a_tether_has_the_lease_and_the_block_of_its_index() {
        let plan =
            plan("100.64.0.0/16", gateway(&["198.51.100.1", "198.51.100.2"], 1_024..=5_119, 1_024)).expect("a plan");
        assert_eq!((plan.gateway(), plan.capacity()), (address("100.64.0.1"), 8));
        assert_eq!(plan.lease(TetherId(0)), Some(address("100.64.0.2")));
        assert_eq!(
            plan.block(TetherId(3)),
            Some(PortBlock { address: address("198.51.100.1"), first: 4_096, len: 1_024 })
        );
        assert_eq!(
            plan.block(TetherId(4)),
            Some(PortBlock { address: address("198.51.100.2"), first: 1_024, len: 1_024 })
        );
        assert_eq!((plan.lease(TetherId(8)), plan.block(TetherId(8))), (None, None));
    }

    #[test]
    fn every_port_of_every_block_leads_back_to_its_tether_and_to_no_other() {
        let plan =
            plan("100.64.0.0/24", gateway(&["198.51.100.1", "198.51.100.2"], 60_000..=65_535, 1_000)).expect("a plan");
        assert_eq!(plan.capacity(), 10);
        for tether in (0..plan.capacity()).map(TetherId) {
            assert_eq!(plan.tether_by_lease(plan.lease(tether).expect("a lease")), Some(tether));
            let block = plan.block(tether).expect("a block");
            for port in block.first..=block.first + (block.len - 1) {
                assert_eq!(plan.tether_by_port(block.address, port), Some(tether));
                assert_eq!(block.offset(port), Some(port - block.first));
            }
        }
        let none = |address_text: &str, port| plan.tether_by_port(address(address_text), port);
        assert_eq!(
            (none("198.51.100.1", 59_999), none("198.51.100.1", 65_000), none("198.51.100.3", 60_000)),
            (None, None, None)
        );
    }

    #[test]
    fn network_gateway_and_broadcast_address_are_nobodys_lease() {
        let plan = plan("100.64.0.0/29", Translation::None).expect("a plan");
        assert_eq!(plan.capacity(), 5);
        for text in ["100.63.255.255", "100.64.0.0", "100.64.0.1", "100.64.0.7", "100.64.0.8", "::1"] {
            assert_eq!(plan.tether_by_lease(address(text)), None, "{text}");
        }
        assert_eq!(plan.tether_by_lease(address("100.64.0.6")), Some(TetherId(4)));
        assert_eq!((plan.block(TetherId(0)), plan.tether_by_port(address("100.64.0.2"), 2_000)), (None, None));
    }

    #[test]
    fn the_smallest_and_the_largest_pool_have_their_capacity() {
        assert_eq!(plan("100.64.0.0/30", Translation::None).expect("a plan").capacity(), 1);
        assert_eq!(plan("0.0.0.0/0", Translation::None).expect("a plan").capacity(), u32::MAX - 2);
    }

    #[test]
    fn what_does_not_fit_together_is_told() {
        let told = |pool: &str, translation| plan(pool, translation).expect_err(pool);
        assert_eq!(told("2001:db8::/64", Translation::None), PlanError::Family(address("2001:db8::")));
        assert!(matches!(told("100.64.0.0/31", Translation::None), PlanError::PoolTooSmall(_)));
        assert_eq!(told("100.64.0.0/16", gateway(&[], 1..=9, 1)), PlanError::NoExternalAddress);
        assert_eq!(
            told("100.64.0.0/16", gateway(&["100.64.1.1"], 1..=9, 1)),
            PlanError::ExternalAddress(address("100.64.1.1"))
        );
        assert_eq!(
            told("100.64.0.0/16", gateway(&["192.0.2.1", "192.0.2.1"], 1..=9, 1)),
            PlanError::ExternalAddress(address("192.0.2.1"))
        );
        assert_eq!(told("100.64.0.0/16", gateway(&["192.0.2.1"], 0..=9, 1)), PlanError::Ports { first: 0, last: 9 });
        assert_eq!(
            told("100.64.0.0/16", gateway(&["192.0.2.1"], 1..=9, 10)),
            PlanError::Block { block_ports: 10, ports: 9 }
        );
        assert_eq!(
            told("100.64.0.0/16", gateway(&["192.0.2.1"], 1..=9, 0)),
            PlanError::Block { block_ports: 0, ports: 9 }
        );
        assert_eq!(told("100.64.0.0/16", gateway(&["::1"], 1..=9, 1)), PlanError::Family(address("::1")));
    }
}
