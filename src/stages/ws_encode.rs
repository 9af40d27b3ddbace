//! ws-encode: the tether's flow queues, then WebSocket messages on its links.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use crate::link::{BATCH_BYTES_MAX, Link, Outbox};
use crate::offload::{self, Merger, SuperPackets};
use crate::packet::{BufPool, Offload, Packet, Raw};
use crate::runtime::lanes::{Entry, Outcome};
use crate::runtime::queue::Queue;
use crate::runtime::work::{Handler, Tally, WorkOf};
use crate::stages::Reason as _;
use crate::stages::ip_parse::Parsed;
use crate::stages::ws_decode::LinkKeeper;
use crate::table::Table;
use crate::tether_links::TetherLinks;
use crate::wire::capsule::Features;

mod flow;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

crate::reasons! {
    /// Why ws-encode drops a packet.
    pub enum Reason {
        /// The tether has gone, or has no link.
        NoLink = "no_link",
        /// The client takes single packets alone, and there was no buffer to cut this one into.
        CannotCut = "cannot_cut",
    }
}

/// What joins packets, and those of a message. What has been proven about them is of no use behind the link.
#[derive(Default)]
struct Joining {
    merger: Merger,
    packets: Vec<Packet<Raw>>,
}

thread_local! {
    /// One a thread, for it keeps its memory.
    static JOINING: RefCell<Joining> = RefCell::default();
}

/// The stage's handler. `Q` is the queue in front of it, one a tether.
#[derive(Debug)]
pub struct WsEncode<K, Q> {
    /// The links of every tether at its lane.
    pub tethers: Arc<Table<TetherLinks>>,
    /// Where packets that are cut or joined, and messages that are sent as text, get their memory.
    pub pool: BufPool,
    /// Who keeps the links.
    pub keeper: Arc<K>,
    /// The queue's type.
    pub queue: std::marker::PhantomData<fn() -> Q>,
}

impl<K, Q, Proof> Handler for WsEncode<K, Q>
where
    K: LinkKeeper,
    Q: Queue<Item = Packet<Proof>> + Send + 'static,
    Proof: Copy + Send + 'static,
{
    type Queue = Q;
    type Out = Packet<Proof>;
    type Turned = Packet<Parsed>;

    fn handle(&self, now: Instant, work: &mut WorkOf<Self>) {
        work.batch.group_by_lane();
        let mut items = work.batch.items.drain(..).peekable();
        for &lane in &work.batch.lanes {
            let tether = self.tethers.get(lane);
            let link = tether.as_ref().and_then(|tether| tether.to_send());
            let packets = std::iter::from_fn(|| items.next_if(|entry| entry.lane == lane));
            let allowance = match (tether, link) {
                (Some(tether), Some(link)) => self.send(now, &tether, &link, packets, &mut work.tally),
                (_, _) => {
                    packets.for_each(|entry| work.tally.drop(Reason::NoLink.index(), &entry.item));
                    // What is behind them goes the same way: nothing would wake a lane that waits here.
                    BATCH_BYTES_MAX
                }
            };
            work.outcomes.push((lane, Outcome { allowance_bytes: Some(allowance), ..Outcome::default() }));
        }
    }

    fn handed_on(&self) {
        self.keeper.wake_for_acks();
    }
}

impl<K: LinkKeeper, Q> WsEncode<K, Q> {
    /// Sends `packets` on `link`, and says how many bytes of the tether may follow.
    fn send<Proof: Copy>(
        &self,
        now: Instant,
        tether: &TetherLinks,
        link: &Arc<Link>,
        packets: impl Iterator<Item = Entry<Packet<Proof>>>,
        tally: &mut Tally,
    ) -> u64 {
        let mut outbox = link.outbox();
        let mut packets = packets.peekable();
        let has_packets = packets.peek().is_some();
        // By itself it would be a segment more.
        if has_packets || !link.ack_waits() {
            link.tell_received(now, &mut outbox, tether.grant(now, link));
        }
        if tether.owes_credit(link) && link.schedule_ack() {
            // The peer may be out of credit while what it sent is still inside: it is told again when that has left.
            self.keeper.ack_later(link);
        }
        if tether.is_slow() && link.features().contains(Features::SUPER_PACKETS) {
            self.push_joined(link, &mut outbox, packets, tally);
        } else {
            packets.for_each(|entry| self.push(link, &mut outbox, entry.item, tally));
        }
        if has_packets {
            link.note_sent(now);
            tether.stir();
        }
        let flushed = link.flush(&mut outbox, &self.pool);
        drop(outbox);
        match flushed {
            Ok(false) => {}
            Ok(true) => {
                link.note_blocked();
                return 0;
            }
            Err(error) => {
                self.keeper.ended(link, &error.into());
                return BATCH_BYTES_MAX;
            }
        }
        let sendable = link.sendable_bytes();
        if sendable == 0 {
            tether.wait_for_window();
            // What opened the window between the two looks has not seen that somebody waits.
            return link.sendable_bytes();
        }
        sendable
    }

    /// Puts packets into the link's messages, those of a TCP flow as one super-packet, which has their headers once. They
    /// were cut for their queue's sake; within a message, which counts when it is whole, nothing comes between them.
    fn push_joined<Proof: Copy>(
        &self,
        link: &Link,
        outbox: &mut Outbox,
        packets: impl Iterator<Item = Entry<Packet<Proof>>>,
        tally: &mut Tally,
    ) {
        JOINING.with_borrow_mut(|Joining { merger, packets: joined }| {
            joined.extend(packets.map(|entry| entry.item.prove(Raw)));
            joined.iter().for_each(|packet| tally.sent.add(packet));
            merger.merge(joined, SuperPackets::TCP, &self.pool);
            for packet in joined.drain(..) {
                let offload = packet.offload();
                link.push_datagram(outbox, packet.into_buf(), offload);
            }
        });
    }

    /// Puts a packet into the link's messages, as it is or as what the peer takes.
    fn push<Proof: Copy>(&self, link: &Link, outbox: &mut Outbox, packet: Packet<Proof>, tally: &mut Tally) {
        let offload = packet.offload();
        if offload == Offload::default() || link.features().contains(Features::SUPER_PACKETS) {
            tally.sent.add(&packet);
            return link.push_datagram(outbox, packet.into_buf(), offload);
        }
        let cut = offload::segment(packet, &self.pool, &mut |single: Packet<Proof>| {
            tally.sent.add(&single);
            link.push_datagram(outbox, single.into_buf(), Offload::default());
        });
        if let Err(lost) = cut {
            tally.drop_segments(Reason::CannotCut.index(), u64::from(lost.segments()), 0);
        }
    }
}
