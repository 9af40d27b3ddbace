//! The seeds of a test, and how one that fails is played again.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// The variable that names the one seed to run.
const VARIABLE: &str = "SEED";

/// Runs a test with as many seeds as are worth their time, or with that of the variable alone. Of the first that fails it
/// tells the command that replays it, behind what the test itself tells.
pub(super) fn with_seeds<F: Fn(u64)>(count: u64, test: F) {
    match std::env::var(VARIABLE) {
        Ok(seed) => with_each(std::iter::once(seed.parse().expect("a number")), test),
        Err(_) => with_each(0..count, test),
    }
}

fn with_each<F: Fn(u64)>(seeds: impl Iterator<Item = u64>, test: F) {
    // Of a closure it is the name of the function around it, and a word more.
    let name = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    let name = name.split_once("::").map_or(name, |(_crate, path)| path);
    for seed in seeds {
        let result = catch_unwind(AssertUnwindSafe(|| test(seed)));
        assert!(
            result.is_ok(),
            "it fails with a seed that replays: {VARIABLE}={seed} cargo test --lib -- --exact {name}"
        );
    }
}

#[test]
fn of_a_seed_that_fails_the_command_is_told_that_replays_it() {
    let failed = catch_unwind(|| with_each(0..9, |seed| assert!(seed < 2)));
    let told = failed.expect_err("seed 2 fails");
    let told = told.downcast_ref::<String>().expect("a text");
    let path = "runtime::simulator::seeds::of_a_seed_that_fails_the_command_is_told_that_replays_it";
    assert!(told.ends_with(&format!(": SEED=2 cargo test --lib -- --exact {path}")), "{told}");
}
