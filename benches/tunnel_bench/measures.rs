//! What is measured of a running system, one row's values.

pub(crate) mod cpu;
pub(crate) mod gateway;
pub(crate) mod memory;
pub(crate) mod ping;
pub(crate) mod profile;
pub(crate) mod slow;
pub(crate) mod tcp;
pub(crate) mod udp;

use std::time::Duration;

use crate::row::Row;
use crate::site::Site;
use crate::systems::{Running, System};

/// How long the measurements take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    pub(crate) tcp: Duration,
    pub(crate) udp: Duration,
    pub(crate) pings: u16,
    pub(crate) slow: Duration,
    /// Whether the slow link is measured with an upload, too.
    pub(crate) is_full: bool,
}

impl Lengths {
    /// All systems within 8 minutes.
    pub(crate) const QUICK: Self = Self {
        tcp: Duration::from_secs(2),
        udp: Duration::from_secs(1),
        pings: 200,
        slow: Duration::from_secs(6),
        is_full: false,
    };
    /// Long enough that a start does not show.
    pub(crate) const FULL: Self = Self {
        tcp: Duration::from_secs(6),
        udp: Duration::from_secs(3),
        pings: 1000,
        slow: Duration::from_secs(15),
        is_full: true,
    };
}

/// Measures everything, the slow link last, since it stays slow. What fails becomes a reason in the row.
pub(crate) fn all(site: &Site, system: &dyn System, running: &Running, lengths: Lengths, row: &mut Row) {
    row.take(&["ping_p50_ms", "ping_p99_ms"], ping::idle(site, lengths.pings));
    tcp::streams(site, running, lengths.tcp, row);
    udp::small(site, lengths.udp, row);
    slow::ping_under_load(site, system.slow_link(), lengths.slow, lengths.is_full, row);
    memory::peaks(running, row);
}
