//! The world of the demo and of the end-to-end tests: laptop, phone, gateway and internet, joined as in a train.
//!
//! ```text
//! laptop ──192.0.2.0/30── phone ──198.51.100.0/30── gateway ──198.18.0.0/24── internet
//!    └────────────────203.0.113.0/30, if direct───────┘
//! ```
//!
//! The addresses are those of documentation (RFC 5737) and of benchmarks (RFC 2544), which are nowhere routed.

use std::net::Ipv4Addr;

use super::namespace::{Error, Namespace, veth};
use crate::io::ethtool::Offloads;
use crate::io::netlink::Prefix;

/// The laptop, as the phone reaches it.
pub const LAPTOP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The phone, as the laptop reaches it.
pub const PHONE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The phone's address in its mobile network.
pub const PHONE_MOBILE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The gateway, as the phone reaches it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The gateway, as the laptop reaches it without a phone.
pub const GATEWAY_DIRECT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The laptop's address beside it.
pub const LAPTOP_DIRECT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The gateway, as the internet sees it.
pub const GATEWAY_EXTERNAL: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// A host on the internet.
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// The interface of the gateway's way out, and of the internet's host.
pub const INTERNET_INTERFACE: &str = "eth0";

/// How the machines are joined.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    /// The laptop also reaches the gateway past the phone.
    pub direct: bool,
    /// The offloads of every interface; `None` leaves them as the kernel makes them.
    pub offloads: Option<Offloads>,
}

/// The four machines.
#[derive(Clone, Debug)]
pub struct World {
    /// It has no default route of its own.
    pub laptop: Namespace,
    /// It reaches the laptop and the gateway, and forwards nothing.
    pub phone: Namespace,
    /// Its default route is the internet's host.
    pub gateway: Namespace,
    /// It knows of nobody but the gateway's external address.
    pub internet: Namespace,
}

impl World {
    /// Makes the machines and joins them.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn new(layout: Layout) -> Result<Self, Error> {
        let [laptop, phone, gateway, internet] = ["laptop", "phone", "gateway", "internet"].map(Namespace::new);
        let world = Self { laptop: laptop?, phone: phone?, gateway: gateway?, internet: internet? };
        let Self { laptop, phone, gateway, internet } = &world;
        for namespace in [laptop, phone, gateway, internet] {
            namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        }
        join((laptop, "phone0", LAPTOP), (phone, "laptop0", PHONE), 30, layout.offloads)?;
        join((phone, "mobile0", PHONE_MOBILE), (gateway, "mobile0", GATEWAY), 30, layout.offloads)?;
        let internet_end = (internet, INTERNET_INTERFACE, INTERNET);
        join((gateway, INTERNET_INTERFACE, GATEWAY_EXTERNAL), internet_end, 24, layout.offloads)?;
        if layout.direct {
            let gateway_end = (gateway, "laptop0", GATEWAY_DIRECT);
            join((laptop, "net0", LAPTOP_DIRECT), gateway_end, 30, layout.offloads)?;
        }
        gateway.route(Prefix::ALL_V4, INTERNET.into(), INTERNET_INTERFACE)?;
        Ok(world)
    }
}

/// One end of a cable: where, the interface's name, its address.
type End<'a> = (&'a Namespace, &'a str, Ipv4Addr);

/// Joins two machines with a cable whose ends have addresses of one network of `bits`.
///
/// # Errors
/// What the kernel refused.
pub fn join(a: End<'_>, b: End<'_>, bits: u8, offloads: Option<Offloads>) -> Result<(), Error> {
    veth(a.0, a.1, b.0, b.1)?;
    for (namespace, interface, address) in [a, b] {
        namespace.address(interface, Prefix::new(address.into(), bits))?;
        offloads.map_or(Ok(()), |offloads| namespace.offloads(interface, offloads))?;
    }
    Ok(())
}
