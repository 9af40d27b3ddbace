//! What a peer or a device says about a packet's offload, judged by the packet itself.

use crate::checksum;
use crate::ipv4;
use crate::packet::{Checksum, Family, Offload, TCP_SEGMENT_BYTES_MIN, UDP_SEGMENTS_MAX};

/// Length of an IPv6 header (RFC 8200, 3), and where its fields are.
const IPV6_HEADER_BYTES: usize = 40;
pub(super) const IPV6_PAYLOAD_LENGTH: usize = 4;
const IPV6_NEXT_HEADER: usize = 6;
const IPV6_SOURCE: usize = 8;

/// Length of a TCP header without options (RFC 9293, 3.1), and where its fields are.
pub(super) const TCP_HEADER_BYTES: usize = 20;
pub(super) const TCP_SEQUENCE: usize = 4;
pub(super) const TCP_DATA_OFFSET: usize = 12;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;

/// Length of a UDP header (RFC 768), and where its length field is.
const UDP_HEADER_BYTES: usize = 8;
pub(super) const UDP_LENGTH: usize = 4;

/// What is not true about an offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// A length field that does not fit the bytes.
    #[error("the lengths in the headers are not those of the packet")]
    Length,
    /// Nothing that a device cuts or sums: neither TCP nor UDP right behind the IP header, or a fragment.
    #[error("neither TCP nor UDP")]
    Protocol,
    /// Summing starts or ends up elsewhere than the protocol has it.
    #[error("the partial checksum is not at its protocol's place")]
    ChecksumPlace,
    /// A super-packet whose checksum is complete: no segment could have it.
    #[error("a super-packet with a complete checksum")]
    ChecksumComplete,
    /// The length of the headers is not what the headers say, or a single packet repeats some.
    #[error("the length of the repeated headers is not theirs")]
    HeaderBytes,
    /// A segment that opens or resets the connection would do so many times.
    #[error("a TCP super-packet with SYN or RST")]
    Flags,
    /// Segments too small to be honest.
    #[error("segments of fewer than {TCP_SEGMENT_BYTES_MIN} bytes")]
    SegmentBytes,
    /// More segments than any stack sends in one.
    #[error("more than {UDP_SEGMENTS_MAX} datagrams")]
    Segments,
    /// Packets larger than the MTU.
    #[error("segments larger than the MTU")]
    Mtu,
}

/// The two protocols that are cut, and whose checksums may be partial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Tcp => ipv4::TCP,
            Self::Udp => ipv4::UDP,
        }
    }

    /// Where the checksum is, from the transport header's first byte.
    pub(super) fn checksum(self) -> usize {
        match self {
            Self::Tcp => ipv4::TCP_CHECKSUM,
            Self::Udp => ipv4::UDP_CHECKSUM,
        }
    }
}

/// Where things are in a packet whose lengths are true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) family: Family,
    pub(super) protocol: Protocol,
    /// Where the transport header starts.
    pub(super) transport: usize,
    /// Where the payload starts.
    pub(super) payload: usize,
}

impl Layout {
    /// Reads the headers of `bytes`, which are one whole IP packet.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Lie> {
        let (family, protocol, transport) = match bytes.first().ok_or(Lie::Length)? >> 4 {
            4 => read_ipv4(bytes)?,
            6 => read_ipv6(bytes)?,
            _ => return Err(Lie::Protocol),
        };
        let (protocol, header_bytes) = match protocol {
            ipv4::TCP => (Protocol::Tcp, read_tcp(&bytes[transport..])?),
            ipv4::UDP => (Protocol::Udp, read_udp(&bytes[transport..])?),
            _ => return Err(Lie::Protocol),
        };
        Ok(Self { family, protocol, transport, payload: transport + header_bytes })
    }

    /// Both addresses.
    pub(super) fn addresses<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        match self.family {
            Family::V4 => &bytes[ipv4::SOURCE..ipv4::HEADER_BYTES],
            Family::V6 => &bytes[IPV6_SOURCE..IPV6_HEADER_BYTES],
        }
    }

    /// The sum of the pseudo-header, not folded.
    pub(super) fn pseudo_header(&self, bytes: &[u8]) -> u64 {
        let transport_bytes = (bytes.len() - self.transport) as u64;
        checksum::sum(self.addresses(bytes)) + u64::from(self.protocol.number()) + transport_bytes
    }

    /// Writes the length of `bytes` to the IP header, and that header's checksum.
    pub(super) fn set_length(&self, bytes: &mut [u8]) {
        match self.family {
            Family::V4 => {
                ipv4::set_word(bytes, ipv4::TOTAL_LENGTH, bytes.len() as u16);
                ipv4::set_word(bytes, ipv4::CHECKSUM, 0);
                let checksum = checksum::of(&bytes[..self.transport]);
                ipv4::set_word(bytes, ipv4::CHECKSUM, checksum);
            }
            Family::V6 => ipv4::set_word(bytes, IPV6_PAYLOAD_LENGTH, (bytes.len() - self.transport) as u16),
        }
    }

    /// The state of a checksum that is still to be filled in.
    pub(super) fn partial(&self) -> Checksum {
        Checksum::Partial { start: self.transport as u16, offset: self.protocol.checksum() as u16 }
    }
}

