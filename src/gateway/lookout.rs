//! Looks at the way out: whether the interface to the internet is there and up, whether a route leaves by it, and how large
//! a packet it takes. While it is lost `/readyz` says why; it becomes ready by itself once the way is back.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;

use tracing::{debug, info, warn};

use super::egress::Surroundings;
use crate::io::netlink::{self, Netlink};
use crate::metrics::Readiness;
use crate::stages::ip_parse;

/// Somebody on the internet (a.root-servers.net): by default or by a route of its own, whoever reaches the internet has a
/// way there. The kernel is asked for that way, and nothing is sent.
const THE_INTERNET: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4));

/// Why packets cannot leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    Gone,
    Replaced,
    Down,
    NoCarrier,
    NoWayToInternet,
    NoRoute,
    TunGone,
    TunDown,
    NoRouteToClients,
}

impl Lost {
    /// In words for an operator, who knows the way out by its `interface`, and the device in front of it as `tun`.
    fn why(self, interface: &str, tun: &str) -> String {
        match self {
            Self::TunGone => format!("egress: the TUN device {tun} was deleted or made anew; restart the gateway"),
            Self::TunDown => format!("egress: the TUN device {tun} is down; restart the gateway"),
            Self::NoRouteToClients => {
                format!("egress: no route to the clients leads into the TUN device {tun}; restart the gateway")
            }
            Self::Gone => format!("egress: there is no interface {interface} any more"),
            Self::Replaced => format!("egress: {interface} was made anew; restart the gateway"),
            Self::Down => format!("egress: {interface} is down"),
            Self::NoCarrier => format!("egress: {interface} has no carrier"),
            Self::NoWayToInternet => format!("egress: no route to the internet leaves by {interface}"),
            Self::NoRoute => format!("egress: no route leaves by {interface}"),
        }
    }
}

/// Where routes lead that leave by the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Routes {
    ToInternet,
    Elsewhere,
    None,
}

/// The interface, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    index: u32,
    up: bool,
    carrier: bool,
    mtu_bytes: u32,
    routes: Routes,
}

/// What the way out had at the start, and must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needed {
    /// The interface that packet sockets are bound to; `None` where the kernel routes, by the name.
    index: Option<u32>,
    /// A route to the internet. A gateway to a private network has another, or none but the network's.
    to_internet: bool,
}

/// The TUN device between the gateway and the kernel's routing.
#[derive(Debug)]
struct Tunnel {
    name: String,
    index: u32,
    /// Of a client: its packets must be led into the device.
    lease: IpAddr,
}

/// What is missing of `needed`, where there is an interface of the name that is as `seen`.
fn judge(needed: Needed, seen: Option<Seen>) -> Option<Lost> {
    let Some(seen) = seen else { return Some(Lost::Gone) };
    if needed.index.is_some_and(|index| index != seen.index) {
        return Some(Lost::Replaced);
    }
    match seen {
        Seen { up: false, .. } => Some(Lost::Down),
        Seen { carrier: false, .. } => Some(Lost::NoCarrier),
        Seen { routes: Routes::None, .. } => Some(Lost::NoRoute),
        Seen { routes: Routes::Elsewhere, .. } if needed.to_internet => Some(Lost::NoWayToInternet),
        Seen { .. } => None,
    }
}

/// The largest packet that leaves by an interface of this MTU, of those that tethers may send.
fn bound(lease_mtu_bytes: u16, interface_mtu_bytes: u32) -> u16 {
    u16::try_from(interface_mtu_bytes).map_or(lease_mtu_bytes, |mtu_bytes| mtu_bytes.min(lease_mtu_bytes))
}

/// Who looks at the way out.
#[derive(Debug)]
pub(super) struct Lookout {
    netlink: Netlink,
    interface: String,
    needed: Needed,
    tun: Option<Tunnel>,
    lost: Option<Lost>,
    /// The largest packet that a tether may send.
    lease_mtu_bytes: u16,
    /// As the interface was last seen.
    mtu_bytes: u16,
}

