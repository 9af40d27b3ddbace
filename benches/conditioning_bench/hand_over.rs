//! The rule of hand-over that decides by itself beside the two fixed ones: throughput and idle latency, rule by rule in
//! turn, over the bench's workloads.

use std::time::Duration;

use serde_json::{Value, json};
use wstether::cli::EgressMode;
use wstether::stages::ballast::Ballast;

use crate::fixed::{self, TETHERS};
use crate::real;
use crate::site::{Pinned, Site, number};
use crate::{Figures, Lasts, Outcome, Run};

pub(crate) const KEYS: [&str; 3] = ["hand_over_throughput_ratio", "hand_over_idle_latency_ratio", "hand_over"];

/// The rule that is judged is the first.
const RULES: [&str; 3] = ["auto", "always", "never"];

/// Times the peak: more than any rule can do, and not so much that the generator starves who counts what arrives.
const OVERLOAD: f64 = 1.5;
/// Of all tethers together, each way, in packets a second: 20 ms between two packets, each of which finds all threads
/// asleep.
const IDLE_PPS: f64 = 250.0;

const LASTS: Lasts = Lasts { quick_s: 1, full_s: 2 };
/// Of each rule and load; an odd number has a middle. The full setting as a whole is repeated beside.
const REPEATS_QUICK: usize = 3;
const REPEATS_FULL: usize = 3;

/// Tethers with the real handlers. With fewer, messages are larger, and it is the generator's core that cannot take in what the
/// gateway sends: then a rule that sends more comes to less.
const TETHERS_REAL: u32 = 200;

struct Workload {
    name: &'static str,
    tethers: u32,
    ballast: Ballast,
    pinned: Pinned,
    overload_pps: f64,
}

