//! With a fixed cost a packet, so that the gateway and not the generator is the limit: what becomes of goodput, latency and
//! fairness at loads up to 20 times the peak.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wstether::cli::EgressMode;
use wstether::stages::ballast::Ballast;

use crate::run::mean;
use crate::site::{Pinned, Site, each, number};
use crate::{Figures, Lasts, Outcome, Run, told};

pub(crate) const KEYS: [&str; 11] = [
    "goodput_ratio_at_20x",
    "p99_ms_at_half_load",
    "p99_ms_at_20x",
    "p99_limit_ms",
    "recovery_ms",
    "recovery_limit_ms",
    "peak_pps",
    "ballast_rounds",
    "generator_pps",
    "generator_factor",
    "machine_slowest_moment_ratio",
];
pub(crate) const UPLINK_KEYS: [&str; 3] =
    ["uplink_goodput_ratio_worst", "uplink_goodput_ratio", "uplink_sparse_wait_ms"];
pub(crate) const FAIRNESS_KEYS: [&str; 2] = ["jain_1000", "worst_share_1000"];
pub(crate) const HOG_KEYS: [&str; 1] = ["hog_worst_share_ratio"];

/// How many times faster than the gateway's peak the generator must be.
const GENERATOR_FACTOR: f64 = 40.0;

/// The gateway's own cost and noise come on top of the fixed one.
const MARGIN: f64 = 1.1;

/// More than any generator can send, in packets a second.
const FLOOD_PPS: f64 = 1e6;

/// Loads among which the peak is, as parts of what the fixed cost alone would allow.
const PEAK_AT: [f64; 4] = [0.7, 0.85, 1.0, 1.2];
/// The same as parts of the peak that was found before.
const PEAK_AGAIN_AT: [f64; 2] = [1.0, 1.1];
/// Overloads, each between two looks at the peak.
const TURNS: usize = 2;

const OVERLOAD: f64 = 20.0;
/// Tethers that share the load, where their number does not matter.
pub(crate) const TETHERS: u32 = 50;
const MANY: u32 = 1_000;
const HOGGED: u32 = 100;
const SIZE: &str = "128";

/// At each load among which the peak is.
const PEAK: Lasts = Lasts { quick_ms: 1_500, full_ms: 8_000 };
/// A p99 wants some ten thousand packets.
const HALF: Lasts = Lasts { quick_ms: 4_000, full_ms: 10_000 };
/// The first tens of milliseconds of an overload, until it is known as one, are to be under 1 % of it.
const OVERLOADED: Lasts = Lasts { quick_ms: 8_000, full_ms: 10_000 };
/// The overload in it ends after 3 s, and p99 is to be back for a while.
const RECOVERY: Lasts = Lasts { quick_ms: 5_000, full_ms: 7_000 };
/// Where a thousand begin at once, the first tenths of a second go to reading each for the first time.
const UPLINK: Lasts = Lasts { quick_ms: 3_000, full_ms: 8_000 };
const UPLINK_OF_ONE: Lasts = Lasts { quick_ms: 1_500, full_ms: 8_000 };
/// Who is sparse is known after a while, of up to four seconds.
const UPLINK_SPARSE: Lasts = Lasts { quick_ms: 6_000, full_ms: 15_000 };
/// Shares of some tens of packets would be those of chance. So that each of a thousand gets some hundred, packets cost this part
/// of the ballast here, where the generator need not be many times as fast.
const FAIRNESS_PART: u64 = 4;
/// Less of an overload has nothing to share out.
const FAIRNESS_OVERLOAD_MIN: f64 = 1.2;
const FAIRNESS: Lasts = Lasts { quick_ms: 12_000, full_ms: 20_000 };
const HOG: Lasts = Lasts { quick_ms: 4_000, full_ms: 10_000 };

/// What p99 may be under overload, and what it is to come back to after it, in milliseconds.
const P99_MAX_MS: f64 = 10.0;
/// The same as a multiple of what it was at half the load. The larger counts: a machine that stands still in half the load
/// loosens it, so that it is told with the figures.
const P99_MAX_FACTOR: f64 = 3.0;

