//! A packet: one buffer with one owner, from a bounded pool it returns to.
//!
//! A packet is moved between stages and never copied. What has been proven about it is its type: [`Raw`] bytes from
//! outside, [`Parsed`](crate::stages::ip_parse::Parsed) once its headers were judged,
//! [`Translated`](crate::stages::nat_rewrite::Translated) once its addresses are those of the side it leaves to.

use crate::runtime::queue::Weigh;

mod buf;
mod pool;

pub use buf::{Buf, HEADROOM_BYTES};
pub use pool::{BufPool, COPIED_BYTES_MAX, TINY_BYTES_MAX};

/// The largest IP packet: the IPv4 total length field has 16 bits (RFC 791, 3.1).
pub const PACKET_BYTES_MAX: usize = 65_535;

/// The least payload of a TCP segment in a super-packet: Linux lets no socket have an MSS below 88 (TCP_MIN_MSS), of
/// which options take 40 at most. Less would only make many packets of one.
pub const TCP_SEGMENT_BYTES_MIN: u16 = 88 - 40;

/// The most datagrams in a super-packet (UDP_MAX_SEGMENTS in Linux). A datagram of a single byte is honest, so that the
/// number is what bounds them.
pub const UDP_SEGMENTS_MAX: usize = 128;

/// The address family of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IP version 4 (RFC 791).
    V4,
    /// IP version 6 (RFC 8200).
    V6,
}

/// Who has still to fill in the transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nobody: the packet is complete.
    #[default]
    Complete,
    /// The device, or whoever sends the packet without offload: the field at `start + offset` holds the
    /// pseudo-header's sum, not inverted, and the sum runs from `start` to the end (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Partial {
        /// Where summing starts, from the packet's first byte.
        start: u16,
        /// Where the field is, from `start`.
        offset: u16,
    },
}

/// What a device left to be done (virtio-net's header, in our words).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The state of the transport checksum.
    pub checksum: Checksum,
    /// Payload bytes of each segment of a super-packet (TCP's MSS, UDP's GSO size); 0 for a single packet.
    pub segment_bytes: u16,
    /// Bytes of IP and transport header that each segment repeats; 0 for a single packet.
    pub header_bytes: u16,
}

/// Nothing is known: bytes as they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raw;

/// An IP packet in one buffer, with what has been proven about it.
#[derive(Debug)]
pub struct Packet<Proof = Raw> {
    buf: Buf,
    offload: Offload,
    proof: Proof,
}

impl Packet<Raw> {
    /// A packet of whose bytes nothing is known.
    pub fn raw(buf: Buf, offload: Offload) -> Self {
        Self { buf, offload, proof: Raw }
    }
}

impl<Proof> Packet<Proof> {
    /// The packet's bytes, from its IP header on.
    pub fn bytes(&self) -> &[u8] {
        self.buf.bytes()
    }

    /// The packet's bytes, to be changed in place. A stage that changes them keeps the proof true.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.buf.bytes_mut()
    }

    /// The buffer.
    pub fn buf(&self) -> &Buf {
        &self.buf
    }

    /// The buffer, for prepending a header in front of the packet.
    pub fn buf_mut(&mut self) -> &mut Buf {
        &mut self.buf
    }

    /// Length of the packet in bytes.
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Whether there is no byte at all.
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// What the device left to be done.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// Changes what is left to be done.
    pub fn set_offload(&mut self, offload: Offload) {
        self.offload = offload;
    }

    /// The family by the version nibble; `None` for an empty packet or an unknown version.
    pub fn family(&self) -> Option<Family> {
        match self.bytes().first()? >> 4 {
            4 => Some(Family::V4),
            6 => Some(Family::V6),
            _ => None,
        }
    }

    /// Segments that this packet is on the wire of an interface: its weight in queues, shares, rates and counters. What a
    /// peer says of a packet is judged behind the first queue, so that a lie weighs no more than what is honest may.
    pub fn segments(&self) -> u32 {
        let Offload { segment_bytes, header_bytes, .. } = self.offload;
        if segment_bytes == 0 {
            return 1;
        }
        let payload = self.len().saturating_sub(usize::from(header_bytes));
        let honest = (payload / usize::from(TCP_SEGMENT_BYTES_MIN)).max(UDP_SEGMENTS_MAX);
        (payload.div_ceil(usize::from(segment_bytes)).clamp(1, honest)) as u32
    }

    /// What has been proven.
    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    /// The same packet with another proof. Only the module that defines `Next` can make one.
    pub fn prove<Next>(self, proof: Next) -> Packet<Next> {
        Packet { buf: self.buf, offload: self.offload, proof }
    }

    /// The buffer alone.
    pub fn into_buf(self) -> Buf {
        self.buf
    }
}

impl<Proof> Weigh for Packet<Proof> {
    fn segments(&self) -> u32 {
        self.segments()
    }

    fn bytes(&self) -> usize {
        self.len()
    }

    fn held_bytes(&self) -> usize {
        self.buf().held_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_super_packet_weighs_its_segments() {
        let pool = BufPool::new(1 << 20);
        let mut packet = Packet::raw(pool.copy(&[0x45; 40 + 2_801]).expect("room"), Offload::default());
        assert_eq!(packet.segments(), 1);
        packet.set_offload(Offload { segment_bytes: 1_400, header_bytes: 40, ..Offload::default() });
        assert_eq!(packet.segments(), 3);
    }

    #[test]
    fn a_lie_about_the_segments_weighs_no_more_than_the_smallest_honest_ones() {
        let pool = BufPool::new(1 << 20);
        for (payload_bytes, segment_bytes, weight) in [
            (48_000, TCP_SEGMENT_BYTES_MIN, 1_000),
            (48_000, 1, 1_000),
            // Datagrams of one byte are honest, as long as they are no more than one call may send.
            (128, 1, 128),
            (129, 1, 128),
        ] {
            let mut packet = Packet::raw(pool.copy(&vec![0x45; 28 + payload_bytes]).expect("room"), Offload::default());
            packet.set_offload(Offload { segment_bytes, header_bytes: 28, ..Offload::default() });
            assert_eq!(packet.segments(), weight, "{payload_bytes} bytes in segments of {segment_bytes}");
        }
    }
}
