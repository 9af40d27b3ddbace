//! ADDRESS_ASSIGN, ADDRESS_REQUEST and ROUTE_ADVERTISEMENT (RFC 9484, 4.7), byte for byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{CapsuleError, append, kind, reader::Reader};
use crate::wire::varint;

/// An address prefix: an address with no bit set behind its first `len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    /// `None` where `len` exceeds the address or a bit behind the prefix is set.
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let host_bits = address_bits(address).checked_sub(len)?;
        let set = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        (set.trailing_zeros() >= u32::from(host_bits)).then_some(Self { address, len })
    }

    /// One address alone.
    pub fn host(address: IpAddr) -> Self {
        Self { address, len: address_bits(address) }
    }

    /// The first address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Length in bits.
    pub fn len_bits(self) -> u8 {
        self.len
    }
}

/// An address of ADDRESS_ASSIGN or ADDRESS_REQUEST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssignedAddress {
    /// The request that this belongs to; 0 for an assignment that nobody asked for.
    pub request_id: u64,
    /// The addresses. In a request, all zeros with the full length means "any".
    pub prefix: Prefix,
}

/// A range of destinations, both ends within it, for one upper-layer protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRange {
    /// IP version 4.
    V4 {
        /// The first address.
        start: Ipv4Addr,
        /// The last address.
        end: Ipv4Addr,
        /// The IP protocol number; 0 for all.
        protocol: u8,
    },
    /// IP version 6.
    V6 {
        /// The first address.
        start: Ipv6Addr,
        /// The last address.
        end: Ipv6Addr,
        /// The next-header value; 0 for all.
        protocol: u8,
    },
}

impl AddressRange {
    /// All of IPv4, every protocol.
    pub const ALL_V4: Self = Self::V4 { start: Ipv4Addr::UNSPECIFIED, end: Ipv4Addr::BROADCAST, protocol: 0 };

    /// All of IPv6, every protocol.
    pub const ALL_V6: Self =
        Self::V6 { start: Ipv6Addr::UNSPECIFIED, end: Ipv6Addr::from_bits(u128::MAX), protocol: 0 };

    fn is_in_order(self) -> bool {
        match self {
            Self::V4 { start, end, .. } => start <= end,
            Self::V6 { start, end, .. } => start <= end,
        }
    }

    /// Whether `next` may follow in a capsule: sorted by version, protocol and address, without overlap.
    fn precedes(self, next: Self) -> bool {
        match (self, next) {
            (Self::V4 { .. }, Self::V6 { .. }) => true,
            (Self::V6 { .. }, Self::V4 { .. }) => false,
            (Self::V4 { end, protocol, .. }, Self::V4 { start, protocol: next, .. }) => (protocol, end) < (next, start),
            (Self::V6 { end, protocol, .. }, Self::V6 { start, protocol: next, .. }) => (protocol, end) < (next, start),
        }
    }
}

/// Appends an ADDRESS_ASSIGN: all the addresses that the receiver has from now on.
pub fn append_address_assign(addresses: &[AssignedAddress], out: &mut Vec<u8>) {
    append(kind::ADDRESS_ASSIGN, out, |out| addresses.iter().for_each(|address| write_assigned(address, out)));
}

/// Appends an ADDRESS_REQUEST. It must hold at least one address, and no request identifier may be 0.
pub fn append_address_request(addresses: &[AssignedAddress], out: &mut Vec<u8>) {
    append(kind::ADDRESS_REQUEST, out, |out| addresses.iter().for_each(|address| write_assigned(address, out)));
}

/// Appends a ROUTE_ADVERTISEMENT. The ranges must be sorted by version, protocol and address, and not overlap.
pub fn append_routes(ranges: &[AddressRange], out: &mut Vec<u8>) {
    append(kind::ROUTE_ADVERTISEMENT, out, |out| {
        for range in ranges {
            let protocol = match range {
                AddressRange::V4 { start, end, protocol } => {
                    out.push(4);
                    out.extend_from_slice(&start.octets());
                    out.extend_from_slice(&end.octets());
                    protocol
                }
                AddressRange::V6 { start, end, protocol } => {
                    out.push(6);
                    out.extend_from_slice(&start.octets());
                    out.extend_from_slice(&end.octets());
                    protocol
                }
            };
            out.push(*protocol);
        }
    });
}

pub(super) fn write_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => {
            out.push(4);
            out.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            out.push(6);
            out.extend_from_slice(&address.octets());
        }
    }
}

fn write_assigned(assigned: &AssignedAddress, out: &mut Vec<u8>) {
    varint::write(assigned.request_id, out);
    write_address(assigned.prefix.address, out);
    out.push(assigned.prefix.len);
}

pub(super) fn read_assigned(reader: &mut Reader<'_>) -> Result<Vec<AssignedAddress>, CapsuleError> {
    let mut addresses = Vec::new();
    while !reader.is_empty() {
        let request_id = reader.varint("request id")?;
        let address = reader.address("address")?;
        let prefix = Prefix::new(address, reader.u8("prefix length")?).ok_or(reader.bad("prefix length"))?;
        addresses.push(AssignedAddress { request_id, prefix });
    }
    Ok(addresses)
}

pub(super) fn read_requested(reader: &mut Reader<'_>) -> Result<Vec<AssignedAddress>, CapsuleError> {
    let addresses = read_assigned(reader)?;
    if addresses.is_empty() || addresses.iter().any(|address| address.request_id == 0) {
        return Err(reader.bad("request id"));
    }
    Ok(addresses)
}

pub(super) fn read_routes(reader: &mut Reader<'_>) -> Result<Vec<AddressRange>, CapsuleError> {
    let mut ranges: Vec<AddressRange> = Vec::new();
    while !reader.is_empty() {
        let range = match reader.u8("IP version")? {
            4 => AddressRange::V4 {
                start: reader.ipv4("start")?,
                end: reader.ipv4("end")?,
                protocol: reader.u8("protocol")?,
            },
            6 => AddressRange::V6 {
                start: reader.ipv6("start")?,
                end: reader.ipv6("end")?,
                protocol: reader.u8("protocol")?,
            },
            _ => return Err(reader.bad("IP version")),
        };
        if !range.is_in_order() || ranges.last().is_some_and(|last| !last.precedes(range)) {
            return Err(reader.bad("range"));
        }
        ranges.push(range);
    }
    Ok(ranges)
}

const fn address_bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}