/// A gateway's fixed cost, and what it can do with it. Found once, for all parts.
#[derive(Clone, Copy)]
pub(crate) struct Peak {
    pub(crate) ballast: Ballast,
    pub(crate) peak_pps: f64,
    generator_pps: f64,
}

/// The peak, and the site that it was found at.
fn peak(run: &Run) -> Outcome<(Peak, Site)> {
    let generator_pps = generator()?;
    let peak_target_pps = generator_pps / GENERATOR_FACTOR / MARGIN;
    // Runs with one ballast can be compared.
    let known = run.known("ballast_rounds").map(|rounds| Ballast { rounds: rounds as u64 });
    let ballast = known.unwrap_or_else(|| ballast(Duration::from_secs_f64(1.0 / peak_target_pps)));
    told(&format!("  generator {generator_pps:.0} packets/s, {} rounds a packet", ballast.rounds));
    let site = Site::start(TETHERS, Some(ballast), Pinned::Apart, EgressMode::Raw, &[])?;
    let peak_pps = best(&site, peak_target_pps, &PEAK_AT, run)?;
    Ok((Peak { ballast, peak_pps, generator_pps }, site))
}

/// The most packets a second that are delivered at any of the loads, which are parts of `pps`.
fn best(site: &Site, pps: f64, parts: &[f64], run: &Run) -> Outcome<f64> {
    parts.iter().try_fold(0.0, |best, part| Ok(f64::max(best, goodput(site, pps * part, run.lasts(PEAK))?.0)))
}

/// The same for the other parts: as the part before found it, or found now.
pub(crate) fn known_peak(run: &Run) -> Outcome<Peak> {
    match ["ballast_rounds", "peak_pps", "generator_pps"].map(|key| run.known(key)) {
        [Some(rounds), Some(peak_pps), Some(generator_pps)] => {
            Ok(Peak { ballast: Ballast { rounds: rounds as u64 }, peak_pps, generator_pps })
        }
        [..] => Ok(peak(run)?.0),
    }
}

/// How fast a core is in the slowest moment of a while in which nothing else runs, as a part of the median: a virtual machine
/// shares it with others. Where that is little, queues are long and packets late at any load, whatever a gateway does.
fn slowest_moment_ratio() -> f64 {
    const LASTS: Duration = Duration::from_millis(2_400);
    const MOMENT: Duration = Duration::from_millis(50);
    let probe = Ballast { rounds: 10_000 };
    let speed = |begun: Instant| {
        let mut burnt = 0;
        while begun.elapsed() < MOMENT {
            probe.burn(1);
            burnt += 1;
        }
        f64::from(burnt) / begun.elapsed().as_secs_f64()
    };
    let begun = Instant::now();
    let moments = std::iter::from_fn(|| (begun.elapsed() < LASTS).then(|| speed(Instant::now())));
    let mut speeds: Vec<f64> = moments.collect();
    speeds.sort_by(f64::total_cmp);
    speeds[0] / speeds[speeds.len() / 2]
}

