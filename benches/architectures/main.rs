//! The lecture's comparison: the same handlers, of a fixed cost, behind the same sockets, in six architectures, by number
//! of tethers and by offered load. `cargo bench --bench architectures -- --full --doc docs/load-conditioning.md` writes the
//! tables and plots of that document.
//!
//! One process: the generator has a core to itself, the server the others. On a machine of one core nothing can be said.

use std::fs;
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
mod document;
mod figures;
mod generator;
#[path = "../support/histogram.rs"]
mod histogram;
mod inputs;
#[path = "../support/machine.rs"]
mod machine;
#[path = "../support/plot.rs"]
mod plot;
mod record;
mod report;
mod request;
mod server;

const TETHERS: [u32; 5] = [1, 10, 100, 1_000, 10_000];
const LOADS: [f64; 5] = [0.2, 0.5, 1.0, 4.0, 20.0];

/// The work of a request on one core. At 20 times the peak of one core the generator sends 100,000 a second, which it can
/// do twice over.
const COST: Duration = Duration::from_micros(200);

/// Tethers to whom the generator's own rate is measured: more than its processor's caches hold.
const GENERATOR_TETHERS: u32 = 4_000;

/// Descriptors beside the tethers'.
const OTHER_FILES: u64 = 64;

/// Compares six architectures under load.
#[derive(Debug, Parser)]
struct Options {
    /// Two to three minutes, each cell once (what is done without --full).
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// About half an hour: longer cells, the shorter of them three times (the median of each figure).
    #[arg(long)]
    full: bool,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
    /// Writes the plots into this folder.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Writes the tables, with every cell, into this document, and the plots into images/ beside it.
    #[arg(long, value_name = "FILE")]
    doc: Option<PathBuf>,
    /// Writes the JSON object beside that document, too.
    #[arg(long, requires = "doc")]
    keep_json: bool,
    /// Measures nothing, and writes what the JSON object of an earlier run says.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
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
    let report = match &options.from {
        Some(file) => serde_json::from_slice(&fs::read(file)?)?,
        None => measure(options)?,
    };
    if let Some(folder) = &options.svg {
        figures::write(&report, folder)?;
    }
    if let Some(file) = &options.doc {
        document::write(&report, file)?;
        figures::write(&report, &file.with_file_name("images"))?;
        if options.keep_json {
            fs::write(file.with_extension("json"), serde_json::to_vec(&report)?)?;
        }
    }
    if options.json {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    }
    Ok(())
}

/// Runs the whole comparison.
fn measure(options: &Options) -> io::Result<Report> {
    let machine = Machine::here();
    let mut cores = affinity::allowed()?;
    if cores.len() < 2 {
        return Err(io::Error::other("two cores are needed: one for the generator, one for the server"));
    }
    let generator_core = cores.remove(0);
    affinity::pin(&cores)?;
    open_files::allow(u64::from(GENERATOR_TETHERS) + OTHER_FILES)?;
    // More cores serve no more requests: the peak stays where the generator can pass it twenty times.
    let cost = Cost::calibrate(COST * cores.len() as u32);
    let place = Place { generator_core, server_cores: cores, cost };
    let generator_per_s = place.generator_per_s(GENERATOR_TETHERS)?;
    let peak_per_s = peak(&place)?;
    eprintln!("peak {peak_per_s:.0} /s, the generator's own rate {generator_per_s:.0} /s");
    let command = format!("cargo bench --bench architectures -- --{}", if options.full { "full" } else { "quick" });
    let mut report = Report {
        machine,
        command,
        turns_a_handler: cost.turns_a_handler(),
        generator_per_s,
        peak_per_s,
        cells: Vec::new(),
        skipped: Vec::new(),
    };
    run(options, &place, &mut report);
    Ok(report)
}

/// Runs every cell that the machine allows.
fn run(options: &Options, place: &Place, report: &mut Report) {
    for tethers in TETHERS.into_iter().filter(|tethers| *tethers <= options.tethers_max) {
        if let Err(error) = open_files::allow(u64::from(tethers) + OTHER_FILES) {
            report.skip(Skipped { architecture: None, tethers, why: format!("open files: {error}") });
            continue;
        }
        let (length, times) = length(options.full, tethers, report.peak_per_s);
        for architecture in Architecture::ALL {
            for load in LOADS {
                let load = Load { architecture, tethers, load, peak_per_s: report.peak_per_s };
                match (0..times).map(|_| place.cell(load, length)).collect::<io::Result<Vec<_>>>() {
                    Ok(cells) => report.add(cells),
                    Err(error) => {
                        report.skip(Skipped { architecture: Some(architecture), tethers, why: error.to_string() });
                        break;
                    }
                }
            }
        }
    }
}

/// Requests a tether that a cell at the peak serves. Ten are wanted where shares are judged, and an architecture that loses a
/// third, or a machine that has become slower since the peak was taken, should still come to that.
const SERVED_A_TETHER: f64 = 15.0;

/// Requests that a tether's socket holds.
const SOCKET_REQUESTS: f64 = 8.0;

/// A cell of so many seconds is run once.
const LONG_CELL_S: f64 = 10.0;

/// How long a cell takes, and how often it is run. Where there are many tethers it takes longer until each has been
/// served, and until their sockets are as full as they will be.
fn length(full: bool, tethers: u32, peak_per_s: f64) -> (Length, u32) {
    let (warm_up_s, least_s, most_s, times) = if full { (0.5, 1.5, 30.0, 3) } else { (0.1, 0.3, 1.2, 1) };
    let measured_s = (SERVED_A_TETHER * f64::from(tethers) / peak_per_s).clamp(least_s, most_s);
    // At the smaller of the overloads; what is served meanwhile does not stay.
    let fill_s = SOCKET_REQUESTS * f64::from(tethers) / ((LOADS[3] - 1.0) * peak_per_s);
    let warm_up = Duration::from_secs_f64(warm_up_s + fill_s.min(measured_s));
    // A long cell has its chance events in it already.
    let times = if measured_s < LONG_CELL_S { times } else { 1 };
    (Length { warm_up, measured: Duration::from_secs_f64(measured_s) }, times)
}

/// The closed loops in which the peak is looked for.
const PEAK_LENGTH: Length = Length { warm_up: Duration::from_millis(200), measured: Duration::from_secs(1) };

/// The most that any of the architectures serves.
fn peak(place: &Place) -> io::Result<f64> {
    let mut best = 0_f64;
    for architecture in Architecture::ALL {
        let peak = place.peak_per_s(architecture, PEAK_LENGTH)?;
        eprintln!("{:20} {peak:8.0} /s in a closed loop", architecture.label());
        best = best.max(peak);
    }
    Ok(best)
}
