//! What 10,000 tethers cost that are there and silent.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use wstether::cli::EgressMode;

use crate::site::{Pinned, Site};
use crate::{Figures, Lasts, Outcome, Run};

pub(crate) const KEYS: [&str; 2] = ["idle_kib_per_tether", "idle_core_ratio"];

const TETHERS: u32 = 10_000;
const FEW: u32 = 16;

/// How long the gateway's time is measured.
const LASTS: Lasts = Lasts { quick_ms: 6_000, full_ms: 10_000 };

/// After the last welcome, until all is quiet.
const SETTLE: Duration = Duration::from_secs(2);

pub(crate) fn measure(run: &Run) -> Outcome<Figures> {
    let lasts = run.lasts(LASTS);
    // So many do not fit behind the ports of one address; silent ones need none.
    let egress = ["--set", "egress.translation=none"];
    // What it sets aside for so many is theirs, too: it is compared with a gateway for few.
    let before = Site::start(FEW, None, Pinned::Free, EgressMode::Tun, &egress)?.status()?;
    let site = Site::start(TETHERS, None, Pinned::Free, EgressMode::Tun, &egress)?;
    let seconds = (lasts + 2 * SETTLE).as_secs().to_string();
    let args = ["--tethers", &TETHERS.to_string(), "--mix", "idle", "--seconds", &seconds];
    let mut load = site.command(&args)?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let measured = || -> Outcome<Figures> {
        site.until_tethers(TETHERS.into())?;
        std::thread::sleep(SETTLE);
        let begin = site.status()?;
        std::thread::sleep(lasts);
        let end = site.status()?;
        let grown_kib = end.resident_memory_bytes.saturating_sub(before.resident_memory_bytes) as f64 / 1024.0;
        let mut figures = Figures::new();
        figures.insert("idle_kib_per_tether".into(), json!(grown_kib / f64::from(TETHERS)));
        figures.insert("idle_core_ratio".into(), json!((end.cpu_seconds - begin.cpu_seconds) / lasts.as_secs_f64()));
        Ok(figures)
    };
    let figures = measured();
    // It may have ended by itself.
    drop(load.kill());
    load.wait()?;
    figures
}
