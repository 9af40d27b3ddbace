//! Neighbours: who on the link has which hardware address.

use std::net::IpAddr;

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::{Error, Netlink, family_of};

/// An entry of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface's index.
    pub interface: u32,
    /// Its IP address.
    pub address: IpAddr,
    /// Its hardware address, while the kernel would send to it.
    pub mac: Option<[u8; 6]>,
    /// Whether the kernel will ask again before it trusts the entry for long.
    pub stale: bool,
}

impl Netlink {
    /// The neighbours of an interface.
    ///
    /// # Errors
    /// The kernel's, with what was tried.
    pub fn neighbours(&mut self, interface: u32) -> Result<Vec<Neighbour>, Error> {
        let action = format!("listing the neighbours of interface number {interface}");
        let answers = self.dump(&action, RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
        Ok(answers.into_iter().filter_map(new_neighbour).filter(|found| found.interface == interface).collect())
    }

    /// Tells the kernel that a neighbour is in use: it asks for its hardware address where it does not know it, and
    /// confirms a stale one.
    ///
    /// # Errors
    /// The kernel's, with what was tried.
    pub fn use_neighbour(&mut self, interface: u32, address: IpAddr) -> Result<(), Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = family_of(address);
        message.header.ifindex = interface;
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::Destination(address.into()));
        let action = format!("resolving the neighbour {address}");
        self.change(&action, NLM_F_CREATE, RouteNetlinkMessage::NewNeighbour(message))
    }
}

/// Reads an entry, or its deletion (which has no hardware address then).
pub(super) fn new_neighbour(message: RouteNetlinkMessage) -> Option<Neighbour> {
    let deleted = matches!(message, RouteNetlinkMessage::DelNeighbour(_));
    let (RouteNetlinkMessage::NewNeighbour(message) | RouteNetlinkMessage::DelNeighbour(message)) = message else {
        return None;
    };
    let state = message.header.state;
    let (mut address, mut mac) = (None, None);
    for attribute in message.attributes {
        if let NeighbourAttribute::Destination(destination) = attribute {
            address = ip(&destination);
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            mac = <[u8; 6]>::try_from(bytes).ok();
        }
    }
    let mac = mac.filter(|_| !deleted && is_valid(state));
    let stale = state == NeighbourState::Stale;
    Some(Neighbour { interface: message.header.ifindex, address: address?, mac, stale })
}

/// Whether the kernel itself would send to an entry in this state (NUD_VALID).
fn is_valid(state: NeighbourState) -> bool {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    matches!(state, Reachable | Stale | Delay | Probe | Permanent | Noarp)
}

fn ip(address: &NeighbourAddress) -> Option<IpAddr> {
    if let NeighbourAddress::Inet(v4) = address {
        return Some(IpAddr::V4(*v4));
    }
    if let NeighbourAddress::Inet6(v6) = address { Some(IpAddr::V6(*v6)) } else { None }
}
