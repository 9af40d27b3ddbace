mod merging;

use proptest::prelude::*;

use super::check::{Layout, Protocol};
use super::{Lie, Lost, check, complete_checksum, leave_checksum_open, segment, split};
use crate::checksum;
use crate::ipv4;
use crate::packet::{
    BufPool, Checksum, Family, Offload, PACKET_BYTES_MAX, Packet, Raw, TCP_SEGMENT_BYTES_MIN, UDP_SEGMENTS_MAX,
};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

const SEQUENCE: u32 = 0xffff_f000;
const IDENTIFICATION: u16 = 0xfffe;

/// Headers whose lengths and checksums are filled in by [`sealed`].
fn headers(family: Family, protocol: Protocol, flags: u8, options: &[u8]) -> Vec<u8> {
    let mut bytes = match family {
        Family::V4 => {
            let mut header = vec![0x45, 0x02, 0, 0, 0, 0, 0x40, 0, 64, protocol.number(), 0, 0];
            header.extend([198, 51, 100, 1, 203, 0, 113, 9]);
            ipv4::set_word(&mut header, ipv4::IDENTIFICATION, IDENTIFICATION);
            header
        }
        Family::V6 => {
            let mut header = vec![0x60, 0x2f, 0x12, 0x34, 0, 0, protocol.number(), 64];
            header.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            header.extend([0x20, 0x01, 0x0d, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
            header
        }
    };
    bytes.extend([0x0f, 0xa0, 0x01, 0xbb]);
    match protocol {
        Protocol::Tcp => {
            bytes.extend(SEQUENCE.to_be_bytes());
            bytes.extend([0, 0, 0, 2, 0x50 + (options.len() as u8 / 4 * 16), flags, 0xff, 0xff, 0, 0, 0, 0]);
            bytes.extend(options);
        }
        Protocol::Udp => bytes.extend([0; 4]),
    }
    bytes
}

/// Fills in lengths and checksums, the plain way; a partial checksum gets the pseudo-header's sum.
fn sealed(mut bytes: Vec<u8>, family: Family, protocol: Protocol, is_partial: bool) -> Vec<u8> {
    let len = bytes.len();
    let (transport, addresses) = if family == Family::V4 { (20, 12..20) } else { (40, 8..40) };
    match family {
        Family::V4 => {
            ipv4::set_word(&mut bytes, 2, len as u16);
            ipv4::set_word(&mut bytes, 10, 0);
            let checksum = checksum::of(&bytes[..20]);
            ipv4::set_word(&mut bytes, 10, checksum);
        }
        Family::V6 => ipv4::set_word(&mut bytes, 4, (len - 40) as u16),
    }
    if protocol == Protocol::Udp {
        ipv4::set_word(&mut bytes, transport + 4, (len - transport) as u16);
    }
    let field = transport + protocol.checksum();
    ipv4::set_word(&mut bytes, field, 0);
    let mut summed = bytes[addresses].to_vec();
    summed.extend([0, protocol.number()]);
    summed.extend(((len - transport) as u16).to_be_bytes());
    if is_partial {
        ipv4::set_word(&mut bytes, field, checksum::fold(checksum::sum(&summed)));
        return bytes;
    }
    summed.extend(&bytes[transport..]);
    let checksum = match checksum::of(&summed) {
        0 if protocol == Protocol::Udp => 0xffff,
        checksum => checksum,
    };
    ipv4::set_word(&mut bytes, field, checksum);
    bytes
}

/// What a test's packet is made of.
#[derive(Clone, Debug)]
pub(super) struct Case {
    family: Family,
    protocol: Protocol,
    flags: u8,
    options: Vec<u8>,
    payload: Vec<u8>,
    segment_bytes: u16,
}

impl Case {
    fn new(family: Family, protocol: Protocol, payload_bytes: usize, segment_bytes: u16) -> Self {
        let payload = (0..payload_bytes).map(|at| (at * 7 + at / 251) as u8).collect();
        Self { family, protocol, flags: ACK | PSH | FIN | CWR, options: vec![], payload, segment_bytes }
    }

    pub(super) fn with_flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    fn headers(&self, flags: u8) -> Vec<u8> {
        headers(self.family, self.protocol, flags, &self.options)
    }

    pub(super) fn offload(&self) -> Offload {
        let start = if self.family == Family::V4 { 20 } else { 40 };
        Offload {
            checksum: Checksum::Partial { start, offset: self.protocol.checksum() as u16 },
            segment_bytes: self.segment_bytes,
            header_bytes: self.headers(0).len() as u16,
        }
    }

    /// The super-packet.
    pub(super) fn whole(&self) -> Packet<Raw> {
        let mut bytes = self.headers(self.flags);
        bytes.extend(&self.payload);
        raw(&sealed(bytes, self.family, self.protocol, true), self.offload())
    }

    /// The packets that it stands for, each built for itself.
    fn segments(&self) -> Vec<Vec<u8>> {
        let chunks = self.payload.chunks(self.segment_bytes.into());
        let last = chunks.len() - 1;
        let build = |(number, chunk): (usize, &[u8])| {
            let mut flags = self.flags;
            if number > 0 {
                flags &= !CWR;
            }
            if number < last {
                flags &= !(FIN | PSH);
            }
            let mut bytes = self.headers(flags);
            let transport = usize::from(self.offload().header_bytes) - self.headers(0).len() + bytes.len();
            let start = if self.family == Family::V4 { 20 } else { 40 };
            if self.family == Family::V4 {
                ipv4::set_word(&mut bytes, 4, IDENTIFICATION.wrapping_add(number as u16));
            }
            if self.protocol == Protocol::Tcp {
                let sequence = SEQUENCE.wrapping_add((number * usize::from(self.segment_bytes)) as u32);
                bytes[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
            }
            assert_eq!(transport, bytes.len());
            bytes.extend(chunk);
            sealed(bytes, self.family, self.protocol, false)
        };
        chunks.enumerate().map(build).collect()
    }
}

fn raw(bytes: &[u8], offload: Offload) -> Packet<Raw> {
    Packet::raw(pool().copy(bytes).expect("room"), offload)
}

fn pool() -> BufPool {
    BufPool::new(1 << 24)
}

/// Every kind of packet that is cut.
fn kinds() -> [(Family, Protocol); 4] {
    [(Family::V4, Protocol::Tcp), (Family::V6, Protocol::Tcp), (Family::V4, Protocol::Udp), (Family::V6, Protocol::Udp)]
}

fn segmented(packet: Packet<Raw>) -> Vec<Vec<u8>> {
    let mut segments = Vec::new();
    segment(packet, &pool(), &mut |segment| {
        assert_eq!(segment.offload(), Offload::default());
        segments.push(segment.bytes().to_vec());
    })
    .expect("room");
    segments
}

#[test]
fn a_super_packet_is_cut_into_the_packets_that_it_stands_for() {
    for (family, protocol) in kinds() {
        for payload_bytes in [2, 1_399, 1_400, 1_401, 2_800, 2_801, 65_000] {
            let case = Case::new(family, protocol, payload_bytes, 1_400);
            assert_eq!(segmented(case.whole()), case.segments(), "{family:?} {protocol:?} {payload_bytes}");
        }
    }
}

#[test]
fn a_partial_checksum_is_completed_as_rfc_1071_says() {
    let checksum = Checksum::Partial { start: 2, offset: 6 };
    let mut packet =
        raw(&[0, 0, 0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], Offload { checksum, ..Offload::default() });
    assert!(complete_checksum(&mut packet));
    // RFC 1071's example has the sum 0xddf2 over all words; here the field's own f6f7 is the pseudo-header's sum.
    assert_eq!(packet.bytes()[8..], (!0xddf2_u16).to_be_bytes());
    assert_eq!(packet.offload(), Offload::default());
}

#[test]
fn a_checksum_of_zero_is_sent_as_all_ones() {
    let checksum = Checksum::Partial { start: 0, offset: 2 };
    let mut packet = raw(&[0xff, 0xff, 0, 0], Offload { checksum, ..Offload::default() });
    assert!(complete_checksum(&mut packet));
    assert_eq!(packet.bytes(), [0xff; 4]);
}

#[test]
fn a_partial_checksum_outside_the_packet_is_left_alone_and_told() {
    let offload = Offload { checksum: Checksum::Partial { start: 60, offset: 6 }, ..Offload::default() };
    let mut packet = raw(&[0; 40], offload);
    assert!(!complete_checksum(&mut packet));
    assert_eq!((packet.bytes(), packet.offload()), (&[0_u8; 40][..], offload));
}

#[test]
fn a_super_packet_is_split_into_smaller_ones_that_stand_for_the_same_packets() {
    for (family, protocol) in kinds() {
        let case = Case::new(family, protocol, 15_000, 1_400);
        for segments_max in [0, 1, 2, 3, 10, 11] {
            let (mut pieces, mut packets) = (Vec::new(), Vec::new());
            split(case.whole(), segments_max, &pool(), &mut |piece| pieces.push(piece)).expect("room");
            for piece in pieces {
                assert!(piece.segments() <= segments_max.max(1));
                check(piece.bytes(), piece.offload(), 1_500).expect("an honest piece");
                packets.extend(segmented(piece));
            }
            assert_eq!(packets, case.segments(), "{family:?} {protocol:?} by {segments_max}");
        }
    }
}

#[test]
fn where_the_pool_refuses_one_more_segment_leaves_in_the_packets_own_buffer_and_the_rest_is_counted() {
    let case = Case::new(Family::V4, Protocol::Tcp, 10_000, 1_000);
    let small = 2_048;
    for (room, handed_out) in [(0, 1), (4, 5), (8, 9), (9, 10), (10, 10)] {
        let (pool, mut segments) = (BufPool::new(room * small), Vec::new());
        let done = segment(case.whole(), &pool, &mut |segment| segments.push(segment));
        let lost = 10 - handed_out as u32;
        assert_eq!(done, if lost == 0 { Ok(()) } else { Err(Lost::NoBuffer { segments: lost }) });
        let bytes: Vec<_> = segments.iter().map(|segment| segment.bytes().to_vec()).collect();
        assert_eq!(bytes, case.segments()[..handed_out]);
    }
}

#[test]
fn an_honest_offload_is_believed() {
    for (family, protocol) in kinds() {
        let mut packet = Case { flags: ACK, ..Case::new(family, protocol, 5_000, 1_400) }.whole();
        let offload = packet.offload();
        let mtu_bytes = usize::from(offload.header_bytes) + 1_400;
        assert_eq!(check(packet.bytes(), offload, mtu_bytes), Ok(()));
        assert_eq!(check(packet.bytes(), offload, mtu_bytes - 1), Err(Lie::Mtu));
        packet.set_offload(Offload { checksum: offload.checksum, ..Offload::default() });
        assert_eq!(check(packet.bytes(), packet.offload(), mtu_bytes), Ok(()));
    }
}

#[test]
fn every_lie_is_told_by_its_name() {
    for (family, protocol) in kinds() {
        let case = Case { flags: ACK, ..Case::new(family, protocol, 5_000, 1_400) };
        let honest = case.offload();
        let bytes = case.whole().bytes().to_vec();
        let lie = |offload| check(&bytes, offload, 1_500).expect_err("a lie");
        let Checksum::Partial { start, offset } = honest.checksum else { panic!("partial") };
        let at = |start, offset| Offload { checksum: Checksum::Partial { start, offset }, ..honest };
        for offload in [at(start + 4, offset), at(start, 22 - offset), at(u16::MAX, u16::MAX), at(0, 0)] {
            assert_eq!(lie(offload), Lie::ChecksumPlace);
        }
        assert_eq!(lie(Offload { checksum: Checksum::Complete, ..honest }), Lie::ChecksumComplete);
        for header_bytes in [0, honest.header_bytes - 4, honest.header_bytes + 4, u16::MAX] {
            assert_eq!(lie(Offload { header_bytes, ..honest }), Lie::HeaderBytes);
        }
        assert_eq!(lie(Offload { segment_bytes: 0, ..honest }), Lie::HeaderBytes);
        assert_eq!(lie(Offload { segment_bytes: u16::MAX, ..honest }), Lie::Mtu);
        let few = match protocol {
            Protocol::Tcp => Lie::SegmentBytes,
            Protocol::Udp => Lie::Segments,
        };
        assert_eq!(lie(Offload { segment_bytes: 39, ..honest }), few);
        for len in [bytes.len() - 1, 24, 1, 0] {
            assert_eq!(check(&bytes[..len], honest, 1_500), Err(Lie::Length), "{len} bytes");
        }
    }
}

#[test]
fn a_super_packet_that_a_network_card_has_joined_and_checked_is_as_one_whose_checksum_is_left_open() {
    for (family, protocol) in kinds() {
        let case = Case { flags: ACK, ..Case::new(family, protocol, 5_000, 1_400) };
        let (open, offload) = (case.whole(), case.offload());
        let Checksum::Partial { start, offset } = offload.checksum else { panic!("partial") };
        let mut checked = open.bytes().to_vec();
        let at = usize::from(start + offset);
        checked[at..at + 2].copy_from_slice(&[0xab, 0xcd]);
        let mut packet = raw(&checked, Offload { checksum: Checksum::Complete, ..offload });
        leave_checksum_open(&mut packet);
        assert_eq!((packet.offload(), packet.bytes()), (offload, open.bytes()), "{family:?} {protocol:?}");
    }
    let alone = Offload { segment_bytes: 1_400, header_bytes: 40, ..Offload::default() };
    for (bytes, offload) in [(&[0x45; 60][..], alone), (&[0x45; 60], Offload::default()), (&[], alone)] {
        let mut packet = raw(bytes, offload);
        leave_checksum_open(&mut packet);
        assert_eq!(
            (packet.offload(), packet.bytes()),
            (offload, bytes),
            "what makes no sense is left to who judges it"
        );
    }
}

#[test]
fn a_tcp_super_packet_that_opens_or_resets_its_connection_is_a_lie() {
    for flags in [SYN, SYN | ACK, RST] {
        let case = Case { flags, ..Case::new(Family::V4, Protocol::Tcp, 5_000, 1_400) };
        assert_eq!(check(case.whole().bytes(), case.offload(), 1_500), Err(Lie::Flags));
    }
}

#[test]
fn other_protocols_and_fragments_have_no_offload() {
    let case = Case { flags: ACK, ..Case::new(Family::V4, Protocol::Tcp, 5_000, 1_400) };
    for (at, byte) in [(9, 1), (9, 132), (6, 0x20), (7, 1), (0, 0x55)] {
        let mut bytes = case.whole().bytes().to_vec();
        bytes[at] = byte;
        assert_eq!(check(&bytes, case.offload(), 1_500), Err(Lie::Protocol));
        let packet = raw(&bytes, case.offload());
        let done = segment(packet, &pool(), &mut |_| panic!("nothing is handed out"));
        assert_eq!(done, Err(Lost::Lie { segments: 4, lie: Lie::Protocol }));
    }
}

pub(super) fn cases() -> impl Strategy<Value = Case> {
    let bytes = prop::collection::vec(any::<u8>(), 1..6_000);
    (0..4_usize, any::<u8>(), 0..=10_usize, bytes, 200..3_000_u16).prop_map(
        |(kind, flags, options, payload, segment_bytes)| {
            let (family, protocol) = kinds()[kind];
            let flags = flags & !(SYN | RST);
            Case { family, protocol, flags, options: vec![1; options * 4], payload, segment_bytes }
        },
    )
}

#[test]
fn the_protocols_page_has_the_limits_of_segments() {
    let page = include_str!("../../docs/protocol.md");
    assert!(page.contains(&format!("TCP with a segment size below {TCP_SEGMENT_BYTES_MIN} ")));
    assert!(page.contains(&format!("UDP of more than {UDP_SEGMENTS_MAX} segments ")));
}

proptest! {
    #[test]
    fn any_super_packet_is_cut_into_the_packets_that_it_stands_for(case in cases()) {
        let whole = case.whole();
        prop_assert_eq!(check(whole.bytes(), whole.offload(), PACKET_BYTES_MAX), Ok(()));
        prop_assert_eq!(segmented(whole), case.segments());
    }

    #[test]
    fn no_bytes_and_no_offload_make_it_panic(
        case in cases(), len in 0..300_usize, flips in prop::collection::vec((0..80_usize, any::<u8>()), 0..4),
        segment_bytes: u16, header_bytes in prop_oneof![0..130_u16, any::<u16>()], start in 0..80_u16, offset in 0..80_u16,
    ) {
        let mut bytes = case.whole().bytes().to_vec();
        flips.iter().for_each(|&(at, byte)| if let Some(found) = bytes.get_mut(at) { *found = byte });
        bytes.truncate(len);
        for checksum in [Checksum::Complete, Checksum::Partial { start, offset }, case.offload().checksum] {
            for header_bytes in [header_bytes, case.offload().header_bytes] {
                let offload = Offload { checksum, segment_bytes, header_bytes };
                let believed = check(&bytes, offload, 1_500).is_ok();
                let (packet, mut handed_out) = (raw(&bytes, offload), 0);
                let segments = packet.segments();
                let done = segment(packet, &pool(), &mut |_| handed_out += 1);
                let lost = done.map_or_else(Lost::segments, |()| 0);
                prop_assert_eq!(handed_out + lost, segments);
                prop_assert!(!believed || lost == 0);
            }
        }
    }

    #[test]
    fn what_is_believed_has_true_lengths(case in cases(), cut in 1..100_usize) {
        let bytes = case.whole().bytes().to_vec();
        prop_assert!(Layout::read(&bytes).is_ok());
        prop_assert_eq!(Layout::read(&bytes[..bytes.len().saturating_sub(cut)]), Err(Lie::Length));
    }
}
