//! What every part is told: how thoroughly to measure, and what is known already.

use std::time::Duration;

use serde_json::{Map, Value};

/// What a part comes to, or why it does not.
pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Figures by name.
pub(crate) type Figures = Map<String, Value>;

/// One run of a part.
pub(crate) struct Run {
    pub(crate) full: bool,
    /// The figures of the parts before.
    pub(crate) known: Figures,
}

/// How long a measurement lasts, in milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Lasts {
    pub(crate) quick_ms: u64,
    pub(crate) full_ms: u64,
}

impl Run {
    pub(crate) fn lasts(&self, lasts: Lasts) -> Duration {
        Duration::from_millis(if self.full { lasts.full_ms } else { lasts.quick_ms })
    }

    /// A figure of a part before, if that came to it.
    pub(crate) fn known(&self, key: &str) -> Option<f64> {
        self.known.get(key).and_then(Value::as_f64)
    }
}

/// 0 of none.
pub(crate) fn mean(figures: &[f64]) -> f64 {
    figures.iter().sum::<f64>() / figures.len().max(1) as f64
}
