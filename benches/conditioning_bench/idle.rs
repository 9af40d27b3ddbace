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

/// How often each is asked whether it still lives, in seconds. The full setting has the gateway's default. In the quick one it is
/// twice as often, and so is that work.
const KEEP_ALIVE_S: (u64, u64) = (10, 20);

/// How long the gateway's time is measured: a little longer than that, so that each is asked meanwhile.
const LASTS: Lasts = Lasts { quick_ms: 11_000, full_ms: 21_000 };

/// After the last welcome, until all is quiet.
const SETTLE: Duration = Duration::from_secs(2);

pub(crate) fn measure(run: &Run) -> Outcome<Figures> {
    let lasts = run.lasts(LASTS);
    let keep_alive = format!("listen.keepalive={}s", if run.full { KEEP_ALIVE_S.1 } else { KEEP_ALIVE_S.0 });
    // So many do not fit behind the ports of one address, as the raw egress has it; silent ones need none.
    let more = ["--set", "egress.translation=none", "--set", &keep_alive];
    // What it sets aside for so many is theirs, too: it is compared with a gateway for few.
    let before = Site::start(FEW, None, Pinned::Free, EgressMode::Tun, &more)?.status()?;
    let site = Site::start(TETHERS, None, Pinned::Free, EgressMode::Tun, &more)?;
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
