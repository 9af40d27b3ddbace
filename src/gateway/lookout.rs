//! Looks at the way out: whether the interface to the internet is there and up, and whether a route leaves by it. While it
//! is lost `/readyz` says why; it becomes ready by itself once the way is back.

use std::net::{IpAddr, Ipv4Addr};

use tracing::{debug, info, warn};

use super::egress::Surroundings;
use crate::io::netlink::{self, Netlink};
use crate::metrics::Readiness;

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
}

impl Lost {
    /// In words for an operator.
    fn why(self, interface: &str) -> String {
        match self {
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

/// Who looks at the way out.
#[derive(Debug)]
pub(super) struct Lookout {
    netlink: Netlink,
    interface: String,
    needed: Needed,
    lost: Option<Lost>,
}

impl Lookout {
    /// Remembers how the way out is now. `by_socket` tells whether packet sockets are bound to its interface.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn new(around: &Surroundings, by_socket: bool) -> Result<Self, netlink::Error> {
        let needed = Needed { index: by_socket.then_some(around.index), to_internet: true };
        let mut lookout = Self { netlink: Netlink::open()?, interface: around.interface.clone(), needed, lost: None };
        lookout.needed.to_internet = lookout.leads_to_internet(around.index);
        Ok(lookout)
    }

    /// Looks, tells by `ready`, and logs what has changed. Costs two questions to the kernel.
    pub(super) fn look(&mut self, ready: &Readiness) {
        let lost = match self.see() {
            Ok(seen) => judge(self.needed, seen),
            Err(error) => {
                debug!(%error, "the way out cannot be looked at");
                return;
            }
        };
        match lost.map(|lost| lost.why(&self.interface)) {
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
        Ok(Some(Seen { index: link.index, up: link.up, carrier: link.carrier, routes }))
    }

    fn leads_to_internet(&mut self, index: u32) -> bool {
        self.netlink.next_hop(THE_INTERNET).is_ok_and(|hop| hop.interface == index && !hop.local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: Needed = Needed { index: Some(2), to_internet: true };
    const WELL: Seen = Seen { index: 2, up: true, carrier: true, routes: Routes::ToInternet };

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
    fn each_loss_is_told_with_the_interfaces_name() {
        let all = [Lost::Gone, Lost::Replaced, Lost::Down, Lost::NoCarrier, Lost::NoWayToInternet, Lost::NoRoute];
        assert!(all.iter().all(|lost| lost.why("eth7").starts_with("egress: ") && lost.why("eth7").contains("eth7")));
        assert_eq!(Lost::Down.why("eth0"), "egress: eth0 is down");
    }
}