impl Lookout {
    /// Remembers how the way out is now. `by_socket` tells whether packet sockets are bound to its interface.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn new(around: &Surroundings, by_socket: bool, lease_mtu_bytes: u16) -> Result<Self, netlink::Error> {
        let mut lookout = Self {
            netlink: Netlink::open()?,
            interface: around.interface.clone(),
            needed: Needed { index: by_socket.then_some(around.index), to_internet: true },
            tun: None,
            lost: None,
            lease_mtu_bytes,
            mtu_bytes: lease_mtu_bytes,
        };
        lookout.needed.to_internet = lookout.leads_to_internet(around.index);
        Ok(lookout)
    }

    /// From now on looks at this TUN device, too, into which packets for `lease` are led.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn watch_tun(&mut self, name: &str, lease: IpAddr) -> Result<(), netlink::Error> {
        let index = self.netlink.link(name)?.index;
        self.tun = Some(Tunnel { name: name.to_owned(), index, lease });
        Ok(())
    }

    /// Looks, tells by `ready` and `rules`, and logs what has changed. Costs two questions to the kernel, or four.
    pub(super) fn look(&mut self, ready: &Readiness, rules: &ip_parse::Rules) {
        match self.see().and_then(|seen| Ok((seen, self.see_tun()?))) {
            Ok((seen, lost)) => {
                self.tell_ready(judge(self.needed, seen).or(lost), ready);
                if let Some(seen) = seen.filter(|_| self.needed.index.is_some()) {
                    self.tell_mtu(seen.mtu_bytes, rules);
                }
            }
            Err(error) => debug!(%error, "the way out cannot be looked at"),
        }
    }

    /// What the interface has become too narrow for is refused by ip-parse with a word, and not lost in raw-send without one.
    /// Where the kernel routes it does so itself, and cuts what may be cut.
    fn tell_mtu(&mut self, interface_mtu_bytes: u32, rules: &ip_parse::Rules) {
        let (interface, lease_mtu_bytes) = (&self.interface, self.lease_mtu_bytes);
        let mtu_bytes = bound(lease_mtu_bytes, interface_mtu_bytes);
        if std::mem::replace(&mut self.mtu_bytes, mtu_bytes) == mtu_bytes {
            return;
        }
        if mtu_bytes < lease_mtu_bytes {
            warn!(
                interface,
                mtu_bytes, lease_mtu_bytes, "the interface takes less than lease.mtu: larger packets are refused"
            );
        } else {
            info!(interface, mtu_bytes, "the interface takes packets of lease.mtu again");
        }
        rules.mtu_bytes.store(mtu_bytes, Ordering::Relaxed);
    }

    fn tell_ready(&mut self, lost: Option<Lost>, ready: &Readiness) {
        let tun = self.tun.as_ref().map_or("", |tun| &tun.name);
        match lost.map(|lost| lost.why(&self.interface, tun)) {
            Some(why) => {
                if self.lost != lost {
                    warn!("not ready: {why}");
                }
                ready.set_not_ready(why);
            }
            None => {
                if self.lost.is_some() {
                    info!(interface = self.interface, "ready: the way out is back");
                }
                ready.set_ready();
            }
        }
        self.lost = lost;
    }

    fn see(&mut self) -> Result<Option<Seen>, netlink::Error> {
        let link = match self.netlink.link(&self.interface) {
            Err(netlink::Error::NoInterface { .. }) => return Ok(None),
            link => link?,
        };
        let routes = if self.leads_to_internet(link.index) {
            Routes::ToInternet
        } else if self.needed.to_internet {
            // Whatever else there is: a long list is not asked for.
            Routes::Elsewhere
        } else if self.netlink.routes(true)?.iter().any(|route| route.interface == Some(link.index)) {
            Routes::Elsewhere
        } else {
            Routes::None
        };
        Ok(Some(Seen { index: link.index, up: link.up, carrier: link.carrier, mtu_bytes: link.mtu, routes }))
    }

    fn see_tun(&mut self) -> Result<Option<Lost>, netlink::Error> {
        let Some(Tunnel { name, index, lease }) = &self.tun else { return Ok(None) };
        let link = match self.netlink.link(name) {
            Err(netlink::Error::NoInterface { .. }) => return Ok(Some(Lost::TunGone)),
            link => link?,
        };
        if link.index != *index {
            return Ok(Some(Lost::TunGone));
        }
        if !link.up {
            return Ok(Some(Lost::TunDown));
        }
        let leads = self.netlink.next_hop(*lease).is_ok_and(|hop| hop.interface == *index && !hop.local);
        Ok((!leads).then_some(Lost::NoRouteToClients))
    }

    fn leads_to_internet(&mut self, index: u32) -> bool {
        self.netlink.next_hop(THE_INTERNET).is_ok_and(|hop| hop.interface == index && !hop.local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: Needed = Needed { index: Some(2), to_internet: true };
    const WELL: Seen = Seen { index: 2, up: true, carrier: true, mtu_bytes: 1_500, routes: Routes::ToInternet };

    #[test]
    fn the_way_out_is_lost_with_its_interface_its_carrier_or_its_route() {
        assert_eq!(judge(NEEDED, Some(WELL)), None);
        assert_eq!(judge(NEEDED, None), Some(Lost::Gone));
        assert_eq!(judge(NEEDED, Some(Seen { up: false, carrier: false, ..WELL })), Some(Lost::Down));
        assert_eq!(judge(NEEDED, Some(Seen { carrier: false, ..WELL })), Some(Lost::NoCarrier));
        let elsewhere = Some(Seen { routes: Routes::Elsewhere, ..WELL });
        assert_eq!(judge(NEEDED, elsewhere), Some(Lost::NoWayToInternet));
    }

    #[test]
    fn who_had_no_way_to_the_internet_at_the_start_needs_any_route() {
        let needed = Needed { to_internet: false, ..NEEDED };
        let with = |routes| judge(needed, Some(Seen { routes, ..WELL }));
        assert_eq!([Routes::ToInternet, Routes::Elsewhere, Routes::None].map(with), [None, None, Some(Lost::NoRoute)]);
    }

    #[test]
    fn another_interface_of_the_name_serves_the_kernels_routing_and_no_packet_socket() {
        let remade = Some(Seen { index: 3, ..WELL });
        assert_eq!(judge(NEEDED, remade), Some(Lost::Replaced));
        assert_eq!(judge(Needed { index: None, ..NEEDED }, remade), None);
    }

    #[test]
    fn a_packet_is_as_large_as_lease_and_interface_both_take() {
        assert_eq!(
            [1_400, 1_500, 9_000, 65_536].map(|interface| bound(1_500, interface)),
            [1_400, 1_500, 1_500, 1_500]
        );
    }

    #[test]
    fn each_loss_is_told_with_the_interfaces_name() {
        let all = [Lost::Gone, Lost::Replaced, Lost::Down, Lost::NoCarrier, Lost::NoWayToInternet, Lost::NoRoute];
        let why = |lost: Lost| lost.why("eth7", "wst7");
        assert!(all.map(why).iter().all(|why| why.starts_with("egress: ") && why.contains("eth7")));
        let all = [Lost::TunGone, Lost::TunDown, Lost::NoRouteToClients];
        assert!(all.map(why).iter().all(|why| why.starts_with("egress: ") && why.contains("wst7")));
        assert_eq!(why(Lost::Down), "egress: eth7 is down");
    }
}