fn read_ipv4(bytes: &[u8]) -> Result<(Family, u8, usize), Lie> {
    let header_bytes = usize::from(bytes[0] & 0xf) * 4;
    if header_bytes < ipv4::HEADER_BYTES || header_bytes > bytes.len() {
        return Err(Lie::Length);
    }
    if ipv4::word_at(bytes, ipv4::TOTAL_LENGTH).map(usize::from) != Some(bytes.len()) {
        return Err(Lie::Length);
    }
    if ipv4::word_at(bytes, ipv4::FRAGMENT).is_none_or(|word| word & ipv4::FRAGMENTED != 0) {
        return Err(Lie::Protocol);
    }
    Ok((Family::V4, bytes[ipv4::PROTOCOL], header_bytes))
}

fn read_ipv6(bytes: &[u8]) -> Result<(Family, u8, usize), Lie> {
    let payload_bytes = bytes.len().checked_sub(IPV6_HEADER_BYTES).ok_or(Lie::Length)?;
    if ipv4::word_at(bytes, IPV6_PAYLOAD_LENGTH).map(usize::from) != Some(payload_bytes) {
        return Err(Lie::Length);
    }
    Ok((Family::V6, bytes[IPV6_NEXT_HEADER], IPV6_HEADER_BYTES))
}

fn read_tcp(tcp: &[u8]) -> Result<usize, Lie> {
    let header_bytes = usize::from(tcp.get(TCP_DATA_OFFSET).ok_or(Lie::Length)? >> 4) * 4;
    let fits = (TCP_HEADER_BYTES..=tcp.len()).contains(&header_bytes);
    fits.then_some(header_bytes).ok_or(Lie::Length)
}

fn read_udp(udp: &[u8]) -> Result<usize, Lie> {
    let len = ipv4::word_at(udp, UDP_LENGTH).map(usize::from).ok_or(Lie::Length)?;
    let fits = len == udp.len() && len >= UDP_HEADER_BYTES;
    fits.then_some(UDP_HEADER_BYTES).ok_or(Lie::Length)
}

/// Judges `offload` by the packet that it is said of: one whole IP packet, without what may be behind it. Of a
/// super-packet no segment, headers included, is longer than `mtu_bytes`. A packet without offload is not looked at.
///
/// # Errors
/// What is not true.
pub fn check(bytes: &[u8], offload: Offload, mtu_bytes: usize) -> Result<(), Lie> {
    if offload == Offload::default() {
        return Ok(());
    }
    let layout = Layout::read(bytes)?;
    match offload.checksum {
        Checksum::Complete if offload.segment_bytes != 0 => return Err(Lie::ChecksumComplete),
        Checksum::Partial { .. } if offload.checksum != layout.partial() => return Err(Lie::ChecksumPlace),
        Checksum::Complete | Checksum::Partial { .. } => {}
    }
    match offload.segment_bytes {
        0 if offload.header_bytes != 0 => Err(Lie::HeaderBytes),
        0 => Ok(()),
        _ => check_segments(&layout, bytes, offload, mtu_bytes),
    }
}

fn check_segments(layout: &Layout, bytes: &[u8], offload: Offload, mtu_bytes: usize) -> Result<(), Lie> {
    if usize::from(offload.header_bytes) != layout.payload {
        return Err(Lie::HeaderBytes);
    }
    let (payload_bytes, segment_bytes) = (bytes.len() - layout.payload, usize::from(offload.segment_bytes));
    if layout.payload + segment_bytes.min(payload_bytes) > mtu_bytes {
        return Err(Lie::Mtu);
    }
    match layout.protocol {
        Protocol::Tcp if offload.segment_bytes < TCP_SEGMENT_BYTES_MIN => Err(Lie::SegmentBytes),
        Protocol::Tcp if bytes[layout.transport + ipv4::TCP_FLAGS] & (TCP_SYN | TCP_RST) != 0 => Err(Lie::Flags),
        Protocol::Udp if payload_bytes.div_ceil(segment_bytes) > UDP_SEGMENTS_MAX => Err(Lie::Segments),
        Protocol::Tcp | Protocol::Udp => Ok(()),
    }
}
