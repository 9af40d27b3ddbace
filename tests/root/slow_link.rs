//! The tunnel over a slow link between phone and gateway: what is on its way there stays little.

use std::net::Ipv4Addr;
use std::time::Duration;

use wstether::io::netlink::Prefix;
use wstether::lab::tethering::FIGURES;
use wstether::lab::world::{GATEWAY, INTERNET};
use wstether::lab::{DelayBox, Way, probe};

use crate::dashboards::http_get;
use crate::world::{Journey, Trip};

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

fn carries_bulk(congestion: &str) {
    let mut journey = Journey::prepare(None, false);
    let (phone, gateway) = (&journey.world.phone, &journey.world.gateway);
    let link = DelayBox::between((phone, "slow0"), (gateway, "slow0"), SLOW, SLOW, 1).unwrap();
    phone.address("slow0", Prefix::new(PHONE_SLOW.into(), 30)).unwrap();
    gateway.address("slow0", Prefix::new(GATEWAY_SLOW.into(), 30)).unwrap();
    phone.route(Prefix::new(GATEWAY.into(), 32), GATEWAY_SLOW.into(), "slow0").unwrap();
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
    let (_, text) = journey.world.gateway.run(|| http_get(FIGURES, "/metrics")).unwrap().unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("wstether_window_in_flight_bytes "));
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
