//! Which routes lead into the tunnel and which past it: decided from what the gateway carries, the configuration, and the
//! routes that the laptop has. Pure.

use std::net::{IpAddr, Ipv4Addr};

use crate::config::client::Routes;
use crate::io::netlink::{MAIN_TABLE, PROTOCOL_WSTETHER, Prefix, Route};
use crate::wire::capsule::AddressRange;

/// Both halves of IPv4. Together they win over any default route, which stays where it is.
const HALVES: [Prefix; 2] =
    [Prefix::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 1), Prefix::new(IpAddr::V4(Ipv4Addr::new(128, 0, 0, 0)), 1)];

/// The prefixes that lead into the tunnel.
pub fn through(routes: &Routes, carried: &[AddressRange]) -> Vec<Prefix> {
    let everything = if routes.default { HALVES.as_slice() } else { &[] };
    let included = routes.include.iter().map(|prefix| Prefix::new(prefix.address, prefix.length));
    let wanted = everything.iter().copied().chain(included);
    wanted.filter(|prefix| is_carried(*prefix, carried)).collect()
}

/// Whether the gateway carries all that IPv4 reaches.
pub fn carries_everything(carried: &[AddressRange]) -> bool {
    HALVES.iter().all(|half| is_carried(*half, carried))
}

/// Those of `there` that lead into the tunnel and should not: an earlier session's.
pub fn outdated<'a>(through: &[Prefix], tunnel: u32, there: &'a [Route]) -> impl Iterator<Item = &'a Route> {
    let is_ours = move |route: &&Route| route.protocol == PROTOCOL_WSTETHER && route.interface == Some(tunnel);
    there.iter().filter(is_ours).filter(|route| !through.contains(&route.destination))
}

/// Whether the gateway carries all of a prefix, for every protocol.
fn is_carried(prefix: Prefix, carried: &[AddressRange]) -> bool {
    let IpAddr::V4(first) = prefix.address else { return false };
    let last = Ipv4Addr::from_bits(first.to_bits() | u32::MAX.checked_shr(prefix.bits.into()).unwrap_or(0));
    carried.iter().any(|range| match range {
        AddressRange::V4 { start, end, protocol: 0 } => *start <= first && last <= *end,
        AddressRange::V4 { .. } | AddressRange::V6 { .. } => false,
    })
}

/// What of the prefixes leads into another tunnel of wstether's, and that one's interface.
pub fn taken(through: &[Prefix], tunnel: u32, laptop: &[Route]) -> Option<(Prefix, u32)> {
    let is_taken = |route: &&Route| {
        route.protocol == PROTOCOL_WSTETHER && route.table == MAIN_TABLE && through.contains(&route.destination)
    };
    let interfaces = laptop.iter().filter(is_taken).filter_map(|route| Some((route.destination, route.interface?)));
    interfaces.into_iter().find(|(_, interface)| *interface != tunnel)
}

/// The route that `destination` takes past the tunnel: the laptop's own best one, narrowed to the destination.
/// `None` where there is none, where it leads to the laptop itself, or where the laptop has one just for it already.
pub fn past(destination: Prefix, tunnel: u32, laptop: &[Route]) -> Option<Route> {
    let is_candidate = |route: &&Route| {
        // Those of wstether's lead into a tunnel, this one or another, or to where the laptop was when they were made.
        route.protocol != PROTOCOL_WSTETHER
            && route.table == MAIN_TABLE
            && route.interface.is_some_and(|interface| interface != tunnel)
            && covers(route.destination, destination)
    };
    let best = laptop
        .iter()
        .filter(is_candidate)
        .max_by_key(|route| (route.destination.bits, std::cmp::Reverse(route.metric)))?;
    if best.destination == destination {
        return None;
    }
    let narrowed = Route::new(destination, best.interface?);
    Some(Route { via: best.via, onlink: best.onlink, ..narrowed })
}

