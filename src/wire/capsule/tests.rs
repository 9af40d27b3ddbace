//! Every capsule there and back, and every way to be broken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::packet::{Checksum, Offload, PACKET_BYTES_MAX};
use crate::wire::fuzz;
use crate::wire::proof::{CredentialId, Nonce, Proof, Secret};

/// The one capsule of a message, where super-packets were agreed on.
fn one(message: &[u8]) -> Result<Capsule<'_>, CapsuleError> {
    let mut capsules = Capsules::agreed(Features::SUPER_PACKETS, message);
    let first = capsules.next().expect("a capsule or an error");
    assert_eq!(capsules.next(), None, "nothing follows");
    first
}

/// A capsule of a type below 64 and a value of less than 64 bytes.
fn small(kind: u64, value: &[u8]) -> Vec<u8> {
    [&[kind as u8, value.len() as u8], value].concat()
}

fn own(kind: u64, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    append(kind, &mut out, |out| out.extend_from_slice(value));
    out
}

#[test]
fn our_types_are_neither_assigned_nor_kept_for_greasing() {
    let own = [kind::CHALLENGE, kind::HELLO, kind::WELCOME, kind::REFUSAL, kind::CREDIT, kind::ACK, kind::CLOSE];
    assert!(own.iter().all(|kind| kind % 0x29 != 0x17));
    assert!(own.iter().all(|kind| (0x77_7301..=0x77_73ff).contains(kind)));
}

#[test]
fn an_empty_message_has_no_capsules_and_several_are_read_in_order() {
    assert_eq!(Capsules::new(&[]).count(), 0);
    let mut message = small(kind::DATAGRAM, b"\0packet");
    append_ack(9, &mut message);
    append_credit(varint::MAX, &mut message);
    let capsules: Result<Vec<_>, _> = Capsules::new(&message).collect();
    let datagram = Datagram { payload: b"packet", offload: Some(Offload::default()), capsule_bytes: 9 };
    assert_eq!(capsules, Ok(vec![Capsule::Datagram(datagram), Capsule::Ack(9), Capsule::Credit(varint::MAX)]));
}

#[test]
fn unknown_types_are_skipped() {
    let mut message = own(0x29 * 7 + 0x17, b"grease");
    append_ack(9, &mut message);
    message.extend(own(0x77_7310, b""));
    assert_eq!(one(&message), Ok(Capsule::Ack(9)));
}

#[test]
fn a_message_that_ends_inside_a_capsule_is_an_error_after_the_whole_ones() {
    let mut message = Vec::new();
    append_ack(9, &mut message);
    for garbage in [&[0x40][..], &[0], &[0, 1], &[0, 0xff], &[0x80, 0x77, 0x73]] {
        let message = [&message, garbage].concat();
        let capsules: Vec<_> = Capsules::new(&message).collect();
        assert_eq!(capsules, [Ok(Capsule::Ack(9)), Err(CapsuleError::Truncated)], "behind it {garbage:02x?}");
    }
}

#[test]
fn a_datagram_of_an_unknown_context_is_told_with_its_weight() {
    let datagram = Datagram { payload: b"whatever", offload: None, capsule_bytes: 11 };
    assert_eq!(one(&small(kind::DATAGRAM, b"\x04whatever")), Ok(Capsule::Datagram(datagram)));
}

#[test]
fn a_super_packet_carries_what_is_left_to_be_done() {
    let partial = Checksum::Partial { start: 20, offset: 16 };
    let offload = Offload { checksum: partial, segment_bytes: 1_400, header_bytes: 40 };
    let header = datagram_header(60_000, offload);
    assert_eq!(&header[..], [0, 0x80, 0, 0xea, 0x6a, 2, 0x05, 0x78, 0, 40, 1, 0, 20, 0, 16]);
    assert_eq!(header.len(), DATAGRAM_HEADER_BYTES_MAX);
    let message = [&header[..], &[7; 60_000]].concat();
    let datagram = Datagram { payload: &[7; 60_000], offload: Some(offload), capsule_bytes: message.len() };
    assert_eq!(one(&message), Ok(Capsule::Datagram(datagram)));
}

