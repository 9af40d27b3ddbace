//! What the gateway says and does while its way out is not as it was at the start.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use socket2::{Domain, Protocol, Socket, Type};
use wstether::cli::{EgressMode, RelayKind};
use wstether::io::netlink::Prefix;
use wstether::lab::world::{GATEWAY_EXTERNAL, INTERNET, INTERNET_INTERFACE};
use wstether::lab::{Capture, Namespace, Program};

use crate::world::{Journey, PATIENCE, Trip};

/// Waits until the gateway says that it is not ready for this reason, or that it is ready.
fn until(journey: &Journey, gateway: &mut Program, why_not: Option<&str>) {
    let says = || journey.status().why_not_ready.as_deref() == why_not;
    journey.setting().until(&format!("does not say {why_not:?}"), gateway, says).unwrap();
}

fn lines(gateway: &Program, text: &str) -> usize {
    gateway.log().lines().filter(|line| line.contains(text)).count()
}

#[test]
fn a_gateway_whose_way_out_is_lost_says_why_and_is_ready_again_by_itself() {
    for egress in [EgressMode::Raw, EgressMode::Tun] {
        let journey = Journey::prepare(None, false);
        let mut gateway = journey.setting().gateway(egress, &[]).unwrap();
        assert_eq!(lines(&gateway, "tethers_max=64"), 1, "as configured, whatever the pool has room for");
        let (host, internet) = (&journey.world.gateway, &journey.world.internet);
        internet.netlink(|netlink| netlink.set_up(INTERNET_INTERFACE, false)).unwrap();
        until(&journey, &mut gateway, Some("egress: eth0 has no carrier"));
        internet.netlink(|netlink| netlink.set_up(INTERNET_INTERFACE, true)).unwrap();
        until(&journey, &mut gateway, None);
        host.netlink(|netlink| netlink.set_up(INTERNET_INTERFACE, false)).unwrap();
        until(&journey, &mut gateway, Some("egress: eth0 is down"));
        host.netlink(|netlink| netlink.set_up(INTERNET_INTERFACE, true)).unwrap();
        until(&journey, &mut gateway, Some("egress: no route to the internet leaves by eth0"));
        host.route(Prefix::ALL_V4, INTERNET.into(), INTERNET_INTERFACE).unwrap();
        until(&journey, &mut gateway, None);
        let told = ["has no carrier", "eth0 is down", "no route to the internet", "ready: the way out is back"];
        let counts = told.map(|text| lines(&gateway, text));
        // A cable may take a moment to be in after its end is up.
        assert!(matches!(counts, [1 | 2, 1, 1, 2]), "{told:?}: {counts:?}\n{}", gateway.log());
        let log = gateway.log_path().to_owned();
        assert!(gateway.end().unwrap().success());
        let log = std::fs::read_to_string(log).unwrap();
        let last = "stopped: nothing is queued any more, and what was set up is undone";
        assert!(log.trim_end().ends_with(last), "{log}");
    }
}

#[test]
fn a_gateway_whose_tun_device_is_taken_away_is_not_ready_says_why_and_stops_cleanly() {
    for (take, why) in [
        ("down", "egress: the TUN device wst0 is down; restart the gateway"),
        ("routes", "egress: no route to the clients leads into the TUN device wst0; restart the gateway"),
        ("all", "egress: the TUN device wst0 was deleted or made anew; restart the gateway"),
    ] {
        let journey = Journey::prepare(None, false);
        let mut gateway = journey.setting().gateway(EgressMode::Tun, &[]).unwrap();
        until(&journey, &mut gateway, None);
        let host = &journey.world.gateway;
        match take {
            "down" => host.netlink(|netlink| netlink.set_up("wst0", false)).unwrap(),
            "routes" => host.netlink(|netlink| netlink.replace_addresses("wst0", &[])).unwrap(),
            _ => host.netlink(|netlink| netlink.delete_link("wst0")).unwrap(),
        }
        until(&journey, &mut gateway, Some(why));
        assert!(gateway.end().unwrap().success(), "{take}");
        assert!(host.netlink(|netlink| netlink.link("wst0")).is_err(), "{take}: it stays");
    }
}

