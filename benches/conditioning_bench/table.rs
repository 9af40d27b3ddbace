//! Medians of several runs, and the table for a person.

use serde_json::Value;

use crate::Figures;

/// What each figure is, and what it should be.
const ROWS: [(&str, &str, &str); 18] = [
    ("goodput_ratio_at_20x", "goodput at 20 times the peak load, as a part of the peak", "≥ 0.97"),
    ("goodput_ratio_real_at_4x", "the same with the real handlers, at 4 times", "≥ 0.95"),
    ("real_times_the_peak", "how many times their peak that load was: what the generator can send", ""),
    ("p99_ms_at_half_load", "p99 at half the peak load, ms", ""),
    ("p99_ms_at_20x", "p99 of what was admitted at 20 times, ms", "≤ 3 × half, or 10"),
    (
        "uplink_goodput_ratio_worst",
        "from the tethers at 20 times the peak, the worst number of them, as a part of one alone",
        "≥ 0.97",
    ),
    ("uplink_sparse_wait_ms", "from tethers that send little beside many that send much, the median wait, ms", ""),
    ("jain_1000", "Jain's index over 1,000 equal tethers", "≥ 0.99"),
    ("worst_share_1000", "the worst share of these, as a part of the mean", "≥ 0.9"),
    ("hog_worst_share_ratio", "the worst of 100 beside a hog of 100 times the rate, as a part of without", "≥ 0.95"),
    (
        "hand_over_throughput_ratio",
        "hand-over `auto` beside the better fixed rule: throughput, worst workload",
        "≥ 0.95",
    ),
    ("hand_over_idle_latency_ratio", "the same for idle latency (above 1 is worse)", "≤ 1.05"),
    ("idle_kib_per_tether", "memory of an idle tether of 10,000, KiB", "≤ 16"),
    ("idle_core_ratio", "of a core, for 10,000 idle tethers", "< 0.02"),
    ("recovery_ms", "from the end of the overload until p99 is within its limit, ms", "≤ 1000"),
    ("slow_link_ping_over_idle_ms", "ping over idle beside a bulk transfer, worst case, ms", "≤ 20"),
    ("slow_link_goodput_ratio", "that transfer as a part of plain TCP's (cubic), worst case", "≥ 0.93"),
    ("slow_link_plain_bbr_ratio", "plain TCP by BBR as a part of the same, the worse way", ""),
];

/// The median of every figure that is a number, and the last of every other.
pub(crate) fn medians(runs: &[Figures]) -> Figures {
    let mut medians = runs.iter().rfind(|run| !run.is_empty()).cloned().unwrap_or_default();
    for (key, value) in medians.iter_mut().filter(|(_, value)| value.is_number() || value.is_null()) {
        let mut numbers: Vec<f64> = runs.iter().filter_map(|run| run.get(key)?.as_f64()).collect();
        numbers.sort_unstable_by(f64::total_cmp);
        // A run without the figure is worse than any with it, and more such runs than others leave it out.
        let is_known = 2 * numbers.len() > runs.len();
        let more_is_better = ROWS.iter().any(|(row, _, goal)| row == key && goal.starts_with('≥'));
        let without = if more_is_better { runs.len() - numbers.len() } else { 0 };
        let at = (runs.len() / 2).checked_sub(without);
        *value =
            at.and_then(|at| numbers.get(at)).filter(|_| is_known).map_or(Value::Null, |median| Value::from(*median));
    }
    medians
}

/// For a terminal.
pub(crate) fn text(report: &Figures) -> String {
    let mut text = String::new();
    for (key, what, goal) in ROWS.iter().filter(|(key, ..)| report.contains_key(*key)) {
        text += &format!("{key:<30}{:>10}   {:<26} {what}\n", figure(report, key), judged(report, key, goal));
    }
    for (part, why) in report["failed"].as_object().into_iter().flatten() {
        text += &format!("{part} failed: {why}\n");
    }
    text
}

/// For docs/benchmarks.md.
pub(crate) fn markdown(report: &Figures) -> String {
    let mut text = "| figure | result | goal |\n| --- | --- | --- |".to_owned();
    for (key, what, goal) in ROWS {
        text += &format!("\n| {what} (`{key}`) | {} | {} |", figure(report, key), judged(report, key, goal));
    }
    text
}

/// The goal, with the limit that this run judged by where that is the run's own.
fn judged(report: &Figures, key: &str, goal: &str) -> String {
    let limit = match key {
        "p99_ms_at_20x" => "p99_limit_ms",
        "recovery_ms" => "recovery_limit_ms",
        _ => return goal.to_owned(),
    };
    match report.get(limit).and_then(Value::as_f64) {
        Some(limit_ms) => format!("{goal} (p99 ≤ {limit_ms:.1})"),
        None => goal.to_owned(),
    }
}

fn figure(report: &Figures, key: &str) -> String {
    report.get(key).and_then(Value::as_f64).map_or_else(|| "-".to_owned(), |figure| format!("{figure:.3}"))
}
