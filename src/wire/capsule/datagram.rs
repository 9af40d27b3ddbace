//! DATAGRAM: an IP packet in a context (RFC 9484, 6), and the context of super-packets.

use std::ops::Deref;

use super::{CapsuleError, Features, kind, reader::Reader};
use crate::packet::{Checksum, Offload, PACKET_BYTES_MAX};
use crate::wire::varint;

/// The context of whole IP packets.
pub const CONTEXT_PACKET: u64 = 0;

/// The context of packets with something left to be done: super-packets, and packets with a partial checksum. Used only
/// where the handshake agreed on it.
pub const CONTEXT_SUPER_PACKET: u64 = 2;

/// The longest [`datagram_header`]: type 1, length 4, context 1, segment size 2, header length 2, checksum state 1 with
/// start 2 and offset 2.
pub const DATAGRAM_HEADER_BYTES_MAX: usize = 15;

const CHECKSUM_COMPLETE: u8 = 0;
const CHECKSUM_PARTIAL: u8 = 1;

/// A DATAGRAM capsule. Its bytes count for credit and acknowledgement, whatever is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The packet, or whatever the value of an unknown context is.
    pub payload: &'a [u8],
    /// What the sender left to be done. Nothing of it has been checked against the packet. `None` where the context is
    /// unknown, or was not agreed on: such a datagram is dropped.
    pub offload: Option<Offload>,
    /// Length of the whole capsule in bytes: type, length and value.
    pub capsule_bytes: usize,
}

impl<'a> Datagram<'a> {
    pub(super) fn read(mut reader: Reader<'a>, capsule_bytes: usize, agreed: Features) -> Result<Self, CapsuleError> {
        let offload = match reader.varint("context")? {
            CONTEXT_PACKET => Some(Offload::default()),
            // Elsewhere it is a context as any that is unknown: whatever is in it, it breaks no rule.
            CONTEXT_SUPER_PACKET if agreed.contains(Features::SUPER_PACKETS) => Some(read_offload(&mut reader)?),
            _ => None,
        };
        let payload = reader.rest();
        if offload.is_some() && payload.len() > PACKET_BYTES_MAX {
            return Err(reader.bad("packet"));
        }
        Ok(Self { payload, offload, capsule_bytes })
    }
}

fn read_offload(reader: &mut Reader<'_>) -> Result<Offload, CapsuleError> {
    let segment_bytes = reader.u16("segment size")?;
    let header_bytes = reader.u16("header length")?;
    let checksum = match reader.u8("checksum state")? {
        CHECKSUM_COMPLETE => Checksum::Complete,
        CHECKSUM_PARTIAL => {
            Checksum::Partial { start: reader.u16("checksum start")?, offset: reader.u16("checksum offset")? }
        }
        _ => return Err(reader.bad("checksum state")),
    };
    Ok(Offload { checksum, segment_bytes, header_bytes })
}

/// What stands in front of a packet in a DATAGRAM capsule, on the stack.
#[derive(Clone, Copy, Debug)]
pub struct DatagramHeader {
    bytes: [u8; DATAGRAM_HEADER_BYTES_MAX],
    len: usize,
}

impl DatagramHeader {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn push_varint(&mut self, value: u64) {
        let (bytes, len) = varint::encode(value);
        self.push(&bytes[..len]);
    }
}

impl Deref for DatagramHeader {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The header of a DATAGRAM capsule with a packet of `packet_bytes` (at most [`PACKET_BYTES_MAX`]), so that the packet is
/// sent from where it is. A complete single packet has context 0, any other the context of super-packets.
pub fn datagram_header(packet_bytes: usize, offload: Offload) -> DatagramHeader {
    let mut context = DatagramHeader { bytes: [0; DATAGRAM_HEADER_BYTES_MAX], len: 0 };
    if offload == Offload::default() {
        context.push_varint(CONTEXT_PACKET);
    } else {
        context.push_varint(CONTEXT_SUPER_PACKET);
        context.push(&offload.segment_bytes.to_be_bytes());
        context.push(&offload.header_bytes.to_be_bytes());
        match offload.checksum {
            Checksum::Complete => context.push(&[CHECKSUM_COMPLETE]),
            Checksum::Partial { start, offset } => {
                context.push(&[CHECKSUM_PARTIAL]);
                context.push(&start.to_be_bytes());
                context.push(&offset.to_be_bytes());
            }
        }
    }
    let mut header = DatagramHeader { bytes: [0; DATAGRAM_HEADER_BYTES_MAX], len: 0 };
    header.push_varint(kind::DATAGRAM);
    header.push_varint((context.len() + packet_bytes.min(PACKET_BYTES_MAX)) as u64);
    header.push(&context);
    header
}
