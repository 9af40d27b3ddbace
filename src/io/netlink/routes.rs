//! Routes: added, replaced, listed, removed, and asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use super::{Error, Netlink, Prefix, family_of};

/// The routing protocol number that marks our routes (`ip route show proto 119`); none of the kernel's or of the known
/// routing daemons (linux/rtnetlink.h).
pub const PROTOCOL_WSTETHER: u8 = 119;

/// The main routing table.
pub const MAIN_TABLE: u32 = 254;

/// A unicast route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: Prefix,
    /// The next hop, where the destination is not on the link itself.
    pub via: Option<IpAddr>,
    /// The interface's index.
    pub interface: Option<u32>,
    /// The source address that the kernel prefers for it.
    pub source: Option<IpAddr>,
    /// The metric: of equal routes the one with the smallest wins.
    pub metric: u32,
    /// The table.
    pub table: u32,
    /// Who made it: [`PROTOCOL_WSTETHER`] for ours.
    pub protocol: u8,
    /// Whether the next hop is taken to be on the link, whatever the addresses say.
    pub onlink: bool,
}

impl Route {
    /// A route of ours in the main table.
    pub fn new(destination: Prefix, interface: u32) -> Self {
        let (table, protocol) = (MAIN_TABLE, PROTOCOL_WSTETHER);
        let interface = Some(interface);
        Self { destination, via: None, interface, source: None, metric: 0, table, protocol, onlink: false }
    }

    /// The same route by a next hop.
    #[must_use]
    pub fn via(self, via: IpAddr) -> Self {
        Self { via: Some(via), ..self }
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(self.destination.address);
        message.header.destination_prefix_length = self.destination.bits;
        message.header.protocol = RouteProtocol::from(self.protocol);
        message.header.kind = RouteType::Unicast;
        let on_link = self.via.is_none() && self.destination.address.is_ipv4();
        message.header.scope = if on_link { RouteScope::Link } else { RouteScope::Universe };
        message.header.flags = if self.onlink { RouteFlags::Onlink } else { RouteFlags::empty() };
        let attributes = [
            Some(RouteAttribute::Table(self.table)),
            (self.destination.bits > 0).then(|| RouteAttribute::Destination(self.destination.address.into())),
            self.via.map(|via| RouteAttribute::Gateway(via.into())),
            self.interface.map(RouteAttribute::Oif),
            self.source.map(|source| RouteAttribute::PrefSource(source.into())),
            (self.metric > 0).then_some(RouteAttribute::Priority(self.metric)),
        ];
        message.attributes.extend(attributes.into_iter().flatten());
        message
    }
}

/// How the kernel would send to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The interface's index.
    pub interface: u32,
    /// The neighbour to send to: the gateway, or the destination itself where it is on the link.
    pub neighbour: IpAddr,
    /// The source address that the kernel would take.
    pub source: Option<IpAddr>,
    /// Whether the destination is the host itself.
    pub local: bool,
}

impl Netlink {
    /// The unicast routes of one family in all tables.
    ///
    /// # Errors
    /// The kernel's, with what was tried.
    pub fn routes(&mut self, ipv4: bool) -> Result<Vec<Route>, Error> {
        let any = if ipv4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(any);
        let answers = self.dump("listing routes", RouteNetlinkMessage::GetRoute(message))?;
        Ok(answers.into_iter().filter_map(|message| new_route(message, any)).collect())
    }

    /// The default route of a family in the main table that the kernel prefers.
    ///
    /// # Errors
    /// The kernel's, with what was tried.
    pub fn default_route(&mut self, ipv4: bool) -> Result<Option<Route>, Error> {
        let all = self.routes(ipv4)?.into_iter();
        let defaults = all.filter(|route| route.destination.bits == 0 && route.table == MAIN_TABLE);
        Ok(defaults.filter(|route| route.interface.is_some()).min_by_key(|route| route.metric))
    }

    /// Adds a route, or replaces the one to the same destination with the same metric in the same table.
    ///
    /// # Errors
    /// The kernel's, with what was tried.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), Error> {
        let action = format!("adding the route to {}", route.destination);
        self.change(&action, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewRoute(route.message()))
    }

    /// Removes a route.
    ///
    /// # Errors
    /// The kernel's, with what was tried; ESRCH where it is not there.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), Error> {
        let action = format!("removing the route to {}", route.destination);
        self.change(&action, 0, RouteNetlinkMessage::DelRoute(route.message()))
    }

    /// How the kernel would send to `destination`.
    ///
    /// # Errors
    /// The kernel's, with what was tried; ENETUNREACH where there is no route.
    pub fn next_hop(&mut self, destination: IpAddr) -> Result<NextHop, Error> {
        let action = format!("asking for the route to {destination}");
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(destination);
        message.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        let answers = self.get(&action, RouteNetlinkMessage::GetRoute(message))?;
        let hop = answers.into_iter().find_map(|answer| new_next_hop(answer, destination));
        hop.ok_or_else(|| super::malformed(&action, "no interface in it"))
    }
}

fn new_route(message: RouteNetlinkMessage, any: IpAddr) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let header = message.header;
    if header.kind != RouteType::Unicast {
        return None;
    }
    let mut route = Route {
        destination: Prefix::new(any, header.destination_prefix_length),
        via: None,
        interface: None,
        source: None,
        metric: 0,
        table: u32::from(header.table),
        protocol: u8::from(header.protocol),
        onlink: header.flags.contains(RouteFlags::Onlink),
    };
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(destination) = attribute {
            route.destination.address = ip(destination)?;
        } else if let RouteAttribute::Gateway(via) = attribute {
            route.via = ip(via);
        } else if let RouteAttribute::Oif(interface) = attribute {
            route.interface = Some(*interface);
        } else if let RouteAttribute::PrefSource(source) = attribute {
            route.source = ip(source);
        } else if let RouteAttribute::Priority(metric) = attribute {
            route.metric = *metric;
        } else if let RouteAttribute::Table(table) = attribute {
            route.table = *table;
        }
    }
    Some(route)
}

fn new_next_hop(message: RouteNetlinkMessage, destination: IpAddr) -> Option<NextHop> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let local = message.header.kind != RouteType::Unicast;
    let (mut interface, mut neighbour, mut source) = (None, destination, None);
    for attribute in &message.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            interface = Some(*index);
        } else if let RouteAttribute::Gateway(via) = attribute {
            neighbour = ip(via)?;
        } else if let RouteAttribute::PrefSource(address) = attribute {
            source = ip(address);
        }
    }
    Some(NextHop { interface: interface?, neighbour, source, local })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(v4) = address {
        return Some(IpAddr::V4(*v4));
    }
    if let RouteAddress::Inet6(v6) = address { Some(IpAddr::V6(*v6)) } else { None }
}
