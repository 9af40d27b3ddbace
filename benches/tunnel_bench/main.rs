//! Measures wstether, other tunnels, the roofline and the kernel itself, each in namespaces of the same make: laptop,
//! phone, gateway, internet. `benches/tunnel --help` tells how to run it.

#[path = "../../tests/support/chromium.rs"]
#[allow(dead_code, reason = "the tests look at more of a page than the bench")]
mod chromium;
mod measures;
mod report;
mod row;
mod site;
mod svg;
mod systems;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;

use measures::{Lengths, profile};
use row::Row;
use site::{End, Error, Site};
use systems::System;
use systems::wstether::Build;

/// How often each system is measured: quick to see where it stands, full for medians.
const ROUNDS_QUICK: usize = 1;
const ROUNDS_FULL: usize = 3;

/// The quick setting ends within 8 minutes. Later than this nothing is begun; what runs then needs some seconds to end.
const QUICK_BEGINS_S_MAX: u64 = 465;

/// Measure wstether against other tunnels, a roofline and the kernel's own forwarding, in network namespaces
#[derive(Debug, Parser)]
#[command(name = "benches/tunnel")]
struct Args {
    /// One round of short measurements of the main paths, within 8 minutes (the default)
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Medians of three rounds of long measurements, of all paths
    #[arg(long)]
    full: bool,
    /// So many rounds
    #[arg(long)]
    rounds: Option<usize>,
    /// Begin nothing new after so many seconds: what is left out is told with the reason. 465 where the quick setting has one
    /// round, else for ever
    #[arg(long, value_name = "SECONDS")]
    within: Option<u64>,
    /// Print one JSON object in place of a table
    #[arg(long)]
    json: bool,
    /// Only rows whose system and path contain one of these, such as "kernel" or "wstether direct ws"
    #[arg(long, num_args = 1.., value_name = "SYSTEM")]
    only: Vec<String>,
    /// Write tunnel.svg into this directory
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Instead of measuring, write perf's reports of the tunnels' programs into this directory
    #[arg(long, value_name = "DIR")]
    profile: Option<PathBuf>,
    /// Measure this wstether in place of the one that was built with the bench
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_wstether"))]
    binary: PathBuf,
    /// Set a key of the gateway's configuration, to compare one with another
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// What cargo gives to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    /// When nothing new is begun any more.
    fn late(&self, started: Instant) -> Option<Instant> {
        let is_quick = !self.full && self.rounds.is_none() && self.profile.is_none();
        let within_s = self.within.or(is_quick.then_some(QUICK_BEGINS_S_MAX))?;
        Some(started + Duration::from_secs(within_s))
    }

    fn wants(&self, system: &dyn System) -> bool {
        let (name, path) = system.name();
        let all = format!("{name} {path}");
        if self.only.is_empty() {
            self.full || system.is_quick()
        } else {
            self.only.iter().any(|only| all.contains(only))
        }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("benches/tunnel: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Error> {
    let started = Instant::now();
    let over = Arc::new(AtomicBool::new(false));
    let end = End { over: Arc::clone(&over), late: args.late(started) };
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&over))?;
    }
    let lengths = if args.full { Lengths::FULL } else { Lengths::QUICK };
    let rounds = args.rounds.unwrap_or(if args.full { ROUNDS_FULL } else { ROUNDS_QUICK }).max(1);
    let systems: Vec<_> = systems::all(&Build { binary: args.binary.clone(), set: args.set.clone() })
        .into_iter()
        .filter(|system| args.wants(system.as_ref()))
        .collect();
    let congestion = Site::new(&end)?.congestion;
    let load_before = load();
    let mut measured: Vec<Vec<Row>> = systems.iter().map(|_| Vec::new()).collect();
    // Round after round, so that what else the machine does meets all systems alike.
    for round in 1..=rounds {
        for (system, rows) in systems.iter().zip(&mut measured) {
            let (name, path) = system.name();
            let begun = Instant::now();
            let row = measure(system.as_ref(), &end, lengths, args.profile.as_deref());
            eprintln!("{round}/{rounds} {name} {path}: {:.0} s", begun.elapsed().as_secs_f64());
            end.stopped()?;
            rows.push(row);
        }
    }
    let mut rows: Vec<Row> = measured.iter().filter_map(|rounds| Row::median(rounds)).collect();
    report::compare(&mut rows);
    if let Some(directory) = &args.svg {
        std::fs::write(directory.join("tunnel.svg"), svg::speeds(&rows))?;
    }
    let text = if args.json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        let setting = if args.full { "full" } else { "quick" };
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        format!(
            "{}\n",
            json!({
                "setting": setting,
                "rounds": rounds,
                "cores": cores,
                "kernel": kernel.trim(),
                "congestion_control": congestion,
                "load_before": load_before,
                "took_seconds": started.elapsed().as_secs(),
                "rows": rows,
            })
        )
    } else {
        report::markdown(&rows)
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// How many programs wanted a core in the last minute: more than a few, and the figures are somebody else's, too.
fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// One system, from start to end.
fn measure(system: &dyn System, end: &End, lengths: Lengths, profile: Option<&Path>) -> Row {
    let (name, path) = system.name();
    let version = match system.version() {
        Ok(version) => version,
        Err(error) => return Row::lacking(name, path, None, &format!("not here: {error}")),
    };
    let mut row = Row::new(name, path, Some(version));
    match in_its_site(system, end, lengths, profile, &mut row) {
        Ok(()) => row,
        Err(error) => Row::lacking(row.system, row.path, row.version, &error.to_string()),
    }
}

fn in_its_site(
    system: &dyn System,
    end: &End,
    lengths: Lengths,
    profile: Option<&Path>,
    row: &mut Row,
) -> Result<(), Error> {
    end.go_on()?;
    let site = Site::new(end)?;
    let running = system.start(&site)?;
    match profile {
        Some(directory) => profile::write(&site, &running, &format!("{} {}", row.system, row.path), directory)?,
        None => measures::all(&site, system, &running, lengths, row),
    }
    running.end()?;
    if profile.is_none() {
        measures::gateway::alone(end, system, row);
    }
    Ok(())
}
