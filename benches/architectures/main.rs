//! The lecture's comparison: the same handlers, of a fixed cost, behind the same sockets, in six architectures, by number
//! of tethers and by offered load. `cargo bench --bench architectures -- --quick --svg docs/images` writes the plots of
//! docs/load-conditioning.md.
//!
//! One process: the generator has a core to itself, the server the others. On a machine of one core nothing can be said.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use wstether::io::{affinity, open_files};

use cell::{Length, Load, Place};
use machine::Machine;
use report::{Report, Skipped};
use request::Cost;
use server::Architecture;

mod cell;
mod generator;
#[path = "../support/histogram.rs"]
mod histogram;
mod inputs;
#[path = "../support/machine.rs"]
mod machine;
mod record;
mod report;
mod request;
mod server;

const TETHERS: [u32; 5] = [1, 10, 100, 1_000, 10_000];
const LOADS: [f64; 5] = [0.2, 0.5, 1.0, 4.0, 20.0];

/// The work of a request on one core. At 20 times the peak of one core the generator sends 200,000 a second, which it can
/// do twice over.
const COST: Duration = Duration::from_micros(100);

/// Tethers to whom the generator's own rate is measured: more than its processor's caches hold.
const GENERATOR_TETHERS: u32 = 4_000;

/// Descriptors beside the tethers' two each.
const OTHER_FILES: u64 = 64;

/// Compares six architectures under load.
#[derive(Debug, Parser)]
struct Options {
    /// About two minutes, each cell once (what is done without --full).
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Longer cells, each three times; the median of each figure.
    #[arg(long)]
    full: bool,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
    /// Writes the plots into this folder.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Only so many tethers at most.
    #[arg(long, value_name = "N", default_value_t = u32::MAX)]
    tethers_max: u32,
    /// What cargo passes to each bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match compare(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("architectures: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> io::Result<()> {
    let machine = Machine::here();
    let mut cores = affinity::allowed()?;
    if cores.len() < 2 {
        return Err(io::Error::other("two cores are needed: one for the generator, one for the server"));
    }
    let generator_core = cores.remove(0);
    affinity::pin(&cores)?;
    // The generator's part of the machine stays the same however many cores serve.
    let cost = Cost::calibrate(COST * cores.len() as u32);
    let place = Place { generator_core, server_cores: cores, cost };
    let length = if options.full { FULL } else { QUICK };
    open_files::allow(2 * u64::from(GENERATOR_TETHERS) + OTHER_FILES)?;
    let peak_per_s = peak(&place)?;
    let mut cells = Vec::new();
    let mut skipped = Vec::new();
    for tethers in TETHERS.into_iter().filter(|tethers| *tethers <= options.tethers_max) {
        if let Err(error) = open_files::allow(2 * u64::from(tethers) + OTHER_FILES) {
            skipped.push(Skipped { architecture: None, tethers, why: format!("open files: {error}") });
            continue;
        }
        for architecture in Architecture::ALL {
            for load in LOADS {
                match place.cell(Load { architecture, tethers, load, peak_per_s }, length) {
                    Ok(cell) => cells.push(report::shown(cell)),
                    Err(error) => {
                        skipped.push(Skipped { architecture: Some(architecture), tethers, why: error.to_string() });
                        break;
                    }
                }
            }
        }
    }
    let (generator_per_s, turns_a_handler) = (place.generator_per_s(GENERATOR_TETHERS)?, cost.turns_a_handler());
    let report = Report { machine, turns_a_handler, generator_per_s, peak_per_s, cells, skipped };
    if options.json {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    }
    Ok(())
}

const QUICK: Length = Length { warm_up: Duration::from_millis(200), measured: Duration::from_millis(400) };
const FULL: Length = Length { warm_up: Duration::from_secs(1), measured: Duration::from_secs(5) };

fn peak(place: &Place) -> io::Result<f64> {
    let mut best = 0_f64;
    for architecture in Architecture::ALL {
        let peak = place.peak_per_s(architecture, QUICK)?;
        eprintln!("{:22} {peak:8.0} /s closed loop", architecture.label());
        best = best.max(peak);
    }
    Ok(best)
}
