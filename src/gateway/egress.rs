//! The way out to the internet: found, opened, and what follows from it (addresses, MTU, who translates).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::config::gateway::{self as config, Gateway};
use crate::config::values::Auto;
use crate::io::netlink::{self, Netlink};
use crate::io::packet_socket::{self, EgressSettings, RawReceiver, RawSender};
use crate::io::tun::Tun;
use crate::kernel_state::{self, KernelState};
use crate::nat::{AddressPlan, PlanError, Translation};
use crate::offload::SuperPackets;
use crate::policy::{Policy, Prefix, PrefixError};

/// What the kernel may hold of packets that were not read, or not sent, in bytes of its own accounting: a few
/// milliseconds at 10 Gbit/s.
const SOCKET_BUFFER_BYTES: u32 = 8 << 20;

/// The least MTU of a lease (RFC 8200, 5: what IPv6 asks of every link).
const MTU_BYTES_MIN: u16 = 1_280;

/// Why there is no way out.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The kernel's networking refused.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// No default route names the interface.
    #[error("there is no default route: name the interface to the internet in egress.interface")]
    NoDefaultRoute,
    /// The interface has no IPv4 address.
    #[error("the interface {0} has no IPv4 address: give it one, or name the external addresses in egress.addresses")]
    NoAddress(String),
    /// Pool, addresses and ports do not fit together.
    #[error("lease and egress: {0}")]
    Plan(#[from] PlanError),
    /// A prefix of the configuration.
    #[error("{0}")]
    Prefix(#[from] PrefixError),
    /// A packet socket.
    #[error(transparent)]
    Sockets(#[from] packet_socket::Error),
    /// The kernel's state.
    #[error(transparent)]
    KernelState(#[from] kernel_state::Error),
    /// Packets would be larger than the interface takes.
    #[error("lease.mtu = {mtu_bytes} is more than the MTU of {interface}, {limit_bytes}")]
    MtuTooLarge {
        /// As configured.
        mtu_bytes: u16,
        /// The interface to the internet.
        interface: String,
        /// Its MTU in bytes.
        limit_bytes: u16,
    },
    /// The interface takes less than what every client may count on (docs/protocol.md, WELCOME).
    #[error("the MTU of {interface}, {mtu_bytes}, is below {MTU_BYTES_MIN}, which a lease needs")]
    MtuTooSmall {
        /// The interface to the internet.
        interface: String,
        /// Its MTU in bytes.
        mtu_bytes: u16,
    },
    /// The TUN did not come with the state.
    #[error("the TUN device {0} was not set up")]
    NoTun(String),
}

/// What was found before anything was changed.
#[derive(Debug)]
pub struct Surroundings {
    /// The interface to the internet.
    pub interface: String,
    /// Its index.
    pub index: u32,
    /// Its MTU in bytes.
    pub mtu_bytes: u16,
    /// Its IPv4 addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// Every address of the host.
    pub own: Vec<IpAddr>,
}

impl Surroundings {
    /// Looks at the host.
    ///
    /// # Errors
    /// No interface, or none with an address.
    pub fn look(config: &Gateway) -> Result<Self, EgressError> {
        let mut netlink = Netlink::open()?;
        let link = match &config.egress.interface {
            Auto::Is(name) => netlink.link(name.as_str())?,
            Auto::Auto => {
                let route = netlink.default_route(true)?.and_then(|route| route.interface);
                netlink.link_by_index(route.ok_or(EgressError::NoDefaultRoute)?)?
            }
        };
        let mut own = Vec::new();
        for other in netlink.links()? {
            own.extend(netlink.addresses(&other.name)?.into_iter().map(|prefix| prefix.address));
        }
        let addresses = netlink.addresses(&link.name)?.into_iter().filter_map(|prefix| match prefix.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        let addresses = addresses.collect();
        let mtu_bytes = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        Ok(Self { interface: link.name, index: link.index, mtu_bytes, addresses, own })
    }

    /// The largest packet inside the tunnel: as configured, or the interface's.
    ///
    /// # Errors
    /// Where the interface would not take such packets, or takes less than a lease must have.
    pub fn lease_mtu_bytes(&self, configured: &Auto<u16>) -> Result<u16, EgressError> {
        let (interface, limit_bytes) = (self.interface.clone(), self.mtu_bytes);
        if limit_bytes < MTU_BYTES_MIN {
            return Err(EgressError::MtuTooSmall { interface, mtu_bytes: limit_bytes });
        }
        match *configured {
            Auto::Is(mtu_bytes) if mtu_bytes > limit_bytes => {
                Err(EgressError::MtuTooLarge { mtu_bytes, interface, limit_bytes })
            }
            Auto::Is(mtu_bytes) => Ok(mtu_bytes),
            Auto::Auto => Ok(limit_bytes),
        }
    }

    fn external(&self, blocks: &config::PortBlocks) -> Result<Vec<Ipv4Addr>, EgressError> {
        if !blocks.addresses.is_empty() {
            return Ok(blocks.addresses.clone());
        }
        // One address unless several are named: the others may be there for something else.
        let first = self.addresses.first().ok_or_else(|| EgressError::NoAddress(self.interface.clone()))?;
        Ok(vec![*first])
    }
}

/// Who has which lease, and how it appears on the internet.
///
/// # Errors
/// Where the configuration's parts do not fit the host.
pub fn address_plan(config: &Gateway, around: &Surroundings) -> Result<AddressPlan, EgressError> {
    let pool = Prefix::new(config.lease.pool.address.into(), config.lease.pool.length)?;
    let translation = match config.egress.port_blocks() {
        Some(blocks) => Translation::Gateway {
            addresses: around.external(blocks)?.into_iter().map(IpAddr::V4).collect(),
            ports: blocks.ports.first..=blocks.ports.last,
            block_ports: blocks.ports_per_tether,
        },
        None => Translation::None,
    };
    Ok(AddressPlan::new(pool, translation)?)
}

/// Which destinations clients may reach.
///
/// # Errors
/// A prefix that is none.
pub fn policy(config: &Gateway, around: &Surroundings, plan: &AddressPlan) -> Result<Policy, EgressError> {
    let prefixes = |list: &[crate::config::values::Prefix]| -> Result<Vec<Prefix>, PrefixError> {
        list.iter().map(|prefix| Prefix::new(prefix.address, prefix.length)).collect()
    };
    let host = |address: IpAddr| Prefix::new(address, if address.is_ipv4() { 32 } else { 128 });
    let mut own: Vec<Prefix> = around.own.iter().copied().map(host).collect::<Result<_, _>>()?;
    own.extend(plan.external_addresses().map(host).collect::<Result<Vec<_>, _>>()?);
    own.push(plan.pool());
    Ok(Policy::new(prefixes(&config.policy.deny)?, prefixes(&config.policy.allow)?, own))
}

/// The open way out.
#[derive(Debug)]
pub struct Egress {
    /// The way.
    pub way: Way,
    /// What was set up in the kernel for it.
    pub kernel: KernelState,
}

/// The two ways out.
#[derive(Debug)]
pub enum Way {
    /// Packet sockets.
    Raw {
        /// Out.
        sender: Arc<RawSender>,
        /// In.
        receiver: Arc<RawReceiver>,
    },
    /// A TUN device, both ways.
    Tun(Arc<Tun>),
}

impl Egress {
    /// Which super-packets the way out takes.
    pub fn super_packets(&self) -> SuperPackets {
        match &self.way {
            Way::Raw { sender, .. } => sender.takes(),
            Way::Tun(tun) => tun.offloads(),
        }
    }

    /// Sets up the kernel and opens the way. Captures before the kernel's own stack is told to look away, so no packet
    /// of a connection that lives is answered by it or lost.
    ///
    /// # Errors
    /// Whatever the kernel refuses.
    pub fn open(
        config: &Gateway,
        around: &Surroundings,
        plan: &AddressPlan,
        mtu_bytes: u16,
    ) -> Result<Self, EgressError> {
        let state = |egress| kernel_state::Plan {
            instance: config.gateway.name.as_str().to_owned(),
            state_dir: config.runtime.directory.clone(),
            egress,
        };
        match &config.egress.way {
            config::Way::Raw(blocks) => {
                let (addresses, ports) = (around.external(blocks)?, blocks.ports.first..=blocks.ports.last);
                let settings = EgressSettings {
                    interface: around.interface.clone(),
                    addresses: addresses.clone(),
                    ports: ports.clone(),
                    receive_buffer_bytes: SOCKET_BUFFER_BYTES,
                    send_buffer_bytes: SOCKET_BUFFER_BYTES,
                };
                let (sender, receiver) = packet_socket::open(&settings)?;
                let kernel = KernelState::adopt(&state(kernel_state::Egress::Raw { addresses, ports }))?;
                Ok(Self { way: Way::Raw { sender: Arc::new(sender), receiver: Arc::new(receiver) }, kernel })
            }
            config::Way::Tun { name, translation } => {
                let pool = in_netlink(plan.pool());
                let (masquerade, external) = match translation {
                    config::Translation::Kernel => (Some(around.interface.clone()), Vec::new()),
                    config::Translation::None => (None, Vec::new()),
                    config::Translation::Gateway(_) => (None, plan.external_addresses().collect()),
                };
                let may_come_out = external.first().map_or(pool, |address| host_in_netlink(*address));
                let tun = kernel_state::Egress::Tun {
                    name: name.as_str().to_owned(),
                    address: netlink::Prefix { address: plan.gateway(), ..pool },
                    mtu: mtu_bytes.into(),
                    routes: external.into_iter().map(host_in_netlink).collect(),
                    pool: may_come_out,
                    masquerade,
                    vnet_hdr: true,
                };
                let kernel = KernelState::adopt(&state(tun))?;
                let tun = kernel.tun().cloned().ok_or_else(|| EgressError::NoTun(name.as_str().to_owned()))?;
                Ok(Self { way: Way::Tun(tun), kernel })
            }
        }
    }
}

fn in_netlink(prefix: Prefix) -> netlink::Prefix {
    netlink::Prefix { address: prefix.address(), bits: prefix.bits() }
}

fn host_in_netlink(address: IpAddr) -> netlink::Prefix {
    netlink::Prefix { address, bits: if address.is_ipv4() { 32 } else { 128 } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(mtu_bytes: u16) -> Surroundings {
        Surroundings { interface: "eth0".into(), index: 2, mtu_bytes, addresses: Vec::new(), own: Vec::new() }
    }

    #[test]
    fn a_lease_has_the_interfaces_mtu_or_less() {
        let mtu = |limit, configured| around(limit).lease_mtu_bytes(&configured).map_err(|error| error.to_string());
        assert_eq!(mtu(1_500, Auto::Auto), Ok(1_500));
        assert_eq!(mtu(1_500, Auto::Is(1_500)), Ok(1_500));
        assert_eq!(mtu(1_500, Auto::Is(1_400)), Ok(1_400));
        let told = mtu(1_500, Auto::Is(1_501)).expect_err("larger than the interface's");
        assert_eq!(told, "lease.mtu = 1501 is more than the MTU of eth0, 1500");
        let told = mtu(1_279, Auto::Auto).expect_err("smaller than a lease's");
        assert_eq!(told, "the MTU of eth0, 1279, is below 1280, which a lease needs");
    }
}
