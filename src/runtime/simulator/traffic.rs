//! What goes through a simulated pipeline: flows, their packets, and what they came to.

use std::time::Duration;

use super::Ns;
use crate::runtime::lanes::LaneId;
use crate::runtime::queue::Weigh;

/// How many packets a second a flow sends, over time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rate {
    Steady(f64),
    Step {
        at: Duration,
        before: f64,
        after: f64,
    },
    /// Rises or falls evenly from one rate to the other until `over`.
    Ramp {
        over: Duration,
        from: f64,
        to: f64,
    },
    Bursts {
        rate: f64,
        on: Duration,
        off: Duration,
    },
}

impl Rate {
    pub(super) fn at(self, now: Ns) -> f64 {
        let now = Duration::from_nanos(now);
        match self {
            Self::Steady(rate) => rate,
            Self::Step { at, before, after } => {
                if now < at {
                    before
                } else {
                    after
                }
            }
            Self::Ramp { over, from, to } => from + (to - from) * now.div_duration_f64(over).min(1.0),
            Self::Bursts { rate, on, off } => {
                let within = now.as_nanos() % (on + off).as_nanos();
                if within < on.as_nanos() { rate } else { 0.0 }
            }
        }
    }
}

/// One flow of packets, arriving at random (Poisson), in the lane of its tether.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) lane: LaneId,
    pub(super) segments: u32,
    pub(super) rate: Rate,
}

/// A packet of a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) flow: u32,
    pub(super) number: u64,
    /// None is a message of control capsules: it ends in the first stage, and is no measure of what its tether brings.
    pub(super) segments: u32,
    pub(super) came: Ns,
}

impl Weigh for Item {
    fn segments(&self) -> u32 {
        self.segments
    }

    fn bytes(&self) -> usize {
        1_400 * self.segments as usize
    }

    fn held_bytes(&self) -> usize {
        2_048 * self.segments.max(1) as usize
    }
}

/// What a flow came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delivered {
    pub(super) sent: u64,
    /// Packets that passed all stages.
    pub(super) count: u64,
    pub(super) segments: u64,
    pub(super) dropped: u64,
    /// Packets that came out after a later one.
    pub(super) disorder: u64,
    pub(super) next: u64,
    pub(super) latency_max: Ns,
}
