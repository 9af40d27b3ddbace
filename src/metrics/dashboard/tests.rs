//! The dashboard and the rules, held against the catalogue.

use super::*;
use crate::metrics::{INSTRUMENTS, Instrument, Kind};
use std::fs;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dashboards/wstether.json");
const RULES: &str = include_str!("../../../dashboards/prometheus/rules.yml");

/// The committed file is what this source makes. `UPDATE=1 cargo test dashboard` writes it anew.
#[test]
fn the_committed_dashboard_is_the_generated_one() {
    let mut wanted = serde_json::to_string_pretty(&dashboard()).expect("JSON");
    wanted.push('\n');
    if std::env::var_os("UPDATE").is_some() {
        fs::write(FILE, &wanted).expect("dashboards/ can be written");
    }
    let committed = fs::read_to_string(FILE).unwrap_or_default();
    assert!(committed == wanted, "dashboards/wstether.json is out of date: run UPDATE=1 cargo test dashboard");
}

fn panels() -> Vec<Value> {
    let all = dashboard()["panels"].as_array().cloned().unwrap_or_default();
    all.into_iter().filter(|panel| panel["type"] != "row").collect()
}

#[test]
fn every_panel_has_a_title_a_unit_a_description_and_a_query() {
    for panel in panels() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let title = text(&panel["title"]);
        assert!(!title.is_empty());
        assert!(!text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(), "{title}");
        assert!(text(&panel["description"]).ends_with('.'), "{title}");
        assert!(!panel["targets"].as_array().expect("targets").is_empty(), "{title}");
    }
}

#[test]
fn no_panels_overlap_and_none_leaves_the_grid() {
    let mut taken = std::collections::HashSet::new();
    for panel in dashboard()["panels"].as_array().expect("panels") {
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
        assert!(at("x") + at("w") <= COLUMNS);
        for cell in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{} overlaps", panel["title"]);
        }
    }
}

/// The words of a query that may be names of series: `a:b` are recording rules.
fn names(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words.filter(|word| word.starts_with("wstether_") || word.starts_with("process_") || word.contains(':'))
}

fn is_known(name: &str, rules: &[&str]) -> bool {
    let of = |i: &Instrument| match i.kind {
        Kind::Histogram(_) => name.strip_prefix(i.name).is_some_and(|it| ["_bucket", "_sum", "_count"].contains(&it)),
        Kind::Counter | Kind::Gauge => i.name == name,
    };
    INSTRUMENTS.iter().any(of) || rules.contains(&name)
}

#[test]
fn every_query_of_the_dashboard_names_series_of_the_catalogue() {
    for panel in panels() {
        for target in panel["targets"].as_array().expect("targets") {
            let query = target["expr"].as_str().expect("a query");
            assert!(names(query).count() > 0, "{query}");
            for name in names(query) {
                assert!(is_known(name, &[]), "{}: {name} is not in the catalogue", panel["title"]);
            }
        }
    }
}

#[test]
fn every_instrument_of_a_stage_but_the_high_water_marks_has_its_panel_or_a_rule() {
    let drawn = dashboard().to_string() + RULES;
    let elsewhere = ["_max_seen", "_batches_total", "_decisions_total"];
    for name in INSTRUMENTS.iter().map(|it| it.name).filter(|name| name.starts_with("wstether_stage_")) {
        assert!(drawn.contains(name) || elsewhere.iter().any(|end| name.ends_with(end)), "{name} is drawn nowhere");
    }
}

#[test]
fn what_the_controllers_decide_is_drawn_by_each_of_its_labels() {
    let drawn = dashboard().to_string();
    for (name, by) in [
        ("wstether_decisions_total", "sum by (controller, change, reason)"),
        ("wstether_stage_handovers_total", "sum by (decision, reason)"),
    ] {
        let query =
            drawn.split("\"expr\":\"").skip(1).find(|rest| rest.split('"').next().is_some_and(|it| it.contains(name)));
        assert!(query.is_some_and(|query| query.starts_with(by)), "{name}");
    }
}

#[test]
fn every_rule_names_series_of_the_catalogue_or_of_another_rule_and_every_alert_has_its_runbook() {
    let value = |line: &'static str, key: &str| line.trim().trim_start_matches("- ").strip_prefix(key);
    let of = |key: &'static str| RULES.lines().filter_map(move |line| value(line, key)).map(str::trim);
    let rules: Vec<&str> = of("record:").collect();
    assert!(!rules.is_empty());
    let queries = RULES.lines().filter(|line| !line.trim_start().starts_with('#') && !line.contains("record:"));
    for name in queries.flat_map(|line| names(line.split_once("expr:").map_or(line, |(_, query)| query))) {
        let is_prose = name.ends_with(':');
        assert!(is_prose || is_known(name, &rules), "{name} is neither in the catalogue nor a rule");
    }
    assert_eq!(of("alert:").count(), of("runbook:").count());
    for runbook in of("runbook:") {
        assert!(fs::exists(format!("{}/{runbook}", env!("CARGO_MANIFEST_DIR"))).expect("readable"), "{runbook}");
    }
}

#[test]
fn every_reason_that_a_rule_counts_is_one_that_a_stage_has() {
    use crate::metrics::labels;
    use crate::runtime::work::RUNTIME_REASONS;
    use crate::stages::{ip_parse, nat_rewrite, raw_recv, raw_send, tun_read, tun_write, ws_decode, ws_encode};

    let known = [
        RUNTIME_REASONS.to_vec(),
        labels::<ws_decode::Reason>(),
        labels::<ip_parse::Reason>(),
        labels::<nat_rewrite::Reason>(),
        labels::<raw_send::Reason>(),
        labels::<tun_write::Reason>(),
        labels::<raw_recv::Reason>(),
        labels::<tun_read::Reason>(),
        labels::<ws_encode::Reason>(),
    ]
    .concat();
    let lists = RULES.split("reason=~\"").skip(1).filter_map(|rest| rest.split('"').next());
    let named: Vec<&str> = lists.flat_map(|list| list.split('|')).collect();
    assert!(!named.is_empty());
    for name in named {
        assert!(known.contains(&name), "{name} is no stage's reason");
    }
}
