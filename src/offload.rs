//! What a device left to be done, done in software: a checksum is filled in, a super-packet is cut into the packets that
//! it stands for (GSO), consecutive packets of a flow are joined to one (GRO). And a judge of what a peer says about it.
//!
//! Cutting is held byte for byte against what the kernel does, and so is joining, over the same packets. Where the kernel
//! leaves packets apart, they are left apart here, but for three: datagrams that may not be fragmented are joined whatever
//! their identification, and up to 128 of them where the kernel joins 64; and a TCP segment with CWR is the first of more,
//! which a kernel with accurate ECN leaves alone. Where less is joined here, `tests/root/offload.rs` tells it.

mod check;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod merge;
mod segment;
#[cfg(test)]
mod tests;

pub use check::{Lie, check};
pub use merge::Merger;
pub use segment::{Lost, segment, split};

use std::fmt;

use crate::checksum;
use crate::ipv4;
use crate::packet::{BufPool, Checksum, Offload, Packet};
use check::{Layout, Protocol};

/// Which super-packets somebody takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SuperPackets {
    /// TCP segments over both families, and partial checksums.
    pub tcp: bool,
    /// UDP datagrams (Linux 6.2).
    pub udp: bool,
}

impl SuperPackets {
    /// Of TCP alone: what everybody takes who takes any.
    pub const TCP: Self = Self { tcp: true, udp: false };
    /// Of both.
    pub const ALL: Self = Self { tcp: true, udp: true };

    fn include(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp => self.tcp,
            Protocol::Udp => self.udp,
        }
    }
}

impl fmt::Display for SuperPackets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self { tcp: true, udp: true } => "tcp and udp",
            Self { tcp: true, udp: false } => "tcp",
            Self { tcp: false, udp: true } => "udp",
            Self { tcp: false, udp: false } => "none",
        })
    }
}

/// Has the checksum of a super-packet left open, as everybody expects it. A network card that has joined segments (LRO) has
/// checked theirs, and the kernel then says nothing of the whole one's. What cannot be made sense of stays as it is.
pub fn leave_checksum_open<P>(packet: &mut Packet<P>) {
    let offload = packet.offload();
    if offload.segment_bytes == 0 || offload.checksum != Checksum::Complete {
        return;
    }
    let Ok(layout) = Layout::read(packet.bytes()) else { return };
    let bytes = packet.buf_mut().bytes_mut();
    let sum = checksum::fold(layout.pseudo_header(bytes));
    ipv4::set_word(bytes, layout.transport + layout.protocol.checksum(), sum);
    packet.set_offload(Offload { checksum: layout.partial(), ..offload });
}

/// Cuts the super-packets that are not `taken`, in place; `spare` is an empty list, whose memory serves for that. Returns
/// how many segments were lost for want of a buffer.
pub fn cut_others<P: Copy>(
    packets: &mut Vec<Packet<P>>,
    spare: &mut Vec<Packet<P>>,
    taken: SuperPackets,
    pool: &BufPool,
) -> u32 {
    let is_taken = |packet: &Packet<P>| {
        packet.segments() == 1 || Layout::read(packet.bytes()).is_ok_and(|layout| taken.include(layout.protocol))
    };
    if taken == SuperPackets::ALL || packets.iter().all(is_taken) {
        return 0;
    }
    let mut lost = 0;
    std::mem::swap(packets, spare);
    for packet in spare.drain(..) {
        if is_taken(&packet) {
            packets.push(packet);
        } else if let Err(few) = segment(packet, pool, &mut |single| packets.push(single)) {
            lost += few.segments();
        }
    }
    lost
}

/// Fills in a partial checksum, for a packet that leaves without offload. A complete one stays as it is. Returns false,
/// and changes nothing, where the field is outside the packet.
pub fn complete_checksum<Proof>(packet: &mut Packet<Proof>) -> bool {
    let offload = packet.offload();
    let Checksum::Partial { start, offset } = offload.checksum else { return true };
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    let bytes = packet.bytes_mut();
    if field + 2 > bytes.len() {
        return false;
    }
    // The field holds the pseudo-header's sum, so that it is part of what is summed. Zero would say "no checksum" in
    // UDP (RFC 768), and both forms are equal in TCP.
    let checksum = match checksum::of(&bytes[start..]) {
        0 => 0xffff,
        checksum => checksum,
    };
    bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    packet.set_offload(Offload { checksum: Checksum::Complete, ..offload });
    true
}
