use super::super::{Merger, SuperPackets, cut_others};
use super::*;

fn tcp(family: Family, payload_bytes: usize) -> Case {
    Case { flags: ACK, ..Case::new(family, Protocol::Tcp, payload_bytes, 1_000) }
}

fn packets(bytes: &[Vec<u8>]) -> Vec<Packet<Raw>> {
    bytes.iter().map(|bytes| raw(bytes, Offload::default())).collect()
}

fn merged(mut packets: Vec<Packet<Raw>>) -> Vec<Packet<Raw>> {
    Merger::default().merge(&mut packets, SuperPackets::ALL, &pool());
    packets
}

/// How many segments each packet has after merging.
fn runs(bytes: &[Vec<u8>]) -> Vec<u32> {
    merged(packets(bytes)).iter().map(Packet::segments).collect()
}

/// Changes a packet's bytes and fills in its checksums anew.
fn changed(bytes: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    let (family, number) = if bytes[0] >> 4 == 4 { (Family::V4, bytes[9]) } else { (Family::V6, bytes[6]) };
    let protocol = if number == ipv4::UDP { Protocol::Udp } else { Protocol::Tcp };
    sealed(bytes, family, protocol, false)
}

#[test]
fn consecutive_segments_of_a_flow_become_the_super_packet_that_they_were() {
    for family in [Family::V4, Family::V6] {
        for (flags, options) in [(ACK, 0), (ACK | PSH, 3), (ACK | PSH | FIN | CWR, 10)] {
            let case = Case { flags, options: vec![1; options * 4], ..tcp(family, 7_300) };
            let found = merged(packets(&case.segments()));
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].bytes(), found[0].offload()), (case.whole().bytes(), case.offload()));
            check(found[0].bytes(), found[0].offload(), 1_500).expect("an honest super-packet");
        }
    }
}

#[test]
fn super_packets_of_a_flow_are_joined_too() {
    let case = tcp(Family::V4, 9_500);
    let mut pieces = Vec::new();
    split(case.whole(), 3, &pool(), &mut |piece| pieces.push(piece)).expect("room");
    assert_eq!(pieces.len(), 4);
    let found = merged(pieces);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].bytes(), found[0].offload()), (case.whole().bytes(), case.offload()));
}

#[test]
fn a_segment_that_differs_in_what_all_share_ends_the_run() {
    let v4: &[usize] = &[1, 6, 8];
    let v6: &[usize] = &[1, 2, 7];
    for (family, ip, tcp_at) in [(Family::V4, v4, 20), (Family::V6, v6, 40)] {
        let case = Case { options: vec![1; 12], ..tcp(family, 6_000) };
        // Sequence, acknowledgement, flags (ECE), window, urgent pointer, options.
        let fields = [7, 11, 13, 15, 19, 20, 31].map(|at| tcp_at + at);
        for at in ip.iter().copied().chain(fields) {
            let mut segments = case.segments();
            segments[3] = changed(&segments[3], |bytes| bytes[at] ^= 0x40);
            let found = runs(&segments);
            assert_eq!(found, [3, 1, 2], "{family:?}, byte {at}");
        }
    }
}

#[test]
fn what_is_said_of_one_segment_alone_stays_alone() {
    for (flags, found) in [(SYN, [3, 1, 2]), (RST, [3, 1, 2]), (0x20, [3, 1, 2]), (CWR, [3, 3, 0])] {
        let mut segments = tcp(Family::V4, 6_000).segments();
        segments[3] = changed(&segments[3], |bytes| bytes[33] |= flags);
        let found: Vec<u32> = found.into_iter().filter(|&segments| segments > 0).collect();
        assert_eq!(runs(&segments), found, "flags {flags:#x}");
    }
}

#[test]
fn push_and_fin_end_a_run_with_their_segment() {
    for flags in [PSH, FIN] {
        let mut segments = tcp(Family::V4, 6_000).segments();
        segments[3] = changed(&segments[3], |bytes| bytes[33] |= flags);
        assert_eq!(runs(&segments), [4, 2], "flags {flags:#x}");
    }
}