#[test]
fn an_interface_that_takes_less_than_at_the_start_is_told_to_the_laptop_until_it_takes_as_much_again() {
    let mut journey = Journey::start(Trip { relay: RelayKind::Direct, ..Trip::default() });
    let set_mtu = |journey: &Journey, bytes| {
        journey.world.gateway.netlink(|netlink| netlink.set_mtu(INTERNET_INTERFACE, bytes)).unwrap();
    };
    let said = |journey: &Journey, text| {
        let (late, gateway) = (Instant::now() + PATIENCE, journey.gateway.as_ref().expect("it runs"));
        while lines(gateway, text) == 0 {
            assert!(Instant::now() < late, "the gateway does not say {text:?}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert_eq!(lines(gateway, text), 1);
    };
    // 1,472 bytes behind 28 of headers.
    let address = INTERNET.to_string();
    let ping = ["-c", "1", "-W", "5", "-M", "do", "-s", "1472", &address];
    journey.says("ping", &ping);
    set_mtu(&journey, 1_400);
    said(&journey, "the interface takes less than lease.mtu");
    let output = journey.on_laptop("ping", &ping);
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success() && told.contains("mtu = 1400"), "{told}");
    set_mtu(&journey, 1_500);
    said(&journey, "the interface takes packets of lease.mtu again");
    journey.end();
}

/// Sends a packet whose payload is no packet of `protocol`: connection tracking takes it for invalid.
fn send_invalid(from: &Namespace, to: Ipv4Addr, protocol: i32) {
    let send = || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(protocol))).unwrap();
        socket.send_to(&[0; 12], &SocketAddr::from((to, 0)).into()).unwrap();
    };
    from.run(send).unwrap();
}

#[test]
fn what_connection_tracking_cannot_place_passes_a_masquerading_gateway_in_neither_direction() {
    const INVALID: [i32; 3] = [libc::IPPROTO_UDP, libc::IPPROTO_TCP, libc::IPPROTO_SCTP];
    let trip = Trip { egress: EgressMode::Tun, relay: RelayKind::Direct, ..Trip::default() };
    let mut journey = Journey::start(trip);
    let (laptop, internet) = (&journey.world.laptop, &journey.world.internet);
    let pool: Prefix = "100.64.0.0/10".parse().unwrap();
    internet.route(pool, GATEWAY_EXTERNAL.into(), INTERNET_INTERFACE).unwrap();
    let lease = journey.says("ip", &["-4", "-o", "address", "show", "wst0"]);
    let lease: Ipv4Addr = lease.split_whitespace().find_map(|word| word.strip_suffix("/32")).unwrap().parse().unwrap();
    // Behind 14 bytes of an Ethernet; a TUN has none.
    let with_inner_source = move |frame: &[u8]| frame.get(26..30) == Some(&lease.octets()[..]);
    let not_asked_for = move |packet: &[u8]| {
        packet.get(16..20) == Some(&lease.octets()[..]) && packet.get(9).is_some_and(|&protocol| protocol != 1)
    };
    let leaves = Capture::start(internet, INTERNET_INTERFACE, with_inner_source).unwrap();
    let arrives = Capture::start(laptop, "wst0", not_asked_for).unwrap();
    for protocol in INVALID {
        send_invalid(laptop, INTERNET, protocol);
        send_invalid(internet, lease, protocol);
    }
    // It goes the same way, behind all of them.
    journey.says("ping", &["-c", "3", "-i", "0.2", "-W", "5", &INTERNET.to_string()]);
    let ((left, seen_outside), (arrived, seen_inside)) = (leaves.finish(), arrives.finish());
    assert!(seen_outside >= 6 && seen_inside >= 6, "the pings: {seen_outside} {seen_inside}");
    assert_eq!((left, arrived), (0, 0));
    journey.end();
}
