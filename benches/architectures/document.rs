//! The tables of docs/load-conditioning.md, written into it between two marks, so that its figures are one run's.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use super::cell::Cell;
use super::figures::{MANY_TETHERS, OVERLOAD, is};
use super::report::Report;
use super::server::Architecture;
use super::{LOADS, TETHERS};

const BEGIN: &str = "<!-- figures: written by the bench -->\n";
const END: &str = "<!-- end of figures -->\n";

/// Puts the tables into the document, and the plots beside it.
///
/// # Errors
/// The file's; `InvalidData` where the document has no place for figures.
pub(crate) fn write(report: &Report, document: &Path) -> io::Result<()> {
    let text = fs::read_to_string(document)?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} has no marks for figures", document.display()))
    })?;
    let tables = tables(report).map_err(io::Error::other)?;
    fs::write(document, format!("{before}{BEGIN}{tables}{END}{after}"))
}

/// A table: a row an architecture, a column for each cell that the row has.
struct Table {
    title: String,
    columns: Vec<String>,
    /// The cell of a column.
    shows: fn(&Cell, usize) -> bool,
    value: fn(&Cell) -> Option<f64>,
    digits: usize,
    /// Whether a value is told with the number of requests that it is of, where these are few.
    is_share: bool,
}

fn tables(report: &Report) -> Result<String, std::fmt::Error> {
    let tethers = || TETHERS.map(|tethers| format!("{tethers} tethers")).to_vec();
    let loads = || LOADS.map(|load| format!("{load} times")).to_vec();
    let by_tethers: fn(&Cell, usize) -> bool = |cell, at| is(cell.load, OVERLOAD) && cell.tethers == TETHERS[at];
    let by_load: fn(&Cell, usize) -> bool = |cell, at| cell.tethers == MANY_TETHERS && is(cell.load, LOADS[at]);
    let table = |title, columns, shows, value, digits| Table { title, columns, shows, value, digits, is_share: false };
    let all = [
        table(
            format!("Served at {OVERLOAD} times the peak load, as a part of the peak"),
            tethers(),
            by_tethers,
            |cell| cell.goodput,
            2,
        ),
        table(
            format!("p99 of response time at {OVERLOAD} times the peak load, ms"),
            tethers(),
            by_tethers,
            |cell| cell.p99_ms,
            1,
        ),
        table(
            format!("{MANY_TETHERS} tethers: served, as a part of what was offered or of the peak"),
            loads(),
            by_load,
            |cell| cell.goodput,
            2,
        ),
        table(format!("{MANY_TETHERS} tethers: median of response time, ms"), loads(), by_load, |cell| cell.p50_ms, 1),
        table(format!("{MANY_TETHERS} tethers: p99 of response time, ms"), loads(), by_load, |cell| cell.p99_ms, 1),
        Table {
            is_share: true,
            ..table(
                format!("{MANY_TETHERS} tethers: Jain's index (in brackets: requests a tether, where fewer than ten)"),
                loads(),
                by_load,
                |cell| cell.jain,
                3,
            )
        },
    ];
    let mut text = String::new();
    writeln!(text, "\n{}; `{}`.", report.machine, report.command)?;
    writeln!(
        text,
        "Peak {:.0} requests a second; the generator alone can send {:.0}, {:.0} times that.\n",
        report.peak_per_s,
        report.generator_per_s,
        report.generator_per_s / report.peak_per_s
    )?;
    for skipped in &report.skipped {
        let whom = skipped.architecture.map_or("all architectures", Architecture::label);
        writeln!(text, "Left out: {} tethers, {whom}: {}.\n", skipped.tethers, skipped.why)?;
    }
    all.iter().try_for_each(|table| table.write(report, &mut text))?;
    every_cell(report, &mut text)?;
    Ok(text)
}

/// All that was measured, to be unfolded.
fn every_cell(report: &Report, text: &mut String) -> std::fmt::Result {
    writeln!(text, "<details><summary>Every cell of the run</summary>\n")?;
    let head = [
        "architecture",
        "tethers",
        "load, times the peak",
        "served a second",
        "of offered or peak",
        "p50, ms",
        "p99, ms",
        "Jain's index",
        "requests a tether",
    ];
    writeln!(text, "| {} |\n| --- |{}", head.join(" | "), " ---: |".repeat(head.len() - 1))?;
    let figure =
        |value: Option<f64>, digits: usize| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"));
    for architecture in Architecture::ALL {
        for cell in report.cells.iter().filter(|cell| cell.architecture == architecture) {
            writeln!(
                text,
                "| {} | {} | {} | {:.0} | {} | {} | {} | {} | {:.1} |",
                architecture.label(),
                cell.tethers,
                cell.load,
                cell.delivered_per_s,
                figure(cell.goodput, 2),
                figure(cell.p50_ms, 1),
                figure(cell.p99_ms, 1),
                figure(cell.jain, 3),
                cell.served_a_tether()
            )?;
        }
    }
    writeln!(text, "\n</details>\n")
}

impl Table {
    fn write(&self, report: &Report, text: &mut String) -> std::fmt::Result {
        writeln!(text, "| {} | {} |", self.title, self.columns.join(" | "))?;
        writeln!(text, "| --- |{}", " ---: |".repeat(self.columns.len()))?;
        for architecture in Architecture::ALL {
            write!(text, "| {} |", architecture.label())?;
            for at in 0..self.columns.len() {
                let cell = report.cells.iter().find(|cell| cell.architecture == architecture && (self.shows)(cell, at));
                match cell.and_then(|cell| Some((cell, (self.value)(cell)?))) {
                    Some((cell, value)) if self.is_share && cell.is_coarse() => {
                        write!(text, " {value:.*} ({:.1}) |", self.digits, cell.served_a_tether())?;
                    }
                    Some((_, value)) => write!(text, " {value:.*} |", self.digits)?,
                    None => write!(text, " - |")?,
                }
            }
            writeln!(text)?;
        }
        writeln!(text)
    }
}
