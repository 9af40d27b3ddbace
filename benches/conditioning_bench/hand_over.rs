//! The rule of hand-over that decides by itself beside the two fixed ones, over the bench's workloads. One gateway has each in
//! turn, many times: throughput while a load runs through, and idle latency.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wstether::cli::EgressMode;
use wstether::stages::ballast::Ballast;

use crate::fixed::{self, TETHERS};
use crate::real;
use crate::run::mean;
use crate::site::{Pinned, Site, Way, number};
use crate::{Figures, Lasts, Outcome, Run};

pub(crate) const KEYS: [&str; 3] = ["hand_over_throughput_ratio", "hand_over_idle_latency_ratio", "hand_over"];

/// The rule that is judged is the first.
const RULES: [&str; 3] = ["auto", "always", "never"];

/// Times the peak: more than any rule can do, and not so much that the generator starves.
const OVERLOAD: f64 = 1.5;
/// The same of the peak with the real handlers, which is told of more tethers, whose packets cost more.
const OVERLOAD_REAL: f64 = 2.5;
/// Of all tethers together, each way, in packets a second: 20 ms between two packets, each of which finds all threads
/// asleep.
const IDLE_PPS: f64 = 250.0;

/// Of each rule, one after the other. What the machine does to one turn it does to the next, or to another rule's in another
/// round: it is their number that tells 5 % from chance.
const ROUNDS_QUICK: usize = 8;
const ROUNDS_FULL: usize = 60;
/// With ballast a turn is like another.
const ROUNDS_BALLAST_QUICK: usize = 5;
/// How long a rule has until it is measured: many batches, and some looks of the controllers.
const SETTLE: Duration = Duration::from_millis(80);
/// And for how long it is.
const TURN: Duration = Duration::from_millis(220);
/// From the first packets to the first turn.
const BEGIN: Duration = Duration::from_millis(500);
/// What the looks before and after a turn may take.
const LOOKS: Duration = Duration::from_millis(10);
/// The load goes on for so long after the last turn, if the looks take no longer.
const AFTER: Duration = Duration::from_millis(600);

/// Loads of each rule while idle.
const IDLE_ROUNDS_QUICK: usize = 2;
const IDLE_ROUNDS_FULL: usize = 9;
const IDLE_LASTS: Lasts = Lasts { quick_ms: 450, full_ms: 2_000 };

/// Tethers with the real handlers. With fewer, messages are larger, and it is the generator's core that cannot take in what the
/// gateway sends: then a rule that sends more comes to less.
const TETHERS_REAL: u32 = 200;

struct Workload {
    name: &'static str,
    tethers: u32,
    ballast: Ballast,
    pinned: Pinned,
    overload_pps: f64,
    rounds: usize,
}

/// The figures of each rule, round by round.
type ByRule = [Vec<f64>; RULES.len()];

/// What of a workload was measured.
struct Measured {
    key: String,
    what: What,
    by_rule: ByRule,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// In packets a second.
    Throughput,
    /// In milliseconds.
    Latency,
    /// How many cores the gateway kept busy: whether it, and not the generator, was the limit.
    Cores,
}

pub(crate) fn measure(run: &Run) -> Outcome<Figures> {
    // Unknown as soon as one of its ratios is.
    let (mut throughput, mut latency) = (Some(f64::INFINITY), Some(0.0_f64));
    let mut all = Figures::new();
    for workload in workloads(run)? {
        let mut figures = Figures::new();
        match measured(run, &workload) {
            Ok(list) => {
                for measured in list {
                    let Beside { rules, ratio, error } = beside(&measured);
                    // Where nothing came through there is nothing to compare.
                    let known = Some(ratio).filter(|ratio| ratio.is_finite());
                    match measured.what {
                        What::Throughput => throughput = throughput.zip(known).map(|(worst, ratio)| worst.min(ratio)),
                        What::Latency => latency = latency.zip(known).map(|(worst, ratio)| worst.max(ratio)),
                        What::Cores => {}
                    }
                    let [auto, always, never] = rules;
                    let told = json!({ "auto": auto, "always": always, "never": never, "ratio": ratio, "standard_error": error });
                    crate::told(&format!("  {} {}: {told}", workload.name, measured.key));
                    figures.insert(measured.key, told);
                }
            }
            Err(error) => {
                crate::told(&format!("  {}: {error}", workload.name));
                figures.insert("failed".into(), error.to_string().into());
                (throughput, latency) = (None, None);
            }
        }
        all.insert(workload.name.into(), Value::Object(figures));
    }
    let mut figures = Figures::new();
    figures.insert("hand_over_throughput_ratio".into(), json!(throughput));
    figures.insert("hand_over_idle_latency_ratio".into(), json!(latency));
    figures.insert("hand_over".into(), Value::Object(all));
    Ok(figures)
}

