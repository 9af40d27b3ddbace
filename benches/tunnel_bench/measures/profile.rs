//! Where the tunnel's programs spend their time: perf(1) beside a transfer, its report as text.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::cpu::{Process, family};
use crate::site::{Error, Site, ran};
use crate::systems::Running;

/// Samples a second: odd, so that it does not beat with timers.
const SAMPLES_PER_S: &str = "997";
const LENGTH_S: &str = "3";
/// The transfer outlasts the samples.
const TRANSFER_S: &str = "4";
const SLACK: Duration = Duration::from_secs(12);
/// Less than this share of the samples is not shown.
const LEAST_PERCENT: &str = "0.05";
/// What samples are added up by. A program without symbols, such as Debian's Chromium, is told of as a whole by the first.
const SORTS: [&str; 2] = ["pid,dso", "pid,symbol"];
/// 64 bytes at 40 thousand a second, which most tunnels carry.
const UDP_BIT_S: &str = "20480000";

/// Writes a report for each kind of traffic into `directory`, named for the row.
pub(crate) fn write(site: &Site, running: &Running, name: &str, directory: &Path) -> Result<(), Error> {
    let processes = Process::all();
    // A browser is a family: what carries the packets are its grandchildren.
    let all = running.processes().flat_map(|(_, id)| family(&processes, id));
    let ids: Vec<String> = all.map(|process| process.id.to_string()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let udp = ["--udp", "--length", "64", "--bitrate", UDP_BIT_S];
    let kinds: [(&str, &[&str]); 4] = [
        ("tcp1-up", &["--congestion", "cubic"]),
        ("tcp1-down", &["--congestion", "cubic", "--reverse"]),
        ("udp64-up", &udp),
        ("udp64-down", &[&udp[..], &["--reverse"]].concat()),
    ];
    for (kind, args) in kinds {
        let transfer = site.iperf3_start(&[&["--time", TRANSFER_S], args].concat())?;
        let samples = site.scratch.file("perf.data").display().to_string();
        let record = ["record", "--freq", SAMPLES_PER_S, "--pid", &ids.join(","), "--output", &samples];
        let mut perf = Command::new("perf");
        ran("perf", perf.args(record).args(["--", "sleep", LENGTH_S]).output())?;
        transfer.finish(site, SLACK)?;
        let mut told = String::new();
        for sort in SORTS {
            let mut report = Command::new("perf");
            report.args(["report", "--stdio", "--input", &samples, "--sort", sort]);
            told += &ran("perf", report.args(["--percent-limit", LEAST_PERCENT]).output())?;
        }
        fs::write(directory.join(format!("{}.{kind}.txt", name.replace([' ', ','], "-"))), told)?;
    }
    Ok(())
}
