//! What the gateway says and does while its way out is not as it was at the start.

use std::time::Instant;

use wstether::cli::EgressMode;
use wstether::io::netlink::Prefix;
use wstether::lab::Program;
use wstether::lab::world::{INTERNET, INTERNET_INTERFACE};

use crate::world::{Journey, PATIENCE};

/// Waits until the gateway says that it is not ready for this reason, or that it is ready.
fn until(journey: &Journey, why_not: Option<&str>) {
    let late = Instant::now() + PATIENCE;
    loop {
        let status = journey.status();
        if status.why_not_ready.as_deref() == why_not {
            return;
        }
        assert!(Instant::now() < late, "{:?} in place of {why_not:?}", status.why_not_ready);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn lines(gateway: &Program, text: &str) -> usize {
    gateway.log().lines().filter(|line| line.contains(text)).count()
}

#[test]
fn a_gateway_whose_way_out_is_lost_says_why_and_is_ready_again_by_itself() {
    for egress in [EgressMode::Raw, EgressMode::Tun] {
        let journey = Journey::prepare(None, false);
        let gateway = journey.setting().gateway(egress, &[]).unwrap();
        let (host, internet) = (&journey.world.gateway, &journey.world.internet);
        internet.netlink(|netlink| netlink.set_up(INTERNET_INTERFACE, false)).unwrap();
        until(&journey, Some("egress: eth0 has no carrier"));
        internet.netlink(|netlink| netlink.set_up(INTERNET_INTERFACE, true)).unwrap();
        until(&journey, None);
        host.netlink(|netlink| netlink.set_up(INTERNET_INTERFACE, false)).unwrap();
        until(&journey, Some("egress: eth0 is down"));
        host.netlink(|netlink| netlink.set_up(INTERNET_INTERFACE, true)).unwrap();
        until(&journey, Some("egress: no route to the internet leaves by eth0"));
        host.route(Prefix::ALL_V4, INTERNET.into(), INTERNET_INTERFACE).unwrap();
        until(&journey, None);
        let told = ["has no carrier", "eth0 is down", "no route to the internet", "ready: the way out is back"];
        let counts = told.map(|text| lines(&gateway, text));
        // A cable may take a moment to be in after its end is up.
        assert!(matches!(counts, [1 | 2, 1, 1, 2]), "{told:?}: {counts:?}\n{}", gateway.log());
        assert!(gateway.end().unwrap().success());
    }
}
