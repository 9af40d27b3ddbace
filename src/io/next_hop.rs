//! The next hop of each destination: asked of the kernel once, remembered, and forgotten when routes change.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::netlink::{Change, Error, Link, Monitor, Neighbour, Netlink, NextHop};
use super::packet_socket::{ETHERNET_HEADER_BYTES, sender::ethernet_header};

/// Destinations and neighbours remembered, each; beyond that all are forgotten and asked again. 64 Ki routes are about
/// 4 MiB.
const REMEMBERED_MAX: usize = 65_536;

/// What the kernel says where it has looked for a route and there is none, or one that leads nowhere (`fib_props` in
/// net/ipv4/fib_semantics.c): unreachable, prohibit, blackhole. Any other error says nothing about the destination.
const NO_ROUTE: [i32; 4] = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL];

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
    watch: Mutex<Watch>,
    netlink: Mutex<Netlink>,
    known: RwLock<Known>,
}

#[derive(Debug)]
struct Watch {
    monitor: Monitor,
    /// What is known of neighbours may be out of date, since the monitor missed something: they are to be listed anew.
    has_missed: bool,
}

#[derive(Debug, Default)]
struct Known {
    mac: [u8; 6],
    /// Links without ARP need no neighbour.
    arp: bool,
    /// How often routes were forgotten because something had changed. What the kernel was asked for before is not kept.
    generation: u64,
    routes: HashMap<Ipv4Addr, Option<IpAddr>>,
    neighbours: HashMap<IpAddr, Reachable>,
}

#[derive(Clone, Copy, Debug)]
struct Reachable {
    mac: [u8; 6],
    /// The kernel wants to be told that the entry is in use, to confirm it.
    stale: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Hop(Hop),
    Stale(Hop, IpAddr),
}

/// No route of the destination is remembered; the kernel is asked in this generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unknown(u64);

