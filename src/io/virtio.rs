//! The virtio-net header (virtio 1.2, 5.1.6): how a TUN device and a packet socket hand over super-packets and
//! checksums that are still to be filled in. It maps to [`Offload`]; no I/O here.

use crate::ipv4::{TCP_CWR, TCP_FLAGS};
use crate::packet::{Checksum, Offload};

/// Bytes of a `virtio_net_hdr`, without the count of merged buffers, which neither device uses.
pub const HEADER_BYTES: usize = 10;

const FLAG_NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
/// The first segment carries CWR, and no other is to: said beside the type, and read from the packet's own flags.
const GSO_ECN: u8 = 0x80;

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const UDP_HEADER_BYTES: usize = 8;
const IPV6_HEADER_BYTES: usize = 40;

/// Reads a header in front of `packet` (which starts at its IP header) whose link header was `link_bytes` long.
///
/// The header's own length field is only a hint of the kernel about linear memory, so the length of a segment's headers
/// is read from the packet. `None` means that header and packet contradict each other.
pub fn decode(header: &[u8; HEADER_BYTES], link_bytes: usize, packet: &[u8]) -> Option<Offload> {
    let [flags, gso, _, _, size_low, size_high, start_low, start_high, offset_low, offset_high] = *header;
    let checksum = if flags & FLAG_NEEDS_CHECKSUM == 0 {
        Checksum::Complete
    } else {
        let start = u16::from_ne_bytes([start_low, start_high]).checked_sub(u16::try_from(link_bytes).ok()?)?;
        let offset = u16::from_ne_bytes([offset_low, offset_high]);
        (usize::from(start) + usize::from(offset) + 2 <= packet.len()).then_some(Checksum::Partial { start, offset })?
    };
    if gso & !GSO_ECN == GSO_NONE {
        return Some(Offload { checksum, ..Offload::default() });
    }
    let segment_bytes = u16::from_ne_bytes([size_low, size_high]);
    let transport = match checksum {
        Checksum::Partial { start, .. } => usize::from(start),
        Checksum::Complete => transport_offset(packet)?,
    };
    let header_bytes = transport
        + match gso & !GSO_ECN {
            GSO_TCP4 | GSO_TCP6 => usize::from(packet.get(transport + 12)? >> 4) * 4,
            GSO_UDP => UDP_HEADER_BYTES,
            _ => return None,
        };
    let fits = segment_bytes > 0 && header_bytes < packet.len();
    fits.then_some(Offload { checksum, segment_bytes, header_bytes: u16::try_from(header_bytes).ok()? })
}

/// Writes the header for `packet`, which will stand behind a link header of `link_bytes`. `None` means that the kernel
/// could not make anything of it: a super-packet that is neither TCP nor UDP, or whose checksum is complete.
pub fn encode(offload: Offload, link_bytes: usize, packet: &[u8]) -> Option<[u8; HEADER_BYTES]> {
    let link = u16::try_from(link_bytes).ok()?;
    let mut header = [0; HEADER_BYTES];
    if let Checksum::Partial { start, offset } = offload.checksum {
        header[0] = FLAG_NEEDS_CHECKSUM;
        header[6..8].copy_from_slice(&start.checked_add(link)?.to_ne_bytes());
        header[8..10].copy_from_slice(&offset.to_ne_bytes());
    }
    // A super-packet of one segment is none: the kernel would fail to cut it.
    let payload_bytes = packet.len().saturating_sub(offload.header_bytes.into());
    if offload.segment_bytes > 0 && payload_bytes > offload.segment_bytes.into() {
        let Checksum::Partial { start, .. } = offload.checksum else { return None };
        header[1] = gso_kind(packet)?;
        let has_cwr = || packet.get(usize::from(start) + TCP_FLAGS).is_some_and(|flags| flags & TCP_CWR != 0);
        if header[1] != GSO_UDP && has_cwr() {
            header[1] |= GSO_ECN;
        }
        header[2..4].copy_from_slice(&offload.header_bytes.checked_add(link)?.to_ne_bytes());
        header[4..6].copy_from_slice(&offload.segment_bytes.to_ne_bytes());
    }
    Some(header)
}

