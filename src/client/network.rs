//! What the client changes on this machine: the TUN device's address and routes, routes past the tunnel, the resolver's
//! file. All of it is in one place, kept in the [`State`], and undone from there.
//!
//! Only IPv4 goes through the tunnel. IPv6 stays as the laptop has it: what programs send by IPv6 goes past the tunnel.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use tracing::warn;

use super::dns::{self, Owner};
use super::handshake::Terms;
use super::routes;
use super::state::{SavedRoute, State, StateError};
use crate::config::client::{Client as Config, DnsManage};
use crate::io::netlink::{self, Change, Link, Monitor, Netlink, Prefix, Route};
use crate::io::tun::{self, Tun};
use crate::ipv4;

/// Why the machine's network could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel's networking refused.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The TUN device.
    #[error("{0}; is the tun module there, and does no other program use this name (tun.name)?")]
    Tun(io::Error),
    /// The device's name is another interface's.
    #[error("{name} exists and is not a TUN device that the client can take; choose another tun.name")]
    NotATun {
        /// The name.
        name: String,
    },
    /// Somebody has taken the device away.
    #[error("the TUN device {name} is gone: somebody has deleted or renamed it; start the client again")]
    DeviceGone {
        /// Its name.
        name: String,
    },
    /// Another tunnel has its routes where this one's would be.
    #[error(
        "{prefix} goes through another tunnel already, {interface}: stop the client that has it, or set routes.default = \
             false here, and name in routes.include what is to go through this one"
    )]
    RoutesTaken {
        /// What both want.
        prefix: Prefix,
        /// The other tunnel's device.
        interface: String,
    },
    /// The gateway assigned an address that somebody has already.
    #[error(
        "the gateway assigned {lease}, which {holder} has already; whoever runs the gateway has to choose other addresses (lease.pool)"
    )]
    LeaseTaken {
        /// The address.
        lease: Ipv4Addr,
        /// An interface of this machine, or the gateway.
        holder: String,
    },
    /// What is changed cannot be kept, so it is not changed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The resolver's file.
    #[error("{}: {source}; correct dns.file, or leave DNS alone with dns.manage = \"off\"", path.display())]
    Dns {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Another client points it elsewhere.
    #[error("another client that runs (its lock: {}) has written {}; stop it, or leave DNS alone here with \
             dns.manage = \"off\"", lock.display(), path.display())]
    DnsTaken {
        /// The file.
        path: PathBuf,
        /// The other client's lock.
        lock: PathBuf,
    },
}

/// Opens the tunnel's device. It vanishes with its last descriptor, also after a crash.
///
/// # Errors
/// The kernel's.
pub fn open_tun(config: &Config, super_packets: bool) -> Result<Tun, NetworkError> {
    let features = tun::Features { vnet_hdr: super_packets, persistent: false };
    let name = config.tun.name.as_str();
    Tun::open(name, features).map_err(|error| {
        let is_another = error.kind() == io::ErrorKind::InvalidInput
            && Netlink::open().is_ok_and(|mut netlink| netlink.link(name).is_ok());
        if is_another { NetworkError::NotATun { name: name.to_owned() } } else { NetworkError::Tun(error) }
    })
}

/// This machine's network, as far as the client changes it.
#[derive(Debug)]
pub struct Network {
    state: State,
    monitor: Monitor,
}