#[test]
fn a_shorter_segment_ends_a_run_and_a_longer_one_starts_another() {
    let mut segments = tcp(Family::V4, 6_000).segments();
    segments[3].truncate(540);
    segments[3] = changed(&segments[3], |_| {});
    assert_eq!(runs(&segments), [4, 2]);
    let small = Case { segment_bytes: 47, ..tcp(Family::V4, 470) };
    assert_eq!(runs(&small.segments()), [1; 10], "no peer would believe so small segments");
}

#[test]
fn a_lost_segment_or_a_bare_acknowledgement_ends_a_run() {
    let mut segments = tcp(Family::V6, 6_000).segments();
    segments.remove(3);
    assert_eq!(runs(&segments), [3, 2]);
    let mut segments = tcp(Family::V6, 6_000).segments();
    let mut bare = segments[3].clone();
    bare.truncate(60);
    segments.insert(3, changed(&bare, |_| {}));
    assert_eq!(runs(&segments), [3, 1, 3]);
}

#[test]
fn a_packet_with_a_wrong_checksum_is_not_joined() {
    for at in [0, 3, 5] {
        let mut segments = tcp(Family::V4, 6_000).segments();
        *segments[at].last_mut().expect("a byte") ^= 1;
        let wrong = segments[at].clone();
        let found = merged(packets(&segments));
        assert!(found.iter().any(|packet| packet.bytes() == wrong), "segment {at} as it came");
        assert_eq!(found.iter().map(Packet::segments).sum::<u32>(), 6);
    }
}

#[test]
fn the_identification_counts_on_or_stands_still_where_fragments_are_forbidden() {
    let still = |fragment: u8| {
        let segments = tcp(Family::V4, 6_000).segments();
        let change = |bytes: &mut [u8]| {
            bytes[4..6].fill(0);
            bytes[6] = fragment;
        };
        segments.iter().map(|segment| changed(segment, change)).collect::<Vec<_>>()
    };
    assert_eq!(runs(&still(0x40)), [6]);
    assert_eq!(runs(&still(0)), [1; 6]);
}

#[test]
fn flows_are_joined_each_for_itself_and_datagrams_only_where_they_are_wanted() {
    let flows: Vec<Vec<Vec<u8>>> = (0..4_u8)
        .map(|port| {
            let segments = tcp(Family::V4, 3_000).segments();
            segments.iter().map(|bytes| changed(bytes, |bytes| bytes[21] = port)).collect()
        })
        .collect();
    let datagrams = Case::new(Family::V4, Protocol::Udp, 3_000, 1_000).segments();
    let mixed: Vec<Vec<u8>> =
        (0..3).flat_map(|at| flows.iter().chain([&datagrams]).map(move |flow| flow[at].clone())).collect();
    assert_eq!(runs(&mixed), [3, 3, 3, 3, 3], "a datagram has the ports of a segment, and is of another flow");
    let mut packets = packets(&mixed);
    Merger::default().merge(&mut packets, SuperPackets::TCP, &pool());
    assert_eq!(packets.iter().map(Packet::segments).collect::<Vec<_>>(), [3, 3, 3, 3, 1, 1, 1]);
}

fn udp(family: Family, payload_bytes: usize, segment_bytes: u16) -> Case {
    Case::new(family, Protocol::Udp, payload_bytes, segment_bytes)
}

#[test]
fn consecutive_datagrams_of_a_flow_become_the_super_packet_that_they_were() {
    for family in [Family::V4, Family::V6] {
        for (payload_bytes, segment_bytes) in [(7_300, 1_000), (3_600, 36), (128, 1)] {
            let case = udp(family, payload_bytes, segment_bytes);
            let found = merged(packets(&case.segments()));
            assert_eq!(found.len(), 1, "{payload_bytes} bytes in datagrams of {segment_bytes}");
            assert_eq!((found[0].bytes(), found[0].offload()), (case.whole().bytes(), case.offload()));
            check(found[0].bytes(), found[0].offload(), 1_500).expect("an honest super-packet");
        }
    }
}