fn transport_offset(packet: &[u8]) -> Option<usize> {
    let first = packet.first()?;
    match first >> 4 {
        4 => Some(usize::from(first & 0x0f) * 4),
        6 => Some(IPV6_HEADER_BYTES),
        _ => None,
    }
}

fn gso_kind(packet: &[u8]) -> Option<u8> {
    let (protocol, tcp) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, GSO_TCP4),
        6 => (*packet.get(6)?, GSO_TCP6),
        _ => return None,
    };
    match protocol {
        PROTOCOL_TCP => Some(tcp),
        PROTOCOL_UDP => Some(GSO_UDP),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An IPv4 packet of `protocol` with `len` bytes and 20-byte headers.
    fn packet(protocol: u8, len: usize) -> Vec<u8> {
        let mut packet = vec![0; len];
        (packet[0], packet[9], packet[32]) = (0x45, protocol, 0x50);
        packet
    }

    #[test]
    fn what_is_encoded_is_decoded_with_and_without_a_link_header() {
        let checksum = Checksum::Partial { start: 20, offset: 16 };
        let super_packet = Offload { checksum, segment_bytes: 1_400, header_bytes: 40 };
        for offload in [Offload::default(), Offload { checksum, ..Offload::default() }, super_packet] {
            for link_bytes in [0, 14] {
                let packet = packet(PROTOCOL_TCP, 4_000);
                let header = encode(offload, link_bytes, &packet).expect("a valid offload");
                assert_eq!(decode(&header, link_bytes, &packet), Some(offload));
            }
        }
    }

    #[test]
    fn a_udp_super_packet_repeats_the_udp_header() {
        let checksum = Checksum::Partial { start: 20, offset: 6 };
        let offload = Offload { checksum, segment_bytes: 1_200, header_bytes: 28 };
        let packet = packet(PROTOCOL_UDP, 3_000);
        let header = encode(offload, 0, &packet).expect("a valid offload");
        assert_eq!((header[1], decode(&header, 0, &packet)), (GSO_UDP, Some(offload)));
    }

    #[test]
    fn a_tcp_super_packet_that_carries_cwr_says_so_and_a_udp_one_does_not() {
        for (protocol, header_bytes, offset, kind) in
            [(PROTOCOL_TCP, 40, 16, GSO_TCP4 | GSO_ECN), (PROTOCOL_UDP, 28, 6, GSO_UDP)]
        {
            let offload =
                Offload { checksum: Checksum::Partial { start: 20, offset }, segment_bytes: 1_200, header_bytes };
            let mut packet = packet(protocol, 4_000);
            packet[20 + TCP_FLAGS] = TCP_CWR;
            let header = encode(offload, 0, &packet).expect("a valid offload");
            assert_eq!((header[1], decode(&header, 0, &packet)), (kind, Some(offload)));
        }
    }

    #[test]
    fn a_super_packet_of_one_segment_is_encoded_as_a_single_packet() {
        let checksum = Checksum::Partial { start: 20, offset: 16 };
        let offload = Offload { checksum, segment_bytes: 1_400, header_bytes: 40 };
        let single = Some(Offload { checksum, ..Offload::default() });
        for (len, decoded) in [(1_440, single), (1_441, Some(offload))] {
            let packet = packet(PROTOCOL_TCP, len);
            let header = encode(offload, 0, &packet).expect("a valid offload");
            assert_eq!(decode(&header, 0, &packet), decoded);
        }
    }

    #[test]
    fn a_super_packet_with_a_complete_checksum_is_refused() {
        let offload = Offload { segment_bytes: 1_200, header_bytes: 40, ..Offload::default() };
        assert_eq!(encode(offload, 0, &packet(PROTOCOL_TCP, 3_000)), None);
    }

    proptest! {
        #[test]
        fn any_header_over_any_packet_is_decoded_to_something_inside_it_or_refused(
            header: [u8; HEADER_BYTES], link_bytes in 0_usize..20, bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Some(offload) = decode(&header, link_bytes, &bytes) {
                prop_assert!(usize::from(offload.header_bytes) <= bytes.len());
            }
        }
    }
}
