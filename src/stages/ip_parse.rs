//! ip-parse: the only place where headers are validated.

use std::net::IpAddr;

use crate::packet::{Family, Packet, Raw};
use crate::stages::Verdict;

crate::reasons! {
    /// Why ip-parse drops a packet.
    pub enum Reason {
        /// A header that is not what its RFC says, or a length that is not there.
        Malformed = "malformed",
        /// A source address that is not the tether's lease.
        Spoofed = "spoofed",
    }
}

/// The five-tuple of a flow. For an ICMP query both ports are its identifier; for an ICMP error they are those of the
/// packet it quotes, seen from the error's direction; for other protocols and later fragments they are 0.
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

/// Proof that the headers are valid, and where they are. Only this file makes one.
#[derive(Clone, Copy, Debug)]
pub struct Parsed {
    family: Family,
    five_tuple: FiveTuple,
}

impl Parsed {
    /// The five-tuple, as the packet had it when it was parsed.
    pub fn five_tuple(&self) -> &FiveTuple {
        &self.five_tuple
    }

    /// The address family.
    pub fn family(&self) -> Family {
        self.family
    }
}
