//! The most memory that each program has held.

use std::fs;

use super::cpu::{Process, family};
use crate::row::Row;
use crate::systems::{Role, Running};

const KIB_PER_MIB: f64 = 1024.0;

/// Peak resident memory of client and gateway, each with its children, since they started.
pub(crate) fn peaks(running: &Running, row: &mut Row) {
    let processes = Process::all();
    let (mut client, mut gateway) = (None, None);
    for (role, id) in running.processes() {
        let mib: f64 = family(&processes, id).filter_map(|process| peak_mib(process.id)).sum();
        match role {
            Role::Client => client = Some(mib),
            Role::Gateway => gateway = Some(mib),
            Role::Relay => row.set("relay_peak_mib", mib),
        }
    }
    for (key, mib) in [("client_peak_mib", client), ("gateway_peak_mib", gateway)] {
        match mib {
            Some(mib) => row.set(key, mib),
            None => row.lacks(key, "no program of its own"),
        }
    }
    match (client, gateway) {
        (Some(client), Some(gateway)) => row.set("peak_mib", client.max(gateway)),
        _ => row.lacks("peak_mib", "no program of its own"),
    }
}

/// VmHWM of one process.
pub(crate) fn peak_mib(id: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib / KIB_PER_MIB)
}
