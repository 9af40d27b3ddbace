//! What came out: for people on standard error, for programs as JSON.

use serde::{Deserialize, Serialize};

use super::cell::Cell;
use super::machine::Machine;
use super::server::{Architecture, Dropped};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) command: String,
    /// Turns of the fixed loop that a handler runs for each request.
    pub(crate) turns_a_handler: u64,
    /// What the generator can send.
    pub(crate) generator_per_s: f64,
    pub(crate) peak_per_s: f64,
    pub(crate) cells: Vec<Cell>,
    pub(crate) skipped: Vec<Skipped>,
}

/// What the machine refused.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Skipped {
    /// `None` for all of them.
    pub(crate) architecture: Option<Architecture>,
    pub(crate) tethers: u32,
    pub(crate) why: String,
}

impl Report {
    /// Takes in what one cell gave each time that it ran: the median of each figure.
    pub(crate) fn add(&mut self, times: Vec<Cell>) {
        if let Some(cell) = median(&times) {
            show(&cell);
            self.cells.push(cell);
        }
    }

    pub(crate) fn skip(&mut self, skipped: Skipped) {
        let whom = skipped.architecture.map_or("all", Architecture::label);
        eprintln!("{whom:20} {:>6} tethers  left out: {}", skipped.tethers, skipped.why);
        self.skipped.push(skipped);
    }
}

fn median(times: &[Cell]) -> Option<Cell> {
    let first = times.first()?;
    let middle = |of: &dyn Fn(&Cell) -> f64| {
        let mut values: Vec<f64> = times.iter().map(of).collect();
        values.sort_unstable_by(f64::total_cmp);
        values[values.len() / 2]
    };
    // One without a figure is as one beyond all others.
    let middle_of_known = |of: &dyn Fn(&Cell) -> Option<f64>| {
        Some(middle(&|cell| of(cell).unwrap_or(f64::INFINITY))).filter(|value| value.is_finite())
    };
    let count = |of: &dyn Fn(&Cell) -> u64| middle(&|cell| of(cell) as f64) as u64;
    Some(Cell {
        architecture: first.architecture,
        tethers: first.tethers,
        load: first.load,
        offered_per_s: middle(&|cell| cell.offered_per_s),
        delivered_per_s: middle(&|cell| cell.delivered_per_s),
        goodput: middle_of_known(&|cell| cell.goodput),
        p50_ms: middle_of_known(&|cell| cell.p50_ms),
        p90_ms: middle_of_known(&|cell| cell.p90_ms),
        p99_ms: middle_of_known(&|cell| cell.p99_ms),
        p999_ms: middle_of_known(&|cell| cell.p999_ms),
        jain: middle_of_known(&|cell| cell.jain),
        worst_share: middle_of_known(&|cell| cell.worst_share),
        unread: count(&|cell| cell.unread),
        dropped: Dropped {
            queue_full: count(&|cell| cell.dropped.queue_full),
            not_admitted: count(&|cell| cell.dropped.not_admitted),
        },
        measured_s: first.measured_s,
    })
}

/// Shows a cell as it comes: a line of the table.
fn show(cell: &Cell) {
    let figure =
        |value: Option<f64>, digits: usize| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"));
    eprintln!(
        "{:20} {:>6} tethers {:>4}x  offered {:>7.0} served {:>6.0} /s ({:>4})  p50 {:>7} p99 {:>7} p99.9 {:>7} ms  Jain {:>5} of {:.1}  unread {}, queue full {}, not admitted {}",
        cell.architecture.label(),
        cell.tethers,
        cell.load,
        cell.offered_per_s,
        cell.delivered_per_s,
        figure(cell.goodput, 2),
        figure(cell.p50_ms, 1),
        figure(cell.p99_ms, 1),
        figure(cell.p999_ms, 1),
        figure(cell.jain, 3),
        cell.served_a_tether(),
        cell.unread,
        cell.dropped.queue_full,
        cell.dropped.not_admitted,
    );
}