/// Whether all of `inner` is inside `outer`.
fn covers(outer: Prefix, inner: Prefix) -> bool {
    let (IpAddr::V4(a), IpAddr::V4(b)) = (outer.address, inner.address) else { return false };
    let differing = a.to_bits() ^ b.to_bits();
    outer.bits <= inner.bits && differing.leading_zeros() >= outer.bits.into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;

    const ETH: u32 = 2;
    const WLAN: u32 = 3;
    const TUN: u32 = 9;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn route(destination: &str, interface: u32) -> Route {
        Route { protocol: 3, ..Route::new(prefix(destination), interface) }
    }

    fn default_via(via: &str, interface: u32, metric: u32) -> Route {
        Route { metric, ..route("0.0.0.0/0", interface).via(via.parse().unwrap()) }
    }

    fn routes(default: bool, include: &[&str]) -> Routes {
        let include = include.iter().map(|prefix| prefix.parse().unwrap()).collect();
        Routes { default, include, exclude: Vec::new() }
    }

    #[test]
    fn everything_goes_through_in_two_halves() {
        let halves = ["0.0.0.0/1", "128.0.0.0/1"].map(prefix);
        assert_eq!(through(&routes(true, &[]), &[AddressRange::ALL_V4]), halves);
    }

    #[test]
    fn without_a_default_only_what_is_included_goes_through() {
        assert_eq!(through(&routes(false, &[]), &[AddressRange::ALL_V4]), []);
        let included = through(&routes(false, &["198.51.100.0/24"]), &[AddressRange::ALL_V4]);
        assert_eq!(included, [prefix("198.51.100.0/24")]);
    }

    #[test]
    fn what_the_gateway_does_not_carry_stays_out() {
        let range = |start: [u8; 4], end: [u8; 4], protocol| AddressRange::V4 {
            start: start.into(),
            end: end.into(),
            protocol,
        };
        let wanted = routes(true, &["198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"]);
        let carried =
            [range([198, 51, 100, 0], [198, 51, 100, 255], 0), range([203, 0, 113, 0], [203, 0, 113, 255], 6)];
        assert_eq!(through(&wanted, &carried), [prefix("198.51.100.0/24")]);
    }

    #[test]
    fn a_prefix_that_leads_into_another_tunnel_is_taken_and_one_of_our_own_or_of_somebody_elses_is_not() {
        const OTHER_TUN: u32 = 10;
        let ours = Route::new(HALVES[0], TUN);
        let of_another_tunnel = Route::new(HALVES[1], OTHER_TUN);
        let of_another_program = route("128.0.0.0/1", ETH);
        assert_eq!(taken(&HALVES, TUN, &[ours.clone(), of_another_program]), None);
        let laptop = [ours, of_another_tunnel];
        assert_eq!(taken(&HALVES, TUN, &laptop), Some((HALVES[1], OTHER_TUN)));
        assert_eq!(taken(&[prefix("198.51.100.0/24")], TUN, &laptop), None);
    }

    #[test]
    fn what_an_earlier_session_led_through_the_tunnel_is_outdated_where_this_one_does_not() {
        let elsewhere = Route::new(prefix("198.51.100.7/32"), ETH);
        let there =
            [Route::new(HALVES[0], TUN), Route::new(prefix("10.0.0.0/8"), TUN), route("10.1.0.0/16", TUN), elsewhere];
        let outdated: Vec<_> = outdated(&[prefix("10.0.0.0/8")], TUN, &there).collect();
        assert_eq!(outdated, [&there[0]]);
    }

    #[test]
    fn a_gateway_that_lacks_an_address_or_a_protocol_does_not_carry_everything() {
        let range = |start: &str, end: &str, protocol| AddressRange::V4 {
            start: start.parse().unwrap(),
            end: end.parse().unwrap(),
            protocol,
        };
        assert!(carries_everything(&[AddressRange::ALL_V4]));
        assert!(!carries_everything(&[]));
        assert!(!carries_everything(&[range("0.0.0.1", "255.255.255.255", 0)]));
        assert!(!carries_everything(&[range("0.0.0.0", "255.255.255.255", 6)]));
    }

    #[test]
    fn the_gateway_itself_is_reached_by_the_laptops_own_best_route() {
        let laptop = [
            default_via("192.0.2.1", ETH, 100),
            default_via("192.0.3.1", WLAN, 600),
            route("192.0.2.0/24", ETH),
            Route::new(prefix("0.0.0.0/1"), TUN),
        ];
        let past = past(prefix("198.51.100.7/32"), TUN, &laptop).unwrap();
        assert_eq!((past.destination, past.interface), (prefix("198.51.100.7/32"), Some(ETH)));
        assert_eq!((past.via, past.protocol), (Some([192, 0, 2, 1].into()), PROTOCOL_WSTETHER));
    }

    #[test]
    fn a_neighbour_is_reached_on_its_link() {
        let laptop = [default_via("192.0.2.1", ETH, 0), route("192.0.3.0/24", WLAN)];
        let past = past(prefix("192.0.3.7/32"), TUN, &laptop).unwrap();
        assert_eq!((past.interface, past.via), (Some(WLAN), None));
    }

    #[test]
    fn a_route_that_the_laptop_has_is_neither_doubled_nor_replaced() {
        let laptop = [default_via("192.0.2.1", ETH, 0), route("198.51.100.7/32", WLAN)];
        assert_eq!(past(prefix("198.51.100.7/32"), TUN, &laptop), None);
    }

    #[test]
    fn an_older_route_of_ours_is_made_anew_from_what_the_laptop_has_now() {
        let older = Route::new(prefix("198.51.100.7/32"), ETH).via([192, 0, 2, 1].into());
        let past = past(older.destination, TUN, &[older.clone(), default_via("192.0.3.1", WLAN, 0)]).unwrap();
        assert_eq!((past.interface, past.via), (Some(WLAN), Some([192, 0, 3, 1].into())));
    }

    #[test]
    fn another_tunnel_is_no_way_past_this_one() {
        const OTHER_TUN: u32 = 10;
        let laptop = [Route::new(prefix("128.0.0.0/1"), OTHER_TUN), default_via("192.0.2.1", ETH, 0)];
        assert_eq!(past(prefix("198.51.100.7/32"), TUN, &laptop).unwrap().interface, Some(ETH));
    }

    #[test]
    fn without_any_route_there_is_none_past_the_tunnel() {
        let laptop = [Route::new(prefix("0.0.0.0/1"), TUN), route("192.0.3.0/24", WLAN)];
        assert_eq!(past(prefix("198.51.100.7/32"), TUN, &laptop), None);
    }

    #[test]
    fn the_wider_of_two_prefixes_covers_the_narrower_and_not_the_reverse() {
        assert!(covers(prefix("0.0.0.0/0"), prefix("198.51.100.7/32")));
        assert!(covers(prefix("198.51.100.0/24"), prefix("198.51.100.0/24")));
        assert!(!covers(prefix("198.51.100.0/24"), prefix("198.51.0.0/16")));
        assert!(!covers(prefix("198.51.100.0/24"), prefix("198.51.101.0/32")));
        assert!(!covers(prefix("::/0"), prefix("198.51.100.0/24")));
    }
}