pub(crate) fn measure(run: &Run) -> Outcome<Figures> {
    let slowest_moment_ratio = slowest_moment_ratio();
    told(&format!("  in its slowest moment this machine has {slowest_moment_ratio:.2} of its speed"));
    let (Peak { ballast, peak_pps, generator_pps }, site) = peak(run)?;
    let generator_factor = generator_pps / peak_pps;
    if generator_factor < GENERATOR_FACTOR {
        return Err(format!("the generator sends {generator_factor:.1} times the peak, which is too little").into());
    }
    let (_, half_p99_ms) = goodput(&site, peak_pps / 2.0, run.lasts(HALF))?;
    let p99_limit_ms = P99_MAX_MS.max(P99_MAX_FACTOR * half_p99_ms);
    // A machine's speed drifts: what is compared takes turns.
    let (mut at_peak_pps, mut at_20x_pps, mut p99_ms) = (PEAK_AGAIN_AT.map(|_| Vec::new()), Vec::new(), Vec::new());
    let mut look = || -> Outcome<()> {
        for (part, figures) in PEAK_AGAIN_AT.iter().zip(&mut at_peak_pps) {
            figures.push(goodput(&site, peak_pps * part, run.lasts(PEAK))?.0);
        }
        Ok(())
    };
    for _ in 0..TURNS {
        look()?;
        let (pps, p99_of_turn_ms) = goodput(&site, peak_pps * OVERLOAD, run.lasts(OVERLOADED))?;
        at_20x_pps.push(pps);
        p99_ms.push(p99_of_turn_ms);
    }
    look()?;
    let (at_20x_pps, p99_ms) = (mean(&at_20x_pps), mean(&p99_ms));
    let peak_before_pps = peak_pps;
    let peak_pps = at_peak_pps.iter().map(|figures| mean(figures)).fold(0.0, f64::max);
    told(&format!(
        "  peak {peak_pps:.0} packets/s ({peak_before_pps:.0} before); at {OVERLOAD} times: {at_20x_pps:.0}, p99 \
         {p99_ms:.1} ms (half: {half_p99_ms:.1}, limit: {p99_limit_ms:.1})"
    ));
    let mut figures = Figures::new();
    figures.insert("generator_pps".into(), json!(generator_pps));
    figures.insert("generator_factor".into(), json!(generator_factor));
    figures.insert("machine_slowest_moment_ratio".into(), json!(slowest_moment_ratio));
    figures.insert("peak_pps".into(), json!(peak_pps));
    figures.insert("ballast_rounds".into(), json!(ballast.rounds));
    figures.insert("goodput_ratio_at_20x".into(), json!(at_20x_pps / peak_pps));
    figures.insert("p99_ms_at_half_load".into(), json!(half_p99_ms));
    figures.insert("p99_ms_at_20x".into(), json!(p99_ms));
    figures.insert("p99_limit_ms".into(), json!(p99_limit_ms));
    let Recovery { after_ms, limit_ms } = recovery(&site, peak_pps, run.lasts(RECOVERY))?;
    figures.insert("recovery_ms".into(), json!(after_ms));
    figures.insert("recovery_limit_ms".into(), json!(limit_ms));
    Ok(figures)
}

/// How many packets a second the sink can send, through the kernel's part of the way.
fn generator() -> Outcome<f64> {
    // A gateway that is busy with each packet passes few on, so that nobody takes the generator's core from it.
    let site = Site::start(TETHERS, Some(ballast(Duration::from_micros(100))), Pinned::Apart, EgressMode::Raw, &[])?;
    let report = down(&site, TETHERS, FLOOD_PPS, Duration::from_secs(1), &[])?;
    // What is not sent within a second of its time is not sent at all: the sink was busy for two.
    let sent = number(&report, "/down/sent")?;
    if sent > 0.0 { Ok(sent / 2.0) } else { Err("the sink sent nothing".into()) }
}

/// Rounds that take about so long.
fn ballast(cost: Duration) -> Ballast {
    let probe = Ballast { rounds: 10_000_000 };
    let took = (0..5).map(|_| {
        let started = Instant::now();
        probe.burn(1);
        started.elapsed()
    });
    // The shortest is the one that nothing else disturbed.
    let took = took.min().unwrap_or(Duration::MAX);
    Ballast { rounds: (probe.rounds as f64 * cost.as_secs_f64() / took.as_secs_f64()) as u64 }
}

pub(crate) fn down(site: &Site, tethers: u32, pps: f64, lasts: Duration, more: &[&str]) -> Outcome<Value> {
    load(site, "down", tethers, pps / f64::from(tethers), lasts, more)
}

pub(crate) fn load(site: &Site, way: &str, tethers: u32, rate: f64, lasts: Duration, more: &[&str]) -> Outcome<Value> {
    let args = arguments(way, tethers, rate, lasts);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    site.load(&[&args, more].concat())
}

