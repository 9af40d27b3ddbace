//! Links, addresses, routes and neighbours.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use wstether::io::netlink::{Change, Error, Monitor, Netlink, PROTOCOL_WSTETHER, Prefix, Route};
use wstether::lab::Namespace;

use super::support::{LEFT, RIGHT, in_24, overflow_monitors, pair};

#[test]
fn a_namespace_has_a_loopback_and_nothing_else_and_sees_itself_in_sys() {
    let namespace = Namespace::new("alone").unwrap();
    let links = namespace.netlink(Netlink::links).unwrap();
    assert!(links.iter().any(|link| link.name == "lo" && link.up));
    let seen = namespace.run(|| std::fs::read_dir("/sys/class/net").unwrap().count()).unwrap();
    assert_eq!(seen, links.len());
}

#[test]
fn a_cable_carries_packets_between_two_namespaces() {
    let (left, right) = pair();
    let receiver = right.run(|| UdpSocket::bind((RIGHT, 7)).unwrap()).unwrap();
    left.run(|| UdpSocket::bind((LEFT, 0)).unwrap().send_to(b"hello", (RIGHT, 7)).unwrap()).unwrap();
    let mut buf = [0; 16];
    receiver.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    assert_eq!(receiver.recv_from(&mut buf).unwrap().1.ip(), IpAddr::V4(LEFT));
}

#[test]
fn a_route_is_added_listed_asked_for_and_removed() {
    let (left, _right) = pair();
    let far = Prefix::new(Ipv4Addr::new(203, 0, 113, 0).into(), 24);
    left.netlink(|netlink| {
        let index = netlink.link("eth0")?.index;
        let route = Route::new(far, index).via(RIGHT.into());
        netlink.replace_route(&route)?;
        netlink.replace_route(&route)?;
        let ours: Vec<Route> =
            netlink.routes(true)?.into_iter().filter(|route| route.protocol == PROTOCOL_WSTETHER).collect();
        assert_eq!(ours, std::slice::from_ref(&route));
        let hop = netlink.next_hop(Ipv4Addr::new(203, 0, 113, 9).into())?;
        assert_eq!(
            (hop.interface, hop.neighbour, hop.source, hop.local),
            (index, RIGHT.into(), Some(LEFT.into()), false)
        );
        assert!(netlink.next_hop(LEFT.into())?.local);
        netlink.delete_route(&route)?;
        let error = netlink.next_hop(Ipv4Addr::new(203, 0, 113, 9).into()).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENETUNREACH));
        assert_eq!(netlink.delete_route(&route).unwrap_err().errno(), Some(libc::ESRCH));
        Ok(())
    })
    .unwrap();
}

#[test]
fn of_two_default_routes_the_one_with_the_smaller_metric_is_preferred() {
    let (left, _right) = pair();
    left.netlink(|netlink| {
        assert_eq!(netlink.default_route(true)?, None);
        let index = netlink.link("eth0")?.index;
        for metric in [200, 100, 300] {
            netlink.replace_route(&Route { metric, ..Route::new(Prefix::ALL_V4, index).via(RIGHT.into()) })?;
        }
        assert_eq!(netlink.default_route(true)?.unwrap().metric, 100);
        Ok(())
    })
    .unwrap();
}

#[test]
fn addresses_are_replaced_as_a_set() {
    let (left, _right) = pair();
    let other = in_24(Ipv4Addr::new(192, 0, 2, 1));
    left.netlink(|netlink| {
        netlink.replace_addresses("eth0", &[other])?;
        let v4: Vec<Prefix> =
            netlink.addresses("eth0")?.into_iter().filter(|prefix| prefix.address.is_ipv4()).collect();
        assert_eq!(v4, [other]);
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_error_names_what_was_tried() {
    let namespace = Namespace::new("alone").unwrap();
    let error = namespace.run(|| Netlink::open().unwrap().add_address("wst0", in_24(LEFT)).unwrap_err()).unwrap();
    assert!(matches!(error, Error::NoInterface { .. }), "{error}");
    assert_eq!(error.to_string(), "looking up interface wst0: there is no interface wst0");
}

#[test]
fn a_resolved_neighbour_and_a_changed_route_are_announced() {
    let (left, _right) = pair();
    left.run(|| {
        let (mut monitor, mut netlink) = (Monitor::open().unwrap(), Netlink::open().unwrap());
        let index = netlink.link("eth0").unwrap().index;
        netlink.use_neighbour(index, RIGHT.into()).unwrap();
        let mut changes = Vec::new();
        while !changes.iter().any(|change| matches!(change, Change::Neighbour(found) if found.mac.is_some())) {
            monitor.drain(|change| changes.push(change));
            std::thread::yield_now();
        }
        let known = netlink.neighbours(index).unwrap();
        assert!(known.iter().any(|found| found.address == IpAddr::V4(RIGHT) && found.mac.is_some()));
        netlink.set_mtu("eth0", 1_400).unwrap();
        changes.clear();
        while !changes.contains(&Change::Routing) {
            monitor.drain(|change| changes.push(change));
            std::thread::yield_now();
        }
    })
    .unwrap();
}

#[test]
fn notifications_that_were_lost_are_told_as_lost_and_as_a_change_of_routing() {
    let (left, _right) = pair();
    left.run(|| {
        let mut monitor = Monitor::open().unwrap();
        overflow_monitors();
        let mut changes = Vec::new();
        monitor.drain(|change| changes.push(change));
        assert!(changes.windows(2).any(|pair| pair == [Change::Lost, Change::Routing]), "{changes:?}");
    })
    .unwrap();
}

#[test]
fn a_command_runs_inside_with_a_resolv_conf_of_its_own() {
    let namespace = Namespace::new("inside").unwrap();
    let path = std::env::temp_dir().join(format!("wstether-resolv-{}", std::process::id()));
    std::fs::write(&path, "nameserver 192.0.2.53\n").unwrap();
    let isolation = wstether::lab::Isolation { resolv_conf: Some(&path), dies_with_parent: true };
    let mut command = namespace.command("cat", isolation).unwrap();
    let output = command.args(["/etc/resolv.conf", "/proc/net/dev"]).output().unwrap();
    std::fs::remove_file(&path).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("nameserver 192.0.2.53") && !text.contains("eth0"), "{text}");
    assert!(!std::fs::read_to_string("/etc/resolv.conf").unwrap().contains("192.0.2.53"));
}
