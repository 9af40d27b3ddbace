//! The plots of docs/load-conditioning.md.

use std::path::Path;
use std::{fs, io};

use super::cell::Cell;
use super::plot::{Axis, BarChart, LineChart, Scale, Series};
use super::report::Report;
use super::server::Architecture;
use super::{LOADS, TETHERS};

/// The load at which the number of tethers is varied: the one that a server must survive.
pub(crate) const OVERLOAD: f64 = 20.0;

/// The number of tethers at which the load is varied.
pub(crate) const MANY_TETHERS: u32 = 1_000;

/// A line chart to be.
struct Plot {
    file: &'static str,
    title: String,
    x: Axis,
    y: Axis,
    x_of: fn(&Cell) -> f64,
    y_of: fn(&Cell) -> Option<f64>,
    shows: fn(&Cell) -> bool,
}

/// Writes every plot into `folder`.
///
/// # Errors
/// The folder's.
pub(crate) fn write(report: &Report, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for plot in plots() {
        let chart = chart(report, &plot);
        fs::write(folder.join(plot.file), chart.svg().map_err(io::Error::other)?)?;
    }
    fs::write(folder.join("architectures-fairness.svg"), fairness(report).svg().map_err(io::Error::other)?)
}

fn plots() -> [Plot; 4] {
    let tethers =
        || Axis { label: "tethers".to_owned(), scale: Scale::Log, ticks: TETHERS.into_iter().map(f64::from).collect() };
    let loads = || Axis { label: "offered load, times the peak".to_owned(), scale: Scale::Log, ticks: LOADS.into() };
    let delivered = || Axis { label: "requests served a second".to_owned(), scale: Scale::Linear, ticks: Vec::new() };
    let p99 = || Axis { label: "response time, p99, ms".to_owned(), scale: Scale::Log, ticks: Vec::new() };
    let by_tethers: fn(&Cell) -> bool = |cell| is(cell.load, OVERLOAD);
    let by_load: fn(&Cell) -> bool = |cell| cell.tethers == MANY_TETHERS;
    [
        Plot {
            file: "architectures-throughput-by-tethers.svg",
            title: format!("Throughput by number of tethers, at {OVERLOAD} times the peak load"),
            x: tethers(),
            y: delivered(),
            x_of: |cell| f64::from(cell.tethers),
            y_of: |cell| Some(cell.delivered_per_s),
            shows: by_tethers,
        },
        Plot {
            file: "architectures-response-by-tethers.svg",
            title: format!("Response time by number of tethers, at {OVERLOAD} times the peak load"),
            x: tethers(),
            y: p99(),
            x_of: |cell| f64::from(cell.tethers),
            y_of: |cell| cell.p99_ms,
            shows: by_tethers,
        },
        Plot {
            file: "architectures-throughput-by-load.svg",
            title: format!("Throughput by offered load, {MANY_TETHERS} tethers"),
            x: loads(),
            y: delivered(),
            x_of: |cell| cell.load,
            y_of: |cell| Some(cell.delivered_per_s),
            shows: by_load,
        },
        Plot {
            file: "architectures-response-by-load.svg",
            title: format!("Response time by offered load, {MANY_TETHERS} tethers"),
            x: loads(),
            y: p99(),
            x_of: |cell| cell.load,
            y_of: |cell| cell.p99_ms,
            shows: by_load,
        },
    ]
}

/// Whether a cell's load is the wanted one.
pub(crate) fn is(load: f64, wanted: f64) -> bool {
    (load - wanted).abs() < f64::EPSILON
}

fn source(report: &Report) -> String {
    format!("{}; {}", report.machine, report.command)
}

fn chart(report: &Report, plot: &Plot) -> LineChart {
    let series = Architecture::ALL.map(|architecture| {
        let cells = report.cells.iter().filter(|cell| cell.architecture == architecture && (plot.shows)(cell));
        let points = cells.filter_map(|cell| Some(((plot.x_of)(cell), (plot.y_of)(cell)?)));
        Series { label: architecture.label().to_owned(), points: points.collect() }
    });
    LineChart {
        title: plot.title.clone(),
        source: source(report),
        x: plot.x.clone(),
        y: plot.y.clone(),
        series: series.into(),
    }
}

fn fairness(report: &Report) -> BarChart {
    let bar = |architecture: Architecture| {
        let here =
            |cell: &&Cell| cell.architecture == architecture && cell.tethers == MANY_TETHERS && is(cell.load, OVERLOAD);
        let cell = report.cells.iter().find(here).filter(|cell| !cell.is_coarse());
        (architecture.label().to_owned(), cell.and_then(|cell| cell.jain))
    };
    BarChart {
        title: format!("Fairness over {MANY_TETHERS} equal tethers, at {OVERLOAD} times the peak load"),
        source: source(report),
        label: "Jain's index of requests served".to_owned(),
        bars: Architecture::ALL.map(bar).into(),
    }
}
