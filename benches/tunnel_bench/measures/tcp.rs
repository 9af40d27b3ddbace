//! Bulk transfers over one and several TCP connections, and what they cost.

use std::time::Duration;

use super::cpu::Spent;
use crate::row::Row;
use crate::site::{Error, Site};
use crate::systems::Running;

/// The congestion control of the connections inside the tunnel.
const INNER: &str = "cubic";
/// What a test may take beyond its time: a stalled one is given up.
const SLACK: Duration = Duration::from_secs(8);

/// One transfer.
#[derive(Clone, Copy, Debug, Default)]
struct Transfer {
    gbit_s: f64,
    gb: f64,
    spent: Spent,
}

/// Measures 1, 4 and 16 streams each way, and the processor time of a gigabyte with one stream.
pub(crate) fn streams(site: &Site, running: &Running, length: Duration, row: &mut Row) {
    let mut single = Vec::new();
    for (count, keys) in [
        ("1", ["tcp1_up_gbit_s", "tcp1_down_gbit_s"]),
        ("4", ["tcp4_up_gbit_s", "tcp4_down_gbit_s"]),
        ("16", ["tcp16_up_gbit_s", "tcp16_down_gbit_s"]),
    ] {
        for (key, is_up) in [(keys[0], true), (keys[1], false)] {
            match transfer(site, running, count, is_up, length) {
                Ok(done) => {
                    row.set(key, done.gbit_s);
                    if count == "1" {
                        single.push(done);
                    }
                }
                Err(error) => row.lacks(key, &error.to_string()),
            }
        }
    }
    costs(&single, row);
}

const COST_KEYS: [&str; 9] = [
    "client_cpu_s_per_gb",
    "gateway_cpu_s_per_gb",
    "relay_cpu_s_per_gb",
    "tunnel_cpu_s_per_gb",
    "tunnel_cpu_up_s_per_gb",
    "tunnel_cpu_down_s_per_gb",
    "machine_cpu_s_per_gb",
    "softirq_cpu_s_per_gb",
    "sleeps_per_mb",
];
const MB_PER_GB: f64 = 1e3;

fn costs(single: &[Transfer], row: &mut Row) {
    let [up, down] = single else {
        COST_KEYS.iter().for_each(|key| row.lacks(key, "a transfer failed"));
        return;
    };
    let both = up.spent.and(down.spent);
    let gb = up.gb + down.gb;
    let values = [
        both.client_s / gb,
        both.gateway_s / gb,
        both.relay_s / gb,
        both.tunnel_s() / gb,
        up.spent.tunnel_s() / up.gb,
        down.spent.tunnel_s() / down.gb,
        both.machine_s / gb,
        both.softirq_s / gb,
        both.sleeps / (gb * MB_PER_GB),
    ];
    COST_KEYS.iter().zip(values).for_each(|(key, value)| row.set(key, value));
}

fn transfer(site: &Site, running: &Running, count: &str, is_up: bool, length: Duration) -> Result<Transfer, Error> {
    let seconds = length.as_secs().to_string();
    let way: &[&str] = if is_up { &[] } else { &["--reverse"] };
    let args = [&["--time", &seconds, "--parallel", count, "--congestion", INNER], way].concat();
    let before = Spent::read(running);
    let told = site.iperf3(&args, length + SLACK)?;
    let spent = Spent::read(running).since(before);
    let received = &told["end"]["sum_received"];
    let (Some(bits_s), Some(bytes)) = (received["bits_per_second"].as_f64(), received["bytes"].as_f64()) else {
        return Err("iperf3 told no rate".into());
    };
    if bytes == 0.0 {
        return Err("nothing came through".into());
    }
    Ok(Transfer { gbit_s: bits_s / 1e9, gb: bytes / 1e9, spent })
}