/// What is measured under a workload.
struct Measure {
    key: &'static str,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    /// The load tells it there, in packets a second.
    Throughput(&'static str),
    /// The load tells it there, in milliseconds.
    Latency(&'static str),
    /// How many cores the gateway kept busy: whether it, and not the generator, was the limit.
    Cores,
}

/// Idle tethers come second, when every gateway has been at work; those that may leave most behind come last.
const LOADS: [(&str, &[Measure]); 3] = [
    (
        "down",
        &[
            Measure { key: "down_pps", what: What::Throughput("/down/delivered_pps") },
            Measure { key: "down_cores", what: What::Cores },
        ],
    ),
    (
        IDLE,
        &[
            Measure { key: "idle_down_p50_ms", what: What::Latency("/down/latency_ms/p50") },
            Measure { key: "idle_up_p50_ms", what: What::Latency("/up/latency_ms/p50") },
        ],
    ),
    (
        "up",
        &[
            Measure { key: "up_pps", what: What::Throughput("/up/delivered_pps") },
            Measure { key: "up_cores", what: What::Cores },
        ],
    ),
];
/// The way of a load that is far from any limit.
const IDLE: &str = "both";

/// The figures of a measure, rule by rule.
type ByRule = [Vec<f64>; RULES.len()];

pub(crate) fn measure(run: &Run) -> Outcome<Figures> {
    // Unknown as soon as one of its ratios is.
    let (mut throughput, mut latency) = (Some(f64::INFINITY), Some(0.0_f64));
    let mut all = Figures::new();
    for workload in workloads(run)? {
        let mut figures = Figures::new();
        let Measured { figures: measured, failed } = measured(run, &workload)?;
        for (measure, by_rule) in measured {
            let rules = by_rule.each_ref().map(|figures| median(figures));
            let ratio = ratio(measure.what, rules);
            match measure.what {
                What::Throughput(_) => throughput = throughput.zip(ratio).map(|(worst, ratio)| worst.min(ratio)),
                What::Latency(_) => latency = latency.zip(ratio).map(|(worst, ratio)| worst.max(ratio)),
                What::Cores => {}
            }
            let spread = by_rule.iter().filter_map(|figures| spread(figures)).fold(0.0, f64::max);
            let [auto, always, never] = rules;
            let told = json!({ "auto": auto, "always": always, "never": never, "ratio": ratio, "spread": spread });
            crate::told(&format!("  {} {}: {told}", workload.name, measure.key));
            figures.insert(measure.key.into(), told);
        }
        failed.iter().for_each(|why| crate::told(&format!("  {}: {why}", workload.name)));
        figures.insert("failed".into(), json!(failed));
        all.insert(workload.name.into(), Value::Object(figures));
    }
    let mut figures = Figures::new();
    figures.insert("hand_over_throughput_ratio".into(), json!(throughput));
    figures.insert("hand_over_idle_latency_ratio".into(), json!(latency));
    figures.insert("hand_over".into(), Value::Object(all));
    Ok(figures)
}

/// The first rule beside the better of the others; nothing where the first, or both of the others, came to no figure.
fn ratio(what: What, [auto, always, never]: [Option<f64>; RULES.len()]) -> Option<f64> {
    let others = [always, never].into_iter().flatten();
    let better = match what {
        What::Throughput(_) => others.reduce(f64::max),
        What::Latency(_) | What::Cores => others.reduce(f64::min),
    };
    Some(auto? / better?)
}

/// The real handlers on the gateway's core; ballast on both cores, where a queue can be worth it, and the generator needs
/// little of them; in the full setting, ballast on the gateway's core, too.
fn workloads(run: &Run) -> Outcome<Vec<Workload>> {
    let fixed::Peak { ballast, peak_pps, .. } = fixed::known_peak(run)?;
    let cores = std::thread::available_parallelism()?.get() as f64;
    let real_pps = real::peak_of(run, TETHERS_REAL)?;
    let workload =
        |name, tethers, ballast, pinned, pps| Workload { name, tethers, ballast, pinned, overload_pps: OVERLOAD * pps };
    let mut workloads = vec![
        workload("real", TETHERS_REAL, Ballast::NONE, Pinned::Apart, real_pps),
        workload("ballast_all_cores", TETHERS, ballast, Pinned::Free, cores * peak_pps),
    ];
    if run.full {
        workloads.push(workload("ballast", TETHERS, ballast, Pinned::Apart, peak_pps));
    }
    Ok(workloads)
}

/// What a workload came to: every figure, and which loads failed, why.
struct Measured {
    figures: Vec<(&'static Measure, ByRule)>,
    failed: Vec<String>,
}

/// Every figure of a workload. The rules take turns, and each begins as often as the others.
fn measured(run: &Run, workload: &Workload) -> Outcome<Measured> {
    let mut sites = RULES.map(|rule| site(workload, rule));
    let measures = LOADS.iter().flat_map(|(_, measures)| measures.iter());
    let mut figures: Vec<_> = measures.map(|measure| (measure, ByRule::default())).collect();
    let mut failed = Vec::new();
    for turn in 0..if run.full { REPEATS_FULL } else { REPEATS_QUICK } {
        for (way, measures) in LOADS {
            for step in 0..RULES.len() {
                let rule = (turn + step) % RULES.len();
                let told = match &sites[rule] {
                    Ok(site) => one(site, workload, way, measures, run.lasts(LASTS)),
                    Err(why) => Err(why.to_string().into()),
                };
                match told {
                    Ok(told) => {
                        for (measure, figure) in measures.iter().zip(told) {
                            let of = figures.iter_mut().filter(|(of, _)| of.key == measure.key);
                            of.for_each(|(_, by_rule)| by_rule[rule].push(figure));
                        }
                    }
                    Err(error) => {
                        failed.push(format!("{way}, {}: {error}", RULES[rule]));
                        // What holds up that gateway is not to hold up the next load, nor the gateway that takes its place.
                        sites[rule] = Err("gone".into());
                        sites[rule] = site(workload, RULES[rule]);
                    }
                }
            }
        }
    }
    Ok(Measured { figures, failed })
}

fn site(workload: &Workload, rule: &str) -> Outcome<Site> {
    let set = format!("stages.default.hand_over={rule}");
    Site::start(workload.tethers, workload.ballast, workload.pinned, EgressMode::Raw, &["--set", &set])
}

/// The figures of one load, measure by measure.
fn one(site: &Site, workload: &Workload, way: &str, measures: &[Measure], lasts: Duration) -> Outcome<Vec<f64>> {
    let pps = if way == IDLE { IDLE_PPS } else { workload.overload_pps };
    let before = site.status()?.cpu_seconds;
    let report = fixed::load(site, way, workload.tethers, pps / f64::from(workload.tethers), lasts, &[])?;
    let cores = (site.status()?.cpu_seconds - before) / lasts.as_secs_f64();
    let figure = |measure: &Measure| match measure.what {
        What::Throughput(path) | What::Latency(path) => number(&report, path),
        What::Cores => Ok(cores),
    };
    measures.iter().map(figure).collect()
}

/// Nothing where no load told a figure.
fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// From the least to the most, as a part of the median.
fn spread(figures: &[f64]) -> Option<f64> {
    let (least, most) = figures.iter().fold((f64::INFINITY, 0.0_f64), |(least, most), &x| (least.min(x), most.max(x)));
    Some((most - least) / median(figures)?)
}