#[test]
fn a_datagram_of_another_length_ends_a_run_and_no_run_has_more_than_the_kernel_cuts() {
    let mut datagrams = udp(Family::V4, 6_000, 1_000).segments();
    datagrams[3].truncate(528);
    datagrams[3] = changed(&datagrams[3], |_| {});
    assert_eq!(runs(&datagrams), [4, 2]);
    assert_eq!(runs(&udp(Family::V4, 300 * 36, 36).segments()), [128, 128, 44]);
    let empty = udp(Family::V4, 0, 1).headers(0);
    let empty = sealed(empty, Family::V4, Protocol::Udp, false);
    assert_eq!(runs(&[empty.clone(), empty]), [1, 1]);
}

#[test]
fn a_datagram_without_a_checksum_does_not_get_one() {
    let mut datagrams = udp(Family::V4, 6_000, 1_000).segments();
    ipv4::set_word(&mut datagrams[3], 26, 0);
    let found = merged(packets(&datagrams));
    assert_eq!(found.iter().map(Packet::segments).collect::<Vec<_>>(), [3, 1, 2]);
    assert_eq!(found[1].bytes(), datagrams[3]);
}

#[test]
fn the_identification_of_a_datagram_that_may_be_fragmented_counts_on() {
    let with = |fragment: u8| {
        let datagrams = udp(Family::V4, 6_000, 1_000).segments();
        let numbered = datagrams.iter().zip([9, 3, 4, 4, 7, 8]);
        let changed = |(datagram, number): (&Vec<u8>, u8)| {
            changed(datagram, |bytes| (bytes[4], bytes[5], bytes[6]) = (0, number, fragment))
        };
        numbered.map(changed).collect::<Vec<_>>()
    };
    assert_eq!(runs(&with(0x40)), [6], "of one that may not be it says nothing");
    assert_eq!(runs(&with(0)), [1, 2, 1, 2]);
}

#[test]
fn what_a_way_does_not_take_is_cut_and_the_rest_stays_as_it_is() {
    let (segments, datagrams) = (tcp(Family::V4, 3_000), udp(Family::V4, 3_000, 1_000));
    let both = || vec![segments.whole(), datagrams.whole()];
    for (taken, counts) in [
        (SuperPackets::ALL, vec![3, 3]),
        (SuperPackets::TCP, vec![3, 1, 1, 1]),
        (SuperPackets { tcp: false, udp: true }, vec![1, 1, 1, 3]),
        (SuperPackets::default(), vec![1; 6]),
    ] {
        let mut found = both();
        assert_eq!(cut_others(&mut found, &mut vec![], taken, &pool()), 0);
        assert_eq!(found.iter().map(Packet::segments).collect::<Vec<_>>(), counts, "{taken:?}");
    }
    let mut found = both();
    cut_others(&mut found, &mut vec![], SuperPackets::TCP, &pool());
    let cut: Vec<_> = found[1..].iter().map(|packet| packet.bytes().to_vec()).collect();
    assert_eq!(cut, datagrams.segments());
    // Its own buffer serves the first piece.
    let mut found = both();
    assert_eq!(cut_others(&mut found, &mut vec![], SuperPackets::TCP, &BufPool::new(0)), 2);
    assert_eq!(found.iter().map(Packet::segments).collect::<Vec<_>>(), [3, 1]);
}