impl Network {
    /// Takes over the state, and undoes what an earlier run left.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(state: State) -> Result<Self, NetworkError> {
        let mut network = Self { state, monitor: Monitor::open()? };
        network.undo()?;
        Ok(network)
    }

    /// Whether links, addresses or routes have changed since the last call.
    pub fn has_changed(&mut self) -> bool {
        let mut has_changed = false;
        self.monitor.drain(|change| has_changed |= change == Change::Routing);
        has_changed
    }

    /// Gives the device its address, and leads through the tunnel what belongs there. `peer` is the other end of the
    /// tunnel's own connection, which must not go through the tunnel.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_up(&mut self, config: &Config, terms: &Terms, mtu_bytes: u16, peer: IpAddr) -> Result<(), NetworkError> {
        lease_is_free(terms.lease, peer)?;
        self.lead_through(config, terms, mtu_bytes, peer)?;
        if config.routes.default && !routes::carries_everything(&terms.routes) {
            warn!("the gateway does not carry all of IPv4: what it does not goes past the tunnel");
        }
        let is_default = config.routes.default && !routes::through(&config.routes, &terms.routes).is_empty();
        // What is no host's, or is reached past the tunnel, is no resolver.
        let is_usable = |server: &&IpAddr| matches!(server, IpAddr::V4(server) if ipv4::is_a_hosts(*server));
        let servers: Vec<IpAddr> = terms.welcome.dns.iter().filter(is_usable).copied().collect();
        self.point_dns(config, &servers, is_default)
    }

    /// Gives the device its address and routes, and has past it what goes past it; tells whether the device lacked anything.
    /// What is as it should be is left alone, so that looking at a change makes no new one.
    ///
    /// # Errors
    /// The kernel's; [`NetworkError::DeviceGone`].
    pub fn lead_through(
        &mut self,
        config: &Config,
        terms: &Terms,
        mtu_bytes: u16,
        peer: IpAddr,
    ) -> Result<bool, NetworkError> {
        let name = config.tun.name.as_str();
        let mut netlink = Netlink::open()?;
        let device = device(&mut netlink, name)?;
        let (through, there) = (routes::through(&config.routes, &terms.routes), netlink.routes(true)?);
        if let Some((prefix, interface)) = routes::taken(&through, device.index, &there) {
            return Err(NetworkError::RoutesTaken { prefix, interface: netlink.link_by_index(interface)?.name });
        }
        let (lease, mtu) = (host(terms.lease.into()), u32::from(mtu_bytes));
        let lacks_mtu = device.mtu != mtu;
        if lacks_mtu {
            netlink.set_mtu(name, mtu)?;
        }
        let lacks_address = !netlink.addresses(name)?.contains(&lease);
        if lacks_address {
            netlink.replace_addresses(name, &[lease])?;
        }
        if !device.up {
            netlink.set_up(name, true)?;
        }
        self.keep_past(config, peer)?;
        for route in routes::outdated(&through, device.index, &there) {
            netlink.delete_route(route)?;
        }
        let through =
            through.into_iter().map(|prefix| Route { source: Some(lease.address), ..Route::new(prefix, device.index) });
        let lacking: Vec<Route> = through.filter(|route| !there.contains(route)).collect();
        for route in &lacking {
            netlink.replace_route(route)?;
        }
        Ok(lacks_mtu || lacks_address || !device.up || !lacking.is_empty())
    }

    /// Has the tunnel's own connection and what is excluded go past the tunnel, by the routes that the laptop has now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn keep_past(&mut self, config: &Config, peer: IpAddr) -> Result<(), NetworkError> {
        let mut netlink = Netlink::open()?;
        let tunnel = device(&mut netlink, config.tun.name.as_str())?.index;
        let laptop = netlink.routes(true)?;
        let excluded = config.routes.exclude.iter().map(|prefix| Prefix::new(prefix.address, prefix.length));
        // Loopback never leaves the machine, whatever the main table says.
        let own = (!peer.is_loopback()).then(|| host(peer));
        for destination in excluded.chain(own) {
            let Some(route) = routes::past(destination, tunnel, &laptop) else { continue };
            let Some(interface) = route.interface else { continue };
            // It may be another client's, to the same gateway: whoever made it removes it.
            if laptop.contains(&route) {
                continue;
            }
            let interface = netlink.link_by_index(interface)?.name;
            let (address, bits) = (destination.address, destination.bits);
            let saved = SavedRoute { address, bits, via: route.via, interface };
            if !self.state.changes().routes.contains(&saved) {
                self.state.update(|changes| changes.routes.push(saved))?;
            }
            netlink.replace_route(&route)?;
        }
        Ok(())
    }

    /// The interface by which IPv6 leaves past the tunnel, where the laptop has a way out for it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ipv6_way_out(&self) -> Result<Option<String>, NetworkError> {
        let mut netlink = Netlink::open()?;
        let interface = netlink.default_route(false)?.and_then(|route| route.interface);
        Ok(interface.map(|index| netlink.link_by_index(index)).transpose()?.map(|link| link.name))
    }

    fn point_dns(&mut self, config: &Config, servers: &[IpAddr], is_default: bool) -> Result<(), NetworkError> {
        let wanted = match config.dns.manage {
            DnsManage::Off => false,
            DnsManage::Auto => is_default,
            DnsManage::ResolvConf => true,
        };
        if !wanted || servers.is_empty() {
            // An earlier session may have pointed it to where nothing leads any more.
            return self.restore_dns();
        }
        let path = config.dns.file.clone();
        if let Owner::Another(lock) = dns::look(&path, self.state.lock()) {
            return Err(NetworkError::DnsTaken { path, lock });
        }
        if self.state.changes().dns.as_ref() != Some(&path) {
            self.restore_dns()?;
            self.state.update(|changes| changes.dns = Some(path.clone()))?;
        }
        dns::point(&path, servers, self.state.lock()).map_err(|source| NetworkError::Dns { path, source })
    }

    fn restore_dns(&mut self) -> Result<(), NetworkError> {
        let Some(path) = self.state.changes().dns.clone() else { return Ok(()) };
        match dns::restore(&path, self.state.lock()) {
            Ok(true) => {}
            Ok(false) => warn!("somebody else has written {} since: it is left alone", path.display()),
            Err(source) => return Err(NetworkError::Dns { path, source }),
        }
        Ok(self.state.update(|changes| changes.dns = None)?)
    }

    /// Undoes everything. What fails is told and tried again by the next start.
    ///
    /// # Errors
    /// The first failure.
    pub fn undo(&mut self) -> Result<(), NetworkError> {
        let dns = self.restore_dns();
        let mut netlink = Netlink::open()?;
        for saved in self.state.changes().routes.clone() {
            remove_route(&mut netlink, &saved)?;
            self.state.update(|changes| changes.routes.retain(|route| *route != saved))?;
        }
        dns
    }
}