#[test]
fn a_broken_datagram_says_which_field_is_broken() {
    let short = |field| Err(CapsuleError::Short { kind: 0, field });
    let bad = |field| Err(CapsuleError::BadValue { kind: 0, field });
    assert_eq!(one(&small(0, b"")), short("context"));
    assert_eq!(one(&small(0, &[2, 0])), short("segment size"));
    assert_eq!(one(&small(0, &[2, 0, 0])), short("header length"));
    assert_eq!(one(&small(0, &[2, 0, 0, 0, 0])), short("checksum state"));
    assert_eq!(one(&small(0, &[2, 0, 0, 0, 0, 2])), bad("checksum state"));
    assert_eq!(one(&small(0, &[2, 0, 0, 0, 0, 1, 0, 0, 0])), short("checksum offset"));
    let mut long = Vec::new();
    append(0, &mut long, |out| out.resize(out.len() + 1 + PACKET_BYTES_MAX + 1, 0));
    assert_eq!(one(&long), bad("packet"));
}

#[test]
fn what_breaks_a_super_packet_breaks_nothing_where_they_were_not_agreed_on() {
    for value in [&[2][..], &[2, 0, 0, 0, 0, 2], &[2, 0, 0, 0, 0, 1, 0, 0, 0]] {
        let message = small(0, value);
        let datagram = Datagram { payload: &value[1..], offload: None, capsule_bytes: message.len() };
        assert_eq!(Capsules::new(&message).next(), Some(Ok(Capsule::Datagram(datagram))), "{value:?}");
        assert!(one(&message).is_err(), "{value:?}");
    }
}

#[test]
fn addresses_are_those_of_rfc_9484() {
    let v4 = Prefix::host(IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2)));
    let v6 = Prefix::new(IpAddr::V6("fd00:77::".parse().expect("an address")), 64).expect("a prefix");
    let addresses =
        vec![AssignedAddress { request_id: 0, prefix: v4 }, AssignedAddress { request_id: 300, prefix: v6 }];
    let mut out = Vec::new();
    append_address_assign(&addresses, &mut out);
    let value = [&[0, 4, 10, 77, 0, 2, 32, 0x41, 0x2c, 6, 0xfd, 0, 0, 0x77][..], &[0; 12], &[64]].concat();
    assert_eq!(out, small(1, &value));
    assert_eq!(one(&out), Ok(Capsule::AddressAssign(addresses)));
    assert_eq!(one(&small(1, b"")), Ok(Capsule::AddressAssign(vec![])), "all addresses are taken away");
}

#[test]
fn broken_addresses_are_refused() {
    let bad = |kind, field| Err(CapsuleError::BadValue { kind, field });
    assert_eq!(one(&small(1, &[0, 5, 10, 0, 0, 1, 32])), bad(1, "address"));
    assert_eq!(one(&small(1, &[0, 4, 10, 0, 0, 1, 33])), bad(1, "prefix length"));
    assert_eq!(one(&small(1, &[0, 4, 10, 0, 0, 1, 31])), bad(1, "prefix length"));
    assert_eq!(one(&small(1, &[0, 4, 10])), Err(CapsuleError::Short { kind: 1, field: "address" }));
    assert_eq!(one(&small(2, b"")), bad(2, "request id"));
    assert_eq!(one(&small(2, &[0, 4, 0, 0, 0, 0, 32])), bad(2, "request id"));
    assert!(matches!(one(&small(2, &[1, 4, 0, 0, 0, 0, 32])), Ok(Capsule::AddressRequest(_))));
}

#[test]
fn routes_are_sorted_and_do_not_overlap() {
    let v4 =
        |start: [u8; 4], end: [u8; 4], protocol| AddressRange::V4 { start: start.into(), end: end.into(), protocol };
    let a = v4([10, 0, 0, 0], [10, 0, 0, 9], 0);
    let b = v4([10, 0, 0, 10], [10, 0, 0, 20], 0);
    let b_overlapping = v4([10, 0, 0, 9], [10, 0, 0, 20], 0);
    let low_of_another_protocol = v4([1, 0, 0, 0], [1, 0, 0, 1], 6);
    let backwards = v4([10, 0, 0, 2], [10, 0, 0, 1], 0);
    let v6 = AddressRange::V6 { start: Ipv6Addr::UNSPECIFIED, end: Ipv6Addr::LOCALHOST, protocol: 0 };
    for (ranges, good) in [
        (vec![a, b, low_of_another_protocol, v6], true),
        (vec![AddressRange::ALL_V4, AddressRange::ALL_V6], true),
        (vec![], true),
        (vec![b, a], false),
        (vec![a, a], false),
        (vec![a, b_overlapping], false),
        (vec![low_of_another_protocol, a], false),
        (vec![v6, a], false),
        (vec![backwards], false),
    ] {
        let mut out = Vec::new();
        append_routes(&ranges, &mut out);
        let expected = if good {
            Ok(Capsule::RouteAdvertisement(ranges))
        } else {
            Err(CapsuleError::BadValue { kind: 3, field: "range" })
        };
        assert_eq!(one(&out), expected);
    }
}

