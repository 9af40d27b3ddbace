//! What stands between the runtime and a stage that is a function: finds the tether of a lane, takes its state once for
//! all that the batch has of it, and turns verdicts into the runtime's terms.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::nat::AddressPlan;
use crate::packet::{Packet, Raw};
use crate::runtime::lanes::{Entry, LaneId};
use crate::runtime::queue::Fifo;
use crate::runtime::work::{Handler, WorkOf};
use crate::stages::ballast::Ballast;
use crate::stages::ip_parse::Parsed;
use crate::stages::{Reason, Verdict};
use crate::steer;
use crate::table::Table;
use crate::tether::Tether;

/// A stage as a function of its tether's state.
pub type Function<State, From, To, R> = fn(&mut State, Packet<From>, Instant) -> Verdict<Packet<To>, R>;

/// A stage whose state is its tether's: `function(&mut state, packet, now) -> verdict`.
pub struct Tethered<State, From, To, R> {
    /// Every tether at its lane.
    pub tethers: Arc<Table<Tether>>,
    /// Who turned packets belong to.
    pub plan: Arc<AddressPlan>,
    /// The tether's state that the stage needs.
    pub state: fn(&Tether) -> &Mutex<State>,
    /// The stage.
    pub function: Function<State, From, To, R>,
    /// Work beside it, for benches.
    pub ballast: Ballast,
}

impl<State, From, To, R> std::fmt::Debug for Tethered<State, From, To, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tethered").finish_non_exhaustive()
    }
}

impl<State, From, To, R> Handler for Tethered<State, From, To, R>
where
    State: Send + 'static,
    From: Send + 'static,
    To: Send + 'static,
    R: Reason + Send + Sync,
{
    type Queue = Fifo<Packet<From>>;
    type Out = Packet<To>;
    type Turned = Packet<Parsed>;

    fn handle(&self, now: Instant, work: &mut WorkOf<Self>) {
        let mut items = work.batch.items.drain(..).peekable();
        while let Some(lane) = items.peek().map(|entry| entry.lane) {
            let tether = self.tethers.get(lane);
            let mut state =
                tether.as_ref().map(|tether| (self.state)(tether).lock().unwrap_or_else(PoisonError::into_inner));
            while let Some(entry) = items.next_if(|entry| entry.lane == lane) {
                let Some(state) = &mut state else {
                    work.tally.no_owner(&entry.item);
                    continue;
                };
                let (segments, bytes) = (u64::from(entry.item.segments()), entry.item.len() as u64);
                self.ballast.burn(entry.item.segments());
                // What is for no tether is for the internet, and goes there in the lane of the tether it is about.
                let to = |item: &Packet<Parsed>| steer::tether_for(&self.plan, item.bytes()).map(|to| LaneId(to.0));
                let turned = |item| Entry { origin: lane, lane: to(&item).unwrap_or(lane), item };
                match (self.function)(state, entry.item, now) {
                    Verdict::Forward(item) => work.out.push(Entry { origin: lane, lane, item }),
                    Verdict::Turn(mut item) => {
                        item.buf_mut().discharge();
                        work.turned.push(turned(item));
                    }
                    Verdict::Reply(reason, item) => {
                        work.tally.drop_segments(reason.index(), segments, bytes);
                        work.made.push(turned(item));
                    }
                    Verdict::Drop(reason) => work.tally.drop_segments(reason.index(), segments, bytes),
                }
            }
        }
    }
}

/// The lane that a packet belongs to. Where there is none, the next stage refuses the lane and counts it.
fn owner(plan: &AddressPlan, packet: &Packet<Parsed>) -> LaneId {
    steer::tether_for(plan, packet.bytes()).map_or(LaneId(u32::MAX), |tether| LaneId(tether.0))
}

/// A stage with no state of a tether, whose output is steered to one.
pub struct Steered<R> {
    /// Who packets belong to.
    pub plan: Arc<AddressPlan>,
    /// The stage.
    pub function: fn(Packet<Raw>, Instant) -> Verdict<Packet<Parsed>, R>,
    /// Its drop reasons.
    pub reasons: PhantomData<R>,
}

impl<R> std::fmt::Debug for Steered<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steered").finish_non_exhaustive()
    }
}

impl<R: Reason + Send + Sync> Handler for Steered<R> {
    type Queue = Fifo<Packet<Raw>>;
    type Out = Packet<Parsed>;
    type Turned = Packet<Parsed>;

    fn handle(&self, now: Instant, work: &mut WorkOf<Self>) {
        for entry in work.batch.items.drain(..) {
            let (segments, bytes) = (u64::from(entry.item.segments()), entry.item.len() as u64);
            let tether = steer::tether_for(&self.plan, entry.item.bytes());
            match (self.function)(entry.item, now) {
                Verdict::Forward(item) => match tether {
                    Some(tether) => work.out.push(Entry { origin: entry.lane, lane: LaneId(tether.0), item }),
                    None => work.tally.no_owner(&item),
                },
                Verdict::Turn(item) => {
                    work.turned.push(Entry { origin: entry.lane, lane: owner(&self.plan, &item), item })
                }
                Verdict::Reply(reason, item) => {
                    work.tally.drop_segments(reason.index(), segments, bytes);
                    work.made.push(Entry { origin: entry.lane, lane: owner(&self.plan, &item), item });
                }
                Verdict::Drop(reason) => work.tally.drop_segments(reason.index(), segments, bytes),
            }
        }
    }
}
