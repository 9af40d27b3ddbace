//! Lanes that gather: they hold something, and are not ready before more of it has come, or its time.
//!
//! For a stage that does something once a lane whatever waits there, such as a message and a system call. While there is
//! more to do than can be done, a packet waits somewhere; here it waits for others that go the same way.

use std::time::{Duration, Instant};

use super::{HandOver, LaneId, Lanes, Limits, State};
use crate::runtime::queue::Queue;

/// How long, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gathering {
    /// How long a lane gathers at most.
    pub wait_max: Duration,
    /// Segments with which a lane has gathered enough.
    pub enough_segments: u32,
}

impl Gathering {
    /// In 10 ms a thousand tethers that take all of a core get two or three packets each. Of 16 segments, what is done once for
    /// all of them is a small part of what is done for each: a message and a system call are about four packets' work.
    pub const DEFAULT: Self = Self { wait_max: Duration::from_millis(10), enough_segments: 16 };
}

impl<Q: Queue> Lanes<Q> {
    /// Lanes of which each is served, in its turn, with all that it has gathered.
    pub fn that_gather(count: u32, limits: Limits, enough_segments: u32) -> Self {
        Self { quantum_segments_min: enough_segments.into(), enough_segments, ..Self::new(count, limits) }
    }

    /// After something was queued: the lane is ready, unless it gathers, or begins to.
    pub(super) fn gather_or_make_ready(&mut self, now: Instant, hand_over: HandOver, id: LaneId) {
        let lane = &mut self.lanes[id.index()];
        let begins = hand_over == HandOver::Gather && lane.state == State::Idle && lane.is_runnable();
        let gathers = lane.state == State::Gathering || begins;
        if !gathers || lane.poked || lane.settling || lane.queue.load().segments >= self.enough_segments.into() {
            return self.make_ready(id);
        }
        lane.state = State::Gathering;
        // One that became ready otherwise may still be listed. It then gathers for less.
        if !std::mem::replace(&mut lane.is_listed, true) {
            self.gathering.push_back((now, id));
        }
    }

    /// Makes lanes ready that have gathered for `wait`, those first that have for longest, up to about so many segments.
    pub fn end_gathering(&mut self, now: Instant, wait: Duration, segments: u32) {
        let mut left = i64::from(segments);
        while left > 0
            && let Some(&(since, id)) = self.gathering.front()
            && now.saturating_duration_since(since) >= wait
        {
            self.gathering.pop_front();
            let lane = &mut self.lanes[id.index()];
            lane.is_listed = false;
            if lane.state == State::Gathering {
                left -= lane.queue.load().segments as i64;
                // What it held may have been given up meanwhile.
                lane.state = State::Idle;
                self.make_ready(id);
            }
        }
    }

    /// Whether a lane gathers.
    pub fn is_gathering(&self) -> bool {
        !self.gathering.is_empty()
    }
}
