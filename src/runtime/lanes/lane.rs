//! One lane: what waits in it, and what it may do.

use super::shares::Share;
use crate::runtime::queue::Queue;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// On no list. Runnable only once something comes in.
    Idle,
    /// Something waits in it, and it is not ready before more does, or [`Lanes::end_gathering`].
    Gathering,
    /// On the ready list.
    Ready,
    /// A thread has it.
    Running,
}

#[derive(Debug)]
pub(super) struct Lane<Q> {
    pub(super) queue: Q,
    pub(super) state: State,
    /// Run it though nothing waits.
    pub(super) poked: bool,
    /// Out until resumed.
    pub(super) parked: bool,
    /// A resume came while it still ran.
    pub(super) resumed: bool,
    /// It has been resumed, and what it left over must go first: its next run is for that alone.
    pub(super) settling: bool,
    /// Its owner went while it ran, so that what the handler says of it is of no more interest.
    pub(super) orphaned: bool,
    pub(super) allowance_bytes: Option<u64>,
    /// Segments that it may still take in this round (deficit round robin).
    pub(super) deficit_segments: i64,
    /// What it got of late.
    pub(super) share: Share,
    /// It has its turn past others that are held back.
    pub(super) passes: bool,
    /// Of a lane of signals: its last turn that brought something brought much, or was not enough for all that it had.
    pub(super) brings_much: bool,
    /// The offer in which it last entered, and in which it was last refused.
    pub(super) entered_in: u64,
    pub(super) refused_in: u64,
    /// What was turned away of it, within its share, since it was asked who lost: at that asking, and so much.
    pub(super) lost: (u64, u64),
    /// On the list of those that gather, whatever its state.
    pub(super) is_listed: bool,
}

impl<Q: Queue> Lane<Q> {
    pub(super) fn new() -> Self {
        Self {
            queue: Q::default(),
            state: State::Idle,
            poked: false,
            parked: false,
            resumed: false,
            settling: false,
            orphaned: false,
            allowance_bytes: None,
            deficit_segments: 0,
            share: Share::default(),
            passes: false,
            brings_much: false,
            entered_in: 0,
            refused_in: 0,
            lost: (0, 0),
            is_listed: false,
        }
    }

    pub(super) fn has_allowance(&self) -> bool {
        self.allowance_bytes != Some(0)
    }

    pub(super) fn spend(&mut self, bytes: usize) {
        if let Some(allowance) = &mut self.allowance_bytes {
            *allowance = allowance.saturating_sub(bytes as u64);
        }
    }

    pub(super) fn has_work(&self) -> bool {
        !self.queue.is_empty() && self.has_allowance()
    }

    /// Whether a batch that is brought may run on in this lane: nothing of it waits, and nobody has it.
    pub(super) fn is_free(&self) -> bool {
        self.state == State::Idle && !self.parked && self.queue.is_empty() && self.has_allowance()
    }

    /// Whether it entered in this offer, and nothing of it had to queue since.
    pub(super) fn is_entering(&self, offer: u64) -> bool {
        self.state == State::Running && self.entered_in == offer && self.queue.is_empty() && self.has_allowance()
    }

    pub(super) fn is_runnable(&self) -> bool {
        !self.parked && (self.settling || self.poked || self.has_work())
    }
}