/// The real handlers on the gateway's core; ballast on both cores, where a queue can be worth it, and the generator needs
/// little of them; in the full setting, ballast on the gateway's core, too.
fn workloads(run: &Run) -> Outcome<Vec<Workload>> {
    let fixed::Peak { ballast, peak_pps, .. } = fixed::known_peak(run)?;
    let cores = std::thread::available_parallelism()?.get() as f64;
    let real = Workload {
        name: "real",
        tethers: TETHERS_REAL,
        ballast: Ballast::NONE,
        pinned: Pinned::Apart,
        overload_pps: OVERLOAD_REAL * real::known_peak(run)?,
        rounds: if run.full { ROUNDS_FULL } else { ROUNDS_QUICK },
    };
    let with_ballast = |name, pinned, cores| Workload {
        name,
        tethers: TETHERS,
        ballast,
        pinned,
        overload_pps: OVERLOAD * cores * peak_pps,
        rounds: if run.full { ROUNDS_FULL } else { ROUNDS_BALLAST_QUICK },
    };
    let mut workloads = vec![real, with_ballast("ballast_all_cores", Pinned::Free, cores)];
    if run.full {
        workloads.push(with_ballast("ballast", Pinned::Apart, 1.0));
    }
    Ok(workloads)
}

fn measured(run: &Run, workload: &Workload) -> Outcome<Vec<Measured>> {
    let site = Site::start(workload.tethers, Some(workload.ballast), workload.pinned, EgressMode::Raw, &[])?;
    // Idle tethers come second, when the gateway has been at work.
    let down = overloaded(&site, workload, Way::Down)?;
    let idle = idle(&site, run, workload)?;
    let up = overloaded(&site, workload, Way::Up)?;
    Ok(down.into_iter().chain(idle).chain(up).collect())
}

/// Throughput under more than the gateway can do. The load lasts while the rules take turns.
fn overloaded(site: &Site, workload: &Workload, way: Way) -> Outcome<[Measured; 2]> {
    let turns = BEGIN + (workload.rounds * RULES.len()) as u32 * (SETTLE + TURN + LOOKS);
    let lasts = turns + AFTER;
    let args =
        fixed::arguments(way.word(), workload.tethers, workload.overload_pps / f64::from(workload.tethers), lasts);
    let (mut pps, mut cores) = (ByRule::default(), ByRule::default());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    site.meanwhile(&args, way, || {
        let begun = Instant::now();
        sleep(BEGIN);
        in_turn(workload.rounds, |rule| {
            site.set_rule(RULES[rule])?;
            sleep(SETTLE);
            let before = site.passed(way)?;
            sleep(TURN);
            let after = site.passed(way)?;
            let seconds = (after.at - before.at).as_secs_f64();
            pps[rule].push((after.packets - before.packets) as f64 / seconds);
            cores[rule].push((after.cpu_seconds - before.cpu_seconds) / seconds);
            Ok(())
        })?;
        // A turn that is half without load would be one rule's.
        if begun.elapsed() > turns + AFTER / 2 { Err("the looks took too long".into()) } else { Ok(()) }
    })?;
    let measured = |what: &str, of, by_rule| Measured { key: format!("{}_{what}", way.word()), what: of, by_rule };
    Ok([measured("pps", What::Throughput, pps), measured("cores", What::Cores, cores)])
}

/// Latency while idle, each way.
fn idle(site: &Site, run: &Run, workload: &Workload) -> Outcome<[Measured; 2]> {
    let rounds = if run.full { IDLE_ROUNDS_FULL } else { IDLE_ROUNDS_QUICK };
    let rate = IDLE_PPS / f64::from(workload.tethers);
    let (mut down, mut up) = (ByRule::default(), ByRule::default());
    let load = || fixed::load(site, "both", workload.tethers, rate, run.lasts(IDLE_LASTS), &[]);
    // The first one finds what the overload has left behind, which is no rule's doing.
    load()?;
    in_turn(rounds, |rule| {
        site.set_rule(RULES[rule])?;
        let report = load()?;
        down[rule].push(number(&report, "/down/latency_ms/p50")?);
        up[rule].push(number(&report, "/up/latency_ms/p50")?);
        Ok(())
    })?;
    let measured = |key: &str, by_rule| Measured { key: key.to_owned(), what: What::Latency, by_rule };
    Ok([measured("idle_down_p50_ms", down), measured("idle_up_p50_ms", up)])
}

/// The orders of rounds: over six of them each rule is as often before and behind each other one.
const ORDERS: [[usize; RULES.len()]; 6] = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1], [2, 0, 1], [1, 0, 2]];

/// Each rule once a round.
fn in_turn(rounds: usize, turn: impl FnMut(usize) -> Outcome<()>) -> Outcome<()> {
    ORDERS.into_iter().cycle().take(rounds).flatten().try_for_each(turn)
}

/// What the first rule comes to beside the better of the others.
struct Beside {
    /// The mean of each rule.
    rules: [f64; RULES.len()],
    ratio: f64,
    /// The standard error of the ratio, from how far from it single rounds are.
    error: f64,
}

fn beside(measured: &Measured) -> Beside {
    let rules = measured.by_rule.each_ref().map(|figures| mean(figures));
    let [auto, always, never] = rules;
    let is_always = match measured.what {
        What::Throughput => always > never,
        What::Latency | What::Cores => always < never,
    };
    let better = if is_always { 1 } else { 2 };
    let (ratio, pairs) = (auto / rules[better], measured.by_rule[0].iter().zip(&measured.by_rule[better]));
    let rounds = measured.by_rule[0].len() as f64;
    let squares: f64 = pairs.map(|(auto, of_better)| ((auto - ratio * of_better) / rules[better]).powi(2)).sum();
    Beside { rules, ratio, error: (squares / (rounds - 1.0).max(1.0) / rounds).sqrt() }
}