#[test]
fn a_handshake_proves_both_sides() {
    let secret = Secret::new([7; 32]);
    let verifier = secret.verifier();
    let challenge = Challenge { nonce: Nonce([1; 32]) };

    let mut hello = hello();
    let client_message = hello.auth_message(&challenge);
    hello.proof = secret.prove(&client_message);
    assert_eq!(verifier.check_client(&hello.auth_message(&challenge), &hello.proof), Ok(()));
    let replayed = Challenge { nonce: Nonce([2; 32]) };
    assert!(verifier.check_client(&hello.auth_message(&replayed), &hello.proof).is_err());
    let changed = Hello { mtu: 1_281, ..hello.clone() };
    assert!(verifier.check_client(&changed.auth_message(&challenge), &hello.proof).is_err());

    let mut welcome = welcome();
    welcome.proof = verifier.prove(&welcome.auth_message(&client_message));
    assert_eq!(secret.check_server(&welcome.auth_message(&client_message), &welcome.proof), Ok(()));
    let changed = Welcome { dns: vec![], ..welcome.clone() };
    assert!(secret.check_server(&changed.auth_message(&client_message), &welcome.proof).is_err());
}

#[test]
fn another_version_is_told_and_nothing_else_of_it_is_read() {
    assert_eq!(one(&own(kind::HELLO, b"\x02in two years")), Ok(Capsule::OtherVersion(2)));
    assert_eq!(one(&own(kind::CHALLENGE, b"\x02")), Ok(Capsule::OtherVersion(2)));
}

#[test]
fn a_proven_field_has_one_form_only() {
    let mut long = own(kind::ACK, &[0x40, 9]);
    assert_eq!(one(&long), Err(CapsuleError::BadValue { kind: kind::ACK, field: "offset" }));
    long = own(kind::ACK, &[9, 0]);
    assert_eq!(one(&long), Err(CapsuleError::Trailing { kind: kind::ACK }));
}

#[test]
fn values_outside_their_limits_are_refused() {
    let bad = |kind, field| Err(CapsuleError::BadValue { kind, field });
    let written = |capsule: Capsule<'_>| fuzz::write(&capsule).expect("bytes");
    assert_eq!(one(&written(Capsule::Hello(Box::new(Hello { mtu: 1_279, ..hello() })))), bad(kind::HELLO, "MTU"));
    assert_eq!(one(&written(Capsule::Welcome(Box::new(Welcome { mtu: 0, ..welcome() })))), bad(kind::WELCOME, "MTU"));
    assert_eq!(one(&own(kind::CLOSE, b"\0\xff")), bad(kind::CLOSE, "text"));
    assert_eq!(one(&own(kind::CLOSE, &[0; 1 + TEXT_BYTES_MAX + 1])), bad(kind::CLOSE, "text"));
    let mut upper_case = written(Capsule::Hello(Box::new(hello())));
    let id = upper_case.windows(8).position(|bytes| bytes == b"k7m2p9xq").expect("the id");
    upper_case[id] = b'K';
    assert_eq!(one(&upper_case), bad(kind::HELLO, "credential"));
}

#[test]
fn a_text_that_is_too_long_is_shortened_at_a_character() {
    let mut out = Vec::new();
    append_close(CloseReason::Done, &"€".repeat(200), &mut out);
    assert_eq!(one(&out), Ok(Capsule::Close { reason: CloseReason::Done, text: "€".repeat(170) }));
}

#[test]
fn every_reason_comes_back_from_its_code_and_unknown_ones_are_kept() {
    for &reason in RefusalReason::ALL {
        assert_eq!(RefusalReason::from_code(reason.code()), reason);
    }
    for &reason in CloseReason::ALL {
        assert_eq!(CloseReason::from_code(reason.code()), reason);
    }
    assert_eq!(
        (RefusalReason::from_code(99), CloseReason::from_code(99)),
        (RefusalReason::Other(99), CloseReason::Other(99))
    );
}

fn hello() -> Hello {
    Hello {
        features: Features::SUPER_PACKETS,
        credential: CredentialId::new(*b"k7m2p9xq").expect("an id"),
        nonce: Nonce([2; 32]),
        ticket: vec![],
        link: 0,
        mtu: 1_400,
        proof: Proof([3; 32]),
    }
}

fn welcome() -> Welcome {
    Welcome {
        session: SessionId([4; 16]),
        features: Features::SUPER_PACKETS,
        mtu: 1_400,
        gateway: vec![IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1))],
        dns: vec![IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1))],
        credit_bytes: 1 << 20,
        message_bytes_max: 131_072,
        keep_alive_ms: 15_000,
        ticket_lifetime_ms: 300_000,
        ticket: vec![5; 40],
        proof: Proof([6; 32]),
    }
}

