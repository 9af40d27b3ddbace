//! The figures of load conditioning that who runs it may trade, and what they are to the mechanisms. Where the line is:
//! docs/decisions/0024-what-is-configured.md.

use std::time::Duration;

use super::schema::{Reader, settings};
use crate::runtime::codel;
use crate::runtime::tuning::Tuning;

settings! {
    /// When the queue of a flow in front of a link is too long (CoDel, RFC 8289): then packets of it are marked (ECN), or
    /// dropped.
    pub struct Codel {
        /// The wait that some packet of each interval has to stay within. Less keeps a flow's own queue short; more fills
        /// links that are long or uneven.
        target: Duration = "20ms" in "1ms"..="1s",
        /// How long packets may wait longer before the first is marked or dropped: a little more than the longest usual
        /// round trip. Not less than target.
        interval: Duration = "200ms" in "10ms"..="10s",
    }
}

impl Codel {
    /// What the queues go by.
    pub fn settings(&self) -> codel::Settings {
        codel::Settings { target: self.target, interval: self.interval }
    }

    pub(super) fn judge(&self, reader: &mut Reader) {
        if self.target > self.interval {
            let what = format!(
                "{:?} is more than conditioning.codel.interval = {:?}, in which some packet has to stay within it: lower it, \
                 or raise that",
                self.target, self.interval
            );
            reader.object(&["conditioning.codel.target", "conditioning.codel.interval"], what);
        }
    }
}

/// A gateway's `[conditioning.*]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditioning {
    /// `[conditioning.codel]`
    pub codel: Codel,
}

impl Conditioning {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self { codel: reader.section("conditioning.codel") }
    }

    pub(super) fn judge(&self, reader: &mut Reader) {
        self.codel.judge(reader);
    }

    /// What the stages' mechanisms go by.
    pub fn tuning(&self) -> Tuning {
        Tuning { codel: self.codel.settings() }
    }
}

/// A client's `[conditioning.*]`: the same figures, of those mechanisms that have work at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConditioning {
    /// `[conditioning.codel]`
    pub codel: Codel,
}

impl ClientConditioning {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self { codel: reader.section("conditioning.codel") }
    }

    pub(super) fn judge(&self, reader: &mut Reader) {
        self.codel.judge(reader);
    }

    /// What the stages' mechanisms go by.
    pub fn tuning(&self) -> Tuning {
        Tuning { codel: self.codel.settings(), ..Tuning::DEFAULT }
    }
}

#[cfg(test)]
mod tests;
