//! The stages' queues and threads.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::schema::{Reader, settings};
use crate::config::values::{Auto, Bytes, choices};

settings! {
    /// The stages' queues and threads: what holds for each stage that has no section of its own.
    pub struct Stage {
        /// The fewest threads of its pool.
        threads_min: usize = 1 in 1..=1024,
        /// The most threads of its pool. "auto": as many as there are cores.
        threads_max: Auto<usize> = "auto" in 1..=1024,
        /// How many packets may wait in its queue. Each tether has a fair share of it.
        queue_packets: usize = 4096 in 16..=1000000,
        /// How many bytes may wait in its queue, in memory held; never more than half of what memory.budget leaves for buffers.
        queue_bytes: Bytes = "16MiB" in "256KiB"..="16GiB",
        /// How long packets may wait in its queue. When the oldest packet of one batch in a hundred waits longer, the queue
        /// admits less, and the tethers that fill it most lose first. The queues of "accept" and "ws-decode" hold one signal
        /// a link and refuse none. That of "ws-encode" waits for the tether's link and is not bounded so, but by
        /// [conditioning.codel]; what packets wait there for each other is told under [conditioning.gathering].
        sojourn_max: Duration = "5ms" in "1ms"..="10s",
        /// The most packets it takes at once. It does not wait until there are so many; the one wait for more is that of
        /// "ws-encode", told with sojourn_max.
        batch: usize = 256 in 1..=1024,
        /// Whether a batch goes through the next stage on the same thread: "auto" decides by what waits, "always" and
        /// "never" are for measurements.
        hand_over: HandOver = "auto",
    }
}

impl Stage {
    /// The fewest and the most threads of its pool, on a machine with so many cores.
    pub fn threads(&self, cores: usize) -> RangeInclusive<usize> {
        self.threads_min..=self.threads_max.unwrap_or_else(|| cores).max(self.threads_min)
    }
}

choices! {
    /// Whether a batch runs on through the next stage on the same thread.
    pub enum HandOver {
        /// As observations say.
        Auto = "auto",
        /// It runs on.
        Always = "always",
        /// It queues.
        Never = "never",
    }
}

choices! {
    /// The stages that have a queue.
    pub enum StageName {
        /// Connection, TLS, upgrade and hello.
        Accept = "accept",
        /// Frames and capsules to packets.
        WsDecode = "ws-decode",
        /// Headers judged.
        IpParse = "ip-parse",
        /// Addresses translated.
        NatRewrite = "nat-rewrite",
        /// Out by packet sockets.
        RawSend = "raw-send",
        /// Out by the TUN device.
        TunWrite = "tun-write",
        /// Packets to capsules and frames.
        WsEncode = "ws-encode",
    }
}

/// The section whose values stand in for those that a stage's own does not have.
pub(in crate::config) const DEFAULT_SECTION: &str = "stages.default";

/// Every stage's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stages {
    default: Stage,
    own: BTreeMap<StageName, Stage>,
}

impl Stages {
    /// A stage's settings.
    pub fn get(&self, name: StageName) -> &Stage {
        self.own.get(&name).unwrap_or(&self.default)
    }

    pub(super) fn read(reader: &mut Reader) -> Self {
        let default = reader.section(DEFAULT_SECTION);
        let own = StageName::ALL
            .iter()
            .map(|name| (*name, reader.section_over(section_of(*name), DEFAULT_SECTION)))
            .collect();
        Self { default, own }
    }
}

pub(super) fn section_of(name: StageName) -> String {
    format!("stages.{name}")
}