fn any_varint() -> impl Strategy<Value = u64> {
    (0..=varint::MAX, 0..62_u32).prop_map(|(value, shift)| value >> shift)
}

fn any_text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..60).prop_map(String::from_iter)
}

fn any_hello() -> impl Strategy<Value = Hello> {
    (
        any_varint(),
        "[0-9a-z]{8}",
        any::<[u8; 32]>(),
        vec(any::<u8>(), 0..=TICKET_BYTES_MAX),
        any::<u8>(),
        1_280..=u16::MAX,
    )
        .prop_map(|(features, id, nonce, ticket, link, mtu)| Hello {
            features: Features(features),
            credential: CredentialId::new(id.into_bytes().try_into().expect("8")).expect("an id"),
            nonce: Nonce(nonce),
            ticket,
            link,
            mtu,
            proof: Proof(nonce),
        })
}

fn any_welcome() -> impl Strategy<Value = Welcome> {
    let addresses = || vec(any::<IpAddr>(), 0..=16);
    (
        any::<[u8; 16]>(),
        addresses(),
        addresses(),
        any_varint(),
        any::<[u32; 3]>(),
        vec(any::<u8>(), 0..=TICKET_BYTES_MAX),
    )
        .prop_map(
            |(session, gateway, dns, credit_bytes, [message_bytes_max, keep_alive_ms, ticket_lifetime_ms], ticket)| {
                Welcome {
                    session: SessionId(session),
                    gateway,
                    dns,
                    credit_bytes,
                    message_bytes_max,
                    keep_alive_ms,
                    ticket_lifetime_ms,
                    ticket,
                    ..welcome()
                }
            },
        )
}

fn any_capsule() -> impl Strategy<Value = Capsule<'static>> {
    prop_oneof![
        any::<[u8; 32]>().prop_map(|nonce| Capsule::Challenge(Challenge { nonce: Nonce(nonce) })),
        any_hello().prop_map(|hello| Capsule::Hello(Box::new(hello))),
        any_welcome().prop_map(|welcome| Capsule::Welcome(Box::new(welcome))),
        (any_varint(), any::<u32>(), any_text()).prop_map(|(code, retry_after_ms, text)| {
            Capsule::Refusal(Refusal { reason: RefusalReason::from_code(code), retry_after_ms, text })
        }),
        any_varint().prop_map(Capsule::Credit),
        any_varint().prop_map(Capsule::Ack),
        (any_varint(), any_text())
            .prop_map(|(code, text)| Capsule::Close { reason: CloseReason::from_code(code), text }),
        vec((any_varint(), any::<IpAddr>()), 0..9).prop_map(|addresses| {
            let assigned = |(request_id, address)| AssignedAddress { request_id, prefix: Prefix::host(address) };
            Capsule::AddressAssign(addresses.into_iter().map(assigned).collect())
        }),
    ]
}

proptest! {
    #[test]
    fn every_capsule_comes_back_and_no_shorter_message_is_one(capsule in any_capsule(), cut: prop::sample::Index) {
        let written = fuzz::write(&capsule).expect("bytes");
        prop_assert_eq!(one(&written), Ok(capsule));
        let cut = &written[..cut.index(written.len())];
        prop_assert!(cut.is_empty() || one(cut) == Err(CapsuleError::Truncated));
    }

    #[test]
    fn every_packet_comes_back_with_what_is_left_to_be_done(
        packet in vec(any::<u8>(), 0..300),
        segment_bytes: u16,
        header_bytes: u16,
        partial: Option<(u16, u16)>,
    ) {
        let checksum = partial.map_or(Checksum::Complete, |(start, offset)| Checksum::Partial { start, offset });
        let offload = Offload { checksum, segment_bytes, header_bytes };
        let message = [&datagram_header(packet.len(), offload)[..], &packet].concat();
        let capsule_bytes = message.len();
        let datagram = Datagram { payload: &packet, offload: Some(offload), capsule_bytes };
        prop_assert_eq!(one(&message), Ok(Capsule::Datagram(datagram)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(data in vec(any::<u8>(), 0..200)) {
        fuzz::capsules(&data);
    }

    #[test]
    fn almost_valid_capsules_never_panic(
        capsules in vec(any_capsule(), 1..4),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut message: Vec<u8> = capsules.iter().filter_map(fuzz::write).flatten().collect();
        for (index, byte) in changes {
            let index = index.index(message.len());
            message[index] = byte;
        }
        fuzz::capsules(&message);
    }
}