/// Those of a load.
pub(crate) fn arguments(way: &str, tethers: u32, rate: f64, lasts: Duration) -> [String; 10] {
    let (tethers, rate, lasts) = (tethers.to_string(), rate.to_string(), lasts.as_secs_f64().to_string());
    ["--direction", way, "--tethers", &tethers, "--rate", &rate, "--seconds", &lasts, "--size", SIZE].map(str::to_owned)
}

/// Packets delivered a second, and the p99 of their latency in milliseconds.
fn goodput(site: &Site, pps: f64, lasts: Duration) -> Outcome<(f64, f64)> {
    let report = down(site, TETHERS, pps, lasts, &[])?;
    Ok((number(&report, "/down/delivered_pps")?, number(&report, "/down/latency_ms/p99")?))
}

struct Recovery {
    /// Nothing where p99 does not come back.
    after_ms: Option<u64>,
    limit_ms: f64,
}

/// How long after an overload until p99 is within the limit for half a second, in milliseconds. The limit goes by the median of
/// the windows of a tenth of a second before the overload, so that no moment in which the machine stood still loosens it. What
/// comes later than that half second is such a moment's doing.
fn recovery(site: &Site, peak_pps: f64, lasts: Duration) -> Outcome<Recovery> {
    const OVERLOAD_BEGINS_MS: u64 = 1_000;
    const OVERLOAD_ENDS_MS: u64 = 3_000;
    const BACK_FOR_WINDOWS: usize = 5;
    let surge = format!("{}:1:3", 2.0 * OVERLOAD);
    let report = down(site, TETHERS, peak_pps / 2.0, lasts, &["--surge", &surge, "--windows"])?;
    let windows = report["windows"].as_array().ok_or("the load tells no windows")?;
    let at_ms = |window: &Value| window["at_ms"].as_u64().unwrap_or(0);
    let before = windows.iter().filter(|window| at_ms(window) < OVERLOAD_BEGINS_MS);
    let mut before_ms: Vec<f64> = before.filter_map(|window| window["p99_ms"].as_f64()).collect();
    before_ms.sort_by(f64::total_cmp);
    let usual_ms = *before_ms.get(before_ms.len() / 2).ok_or("nothing arrived before the overload")?;
    let limit_ms = P99_MAX_MS.max(P99_MAX_FACTOR * usual_ms);
    // A while of which nothing arrived is no better than one that was slow.
    let is_within = |window: &Value| window["p99_ms"].as_f64().is_some_and(|p99_ms| p99_ms <= limit_ms);
    let after: Vec<_> = windows.iter().filter(|window| at_ms(window) >= OVERLOAD_ENDS_MS).collect();
    let back = after.windows(BACK_FOR_WINDOWS).find(|windows| windows.iter().all(|window| is_within(window)));
    Ok(Recovery { after_ms: back.map(|windows| at_ms(windows[0]) - OVERLOAD_ENDS_MS), limit_ms })
}

/// From the tethers, at 20 times the peak: goodput as a part of what one tether comes to, by number of tethers. A machine's speed
/// drifts: each lies between two looks at one.
pub(crate) fn uplink(run: &Run) -> Outcome<Figures> {
    let Peak { ballast, peak_pps, .. } = known_peak(run)?;
    let site = Site::start(MANY, Some(ballast), Pinned::Apart, EgressMode::Raw, &[])?;
    let delivered = |tethers: u32| {
        let (rate, lasts) =
            (OVERLOAD * peak_pps / f64::from(tethers), if tethers == 1 { UPLINK_OF_ONE } else { UPLINK });
        number(&load(&site, "up", tethers, rate, run.lasts(lasts), &[])?, "/up/delivered_pps")
    };
    let (mut before_pps, mut worst, mut ratios) = (delivered(1)?, f64::INFINITY, Figures::new());
    for tethers in [10, 100, MANY] {
        let (pps, after_pps) = (delivered(tethers)?, delivered(1)?);
        // Where one came to nothing there is nothing to compare with.
        let ratio = if before_pps.min(after_pps) > 0.0 { pps / f64::midpoint(before_pps, after_pps) } else { 0.0 };
        told(&format!("  {tethers} tethers {pps:.0} packets/s, one {before_pps:.0} before and {after_pps:.0} after"));
        ratios.insert(tethers.to_string(), json!(ratio));
        (before_pps, worst) = (after_pps, worst.min(ratio));
    }
    let sparse_ms = sparse_wait_ms(&site, peak_pps, run.lasts(UPLINK_SPARSE))?;
    told(&format!(
        "  beside {HOGGED} that send a hundred times as much the others wait {sparse_ms:.1} ms in the median"
    ));
    let mut figures = Figures::new();
    figures.insert("uplink_goodput_ratio_worst".into(), json!(worst));
    figures.insert("uplink_goodput_ratio".into(), Value::Object(ratios));
    figures.insert("uplink_sparse_wait_ms".into(), json!(sparse_ms));
    Ok(figures)
}

