//! The tunnel over a slow link between phone and gateway: what is on its way there stays little.

use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use wstether::cli::EgressMode;
use wstether::io::netlink::Prefix;
use wstether::lab::tethering::{FIGURES, GATEWAY_PORT};
use wstether::lab::world::{GATEWAY, GATEWAY_DIRECT, INTERNET, World};
use wstether::lab::{DelayBox, Isolation, Way, probe};

use crate::dashboards::http_get;
use crate::world::{Journey, PATIENCE, Trip};

/// The slow link's ends.
const PHONE_SLOW: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 5);
const GATEWAY_SLOW: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 6);

/// 10 Mbit/s and 60 ms, before a buffer that holds 0.8 s.
const SLOW: Way = Way {
    rate_bit_s: Some(10_000_000),
    delay: Duration::from_millis(30),
    jitter: Duration::ZERO,
    loss: 0.0,
    buffer_bytes: 1_000_000,
};

/// Bytes of the bulk: about six seconds.
const BYTES: u64 = 6_000_000;

/// A third of what the link's buffer takes: were it filled, as cubic fills it, far more would be on its way. What the path
/// holds is a quarter of this; the rest is for a machine that is busy with other tests.
const IN_FLIGHT_BYTES_MAX: u64 = 330_000;

/// Puts the slow link between phone and gateway.
fn slow_link(world: &World) -> DelayBox {
    let (phone, gateway) = (&world.phone, &world.gateway);
    let link = DelayBox::between((phone, "slow0"), (gateway, "slow0"), SLOW, SLOW, 1).unwrap();
    phone.address("slow0", Prefix::new(PHONE_SLOW.into(), 30)).unwrap();
    gateway.address("slow0", Prefix::new(GATEWAY_SLOW.into(), 30)).unwrap();
    phone.route(Prefix::new(GATEWAY.into(), 32), GATEWAY_SLOW.into(), "slow0").unwrap();
    link
}

fn carries_bulk(congestion: &str) {
    let mut journey = Journey::prepare(None, false);
    let link = slow_link(&journey.world);
    let [listen, client] = ["listen", "client"].map(|section| format!("{section}.congestion={congestion}"));
    let (gateway, client) = (["--set", &listen], ["--set", &client]);
    let relay_args = ["--congestion", congestion];
    journey.go(Trip { gateway: &gateway, client: &client, relay_args: &relay_args, ..Trip::default() });
    let laptop = &journey.world.laptop;
    let most = std::thread::scope(|scope| {
        let bulk = scope.spawn(|| probe::download(laptop, INTERNET, BYTES).unwrap());
        let mut most = 0;
        while !bulk.is_finished() {
            probe::ping(laptop, INTERNET, 1, Duration::ZERO).unwrap();
            most = most.max(in_flight_bytes(&journey));
        }
        assert!(bulk.join().unwrap().sha256_ok);
        most
    });
    assert!((1..=IN_FLIGHT_BYTES_MAX).contains(&most), "{most} bytes were on their way");
    let upload = probe::upload(laptop, INTERNET, &journey.bulk[..BYTES as usize / 2]).unwrap();
    assert!(upload.sha256_ok);
    assert_eq!((link.a_to_b().dropped, link.b_to_a().dropped), (0, 0), "the link's buffer was never full");
    journey.end();
}

fn in_flight_bytes(journey: &Journey) -> u64 {
    figure(journey, "wstether_window_in_flight_bytes")
}

fn figure(journey: &Journey, name: &str) -> u64 {
    let (_, text) = journey.world.gateway.run(|| http_get(FIGURES, "/metrics")).unwrap().unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect("the figure").parse().unwrap()
}

#[test]
fn over_a_slow_link_little_is_on_its_way_where_tcp_fills_buffers() {
    carries_bulk("cubic");
}

#[test]
fn over_a_slow_link_little_is_on_its_way_where_tcp_does_not() {
    carries_bulk("bbr");
}

/// The congestion control of the gateway's end of `client`, as the kernel tells it.
fn congestion_at_gateway(journey: &Journey, client: &TcpStream) -> String {
    let address = client.local_addr().unwrap().to_string();
    let args = ["--tcp", "--info", "--numeric", "--no-header", "--oneline", "dst", &address];
    let mut ss = journey.world.gateway.command("ss", Isolation::default()).unwrap();
    let output = ss.args(args).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let name = told.split_whitespace().find(|word| ["bbr", "cubic", "reno"].contains(word));
    name.unwrap_or_else(|| panic!("ss tells: {told}")).to_owned()
}

#[test]
fn by_default_a_link_over_a_long_path_gets_bbr_where_the_kernel_has_it_and_one_over_a_short_path_keeps_cubic() {
    let mut journey = Journey::prepare(None, false);
    let _link = slow_link(&journey.world);
    journey.gateway = Some(journey.setting().gateway(EgressMode::Raw, &[]).unwrap());
    let offered = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").unwrap();
    let on_long_paths = if offered.contains("bbr") { "bbr" } else { "cubic" };
    let (world, mut held) = (&journey.world, Vec::new());
    for (from, address, expected) in [(&world.phone, GATEWAY, on_long_paths), (&world.laptop, GATEWAY_DIRECT, "cubic")]
    {
        let client = from.run(|| TcpStream::connect((address, GATEWAY_PORT))).unwrap().unwrap();
        // It is counted as one at the door only once all is chosen.
        let late = Instant::now() + PATIENCE;
        while figure(&journey, "wstether_accept_handshakes") < held.len() as u64 + 1 {
            assert!(Instant::now() < late, "it is not accepted");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(congestion_at_gateway(&journey, &client), expected, "to {address}, of {offered}");
        held.push(client);
    }
}
