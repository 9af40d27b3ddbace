//! A row of the table: the same keys for every system and path, each with a value or a reason.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::site::Error;

/// A key of every row, and how a person reads it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) table: Table,
    /// The head of its column.
    pub(crate) head: &'static str,
    pub(crate) decimals: usize,
}

/// Where a key is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Speed,
    Cost,
    Latency,
    /// Where it was measured.
    Upload,
    /// In the JSON alone.
    None,
}

const fn key(name: &'static str, table: Table, head: &'static str, decimals: usize) -> Key {
    Key { name, table, head, decimals }
}

/// All keys, in the order of the columns.
pub(crate) const KEYS: [Key; 39] = [
    key("tcp1_up_gbit_s", Table::Speed, "1 up", 2),
    key("tcp1_down_gbit_s", Table::Speed, "1 down", 2),
    key("tcp4_up_gbit_s", Table::Speed, "4 up", 2),
    key("tcp4_down_gbit_s", Table::Speed, "4 down", 2),
    key("tcp16_up_gbit_s", Table::Speed, "16 up", 2),
    key("tcp16_down_gbit_s", Table::Speed, "16 down", 2),
    key("of_roofline", Table::Speed, "of roofline", 2),
    key("of_kernel", Table::Speed, "of kernel", 2),
    key("of_best_peer", Table::Speed, "of best peer", 2),
    key("tunnel_cpu_up_s_per_gb", Table::Cost, "CPU s/GB up", 1),
    key("tunnel_cpu_down_s_per_gb", Table::Cost, "down", 1),
    key("tunnel_cpu_s_per_gb", Table::None, "", 1),
    key("client_cpu_s_per_gb", Table::Cost, "client", 1),
    key("gateway_cpu_s_per_gb", Table::Cost, "gateway", 1),
    key("relay_cpu_s_per_gb", Table::Cost, "relay", 1),
    key("machine_cpu_s_per_gb", Table::Cost, "machine", 1),
    key("softirq_cpu_s_per_gb", Table::None, "", 1),
    key("sleeps_per_mb", Table::Cost, "sleeps a MB", 1),
    key("gateway_peak_mib", Table::Cost, "MiB gateway", 1),
    key("client_peak_mib", Table::Cost, "client", 1),
    key("relay_peak_mib", Table::None, "", 1),
    key("peak_mib", Table::None, "", 1),
    key("ping_p50_ms", Table::Latency, "ping p50", 2),
    key("ping_p99_ms", Table::Latency, "p99", 2),
    key("slow_ping_p50_ms", Table::Latency, "slow link p50", 0),
    key("slow_ping_p99_ms", Table::Latency, "p99", 0),
    key("slow_goodput_mbit_s", Table::Latency, "Mbit/s", 1),
    key("slow_up_ping_p50_ms", Table::Upload, "slow link p50", 0),
    key("slow_up_ping_p99_ms", Table::Upload, "p99", 0),
    key("slow_up_goodput_mbit_s", Table::Upload, "Mbit/s", 1),
    key("udp64_up_kpps", Table::Latency, "UDP kpps up", 0),
    key("udp64_down_kpps", Table::Latency, "down", 0),
    key("udp64_kpps", Table::None, "", 0),
    key("gateway64_up_kpps_per_cpu_s", Table::None, "", 0),
    key("gateway64_down_kpps_per_cpu_s", Table::None, "", 0),
    key("gateway64_merged_up_kpps_per_cpu_s", Table::None, "", 0),
    key("gateway64_merged_down_kpps_per_cpu_s", Table::None, "", 0),
    key("gateway64_softirq_s_per_cpu_s", Table::None, "", 2),
    key("gateway_200_peak_mib", Table::None, "", 1),
];

/// What is known of one system and path.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) system: &'static str,
    pub(crate) path: String,
    pub(crate) version: Option<String>,
    values: BTreeMap<&'static str, f64>,
    reasons: BTreeMap<&'static str, String>,
}

impl Row {
    pub(crate) fn new(system: &'static str, path: String, version: Option<String>) -> Self {
        Self { system, path, version, values: BTreeMap::new(), reasons: BTreeMap::new() }
    }

    /// The row of a system that does not run here.
    pub(crate) fn lacking(system: &'static str, path: String, version: Option<String>, why: &str) -> Self {
        let mut row = Self::new(system, path, version);
        KEYS.iter().for_each(|key| row.lacks(key.name, why));
        row
    }

    pub(crate) fn set(&mut self, key: &'static str, value: f64) {
        self.values.insert(key, value);
    }

    /// Why there is no value, or what is to be said of it.
    pub(crate) fn lacks(&mut self, key: &'static str, why: &str) {
        self.reasons.insert(key, why.to_owned());
    }

    /// Takes several values at once, or the one reason why there are none.
    pub(crate) fn take(&mut self, keys: &[&'static str], measured: Result<Vec<f64>, Error>) {
        match measured {
            Ok(values) => keys.iter().zip(values).for_each(|(key, value)| self.set(key, value)),
            Err(error) => keys.iter().for_each(|key| self.lacks(key, &error.to_string())),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<f64> {
        self.values.get(key).copied()
    }

    pub(crate) fn reasons(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.reasons.iter().map(|(key, why)| (*key, why.as_str()))
    }

    /// The medians of one system's rows. A value that one round lacks is the median of the others, and its reason says of how
    /// many.
    pub(crate) fn median(rounds: &[Self]) -> Option<Self> {
        let last = rounds.last()?;
        let version = rounds.iter().rev().find_map(|row| row.version.clone());
        let mut median = Self::new(last.system, last.path.clone(), version);
        for key in KEYS {
            let mut values: Vec<f64> = rounds.iter().filter_map(|row| row.get(key.name)).collect();
            values.sort_by(f64::total_cmp);
            let middle = values.len() / 2;
            match values.len() {
                0 => {}
                even if even % 2 == 0 => median.set(key.name, f64::midpoint(values[middle - 1], values[middle])),
                _ => median.set(key.name, values[middle]),
            }
            if let Some(why) = reason_of_all(rounds, key.name, values.len()) {
                median.lacks(key.name, &why);
            }
        }
        Some(median)
    }

    pub(crate) fn json(&self) -> Value {
        let mut row = Map::new();
        row.insert("system".to_owned(), json!(self.system));
        row.insert("path".to_owned(), json!(self.path));
        row.insert("version".to_owned(), json!(self.version));
        for key in KEYS {
            row.insert(key.name.to_owned(), json!(self.get(key.name)));
        }
        row.insert("reasons".to_owned(), json!(self.reasons));
        Value::Object(row)
    }
}

/// What is to be said of a key over all rounds, of which so many have a value.
fn reason_of_all(rounds: &[Row], key: &str, valued: usize) -> Option<String> {
    let mut told: BTreeMap<&str, usize> = BTreeMap::new();
    for why in rounds.iter().filter_map(|row| row.reasons.get(key)) {
        *told.entry(why).or_default() += 1;
    }
    let all = rounds.len();
    let of = (1..all).contains(&valued).then(|| format!("the median of {valued} of {all} rounds"));
    let whys = told
        .into_iter()
        .map(|(why, count)| if count == all { why.to_owned() } else { format!("{why} ({count} of {all} rounds)") });
    let whole: Vec<String> = of.into_iter().chain(whys).collect();
    (!whole.is_empty()).then(|| whole.join("; "))
}
