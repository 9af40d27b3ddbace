//! The figures of load conditioning that who runs it may trade, and what they are to the mechanisms. Where the line is:
//! docs/decisions/0024-what-is-configured.md.

use std::time::Duration;

use super::schema::{Reader, settings};
use crate::runtime::tuning::Tuning;
use crate::runtime::{codel, controller, hand_over, lanes};
use crate::{credit, window};

settings! {
    /// The controllers of the stages: of threads, batches and what a queue admits. What each mechanism does is told by
    /// docs/load-conditioning.md, and what its figures trade by docs/decisions/0024-what-is-configured.md.
    pub struct Controllers {
        /// How often they look. Oftener, and what changes is answered sooner, for more CPU time.
        look_every: Duration = "20ms" in "5ms"..="50ms",
    }
}

settings! {
    /// The threads of each stage, between threads_min and threads_max.
    pub struct Pool {
        /// A pool gets a thread more where packets have waited so long at three looks in a row, and a core is free.
        grow_sojourn: Duration = "500us" in "50us"..="1s",
        /// It loses one when it was larger than its work needs for so long.
        shrink_after: Duration = "10s" in "1s"..="1h",
        /// Each time that was wrong it waits twice as long, up to this. Not less than shrink_after.
        shrink_after_max: Duration = "160s" in "1s"..="1d",
        /// How busy the threads that remain may be for that, in percent. More, and a thread that was taken away is sooner
        /// wanted back.
        shrink_below_percent: u32 = 15 in 1..=90,
    }
}

impl Pool {
    fn settings(&self) -> controller::Settings {
        controller::Settings {
            grow_sojourn: self.grow_sojourn,
            shrink_after: self.shrink_after,
            shrink_after_max: self.shrink_after_max,
            shrink_below: part(self.shrink_below_percent),
        }
    }

    fn judge(&self, reader: &mut Reader) {
        if self.shrink_after_max < self.shrink_after {
            let what = format!(
                "{:?} is less than conditioning.pool.shrink_after = {:?}: raise it, or lower that",
                self.shrink_after_max, self.shrink_after
            );
            reader.object(&["conditioning.pool.shrink_after_max", "conditioning.pool.shrink_after"], what);
        }
    }
}

settings! {
    /// Whether a batch goes on through the next stage on its thread, or to another one, where hand_over is "auto".
    pub struct HandOver {
        /// Work of less goes on, since another thread has to be woken for it, and has it in no cache.
        worth: Duration = "60us" in "0us"..="10ms",
        /// How much work, at most, the thread that reads from the internet does itself while more waits for it and no core
        /// is free: what waits there nobody else can read.
        unread_service_max: Duration = "1ms" in "0us"..="100ms",
        /// The same while what waits there waits too long: then it does the first stage's alone.
        late_service_max: Duration = "100us" in "0us"..="100ms",
    }
}

impl HandOver {
    fn settings(&self, gathering: &Gathering) -> hand_over::Settings {
        hand_over::Settings {
            worth: self.worth,
            unread_service_max: self.unread_service_max,
            late_service_max: self.late_service_max,
            gather_share_min: part(gathering.share_percent),
        }
    }
}

settings! {
    /// Packets for a tether wait for each other while the gateway has more to do than it can, so that they leave as one
    /// message: that and its system call cost as much as some packets.
    pub struct Gathering {
        /// How long, at most. More is fewer messages for many tethers that get little each. Not more than half of
        /// conditioning.codel.target, so that it is taken for no queue. "0ms": they do not.
        wait_max: Duration = "10ms" in "0ms"..="500ms",
        /// With so many packets there are enough.
        packets: u32 = 16 in 2..=1024,
        /// What part of the machine "ws-encode" has to take for that, in percent. Where it takes little, little is gained.
        share_percent: u32 = 25 in 1..=100,
    }
}

impl Gathering {
    fn judge(&self, codel: &Codel, reader: &mut Reader) {
        if self.wait_max > codel.target / 2 {
            let what = format!(
                "{:?} is more than half of conditioning.codel.target = {:?}, which would take it for a queue: lower it, or \
                 raise that",
                self.wait_max, codel.target
            );
            reader.object(&["conditioning.gathering.wait_max", "conditioning.codel.target"], what);
        }
    }
}

/// So many percent.
fn part(percent: u32) -> f64 {
    f64::from(percent) / 100.0
}

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

settings! {
    /// How much of what is on its way may wait in the network's buffers, however long the path is: a window a link
    /// (docs/decisions/0013-window.md).
    pub struct Window {
        /// How long what is sent may wait behind the path. Less keeps a ping beside a download short; more keeps a link busy
        /// whose acknowledgements come late or together.
        queue: Duration = "10ms" in "1ms"..="1s",
        /// A window of so much time is allowed on any path, since a round trip shorter than that is mostly that of threads.
        whole_min: Duration = "20ms" in "0ms"..="1s",
    }
}

impl Window {
    /// What the windows go by.
    pub fn settings(&self) -> window::Settings {
        window::Settings { queue: self.queue, whole_min: self.whole_min }
    }
}

settings! {
    /// When a tether's credit, of which tethers.credit_window is the most, is cut.
    pub struct Credit {
        /// How long its packets may wait in the gateway. While they wait longer its credit is halved again and again.
        wait_max: Duration = "20ms" in "1ms"..="1s",
        /// For how long they must have waited longer before that begins.
        cut_after: Duration = "100ms" in "0ms"..="10s",
    }
}

impl Credit {
    /// What credits go by.
    pub fn settings(&self) -> credit::Settings {
        credit::Settings { wait_max: self.wait_max, cut_after: self.cut_after }
    }
}

/// A gateway's `[conditioning.*]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditioning {
    /// `[conditioning.controllers]`
    pub controllers: Controllers,
    /// `[conditioning.pool]`
    pub pool: Pool,
    /// `[conditioning.hand_over]`
    pub hand_over: HandOver,
    /// `[conditioning.gathering]`
    pub gathering: Gathering,
    /// `[conditioning.codel]`
    pub codel: Codel,
    /// `[conditioning.window]`
    pub window: Window,
    /// `[conditioning.credit]`
    pub credit: Credit,
}

impl Conditioning {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            controllers: reader.section("conditioning.controllers"),
            pool: reader.section("conditioning.pool"),
            hand_over: reader.section("conditioning.hand_over"),
            gathering: reader.section("conditioning.gathering"),
            codel: reader.section("conditioning.codel"),
            window: reader.section("conditioning.window"),
            credit: reader.section("conditioning.credit"),
        }
    }

    pub(super) fn judge(&self, reader: &mut Reader) {
        self.pool.judge(reader);
        self.gathering.judge(&self.codel, reader);
        self.codel.judge(reader);
    }

    /// What the stages' mechanisms go by.
    pub fn tuning(&self) -> Tuning {
        Tuning {
            look_every: self.controllers.look_every,
            pool: self.pool.settings(),
            hand_over: self.hand_over.settings(&self.gathering),
            gathering: lanes::Gathering { wait_max: self.gathering.wait_max, enough_segments: self.gathering.packets },
            codel: self.codel.settings(),
        }
    }
}

/// A client's `[conditioning.*]`: the same figures, of those mechanisms that have work at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConditioning {
    /// `[conditioning.codel]`
    pub codel: Codel,
    /// `[conditioning.window]`
    pub window: Window,
}

impl ClientConditioning {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self { codel: reader.section("conditioning.codel"), window: reader.section("conditioning.window") }
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
