//! GSO in software: a super-packet is cut as the kernel cuts it.

use super::check::{Layout, Lie, Protocol, TCP_SEQUENCE, UDP_LENGTH};
use crate::checksum;
use crate::ipv4;
use crate::packet::{Buf, BufPool, Family, Offload, Packet};

/// The longest headers that are repeated: 60 bytes of IPv4 and 60 of TCP.
const HEADER_BYTES_MAX: usize = 120;

pub(super) const TCP_FIN: u8 = 0x01;
pub(super) const TCP_PSH: u8 = 0x08;

/// Segments that were not handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The packet is not what its offload says; nothing was handed out.
    #[error("{segments} segments: {lie}")]
    Lie {
        /// How many.
        segments: u32,
        /// What is not true.
        lie: Lie,
    },
    /// The pool had no more buffers; what comes first was handed out.
    #[error("{segments} segments: no buffer")]
    NoBuffer {
        /// How many.
        segments: u32,
    },
}

impl Lost {
    /// How many segments.
    pub fn segments(self) -> u32 {
        match self {
            Self::Lie { segments, .. } | Self::NoBuffer { segments } => segments,
        }
    }
}

/// Cuts a super-packet into single, complete packets, handed to `out` in order. A single packet is handed on with its
/// checksum filled in. The proof goes along: offsets, addresses and ports stay true; of the TCP flags only the last
/// segment has FIN and PSH, and only the first CWR.
///
/// # Errors
/// Segments that are lost, where the packet is not what its offload says or the pool is at its limit.
pub fn segment<P: Copy>(packet: Packet<P>, pool: &BufPool, out: &mut impl FnMut(Packet<P>)) -> Result<(), Lost> {
    split(packet, 1, pool, out)
}

/// Cuts a super-packet into smaller ones of up to `segments_max` segments (0 counts as 1), handed to `out` in order. One
/// that is not larger is handed on as it is; with 1, all that is handed out is complete.
///
/// # Errors
/// Segments that are lost, where the packet is not what its offload says or the pool is at its limit.
pub fn split<P: Copy>(
    mut packet: Packet<P>,
    segments_max: u32,
    pool: &BufPool,
    out: &mut impl FnMut(Packet<P>),
) -> Result<(), Lost> {
    let segments = packet.segments();
    if segments_max > 1 && segments <= segments_max {
        out(packet);
        return Ok(());
    }
    let lost = |lie| Lost::Lie { segments, lie };
    if segments == 1 {
        if !super::complete_checksum(&mut packet) {
            return Err(lost(Lie::ChecksumPlace));
        }
        packet.set_offload(Offload::default());
        out(packet);
        return Ok(());
    }
    let cutter = Cutter::new(&packet, segments_max.max(1)).map_err(lost)?;
    cutter.cut(packet, pool, out)
}

/// What the pieces of a packet have in common.
struct Cutter {
    layout: Layout,
    header: [u8; HEADER_BYTES_MAX],
    segment_bytes: usize,
    piece_segments: u32,
}

/// One piece of the payload.
#[derive(Clone, Copy)]
struct Piece {
    /// Where it starts in the payload.
    at: usize,
    len: usize,
    is_last: bool,
}

impl Cutter {
    fn new<P>(packet: &Packet<P>, piece_segments: u32) -> Result<Self, Lie> {
        let (bytes, offload) = (packet.bytes(), packet.offload());
        let layout = Layout::read(bytes)?;
        if usize::from(offload.header_bytes) != layout.payload {
            return Err(Lie::HeaderBytes);
        }
        let mut header = [0; HEADER_BYTES_MAX];
        header.get_mut(..layout.payload).ok_or(Lie::HeaderBytes)?.copy_from_slice(&bytes[..layout.payload]);
        Ok(Self { layout, header, segment_bytes: offload.segment_bytes.into(), piece_segments })
    }