/// The median wait of packets of tethers that send an eighth of their fair share each, beside as many that send a hundred times
/// that: six times the peak, in all.
fn sparse_wait_ms(site: &Site, peak_pps: f64, lasts: Duration) -> Outcome<f64> {
    let rate = peak_pps / f64::from(2 * HOGGED) / 8.0;
    let hogs = format!("steady,hog={HOGGED}");
    let report = load(site, "up", 2 * HOGGED, rate, lasts, &["--mix", &hogs])?;
    number(&report, "/mixes/steady/up/latency_ms/p50")
}

/// Jain's index and the worst share of many equal tethers at 1.5 times the peak.
pub(crate) fn fairness(run: &Run) -> Outcome<Figures> {
    let Peak { ballast, peak_pps, .. } = known_peak(run)?;
    let ballast = Ballast { rounds: ballast.rounds / FAIRNESS_PART };
    let site = Site::start(MANY, Some(ballast), Pinned::Apart, EgressMode::Raw, &[])?;
    let more_than_all_pps = FAIRNESS_PART as f64 * peak_pps;
    let most = down(&site, MANY, more_than_all_pps, run.lasts(PEAK), &[])?;
    let offered_pps = 1.5 * number(&most, "/down/delivered_pps")?;
    told(&format!("  {MANY} tethers are sent {offered_pps:.0} packets/s"));
    let report = down(&site, MANY, offered_pps, run.lasts(FAIRNESS), &[])?;
    let times = offered_pps / number(&report, "/down/delivered_pps")?.max(1.0);
    if times < FAIRNESS_OVERLOAD_MIN {
        return Err(format!("the load was {times:.2} times what came through, which is no overload").into());
    }
    let mut figures = Figures::new();
    figures.insert("jain_1000".into(), json!(number(&report, "/down/shares/jain")?));
    figures.insert("worst_share_1000".into(), json!(number(&report, "/down/shares/worst")?));
    Ok(figures)
}

/// What the worst off of 100 tethers gets beside a hog, as a part of what it gets without.
pub(crate) fn hog(run: &Run) -> Outcome<Figures> {
    let Peak { ballast, peak_pps, .. } = known_peak(run)?;
    let site = Site::start(HOGGED + 1, Some(ballast), Pinned::Apart, EgressMode::Raw, &[])?;
    let rate = 0.8 * peak_pps / f64::from(HOGGED);
    let lasts = run.lasts(HOG);
    let without = || each(&load(&site, "down", HOGGED, rate, lasts, &["--each"])?, "/down/each");
    let with =
        || each(&load(&site, "down", HOGGED + 1, rate, lasts, &["--each", "--mix", "steady,hog=1"])?, "/down/each");
    // In turn, there and back, since a machine's speed drifts.
    let turns = [without()?, with()?, with()?, without()?];
    let sums = |one: usize, other: usize| turns[one].iter().zip(&turns[other]).map(|(one, other)| one + other);
    // The hog is the last one.
    let worst = sums(1, 2).zip(sums(0, 3)).map(|(with, without)| with / without.max(1.0)).fold(f64::INFINITY, f64::min);
    Ok([("hog_worst_share_ratio".to_owned(), json!(worst))].into_iter().collect())
}
