//! What a device left to be done, done in software: a checksum is filled in, a super-packet is cut into the packets that
//! it stands for (GSO), consecutive packets of a flow are joined to one (GRO). And a judge of what a peer says about it.
//!
//! All of it is held byte for byte against what the kernel does.

mod check;
mod merge;
mod segment;
#[cfg(test)]
mod tests;

pub use check::{Lie, check};
pub use merge::Merger;
pub use segment::{Lost, segment, split};

use crate::checksum;
use crate::packet::{Checksum, Offload, Packet};

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
