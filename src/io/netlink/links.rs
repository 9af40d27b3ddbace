//! Links: found by name, brought up, renamed, moved, made and deleted.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

use super::{Error, Netlink};

/// An interface as the kernel described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its hardware address, if it has an Ethernet header.
    pub mac: Option<[u8; 6]>,
    /// Whether packets carry an Ethernet header.
    pub ethernet: bool,
    /// Whether neighbours are looked up by ARP.
    pub arp: bool,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it can carry packets, as far as its driver tells (RFC 2863, ifOperStatus): a cable is in, and the other end is
    /// up.
    pub carrier: bool,
}

impl Netlink {
    /// All interfaces.
    ///
    /// # Errors
    /// The kernel's, with what was tried.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let answers = self.dump("listing interfaces", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers.into_iter().filter_map(new_link).collect())
    }

    /// The interface called `name`.
    ///
    /// # Errors
    /// [`Error::NoInterface`] where there is none.
    pub fn link(&mut self, name: &str) -> Result<Link, Error> {
        let action = format!("looking up interface {name}");
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(action, name, message)
    }

    /// The interface with an index.
    ///
    /// # Errors
    /// [`Error::NoInterface`] where there is none.
    pub fn link_by_index(&mut self, index: u32) -> Result<Link, Error> {
        let action = format!("looking up interface number {index}");
        self.one_link(action, &index.to_string(), by_index(index))
    }

    fn one_link(&mut self, action: String, interface: &str, message: LinkMessage) -> Result<Link, Error> {
        let none = |action| Error::NoInterface { action, interface: interface.to_owned() };
        match self.get(&action, RouteNetlinkMessage::GetLink(message)) {
            Ok(answers) => answers.into_iter().find_map(new_link).ok_or_else(|| none(action)),
            Err(error) if error.errno() == Some(libc::ENODEV) => Err(none(action)),
            Err(error) => Err(error),
        }
    }

    /// Brings an interface up or down.
    ///
    /// # Errors
    /// The kernel's, with what was tried.
    pub fn set_up(&mut self, name: &str, up: bool) -> Result<(), Error> {
        let mut message = by_index(self.link(name)?.index);
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        self.set_link(&format!("setting {name} {}", if up { "up" } else { "down" }), message)
    }

    /// Sets an interface's MTU in bytes.
    ///
    /// # Errors
    /// The kernel's, with what was tried.
    pub fn set_mtu(&mut self, name: &str, mtu: u32) -> Result<(), Error> {
        let mut message = by_index(self.link(name)?.index);
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.set_link(&format!("setting the MTU of {name} to {mtu}"), message)
    }

    /// Renames an interface, which has to be down.
    ///
    /// # Errors
    /// The kernel's, with what was tried.
    pub fn rename(&mut self, name: &str, to: &str) -> Result<(), Error> {
        let mut message = by_index(self.link(name)?.index);
        message.attributes.push(LinkAttribute::IfName(to.to_owned()));
        self.set_link(&format!("renaming {name} to {to}"), message)
    }

    /// Moves an interface to another network namespace. It loses its addresses and routes.
    ///
    /// # Errors
    /// The kernel's, with what was tried.
    pub fn move_to(&mut self, name: &str, namespace: BorrowedFd<'_>) -> Result<(), Error> {
        let mut message = by_index(self.link(name)?.index);
        message.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        self.set_link(&format!("moving {name} to another network namespace"), message)
    }

    fn set_link(&mut self, action: &str, message: LinkMessage) -> Result<(), Error> {
        self.change(action, 0, RouteNetlinkMessage::SetLink(message))
    }

    /// Makes a veth pair: `name` here, `peer` in `namespace`.
    ///
    /// # Errors
    /// The kernel's, with what was tried.
    pub fn add_veth(&mut self, name: &str, peer: &str, namespace: BorrowedFd<'_>) -> Result<(), Error> {
        let mut far = LinkMessage::default();
        far.attributes.extend([LinkAttribute::IfName(peer.to_owned()), LinkAttribute::NetNsFd(namespace.as_raw_fd())]);
        let mut message = LinkMessage::default();
        message.attributes.extend([
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
            ]),
        ]);
        let action = format!("making the veth pair {name} and {peer}");
        self.change(&action, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(message))
    }

    /// Deletes an interface.
    ///
    /// # Errors
    /// The kernel's, with what was tried.
    pub fn delete_link(&mut self, name: &str) -> Result<(), Error> {
        let message = by_index(self.link(name)?.index);
        self.change(&format!("deleting {name}"), 0, RouteNetlinkMessage::DelLink(message))
    }
}

fn by_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn new_link(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let flags = message.header.flags;
    let ethernet = matches!(message.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback);
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        mac: None,
        ethernet,
        arp: !flags.contains(LinkFlags::Noarp),
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::Running),
    };
    for attribute in message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name = name;
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = mtu;
        } else if let LinkAttribute::Address(mac) = attribute {
            link.mac = <[u8; 6]>::try_from(mac).ok().filter(|_| ethernet);
        }
    }
    Some(link)
}
