//! What becomes of a client while others change the laptop's network: its device and routes, the interfaces, a second client.

use wstether::wire::capsule::AddressRange;

use super::*;

#[test]
fn what_somebody_takes_from_the_device_is_put_back() {
    let world = World::new("disturbed");
    let before = world.routes();
    let (token, verifier) = credential();
    let _gateway = world.serve(verifier, Features::SUPER_PACKETS);
    let client = world.direct(&token.reveal().to_string(), &[]);
    client.says("connected: ");
    let set_up = world.routes();
    let address = Prefix::new(LEASE.into(), 32);
    let disturb = |netlink: &mut Netlink| {
        netlink.set_up("wst0", false)?;
        netlink.set_up("wst0", true)
    };
    for what in ["routes", "address"] {
        if what == "routes" {
            world.laptop.netlink(disturb).unwrap();
        } else {
            world.laptop.netlink(|netlink| netlink.delete_address("wst0", address)).unwrap();
        }
        client.says("somebody has changed wst0");
        assert_eq!(sorted(world.routes()), sorted(set_up.clone()));
        assert!(world.ping(ANYWHERE));
    }
    assert_eq!(client.stop(), Some(0));
    world.is_as_before(&before);
}

/// In an order that does not depend on when each was made.
fn sorted(mut routes: Vec<Route>) -> Vec<Route> {
    routes.sort_by_key(|route| (route.destination, route.interface));
    routes
}

#[test]
fn the_tunnels_own_connection_follows_the_laptop_into_another_network() {
    let world = World::new("moves");
    let (token, verifier) = credential();
    let _gateway = world.serve(verifier, Features::SUPER_PACKETS);
    let client = world.direct(&token.reveal().to_string(), &[]);
    client.says("connected: ");
    let other = Ipv4Addr::new(192, 0, 2, 9);
    world.laptop.route(Prefix::ALL_V4, other.into(), "eth0").unwrap();
    let until = Instant::now() + PATIENCE;
    let neighbour = || world.laptop.netlink(|netlink| netlink.next_hop(GATEWAY.into())).unwrap().neighbour;
    while neighbour() != IpAddr::from(other) {
        assert!(Instant::now() < until, "the route to the gateway stays as it was");
        std::thread::sleep(LOOK_EVERY);
    }
    assert_eq!(client.stop(), Some(0));
}

#[test]
fn a_device_that_somebody_deletes_ends_the_client_with_a_word_and_all_is_undone() {
    let world = World::new("deleted");
    let before = world.routes();
    let (token, verifier) = credential();
    let _gateway = world.serve(verifier, Features::SUPER_PACKETS);
    let client = world.direct(&token.reveal().to_string(), &[]);
    client.says("connected: ");
    world.laptop.netlink(|netlink| netlink.delete_link("wst0")).unwrap();
    client.says("wstether: the TUN device wst0 is gone");
    assert_eq!(client.ends(), Some(1));
    world.is_as_before(&before);
}

#[test]
fn the_pages_address_is_shown_when_the_laptop_comes_into_a_network_and_again_in_another_one() {
    let world = World::new("no-network");
    let prefix = |address: Ipv4Addr| Prefix::new(address.into(), 24);
    world.laptop.netlink(|netlink| netlink.delete_address("eth0", prefix(LAPTOP))).unwrap();
    let client = world.through_a_phone(&credential().0.reveal().to_string());
    client.says("No network that a phone could share");
    for address in [LAPTOP, Ipv4Addr::new(192, 0, 3, 2)] {
        world.laptop.netlink(|netlink| netlink.replace_addresses("eth0", &[prefix(address)])).unwrap();
        client.says(&format!("Open this page on the phone: http://{address}:{PAGE_PORT}/"));
    }
    assert_eq!(client.stop(), Some(0));
}

#[test]
fn an_interface_for_the_phone_that_is_not_there_is_named_until_it_comes() {
    let world = World::new("no-interface");
    let client = world.through_a_phone_by(&credential().0.reveal().to_string(), "eth7");
    client.says("There is no interface eth7 (phone.interface)");
    veth(&world.laptop, "eth7", &world.gateway, "eth7").unwrap();
    client.says("eth7 (phone.interface) has no IPv4 address");
    world.laptop.address("eth7", Prefix::new(Ipv4Addr::new(192, 0, 3, 2).into(), 24)).unwrap();
    client.says("Open this page on the phone: http://192.0.3.2:");
    assert_eq!(client.stop(), Some(0));
}

