//! raw-send: translated packets to the kernel, in batches, by packet sockets.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::io::packet_socket::{RawSender, Refusal};
use crate::packet::Packet;
use crate::runtime::queue::Fifo;
use crate::runtime::work::{Handler, WorkOf};
use crate::stages::ip_parse::Parsed;
use crate::stages::nat_rewrite::Translated;

/// Why raw-send drops a packet.
pub type Reason = Refusal;

/// The stage's handler.
#[derive(Debug)]
pub struct RawSend {
    sender: Arc<RawSender>,
    /// Space for the batch that a thread sends, kept between batches.
    spare: Mutex<Vec<Vec<Packet<Translated>>>>,
}

impl RawSend {
    /// A stage that sends by `sender`.
    pub fn new(sender: Arc<RawSender>) -> Self {
        Self { sender, spare: Mutex::default() }
    }
}

impl Handler for RawSend {
    type Queue = Fifo<Packet<Translated>>;
    type Out = Packet<Translated>;
    type Turned = Packet<Parsed>;

    fn handle(&self, _now: Instant, work: &mut WorkOf<Self>) {
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut packets = spare().pop().unwrap_or_default();
        packets.extend(work.batch.items.drain(..).map(|entry| entry.item));
        let report = self.sender.send_batch(&mut packets);
        work.tally.sent.segments += report.sent_segments;
        work.tally.sent.bytes += report.sent_bytes;
        for (reason, &segments) in report.refused.iter().enumerate().filter(|(_, segments)| **segments > 0) {
            work.tally.drop_segments(reason, segments, 0);
        }
        packets.clear();
        spare().push(packets);
    }
}