impl NextHops {
    pub(crate) fn open(link: &Link) -> Result<Self, Error> {
        // The monitor comes first: a change while the neighbours are listed is seen afterwards.
        let (monitor, mut netlink) = (Monitor::open()?, Netlink::open()?);
        let mut known = Known::default();
        known.take_link(link);
        known.replace_neighbours(netlink.neighbours(link.index)?);
        Ok(Self {
            interface: link.index,
            mtu: AtomicUsize::new(link.mtu as usize),
            watch: Mutex::new(Watch { monitor, has_missed: false }),
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
        let Ok(mut watch) = self.watch.try_lock() else { return };
        let Watch { monitor, has_missed } = &mut *watch;
        let mut routing = false;
        monitor.drain(|change| match change {
            Change::Neighbour(neighbour) if neighbour.interface == self.interface => {
                self.known_mut().take_neighbour(neighbour);
            }
            Change::Neighbour(_) => {}
            Change::Routing => routing = true,
            Change::Lost => *has_missed = true,
        });
        if routing {
            let link = self.netlink().link_by_index(self.interface);
            let mut known = self.known_mut();
            known.forget_routes();
            if let Ok(link) = &link {
                known.take_link(link);
                self.mtu.store(link.mtu as usize, Ordering::Relaxed);
            }
        }
        if *has_missed {
            let listed = self.netlink().neighbours(self.interface);
            // Where the kernel does not tell, it is asked again the next time.
            *has_missed = listed.is_err();
            listed.into_iter().for_each(|neighbours| self.known_mut().replace_neighbours(neighbours));
        }
    }

    /// The next hops of `destinations` that are known and need no confirming, under one lock for all of them.
    pub(crate) fn find_known(&self, destinations: impl Iterator<Item = Option<Ipv4Addr>>, hops: &mut [Option<Hop>]) {
        let (known, mut last) = (self.known(), None);
        for (hop, destination) in hops.iter_mut().zip(destinations) {
            let Some(destination) = destination else { continue };
            *hop = match last {
                Some((before, hop)) if before == destination => hop,
                _ => match known.look_up(destination) {
                    Ok(Found::Hop(hop)) => Some(hop),
                    Ok(Found::Stale(..)) | Err(_) => None,
                },
            };
            last = Some((destination, *hop));
        }
    }

    /// The next hop of `destination`. Only an unknown destination costs a system call.
    pub(crate) fn find(&self, destination: Ipv4Addr) -> Hop {
        let found = self.known().look_up(destination);
        match found.unwrap_or_else(|unknown| self.ask(destination, unknown)) {
            Found::Hop(hop) => hop,
            Found::Stale(hop, neighbour) => {
                self.resolve(neighbour);
                hop
            }
        }
    }

    fn ask(&self, destination: Ipv4Addr, unknown: Unknown) -> Found {
        let answer = self.netlink().next_hop(destination.into());
        match neighbour_of(answer, self.interface) {
            Ok(neighbour) => {
                let mut known = self.known_mut();
                known.learn(unknown, destination, neighbour);
                known.hop_by(neighbour)
            }
            Err(error) => {
                tracing::debug!(%error, "the way to a destination is not known");
                Found::Hop(Hop::None)
            }
        }
    }

    /// Lets the kernel find out, or confirm, a neighbour's hardware address. What comes of it, the monitor tells.
    pub(crate) fn resolve(&self, neighbour: IpAddr) {
        if let Some(entry) = self.known_mut().neighbours.get_mut(&neighbour) {
            entry.stale = false;
        }
        if let Err(error) = self.netlink().use_neighbour(self.interface, neighbour) {
            tracing::debug!(%error, "a neighbour could not be resolved");
        }
    }

    fn netlink(&self) -> MutexGuard<'_, Netlink> {
        self.netlink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The neighbour that leads on by `interface`; `None` where none does.
///
/// # Errors
/// The kernel said nothing about the destination.
fn neighbour_of(answer: Result<NextHop, Error>, interface: u32) -> Result<Option<IpAddr>, Error> {
    match answer {
        Ok(hop) => Ok((hop.interface == interface && !hop.local).then_some(hop.neighbour)),
        Err(error) if error.errno().is_some_and(|errno| NO_ROUTE.contains(&errno)) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Known {
    fn look_up(&self, destination: Ipv4Addr) -> Result<Found, Unknown> {
        self.routes.get(&destination).map(|&neighbour| self.hop_by(neighbour)).ok_or(Unknown(self.generation))
    }

    /// Remembers what the kernel answered about a destination, unless routes have changed since it was unknown: the answer
    /// may be of before, and would stay until they change again.
    fn learn(&mut self, Unknown(generation): Unknown, destination: Ipv4Addr, neighbour: Option<IpAddr>) {
        if generation == self.generation {
            forget_when_full(&mut self.routes);
            self.routes.insert(destination, neighbour);
        }
    }

    fn forget_routes(&mut self) {
        self.generation += 1;
        self.routes.clear();
    }

    fn hop_by(&self, neighbour: Option<IpAddr>) -> Found {
        let Some(neighbour) = neighbour else { return Found::Hop(Hop::None) };
        if !self.arp {
            return Found::Hop(Hop::Direct { header: ethernet_header([0; 6], self.mac) });
        }
        match self.neighbours.get(&neighbour) {
            None => Found::Hop(Hop::Unresolved { neighbour }),
            Some(&Reachable { mac, stale }) => {
                let hop = Hop::Direct { header: ethernet_header(mac, self.mac) };
                if stale { Found::Stale(hop, neighbour) } else { Found::Hop(hop) }
            }
        }
    }

    fn take_link(&mut self, link: &Link) {
        self.mac = link.mac.unwrap_or_default();
        self.arp = link.ethernet && link.arp;
    }

    fn replace_neighbours(&mut self, neighbours: Vec<Neighbour>) {
        self.neighbours.clear();
        neighbours.into_iter().for_each(|neighbour| self.take_neighbour(neighbour));
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

#[cfg(test)]
mod tests {
    use super::*;

    const DESTINATION: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
    const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
    const INTERFACE: u32 = 2;

    #[test]
    fn what_was_asked_before_routes_changed_is_not_remembered_after() {
        let mut known = Known { arp: true, ..Known::default() };
        let unknown = known.look_up(DESTINATION).expect_err("nobody has asked");
        known.forget_routes();
        known.learn(unknown, DESTINATION, Some(ROUTER));
        let unknown = known.look_up(DESTINATION).expect_err("it was the route of before");
        known.learn(unknown, DESTINATION, Some(ROUTER));
        assert_eq!(known.look_up(DESTINATION), Ok(Found::Hop(Hop::Unresolved { neighbour: ROUTER })));
        known.forget_routes();
        assert!(known.look_up(DESTINATION).is_err());
    }

    #[test]
    fn that_there_is_no_route_is_an_answer_and_any_other_error_is_none() {
        let refused = |errno| {
            let source = std::io::Error::from_raw_os_error(errno);
            neighbour_of(Err(Error::Refused { action: "asking".to_owned(), source }), INTERFACE)
        };
        assert!(NO_ROUTE.into_iter().all(|errno| matches!(refused(errno), Ok(None))));
        assert!([libc::ENOBUFS, libc::ENOMEM, libc::EINTR].into_iter().all(|errno| refused(errno).is_err()));
        let malformed = Error::Malformed { action: "asking".to_owned(), reason: "short".to_owned() };
        assert!(neighbour_of(Err(malformed), INTERFACE).is_err());
    }

    #[test]
    fn a_route_by_another_interface_or_to_the_host_itself_leads_nowhere() {
        let hop = NextHop { interface: INTERFACE, neighbour: ROUTER, source: None, local: false };
        let by = |hop| neighbour_of(Ok(hop), INTERFACE).expect("an answer");
        assert_eq!(by(hop), Some(ROUTER));
        assert_eq!([by(NextHop { interface: 3, ..hop }), by(NextHop { local: true, ..hop })], [None; 2]);
    }
}
