//! raw-send: translated packets to the kernel, in batches, by packet sockets.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::io::packet_socket::{RawSender, Refusal};
use crate::offload::{self, Merger, SuperPackets};
use crate::packet::{BufPool, Packet};
use crate::runtime::queue::Fifo;
use crate::runtime::work::{Handler, WorkOf};
use crate::stages::Reason as _;
use crate::stages::ip_parse::Parsed;
use crate::stages::nat_rewrite::Translated;

/// Why raw-send drops a packet.
pub type Reason = Refusal;

/// The stage's handler. What a batch has of a flow in a row leaves as one super-packet, for a packet costs the kernel 2
/// to 4 µs whatever its length; a super-packet that the kernel does not take is cut.
#[derive(Debug)]
pub struct RawSend {
    sender: Arc<RawSender>,
    /// Where a super-packet gets its memory.
    pool: BufPool,
    /// Space for the batch that a thread sends, kept between batches.
    spare: Mutex<Vec<Space>>,
}

#[derive(Debug, Default)]
struct Space {
    packets: Vec<Packet<Translated>>,
    /// For those that are cut.
    whole: Vec<Packet<Translated>>,
    merger: Merger,
}

impl RawSend {
    /// A stage that sends by `sender`.
    pub fn new(sender: Arc<RawSender>, pool: BufPool) -> Self {
        Self { sender, pool, spare: Mutex::default() }
    }
}

impl Handler for RawSend {
    type Queue = Fifo<Packet<Translated>>;
    type Out = Packet<Translated>;
    type Turned = Packet<Parsed>;

    fn handle(&self, _now: Instant, work: &mut WorkOf<Self>) {
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut space = spare().pop().unwrap_or_default();
        let Space { packets, whole, merger } = &mut space;
        packets.extend(work.batch.items.drain(..).map(|entry| entry.item));
        // To a next hop whose address is not known yet only single packets go, by the kernel.
        if packets.first().is_some_and(|first| self.sender.has_neighbour(first.bytes())) {
            merger.merge(packets, self.sender.takes(), &self.pool);
        }
        let is_direct =
            |packet: &Packet<Translated>| packet.segments() == 1 || self.sender.has_neighbour(packet.bytes());
        let takes = if packets.iter().all(is_direct) { self.sender.takes() } else { SuperPackets::default() };
        let lost = offload::cut_others(packets, whole, takes, &self.pool);
        work.tally.drop_segments(Refusal::NoBuffer.index(), lost.into(), 0);
        let report = self.sender.send_batch(packets);
        work.tally.sent.segments += report.sent_segments;
        work.tally.sent.bytes += report.sent_bytes;
        for (reason, &segments) in report.refused.iter().enumerate().filter(|(_, segments)| **segments > 0) {
            work.tally.drop_segments(reason, segments, 0);
        }
        packets.clear();
        spare().push(space);
    }
}
