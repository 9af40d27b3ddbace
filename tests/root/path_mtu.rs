//! Path MTU discovery (RFC 1191) through the tunnel: a narrow link far behind the gateway is told of to the laptop, and
//! bulk crosses it, whatever is merged on the way.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wstether::cli::{EgressMode, RelayKind};
use wstether::io::netlink::Prefix;
use wstether::lab::internet::Internet;
use wstether::lab::world::{GATEWAY_EXTERNAL, INTERNET, join};
use wstether::lab::{Namespace, Offloads, probe};

use crate::world::{BULK_BYTES, Journey, PATIENCE, Trip};

/// The internet's host, on the narrow link; it forwards between the two.
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
/// A host behind it.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 2);
const NETWORK_BITS: u8 = 30;

/// What the narrow link takes.
const NARROW_MTU_BYTES: u32 = 1_300;
/// IPv4 and ICMP echo headers, beside which ping(8) counts its payload.
const HEADER_BYTES: u32 = 28;

/// A host behind a narrow link, which only the internet's host can reach.
fn far_host(journey: &Journey, offloads: Option<Offloads>) -> (Namespace, Internet) {
    let far = Namespace::new("far").unwrap();
    let internet = &journey.world.internet;
    join((internet, "narrow0", ROUTER), (&far, "narrow0", FAR), NETWORK_BITS, offloads).unwrap();
    for namespace in [internet, &far] {
        namespace.netlink(|netlink| netlink.set_mtu("narrow0", NARROW_MTU_BYTES)).unwrap();
    }
    internet.sysctl("net.ipv4.ip_forward", "1").unwrap();
    far.route(Prefix::ALL_V4, IpAddr::V4(ROUTER), "narrow0").unwrap();
    let servers = Internet::start(&far, FAR, Arc::clone(&journey.bulk)).unwrap();
    (far, servers)
}

/// What ping(8) says of one unfragmented echo request of so many bytes in all.
fn pinged(journey: &Journey, bytes: u32) -> (bool, String) {
    let payload = (bytes - HEADER_BYTES).to_string();
    let output = journey.on_laptop("ping", &["-c", "1", "-W", "5", "-M", "do", "-s", &payload, &FAR.to_string()]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn discovers_the_path_mtu(trip: Trip<'_>) {
    let mut journey = Journey::start(trip);
    let (_far, _servers) = far_host(&journey, trip.offloads);
    assert!(pinged(&journey, NARROW_MTU_BYTES).0, "a packet that just fits arrives");
    // Before the laptop knows: TCP finds the narrow link by itself, and every byte arrives.
    assert!(probe::upload(&journey.world.laptop, FAR, &journey.bulk).unwrap().sha256_ok);
    assert!(probe::download(&journey.world.laptop, FAR, BULK_BYTES).unwrap().sha256_ok);
    let (arrived, said) = pinged(&journey, NARROW_MTU_BYTES + 1);
    // The laptop's kernel has learnt it, or learns it now by the router's ICMP error.
    let told = [format!("mtu = {NARROW_MTU_BYTES}"), format!("mtu={NARROW_MTU_BYTES}")];
    assert!(!arrived && told.iter().any(|told| said.contains(told)), "{said}");
    journey.end();
}

#[test]
fn the_mtu_of_a_narrow_link_behind_the_gateway_reaches_the_laptop_by_raw_egress() {
    discovers_the_path_mtu(Trip { relay: RelayKind::Direct, ..Trip::default() });
}

#[test]
fn the_mtu_of_a_narrow_link_behind_the_gateway_reaches_the_laptop_by_tun_egress() {
    discovers_the_path_mtu(Trip { relay: RelayKind::Direct, egress: EgressMode::Tun, ..Trip::default() });
}

#[test]
fn with_every_offload_off_the_mtu_of_a_narrow_link_reaches_the_laptop() {
    discovers_the_path_mtu(Trip { relay: RelayKind::Direct, offloads: Some(Offloads::OFF), ..Trip::default() });
}

/// A server on the internet answers a client that takes less with a packet that is too big, and learns how much it takes.
fn learns_the_clients_mtu(trip: Trip<'_>) {
    let mtu = format!("tun.mtu={NARROW_MTU_BYTES}");
    let mut journey = Journey::start(Trip { client: &["--set", &mtu], relay: RelayKind::Direct, ..trip });
    let (laptop, internet) = (&journey.world.laptop, &journey.world.internet);
    let server = internet.run(|| UdpSocket::bind((INTERNET, 0)).unwrap()).unwrap();
    let client = laptop.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap()).unwrap();
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    client.connect(server.local_addr().unwrap()).unwrap();
    client.send(b"question").unwrap();
    let (_, external) = server.recv_from(&mut [0; 64]).unwrap();
    server.send_to(&[7; NARROW_MTU_BYTES as usize], external).unwrap();
    let (late, told) = (Instant::now() + PATIENCE, format!("mtu={NARROW_MTU_BYTES}"));
    loop {
        // What the kernel knows of the path it tells at once, and sends nothing.
        let args = ["-c", "1", "-W", "1", "-M", "do", "-s", "1400", &GATEWAY_EXTERNAL.to_string()];
        let output = journey.command(internet, "ping", &args).output().expect("ping");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if said.contains(&told) {
            break;
        }
        assert!(Instant::now() < late, "{said}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let fits = [7; (NARROW_MTU_BYTES - HEADER_BYTES) as usize];
    server.send_to(&fits, external).unwrap();
    assert_eq!(client.recv(&mut [0; 2_000]).unwrap(), fits.len(), "the one that was too big has not come");
    let status = journey.drained();
    let nat = status
        .stages
        .iter()
        .find(|stage| (stage.name.as_str(), stage.direction.as_str()) == ("nat-rewrite", "downlink"));
    let nat = nat.expect("the stage");
    assert_eq!((nat.drops.get("too_big"), nat.made), (Some(&1), 1));
    journey.end();
}

#[test]
fn the_mtu_of_a_client_that_takes_less_reaches_the_internet_by_raw_egress() {
    learns_the_clients_mtu(Trip::default());
}

#[test]
fn the_mtu_of_a_client_that_takes_less_reaches_the_internet_by_tun_egress() {
    learns_the_clients_mtu(Trip { egress: EgressMode::Tun, ..Trip::default() });
}
