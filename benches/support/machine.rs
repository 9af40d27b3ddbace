//! What a measurement was taken on, and when.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The machine and the moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The processor's name.
    pub(crate) processor: String,
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The date (UTC, year-month-day).
    pub(crate) date: String,
}

impl Machine {
    /// This machine, now. What cannot be read is `unknown`.
    pub(crate) fn here() -> Self {
        let unknown = || "unknown".to_owned();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
        let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output().ok();
        Self {
            processor: processor.map_or_else(unknown, |(_, name)| name.trim().to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: release.map_or_else(unknown, |text| text.trim().to_owned()),
            date: date.map_or_else(unknown, |out| String::from_utf8_lossy(&out.stdout).trim().to_owned()),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { processor, cores, kernel, date } = self;
        write!(f, "{processor}, {cores} cores, Linux {kernel}, {date}")
    }
}
