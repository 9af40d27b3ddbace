//! What the fuzz target of the configuration runs, and what the unit tests replay its corpus through.

use super::{Client, Gateway, Role, parse};

/// Any text as either role's file: it is judged, and what is wrong is told.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    judged::<Gateway>(text);
    judged::<Client>(text);
}

fn judged<R: Role + PartialEq + std::fmt::Debug>(text: &str) {
    match parse::<R>(text, &[]) {
        Ok(config) => assert_eq!(parse::<R>(text, &[]), Ok(config), "the same text is the same configuration"),
        Err(problems) => {
            assert!(!problems.is_empty(), "a refusal has a reason");
            assert!(problems.iter().all(|problem| !problem.to_string().is_empty()));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_committed_input_of_the_configuration_passes() {
        crate::wire::fuzz::replay("config", super::config);
    }
}
