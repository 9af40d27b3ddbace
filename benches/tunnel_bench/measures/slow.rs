//! Ping while a transfer fills a link of 10 Mbit/s.

use std::time::Duration;

use wstether::lab::world::INTERNET;

use crate::row::Row;
use crate::site::{Error, Site};
use crate::systems::SlowLink;

/// What a transfer's measurement tells, in this order: beside a download, and beside an upload.
const KEYS: [[&str; 3]; 2] = [
    ["slow_ping_p50_ms", "slow_ping_p99_ms", "slow_goodput_mbit_s"],
    ["slow_up_ping_p50_ms", "slow_up_ping_p99_ms", "slow_up_goodput_mbit_s"],
];
/// In iperf3's words.
const WAYS: [&[&str]; 2] = [&["--reverse"], &[]];

const RATE: &str = "10mbit";
/// 120 ms of that rate.
const BUFFER: &str = "150000";
/// A few packets at once, and no more: the kernel then cuts super-packets as a slow interface does.
const BURST: &str = "5000";
/// The transfer runs so long before the pings begin.
const SETTLING: Duration = Duration::from_secs(2);
const PING_APART_S: &str = "0.05";
const SLACK: Duration = Duration::from_secs(15);

/// Measures beside a download, and in the full setting beside an upload, too: ten seconds for each row are more than the
/// quick one has. The link stays slow.
pub(crate) fn ping_under_load(site: &Site, link: SlowLink, length: Duration, is_full: bool, row: &mut Row) {
    let slowed = slow_down(site, link).map_err(|error| error.to_string());
    for (at, (keys, way)) in KEYS.iter().zip(WAYS).enumerate() {
        let measured = match &slowed {
            _ if at > 0 && !is_full => Err("measured by --full alone".into()),
            Ok(()) => beside(site, way, length),
            Err(error) => Err(error.as_str().into()),
        };
        row.take(keys, measured);
    }
}

fn slow_down(site: &Site, link: SlowLink) -> Result<(), Error> {
    let world = &site.world;
    let (far, far_interface, gateway_interface) = match link {
        SlowLink::LaptopToGateway => (&world.laptop, "net0", "laptop0"),
        SlowLink::PhoneToGateway => (&world.phone, "mobile0", "mobile0"),
    };
    for (namespace, interface) in [(far, far_interface), (&world.gateway, gateway_interface)] {
        let shape =
            ["qdisc", "replace", "dev", interface, "root", "tbf", "rate", RATE, "burst", BURST, "limit", BUFFER];
        site.run(namespace, "tc", &shape)?;
    }
    Ok(())
}

/// The median and the 99th percentile of pings beside a transfer, in milliseconds, and its rate.
fn beside(site: &Site, way: &[&str], length: Duration) -> Result<Vec<f64>, Error> {
    let seconds = (length + SETTLING).as_secs().to_string();
    let transfer = site.iperf3_start(&[&["--time", &seconds, "--congestion", "cubic"], way].concat())?;
    std::thread::sleep(SETTLING);
    // Fewer seconds than the transfer: the last answers come under load, too.
    let pinging = length.saturating_sub(Duration::from_secs(1)).as_secs().to_string();
    let told = ping(site, &["-n", "-i", PING_APART_S, "-w", &pinging, &INTERNET.to_string()])?;
    let told_transfer = transfer.finish(site, length + SLACK)?;
    let mut times = times_ms(&told);
    times.sort_by(f64::total_cmp);
    let last = times.len().checked_sub(1).ok_or("no ping came back")?;
    let quantile = |q: f64| times[(last as f64 * q).round() as usize];
    let bits_s = told_transfer["end"]["sum_received"]["bits_per_second"].as_f64().ok_or("iperf3 told no rate")?;
    Ok(vec![quantile(0.5), quantile(0.99), bits_s / 1e6])
}

/// ping(8) is not content where an answer is missing; what it says counts.
fn ping(site: &Site, args: &[&str]) -> Result<String, Error> {
    let said = site.command(&site.world.laptop, "ping", args)?.output()?;
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

fn times_ms(told: &str) -> Vec<f64> {
    told.lines().filter_map(|line| line.split_once("time=")?.1.trim_end_matches(" ms").parse().ok()).collect()
}