    /// Each piece gets a buffer of its size, so that a small packet does not pin a large buffer; the packet's own is
    /// the reserve for the piece where the pool refuses.
    fn cut<P: Copy>(&self, mut packet: Packet<P>, pool: &BufPool, out: &mut impl FnMut(Packet<P>)) -> Result<(), Lost> {
        let (header_bytes, proof) = (self.layout.payload, *packet.proof());
        let payload_bytes = packet.len() - header_bytes;
        let piece_bytes = self.segment_bytes * self.piece_segments as usize;
        for at in (0..payload_bytes).step_by(piece_bytes) {
            let len = piece_bytes.min(payload_bytes - at);
            let piece = Piece { at, len, is_last: at + len == payload_bytes };
            let Some(mut buf) = pool.take(header_bytes + len) else {
                packet.buf_mut().strip(at);
                packet.buf_mut().truncate(header_bytes + len);
                self.emit(packet.into_buf(), piece, proof, out);
                let segments = (payload_bytes - at - len).div_ceil(self.segment_bytes) as u32;
                return if segments == 0 { Ok(()) } else { Err(Lost::NoBuffer { segments }) };
            };
            buf.extend(&self.header[..header_bytes]);
            buf.extend(&packet.bytes()[header_bytes + at..][..len]);
            self.emit(buf, piece, proof, out);
        }
        Ok(())
    }

    /// Writes the headers in front of a piece's payload and hands it out.
    fn emit<P>(&self, mut buf: Buf, piece: Piece, proof: P, out: &mut impl FnMut(Packet<P>)) {
        let Layout { protocol, transport, payload, .. } = self.layout;
        let bytes = buf.bytes_mut();
        bytes[..payload].copy_from_slice(&self.header[..payload]);
        self.number(bytes, piece);
        let pseudo_header = self.layout.pseudo_header(bytes);
        let field = transport + protocol.checksum();
        let offload = if piece.len > self.segment_bytes {
            ipv4::set_word(bytes, field, checksum::fold(pseudo_header));
            self.super_offload()
        } else {
            ipv4::set_word(bytes, field, 0);
            let checksum = !checksum::fold(pseudo_header + checksum::sum(&bytes[transport..]));
            ipv4::set_word(bytes, field, if checksum == 0 && protocol == Protocol::Udp { 0xffff } else { checksum });
            Offload::default()
        };
        out(Packet::raw(buf, offload).prove(proof));
    }

    /// What counts on from piece to piece: lengths, the IPv4 identification, the TCP sequence number and flags.
    fn number(&self, bytes: &mut [u8], piece: Piece) {
        let Layout { family, protocol, transport, .. } = self.layout;
        if family == Family::V4 {
            let first = (piece.at / self.segment_bytes) as u16;
            let identification = ipv4::word_at(bytes, ipv4::IDENTIFICATION).unwrap_or_default();
            ipv4::set_word(bytes, ipv4::IDENTIFICATION, identification.wrapping_add(first));
        }
        self.layout.set_length(bytes);
        let header = &mut bytes[transport..];
        match protocol {
            Protocol::Tcp => number_tcp(header, piece),
            Protocol::Udp => ipv4::set_word(header, UDP_LENGTH, header.len() as u16),
        }
    }

    fn super_offload(&self) -> Offload {
        Offload {
            checksum: self.layout.partial(),
            segment_bytes: self.segment_bytes as u16,
            header_bytes: self.layout.payload as u16,
        }
    }
}

fn number_tcp(tcp: &mut [u8], piece: Piece) {
    if let Some(sequence) = tcp[TCP_SEQUENCE..].first_chunk_mut() {
        *sequence = u32::from_be_bytes(*sequence).wrapping_add(piece.at as u32).to_be_bytes();
    }
    if !piece.is_last {
        tcp[ipv4::TCP_FLAGS] &= !(TCP_FIN | TCP_PSH);
    }
    if piece.at > 0 {
        tcp[ipv4::TCP_FLAGS] &= !ipv4::TCP_CWR;
    }
}
