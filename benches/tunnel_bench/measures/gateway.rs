//! The gateway alone, fed by simulated tethers: packets of 64 bytes a CPU second, and memory with many connected. The
//! time that it takes to let the tethers of a load in counts, too.

use serde_json::Value;
use wstether::lab::tethering::FIGURES;
use wstether::status;

use super::cpu::Spent;
use super::memory;
use crate::row::Row;
use crate::site::{End, Error, Site};
use crate::systems::{Alone, Role, Running, System};

/// Packets a second of a load, both of one flow and of many: enough for batches, and what a core can carry.
const RATE_PPS: u32 = 200_000;
/// Tethers of the load whose packets cannot be merged, each with a flow of its own.
const FLOWS: u32 = 50;
/// Tethers that are connected where memory is measured, and packets a second of each.
const CONNECTED: (u32, u32) = (200, 10);
const SECONDS: &str = "2";
const SIZE_BYTES: &str = "64";

/// The keys of one load each: way, tethers.
const LOADS: [(&str, &str, u32); 4] = [
    ("gateway64_up_kpps_per_cpu_s", "up", FLOWS),
    ("gateway64_down_kpps_per_cpu_s", "down", FLOWS),
    ("gateway64_merged_up_kpps_per_cpu_s", "up", 1),
    ("gateway64_merged_down_kpps_per_cpu_s", "down", 1),
];
const SOFTIRQ: &str = "gateway64_softirq_s_per_cpu_s";
const MEMORY: &str = "gateway_200_peak_mib";

/// Measures in a site of its own. What fails becomes a reason in the row.
pub(crate) fn alone(end: &End, system: &dyn System, row: &mut Row) {
    let measured = Site::new(end).and_then(|site| measure(&site, system.gateway_alone(&site)?, row));
    if let Err(error) = measured {
        for key in LOADS.iter().map(|load| load.0).chain([SOFTIRQ, MEMORY]) {
            if row.get(key).is_none() {
                row.lacks(key, &error.to_string());
            }
        }
    }
}

fn measure(site: &Site, mut alone: Alone, row: &mut Row) -> Result<(), Error> {
    let (tethers, pps) = CONNECTED;
    load(site, &mut alone, "both", tethers, pps)?;
    row.set(MEMORY, memory::peak_mib(alone.gateway.id()).ok_or("the gateway has gone")?);
    let running = Running::counting(Role::Gateway, alone.gateway.id());
    let (mut softirq_s, mut gateway_s) = (0.0, 0.0);
    for (key, way, tethers) in LOADS {
        rest(site, &mut alone)?;
        let before = Spent::read(&running);
        let told = load(site, &mut alone, way, tethers, RATE_PPS / tethers)?;
        let spent = Spent::read(&running).since(before);
        let delivered = told[way]["delivered"].as_f64().ok_or("the load does not tell what was delivered")?;
        row.set(key, delivered / spent.gateway_s / 1e3);
        (softirq_s, gateway_s) = (softirq_s + spent.softirq_s, gateway_s + spent.gateway_s);
    }
    row.set(SOFTIRQ, softirq_s / gateway_s);
    Ok(())
}

/// Waits until no tether of an earlier load is left.
fn rest(site: &Site, alone: &mut Alone) -> Result<(), Error> {
    let status = || site.world.gateway.run(|| status::fetch(FIGURES)).ok()?.ok();
    site.until("does not come to rest", &mut alone.gateway, || status().is_some_and(|status| status.tethers == 0))
}

/// Offers packets, and returns what the load tells. Downlink is counted at the tethers, uplink at the sink.
fn load(site: &Site, alone: &mut Alone, way: &str, tethers: u32, pps: u32) -> Result<Value, Error> {
    let (tethers, pps) = (tethers.to_string(), pps.to_string());
    let args = ["--direction", way, "--tethers", &tethers, "--rate", &pps, "--seconds", SECONDS, "--size", SIZE_BYTES];
    let load: Vec<&str> = alone.load.iter().map(String::as_str).chain(args).collect();
    let told = site.run(&site.world.laptop, load[0], &load[1..])?;
    let told: Value = serde_json::from_str(&told)?;
    match told["tethers"]["welcomed"].as_u64() {
        Some(welcomed) if welcomed.to_string() == tethers => Ok(told),
        welcomed => Err(format!("{welcomed:?} of {tethers} tethers were welcomed").into()),
    }
}
