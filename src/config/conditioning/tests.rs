#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use super::*;
use crate::config::{Client, Gateway, Role, parse};

fn told<R: Role>(text: &str) -> Vec<String> {
    parse::<R>(text, &[]).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

/// One problem, with each of the texts in it.
fn assert_told<R: Role>(text: &str, parts: &[&str]) {
    let told = told::<R>(text);
    assert_eq!(told.len(), 1, "{text}: {told:#?}");
    assert!(parts.iter().all(|part| told[0].contains(part)), "{parts:?} are not all in {}", told[0]);
}

#[test]
fn by_default_the_mechanisms_go_by_what_they_go_by_without_a_configuration() {
    assert_eq!(Gateway::default().conditioning.tuning(), Tuning::DEFAULT);
    assert_eq!(Client::default().conditioning.tuning(), Tuning::DEFAULT);
}

#[test]
fn each_key_is_another_figure_of_the_mechanisms() {
    let changes: [(&str, fn(&mut Tuning)); 2] = [
        ("codel.target=21ms", |tuning| tuning.codel.target = Duration::from_millis(21)),
        ("codel.interval=210ms", |tuning| tuning.codel.interval = Duration::from_millis(210)),
    ];
    for (set, change) in changes {
        let (key, value) = set.split_once('=').unwrap();
        let (section, key) = key.rsplit_once('.').unwrap();
        let text = format!("[conditioning.{section}]\n{key} = \"{value}\"");
        let mut expected = Tuning::DEFAULT;
        change(&mut expected);
        assert_eq!(parse::<Gateway>(&text, &[]).unwrap().conditioning.tuning(), expected, "{set}");
    }
}

#[test]
fn figures_that_cannot_go_together_are_told_with_what_to_do() {
    let text = "[conditioning.codel]\ntarget = \"50ms\"\ninterval = \"40ms\"";
    let parts = ["line 2: conditioning.codel.target: 50ms is more than", "interval = 40ms", "lower it, or raise that"];
    assert_told::<Gateway>(text, &parts);
    assert_told::<Client>(text, &parts);
}

#[test]
fn rungs_whose_parts_of_the_memory_are_in_another_order_are_told_with_what_to_do() {
    let parts =
        ["line 2: overload.mappings_percent: 70 is less than overload.tethers_percent = 79", "raise it, or lower that"];
    assert_told::<Gateway>("[overload]\nmappings_percent = 70", &parts);
    let parts = ["line 3: overload.trim_percent: 70 is less than overload.mappings_percent = 84"];
    assert_told::<Gateway>("[overload]\ntethers_percent = 66\ntrim_percent = 70", &parts);
    // Above them the budget itself refuses, and no rung would tell.
    assert_told::<Gateway>("[overload]\ntethers_percent = 80", &["line 2: ", "from 66 to 79"]);
}

#[test]
fn a_figure_out_of_its_bounds_is_told_with_them() {
    assert_told::<Client>("[conditioning.codel]\ntarget = \"0ms\"", &["line 2: ", "from \"1ms\" to \"1s\""]);
}
