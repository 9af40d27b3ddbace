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

/// What a key does to the figures.
type Change = fn(&mut Tuning);

#[test]
fn each_key_is_another_figure_of_the_mechanisms() {
    const MS: Duration = Duration::from_millis(1);
    let changes: [(&str, Change); 13] = [
        ("controllers.look_every = \"21ms\"", |tuning| tuning.look_every = 21 * MS),
        ("pool.grow_sojourn = \"1ms\"", |tuning| tuning.pool.grow_sojourn = MS),
        ("pool.shrink_after = \"9s\"", |tuning| tuning.pool.shrink_after = 9_000 * MS),
        ("pool.shrink_after_max = \"90s\"", |tuning| tuning.pool.shrink_after_max = 90_000 * MS),
        ("pool.shrink_below_percent = 16", |tuning| tuning.pool.shrink_below = 0.16),
        ("hand_over.worth = \"20us\"", |tuning| tuning.hand_over.worth = MS / 50),
        ("hand_over.unread_service_max = \"2ms\"", |tuning| tuning.hand_over.unread_service_max = 2 * MS),
        ("hand_over.late_service_max = \"0us\"", |tuning| tuning.hand_over.late_service_max = Duration::ZERO),
        ("gathering.wait_max = \"0ms\"", |tuning| tuning.gathering.wait_max = Duration::ZERO),
        ("gathering.packets = 8", |tuning| tuning.gathering.enough_segments = 8),
        ("gathering.share_percent = 100", |tuning| tuning.hand_over.gather_share_min = 1.0),
        ("codel.target = \"21ms\"", |tuning| tuning.codel.target = 21 * MS),
        ("codel.interval = \"210ms\"", |tuning| tuning.codel.interval = 210 * MS),
    ];
    for (set, change) in changes {
        let text = format!("conditioning.{set}");
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
    let text = "[conditioning.codel]\ntarget = \"15ms\"";
    let parts = [
        "line 2: conditioning.gathering.wait_max: 10ms is more than half of",
        "target = 15ms",
        "lower it, or raise that",
    ];
    assert_told::<Gateway>(text, &parts);
    assert_eq!(told::<Client>(text), [""; 0], "a client gathers nothing");
}

#[test]
fn a_pools_longest_wait_is_not_less_than_its_first() {
    let text = "[conditioning.pool]\nshrink_after = \"5m\"";
    assert_told::<Gateway>(
        text,
        &["line 2: conditioning.pool.shrink_after_max: 160s is less than", "raise it, or lower that"],
    );
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
