//! Round trips where nothing else is on the way.

use std::time::Duration;

use wstether::lab::probe;
use wstether::lab::world::INTERNET;

use crate::site::{Error, Site};

const APART: Duration = Duration::from_millis(5);
/// More than this lost, and the path is not one.
const LOST_MAX: usize = 2;

/// The median and the 99th percentile in milliseconds.
pub(crate) fn idle(site: &Site, count: u16) -> Result<Vec<f64>, Error> {
    site.go_on()?;
    // The first one waits for neighbours and mappings.
    probe::ping(&site.world.laptop, INTERNET, 1, Duration::ZERO)?;
    let pings = probe::ping(&site.world.laptop, INTERNET, count, APART)?;
    let lost = pings.sent - pings.times.len();
    match (pings.quantile_ms(0.5), pings.quantile_ms(0.99)) {
        (Some(p50), Some(p99)) if lost <= LOST_MAX => Ok(vec![p50, p99]),
        _ => Err(format!("{lost} of {} pings were lost", pings.sent).into()),
    }
}
