//! The handlers as they are: goodput at 4 times the peak.

use std::time::Duration;

use serde_json::json;
use wstether::cli::EgressMode;
use wstether::stages::ballast::Ballast;

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

const LASTS: Lasts = Lasts { quick_s: 3, full_s: 8 };

pub(crate) fn measure(run: &Run) -> Outcome<Figures> {
    let site = site(TETHERS)?;
    let peak = peak(&site, run, TETHERS)?;
    let overloaded = goodput(&site, TETHERS, OVERLOAD * peak.delivered_pps, run.lasts(LASTS))?;
    let Goodput { sent_pps, delivered_pps, .. } = overloaded;
    // A machine's speed drifts: what is compared lies between two looks at the peak.
    let again = goodput(&site, TETHERS, peak.sent_pps, run.lasts(LASTS))?;
    let peak_pps = f64::midpoint(peak.delivered_pps, again.delivered_pps);
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

fn site(tethers: u32) -> Outcome<Site> {
    Site::start(tethers, Ballast::NONE, Pinned::Apart, EgressMode::Raw, &[])
}

/// The peak with so many tethers, for other parts.
pub(crate) fn peak_of(run: &Run, tethers: u32) -> Outcome<f64> {
    Ok(peak(&site(tethers)?, run, tethers)?.delivered_pps)
}

/// What became of a load.
struct Goodput {
    sent_pps: f64,
    delivered_pps: f64,
    /// The median latency of what was delivered.
    p50_ms: f64,
}

/// The load of which the most packets a second are delivered.
fn peak(site: &Site, run: &Run, tethers: u32) -> Outcome<Goodput> {
    let (skipped, step) = if run.full { (0, STEP) } else { (SKIPPED_QUICK, STEP * STEP) };
    let mut pps = FIRST_PPS * STEP.powi(skipped);
    let try_with = |pps| goodput(site, tethers, pps, Duration::from_secs(1));
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

fn goodput(site: &Site, tethers: u32, pps: f64, lasts: Duration) -> Outcome<Goodput> {
    let (rate, seconds) = ((pps / f64::from(tethers)).to_string(), lasts.as_secs_f64());
    let (tethers, lasts) = (tethers.to_string(), seconds.to_string());
    let args = ["--direction", "down", "--tethers", &tethers, "--rate", &rate, "--seconds", &lasts, "--size", "128"];
    let report = site.load(&args)?;
    Ok(Goodput {
        sent_pps: number(&report, "/down/sent")? / seconds,
        delivered_pps: number(&report, "/down/delivered_pps")?,
        p50_ms: number(&report, "/down/latency_ms/p50")?,
    })
}
