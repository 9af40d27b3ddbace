//! The next hop of each destination: asked of the kernel once, remembered, and forgotten when routes change.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use super::netlink::{Change, Error, Link, Monitor, Neighbour, Netlink};
use super::packet_socket::{ETHERNET_HEADER_BYTES, sender::ethernet_header};

/// Destinations and neighbours remembered, each; beyond that all are forgotten and asked again. 64 Ki routes are about
/// 4 MiB.
const REMEMBERED_MAX: usize = 65_536;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// Out of our interface, behind this link header (which is not sent where the link has none).
    Direct { header: [u8; ETHERNET_HEADER_BYTES] },
    /// Out of our interface, to a neighbour whose hardware address is not known yet.
    Unresolved { neighbour: IpAddr },
    /// Nowhere, out of another interface, or to the host itself.
    None,
}

/// The next hops out of one interface.
#[derive(Debug)]
pub(crate) struct NextHops {
    interface: u32,
    mtu: AtomicUsize,
    monitor: Mutex<Monitor>,
    netlink: Mutex<Netlink>,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    mac: [u8; 6],
    /// Links without ARP need no neighbour.
    arp: bool,
    routes: HashMap<Ipv4Addr, Option<IpAddr>>,
    neighbours: HashMap<IpAddr, Reachable>,
}

#[derive(Clone, Copy, Debug)]
struct Reachable {
    mac: [u8; 6],
    /// The kernel wants to be told that the entry is in use, to confirm it.
    stale: bool,
}

enum Found {
    Hop(Hop),
    Stale(Hop, IpAddr),
    Unknown,
}

impl NextHops {
    pub(crate) fn open(link: &Link) -> Result<Self, Error> {
        // The monitor comes first: a change while the neighbours are listed is seen afterwards.
        let (monitor, mut netlink) = (Monitor::open()?, Netlink::open()?);
        let mut known = Known::default();
        known.take_link(link);
        netlink.neighbours(link.index)?.into_iter().for_each(|neighbour| known.take_neighbour(neighbour));
        Ok(Self {
            interface: link.index,
            mtu: AtomicUsize::new(link.mtu as usize),
            monitor: Mutex::new(monitor),
            netlink: Mutex::new(netlink),
            known: RwLock::new(known),
        })
    }

    /// The interface's MTU in bytes.
    pub(crate) fn mtu(&self) -> usize {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Takes in what has changed since the last call. Where another thread is at it already, that is enough.
    pub(crate) fn refresh(&self) {
        let Ok(monitor) = self.monitor.try_lock() else { return };
        let mut routing = false;
        monitor.drain(|change| match change {
            Change::Neighbour(neighbour) if neighbour.interface == self.interface => {
                self.known_mut(|known| known.take_neighbour(neighbour));
            }
            Change::Neighbour(_) => {}
            Change::Routing => routing = true,
        });
        if routing {
            let link = self.netlink().link_by_index(self.interface);
            self.known_mut(|known| {
                known.routes.clear();
                if let Ok(link) = &link {
                    known.take_link(link);
                    self.mtu.store(link.mtu as usize, Ordering::Relaxed);
                }
            });
        }
    }

    /// The next hop of `destination`. Only an unknown destination costs a system call.
    pub(crate) fn find(&self, destination: Ipv4Addr) -> Hop {
        match self.look_up(destination) {
            Found::Hop(hop) => hop,
            Found::Stale(hop, neighbour) => {
                self.resolve(neighbour);
                hop
            }
            Found::Unknown => {
                let route = self.netlink().next_hop(destination.into());
                let ours = route.ok().filter(|hop| hop.interface == self.interface && !hop.local);
                self.known_mut(|known| {
                    forget_when_full(&mut known.routes);
                    known.routes.insert(destination, ours.map(|hop| hop.neighbour));
                });
                match self.look_up(destination) {
                    Found::Hop(hop) | Found::Stale(hop, _) => hop,
                    Found::Unknown => Hop::None,
                }
            }
        }
    }

    /// Lets the kernel find out, or confirm, a neighbour's hardware address. What comes of it, the monitor tells.
    pub(crate) fn resolve(&self, neighbour: IpAddr) {
        self.known_mut(|known| {
            if let Some(entry) = known.neighbours.get_mut(&neighbour) {
                entry.stale = false;
            }
        });
        if let Err(error) = self.netlink().use_neighbour(self.interface, neighbour) {
            tracing::debug!(%error, "a neighbour could not be resolved");
        }
    }

    fn look_up(&self, destination: Ipv4Addr) -> Found {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        match known.routes.get(&destination) {
            None => Found::Unknown,
            Some(None) => Found::Hop(Hop::None),
            Some(Some(_)) if !known.arp => Found::Hop(Hop::Direct { header: ethernet_header([0; 6], known.mac) }),
            Some(Some(neighbour)) => match known.neighbours.get(neighbour) {
                None => Found::Hop(Hop::Unresolved { neighbour: *neighbour }),
                Some(&Reachable { mac, stale }) => {
                    let hop = Hop::Direct { header: ethernet_header(mac, known.mac) };
                    if stale { Found::Stale(hop, *neighbour) } else { Found::Hop(hop) }
                }
            },
        }
    }

    fn netlink(&self) -> MutexGuard<'_, Netlink> {
        self.netlink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Known {
    fn take_link(&mut self, link: &Link) {
        self.mac = link.mac.unwrap_or_default();
        self.arp = link.ethernet && link.arp;
    }

    fn take_neighbour(&mut self, neighbour: Neighbour) {
        forget_when_full(&mut self.neighbours);
        match neighbour.mac {
            Some(mac) => self.neighbours.insert(neighbour.address, Reachable { mac, stale: neighbour.stale }),
            None => self.neighbours.remove(&neighbour.address),
        };
    }
}

fn forget_when_full<K, V>(map: &mut HashMap<K, V>) {
    if map.len() >= REMEMBERED_MAX {
        map.clear();
    }
}