#[test]
fn a_second_client_takes_neither_routes_nor_dns_of_the_first() {
    let world = World::new("second");
    let before = world.routes();
    let (token, verifier) = credential();
    let token = token.reveal().to_string();
    let _gateway = world.serve(verifier, Features::SUPER_PACKETS);
    let first = world.direct(&token, &[]);
    first.says("connected: ");
    let (routes, dns) = (world.routes(), world.dns());
    let directory = format!("runtime.directory={}", world.files.join("second").display());
    let other = ["--set", &directory, "--set", "tun.name=wst1"];
    let narrow = ["--set", "routes.default=false", "--set", "routes.include=[\"203.0.113.0/24\"]"];

    let second = world.direct(&token, &[]);
    second.says("give this one another runtime.directory, tun.name and --listen");
    assert_eq!(second.ends(), Some(1));
    let second = world.direct(&token, &other);
    let line = second.says("goes through another tunnel already, wst0");
    assert!(line.contains("routes.default = false"), "{line}");
    assert_eq!(second.ends(), Some(1));
    let second = world.direct(&token, &[&other[..], &narrow, &["--set", "dns.manage=resolv.conf"]].concat());
    let line = second.says("another client that runs");
    assert!(line.contains("run/client.lock") && line.contains("dns.manage = \"off\""), "{line}");
    assert_eq!(second.ends(), Some(1));
    assert_eq!((world.routes(), world.dns()), (routes.clone(), dns.clone()));

    let second = world.direct(&token, &[&other[..], &narrow].concat());
    second.says("connected: ");
    assert_eq!(world.way_to(ANYWHERE), "wst1");
    assert_eq!(second.stop(), Some(0));
    assert_eq!((world.routes(), world.dns()), (routes, dns));
    assert_eq!(first.stop(), Some(0));
    world.is_as_before(&before);
}

#[test]
fn a_session_that_carries_less_than_the_one_before_leaves_nothing_of_that_ones_routes_and_dns() {
    let world = World::new("narrower");
    let before = world.routes();
    let (token, verifier) = credential();
    let gateway = world.serve(verifier, Features::SUPER_PACKETS);
    let client = world.direct(&token.reveal().to_string(), &["--set", "routes.include=[\"203.0.113.0/24\"]"]);
    client.says("connected: ");
    let other = Ipv4Addr::new(192, 88, 99, 1);
    assert_eq!((world.way_to(ANYWHERE), world.way_to(other)), ("wst0".to_owned(), "wst0".to_owned()));
    let [start, end] = [Ipv4Addr::new(203, 0, 113, 0), Ipv4Addr::new(203, 0, 113, 255)];
    gateway.set_carries(&[AddressRange::V4 { start, end, protocol: 0 }]);
    gateway.break_links();
    client.says("does not carry all of IPv4");
    client.says("connected: ");
    assert_eq!((world.way_to(ANYWHERE), world.way_to(other)), ("wst0".to_owned(), "eth0".to_owned()));
    gateway.set_carries(&[]);
    gateway.break_links();
    client.says("connected: ");
    assert_eq!((world.way_to(ANYWHERE), world.dns().as_str()), ("eth0".to_owned(), ORIGINAL_DNS));
    assert_eq!(client.stop(), Some(0));
    world.is_as_before(&before);
}

#[test]
fn a_phone_whose_page_sleeps_is_told_and_that_it_has_woken_up() {
    let world = World::new("sleeps");
    let (_gateway, client) = world.begin_behind_a_phone();
    let relay = world.relay();
    client.says("connected: ");
    relay.signal("STOP");
    assert!(!world.ping(ANYWHERE));
    client.says("nothing that was sent through the phone has arrived for 10 s; is its screen on");
    relay.signal("CONT");
    client.says("what is sent arrives again");
    assert!(world.ping(ANYWHERE));
    assert_eq!(client.stop(), Some(0));
}
