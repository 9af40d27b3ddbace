//! What came out: for people on standard error, for programs as JSON.

use serde::Serialize;

use super::cell::Cell;
use super::machine::Machine;
use super::server::Architecture;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Turns of the fixed loop that a handler runs for each request.
    pub(crate) turns_a_handler: u64,
    /// What the generator can send.
    pub(crate) generator_per_s: f64,
    pub(crate) peak_per_s: f64,
    pub(crate) cells: Vec<Cell>,
    pub(crate) skipped: Vec<Skipped>,
}

/// What the machine refused.
#[derive(Debug, Serialize)]
pub(crate) struct Skipped {
    /// `None` for all of them.
    pub(crate) architecture: Option<Architecture>,
    pub(crate) tethers: u32,
    pub(crate) why: String,
}

/// Shows a cell as it comes.
pub(crate) fn shown(cell: Cell) -> Cell {
    let ms = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |time| format!("{time:.1}"));
    eprintln!(
        "{:22} {:>6} tethers {:>5}x  offered {:>8.0}/s  delivered {:>7.0}/s  goodput {:>5.2}  p50 {:>7} p99 {:>7} p99.9 {:>7} ms  jain {}  full {} dropped {} shed {}",
        cell.architecture.label(),
        cell.tethers,
        cell.load,
        cell.offered_per_s,
        cell.delivered_per_s,
        cell.goodput,
        ms(cell.p50_ms),
        ms(cell.p99_ms),
        ms(cell.p999_ms),
        cell.jain.map_or_else(|| "-".to_owned(), |jain| format!("{jain:.3}")),
        cell.socket_full,
        cell.dropped.queue_full,
        cell.dropped.shed,
    );
    cell
}
