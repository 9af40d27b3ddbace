//! Ping while a download fills a link of 10 Mbit/s.

use std::time::Duration;

use crate::site::{Error, Site};
use crate::systems::SlowLink;

/// What the measurement tells, in this order.
pub(crate) const KEYS: [&str; 3] = ["slow_ping_p50_ms", "slow_ping_p99_ms", "slow_goodput_mbit_s"];

const RATE: &str = "10mbit";
/// 120 ms of that rate.
const BUFFER: &str = "150000";
/// A few packets at once, and no more: the kernel then cuts super-packets as a slow interface does.
const BURST: &str = "5000";
/// The download runs so long before the pings begin.
const SETTLING: Duration = Duration::from_secs(2);
const PING_APART_S: &str = "0.05";
const SLACK: Duration = Duration::from_secs(15);

/// The median and the 99th percentile in milliseconds, and the download's rate. The link stays slow.
pub(crate) fn ping_under_load(site: &Site, link: SlowLink, length: Duration) -> Result<Vec<f64>, Error> {
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
    let seconds = (length + SETTLING).as_secs().to_string();
    let download = site.iperf3_start(&["--time", &seconds, "--reverse", "--congestion", "cubic"])?;
    std::thread::sleep(SETTLING);
    let host = wstether::lab::world::INTERNET.to_string();
    // Fewer seconds than the download: the last answers come under load, too.
    let pinging = length.saturating_sub(Duration::from_secs(1)).as_secs().to_string();
    let told = ping(site, &["-n", "-i", PING_APART_S, "-w", &pinging, &host])?;
    let told_download = download.finish(site, length + SLACK)?;
    let mut times = times_ms(&told);
    times.sort_by(f64::total_cmp);
    let last = times.len().checked_sub(1).ok_or("no ping came back")?;
    let quantile = |q: f64| times[(last as f64 * q).round() as usize];
    let bits_s = told_download["end"]["sum_received"]["bits_per_second"].as_f64().ok_or("iperf3 told no rate")?;
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