#[test]
fn no_super_packet_is_longer_than_ip_allows() {
    let segments = Case { segment_bytes: 1_400, ..tcp(Family::V4, 65_495) }.segments();
    let mut more = segments.clone();
    more.pop();
    assert_eq!(runs(&segments), [47], "65,535 bytes");
    let next = changed(more.last().expect("a segment"), |bytes| {
        let sequence = SEQUENCE.wrapping_add(46 * 1_400);
        bytes[24..28].copy_from_slice(&sequence.to_be_bytes());
        ipv4::set_word(bytes, 4, IDENTIFICATION.wrapping_add(46));
    });
    more.push(next);
    assert_eq!(runs(&more), [46, 1]);
}

#[test]
fn without_a_buffer_the_packets_stay_single() {
    let case = tcp(Family::V4, 6_000);
    let mut found = packets(&case.segments());
    Merger::default().merge(&mut found, SuperPackets::ALL, &BufPool::new(0));
    let found: Vec<_> = found.iter().map(|packet| packet.bytes().to_vec()).collect();
    assert_eq!(found, case.segments());
}

/// What happens to a segment on its way.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    None,
    Lost,
    Doubled,
    Changed(usize),
    Corrupted,
    Cut,
}

fn mishaps() -> impl Strategy<Value = Mishap> {
    prop_oneof![
        12 => Just(Mishap::None),
        1 => Just(Mishap::Lost),
        1 => Just(Mishap::Doubled),
        2 => prop::sample::select(&[1_usize, 8, 27, 31, 32, 33, 35][..]).prop_map(Mishap::Changed),
        1 => Just(Mishap::Corrupted),
        1 => Just(Mishap::Cut),
    ]
}

proptest! {
    #[test]
    fn what_was_cut_is_joined_to_what_it_was(case in cases()) {
        prop_assume!(case.protocol == Protocol::Tcp && case.payload.len() > case.segment_bytes.into());
        let case = Case { flags: case.flags & !0x20, ..case };
        let found = merged(packets(&case.segments()));
        prop_assert_eq!(found.len(), 1);
        let whole = case.whole();
        prop_assert_eq!(found[0].bytes(), whole.bytes());
        prop_assert_eq!(found[0].offload(), case.offload());
    }

    #[test]
    fn what_was_joined_is_cut_to_what_it_was_in_each_flows_order(
        is_ipv6: bool,
        way in prop::collection::vec((0..3_u8, mishaps()), 0..64),
    ) {
        let family = if is_ipv6 { Family::V6 } else { Family::V4 };
        let segments = Case { segment_bytes: 200, ..tcp(family, 200 * 64) }.segments();
        let (mut sent, mut next) = (Vec::new(), [0; 3]);
        let port = if is_ipv6 { 41 } else { 21 };
        for (flow, mishap) in way {
            let at = &mut next[usize::from(flow)];
            let mut bytes = changed(&segments[*at], |bytes| bytes[port] = flow);
            *at += 1;
            match mishap {
                Mishap::None => {}
                Mishap::Lost => continue,
                Mishap::Doubled => sent.push(bytes.clone()),
                Mishap::Changed(field) => bytes = changed(&bytes, |bytes| bytes[field + if field > 20 && is_ipv6 { 20 } else { 0 }] ^= 1),
                Mishap::Corrupted => *bytes.last_mut().expect("a byte") ^= 1,
                Mishap::Cut => {
                    bytes.truncate(bytes.len() - 77);
                    bytes = changed(&bytes, |_| {});
                }
            }
            sent.push(bytes);
        }
        // A doubled packet repeats its identification, which is then taken to stand still.
        let numbered = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            if !is_ipv6 {
                bytes[4..6].fill(0);
                bytes[10..12].fill(0);
            }
            bytes
        };
        let mut found = Vec::new();
        for packet in merged(packets(&sent)) {
            match packet.offload() == Offload::default() {
                true => found.push(packet.bytes().to_vec()),
                false => found.extend(segmented(packet)),
            }
        }
        for flow in 0..3 {
            let of_flow = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
                all.iter().filter(|bytes| bytes[port] == flow).map(|bytes| numbered(bytes)).collect()
            };
            prop_assert_eq!(of_flow(&found), of_flow(&sent));
        }
    }
}
