//! raw-recv: packets from the packet socket of the raw egress.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use crate::io::Received;
use crate::io::packet_socket::RawReceiver;
use crate::offload::SuperPackets;
use crate::packet::{BufPool, Packet, Raw};
use crate::stages::Reason as _;
use crate::stages::source::{PacketSource, Source};

crate::reasons! {
    /// Why raw-recv drops a packet. What the kernel dropped before is counted apart.
    pub enum Reason {
        /// The buffer pool is at its limit, or the kernel had cut the packet off.
        NoBuffer = "no_buffer",
        /// It had waited too long in the kernel, while the stages have more to do than they can.
        WaitedTooLong = "waited_too_long",
    }
}

/// The source.
pub type RawRecv = Source<RawReceiver>;

impl PacketSource for RawReceiver {
    fn read_batch(&self, pool: &BufPool, max: usize, out: &mut Vec<Packet<Raw>>) -> io::Result<Received> {
        self.read_batch(pool, max, out)
    }

    fn fd(&self) -> RawFd {
        self.as_raw_fd()
    }

    fn lost(&self) -> usize {
        Reason::NoBuffer.index()
    }

    /// Datagrams stay single: they are joined where they leave (docs/decisions/0018-gro.md).
    fn joins(&self) -> SuperPackets {
        SuperPackets::TCP
    }

    fn waited_too_long(&self) -> usize {
        Reason::WaitedTooLong.index()
    }

    fn dropped_since(&self) -> u64 {
        self.dropped_since()
    }

    fn bound(&self, bytes: Option<u32>) {
        if let Err(error) = self.bound(bytes) {
            tracing::error!(%error, "the capture's buffer keeps its size");
        }
    }
}
