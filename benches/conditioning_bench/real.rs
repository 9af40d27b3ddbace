//! The handlers as they are: goodput at 4 times the peak, or at as much of that as the generator can send.

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
/// The first load, in packets a second. It grows from step to step.
const FIRST_PPS: f64 = 10_000.0;
const STEP: f64 = std::f64::consts::SQRT_2;
/// The quick setting begins so many steps later, takes two at once, and then tries a load between the best and the next one.
const SKIPPED_QUICK: i32 = 6;
/// Loads in a row that deliver less than the best before them: then the peak is behind. One alone may be the machine's doing,
/// and more than the gateway can take makes larger messages, of which it delivers more.
const WORSE_MAX: u32 = 2;
const PPS_MAX: f64 = 2e6;
/// A generator that sends less than this part of what it should is at its own limit: there is no larger load.
const SENT: f64 = 0.8;
/// The same of one that keeps up.
const KEEPS_UP: f64 = 0.99;
/// A generator that does not keep up goes on for so long after the end, and what it sends then counts as sent, too.
const LATE_MAX: Duration = Duration::from_secs(1);
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
        at_peak_pps.push(goodput(&site, peak.offered_pps, run.lasts(LASTS))?.delivered_pps);
        let overloaded = goodput(&site, OVERLOAD * peak.delivered_pps, run.lasts(LASTS))?;
        sent_pps.push(overloaded.sent_pps);
        delivered_pps.push(overloaded.delivered_pps);
    }
    at_peak_pps.push(goodput(&site, peak.offered_pps, run.lasts(LASTS))?.delivered_pps);
    let [at_peak_pps, sent_pps, delivered_pps] = [at_peak_pps, sent_pps, delivered_pps].map(|figures| mean(&figures));
    // The load of 4 times is one of those among which the best is the peak.
    let peak_pps = at_peak_pps.max(delivered_pps);
    // Whoever waits longer goes into fewer and larger messages.
    let waits =
        format!("{at_peak_pps:.0} packets/s of {:.0} at a median latency of {:.1} ms", peak.offered_pps, peak.p50_ms);
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
    offered_pps: f64,
    /// The least that it can have been: who was late at the end was sending for longer than the load lasts.
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
    let mut best = try_with(pps)?;
    let (mut worse, mut is_sent) = (0, best.is_sent());
    while worse < WORSE_MAX && is_sent && pps * step < PPS_MAX {
        pps *= step;
        let next = try_with(pps)?;
        is_sent = next.is_sent();
        worse = if next.delivered_pps > best.delivered_pps { 0 } else { worse + 1 };
        best = best.or_better(next);
    }
    if run.full {
        return Ok(best);
    }
    let between = if best.is_sent() { best.offered_pps * STEP } else { best.offered_pps / STEP };
    Ok(best.or_better(try_with(between)?))
}

impl Goodput {
    fn or_better(self, other: Self) -> Self {
        if other.delivered_pps > self.delivered_pps { other } else { self }
    }

    /// Whether the generator could send about what it should.
    fn is_sent(&self) -> bool {
        self.sent_pps >= SENT * self.offered_pps
    }
}

fn goodput(site: &Site, pps: f64, lasts: Duration) -> Outcome<Goodput> {
    let report = fixed::down(site, TETHERS, pps, lasts, &[])?;
    let (sent, seconds) = (number(&report, "/down/sent")?, lasts.as_secs_f64());
    let sent_s = if sent >= KEEPS_UP * pps * seconds { seconds } else { seconds + LATE_MAX.as_secs_f64() };
    Ok(Goodput {
        offered_pps: pps,
        sent_pps: sent / sent_s,
        delivered_pps: number(&report, "/down/delivered_pps")?,
        p50_ms: number(&report, "/down/latency_ms/p50")?,
    })
}