/// Whether nobody else has the address: this machine in one of its networks, or the gateway. Another tunnel may have it, since
/// the gateways do not know of each other.
fn lease_is_free(lease: Ipv4Addr, peer: IpAddr) -> Result<(), NetworkError> {
    let taken = |holder: &str| NetworkError::LeaseTaken { lease, holder: holder.to_owned() };
    if peer == IpAddr::V4(lease) {
        return Err(taken("the gateway itself"));
    }
    let mut netlink = Netlink::open()?;
    for link in netlink.links()?.iter().filter(|link| link.ethernet) {
        if netlink.addresses(&link.name)?.iter().any(|prefix| prefix.address == IpAddr::V4(lease)) {
            return Err(taken(&link.name));
        }
    }
    Ok(())
}

fn device(netlink: &mut Netlink, name: &str) -> Result<Link, NetworkError> {
    netlink.link(name).map_err(|error| match error {
        netlink::Error::NoInterface { .. } => NetworkError::DeviceGone { name: name.to_owned() },
        netlink::Error::Refused { .. } | netlink::Error::Malformed { .. } => error.into(),
    })
}

/// Removes a route of ours, if it is still there.
fn remove_route(netlink: &mut Netlink, saved: &SavedRoute) -> Result<(), NetworkError> {
    let Ok(link) = netlink.link(&saved.interface) else { return Ok(()) };
    let route = Route { via: saved.via, ..Route::new(Prefix::new(saved.address, saved.bits), link.index) };
    match netlink.delete_route(&route) {
        Err(error) if matches!(error.errno(), Some(libc::ESRCH | libc::ENODEV)) => Ok(()),
        Err(error) => {
            warn!(%error, "a route past the tunnel is left");
            Err(error.into())
        }
        Ok(()) => Ok(()),
    }
}

fn host(address: IpAddr) -> Prefix {
    Prefix::new(address, if address.is_ipv4() { 32 } else { 128 })
}

/// The MTU of the tunnel in bytes: the gateway's, or what the configuration says where that is less.
pub fn mtu_bytes(configured: Option<u16>, gateway: u16) -> u16 {
    configured.map_or(gateway, |configured| configured.min(gateway))
}

/// An IPv4 address in an IPv6 socket's notation is the IPv4 address (RFC 4291, 2.5.5.2).
pub fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, |v4: Ipv4Addr| v4.into()),
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_mtu_counts() {
        assert_eq!(
            [mtu_bytes(None, 1400), mtu_bytes(Some(1300), 1400), mtu_bytes(Some(1500), 1400)],
            [1400, 1300, 1400]
        );
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_that_it_maps() {
        assert_eq!(
            plain("::ffff:192.0.2.1".parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))),
            IpAddr::from([192, 0, 2, 1])
        );
        assert_eq!(plain(IpAddr::from([192, 0, 2, 1])), IpAddr::from([192, 0, 2, 1]));
    }
}
