//! The handlers as they are: goodput at 4 times the peak.

use std::time::Duration;

use serde_json::json;
use wstether::cli::EgressMode;

use crate::fixed;
use crate::run::mean;
use crate::site::{Pinned, Site, number};
use crate::{Figures, Lasts, Outcome, Run, told};

pub(crate) const KEYS: [&str; 3] = ["goodput_ratio_real_at_4x", "real_peak_pps", "real_times_the_peak"];

/// So many that most packets are a message and a system call of their own: it takes all that a generator's core can send to
/// offer several times what the gateway then carries.
const TETHERS: u32 = 1_000;
/// The first load, in packets a second. It grows until it is not delivered any more, from step to step.
const FIRST_PPS: f64 = 10_000.0;
const STEP: f64 = std::f64::consts::SQRT_2;
/// The quick setting begins so many steps later, takes two at once, and then tries what is between the last two loads.
const SKIPPED_QUICK: i32 = 6;
/// A load of which less is delivered is beyond the peak.
const DELIVERED: f64 = 0.8;
const PPS_MAX: f64 = 2e6;
const OVERLOAD: f64 = 4.0;

const LASTS: Lasts = Lasts { quick_ms: 1_500, full_ms: 6_000 };
/// Loads of 4 times the peak, each between two of the peak.
const TURNS: usize = 2;

pub(crate) fn measure(run: &Run) -> Outcome<Figures> {
    let site = site()?;
    let peak = peak(&site, run)?;
    // A machine's speed drifts: what is compared takes turns.
    let (mut at_peak_pps, mut sent_pps, mut delivered_pps) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        at_peak_pps.push(goodput(&site, peak.sent_pps, run.lasts(LASTS))?.delivered_pps);
        let overloaded = goodput(&site, OVERLOAD * peak.delivered_pps, run.lasts(LASTS))?;
        sent_pps.push(overloaded.sent_pps);
        delivered_pps.push(overloaded.delivered_pps);
    }
    at_peak_pps.push(goodput(&site, peak.sent_pps, run.lasts(LASTS))?.delivered_pps);
    let [peak_pps, sent_pps, delivered_pps] = [at_peak_pps, sent_pps, delivered_pps].map(|figures| mean(&figures));
    // Whoever waits longer goes into fewer and larger messages.
    let waits = format!("peak {peak_pps:.0} packets/s at a median latency of {:.1} ms", peak.p50_ms);
    told(&format!("  {waits}; of {sent_pps:.0} sent a second {delivered_pps:.0} are delivered"));
    let mut figures = Figures::new();
    figures.insert("real_peak_pps".into(), json!(peak_pps));
    // Where the generator cannot send 4 times as much, this tells how much it was.
    figures.insert("real_times_the_peak".into(), json!(sent_pps / peak_pps));
    figures.insert("goodput_ratio_real_at_4x".into(), json!(delivered_pps / peak_pps));
    Ok(figures)
}

fn site() -> Outcome<Site> {
    Site::start(TETHERS, None, Pinned::Apart, EgressMode::Raw, &[])
}

/// The peak for the other parts: as this one found it, or found now.
pub(crate) fn known_peak(run: &Run) -> Outcome<f64> {
    run.known("real_peak_pps").map_or_else(|| Ok(peak(&site()?, run)?.delivered_pps), Ok)
}

/// What became of a load.
struct Goodput {
    sent_pps: f64,
    delivered_pps: f64,
    /// The median latency of what was delivered.
    p50_ms: f64,
}

/// The load of which the most packets a second are delivered.
fn peak(site: &Site, run: &Run) -> Outcome<Goodput> {
    let (skipped, step) = if run.full { (0, STEP) } else { (SKIPPED_QUICK, STEP * STEP) };
    let mut pps = FIRST_PPS * STEP.powi(skipped);
    let try_with = |pps| goodput(site, pps, Duration::from_secs(1));
    let mut peak = try_with(pps)?;
    let mut last = (peak.sent_pps, peak.delivered_pps);
    while last.0.min(last.1) >= DELIVERED * pps && pps * step < PPS_MAX {
        pps *= step;
        let next = try_with(pps)?;
        last = (next.sent_pps, next.delivered_pps);
        peak = peak.or_better(next);
    }
    if run.full { Ok(peak) } else { Ok(peak.or_better(try_with(pps / STEP)?)) }
}

impl Goodput {
    fn or_better(self, other: Self) -> Self {
        if other.delivered_pps > self.delivered_pps { other } else { self }
    }
}

fn goodput(site: &Site, pps: f64, lasts: Duration) -> Outcome<Goodput> {
    let report = fixed::down(site, TETHERS, pps, lasts, &[])?;
    let seconds = lasts.as_secs_f64();
    Ok(Goodput {
        sent_pps: number(&report, "/down/sent")? / seconds,
        delivered_pps: number(&report, "/down/delivered_pps")?,
        p50_ms: number(&report, "/down/latency_ms/p50")?,
    })
}
