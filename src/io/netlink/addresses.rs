//! Addresses of interfaces.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};

use super::{Error, Netlink, Prefix, family_of};

impl Netlink {
    /// The addresses of an interface, of both families.
    ///
    /// # Errors
    /// The kernel's, with what was tried.
    pub fn addresses(&mut self, interface: &str) -> Result<Vec<Prefix>, Error> {
        let index = self.link(interface)?.index;
        let action = format!("listing the addresses of {interface}");
        let answers = self.dump(&action, RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        let all = answers.into_iter().filter_map(new_address);
        Ok(all.filter(|(at, _)| *at == index).map(|(_, prefix)| prefix).collect())
    }

    /// Adds an address, or does nothing where it is there already.
    ///
    /// # Errors
    /// The kernel's, with what was tried.
    pub fn add_address(&mut self, interface: &str, address: Prefix) -> Result<(), Error> {
        let message = address_message(self.link(interface)?.index, address);
        let action = format!("adding address {address} to {interface}");
        self.change(&action, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewAddress(message))
    }

    /// Removes an address.
    ///
    /// # Errors
    /// The kernel's, with what was tried; EADDRNOTAVAIL where it is not there.
    pub fn delete_address(&mut self, interface: &str, address: Prefix) -> Result<(), Error> {
        let message = address_message(self.link(interface)?.index, address);
        let action = format!("removing address {address} from {interface}");
        self.change(&action, 0, RouteNetlinkMessage::DelAddress(message))
    }

    /// Makes `addresses` the only ones of their families' global scope on an interface.
    ///
    /// # Errors
    /// The kernel's, with what was tried.
    pub fn replace_addresses(&mut self, interface: &str, addresses: &[Prefix]) -> Result<(), Error> {
        for &address in addresses {
            self.add_address(interface, address)?;
        }
        let is_link_local =
            |prefix: &Prefix| matches!(prefix.address, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local());
        for stale in self.addresses(interface)?.iter().filter(|prefix| !addresses.contains(prefix)) {
            if !is_link_local(stale) {
                self.delete_address(interface, *stale)?;
            }
        }
        Ok(())
    }
}

fn address_message(index: u32, prefix: Prefix) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(prefix.address);
    message.header.prefix_len = prefix.bits;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(prefix.address));
    message.attributes.push(AddressAttribute::Address(prefix.address));
    message
}

fn new_address(message: RouteNetlinkMessage) -> Option<(u32, Prefix)> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        if let AddressAttribute::Local(ip) = attribute {
            local = Some(*ip);
        } else if let AddressAttribute::Address(ip) = attribute {
            address = Some(*ip);
        }
    }
    // On a point-to-point interface the second is the peer's; IPv6 has it alone.
    Some((message.header.index, Prefix::new(local.or(address)?, message.header.prefix_len)))
}
