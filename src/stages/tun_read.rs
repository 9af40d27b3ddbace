//! tun-read: packets from a TUN device.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use crate::io::Received;
use crate::io::tun::Tun;
use crate::packet::{BufPool, Packet, Raw};
use crate::stages::Reason as _;
use crate::stages::source::{PacketSource, Source};

crate::reasons! {
    /// Why tun-read drops a packet.
    pub enum Reason {
        /// The buffer pool is at its limit.
        NoBuffer = "no_buffer",
    }
}

/// The source.
pub type TunRead = Source<Tun>;

impl PacketSource for Tun {
    fn read_batch(&self, pool: &BufPool, max: usize, out: &mut Vec<Packet<Raw>>) -> io::Result<Received> {
        self.read_batch(pool, max, out)
    }

    fn fd(&self) -> RawFd {
        self.as_raw_fd()
    }

    fn lost(&self) -> usize {
        Reason::NoBuffer.index()
    }
}
